//! A trial: a cluster that serves, something done to it, and what the wire and the agents say of it.
//! Used by the tests; nothing here judges speed.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Cluster, Lab, LabSpec,
    clock::boot_ns,
    cluster,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    interrupt::until,
};

/// By then a thing has happened, or it never will.
pub const SOON: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
const ASK: Duration = Duration::from_millis(50);

/// Raises a cluster, waits until it serves, runs the test, then looks at the whole time: never two
/// owners. Logs are kept if anything failed.
///
/// # Errors
/// What the test says, or two owners.
pub fn with(
    lab: LabSpec,
    spec: ConfigSpec,
    test: impl FnOnce(&mut Rig) -> Result<()>,
) -> Result<()> {
    let text = config::text(&lab, &spec);
    let cluster = Cluster::start(Lab::up(&lab)?, &text, "cluster.key")?;
    with_cluster(cluster, test)
}

/// As [`with`], with a cluster that was raised already.
///
/// # Errors
/// As [`with`].
pub fn with_cluster(cluster: Cluster, test: impl FnOnce(&mut Rig) -> Result<()>) -> Result<()> {
    let mut rig = Rig::start(cluster)?;
    let result = rig.settle().and_then(|()| test(&mut rig)).and_then(|()| {
        let seen = rig.owners.ownership(rig.from, boot_ns());
        println!("on the wire: {seen:?}");
        for agent in rig.cluster.agents() {
            println!("{}: {:?}", agent.name(), agent.events().unwrap_or_default());
        }
        ensure!(seen.dual_rounds == 0, "two owners at once: {seen:?}");
        ensure!(!seen.spans.is_empty(), "nobody ever answered for the VIP");
        Ok(())
    });
    result.map_err(|error| {
        let kept = rig.cluster.keep_dir().unwrap_or_default();
        error.context(format!("logs and config are kept in {}", kept.display()))
    })
}

/// Who answers for the VIP.
///
/// # Errors
/// Nobody does.
pub fn owner(rig: &Rig) -> Result<String> {
    rig.wire_owner().context("nobody answers for the VIP")
}

/// Names of all nodes but the owner.
///
/// # Errors
/// There is no owner.
pub fn standbys(rig: &Rig) -> Result<Vec<String>> {
    let owner = owner(rig)?;
    let names = rig.cluster.lab.nodes.iter().map(|node| node.name.clone());
    Ok(names.filter(|name| *name != owner).collect())
}

/// Does something to the owner, makes sure that it was the owner, and waits for the next one.
/// Returns both.
///
/// # Errors
/// Nobody takes over.
pub fn fault(
    rig: &mut Rig,
    act: impl FnOnce(&mut Rig, &str, &[&str]) -> Result<()>,
) -> Result<(String, String)> {
    let (old, others) = (owner(rig)?, standbys(rig)?);
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    // After a move or a heal: first the owner must have been alone for a while.
    let alone = until(SOON, POLL, || {
        let now = boot_ns();
        Ok(rig.hit_the_owner(&old, now).is_ok())
    })?;
    ensure!(
        alone,
        "{old} should own the VIP, but did not answer for it alone"
    );
    let at = boot_ns();
    act(rig, &old, &others)?;
    rig.hit_the_owner(&old, at)?;
    let new = taken_over(rig, &old)?;
    Ok((old, new))
}

/// Waits until another node than `old` serves the client, over IPv4 and IPv6.
///
/// # Errors
/// None does.
pub fn taken_over(rig: &Rig, old: &str) -> Result<String> {
    let served = until(SOON, POLL, || {
        let other = rig.wire_owner().is_some_and(|new| new != old);
        Ok(other && rig.v4.answered_lately(50) && rig.v6.answered_lately(50))
    })?;
    let now = rig.wire_owner();
    ensure!(
        served,
        "no other node than {old} serves the client (owner on the wire: {now:?})"
    );
    owner(rig)
}

/// All agents agree, nothing that the probers sent from `from` to now is lost, and the owner is
/// still `old`.
///
/// # Errors
/// Something is not so.
pub fn undisturbed(rig: &mut Rig, from: u64, old: &str) -> Result<()> {
    rig.settle()?;
    nothing_lost(rig, from, old)
}

/// As [`undisturbed`], whatever the agents say.
///
/// # Errors
/// Something is not so.
pub fn nothing_lost(rig: &Rig, from: u64, old: &str) -> Result<()> {
    // Probes of the last moment are under way.
    let to = boot_ns() - 20_000_000;
    let (v4, v6) = (rig.v4.outage(from, to), rig.v6.outage(from, to));
    ensure!(v4.lost == 0 && v6.lost == 0, "lost echoes: {v4:?} {v6:?}");
    stayed(rig, from, to, old)
}

/// Nobody but `old` answered for the VIP.
///
/// # Errors
/// Somebody did.
pub fn stayed(rig: &Rig, from: u64, to: u64, old: &str) -> Result<()> {
    let spans = rig.owners.ownership(from, to).spans;
    let nodes = &rig.cluster.lab.nodes;
    let index = nodes.iter().position(|node| node.name == old);
    ensure!(
        spans.iter().all(|span| Some(span.node) == index),
        "the VIP was not with {old} all the time: {spans:?}"
    );
    Ok(())
}

/// Waits until no node answers for the VIP.
///
/// # Errors
/// One goes on.
pub fn nobody_serves(rig: &Rig) -> Result<()> {
    if !until(SOON, POLL, || Ok(rig.wire_owner().is_none()))? {
        bail!("{} still answers for the VIP", owner(rig)?);
    }
    Ok(())
}

/// Events of a kind that a node tells at or after an instant.
///
/// # Errors
/// The node does not answer.
pub fn events(rig: &mut Rig, node: &str, kind: &str, from: u64) -> Result<Vec<Value>> {
    let mut events = rig.cluster.agent(node)?.events()?;
    events.retain(|event| {
        event["kind"] == kind && event["boot_ns"].as_u64().is_some_and(|at| at >= from)
    });
    Ok(events)
}

/// Waits until a node tells of an event of a kind, at or after an instant, that fits.
///
/// # Errors
/// It never does; the error shows what it told.
pub fn event(
    rig: &mut Rig,
    node: &str,
    kind: &str,
    from: u64,
    fits: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut found = None;
    until(SOON, ASK, || {
        found = events(rig, node, kind, from)?.into_iter().find(&fits);
        Ok(found.is_some())
    })?;
    if let Some(found) = found {
        return Ok(found);
    }
    let told = rig.cluster.agent(node)?.events()?;
    bail!("{node} tells of no such {kind}; it told: {told:#?}")
}

/// Waits until what one node says of itself fits.
///
/// # Errors
/// It never does; the error shows what all said last.
pub fn says(rig: &mut Rig, node: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Result<()> {
    let what = format!("{node}: {what}");
    rig.cluster.wait_for(&what, SOON, |said| {
        let own = said.iter().find(|(name, _)| name == node);
        own.is_some_and(|(_, said)| said.as_ref().is_ok_and(&fits))
    })
}

/// Waits until a node sees so many nodes alive, itself included.
///
/// # Errors
/// It never does.
pub fn sees_alive(rig: &mut Rig, node: &str, count: usize) -> Result<()> {
    let what = format!("{count} nodes alive");
    says(rig, node, &what, |status| cluster::alive(status) == count)
}

/// Runs a CLI command against the agent of a node; it must succeed.
///
/// # Errors
/// It fails.
pub fn cli(rig: &mut Rig, node: &str, args: &[&str]) -> Result<String> {
    rig.cluster.agent(node)?.cli_ok(args)
}

/// The number at a path of a status.
#[must_use]
pub fn number(status: &Value, path: &str) -> u64 {
    status.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}
