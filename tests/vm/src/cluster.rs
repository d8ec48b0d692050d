//! The real agent in the guests and in the witness's namespace.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use heartline_lab::{
    agent::{self, Agent},
    cluster, interrupt,
};
use serde_json::Value;

use crate::{
    control::Control,
    drbd::{DEVICE, MOUNT, RESOURCE},
    rows::Store,
    site::{NETS, Site, VIP},
};

/// The group.
pub const GROUP: &str = "data";
const BIN: &str = "/opt/heartline/bin";
const CONFIG: &str = "/etc/heartline/heartline.toml";
const KEY: &str = "/etc/heartline/cluster.key";
const LOG: &str = "/run/heartline.log";
const PID: &str = "/run/heartline.pid";
const POLL: Duration = Duration::from_millis(100);
const SHORT: Duration = Duration::from_secs(20);

/// Times that emulated machines bear while others build on the same processors.
pub const CALM: &str = "profile = \"wan\"\nmax_promise = \"3s\"";
/// Times that emulated machines bear on a machine where nothing else runs: half as long as `wan`.
pub const QUICK: &str =
    "heartbeat = \"50ms\"\nlease = \"400ms\"\ntakeover = \"500ms\"\nmax_promise = \"3s\"";

/// What stands behind the group's VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stack {
    /// Nothing: the VIP alone
    Bare,
    /// DRBD promoted by commands, ext4, the rows. Nothing proves that the old owner is gone: a partition makes two
    /// primaries. For comparison, and until the agent does it by itself.
    Exec,
    /// The agent's own `drbd` resource, ext4, the rows.
    Drbd,
}

/// What proves that an old owner is gone, beside what the cluster knows by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Proof {
    /// Nothing.
    #[default]
    None,
    /// Fencing through QEMU's monitor
    Fencing,
    /// The guests' watchdog (softdog)
    Watchdog,
}

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The stack.
    pub stack: Stack,
    /// The proof.
    pub proof: Proof,
    /// What keeps the rows.
    pub store: Store,
    /// Lines of `[timing]`.
    pub timing: &'static str,
    /// Lines put into the top of the file.
    pub top: String,
    /// Lines put behind the group's VIP.
    pub group: String,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            stack: Stack::Bare,
            proof: Proof::None,
            store: Store::Sqlite,
            timing: CALM,
            top: String::new(),
            group: String::new(),
        }
    }
}

/// The configuration for a cluster of these guests and perhaps a witness: names and ids.
#[must_use]
pub fn text(
    guests: &[(&str, u8)],
    witness: Option<(&str, u8)>,
    setting: &Setting,
    datapath: &str,
) -> String {
    let mut text = format!(
        "cluster = \"vm\"\ngeneration = 1\nkey_file = \"cluster.key\"\ndatapath = \"{datapath}\"\n{}\n\n[timing]\n{}\n",
        setting.top, setting.timing
    );
    let members = guests.iter().map(|(name, id)| (name, id, ""));
    let witness = witness
        .iter()
        .map(|(name, id)| (name, id, "role = \"witness\"\n"));
    for (name, id, role) in members.chain(witness) {
        let _ = write!(text, "\n[[node]]\nname = \"{name}\"\nid = {id}\n{role}");
        for net in 0..NETS {
            let _ = write!(
                text,
                "[[node.link]]\ndevice = \"eth{net}\"\naddress = \"10.77.{net}.{id}\"\n"
            );
        }
    }
    let _ = write!(
        text,
        "\n[[group]]\nname = \"{GROUP}\"\nid = 0\n{}\n[[group.vip]]\naddress = \"{VIP}\"\ndevice = \"eth0\"\n",
        setting.group
    );
    if setting.stack != Stack::Bare {
        let exec = |program: &str, more: &str| {
            let word = |verb: &str| format!("[\"{BIN}/{program}\", \"{verb}\"{more}]");
            format!(
                "exec = {{ start = {}, stop = {}, status = {} }}",
                word("start"),
                word("stop"),
                word("status")
            )
        };
        let (promotion, stateful) = match setting.stack {
            Stack::Drbd => (format!("drbd = \"{RESOURCE}\""), ""),
            Stack::Exec | Stack::Bare => (
                exec("drbd-ctl", &format!(", \"{RESOURCE}\"")),
                // Else nobody would take over: commands prove nothing.
                "stateful = false\n",
            ),
        };
        let _ = write!(
            text,
            "\n[[group.resource]]\nname = \"promotion\"\n{promotion}\nstart_timeout = \"20s\"\n\
             \n[[group.resource]]\nname = \"disk\"\n\
             filesystem = {{ device = \"{DEVICE}\", mount = \"{MOUNT}\", type = \"ext4\", kill_holders = true }}\n{stateful}\
             \n[[group.resource]]\nname = \"rows\"\n{}\n",
            exec(setting.store.control(), "")
        );
    }
    text + &proof(guests, setting.proof)
}

fn proof(guests: &[(&str, u8)], proof: Proof) -> String {
    match proof {
        Proof::None => String::new(),
        Proof::Watchdog => "\n[watchdog]\ntimeout = \"5s\"\n".to_owned(),
        Proof::Fencing => {
            let names = guests.iter().map(|(name, _)| name);
            let section = |name| {
                format!(
                    "\n[[fence]]\nname = \"qmp-{name}\"\nnode = \"{name}\"\nagent = \"{BIN}/fence_heartline_qmp\"\n\
                     parameters = {{ ip = \"{}\", plug = \"{name}\" }}\naction = \"off\"\ntimeout = \"10s\"\n\
                     monitor_interval = \"5s\"\n",
                    crate::device::ADDRESS.ip()
                )
            };
            names.map(section).collect()
        }
    }
}

/// Agents, and the place below them. Dropped in this order.
#[derive(Debug)]
pub struct Cluster {
    witness: Option<Agent>,
    _pins: Option<Pins>,
    key: String,
    text: String,
    /// The place: faults are made here.
    pub site: Site,
}

/// The folder of the witness's pins, removed on drop: pinned programs would outlive it.
#[derive(Debug)]
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("lab: cannot remove {}: {error}", self.0.display());
        }
    }
}

impl Cluster {
    /// Starts agents on all guests, and on the witness if there is one. Nothing is awaited: see [`Cluster::owned_by`].
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(site: Site, setting: &Setting) -> Result<Self> {
        let path = site.dir().join("heartline.toml");
        let key = site.dir().join("cluster.key");
        agent::keygen(&key)?;
        let guests: Vec<_> = site
            .guests
            .iter()
            .map(|guest| (guest.spec.name.as_str(), guest.spec.id))
            .collect();
        let station = site.witness.as_ref();
        let witness = station.map(|station| (station.name.as_str(), station.id));
        // The witness's device is a veth whose other end runs no program: native XDP would send nothing there.
        let text_of = |datapath| text(&guests, witness, setting, datapath);
        let text = text_of("native");
        fs::write(&path, text_of("generic"))?;
        let mut cluster = Self {
            witness: None,
            _pins: None,
            key: fs::read_to_string(&key)?,
            text,
            site,
        };
        if let Some(station) = &cluster.site.witness {
            agent::ensure_bpffs()?;
            let pins = Pins(agent::bpf_dir(cluster.site.prefix()));
            let mut witness = Agent::new(station, &path, cluster.site.dir(), &pins.0)?;
            cluster._pins = Some(pins);
            witness.start()?;
            cluster.witness = Some(witness);
        }
        let names: Vec<_> = cluster.names();
        for name in &names {
            cluster.start_agent(name)?;
        }
        Ok(cluster)
    }

    /// The guests' names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let guests = self.site.guests.iter();
        guests.map(|guest| guest.spec.name.clone()).collect()
    }

    /// The way into a guest.
    ///
    /// # Errors
    /// There is none of that name, or it is off.
    pub fn control(&mut self, name: &str) -> Result<Control> {
        self.site.guest(name)?.control()
    }

    /// Starts the agent on a guest that is up; its log is appended to.
    ///
    /// # Errors
    /// The guest does not do it.
    pub fn start_agent(&mut self, name: &str) -> Result<()> {
        let control = self.control(name)?;
        control.write(CONFIG, &self.text, 0o644)?;
        control.write(KEY, &self.key, 0o600)?;
        if self.text.contains("[watchdog]") {
            control.sh("modprobe softdog", SHORT)?;
        }
        control
            .sh(
                &format!(
                    "setsid heartline agent --config {CONFIG} --node {name} --run-dir /run/heartline \
                     --state-dir /var/lib/heartline </dev/null >>{LOG} 2>&1 & echo $! >{PID}"
                ),
                SHORT,
            )
            .map(drop)
    }

    /// Sends the agent on a guest a signal, by its name: `STOP`, `CONT`, `KILL`, `TERM`.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&mut self, name: &str, signal: &str) -> Result<()> {
        let script = format!("kill -{signal} $(cat {PID})");
        self.control(name)?.sh(&script, SHORT).map(drop)
    }

    /// `heartline` with these words on a guest; must succeed.
    ///
    /// # Errors
    /// It failed: the error shows what it said, and the end of the agent's log.
    pub fn cli(&mut self, name: &str, words: &str) -> Result<String> {
        let control = self.control(name)?;
        control
            .sh(&format!("heartline {words}"), SHORT)
            .with_context(|| {
                let log = control.sh(&format!("tail -n 15 {LOG}"), SHORT);
                format!(
                    "the agent's log on {name} ends: {}",
                    log.unwrap_or_default().trim()
                )
            })
    }

    /// `heartline status --json` on a guest.
    ///
    /// # Errors
    /// No answer.
    pub fn status(&mut self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.cli(name, "status --json")?)?)
    }

    /// What the agent on a guest wrote in this life of the guest.
    pub fn log(&mut self, name: &str) -> String {
        self.control(name)
            .and_then(|control| control.read(LOG, SHORT))
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    /// `heartline events --json` on a guest: its history, oldest first.
    ///
    /// # Errors
    /// No answer.
    pub fn events(&mut self, name: &str) -> Result<Vec<Value>> {
        let text = self.cli(name, "events --json")?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// The end of a guest's log of its agent.
    pub fn log_tail(&mut self, name: &str) -> String {
        self.control(name)
            .and_then(|control| control.sh(&format!("tail -n 30 {LOG}"), SHORT))
            .unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Waits until this guest says that it owns the group and that its services run, if it has any.
    ///
    /// # Errors
    /// It does not in time: the error shows what it said last, and its log.
    pub fn owned_by(&mut self, name: &str, deadline: Duration) -> Result<()> {
        let mut last = String::from("nothing");
        let came = interrupt::until(deadline, POLL, || {
            Ok(match self.status(name) {
                Ok(status) => {
                    let group = status.pointer("/groups/0").cloned().unwrap_or_default();
                    let phase = group
                        .pointer("/services/phase_here")
                        .and_then(Value::as_str);
                    last = group.to_string();
                    cluster::owner(&status, GROUP).as_deref() == Some(name)
                        && matches!(phase, None | Some("" | "running"))
                }
                Err(error) => {
                    last = format!("{error:#}");
                    false
                }
            })
        })?;
        if !came {
            bail!(
                "{name} does not own {GROUP} with all that belongs to it after {deadline:?}; it says: {last}\n{}",
                self.log_tail(name)
            );
        }
        Ok(())
    }

    /// As [`Cluster::owned_by`], after a move if the group has come up elsewhere: who is up first may have it.
    ///
    /// # Errors
    /// As there.
    pub fn brought_to(&mut self, name: &str, deadline: Duration) -> Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.owned_by(name, deadline / 4) {
                Ok(()) => return Ok(()),
                Err(error) if tries == 4 => return Err(error),
                Err(_) => {
                    // Refused while the group is still on its way somewhere: looked at again.
                    let _ = self.cli(name, &format!("move {GROUP} {name}"));
                }
            }
        }
    }

    /// Whether a guest says of itself that it owns the group.
    pub fn owns(&mut self, name: &str) -> bool {
        self.status(name)
            .is_ok_and(|status| cluster::owner(&status, GROUP).as_deref() == Some(name))
    }

    /// The guest that says of itself that it owns the group. None of them may be frozen.
    pub fn owner(&mut self) -> Option<String> {
        self.names().into_iter().find(|name| self.owns(name))
    }

    /// The witness.
    pub fn witness(&mut self) -> Option<&mut Agent> {
        self.witness.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use heartline::config::Config;

    use super::*;

    #[test]
    fn the_agent_takes_the_configurations() {
        let proofs = [Proof::None, Proof::Fencing, Proof::Watchdog];
        for (stack, proof) in [Stack::Bare, Stack::Exec, Stack::Drbd]
            .into_iter()
            .flat_map(|stack| proofs.map(|proof| (stack, proof)))
        {
            for (datapath, timing) in [("native", CALM), ("generic", QUICK)] {
                let setting = Setting {
                    stack,
                    proof,
                    timing,
                    ..Setting::default()
                };
                let text = text(&[("n1", 1), ("n2", 2)], Some(("w3", 3)), &setting, datapath);
                let loaded = Config::from_str(&text, "heartline.toml");
                assert!(
                    loaded.is_ok(),
                    "{}\n{text}",
                    loaded.err().map_or_else(String::new, |e| e.to_string())
                );
            }
        }
    }
}
