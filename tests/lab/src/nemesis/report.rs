//! What a run found: lines while it goes on, a summary, JSON.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use super::{Options, Step};
use crate::paint::Paint;

/// Where the results go, beside what the build made.
pub(super) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    target.join("nemesis")
}

/// One cycle.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct CycleReport {
    /// Its number, from 1.
    pub number: u64,
    /// The schedule.
    pub steps: Vec<String>,
    /// Kinds of the faults.
    pub kinds: Vec<&'static str>,
    /// What was done when.
    pub log: Vec<String>,
    /// What should not have been.
    pub violations: Vec<String>,
    /// Two owners at once, ms.
    pub dual_ms: f64,
    /// Changes of owner, all groups.
    pub changes: usize,
    /// The longest time that a client of a group went without, ms.
    pub longest_ms: f64,
    /// All of it, over all groups, ms.
    pub outage_ms: f64,
    /// How long after healing the last client was served again, ms.
    pub healing_ms: f64,
    /// The longest part of an outage that no fault explains, ms.
    pub unexplained_ms: f64,
    /// The longest time that a prober was not scheduled: noise of the machine, ms.
    pub stall_ms: f64,
    /// Largest memory of an agent, KiB.
    pub rss_kib: u64,
    /// Most descriptors of an agent.
    pub fds: u64,
    /// Most bytes that an agent logged.
    pub log_bytes: u64,
    /// Events by kind.
    pub events: BTreeMap<String, u64>,
}

impl CycleReport {
    pub(super) fn new(number: u64, steps: &[Step]) -> Self {
        Self {
            number,
            steps: steps.iter().map(ToString::to_string).collect(),
            kinds: steps.iter().map(|step| step.fault.kind()).collect(),
            ..Self::default()
        }
    }

    pub(super) fn failed(number: u64, steps: &[Step], error: &anyhow::Error) -> Self {
        let mut report = Self::new(number, steps);
        report.violated(format!("{error:#}"));
        report
    }

    pub(super) fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// The cycle in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let well = if self.violations.is_empty() {
            "ok"
        } else {
            "VIOLATED"
        };
        let mut text = format!(
            "{:>4} {well}: longest outage {:.0} ms, {} changes; {}",
            self.number,
            self.longest_ms,
            self.changes,
            self.steps.join(", ")
        );
        for violation in &self.violations {
            let _ = write!(text, "\n     {violation}");
        }
        text
    }
}

/// A run.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Nodes.
    pub nodes: u8,
    /// Timing profile.
    pub profile: String,
    /// How long it ran.
    pub seconds: f64,
    /// How often each fault was done.
    pub faults: BTreeMap<&'static str, u64>,
    /// What should not have been: cycle and sentence.
    pub violations: Vec<(u64, String)>,
    /// Logs of a run that failed.
    pub kept: Option<PathBuf>,
    /// All cycles.
    pub cycles: Vec<CycleReport>,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            seed: options.seed,
            nodes: options.nodes,
            profile: options.profile.clone(),
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self, cycle: CycleReport) {
        for kind in &cycle.kinds {
            *self.faults.entry(kind).or_default() += 1;
        }
        for violation in &cycle.violations {
            self.violations.push((cycle.number, violation.clone()));
        }
        self.cycles.push(cycle);
    }

    /// The summary for people.
    #[must_use]
    pub fn text(&self, paint: Paint) -> String {
        let most = |of: fn(&CycleReport) -> f64| self.cycles.iter().map(of).fold(0.0, f64::max);
        let faults: u64 = self.faults.values().sum();
        let mut text = format!(
            "\n{} cycles with {faults} faults in {:.0} s, seed {}, {} nodes, profile {}\n",
            self.cycles.len(),
            self.seconds,
            self.seed,
            self.nodes,
            self.profile
        );
        let counts = self.faults.iter().map(|(kind, n)| format!("{kind} {n}"));
        let _ = writeln!(text, "faults: {}", counts.collect::<Vec<_>>().join(", "));
        let changes: usize = self.cycles.iter().map(|cycle| cycle.changes).sum();
        let _ = writeln!(
            text,
            "two owners {:.0} ms; {changes} changes of owner; longest outage {:.0} ms, longest part that no fault \
             explains {:.0} ms, served {:.0} ms after healing at the latest",
            most(|c| c.dual_ms),
            most(|c| c.longest_ms),
            most(|c| c.unexplained_ms),
            most(|c| c.healing_ms),
        );
        let _ = writeln!(
            text,
            "agents: at most {:.1} MB, {} descriptors, {} bytes logged in a cycle; probers stood still {:.0} ms at most",
            most(|c| c.rss_kib as f64) / 1024.0,
            most(|c| c.fds as f64),
            most(|c| c.log_bytes as f64),
            most(|c| c.stall_ms),
        );
        if self.violations.is_empty() {
            let _ = writeln!(text, "{}", paint.good("nothing was violated"));
        }
        for (cycle, violation) in &self.violations {
            let _ = writeln!(text, "{}", paint.bad(format!("cycle {cycle}: {violation}")));
        }
        if let Some((cycle, _)) = self.violations.first() {
            let _ = writeln!(
                text,
                "again: cargo xtask nemesis --seed {} --nodes {} --profile {} --cycle {cycle}",
                self.seed, self.nodes, self.profile
            );
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "logs, status and events: {}", kept.display());
        }
        text
    }
}
