//! What a flood costs: the lease, the clients of the VIP, processor time, lines in the log.

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    Flood,
    kinds::{Kind, PORT},
};
use crate::{
    Cluster, Lab, LabSpec, VIP4, cleanup,
    clock::{boot_ns, ms},
    config::{self, ConfigSpec},
    interrupt::{pass, until},
    paint::Busy,
    probe_outage::OutageProber,
    probe_owner::OwnerProber,
    spray::{Forger, overhear},
};

const MS: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(20);

/// What `bench flood` measures.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Seconds of each flood
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// Frames per second, 0 for as many as one thread can send; another 0 for two threads, and so on
    #[arg(long, value_delimiter = ',', default_values_t = [20_000, 100_000, 0, 0])]
    pub rates: Vec<u64>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// One flood.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Row {
    /// What it was made of.
    pub kind: &'static str,
    /// Frames per second asked for; 0: as many as it goes.
    pub asked_pps: u64,
    /// Threads that sent.
    pub threads: usize,
    /// Frames per second that left the attacker's device.
    pub sent_pps: u64,
    /// Frames per second that the victim's XDP program refused by this kind's reasons.
    pub refused_pps: u64,
    /// How long, s.
    pub seconds: f64,
    /// Leases lost by the victim, the owner of the VIP.
    pub leases_lost: usize,
    /// Changes of owner on the wire.
    pub changes: usize,
    /// Two owners, ms.
    pub dual_ms: f64,
    /// Client's echoes to the VIP (one per ms).
    pub echoes: usize,
    /// Lost ones.
    pub echoes_lost: usize,
    /// Longest time that the client was without, ms.
    pub longest_ms: f64,
    /// Processor time of the victim's agent, percent of one CPU.
    pub agent_cpu_percent: f64,
    /// Of the whole machine, attacker included, percent of all CPUs.
    pub machine_cpu_percent: f64,
    /// Bytes that the victim's agent logged.
    pub log_bytes: u64,
    /// Events that it told.
    pub events: usize,
    /// Records that its ring buffer had no room for.
    pub ring_full: u64,
}

/// Three nodes, and a fourth machine that is hostile.
#[derive(Debug)]
pub struct Siege {
    /// The cluster.
    pub cluster: Cluster,
    forger: Forger,
}

impl Siege {
    /// Raises the lab; all is well when it returns.
    ///
    /// # Errors
    /// Something does not start.
    pub fn raise() -> Result<Self> {
        let text = config::text(&LabSpec::default(), &ConfigSpec::default());
        let lab = Lab::up(&LabSpec { nodes: 4, links: 1 })?;
        let mut cluster = Cluster::start_bare(3, lab, &text, "cluster.key")?;
        cluster.settled(SETTLE)?;
        Ok(Self {
            forger: Forger::of(cluster.config())?,
            cluster,
        })
    }

    fn number(&mut self, node: &str, paths: &[&str]) -> Result<u64> {
        let status = self.cluster.agent(node)?.status()?;
        let value = |path: &&str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        Ok(paths.iter().map(value).sum())
    }

    /// One flood at the owner of the VIP.
    ///
    /// # Errors
    /// The cluster does not settle before or after it, or Ctrl-C.
    pub fn flood(&mut self, kind: Kind, rate: u64, threads: usize, time: Duration) -> Result<Row> {
        self.cluster.settled(SETTLE)?;
        let owner = self.cluster.owner("web").context("nobody owns the VIP")?;
        let names: Vec<String> = (1..=3).map(|n| format!("n{n}")).collect();
        let peer = names.iter().find(|name| **name != owner);
        let peer = peer.context("a cluster of one")?.clone();
        let incarnation = self.number(&peer, &["/incarnation"])?;
        let mut words = Vec::new();
        if kind == Kind::DeadNode {
            words = overhear(&self.cluster.lab, &peer, PORT, 20)?;
            // Further back than any straggler.
            pass(Duration::from_millis(400))?;
            self.cluster.lab.switch.cut(&peer)?;
            pass(Duration::from_millis(1500))?;
        }
        let attacker = self.cluster.lab.node("n4")?.clone();
        let lab = &self.cluster.lab;
        let with = (peer.as_str(), incarnation);
        let frames = kind.frames(lab, &self.forger, &attacker, &owner, with, &words)?;
        let owners = OwnerProber::start(lab, VIP4, 2 * MS, LONGEST)?;
        let client = OutageProber::start(&lab.client, IpAddr::V4(VIP4), MS, LONGEST)?;
        let served = until(SETTLE, 5 * MS, || Ok(client.answered_lately(100)))?;
        if !served {
            bail!("the client is not served before the flood");
        }
        let paths: Vec<String> = kind
            .counters()
            .iter()
            .map(|name| format!("/counters/{name}"))
            .collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let full = ["/counters/ring_full"];
        let refused = self.number(&owner, &paths)?;
        let ring_full = self.number(&owner, &full)?;
        let (pid, log) = {
            let agent = self.cluster.agent(&owner)?;
            (agent.pid()?, agent.log().to_owned())
        };
        let size = || fs::metadata(&log).map_or(0, |meta| meta.len());
        let (bytes, cpu, machine, from) = (size(), ticks(pid)?, machine()?, boot_ns());
        let flood = Flood::start(&attacker, frames, Some(rate).filter(|r| *r > 0), threads)?;
        pass(time)?;
        let (to, sent) = (boot_ns(), flood.sent());
        let (cpu, busy) = (ticks(pid)? - cpu, machine_share(machine)?);
        drop(flood);
        let seconds = ms(to - from) / 1e3;
        // The last frames are dealt with, and what the agent counts once a second is told.
        pass(Duration::from_millis(1200))?;
        let outage = client.outage(from, to - 20_000_000);
        let seen = owners.ownership(from, to);
        let refused = self.number(&owner, &paths)? - refused;
        let ring_full = self.number(&owner, &full)? - ring_full;
        let told = self.cluster.agent(&owner)?.events()?;
        let told: Vec<Value> = told
            .into_iter()
            .filter(|event| event["boot_ns"].as_u64().is_some_and(|at| at >= from))
            .collect();
        let lapsed = told.iter().filter(|event| event["kind"] == "lease_lapsed");
        let row = Row {
            kind: kind.name(),
            asked_pps: rate,
            threads,
            sent_pps: (sent as f64 / seconds) as u64,
            refused_pps: (refused as f64 / seconds) as u64,
            seconds,
            leases_lost: lapsed.count(),
            changes: seen.changes(),
            dual_ms: ms(seen.dual_ns),
            echoes: outage.sent,
            echoes_lost: outage.lost,
            longest_ms: outage
                .gaps
                .iter()
                .map(|g| ms(g.to - g.from))
                .fold(0.0, f64::max),
            agent_cpu_percent: cpu as f64 / hertz() / seconds * 100.0,
            machine_cpu_percent: busy,
            log_bytes: size().saturating_sub(bytes),
            events: told.len(),
            ring_full,
        };
        self.cluster.lab.switch.heal()?;
        self.cluster.settled(SETTLE)?;
        Ok(row)
    }
}

fn hertz() -> f64 {
    // SAFETY: a plain call that reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64
}

/// Processor time of a process, ticks.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may contain anything.
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let word = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    Ok(word(11).unwrap_or(0) + word(12).unwrap_or(0))
}

/// Ticks of all CPUs: all, and idle ones.
fn machine() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let list: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let idle = list.iter().skip(3).take(2).sum();
    Ok((list.iter().take(8).sum(), idle))
}

fn machine_share(before: (u64, u64)) -> Result<f64> {
    let now = machine()?;
    let all = now.0.saturating_sub(before.0).max(1) as f64;
    Ok(100.0 - now.1.saturating_sub(before.1) as f64 / all * 100.0)
}

/// Where the results go, beside what the build made.
fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    target.join("bench")
}

/// All kinds at all rates: prints a table, writes `flood.json`. True if there never were two owners.
///
/// # Errors
/// Not root, something does not start, or Ctrl-C.
pub fn run(options: &Options) -> Result<bool> {
    cleanup::remove_leftovers()?;
    let mut rows = Vec::new();
    let mut siege = Siege::raise()?;
    for kind in Kind::ALL {
        let mut threads = 0;
        for rate in &options.rates {
            threads = if *rate == 0 { threads + 1 } else { 1 };
            let _busy = Busy::with(format!("{}, {}", kind.name(), asked(*rate, threads)));
            let time = Duration::from_secs(options.seconds.max(1));
            let row = siege.flood(kind, *rate, threads, time);
            let row = row.with_context(|| format!("{} at {rate}/s", kind.name()));
            if row.is_err() {
                let kept = siege.cluster.keep_dir().unwrap_or_default();
                eprintln!("logs are kept in {}", kept.display());
            }
            rows.push(row?);
            if *rate != 0 {
                threads = 0;
            }
        }
    }
    fs::create_dir_all(folder())?;
    let path = folder().join("flood.json");
    let json = serde_json::to_string_pretty(&rows)?;
    fs::write(&path, &json).with_context(|| format!("cannot write {}", path.display()))?;
    if options.json {
        println!("{json}");
    } else {
        print!("{}", table(&rows));
        println!("written to {}", path.display());
    }
    Ok(rows.iter().all(|row| row.dual_ms == 0.0))
}

fn asked(rate: u64, threads: usize) -> String {
    match (rate, threads) {
        (0, 1) => "as fast as it goes".into(),
        (0, n) => format!("as fast as it goes, {n} threads"),
        (rate, _) => format!("{rate}/s"),
    }
}

/// The rows for people.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<19} {:>9} {:>9} {:>7} {:>7} {:>6} {:>13} {:>8} {:>7} {:>7} {:>6} {:>6}\n",
        "flood of",
        "sent/s",
        "refused/s",
        "leases",
        "changes",
        "two",
        "echoes lost",
        "longest",
        "agent",
        "machine",
        "log",
        "events"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:<19} {:>9} {:>9} {:>7} {:>7} {:>3.0} ms {:>6}/{:<6} {:>5.0} ms {:>6.1}% {:>6.0}% {:>6} {:>6}",
            row.kind,
            row.sent_pps,
            row.refused_pps,
            format!("{} lost", row.leases_lost),
            row.changes,
            row.dual_ms,
            row.echoes_lost,
            row.echoes,
            row.longest_ms,
            row.agent_cpu_percent,
            row.machine_cpu_percent,
            row.log_bytes,
            row.events
        );
    }
    text
}
