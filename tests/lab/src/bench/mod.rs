//! The bench: the same faults, many times, with a random phase, against Heartline and against the
//! tool that people use today, in the same lab, with the same probers, in one run.
//!
//! ```text
//!   Subject (heartline.rs, keepalived.rs)   three nodes that share a VIP, however they do it
//!   measure.rs                              one fault: outage and dual ownership, from outside
//!   report.rs                               medians, table, ratios, target/bench/failover.json
//! ```

mod heartline;
mod keepalived;
mod measure;
mod report;
mod subject;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

pub use self::{
    measure::Fault,
    report::{Idle, Row, Spread},
    subject::Subject,
};
use crate::{cleanup, interrupt, paint::Paint};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Times that each fault is repeated.
    pub runs: usize,
    /// Print JSON instead of tables.
    pub json: bool,
    /// Only the system of this name.
    pub only: Option<String>,
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

type Raise = Box<dyn Fn() -> Result<Box<dyn Subject>>>;

/// Everything that can be measured here, and why the rest cannot.
fn subjects() -> (Vec<(&'static str, Raise)>, Option<String>) {
    let mut list: Vec<(&'static str, Raise)> = Vec::new();
    for profile in ["lan", "fast"] {
        list.push((
            "heartline",
            Box::new(move || Ok(Box::new(heartline::raise(profile)?))),
        ));
    }
    let missing = keepalived::missing();
    if missing.is_none() {
        for advert in ["1", "0.1", "0.01"] {
            list.push((
                "keepalived",
                Box::new(move || Ok(Box::new(keepalived::raise(advert)?))),
            ));
        }
    }
    (list, missing)
}

/// Measures, prints, and writes `failover.json` and `idle.json` into [`folder`].
///
/// # Errors
/// Not root, something does not start, or Ctrl-C; what was made is removed.
pub fn run(options: &Options) -> Result<()> {
    if options.runs == 0 {
        bail!("--runs must be at least 1");
    }
    cleanup::remove_leftovers()?;
    let (mut list, missing) = subjects();
    if let Some(missing) = &missing {
        eprintln!("without a peer to compare with: {missing}");
    }
    if let Some(only) = &options.only {
        list.retain(|(name, _)| name == only);
        if list.is_empty() {
            bail!("nothing called {only:?} can be measured here");
        }
    }
    let (mut rows, mut idles) = (Vec::new(), Vec::new());
    for (name, raise) in list {
        let result = raise().and_then(|mut subject| {
            let result = measure::all(subject.as_mut(), options.runs, &mut rows, &mut idles);
            if result.is_err() {
                subject.keep();
            }
            result
        });
        match result {
            Ok(()) => {}
            Err(error) if interrupt::caught().is_some() => return Err(error),
            // The others are still worth their figures.
            Err(error) => eprintln!("{name}: cannot go on: {error:#}"),
        }
    }
    let folder = folder();
    std::fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
    for (name, json) in [
        ("failover.json", serde_json::to_string_pretty(&rows)?),
        ("idle.json", serde_json::to_string_pretty(&idles)?),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", report::tables(&rows, &idles, Paint::for_stdout()));
        println!("written to {}", folder.join("failover.json").display());
    }
    if rows.is_empty() {
        bail!("nothing was measured");
    }
    Ok(())
}
