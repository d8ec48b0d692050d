//! RADIUS, with freeradius.

use std::{net::SocketAddr, path::Path};

use agent_services::probe::{Ask, Kind, Probe, Radius, Want};

use crate::rig::{
    Server, alone, bad, folder, gone, good, hasty, nobody, patient, udp, unknown, write,
};

const CONFIG: &str = r#"
prefix = /usr
libdir = /usr/lib/freeradius
logdir = DIR
run_dir = DIR
db_dir = DIR
max_request_time = 5
cleanup_delay = 2
hostname_lookups = no
log {
  destination = stdout
}
security {
  allow_core_dumps = no
  max_attributes = 200
  reject_delay = 0
  status_server = yes
}
client here {
  ipaddr = 127.0.0.1
  secret = sesame-open
  require_message_authenticator = yes
}
modules {
  pap {
  }
  files {
    filename = DIR/users
  }
  always ok {
    rcode = ok
  }
}
server default {
  listen {
    type = auth
    ipaddr = 127.0.0.1
    port = 1812
  }
  listen {
    type = acct
    ipaddr = 127.0.0.1
    port = 1813
  }
  authorize {
    files
    pap
  }
  authenticate {
    pap
  }
  accounting {
    ok
  }
}
"#;

const USERS: &str = "alice Cleartext-Password := \"wonder land, and longer than sixteen bytes\"\n";

async fn freeradius(dir: &Path) -> Server {
    write(
        dir,
        "radiusd.conf",
        &CONFIG.replace("DIR", &dir.display().to_string()),
    );
    write(dir, "users", USERS);
    write(dir, "secret", "sesame-open\n");
    write(
        dir,
        "password",
        "wonder land, and longer than sixteen bytes",
    );
    let config = dir.display().to_string();
    let mut server = Server::start(dir, &["freeradius", "-f", "-l", "stdout", "-d", &config]);
    server
        .ready(&probe(dir, Ask::Status, Want::Accept, 1812))
        .await;
    server
}

fn probe(dir: &Path, ask: Ask, want: Want, port: u16) -> Probe {
    let probe = patient(Kind::Radius(Radius {
        server: ([127, 0, 0, 1], port).into(),
        secret: dir.join("secret"),
        ask,
        want,
    }));
    // freeradius may drop what comes while it starts.
    Probe {
        timeout: std::time::Duration::from_secs(5),
        ..probe
    }
}

fn access(dir: &Path, user: &str, password: &str) -> Ask {
    Ask::Access {
        user: user.into(),
        password: dir.join(password),
    }
}

#[test]
fn freeradius_answers() {
    alone(|| async {
        let dir = folder();
        let dir = dir.path();
        let server = freeradius(dir).await;
        assert_eq!(
            good(&probe(dir, Ask::Status, Want::Accept, 1812)).await,
            "Access-Accept"
        );
        assert_eq!(
            good(&probe(dir, Ask::Status, Want::Accept, 1813)).await,
            "Accounting-Response"
        );
        let alice = access(dir, "alice", "password");
        assert!(
            good(&probe(dir, alice.clone(), Want::Accept, 1812))
                .await
                .starts_with("Access-Accept")
        );
        bad(
            &probe(dir, alice.clone(), Want::Reject, 1812),
            &["Access-Accept", "wanted Access-Reject"],
        )
        .await;
        let mallory = access(dir, "mallory", "password");
        bad(
            &probe(dir, mallory.clone(), Want::Accept, 1812),
            &["Access-Reject", "wanted Access-Accept"],
        )
        .await;
        assert!(
            good(&probe(dir, mallory.clone(), Want::Reject, 1812))
                .await
                .starts_with("Access-Reject")
        );
        good(&probe(dir, mallory, Want::Any, 1812)).await;
        // It keeps silent if the secret differs.
        write(dir, "secret", "sesame-shut");
        let other = probe(dir, alice.clone(), Want::Accept, 1812);
        bad(&hasty(other.kind), &["400ms", "secret differed"]).await;
        write(dir, "secret", "sesame-open");
        good(&probe(dir, alice, Want::Accept, 1812)).await;
        server.freeze();
        bad(
            &hasty(probe(dir, Ask::Status, Want::Accept, 1812).kind),
            &["400ms"],
        )
        .await;
        server.thaw();
        good(&probe(dir, Ask::Status, Want::Accept, 1812)).await;
        drop(server);
        gone(&probe(dir, Ask::Status, Want::Accept, 1812)).await;
    });
}

#[test]
fn secrets_that_cannot_be_had() {
    alone(|| async {
        let dir = folder();
        let dir = dir.path();
        let ask = || probe(dir, access(dir, "alice", "password"), Want::Accept, 1812);
        unknown(&ask(), &["secret", "No such file"]).await;
        let file = write(dir, "secret", "sesame-open");
        unknown(&ask(), &["password", "No such file"]).await;
        write(dir, "password", &"x".repeat(129));
        unknown(&ask(), &["longer than 128 bytes"]).await;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        unknown(&ask(), &["mode 0644", "chmod o="]).await;
        std::fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        unknown(&ask(), &["not a regular file"]).await;
        // What is shown of a probe holds no secret.
        assert!(!format!("{:?}", ask()).contains("sesame"));
    });
}

/// What a server makes of a request.
type Answer = fn(&[u8]) -> Vec<u8>;

#[test]
fn servers_that_should_not_be() {
    alone(|| async {
        let dir = folder();
        let dir = dir.path();
        write(dir, "secret", "sesame-open");
        let at = |server: SocketAddr| hasty(probe(dir, Ask::Status, Want::Any, server.port()).kind);
        bad(
            &at(udp(|_| Vec::new()).await),
            &["400ms", "secret differed"],
        )
        .await;
        bad(&at(nobody().await), &["refused"]).await;
        let wrong: [(Answer, &str); 6] = [
            (|_| b"garbage".to_vec(), "too short"),
            (|q| [&[2, q[1], 0, 5][..], &[0; 30]].concat(), "cannot be"),
            (|q| q.to_vec(), "wrong Response Authenticator"),
            (
                |q| [&[2, q[1], 0, 20][..], &[7; 16]].concat(),
                "wrong Response Authenticator",
            ),
            (
                |q| [&[2, !q[1], 0, 20][..], &[7; 16]].concat(),
                "another identifier",
            ),
            (
                |q| [&[2, q[1], 0, 90][..], &[7; 16]].concat(),
                "shorter than it says",
            ),
        ];
        for (what, why) in wrong {
            bad(
                &at(udp(move |q| vec![what(q), what(q), what(q)]).await),
                &["400ms", "3 datagrams", why],
            )
            .await;
        }
    });
}
