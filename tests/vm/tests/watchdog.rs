//! The kernel's own watchdog (softdog) in guests, armed by the real agent: a machine whose agent stands still, or whose
//! service does not stop when its lease is gone, is reset by its own kernel; one that let go in order lives on.

use std::time::Duration;

use heartline_lab::interrupt;
use heartline_vm::{
    cluster::{Cluster, GROUP, Proof, Setting},
    site::{Cut, Plan, Site},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// A file that must not be there twice, and does not go while `/run/hold` is there.
const STATE: &str = r#"
[[group.resource]]
name = "state"
exec = { start = ["/bin/touch", "/run/state"], stop = ["/bin/sh", "-c", "while test -e /run/hold; do sleep 0.1; done; rm -f /run/state"], status = ["/bin/sh", "-c", "test -e /run/state || exit 3"] }
stateful = true
"#;

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    assert!(
        interrupt::until(SOON, POLL, || Ok(holds())).expect("no Ctrl-C"),
        "never came: {what}"
    );
}

/// As the kernel shows it.
fn dog(cluster: &mut Cluster, name: &str) -> String {
    let control = cluster.control(name).expect("on");
    let text = control.sh("cat /sys/class/watchdog/watchdog0/state", SOON);
    text.expect("a watchdog").trim().to_owned()
}

fn life(cluster: &mut Cluster, name: &str) -> Option<String> {
    cluster.control(name).expect("on").life()
}

/// It was reset by itself; its agent is started again.
fn back(cluster: &mut Cluster, name: &str, before: Option<&str>) {
    let guest = cluster.site.guest(name).expect("a guest");
    guest.booted_anew(before).expect("another life");
    let place = cluster.site.guests.iter().position(|g| g.spec.name == name);
    cluster
        .site
        .settle(place.expect("a place"))
        .expect("addresses");
    let left = guest_sh(cluster, name, "ls /run/state 2>/dev/null || echo none");
    assert_eq!(left, "none", "not another life");
    cluster.site.heal().expect("heal");
    cluster.start_agent(name).expect("an agent");
}

fn guest_sh(cluster: &mut Cluster, name: &str, script: &str) -> String {
    let control = cluster.control(name).expect("on");
    control.sh(script, SOON).expect(script).trim().to_owned()
}

fn status(cluster: &mut Cluster, name: &str) -> Value {
    cluster.status(name).unwrap_or_default()
}

/// It has the group and starts nothing, as nothing proves that the other is gone: softdog stands still with its machine.
fn waits(cluster: &mut Cluster, name: &str) {
    wait("the other has it, and waits", || {
        let status = status(cluster, name);
        let text = status.pointer("/groups/0/services/text");
        let text = text.and_then(Value::as_str).unwrap_or_default();
        heartline_lab::cluster::owner(&status, GROUP).as_deref() == Some(name)
            && text.contains("watchdog alone is no proof")
    });
}

#[test]
fn softdog_resets_who_stands_still_or_does_not_stop_and_nobody_else() {
    let site = Site::up(Plan::default()).expect("two guests and a witness");
    let setting = Setting {
        proof: Proof::Watchdog,
        group: STATE.to_owned(),
        ..Setting::default()
    };
    let mut cluster = Cluster::start(site, &setting).expect("agents");
    cluster.brought_to("n1", SOON).expect("n1 owns");
    wait("armed where it is owned", || {
        dog(&mut cluster, "n1") == "active"
    });
    assert_eq!(dog(&mut cluster, "n2"), "inactive");
    let lives = ["n1", "n2"].map(|name| life(&mut cluster, name));

    // In order: nobody is reset, and longer than the device's time goes by.
    cluster
        .cli("n1", &format!("move {GROUP} n2"))
        .expect("a move");
    cluster.owned_by("n2", SOON).expect("n2 owns");
    wait("disarmed where it was", || {
        dog(&mut cluster, "n1") == "inactive"
    });
    interrupt::pass(Duration::from_secs(8)).expect("no Ctrl-C");
    assert_eq!(lives, ["n1", "n2"].map(|name| life(&mut cluster, name)));
    assert_eq!(dog(&mut cluster, "n2"), "active");

    // An agent that stands still.
    cluster.signal("n2", "STOP").expect("SIGSTOP");
    waits(&mut cluster, "n1");
    let before = lives.get(1).cloned().flatten();
    back(&mut cluster, "n2", before.as_deref());
    cluster.owned_by("n1", SOON).expect("n1 starts it now");

    // A service that does not stop when the lease is gone.
    guest_sh(&mut cluster, "n1", "touch /run/hold");
    cluster.site.cut(Cut::All("n1".into())).expect("cut");
    waits(&mut cluster, "n2");
    let before = lives.first().cloned().flatten();
    back(&mut cluster, "n1", before.as_deref());
    cluster.owned_by("n2", SOON).expect("n2 starts it now");
    assert_eq!(dog(&mut cluster, "n1"), "inactive");
}

/// Without a device: the agent itself, by sysrq. With one that another program has: nothing stateful, and a clear word.
#[test]
fn without_the_device_sysrq_is_the_last_resort_and_a_busy_one_is_said() {
    let site = Site::up(Plan::default()).expect("two guests and a witness");
    let setting = Setting {
        top: "watchdog = { timeout = \"5s\", sysrq = true }\n".into(),
        group: STATE.to_owned(),
        ..Setting::default()
    };
    let mut cluster = Cluster::start(site, &setting).expect("agents");
    cluster.brought_to("n1", SOON).expect("n1 owns");
    wait("sysrq is told of", || {
        status(&mut cluster, "n1").pointer("/watchdog/sysrq") == Some(&Value::Bool(true))
    });
    let before = life(&mut cluster, "n1");
    guest_sh(&mut cluster, "n1", "touch /run/hold");
    cluster.site.cut(Cut::All("n1".into())).expect("cut");
    back(&mut cluster, "n1", before.as_deref());
    cluster.owned_by("n2", SOON).expect("n2 starts it now");

    // Somebody else has it.
    let text = "modprobe softdog && { sleep 1000 > /dev/watchdog & } && sleep 1 && heartline check --node n1";
    let control = cluster.control("n1").expect("on");
    let ran = control.run(text, SOON).expect("an answer");
    assert!(
        ran.stderr.contains("in use by process"),
        "{} {}",
        ran.stdout,
        ran.stderr
    );
}
