//! The data path without BPF: real agents with plain sockets and an nftables gate, alone and beside nodes with XDP. Each
//! fault as in `agents.rs`, with the same prober: never two owners. Needs root and `nft`, and fails without.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec,
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    exec::run_ok,
    interrupt::until,
    trial::{
        SOON, fault, nobody_serves, number, owner, says, standbys, stayed, taken_over, undisturbed,
        with, with_cluster,
    },
};
use serde_json::Value;

/// Long enough that a busy machine loses no VIP traffic for a late renewal.
const CALM: &str = "heartbeat = \"25ms\"\nlease = \"320ms\"\ntakeover = \"400ms\"";

fn sockets() -> ConfigSpec {
    ConfigSpec {
        extra: "datapath = \"socket\"".into(),
        timing: CALM,
        ..ConfigSpec::default()
    }
}

/// How the ingress of the first device of a node runs.
fn mode(status: &Value) -> &str {
    status
        .pointer("/datapath/0/mode")
        .and_then(Value::as_str)
        .unwrap_or("")
}

fn warns(status: &Value, code: &str) -> bool {
    let all = status.get("warnings").and_then(Value::as_array);
    all.into_iter().flatten().any(|w| w["code"] == code)
}

fn nft(rig: &mut Rig, node: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new("nft");
    command.args(args);
    rig.cluster.agent(node)?.ns().apply(&mut command);
    run_ok(command, "", SOON)
}

#[test]
fn a_silent_cut_and_its_healing() -> Result<()> {
    with(LabSpec::default(), sockets(), |rig| {
        for node in rig.cluster.answering() {
            says(rig, &node, "runs on sockets", |s| {
                mode(s) == "socket" && s.pointer("/datapath/0/egress") == Some(&"nft".into())
            })?;
        }
        let (_, new) = fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
        let healed = rig.cluster.lab.switch.heal()?;
        undisturbed(rig, healed, &new)
    })
}

/// The gate shuts by itself: nobody runs who could do it.
#[test]
fn a_frozen_owner_falls_silent_and_does_not_resume_when_it_wakes() -> Result<()> {
    with(LabSpec::default(), sockets(), |rig| {
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        let woken = boot_ns();
        rig.cluster.thaw(&old)?;
        undisturbed(rig, woken, &new)
    })
}

/// All agents stand still: nobody takes over, and yet the owner must fall silent.
#[test]
fn when_all_are_frozen_nobody_serves() -> Result<()> {
    with(LabSpec::default(), sockets(), |rig| {
        let old = owner(rig)?;
        let mut nodes = standbys(rig)?;
        nodes.push(old);
        for node in &nodes {
            rig.cluster.freeze(node)?;
        }
        nobody_serves(rig)?;
        for node in &nodes {
            rig.cluster.thaw(node)?;
        }
        rig.settle()
    })
}

/// Its promises and its incarnation outlive it, as pinned maps would.
#[test]
fn a_killed_owner_comes_back_as_a_standby() -> Result<()> {
    with(LabSpec::default(), sockets(), |rig| {
        let name = owner(rig)?;
        let before = number(&rig.cluster.agent(&name)?.status()?, "/incarnation");
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
        ensure!(old == name);
        let started = boot_ns();
        rig.cluster.agent(&old)?.start()?;
        undisturbed(rig, started, &new)?;
        let after = number(&rig.cluster.agent(&old)?.status()?, "/incarnation");
        ensure!(before == after, "another incarnation: {before} -> {after}");
        // Without its file it is a node that remembers nothing, and waits.
        rig.cluster.agent(&old)?.kill()?;
        fs::remove_file(rig.cluster.agent(&old)?.run_dir().join("table"))?;
        rig.cluster.agent(&old)?.start()?;
        says(rig, &old, "fresh state", |s| {
            number(s, "/incarnation") > before
        })?;
        undisturbed(rig, started, &new)
    })
}

#[test]
fn a_partition_that_the_client_sees_both_sides_of() -> Result<()> {
    with(LabSpec::default(), sockets(), |rig| {
        let (_, new) = fault(rig, |rig, old, others| {
            rig.cluster.lab.switch.partition(&[old], others).map(drop)
        })?;
        let healed = rig.cluster.lab.switch.heal()?;
        undisturbed(rig, healed, &new)
    })
}

#[test]
fn a_planned_move_and_a_planned_restart_of_each_node() -> Result<()> {
    with(LabSpec::default(), sockets(), |rig| {
        let old = owner(rig)?;
        let new = standbys(rig)?.first().context("a standby")?.clone();
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", &new])?;
        ensure!(taken_over(rig, &old)? == new, "moved elsewhere");
        rig.settle()?;
        for node in rig.cluster.answering() {
            let from = boot_ns();
            rig.cluster.agent(&node)?.planned_restart(SOON)?;
            undisturbed(rig, from, &new).with_context(|| format!("restart of {node}"))?;
        }
        Ok(())
    })
}

/// The default profile: little is left of its lease, but it works, and never has two owners.
#[test]
fn the_lan_profile() -> Result<()> {
    let spec = ConfigSpec {
        timing: "",
        ..sockets()
    };
    with(LabSpec::default(), spec, |rig| {
        fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        let (old, _) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        rig.cluster.thaw(&old)?;
        rig.settle()?;
        let (old, _) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
        rig.cluster.agent(&old)?.start()?;
        rig.settle()
    })
}

/// One node with native XDP, one with generic, one with sockets: each owns, is cut, frozen and killed in turn.
#[test]
fn a_mixed_cluster() -> Result<()> {
    let (lab, modes) = (LabSpec::default(), ["native", "generic", "socket"]);
    let text = |mode: &str| {
        let spec = ConfigSpec {
            extra: format!("datapath = \"{mode}\""),
            ..sockets()
        };
        config::text(&LabSpec::default(), &spec)
    };
    let lab = Lab::up(&lab)?;
    let dir = lab.dir().to_owned();
    let mut left = modes.iter();
    let cluster =
        Cluster::start_prepared(usize::MAX, lab, &text("auto"), "cluster.key", |agent| {
            let mode = left.next().context("a mode")?;
            let path = dir.join(format!("{mode}.toml"));
            fs::write(&path, text(mode))?;
            agent.set_config(&path);
            Ok(())
        })?;
    with_cluster(cluster, |rig| {
        let nodes = rig.cluster.answering();
        for (node, wanted) in nodes.iter().zip(modes) {
            says(rig, node, wanted, |s| mode(s) == wanted)?;
        }
        for node in &nodes {
            for what in ["cut", "freeze", "kill"] {
                let old = owner(rig)?;
                if old != *node {
                    rig.cluster.agent(&old)?.cli_ok(&["move", "web", node])?;
                    ensure!(taken_over(rig, &old)? == *node, "moved elsewhere");
                    rig.settle()?;
                }
                let (old, new) = fault(rig, |rig, old, _| match what {
                    "cut" => rig.cluster.lab.switch.cut(old).map(drop),
                    "freeze" => rig.cluster.freeze(old),
                    _ => rig.cluster.agent(old)?.kill(),
                })
                .with_context(|| format!("{what} of {node}"))?;
                let mended = boot_ns();
                match what {
                    "cut" => rig.cluster.lab.switch.heal().map(drop)?,
                    "freeze" => rig.cluster.thaw(&old)?,
                    _ => rig.cluster.agent(&old)?.start()?,
                }
                rig.settle()?;
                stayed(rig, mended, boot_ns() - 20_000_000, &new)
                    .with_context(|| format!("{what} of {node}"))?;
            }
        }
        Ok(())
    })
}

/// The kernel refuses BPF: "auto" says why and goes on with sockets. With BPF back, an agent takes it again.
#[test]
fn auto_falls_back_where_bpf_is_not_permitted() -> Result<()> {
    let spec = ConfigSpec {
        extra: "datapath = \"auto\"".into(),
        ..sockets()
    };
    let lab = LabSpec::default();
    let text = config::text(&lab, &spec);
    let lab = Lab::up(&lab)?;
    let cluster = Cluster::start_prepared(usize::MAX, lab, &text, "cluster.key", |agent| {
        agent.forbid_bpf();
        Ok(())
    })?;
    with_cluster(cluster, |rig| {
        for node in rig.cluster.answering() {
            says(rig, &node, "sockets, and why", |s| {
                mode(s) == "socket" && warns(s, "datapath_socket")
            })?;
            let said = rig.cluster.agent(&node)?.cli_ok(&["status"])?;
            ensure!(
                said.contains("BPF cannot be used") && said.contains("sockets, nftables"),
                "{said}"
            );
        }
        let (_, new) = fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
        let healed = rig.cluster.lab.switch.heal()?;
        undisturbed(rig, healed, &new)?;
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        rig.cluster.thaw(&old)?;
        rig.settle()?;
        undisturbed(rig, boot_ns(), &new)
    })
}

/// Where BPF is allowed, and was used, the state of that run is not thrown away for a refusal.
#[test]
fn auto_does_not_leave_the_state_of_a_run_with_bpf() -> Result<()> {
    let spec = ConfigSpec {
        extra: "datapath = \"auto\"".into(),
        ..sockets()
    };
    with(LabSpec::default(), spec, |rig| {
        let old = standbys(rig)?.first().context("a standby")?.clone();
        says(rig, &old, "native", |s| mode(s) == "native")?;
        let agent = rig.cluster.agent(&old)?;
        agent.kill()?;
        agent.forbid_bpf();
        agent.start()?;
        let code = agent.ended(SOON)?;
        ensure!(code == Some(1), "exit status {code:?}");
        ensure!(agent.log_tail().contains("refused"), "{}", agent.log_tail());
        Ok(())
    })
}

/// Somebody flushes the ruleset under a running node: the gate is back at once, and works.
#[test]
fn a_flushed_ruleset_is_put_back() -> Result<()> {
    with(LabSpec::default(), sockets(), |rig| {
        let old = owner(rig)?;
        for node in rig.cluster.answering() {
            let from = boot_ns();
            nft(rig, &node, &["flush", "ruleset"])?;
            let back = until(SOON, Duration::from_millis(50), || {
                let text = nft(rig, &node, &["list", "ruleset"])?;
                Ok(text.contains("table netdev heartline")
                    && text.contains("hook ingress")
                    && text.contains("hook egress"))
            })?;
            ensure!(back, "no gate again on {node}");
            says(rig, &node, "covered again", |s| {
                s.pointer("/uncovered_devices") == Some(&Value::Array(Vec::new()))
            })?;
            rig.settle()?;
            stayed(rig, from, boot_ns() - 20_000_000, &old)?;
        }
        fault(rig, |rig, old, _| rig.cluster.freeze(old)).map(drop)
    })
}

/// A lease of a few ms cannot be kept by a gate that goes by the tick: the file is refused if it says so itself, else
/// the agent refuses to fall back.
#[test]
fn the_fast_profile_is_refused() -> Result<()> {
    for (datapath, said) in [
        ("socket", "too short for datapath"),
        ("auto", "BPF cannot be used"),
    ] {
        let spec = ConfigSpec {
            profile: "fast",
            timing: "",
            extra: format!("datapath = \"{datapath}\""),
            ..ConfigSpec::default()
        };
        let text = config::text(&LabSpec::default(), &spec);
        let lab = Lab::up(&LabSpec { nodes: 1, links: 1 })?;
        let mut cluster = Cluster::start_prepared(1, lab, &text, "cluster.key", |agent| {
            agent.forbid_bpf();
            Ok(())
        })?;
        let agent = cluster.agent("n1")?;
        let code = agent.ended(SOON)?;
        // What the file alone shows is a refused configuration; what the machine's tick shows is not.
        ensure!(matches!(code, Some(1 | 78)), "exit status {code:?}");
        let log = fs::read_to_string(agent.log())?;
        ensure!(log.contains(said) && log.contains("takeover"), "{log}");
    }
    Ok(())
}
