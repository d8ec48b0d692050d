//! Three machines with the services, clients that never stop asking, and the lab below: the same for every system.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};

use super::layer::Layers;
use crate::{
    Lab, LabSpec, VIP4,
    clock::boot_ns,
    probe_owner::OwnerProber,
    provider::{
        asker::{self, Asker},
        browser::{self, Browser, Page},
        machine::Machine,
        rig::Service,
        wire::Datagrams,
    },
};

const MS: u64 = 1_000_000;
const NODES: u8 = 3;
/// Between two questions to each node's hardware address, per VIP.
const ASK_NODES: Duration = Duration::from_millis(5);
/// A run is over long before.
const LONGEST_RUN: Duration = Duration::from_secs(300);

/// Machines, clients and the lab. Dropped in this order.
#[derive(Debug)]
pub(super) struct Rig {
    dns: Asker,
    radius: Asker,
    sip: Asker,
    web: Browser,
    /// One per node.
    pub machines: Vec<Machine>,
    /// Cuts are made here.
    pub lab: Lab,
    /// When the clients began (boot clock, ns): they have room for half an hour.
    pub since: u64,
}

/// Who answers for each VIP at the nodes' hardware addresses, in the order of [`Service::ALL`].
#[derive(Debug)]
pub(super) struct Owners(Vec<OwnerProber>);

impl Rig {
    /// Raises lab, machines and clients. `install` puts a system onto a machine before its first boot.
    ///
    /// # Errors
    /// Not root, something missing, or a machine does not boot.
    pub fn raise(layers: &Layers, install: impl Fn(&Lab, &Machine) -> Result<()>) -> Result<Self> {
        let lab = Lab::up(&LabSpec {
            nodes: NODES,
            links: 1,
        })?;
        let mut machines = lab
            .nodes
            .iter()
            .map(|node| {
                // Services that listen on their VIP only must start where it is not.
                node.ns.sysctl(&[("net/ipv4/ip_nonlocal_bind", "1")])?;
                let mut machine = Machine::new(node, &layers.image, lab.dir(), lab.prefix())?;
                machine.cover(&layers.layer)?;
                install(&lab, &machine)?;
                Ok(machine)
            })
            .collect::<Result<Vec<_>>>()?;
        machines.iter_mut().try_for_each(Machine::boot)?;
        let ask = |kind, service: Service| Asker::start(&lab.client, kind, service.target());
        let rig = Self {
            since: boot_ns(),
            dns: ask(Datagrams::Dns, Service::Dns)?,
            radius: ask(Datagrams::Radius, Service::Radius)?,
            sip: ask(Datagrams::Sip, Service::Sip)?,
            web: Browser::start(&lab.client, Service::Web.target())?,
            machines,
            lab,
        };
        rig.machines.iter().try_for_each(Machine::booted)?;
        Ok(rig)
    }

    /// A machine by name.
    ///
    /// # Errors
    /// There is none.
    pub fn machine(&mut self, node: &str) -> Result<&mut Machine> {
        let mut machines = self.machines.iter_mut();
        let found = machines.find(|machine| machine.name() == node);
        found.with_context(|| format!("the lab has no node {node:?}"))
    }

    /// The names of the nodes.
    pub fn names(&self) -> Vec<String> {
        let names = self
            .machines
            .iter()
            .map(|machine| machine.name().to_owned());
        names.collect()
    }

    /// Some node, not `but`.
    ///
    /// # Errors
    /// There is none.
    pub fn other(&self, but: &str) -> Result<String> {
        let mut names = self.names().into_iter();
        names
            .find(|name| name != but)
            .context("one node is no cluster")
    }

    fn asker(&self, service: Service) -> Option<&Asker> {
        match service {
            Service::Dns => Some(&self.dns),
            Service::Radius => Some(&self.radius),
            Service::Sip => Some(&self.sip),
            Service::Web => None,
        }
    }

    /// Good answers to what was asked in `[from, to)`: when they came, in order, and from whom.
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

    /// What was asked in `[from, to)`, and how much of it was never answered well; and the longest time (ns) between
    /// two questions: what exceeds their interval is the client's own standing still.
    pub fn asked(&self, service: Service, from: u64, to: u64) -> (usize, usize, u64) {
        let (sent, lost): (Vec<u64>, usize) = if let Some(asker) = self.asker(service) {
            let asks = asker.asks(from, to);
            let lost = asks.iter().filter(|ask| ask.answer.is_none()).count();
            (asks.iter().map(|ask| ask.sent).collect(), lost)
        } else {
            let fetches = self.web.fresh(from, to);
            let served = |page: &Page| matches!(page, Page::Served(_));
            let lost = fetches.iter().filter(|fetch| !served(&fetch.page)).count();
            (fetches.iter().map(|fetch| fetch.sent).collect(), lost)
        };
        let stall = sent.windows(2).map(|pair| match pair {
            [one, next] => next.saturating_sub(*one),
            _ => 0,
        });
        (sent.len(), lost, stall.max().unwrap_or(0))
    }

    /// Whether all that was asked before `to` has ended, one way or another.
    pub fn ended(to: u64) -> bool {
        let slowest = asker::DEADLINE.max(browser::DEADLINE).as_nanos() as u64;
        boot_ns() > to + slowest + 50 * MS
    }

    /// Who has answered for a service during the last 300 ms, if it was one node and most requests were answered.
    pub fn serves(&self, service: Service) -> Option<String> {
        let now = boot_ns();
        let answers = self.answers(service, now.saturating_sub(300 * MS), now);
        let node = answers.first()?.1.clone();
        let alone = answers.iter().all(|(_, other)| *other == node);
        (alone && answers.len() >= 8).then_some(node)
    }

    /// Who serves each service, in the order of [`Service::ALL`].
    pub fn serving(&self) -> Vec<Option<String>> {
        Service::ALL
            .iter()
            .map(|service| self.serves(*service))
            .collect()
    }

    /// Starts to ask each node's hardware address for each VIP, from a station that no cut touches.
    ///
    /// # Errors
    /// The socket is refused.
    pub fn watch(&self) -> Result<Owners> {
        let start = |service: Service| {
            let vip = match service.target().ip() {
                IpAddr::V4(vip) => vip,
                IpAddr::V6(_) => VIP4,
            };
            OwnerProber::start(&self.lab, vip, ASK_NODES, LONGEST_RUN)
        };
        Ok(Owners(
            Service::ALL.into_iter().map(start).collect::<Result<_>>()?,
        ))
    }

    /// Waits until a machine that was told to reboot is down, and starts it again: its card is new afterwards, its disk
    /// is not.
    ///
    /// # Errors
    /// It does not go down or does not come up.
    pub fn come_back(&mut self, node: &str) -> Result<()> {
        self.machine(node)?.down()?;
        self.lab.unplug(node, 0)?;
        self.lab.replug(node, 0)?;
        let machine = self.machine(node)?;
        machine.boot()?;
        machine.booted()
    }

    /// Keeps journals and configurations, and returns the folder. The machines are gone then.
    pub fn keep(&mut self) -> Option<PathBuf> {
        for machine in &self.machines {
            let out = machine.run(&[
                "journalctl",
                "--no-pager",
                "--boot=all",
                "--output=short-precise",
            ]);
            let text = out.map_or_else(|error| error.to_string(), |out| out.stdout);
            let name = format!("journal-{}.log", machine.name());
            let _ = std::fs::write(self.lab.dir().join(name), text);
        }
        self.machines.clear();
        self.lab.keep_dir()
    }
}

impl Owners {
    /// How long two nodes answered for a service's VIP at once in `[from, to)`, ns.
    pub fn dual_ns(&self, service: Service, from: u64, to: u64) -> u64 {
        let prober = Service::ALL
            .iter()
            .zip(&self.0)
            .find(|(known, _)| **known == service);
        prober.map_or(0, |(_, prober)| prober.ownership(from, to).dual_ns)
    }

    /// Whether two nodes have answered for any VIP since `from`.
    pub fn dual_since(&self, from: u64) -> bool {
        let now = boot_ns();
        Service::ALL
            .iter()
            .any(|service| self.dual_ns(*service, from, now) > 0)
    }
}
