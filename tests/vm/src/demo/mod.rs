//! `cargo xtask demo drbd`: a replicated disk under a service, and all that can happen to it.
//!
//! Each fault has a place of its own: two guests with DRBD, a witness, a client that writes rows through the VIP.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum as _};
use heartline_lab::{clock::boot_ns, interrupt, paint::Busy};

use crate::{
    cluster::{Cluster, Proof, QUICK, Setting, Stack},
    device::Device,
    drbd,
    roles::Roles,
    rows::{self, Store, Writer},
    site::{Plan, Site},
};

mod fault;
mod outcome;

pub use fault::{Fault, Hurt};
pub use outcome::{Outcome, Phase};

/// By then a thing has happened, or it never will.
const SOON: Duration = Duration::from_secs(120);
/// Rows before the fault.
const BEFORE: usize = 25;
/// How long a cluster is watched in which nobody is expected to take over.
const QUIET: Duration = Duration::from_secs(12);

/// What to show.
#[derive(Args, Debug)]
pub struct Options {
    /// Only these faults
    #[arg(value_enum)]
    faults: Vec<Fault>,
    /// How DRBD is promoted
    #[arg(long, value_enum, default_value = "exec")]
    stack: Stack,
    /// What proves that an old owner is gone
    #[arg(long, value_enum, default_value = "none")]
    proof: Proof,
    /// What keeps the rows
    #[arg(long, value_enum, default_value = "sqlite")]
    store: Store,
    /// So often each
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// The outcomes as JSON, one per line
    #[arg(long)]
    json: bool,
}

/// Runs the faults and prints what came of them. Returns whether all was as it should be.
///
/// # Errors
/// The lab itself does not work.
pub fn run(options: &Options) -> Result<bool> {
    crate::image::ensure(false)?;
    let faults = if options.faults.is_empty() {
        Fault::value_variants().to_vec()
    } else {
        options.faults.clone()
    };
    let mut outcomes = Vec::new();
    for fault in faults {
        for _ in 0..options.runs {
            let busy = Busy::with(format!("{}: {}", fault.name(), fault.describe()));
            let start = Instant::now();
            let setting = Setting {
                stack: options.stack,
                proof: options.proof,
                store: options.store,
                timing: QUICK,
                ..Setting::default()
            };
            let outcome = one(fault, &setting, &busy)?;
            drop(busy);
            if options.json {
                println!("{}", serde_json::to_string(&outcome)?);
            } else {
                outcome.print(start.elapsed());
            }
            outcomes.push(outcome);
        }
    }
    if !options.json {
        println!("\n{}", outcome::table(&outcomes));
        println!("{}", outcome::legend(&outcomes));
    }
    Ok(outcomes.iter().all(Outcome::as_expected))
}

/// One fault in a place of its own.
///
/// # Errors
/// The lab itself does not work; the error says where logs are kept.
pub fn one(fault: Fault, setting: &Setting, busy: &Busy) -> Result<Outcome> {
    if setting.stack == Stack::Bare {
        bail!("there is no disk in a bare stack");
    }
    busy.say(format!("{}: booting two guests", fault.name()));
    let plan = Plan {
        disk: match setting.store {
            Store::Sqlite => 96,
            Store::Postgres => 192,
        },
        ..Plan::default()
    };
    let mut site = Site::up(plan)?;
    busy.say(format!("{}: DRBD", fault.name()));
    let options = drbd::options(setting.stack == Stack::Drbd && setting.proof == Proof::Fencing);
    let made = drbd::create(&mut site, &options, "ext4", setting.store);
    if let Err(error) = made {
        return Err(kept(error, &mut site));
    }
    let device = Device::start(&site.ns, site.dir())?;
    let mut cluster = Cluster::start(site, setting)?;
    let mut hurt = Hurt::new(fault, device, options);
    let done = tried(&mut hurt, setting, &mut cluster, busy);
    done.map_err(|error| {
        let error = error.context(format!(
            "{}\n{}",
            cluster.log_tail("n1"),
            cluster.log_tail("n2")
        ));
        kept(error, &mut cluster.site)
    })
}

fn kept(error: anyhow::Error, site: &mut Site) -> anyhow::Error {
    match site.keep_dir() {
        Some(dir) => error.context(format!("logs are kept in {}", dir.display())),
        None => error,
    }
}

fn tried(
    hurt: &mut Hurt,
    setting: &Setting,
    cluster: &mut Cluster,
    busy: &Busy,
) -> Result<Outcome> {
    let fault = hurt.fault;
    busy.say(format!("{}: n1 takes the group", fault.name()));
    cluster.brought_to("n1", SOON)?;
    let mut roles = Roles::default();
    for name in ["n1", "n2"] {
        let control = cluster.control(name)?;
        roles.watch(name, control)?;
    }
    let writer = Writer::start(&cluster.site.ns, setting.store)?;
    if !interrupt::until(SOON, Duration::from_millis(50), || {
        Ok(writer.rows().len() >= BEFORE)
    })? {
        bail!("no rows are written: {}", cluster.log_tail("n1"));
    }

    busy.say(format!("{}: {}", fault.name(), fault.describe()));
    let at = hurt.strike(cluster)?;
    let struck = boot_ns();
    // While something is wrong: rows go on, come back, or do not.
    let again = |since: u64| {
        writer
            .rows()
            .into_iter()
            .find(|row| row.at > since)
            .map(|row| row.at)
    };
    let moves = fault.moves(setting.proof);
    let patience = if moves || fault.stays() { SOON } else { QUIET };
    interrupt::until(patience, Duration::from_millis(50), || {
        Ok(again(struck).is_some() && (!moves || cluster.owns("n2")))
    })?;
    let first = again(struck);
    let phases = outcome::phases(cluster, at)?;
    interrupt::pass(Duration::from_secs(2))?;

    busy.say(format!("{}: all is well again", fault.name()));
    hurt.heal(cluster, &mut roles)?;
    let healed = boot_ns();
    let served = interrupt::until(SOON, Duration::from_millis(100), || {
        Ok(again(healed).is_some())
    })?;
    let split = split_brain(cluster);
    let acknowledged = writer.stop();
    let owner = if served { cluster.owner() } else { None };
    // The group may be on its way once more: looked at again, and "?" if nobody can tell.
    let mut found = None;
    interrupt::until(QUIET, Duration::from_secs(1), || {
        found = cluster
            .owner()
            .and_then(|name| setting.store.found(&cluster.control(&name).ok()?).ok());
        Ok(found.is_some())
    })?;
    Ok(Outcome {
        fault,
        stack: format!("{:?}", setting.stack).to_lowercase(),
        store: format!("{:?}", setting.store).to_lowercase(),
        proof: format!("{:?}", setting.proof).to_lowercase(),
        acknowledged: acknowledged.len(),
        lost: found.as_ref().map(|found| rows::lost(&acknowledged, found)),
        fenced: hurt.fenced(),
        both_ms: roles.both() / 1_000_000,
        two_at_once: roles.both() > 0,
        split_brain: split,
        gap_ms: outcome::gap(&acknowledged, at).map(|ns| ns / 1_000_000),
        first_ms: first.map(|first| first.saturating_sub(at) / 1_000_000),
        phases,
        owner,
        spans: roles
            .spans()
            .iter()
            .map(|span| {
                (
                    span.node.clone(),
                    ms_after(span.from, at),
                    ms_after(span.to, at),
                )
            })
            .collect(),
    })
}

/// Milliseconds from the fault, negative before it.
fn ms_after(ns: u64, fault: u64) -> i64 {
    (ns.cast_signed() - fault.cast_signed()) / 1_000_000
}

/// Whether a guest's kernel has seen two histories.
fn split_brain(cluster: &mut Cluster) -> bool {
    cluster.names().iter().any(|name| {
        cluster
            .control(name)
            .and_then(|control| control.run("dmesg | grep -q 'Split-Brain detected'", SOON))
            .is_ok_and(|ran| ran.code == Some(0))
    })
}
