//! The bench of services: the same faults against Heartline, keepalived with check scripts and Pacemaker, in front of
//! the same real services on the same Debian machines, asked by the same clients.
//!
//! ```text
//!   layer.rs, setup.rs     what is on the nodes' disks
//!   rig.rs                 three machines, clients, switch: one lab for all systems
//!   Subject                heartline.rs, keepalived.rs, pacemaker.rs: what differs
//!   campaign.rs -> measure.rs    all runs of a setting; one fault, seen from outside
//!   report.rs -> tables.rs, plot.rs    medians and ratios; table, picture
//! ```

mod campaign;
mod heartline;
mod keepalived;
mod layer;
mod measure;
mod names;
mod pacemaker;
mod plot;
mod report;
mod rig;
mod setup;
mod subject;
mod tables;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use self::{campaign::Plan, layer::Layers, report::Results};
pub use self::{
    measure::One,
    names::{Fault, Setting, System},
    report::Row,
};
use crate::{
    bench::{self, Machine, progress::Progress, steal_ms},
    cleanup,
    paint::Paint,
};

/// What to measure. Without any of these: everything, in less than 20 minutes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Times that each fault is repeated
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Only these faults, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub faults: Vec<Fault>,
    /// Only these systems, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub systems: Vec<System>,
    /// Only these settings, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub settings: Vec<Setting>,
    /// Print JSON (the list of services.json) instead of the table
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn settings(&self) -> Vec<Setting> {
        let fits = |setting: &Setting| {
            let system = self.systems.is_empty() || self.systems.contains(&setting.system());
            system && (self.settings.is_empty() || self.settings.contains(setting))
        };
        Setting::ALL.into_iter().filter(fits).collect()
    }

    fn faults(&self) -> Vec<Fault> {
        let fits = |fault: &Fault| self.faults.is_empty() || self.faults.contains(fault);
        Fault::ALL.into_iter().filter(fits).collect()
    }

    fn plans(&self) -> Vec<Plan> {
        let plan = |setting| Plan {
            setting,
            faults: self.faults(),
            runs: usize::from(self.runs),
        };
        self.settings().into_iter().map(plan).collect()
    }
}

/// Measures, prints, and writes `services.json`, `services.md`, `services.svg`, `services.png` and each single run into
/// the folder of the bench. True if all could be measured.
///
/// # Errors
/// Not root, nothing chosen, or nothing could be measured; what was made is removed all the same.
pub fn run(options: &Options) -> Result<bool> {
    let results = measure(options)?;
    let written = write(&results)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&listed(&results))?);
    } else {
        print!("{}", tables::terminal(&results, Paint::for_stdout()));
        for path in written {
            println!("written: {}", path.display());
        }
    }
    if results.rows.is_empty() {
        bail!("nothing was measured");
    }
    Ok(results.failures.is_empty())
}

/// As [`run`], without printing or writing anything: for tests. Fails if anything could not be measured.
///
/// # Errors
/// As said, and as [`run`].
pub fn rows(options: &Options) -> Result<Vec<Row>> {
    let results = measure(options)?;
    if let Some(failure) = results.failures.first() {
        bail!("{}: {}", failure.what, failure.why);
    }
    Ok(results.rows)
}

fn measure(options: &Options) -> Result<Results> {
    let plans = options.plans();
    if plans.is_empty() {
        bail!("no setting is both in --systems and in --settings");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench makes network namespaces and machines: run it as root");
    }
    let layers = layer::ensure()?;
    cleanup::remove_leftovers()?;
    let machine = Machine::look(false);
    let stolen = steal_ms();
    let progress = Progress::start(plans.iter().map(Plan::estimate).sum());
    let mut results = Results {
        machine,
        peers: peers(&plans, &layers),
        rows: Vec::new(),
        ones: Vec::new(),
        failures: Vec::new(),
        seconds: 0.0,
    };
    for plan in &plans {
        let outcome = campaign::run(plan, &layers, &progress)?;
        results.ones.extend(outcome.ones);
        results.failures.extend(outcome.failures);
    }
    results.rows = report::rows(&results.ones);
    results.seconds = progress.elapsed().as_secs_f64();
    results.machine.steal_ms = steal_ms() - stolen;
    Ok(results)
}

/// Versions of what is measured besides Heartline, and what the nodes are.
fn peers(plans: &[Plan], layers: &Layers) -> Vec<String> {
    let measured = |system| plans.iter().any(|plan| plan.setting.system() == system);
    let version = |package: &str| layers.version(package).unwrap_or_else(|| "?".into());
    let mut peers = vec!["nodes: Debian 12 under systemd (systemd-nspawn)".to_owned()];
    if measured(System::Keepalived) {
        peers.push(format!("keepalived {}", version("keepalived")));
    }
    if measured(System::Pacemaker) {
        let (pacemaker, corosync) = (version("pacemaker"), version("corosync"));
        peers.push(format!("Pacemaker {pacemaker} with Corosync {corosync}"));
    }
    peers
}

/// What `services.json` has.
fn listed(results: &Results) -> serde_json::Value {
    json!({
        "machine": results.machine,
        "peers": results.peers,
        "rows": results.rows,
        "failures": results.failures,
    })
}

fn write(results: &Results) -> Result<Vec<PathBuf>> {
    if results.rows.is_empty() {
        return Ok(Vec::new());
    }
    let folder = bench::folder();
    fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
    let folder = fs::canonicalize(folder)?;
    let runs = json!({ "machine": results.machine, "runs": results.ones });
    let files = [
        (
            "services.json",
            serde_json::to_string_pretty(&listed(results))?,
        ),
        ("services-runs.json", serde_json::to_string_pretty(&runs)?),
        ("services.md", tables::markdown(results)),
        ("services.svg", plot::draw(results)),
    ];
    let mut written = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    let png = folder.join("services.png");
    bench::plot::pixels(&folder.join("services.svg"), &png)?;
    written.push(png);
    Ok(written)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(words: &[&str]) -> Result<Options, String> {
        let words = std::iter::once(&"bench").chain(words);
        Line::try_parse_from(words)
            .map(|line| line.options)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn lists_choose() {
        let all = parse(&[]).expect("nothing");
        assert_eq!((all.settings().len(), all.faults().len()), (5, 7));
        let some = parse(&["--faults", "cut,move", "--systems", "keepalived"]).expect("lists");
        assert_eq!(some.faults(), [Fault::Cut, Fault::Move]);
        assert_eq!(some.settings(), [Setting::Hundredth, Setting::Second]);
        let error = parse(&["--faults", "fire"]).expect_err("no such fault");
        assert!(error.contains("fire") && error.contains("hang"), "{error}");
    }

    #[test]
    fn a_default_bench_is_shorter_than_twenty_minutes() {
        let plans = parse(&[]).expect("nothing").plans();
        let seconds: f64 = plans.iter().map(Plan::estimate).sum();
        assert!(seconds < 19.0 * 60.0, "{seconds} s");
    }
}
