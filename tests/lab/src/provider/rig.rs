//! The provider: machines with the services, a cluster over them, and clients that never stop asking.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub use super::service::Service;
use super::{
    asker::Asker,
    browser::{Browser, Page},
    cgroup, image,
    machine::{self, Machine},
    setup,
    wire::Datagrams,
};
use crate::{
    Lab, LabSpec, agent, agent::Caller, cleanup, clock::boot_ns, cluster, exec, interrupt,
};

const MS: u64 = 1_000_000;
const POLL: Duration = Duration::from_millis(20);
/// By then a thing has happened, or it never will; a boot is in it.
pub const SOON: Duration = Duration::from_secs(60);
/// The agent's unit.
pub const AGENT: &str = "heartline.service";

/// What hands over at shutdown before services stop.
pub const HANDOVER: &str = "heartline-handover.service";

/// A program of Debian's asks through the client's station. Returns what it said.
fn ask_once(lab: &Lab, service: Service) -> Result<String> {
    let (words, wanted) = service.cross_check();
    let (program, args) = words.split_first().context("no program")?;
    let mut command = std::process::Command::new(program);
    command.args(args);
    lab.client.ns.apply(&mut command);
    // radclient wants an attribute on its standard input.
    let out = exec::run(
        command,
        "Message-Authenticator = 0x00\n",
        Duration::from_secs(10),
    )?;
    let said = format!("{}{}", out.stdout, out.stderr);
    if out.code != Some(0) || !said.contains(wanted) {
        bail!(
            "{}: no {wanted:?} from {}: {:?} {}",
            service.group(),
            words.join(" "),
            out.code,
            said.trim()
        );
    }
    Ok(said)
}

/// Machines, clients and the lab below. Dropped in this order.
#[derive(Debug)]
pub struct Provider {
    dns: Asker,
    radius: Asker,
    sip: Asker,
    /// Web clients.
    pub web: Browser,
    /// One per node.
    pub machines: Vec<Machine>,
    /// The lab: cuts are made here.
    pub lab: Lab,
}

impl Provider {
    /// Raises lab, machines and clients; nothing is awaited but the machines' boot.
    ///
    /// # Errors
    /// Not root, something missing, or a machine does not boot.
    pub fn raise(nodes: u8) -> Result<Self> {
        let image = image::ensure()?;
        cleanup::remove_leftovers()?;
        let lab = Lab::up(&LabSpec { nodes, links: 1 })?;
        let key = lab.dir().join("cluster.key");
        agent::keygen(&key)?;
        let key = std::fs::read_to_string(&key)?;
        let text = setup::config(&lab);
        let mut machines = lab
            .nodes
            .iter()
            .map(|node| {
                // Services that listen on their VIP only must start where it is not.
                node.ns.sysctl(&[("net/ipv4/ip_nonlocal_bind", "1")])?;
                let machine = Machine::new(node, &image, lab.dir(), lab.prefix())?;
                setup::install(&machine, &lab, &text, &key)?;
                Ok(machine)
            })
            .collect::<Result<Vec<_>>>()?;
        machines.iter_mut().try_for_each(Machine::boot)?;
        let ask = |kind, service: Service| Asker::start(&lab.client, kind, service.target());
        let provider = Self {
            dns: ask(Datagrams::Dns, Service::Dns)?,
            radius: ask(Datagrams::Radius, Service::Radius)?,
            sip: ask(Datagrams::Sip, Service::Sip)?,
            web: Browser::start(&lab.client, Service::Web.target())?,
            machines,
            lab,
        };
        provider.machines.iter().try_for_each(Machine::booted)?;
        Ok(provider)
    }

    /// A machine by name.
    ///
    /// # Errors
    /// There is none.
    pub fn machine(&mut self, node: &str) -> Result<&mut Machine> {
        let found = self
            .machines
            .iter_mut()
            .find(|machine| machine.name() == node);
        found.with_context(|| format!("the lab has no node {node:?}"))
    }

    /// The client of a datagram service.
    #[must_use]
    pub fn asker(&self, service: Service) -> Option<&Asker> {
        match service {
            Service::Dns => Some(&self.dns),
            Service::Radius => Some(&self.radius),
            Service::Sip => Some(&self.sip),
            Service::Web => None,
        }
    }

    /// Good answers in `[from, to)`: when they came, in order, and from whom.
    #[must_use]
    pub fn answers(&self, service: Service, from: u64, to: u64) -> Vec<(u64, String)> {
        let mut answers: Vec<_> = if let Some(asker) = self.asker(service) {
            let asks = asker.asks(from, to).into_iter();
            asks.filter_map(|ask| ask.answer)
                .map(|(at, node)| (at, node.to_string()))
                .collect()
        } else {
            let fetches = self.web.fresh(from, to).into_iter();
            fetches
                .filter_map(|fetch| match fetch.page {
                    Page::Served(node) => Some((fetch.ended, node.to_string())),
                    Page::Refused | Page::Reset | Page::Lost => None,
                })
                .collect()
        };
        answers.sort();
        answers
    }

    /// Who has answered for a service during the last 300 ms, if it was one node and most requests were answered.
    #[must_use]
    pub fn serves(&self, service: Service) -> Option<String> {
        let now = boot_ns();
        let answers = self.answers(service, now.saturating_sub(300 * MS), now);
        let node = answers.first()?.1.clone();
        let alone = answers.iter().all(|(_, other)| *other == node);
        (alone && answers.len() >= 8).then_some(node)
    }

    /// What each agent that answers says of itself.
    #[must_use]
    pub fn statuses(&self) -> Vec<(String, Result<Value>)> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .machines
                .iter()
                .map(|machine| (machine.name().to_owned(), scope.spawn(|| machine.status())))
                .collect();
            let joined = |thread: std::thread::ScopedJoinHandle<'_, Result<Value>>| {
                thread.join().unwrap_or_else(|_| bail!("panic"))
            };
            threads
                .into_iter()
                .map(|(name, thread)| (name, joined(thread)))
                .collect()
        })
    }

    /// Waits until all nodes are alive, vote and agree who owns what, and that is who answers the clients.
    /// Returns the owners, in the order of [`Service::ALL`].
    ///
    /// # Errors
    /// Not in time; the error shows what was said last.
    pub fn settled(&self) -> Result<Vec<String>> {
        let mut last = Vec::new();
        let mut serving = Vec::new();
        let mut owners = None;
        interrupt::until(SOON, POLL, || {
            last = self.statuses();
            serving = Service::ALL
                .iter()
                .map(|service| self.serves(*service))
                .collect::<Vec<_>>();
            owners = self.agreed(&last).filter(|owners| {
                serving
                    .iter()
                    .zip(owners)
                    .all(|(node, owner)| node.as_ref() == Some(owner))
            });
            Ok(owners.is_some())
        })?;
        if let Some(owners) = owners {
            return Ok(owners);
        }
        let mut text = format!("not settled within {SOON:?}; answered by {serving:?}");
        for (name, said) in &last {
            let said = match said {
                Ok(status) => format!(
                    "alive {}, voting {}, owners {:?}",
                    cluster::alive(status),
                    status.pointer("/voting/active").unwrap_or(&Value::Null),
                    Service::ALL.map(|service| cluster::owner(status, service.group())),
                ),
                Err(error) => format!("{error:#}"),
            };
            text += &format!("\n  {name}: {said}");
        }
        for machine in &self.machines {
            text += &format!("\n{}:\n{}", machine.name(), machine.journal(AGENT));
        }
        bail!(text)
    }

    /// Waits until every node can run every group, as far as all know.
    fn fit(&self) -> Result<()> {
        let mut unfit = Vec::new();
        let fit = interrupt::until(SOON, POLL, || {
            unfit.clear();
            for (name, status) in self.statuses() {
                match status {
                    Ok(status) => unfit.extend(unfit_in(&status)),
                    Err(error) => unfit.push(format!("{name}: {error:#}")),
                }
            }
            Ok(unfit.is_empty())
        })?;
        if !fit {
            bail!("not all nodes are fit after {SOON:?}: {}", unfit.join("; "));
        }
        Ok(())
    }

    fn agreed(&self, said: &[(String, Result<Value>)]) -> Option<Vec<String>> {
        let mut agreed: Option<Vec<String>> = None;
        for (_, status) in said {
            let status = status.as_ref().ok()?;
            let owners: Option<Vec<_>> = Service::ALL
                .iter()
                .map(|service| cluster::owner(status, service.group()))
                .collect();
            let owners = owners?;
            let votes = status.pointer("/voting/active") == Some(&Value::Bool(true));
            let same = agreed.as_ref().is_none_or(|known| *known == owners);
            if !votes || !same || cluster::alive(status) != self.machines.len() {
                return None;
            }
            agreed = Some(owners);
        }
        agreed
    }

    /// A way to call the agent of some node that is on, not `but`.
    ///
    /// # Errors
    /// There is none.
    pub fn other(&mut self, but: &str) -> Result<Caller> {
        let on = |machine: &mut Machine| machine.running().then(|| machine.caller());
        let mut others = self
            .machines
            .iter_mut()
            .filter(|machine| machine.name() != but);
        others.find_map(on).context("no other node is on")
    }

    /// Runs a command of ours against a node's agent; it must succeed.
    ///
    /// # Errors
    /// It fails; the error shows what it said.
    pub fn cli(&mut self, node: &str, args: &[&str]) -> Result<String> {
        said(&self.machine(node)?.caller(), args)
    }

    /// Moves all services to one node: a fault there hits all at once. Returns the node.
    ///
    /// # Errors
    /// A move fails, or the cluster does not settle.
    pub fn gather(&mut self) -> Result<String> {
        self.fit()?;
        let owners = self.settled()?;
        let node = owners.first().context("no services")?.clone();
        for (service, owner) in Service::ALL.into_iter().zip(&owners) {
            if *owner != node {
                self.cli(&node, &["move", service.group(), &node])?;
            }
        }
        let owners = self.settled()?;
        if owners.iter().any(|owner| *owner != node) {
            bail!("moved to {node}, but the owners are {owners:?}");
        }
        Ok(node)
    }

    /// Lets a node go down and come up by its own `systemctl reboot`: its card is new afterwards, its disk is not.
    ///
    /// # Errors
    /// It does not go down or does not come up.
    pub fn reboot(&mut self, node: &str) -> Result<()> {
        let machine = self.machine(node)?;
        // The machine may be faster than the answer.
        let asked = machine.run(&["systemctl", "--no-block", "reboot"]);
        self.again(node).map_err(|error| match asked {
            Ok(out) if out.code == Some(0) => error,
            Ok(out) => error.context(format!("systemctl reboot: {}", out.stderr.trim())),
            Err(why) => error.context(why),
        })?;
        self.machine(node)?.booted()
    }

    /// Switches a machine that has gone down for a reboot on again.
    ///
    /// # Errors
    /// It does not go down, wanted no reboot or does not come up.
    pub fn again(&mut self, node: &str) -> Result<()> {
        self.machine(node)?.down()?;
        self.lab.unplug(node, 0)?;
        self.lab.replug(node, 0)?;
        self.machine(node)?.boot()
    }

    /// Asks each service once with a program of Debian's. Returns the programs.
    ///
    /// # Errors
    /// One gets no good answer.
    pub fn cross_check(&self) -> Result<Vec<&'static str>> {
        Service::ALL
            .into_iter()
            .map(|service| {
                ask_once(&self.lab, service)?;
                service
                    .cross_check()
                    .0
                    .first()
                    .copied()
                    .context("no program")
            })
            .collect()
    }

    /// Keeps journals, console logs and configs, and returns the folder. The machines are gone then.
    pub fn keep(mut self) -> Option<PathBuf> {
        for machine in &self.machines {
            let out = machine.run(&[
                "journalctl",
                "--no-pager",
                "--boot=all",
                "--output=short-precise",
            ]);
            let text = out.map_or_else(|error| error.to_string(), |out| out.stdout);
            let _ = std::fs::write(
                self.lab
                    .dir()
                    .join(format!("journal-{}.log", machine.name())),
                text,
            );
        }
        self.machines.clear();
        self.lab.keep_dir()
    }
}

/// Runs a command of ours that must succeed.
pub(super) fn said(caller: &Caller, args: &[&str]) -> Result<String> {
    let out = caller.cli(args)?;
    if out.code != Some(0) {
        bail!(
            "heartline {} ended with {:?}: {} {}",
            args.join(" "),
            out.code,
            out.stderr.trim(),
            out.stdout.trim()
        );
    }
    Ok(out.stdout)
}

/// Which nodes cannot run which groups.
fn unfit_in(status: &Value) -> Vec<String> {
    let list = |value: &Value, key: &str| {
        let list = value.get(key).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let text = |value: &Value, key: &str| {
        let text = value.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let mut found = Vec::new();
    for group in list(status, "groups") {
        for unfit in list(&group, "unfit") {
            found.push(format!(
                "{} on {}: {}",
                text(&group, "name"),
                text(&unfit, "node"),
                text(&unfit, "reason")
            ));
        }
    }
    found
}

/// `heartline status --json` of an agent.
pub(super) fn status(caller: &Caller) -> Result<Value> {
    Ok(serde_json::from_str(&said(caller, &["status", "--json"])?)?)
}

/// What is left of machines whose lab was killed: their processes, and with them their mounts.
pub fn remove_leftovers() -> Vec<String> {
    machine::remove_stale(cleanup::is_stale);
    cgroup::remove_stale(cleanup::is_stale)
}
