//! The nemesis: random faults on the real lab, several at once, and every promise checked from outside.
//!
//! ```text
//!   plan.rs     the schedule, from a seed
//!   act.rs      faults, as they are done and undone
//!   watch.rs    probers of a cycle, processes, addresses, events: what must hold
//!   excuse.rs   which outages the faults explain
//!   report.rs   what is printed and written
//! ```
//!
//! A run is a row of cycles: faults for some seconds, healing, a settled cluster, a calm moment. Each cycle has a
//! schedule of its own, so that a failing one can be run again alone.

mod act;
mod excuse;
mod plan;
mod report;
mod watch;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{act::Stage, watch::Watch};
pub use self::{
    plan::{Fault, Rng, Step, Who, cycle},
    report::{CycleReport, Report},
    watch::{Usage, usage},
};
use crate::{
    Cluster, Lab, LabSpec, cleanup,
    config::{self, ConfigSpec},
    interrupt,
    paint::{Busy, Paint},
};

/// Groups of the cluster under attack: name and id.
pub const GROUPS: [(&str, u8); 3] = [("web", 0), ("g1", 70), ("g2", 255)];

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long; a cycle that has begun is finished.
    pub time: Duration,
    /// The seed; the same gives the same schedule.
    pub seed: u64,
    /// Nodes, 3 to 7.
    pub nodes: u8,
    /// Timing profile: `fast`, `lan`, `wan`.
    pub profile: String,
    /// Only this cycle (from 1).
    pub only: Option<u64>,
    /// Where the report goes; none: into `target/nemesis`.
    pub json: Option<PathBuf>,
}

/// The lab under attack.
#[derive(Debug)]
struct Attack {
    stage: Stage,
    spec: Spec,
}

/// Numbers that follow from the options.
#[derive(Clone, Copy, Debug)]
struct Spec {
    nodes: u8,
    takeover: Duration,
    max_promise: Duration,
    /// How long after a change an outage is excused.
    grace: Duration,
}

/// Runs; true if nothing was violated.
///
/// # Errors
/// Not root, something does not start, or Ctrl-C; what was made is removed.
pub fn run(options: &Options) -> Result<bool> {
    cleanup::remove_leftovers()?;
    let report = attack(options, |line| println!("{line}"))?;
    let path = options
        .json
        .clone()
        .unwrap_or_else(|| report::folder().join("nemesis.json"));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("folder {}", folder.display()))?;
    }
    std::fs::write(&path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    print!("{}", report.text(Paint::for_stdout()));
    println!("written to {}", path.display());
    Ok(report.violations.is_empty())
}

/// Runs without writing anything; `line` gets a line per cycle.
///
/// # Errors
/// As [`run`].
pub fn attack(options: &Options, line: impl Fn(String)) -> Result<Report> {
    ensure!(
        (3..=7).contains(&options.nodes),
        "--nodes must be 3 to 7, not {}",
        options.nodes
    );
    let mut report = Report::new(options);
    let busy = Busy::with(format!("raising {} nodes", options.nodes));
    let mut attack = raise(options)?;
    let first = attack.settle(Duration::from_secs(30));
    drop(busy);
    if let Err(error) = first {
        let kept = attack.stage.cluster.keep_dir().unwrap_or_default();
        return Err(error.context(format!("before any fault; logs are in {}", kept.display())));
    }
    let begin = Instant::now();
    for number in options.only.unwrap_or(1).. {
        let last = options.only.is_some_and(|only| number > only);
        if last || (options.only.is_none() && begin.elapsed() >= options.time) {
            break;
        }
        let _busy = Busy::quiet(format!(
            "cycle {number}, {:.0} of {:.0} s, seed {}",
            begin.elapsed().as_secs_f64(),
            options.time.as_secs_f64(),
            options.seed
        ));
        let steps = cycle(options.seed, number, options.nodes, GROUPS.len() as u8);
        match attack.cycle(number, &steps) {
            Ok(done) => {
                line(done.line());
                report.take(done);
            }
            Err(error) if interrupt::caught().is_some() => return Err(error),
            Err(error) => {
                let done = CycleReport::failed(number, &steps, &error);
                line(done.line());
                report.take(done);
            }
        }
        report.seconds = begin.elapsed().as_secs_f64();
        if !report.violations.is_empty() {
            report.kept = attack.keep();
            break;
        }
    }
    Ok(report)
}

fn raise(options: &Options) -> Result<Attack> {
    let (profile, takeover_ms, promise) = match options.profile.as_str() {
        "fast" => ("fast", 6, 1),
        "lan" => ("lan", 50, 1),
        "wan" => ("wan", 1000, 3),
        other => bail!("no profile {other:?}: fast, lan or wan"),
    };
    let spec = LabSpec {
        nodes: options.nodes,
        links: 2,
    };
    let mut text = config::text(
        &spec,
        &ConfigSpec {
            profile,
            ..ConfigSpec::default()
        },
    );
    text = text.replace(
        "max_promise = \"1s\"",
        &format!("max_promise = \"{promise}s\""),
    );
    for (nth, (name, id)) in GROUPS.iter().enumerate().skip(1) {
        let mut prefer: Vec<String> = (1..=options.nodes).map(|n| format!("\"n{n}\"")).collect();
        prefer.rotate_left(nth);
        text += &format!(
            "\n[[group]]\nname = \"{name}\"\nid = {id}\nprefer = [{}]\nfailback = \"{}\"\n\
             [[group.vip]]\naddress = \"{}\"\ndevice = \"eth0\"\n",
            prefer.join(", "),
            if nth == 1 { "manual" } else { "auto" },
            watch::vip(nth),
        );
    }
    let takeover = Duration::from_millis(takeover_ms);
    let max_promise = Duration::from_secs(promise);
    Ok(Attack {
        stage: Stage::new(Cluster::start_bare(
            usize::MAX,
            Lab::up(&spec)?,
            &text,
            "cluster.key",
        )?)?,
        spec: Spec {
            nodes: options.nodes,
            takeover,
            max_promise,
            grace: max_promise + takeover * 3 + Duration::from_millis(500),
        },
    })
}

impl Attack {
    /// One cycle. What was violated is in the report; an error is a violation, too, that ended the cycle early.
    fn cycle(&mut self, number: u64, steps: &[Step]) -> Result<CycleReport> {
        let watch = Watch::start(&mut self.stage.cluster, self.spec)?;
        self.stage.play(steps, &watch, self.spec)?;
        let healed = self.stage.heal()?;
        self.settle(Duration::from_secs(30))?;
        self.stage.history.nodes = self.spec.nodes;
        self.stage.history.grace = self.spec.grace.as_nanos() as u64;
        let mut report = CycleReport::new(number, steps);
        report.log = std::mem::take(&mut self.stage.log);
        watch.served(&mut report, healed)?;
        interrupt::pass(Duration::from_millis(500))?;
        watch.judge(&mut report, &mut self.stage, self.spec, healed)?;
        self.stage.history.list.clear();
        Ok(report)
    }

    /// Everybody agrees, nothing is drained or paused, and everything is where it should be.
    fn settle(&mut self, deadline: Duration) -> Result<()> {
        self.stage.cluster.settled(deadline)?;
        let what = "groups are where they should be, nobody is drained, nothing paused";
        self.stage.cluster.wait_for(what, deadline, |said| {
            said.iter().all(|(_, said)| {
                said.as_ref().is_ok_and(|status| {
                    let groups = status["groups"].as_array();
                    let nodes = status["nodes"].as_array();
                    status["paused"] == false
                        && nodes.is_some_and(|list| list.iter().all(|n| n["drained"] == false))
                        && groups.is_some_and(|list| {
                            list.iter().all(|g| {
                                g["owner"] == g["desired"] && g["unfit"] == serde_json::json!([])
                            })
                        })
                })
            })
        })
    }

    /// Keeps logs, and puts beside them what every agent says now.
    fn keep(&mut self) -> Option<PathBuf> {
        for agent in self.stage.cluster.agents() {
            for (what, args) in [
                ("status", ["status", "--json"]),
                ("events", ["events", "--json"]),
            ] {
                let said = agent.cli(&args).map(|out| out.stdout + &out.stderr);
                let path = self
                    .stage
                    .cluster
                    .lab
                    .dir()
                    .join(format!("{what}-{}.json", agent.name()));
                let _ = std::fs::write(path, said.unwrap_or_else(|error| format!("{error:#}")));
            }
        }
        self.stage.cluster.keep_dir()
    }
}
