//! `cargo xtask demo drbd`: a replicated disk under a service, and all that can happen to it.
//!
//! Each fault has a place of its own: two guests with DRBD, a witness, a client that writes rows through the VIP. Each
//! step has a deadline, each fault an outcome: what could not be done or did not come is part of it, and the next fault
//! has its turn.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum as _};
use heartline_lab::{clock::boot_ns, interrupt, paint::Busy};

use crate::{
    cluster::{CALM, Cluster, Proof, QUICK, Setting, Stack},
    device::Device,
    drbd,
    roles::Roles,
    rows::{self, Store, Writer},
    site::{Plan, Site},
};

mod fault;
mod outcome;

pub use fault::{During, Fault, Hurt};
pub use outcome::{Outcome, Phase};

/// By then a thing has happened, or it never will.
const SOON: Duration = Duration::from_secs(90);
/// Rows before the fault.
const BEFORE: usize = 25;
/// How long a cluster is watched in which nobody is expected to serve.
const QUIET: Duration = Duration::from_secs(12);
/// A row that is acknowledged so soon after a fault was on its way, or the old owner's lease still held, ns.
const GRACE: u64 = 3_000_000_000;
/// How long a service is watched after it is back.
const AFTER: Duration = Duration::from_secs(2);

/// What to show.
#[derive(Args, Debug)]
pub struct Options {
    /// Only these faults
    #[arg(value_enum)]
    faults: Vec<Fault>,
    /// How DRBD is promoted
    #[arg(long, value_enum, default_value = "drbd")]
    stack: Stack,
    /// What proves that an old owner is gone
    #[arg(long, value_enum, default_value = "fencing")]
    proof: Proof,
    /// What keeps the rows
    #[arg(long, value_enum, default_value = "sqlite")]
    store: Store,
    /// So often each
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Shorter times of the cluster (takeover after 0.5 s in place of 1 s): for a machine where nothing else runs
    #[arg(long)]
    quick: bool,
    /// The outcomes as JSON, one per line
    #[arg(long)]
    json: bool,
}

/// Runs the faults and prints what came of them. Returns whether all was as it should be.
///
/// # Errors
/// There is no image for the guests, or Ctrl-C.
pub fn run(options: &Options) -> Result<bool> {
    if options.stack == Stack::Bare {
        bail!("there is no disk in a bare stack: `--stack drbd` or `--stack exec`");
    }
    crate::image::ensure(false)?;
    let faults = if options.faults.is_empty() {
        Fault::value_variants().to_vec()
    } else {
        options.faults.clone()
    };
    let setting = Setting {
        stack: options.stack,
        proof: options.proof,
        store: options.store,
        timing: if options.quick { QUICK } else { CALM },
        ..Setting::default()
    };
    let mut outcomes = Vec::new();
    for fault in faults {
        for _ in 0..options.runs {
            let busy = Busy::with(format!("{}: {}", fault.name(), fault.describe()));
            let start = Instant::now();
            let outcome = match one(fault, &setting, &busy) {
                Ok(outcome) => outcome,
                Err(error) => {
                    interrupt::check()?;
                    Outcome::none(fault, &setting, format!("{error:#}"))
                }
            };
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
/// It did not come to the fault; the error says where logs are kept.
pub fn one(fault: Fault, setting: &Setting, busy: &Busy) -> Result<Outcome> {
    busy.say(format!("{}: booting two guests", fault.name()));
    let plan = Plan {
        disk: match setting.store {
            Store::Sqlite => 96,
            Store::Postgres => 192,
        },
        ..Plan::default()
    };
    let mut site = Site::up(plan).context("booting two guests")?;
    busy.say(format!("{}: DRBD", fault.name()));
    let options = drbd::options(setting.stack == Stack::Drbd && setting.proof == Proof::Fencing);
    let made = drbd::create(&mut site, &options, "ext4", setting.store);
    if let Err(error) = made {
        return Err(kept(error.context("making DRBD"), &mut site));
    }
    let device = Device::start(&site.ns, site.dir())?;
    let mut cluster = Cluster::start(site, setting)?;
    let hurt = Hurt::new(fault, device, options);
    match Trial::begin(hurt, setting, &mut cluster, busy) {
        Ok(trial) => {
            let mut outcome = trial.run(&mut cluster, busy);
            if !outcome.as_expected() {
                outcome.logs = keep(&mut cluster);
            }
            interrupt::check()?;
            Ok(outcome)
        }
        Err(error) => {
            keep_logs(&mut cluster);
            Err(kept(error, &mut cluster.site))
        }
    }
}

fn kept(error: anyhow::Error, site: &mut Site) -> anyhow::Error {
    match site.keep_dir() {
        Some(dir) => error.context(format!("logs are kept in {}", dir.display())),
        None => error,
    }
}

/// The agents' logs and the kernels' go beside the consoles.
fn keep_logs(cluster: &mut Cluster) {
    for name in cluster.names() {
        if !cluster.site.guest(&name).is_ok_and(|guest| guest.running()) {
            continue;
        }
        let text = cluster.log(&name);
        let _ = std::fs::write(cluster.site.dir().join(format!("{name}.agent.log")), text);
        let script =
            "dmesg; cat /proc/drbd; cat /run/rows.log; heartline status; heartline events --json";
        let said = cluster
            .control(&name)
            .and_then(|control| control.run(script, SOON / 3))
            .map_or_else(|error| format!("{error:#}"), |ran| ran.stdout + &ran.stderr);
        let _ = std::fs::write(cluster.site.dir().join(format!("{name}.kernel.log")), said);
    }
}

fn keep(cluster: &mut Cluster) -> Option<String> {
    keep_logs(cluster);
    Some(cluster.site.keep_dir()?.display().to_string())
}

/// One fault on its way.
struct Trial<'a> {
    hurt: Hurt,
    setting: &'a Setting,
    roles: Roles,
    writer: Writer,
    trouble: Vec<String>,
}

impl<'a> Trial<'a> {
    /// Up to the fault: n1 serves, rows are written.
    fn begin(hurt: Hurt, setting: &'a Setting, cluster: &mut Cluster, busy: &Busy) -> Result<Self> {
        busy.say(format!("{}: n1 takes the group", hurt.fault.name()));
        cluster.brought_to("n1", SOON)?;
        let mut roles = Roles::default();
        for name in ["n1", "n2"] {
            let control = cluster.control(name)?;
            roles.watch(name, control)?;
        }
        let writer = Writer::start(&cluster.site.ns, setting.store)?;
        let written = interrupt::until(SOON, Duration::from_millis(50), || {
            Ok(writer.rows().len() >= BEFORE)
        })?;
        if !written {
            bail!("no rows are written: {}", cluster.log_tail("n1"));
        }
        Ok(Self {
            hurt,
            setting,
            roles,
            writer,
            trouble: Vec::new(),
        })
    }

    /// What went wrong is part of the outcome.
    fn good<T>(&mut self, what: &str, done: Result<T>) -> Option<T> {
        done.map_err(|error| self.trouble.push(format!("{what}: {error:#}")))
            .ok()
    }

    /// The first row that was acknowledged after this moment.
    fn row_after(&self, since: u64) -> Option<u64> {
        let rows = self.writer.rows();
        rows.into_iter()
            .find(|row| row.at > since)
            .map(|row| row.at)
    }

    fn run(mut self, cluster: &mut Cluster, busy: &Busy) -> Outcome {
        let fault = self.hurt.fault;
        busy.say(format!("{}: {}", fault.name(), fault.describe()));
        let begun = boot_ns();
        let done = self.hurt.strike(cluster);
        let at = self.good("striking", done).unwrap_or(begun);
        let first = self.while_it_lasts(cluster);
        let told = outcome::told(cluster, at);
        let (phases, proof_used) = self.good("the events of n2", told).unwrap_or_default();

        busy.say(format!("{}: all is well again", fault.name()));
        let done = self.hurt.heal(cluster, &mut self.roles);
        self.good("healing", done);
        let healed = boot_ns();
        let served = interrupt::until(SOON, Duration::from_millis(100), || {
            Ok(self.row_after(healed).is_some())
        });
        if self.good("waiting", served) != Some(true) {
            let text = format!(
                "no row within {SOON:?} after all was well again; n1: {}; n2: {}",
                last_line(&cluster.log_tail("n1")),
                last_line(&cluster.log_tail("n2"))
            );
            self.trouble.push(text);
        }
        let split_brain = split_brain(cluster);
        if !split_brain {
            self.in_sync(cluster);
        }
        self.finish(cluster, at, first, phases, proof_used, split_brain)
    }

    /// Rows go on, come back, or do not; returns the first one that shows it.
    fn while_it_lasts(&mut self, cluster: &mut Cluster) -> Option<u64> {
        let struck = boot_ns();
        let later = struck + GRACE;
        let during = {
            let Setting { stack, proof, .. } = *self.setting;
            self.hurt.fault.during(stack, proof)
        };
        let patience = match during {
            During::Moves | During::Stays => SOON,
            During::Quiet | During::Whatever => QUIET,
        };
        // Nobody is asked for more than is watched anyway: it would cost the machine that takes over.
        let mut first = None;
        let done = interrupt::until(patience, Duration::from_millis(50), || {
            first = match during {
                During::Moves => {
                    let primary = self.roles.primary_since("n2", struck);
                    primary.and_then(|since| self.row_after(since))
                }
                During::Stays | During::Quiet | During::Whatever => self.row_after(later),
            };
            Ok(first.is_some())
        });
        let done = self.good("waiting", done) == Some(true);
        match during {
            During::Moves if !done => {
                let last = last_line(&cluster.log_tail("n2"));
                self.trouble.push(format!(
                    "n2 did not serve within {patience:?}; its log ends: {last}"
                ));
            }
            During::Stays if !done => {
                let last = last_line(&cluster.log_tail("n1"));
                self.trouble.push(format!(
                    "n1 did not go on within {patience:?}; its log ends: {last}"
                ));
            }
            During::Quiet if done => {
                self.trouble
                    .push("somebody served although nothing proved that it may".to_owned());
            }
            During::Moves | During::Stays | During::Quiet | During::Whatever => {}
        }
        let passed = interrupt::pass(AFTER);
        self.good("waiting", passed);
        match during {
            During::Moves => first,
            // Writes stood still for a while, or they did not.
            During::Stays => outcome::after_gap(&self.writer.rows(), struck),
            During::Quiet | During::Whatever => None,
        }
    }

    /// Both replicas are good again.
    fn in_sync(&mut self, cluster: &mut Cluster) {
        let mut seen = String::new();
        let synced = interrupt::until(SOON, Duration::from_millis(500), || {
            let owner = cluster.control("n1");
            seen = owner
                .and_then(|control| drbd::line(&control))
                .unwrap_or_else(|error| format!("{error:#}"));
            Ok(seen.contains("ds:UpToDate/UpToDate"))
        });
        if self.good("waiting", synced) != Some(true) {
            self.trouble
                .push(format!("not in sync {SOON:?} after all was well: {seen}"));
        }
    }

    fn finish(
        self,
        cluster: &mut Cluster,
        at: u64,
        first: Option<u64>,
        phases: Vec<Phase>,
        proof_used: Vec<String>,
        split_brain: bool,
    ) -> Outcome {
        let Self {
            hurt,
            setting,
            roles,
            writer,
            mut trouble,
        } = self;
        let acknowledged = writer.stop();
        // The group may be on its way once more: looked at again.
        let (mut owner, mut found) = (None, None);
        let looked = interrupt::until(SOON / 3, Duration::from_secs(1), || {
            owner = cluster.owner();
            found = owner
                .as_ref()
                .and_then(|name| setting.store.found(&cluster.control(name).ok()?).ok());
            Ok(found.is_some())
        });
        if !matches!(looked, Ok(true)) {
            trouble.push("nobody serves in the end, so the rows cannot be counted".to_owned());
        }
        let ms = |ns: u64| (ns.cast_signed() - at.cast_signed()) / 1_000_000;
        Outcome {
            fault: hurt.fault,
            stack: word(setting.stack),
            store: word(setting.store),
            proof: word(setting.proof),
            acknowledged: acknowledged.len(),
            lost: found.as_ref().map(|found| rows::lost(&acknowledged, found)),
            fenced: hurt.fenced(),
            both_ms: roles.both() / 1_000_000,
            two_at_once: roles.both() > 0,
            split_brain,
            gap_ms: outcome::gap(&acknowledged, at).map(|ns| ns / 1_000_000),
            first_ms: first.map(|first| first.saturating_sub(at) / 1_000_000),
            phases,
            proof_used,
            owner,
            spans: roles
                .spans()
                .iter()
                .map(|span| (span.node.clone(), ms(span.from), ms(span.to)))
                .collect(),
            trouble,
            logs: None,
        }
    }
}

fn word(value: impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn last_line(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.unwrap_or("nothing").to_owned()
}

/// Whether a guest's kernel has seen two histories, in any of its lives: DRBD says so loudly enough for the console.
fn split_brain(cluster: &mut Cluster) -> bool {
    const SAYS: &str = "Split-Brain detected";
    let on_console = |guest: &crate::guest::Guest| {
        let bytes = std::fs::read(guest.spec.console()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(SAYS)
    };
    cluster.site.guests.iter().any(on_console)
        || cluster.names().iter().any(|name| {
            cluster
                .control(name)
                .and_then(|control| control.run(&format!("dmesg | grep -q '{SAYS}'"), SOON / 3))
                .is_ok_and(|ran| ran.code == Some(0))
        })
}
