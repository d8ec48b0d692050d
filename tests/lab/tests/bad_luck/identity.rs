//! A node that is there twice, and a node that comes back.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec, VIP4, VIP6,
    agent::{self, Agent},
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    exec,
    interrupt::{pass, until},
    lab::Station,
    trial::{
        SOON, event, fault, nothing_lost, owner, sees_alive, standbys, taken_over, undisturbed,
        with, with_cluster,
    },
};

/// Starts a second agent on a node, which must refuse; returns what it said.
fn second(rig: &Rig, node: &str, run: &str) -> Result<String> {
    let lab = &rig.cluster.lab;
    let mut command = Command::new(agent::binary()?);
    command
        .args(["agent", "--node", node, "--config"])
        .arg(rig.cluster.config())
        .arg("--run-dir")
        .arg(lab.dir().join(run))
        .arg("--bpf-dir")
        .arg(agent::bpf_dir(lab.prefix()).join(node));
    lab.node(node)?.ns.apply(&mut command);
    let out = exec::run(command, "", SOON)?;
    ensure!(
        out.code.is_some_and(|code| code != 0),
        "the second agent ended with {:?}",
        out.code
    );
    Ok(out.stderr + &out.stdout)
}

#[test]
fn a_second_agent_on_a_node_is_refused() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();
        for node in [old.clone(), standby] {
            let pid = rig.cluster.agent(&node)?.pid()?.to_string();
            let from = boot_ns();
            // The same run directory, then another one over the same pins.
            for run in [format!("run-{node}"), format!("run-{node}-other")] {
                let said = second(rig, &node, &run)?;
                ensure!(
                    said.contains(&pid),
                    "{run}: the first agent's process {pid} is not named: {said}"
                );
            }
            undisturbed(rig, from, &old).context(node)?;
        }
        Ok(())
    })
}

/// A fourth machine that believes to be `n1`: from an own address, or as a perfect clone.
fn impostor(rig: &Rig, dir: &str, clone: bool) -> Result<Agent> {
    let lab = &rig.cluster.lab;
    let spare = lab.node("n4")?;
    let station = Station {
        name: "n1".into(),
        ..spare.clone()
    };
    let folder = lab.dir().join(dir);
    std::fs::create_dir_all(&folder)?;
    let mut text = std::fs::read_to_string(rig.cluster.config())?;
    if clone {
        spare.ns.ip("address add 10.77.0.1/24 dev eth0\n")?;
    } else {
        text = text.replace("\"10.77.0.1\"", "\"10.77.0.4\"");
    }
    std::fs::copy(lab.dir().join("cluster.key"), folder.join("cluster.key"))?;
    let path = folder.join("heartline.toml");
    std::fs::write(&path, text)?;
    let pins = agent::bpf_dir(lab.prefix()).join(dir);
    let mut agent = Agent::new(&station, &path, &folder, &pins)?;
    agent.start()?;
    Ok(agent)
}

/// Four machines, the fourth a spare one.
fn with_a_spare(test: impl FnOnce(&mut Rig) -> Result<()>) -> Result<()> {
    let text = config::text(&LabSpec::default(), &ConfigSpec::default());
    let lab = Lab::up(&LabSpec { nodes: 4, links: 1 })?;
    with_cluster(Cluster::start_first(3, lab, &text, "cluster.key")?, test)
}

/// Lets `n1` own the group, or another node.
fn let_own(rig: &mut Rig, n1: bool) -> Result<()> {
    let old = owner(rig)?;
    if (old == "n1") != n1 {
        let to = if n1 { "n1" } else { "n2" };
        rig.cluster.agent(to)?.cli_ok(&["move", "web", to])?;
        ensure!(taken_over(rig, &old)? == to, "moved elsewhere");
        rig.settle()?;
    }
    Ok(())
}

/// Past its own wait, another machine has tried what it can.
const TRIES: Duration = Duration::from_millis(2500);

/// The id of the owner, then of a standby, used by another machine with an address of its own.
#[test]
fn another_machine_with_the_same_id() -> Result<()> {
    with_a_spare(|rig| {
        for owned in [true, false] {
            let_own(rig, owned)?;
            let (from, old) = (boot_ns(), owner(rig)?);
            let mut twin = impostor(rig, &format!("twin-{owned}"), false)?;
            event(rig, "n2", "duplicate_id", from, |event| {
                event["peer"] == "n1"
            })?;
            pass(TRIES)?;
            nothing_lost(rig, from, &old).context("the first machine goes on")?;
            twin.kill()?;
            undisturbed(rig, from, &old)
                .with_context(|| format!("n1 owned: {owned}; after the other machine was gone"))?;
        }
        Ok(())
    })
}

/// It takes the place of one that is cut off, is accepted, and goes: the first one finds back.
#[test]
fn a_machine_that_was_replaced_comes_back() -> Result<()> {
    with_a_spare(|rig| {
        let_own(rig, true)?;
        rig.cluster.lab.switch.cut("n1")?;
        taken_over(rig, "n1")?;
        let from = boot_ns();
        let mut twin = impostor(rig, "heir", false)?;
        sees_alive(rig, "n2", 3)?;
        event(rig, "n2", "note", from, |event| {
            event["text"]
                .as_str()
                .is_some_and(|text| text.contains("fresh state"))
        })?;
        // Both at once: the first is the old one now.
        rig.cluster.lab.switch.heal()?;
        pass(TRIES)?;
        twin.kill()?;
        rig.settle()?;
        event(rig, "n1", "rejoin_wait", from, |_| true).map(drop)
    })
}

/// A clone of the owner's machine with the same address, too: the network itself is torn between
/// the two, yet no two answer.
#[test]
fn a_cloned_machine() -> Result<()> {
    with_a_spare(|rig| {
        let_own(rig, true)?;
        let mut twin = impostor(rig, "clone", true)?;
        pass(TRIES)?;
        twin.kill()?;
        let spare = rig.cluster.lab.node("n4")?;
        spare.ns.ip("address del 10.77.0.1/24 dev eth0\n")?;
        let served = until(SOON, Duration::from_millis(50), || {
            Ok(rig.wire_owner().is_some())
        })?;
        ensure!(served, "nobody serves after the clone is gone");
        rig.settle()
    })
}

/// What a reboot leaves of a node: nothing. The addresses go first, as they would with the kernel.
fn reboot(rig: &mut Rig, node: &str) -> Result<()> {
    rig.cluster.agent(node)?.kill()?;
    let station = rig.cluster.lab.node(node)?.clone();
    for line in [
        format!("address del {VIP4}/32 dev eth0\n"),
        format!("address del {VIP6}/128 dev eth0\n"),
    ] {
        // Not there on a standby.
        let _ = station.ns.ip(&line);
    }
    let pins = agent::bpf_dir(rig.cluster.lab.prefix()).join(node);
    for layout in std::fs::read_dir(&pins)?.flatten() {
        std::fs::remove_dir_all(layout.path())?;
    }
    Ok(())
}

#[test]
fn a_rebooted_node_waits_before_it_votes() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();
        let from = boot_ns();
        reboot(rig, &standby)?;
        rig.cluster.agent(&standby)?.start()?;
        undisturbed(rig, from, &old)?;
        waited(rig, &standby, from)?;

        let from = boot_ns();
        fault(rig, |rig, old, _| {
            reboot(rig, old)?;
            rig.cluster.agent(old)?.start()
        })?;
        rig.settle()?;
        waited(rig, &old, from)
    })
}

/// A fresh node said that it waits, and voted no earlier than after `max_promise`.
fn waited(rig: &mut Rig, node: &str, from: u64) -> Result<()> {
    let wait = event(rig, node, "rejoin_wait", from, |_| true)?;
    let vote = event(rig, node, "note", from, |event| {
        event["text"]
            .as_str()
            .is_some_and(|text| text.contains("voting"))
    })?;
    let at = |event: &serde_json::Value| event["boot_ns"].as_u64().unwrap_or(0);
    // The config of the lab says 1 s; the first event is told a little after the birth of the maps.
    ensure!(
        at(&vote) > at(&wait) + 900_000_000,
        "{node} voted too early: {wait} {vote}"
    );
    Ok(())
}
