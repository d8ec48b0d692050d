//! One node as a machine: Debian under its own systemd, in the node's network namespace.
//!
//! ```text
//!   image (shared, read-only) + upper folder of this node = its root, mounted in a mount namespace of its own
//!   unshare --mount -> mount overlay -> systemd-nspawn --network-namespace-path -> systemd (pid 1)
//! ```
//!
//! The mounts end with the last process, so whatever kills the lab leaves none.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{cgroup::Cgroup, rig};
use crate::{
    agent::{self, Caller},
    exec, interrupt,
    lab::Station,
};

/// A boot takes 2 s; this is for a machine that is busy with other things.
const BOOT: Duration = Duration::from_secs(90);
/// Services get 15 s to stop, at most.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// What is run inside.
const COMMAND: Duration = Duration::from_secs(30);
/// nspawn ends so when the machine asked for a reboot (`--keep-unit`).
const REBOOT: i32 = 133;
/// systemd-nspawn's empty folder per machine, for mounts that come later.
const PROPAGATE: &str = "/run/systemd/nspawn/propagate";
/// System calls that nspawn's filter withholds and the agent needs.
const CALLS: &str = "bpf perf_event_open mlockall sched_setscheduler";

/// A machine, running or not. Dropped, it is gone at once: no shutdown.
#[derive(Debug)]
pub struct Machine {
    /// The node: its name, its namespace, its links.
    pub station: Station,
    name: String,
    pub(super) image: PathBuf,
    pub(super) dir: PathBuf,
    binary: PathBuf,
    nspawn: Option<Child>,
    pid1: u32,
    cgroup: Cgroup,
}

impl Machine {
    /// Prepares one; [`Machine::boot`] starts it. `prefix` is the lab's, `dir` a folder of the lab.
    ///
    /// # Errors
    /// Not root, no cgroup version 2, or no agent was built.
    pub fn new(station: &Station, image: &Path, dir: &Path, prefix: &str) -> Result<Self> {
        let dir = dir.join(format!("machine-{}", station.name));
        for name in ["upper", "work", "root"] {
            fs::create_dir_all(dir.join(name))?;
        }
        fs::set_permissions(dir.join("upper"), fs::Permissions::from_mode(0o755))?;
        let name = format!("{prefix}-{}", station.name);
        Ok(Self {
            station: station.clone(),
            cgroup: Cgroup::make(&name)?,
            name,
            image: fs::canonicalize(image)?,
            dir,
            binary: agent::binary()?,
            nspawn: None,
            pid1: 0,
        })
    }

    /// Lays a folder over the image, before the first boot.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn cover(&mut self, layer: &Path) -> Result<()> {
        let layer = fs::canonicalize(layer)?;
        // As overlayfs has it: the upper ones first.
        self.image = format!("{}:{}", layer.display(), self.image.display()).into();
        Ok(())
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.station.name
    }

    /// Its root as processes outside see it: only while it runs.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid1))
    }

    /// What it wrote to its console.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Switches it on. Returns when its pid 1 is there. To be called by a thread that lives as long as the lab.
    ///
    /// # Errors
    /// systemd-nspawn is missing or does not start; the error shows what it said.
    pub fn boot(&mut self) -> Result<()> {
        if self.running() {
            bail!("{} runs already", self.name());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.console())?;
        let shown = |name: &str| self.dir.join(name).display().to_string();
        let overlay = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.image.display(),
            shown("upper"),
            shown("work")
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--", "sh", "-c"])
            .arg("mount -t overlay overlay -o \"$0\" \"$1\" && shift && exec systemd-nspawn \"$@\"")
            .arg(overlay)
            .arg(shown("root"))
            .args(["--directory", &shown("root")])
            .arg(format!(
                "--network-namespace-path={}",
                self.station.ns.path().display()
            ))
            .args([
                "--boot",
                "--register=no",
                "--keep-unit",
                "--settings=no",
                "--console=pipe",
            ])
            .args([
                "--link-journal=no",
                "--resolv-conf=off",
                "--timezone=off",
                "--capability=all",
            ])
            .arg(format!("--machine={}", self.name))
            .arg(format!("--hostname={}", self.name()))
            .arg(format!("--system-call-filter={CALLS}"));
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("HEARTLINE_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        exec::tie_to_lab(&mut command);
        self.cgroup.apply(&mut command)?;
        let child = command
            .spawn()
            .context("cannot start unshare (util-linux)")?;
        let pid = child.id();
        self.nspawn = Some(child);
        let mut found = None;
        let up = interrupt::until(BOOT, Duration::from_millis(10), || {
            found = first_process(pid);
            Ok(found.is_some() || !self.running())
        })?;
        match found {
            Some(pid1) if up => {
                self.pid1 = pid1;
                Ok(())
            }
            _ => bail!(
                "{} does not boot (is systemd-container installed? can {} hold an overlay?): {}",
                self.name(),
                self.dir.display(),
                tail(&self.console())
            ),
        }
    }

    /// Waits until its systemd has started what it starts at boot. Units that failed are an error.
    ///
    /// # Errors
    /// As said, or not in time; the error names the units.
    pub fn booted(&self) -> Result<()> {
        let mut last = String::new();
        let up = interrupt::until(BOOT, Duration::from_millis(50), || {
            let out = self.run(&["systemctl", "is-system-running"])?;
            last = out.stdout.trim().to_owned();
            Ok(matches!(last.as_str(), "running" | "degraded"))
        })?;
        if up && last == "running" {
            return Ok(());
        }
        let failed = self.run(&["systemctl", "--failed", "--no-legend", "--plain"])?;
        let jobs = self.run(&["systemctl", "list-jobs", "--no-legend"])?;
        bail!(
            "{} is {last:?}; failed units: {}; jobs: {}",
            self.name(),
            failed.stdout.trim(),
            jobs.stdout.trim()
        )
    }

    /// Whether it is on.
    pub fn running(&mut self) -> bool {
        self.nspawn
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Runs a command inside, whatever its exit status. Nothing that a shutdown ends: that stops it before it kills it,
    /// nsenter stops with it, and the machine waits for nsenter.
    ///
    /// # Errors
    /// The machine is off, or the command does not end in time.
    pub fn run(&self, words: &[&str]) -> Result<exec::Output> {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid1.to_string(), "--all", "--"])
            .args(words)
            .env_remove("HEARTLINE_SOCKET")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/root")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SYSTEMD_COLORS", "0")
            .env("NO_COLOR", "1");
        exec::run(command, "", COMMAND)
    }

    /// Runs a command inside that must succeed; returns what it said.
    ///
    /// # Errors
    /// As [`Machine::run`], or it fails.
    pub fn run_ok(&self, words: &[&str]) -> Result<String> {
        let out = self.run(words)?;
        if out.code != Some(0) {
            bail!(
                "{}: {} ended with {:?}: {} {}",
                self.name(),
                words.join(" "),
                out.code,
                out.stderr.trim(),
                out.stdout.trim()
            );
        }
        Ok(out.stdout)
    }

    /// What calls its agent.
    #[must_use]
    pub fn caller(&self) -> Caller {
        let socket = self.root().join("run/heartline/control.sock");
        Caller::new(self.binary.clone(), socket)
    }

    /// `heartline status --json` of its agent.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        rig::status(&self.caller()).with_context(|| self.name().to_owned())
    }

    /// The process of a unit.
    ///
    /// # Errors
    /// It has none.
    pub fn main_pid(&self, unit: &str) -> Result<u32> {
        let text = self.run_ok(&["systemctl", "show", "--value", "--property=MainPID", unit])?;
        // Inside it has another number: the kernel tells which.
        let inner: u32 = text.trim().parse().unwrap_or(0);
        if inner == 0 {
            bail!("{}: {unit} has no process", self.name());
        }
        self.outer(inner)
            .with_context(|| format!("{}: {unit} is gone", self.name()))
    }

    /// The number outside of a process inside.
    fn outer(&self, inner: u32) -> Option<u32> {
        let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(self.pid1)?;
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut ours = pids.filter(|pid| innermost(*pid) == Some(inner));
        ours.find(|pid| space(*pid).as_ref() == Some(&own))
    }

    /// SIGKILL to the process of a unit. Returns the instant before it (boot clock, ns).
    ///
    /// # Errors
    /// It has none.
    pub fn kill_unit(&self, unit: &str) -> Result<u64> {
        let pid = self.main_pid(unit)?;
        let at = crate::clock::boot_ns();
        exec::signal(pid, Signal::SIGKILL)?;
        Ok(at)
    }

    /// All processes stand still, or go on. The kernel's half of the lease does not stand still. Returns the instant.
    ///
    /// # Errors
    /// The kernel does not do it.
    pub fn freeze(&self, frozen: bool) -> Result<u64> {
        self.cgroup.freeze(frozen)
    }

    /// Waits until its systemd has ended everything. The error says if it did not want to be started again.
    ///
    /// # Errors
    /// Not in time, or no reboot.
    pub fn down(&mut self) -> Result<()> {
        let mut code = None;
        let nspawn = self.nspawn.as_mut().context("it was never switched on")?;
        let ended = interrupt::until(SHUTDOWN, Duration::from_millis(10), || {
            code = nspawn.try_wait()?.map(|status| status.code());
            Ok(code.is_some())
        })?;
        if !ended {
            bail!(
                "{} is not down after {SHUTDOWN:?}: {}",
                self.name(),
                tail(&self.console())
            );
        }
        self.nspawn = None;
        if code != Some(Some(REBOOT)) {
            bail!(
                "{} ended with {code:?} instead of a reboot: {}",
                self.name(),
                tail(&self.console())
            );
        }
        Ok(())
    }

    /// The last lines of the journal of a unit.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        let out = self.run(&[
            "journalctl",
            "--no-pager",
            "--lines=12",
            "--output=cat",
            "--unit",
            unit,
        ]);
        out.map_or_else(|error| error.to_string(), |out| out.stdout)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cgroup.kill();
        if let Some(child) = self.nspawn.as_mut() {
            let _ = child.kill();
            let _ = exec::wait(child, Duration::from_secs(5));
        }
        let _ = fs::remove_dir(Path::new(PROPAGATE).join(&self.name));
    }
}

/// Removes what systemd-nspawn keeps for machines whose lab is gone: `stale` says which are.
pub fn remove_stale(stale: impl Fn(&str) -> bool) {
    let entries = fs::read_dir(PROPAGATE).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_name().to_str().is_some_and(&stale) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The pid 1 that a systemd-nspawn watches.
fn first_process(nspawn: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    let mut pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse::<u32>().ok());
    // Before systemd has replaced nspawn's own second half, its root is not there yet.
    let is_systemd = |pid: u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd")
    };
    pids.find(|pid| innermost(*pid) == Some(1) && is_systemd(*pid))
}

/// The number that a process has in its innermost namespace.
fn innermost(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// The end of a log.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(6).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
