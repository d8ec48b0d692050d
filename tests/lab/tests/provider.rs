//! A provider's services on real Debian machines, under systemd: who owns, who answers, what a reboot does.

use std::time::Duration;

use heartline_lab::{
    interrupt,
    provider::{
        fault::{self, Fault, Row},
        rig::{AGENT, HANDOVER, Provider, Service},
    },
};

/// What `heartline doctor` says to write.
const ORDER: &str = "/etc/systemd/system/heartline-handover.service.d/order.conf";

/// One cluster for all: raising it is what takes time.
#[test]
fn services_follow_their_vips_through_faults_and_a_reboot() {
    let mut provider = Provider::raise(3).expect("three machines");
    let done = story(&mut provider);
    if let Err(error) = done {
        let kept = provider.keep();
        panic!("{error:#}; journals are kept in {kept:?}");
    }
}

fn story(provider: &mut Provider) -> anyhow::Result<()> {
    provider.settled()?;
    provider.cross_check()?;
    doctor_knows_the_order_of_a_shutdown(provider)?;
    for fault in [
        Fault::KillUnit,
        Fault::UnitDies,
        Fault::ProbeFails,
        Fault::Cut,
        Fault::Freeze,
        Fault::Move,
        Fault::Reboot,
        Fault::Maintenance,
    ] {
        let step = fault::run(provider, fault)?;
        println!("{step:?}");
        for row in &step.rows {
            served_by_the_right_one(fault, &step.node, row)?;
        }
        if fault == Fault::Reboot {
            handed_over_first(provider, &step.node)?;
        }
    }

    sessions_are_waited_for(provider)?;
    the_journal_has_fields(provider)?;

    // systemd starts a killed agent again, and nothing it did comes back by itself.
    let node = provider.gather()?;
    let machine = provider.machine(&node)?;
    let before = machine.main_pid(AGENT)?;
    machine.kill_unit(AGENT)?;
    interrupt::until(Duration::from_secs(30), Duration::from_millis(50), || {
        Ok(provider
            .machine(&node)?
            .main_pid(AGENT)
            .is_ok_and(|pid| pid != before))
    })?;
    anyhow::ensure!(
        provider.machine(&node)?.main_pid(AGENT)? != before,
        "the killed agent still runs"
    );
    let owners = provider.settled()?;
    anyhow::ensure!(owners.len() == Service::ALL.len(), "{owners:?}");
    Ok(())
}

/// Who serves afterwards, and what was started for it.
fn served_by_the_right_one(fault: Fault, node: &str, row: &Row) -> anyhow::Result<()> {
    let (service, by) = (row.service, row.felt.by.last());
    anyhow::ensure!(
        by.is_some() && (!fault.moves(service) || by.is_some_and(|by| by != node)),
        "{}: {service:?} is answered by {by:?} after {node} lost it",
        fault.title(),
    );
    let stays = match fault {
        Fault::KillUnit => true,
        Fault::UnitDies | Fault::ProbeFails => !fault.hits(service),
        Fault::Cut
        | Fault::Freeze
        | Fault::KillAgent
        | Fault::Move
        | Fault::Reboot
        | Fault::Maintenance => false,
    };
    anyhow::ensure!(
        !stays || row.felt.by == [node],
        "{}: {service:?} was to stay on {node} and was answered by {:?}",
        fault.title(),
        row.felt.by
    );
    let started = row.own.start_ms > 0.0;
    anyhow::ensure!(
        started || service.hot_standby() || stays && fault != Fault::KillUnit,
        "{}: nobody has started {service:?}",
        fault.title()
    );
    // Whoever reboots starts all at boot; but a hot standby is not started to take over.
    let restarts = matches!(fault, Fault::Cut | Fault::Freeze | Fault::Move);
    anyhow::ensure!(
        !(started && restarts && service.hot_standby()),
        "{}: {service:?} ran and was started all the same",
        fault.title()
    );
    Ok(())
}

/// A browser that never closes its connection: the drain waits for it, says so, and goes on when its time is over.
fn sessions_are_waited_for(provider: &mut Provider) -> anyhow::Result<()> {
    let node = provider.gather()?;
    let drain =
        |node: &str| ["heartline", "drain", node, "--wait-connections", "300ms"].map(str::to_owned);
    let run = |provider: &mut Provider, on: &str, words: &[String]| {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        provider.machine(on)?.run(&words)
    };
    let others = provider
        .machines
        .iter()
        .map(|machine| machine.name().to_owned());
    let other = others
        .into_iter()
        .find(|name| *name != node)
        .expect("three nodes");
    let refused = run(provider, &other, &drain(&node))?;
    anyhow::ensure!(
        refused.code == Some(1) && refused.stderr.contains("on the node itself"),
        "{refused:?}"
    );
    let drained = run(provider, &node, &drain(&node))?;
    let waited = "waiting for the end of sessions: web ";
    anyhow::ensure!(
        drained.code == Some(0)
            && drained.stderr.contains(waited)
            && drained
                .stderr
                .contains("draining with sessions left, after 300ms: web "),
        "{drained:?}"
    );
    let owners = provider.settled()?;
    anyhow::ensure!(!owners.contains(&node), "{node} is drained: {owners:?}");
    provider.cli(&other, &["undrain", &node])?;
    Ok(())
}

/// It names a hot standby that systemd does not start by itself, until what it says is done.
fn doctor_knows_the_order_of_a_shutdown(provider: &mut Provider) -> anyhow::Result<()> {
    let machine = &provider.machines[0];
    let shutdown = || -> anyhow::Result<Vec<serde_json::Value>> {
        let out = machine.run(&["/usr/bin/heartline", "doctor", "--json"])?;
        let all: serde_json::Value = serde_json::from_str(&out.stdout)?;
        let all = all.as_array().cloned().unwrap_or_default();
        let about = |finding: &serde_json::Value| {
            finding["what"]
                .as_str()
                .is_some_and(|what| what.starts_with("shutdown"))
        };
        Ok(all.into_iter().filter(about).collect())
    };
    let good = shutdown()?;
    anyhow::ensure!(
        good.len() == 3 && good.iter().all(|finding| finding["level"] == "ok"),
        "{good:#?}"
    );
    // A hot standby that systemd does not start by itself.
    machine.run_ok(&["systemctl", "disable", Service::Dns.unit()])?;
    machine.run_ok(&["systemctl", "disable", HANDOVER])?;
    let bad = shutdown()?;
    machine.put(ORDER, "[Unit]\nAfter=unbound.service\n")?;
    machine.run_ok(&["systemctl", "enable", HANDOVER])?;
    machine.run_ok(&["systemctl", "daemon-reload"])?;
    let mended = shutdown()?;
    machine.run_ok(&["rm", ORDER])?;
    machine.run_ok(&["systemctl", "enable", Service::Dns.unit()])?;
    machine.run_ok(&["systemctl", "daemon-reload"])?;
    let text = format!("{bad:?}");
    anyhow::ensure!(
        text.contains("heartline-handover.service is not enabled")
            && text.contains("unbound.service may be stopped before"),
        "{bad:#?}"
    );
    anyhow::ensure!(
        mended.iter().all(|finding| finding["level"] == "ok"),
        "{mended:#?}"
    );
    Ok(())
}

/// Who took a group over is found by field, not by searching in sentences.
fn the_journal_has_fields(provider: &mut Provider) -> anyhow::Result<()> {
    let node = provider.gather()?;
    let entries = provider.machine(&node)?.run_ok(&[
        "journalctl",
        "--no-pager",
        "--output=json",
        "HEARTLINE_GROUP=web",
        "HEARTLINE_KIND=gained",
    ])?;
    let last = entries.lines().last();
    let entry: serde_json::Value = serde_json::from_str(last.unwrap_or("null"))?;
    let epoch = entry["HEARTLINE_EPOCH"].as_str().map(str::parse::<u64>);
    anyhow::ensure!(
        entry["HEARTLINE_NODE"] == *node
            && matches!(epoch, Some(Ok(epoch)) if epoch > 0)
            && entry["HEARTLINE_REASON"].is_string()
            && entry["SYSLOG_IDENTIFIER"] == "heartline"
            && entry["_SYSTEMD_UNIT"] == AGENT
            && entry["MESSAGE"]
                .as_str()
                .is_some_and(|text| text.contains("web")),
        "{node}: {entry:#}"
    );
    Ok(())
}

/// The node's last life: the handover was over before any service was told to stop.
fn handed_over_first(provider: &mut Provider, node: &str) -> anyhow::Result<()> {
    let journal = provider.machine(node)?.run_ok(&[
        "journalctl",
        "--boot=-1",
        "--no-pager",
        "--output=cat",
    ])?;
    let at = |what: String| {
        journal
            .lines()
            .collect::<Vec<_>>()
            .iter()
            .rposition(|line| line.starts_with(&what))
    };
    let handed_over = at(format!("Stopped {HANDOVER}"));
    anyhow::ensure!(
        handed_over.is_some(),
        "{HANDOVER} was not stopped:\n{journal}"
    );
    for service in Service::ALL {
        // What is the owner's alone is stopped as part of it, or by systemd at the same time.
        if !service.hot_standby() {
            continue;
        }
        let stopping = at(format!("Stopping {}", service.unit()));
        anyhow::ensure!(
            stopping.is_some_and(|stopping| Some(stopping) > handed_over),
            "{} stopped before the handover was done:\n{journal}",
            service.unit()
        );
    }
    Ok(())
}
