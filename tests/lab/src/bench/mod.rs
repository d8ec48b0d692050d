//! The bench: the same faults, many times, with a random phase, against Heartline and against the
//! tool that people use today, in the same lab, with the same probers, in one run.
//!
//! ```text
//!   Subject (heartline.rs, keepalived.rs)   three nodes that share a VIP, however they do it
//!   campaign.rs -> measure.rs               all runs of a setting; one fault: outage, two owners, from outside
//!   cost.rs, announce.rs, xdp.rs            idle, 1000 addresses, what a packet costs
//!   report.rs -> tables.rs, plot.rs, targets.rs    medians; table, picture, what was reached
//! ```

mod announce;
mod campaign;
mod cost;
mod heartline;
mod keepalived;
mod load;
mod machine;
mod measure;
mod names;
pub(crate) mod plot;
pub(crate) mod progress;
mod report;
mod subject;
mod tables;
mod targets;
mod xdp;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

pub(crate) use self::machine::steal_ms;
pub use self::{
    announce::Announced,
    campaign::Failure,
    cost::Idle,
    machine::Machine,
    names::{Extra, Fault, Setting, System},
    report::{Row, Spread},
    targets::{Target, Verdict},
    xdp::XdpCost,
};
use self::{campaign::Plan, progress::Progress, report::Results, subject::Subject};
use crate::{cleanup, interrupt, paint::Paint};

/// What to measure. Without any of these: everything, in less than 20 minutes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Times that each fault is repeated (heals of Heartline twice as often)
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Only these faults, separated by commas, and nothing else
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub faults: Vec<Fault>,
    /// Only these systems, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub systems: Vec<System>,
    /// Only these settings, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub settings: Vec<Setting>,
    /// What else is measured, separated by commas [default: all, unless --faults is given]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub extras: Vec<Extra>,
    /// Print JSON (what failover.json gets) instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Settings whose idle cost is measured.
const IDLE: [Setting; 3] = [Setting::Lan, Setting::Fast, Setting::Hundredth];

impl Options {
    fn settings(&self) -> Vec<Setting> {
        let fits = |setting: &Setting| {
            let system = self.systems.is_empty() || self.systems.contains(&setting.system());
            system && (self.settings.is_empty() || self.settings.contains(setting))
        };
        Setting::ALL.into_iter().filter(fits).collect()
    }

    fn faults(&self) -> Vec<Fault> {
        let all = self.faults.is_empty() && self.extras.is_empty();
        let fits = |fault: &Fault| all || self.faults.contains(fault);
        Fault::ALL.into_iter().filter(fits).collect()
    }

    fn extras(&self) -> BTreeSet<Extra> {
        if self.extras.is_empty() && self.faults.is_empty() {
            return [Extra::Idle, Extra::Announce, Extra::Xdp].into();
        }
        self.extras.iter().copied().collect()
    }
}

/// Where the results go, beside what the build made.
#[must_use]
pub fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    target.join("bench")
}

/// Measures, prints, and writes the files of [`folder`]. True if all could be measured; a target that was missed is a
/// result as well.
///
/// # Errors
/// Not root, a program is missing, nothing can be measured, or Ctrl-C; what was made is removed.
pub fn run(options: &Options) -> Result<bool> {
    let settings = options.settings();
    if settings.is_empty() {
        bail!(
            "--settings names none of the settings of --systems (heartline: lan, fast; keepalived: 1s, 0.1s, 0.01s)"
        );
    }
    let with_keepalived = settings
        .iter()
        .any(|setting| setting.system() == System::Keepalived);
    if let Some(missing) = with_keepalived.then(keepalived::missing).flatten() {
        bail!("{missing}; or --systems heartline");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("the bench makes network namespaces: run it as root");
    }
    cleanup::remove_leftovers()?;
    let results = measure_all(options, &settings, with_keepalived)?;
    let written = write(&results)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&listed(&results))?);
    } else {
        print!("{}", tables::terminal(&results, Paint::for_stdout()));
        for path in written {
            println!("written: {}", path.display());
        }
    }
    if results.rows.is_empty()
        && results.idles.is_empty()
        && results.announced.is_none()
        && results.xdp.is_none()
    {
        bail!("nothing was measured");
    }
    Ok(results.failures.is_empty())
}

/// The list of `failover.json`.
fn listed(results: &Results) -> Vec<&Row> {
    results.rows.iter().filter(|row| !row.aside).collect()
}

fn measure_all(options: &Options, settings: &[Setting], with_keepalived: bool) -> Result<Results> {
    let machine = Machine::look(with_keepalived);
    let stolen = machine::steal_ms();
    let (faults, extras) = (options.faults(), options.extras());
    let plans: Vec<_> = settings
        .iter()
        .map(|setting| Plan {
            setting: *setting,
            faults: faults.clone(),
            runs: usize::from(options.runs),
        })
        .collect();
    let ours = settings
        .iter()
        .any(|setting| setting.system() == System::Heartline);
    let idle = |setting: &Setting| extras.contains(&Extra::Idle) && IDLE.contains(setting);
    let announce = ours && extras.contains(&Extra::Announce);
    let xdp = ours && extras.contains(&Extra::Xdp);

    let mut all = 0.0;
    for plan in &plans {
        let jobs = plan.jobs();
        all += jobs
            .iter()
            .map(|(fault, _)| plan.estimate(*fault))
            .sum::<f64>();
        if faults.contains(&Fault::Load) {
            all += plan.estimate(Fault::Load);
        }
        if idle(&plan.setting) {
            all += IDLE_SECONDS;
        }
    }
    all += f64::from(u8::from(announce)) * ANNOUNCE_SECONDS;
    all += f64::from(u8::from(xdp)) * XDP_SECONDS;

    let progress = Progress::start(all);
    let mut results = Results {
        machine,
        rows: Vec::new(),
        ones: Vec::new(),
        idles: Vec::new(),
        announced: None,
        xdp: None,
        failures: Vec::new(),
        set_aside: 0,
        seconds: 0.0,
    };
    for plan in &plans {
        if idle(&plan.setting) {
            let what = format!("{}, idle", report::label(plan.setting));
            let seen = attempt(&mut results.failures, &what, || idle_cost(plan.setting))?;
            results.idles.extend(seen);
            progress.step(&what, 1, 1, IDLE_SECONDS);
        }
    }
    if announce {
        let what = "1000 addresses";
        results.announced = attempt(&mut results.failures, what, announce::measure)?;
        progress.step(what, 1, 1, ANNOUNCE_SECONDS);
    }
    if xdp {
        let what = "cost of a packet";
        results.xdp = attempt(&mut results.failures, what, xdp::measure)?;
        progress.step(what, 1, 1, XDP_SECONDS);
    }
    for plan in &plans {
        let outcome = campaign::run(plan, &progress)?;
        results.ones.extend(outcome.ones);
        results.failures.extend(outcome.failures);
        results.set_aside += outcome.set_aside;
    }
    results.rows = report::rows(&results.ones);
    results.seconds = progress.elapsed().as_secs_f64();
    results.machine.steal_ms = machine::steal_ms() - stolen;
    Ok(results)
}

/// Roughly, for the time that is left.
const IDLE_SECONDS: f64 = 26.0;
const ANNOUNCE_SECONDS: f64 = 20.0;
const XDP_SECONDS: f64 = 18.0;

fn idle_cost(setting: Setting) -> Result<Idle> {
    let mut subject: Box<dyn Subject> = match setting.system() {
        System::Heartline => Box::new(heartline::raise(setting)?),
        System::Keepalived => Box::new(keepalived::raise(setting, true)?),
    };
    cost::idle(subject.as_mut())
}

/// What fails is told at the end; the rest is still worth its figures. Ctrl-C ends all.
fn attempt<T>(
    failures: &mut Vec<Failure>,
    what: &str,
    measure: impl FnOnce() -> Result<T>,
) -> Result<Option<T>> {
    let result = measure();
    interrupt::check()?;
    Ok(result
        .map_err(|error| {
            failures.push(Failure {
                what: what.to_owned(),
                why: format!("{error:#}"),
            });
        })
        .ok())
}

/// Writes a file for each thing that was measured; returns their paths. Files of what was not measured this time are left
/// alone: all but the list itself say when and where they were made.
fn write(results: &Results) -> Result<Vec<PathBuf>> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
    let folder = fs::canonicalize(folder)?;
    let machine = &results.machine;
    let load = results.ones.iter().filter(|one| one.fault == Fault::Load);
    let load: Vec<_> = load.collect();
    let faults = !results.rows.is_empty();
    let asides = [
        (faults, "runs", json!(results.ones)),
        (!load.is_empty(), "load", json!(load)),
        (!results.idles.is_empty(), "idle", json!(results.idles)),
        (
            results.announced.is_some(),
            "announce",
            json!(results.announced),
        ),
        (results.xdp.is_some(), "xdp", json!(results.xdp)),
        (faults, "targets", json!(targets::all(results))),
        (true, "failures", json!(results.failures)),
    ];
    let mut files: Vec<(String, String)> = Vec::new();
    if faults {
        let list = serde_json::to_string_pretty(&listed(results))?;
        files.push(("failover.json".into(), list));
        files.push(("failover.md".into(), tables::markdown(results)));
        files.push(("failover.svg".into(), plot::draw(results)));
    }
    for (there, name, value) in asides {
        if there {
            let whole = json!({ "machine": machine, name: value });
            files.push((
                format!("{name}.json"),
                serde_json::to_string_pretty(&whole)?,
            ));
        }
    }
    let mut written = Vec::new();
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    if faults {
        let png = folder.join("failover.png");
        plot::pixels(&folder.join("failover.svg"), &png)?;
        written.push(png);
    }
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
        assert_eq!(all.extras().len(), 3);
        let some =
            parse(&["--faults", "silent cut,move", "--systems", "keepalived"]).expect("lists");
        assert_eq!(some.faults(), [Fault::SilentCut, Fault::Move]);
        assert_eq!(some.settings().len(), 3);
        assert!(some.extras().is_empty());
        let idle = parse(&["--extras", "idle"]).expect("a list");
        assert!(idle.faults().is_empty());
    }

    #[test]
    fn an_unknown_name_is_told_with_those_there_are() {
        let error = parse(&["--faults", "sigstop,fire"]).expect_err("no such fault");
        assert!(
            error.contains("fire") && error.contains("silent-cut"),
            "{error}"
        );
        let error = parse(&["--systems", "corosync"]).expect_err("no such system");
        assert!(error.contains("keepalived"), "{error}");
        parse(&["--runs", "0"]).expect_err("no runs");
    }
}
