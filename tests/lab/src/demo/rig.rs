//! The cluster under measurement: probers, the page fetcher, and the faults of each step.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::record::{FAILURE_LIMIT_MS, MOVE_LIMIT_MS, Points, Seen, Step};
use crate::{
    VIP4, VIP6,
    clock::boot_ns,
    cluster::Cluster,
    fetch::{DEADLINE as PAGE_DEADLINE, Fetcher},
    interrupt::{pass, until},
    paint::Busy,
    probe_outage::OutageProber,
    probe_owner::OwnerProber,
};

const MS: Duration = Duration::from_millis(1);
const MS_NS: u64 = 1_000_000;
/// Echoes of the client.
const COARSE: Duration = MS;
/// Echoes of the client during a planned move. An outage is counted from answer to answer, so one
/// lost echo makes two intervals of it: at 1 ms that would be the whole limit of a move.
const FINE: Duration = Duration::from_micros(250);
/// The longest that the demo measures.
const LONGEST: Duration = Duration::from_secs(180);
/// An agent that comes back, everyone alive again.
const SETTLE: Duration = Duration::from_secs(15);
/// No new owner after this: the step has failed.
const GIVE_UP: Duration = Duration::from_secs(5);
/// The group of the demo.
const GROUP: &str = "web";

/// A fault that costs the owner its VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything from and to the node is lost; no carrier changes.
    Cut,
    /// SIGSTOP to its agent.
    Freeze,
    /// SIGKILL to its agent.
    Kill,
}

/// The cluster and everything that measures it. Probers stop before the cluster goes.
#[derive(Debug)]
pub struct Rig {
    /// Echoes over IPv4.
    pub v4: OutageProber,
    /// Echoes over IPv6.
    pub v6: OutageProber,
    /// Who answers.
    pub owners: OwnerProber,
    /// Pages.
    pub pages: Fetcher,
    /// The cluster.
    pub cluster: Cluster,
    /// When the measurements began.
    pub from: u64,
    interval: Duration,
}

impl Rig {
    /// Starts all probers. The VIP need not have an owner yet.
    ///
    /// # Errors
    /// A prober does not start.
    pub fn start(cluster: Cluster) -> Result<Self> {
        let lab = &cluster.lab;
        Ok(Self {
            v4: OutageProber::start(&lab.client, IpAddr::V4(VIP4), COARSE, LONGEST)?,
            v6: OutageProber::start(&lab.client, IpAddr::V6(VIP6), COARSE, LONGEST)?,
            interval: COARSE,
            owners: OwnerProber::start(lab, VIP4, 2 * MS, LONGEST)?,
            pages: Fetcher::start(&lab.client, IpAddr::V4(VIP4), 5 * MS)?,
            cluster,
            from: boot_ns(),
        })
    }

    /// Replaces the client's probers by others, unless they have that interval already.
    fn probe_every(&mut self, interval: Duration) -> Result<()> {
        if self.interval != interval {
            let client = &self.cluster.lab.client;
            self.v4 = OutageProber::start(client, IpAddr::V4(VIP4), interval, LONGEST)?;
            self.v6 = OutageProber::start(client, IpAddr::V6(VIP6), interval, LONGEST)?;
            self.interval = interval;
        }
        Ok(())
    }

    /// Waits until all agents agree and the client has been served for a while.
    ///
    /// # Errors
    /// They do not agree in time, or Ctrl-C.
    pub fn settle(&mut self) -> Result<()> {
        self.cluster.settled(SETTLE)?;
        let served = until(SETTLE, 5 * MS, || {
            Ok(self.v4.answered_lately(200) && self.v6.answered_lately(200))
        })?;
        if !served {
            bail!("the agents agree, but the client is not served: see their logs");
        }
        Ok(())
    }

    /// The node that answers for the VIP, measured on the wire.
    #[must_use]
    pub fn wire_owner(&self) -> Option<String> {
        let now = boot_ns();
        let seen = self.owners.ownership(now.saturating_sub(50 * MS_NS), now);
        let node = seen.spans.last()?.node;
        self.cluster
            .lab
            .nodes
            .get(node)
            .map(|node| node.name.clone())
    }

    /// The node that alone answered for the VIP in a window, if it was one and the same.
    #[must_use]
    pub fn sole_owner(&self, from: u64, to: u64) -> Option<String> {
        let spans = self.owners.ownership(from, to).spans;
        let node = spans.first()?.node;
        let alone = spans.iter().all(|span| span.node == node);
        let station = self.cluster.lab.nodes.get(node).filter(|_| alone)?;
        Some(station.name.clone())
    }

    /// An error unless `old` alone answered just before a fault: else the fault hit somebody who
    /// was not the owner, and what follows would prove nothing.
    ///
    /// # Errors
    /// As said.
    pub fn hit_the_owner(&self, old: &str, at: u64) -> Result<()> {
        // Long enough that the prober was scheduled in it even on a busy machine.
        let before = self.sole_owner(at.saturating_sub(60 * MS_NS), at);
        if before.as_deref() != Some(old) {
            bail!(
                "the fault was meant for the owner {old}, but just before it {before:?} answered"
            );
        }
        Ok(())
    }

    /// What was seen in a window; waits until its last pages have ended.
    fn seen(&self, from_ns: u64, to_ns: u64) -> Result<Seen> {
        let ended = to_ns + PAGE_DEADLINE.as_nanos() as u64 + 50 * MS_NS;
        until(Duration::from_secs(5), 5 * MS, || Ok(boot_ns() > ended))?;
        // Echoes and pages under way at the fault belong to it.
        let early = from_ns.saturating_sub(5 * MS_NS);
        Ok(Seen {
            from_ns,
            to_ns,
            v4: self.v4.outage(early, to_ns),
            v6: self.v6.outage(early, to_ns),
            pages: self.pages.count(early, to_ns),
            ownership: self.owners.ownership(early, to_ns),
        })
    }

    /// A fault on the owner, the takeover, and the healing: with three nodes the next fault would
    /// leave no majority otherwise.
    ///
    /// # Errors
    /// The cluster does not settle, or Ctrl-C.
    pub fn fault(&mut self, key: &'static str, fault: Fault) -> Result<Step> {
        let busy = Busy::with(match fault {
            Fault::Cut => "cutting the owner off",
            Fault::Freeze => "freezing the owner",
            Fault::Kill => "killing the owner's agent",
        });
        let old = self.calm(COARSE)?;
        let (title, did) = match fault {
            Fault::Cut => (
                "silent cut",
                format!("{old} is cut off, both ways; its link stays up"),
            ),
            Fault::Freeze => ("SIGSTOP", format!("the agent of {old} is frozen")),
            Fault::Kill => ("SIGKILL", format!("the agent of {old} is killed")),
        };
        let mut step = Step::new(key, title, did);
        let at = match fault {
            Fault::Cut => self.cluster.lab.switch.cut(&old)?,
            Fault::Freeze => {
                let at = boot_ns();
                self.cluster.freeze(&old)?;
                at
            }
            Fault::Kill => {
                let at = boot_ns();
                self.cluster.agent(&old)?.kill()?;
                at
            }
        };
        self.takeover(&mut step, at, &old)?;
        drop(busy);

        let _busy = Busy::with("healing");
        let (how, healed) = match fault {
            Fault::Cut => (
                format!("{old} is connected again"),
                self.cluster.lab.switch.heal()?,
            ),
            Fault::Freeze => {
                let at = boot_ns();
                self.cluster.thaw(&old)?;
                (format!("the agent of {old} goes on (SIGCONT)"), at)
            }
            Fault::Kill => {
                let at = boot_ns();
                self.cluster.agent(&old)?.start()?;
                (format!("the agent of {old} is started again"), at)
            }
        };
        self.settle()?;
        pass(300 * MS)?;
        step.healed = Some((how, self.seen(healed, boot_ns())?));
        step.expect_takeover(FAILURE_LIMIT_MS);
        step.expect_quiet_heal();
        Ok(step)
    }

    /// A planned move to the next node.
    ///
    /// # Errors
    /// As [`Rig::fault`].
    pub fn planned_move(&mut self, key: &'static str) -> Result<Step> {
        let _busy = Busy::with("moving the VIP");
        let old = self.calm(FINE)?;
        let names: Vec<_> = self
            .cluster
            .lab
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect();
        let own = names.iter().position(|name| *name == old).unwrap_or(0);
        let new = names[(own + 1) % names.len()].clone();
        let did = format!("heartline move {GROUP} {new} (4 echoes per ms)");
        let mut step = Step::new(key, "planned move", did);
        let at = boot_ns();
        self.cluster.agent(&new)?.cli_ok(&["move", GROUP, &new])?;
        self.takeover(&mut step, at, &old)?;
        // The command itself takes some milliseconds to start: the move begins when it arrives.
        if let Some(points) = step.points {
            step.seen.from_ns = points.detected_ns.max(at);
        }
        step.parts.clear();
        step.split();
        step.expect_takeover(MOVE_LIMIT_MS);
        Ok(step)
    }

    /// Undoes whatever is left and sees that all three nodes are back, with nothing lost.
    ///
    /// # Errors
    /// As [`Rig::fault`].
    pub fn heal_all(&mut self, key: &'static str) -> Result<Step> {
        let _busy = Busy::with("healing all");
        let old = self.calm(COARSE)?;
        let did = "no cut is left, all agents run, all nodes see each other and agree".to_owned();
        let mut step = Step::new(key, "heal all", did);
        let at = self.cluster.lab.switch.heal()?;
        self.nothing_lost(&mut step, at, old)?;
        Ok(step)
    }

    /// SIGHUP to all agents after a change that need not move anything.
    ///
    /// # Errors
    /// As [`Rig::fault`].
    pub fn reload(&mut self, key: &'static str) -> Result<Step> {
        let _busy = Busy::with("reloading all agents");
        let old = self.calm(COARSE)?;
        let did = "announce_interval changed, SIGHUP to all agents".to_owned();
        let mut step = Step::new(key, "reload", did);
        let path = self.cluster.config().to_owned();
        let text = std::fs::read_to_string(&path)?;
        // A key of the top table has to stand before the first header.
        let kept = text
            .lines()
            .filter(|line| !line.starts_with("announce_interval"));
        let kept: Vec<_> = kept.collect();
        std::fs::write(
            &path,
            format!("announce_interval = \"45s\"\n{}\n", kept.join("\n")),
        )?;
        let at = boot_ns();
        for node in self.cluster.answering() {
            self.cluster.agent(&node)?.signal(Signal::SIGHUP)?;
        }
        for node in self.cluster.answering() {
            let done = until(SETTLE, 50 * MS, || {
                Ok(self.event(&node, "reload", at)?.is_some())
            })?;
            if !done {
                bail!(
                    "{node} tells of no reload: {}",
                    self.cluster.agent(&node)?.log_tail()
                );
            }
        }
        self.nothing_lost(&mut step, at, old)?;
        Ok(step)
    }

    /// `heartline restart` on the owner.
    ///
    /// # Errors
    /// As [`Rig::fault`].
    pub fn planned_restart(&mut self, key: &'static str) -> Result<Step> {
        let _busy = Busy::with("restarting the owner's agent");
        let old = self.calm(COARSE)?;
        let mut step = Step::new(
            key,
            "planned restart",
            format!("heartline restart on {old}"),
        );
        let at = boot_ns();
        self.cluster.agent(&old)?.planned_restart(SETTLE)?;
        self.nothing_lost(&mut step, at, old)?;
        Ok(step)
    }

    fn nothing_lost(&mut self, step: &mut Step, at: u64, old: String) -> Result<()> {
        self.settle()?;
        pass(300 * MS)?;
        step.seen = self.seen(at, boot_ns())?;
        step.from = Some(old);
        step.to = self.wire_owner();
        step.expect_nothing_lost();
        Ok(())
    }

    /// Waits until all is well, then for a random phase of the heartbeat; returns the owner.
    fn calm(&mut self, interval: Duration) -> Result<String> {
        self.probe_every(interval)?;
        self.settle()?;
        pass(Duration::from_micros(200_000 + boot_ns() % 10_000))?;
        self.wire_owner()
            .context("the agents agree on an owner, but nobody answers for the VIP")
    }

    /// Waits for another owner, looking at the wire alone, and fills the step.
    fn takeover(&mut self, step: &mut Step, at: u64, old: &str) -> Result<()> {
        self.hit_the_owner(old, at)?;
        step.from = Some(old.to_owned());
        until(GIVE_UP, 2 * MS, || {
            let other = self.wire_owner().is_some_and(|owner| owner != old);
            Ok(other && self.v4.answered_lately(30) && self.v6.answered_lately(30))
        })?;
        step.to = self.wire_owner();
        step.seen = self.seen(at, boot_ns().max(at + 500 * MS_NS))?;
        if let Some(new) = step.to.clone().filter(|new| new != old) {
            let gained = self.event(&new, "gained", at)?;
            step.points = gained.as_ref().and_then(Points::of);
        }
        step.split();
        Ok(())
    }

    /// The first event of a kind that a node tells at or after an instant.
    fn event(&mut self, node: &str, kind: &str, from: u64) -> Result<Option<Value>> {
        let events = self.cluster.agent(node)?.events()?;
        Ok(events.into_iter().find(|event| {
            event.get("kind").and_then(Value::as_str) == Some(kind)
                && event
                    .get("boot_ns")
                    .and_then(Value::as_u64)
                    .is_some_and(|at| at >= from)
        }))
    }
}
