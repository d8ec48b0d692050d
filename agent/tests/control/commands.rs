//! The program itself, against a fake agent.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use heartline::control::Limits;
use heartline::control::proto::*;
use heartline::events::Draft;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::fake::{Fake, Moves, Served, within};
use crate::sample::healthy;

/// The program with a quiet environment.
fn program(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartline"));
    command
        .args(args)
        .env_clear()
        .env("HEARTLINE_SOCKET", socket)
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(socket: &Path, args: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = within(program(socket, args).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn without_an_agent_each_command_says_so_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    for stale in [false, true] {
        if stale {
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        }
        for args in [
            &["status"][..],
            &["status", "--watch"],
            &["explain", "web"],
            &["move", "web", "n1"],
            &["drain", "n1"],
            &["undrain", "n1"],
            &["pause"],
            &["resume"],
            &["events"],
            &["events", "--follow"],
            &["reload"],
            &["restart"],
        ] {
            let (code, out, err) = run(&socket, args).await;
            let line = format!(
                "heartline: no agent answers at {} (is the service running? systemctl status heartline)\n",
                socket.display()
            );
            assert_eq!((code, out.as_str(), err), (3, "", line), "{args:?}");
        }
    }
    let (code, out, _) = run(&socket, &["status", "--json"]).await;
    assert_eq!(
        (
            code,
            serde_json::from_str::<Value>(&out).unwrap()["error"]["code"].as_str()
        ),
        (3, Some("not_ready"))
    );
    let (code, out, _) = run(&socket, &["version"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("none answers"), "{out}");
}

#[tokio::test]
async fn commands_print_for_people() {
    let served = Served::healthy().await;
    let socket = &served.socket;
    for (args, expected) in [
        (&["status"][..], "● n1"),
        (&["explain", "web"], "web runs on n1 (this node), epoch 17."),
        (&["move", "web", "n2"], "web moved from n1 to n2 in 1.7 ms"),
        (&["drain", "n2"], "n2 is drained (moving: web, db)"),
        (&["undrain", "n2"], "n2 is in use"),
        (&["pause"], "paused"),
        (&["resume"], "resumed"),
        (&["reload"], "only after `heartline restart`"),
        (&["reload", "--yes"], "group db is removed"),
        (&["restart"], "the agent on n1 restarted in"),
        (&["version"], "running agent: 0.1.0 on n1, the same"),
    ] {
        let (code, out, err) = run(socket, args).await;
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        assert!(out.contains(expected), "{args:?}: {out}");
        assert!(!out.contains('\x1b'), "no colours in a pipe: {out}");
    }
}

#[tokio::test]
async fn commands_print_json() {
    let served = Served::healthy().await;
    served
        .fake
        .events
        .push(Draft::new(EventKind::AgentStarted, "up").with("version", "0.1.0"));
    for (args, member) in [
        (&["status", "--json"][..], "quorum"),
        (&["explain", "web", "--json"], "elsewhere"),
        (&["move", "web", "n2", "--json"], "took_ns"),
        (&["drain", "n2", "--json"], "moving"),
        (&["undrain", "n2", "--json"], "text"),
        (&["pause", "--json"], "changed"),
        (&["reload", "--json"], "needs_restart"),
        (&["restart", "--json"], "started_boot_ns"),
        (&["events", "--json"], "version"),
        (&["version", "--json"], "wire_version"),
    ] {
        let (code, out, err) = run(&served.socket, args).await;
        assert_eq!(
            (code, err.as_str(), out.lines().count()),
            (0, "", 1),
            "{args:?}"
        );
        let value: Value = serde_json::from_str(&out).unwrap();
        assert!(value.get(member).is_some(), "{args:?}: {out}");
    }
}

#[tokio::test]
async fn failures_have_their_exit_status_and_the_mend() {
    let served = Served::healthy().await;
    let socket = &served.socket;
    let (code, out, err) = run(socket, &["explain", "wbe"]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        "heartline: there is no group \"wbe\" in the configuration\n  there is: web, db\n"
    );
    *served.fake.moves.lock().unwrap() = Moves::Refused;
    let (code, out, err) = run(socket, &["move", "web", "n3", "--json"]).await;
    assert_eq!(
        (code, err.as_str()),
        (1, "heartline: n3 is a witness\n  name a member\n")
    );
    assert_eq!(
        serde_json::from_str::<Value>(&out).unwrap()["error"]["code"],
        "refused"
    );
    *served.fake.moves.lock().unwrap() = Moves::Stall;
    let (code, _, err) = run(socket, &["move", "web", "n2", "--timeout", "20ms"]).await;
    assert_eq!(code, 4, "{err}");
    let (code, _, err) = run(socket, &["drain", "n1", "--timeout", "20ms"]).await;
    assert_eq!(code, 4);
    assert!(err.contains("still runs web"), "{err}");
    let (code, out, _) = run(socket, &["drain", "n1", "--no-wait"]).await;
    assert_eq!((code, out.as_str()), (0, "n1 is drained\n"));
    for wrong in [
        &["fly"][..],
        &["move", "web"],
        &["move", "a", "b", "--timeout", "soon"],
        &["status", "--interval", "1s"],
    ] {
        assert_eq!(run(socket, wrong).await.0, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn old_events_are_chosen_by_number_time_and_count() {
    let served = Served::healthy().await;
    for text in ["one", "two", "three"] {
        served.fake.events.push(Draft::new(EventKind::Note, text));
    }
    let texts = async |args: &[&str]| {
        let (code, out, _) = run(&served.socket, &[&["events", "--json"], args].concat()).await;
        assert_eq!(code, 0);
        let texts = out
            .lines()
            .map(|line| serde_json::from_str::<Event>(line).unwrap().text);
        texts.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(texts(&[]).await, "one two three");
    assert_eq!(texts(&["--since", "2"]).await, "two three");
    assert_eq!(texts(&["-n", "1"]).await, "three");
    assert_eq!(texts(&["--since", "1h", "-n", "2"]).await, "two three");
    assert_eq!(texts(&["--since", "2100-01-01T00:00:00Z"]).await, "");
}

struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(socket: &Path, args: &[&str]) -> Self {
        let mut child = program(socket, args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn json(&mut self) -> Value {
        let line = within(self.lines.next_line())
            .await
            .unwrap()
            .expect("it has ended");
        serde_json::from_str(&line).unwrap()
    }

    /// Ctrl-C; the exit status.
    async fn interrupt(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
        within(self.child.wait()).await.unwrap().code()
    }
}

#[tokio::test]
async fn watch_goes_on_until_interrupted() {
    let served = Served::healthy().await;
    let mut watch = Running::start(
        &served.socket,
        &["status", "--watch", "--json", "--interval", "50ms"],
    );
    assert_eq!(watch.json().await["paused"], false);
    served.fake.report.lock().unwrap().paused = true;
    within(async { while watch.json().await["paused"] == false {} }).await;
    assert_eq!(watch.interrupt().await, Some(0));
}

#[tokio::test]
async fn follow_survives_a_restart_of_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let first = Served::at(directory.path(), Fake::new(healthy()), Limits::default()).await;
    let socket = first.socket.clone();
    first.fake.events.push(Draft::new(EventKind::Note, "old"));
    let mut follow = Running::start(&socket, &["events", "--follow", "--json"]);
    assert_eq!(follow.json().await["text"], "old");
    first
        .fake
        .events
        .push(Draft::new(EventKind::AgentStopping, "going"));
    assert_eq!(follow.json().await["text"], "going");
    first.stop().await;
    let second = Served::at(directory.path(), Fake::new(healthy()), Limits::default()).await;
    second
        .fake
        .events
        .push(Draft::new(EventKind::AgentStarted, "back"));
    let back = follow.json().await;
    assert_eq!(
        (back["text"].as_str(), back["seq"].as_u64()),
        (Some("back"), Some(1))
    );
    assert_eq!(follow.interrupt().await, Some(0));
}

#[tokio::test]
async fn a_reader_that_leaves_is_no_failure() {
    let served = Served::healthy().await;
    for _ in 0..2_000 {
        served
            .fake
            .events
            .push(Draft::new(EventKind::Note, "x".repeat(100)));
    }
    let mut child = program(&served.socket, &["events"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = within(child.wait_with_output()).await.unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    // The agent, for its part, goes on.
    let limit = Duration::from_secs(10);
    let pong: Pong = heartline::control::Client::new(&served.socket)
        .with_limit(limit)
        .call(Request::Ping)
        .await
        .unwrap();
    assert_eq!(pong.node, "n1");
}
