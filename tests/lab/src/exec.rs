//! Running other programs: always with a deadline, output kept for the error.

use std::{
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end with `input` on its standard input. It is killed after `deadline`,
/// and that is an error; a bad exit status is not.
///
/// # Errors
/// The program cannot be started or does not end in time.
pub fn run(mut command: Command, input: &str, deadline: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Ctrl-C is for the lab: what cleans up must not die of it.
    command.process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let read_out = scope.spawn(move || read_all(stdout));
        let read_err = scope.spawn(move || read_all(stderr));
        let ended = wait(&mut child, deadline)?;
        if ended.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let stdout = read_out.join().unwrap_or_default();
        let stderr = read_err.join().unwrap_or_default();
        match ended {
            Some(code) => Ok(Output {
                code,
                stdout,
                stderr,
            }),
            None => bail!(
                "{name} did not end within {deadline:?}; it said: {}",
                stderr.trim()
            ),
        }
    })
}

/// As [`run`], and a bad exit status is an error that shows what the program said.
///
/// # Errors
/// As for [`run`].
pub fn run_ok(command: Command, input: &str, deadline: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    let out = run(command, input, deadline)?;
    if out.code != Some(0) {
        bail!(
            "{shown} failed ({:?}): {} {}",
            out.code,
            out.stderr.trim(),
            out.stdout.trim()
        );
    }
    Ok(out.stdout)
}

fn read_all(pipe: Option<impl std::io::Read>) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        // Bounded: no program of the lab prints more than this.
        let _ = pipe.take(16 << 20).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Waits for a child; outer `None`: still running at the deadline.
///
/// # Errors
/// The child cannot be waited for.
pub fn wait(child: &mut Child, deadline: Duration) -> Result<Option<Option<i32>>> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code()));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// The process is gone.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), signal)
        .with_context(|| format!("{signal} to process {pid}"))
}

/// Lets the child die with the lab, even if the lab is killed hard, and keeps the terminal's
/// Ctrl-C from it: the lab ends its children itself.
/// The child must be started by a thread that lives as long as the lab.
pub fn tie_to_lab(command: &mut Command) {
    command.process_group(0);
    // SAFETY: prctl is async-signal-safe and touches only the child.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
}

/// Lets the child, and all that it starts, be without the rights to load BPF programs (capabilities(7)).
pub fn drop_bpf_rights(command: &mut Command) {
    /// CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF.
    const RIGHTS: [libc::c_ulong; 3] = [21, 38, 39];
    // SAFETY: prctl is async-signal-safe and touches only the child. What is not in the bounding set, the program that
    // is executed does not get.
    unsafe {
        command.pre_exec(|| {
            for right in RIGHTS {
                if libc::prctl(libc::PR_CAPBSET_DROP, right, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Ends a child: SIGTERM (after SIGCONT, it may be frozen), then SIGKILL when `grace` is over.
pub fn end(child: &mut Child, grace: Duration) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let _ = signal(child.id(), Signal::SIGTERM);
    let _ = signal(child.id(), Signal::SIGCONT);
    if !matches!(wait(child, grace), Ok(Some(_))) {
        let _ = child.kill();
        let _ = wait(child, Duration::from_secs(2));
    }
}
