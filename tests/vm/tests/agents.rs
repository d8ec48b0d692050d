//! The real agent in guests: native XDP on virtio-net, and a VIP that moves when the owner's machine is gone.

use std::{process::Command, time::Duration};

use heartline_lab::{exec, interrupt};
use heartline_vm::{
    cluster::{Cluster, Setting},
    site::{Plan, Site, VIP},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

#[test]
fn a_vip_moves_when_the_owners_machine_dies() {
    let site = Site::up(Plan::default()).expect("two guests and a witness");
    let mut cluster = Cluster::start(site, &Setting::default()).expect("agents");
    cluster.brought_to("n1", SOON).expect("n1 owns");

    // Native XDP in the driver, not its stand-in.
    for name in ["n1", "n2"] {
        let control = cluster.control(name).expect("on");
        let links = control.sh("ip -d link show eth0", SOON).expect("ip");
        assert!(
            links.contains("prog/xdp") && !links.contains("xdpgeneric"),
            "{links}"
        );
        let status = cluster.status(name).expect("a status");
        assert!(status.to_string().contains("native"), "{status}");
    }
    assert!(answers(&cluster), "the client reaches the VIP");

    cluster.site.guest("n1").expect("n1").kill().expect("kill");
    cluster.owned_by("n2", SOON).expect("n2 takes over");
    assert!(
        interrupt::until(SOON, Duration::from_millis(100), || Ok(answers(&cluster))).expect("wait"),
        "the client reaches the VIP again"
    );
    let events = cluster.events("n2").expect("events");
    let gained = events
        .iter()
        .rev()
        .find(|event| event.get("kind").and_then(Value::as_str) == Some("gained"))
        .expect("a gain");
    assert!(gained.pointer("/phases/detected_ns").is_some(), "{gained}");

    // It comes back as a standby.
    cluster.site.boot("n1").expect("n1 boots");
    cluster.start_agent("n1").expect("agent");
    assert!(
        interrupt::until(SOON, Duration::from_millis(200), || {
            Ok(cluster.status("n1").is_ok_and(|status| {
                status.pointer("/voting/active") == Some(&Value::Bool(true))
                    && heartline_lab::cluster::alive(&status) == 3
            }))
        })
        .expect("wait"),
        "n1 takes part again: {}",
        cluster.log_tail("n1")
    );
    cluster.owned_by("n2", SOON).expect("n2 keeps it");
}

/// Whether the VIP answers the client's echo.
fn answers(cluster: &Cluster) -> bool {
    let mut ping = Command::new("ping");
    ping.args(["-q", "-c", "1", "-W", "1", &VIP.to_string()]);
    cluster.site.ns.apply(&mut ping);
    exec::run(ping, "", SOON).is_ok_and(|out| out.code == Some(0))
}
