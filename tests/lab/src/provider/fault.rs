//! The faults and the planned changes, and what each cost the clients.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    judge::judge,
    maintenance,
    measure::{self, Felt},
    own::{self, Own},
    rig::{self, AGENT, Provider, SOON, Service},
};
use crate::{clock::boot_ns, interrupt};

const POLL: Duration = Duration::from_millis(10);
/// What makes nginx answer every request with an error, while it runs.
const BROKEN_SITE: &str = "/etc/nginx/lab.d/broken.conf";

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The owner is cut off in silence.
    Cut,
    /// Every process of the owner stands still.
    Freeze,
    /// The owner's agent is killed; its systemd starts it again.
    KillAgent,
    /// The process of each service is killed, once: its group starts it again where it is.
    KillUnit,
    /// The process of one service is killed whenever it is there: its group moves.
    UnitDies,
    /// nginx runs and answers every request with an error: its group moves.
    ProbeFails,
    /// All groups are moved to another node.
    Move,
    /// `systemctl reboot` on the owner.
    Reboot,
    /// `heartline maintain --all -- systemctl reboot`.
    Maintenance,
}

impl Fault {
    /// All, in the order of the demo.
    pub const ALL: [Self; 9] = [
        Self::KillUnit,
        Self::UnitDies,
        Self::ProbeFails,
        Self::Cut,
        Self::Freeze,
        Self::KillAgent,
        Self::Move,
        Self::Reboot,
        Self::Maintenance,
    ];

    /// For people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Cut => "node cut off",
            Self::Freeze => "node frozen",
            Self::KillAgent => "agent killed",
            Self::KillUnit => "units killed",
            Self::UnitDies => "unit dies repeatedly",
            Self::ProbeFails => "web answers 500",
            Self::Move => "planned move",
            Self::Reboot => "node rebooted",
            Self::Maintenance => "rolling maintenance",
        }
    }
}

impl Fault {
    /// Whether it is done to this service's group; to all of them, mostly.
    #[must_use]
    pub fn hits(self, service: Service) -> bool {
        match self {
            Self::UnitDies => service == Service::Dns,
            Self::ProbeFails => service == Service::Web,
            Self::Cut
            | Self::Freeze
            | Self::KillAgent
            | Self::KillUnit
            | Self::Move
            | Self::Reboot
            | Self::Maintenance => true,
        }
    }

    /// Whether nobody should lose anything by it.
    #[must_use]
    pub fn planned(self) -> bool {
        match self {
            Self::Move | Self::Reboot | Self::Maintenance => true,
            Self::Cut
            | Self::Freeze
            | Self::KillAgent
            | Self::KillUnit
            | Self::UnitDies
            | Self::ProbeFails => false,
        }
    }

    /// Whether the group of this service must be elsewhere afterwards.
    #[must_use]
    pub fn moves(self, service: Service) -> bool {
        match self {
            Self::KillUnit | Self::Maintenance => false,
            Self::Cut
            | Self::Freeze
            | Self::KillAgent
            | Self::UnitDies
            | Self::ProbeFails
            | Self::Move
            | Self::Reboot => self.hits(service),
        }
    }
}

/// A fault and what it cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Step {
    /// What was done.
    pub fault: Fault,
    /// To whom: the owner of all groups.
    pub node: String,
    /// Who owned them all afterwards, or several.
    pub owners: Vec<String>,
    /// How long it took to do, measure and heal, s.
    pub took_s: f64,
    /// Packets of VIPs that the nodes' gates dropped meanwhile; nothing of a node that was rebooted.
    pub gates: Vec<Gate>,
    /// One per service.
    pub rows: Vec<Row>,
}

/// What a node's gate dropped.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Gate {
    /// The node.
    pub node: String,
    /// Requests, and whatever else came for a VIP.
    pub dropped_in: u64,
    /// Answers, and whatever else wanted to leave as a VIP.
    pub dropped_out: u64,
}

/// A fault on one service.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// The service.
    pub service: Service,
    /// What its client felt.
    pub felt: Felt,
    /// What its unit itself took to start and stop during that.
    pub own: Own,
    /// What was promised, in words; empty if nothing.
    pub target: String,
    /// Whether the promise was kept.
    pub held: bool,
}

/// Does it, waits until the cluster has healed, and measures.
///
/// # Errors
/// Something that has nothing to do with speed: nobody takes over, or the cluster does not come together again.
pub fn run(provider: &mut Provider, fault: Fault) -> Result<Step> {
    let begin = boot_ns();
    let node = provider.gather()?;
    let before = gates(provider);
    let from = boot_ns();
    // Since when the clients are counted, until when.
    let (from, to) = match fault {
        Fault::Cut => {
            let at = provider.lab.switch.cut(&node)?;
            let served = taken_over(provider, fault, &node);
            provider.lab.switch.heal()?;
            (at, served?)
        }
        Fault::Freeze => {
            let at = provider.machine(&node)?.freeze(true)?;
            let served = taken_over(provider, fault, &node);
            provider.machine(&node)?.freeze(false)?;
            (at, served?)
        }
        Fault::KillAgent => {
            let at = provider.machine(&node)?.kill_unit(AGENT)?;
            (at, taken_over(provider, fault, &node)?)
        }
        Fault::KillUnit => {
            kill_units(provider, &node)?;
            (from, boot_ns())
        }
        Fault::UnitDies => {
            keep_killing(provider, fault, &node)?;
            (from, taken_over(provider, fault, &node)?)
        }
        Fault::ProbeFails => {
            let reload = ["systemctl", "reload", Service::Web.unit()];
            let machine = provider.machine(&node)?;
            machine.put(BROKEN_SITE, "return 500;\n")?;
            machine.run_ok(&reload)?;
            let served = taken_over(provider, fault, &node);
            let machine = provider.machine(&node)?;
            machine.run_ok(&["rm", BROKEN_SITE])?;
            machine.run_ok(&["systemctl", "restart", Service::Web.unit()])?;
            (from, served?)
        }
        Fault::Move => {
            let target = provider
                .machines
                .iter()
                .find(|machine| machine.name() != node);
            let target = target.context("one node is no cluster")?.name().to_owned();
            for service in Service::ALL {
                provider.cli(&node, &["move", service.group(), &target])?;
            }
            (from, taken_over(provider, fault, &node)?)
        }
        Fault::Reboot => {
            provider.reboot(&node)?;
            provider.settled()?;
            (from, boot_ns())
        }
        Fault::Maintenance => {
            // Run on another node: the owner is one of the first, not the last.
            let mut others = provider.machines.iter().rev().map(|machine| machine.name());
            let on = others
                .find(|name| *name != node)
                .context("one node is no cluster")?;
            let on = on.to_owned();
            maintenance::run(provider, &on)?;
            provider.settled()?;
            (from, boot_ns())
        }
    };
    let owners = provider.settled()?;
    for (service, owner) in Service::ALL.into_iter().zip(&owners) {
        ensure!(
            !fault.moves(service) || *owner != node,
            "{}: {node} should have lost {}, but the owners are {owners:?}",
            fault.title(),
            service.group()
        );
    }
    // What has failed where is forgotten: the next fault begins with three good nodes.
    if matches!(fault, Fault::KillUnit | Fault::UnitDies | Fault::ProbeFails) {
        for service in Service::ALL.into_iter().filter(|s| fault.hits(*s)) {
            provider.cli(&node, &["clear", service.group()])?;
        }
    }
    interrupt::until(SOON, POLL, || Ok(measure::ended(to)))?;
    let mut rows = Vec::new();
    for service in Service::ALL {
        let felt = measure::felt(provider, service, from, to);
        let own = own::since(&provider.machines, service.unit(), from)?;
        rows.push(judge(fault, &node, service, felt, own));
    }
    let took_s = crate::clock::ms(boot_ns() - begin) / 1e3;
    Ok(Step {
        fault,
        node,
        owners,
        took_s,
        gates: gates(provider)
            .into_iter()
            .zip(before)
            .map(|(after, before)| Gate {
                dropped_in: after.dropped_in.saturating_sub(before.dropped_in),
                dropped_out: after.dropped_out.saturating_sub(before.dropped_out),
                node: after.node,
            })
            .collect(),
        rows,
    })
}

/// What the gates have dropped so far.
fn gates(provider: &Provider) -> Vec<Gate> {
    let of = |(node, status): (String, Result<serde_json::Value>)| {
        let counter = |name: &str| {
            let status = status.as_ref().ok();
            let path = format!("/counters/{name}");
            status.and_then(|s| s.pointer(&path)?.as_u64()).unwrap_or(0)
        };
        Gate {
            dropped_in: counter("gate_in_drop"),
            dropped_out: counter("gate_out_drop"),
            node,
        }
    };
    provider.statuses().into_iter().map(of).collect()
}

/// Waits until another node than `old` answers for every service that moves. Returns the instant.
fn taken_over(provider: &Provider, fault: Fault, old: &str) -> Result<u64> {
    let moving = || Service::ALL.into_iter().filter(|s| fault.moves(*s));
    let mut serving = Vec::new();
    let served = interrupt::until(SOON, POLL, || {
        serving = moving().map(|service| provider.serves(service)).collect();
        Ok(serving
            .iter()
            .all(|node| node.as_ref().is_some_and(|node| node != old)))
    })?;
    if !served {
        bail!(
            "not all services are answered by another node than {old} after {SOON:?}: {serving:?}"
        );
    }
    Ok(boot_ns())
}

/// SIGKILL to the process of each service on a node, and waits until others have taken their places there.
fn kill_units(provider: &mut Provider, node: &str) -> Result<()> {
    let mut old = Vec::new();
    for service in Service::ALL {
        old.push(provider.machine(node)?.main_pid(service.unit())?);
    }
    for service in Service::ALL {
        provider.machine(node)?.kill_unit(service.unit())?;
    }
    let mut serving = Vec::new();
    let again = interrupt::until(SOON, POLL, || {
        let machine = provider.machine(node)?;
        let new = |(service, old): (Service, &u32)| {
            machine
                .main_pid(service.unit())
                .is_ok_and(|pid| pid != *old)
        };
        let there = Service::ALL.into_iter().zip(&old).all(new);
        serving = Service::ALL.map(|service| provider.serves(service)).into();
        Ok(there && serving.iter().all(|by| by.as_deref() == Some(node)))
    })?;
    ensure!(
        again,
        "not all services are back on {node} after {SOON:?}: {serving:?}"
    );
    Ok(())
}

/// SIGKILL to the process of a service whenever there is one, until its group is elsewhere.
fn keep_killing(provider: &mut Provider, fault: Fault, node: &str) -> Result<()> {
    let hit: Vec<_> = Service::ALL
        .into_iter()
        .filter(|s| fault.hits(*s))
        .collect();
    let other = provider.other(node)?;
    let moved = interrupt::until(SOON, POLL, || {
        let status = rig::status(&other)?;
        let mut all = true;
        for service in &hit {
            if crate::cluster::owner(&status, service.group()).as_deref() != Some(node) {
                continue;
            }
            all = false;
            // Between two lives it has no process.
            let _ = provider.machine(node)?.kill_unit(service.unit());
        }
        Ok(all)
    })?;
    ensure!(moved, "{hit:?} still on {node} after {SOON:?}");
    Ok(())
}
