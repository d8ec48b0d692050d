//! One real agent in a node's namespace: started, asked through its CLI, signalled by pid.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{exec, lab::Station};

const BPFFS: &str = "/sys/fs/bpf";
/// A CLI call; the CLI has shorter deadlines of its own.
const CLI_DEADLINE: Duration = Duration::from_secs(15);

/// The agent's binary: `HEARTLINE_BIN`, else beside this program (or its parent folder: cargo
/// puts tests into `deps`).
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HEARTLINE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let near = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("heartline"));
    near.into_iter().find(|path| path.is_file()).with_context(|| {
        format!(
            "no `heartline` beside {}: build it (cargo build -p heartline) or set HEARTLINE_BIN",
            own.display()
        )
    })
}

/// Mounts the BPF file system where it is expected, if it is not there yet.
///
/// # Errors
/// It cannot be mounted.
pub fn ensure_bpffs() -> Result<()> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let found = nix::sys::statfs::statfs(BPFFS).with_context(|| format!("no folder {BPFFS}"))?;
    if found.filesystem_type().0 == BPF_FS_MAGIC {
        return Ok(());
    }
    let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
    nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), flags, none)
        .with_context(|| format!("cannot mount the BPF file system at {BPFFS}"))
}

/// Where the pins of a lab with this prefix go.
#[must_use]
pub fn bpf_dir(prefix: &str) -> PathBuf {
    Path::new(BPFFS).join("heartline-lab").join(prefix)
}

/// An agent and what is needed to start it again.
#[derive(Debug)]
pub struct Agent {
    station: Station,
    binary: PathBuf,
    config: PathBuf,
    run_dir: PathBuf,
    bpf_dir: PathBuf,
    log: PathBuf,
    extra: Vec<String>,
    child: Option<Child>,
    no_bpf: bool,
}

/// A way to run commands against an agent.
#[derive(Clone, Debug)]
pub struct Caller {
    binary: PathBuf,
    socket: PathBuf,
}

impl Caller {
    /// What calls the agent behind a control socket.
    #[must_use]
    pub fn new(binary: PathBuf, socket: PathBuf) -> Self {
        Self { binary, socket }
    }

    /// Runs a CLI command against the agent.
    ///
    /// # Errors
    /// The program does not start or does not end in time.
    pub fn cli(&self, args: &[&str]) -> Result<exec::Output> {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .env("HEARTLINE_SOCKET", &self.socket)
            .env("NO_COLOR", "1");
        exec::run(command, "", CLI_DEADLINE)
    }
}

impl Agent {
    /// Prepares an agent for a node; [`Agent::start`] starts it.
    ///
    /// # Errors
    /// The binary or a folder is missing.
    pub fn new(station: &Station, config: &Path, dir: &Path, bpf_dir: &Path) -> Result<Self> {
        let run_dir = dir.join(format!("run-{}", station.name));
        fs::create_dir_all(&run_dir)?;
        let bpf_dir = bpf_dir.join(&station.name);
        fs::create_dir_all(&bpf_dir).with_context(|| format!("folder {}", bpf_dir.display()))?;
        Ok(Self {
            station: station.clone(),
            binary: binary()?,
            config: config.to_owned(),
            run_dir,
            bpf_dir,
            log: dir.join(format!("agent-{}.log", station.name)),
            extra: Vec::new(),
            child: None,
            no_bpf: false,
        })
    }

    /// Gives it a config file of its own.
    pub fn set_config(&mut self, config: &Path) {
        self.config = config.to_owned();
    }

    /// From its next start on the kernel refuses it BPF, as in many containers: it is root, but without the
    /// capabilities to load programs.
    pub fn forbid_bpf(&mut self) {
        self.no_bpf = true;
    }

    /// Its run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The network namespace that it runs in.
    #[must_use]
    pub fn ns(&self) -> &crate::netns::Ns {
        &self.station.ns
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.station.name
    }

    /// What it is started with beside the usual, from its next start on.
    pub fn set_args(&mut self, args: &[&str]) {
        self.extra = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Another program to start, from its next start on.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// Starts it; nothing is awaited. The log is appended to. To be called by a thread that
    /// lives as long as the lab (the agent dies with it).
    ///
    /// # Errors
    /// It runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.running() {
            bail!("the agent of {} runs already", self.name());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.arg("agent").arg("--config").arg(&self.config);
        command.args(["--node", self.name()]);
        command
            .arg("--run-dir")
            .arg(&self.run_dir)
            .arg("--bpf-dir")
            .arg(&self.bpf_dir)
            .arg("--state-dir")
            .arg(self.run_dir.join("state"))
            .args(&self.extra);
        // Nobody's service manager is told anything, and no lab shell's socket is taken for its own.
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("HEARTLINE_SOCKET");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        exec::tie_to_lab(&mut command);
        self.station.ns.apply(&mut command);
        if self.no_bpf {
            exec::drop_bpf_rights(&mut command);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.binary))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether its process is there (a frozen one is).
    pub fn running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its process id.
    ///
    /// # Errors
    /// It was not started.
    pub fn pid(&self) -> Result<u32> {
        let child = self.child.as_ref();
        child
            .map(Child::id)
            .with_context(|| format!("no agent on {}", self.name()))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.running() {
            bail!(
                "the agent of {} does not run: {}",
                self.name(),
                self.log_tail()
            );
        }
        exec::signal(self.pid()?, signal)
    }

    /// Kills it hard and waits for its end.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_end(Duration::from_secs(5)).map(drop)
    }

    /// Asks it to stop and waits for its end; returns its exit status.
    ///
    /// # Errors
    /// It does not run or does not end in time.
    pub fn stop(&mut self, deadline: Duration) -> Result<Option<i32>> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(deadline)
    }

    /// Waits for an end that it comes to by itself; returns its exit status.
    ///
    /// # Errors
    /// It was not started or does not end in time.
    pub fn ended(&mut self, deadline: Duration) -> Result<Option<i32>> {
        self.wait_end(deadline)
    }

    fn wait_end(&mut self, deadline: Duration) -> Result<Option<i32>> {
        let Some(child) = self.child.as_mut() else {
            bail!("no agent")
        };
        let Some(code) = exec::wait(child, deadline)? else {
            bail!(
                "the agent of {} has not ended after {deadline:?}",
                self.station.name
            )
        };
        self.child = None;
        Ok(code)
    }

    /// A planned restart, as a service manager would see it: the agent either replaces itself or
    /// ends, and is then started again. Waits until the new one answers.
    ///
    /// # Errors
    /// It refuses, or the new one does not answer in time.
    pub fn planned_restart(&mut self, deadline: Duration) -> Result<()> {
        let started = |status: &Value| {
            let number = |key: &str| status.get(key).and_then(Value::as_u64);
            // The moment when the process that answers was started, to 50 ms.
            Some(number("boot_ns")? / 1_000_000)
                .zip(number("uptime_ms"))
                .map(|(at, up)| at.saturating_sub(up))
        };
        let before = started(&self.status()?).context("status has no uptime")?;
        self.cli_ok(&["restart"])?;
        let end = Instant::now() + deadline;
        loop {
            if !self.running() {
                self.start()?;
            }
            if self
                .status()
                .is_ok_and(|status| started(&status).is_some_and(|at| at > before + 50))
            {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "no new agent on {} after {deadline:?}: {}",
                    self.name(),
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a CLI command against it.
    ///
    /// # Errors
    /// The program does not start or does not end in time.
    pub fn cli(&self, args: &[&str]) -> Result<exec::Output> {
        self.caller().cli(args)
    }

    /// What calls this agent from another thread.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller {
            binary: self.binary.clone(),
            socket: self.socket(),
        }
    }

    /// Runs a CLI command that must succeed; returns its standard output.
    ///
    /// # Errors
    /// It failed; the error shows what it said.
    pub fn cli_ok(&self, args: &[&str]) -> Result<String> {
        let out = self.cli(args)?;
        if out.code != Some(0) {
            let said = format!("{} {}", out.stderr.trim(), out.stdout.trim());
            bail!(
                "{}: heartline {} failed ({:?}): {said}",
                self.name(),
                args.join(" "),
                out.code
            );
        }
        Ok(out.stdout)
    }

    /// `heartline status --json`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cli_ok(&["status", "--json"])?)?)
    }

    /// `heartline events --json`: its history, oldest first.
    ///
    /// # Errors
    /// It does not answer.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = self.cli_ok(&["events", "--json"])?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The end of its log, for errors.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().rev().take(8).collect();
        let tail: Vec<_> = lines.into_iter().rev().collect();
        format!("end of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Cleaning up is no time for handing over: the whole cluster goes.
        if let Some(child) = self.child.as_mut() {
            let _ = child.kill();
            let _ = exec::wait(child, Duration::from_secs(2));
        }
    }
}

/// Makes the cluster key with `heartline keygen`.
///
/// # Errors
/// The command fails.
pub fn keygen(path: &Path) -> Result<()> {
    let mut command = Command::new(binary()?);
    command.arg("keygen").arg(path);
    exec::run_ok(command, "", CLI_DEADLINE).map(drop)
}
