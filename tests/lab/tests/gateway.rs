//! Gateway VIPs with real agents: nodes are routers between two networks, and what client and host there know of their
//! gateway is a virtual MAC that moves. Needs root.

use std::time::Duration;

use agent_common::record::virtual_mac;
use anyhow::{Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec, VIP4, VIP6,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    interrupt::until,
    probe_gateway::{Far, GatewayProber},
    probe_outage::OutageProber,
    trial::{SOON, fault, owner, standbys, taken_over, with_cluster},
};

const SPEC: LabSpec = LabSpec { nodes: 3, links: 2 };
const POLL: Duration = Duration::from_millis(20);
const GROUP: &str = r#"
[[group]]
name = "web"
id = 0
prefer = ["n1", "n2", "n3"]
[[group.vip]]
address = "10.77.0.100"
device = "eth0"
gateway = true
[[group.vip]]
address = "fd77::100"
device = "eth0"
gateway = true
[[group.vip]]
address = "10.77.1.100"
device = "eth1"
gateway = true
[[group.vip]]
address = "fd77:1::100"
device = "eth1"
gateway = true
[[group.route]]
destination = "198.51.100.0/24"
via = "10.77.1.203"
src = "10.77.1.100"
[[group.rule]]
from = "192.0.2.0/24"
table = 77
priority = 1000
"#;

/// What client and host see of each other.
struct Path {
    v4: OutageProber,
    v6: OutageProber,
    gateway: GatewayProber,
    vmac: String,
}

impl Path {
    /// Waits until echoes go through, and the client still knows nothing but the virtual MAC.
    fn works(&self, rig: &Rig, when: &str) -> Result<()> {
        let through = until(SOON, POLL, || {
            Ok(self.v4.answered_lately(50) && self.v6.answered_lately(50))
        })?;
        let client = &rig.cluster.lab.client.ns;
        let known = |vip: String| ip(client.name(), &format!("neigh show {vip} dev eth0"));
        ensure!(
            through,
            "{when}: IPv4 {}, IPv6 {}; {}{}",
            self.v4.answered_lately(50),
            self.v6.answered_lately(50),
            known(VIP4.to_string())?,
            known(VIP6.to_string())?
        );
        for vip in [VIP4.to_string(), VIP6.to_string()] {
            let known = known(vip)?;
            ensure!(
                known.contains(&format!("lladdr {} ", self.vmac)),
                "{when}: {known}"
            );
        }
        Ok(())
    }
}

fn ip(namespace: &str, args: &str) -> Result<String> {
    let mut command = std::process::Command::new("ip");
    command
        .args(["-n", namespace])
        .args(args.split_whitespace());
    heartline_lab::exec::run_ok(command, "", Duration::from_secs(5))
}

/// Raises all of it, runs the test, then looks at the whole time: one gateway at any instant, and nothing but the virtual
/// MAC told to the client.
fn routed(test: impl FnOnce(&mut Rig, &Path) -> Result<()>) -> Result<()> {
    let lab = Lab::up(&SPEC)?;
    let far = Far::up(&lab, "10.77.1.100".parse()?, "fd77:1::100".parse()?)?;
    let text = config::text(&SPEC, &ConfigSpec::default());
    let head = text.split("\n[[group]]").next().unwrap_or_default();
    let text = format!("{head}\n{GROUP}");
    let vmac = virtual_mac(heartline::config::cluster_id("lab"), 0);
    let (interval, longest) = (Duration::from_millis(2), Duration::from_secs(120));
    let path = Path {
        v4: OutageProber::start(&lab.client, far.station.eth0().v4.into(), interval, longest)?,
        v6: OutageProber::start(&lab.client, far.station.eth0().v6.into(), interval, longest)?,
        gateway: GatewayProber::start(&lab, &far, vmac, interval)?,
        vmac: vmac.map(|byte| format!("{byte:02x}")).join(":"),
    };
    let cluster = Cluster::start(lab, &text, "cluster.key")?;
    with_cluster(cluster, |rig| {
        path.works(rig, "at first")?;
        test(rig, &path)?;
        let seen = path.gateway.ownership();
        println!("who routed: {seen:?}");
        ensure!(seen.dual_rounds == 0, "two gateways at once: {seen:?}");
        ensure!(!seen.spans.is_empty(), "nobody ever routed for the prober");
        ensure!(
            path.gateway.liars() == 0,
            "{} frames with another MAC",
            path.gateway.liars()
        );
        Ok(())
    })
}

/// Routes and rules with our mark are on this node and no other.
fn extras_at(rig: &Rig, owner: &str) -> Result<()> {
    for node in &rig.cluster.lab.nodes {
        let mine = node.name == owner;
        let right = until(SOON, POLL, || {
            let routes = ip(node.ns.name(), "route show proto 72")?;
            let rules = ip(node.ns.name(), "rule show")?;
            Ok(
                routes.contains("198.51.100.0/24 via 10.77.1.203 dev eth1") == mine
                    && rules.contains("from 192.0.2.0/24 lookup 77") == mine,
            )
        })?;
        ensure!(
            right,
            "{} (owner {owner}): route and rule are not as they should be",
            node.name
        );
    }
    Ok(())
}

fn gateways(path: &Path) -> usize {
    path.gateway.ownership().changes()
}

#[test]
fn a_silent_cut_and_a_move_change_nothing_that_clients_know() -> Result<()> {
    routed(|rig, path| {
        let first = owner(rig)?;
        extras_at(rig, &first)?;
        let (old, new) = fault(rig, |rig, old, _| rig.cluster.lab.switch.cut(old).map(drop))?;
        path.works(rig, "after a cut")?;
        rig.cluster.lab.switch.heal()?;
        rig.settle()?;
        extras_at(rig, &new)?;
        path.works(rig, "after the heal")?;
        rig.cluster.agent(&new)?.cli_ok(&["move", "web", &old])?;
        ensure!(taken_over(rig, &new)? == old, "moved elsewhere");
        path.works(rig, "after a move")?;
        rig.settle()?;
        extras_at(rig, &old)?;
        ensure!(
            gateways(path) >= 2,
            "the gateway moved: {:?}",
            path.gateway.ownership()
        );
        Ok(())
    })
}

#[test]
fn a_frozen_gateway_and_a_killed_one_fall_silent() -> Result<()> {
    routed(|rig, path| {
        let (frozen, _) = fault(rig, |rig, old, _| rig.cluster.freeze(old))?;
        path.works(rig, "after a freeze")?;
        rig.cluster.thaw(&frozen)?;
        rig.settle()?;
        let (killed, _) = fault(rig, |rig, old, _| rig.cluster.agent(old)?.kill())?;
        path.works(rig, "after a kill")?;
        rig.cluster.agent(&killed)?.start()?;
        rig.settle()?;
        let new = owner(rig)?;
        extras_at(rig, &new)?;
        path.works(rig, "at the end")
    })
}

#[test]
fn a_pulled_card_and_a_clean_stop_leave_no_virtual_mac_behind() -> Result<()> {
    routed(|rig, path| {
        let (old, _) = fault(rig, |rig, old, _| rig.cluster.lab.unplug(old, 0).map(drop))?;
        path.works(rig, "without a card")?;
        rig.cluster.lab.replug(&old, 0)?;
        rig.settle()?;
        // Whole again: it is fit, and serves with the new device.
        let moved = until(SOON, Duration::from_millis(200), || {
            let agent = rig.cluster.agent(&old)?;
            Ok(agent.cli_ok(&["move", "web", &old]).is_ok())
        })?;
        ensure!(moved, "{old} does not become fit again");
        rig.settle()?;
        ensure!(owner(rig)? == old, "moved elsewhere");
        path.works(rig, "with the new card")?;
        let standby = standbys(rig)?.remove(0);
        rig.cluster.agent(&standby)?.stop(SOON)?;
        let node = rig.cluster.lab.node(&standby)?.ns.clone();
        ensure!(
            !ip(node.name(), "link show")?.contains("macvlan"),
            "left behind"
        );
        ensure!(
            !ip(node.name(), "-d link show")?.contains("macvlan"),
            "left behind"
        );
        rig.cluster.agent(&standby)?.start()?;
        rig.settle()?;
        path.works(rig, "at the end")
    })
}

#[test]
fn a_planned_restart_of_the_gateway_loses_nothing() -> Result<()> {
    routed(|rig, path| {
        let old = owner(rig)?;
        let from = heartline_lab::clock::boot_ns();
        rig.cluster.agent(&old)?.planned_restart(SOON)?;
        rig.settle()?;
        let to = heartline_lab::clock::boot_ns() - 20_000_000;
        let (v4, v6) = (path.v4.outage(from, to), path.v6.outage(from, to));
        ensure!(v4.lost == 0 && v6.lost == 0, "lost echoes: {v4:?} {v6:?}");
        ensure!(owner(rig)? == old, "it moved");
        extras_at(rig, &old)?;
        path.works(rig, "after a restart")
    })
}
