//! Real agents in the lab: each fault costs the owner its VIP, another node serves, and no two
//! nodes ever answer at once. Each test has a lab of its own. Needs root, and fails without.
//!
//! No test here asserts a time, except that things happen at all (10 s): the demo and the bench
//! judge speed.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    interrupt::until,
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Raises a cluster, waits until it serves, runs the test, then looks at the whole time: never two
/// owners. Logs are kept if anything failed.
fn with(lab: LabSpec, spec: ConfigSpec, test: impl FnOnce(&mut Rig) -> Result<()>) -> Result<()> {
    let text = config::text(&lab, &spec);
    let mut rig = Rig::start(Cluster::start(Lab::up(&lab)?, &text, "cluster.key")?)?;
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
    match result {
        Ok(()) => Ok(()),
        Err(error) => {
            let kept = rig.cluster.keep_dir().unwrap_or_default();
            Err(error.context(format!("logs and config are kept in {}", kept.display())))
        }
    }
}

fn owner(rig: &Rig) -> Result<String> {
    rig.wire_owner().context("nobody answers for the VIP")
}

/// Does something to the owner, makes sure that it was the owner, and waits for the next one.
/// Returns both.
fn fault(
    rig: &mut Rig,
    act: impl FnOnce(&mut Rig, &str, &[&str]) -> Result<()>,
) -> Result<(String, String)> {
    let old = owner(rig)?;
    let names: Vec<_> = rig
        .cluster
        .lab
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    let others: Vec<_> = names
        .iter()
        .map(String::as_str)
        .filter(|name| *name != old)
        .collect();
    let at = boot_ns();
    act(rig, &old, &others)?;
    rig.hit_the_owner(&old, at)?;
    let new = taken_over(rig, &old)?;
    Ok((old, new))
}

/// Waits until another node than `old` serves the client, over IPv4 and IPv6.
fn taken_over(rig: &Rig, old: &str) -> Result<String> {
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

/// Nothing that the probers sent from `from` to now is lost, and the owner is still `old`.
fn undisturbed(rig: &mut Rig, from: u64, old: &str) -> Result<()> {
    rig.settle()?;
    // Probes of the last moment are under way.
    let to = boot_ns() - 20_000_000;
    let (v4, v6) = (rig.v4.outage(from, to), rig.v6.outage(from, to));
    ensure!(v4.lost == 0 && v6.lost == 0, "lost echoes: {v4:?} {v6:?}");
    let spans = rig.owners.ownership(from, to).spans;
    let index = rig
        .cluster
        .lab
        .nodes
        .iter()
        .position(|node| node.name == old);
    ensure!(
        spans.iter().all(|span| Some(span.node) == index),
        "the VIP was not with {old} all the time: {spans:?}"
    );
    Ok(())
}

#[test]
fn a_silent_cut_and_its_healing() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let (_, new) = fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
        let healed = rig.cluster.lab.switch.heal()?;
        undisturbed(rig, healed, &new)
    })
}

#[test]
fn a_frozen_owner_does_not_resume_when_it_wakes() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        let woken = boot_ns();
        rig.cluster.thaw(&old)?;
        undisturbed(rig, woken, &new)
    })
}

#[test]
fn a_killed_owner_comes_back_as_a_standby() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
        let started = boot_ns();
        rig.cluster.agent(&old)?.start()?;
        undisturbed(rig, started, &new)
    })
}

/// The owner hears no other node, yet client and prober reach both sides.
#[test]
fn a_partition_that_the_client_sees_both_sides_of() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let (_, new) = fault(rig, |rig, old, others| {
            rig.cluster.lab.switch.partition(&[old], others).map(drop)
        })?;
        let healed = rig.cluster.lab.switch.heal()?;
        undisturbed(rig, healed, &new)
    })
}

/// What the owner sends to the other nodes is lost, what they send arrives.
#[test]
fn an_owner_that_hears_and_is_not_heard() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let (_, new) = fault(rig, |rig, old, others| {
            let switch = &mut rig.cluster.lab.switch;
            others
                .iter()
                .try_for_each(|other| switch.cut_one_way(old, other).map(drop))
        })?;
        let healed = rig.cluster.lab.switch.heal()?;
        undisturbed(rig, healed, &new)
    })
}

/// The owner is heard and hears nothing: no acks reach it. Its promises end, as its heartbeats
/// show no claim any more; then another may claim.
#[test]
fn an_owner_that_is_heard_and_does_not_hear() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        fault(rig, |rig, old, others| {
            let switch = &mut rig.cluster.lab.switch;
            others
                .iter()
                .try_for_each(|other| switch.cut_one_way(other, old).map(drop))
        })?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()
    })
}

#[test]
fn a_standby_cut_off_disturbs_nobody() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let names: Vec<_> = rig
            .cluster
            .lab
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect();
        let standby = names
            .iter()
            .find(|name| **name != old)
            .context("a standby")?;
        let from = rig.cluster.lab.switch.cut(standby)?;
        rig.cluster
            .wait_for("the standby is seen silent", SOON, |said| {
                said.iter()
                    .filter(|(name, _)| name != standby)
                    .all(|(_, said)| {
                        said.as_ref()
                            .is_ok_and(|status| heartline_lab::cluster::alive(status) == 2)
                    })
            })?;
        rig.cluster.lab.switch.heal()?;
        undisturbed(rig, from, &old)
    })
}

#[test]
fn one_of_two_links_lost_moves_nothing() -> Result<()> {
    with(
        LabSpec { nodes: 3, links: 2 },
        ConfigSpec::default(),
        |rig| {
            let old = owner(rig)?;
            let from = rig.cluster.lab.switch.cut_link(&old, 1)?;
            until(Duration::from_secs(1), POLL, || Ok(false))?;
            rig.cluster.lab.switch.heal()?;
            undisturbed(rig, from, &old)
        },
    )
}

#[test]
fn heartbeats_over_ipv6() -> Result<()> {
    with(
        LabSpec::default(),
        ConfigSpec {
            link6: true,
            ..ConfigSpec::default()
        },
        |rig| {
            let old = owner(rig)?;
            rig.cluster.lab.switch.cut(&old)?;
            let new = taken_over(rig, &old)?;
            let healed = rig.cluster.lab.switch.heal()?;
            undisturbed(rig, healed, &new)
        },
    )
}

#[test]
fn a_planned_move_and_back() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let names: Vec<_> = rig
            .cluster
            .lab
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect();
        let new = names
            .iter()
            .find(|name| **name != old)
            .context("a standby")?
            .clone();
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", &new])?;
        ensure!(taken_over(rig, &old)? == new, "moved elsewhere");
        rig.settle()?;
        // And from a node that is neither: any agent takes the request.
        rig.cluster.agent(&new)?.cli_ok(&["move", "web", &old])?;
        ensure!(taken_over(rig, &new)? == old, "moved elsewhere");
        rig.settle()
    })
}

#[test]
fn a_reload_moves_and_loses_nothing() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let path = rig.cluster.config().to_owned();
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("announce_interval = \"30s\"\n{text}"))?;
        let from = boot_ns();
        for node in rig.cluster.answering() {
            rig.cluster.agent(&node)?.signal(Signal::SIGHUP)?;
        }
        for node in rig.cluster.answering() {
            let agent = rig.cluster.agent(&node)?;
            let done = until(SOON, Duration::from_millis(50), || {
                Ok(agent
                    .events()?
                    .iter()
                    .any(|event| event["kind"] == "reload"))
            })?;
            ensure!(done, "{node} tells of no reload: {}", agent.log_tail());
        }
        undisturbed(rig, from, &old)
    })
}

#[test]
fn a_planned_restart_of_each_node_moves_and_loses_nothing() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        for node in rig.cluster.answering() {
            let from = boot_ns();
            rig.cluster.agent(&node)?.planned_restart(SOON)?;
            undisturbed(rig, from, &old).with_context(|| format!("restart of {node}"))?;
        }
        Ok(())
    })
}

/// A stop hands the groups over before the agent ends.
#[test]
fn a_clean_stop_hands_over() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let code = rig.cluster.agent(&old)?.stop(SOON)?;
        ensure!(code == Some(0), "exit status {code:?}");
        taken_over(rig, &old)?;
        rig.cluster.agent(&old)?.start()?;
        rig.settle()
    })
}

/// Nobody has a majority: nobody serves. When the nodes find each other again, one does.
#[test]
fn without_a_majority_nobody_serves() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        for (a, b) in [("n1", "n2"), ("n1", "n3"), ("n2", "n3")] {
            rig.cluster.lab.switch.partition(&[a], &[b])?;
        }
        if !until(SOON, POLL, || Ok(rig.wire_owner().is_none()))? {
            bail!("{} still answers for the VIP, alone", owner(rig)?);
        }
        rig.cluster.lab.switch.heal()?;
        rig.settle()
    })
}
