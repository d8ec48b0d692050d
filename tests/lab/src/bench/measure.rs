//! One fault, seen from outside: what it cost the client, and who answered for the VIP.

use std::{fs, net::IpAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::{
    Subject,
    report::{Idle, Row, Spread},
};
use crate::{
    VIP4,
    clock::{boot_ns, ms},
    exec::run_ok,
    interrupt::{pass, until},
    ownership::Ownership,
    paint::Busy,
    probe_outage::OutageProber,
    probe_owner::OwnerProber,
};

const MS: Duration = Duration::from_millis(1);
const MS_NS: u64 = 1_000_000;
/// Echoes of the client; four per ms where one lost echo would be the whole outage.
const COARSE: Duration = MS;
const FINE: Duration = Duration::from_micros(250);
/// The longest that one fault is measured.
const LONGEST: Duration = Duration::from_secs(60);
/// How long all is watched after a takeover.
const AFTER: Duration = Duration::from_secs(1);
/// How long a system is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(5);
/// All must be well again by then.
const SETTLE: Duration = Duration::from_secs(30);

/// What is done to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Everything from and to the node is lost; no carrier changes.
    SilentCut,
    /// SIGSTOP to its processes.
    Sigstop,
    /// SIGKILL to its processes.
    Sigkill,
    /// A planned change of owner.
    Move,
}

impl Fault {
    /// All of them, in the order of a bench.
    pub const ALL: [Self; 4] = [Self::SilentCut, Self::Sigstop, Self::Sigkill, Self::Move];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SilentCut => "silent cut",
            Self::Sigstop => "SIGSTOP",
            Self::Sigkill => "SIGKILL",
            Self::Move => "planned move",
        }
    }
}

/// Measures a subject: idle first, then each fault `runs` times.
pub(super) fn all(
    subject: &mut dyn Subject,
    runs: usize,
    rows: &mut Vec<Row>,
    idles: &mut Vec<Idle>,
) -> Result<()> {
    let what = format!("{} ({})", subject.system(), subject.setting());
    let busy = Busy::with(format!("{what}: waiting for its first owner"));
    calm(subject)?;
    drop(busy);
    let busy = Busy::with(format!("{what}: watching it idle for {} s", IDLE.as_secs()));
    idles.push(idle(subject)?);
    drop(busy);
    for fault in Fault::ALL {
        let (mut outages, mut dual, mut noisy, mut early) = (Vec::new(), 0.0_f64, 0, 0);
        for run in 1..=runs {
            let _busy = Busy::with(format!("{what}: {}, {run} of {runs}", fault.name()));
            let one =
                once(subject, fault).with_context(|| format!("{}, run {run}", fault.name()))?;
            outages.push(ms(one.outage_ns));
            dual = dual.max(ms(one.dual_ns));
            noisy += usize::from(one.noisy);
            early += one.early;
        }
        rows.push(Row {
            system: subject.system(),
            setting: subject.setting(),
            fault,
            runs,
            outage_ms: Spread::of(&outages),
            dual_ms_max: dual,
            false_takeovers: early,
            noisy_runs: noisy,
            outages_ms: outages,
        });
    }
    Ok(())
}

struct One {
    outage_ns: u64,
    dual_ns: u64,
    /// The prober itself was not scheduled for a while.
    noisy: bool,
    /// Changes of owner before anything was done.
    early: usize,
}

/// Probers of one run.
struct Probes {
    client: OutageProber,
    owners: OwnerProber,
    from: u64,
}

impl Probes {
    fn start(subject: &dyn Subject, interval: Duration) -> Result<Self> {
        let lab = subject.lab();
        Ok(Self {
            client: OutageProber::start(&lab.client, IpAddr::V4(VIP4), interval, LONGEST)?,
            owners: OwnerProber::start(lab, VIP4, 2 * MS, LONGEST)?,
            from: boot_ns(),
        })
    }

    fn ownership(&self, from: u64) -> Ownership {
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

/// Waits until the subject is well, and one owner alone has served for a while. Returns it.
fn calm(subject: &mut dyn Subject) -> Result<String> {
    let probes = Probes::start(subject, COARSE)?;
    subject.settled()?;
    let mut owner = None;
    let well = until(SETTLE, 20 * MS, || {
        owner = probes.owner(subject);
        Ok(owner.is_some() && probes.client.answered_lately(300))
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

fn once(subject: &mut dyn Subject, fault: Fault) -> Result<One> {
    let old = calm(subject)?;
    let interval = if fault == Fault::Move { FINE } else { COARSE };
    let probes = Probes::start(subject, interval)?;
    // As a client that has just come: what it learns, it learns from whoever owns the VIP now.
    let mut flush = Command::new("ip");
    flush.args([
        "-n",
        subject.lab().client.ns.name(),
        "neigh",
        "flush",
        "dev",
        "eth0",
    ]);
    run_ok(flush, "", Duration::from_secs(5))?;
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
    let next = names.clone().cycle().skip_while(|name| *name != old).nth(1);
    let next = next.context("a lab with one node")?;

    let at = match fault {
        Fault::SilentCut => subject.lab_mut().switch.cut(&old)?,
        _ => boot_ns(),
    };
    match fault {
        Fault::SilentCut => {}
        Fault::Sigstop => subject.freeze(&old)?,
        Fault::Sigkill => subject.kill(&old)?,
        Fault::Move => subject.hand_over(&old, &next)?,
    }
    let index = subject.lab().nodes.iter().position(|node| node.name == old);
    let taken = until(subject.give_up(), 5 * MS, || {
        let lately = probes.ownership(at.max(boot_ns().saturating_sub(100 * MS_NS)));
        let other = lately.spans.iter().any(|span| Some(span.node) != index);
        Ok(other && probes.client.answered_lately(30))
    })?;
    pass(AFTER)?;
    let end = boot_ns();
    let outage = probes
        .client
        .outage(at.saturating_sub(5 * MS_NS), end - 20 * MS_NS);
    let seen = probes.ownership(at);
    if probes.client.full() {
        bail!("the prober's record is full");
    }

    match fault {
        Fault::SilentCut => drop(subject.lab_mut().switch.heal()?),
        Fault::Sigstop => subject.thaw(&old)?,
        Fault::Sigkill => subject.start(&old)?,
        Fault::Move => subject.after_hand_over(&old)?,
    }
    if !taken {
        bail!("nobody took over from {old} within {:?}", subject.give_up());
    }
    Ok(One {
        outage_ns: outage.ns(),
        dual_ns: seen.dual_ns,
        noisy: outage.stall_ns > 5 * MS_NS,
        early: before.changes(),
    })
}

/// Processor time (ticks) and memory (KiB) of some processes.
fn cost(pids: &[u32]) -> Result<(u64, u64)> {
    let (mut ticks, mut memory) = (0, 0);
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may contain anything: state is the first word, times are 12 and 13.
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        for at in [11, 12] {
            ticks += words
                .get(at)
                .and_then(|word| word.parse().ok())
                .unwrap_or(0_u64);
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        memory += kib.and_then(|kib| kib.parse().ok()).unwrap_or(0_u64);
    }
    Ok((ticks, memory))
}

fn idle(subject: &mut dyn Subject) -> Result<Idle> {
    let owner = calm(subject)?;
    let probes = Probes::start(subject, COARSE)?;
    let pids = subject.processes(&owner)?;
    let (before, at) = (cost(&pids)?.0, boot_ns());
    pass(IDLE)?;
    let (after, memory) = cost(&pids)?;
    let seconds = ms(boot_ns() - at) / 1e3;
    // SAFETY: a plain call that reads a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    let seen = probes.ownership(probes.from);
    Ok(Idle {
        system: subject.system(),
        setting: subject.setting(),
        seconds,
        cpu_percent: (after - before) as f64 / per_second / seconds * 100.0,
        rss_mb: memory as f64 / 1024.0,
        false_takeovers: seen.changes(),
    })
}
