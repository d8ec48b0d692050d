//! Running other programs: with a deadline, with bounded output, and without leaving anything behind.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{AccessFlags, Pid},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{ChildStdin, Command},
    time::{Instant, timeout_at},
};

/// So much of what a program prints is kept, of each of its two outputs; the rest is read and forgotten.
pub const KEPT: usize = 64 * 1024;
/// How long a program that has ended may still have output in its pipes. A daemon that it started may hold them open
/// for ever.
const LINGER: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Program and arguments; the program is looked for in `PATH` if it has no slash.
    pub argv: Vec<String>,
    /// The whole environment but for `PATH` and `LANG`: nothing else of the agent's own is passed on.
    pub env: Vec<(OsString, OsString)>,
    /// Given to it on its standard input.
    pub stdin: Vec<u8>,
    /// After this the program and all that it started in its process group are killed.
    pub timeout: Duration,
    /// Time between SIGTERM and SIGKILL then; zero: SIGKILL at once.
    pub grace: Duration,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// The beginning of what it printed, at most [`KEPT`] bytes.
    pub stdout: Vec<u8>,
    /// The same of its standard error.
    pub stderr: Vec<u8>,
    /// It printed more than was kept.
    pub cut: bool,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// The first line of standard output that is not empty, else of standard error; without control characters.
    #[must_use]
    pub fn first_line(&self) -> String {
        let first = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.lines()
                .map(|l| l.chars().filter(|c| !c.is_control()).take(500).collect())
                .find(|l: &String| !l.trim().is_empty())
        };
        first(&self.stdout)
            .or_else(|| first(&self.stderr))
            .unwrap_or_default()
    }

    /// "PROGRAM ended with 2: its first line".
    #[must_use]
    pub fn sentence(&self, program: &str) -> String {
        let line = self.first_line();
        let colon = if line.is_empty() { "" } else { ": " };
        format!("{program} {}{colon}{line}", self.how())
    }

    /// "ended with 2", "was killed by SIGSEGV".
    #[must_use]
    pub fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("ended with {code}"),
            (None, Some(s)) => match Signal::try_from(s) {
                Ok(s) => format!("was killed by {s}"),
                Err(_) => format!("was killed by signal {s}"),
            },
            (None, None) => "ended".into(),
        }
    }
}

/// Why there is no [`Ended`].
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("cannot run {program}: {error}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {within:?} and was killed")]
    TimedOut {
        /// The program.
        program: String,
        /// How long it had.
        within: Duration,
        /// Its PID, if it is not even dead a second later: it waits in the kernel, for a dead server perhaps.
        left: Option<u32>,
    },
}

/// The process group of a child; killed on drop, so that nothing outlives a future that is given up.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, s: Signal) {
        if let Some(pid) = self.0 {
            // It may be gone already.
            let _ = killpg(pid, s);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Run {
    /// A program with arguments and a deadline.
    #[must_use]
    pub fn new(argv: &[String], timeout: Duration) -> Run {
        Run {
            argv: argv.to_vec(),
            timeout,
            ..Run::default()
        }
    }

    /// Runs it to its end. What a program leaves running in the background (a daemon) is left alone if the program
    /// itself ended in time.
    ///
    /// # Errors
    /// It could not be started, or did not end in time.
    pub async fn output(&self) -> Result<Ended, RunError> {
        let program = self.argv.first().cloned().unwrap_or_default();
        let cannot = |error| RunError::Start {
            program: program.clone(),
            error,
        };
        let mut command = Command::new(&program);
        command
            .args(self.argv.iter().skip(1))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true);
        command.env("PATH", path()).env("LANG", "C.UTF-8");
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        let begun = Instant::now();
        let mut child = command.spawn().map_err(cannot)?;
        let mut group = Group(
            child
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .map(Pid::from_raw),
        );
        let (mut out, mut err) = (Output::default(), Output::default());
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let status = {
            let feed = feed(stdin, &self.stdin);
            let read = async {
                tokio::join!(read(stdout, &mut out), read(stderr, &mut err));
            };
            let io = async {
                tokio::join!(feed, read);
            };
            tokio::pin!(io);
            let work = async {
                tokio::select! {
                    status = child.wait() => {
                        // What is in the pipes by now is wanted; who holds them open is not waited for.
                        let _ = tokio::time::timeout(LINGER, io.as_mut()).await;
                        status
                    }
                    () = io.as_mut() => child.wait().await,
                }
            };
            timeout_at(begun + self.timeout, work).await
        };
        match status {
            Ok(Ok(status)) => {
                // Ended by itself: a daemon that it started lives on.
                group.0 = None;
                Ok(Ended {
                    status,
                    cut: out.cut || err.cut,
                    stdout: out.kept,
                    stderr: err.kept,
                    took: begun.elapsed(),
                })
            }
            Ok(Err(error)) => Err(cannot(error)),
            Err(_) => {
                if !self.grace.is_zero() {
                    group.signal(Signal::SIGTERM);
                    let _ = tokio::time::timeout(self.grace, child.wait()).await;
                }
                group.signal(Signal::SIGKILL);
                let id = child.id();
                let dead = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
                Err(RunError::TimedOut {
                    program,
                    within: self.timeout,
                    left: id.filter(|_| dead.is_err()),
                })
            }
        }
    }
}

/// Where programs are looked for.
fn path() -> OsString {
    std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())
}

/// The file that a program's name stands for, as [`Run`] would look for it.
///
/// # Errors
/// There is none that may be executed; a sentence that says so.
pub fn find(program: &str) -> Result<PathBuf, String> {
    let may = |path: &Path| nix::unistd::access(path, AccessFlags::X_OK);
    if program.contains('/') {
        let path = PathBuf::from(program);
        return match may(&path) {
            Ok(()) => Ok(path),
            Err(errno) => Err(format!("{program} cannot be run: {}", errno.desc())),
        };
    }
    std::env::split_paths(&path())
        .map(|folder| folder.join(program))
        .find(|path| path.is_file() && may(path).is_ok())
        .ok_or_else(|| format!("{program} is in none of the folders of PATH"))
}

async fn feed(stdin: Option<ChildStdin>, bytes: &[u8]) {
    if let Some(mut stdin) = stdin {
        // Who does not read what it is given closes the pipe: no error.
        let _ = stdin.write_all(bytes).await;
    }
}

/// What has been read so far.
#[derive(Default)]
struct Output {
    kept: Vec<u8>,
    cut: bool,
}

async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Output) {
    let Some(mut from) = from else { return };
    let mut buffer = [0u8; 4096];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let room = KEPT.saturating_sub(into.kept.len()).min(n);
        into.cut |= room < n;
        into.kept
            .extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, ms: u64) -> Run {
        let argv = ["sh", "-c", script].map(str::to_owned);
        Run::new(&argv, Duration::from_millis(ms))
    }

    fn alive(pid: &str) -> bool {
        // A zombie has ended.
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .is_ok_and(|s| !s.contains(") Z "))
    }

    #[tokio::test]
    async fn output_code_and_environment() {
        let mut run = sh("cat; echo \"$A\"; echo bad >&2; exit 2", 20_000);
        run.stdin = b"in\n".to_vec();
        run.env = vec![("A".into(), "b c".into())];
        let e = run.output().await.unwrap();
        assert_eq!(
            (e.stdout.as_slice(), e.stderr.as_slice()),
            (&b"in\nb c\n"[..], &b"bad\n"[..])
        );
        assert_eq!(
            (e.status.code(), e.how().as_str()),
            (Some(2), "ended with 2")
        );
        assert_eq!(e.first_line(), "in");
    }

    #[tokio::test]
    async fn megabytes_are_read_and_forgotten() {
        let e = sh("head -c 8000000 /dev/zero; echo end >&2", 60_000)
            .output()
            .await
            .unwrap();
        assert_eq!((e.stdout.len(), e.stderr.as_slice()), (KEPT, &b"end\n"[..]));
        assert!(e.cut);
    }

    #[tokio::test]
    async fn who_never_ends_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; yes",
            file.display()
        );
        let error = sh(&script, 1_000).output().await.unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
        let pid = std::fs::read_to_string(&file).unwrap();
        while alive(&pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn who_is_given_up_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let run = sh(
            &format!(
                "echo $$ > {0}.new; mv {0}.new {0}; sleep 1000",
                file.display()
            ),
            60_000,
        );
        let wait = async {
            while !file.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! { _ = run.output() => panic!("it ended"), () = wait => {} }
        let pid = std::fs::read_to_string(&file).unwrap();
        while alive(&pid) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_daemon_is_left_alone() {
        let e = sh("sleep 1000 & echo $!", 60_000).output().await.unwrap();
        let pid = e.first_line();
        assert!(e.took < Duration::from_secs(50) && alive(&pid));
        nix::sys::signal::kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn no_such_program() {
        let run = Run::new(&["/no/such".to_owned()], Duration::from_secs(1));
        let error = run.output().await.unwrap_err().to_string();
        assert!(
            error.starts_with("cannot run /no/such: No such file"),
            "{error}"
        );
    }
}
