//! SIP, with kamailio.

use std::{net::SocketAddr, path::Path};

use agent_services::probe::{Kind, Probe, Sip};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Server, alone, bad, folder, gone, good, hasty, nobody, patient, tcp, udp, write};

const CONFIG: &str = r#"#!KAMAILIO
debug=0
log_stderror=yes
fork=yes
children=1
tcp_children=1
dns=no
rev_dns=no
auto_aliases=no
listen=udp:127.0.0.1:5060
listen=tcp:127.0.0.1:5060
listen=udp:[::1]:5060
loadmodule "sl.so"
loadmodule "pv.so"
request_route {
  if ($rm == "OPTIONS" && $rU == "down") { sl_send_reply("503", "Going down"); exit; }
  if ($rm == "OPTIONS" && $rU == $null) { sl_send_reply("100", "Trying"); sl_send_reply("200", "Keepalive"); exit; }
  sl_send_reply("404", "Not here");
}
"#;

fn probe(server: SocketAddr, change: impl FnOnce(&mut Sip)) -> Probe {
    let mut sip = Sip::new(server);
    change(&mut sip);
    let probe = patient(Kind::Sip(sip));
    assert_eq!(probe.flaw(), None);
    probe
}

async fn kamailio(dir: &Path) -> (Server, SocketAddr) {
    let file = write(dir, "kamailio.cfg", CONFIG).display().to_string();
    let run = dir.display().to_string();
    let argv = [
        "kamailio", "-DD", "-E", "-f", &file, "-Y", &run, "-m", "16", "-M", "4",
    ];
    let mut server = Server::start(dir, &argv);
    let at = "127.0.0.1:5060".parse().unwrap();
    server.ready(&probe(at, |s| s.tcp = true)).await;
    (server, at)
}

#[test]
fn kamailio_answers() {
    alone(|| async {
        let dir = folder();
        let (server, at) = kamailio(dir.path()).await;
        assert_eq!(good(&probe(at, |_| ())).await, "status 200 Keepalive");
        assert_eq!(
            good(&probe(at, |s| s.tcp = true)).await,
            "status 200 Keepalive"
        );
        good(&probe("[::1]:5060".parse().unwrap(), |s| {
            s.status = vec![200..=200]
        }))
        .await;
        for by_tcp in [false, true] {
            let asked = |uri: &str, ok: bool| {
                probe(at, |s| {
                    s.uri = uri.into();
                    s.tcp = by_tcp;
                    if ok {
                        s.status = vec![200..=299];
                    }
                })
            };
            bad(
                &asked("sip:down@example.org", true),
                &["status 503 Going down", "wanted 200-299"],
            )
            .await;
            good(&asked("sip:down@example.org", false)).await;
            assert_eq!(
                good(&asked("sip:a@example.org;x=y", false)).await,
                "status 404 Not here"
            );
        }
        server.freeze();
        bad(&hasty(probe(at, |_| ()).kind), &["400ms"]).await;
        bad(
            &hasty(probe(at, |s| s.tcp = true).kind),
            &["400ms", "connected, but no answer"],
        )
        .await;
        server.thaw();
        good(&probe(at, |_| ())).await;
        drop(server);
        gone(&probe(at, |_| ())).await;
        gone(&probe(at, |s| s.tcp = true)).await;
    });
}

/// What a server makes of a request.
type Answers = fn(&[u8]) -> Vec<String>;

/// An answer to a request, with this status line; the headers as they came.
fn answer(request: &[u8], status: &str) -> String {
    let request = String::from_utf8_lossy(request);
    let (_, rest) = request.split_once("\r\n").unwrap();
    format!("SIP/2.0 {status}\r\n{rest}")
}

#[test]
fn servers_that_should_not_be() {
    alone(|| async {
        let at = |server| probe(server, |_| ());
        let say = |what: fn(&[u8]) -> Vec<String>| {
            udp(move |q| what(q).into_iter().map(String::into_bytes).collect())
        };
        good(&at(say(|q| {
            vec![answer(q, "100 Trying"), "x".into(), answer(q, "486 Busy")]
        })
        .await))
        .await;
        bad(&hasty(at(say(|_| Vec::new()).await).kind), &["400ms"]).await;
        bad(
            &hasty(at(say(|q| vec![answer(q, "100 Trying")]).await).kind),
            &["400ms", "only status 100 Trying"],
        )
        .await;
        bad(&at(nobody().await), &["refused"]).await;
        let wrong: [Answers; 8] = [
            |_| vec!["garbage".into()],
            |_| vec![String::new()],
            |q| vec![String::from_utf8_lossy(q).into_owned()],
            |q| vec![answer(q, "200 OK").replace("z9hG4bK", "z9hG4bKx")],
            |q| vec![answer(q, "200 OK").replace("Call-ID: ", "Call-ID: x")],
            |q| vec![answer(q, "200 OK").replace("1 OPTIONS", "2 OPTIONS")],
            |q| vec![answer(q, "20x OK")],
            |q| vec![answer(q, "200 OK").replace("\r\n\r\n", "\r\n")],
        ];
        for what in wrong {
            bad(
                &hasty(at(say(what).await).kind),
                &["400ms", "1 datagrams came"],
            )
            .await;
        }
    });
}

#[test]
fn tcp_servers_that_should_not_be() {
    alone(|| async {
        let at = |server| probe(server, |s| s.tcp = true);
        // Says this for an answer, then the end again and again.
        let say = |what: fn(&[u8]) -> String, end: &'static str| {
            tcp(move |mut stream| async move {
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).await.unwrap();
                if stream
                    .write_all(what(&request[..n]).as_bytes())
                    .await
                    .is_ok()
                    && !end.is_empty()
                {
                    while stream.write_all(end.as_bytes()).await.is_ok() {}
                }
            })
        };
        // Empty lines, and two answers in one piece.
        let two = |q: &[u8]| format!("\r\n\r\n{}{}", answer(q, "100 Trying"), answer(q, "200 OK"));
        assert_eq!(good(&at(say(two, "").await)).await, "status 200 OK");
        bad(&at(say(|_| String::new(), "").await), &["hung up"]).await;
        bad(
            &at(say(|q| answer(q, "100 Trying"), "").await),
            &["hung up"],
        )
        .await;
        bad(
            &at(say(|_| String::new(), "no end ").await),
            &["no whole message in 65536 bytes"],
        )
        .await;
        bad(
            &at(say(|_| String::new(), "\r\n").await),
            &["no whole message"],
        )
        .await;
        bad(
            &at(say(|_| "garbage\r\n\r\n".into(), "").await),
            &["no answer to this request"],
        )
        .await;
        let long =
            |q: &[u8]| answer(q, "200 OK").replace("Content-Length: 0", "Content-Length: 9999999");
        bad(&at(say(long, "x").await), &["too long"]).await;
        let none =
            |q: &[u8]| answer(q, "200 OK").replace("Content-Length: 0", "Content-Length: -1");
        bad(&at(say(none, "").await), &["length that is none"]).await;
        let short =
            |q: &[u8]| answer(q, "200 OK").replace("Content-Length: 0", "Content-Length: 9");
        bad(&at(say(short, "").await), &["hung up"]).await;
    });
}
