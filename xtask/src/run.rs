//! Running other programs: each with a deadline, each ended when we are asked to end.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Once,
        atomic::{AtomicI32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal},
    unistd::Pid,
};

use crate::ui::{self, Progress};

/// How long a small question to another program may take.
const QUESTION: Duration = Duration::from_secs(20);

/// How long a program gets to end after being asked to.
const GRACE: Duration = Duration::from_secs(30);

/// The signal we were sent, 0 for none.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(number: i32) {
    CAUGHT.store(number, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP end the running child, then us, with what must be undone undone.
/// (Handlers do not survive `exec`, so the programs we hand over to start with the defaults.)
fn catch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let action = SigAction::new(
            SigHandler::Handler(on_signal),
            SaFlags::SA_RESTART,
            SigSet::empty(),
        );
        for kind in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler only stores to an atomic.
            let before = unsafe { signal::sigaction(kind, &action) };
            match before {
                // Under nohup a hang-up is to be ignored.
                Ok(old)
                    if kind == Signal::SIGHUP && matches!(old.handler(), SigHandler::SigIgn) =>
                {
                    // SAFETY: puts back what was there.
                    let _ = unsafe { signal::sigaction(kind, &old) };
                }
                Ok(_) => {}
                Err(error) => ui::note(&format!("{kind} cannot be caught: {error}")),
            }
        }
    });
}

/// The signal that asked us to stop, if one did.
pub fn caught() -> Option<Signal> {
    Signal::try_from(CAUGHT.load(Ordering::Relaxed)).ok()
}

/// A child in a process group of its own, which is ended with it.
struct Running {
    child: Child,
    name: String,
    done: bool,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        catch_signals();
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child,
            name,
            done: false,
        })
    }

    fn signal(&self, kind: Signal) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // It may be gone already; that is what we want.
            let _ = signal::killpg(Pid::from_raw(id), kind);
        }
    }

    /// Waits for the end; `pause` passes the time between two looks, up to the span it is given.
    fn wait(&mut self, deadline: Duration, mut pause: impl FnMut(Duration)) -> Result<ExitStatus> {
        let start = Instant::now();
        let mut span = Duration::from_millis(1);
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            if let Some(kind) = caught() {
                self.end(kind)?;
                bail!("stopped by {kind}");
            }
            if start.elapsed() >= deadline {
                self.end(Signal::SIGTERM)?;
                bail!("{} was not done after {}", self.name, ui::span(deadline));
            }
            pause(span);
            span = (span * 2).min(Duration::from_millis(50));
        }
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context("cannot wait")?;
        self.done = status.is_some();
        Ok(status)
    }

    fn end(&mut self, kind: Signal) -> Result<()> {
        self.signal(kind);
        let start = Instant::now();
        while self.poll()?.is_none() {
            if start.elapsed() > GRACE {
                self.signal(Signal::SIGKILL);
                self.child.wait().context("cannot wait")?;
                self.done = true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            let _ = self.end(Signal::SIGTERM);
        }
    }
}

/// Says how a program ended, where that was not well.
fn verdict(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => format!("ended by signal {number}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// Asks a program something small: its stdout, or why there is none.
pub fn ask(command: &mut Command) -> Result<String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running::start(command)?;
    let out = drain(running.child.stdout.take());
    let err = drain(running.child.stderr.take());
    let status = running.wait(QUESTION, thread::sleep)?;
    // A grandchild that keeps the pipe open must not hold us up.
    let out = out.recv_timeout(QUESTION).unwrap_or_default();
    if status.success() {
        return Ok(out);
    }
    let err = err.recv_timeout(QUESTION).unwrap_or_default();
    let why = err.lines().last().unwrap_or_default();
    bail!("{}: {} {why}", running.name, verdict(status))
}

fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read until an error is still the answer.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

/// A program that failed, with the place of its log and the log's last lines.
#[derive(Debug)]
pub struct Failed {
    /// What was being done.
    pub what: String,
    /// How it ended.
    pub how: String,
    /// The whole log.
    pub log: PathBuf,
    /// The end of the log.
    pub tail: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.what, self.how)?;
        for line in self.tail.lines() {
            writeln!(f, "    {line}")?;
        }
        write!(f, "  (whole log: {})", self.log.display())
    }
}

impl std::error::Error for Failed {}

/// Runs something long with its words going to a log, and shows that it is going on.
pub fn logged(what: &str, command: &mut Command, log: &Path, deadline: Duration) -> Result<()> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = file.try_clone().context("cannot share the log")?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let mut running = Running::start(command)?;
    let mut progress = Progress::start(what);
    let waited = running.wait(deadline, |span| {
        progress.line(|| tail(log, 1));
        thread::sleep(span);
    });
    let well = waited.as_ref().is_ok_and(ExitStatus::success);
    progress.finish(well);
    let how = match waited {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => verdict(status),
        Err(error) => error.to_string(),
    };
    Err(Failed {
        what: what.to_owned(),
        how,
        log: log.to_owned(),
        tail: tail(log, 12),
    }
    .into())
}

/// The last `lines` lines of a file that say something, without terminal codes.
fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
        let mut bytes = Vec::new();
        file.take(8192).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut found: Vec<&str> = text
        .split(['\n', '\r'])
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.contains('\u{1b}'))
        .collect();
    // apt says "waiting for the lock" once a second.
    found.dedup();
    let found = found.split_off(found.len().saturating_sub(lines));
    found.join("\n")
}

/// Runs something whose words go straight to the person. True if it went well.
pub fn shown(command: &mut Command, deadline: Duration) -> Result<bool> {
    command.stdin(Stdio::null());
    Ok(Running::start(command)?
        .wait(deadline, thread::sleep)?
        .success())
}

/// Runs something and gives each line of its stdout to `line`; stderr goes straight to the person.
pub fn lines(
    command: &mut Command,
    deadline: Duration,
    mut line: impl FnMut(&str),
) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running::start(command)?;
    // Bounded: a reader that falls behind slows the writer down, as a pipe does.
    let (send, receive) = mpsc::sync_channel::<String>(1024);
    let pipe = running.child.stdout.take();
    let reader = thread::spawn(move || {
        let Some(pipe) = pipe else { return };
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes);
            if send.send(text.trim_end_matches('\n').to_owned()).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    let status = running.wait(deadline, |span| match receive.recv_timeout(span) {
        Ok(text) => {
            line(&text);
            receive.try_iter().for_each(|text| line(&text));
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {}
        // It closed its stdout and goes on.
        Err(mpsc::RecvTimeoutError::Disconnected) => thread::sleep(span),
    })?;
    // What is left in the pipe; a grandchild that keeps it open must not hold us up.
    while let Ok(text) = receive.recv_timeout(Duration::from_secs(2)) {
        line(&text);
    }
    drop(receive);
    if reader.is_finished() {
        let _ = reader.join();
    }
    Ok(status)
}

/// Runs something small in silence, for its exit status.
pub fn exit_code(command: &mut Command) -> Result<Option<i32>> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(Running::start(command)?
        .wait(QUESTION, thread::sleep)?
        .code())
}

/// Becomes another program; returns only if that fails.
pub fn become_program(command: &mut Command) -> anyhow::Error {
    let name = command.get_program().to_string_lossy().into_owned();
    anyhow::Error::new(command.exec()).context(format!("cannot run {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_gives_the_answer_or_the_reason() {
        assert_eq!(ask(Command::new("echo").arg("yes")).expect("echo"), "yes\n");
        let error = ask(Command::new("sh").args(["-c", "echo why >&2; exit 3"]))
            .expect_err("exit status 3");
        assert_eq!(error.to_string(), "sh: exit status 3 why");
        assert!(ask(&mut Command::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn every_line_arrives() {
        let mut seen = Vec::new();
        let status = lines(
            Command::new("sh").args([
                "-c",
                "for i in $(seq 3000); do echo $i; done; printf last; exit 4",
            ]),
            QUESTION,
            |line| seen.push(line.to_owned()),
        )
        .expect("sh");
        assert_eq!(status.code(), Some(4));
        assert_eq!(seen.len(), 3001);
        assert_eq!(seen.first().map(String::as_str), Some("1"));
        assert_eq!(seen.last().map(String::as_str), Some("last"));
    }

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let folder = tempfile::tempdir().expect("tempdir");
        let mark = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", mark.display());
        let error = shown(
            Command::new("sh").args(["-c", &script]),
            Duration::from_millis(300),
        )
        .expect_err("it does not end by itself");
        assert!(error.to_string().contains("was not done after"), "{error}");
        let pid = fs::read_to_string(&mark).expect("the shell wrote its child's id");
        let stat = format!("/proc/{}/stat", pid.trim());
        let start = Instant::now();
        // A zombie waiting for init to collect it counts as ended.
        while fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            assert!(start.elapsed() < GRACE, "the grandchild still runs");
            thread::yield_now();
        }
    }

    #[test]
    fn a_failure_shows_the_end_of_the_log() {
        let folder = tempfile::tempdir().expect("tempdir");
        let log = folder.path().join("a/b.log");
        let script = "for i in $(seq 50); do echo line $i; echo line $i; done; exit 7";
        let error = logged(
            "counting",
            Command::new("sh").args(["-c", script]),
            &log,
            QUESTION,
        )
        .expect_err("exit status 7");
        let failed = error.downcast_ref::<Failed>().expect("a Failed");
        assert_eq!(failed.how, "exit status 7");
        assert!(failed.tail.starts_with("line 39\n"), "{}", failed.tail);
        assert!(failed.tail.ends_with("line 50"), "{}", failed.tail);
    }
}
