//! `heartline fence` and `heartline drbd`, as a person and as DRBD call them.

#![expect(
    clippy::disallowed_methods,
    reason = "a test may wait for what it starts"
)]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

const CLUSTER: &str = r#"
cluster = "t"
generation = 1
key_file = "t.key"
[[node]]
name = "n1"
id = 1
link = [{ device = "eth0", address = "10.77.0.1" }]
[[node]]
name = "n2"
id = 2
link = [{ device = "eth0", address = "10.77.0.2" }]
[[node]]
name = "n3"
id = 3
link = [{ device = "eth0", address = "10.77.0.3" }]
[[group]]
name = "db"
id = 0
[[group.vip]]
address = "10.77.0.100"
device = "eth0"
[[group.resource]]
name = "disk"
drbd = "r0"
"#;

/// A cluster whose n2 is fenced by an agent that keeps its power in a file.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let power = dir.path().join("power");
    fs::write(&power, "on").unwrap();
    let fence = format!(
        "[[fence]]\nname = \"dummy\"\nnode = \"n2\"\nagent = \"fence_dummy\"\nparameters = {{ status_file = {power:?} }}\naction = \"off\"\n"
    );
    fs::write(dir.path().join("c.toml"), format!("{CLUSTER}{fence}")).unwrap();
    dir
}

fn heartline(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartline"));
    command
        .args(["--run-dir", dir.join("no-agent").to_str().unwrap()])
        .args(args)
        .arg("--config")
        .arg(dir.join("c.toml"))
        .stdin(Stdio::null());
    for name in ["DRBD_RESOURCE", "DRBD_PEER", "DRBD_PEERS", "DRBD_VOLUME"] {
        command.env_remove(name);
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn a_node_is_tested_then_fenced() {
    let dir = folder();
    let run = |args: &[&str]| heartline(dir.path(), args, &[]);
    let output = run(&["fence", "n2", "--test"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("ok   level 1 fence_dummy (dummy), the node is on"),
        "{text}"
    );
    // Nobody can be asked here.
    let output = run(&["fence", "n2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--yes"));
    assert!(
        said(&run(&["fence", "n2", "--test"])).contains("the node is on"),
        "nothing was done"
    );

    let output = run(&["fence", "n2", "--yes"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("ok   fence_dummy off (dummy)")
            && text.contains("n2 is fenced (seen to be off)"),
        "{text}"
    );
    assert!(text.contains("the agent here:"), "{text}");
    assert!(said(&run(&["fence", "n2", "--test"])).contains("the node is off"));

    let output = run(&["fence", "n2", "--yes", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["fenced"], &json["verified"], &json["level"]),
        (&true.into(), &true.into(), &1.into())
    );
}

#[test]
fn who_cannot_be_fenced_is_not_said_to_be() {
    let dir = folder();
    let run = |args: &[&str]| heartline(dir.path(), args, &[]);
    let output = run(&["fence", "n3", "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("n3 has no fence device: add a [[fence]]"),
        "{}",
        said(&output)
    );
    let output = run(&["fence", "n9", "--yes"]);
    assert!(
        said(&output).contains("there is no node n9; there are n1, n2, n3"),
        "{}",
        said(&output)
    );
    // Its agent is not there.
    let file = dir.path().join("c.toml");
    let text = fs::read_to_string(&file)
        .unwrap()
        .replace("\"fence_dummy\"", "\"/no/such/agent\"");
    fs::write(&file, text).unwrap();
    let output = run(&["fence", "n2", "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("n2 is not fenced") && said(&output).contains("--confirm"),
        "{}",
        said(&output)
    );
    // There is no agent to tell.
    let output = run(&["fence", "n2", "--confirm", "--yes"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
}

/// Whatever goes wrong, DRBD gets a code that allows nothing.
#[test]
fn handlers_deny_when_they_do_not_know() {
    let dir = folder();
    for (environment, part) in [
        (&[][..], "DRBD_RESOURCE is not set"),
        (
            &[("DRBD_RESOURCE", "r9"), ("DRBD_PEER", "n2")],
            "no group of",
        ),
        (
            &[("DRBD_RESOURCE", "r0"), ("DRBD_PEER", "n9")],
            "the peer n9",
        ),
        (
            &[("DRBD_RESOURCE", "r0"), ("DRBD_PEERS", "n2 n3")],
            "the peer",
        ),
        (&[("DRBD_RESOURCE", "r0")], "the peer"),
        (&[("DRBD_RESOURCE", "r0"), ("DRBD_PEER", "n2")], "no-agent"),
    ] {
        for handler in ["fence-peer", "unfence-peer"] {
            let output = heartline(dir.path(), &["drbd", handler], environment);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(1), "{environment:?}: {text}");
            assert!(text.contains(part), "{environment:?}: {text}");
        }
    }
}

#[test]
fn without_drbd_the_error_says_so() {
    let dir = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartline"));
    let output = command
        .args(["drbd", "check"])
        .env("PATH", dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("cannot run drbdadm"),
        "{}",
        said(&output)
    );
    let output = heartline(
        dir.path(),
        &[
            "drbd",
            "resolve",
            "db",
            "--keep",
            "n1",
            "--node",
            "n2",
            "--others-lost",
        ],
        &[],
    );
    assert!(
        said(&output).contains("--others-lost is said on n1, and this is n2"),
        "{}",
        said(&output)
    );
    let output = heartline(dir.path(), &["drbd", "resolve", "web", "--keep", "n1"], &[]);
    assert!(
        said(&output).contains("there is no group web"),
        "{}",
        said(&output)
    );
}
