//! What runs everywhere, groups that wait for each other, reload, hooks and drain.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::trial::says;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    LATE, SCRIPT, Traces, another, app, group, nothing, phase, resource, runs, second,
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

#[test]
fn a_reload_that_removes_a_group_stops_it() -> Result<()> {
    let sections = |dir: &Path| app(dir) + &second("") + &resource(dir, "rest", "");
    with_services(sections, nothing, |rig, t| {
        runs(rig, "web", "")?;
        runs(rig, "late", "")?;
        let path = rig.cluster.config().to_owned();
        let text = fs::read_to_string(&path)?;
        let cut = text
            .find("\n[[group]]\nname = \"late\"")
            .context("the group")?;
        fs::write(&path, &text[..cut])?;
        for node in rig.cluster.answering() {
            rig.cluster.agent(&node)?.signal(Signal::SIGHUP)?;
        }
        t.wait("the service of the removed group has stopped", |t| {
            t.up("rest").is_empty()
        })?;
        rig.settle()?;
        runs(rig, "web", "")?;
        ensure!(
            !t.log().iter().any(|l| l.ends_with("app stop")),
            "the other group's was stopped, too"
        );
        Ok(())
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
