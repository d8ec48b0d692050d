//! A provider's services on real machines: recursive DNS, RADIUS, web and SIP, each a group of its own, on nodes that
//! are Debian under systemd; asked without a pause by clients that count.
//!
//! ```text
//!   Provider
//!    |- Machine per node: systemd-nspawn in the node's namespace
//!    |    heartline.service, unbound, freeradius, nginx: hot standby; kamailio: started by whoever takes over
//!    |- Asker   DNS, RADIUS, SIP: 100 requests a second each
//!    |- Browser web: a new connection every 20 ms; one kept open, with a page every 20 ms
//!    `- Lab     namespaces and the switch that cuts
//! ```

pub mod asker;
pub mod browser;
pub mod cgroup;
mod disk;
pub mod fault;
pub mod image;
mod judge;
pub mod machine;
pub mod maintenance;
pub mod measure;
pub mod own;
pub mod rig;
pub mod service;
pub mod setup;
pub mod show;
pub mod wire;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use self::{
    fault::{Fault, Step},
    rig::Provider,
};
use crate::{
    clock::{boot_ns, ms},
    interrupt,
    paint::{Busy, Paint},
};

/// Nodes of the demo: three are a majority of two when one is down.
const NODES: u8 = 3;

/// What to do besides the demo.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Only these faults, in the demo's order; may be given several times [default: all]
    #[arg(long = "fault", value_name = "FAULT", value_enum)]
    pub faults: Vec<Fault>,
    /// Each fault so many times
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub times: u32,
    /// Keep journals and configs (kept in any case if an expectation did not hold)
    #[arg(long)]
    pub keep: bool,
}

/// All that was measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Record {
    /// Kernel and processors.
    pub machine: String,
    /// From nothing to four services answered, s; the image was there.
    pub raised_s: f64,
    /// Programs of Debian's that got a good answer, too.
    pub cross_checked: Vec<&'static str>,
    /// One per fault.
    pub steps: Vec<Step>,
    /// Whether every promise was kept.
    pub held: bool,
}

/// Runs the demo and prints it. Returns whether every promise was kept.
///
/// # Errors
/// It could not be run to its end; what it made is removed all the same.
pub fn run(options: &Options) -> Result<bool> {
    let paint = Paint::for_stdout();
    image::ensure()?;
    print!("{}", show::header(paint));
    let busy = Busy::with("booting three machines, starting the clients");
    let begin = boot_ns();
    let mut provider = Provider::raise(NODES)?;
    drop(busy);
    let result = steps(&mut provider, options, begin, paint);
    let failed = result
        .as_ref()
        .map_or(interrupt::caught().is_none(), |record| !record.held);
    if (options.keep || failed)
        && let Some(dir) = provider.keep()
    {
        eprintln!("journals and configs are kept in {}", dir.display());
    }
    let record = result?;
    print!("{}", show::verdict(&record, paint));
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&record)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(record.held)
}

fn steps(provider: &mut Provider, options: &Options, begin: u64, paint: Paint) -> Result<Record> {
    let busy = Busy::with("waiting until all services are answered");
    provider.settled()?;
    let raised_s = ms(boot_ns() - begin) / 1e3;
    let cross_checked = provider.cross_check()?;
    drop(busy);
    println!(
        "{}",
        paint.dim(format!(
            "up after {raised_s:.1} s; asked once by Debian's own programs, answered: {}\n",
            cross_checked.join(", ")
        ))
    );
    print!("{}", show::columns(paint));
    let mut steps = Vec::new();
    let chosen = |fault: &Fault| options.faults.is_empty() || options.faults.contains(fault);
    let faults = Fault::ALL.into_iter().filter(chosen);
    for fault in faults.flat_map(|fault| (0..options.times).map(move |_| fault)) {
        let busy = Busy::quiet(fault.title());
        let step = fault::run(provider, fault).with_context(|| fault.title())?;
        drop(busy);
        print!("{}", show::step(&step, paint));
        steps.push(step);
    }
    Ok(Record {
        machine: show::machine(),
        raised_s,
        cross_checked,
        held: steps.iter().flat_map(|step| &step.rows).all(|row| row.held),
        steps,
    })
}
