//! One fault, seen from outside: what it cost the client, and who answered for the VIP.

use std::{net::IpAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::{Fault, Setting, load::Stress, subject::Subject};
use crate::{
    VIP4,
    clock::{boot_ns, ms},
    exec::run_ok,
    interrupt::{pass, until},
    ownership::Ownership,
    probe_outage::{Outage, OutageProber},
    probe_owner::OwnerProber,
};

pub(super) const MS: Duration = Duration::from_millis(1);
const MS_NS: u64 = 1_000_000;
/// Echoes of the client; ten per ms where one lost echo would be the whole outage.
const COARSE: Duration = MS;
const FINE: Duration = Duration::from_micros(100);
/// The longest that one fault is measured, and the longest with [`FINE`] echoes.
const LONGEST: Duration = Duration::from_secs(40);
const LONGEST_FINE: Duration = Duration::from_secs(20);
/// A client that was answered for so long is served again.
const SERVED: Duration = Duration::from_millis(100);
/// How long all is watched after a takeover.
const AFTER: Duration = Duration::from_secs(1);
/// The longest that a client is watched after a heal.
const HEALED: Duration = Duration::from_secs(10);
/// All must be well again by then.
const SETTLE: Duration = Duration::from_secs(45);
/// How long the machine is loaded.
pub(super) const LOAD: Duration = Duration::from_secs(60);
/// Intervals of heartbeats: a takeover of Heartline takes 5 or 6.
const LONG: f64 = 9.0;
/// The prober stood still for longer than this: the run says so.
const NOISY: u64 = 5 * MS_NS;

/// What one fault did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct One {
    pub setting: Setting,
    pub fault: Fault,
    /// keepalived under load: with real-time priority?
    pub real_time: bool,
    /// How long the client went without an answer, from the fault until it was served again without a loss for
    /// [`SERVED`], ms.
    pub outage_ms: f64,
    /// What it lost after that, while all was watched for another second, ms: another story, such as a machine that
    /// stood still.
    pub later_ms: f64,
    /// For how long two nodes answered for the VIP, ms.
    pub dual_ms: f64,
    /// Changes of owner that nothing had caused.
    pub false_takeovers: usize,
    /// Another node came to serve. If not, the outage is as long as we watched.
    pub taken_over: bool,
    /// For how long all this was watched, from the fault on, ms.
    pub watched_ms: f64,
    /// The prober itself was not scheduled for a while (noise of the machine).
    pub prober_stalled: bool,
    /// What Heartline says of a takeover that took long.
    pub told: Vec<String>,
}

/// Probers of one run.
pub(super) struct Probes {
    pub client: OutageProber,
    owners: OwnerProber,
    pub from: u64,
}

impl Probes {
    pub(super) fn start(
        subject: &dyn Subject,
        interval: Duration,
        longest: Duration,
    ) -> Result<Self> {
        let lab = subject.lab();
        Ok(Self {
            client: OutageProber::start(&lab.client, IpAddr::V4(VIP4), interval, longest)?,
            owners: OwnerProber::start(lab, VIP4, 2 * MS, longest)?,
            from: boot_ns(),
        })
    }

    pub(super) fn ownership(&self, from: u64) -> Ownership {
        self.owners.ownership(from, boot_ns())
    }

    /// The only node that answered lately.
    fn owner(&self, subject: &dyn Subject) -> Option<String> {
        let seen = self.ownership(boot_ns().saturating_sub(100 * MS_NS));
        let node = seen.spans.first()?.node;
        let alone = seen.spans.iter().all(|span| span.node == node);
        let station = subject.lab().nodes.get(node).filter(|_| alone)?;
        Some(station.name.clone())
    }
}

/// The client forgets who has the VIP, as one that has just come.
fn forget(subject: &dyn Subject) -> Result<()> {
    let client = subject.lab().client.ns.name().to_owned();
    let mut flush = Command::new("ip");
    flush.args(["-n", &client, "neigh", "flush", "dev", "eth0"]);
    run_ok(flush, "", Duration::from_secs(5)).map(drop)
}

/// Waits until the subject is well, and one owner alone has served for a while. Returns it.
pub(super) fn calm(subject: &mut dyn Subject) -> Result<String> {
    forget(subject)?;
    let probes = Probes::start(subject, COARSE, 2 * SETTLE)?;
    subject.settled()?;
    let mut owner = None;
    let well = until(SETTLE, 20 * MS, || {
        owner = probes.owner(subject);
        Ok(owner.is_some() && probes.client.answered_lately(200))
    })?;
    let seen = probes.ownership(boot_ns().saturating_sub(100 * MS_NS));
    match owner {
        Some(owner) if well => Ok(owner),
        _ => bail!("no single owner serves after {SETTLE:?}: {:?}", seen.spans),
    }
}

/// A number that nobody chose, below `below`.
fn random(below: u64) -> u64 {
    // The low digits of the clock, mixed: phases need no better.
    let mut x = boot_ns() | 1;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    x % below.max(1)
}

/// Does one thing to the owner. A silent cut is mended at the end, and what that did comes second.
pub(super) fn once(subject: &mut dyn Subject, fault: Fault) -> Result<(One, Option<One>)> {
    let old = calm(subject)?;
    let fine = fault == Fault::Move;
    let (interval, longest) = if fine {
        (FINE, LONGEST_FINE)
    } else {
        (COARSE, LONGEST)
    };
    forget(subject)?;
    let probes = Probes::start(subject, interval, longest)?;
    let phase = random(subject.interval().as_nanos() as u64);
    pass(200 * MS + Duration::from_nanos(phase))?;
    let before = probes.ownership(probes.from);
    if probes.owner(subject).as_deref() != Some(old.as_str()) {
        bail!(
            "{old} was to be hit, but it is not the owner: {:?}",
            before.spans
        );
    }
    let names = subject.lab().nodes.iter().map(|node| node.name.clone());
    let others: Vec<_> = names.filter(|name| *name != old).collect();
    let next = others.first().context("a lab with one node")?.clone();

    let at = match fault {
        Fault::SilentCut | Fault::Heal => subject.lab_mut().switch.cut(&old)?,
        Fault::Partition => {
            let others: Vec<_> = others.iter().map(String::as_str).collect();
            subject.lab_mut().switch.partition(&[&old], &others)?
        }
        Fault::Sigstop | Fault::Sigkill | Fault::Move | Fault::Load => boot_ns(),
    };
    match fault {
        Fault::SilentCut | Fault::Heal | Fault::Partition | Fault::Load => {}
        Fault::Sigstop => subject.freeze(&old)?,
        Fault::Sigkill => subject.kill(&old)?,
        Fault::Move => subject.hand_over(&old, &next)?,
    }
    let index = subject.lab().nodes.iter().position(|node| node.name == old);
    let taken_over = until(subject.give_up(), 5 * MS, || {
        let lately = probes.ownership(at.max(boot_ns().saturating_sub(100 * MS_NS)));
        let other = lately.spans.iter().any(|span| Some(span.node) != index);
        let probes_served = (SERVED.as_nanos() / interval.as_nanos().max(1)) as usize;
        Ok(other && probes.client.answered_lately(probes_served))
    })?;
    let served = boot_ns();
    pass(AFTER)?;
    let end = boot_ns();
    let mut one = judge(subject, fault, &probes, [at, served, end], taken_over)?;
    one.false_takeovers += before.changes();

    let mut healed = None;
    match fault {
        Fault::SilentCut | Fault::Heal => {
            let at = subject.lab_mut().switch.heal()?;
            healed = Some(after_heal(subject, &probes, at)?);
        }
        Fault::Partition => drop(subject.lab_mut().switch.heal()?),
        Fault::Sigstop => subject.thaw(&old)?,
        Fault::Sigkill => subject.start(&old)?,
        Fault::Move => subject.after_hand_over(&old)?,
        Fault::Load => {}
    }
    if one.outage_ms + one.later_ms > LONG * ms(subject.interval().as_nanos() as u64) {
        one.told = subject.told(at);
    }
    Ok((one, healed))
}

/// `times`: of the fault, when the client was served again, of the end.
fn judge(
    subject: &dyn Subject,
    fault: Fault,
    probes: &Probes,
    times: [u64; 3],
    taken_over: bool,
) -> Result<One> {
    if probes.client.full() {
        bail!("the prober's record is full");
    }
    let [at, served, end] = times;
    // Probes of the last moments are under way.
    let last = end - 20 * MS_NS;
    let until = if taken_over { served } else { end };
    let outage = probes
        .client
        .outage(at.saturating_sub(5 * MS_NS), until - 20 * MS_NS);
    let later = probes.client.outage(until - 20 * MS_NS, last.max(until));
    let seen = probes.ownership(at);
    // Nothing was done to the new owner. (Two owners answer in turn: that is no change.)
    let changed = if seen.dual_rounds == 0 && taken_over {
        probes.ownership(served).changes()
    } else {
        0
    };
    Ok(One {
        setting: subject.setting(),
        fault,
        real_time: true,
        outage_ms: ms(outage.ns()),
        later_ms: if taken_over { lost_ms(&later) } else { 0.0 },
        dual_ms: ms(seen.dual_ns),
        false_takeovers: changed,
        taken_over,
        watched_ms: ms(end - at),
        prober_stalled: outage.stall_ns > NOISY || later.stall_ns > NOISY && lost_ms(&later) > 0.0,
        told: Vec::new(),
    })
}

/// All gaps: what was merely slow is no black hole.
fn lost_ms(outage: &Outage) -> f64 {
    let gaps = outage.gaps.iter().map(|gap| gap.to - gap.from);
    ms(gaps.sum())
}

/// A cut is mended: does the client go on to reach the VIP?
fn after_heal(subject: &dyn Subject, probes: &Probes, at: u64) -> Result<One> {
    // The owners first have to hear of each other; then whoever the client asks in vain shows.
    pass(AFTER / 2 + subject.interval() * 4)?;
    until(HEALED, 20 * MS, || Ok(probes.client.answered_lately(400)))?;
    let end = boot_ns();
    let outage = probes.client.outage(at, end - 20 * MS_NS);
    // Who had it when the cut ended, and how often it changed hands from there: once is keepalived's way of settling
    // two owners, and what it does to the client is in the outage.
    let seen = probes.ownership(at);
    if probes.client.full() {
        bail!("the prober's record is full");
    }
    Ok(One {
        setting: subject.setting(),
        fault: Fault::Heal,
        real_time: true,
        outage_ms: lost_ms(&outage),
        later_ms: 0.0,
        dual_ms: ms(seen.dual_ns),
        false_takeovers: 0,
        taken_over: outage.over(),
        watched_ms: ms(end - at),
        prober_stalled: outage.stall_ns > NOISY,
        told: Vec::new(),
    })
}

/// 60 s of load in `runs` slices: no fault, so every change of owner is a false one.
pub(super) fn load(
    subject: &mut dyn Subject,
    runs: usize,
    real_time: bool,
    mut tick: impl FnMut(f64),
) -> Result<Vec<One>> {
    calm(subject)?;
    let probes = Probes::start(subject, COARSE, LOAD + 20 * Duration::from_secs(1))?;
    pass(200 * MS)?;
    let stress = Stress::start(LOAD)?;
    // Its workers come up within this time.
    pass(500 * MS)?;
    let start = boot_ns();
    let length = LOAD.as_nanos() as u64;
    while boot_ns() < start + length {
        pass(500 * MS)?;
        tick(((boot_ns() - start) as f64 / length as f64).min(1.0));
    }
    stress.end()?;
    let mut slices = Vec::new();
    let taken = probes.owners.ownership(start, start + length).taken();
    for run in 0..runs as u64 {
        let from = start + length / runs as u64 * run;
        let to = from + length / runs as u64;
        let outage = probes.client.outage(from, to);
        let seen = probes.owners.ownership(from, to);
        slices.push(One {
            setting: subject.setting(),
            fault: Fault::Load,
            real_time,
            outage_ms: lost_ms(&outage),
            later_ms: 0.0,
            dual_ms: ms(seen.dual_ns),
            false_takeovers: taken.iter().filter(|at| (from..to).contains(*at)).count(),
            taken_over: true,
            watched_ms: ms(to - from),
            prober_stalled: outage.stall_ns > NOISY,
            told: Vec::new(),
        });
    }
    if probes.client.full() {
        bail!("the prober's record is full");
    }
    Ok(slices)
}
