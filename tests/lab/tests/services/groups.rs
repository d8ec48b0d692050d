//! What runs everywhere, groups that wait for each other, reload, hooks and drain.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    demo::rig::Rig,
    interrupt::until,
    trial::{event, says},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    LATE, POLL, SCRIPT, Traces, another, app, group, nothing, phase, resource, runs, second,
    with_services,
};

#[test]
fn what_keeps_running_runs_everywhere_and_a_move_stops_nothing() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "keep_running = true");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.wait("it runs on all nodes", |t| t.up("app").len() == 3)?;
        let new = another(&old);
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        ensure!(runs(rig, "web", &old)? == new, "not on {new}");
        rig.settle()?;
        ensure!(t.up("app").len() == 3, "up: {:?}", t.up("app"));
        ensure!(
            !t.log().iter().any(|l| l.ends_with(" stop")),
            "something was stopped"
        );
        // Where it dies on a standby it is started there, and nothing moves.
        t.remove(&format!("app.{old}.up"))?;
        t.wait("it is back", |t| t.is_up("app", &old))?;
        ensure!(runs(rig, "web", &old)? == new, "it moved");
        Ok(())
    })
}

#[test]
fn a_group_starts_after_the_one_it_waits_for() -> Result<()> {
    let sections =
        |dir: &Path| app(dir) + &second("after = [\"web\"]") + &resource(dir, "rest", "");
    let hold = |t: &Traces| t.make("app.hold-start");
    with_services(sections, hold, |rig, t| {
        rig.cluster.wait_for("the later one waits", LATE, |said| {
            said.iter().all(|(_, s)| {
                s.as_ref()
                    .is_ok_and(|s| phase(s, "late") == "blocked" && phase(s, "web") == "starting")
            })
        })?;
        let owner = rig.cluster.owner("late").context("an owner")?;
        says(rig, &owner, "it says what for", |s| {
            group(s, "late")["services"]["text"] == "waits for group web"
        })?;
        ensure!(t.up("rest").is_empty(), "started too early");
        t.remove("app.hold-start")?;
        runs(rig, "web", "")?;
        runs(rig, "late", "")?;
        let log = t.log();
        let at = |end: &str| log.iter().position(|l| l.ends_with(end));
        let (app, rest) = (at("app started"), at("rest start"));
        ensure!(app.is_some() && app < rest, "another order");
        Ok(())
    })
}

/// Two resources of a group, and the file without it.
fn removal(rig: &mut Rig) -> Result<(String, Vec<String>)> {
    let owner = runs(rig, "late", "")?;
    let path = rig.cluster.config().to_owned();
    let text = fs::read_to_string(&path)?;
    let cut = text
        .find("\n[[group]]\nname = \"late\"")
        .context("the group")?;
    fs::write(&path, &text[..cut])?;
    let others = rig.cluster.answering();
    let others = others.into_iter().filter(|n| *n != owner).collect();
    Ok((owner, others))
}

fn two_groups(dir: &Path) -> String {
    let state = "stateful = true";
    app(dir) + &second("") + &resource(dir, "disk", state) + &resource(dir, "rest", state)
}

#[test]
fn a_reload_that_removes_a_running_group_is_refused_and_says_what_would_stop() -> Result<()> {
    with_services(two_groups, nothing, |rig, t| {
        let web = runs(rig, "web", "")?;
        let before = rig.cluster.config().with_extension("before");
        fs::copy(rig.cluster.config(), &before)?;
        let (owner, _) = removal(rig)?;
        let sentence =
            format!("late: {owner} stops rest, then disk, and no longer serves 10.77.0.101");
        for node in ["n1", "n2", "n3"] {
            let out = rig.cluster.agent(node)?.cli(&["reload"])?;
            ensure!(
                out.code == Some(1)
                    && out.stderr.contains(&sentence)
                    && out.stderr.contains("heartline reload --yes"),
                "{node}: {out:?}"
            );
        }
        // In the words of the plan.
        let new = rig.cluster.config().to_string_lossy().into_owned();
        let old = before.to_string_lossy().into_owned();
        let plan = rig
            .cluster
            .agent("n1")?
            .cli_ok(&["plan", &new, "--old", &old])?;
        ensure!(plan.contains(&sentence) && plan.contains("--yes"), "{plan}");
        // Nobody can be asked by a signal.
        let from = heartline_lab::clock::boot_ns();
        rig.cluster.agent(&owner)?.signal(Signal::SIGHUP)?;
        event(rig, &owner, "reload", from, |e| {
            e["text"].as_str().is_some_and(|t| t.contains("refused"))
        })?;
        // Nor does a new process begin without knowing what it would leave running.
        let out = rig.cluster.agent(&owner)?.cli(&["restart"])?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("late"),
            "{out:?}"
        );
        ensure!(
            runs(rig, "late", "")? == owner && runs(rig, "web", "")? == web,
            "it moved"
        );
        ensure!(!t.log().iter().any(|l| l.ends_with(" stop")), "stopped");
        rig.settle()
    })
}

#[test]
fn a_reload_with_yes_stops_a_removed_group_in_order_on_its_owner_alone() -> Result<()> {
    with_services(two_groups, nothing, |rig, t| {
        let web = runs(rig, "web", "")?;
        let (owner, others) = removal(rig)?;
        // Whoever still has it in its file would take it over.
        let out = rig.cluster.agent(&owner)?.cli(&["reload", "--yes"])?;
        ensure!(
            out.code == Some(1) && others.iter().all(|n| out.stderr.contains(n.as_str())),
            "{out:?}"
        );
        for node in &others {
            rig.cluster.agent(node)?.cli_ok(&["reload", "--yes"])?;
        }
        let at = t.log().len();
        t.wait("others know it no more, and nothing stops", |t| {
            t.up("rest") == [owner.as_str()]
        })?;
        // The owner has to hear that they do.
        let agent = rig.cluster.agent(&owner)?;
        let done = until(LATE, POLL, || {
            Ok(agent.cli(&["reload", "--yes"])?.code == Some(0))
        })?;
        ensure!(done, "the owner goes on refusing");
        t.wait("all of it has stopped", |t| {
            t.up("rest").is_empty() && t.up("disk").is_empty()
        })?;
        let log: Vec<_> = t.log().split_off(at);
        let expected = ["rest stop", "rest stopped", "disk stop", "disk stopped"];
        let expected: Vec<_> = expected.iter().map(|l| format!("{owner} {l}")).collect();
        ensure!(log == expected, "another order: {log:#?}");
        rig.settle()?;
        ensure!(runs(rig, "web", "")? == web, "the other group moved");
        Ok(())
    })
}

/// Put back while it is still being stopped: whoever has it then waits, and its old owner does not start beside its own stop.
#[test]
fn a_group_that_is_removed_and_put_back_is_stopped_before_it_starts() -> Result<()> {
    with_services(two_groups, nothing, |rig, t| {
        runs(rig, "web", "")?;
        let path = rig.cluster.config().to_owned();
        let text = fs::read_to_string(&path)?;
        let (owner, others) = removal(rig)?;
        t.make("rest.hold-stop")?;
        for node in &others {
            rig.cluster.agent(node)?.cli_ok(&["reload", "--yes"])?;
        }
        let agent = rig.cluster.agent(&owner)?;
        let done = until(LATE, POLL, || {
            Ok(agent.cli(&["reload", "--yes"])?.code == Some(0))
        })?;
        ensure!(done, "the owner goes on refusing");
        t.wait("it is being stopped", |t| {
            t.last(&format!("{owner} rest stop")).is_some()
        })?;
        let out = rig.cluster.agent(&owner)?.cli(&["restart"])?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("late"),
            "{out:?}"
        );
        fs::write(&path, text)?;
        for node in ["n1", "n2", "n3"] {
            rig.cluster.agent(node)?.cli_ok(&["reload"])?;
        }
        t.remove("rest.hold-stop")?;
        runs(rig, "late", "")?;
        t.never_both("rest")?;
        t.never_both("disk")?;
        let log = t.log();
        let stopped = log
            .iter()
            .rposition(|l| *l == format!("{owner} rest stopped"));
        let started = log.iter().rposition(|l| l.ends_with(" rest start"));
        ensure!(stopped.is_some() && stopped < started, "{log:#?}");
        rig.settle()
    })
}

#[test]
fn a_hook_is_told_as_json() -> Result<()> {
    let sections = |dir: &Path| {
        let command = format!("cat >> {0}/hooked; echo >> {0}/hooked", dir.display());
        format!(
            "\n[[hook]]\nname = \"note\"\ncommand = [\"/bin/sh\", \"-c\", \"{command}\"]\nevents = [\"gained\"]\n"
        )
    };
    with_services(sections, nothing, |rig, t| {
        let old = rig.cluster.owner("web").context("an owner")?;
        let new = another(&old);
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        let told = |t: &Traces| {
            let text = fs::read_to_string(t.path("hooked")).unwrap_or_default();
            text.lines()
                .filter_map(|l| serde_json::from_str::<Value>(l).ok())
                .any(|e| e["kind"] == "gained" && e["node"] == new && e["group"] == "web")
        };
        t.wait("the gain is told to the hook", told)?;
        rig.settle()
    })
}

#[test]
fn a_drain_waits_for_what_takes_long_to_stop() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        // Longer than any command waits for addresses alone.
        let slow = t.path("service.sh");
        fs::write(
            &slow,
            SCRIPT.replace("say stop\n", "say stop\n        sleep 11\n"),
        )?;
        rig.cluster.agent(&old)?.cli_ok(&["drain", &old])?;
        ensure!(
            t.last(&format!("{old} app stopped")).is_some(),
            "the drain did not wait"
        );
        runs(rig, "web", &old)?;
        t.never_both("app")?;
        rig.cluster.agent(&old)?.cli_ok(&["undrain", &old])?;
        rig.settle()
    })
}
