//! `status --watch` on a terminal.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has its runner's deadline"
)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fake::Served;

/// A pseudo-terminal: our end and the program's.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize {
        ws_row: 10,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: both fds are out parameters, name and settings may be null, the size outlives the call.
    let made = unsafe {
        libc::openpty(
            &mut ours,
            &mut theirs,
            std::ptr::null_mut(),
            std::ptr::null(),
            &size,
        )
    };
    assert_eq!(made, 0);
    // SAFETY: openpty has just made both, and nobody else owns them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_terminal_is_as_before_after_an_interrupt() {
    let served = Served::healthy().await;
    let (mut ours, theirs) = terminal();
    let mut child = Command::new(env!("CARGO_BIN_EXE_heartline"))
        .args(["status", "--watch", "--interval", "50ms"])
        .env_clear()
        .envs([("LANG", "C.UTF-8"), ("TERM", "xterm-256color")])
        .env("HEARTLINE_SOCKET", &served.socket)
        .stdin(Stdio::null())
        .stdout(theirs)
        .spawn()
        .unwrap();
    let (chunks, received) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        // EIO at the end: the last holder of the other side is gone.
        while let Ok(count @ 1..) = ours.read(&mut chunk) {
            chunks.send(chunk[..count].to_vec()).unwrap();
        }
    });
    let mut seen = Vec::new();
    let mut wait_for = |what: &str| {
        while !String::from_utf8_lossy(&seen).contains(what) {
            let Ok(chunk) = received.recv_timeout(Duration::from_secs(60)) else {
                panic!("no {what:?} in {:?}", String::from_utf8_lossy(&seen));
            };
            seen.extend(chunk);
        }
    };
    wait_for("\x1b[?1049h");
    wait_for("more lines");
    // Colours on a terminal.
    wait_for("\x1b[1m");
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    wait_for("\x1b[?25h");
    wait_for("\x1b[?1049l");
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
}
