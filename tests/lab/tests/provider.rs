//! A provider's services on real Debian machines, under systemd: who owns, who answers, what a reboot does.

use std::time::Duration;

use heartline_lab::{
    interrupt,
    provider::{
        fault::{self, Fault},
        rig::{AGENT, HANDOVER, Provider, Service},
    },
};

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
    for fault in [Fault::Cut, Fault::Freeze, Fault::Move, Fault::Reboot] {
        let step = fault::run(provider, fault)?;
        println!("{step:?}");
        for row in &step.rows {
            let by = row.felt.by.last();
            anyhow::ensure!(
                by.is_some_and(|node| *node != step.node),
                "{}: {:?} is answered by {by:?} after {} lost it",
                fault.title(),
                row.service,
                step.node
            );
        }
        if fault == Fault::Reboot {
            handed_over_first(provider, &step.node)?;
        }
    }

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
        let stopping = at(format!("Stopping {}", service.unit()));
        anyhow::ensure!(
            stopping.is_some_and(|stopping| Some(stopping) > handed_over),
            "{} stopped before the handover was done:\n{journal}",
            service.unit()
        );
    }
    Ok(())
}
