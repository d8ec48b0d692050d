//! DRBD resources, fence devices, watchdog.

use std::{path::Path, time::Duration};

use agent_services::{fence::Goal, resource::Kind};

use super::super::*;
use super::{changed, config, refused, warned};

/// The good file with resources behind the first VIP.
fn resources(text: &str) -> String {
    changed(
        "device = \"eth0\"\n[[group]]",
        &format!("device = \"eth0\"\n{text}\n[[group]]"),
    )
}

fn resource(name: &str, line: &str) -> String {
    format!("[[group.resource]]\nname = \"{name}\"\n{line}\n")
}

fn fence(lines: &str) -> String {
    let end = format!("[[fence]]\nname = \"ipmi\"\nnode = \"n2\"\n{lines}\n");
    format!("{}\n{end}", super::GOOD)
}

const FS: &str = "filesystem = { device = \"/dev/drbd0\", mount = \"/srv\", type = \"ext4\" }";

#[test]
fn drbd_is_promoted_mounted_started() {
    let text = resource("disk", "drbd = \"r0\"") + &resource("fs", FS);
    let c = config(&resources(&text));
    let list = &c.groups[0].services.resources;
    assert_eq!(
        list[0].kind,
        Kind::Drbd {
            resource: "r0".into(),
            dual_primary: false
        }
    );
    assert!(list[0].stateful && list[1].stateful);
    let dual = resource(
        "disk",
        "drbd = { resource = \"r0\", dual_primary = true }\nkeep_running = true",
    );
    let c = config(&resources(&dual));
    assert!(!c.groups[0].services.resources[0].stateful);
    // The other way round the device is not there yet.
    let text = resource("fs", FS) + &resource("disk", "drbd = \"r0\"");
    refused(
        &resources(&text),
        "drbd-order",
        &["before it is promoted", "`drbd` first"],
    );
    warned(&resources(&resource("fs", FS)), "drbd-missing");
    let twice = resource("a", "drbd = \"r0\"") + &resource("b", "drbd = \"r0\"");
    refused(&resources(&twice), "drbd-twice", &["one group"]);
    let kept = resource("a", "drbd = \"r0\"\nkeep_running = true");
    refused(&resources(&kept), "keeps-state", &["every node"]);
    for bad in ["all", "-force", "a b", "", "a/b", "$(x)"] {
        let text = resources(&resource("a", &format!("drbd = \"{bad}\"")));
        refused(&text, "bad-drbd", &["/etc/drbd.d"]);
    }
}

#[test]
fn fence_devices() {
    let c = config(&fence(
        "agent = \"fence_ipmilan\"\nparameters = { ip = \"192.0.2.9\", lanplus = true }\nsecrets = { password = \"/etc/heartline/i.secret\" }\ndelay = \"5s\"",
    ));
    let f = &c.fences[0];
    assert_eq!(
        (f.device.agent.as_str(), f.level, f.device.can_on),
        ("fence_ipmilan", 1, true)
    );
    assert_eq!(f.device.parameters["lanplus"], "true");
    assert_eq!(
        f.device.secrets[0].file,
        Path::new("/etc/heartline/i.secret")
    );
    let two = c.nodes.iter().find(|n| n.name == "n2").unwrap().id;
    let plan = c.fence_plan(two).unwrap();
    assert_eq!(
        (plan.node.as_str(), plan.delay, plan.goal),
        ("n2", Duration::from_secs(5), Goal::Reboot)
    );
    assert!(c.fence_plan(two + 1).is_none());
    // Two in the first level, one in the second; off for good.
    let more = "agent = \"fence_a\"\nlevel = 2\n[[fence]]\nname = \"b\"\nnode = \"n2\"\nagent = \"/opt/fence\"\naction = \"off\"\n[[fence]]\nname = \"c\"\nnode = \"n2\"\nagent = \"fence_c\"\naction = \"cycle\"";
    let plan = config(&fence(more)).fence_plan(two).unwrap();
    let names: Vec<Vec<_>> = plan
        .levels
        .iter()
        .map(|l| l.iter().map(|d| d.name.as_str()).collect())
        .collect();
    assert_eq!(names, [vec!["b", "c"], vec!["ipmi"]]);
    assert_eq!(plan.goal, Goal::Off);
    assert!(plan.levels[0][1].only_reboots && !plan.levels[0][0].can_on);
}

#[test]
fn fence_devices_that_are_none() {
    let bad = |lines: &str, code, words: &[&str]| refused(&fence(lines), code, words);
    bad("agent = \"rm\"", "bad-agent", &["fence_ipmilan"]);
    bad(
        "agent = \"fence_x; reboot\"",
        "bad-agent",
        &["no fence agent"],
    );
    bad(
        "agent = \"fence_x\"\nparameters = { password = \"x\" }",
        "fence-secret",
        &["mode 0600", "secrets = { password"],
    );
    bad(
        "agent = \"fence_x\"\nparameters = { action = \"on\" }",
        "fence-own",
        &["remove it"],
    );
    bad(
        "agent = \"fence_x\"\nparameters = { a = \"b\\naction=on\" }",
        "fence-line",
        &["one line"],
    );
    bad(
        "agent = \"fence_x\"\nsecrets = { password = \"geheim\" }",
        "fence-secret",
        &["absolute path"],
    );
    bad("agent = \"fence_x\"\nlevel = 0", "bad-level", &["from 1"]);
    bad(
        "agent = \"fence_x\"\naction = \"kill\"",
        "bad-choice",
        &["reboot"],
    );
    bad(
        "agent = \"fence_x\"\ntimeout = \"1ms\"",
        "bad-interval",
        &["1s"],
    );
    bad(
        "agnet = \"fence_x\"\nagent = \"fence_x\"",
        "unknown-key",
        &["agent"],
    );
    let text =
        fence("agent = \"fence_x\"").replace("node = \"n2\"\nagent", "node = \"n22\"\nagent");
    refused(&text, "unknown-node", &["did you mean `n2`"]);
    bad(
        "agent = \"fence_x\"\n[[fence]]\nname = \"ipmi\"\nnode = \"n1\"\nagent = \"fence_x\"",
        "duplicate-fence",
        &["own name"],
    );
    // What is not secret by its name.
    config(&fence(
        "agent = \"fence_x\"\nparameters = { passwd_script = \"/x\", identity_file = \"/y\" }",
    ));
}

#[test]
fn the_watchdog() {
    let with = |lines: &str| format!("{}\n[watchdog]\n{lines}\n", super::GOOD);
    let w = config(&with("")).watchdog.unwrap();
    assert_eq!(
        (w.device.as_path(), w.timeout),
        (Path::new("/dev/watchdog"), Duration::from_secs(10))
    );
    let w = config(&with("device = \"/dev/watchdog1\"\ntimeout = \"30s\""))
        .watchdog
        .unwrap();
    assert_eq!(
        (w.device.as_path(), w.timeout),
        (Path::new("/dev/watchdog1"), Duration::from_secs(30))
    );
    refused(&with("device = \"watchdog\""), "bad-watchdog", &["wdctl"]);
    refused(&with("timeout = \"1s\""), "bad-interval", &["2s"]);
    refused(
        &with("timeout = \"2500ms\""),
        "bad-watchdog",
        &["whole seconds"],
    );
    assert!(config(super::GOOD).watchdog.is_none());
    assert!(!w.proof && !w.sysrq);
    let w = config(&with("device = \"/run/dog\"\nproof = true"))
        .watchdog
        .unwrap();
    assert!(w.proof && w.device == Path::new("/run/dog"));
    // 10 s twice, by a clock that is slower by 23 %, and 2 s.
    assert_eq!(w.fires_within(), Duration::from_millis(26_600));
    refused(
        &with("proof = true\nsysrq = true"),
        "bad-watchdog",
        &["remove one"],
    );
}

#[test]
fn the_watchdog_must_be_here_where_it_is_needed() {
    let with = |lines: &str| {
        let dog = format!("\n[watchdog]\ndevice = \"/dev/no-such-watchdog\"\n{lines}\n");
        config(&(resources(&resource("disk", FS)) + &dog))
    };
    let look = |config: &Config, name: &str| {
        let mut out = Vec::new();
        let good = fence::check_local(config, &Local::Named(name.into()), &mut out);
        (good, out.iter().map(|d| d.code).collect::<Vec<_>>())
    };
    let plain = with("");
    assert_eq!(look(&plain, "n1"), (false, vec!["no-watchdog"]));
    assert_eq!(look(&plain, "n3"), (true, vec![]), "a witness owns nothing");
    assert_eq!(look(&plain, "elsewhere"), (true, vec![]));
    assert_eq!(
        look(&with("sysrq = true"), "n2"),
        (true, vec!["no-watchdog"])
    );
    let stateless = config(&format!(
        "{}\n[watchdog]\ndevice = \"/none\"\n",
        super::GOOD
    ));
    assert_eq!(look(&stateless, "n1"), (true, vec![]), "nothing needs it");
    assert!(plain.summary().contains("proves nothing"));
    assert!(
        with("proof = true").summary().contains("26.6s"),
        "how long others wait"
    );
}

#[test]
fn what_nodes_must_agree_on_and_what_a_reload_takes() {
    let plain = config(super::GOOD);
    let fenced = config(&fence("agent = \"fence_x\""));
    let other = config(&fence("agent = \"fence_y\"\ntimeout = \"10s\""));
    assert_ne!(plain.digest(), fenced.digest());
    assert_eq!(
        fenced.digest(),
        other.digest(),
        "with what may differ by node"
    );
    let dog = |t: &str| config(&format!("{}\n[watchdog]\ntimeout = \"{t}\"\n", super::GOOD));
    assert_ne!(dog("10s").digest(), dog("20s").digest());
    assert_ne!(dog("10s").digest(), dog("10s\"\nproof = true\n#").digest());
    assert_eq!(
        dog("10s").digest(),
        dog("10s\"\ndevice = \"/dev/watchdog1\"\n#").digest(),
        "what it is may differ by node"
    );
    let changes = diff(&fenced, &other);
    assert_eq!(changes, [Change::Fences { count: 1 }]);
    assert!(diff(&dog("10s"), &dog("20s"))[0].is_refused());
}
