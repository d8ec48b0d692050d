//! The key of a running cluster is changed, step by step, and nothing is lost. Needs root, and fails without.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use heartline_lab::{
    LabSpec,
    clock::boot_ns,
    config::ConfigSpec,
    demo::rig::Rig,
    trial::{owner, says, undisturbed, with},
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn key_file(rig: &Rig) -> PathBuf {
    // One file for all nodes of the lab; what a node has is what it read last.
    rig.cluster.config().with_file_name("cluster.key")
}

fn step(rig: &mut Rig, step: &str) -> Result<String> {
    let path = key_file(rig);
    let path = path.to_str().context("path")?;
    rig.cluster
        .agent("n1")?
        .cli_ok(&["keygen", path, "--rotate", step])
}

fn reload(rig: &mut Rig, node: &str) -> Result<()> {
    rig.cluster.agent(node)?.cli_ok(&["reload"]).map(drop)
}

/// That all nodes are seen to sign with one key, and to accept the other or none.
fn all_say(rig: &mut Rig, signs: &str, accepts: Option<&str>) -> Result<()> {
    for node in NODES {
        says(rig, node, "all nodes are at this step", |status| {
            let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            nodes.len() == 3
                && nodes
                    .iter()
                    .all(|n| n["key"]["signs"] == signs && n["key"]["accepts"].as_str() == accepts)
        })?;
    }
    Ok(())
}

fn id_of(rig: &mut Rig, member: &str) -> Result<String> {
    let status = rig.cluster.agent("n1")?.status()?;
    let id = status["key"][member].as_str();
    Ok(id
        .with_context(|| format!("no key id {member}"))?
        .to_owned())
}

#[test]
fn a_rotation_loses_nothing_and_shows_nothing() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let at = owner(rig)?;
        let from = boot_ns();
        let mut secrets = fs::read_to_string(key_file(rig))?;
        let mut said = step(rig, "add")?;
        secrets += &fs::read_to_string(key_file(rig))?;
        let old = id_of(rig, "signs")?;
        for node in NODES {
            reload(rig, node)?;
        }
        let new = id_of(rig, "accepts")?;
        all_say(rig, &old, Some(&new))?;
        said += &step(rig, "use")?;
        for node in NODES {
            reload(rig, node)?;
            // Nodes of both steps together.
            undisturbed(rig, from, &at)?;
        }
        all_say(rig, &new, Some(&old))?;
        said += &step(rig, "drop")?;
        for node in NODES {
            reload(rig, node)?;
        }
        all_say(rig, &new, None)?;
        undisturbed(rig, from, &at)?;

        // A new process reads the new key alone.
        for node in NODES {
            let agent = rig.cluster.agent(node)?;
            agent.stop(heartline_lab::trial::SOON)?;
            agent.start()?;
            rig.settle()?;
        }
        all_say(rig, &new, None)?;
        for agent in rig.cluster.agents() {
            said += &fs::read_to_string(agent.log())?;
            said += &agent.cli_ok(&["status", "--json"])?;
            said += &agent.cli_ok(&["events", "--json"])?;
        }
        let shown = secrets.lines().any(|key| said.contains(&key[..12]));
        ensure!(!shown, "a part of a key was shown");
        Ok(())
    })
}

/// A step that would part nodes is refused, says why, and changes nothing.
#[test]
fn a_step_too_early_is_refused() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let at = owner(rig)?;
        let from = boot_ns();
        step(rig, "add")?;
        reload(rig, "n1")?;
        step(rig, "use")?;
        let refused = |rig: &mut Rig, node: &str, words: &[&str]| -> Result<()> {
            let out = rig.cluster.agent(node)?.cli(&["reload"])?;
            let text = out.stderr + &out.stdout;
            if out.code != Some(1) || !words.iter().all(|word| text.contains(word)) {
                bail!(
                    "{node}: expected a refusal with {words:?}, got {:?}: {text}",
                    out.code
                );
            }
            Ok(())
        };
        refused(
            rig,
            "n1",
            &[
                "too early",
                "n2 does not accept key",
                "n3 does not accept key",
            ],
        )?;
        undisturbed(rig, from, &at)?;
        // n2 and n3 may go to it, both keys in hand and nobody cut off: they know both, but n1 has to be able to hear.
        says(rig, "n1", "the step is shown", |status| {
            status["warnings"]
                .as_array()
                .is_some_and(|all| all.iter().any(|w| w["code"] == "key_rotation"))
        })?;
        step(rig, "drop")?;
        refused(rig, "n1", &["too early"])?;
        refused(rig, "n2", &["put the old key back"])?;
        undisturbed(rig, from, &at)
    })
}
