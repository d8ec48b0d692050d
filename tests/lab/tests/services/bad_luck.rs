//! What should not happen and does: services that cannot be, probes and stops that never end, agents that end or freeze while
//! something runs.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    demo::rig::Rig,
    interrupt::pass,
    trial::{event, says},
};
use nix::sys::signal::Signal;

use super::{
    LATE, SCRIPT, Traces, another, app, group, maintenance::slow_cli, nothing, phase, resource,
    runs, with_services,
};

/// The owner's status says this of the group's services.
fn text_says(rig: &mut Rig, node: &str, words: &[&str]) -> Result<()> {
    says(rig, node, &format!("services: {words:?}"), |s| {
        let text = group(s, "web")["services"]["text"].as_str().unwrap_or("");
        words.iter().all(|word| text.contains(word))
    })
}

#[test]
fn a_program_that_does_not_exist_is_named_and_the_group_stays_where_nobody_can_run_it() -> Result<()>
{
    let sections = |_: &Path| {
        "\n[[group.resource]]\nname = \"app\"\nexec = { start = [\"/no/such/program\"], stop = [\"/bin/true\"], \
         status = [\"/bin/sh\", \"-c\", \"exit 3\"] }\n"
            .to_owned()
    };
    with_services(sections, nothing, |rig, _| {
        // Tried on each node in turn; in the end it stays, and says so.
        rig.cluster
            .wait_for("failed everywhere, and owned", LATE, |said| {
                said.len() == 3
                    && said.iter().all(|(_, s)| {
                        s.as_ref().is_ok_and(|s| {
                            let g = group(s, "web");
                            let unfit = g["unfit"].as_array().map_or(0, Vec::len);
                            g["owner"].is_string() && unfit == 3 && phase(s, "web") == "failed"
                        })
                    })
            })?;
        let owner = rig.cluster.owner("web").context("an owner")?;
        text_says(rig, &owner, &["app", "/no/such/program"])?;
        rig.settle()?;
        ensure!(rig.wire_owner().is_some(), "nobody serves the VIP");
        Ok(())
    })
}

/// What a probe does is said by a file: `NODE.endless`, `NODE.huge`.
fn strange_probe(dir: &Path) -> String {
    let script = dir.join("probe.sh");
    let text = format!(
        "address=$(ip -4 -o address show dev eth0 | sed -n 's/.* 10\\.77\\.0\\.\\([1-9]\\)\\/.*/\\1/p' | head -n 1)\n\
         cd {dir} && echo $$ >> pids.n$address\n\
         [ -e n$address.endless ] && exec yes\n\
         [ -e n$address.huge ] && {{ echo 'OK - much'; exec head -c 50000000 /dev/zero; }}\n\
         echo OK\n",
        dir = dir.display()
    );
    let _ = fs::write(&script, text);
    format!(
        "\n[[group.probe]]\nname = \"ask\"\nexec = [\"/bin/sh\", \"{}\"]\ninterval = \"100ms\"\ntimeout = \"3s\"\nfall = 2\nrise = 1\n",
        script.display()
    )
}

fn resident_kib(rig: &mut Rig, node: &str) -> Result<u64> {
    let pid = rig.cluster.agent(node)?.pid()?;
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let number = line.and_then(|l| l.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).context("VmHWM")
}

#[test]
fn a_probe_that_prints_megabytes_is_taken_by_its_word_and_one_that_never_ends_is_killed()
-> Result<()> {
    let sections = |dir: &Path| {
        "\n[group.policy]\nrestarts = 0\nwindow = \"10min\"\nfailure_memory = \"10min\"\n"
            .to_owned()
            + &app(dir)
            + &strange_probe(dir)
    };
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.make(&format!("{old}.huge"))?;
        let asked = |t: &Traces| {
            let text = fs::read_to_string(t.path(&format!("pids.{old}")));
            text.unwrap_or_default().lines().count()
        };
        let before = asked(t);
        t.wait("it was asked again and again", |t| asked(t) > before + 5)?;
        ensure!(runs(rig, "web", "")? == old, "megabytes moved it");
        let most = resident_kib(rig, &old)?;
        ensure!(most < 200 * 1024, "the agent holds {most} KiB");
        t.remove(&format!("{old}.huge"))?;

        t.make(&format!("{old}.endless"))?;
        let new = runs(rig, "web", &old)?;
        says(rig, &new, "why", |s| {
            let text = group(s, "web")["unfit"].to_string();
            text.contains(&old)
        })?;
        t.never_both("app")?;
        t.remove(&format!("{old}.endless"))?;
        let pids = fs::read_to_string(t.path(&format!("pids.{old}")))?;
        t.wait("no probe is left behind", |_| {
            pids.lines().all(|pid| {
                let what = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                !what.starts_with(b"yes")
            })
        })?;
        rig.settle()
    })
}

#[test]
fn a_stop_that_blocks_is_given_up_in_time_and_said_loudly() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "stop_timeout = \"1s\"");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        let from = heartline_lab::clock::boot_ns();
        t.make("app.hold-stop")?;
        rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
        event(rig, &old, "service_failed", from, |e| {
            let text = e["text"].as_str().unwrap_or("");
            text.contains("app does not stop") && text.contains("left behind")
        })?;
        t.remove("app.hold-stop")?;
        ensure!(runs(rig, "web", &old)? == new, "not on {new}");
        rig.settle()
    })
}

#[test]
fn a_stateful_stop_that_blocks_keeps_the_group_and_a_move_waits_as_long_as_that_takes() -> Result<()>
{
    let sections = |dir: &Path| resource(dir, "app", "stateful = true\nstop_timeout = \"60s\"");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        let new = another(&old);
        // Slower than what a move without services waits for.
        fs::write(
            t.path("service.sh"),
            SCRIPT.replace("say stop\n", "say stop\n        sleep 12\n"),
        )?;
        let socket = rig.cluster.agent(&old)?.socket();
        let out = slow_cli(&socket, &["move", "web", new])?;
        ensure!(
            out.code == Some(0) && out.stdout.contains("moved"),
            "{out:?}"
        );
        ensure!(runs(rig, "web", &old)? == new, "not on {new}");
        t.never_both("app")?;
        rig.settle()
    })
}

/// The owner's agent is frozen or killed; its service runs on. Whoever has the group then does not start it before the old
/// one is back *and* has stopped it: that it is heard again is not enough.
fn back_but_not_stopped(
    away: impl FnOnce(&mut Rig, &str) -> Result<()>,
    back: impl FnOnce(&mut Rig, &str) -> Result<()>,
) -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "stateful = true");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        away(rig, &old)?;
        let mut new = String::new();
        rig.cluster
            .wait_for("another has it, and waits", LATE, |said| {
                said.iter().filter(|(node, _)| *node != old).all(|(_, s)| {
                    s.as_ref().is_ok_and(|s| {
                        let g = group(s, "web");
                        g["owner"].is_string() && g["owner"] != *old && phase(s, "web") == "blocked"
                    })
                })
            })?;
        if let Some(owner) = rig.cluster.owner("web") {
            new = owner;
        }
        text_says(
            rig,
            &new,
            &[&old, "heartline clear web --stopped-elsewhere"],
        )?;
        t.make("app.hold-stop")?;
        back(rig, &old)?;
        t.wait("the old one is being stopped", |t| {
            t.last(&format!("{old} app stop")).is_some()
        })?;
        says(rig, &new, "it is heard again", |s| {
            let nodes = s["nodes"].as_array().into_iter().flatten();
            nodes
                .filter(|n| n["name"] == *old)
                .all(|n| n["state"] == "alive")
        })?;
        pass(Duration::from_secs(2))?;
        ensure!(
            t.last(&format!("{new} app start")).is_none(),
            "started while the old one was still being stopped"
        );
        t.remove("app.hold-stop")?;
        // Nobody has to say anything.
        ensure!(runs(rig, "web", &old)? == new, "it moved again");
        t.never_both("app")?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        rig.settle()
    })
}

#[test]
fn a_killed_agent_that_is_back_is_not_taken_for_stopped() -> Result<()> {
    back_but_not_stopped(
        |rig, old| rig.cluster.agent(old)?.kill(),
        |rig, old| rig.cluster.agent(old)?.start(),
    )
}

#[test]
fn a_frozen_agent_that_goes_on_is_not_taken_for_stopped() -> Result<()> {
    back_but_not_stopped(
        |rig, old| rig.cluster.freeze(old),
        |rig, old| rig.cluster.thaw(old),
    )
}

#[test]
fn an_agent_that_ends_with_something_stuck_says_so_and_hands_no_service_over() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "stateful = true\nstop_timeout = \"5s\"");
    with_services(sections, nothing, |rig, t| {
        let old = runs(rig, "web", "")?;
        t.make(&format!("app.{old}.no-stop"))?;
        let _ = rig
            .cluster
            .agent(&old)?
            .cli(&["move", "web", another(&old), "--no-wait"])?;
        rig.cluster.wait_for("it is stuck", LATE, |said| {
            said.len() == 3
                && said
                    .iter()
                    .all(|(_, s)| s.as_ref().is_ok_and(|s| phase(s, "web") == "stuck"))
        })?;
        let agent = rig.cluster.agent(&old)?;
        agent.signal(Signal::SIGTERM)?;
        // As long as its services may take to stop, and a moment.
        let code = agent.ended(Duration::from_secs(120))?;
        ensure!(code == Some(1), "exit status {code:?}");
        let log = fs::read_to_string(agent.log())?;
        let loud = "the agent ends although web has not stopped here";
        ensure!(log.contains(loud), "its log does not say it:\n{log}");
        rig.cluster
            .wait_for("another has it, and waits", LATE, |said| {
                said.len() == 2
                    && said.iter().all(|(_, s)| {
                        s.as_ref().is_ok_and(|s| {
                            let g = group(s, "web");
                            g["owner"].is_string()
                                && g["owner"] != *old
                                && phase(s, "web") == "blocked"
                        })
                    })
            })?;
        ensure!(t.up("app") == [old.as_str()], "up: {:?}", t.up("app"));
        // Mended and back: it is stopped there, and starts where the group is.
        t.remove(&format!("app.{old}.no-stop"))?;
        rig.cluster.agent(&old)?.start()?;
        let new = runs(rig, "web", &old)?;
        t.never_both("app")?;
        ensure!(t.up("app") == [new.as_str()], "up: {:?}", t.up("app"));
        rig.settle()
    })
}

#[test]
fn a_hook_whose_server_hangs_is_in_nobodys_way() -> Result<()> {
    // A server that takes connections and says nothing, in each node's own name space.
    let sections = |dir: &Path| {
        format!(
            "{}\n[[hook]]\nname = \"hangs\"\nurl = \"https://127.0.0.1:4443/hook\"\ntimeout = \"2s\"\n",
            app(dir)
        )
    };
    with_services(sections, nothing, |rig, _| {
        let mut held = Vec::new();
        for node in &rig.cluster.lab.nodes {
            let listen = || Ok(std::net::TcpListener::bind("127.0.0.1:4443")?);
            held.push(node.ns.run(listen)?);
        }
        let old = runs(rig, "web", "")?;
        let from = heartline_lab::clock::boot_ns();
        for node in [another(&old), &old] {
            rig.cluster.agent(&old)?.cli_ok(&["move", "web", node])?;
        }
        event(rig, &old, "hook_failed", from, |e| {
            let text = e["text"].as_str().unwrap_or("");
            text.contains("hook hangs was not told") && !text.contains("/hook")
        })?;
        // Silent within its lease, taken over, and started, with all hooks waiting.
        rig.cluster.agent(&old)?.kill()?;
        let new = runs(rig, "web", &old)?;
        ensure!(new != old, "not taken over");
        rig.settle()?;
        drop(held);
        Ok(())
    })
}
