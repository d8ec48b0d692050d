//! Links and VIPs on devices that are built on others: a bridge with ports, and a macvlan, by generic XDP. Needs root, and
//! fails without.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec, VIP4,
    clock::boot_ns,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    interrupt::until,
    lab::Station,
    probe_outage::OutageProber,
    trial::{SOON, cli, fault, owner, says, standbys, taken_over, undisturbed, with_cluster},
    uplink::Uplink,
};

/// Nodes whose link and VIPs are on another device than their card.
fn cluster(uplink: Uplink, datapath: &str) -> Result<Cluster> {
    let spec = LabSpec::default();
    let mut lab = Lab::up(&spec)?;
    lab.uplink(uplink)?;
    let text = config::text(
        &spec,
        &ConfigSpec {
            extra: format!("datapath = \"{datapath}\""),
            ..ConfigSpec::default()
        },
    );
    let text = text.replace("\"eth0\"", &format!("\"{}\"", uplink.device()));
    Cluster::start(lab, &text, "cluster.key")
}

/// The mode of a device in a status.
fn mode(status: &serde_json::Value, device: &str) -> Option<String> {
    let list = status["datapath"].as_array()?;
    let found = list.iter().find(|entry| entry["name"] == device)?;
    found["mode"].as_str().map(str::to_owned)
}

/// Cut, frozen, killed, moved, restarted: as on a plain card.
fn everything(rig: &mut Rig, device: &str) -> Result<()> {
    for node in ["n1", "n2", "n3"] {
        says(rig, node, "generic XDP on the device", |status| {
            mode(status, device).as_deref() == Some("generic")
                && status["uncovered_devices"] == serde_json::json!([])
        })?;
    }
    let (_, new) = fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
    let healed = rig.cluster.lab.switch.heal()?;
    undisturbed(rig, healed, &new).context("a cut and its healing")?;
    let (old, new) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
    let woken = boot_ns();
    rig.cluster.thaw(&old)?;
    undisturbed(rig, woken, &new).context("a frozen owner that wakes")?;
    let (old, new) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
    let started = boot_ns();
    rig.cluster.agent(&old)?.start()?;
    undisturbed(rig, started, &new).context("a killed owner that comes back")?;
    cli(rig, &new, &["move", "web", &old])?;
    ensure!(taken_over(rig, &new)? == old, "moved elsewhere");
    rig.settle()?;
    let from = boot_ns();
    rig.cluster.agent(&old)?.planned_restart(SOON)?;
    undisturbed(rig, from, &old).context("a planned restart")
}

#[test]
fn a_bridge_with_ports() -> Result<()> {
    with_cluster(cluster(Uplink::Bridge, "auto")?, |rig| {
        everything(rig, "br0")
    })
}

#[test]
fn a_bridge_with_generic_xdp_on_its_ports_too() -> Result<()> {
    with_cluster(cluster(Uplink::Bridge, "generic")?, |rig| {
        everything(rig, "br0")
    })
}

#[test]
fn a_macvlan() -> Result<()> {
    with_cluster(cluster(Uplink::Macvlan, "auto")?, |rig| {
        everything(rig, "mv0")
    })
}

#[test]
fn a_macvlan_with_generic_xdp_below_it_too() -> Result<()> {
    with_cluster(cluster(Uplink::Macvlan, "generic")?, |rig| {
        everything(rig, "mv0")
    })
}

/// Whether a guest reaches an address: echoes from its namespace.
fn reaches(guest: &Station, address: Ipv4Addr) -> Result<bool> {
    let second = Duration::from_secs(1);
    let prober = OutageProber::start(guest, address.into(), Duration::from_millis(5), 5 * second)?;
    until(second, Duration::from_millis(10), || {
        Ok(prober.answered_lately(10))
    })
}

/// Guests on the owner's bridge reach the VIP; on a standby's bridge they do not (a limit that README names), and they
/// reach everything else. After a takeover it is the other way round: the gate follows.
#[test]
fn guests_behind_a_bridge() -> Result<()> {
    with_cluster(cluster(Uplink::Bridge, "auto")?, |rig| {
        let old = owner(rig)?;
        let guests: Vec<(String, Station)> = rig
            .cluster
            .lab
            .nodes
            .clone()
            .iter()
            .map(|node| Ok((node.name.clone(), rig.cluster.lab.guest(node)?)))
            .collect::<Result<_>>()?;
        let client = rig.cluster.lab.client.eth0().v4;
        let check = |owner: &str| -> Result<()> {
            for (node, guest) in &guests {
                let seen = until(SOON, Duration::from_millis(50), || {
                    Ok(reaches(guest, client)? && reaches(guest, VIP4)? == (node == owner))
                })?;
                ensure!(seen, "the guest of {node}, while {owner} owns the VIP");
            }
            Ok(())
        };
        check(&old)?;
        let standby = standbys(rig)?.first().context("a standby")?.clone();
        cli(rig, &old, &["move", "web", &standby])?;
        ensure!(taken_over(rig, &old)? == standby, "moved elsewhere");
        rig.settle()?;
        check(&standby)
    })
}
