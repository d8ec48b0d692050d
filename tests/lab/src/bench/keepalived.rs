//! keepalived, Debian's package: VRRP version 3, `nopreempt`; one process with a child per node. With real-time
//! priority, or plainly, as the package comes.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{Setting, subject::Subject};
use crate::{
    Lab, LabSpec, VIP4, exec,
    interrupt::{self, until},
    lab::Station,
};

const PROGRAM: &str = "/usr/sbin/keepalived";
const SOON: Duration = Duration::from_secs(10);

/// Why it cannot be measured here.
pub(super) fn missing() -> Option<String> {
    (!Path::new(PROGRAM).exists()).then(|| {
        format!(
            "{PROGRAM} is missing: apt-get install keepalived (no service is needed), or run this by \
             `cargo xtask bench failover`, which installs it"
        )
    })
}

/// What it calls itself: `v2.2.7`.
pub(super) fn version() -> Result<String> {
    let mut ask = Command::new(PROGRAM);
    ask.arg("--version");
    let said = exec::run(ask, "", SOON)?.stderr;
    Ok(said.split_whitespace().nth(1).unwrap_or("?").to_owned())
}

/// keepalived on three nodes. Its processes end before the lab goes.
pub(super) struct Keepalived {
    daemons: Vec<Daemon>,
    setting: Setting,
    lab: Lab,
}

struct Daemon {
    station: Station,
    dir: PathBuf,
    child: Option<Child>,
}

pub(super) fn raise(setting: Setting, real_time: bool) -> Result<Keepalived> {
    let lab = Lab::up(&LabSpec::default())?;
    let mut daemons = Vec::new();
    for station in &lab.nodes {
        let dir = lab.dir().join(format!("keepalived-{}", station.name));
        fs::create_dir_all(&dir)?;
        fs::write(
            dir.join("keepalived.conf"),
            config(station, setting, real_time),
        )?;
        let mut daemon = Daemon {
            station: station.clone(),
            dir,
            child: None,
        };
        daemon.start()?;
        daemons.push(daemon);
    }
    Ok(Keepalived {
        daemons,
        setting,
        lab,
    })
}

/// As favourable as it gets: the master that is there stays master; and, if asked for, real-time priority with no
/// limit that would kill it.
fn config(station: &Station, setting: Setting, real_time: bool) -> String {
    let mut text = String::from("global_defs {\n  vrrp_version 3\n");
    if real_time {
        text += "  vrrp_rt_priority 50\n  vrrp_rlimit_rttime 1000000\n";
    }
    let advert = setting.interval_ms() as f64 / 1e3;
    let _ = write!(
        text,
        "  router_id {}\n}}\nvrrp_instance web {{\n  state BACKUP\n  interface eth0\n  \
         virtual_router_id 51\n  priority {}\n  advert_int {advert}\n  nopreempt\n  \
         virtual_ipaddress {{\n    {VIP4}/32 dev eth0\n  }}\n}}\n",
        station.name,
        // The default is 100. The priority's share in the time to take over (skew) is 0.6 of an interval then.
        103 - station.id
    );
    text
}

impl Daemon {
    fn start(&mut self) -> Result<()> {
        // Of a killed one: where nobody reaps its child, it would be taken for a running one.
        for file in ["pid", "vrrp.pid"] {
            let _ = fs::remove_file(self.dir.join(file));
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))?;
        let mut command = Command::new(PROGRAM);
        command.args(["--dont-fork", "--log-console", "--no-syslog", "--vrrp"]);
        for (flag, file) in [("-f", "keepalived.conf"), ("-p", "pid"), ("-r", "vrrp.pid")] {
            command.arg(flag).arg(self.dir.join(file));
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        exec::tie_to_lab(&mut command);
        self.station.ns.apply(&mut command);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("cannot start {PROGRAM}"))?);
        Ok(())
    }

    /// The parent, then its child that speaks VRRP.
    fn pids(&mut self) -> Result<Vec<u32>> {
        let parent = self.child.as_ref().context("keepalived does not run")?.id();
        let mut pids: Vec<u32> = vec![parent];
        until(SOON, Duration::from_millis(5), || {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let children = children.unwrap_or_default();
            let found = children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok());
            pids.truncate(1);
            pids.extend(found);
            Ok(pids.len() == 2)
        })?;
        if pids.len() != 2 {
            bail!(
                "keepalived on {} has no child: {}",
                self.station.name,
                self.said()
            );
        }
        Ok(pids)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        for pid in self.pids()? {
            exec::signal(pid, signal)?;
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("keepalived does not run")?;
        if exec::wait(child, SOON)?.is_none() {
            bail!("keepalived on {} does not end", self.station.name);
        }
        self.child = None;
        Ok(())
    }

    fn said(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The parent first, or it would start another child.
        let pids = if self.child.is_some() {
            self.pids()
        } else {
            Ok(Vec::new())
        };
        for pid in pids.unwrap_or_default() {
            let _ = exec::signal(pid, Signal::SIGKILL);
        }
        if let Some(child) = self.child.as_mut() {
            let _ = child.kill();
            let _ = exec::wait(child, Duration::from_secs(2));
        }
    }
}

impl Keepalived {
    fn daemon(&mut self, node: &str) -> Result<&mut Daemon> {
        let found = self.daemons.iter_mut().find(|d| d.station.name == node);
        found.with_context(|| format!("no node {node}"))
    }
}

impl Subject for Keepalived {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    fn give_up(&self) -> Duration {
        // It takes three intervals and a part of one.
        Duration::from_secs(3) + self.interval() * 4
    }

    /// It tells nobody; the wire must do. A node that came back says nothing for some intervals.
    fn settled(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            daemon.pids()?;
        }
        interrupt::pass(self.interval() * 4)
    }

    fn freeze(&mut self, node: &str) -> Result<()> {
        self.daemon(node)?.signal(Signal::SIGSTOP)
    }

    fn thaw(&mut self, node: &str) -> Result<()> {
        self.daemon(node)?.signal(Signal::SIGCONT)
    }

    fn kill(&mut self, node: &str) -> Result<()> {
        let daemon = self.daemon(node)?;
        let pids = daemon.pids()?;
        // Stopped first: nobody shall clean up after the other, as if the whole machine were gone.
        daemon.signal(Signal::SIGSTOP)?;
        for pid in pids.into_iter().rev() {
            exec::signal(pid, Signal::SIGKILL)?;
        }
        daemon.reap()
    }

    fn start(&mut self, node: &str) -> Result<()> {
        self.daemon(node)?.start()
    }

    /// A clean stop: its own way to hand over at once.
    fn hand_over(&mut self, from: &str, _to: &str) -> Result<()> {
        let daemon = self.daemon(from)?;
        let pid = daemon
            .child
            .as_ref()
            .context("keepalived does not run")?
            .id();
        exec::signal(pid, Signal::SIGTERM)?;
        daemon.reap()
    }

    fn after_hand_over(&mut self, from: &str) -> Result<()> {
        self.start(from)
    }

    fn processes(&mut self, node: &str) -> Result<Vec<u32>> {
        self.daemon(node)?.pids()
    }

    fn keep(&mut self) {
        if let Some(dir) = self.lab.keep_dir() {
            eprintln!("keepalived: logs and configs are kept in {}", dir.display());
        }
    }
}
