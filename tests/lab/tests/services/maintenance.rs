//! `heartline plan --node-down` and `heartline maintain`.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use heartline_lab::{agent, exec, interrupt::until};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{LATE, POLL, another, app, nothing, resource, runs, with_services};

/// `heartline` with more time than a question needs; its output and exit status.
pub(super) fn slow_cli(socket: &Path, args: &[&str]) -> Result<exec::Output> {
    let mut command = Command::new(agent::binary()?);
    command.args(args).env("HEARTLINE_SOCKET", socket);
    exec::run(command, "", Duration::from_secs(120))
}

#[test]
fn a_plan_without_the_owner_is_what_then_happens() -> Result<()> {
    let sections = |dir: &Path| app(dir) + &resource(dir, "base", "keep_running = true");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let asked = another(&old);
        let args = ["plan", "--node-down", &old, "--json"];
        let said: Value = serde_json::from_str(&rig.cluster.agent(asked)?.cli_ok(&args)?)?;
        let plan = &said["groups"][0];
        ensure!(
            said["quorum"] == true && plan["group"] == "web" && plan["from"] == *old,
            "{said}"
        );
        ensure!(plan["starts"] == 1 && plan["runs_there"] == 1, "{said}");
        let to = plan["to"].as_str().context("a node")?.to_owned();
        let text = rig
            .cluster
            .agent(asked)?
            .cli_ok(&["plan", "--node-down", &old])?;
        ensure!(text.contains(&format!("web: from {old} to {to}")), "{text}");
        // Who owns nothing is not missed; who is not there is refused.
        let idle = rig
            .cluster
            .agent(&old)?
            .cli_ok(&["plan", "--node-down", asked])?;
        ensure!(idle.contains("nothing moves"), "{idle}");
        let out = rig
            .cluster
            .agent(asked)?
            .cli(&["plan", "--node-down", "n9"])?;
        ensure!(out.code == Some(1) && out.stderr.contains("n9"), "{out:?}");
        ensure!(
            t.log().iter().all(|l| !l.ends_with(" stop")),
            "it did something"
        );
        rig.cluster.agent(&old)?.kill()?;
        ensure!(runs(rig, "web", &old)? == to, "it went elsewhere");
        let out = rig
            .cluster
            .agent(&to)?
            .cli(&["plan", "--node-down", &to, "--json"])?;
        ensure!(out.stdout.contains("\"quorum\":false"), "{out:?}");
        rig.cluster.agent(&old)?.start()?;
        rig.settle()
    })
}

#[test]
fn maintenance_waits_for_a_node_that_goes_and_comes_back() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let pid = rig.cluster.agent(&old)?.pid()?.to_string();
        let socket = rig.cluster.agent(another(&old))?.socket();
        let state = t.path("state").display().to_string();
        let node = old.clone();
        let command = std::thread::spawn(move || {
            // As a reboot does: the connection ends, and then the node is away.
            let line = format!("kill -9 {pid}; exit 255");
            slow_cli(
                &socket,
                &[
                    "maintain",
                    &node,
                    "--state-dir",
                    &state,
                    "--via",
                    "env VIA={node} sh -c",
                    "--settle",
                    "2s",
                    "--timeout",
                    "60s",
                    "--",
                    &line,
                ],
            )
        });
        let dead = until(LATE, POLL, || Ok(!rig.cluster.agent(&old)?.running()))?;
        if !dead {
            bail!("the command did not run: {:?}", command.join());
        }
        // It has run when the node owned nothing any more.
        ensure!(t.up("app").iter().all(|n| *n != old), "not drained first");
        ensure!(
            t.path("state").join("maintain.json").exists(),
            "nothing is written down"
        );
        let _ = rig.cluster.agent(&old)?.ended(Duration::from_secs(5))?;
        rig.cluster.agent(&old)?.start()?;
        let out = command.join().map_err(|_| anyhow::anyhow!("panic"))??;
        ensure!(out.code == Some(0), "{out:?}");
        let steps = [
            format!("draining {old}: gives up web"),
            format!("the connection to {old} has ended"),
            format!("{old} is away"),
            format!("{old} is back in use"),
            "maintenance is done".to_owned(),
        ];
        let mut rest = out.stdout.as_str();
        for step in &steps {
            let at = rest.find(step.as_str());
            let at = at.with_context(|| format!("no {step:?} in its place: {out:?}"))?;
            rest = &rest[at..];
        }
        ensure!(
            !t.path("state").join("maintain.json").exists(),
            "it is not forgotten"
        );
        t.never_both("app")?;
        rig.settle()
    })
}

#[test]
fn maintenance_of_all_goes_on_after_it_was_stopped() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        runs(rig, "web", "")?;
        let socket = rig.cluster.agent("n1")?.socket();
        let state = t.path("state").display().to_string();
        let ran = t.path("ran").display().to_string();
        let line = format!(
            "echo $HEARTLINE_MAINTAIN >> {ran}; [ $HEARTLINE_MAINTAIN != n3 ] || [ -e {ran}.ok ]"
        );
        let with = [
            "maintain",
            "--state-dir",
            &state,
            "--settle",
            "500ms",
            "--timeout",
            "60s",
        ];
        let first = [&with[..], &["--via", "env sh -c", "--all", "--", &line]].concat();
        let out = slow_cli(&socket, &first)?;
        ensure!(
            out.code == Some(1)
                && out.stderr.contains("on n3 the command failed")
                && out.stderr.contains("n3 is out of use")
                && out.stderr.contains("1 of 3 nodes are done"),
            "{out:?}"
        );
        // Nothing new over an old one, and no command twice unless somebody says so.
        let out = slow_cli(&socket, &first)?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("--resume"),
            "{out:?}"
        );
        let out = slow_cli(&socket, &[&with[..], &["--resume"]].concat())?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("--rerun"),
            "{out:?}"
        );
        fs::write(format!("{ran}.ok"), "")?;
        let out = slow_cli(&socket, &[&with[..], &["--resume", "--rerun"]].concat())?;
        ensure!(out.code == Some(0), "{out:?}");
        let nodes = fs::read_to_string(&ran)?;
        ensure!(nodes == "n2\nn3\nn3\nn1\n", "another order: {nodes:?}");
        // Not while it is not whole.
        rig.cluster.agent("n3")?.cli_ok(&["drain", "n3"])?;
        let out = slow_cli(&socket, &first)?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("not whole: n3 is drained"),
            "{out:?}"
        );
        rig.cluster.agent("n3")?.cli_ok(&["undrain", "n3"])?;
        t.never_both("app")?;
        rig.settle()
    })
}

#[test]
fn one_at_a_time_and_ctrl_c_says_how_to_go_on() -> Result<()> {
    with_services(app, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let socket = rig.cluster.agent(&old)?.socket();
        let (state, begun) = (t.path("state").display().to_string(), t.path("begun"));
        let line = format!("touch {}; sleep 3", begun.display());
        let with = [
            "maintain",
            "--state-dir",
            &state,
            "--settle",
            "500ms",
            "--timeout",
            "60s",
        ];
        let args = [&with[..], &[&old, "--", &line]].concat();
        let mut command = Command::new(agent::binary()?);
        command
            .args(&args)
            .env("HEARTLINE_SOCKET", &socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn()?;
        ensure!(
            until(LATE, POLL, || Ok(begun.exists()))?,
            "the command did not run"
        );
        let out = slow_cli(&socket, &args)?;
        ensure!(
            out.code == Some(1) && out.stderr.contains("under way already"),
            "{out:?}"
        );
        exec::signal(child.id(), Signal::SIGINT)?;
        let out = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(
            out.status.code() == Some(1)
                && said.contains(&format!(
                    "interrupted\nmaintenance has stopped: {old} is out of use"
                ))
                && said.contains("--resume with --rerun or --skip-command"),
            "{said}"
        );
        let out = slow_cli(
            &socket,
            &[&with[..], &["--resume", "--skip-command"]].concat(),
        )?;
        ensure!(
            out.code == Some(0) && out.stdout.contains(&format!("{old} is back in use")),
            "{out:?}"
        );
        rig.settle()
    })
}
