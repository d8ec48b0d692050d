//! An agent that cannot begin: what systemd sees of it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use heartline::cli::agent::MISCONFIGURED;

#[expect(
    clippy::disallowed_methods,
    reason = "a test has its runner's deadline"
)]
fn agent(dir: &Path, config: &str, node: &str, managed: bool) -> Output {
    let path = dir.join("heartline.toml");
    fs::write(&path, config).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartline"));
    command
        .args(["--run-dir", dir.to_str().expect("text")])
        .arg("agent")
        .args(["--node", node, "--no-realtime", "--config"])
        .arg(path)
        .env_remove("NOTIFY_SOCKET");
    if managed {
        command.env("NOTIFY_SOCKET", dir.join("nobody"));
    }
    command.output().expect("the program runs")
}

#[test]
fn a_refused_configuration_is_not_tried_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = agent(dir.path(), "cluster = 7\n", "n1", true);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(i32::from(MISCONFIGURED)), "{said}");
    assert!(said.contains("the configuration is refused"), "{said}");
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/heartline.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    let line = format!("RestartPreventExitStatus={MISCONFIGURED}");
    assert!(unit.lines().any(|l| l == line), "{line}");
}

/// Tried again for ever, so not at once. Without systemd nobody has to wait for the error.
#[test]
fn what_fails_otherwise_is_tried_again_at_a_slow_pace() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = include_str!("../../config/two-layers-guests.toml");
    let key = dir.path().join("key");
    fs::write(&key, "0123456789abcdef".repeat(2)).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&key, mode).expect("its rights");
    let text = text.replace("/etc/heartline/shop.key", key.to_str().expect("text"));
    let begun = Instant::now();
    let out = agent(dir.path(), &text, "stranger", true);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("stranger"), "{said}");
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let out = agent(dir.path(), &text, "stranger", false);
    assert_eq!(out.status.code(), Some(1));
}
