//! HTTP and HTTPS, with nginx.

use std::{net::SocketAddr, path::Path};

use agent_services::probe::{Http, Kind, Pattern, Probe, Trust};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{
    Server, alone, bad, folder, gone, good, hasty, nobody, patient, tcp, unknown, write,
};

fn http(url: &str, change: impl FnOnce(&mut Http)) -> Probe {
    let mut http = Http::new(url);
    change(&mut http);
    let probe = patient(Kind::Http(http));
    assert_eq!(probe.flaw(), None);
    probe
}

fn text(pattern: &str) -> Option<Pattern> {
    Some(Pattern::text(pattern).unwrap())
}

/// Makes a CA (`NAME-ca.pem`) and a certificate of it for these names (`NAME.pem`, `NAME.key`).
pub fn certificate(
    dir: &Path,
    name: &str,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) {
    let mut ca = CertificateParams::new([]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, format!("CA of {name}"));
    let key = KeyPair::generate().unwrap();
    write(
        dir,
        &format!("{name}-ca.pem"),
        &ca.self_signed(&key).unwrap().pem(),
    );
    let issuer = Issuer::new(ca, key);
    let names: Vec<_> = names.iter().map(|&n| n.to_owned()).collect();
    let mut leaf = CertificateParams::new(names).unwrap();
    change(&mut leaf);
    let key = KeyPair::generate().unwrap();
    write(
        dir,
        &format!("{name}.pem"),
        &leaf.signed_by(&key, &issuer).unwrap().pem(),
    );
    write(dir, &format!("{name}.key"), &key.serialize_pem());
}

const NGINX: &str = r#"
daemon off; master_process off; pid DIR/pid; error_log stderr notice;
events {}
http {
  access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u;
  scgi_temp_path DIR/s; ssl_session_cache off;
  ssl_protocols TLSv1.2 TLSv1.3;
  server {
    listen 127.0.0.1:80; listen [::1]:80; server_name plain.example;
    location = / { add_header X-State "primary 7"; return 200 "hello, all is well\n"; }
    location = /host { return 200 "host=$http_host agent=$http_user_agent method=$request_method"; }
    location = /503 { return 503 "down"; }
    location = /moved { return 302 /there; }
    location = /there { if ($args) { return 200 "arrived"; } return 302 ?again; }
    location = /secure { return 301 https://www.example.org/; }
    location = /loop { return 302 /loop; }
    location = /nowhere { return 302 mailto://x; }
  }
  server {
    listen 127.0.0.1:443 ssl default_server; server_name other.example;
    ssl_certificate DIR/other.pem; ssl_certificate_key DIR/other.key;
    location = / { return 200 "other $ssl_server_name"; }
  }
  server {
    listen 127.0.0.1:443 ssl; server_name www.example.org; ssl_certificate DIR/www.pem; ssl_certificate_key DIR/www.key;
    location = / { return 200 "secure $ssl_protocol $host"; }
  }
  server {
    listen 127.0.0.1:8443 ssl; ssl_protocols TLSv1.2; ssl_certificate DIR/www.pem; ssl_certificate_key DIR/www.key;
    location = / { return 200 "secure $ssl_protocol"; }
  }
  server {
    listen 127.0.0.1:443 ssl; server_name old.example.org; ssl_certificate DIR/old.pem; ssl_certificate_key DIR/old.key;
    return 200 "old";
  }
}
"#;

async fn nginx(dir: &Path) -> Server {
    certificate(dir, "www", &["www.example.org", "127.0.0.1"], |_| ());
    certificate(dir, "other", &["other.example"], |_| ());
    certificate(dir, "old", &["old.example.org"], |p| {
        p.not_after = rcgen::date_time_ymd(2020, 1, 1)
    });
    let file = write(
        dir,
        "nginx.conf",
        &NGINX.replace("DIR", &dir.display().to_string()),
    );
    let mut server = Server::start(dir, &["nginx", "-c", &file.display().to_string()]);
    server.ready(&http("http://127.0.0.1/", |_| ())).await;
    server
}

#[test]
fn nginx_plain() {
    alone(|| async {
        let dir = folder();
        let server = nginx(dir.path()).await;
        let at = |path: &str| format!("http://127.0.0.1{path}");
        assert_eq!(good(&http(&at("/"), |_| ())).await, "status 200 OK");
        good(&http("http://[::1]/", |h| h.body = text("all is well"))).await;
        bad(
            &http(&at("/503"), |_| ()),
            &["status 503", "wanted 200-399"],
        )
        .await;
        good(&http(&at("/503"), |h| h.status = vec![503..=503])).await;
        bad(
            &http(&at("/"), |h| h.status = vec![201..=299, 404..=404]),
            &["status 200", "wanted 201-299, 404"],
        )
        .await;
        bad(&http(&at("/none"), |_| ()), &["404"]).await;
        // Body and header.
        good(&http(&at("/"), |h| {
            h.body = Some(Pattern::regex(r"^hello, (all|much) is \w+\n$").unwrap())
        }))
        .await;
        bad(
            &http(&at("/"), |h| h.body = text("hello, nothing")),
            &["no \"hello, nothing\" in its 19 bytes"],
        )
        .await;
        good(&http(&at("/"), |h| {
            h.header = Some(("x-state".into(), text("primary")))
        }))
        .await;
        good(&http(&at("/"), |h| {
            h.header = Some(("X-State".into(), None))
        }))
        .await;
        bad(
            &http(&at("/"), |h| {
                h.header = Some(("x-state".into(), text("standby")))
            }),
            &["no \"standby\""],
        )
        .await;
        bad(
            &http(&at("/"), |h| h.header = Some(("x-other".into(), None))),
            &["no header x-other"],
        )
        .await;
        // What is said.
        good(&http(&at("/host"), |h| {
            h.body = text("host=127.0.0.1 agent=heartline/")
        }))
        .await;
        let asked = |h: &mut Http| {
            h.host = Some("a.example:8080".into());
            h.body = text("host=a.example:8080 ");
        };
        good(&http(&at("/host"), asked)).await;
        good(&http(&at("/"), |h| h.method = "HEAD".into())).await;
        good(&http(&at("/host"), |h| {
            h.method = "POST".into();
            h.body = text("method=POST");
        }))
        .await;
        // The address that is asked, and the name that it is asked by.
        good(&http("http://vip.example/host", |h| {
            h.connect = Some("127.0.0.1:80".parse().unwrap());
            h.body = text("host=vip.example ");
        }))
        .await;
        server.freeze();
        bad(&hasty(http(&at("/"), |_| ()).kind), &["400ms", "no answer"]).await;
        server.thaw();
        good(&http(&at("/"), |_| ())).await;
        drop(server);
        gone(&http(&at("/"), |_| ())).await;
    });
}

#[test]
fn nginx_redirects() {
    alone(|| async {
        let dir = folder();
        let _server = nginx(dir.path()).await;
        let at = |path: &str| format!("http://127.0.0.1{path}");
        let follow = |n| {
            move |h: &mut Http| {
                h.status = vec![200..=200];
                h.redirects = n;
            }
        };
        good(&http(&at("/moved"), |_| ())).await;
        bad(
            &http(&at("/moved"), follow(0)),
            &["status 302", "(to http://127.0.0.1/there)", "wanted 200"],
        )
        .await;
        good(&http(&at("/moved"), |h| {
            follow(2)(h);
            h.body = text("arrived");
        }))
        .await;
        bad(&http(&at("/moved"), follow(1)), &["status 302"]).await;
        bad(&http(&at("/loop"), follow(9)), &["status 302"]).await;
        bad(&http(&at("/nowhere"), follow(9)), &["leads nowhere"]).await;
        // To the same host by HTTPS: the address that was given stays, the port does not.
        let www = |h: &mut Http| {
            follow(1)(h);
            h.connect = Some("127.0.0.1:80".parse().unwrap());
            h.trust = Trust::File(dir.path().join("www-ca.pem"));
            h.body = text("secure TLSv1.3 www.example.org");
        };
        good(&http("http://www.example.org/secure", www)).await;
    });
}

#[test]
fn nginx_tls() {
    alone(|| async {
        let dir = folder();
        let _server = nginx(dir.path()).await;
        let address: SocketAddr = "127.0.0.1:443".parse().unwrap();
        let https = |url: &str, ca: &str, change: fn(&mut Http)| {
            http(url, |h| {
                h.connect = Some(address);
                h.trust = Trust::File(dir.path().join(ca));
                change(h);
            })
        };
        let www = "https://www.example.org/";
        good(&https(www, "www-ca.pem", |h| {
            h.body = text("secure TLSv1.3 www.example.org")
        }))
        .await;
        good(&https("https://other.example/", "other-ca.pem", |h| {
            h.body = text("other other.example")
        }))
        .await;
        // A name, an address in the certificate, and what SNI and Host may be.
        let by_address = |h: &mut Http| h.host = Some("www.example.org:443".into());
        good(&https("https://127.0.0.1/", "www-ca.pem", by_address)).await;
        good(&https("https://127.0.0.1/", "www-ca.pem", |h| {
            h.sni = Some("www.example.org".into())
        }))
        .await;
        bad(
            &https("https://127.0.0.1/", "other-ca.pem", |_| ()),
            &["certificate", "127.0.0.1"],
        )
        .await;
        for trust in [Trust::File(dir.path().join("www-ca.pem")), Trust::Anybody] {
            good(&http("https://127.0.0.1:8443/", |h| {
                h.trust = trust;
                h.body = text("secure TLSv1.2");
            }))
            .await;
        }
        // Another's CA, another name, one that is over, this machine's, none.
        bad(
            &https(www, "other-ca.pem", |_| ()),
            &["TLS with www.example.org", "UnknownIssuer"],
        )
        .await;
        bad(
            &https("https://wrong.example/", "other-ca.pem", |_| ()),
            &["certificate", "wrong.example"],
        )
        .await;
        bad(
            &https("https://old.example.org/", "old-ca.pem", |_| ()),
            &["certificate", "expired"],
        )
        .await;
        bad(
            &https(www, "www-ca.pem", |h| h.trust = Trust::System),
            &["UnknownIssuer"],
        )
        .await;
        good(&https(www, "www-ca.pem", |h| h.trust = Trust::Anybody)).await;
        good(&https("https://other.example/", "www-ca.pem", |h| {
            h.trust = Trust::Anybody
        }))
        .await;
        good(&https("https://old.example.org/", "old-ca.pem", |h| {
            h.trust = Trust::Anybody
        }))
        .await;
        // Not the service's fault.
        unknown(
            &https(www, "nope.pem", |_| ()),
            &["nope.pem", "No such file"],
        )
        .await;
        unknown(
            &https(www, "nginx.conf", |_| ()),
            &["nginx.conf", "no certificate"],
        )
        .await;
        // Plain where TLS is due, and the other way round.
        bad(&http("http://127.0.0.1:443/", |_| ()), &["status 400"]).await;
        bad(&http("https://127.0.0.1:80/", |_| ()), &["TLS"]).await;
    });
}

#[test]
fn names() {
    alone(|| async {
        let server = tcp(|mut stream| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.0 200 fine\r\n\r\nhi").await;
        })
        .await;
        // In /etc/hosts; ::1 may come first, where nobody listens.
        good(&http(
            &format!("http://localhost:{}/", server.port()),
            |h| h.body = text("hi"),
        ))
        .await;
        // There is no resolver in this namespace: that says nothing about the service.
        let lost = http("http://no-such-host.invalid/", |_| ());
        unknown(
            &Probe {
                timeout: std::time::Duration::from_secs(3),
                ..lost
            },
            &["no-such-host.invalid"],
        )
        .await;
        bad(
            &http(&format!("http://{}/", nobody().await), |_| ()),
            &["refused"],
        )
        .await;
    });
}

/// Sends this again and again for each of the bytes, after the first.
async fn hostile(first: &'static str, again: &'static str, most: usize) -> SocketAddr {
    tcp(move |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        if stream.write_all(first.as_bytes()).await.is_err() {
            return;
        }
        let mut sent = 0;
        while sent < most && !again.is_empty() && stream.write_all(again.as_bytes()).await.is_ok() {
            sent += again.len();
        }
        if most == 0 {
            // Says no more, and does not hang up.
            let _ = stream.read(&mut [0; 1]).await;
        }
    })
    .await
}

#[test]
fn servers_that_should_not_be() {
    alone(|| async {
        let url = |a: SocketAddr| format!("http://{a}/");
        let plain = |a| http(&url(a), |_| ());
        let body = |a| http(&url(a), |h| h.body = text("needle"));
        let head = "HTTP/1.1 200 OK\r\n";
        bad(
            &hasty(plain(hostile("", "", 0).await).kind),
            &["400ms", "no answer"],
        )
        .await;
        bad(&hasty(plain(hostile(head, "", 0).await).kind), &["400ms"]).await;
        // Heads without end: one long line, many lines, a status line that never stops.
        for first in ["HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 "] {
            bad(
                &plain(hostile(first, "xxxxxxxxxxxxxxxx", usize::MAX).await),
                &["no good answer by HTTP"],
            )
            .await;
        }
        bad(
            &plain(hostile(head, "A: b\r\n", usize::MAX).await),
            &["no good answer by HTTP"],
        )
        .await;
        for garbage in [
            "\x00\x01\x02\r\n\r\n",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        ] {
            bad(
                &plain(hostile(garbage, " ", 1).await),
                &["no good answer by HTTP"],
            )
            .await;
        }
        // Provisional answers without end.
        let going_on = "HTTP/1.1 100 Continue\r\n\r\n";
        bad(
            &hasty(plain(hostile("", going_on, usize::MAX).await).kind),
            &["400ms"],
        )
        .await;
        // Bodies without end: looked at in part, or not at all.
        let endless = hostile("HTTP/1.1 200 OK\r\n\r\n", "0123456789abcdef", usize::MAX).await;
        good(&plain(endless)).await;
        bad(&body(endless), &["no \"needle\" in the first 262144 bytes"]).await;
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        bad(
            &body(hostile(chunks, "4\r\nhays\r\n", usize::MAX).await),
            &["first 262144 bytes"],
        )
        .await;
        bad(
            &body(hostile(chunks, "zz\r\n", 4).await),
            &["status 200 OK, then"],
        )
        .await;
        // Shorter than promised, and one that stops in the middle.
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nneed";
        bad(
            &body(hostile(short, "x", 1).await),
            &["status 200 OK, then"],
        )
        .await;
        bad(
            &hasty(body(hostile(short, "", 0).await).kind),
            &["400ms", "4 bytes"],
        )
        .await;
        let big = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n";
        bad(
            &body(hostile(big, "x", 1).await),
            &["no good answer by HTTP"],
        )
        .await;
        // TLS: silence, garbage.
        let tls = |a: SocketAddr| http(&format!("https://{a}/"), |h| h.trust = Trust::Anybody);
        bad(
            &hasty(tls(hostile("", "", 0).await).kind),
            &["400ms", "waiting for TLS"],
        )
        .await;
        bad(
            &tls(hostile("\x16\x03\x01\x7f\x7f", "garbage ", usize::MAX).await),
            &["TLS"],
        )
        .await;
    });
}
