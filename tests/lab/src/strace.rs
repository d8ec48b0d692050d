//! System calls of single threads of an agent, recorded by strace(1): it slows them, and leaves none out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{exec, interrupt};

/// Attaching and detaching.
const SOON: Duration = Duration::from_secs(10);
/// Enough of each buffer for a whole message.
const BYTES: &str = "256";

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Arguments and result as strace shows them, buffers in hexadecimal.
    pub text: String,
}

impl Call {
    /// A line of strace: `SECONDS name(arguments) = result`.
    fn parse(line: &str) -> Option<Self> {
        let (_, call) = line.split_once(' ')?;
        let (name, text) = call.split_once('(')?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (!name.is_empty() && name.chars().all(word)).then(|| Self {
            name: name.to_owned(),
            text: text.to_owned(),
        })
    }

    /// The descriptor that is its first argument.
    #[must_use]
    pub fn fd(&self) -> Option<u32> {
        let digits = self.text.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    /// What it gave; `None` if it failed or did not end.
    #[must_use]
    pub fn result(&self) -> Option<u64> {
        let (_, result) = self.text.rsplit_once(" = ")?;
        result.split(' ').next()?.parse().ok()
    }

    /// The first buffer that it hands over.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let Some((_, rest)) = self.text.split_once("iov_base=\"") else {
            return Vec::new();
        };
        let hex = rest.split('"').next().unwrap_or_default();
        hex.split("\\x")
            .filter_map(|byte| u8::from_str_radix(byte, 16).ok())
            .collect()
    }
}

/// A recording that goes on.
#[derive(Debug)]
pub struct Recording {
    strace: Child,
    folder: PathBuf,
    threads: Vec<(String, u32)>,
}

impl Recording {
    /// Records these threads of a process, from when this returns on. The folder is made.
    ///
    /// # Errors
    /// No strace, no such thread, or the kernel does not let it attach.
    pub fn start(process: u32, threads: &[&str], folder: &Path) -> Result<Self> {
        let threads = find(process, threads)?;
        fs::create_dir_all(folder)?;
        let mut command = Command::new("strace");
        command.args([
            "--output-separately",
            "-ttt",
            "-xx",
            "-v",
            "-s",
            BYTES,
            "-o",
        ]);
        command.arg(folder.join("calls"));
        for (_, id) in &threads {
            command.args(["-p", &id.to_string()]);
        }
        let said = fs::File::create(folder.join("strace.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        exec::tie_to_lab(&mut command);
        let strace = command
            .spawn()
            .context("cannot start strace (package strace)")?;
        let mut recording = Self {
            strace,
            folder: folder.to_owned(),
            threads,
        };
        let attached = interrupt::until(SOON, Duration::from_millis(5), || {
            ensure!(
                matches!(recording.strace.try_wait(), Ok(None)),
                "strace ended: {}",
                recording.said()
            );
            Ok(recording.threads.iter().all(|(_, id)| traced(*id)))
        })?;
        if !attached {
            bail!("strace does not attach: {}", recording.said());
        }
        Ok(recording)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.join("strace.log")).unwrap_or_default()
    }

    /// Ends it; the calls of each thread, in the order in which the threads were named.
    ///
    /// # Errors
    /// strace does not end, or wrote something that is no call.
    pub fn finish(mut self) -> Result<Vec<Vec<Call>>> {
        exec::signal(self.strace.id(), nix::sys::signal::Signal::SIGTERM)?;
        let ended = exec::wait(&mut self.strace, SOON)?;
        ensure!(ended.is_some(), "strace does not end: {}", self.said());
        let read = |(name, id): &(String, u32)| {
            let path = self.folder.join(format!("calls.{id}"));
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{name}: cannot read {}", path.display()))?;
            Ok(text.lines().filter_map(Call::parse).collect())
        };
        self.threads.iter().map(read).collect()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Detaches what it holds.
        exec::end(&mut self.strace, Duration::from_secs(2));
    }
}

/// Threads of a process by their names; the process's own name is its main thread.
fn find(process: u32, names: &[&str]) -> Result<Vec<(String, u32)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let path = entry?.path();
        let id = path.file_name().and_then(|id| id.to_str()?.parse().ok());
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        all.extend(id.map(|id: u32| (name.trim().to_owned(), id)));
    }
    let pick = |name: &&str| {
        let of = all.iter().find(|(thread, id)| match *name {
            "main" => *id == process,
            other => thread == other,
        });
        of.cloned()
            .with_context(|| format!("process {process} has no thread {name}, only {all:?}"))
    };
    names.iter().map(pick).collect()
}

fn traced(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|id| id.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = r#"1795262399.123456 sendmmsg(9, [{msg_hdr={msg_iov=[{iov_base="\x48\x4c\x02", iov_len=3}]}, msg_len=3}], 1, MSG_DONTWAIT) = 1"#;
        let call = Call::parse(line).unwrap();
        assert_eq!((call.name.as_str(), call.fd()), ("sendmmsg", Some(9)));
        assert_eq!(call.result(), Some(1));
        assert_eq!(call.bytes(), [0x48, 0x4c, 2]);
        let failed = Call::parse("1.5 read(7, 0x7ffe, 8) = -1 EAGAIN (again)").unwrap();
        assert_eq!((failed.fd(), failed.result()), (Some(7), None));
        assert!(failed.bytes().is_empty());
        assert_eq!(Call::parse("1.5 --- SIGSTOP {si_signo=SIGSTOP} ---"), None);
        assert_eq!(Call::parse("1.5 +++ exited with 0 +++"), None);
    }
}
