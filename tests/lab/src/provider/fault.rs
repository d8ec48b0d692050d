//! The faults and the planned changes, and what each cost the clients.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    measure::{self, Felt},
    rig::{self, AGENT, Provider, SOON, Service},
};
use crate::{clock::boot_ns, interrupt};

const POLL: Duration = Duration::from_millis(10);
/// The promise for hot standby on `lan`.
const OUTAGE_MS: f64 = 100.0;
/// And for new connections during planned changes.
const REFUSED_MS: f64 = 50.0;

/// What is done to the cluster.
///
/// What needs `[[group.resource]]` and `[[group.probe]]` in the agent is not here yet: a unit that is killed, one that
/// dies again and again, a probe that fails while the process lives. [`run`] and `judge` match without a wildcard, so a
/// new variant finds its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The owner is cut off in silence.
    Cut,
    /// Every process of the owner stands still.
    Freeze,
    /// The owner's agent is killed; its systemd starts it again.
    KillAgent,
    /// All groups are moved to another node.
    Move,
    /// `systemctl reboot` on the owner.
    Reboot,
    /// Node after node: drain, reboot, wait, undrain.
    Maintenance,
}

impl Fault {
    /// All, in the order of the demo.
    pub const ALL: [Self; 6] = [
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
            Self::Move => "planned move",
            Self::Reboot => "node rebooted",
            Self::Maintenance => "rolling maintenance",
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
    /// One per service.
    pub rows: Vec<Row>,
}

/// A fault on one service.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// The service.
    pub service: Service,
    /// What its client felt.
    pub felt: Felt,
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
    let from = boot_ns();
    // (since when the clients are counted, until when)
    let (from, to) = match fault {
        Fault::Cut => {
            let at = provider.lab.switch.cut(&node)?;
            let served = taken_over(provider, &node);
            provider.lab.switch.heal()?;
            (at, served?)
        }
        Fault::Freeze => {
            let at = provider.machine(&node)?.freeze(true)?;
            let served = taken_over(provider, &node);
            provider.machine(&node)?.freeze(false)?;
            (at, served?)
        }
        Fault::KillAgent => {
            let at = provider.machine(&node)?.kill_unit(AGENT)?;
            let to = taken_over(provider, &node)?;
            (at, to)
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
            (from, taken_over(provider, &node)?)
        }
        Fault::Reboot => {
            provider.reboot(&node)?;
            provider.settled()?;
            (from, boot_ns())
        }
        Fault::Maintenance => {
            maintain(provider, &node)?;
            (from, boot_ns())
        }
    };
    let owners = provider.settled()?;
    if fault != Fault::Maintenance {
        ensure!(
            owners.iter().all(|owner| *owner != node),
            "{}: {node} should have lost all groups, but the owners are {owners:?}",
            fault.title()
        );
    }
    interrupt::until(SOON, POLL, || Ok(measure::ended(to)))?;
    let rows = Service::ALL
        .map(|service| judge(fault, service, measure::felt(provider, service, from, to)));
    let took_s = crate::clock::ms(boot_ns() - begin) / 1e3;
    Ok(Step {
        fault,
        node,
        owners,
        took_s,
        rows: rows.into(),
    })
}

/// Waits until another node than `old` answers for every service. Returns the instant.
fn taken_over(provider: &Provider, old: &str) -> Result<u64> {
    let mut serving = Vec::new();
    let served = interrupt::until(SOON, POLL, || {
        serving = Service::ALL
            .iter()
            .map(|service| provider.serves(*service))
            .collect();
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

/// All nodes one after the other, the owner first.
fn maintain(provider: &mut Provider, first: &str) -> Result<()> {
    let mut nodes: Vec<_> = provider
        .machines
        .iter()
        .map(|machine| machine.name().to_owned())
        .collect();
    nodes.sort_by_key(|node| node != first);
    for node in &nodes {
        let other = provider.other(node)?;
        rig::said(&other, &["drain", node])?;
        provider.reboot(node)?;
        provider.settled()?;
        rig::said(&other, &["undrain", node])?;
    }
    Ok(())
}

/// Sets what was felt beside what was promised.
fn judge(fault: Fault, service: Service, felt: Felt) -> Row {
    let (target, held) = match (fault, &felt.web) {
        (Fault::Cut | Fault::Freeze, _) => {
            (format!("<= {OUTAGE_MS} ms"), felt.outage_ms <= OUTAGE_MS)
        }
        (Fault::KillAgent, _) => (String::new(), true),
        (Fault::Move | Fault::Reboot | Fault::Maintenance, None) => {
            ("0 lost".into(), felt.lost == 0)
        }
        (Fault::Move | Fault::Reboot | Fault::Maintenance, Some(tcp)) => {
            // The connection that is kept is reset once by each new owner, at most.
            let moves = felt.by.len().saturating_sub(1);
            (
                format!("<= {moves} resets, refused <= {REFUSED_MS} ms, none slow"),
                tcp.resets <= moves
                    && tcp.hung == 0
                    && tcp.refused_ms <= REFUSED_MS
                    && tcp.slow == 0,
            )
        }
    };
    Row {
        service,
        felt,
        target,
        held,
    }
}
