//! The demo: three real nodes, a client, faults, and what they cost.

pub mod record;
pub mod rig;
pub mod score;
mod show;
pub mod svg;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use self::{
    record::{Check, Record},
    rig::{Fault, Rig},
};
use crate::{
    Lab, LabSpec, cleanup,
    clock::{boot_ns, ms},
    cluster::Cluster,
    interrupt,
    paint::{Busy, Paint},
};

/// The config that the demo runs, as it lies in the repository.
#[must_use]
pub fn default_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/demo.toml")
}

/// What to do besides the demo.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The config of all nodes.
    pub config: Option<PathBuf>,
    /// Where to write the record.
    pub json: Option<PathBuf>,
    /// Where to draw it.
    pub svg: Option<PathBuf>,
    /// Keep logs and configs.
    pub keep: bool,
}

/// Raises a lab of three nodes with the agents of a config file.
///
/// # Errors
/// Not root, something missing, or the config has no `key_file`.
pub fn raise(config: Option<&Path>) -> Result<Cluster> {
    let path = config.map_or_else(default_config, Path::to_owned);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the config {}", path.display()))?;
    let key = key_name(&text)
        .with_context(|| format!("{} names no key_file beside itself", path.display()))?;
    cleanup::remove_leftovers()?;
    Cluster::start(Lab::up(&LabSpec::default())?, &text, &key)
}

/// The key file's name, which has to be relative, as the lab makes the key itself.
fn key_name(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("key_file"))?;
    let name = line.split('"').nth(1)?;
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    plain.then(|| name.to_owned())
}

/// Runs the demo and prints it. Returns whether every expectation held.
///
/// # Errors
/// The demo could not be run to its end; what it made is removed all the same.
pub fn run(options: &Options) -> Result<bool> {
    let paint = Paint::for_stdout();
    let busy = Busy::with("raising the lab: namespaces, switch, three web servers, three agents");
    let mut rig = Rig::start(raise(options.config.as_deref())?)?;
    let nodes: Vec<_> = rig
        .cluster
        .lab
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    drop(busy);
    let machine = machine(rig.v4.real_time());
    print!("{}", show::header(&nodes, &machine, paint));

    let busy = Busy::with("waiting for the first owner (fresh state waits before it votes)");
    let result = rig.settle();
    drop(busy);
    let result = result.and_then(|()| steps(&mut rig, &nodes, machine, paint));
    let failed = result
        .as_ref()
        .map_or(interrupt::caught().is_none(), |(record, _)| !record.held);
    let kept = if options.keep || failed {
        rig.cluster.keep_dir()
    } else {
        None
    };
    if let Ok((_, text)) = &result {
        print!("{text}");
    }
    if let Some(dir) = kept {
        eprintln!("logs and configs are kept in {}", dir.display());
    }
    let (record, _) = result?;
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&record)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        std::fs::write(path, svg::draw(&record))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(record.held)
}

/// All steps, then the verdict as text.
fn steps(
    rig: &mut Rig,
    nodes: &[String],
    machine: String,
    paint: Paint,
) -> Result<(Record, String)> {
    // From the first owner on: before, there is nothing to lose.
    rig.from = boot_ns();
    let name = rig.wire_owner().unwrap_or_else(|| "nobody".into());
    println!("\n    first owner: {}", paint.bold(name));
    let mut steps = Vec::new();
    let plan: [fn(&mut Rig) -> Result<record::Step>; 7] = [
        |rig| rig.fault("a", Fault::Cut),
        |rig| rig.fault("b", Fault::Freeze),
        |rig| rig.fault("c", Fault::Kill),
        |rig| rig.planned_move("d"),
        |rig| rig.heal_all("e"),
        |rig| rig.reload("f"),
        |rig| rig.planned_restart("g"),
    ];
    let mut broken = None;
    for todo in plan {
        match todo(rig) {
            Ok(step) => {
                print!("{}", show::step(&step, rig, nodes, paint));
                steps.push(step);
            }
            Err(error) if interrupt::caught().is_some() => return Err(error),
            // What was measured so far is still worth its verdict.
            Err(error) => {
                println!("\n{} {error:#}", paint.bad("the demo cannot go on:"));
                broken = Some(error);
                break;
            }
        }
    }

    let (from_ns, to_ns) = (rig.from, boot_ns());
    let ownership = rig.owners.ownership(from_ns, to_ns);
    let mut checks: Vec<Check> = steps.iter().flat_map(|step| step.checks.clone()).collect();
    if let Some(error) = broken {
        checks.push(Check {
            step: "*",
            what: "every step came to its end".into(),
            limit: "yes".into(),
            measured: error.to_string().lines().next().unwrap_or("no").to_owned(),
            held: false,
            safety: false,
            noise: None,
        });
    }
    checks.push(Check {
        step: "*",
        what: "the whole time: two owners at once".into(),
        limit: "0 ms".into(),
        measured: format!("{:.0} ms", ms(ownership.dual_ns)),
        held: ownership.dual_ns == 0,
        safety: true,
        noise: None,
    });
    let record = Record {
        nodes: nodes.to_vec(),
        machine,
        from_ns,
        to_ns,
        pages: rig.pages.count(from_ns, to_ns),
        held: checks.iter().all(|check| check.held),
        ownership,
        steps,
    };
    let text = show::verdict(&record, rig, &checks, paint);
    Ok((record, text))
}

/// Kernel, processors, and whether the probers may be real-time.
fn machine(real_time: bool) -> String {
    let kernel = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let probers = if real_time {
        "real-time"
    } else {
        "without real-time rights"
    };
    format!("Linux {kernel}, {cpus} processors, probers {probers}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_must_lie_beside_the_config() {
        assert_eq!(
            key_name("a = 1\nkey_file = \"demo.key\" # x\n").as_deref(),
            Some("demo.key")
        );
        assert_eq!(key_name("key_file = \"/etc/heartline/cluster.key\""), None);
        assert_eq!(key_name("key_file = \"../x.key\""), None);
        assert_eq!(key_name(""), None);
    }
}
