//! The server: good and bad input, bounds, the socket file.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::Duration;

use heartline::control::proto::*;
use heartline::control::{BindError, Client, ClientError, ControlServer, Limits};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::fake::{Fake, Moves, Served, within};
use crate::sample::healthy;

struct Raw(BufReader<UnixStream>);

impl Raw {
    async fn connect(served: &Served) -> Self {
        Self(BufReader::new(
            UnixStream::connect(&served.socket).await.unwrap(),
        ))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        match within(self.0.read_line(&mut line)).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    async fn code(&mut self) -> Value {
        self.line().await.expect("no reply")["error"]["code"].clone()
    }
}

const PING: &[u8] = b"{\"v\":1,\"request\":\"ping\"}\n";

#[tokio::test]
async fn every_request_is_answered() {
    let served = Served::healthy().await;
    let client = Client::new(&served.socket);
    let pong: Pong = client.call(Request::Ping).await.unwrap();
    assert_eq!(pong.node, "n1");
    let status: StatusReport = client.call(Request::Status).await.unwrap();
    assert_eq!(status, healthy());
    let explain: ExplainReport = client
        .call(Request::Explain {
            group: "web".into(),
        })
        .await
        .unwrap();
    assert_eq!(explain.owner.as_deref(), Some("n1"));
    let request = Request::Move {
        group: "web".into(),
        node: "n2".into(),
        wait_ms: Some(5_000),
    };
    let moved: MoveReply = client.call(request).await.unwrap();
    assert_eq!(
        (moved.done, moved.took_ns, moved.from.as_deref()),
        (true, Some(1_700_000), Some("n1"))
    );
    for request in [
        Request::Drain { node: "n1".into() },
        Request::Undrain { node: "n1".into() },
        Request::Pause,
        Request::Resume,
        Request::Restart,
    ] {
        let done: Done = client.call(request.clone()).await.unwrap();
        assert!(done.changed, "{request:?}");
    }
    let reload: ReloadReply = client.call(Request::Reload).await.unwrap();
    assert_eq!(reload.generation, 2);
    let request = Request::Events {
        follow: false,
        since_seq: None,
        limit: Some(10),
    };
    let page: EventPage = client.call(request).await.unwrap();
    assert_eq!(page.next_seq, 1);
    // Ids were looked up.
    assert_eq!(
        *served.fake.calls.lock().unwrap(),
        ["move 0:web 2:n2", "drain 1:n1 true", "drain 1:n1 false"]
    );
}

#[tokio::test]
async fn bad_input_is_refused_and_the_connection_goes_on() {
    let served = Served::healthy().await;
    let mut raw = Raw::connect(&served).await;
    for (input, code) in [
        (&b"hello\n"[..], "bad_request"),
        (b"\n", "bad_request"),
        (b"\xff\xfe\x00\n", "bad_request"),
        (
            b"{\"v\":1,\"request\":{\"move\":{\"group\":\"web\"}}}\n",
            "bad_request",
        ),
        (
            b"{\"v\":1,\"request\":\"status\",\"more\":1}\n",
            "bad_request",
        ),
        (b"{\"v\":9,\"request\":\"status\"}\n", "unsupported_version"),
        (
            b"{\"v\":1,\"request\":{\"explain\":{\"group\":\"wbe\"}}}\n",
            "unknown_group",
        ),
        (
            b"{\"v\":1,\"request\":{\"drain\":{\"node\":\"n7\"}}}\n",
            "unknown_node",
        ),
    ] {
        raw.send(input).await;
        assert_eq!(raw.code().await, code, "{}", String::from_utf8_lossy(input));
    }
    raw.send(PING).await;
    assert_eq!(raw.line().await.unwrap()["ok"]["node"], "n1");
    // A line in pieces, and two at once.
    let (head, tail) = PING.split_at(9);
    raw.send(head).await;
    raw.send(&[tail, PING].concat()).await;
    assert_eq!(raw.line().await.unwrap()["ok"]["node"], "n1");
    assert_eq!(raw.line().await.unwrap()["ok"]["node"], "n1");
    assert!(served.fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_line_too_long_is_refused_and_the_server_lives() {
    let served = Served::healthy().await;
    let mut raw = Raw::connect(&served).await;
    // A megabyte without a newline; the server may stop reading before all is written.
    let _ = raw.0.get_mut().write_all(&vec![b'a'; 1 << 20]).await;
    assert_eq!(raw.code().await, "too_large");
    assert!(raw.line().await.is_none());
    // The longest line allowed is read.
    let mut raw = Raw::connect(&served).await;
    let mut line = vec![b' '; MAX_REQUEST - (PING.len() - 1)];
    line.extend_from_slice(PING);
    raw.send(&line).await;
    assert_eq!(raw.line().await.unwrap()["ok"]["node"], "n1");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let served = Served::new(Fake::new(healthy()), limits).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(&served).await;
        raw.send(PING).await;
        raw.line().await.unwrap();
        held.push(raw);
    }
    let mut third = Raw::connect(&served).await;
    assert_eq!(third.code().await, "busy");
    // The client shows the agent's reason, whether or not its request was taken.
    let refused = Client::new(&served.socket)
        .call::<Pong>(Request::Ping)
        .await;
    assert!(
        matches!(
            refused,
            Err(ClientError::Refused(Refusal {
                code: Code::Busy,
                ..
            }))
        ),
        "{refused:?}"
    );
    drop(held.pop());
    within(async {
        while Client::new(&served.socket)
            .call::<Pong>(Request::Ping)
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn deadlines_end_silent_clients_and_silent_agents() {
    let limits = Limits {
        deadline: Duration::from_millis(30),
        ..Limits::default()
    };
    let served = Served::new(Fake::new(healthy()), limits).await;
    let mut raw = Raw::connect(&served).await;
    raw.send(b"{\"v\":1,").await;
    assert_eq!(raw.code().await, "timeout");
    assert!(raw.line().await.is_none());
    served.fake.hang.store(true, Ordering::SeqCst);
    let mut raw = Raw::connect(&served).await;
    raw.send(b"{\"v\":1,\"request\":\"status\"}\n").await;
    assert_eq!(raw.code().await, "timeout");
}

#[tokio::test]
async fn a_client_of_a_frozen_agent_does_not_wait_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    // Connections are taken by the kernel; nobody reads.
    let _frozen = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let client = Client::new(&path).with_limit(Duration::from_millis(30));
    let error = client.call::<Pong>(Request::Ping).await.unwrap_err();
    assert_eq!(error.exit_status(), 4, "{error}");
}

#[tokio::test]
async fn a_move_tells_what_became_of_it() {
    let served = Served::healthy().await;
    let client = Client::new(&served.socket);
    let go = |node: &str, wait_ms| Request::Move {
        group: "web".into(),
        node: node.into(),
        wait_ms,
    };
    // To where it is.
    let reply: MoveReply = client.call(go("n1", Some(1_000))).await.unwrap();
    assert_eq!((reply.done, reply.took_ns), (true, Some(0)));
    *served.fake.moves.lock().unwrap() = Moves::Stall;
    let reply: MoveReply = client.call(go("n2", None)).await.unwrap();
    assert!(!reply.done);
    let Err(ClientError::Refused(refusal)) = client.call::<MoveReply>(go("n2", Some(20))).await
    else {
        panic!()
    };
    assert_eq!(refusal.code, Code::Timeout);
    assert!(refusal.message.contains("only 1 of 2 grants"), "{refusal}");
    *served.fake.moves.lock().unwrap() = Moves::Refused;
    let Err(ClientError::Refused(refusal)) = client.call::<MoveReply>(go("n3", Some(20))).await
    else {
        panic!()
    };
    assert_eq!(
        (refusal.code, refusal.help.as_deref()),
        (Code::Refused, Some("name a member"))
    );
}

#[tokio::test]
async fn the_socket_file_is_private_and_gone_at_the_end() {
    let served = Served::healthy().await;
    let path = served.socket.clone();
    let meta = std::fs::metadata(&path).unwrap();
    let group = nix::unistd::Group::from_name("heartline").unwrap();
    let (mode, gid) = (meta.permissions().mode() & 0o777, meta.gid());
    match group {
        Some(group) if nix::unistd::geteuid().is_root() => {
            assert_eq!((mode, gid), (0o660, group.gid.as_raw()))
        }
        Some(_) => assert!(mode == 0o660 || mode == 0o600),
        None => assert_eq!(mode, 0o600),
    }
    served.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_group_that_exists_gets_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let own = nix::unistd::Group::from_gid(nix::unistd::getegid())
        .unwrap()
        .expect("our group has no name");
    let _server = ControlServer::bind(&path, &own.name).await.unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o660
    );
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    // Killed agents leave theirs behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let served = Served::at(directory.path(), Fake::new(healthy()), Limits::default()).await;
    assert!(matches!(
        ControlServer::bind(&path, "heartline").await,
        Err(BindError::InUse(_))
    ));
    let pong: Pong = Client::new(&path).call(Request::Ping).await.unwrap();
    assert_eq!(pong.node, "n1");
    served.stop().await;
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        ControlServer::bind(&path, "heartline").await,
        Err(BindError::NotASocket(_))
    ));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn an_old_server_does_not_remove_the_socket_of_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let old = ControlServer::bind(&path, "heartline").await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _new = ControlServer::bind(&path, "heartline").await.unwrap();
    drop(old);
    assert!(path.exists());
}

#[tokio::test]
async fn a_request_under_way_is_finished_at_the_end() {
    let served = Served::healthy().await;
    *served.fake.moves.lock().unwrap() = Moves::Stall;
    let client = Client::new(&served.socket);
    let request = Request::Move {
        group: "web".into(),
        node: "n2".into(),
        wait_ms: Some(200),
    };
    let waiting = tokio::spawn(async move { client.call::<MoveReply>(request).await });
    within(async {
        while served.fake.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    served.stop().await;
    let error = within(waiting).await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Refused(Refusal {
                code: Code::Timeout,
                ..
            })
        ),
        "{error:?}"
    );
}
