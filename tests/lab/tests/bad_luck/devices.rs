//! Devices that vanish, return, or lose their carrier.

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    LabSpec,
    clock::boot_ns,
    config::ConfigSpec,
    demo::rig::Rig,
    trial::{
        cli, event, events, fault, owner, says, sees_alive, standbys, stayed, taken_over,
        undisturbed, with,
    },
};
use serde_json::Value;

/// The gate is on the device, in the driver.
fn gated(status: &Value) -> bool {
    let devices = status["datapath"].as_array().into_iter().flatten();
    let eth0 = |d: &&Value| d["name"] == "eth0" && d["mode"] == "native" && d["error"].is_null();
    devices.filter(eth0).count() == 1 && status["uncovered_devices"] == serde_json::json!([])
}

/// The card of a node is back: it says so, and the gate is attached again.
fn card_is_back(rig: &mut Rig, node: &str, from: u64) -> Result<()> {
    event(rig, node, "device_gone", from, |_| true)?;
    event(rig, node, "device_returned", from, |_| true)?;
    says(rig, node, "the gate is on eth0 again", gated)
}

#[test]
fn a_card_that_is_pulled_out_and_put_back() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let old = owner(rig)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();

        let from = rig.cluster.lab.unplug(&standby, 0)?;
        sees_alive(rig, &old, 2)?;
        event(rig, &standby, "device_gone", from, |_| true)?;
        rig.cluster.lab.replug(&standby, 0)?;
        card_is_back(rig, &standby, from)?;
        undisturbed(rig, from, &old).context("a standby's card")?;

        let from = boot_ns();
        let (_, new) = fault(rig, |rig, old, _| rig.cluster.lab.unplug(old, 0).map(drop))?;
        let back = rig.cluster.lab.replug(&old, 0)?;
        card_is_back(rig, &old, from)?;
        undisturbed(rig, back, &new).context("the owner's card, put back")?;

        // Whole again: it serves through the new device, and its gate shuts there.
        cli(rig, &new, &["move", "web", &old])?;
        ensure!(taken_over(rig, &new)? == old, "moved elsewhere");
        rig.settle()?;
        fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        rig.cluster.thaw(&old)?;
        rig.settle()
    })
}

/// Heartbeats go on over the second network: only the VIP's device says that the node is unfit.
#[test]
fn a_carrier_lost_on_the_vips_device_moves_the_group() -> Result<()> {
    with(
        LabSpec { nodes: 3, links: 2 },
        ConfigSpec::default(),
        |rig| {
            let from = boot_ns();
            let (old, new) = fault(rig, |rig, old, _| {
                rig.cluster.lab.carrier(old, 0, false).map(drop)
            })?;
            event(rig, &old, "device_gone", from, |_| true)?;
            says(rig, &new, "the old owner is unfit, and alive", |status| {
                let unfit = status["groups"][0]["unfit"].as_array();
                heartline_lab::cluster::alive(status) == 3
                    && unfit.is_some_and(|list| list.iter().any(|unfit| unfit["node"] == *old))
            })?;
            ensure!(
                events(rig, &new, "node_silent", from)?.is_empty(),
                "a node with one network left is not silent"
            );
            let back = rig.cluster.lab.carrier(&old, 0, true)?;
            event(rig, &old, "device_returned", from, |_| true)?;
            says(rig, &new, "nobody is unfit", |status| {
                status["groups"][0]["unfit"] == serde_json::json!([])
            })?;
            undisturbed(rig, back, &new)
        },
    )
}

#[test]
fn a_carrier_lost_on_the_only_network() -> Result<()> {
    with(LabSpec::default(), ConfigSpec::default(), |rig| {
        let (old, new) = fault(rig, |rig, old, _| {
            rig.cluster.lab.carrier(old, 0, false).map(drop)
        })?;
        let back = rig.cluster.lab.carrier(&old, 0, true)?;
        undisturbed(rig, back, &new)
    })
}

/// With two networks one may fail; with both gone the node is.
#[test]
fn two_networks_cut_one_after_the_other() -> Result<()> {
    with(
        LabSpec { nodes: 3, links: 2 },
        ConfigSpec::default(),
        |rig| {
            let old = owner(rig)?;
            let from = rig.cluster.lab.switch.cut_link(&old, 1)?;
            let standby = standbys(rig)?.first().context("a standby")?.clone();
            says(
                rig,
                &standby,
                "the second link is silent, the node is not",
                |status| {
                    let nodes = status["nodes"].as_array().into_iter().flatten();
                    let links = nodes
                        .filter(|node| node["name"] == *old && node["state"] == "alive")
                        .filter_map(|node| node["links"][1]["last_heard_ms"].as_u64());
                    links.into_iter().any(|ms| ms > 500)
                },
            )?;
            stayed(rig, from, boot_ns(), &old)?;
            undisturbed(rig, from, &old)?;
            let (_, new) = fault(rig, |rig, old, _| {
                rig.cluster.lab.switch.cut_link(old, 0).map(drop)
            })?;
            let healed = rig.cluster.lab.switch.heal()?;
            undisturbed(rig, healed, &new)
        },
    )
}
