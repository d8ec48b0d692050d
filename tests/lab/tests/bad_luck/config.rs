//! Configs that differ, change, and are refused.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use heartline_lab::{
    LabSpec,
    clock::boot_ns,
    config::ConfigSpec,
    demo::rig::Rig,
    interrupt::until,
    probe_owner::OwnerProber,
    trial::{SOON, event, owner, says, standbys, undisturbed, with},
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Tells one node to read its config again, and waits until it has; returns the event.
fn reload(rig: &mut Rig, node: &str) -> Result<Value> {
    let from = boot_ns();
    rig.cluster.agent(node)?.signal(Signal::SIGHUP)?;
    event(rig, node, "reload", from, |_| true)
}

/// How many other nodes have another config, as a node sees it.
fn mismatches(status: &Value) -> usize {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    nodes
        .filter(|node| !node["config_mismatch"].is_null())
        .count()
}

const MORE: &str = "[[group]]\nname = \"more\"\nid = 7\nprefer = [\"n3\", \"n2\", \"n1\"]\n\
                    [[group.vip]]\naddress = \"10.77.0.107\"\ndevice = \"eth0\"\n";

#[test]
fn nodes_with_different_configs() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let (old, first) = (owner(rig)?, "n3");
        let path = rig.cluster.config().to_owned();
        let text = fs::read_to_string(&path)?;
        let from = boot_ns();
        for new in [
            format!("announce_interval = \"30s\"\n{text}"),
            format!("announce_interval = \"30s\"\n{text}\n{MORE}"),
        ] {
            fs::write(&path, new)?;
            reload(rig, first)?;
            for node in ["n1", "n2"] {
                says(rig, node, "one other config", |status| {
                    mismatches(status) == 1
                })?;
                event(rig, node, "config_mismatch", from, |event| {
                    event["peer"] == first
                })?;
            }
            says(rig, first, "two other configs", |status| {
                mismatches(status) == 2
            })?;
            undisturbed_web(rig, from, &old)?;
            for node in ["n1", "n2"] {
                reload(rig, node)?;
            }
            for node in ["n1", "n2", "n3"] {
                says(rig, node, "the same config everywhere", |status| {
                    mismatches(status) == 0
                })?;
            }
            undisturbed(rig, from, &old)?;
        }
        // The new group has found its preferred owner.
        says(rig, "n1", "the new group is served", |status| {
            heartline_lab::cluster::owner(status, "more").as_deref() == Some("n3")
        })
    })
}

/// As `undisturbed`, while not all agents agree.
fn undisturbed_web(rig: &Rig, from: u64, old: &str) -> Result<()> {
    heartline_lab::trial::nothing_lost(rig, from, old)
}

/// A VIP more in a group that is owned: its owner answers there, too, and nothing moves. Then one
/// less: nobody answers there any more.
#[test]
fn a_vip_more_and_a_vip_less() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let index = rig
            .cluster
            .lab
            .nodes
            .iter()
            .position(|node| node.name == old);
        let path = rig.cluster.config().to_owned();
        let text = fs::read_to_string(&path)?;
        let vip = std::net::Ipv4Addr::new(10, 77, 0, 101);
        let prober = OwnerProber::start(
            &rig.cluster.lab,
            vip,
            Duration::from_millis(5),
            Duration::from_secs(60),
        )?;
        let from = boot_ns();
        let more = format!("{text}[[group.vip]]\naddress = \"{vip}\"\ndevice = \"eth0\"\n");
        fs::write(&path, more)?;
        // Standbys first, the owner last: nobody may answer before the owner knows.
        let mut nodes = standbys(rig)?;
        nodes.push(old.clone());
        for node in &nodes {
            let told = reload(rig, node)?;
            ensure!(
                told["changed"]
                    .as_array()
                    .is_some_and(|list| list.len() == 1),
                "{told}"
            );
        }
        let within = Duration::from_millis(100);
        let wait = Duration::from_millis(10);
        let answers = until(SOON, wait, || Ok(prober.owner(within).is_some()))?;
        ensure!(answers, "nobody answers for the new VIP");
        undisturbed(rig, from, &old)?;
        fs::write(&path, &text)?;
        for node in &nodes {
            reload(rig, node)?;
        }
        let silent = until(SOON, wait, || Ok(prober.owner(within).is_none()))?;
        ensure!(silent, "the VIP that was taken out still answers");
        undisturbed(rig, from, &old)?;
        let spans = prober.ownership(from, boot_ns()).spans;
        ensure!(
            spans.iter().all(|span| Some(span.node) == index),
            "others than {old} answered for the new VIP: {spans:?}"
        );
        Ok(())
    })
}

/// What cannot be changed while running, or cannot be read, changes nothing.
#[test]
fn a_reload_that_is_refused_keeps_everything() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let path = rig.cluster.config().to_owned();
        let text = fs::read_to_string(&path)?;
        let digest = |rig: &mut Rig| -> Result<Value> {
            Ok(rig.cluster.agent("n1")?.status()?["digest"].clone())
        };
        let before = digest(rig)?;
        let from = boot_ns();
        let more = "[[group.vip]]\naddress = \"10.77.0.101\"\ndevice = \"eth0\"\n";
        for (new, named) in [
            // Something allowed beside it: all or nothing.
            (
                Some(format!("{}{more}", text.replace("\"lan\"", "\"wan\""))),
                "timing",
            ),
            (
                Some(text.replace("generation = 1", "generation = 9")),
                "generation",
            ),
            (Some(text.replace("10.77.0.2\"", "10.77.0.9\"")), "n2"),
            (
                Some(text.replace("10.77.0.100", "10.77.0.1000")),
                "10.77.0.1000",
            ),
            (Some("cluster = ".into()), "heartline.toml"),
            (None, "heartline.toml"),
        ] {
            match &new {
                Some(new) => fs::write(&path, new)?,
                None => fs::remove_file(&path)?,
            }
            for node in ["n1", "n2", "n3"] {
                let told = reload(rig, node)?;
                let said = told["text"].as_str().unwrap_or_default();
                ensure!(
                    said.contains("refused") && said.contains(named),
                    "{node} does not refuse {named}: {said}"
                );
                let answer = rig.cluster.agent(node)?.cli(&["reload"])?;
                ensure!(answer.code != Some(0), "{node}: {answer:?}");
            }
            undisturbed(rig, from, &old)?;
        }
        ensure!(digest(rig)? == before, "another digest");
        fs::write(&path, text)?;
        let told = reload(rig, "n1")?;
        let said = told["text"].as_str().unwrap_or_default();
        ensure!(said.contains("nothing differs"), "{said}");
        undisturbed(rig, from, &old)
    })
}
