//! The watchdog: each node's is a FIFO that the test reads, so that it sees each sign of life, the letter before an orderly
//! close, and a close without it. (A real one resets a real machine in `tests/vm`.)

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    interrupt::{pass, until},
    trial::with_cluster,
};
use serde_json::Value;

use super::{LATE, POLL, SCRIPT, Traces, another, group, phase, resource, runs, says_late};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The shortest there is.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What watches a machine.
#[derive(Debug)]
struct Dog {
    reader: File,
    pets: usize,
    /// The agent has it open.
    armed: bool,
    /// The last byte was the letter.
    letter: bool,
    /// Closed with the letter, and without.
    disarmed: usize,
    left: usize,
}

impl Dog {
    fn new(path: &Path) -> Result<Dog> {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU)?;
        let reader = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(path)?;
        Ok(Dog {
            reader,
            pets: 0,
            armed: false,
            letter: false,
            disarmed: 0,
            left: 0,
        })
    }

    /// Takes what has come.
    fn look(&mut self) -> Result<&Dog> {
        let mut bytes = [0; 256];
        loop {
            match self.reader.read(&mut bytes) {
                Ok(0) => {
                    if std::mem::take(&mut self.armed) {
                        if self.letter {
                            self.disarmed += 1;
                        } else {
                            self.left += 1;
                        }
                    }
                    return Ok(self);
                }
                Ok(n) => {
                    let taken = bytes.get(..n).unwrap_or_default();
                    self.pets += taken.iter().filter(|b| **b != b'V').count();
                    self.letter = taken.last() == Some(&b'V');
                    self.armed = true;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.armed = true;
                    return Ok(self);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&Dog) -> bool) -> Result<()> {
        if until(LATE, POLL, || Ok(holds(self.look()?)))? {
            return Ok(());
        }
        bail!("never came: {what}: {self:?}")
    }

    /// It gets further signs of life.
    fn is_petted(&mut self) -> Result<()> {
        let before = self.look()?.pets;
        self.wait("two signs of life more", |d| d.pets >= before + 2)?;
        ensure!(self.armed, "{self:?}");
        Ok(())
    }

    /// For more than its time it gets none.
    fn starves(&mut self) -> Result<()> {
        let before = self.look()?.pets;
        pass(TIMEOUT + TIMEOUT / 2)?;
        let now = self.look()?.pets;
        ensure!(now == before, "{} signs of life too many", now - before);
        Ok(())
    }
}

/// All dogs, by node.
struct Dogs(Vec<(String, Dog)>);

impl Dogs {
    fn of(&mut self, node: &str) -> Result<&mut Dog> {
        let found = self.0.iter_mut().find(|(name, _)| name == node);
        Ok(&mut found.context("no such node")?.1)
    }
}

fn path(dir: &Path, node: &str) -> PathBuf {
    dir.join(format!("{node}.dog"))
}

/// Three nodes with something stateful, and a watchdog each, with these lines beside it.
fn with_dogs(
    lines: &str,
    test: impl FnOnce(&mut Rig, &Traces, &mut Dogs) -> Result<()>,
) -> Result<()> {
    let spec = LabSpec::default();
    let lab = Lab::up(&spec)?;
    let traces = Traces(lab.dir().join("services"));
    fs::create_dir(&traces.0)?;
    fs::write(traces.path("service.sh"), SCRIPT)?;
    let dir = lab.dir().to_owned();
    let text = config::text(&spec, &ConfigSpec::default())
        + &resource(&traces.0, "app", "stateful = true");
    let dogs = NODES.map(|node| -> Result<(String, Dog)> {
        Ok((node.to_owned(), Dog::new(&path(&dir, node))?))
    });
    let mut dogs = Dogs(dogs.into_iter().collect::<Result<_>>()?);
    let cluster = Cluster::start_prepared(usize::MAX, lab, &text, "cluster.key", |agent| {
        let node = agent.name().to_owned();
        let own = dir.join(format!("heartline-{node}.toml"));
        let dog = format!(
            "\n[watchdog]\ndevice = \"{}\"\ntimeout = \"{}s\"\n{lines}\n",
            path(&dir, &node).display(),
            TIMEOUT.as_secs()
        );
        fs::write(&own, format!("{text}{dog}"))?;
        agent.set_config(&own);
        Ok(())
    })?;
    with_cluster(cluster, |rig| {
        test(rig, &traces, &mut dogs).with_context(|| {
            let dogs: Vec<_> = dogs
                .0
                .iter_mut()
                .map(|(n, d)| format!("{n}: {:?}", d.look()))
                .collect();
            format!(
                "services:\n{}\ndogs:\n{}",
                traces.log().join("\n"),
                dogs.join("\n")
            )
        })
    })
}

fn state(status: &Value) -> &str {
    status["watchdog"]["state"].as_str().unwrap_or_default()
}

fn kinds(rig: &mut Rig, node: &str) -> Result<Vec<String>> {
    let events = rig.cluster.agent(node)?.events()?;
    let kinds = events.iter().filter_map(|e| e["kind"].as_str());
    Ok(kinds.map(str::to_owned).collect())
}

/// The first number of a file.
fn uptime(path: &Path) -> Result<f64> {
    let text = fs::read_to_string(path)?;
    let first = text.split_whitespace().next();
    Ok(first.context("a number")?.parse()?)
}

/// When a node began to start it last, s since the machine was booted.
fn started(t: &Traces, node: &str) -> Result<f64> {
    let text = fs::read_to_string(t.path("log"))?;
    let end = format!(" {node} app start");
    let line = text.lines().rfind(|l| l.ends_with(&end));
    let number = line.and_then(|l| l.split(' ').next());
    Ok(number.context("it never started")?.parse()?)
}

/// Another than `old` has the group, and does not start it.
fn waits(rig: &mut Rig, old: &str) -> Result<String> {
    rig.cluster
        .wait_for("another has it, and waits", LATE, |said| {
            said.iter().filter(|(node, _)| node != old).all(|(_, s)| {
                s.as_ref().is_ok_and(|s| {
                    let owner = &group(s, "web")["owner"];
                    owner.is_string() && *owner != *old && phase(s, "web") == "blocked"
                })
            })
        })?;
    let said = rig.cluster.statuses();
    let of = said.iter().filter(|(node, _)| node != old);
    let owner = of.filter_map(|(_, s)| group(s.as_ref().ok()?, "web")["owner"].as_str());
    owner.map(str::to_owned).next().context("an owner")
}

#[test]
fn armed_on_the_owner_alone_and_disarmed_by_a_move() -> Result<()> {
    with_dogs("", |rig, t, dogs| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        dogs.of(&old)?.is_petted()?;
        says_late(rig, &old, "its watchdog is armed", |s| {
            state(s) == "armed" && s["watchdog"]["at_stake"][0] == "web"
        })?;
        for node in NODES.into_iter().filter(|n| *n != old) {
            let dog = dogs.of(node)?.look()?;
            ensure!(!dog.armed && dog.pets == 0, "{node} owns nothing: {dog:?}");
        }
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        ensure!(runs(rig, "web", &old)? == new, "not on {new}");
        dogs.of(&old)?
            .wait("disarmed in order", |d| d.disarmed == 1)?;
        dogs.of(new)?.is_petted()?;
        ensure!(dogs.of(&old)?.left == 0, "it was left armed");
        says_late(rig, &old, "off again", |s| state(s) == "off")?;
        // A planned restart hands it over, armed.
        rig.cluster.agent(new)?.planned_restart(LATE)?;
        rig.settle()?;
        dogs.of(new)?.is_petted()?;
        let dog = dogs.of(new)?;
        ensure!(dog.disarmed == 0 && dog.left == 0, "let go of: {dog:?}");
        ensure!(t.count(&format!("{new} app start")) == 1, "started again");
        says_late(rig, new, "armed, as before", |s| state(s) == "armed")?;
        // A clean end disarms it.
        ensure!(
            rig.cluster.agent(new)?.stop(LATE)? == Some(0),
            "not a clean end"
        );
        dogs.of(new)?
            .wait("disarmed at the end", |d| d.disarmed == 1)?;
        // What is stateful waits for the word of the node that is down.
        rig.cluster.agent(new)?.start()?;
        let last = runs(rig, "web", new)?;
        rig.settle()?;
        ensure!(runs(rig, "web", new)? == last, "it moved again");
        Ok(())
    })
}

#[test]
fn a_frozen_owner_is_petted_no_more_and_its_time_is_a_proof() -> Result<()> {
    with_dogs("proof = true", |rig, t, dogs| {
        let old = runs(rig, "web", "")?;
        dogs.of(&old)?.is_petted()?;
        let frozen = uptime("/proc/uptime".as_ref())?;
        rig.cluster.freeze(&old)?;
        let new = waits(rig, &old)?;
        dogs.of(&old)?.starves()?;
        // Here the real one resets the machine: agent and services are gone at once, and /run with them.
        rig.cluster.agent(&old)?.kill()?;
        rig.cluster.thawed(&old);
        t.remove(&format!("app.{old}.up"))?;
        let run_dir = rig.cluster.agent(&old)?.run_dir().to_owned();
        let _ = fs::remove_file(run_dir.join("watchdog-armed"));
        ensure!(runs(rig, "web", &old)? == new, "it moved");
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        // Two terms, the slew of two clocks, and a margin.
        let started = started(t, &new)?;
        ensure!(
            started > frozen + 2.0 * TIMEOUT.as_secs_f64(),
            "frozen at {frozen}, started at {started}"
        );
        let events = rig.cluster.agent(&new)?.events()?;
        let proven = events.iter().rfind(|e| e["kind"] == "proven");
        let proof = proven.and_then(|e| e["proof"].as_str()).unwrap_or("");
        ensure!(
            proof.contains(&old) && proof.contains("watchdog"),
            "the proof is {proof:?}"
        );
        rig.cluster.agent(&old)?.start()?;
        rig.settle()?;
        ensure!(runs(rig, "web", "")? == new, "it moved again");
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        Ok(())
    })
}

#[test]
fn a_lost_lease_and_a_stop_that_hangs_starve_it_and_prove_nothing_unasked() -> Result<()> {
    with_dogs("", |rig, t, dogs| {
        let old = runs(rig, "web", "")?;
        dogs.of(&old)?.is_petted()?;
        t.make("app.hold-stop")?;
        rig.cluster.lab.switch.cut(&old)?;
        let new = waits(rig, &old)?;
        says_late(rig, &old, "it will be reset", |s| {
            state(s) == "starving" && s["watchdog"]["reset_in_ms"].is_number()
        })?;
        dogs.of(&old)?.starves()?;
        ensure!(
            kinds(rig, &old)?.contains(&"watchdog_starving".to_owned()),
            "nobody was told"
        );
        // `proof` is not said, so its time proves nothing, and people are told so.
        says_late(rig, &new, "the watchdog alone is no proof", |s| {
            let text = group(s, "web")["services"]["text"].as_str().unwrap_or("");
            text.contains(&old) && text.contains("watchdog alone is no proof")
        })?;
        ensure!(t.up("app") == [old.as_str()], "up: {:?}", t.up("app"));
        // It stops after all.
        t.remove("app.hold-stop")?;
        dogs.of(&old)?.wait("disarmed", |d| d.disarmed == 1)?;
        ensure!(!t.is_up("app", &old), "disarmed before it was stopped");
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        dogs.of(&new)?.is_petted()?;
        t.never_both("app")
    })
}

#[test]
fn what_a_killed_agent_left_armed_is_left_alone_until_all_is_stopped() -> Result<()> {
    with_dogs("", |rig, t, dogs| {
        let old = runs(rig, "web", "")?;
        dogs.of(&old)?.is_petted()?;
        t.make("app.hold-stop")?;
        rig.cluster.agent(&old)?.kill()?;
        let new = waits(rig, &old)?;
        dogs.of(&old)?
            .wait("closed without the letter", |d| d.left == 1)?;
        rig.cluster.agent(&old)?.start()?;
        says_late(rig, &old, "it knows that the device counts", |s| {
            state(s) == "left"
        })?;
        t.wait("it stops what it found", |t| {
            t.count(&format!("{old} app stop")) == 1
        })?;
        pass(TIMEOUT)?;
        let dog = dogs.of(&old)?.look()?;
        ensure!(!dog.armed && dog.left == 1, "another term: {dog:?}");
        t.remove("app.hold-stop")?;
        dogs.of(&old)?
            .wait("taken over, and disarmed", |d| d.disarmed == 1)?;
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        says_late(rig, &old, "off", |s| state(s) == "off")?;
        t.never_both("app")?;
        rig.settle()
    })
}

#[test]
fn without_its_watchdog_a_node_starts_nothing_stateful() -> Result<()> {
    with_dogs("", |rig, t, dogs| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        // Nobody watches that machine any more.
        let at = dogs.0.iter().position(|(name, _)| name == new);
        drop(dogs.0.remove(at.context("no such node")?));
        let _ = rig
            .cluster
            .agent(&old)?
            .cli(&["move", "web", new, "--no-wait"])?;
        says_late(rig, new, "it says why", |s| {
            let warned = s["warnings"].as_array().into_iter().flatten();
            let mut of = warned.filter(|w| w["code"] == "watchdog_failed");
            state(s) == "failed"
                && of.any(|w| w["text"].as_str().unwrap_or("").contains("nobody reads"))
        })?;
        let now = runs(rig, "web", new)?;
        ensure!(t.count(&format!("{new} app start")) == 0, "it was started");
        dogs.of(&now)?.is_petted()?;
        t.never_both("app")?;
        rig.settle()
    })
}
