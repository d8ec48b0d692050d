//! DNS, with unbound.

use std::{fmt::Write as _, net::SocketAddr, path::Path};

use agent_services::probe::{Dns, Expect, Kind, Probe, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::{Server, alone, bad, folder, gone, good, hasty, nobody, patient, tcp, udp, write};

fn dns(server: SocketAddr, name: &str, rtype: &str, change: impl FnOnce(&mut Dns)) -> Probe {
    let mut dns = Dns::new(server, name, rtype);
    change(&mut dns);
    let probe = patient(Kind::Dns(dns));
    assert_eq!(probe.flaw(), None);
    probe
}

const UNBOUND: &str = r#"
server:
  interface: 127.0.0.1
  interface: ::1
  username: ""
  chroot: ""
  pidfile: ""
  directory: "DIR"
  do-daemonize: no
  use-syslog: no
  num-threads: 1
  access-control: 127.0.0.1 allow
  access-control: ::1 refuse
  local-zone: "example.test." static
  local-data: "www.example.test. 60 A 192.0.2.1"
  local-data: "www.example.test. 60 A 192.0.2.2"
  local-data: "www.example.test. 60 AAAA 2001:db8::1"
  local-data: "example.test. 60 MX 10 Mail.example.test."
  local-data: "example.test. 60 SOA ns.example.test. admin.example.test. 7 3600 600 86400 60"
  local-data: 'example.test. 60 TXT "v=spf1 -all"'
remote-control:
  control-enable: no
"#;

async fn unbound(dir: &Path) -> (Server, SocketAddr) {
    let mut config = UNBOUND.replace("DIR", &dir.display().to_string());
    let mut zone = String::new();
    for i in 1..=100 {
        writeln!(
            zone,
            "  local-data: \"many.example.test. 60 A 192.0.2.{i}\""
        )
        .unwrap();
    }
    config = config.replace("remote-control:", &format!("{zone}remote-control:"));
    let file = write(dir, "unbound.conf", &config);
    let mut server = Server::start(dir, &["unbound", "-d", "-c", &file.display().to_string()]);
    let address = "127.0.0.1:53".parse().unwrap();
    server
        .ready(&dns(address, "www.example.test", "A", |_| ()))
        .await;
    (server, address)
}

#[test]
fn unbound_answers() {
    alone(|| async {
        let dir = folder();
        let (server, at) = unbound(dir.path()).await;
        let www = |rtype: &str, change: fn(&mut Dns)| dns(at, "WWW.example.test.", rtype, change);
        let text = good(&www("A", |_| ())).await;
        assert!(
            text == "192.0.2.1, 192.0.2.2" || text == "192.0.2.2, 192.0.2.1",
            "{text}"
        );
        good(&www("a", |d| d.tcp = true)).await;
        good(&www("A", |d| {
            d.answers = vec!["192.0.2.9".into(), "192.0.2.2".into()]
        }))
        .await;
        bad(
            &www("A", |d| d.answers = vec!["192.0.2.9".into()]),
            &["192.0.2.1", "wanted one of 192.0.2.9"],
        )
        .await;
        good(&www("A", |d| {
            d.answers = vec!["192.0.2.1".into(), "192.0.2.2".into()];
            d.expect = Expect::All;
        }))
        .await;
        bad(
            &www("A", |d| {
                d.answers = vec!["192.0.2.1".into(), "192.0.2.9".into()];
                d.expect = Expect::All;
            }),
            &["wanted all of"],
        )
        .await;
        good(&www("AAAA", |d| d.answers = vec!["2001:DB8:0:0::1".into()])).await;
        let zone = |rtype, answer: &str| {
            dns(at, "example.test", rtype, |d| {
                d.answers = vec![answer.to_owned()]
            })
        };
        good(&zone("MX", "10 mail.example.test")).await;
        good(&zone("TXT", "v=spf1 -all")).await;
        good(&zone(
            "SOA",
            "ns.example.test. admin.example.test. 7 3600 600 86400 60",
        ))
        .await;
        // No such name, no such type, not for us.
        bad(&dns(at, "nope.example.test", "A", |_| ()), &["NXDOMAIN"]).await;
        bad(&www("MX", |_| ()), &["no MX record of WWW.example.test."]).await;
        bad(
            &dns("[::1]:53".parse().unwrap(), "www.example.test", "A", |_| ()),
            &["REFUSED"],
        )
        .await;
        // 100 addresses are cut short in a datagram.
        good(&dns(at, "many.example.test", "A", |d| {
            d.answers = (1..=100).map(|i| format!("192.0.2.{i}")).collect();
            d.expect = Expect::All;
        }))
        .await;
        server.freeze();
        bad(&hasty(www("A", |_| ()).kind), &["400ms"]).await;
        bad(
            &hasty(www("A", |d| d.tcp = true).kind),
            &["400ms", "connected, but no answer"],
        )
        .await;
        server.thaw();
        good(&www("A", |_| ())).await;
        drop(server);
        gone(&www("A", |_| ())).await;
        gone(&www("A", |d| d.tcp = true)).await;
    });
}

/// What a server makes of a question.
type Answer = fn(&[u8]) -> Vec<u8>;

/// A question, as an answer without records.
fn empty(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer
}

/// The same with one address.
fn address(question: &[u8]) -> Vec<u8> {
    let mut answer = empty(question);
    answer[7] = 1;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    answer
}

/// As it goes over TCP.
fn framed(answer: &[u8]) -> Vec<u8> {
    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
    [&length, answer].concat()
}

#[test]
fn servers_that_should_not_be() {
    alone(|| async {
        let ask = |at| dns(at, "www.example.test", "A", |_| ());
        assert_eq!(
            good(&ask(udp(|q| vec![address(q)]).await)).await,
            "192.0.2.7"
        );
        let stray = |what: Answer| udp(move |q| vec![what(q), what(q)]);
        // What answers another question is not heard, and not waited for in vain by others.
        let wrong: [Answer; 6] = [
            |_| b"garbage".to_vec(),
            |_| Vec::new(),
            |q| q.to_vec(),
            |q| {
                let mut a = address(q);
                a[0] ^= 1;
                a
            },
            |q| {
                let mut a = address(q);
                a[13] ^= 1;
                a
            },
            |q| {
                let mut a = address(q);
                a[2] |= 0x10;
                a
            },
        ];
        for what in wrong {
            bad(
                &hasty(ask(stray(what).await).kind),
                &["400ms", "2 datagrams came"],
            )
            .await;
        }
        good(&ask(
            udp(|q| vec![b"x".to_vec(), vec![0; 12], address(q)]).await
        ))
        .await;
        // Answers that are ours, and broken.
        bad(&ask(udp(|q| vec![empty(q)]).await), &["no A record"]).await;
        for cut in 1..16 {
            let at = udp(move |q| {
                let mut a = address(q);
                a.truncate(a.len() - cut);
                vec![a]
            });
            bad(&ask(at.await), &["cannot be read"]).await;
        }
        let at = udp(|q| {
            let mut a = address(q);
            // A name that points at itself.
            let n = a.len() - 16;
            a[n + 1] = u8::try_from(n).unwrap();
            vec![a]
        });
        bad(&ask(at.await), &["cannot be read"]).await;
        bad(
            &ask(udp(|q| {
                let mut a = empty(q);
                a[3] |= 2;
                vec![a]
            })
            .await),
            &["SERVFAIL"],
        )
        .await;
        // Cut short, and nobody there by TCP.
        bad(
            &ask(udp(|q| {
                let mut a = address(q);
                a[2] |= 2;
                vec![a]
            })
            .await),
            &["cannot connect", "refused"],
        )
        .await;
        bad(&hasty(ask(udp(|_| Vec::new()).await).kind), &["400ms"]).await;
        bad(&ask(nobody().await), &["refused"]).await;
    });
}

#[test]
fn a_flood_ends_with_the_time() {
    alone(|| async {
        // From a thread of its own, as from another machine, and more than can be read.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let flood = std::thread::spawn(move || {
            let (_, from) = socket.recv_from(&mut [0; 512]).unwrap();
            // Connected, it is told when nobody listens any more.
            socket.connect(from).unwrap();
            while socket.send(&[0; 100]).is_ok() {}
        });
        let verdict = hasty(dns(at, "www.example.test", "A", |_| ()).kind)
            .run()
            .await;
        let text = match verdict {
            Verdict::Bad(text) => text,
            // Kept busy by the flood itself.
            Verdict::Unknown(text) if text.contains("too busy") => text,
            other => panic!("{other:?}"),
        };
        assert!(text.contains("400ms"), "{text}");
        // Nobody hears it any more.
        flood.join().unwrap();
    });
}

#[test]
fn tcp_servers_that_should_not_be() {
    alone(|| async {
        let ask = |at| dns(at, "www.example.test", "A", |d| d.tcp = true);
        let with = |what: Answer| {
            tcp(move |mut stream| async move {
                let length = stream.read_u16().await.unwrap();
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.unwrap();
                let _ = stream.write_all(&what(&question)).await;
            })
        };
        good(&ask(with(|q| framed(&address(q))).await)).await;
        bad(&ask(with(|_| Vec::new()).await), &["connected"]).await;
        bad(&ask(with(|_| vec![0xff, 0xff, 1]).await), &["connected"]).await;
        bad(
            &ask(with(|_| vec![0, 0]).await),
            &["answer to another question"],
        )
        .await;
        bad(
            &ask(with(|_| vec![0, 3, 1, 2, 3]).await),
            &["answer to another question"],
        )
        .await;
        bad(
            &ask(with(|q| {
                let mut a = address(q);
                a[2] |= 2;
                framed(&a)
            })
            .await),
            &["cut short also over TCP"],
        )
        .await;
    });
}
