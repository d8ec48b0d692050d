//! What must hold, seen from outside: who answers, what clients lose, processes, addresses, events.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{GROUPS, Spec, act::Stage, report::CycleReport};
use crate::{
    Cluster, Lab,
    clock::{boot_ns, ms},
    exec::run_ok,
    interrupt::until,
    probe_outage::OutageProber,
    probe_owner::OwnerProber,
};

const PROBE: Duration = Duration::from_millis(2);
/// The longest cycle, its healing included.
const LONGEST: Duration = Duration::from_secs(120);
/// After healing, each group is served by then.
const SERVED: Duration = Duration::from_secs(10);
const MS: u64 = 1_000_000;
/// What a node may write into its log in a cycle. A line per packet of a flood would be a hundred times as much.
const LOG_MAX: u64 = 512 << 10;
/// Descriptors and memory that an agent may have beyond what it had before the first fault.
const FDS_MORE: u64 = 16;
const RSS_MORE_KIB: u64 = 16 << 10;

/// The VIP of a group (its place in [`GROUPS`]).
pub(super) fn vip(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + (nth % GROUPS.len()) as u8)
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Resident memory, KiB.
    pub rss_kib: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Threads.
    pub threads: u64,
}

/// What a process holds now.
///
/// # Errors
/// It is gone.
pub fn usage(pid: u32) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    Ok(Usage {
        rss_kib: field("VmRSS:"),
        fds: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
        threads: field("Threads:"),
    })
}

/// The probers of one cycle.
pub(super) struct Watch {
    owners: Vec<OwnerProber>,
    clients: Vec<OutageProber>,
    from: u64,
    logs: Vec<u64>,
    before: Vec<Usage>,
    /// Events of agents that were killed meanwhile: they end with the process.
    saved: Mutex<Vec<Value>>,
}

impl Watch {
    pub fn start(cluster: &mut Cluster, spec: Spec) -> Result<Self> {
        let _ = spec;
        let lab = &cluster.lab;
        let all = || (0..GROUPS.len()).map(vip);
        let size = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let watch = Self {
            owners: all()
                .map(|vip| OwnerProber::start(lab, vip, PROBE, LONGEST))
                .collect::<Result<_>>()?,
            clients: all()
                .map(|vip| OutageProber::start(&lab.client, IpAddr::V4(vip), PROBE, LONGEST))
                .collect::<Result<_>>()?,
            from: boot_ns(),
            logs: cluster.agents().iter().map(|a| size(a.log())).collect(),
            before: cluster
                .agents()
                .iter()
                .map(|agent| usage(agent.pid()?))
                .collect::<Result<_>>()?,
            saved: Mutex::default(),
        };
        // The first faults must find the probers at work.
        until(Duration::from_secs(5), Duration::from_millis(5), || {
            Ok(watch
                .clients
                .iter()
                .all(|client| client.answered_lately(20)))
        })?;
        Ok(watch)
    }

    /// The node that answers for a group, by its place in [`GROUPS`].
    pub fn owner(&self, group: u8) -> Option<u8> {
        let prober = self.owners.get(usize::from(group))?;
        prober.owner(Duration::from_millis(50)).map(|n| n as u8)
    }

    /// Keeps what an agent tells, before it is killed.
    pub fn save_events(&self, cluster: &Cluster, node: &str) {
        let agent = cluster.agents().iter().find(|agent| agent.name() == node);
        // A frozen one would keep us waiting; its events are lost with it.
        let ask = agent.filter(|agent| agent.pid().is_ok_and(|pid| !stopped(pid)));
        let told = ask
            .and_then(|agent| agent.events().ok())
            .unwrap_or_default();
        if let Ok(mut saved) = self.saved.lock() {
            saved.extend(told);
        }
    }

    /// After healing: waits until the wire and the agents agree, and clients are served.
    pub fn served(&self, report: &mut CycleReport, healed: u64) -> Result<()> {
        let well = until(SERVED, Duration::from_millis(5), || {
            Ok(self.clients.iter().all(|client| client.answered_lately(50)))
        })?;
        for (nth, client) in self.clients.iter().enumerate() {
            if !client.answered_lately(50) {
                let owner = self.owner(nth as u8);
                report.violated(format!(
                    "group {}: no client is served {:.1} s after healing (on the wire: {owner:?})",
                    GROUPS[nth].0,
                    ms(boot_ns() - healed) / 1e3,
                ));
            }
        }
        ensure!(well, "{}", report.violations.join("; "));
        Ok(())
    }

    pub fn judge(
        &self,
        report: &mut CycleReport,
        stage: &mut Stage,
        spec: Spec,
        healed: u64,
    ) -> Result<()> {
        let end = boot_ns() - 30 * MS;
        let events = self.all_events(report, &stage.cluster)?;
        started(stage, &events, healed);
        self.wire(report, stage, spec, healed, end);
        self.agents(report, stage)?;
        self.addresses(report, &mut stage.cluster)?;
        events_fit(report, &events);
        Ok(())
    }

    fn wire(&self, report: &mut CycleReport, stage: &Stage, spec: Spec, healed: u64, end: u64) {
        let tolerated = 2 * spec.takeover.as_nanos() as u64 + 100 * MS;
        for (nth, (owners, client)) in self.owners.iter().zip(&self.clients).enumerate() {
            let name = GROUPS[nth].0;
            let seen = owners.ownership(self.from, end);
            if seen.dual_rounds > 0 {
                let rounds = owners.rounds(self.from, end);
                let two = rounds
                    .iter()
                    .filter(|r| r.answered.iter().flatten().count() > 1)
                    .take(5);
                report.violated(format!(
                    "group {name}: two owners for {:.1} ms: {:?}",
                    ms(seen.dual_ns),
                    two.collect::<Vec<_>>()
                ));
            }
            report.dual_ms = report.dual_ms.max(ms(seen.dual_ns));
            report.changes += seen.changes();
            if client.full() {
                report.violated("the cycle took longer than the probers record".into());
            }
            let outage = client.outage(self.from, end);
            report.stall_ms = report.stall_ms.max(ms(outage.stall_ns));
            for gap in &outage.gaps {
                let long = ms(gap.to - gap.from);
                report.longest_ms = report.longest_ms.max(long);
                report.outage_ms += long;
                if gap.to > healed {
                    report.healing_ms = report.healing_ms.max(ms(gap.to - healed.max(gap.from)));
                }
                let left = stage.history.unexplained(gap.from, gap.to);
                report.unexplained_ms = report.unexplained_ms.max(ms(left));
                if left > tolerated {
                    report.violated(format!(
                        "group {name}: a client was without for {long:.0} ms from {:.3} s on, of which no fault \
                         explains {:.0} ms",
                        ms(gap.from.saturating_sub(self.from)) / 1e3,
                        ms(left)
                    ));
                }
            }
        }
    }

    fn agents(&self, report: &mut CycleReport, stage: &mut Stage) -> Result<()> {
        for nth in 0..usize::from(stage.history.nodes) {
            let node = format!("n{}", nth + 1);
            let agent = stage.cluster.agent(&node)?;
            if !agent.running() {
                report.violated(format!("the agent of {node} died: {}", agent.log_tail()));
                continue;
            }
            let now = usage(agent.pid()?)?;
            let first = *stage.first.entry(node.clone()).or_insert(self.before[nth]);
            report.rss_kib = report.rss_kib.max(now.rss_kib);
            report.fds = report.fds.max(now.fds);
            if now.fds > first.fds + FDS_MORE || now.rss_kib > first.rss_kib + RSS_MORE_KIB {
                report.violated(format!("{node} leaks: {first:?} at first, {now:?} now"));
            }
            let log = fs::read(agent.log()).unwrap_or_default();
            let from = self.logs[nth].min(log.len() as u64) as usize;
            let text = String::from_utf8_lossy(&log[from..]);
            report.log_bytes = report.log_bytes.max(text.len() as u64);
            if text.len() as u64 > LOG_MAX {
                report.violated(format!("{node} wrote {} bytes into its log", text.len()));
            }
            if let Some(line) = text.lines().find(|line| line.contains("panicked")) {
                report.violated(format!("{node} panicked: {line}"));
            }
        }
        Ok(())
    }

    /// Each address is at the owner, and nowhere else.
    fn addresses(&self, report: &mut CycleReport, cluster: &mut Cluster) -> Result<()> {
        let mut wrong = String::new();
        until(Duration::from_secs(5), Duration::from_millis(50), || {
            wrong.clear();
            for (nth, (name, _)) in GROUPS.iter().enumerate() {
                let holders = holders(&cluster.lab, &format!("{}/32", vip(nth)))?;
                let owner = cluster.owner(name);
                let wire = self.owner(nth as u8).map(|n| format!("n{}", n + 1));
                if holders.len() != 1 || owner.as_ref() != holders.first() || wire != owner {
                    wrong = format!(
                        "group {name}: the agents say {owner:?}, on the wire answers {wire:?}, the address is on \
                         {holders:?}"
                    );
                }
            }
            Ok(wrong.is_empty())
        })?;
        if !wrong.is_empty() {
            report.violated(wrong);
        }
        Ok(())
    }

    /// What all agents told in this cycle, also those that were killed.
    fn all_events(&self, report: &mut CycleReport, cluster: &Cluster) -> Result<Vec<Value>> {
        let mut all = self.saved.lock().map(|s| s.clone()).unwrap_or_default();
        for agent in cluster.agents() {
            let told = agent.events()?;
            let seqs: Vec<u64> = told.iter().filter_map(|e| e["seq"].as_u64()).collect();
            if seqs.windows(2).any(|w| w[1] != w[0] + 1) {
                report.violated(format!("{}: events are missing: {seqs:?}", agent.name()));
            }
            all.extend(told);
        }
        all.retain(|event| at(event) >= self.from);
        Ok(all)
    }
}

fn at(event: &Value) -> u64 {
    event["boot_ns"].as_u64().unwrap_or(0)
}

/// An agent takes part again when it says so, not when its process was started.
fn started(stage: &mut Stage, events: &[Value], healed: u64) {
    for (nth, node, since, wait) in std::mem::take(&mut stage.starting) {
        let name = format!("n{}", node + 1);
        let of = |event: &&Value| event["kind"] == "agent_started" && event["node"] == *name;
        let told = events.iter().filter(of).map(at).filter(|at| *at >= since);
        if let Some(impaired) = stage.history.list.get_mut(nth) {
            // One that was killed again before it could say so was down all the time.
            impaired.to = told.min().unwrap_or(healed).saturating_add(wait);
        }
    }
}

/// Epochs rise with each gain, and nothing impossible happened.
fn events_fit(report: &mut CycleReport, all: &[Value]) {
    for event in all {
        let kind = event["kind"].as_str().unwrap_or_default();
        *report.events.entry(kind.to_owned()).or_default() += 1;
        if matches!(kind, "duplicate_id" | "stale_pins") {
            report.violated(format!("an event that nothing explains: {event}"));
        }
    }
    for (name, _) in GROUPS {
        let mut gains: Vec<(u64, u64, &str)> = all
            .iter()
            .filter(|event| event["kind"] == "gained" && event["group"] == name)
            .filter_map(|event| {
                let agreed = event.pointer("/phases/agreed_ns")?.as_u64()?;
                Some((agreed, event["epoch"].as_u64()?, event["node"].as_str()?))
            })
            .collect();
        gains.sort_unstable();
        gains.dedup();
        if gains.windows(2).any(|pair| pair[1].1 <= pair[0].1) {
            report.violated(format!("group {name}: epochs do not rise: {gains:?}"));
        }
    }
}

/// Names of the nodes that have an address.
fn holders(lab: &Lab, address: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for node in &lab.nodes {
        let mut command = std::process::Command::new("ip");
        command.args(["-n", node.ns.name(), "-o", "address", "show"]);
        let text = run_ok(command, "", Duration::from_secs(5))?;
        if text.split_whitespace().any(|word| word == address) {
            found.push(node.name.clone());
        }
    }
    Ok(found)
}

/// Whether a process stands still (SIGSTOP).
fn stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_none_or(|state| matches!(state, 'T' | 't'))
}
