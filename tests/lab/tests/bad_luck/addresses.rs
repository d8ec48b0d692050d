//! Addresses that others put where ours belong, or take away.

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    LabSpec, VIP4, VIP6,
    clock::boot_ns,
    config::ConfigSpec,
    demo::rig::Rig,
    interrupt::until,
    lab::Station,
    spray,
    trial::{
        SOON, cli, event, events, nothing_lost, owner, standbys, stayed, taken_over, undisturbed,
        with,
    },
};
use std::time::Duration;

fn station(rig: &Rig, node: &str) -> Result<Station> {
    rig.cluster.lab.node(node).cloned()
}

/// Does a node have an address that begins so?
fn has(station: &Station, address: &str) -> Result<bool> {
    let mut command = std::process::Command::new("ip");
    command.args([
        "-n",
        station.ns.name(),
        "-o",
        "address",
        "show",
        "dev",
        "eth0",
    ]);
    let shown = heartline_lab::exec::run_ok(command, "", SOON)?;
    Ok(shown.contains(&format!(" {address}/")))
}

fn wait_gone(station: &Station, address: &str) -> Result<()> {
    let gone = until(SOON, Duration::from_millis(20), || {
        Ok(!has(station, address)?)
    })?;
    ensure!(gone, "{address} is still on {}", station.name);
    Ok(())
}

/// By hand on a standby: gated from the first packet, and taken away.
#[test]
fn a_stale_address_on_a_standby_never_answers() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();
        let at = station(rig, &standby)?;
        let (v4, v6) = (VIP4.to_string(), VIP6.to_string());
        for (line, address) in [
            (format!("address add {VIP4}/32 dev eth0\n"), &v4),
            (format!("address add {VIP4}/24 dev eth0\n"), &v4),
            (format!("address add {VIP6}/128 dev eth0 nodad\n"), &v6),
            (format!("address add {VIP6}/64 dev eth0 nodad\n"), &v6),
        ] {
            let from = boot_ns();
            at.ns.ip(&line)?;
            event(rig, &standby, "stale_address", from, |_| true).context(line)?;
            wait_gone(&at, address)?;
            nothing_lost(rig, from, &old)?;
        }
        // And there before the agent is: swept at its start.
        let from = boot_ns();
        rig.cluster.agent(&standby)?.kill()?;
        at.ns.ip(&format!(
            "address add {VIP4}/32 dev eth0\naddress add {VIP6}/128 dev eth0 nodad\n"
        ))?;
        rig.cluster.agent(&standby)?.start()?;
        rig.settle()?;
        event(rig, &standby, "stale_address", from, |_| true)?;
        wait_gone(&at, &v4)?;
        wait_gone(&at, &v6)?;
        undisturbed(rig, from, &old)
    })
}

/// There already when the group comes: taken over as it is, and removed when the group goes.
#[test]
fn an_address_that_is_there_before_the_gain() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let new = standbys(rig)?.first().context("a standby")?.clone();
        let at = station(rig, &new)?;
        // A frozen agent cannot sweep: both its threads find the address when they wake, and the
        // request for the group at the same time.
        rig.cluster.freeze(&new)?;
        at.ns.ip(&format!(
            "address add {VIP4}/32 dev eth0\naddress add {VIP6}/128 dev eth0 nodad\n\
             address add {VIP4}/24 dev eth0\n"
        ))?;
        rig.cluster.thaw(&new)?;
        let mut moved = false;
        until(SOON, Duration::from_millis(5), || {
            moved = rig.cluster.agent(&new)?.cli(&["move", "web", &new])?.code == Some(0);
            Ok(moved)
        })?;
        ensure!(moved, "{new} does not take the group");
        ensure!(taken_over(rig, &old)? == new, "moved elsewhere");
        rig.settle()?;
        cli(rig, &old, &["move", "web", &old])?;
        ensure!(taken_over(rig, &new)? == old, "moved elsewhere");
        wait_gone(&at, &VIP4.to_string())?;
        wait_gone(&at, &VIP6.to_string())?;
        rig.settle()
    })
}

/// Both addresses deleted on the owner; then the /24 form beside the VIP, which the VIP's own
/// removal would leave behind.
#[test]
fn an_address_deleted_by_hand_comes_back() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let at = station(rig, &old)?;
        for line in [
            format!("address del {VIP4}/32 dev eth0\n"),
            format!("address del {VIP6}/128 dev eth0\n"),
        ] {
            let from = boot_ns();
            at.ns.ip(&line)?;
            event(rig, &old, "note", from, |event| {
                event["text"]
                    .as_str()
                    .is_some_and(|text| text.contains("vanished"))
            })
            .context(line)?;
            rig.settle()?;
            stayed(rig, from, boot_ns(), &old)?;
        }
        at.ns.ip(&format!("address add {VIP4}/24 dev eth0\n"))?;
        let new = standbys(rig)?.first().context("a standby")?.clone();
        cli(rig, &new, &["move", "web", &new])?;
        ensure!(taken_over(rig, &old)? == new, "moved elsewhere");
        wait_gone(&at, &VIP4.to_string())?;
        rig.settle()
    })
}

/// Another machine says that the VIP is its own: the owner says so, and announces again at once.
#[test]
fn a_foreign_claim_is_answered() -> Result<()> {
    const FOREIGN: [u8; 6] = [0x02, 0xba, 0xad, 0, 0, 1];
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let client = rig.cluster.lab.client.clone();
        let prober = rig.cluster.lab.prober.clone();
        for v6 in [false, true] {
            let from = boot_ns();
            if v6 {
                spray::claim_v6(&prober, VIP6, FOREIGN)?;
            } else {
                spray::claim_v4(&prober, VIP4, FOREIGN)?;
            }
            let vip = if v6 {
                VIP6.to_string()
            } else {
                VIP4.to_string()
            };
            let told = event(rig, &old, "foreign_claim", from, |event| {
                event["address"] == *vip
            })?;
            ensure!(told["mac"] == "02:ba:ad:00:00:01", "whose? {told}");
            rig.settle()?;
            let mut show = std::process::Command::new("ip");
            show.args(["-n", client.ns.name(), "neigh", "show", "to", &vip]);
            let entry = heartline_lab::exec::run_ok(show, "", SOON)?;
            ensure!(
                !entry.contains("02:ba:ad"),
                "the client still believes the foreign machine: {entry}"
            );
            stayed(rig, from, boot_ns(), &old)?;
        }
        let lost = events(rig, &old, "lost", rig.from)?;
        ensure!(
            lost.is_empty(),
            "a claim by word alone cost the group: {lost:?}"
        );
        Ok(())
    })
}
