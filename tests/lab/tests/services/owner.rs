//! One group: moves, failures, cuts, and what holds state.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{interrupt::pass, trial::says};

use super::{LATE, another, app, group, nothing, phase, resource, runs, with_services};

#[test]
fn a_move_stops_everything_before_it_starts_elsewhere() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "disk", "") + &resource(dir, "app", "");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        let before = t.log().len();
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        ensure!(runs(rig, "web", &old)? == new, "not on {new}");
        let log: Vec<_> = t.log().split_off(before);
        let expected = [
            format!("{old} app stop"),
            format!("{old} app stopped"),
            format!("{old} disk stop"),
            format!("{old} disk stopped"),
            format!("{new} disk start"),
            format!("{new} disk started"),
            format!("{new} app start"),
            format!("{new} app started"),
        ];
        ensure!(log == expected, "another order: {log:#?}");
        t.never_both("app")?;
        t.never_both("disk")?;
        rig.settle()?;
        ensure!(
            rig.wire_owner().as_deref() == Some(new),
            "the VIP did not follow"
        );
        Ok(())
    })
}

#[test]
fn what_dies_is_started_again_and_in_the_end_moves() -> Result<()> {
    let sections = |dir: &Path| {
        "\n[group.policy]\nrestarts = 2\nwindow = \"10min\"\nfailure_memory = \"10min\"\n"
            .to_owned()
            + &app(dir)
    };
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.remove(&format!("app.{old}.up"))?;
        t.wait("started again where it died", |t| {
            t.count(&format!("{old} app started")) == 2
        })?;
        ensure!(runs(rig, "web", "")? == old, "one death moved it");
        t.wait("given up there, and up elsewhere", |t| {
            let _ = fs::remove_file(t.path(&format!("app.{old}.up")));
            t.up("app").iter().any(|n| *n != old)
        })?;
        let new = runs(rig, "web", &old)?;
        rig.settle()?;
        ensure!(t.is_up("app", &new), "not up on {new}");
        says(rig, &new, "the old node has failed", |s| {
            group(s, "web")["unfit"][0]["node"] == *old
        })?;
        // It may go back once that is forgotten.
        ensure!(
            rig.cluster.agent(&new)?.cli(&["move", "web", &old])?.code == Some(1),
            "moved to where it failed"
        );
        rig.cluster.agent(&new)?.cli_ok(&["clear", "web"])?;
        says(rig, &new, "nobody is unfit", |s| {
            group(s, "web")["unfit"]
                .as_array()
                .is_some_and(Vec::is_empty)
        })?;
        rig.cluster.agent(&new)?.cli_ok(&["move", "web", &old])?;
        ensure!(runs(rig, "web", &new)? == old, "not back");
        rig.settle()
    })
}

#[test]
fn a_bad_probe_of_a_living_process_restarts_it_and_then_moves() -> Result<()> {
    let sections = |dir: &Path| {
        let (script, dir_text) = (dir.join("service.sh"), dir.display());
        let probe = format!(
            "\n[[group.probe]]\nname = \"ask\"\nexec = [\"/bin/sh\", \"{}\", \"{dir_text}\", \"app\", \"probe\"]\n\
             interval = \"100ms\"\ntimeout = \"5s\"\nfall = 2\nrise = 1\n",
            script.display()
        );
        "\n[group.policy]\nrestarts = 1\nwindow = \"10min\"\nfailure_memory = \"10min\"\n"
            .to_owned()
            + &app(dir)
            + &probe
    };
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.make(&format!("app.{old}.bad"))?;
        let new = runs(rig, "web", &old)?;
        ensure!(
            t.count(&format!("{old} app started")) == 2,
            "not tried once more where it was"
        );
        t.never_both("app")?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        rig.settle()
    })
}

#[test]
fn a_killed_agent_stops_what_is_left_when_it_is_back() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        rig.cluster.agent(&old)?.kill()?;
        let new = runs(rig, "web", &old)?;
        ensure!(t.is_up("app", &old), "nobody was there to stop it");
        rig.cluster.agent(&old)?.start()?;
        t.wait("what was left over is stopped", |t| !t.is_up("app", &old))?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        rig.settle()
    })
}

#[test]
fn an_owner_cut_off_stops_by_itself_and_another_starts() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        rig.cluster.lab.switch.cut(&old)?;
        let new = runs(rig, "web", &old)?;
        t.wait("the one cut off has stopped", |t| !t.is_up("app", &old))?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        Ok(())
    })
}

#[test]
fn something_stateful_waits_for_a_word_after_a_cut_and_not_after_a_move() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "stateful = true");
    with_services(sections, nothing, |rig, t| {
        let first = runs(rig, "web", "")?;
        let old = another(&first).to_owned();
        rig.cluster.agent(&first)?.cli_ok(&["move", "web", &old])?;
        ensure!(
            runs(rig, "web", &first)? == old,
            "a planned move waits for nobody"
        );
        rig.cluster.lab.switch.cut(&old)?;
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
        let owner = said
            .iter()
            .filter(|(node, _)| *node != old)
            .find_map(|(_, s)| {
                group(s.as_ref().ok()?, "web")["owner"]
                    .as_str()
                    .map(str::to_owned)
            });
        let new = owner.context("an owner")?;
        says(rig, &new, "it says why, and what to do", |s| {
            let text = group(s, "web")["services"]["text"].as_str().unwrap_or("");
            text.contains(&old) && text.contains("heartline clear web --stopped-elsewhere")
        })?;
        pass(Duration::from_secs(1))?;
        ensure!(
            t.count(&format!("{new} app start")) == usize::from(new == first),
            "it started"
        );
        // The word counts where the group is; said elsewhere it is refused, with the place.
        let third = ["n1", "n2", "n3"]
            .into_iter()
            .find(|n| *n != old && *n != new);
        let third = third.context("a third")?;
        let out = rig
            .cluster
            .agent(third)?
            .cli(&["clear", "web", "--stopped-elsewhere"])?;
        ensure!(
            out.code == Some(1) && out.stderr.contains(&new),
            "said where it does nothing: {out:?}"
        );
        rig.cluster
            .agent(&new)?
            .cli_ok(&["clear", "web", "--stopped-elsewhere"])?;
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        ensure!(t.is_up("app", &new), "not up");
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        Ok(())
    })
}

#[test]
fn something_stateful_that_does_not_stop_stays_where_it_is() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "stateful = true");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        t.make(&format!("app.{old}.no-stop"))?;
        let _ = rig
            .cluster
            .agent(&old)?
            .cli(&["move", "web", new, "--no-wait"])?;
        rig.cluster
            .wait_for("all say that it is stuck where it was", LATE, |said| {
                said.len() == 3
                    && said.iter().all(|(_, s)| {
                        s.as_ref().is_ok_and(|s| {
                            phase(s, "web") == "stuck" && group(s, "web")["owner"] == *old
                        })
                    })
            })?;
        pass(Duration::from_secs(1))?;
        ensure!(t.up("app") == [old.as_str()], "up: {:?}", t.up("app"));
        ensure!(
            t.log().iter().all(|l| l.starts_with(&old)),
            "something was started elsewhere"
        );
        // Mended: it runs on where it is, or where it was to go; never on both.
        t.remove(&format!("app.{old}.no-stop"))?;
        rig.cluster.agent(new)?.cli_ok(&["clear", "web"])?;
        runs(rig, "web", "")?;
        t.never_both("app")?;
        rig.settle()
    })
}
