//! A rolling upgrade: agents that speak wire version 1 beside agents that speak 2. Moves and failures in both
//! directions; never two owners, and everybody in the newer version at the end. Needs root, and fails without.

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    LabSpec,
    clock::boot_ns,
    config::ConfigSpec,
    demo::rig::Rig,
    trial::{SOON, fault, owner, says, taken_over, undisturbed, with},
};
use serde_json::{Value, json};

/// Restarts an agent as one of the version before, or of this one.
fn restart_as(rig: &mut Rig, node: &str, version: u8) -> Result<()> {
    let agent = rig.cluster.agent(node)?;
    // By hand, for real: HEARTLINE_OLD_BIN names an agent that knows version 1 alone.
    match std::env::var_os("HEARTLINE_OLD_BIN") {
        Some(old) if version == 1 => agent.set_binary(old.into()),
        Some(_) => agent.set_binary(heartline_lab::agent::binary()?),
        None => agent.set_args(&["--wire-version", &version.to_string()]),
    }
    agent.stop(SOON)?;
    agent.start()?;
    rig.settle()
}

fn move_to(rig: &mut Rig, node: &str) -> Result<()> {
    let old = owner(rig)?;
    if old != node {
        rig.cluster.agent(node)?.cli_ok(&["move", "web", node])?;
        ensure!(taken_over(rig, &old)? == node, "moved elsewhere");
    }
    rig.settle()
}

/// What `of` says of the version that `node` speaks.
fn speaks(status: &Value, node: &str) -> Option<u64> {
    let nodes = status["nodes"].as_array()?;
    let found = nodes.iter().find(|n| n["name"] == node)?;
    found["wire_version"].as_u64()
}

fn killed(rig: &mut Rig) -> Result<()> {
    let (old, _) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
    rig.cluster.agent(&old)?.start()?;
    rig.settle()
}

fn frozen(rig: &mut Rig) -> Result<()> {
    let (old, new) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
    let woken = boot_ns();
    rig.cluster.thaw(&old)?;
    undisturbed(rig, woken, &new)
}

#[test]
fn a_rolling_upgrade_and_back() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        // First one old node, then two: in the end the majority behind a lease speaks version 1.
        for old in ["n2", "n3"] {
            restart_as(rig, old, 1)?;
            says(rig, "n1", "sees the old node", |status| {
                let warned = status["warnings"].as_array().is_some_and(|all| {
                    all.iter().any(|w| {
                        w["code"] == "mixed_versions" && w["text"].to_string().contains(old)
                    })
                });
                speaks(status, old) == Some(1) && warned
            })?;
            for at in [old, "n1"] {
                move_to(rig, at).with_context(|| format!("{old} is old, move to {at}"))?;
                frozen(rig).with_context(|| format!("{old} is old, {at} freezes"))?;
                move_to(rig, at)?;
                killed(rig).with_context(|| format!("{old} is old, {at} dies"))?;
            }
        }
        for node in ["n2", "n3"] {
            restart_as(rig, node, 2)?;
        }
        let at = owner(rig)?;
        let from = boot_ns();
        for node in ["n1", "n2", "n3"] {
            // (A node that is set back is spoken to in the newer version until its first heartbeat: it drops those as too
            // short.)
            says(rig, node, "everybody speaks version 2", |status| {
                let all = ["n1", "n2", "n3"]
                    .iter()
                    .all(|n| speaks(status, n) == Some(2));
                let quiet = ["drop_bad_version", "drop_unknown_key", "drop_forged"];
                let counters = &status["counters"];
                all && quiet.iter().all(|name| counters[name] == json!(0))
            })?;
        }
        undisturbed(rig, from, &at)
    })
}
