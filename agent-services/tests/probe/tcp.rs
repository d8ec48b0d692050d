//! TCP.

use std::time::Duration;

use agent_services::probe::{AT_ONCE, Kind, Pattern, Probe, Tcp, Verdict};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::rig::{GIVEN, alone, bad, elsewhere, good, hasty, nobody, patient, tcp, unknown};

fn kind(address: std::net::SocketAddr, send: &str, expect: Option<&str>) -> Kind {
    Kind::Tcp(Tcp {
        address,
        send: send.into(),
        expect: expect.map(|e| Pattern::regex(e).unwrap()),
    })
}

/// Answers a line with `got LINE`, in two pieces.
async fn echo(mut stream: TcpStream) {
    let mut line = [0; 64];
    let n = stream.read(&mut line).await.unwrap();
    stream.write_all(b"go").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    stream.write_all(b"t ").await.unwrap();
    let _ = stream.write_all(&line[..n]).await;
}

#[test]
fn said_and_answered() {
    alone(|| async {
        let server = tcp(echo).await;
        assert_eq!(good(&patient(kind(server, "", None))).await, "connected");
        assert_eq!(
            good(&patient(kind(server, "hello\n", Some("^got hello\n$")))).await,
            "got hello"
        );
        bad(
            &patient(kind(server, "hello\n", Some("bye"))),
            &["/bye/", "no more came", "got hello"],
        )
        .await;
    });
}

#[test]
fn nobody_listens() {
    alone(|| async {
        bad(&patient(kind(nobody().await, "", None)), &["refused"]).await;
        // There is no way out of this namespace.
        bad(
            &patient(kind("192.0.2.1:80".parse().unwrap(), "", None)),
            &["unreachable"],
        )
        .await;
    });
}

#[test]
fn a_server_that_never_answers_or_never_stops() {
    alone(|| async {
        let silent = tcp(|stream| async move {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            drop(stream);
        })
        .await;
        bad(
            &hasty(kind(silent, "x", Some("y"))),
            &["400ms", "nothing came"],
        )
        .await;
        let endless =
            tcp(|mut stream| async move { while stream.write_all(&[b'a'; 999]).await.is_ok() {} })
                .await;
        bad(&patient(kind(endless, "x", Some("y"))), &["16384 bytes"]).await;
    });
}

#[test]
fn no_more_than_a_bound_run_at_once() {
    elsewhere("tcp::more_than_run_at_once", "");
}

/// Takes all places of its process, so it has one of its own.
#[test]
#[ignore = "run by no_more_than_a_bound_run_at_once"]
fn more_than_run_at_once() {
    alone(|| async {
        use std::sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        };
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (o, m) = (open.clone(), most.clone());
        let silent = tcp(move |mut stream| {
            let (open, most) = (o.clone(), m.clone());
            async move {
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let _ = stream.read_to_end(&mut Vec::new()).await;
                open.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .await;
        let probe = Probe {
            timeout: Duration::from_secs(2),
            ..patient(kind(silent, "", Some("x")))
        };
        let all: Vec<_> = (0..AT_ONCE * 2)
            .map(|_| {
                let probe = probe.clone();
                tokio::spawn(async move { probe.run().await })
            })
            .collect();
        let (mut asked, mut not) = (0, 0);
        for one in all {
            match one.await.unwrap() {
                Verdict::Bad(_) => asked += 1,
                Verdict::Unknown(_) => not += 1,
                Verdict::Good(a) => panic!("{a:?}"),
            }
        }
        let most = most.load(Ordering::SeqCst);
        assert!((AT_ONCE / 2..=AT_ONCE).contains(&most), "{most}");
        assert_eq!((asked, not), (AT_ONCE, AT_ONCE));
        // Places are given back.
        good(&patient(kind(tcp(echo).await, "", None))).await;
    });
}

#[test]
fn no_descriptor_left_is_not_the_services_fault() {
    alone(|| async {
        let server = tcp(echo).await;
        // The limit is the whole process's: another test would feel it.
        elsewhere("tcp::with_few_descriptors", &server.to_string());
    });
}

/// Run by the test above.
#[test]
#[ignore = "run by no_descriptor_left_is_not_the_services_fault"]
fn with_few_descriptors() {
    let server = std::env::var(GIVEN).expect("run by another test");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let probe = patient(kind(server.parse().unwrap(), "", None));
        good(&probe).await;
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, 64).unwrap();
        let mut held = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            held.push(file);
        }
        unknown(&probe, &["Too many open files"]).await;
        held.clear();
        good(&probe).await;
    });
}
