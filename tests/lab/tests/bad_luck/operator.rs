//! What people ask for, roles, and the other data path.

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    LabSpec,
    clock::{boot_ns, ms},
    config::ConfigSpec,
    trial::{
        SOON, cli, event, events, fault, nobody_serves, owner, says, standbys, taken_over,
        undisturbed, with,
    },
};

/// Two members and a witness: the witness makes the majority and never owns.
#[test]
fn a_witness_votes_and_never_owns() -> Result<()> {
    let spec = ConfigSpec {
        witnesses: 1,
        ..ConfigSpec::default()
    };
    with(LabSpec::default(), spec, |rig| {
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
        ensure!(new != "n3", "the witness owns the group");
        // The other member cannot do it alone, and the witness must not.
        rig.cluster.lab.switch.cut(&new)?;
        nobody_serves(rig)?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        let now = owner(rig)?;
        let refused = rig.cluster.agent(&now)?.cli(&["move", "web", "n3"])?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("witness"),
            "{refused:?}"
        );
        // Without the witness the members are still a majority; without it and a member nobody is.
        let from = rig.cluster.lab.switch.cut("n3")?;
        says(rig, &now, "the witness is silent", |status| {
            heartline_lab::cluster::alive(status) == 2
        })?;
        heartline_lab::trial::nothing_lost(rig, from, &now)?;
        let other = if now == old { new } else { old };
        // Cut off, not killed: the kernel of a killed agent stands by its word and goes on voting.
        rig.cluster.lab.switch.cut(&other)?;
        nobody_serves(rig)?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        let seen = rig.owners.ownership(rig.from, boot_ns());
        ensure!(
            seen.spans.iter().all(|span| span.node != 2),
            "the witness answered: {seen:?}"
        );
        Ok(())
    })
}

#[test]
fn drained_paused_and_stopped() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        // Drained: its group leaves, and none comes.
        let (old, new) = fault(rig, |rig, old, others| {
            let asked = others.first().context("a standby")?;
            cli(rig, asked, &["drain", old]).map(drop)
        })?;
        for node in ["n1", "n2", "n3"] {
            event(rig, node, "drained", rig.from, |event| {
                event["peer"] == *old
            })?;
        }
        let refused = rig.cluster.agent(&new)?.cli(&["move", "web", &old])?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("drained"),
            "{refused:?}"
        );
        cli(rig, &new, &["undrain", &old])?;
        let from = boot_ns();
        undisturbed(rig, from, &new)?;

        // Paused: no move, but a failure is still taken over.
        cli(rig, &old, &["pause"])?;
        says(rig, &new, "paused", |status| status["paused"] == true)?;
        let refused = rig.cluster.agent(&new)?.cli(&["move", "web", &old])?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("paused"),
            "{refused:?}"
        );
        cli(rig, &new, &["drain", &new, "--no-wait"])?;
        undisturbed(rig, from, &new).context("drained while paused")?;
        let (gone, next) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
        rig.cluster.agent(&gone)?.start()?;
        rig.settle()?;
        cli(rig, &next, &["undrain", &gone])?;
        cli(rig, &next, &["resume"])?;
        for node in ["n1", "n2", "n3"] {
            says(rig, node, "resumed", |status| status["paused"] == false)?;
        }
        rig.settle()?;

        // Stopped: handed over before it ends, not left to the lease.
        let old = owner(rig)?;
        let from = boot_ns();
        let code = rig.cluster.agent(&old)?.stop(SOON)?;
        ensure!(code == Some(0), "exit status {code:?}");
        let new = taken_over(rig, &old)?;
        let gained = event(rig, &new, "gained", from, |_| true)?;
        ensure!(gained["reason"] == "move", "not handed over: {gained}");
        for node in standbys(rig)?.into_iter().filter(|node| *node != old) {
            let expired = events(rig, &node, "promise_expired", from)?;
            ensure!(expired.is_empty(), "left to the lease: {expired:?}");
        }
        let (v4, v6) = (
            rig.v4.outage(from, boot_ns()),
            rig.v6.outage(from, boot_ns()),
        );
        println!(
            "clean stop: {:.2} ms and {:.2} ms, {} and {} echoes lost",
            ms(v4.ns()),
            ms(v6.ns()),
            v4.lost,
            v6.lost
        );
        // A handover takes a round trip; left to the lease it would take 40 of these echoes.
        ensure!(v4.lost < 20 && v6.lost < 20, "{v4:?} {v6:?}");
        rig.cluster.agent(&old)?.start()?;
        rig.settle()
    })
}

/// Where a driver has no XDP: the same, in the stack.
#[test]
fn generic_xdp() -> Result<()> {
    let spec = ConfigSpec {
        extra: "datapath = \"generic\"".into(),
        ..ConfigSpec::default()
    };
    with(LabSpec::default(), spec, |rig| {
        for node in ["n1", "n2", "n3"] {
            says(rig, node, "generic XDP on eth0", |status| {
                status["datapath"][0]["mode"] == "generic"
                    && status["datapath"][0]["name"] == "eth0"
            })?;
        }
        let (_, new) = fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
        let healed = rig.cluster.lab.switch.heal()?;
        undisturbed(rig, healed, &new)?;
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        let woken = boot_ns();
        rig.cluster.thaw(&old)?;
        undisturbed(rig, woken, &new)?;
        let from = boot_ns();
        rig.cluster.agent(&new)?.planned_restart(SOON)?;
        undisturbed(rig, from, &new)
    })
}
