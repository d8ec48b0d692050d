//! Something stateful on a node that says nothing any more: it starts elsewhere once that node was fenced, not before. The
//! device is a program that speaks the fence agents' protocol and ends a node as a power switch does: its agent and its
//! services at once. (A real machine is ended in `tests/vm`.)

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{demo::rig::Rig, interrupt::pass, trial::says};
use nix::sys::signal::Signal;

use super::{LATE, Traces, group, nothing, phase, resource, runs, with_services};

/// FenceAgentAPI.md: `name=value` lines on standard input; status ends with 0 for on, 2 for off.
const DEVICE: &str = r#"#!/bin/sh
dir=${0%/*}
while read -r line; do
    case $line in
        action=*) action=${line#action=} ;;
        plug=*) node=${line#plug=} ;;
    esac
done
say() { read -r uptime _ < /proc/uptime; echo "$uptime $node fence $1" >> "$dir/log"; }
case $action in
    status) [ -e "$dir/$node.off" ] && { echo "Status: OFF"; exit 2; }; echo "Status: ON" ;;
    monitor) ;;
    off)
        [ -e "$dir/fence.broken" ] && { echo "Failed: the switch does not answer" >&2; exit 1; }
        read -r pid < "$dir/$node.pid"
        kill -9 "$pid"
        rm -f "$dir"/*."$node".up
        : > "$dir/$node.off"
        say off
        ;;
    on) rm -f "$dir/$node.off"; say on ;;
    *) exit 1 ;;
esac
exit 0
"#;

fn sections(dir: &Path) -> String {
    resource(dir, "app", "stateful = true") + &devices(dir)
}

/// A device for each node.
pub(super) fn devices(dir: &Path) -> String {
    ["n1", "n2", "n3"]
        .map(|node| {
            format!(
                "\n[[fence]]\nname = \"switch-{node}\"\nnode = \"{node}\"\nagent = \"{}/fence_lab\"\nparameters = {{ plug = \"{node}\" }}\ntimeout = \"20s\"\n",
                dir.display()
            )
        })
        .concat()
}

pub(super) fn device(t: &Traces) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = t.path("fence_lab");
    fs::write(&path, DEVICE)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Tells the device which process is which machine.
pub(super) fn plug(rig: &mut Rig, t: &Traces) -> Result<()> {
    for node in ["n1", "n2", "n3"] {
        let pid = rig.cluster.agent(node)?.pid()?;
        fs::write(t.path(&format!("{node}.pid")), format!("{pid}\n"))?;
    }
    Ok(())
}

/// Its last owner comes back, and nothing happens.
fn back(rig: &mut Rig, t: &Traces, old: &str, new: &str) -> Result<()> {
    let agent = rig.cluster.agent(old)?;
    agent.ended(LATE).context("the fenced agent lives")?;
    agent.start()?;
    rig.settle()?;
    ensure!(runs(rig, "web", "")? == new, "it moved again");
    ensure!(t.up("app") == [new], "up: {:?}", t.up("app"));
    Ok(())
}

#[test]
fn something_stateful_starts_once_its_frozen_owner_was_fenced() -> Result<()> {
    with_services(sections, device, |rig, t| {
        let old = runs(rig, "web", "")?;
        plug(rig, t)?;
        // The agent stands still, and what it started goes on.
        rig.cluster.agent(&old)?.signal(Signal::SIGSTOP)?;
        let new = runs(rig, "web", &old)?;
        let fenced = t.last(&format!("{old} fence off"));
        let started = t.last(&format!("{new} app start"));
        ensure!(
            fenced.is_some() && fenced < started,
            "started before the old owner was off"
        );
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        let events = rig.cluster.agent(&new)?.events()?;
        let kinds: Vec<_> = events.iter().filter_map(|e| e["kind"].as_str()).collect();
        let at = |kind: &str| kinds.iter().rposition(|k| *k == kind);
        ensure!(
            at("gained") < at("fenced") && at("fenced") < at("proven"),
            "{kinds:?}"
        );
        let proven = events.iter().rfind(|e| e["kind"] == "proven");
        let proof = proven.and_then(|e| e["proof"].as_str()).unwrap_or("");
        ensure!(
            proof.contains(&old) && proof.contains("fenced: "),
            "the proof is {proof:?}"
        );
        t.wait("it is started again", |t| {
            t.count(&format!("{old} fence on")) == 1
        })?;
        back(rig, t, &old, &new)
    })
}

#[test]
fn a_dead_fence_device_starts_nothing_and_a_person_can_say_it() -> Result<()> {
    let before = |t: &Traces| t.make("fence.broken").and_then(|()| device(t));
    with_services(sections, before, |rig, t| {
        let old = runs(rig, "web", "")?;
        plug(rig, t)?;
        rig.cluster.agent(&old)?.signal(Signal::SIGSTOP)?;
        rig.cluster
            .wait_for("another has it, and waits", LATE, |said| {
                said.iter().filter(|(node, _)| *node != old).all(|(_, s)| {
                    s.as_ref().is_ok_and(|s| {
                        let g = group(s, "web");
                        g["owner"].is_string() && g["owner"] != *old && phase(s, "web") == "blocked"
                    })
                })
            })?;
        let said = rig.cluster.statuses();
        let owner = said.iter().filter(|(node, _)| *node != old);
        let owner = owner.filter_map(|(_, s)| group(s.as_ref().ok()?, "web")["owner"].as_str());
        let new = owner.map(str::to_owned).next().context("an owner")?;
        says(rig, &new, "it says that fencing failed", |s| {
            let text = group(s, "web")["services"]["text"].as_str().unwrap_or("");
            text.contains(&old) && text.contains("fencing it failed")
        })?;
        pass(Duration::from_secs(1))?;
        ensure!(t.up("app") == [old.as_str()], "up: {:?}", t.up("app"));
        let failed = rig.cluster.agent(&new)?.events()?;
        let failed = failed.iter().rfind(|e| e["kind"] == "fencing_failed");
        let text = failed.and_then(|e| e["text"].as_str()).unwrap_or("");
        ensure!(
            text.contains(&format!("heartline fence {old} --confirm")),
            "{text:?}"
        );
        // Of a node that is heard nobody is believed.
        let third = ["n1", "n2", "n3"]
            .into_iter()
            .find(|n| *n != old && *n != new)
            .context("a third")?;
        let out = rig
            .cluster
            .agent(&new)?
            .cli(&["fence", third, "--confirm", "--yes"])?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("is heard"),
            "{out:?}"
        );
        // Somebody pulls the plug.
        rig.cluster.agent(&old)?.kill()?;
        t.remove(&format!("app.{old}.up"))?;
        rig.cluster
            .agent(&new)?
            .cli_ok(&["fence", &old, "--confirm", "--yes"])?;
        ensure!(runs(rig, "web", &old)? == new, "it moved");
        back_alone(rig, t, &old, &new)
    })
}

fn back_alone(rig: &mut Rig, t: &Traces, old: &str, new: &str) -> Result<()> {
    rig.cluster.agent(old)?.start()?;
    rig.settle()?;
    ensure!(runs(rig, "web", "")? == new, "it moved again");
    ensure!(t.up("app") == [new], "up: {:?}", t.up("app"));
    Ok(())
}

/// Nobody is fenced where nobody has to be: at a start all are heard, and in a move the last owner speaks.
#[test]
fn starts_and_moves_fence_nobody() -> Result<()> {
    with_services(sections, device, |rig, t| {
        let old = runs(rig, "web", "")?;
        plug(rig, t)?;
        let new = super::another(&old);
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        ensure!(runs(rig, "web", &old)? == new, "not there");
        rig.settle()?;
        ensure!(
            t.log().iter().all(|l| !l.contains(" fence ")),
            "somebody was fenced"
        );
        nothing(t)
    })
}
