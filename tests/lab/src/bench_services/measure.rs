//! One fault, once: what the clients of each service felt, and whether two nodes answered at once.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{
    Fault, Setting,
    rig::{Owners, Rig},
    subject::Subject,
};
use crate::{
    clock::{boot_ns, ms},
    interrupt,
    provider::{measure::longest, rig::Service},
};

const MS: u64 = 1_000_000;
const POLL: Duration = Duration::from_millis(20);
/// By then a cluster is whole again, or it never will be: a boot and Pacemaker's second thoughts are in it.
const SETTLED: Duration = Duration::from_secs(120);
/// What comes after the takeover is watched for so long.
const AFTER: Duration = Duration::from_secs(1);
/// Who stood still for longer than this, as a client, has measured itself.
const STALL_MS: f64 = 60.0;
/// A wish is carried out by then, or it is forgotten and said again.
const MOVED: Duration = Duration::from_secs(15);
/// Attempts to bring all VIPs to one node.
const GATHERS: usize = 5;

/// What the client of one service felt in one run.
#[derive(Clone, Debug, Serialize)]
pub struct One {
    /// How the system was set up.
    pub setting: Setting,
    /// What was done.
    pub fault: Fault,
    /// The service.
    pub service: Service,
    /// The longest time between two good answers from the fault on, ms. Nothing lost: 10 (web: 20).
    pub outage_ms: f64,
    /// Requests (web: new connections) from the fault until all services were answered again.
    pub asked: usize,
    /// Of those, never answered well.
    pub lost: usize,
    /// How long two nodes answered for the VIP at once, until 1 s after the takeover, ms.
    pub dual_ms: f64,
    /// Whether another node took over while we watched.
    pub taken_over: bool,
    /// The longest time between two good answers while all was mended, ms.
    pub mended_ms: f64,
    /// The client itself stood still.
    pub client_stalled: bool,
}

/// Does it to the node that has all VIPs, measures, and mends.
///
/// # Errors
/// Something that has nothing to do with speed: the cluster does not come together again, say.
pub(super) fn once(subject: &mut dyn Subject, setting: Setting, fault: Fault) -> Result<Vec<One>> {
    let node = gather(subject)?;
    let owners = subject.rig().watch()?;
    // Some answers, then any phase of the checks.
    let phase = setting.phase().as_nanos() as u64;
    let random = (boot_ns() / 1000).wrapping_mul(2_654_435_761) % phase;
    interrupt::pass(Duration::from_nanos(300 * MS + random))?;
    let from = boot_ns();
    inflict(subject, fault, &node).context("the fault")?;
    let taken = taken_over(subject.rig(), &node, setting.give_up(fault))?;
    let to = boot_ns();
    interrupt::pass(AFTER)?;
    let end = boot_ns();
    mend(subject, fault, &node).context("mending")?;
    settled(subject, Some(&owners)).context("after it was mended")?;
    let whole = boot_ns();
    let rig = subject.rig();
    interrupt::until(SETTLED, POLL, || Ok(Rig::ended(to)))?;
    Ok(Service::ALL
        .into_iter()
        .zip(taken)
        .map(|(service, taken_over)| {
            let (asked, lost, stall) = rig.asked(service, from.saturating_sub(10 * MS), to);
            One {
                setting,
                fault,
                service,
                outage_ms: outage(rig, service, from, to),
                asked,
                lost,
                dual_ms: ms(owners.dual_ns(service, from, end)),
                taken_over,
                mended_ms: outage(rig, service, end, whole),
                client_stalled: ms(stall) > STALL_MS,
            }
        })
        .collect())
}

/// The longest time between two good answers of which the later one came in `[from, to)`, or none came any more.
fn outage(rig: &Rig, service: Service, from: u64, to: u64) -> f64 {
    // It may have begun long before: whoever was without at `from` was without until the next answer.
    let before = from.saturating_sub(300 * MS);
    let answers = rig.answers(service, before, to);
    longest(answers.into_iter().map(|(at, _)| at), from, to)
}

/// Waits until one node answers for all services and all is well; returns who answers for each.
///
/// # Errors
/// Not in time; the error says what was missing.
pub(super) fn settled(subject: &mut dyn Subject, owners: Option<&Owners>) -> Result<Vec<String>> {
    let mut last = String::new();
    let mut found = None;
    interrupt::until(SETTLED, POLL, || {
        if let Err(why) = subject.well()? {
            last = why;
            return Ok(false);
        }
        let serving = subject.rig().serving();
        let since = boot_ns().saturating_sub(300 * MS);
        if owners.is_some_and(|owners| owners.dual_since(since)) {
            last = "two nodes answer for one VIP".into();
            return Ok(false);
        }
        found = serving.iter().cloned().collect::<Option<Vec<_>>>();
        last = format!("well by its own word, but served by {serving:?}");
        Ok(found.is_some())
    })?;
    found.with_context(|| format!("not whole after {SETTLED:?}: {last}"))
}

/// Brings all VIPs to one node: a fault there hits all services at once. Returns the node.
fn gather(subject: &mut dyn Subject) -> Result<String> {
    for _ in 0..GATHERS {
        let owners = settled(subject, None)?;
        let mut groups: BTreeMap<&String, Vec<&'static str>> = BTreeMap::new();
        for (service, owner) in Service::ALL.into_iter().zip(&owners) {
            groups.entry(owner).or_default().push(service.group());
        }
        let most = groups.iter().max_by_key(|(_, groups)| groups.len());
        let target = most.map(|(node, _)| (*node).clone());
        let target = target.context("nobody serves")?;
        groups.retain(|node, _| **node != target);
        if groups.is_empty() {
            return Ok(target);
        }
        for (node, groups) in groups {
            subject.hand_over(&groups, node, &target)?;
            // Until it is so: an owner that is told to forget the wish too early keeps the VIP.
            let all = Service::ALL.into_iter();
            let moved: Vec<_> = all.filter(|s| groups.contains(&s.group())).collect();
            interrupt::until(MOVED, POLL, || {
                let rig = subject.rig();
                let left = |service: &Service| rig.serves(*service).is_some_and(|by| by != *node);
                Ok(moved.iter().all(left))
            })?;
            subject.after_hand_over(node)?;
        }
    }
    bail!("the VIPs do not come together on one node")
}

/// Words for all services at once.
fn systemctl(words: &[&'static str]) -> Vec<&'static str> {
    let units = Service::ALL.map(Service::unit);
    ["systemctl"]
        .into_iter()
        .chain(words.iter().copied())
        .chain(units)
        .collect()
}

fn inflict(subject: &mut dyn Subject, fault: Fault, node: &str) -> Result<()> {
    let units = subject.units();
    match fault {
        Fault::Cut => {
            subject.rig().lab.switch.cut(node)?;
        }
        Fault::Freeze => {
            subject.rig().machine(node)?.freeze(true)?;
        }
        Fault::KillAgent => {
            let mut words = vec!["systemctl", "kill", "--kill-whom=all", "--signal=KILL"];
            words.extend(units);
            subject.rig().machine(node)?.run_ok(&words)?;
        }
        Fault::KillUnit => {
            let words = systemctl(&["kill", "--kill-whom=all", "--signal=KILL"]);
            subject.rig().machine(node)?.run_ok(&words)?;
        }
        Fault::Hang => {
            let words = systemctl(&["kill", "--kill-whom=all", "--signal=STOP"]);
            subject.rig().machine(node)?.run_ok(&words)?;
        }
        Fault::Move => {
            let to = subject.rig().other(node)?;
            subject.hand_over(&Service::ALL.map(Service::group), node, &to)?;
        }
        Fault::Reboot => {
            // The machine may be faster than the answer.
            let words = ["systemctl", "--no-block", "reboot"];
            let _ = subject.rig().machine(node)?.run(&words);
        }
    }
    Ok(())
}

fn mend(subject: &mut dyn Subject, fault: Fault, node: &str) -> Result<()> {
    match fault {
        Fault::Cut => {
            subject.rig().lab.switch.heal()?;
        }
        Fault::Freeze => {
            subject.rig().machine(node)?.freeze(false)?;
        }
        Fault::KillAgent => {}
        Fault::KillUnit => {
            let words = systemctl(&["start"]);
            subject.rig().machine(node)?.run_ok(&words)?;
        }
        Fault::Hang => {
            // Where the unit was started again meanwhile, there is none to be woken.
            let machine = subject.rig().machine(node)?;
            machine.run(&systemctl(&["kill", "--kill-whom=all", "--signal=CONT"]))?;
            machine.run_ok(&systemctl(&["start"]))?;
        }
        Fault::Move => subject.after_hand_over(node)?,
        Fault::Reboot => subject.rig().come_back(node)?,
    }
    subject.mend(node)
}

/// Waits until another node than `old` answers for every service; says for which it does.
fn taken_over(rig: &Rig, old: &str, deadline: Duration) -> Result<Vec<bool>> {
    let mut taken = Vec::new();
    interrupt::until(deadline, POLL, || {
        let serving = rig.serving().into_iter();
        taken = serving
            .map(|node| node.is_some_and(|node| node != old))
            .collect();
        Ok(taken.iter().all(|taken| *taken))
    })?;
    Ok(taken)
}
