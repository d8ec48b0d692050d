//! Gateways, routes, rules and targets.

use super::super::*;
use super::{GOOD, changed, codes, config, refused};

/// The good file with more behind the first VIP's device.
fn more(text: &str) -> String {
    changed(
        "device = \"eth0\"\n[[group]]",
        &format!("device = \"eth0\"\n{text}\n[[group]]"),
    )
}

fn route(lines: &str) -> String {
    more(&format!("[[group.route]]\n{lines}"))
}

fn rule(lines: &str) -> String {
    more(&format!("[[group.rule]]\n{lines}"))
}

fn track(lines: &str) -> String {
    more(&format!("[[group.track]]\n{lines}"))
}

#[test]
fn gateways() {
    let c = config(&more("gateway = true"));
    assert!(c.groups[0].vips[0].gateway);
    assert!(!c.groups[1].vips[0].gateway, "not unless it says so");
    let text = more("gateway = true").replace("10.77.0.100", "10.77.0.100/24");
    refused(&text, "gateway-prefix", &["address = \"10.77.0.100\""]);
    refused(&more("gateway = 1"), "wrong-type", &["true or false"]);
}

#[test]
fn routes() {
    let text = |lines: &str| config(&route(lines)).groups[0].routes[0].to_string();
    assert_eq!(
        text("destination = \"default\"\nvia = \"192.0.2.1\""),
        "0.0.0.0/0 via 192.0.2.1"
    );
    assert_eq!(
        text(
            "destination = \"2001:db8::/32\"\nvia = \"fe80::1\"\ndevice = \"eth1\"\ntable = 100\nmetric = 5\nsrc = \"2001:db8::7\""
        ),
        "2001:db8::/32 via fe80::1 dev eth1 src 2001:db8::7 table 100 metric 5"
    );
    assert_eq!(
        text("destination = \"198.51.100.7\"\ndevice = \"eth1\""),
        "198.51.100.7/32 dev eth1"
    );
    let bad = |lines: &str, code, words: &[&str]| refused(&route(lines), code, words);
    bad("via = \"192.0.2.1\"", "missing-key", &["destination"]);
    bad(
        "destination = \"default\"\ndevice = \"eth1\"",
        "route-family",
        &["0.0.0.0/0"],
    );
    bad(
        "destination = \"198.51.100.0/24\"",
        "route-nowhere",
        &["via"],
    );
    bad(
        "destination = \"198.51.100.0/24\"\nvia = \"fd00::1\"",
        "route-family",
        &["two families"],
    );
    bad(
        "destination = \"198.51.100.7/24\"\nvia = \"192.0.2.1\"",
        "bad-prefix",
        &["198.51.100.0/24"],
    );
    bad(
        "destination = \"198.51.100.0/33\"\nvia = \"192.0.2.1\"",
        "bad-prefix",
        &["0 to 32"],
    );
    bad(
        "destination = \"somewhere\"\nvia = \"192.0.2.1\"",
        "bad-prefix",
        &["no network"],
    );
    bad(
        "destination = \"default\"\nvia = \"nobody\"",
        "bad-link-address",
        &[],
    );
    let with = "destination = \"default\"\nvia = \"192.0.2.1\"\n";
    bad(&format!("{with}table = 255"), "bad-table", &["local"]);
    bad(&format!("{with}table = 0"), "bad-table", &[]);
    bad(&format!("{with}metric = 0"), "bad-metric", &[]);
    bad(
        &format!("{with}gw = 1"),
        "unknown-key",
        &["[[group.route]]"],
    );
    bad(&format!("{with}device = \"lo\""), "bad-device", &[]);
    let twice = format!("{with}[[group.route]]\n{with}");
    bad(&twice, "extra-twice", &["one destination"]);
    config(&route(&format!("{twice}metric = 2")));
}

#[test]
fn rules() {
    let text = |lines: &str| config(&rule(lines)).groups[0].rules[0].to_string();
    assert_eq!(
        text("from = \"192.0.2.0/24\"\nto = \"198.51.100.0/24\"\ntable = 100\npriority = 1000"),
        "from 192.0.2.0/24 to 198.51.100.0/24 table 100 priority 1000"
    );
    let bad = |lines: &str, code, words: &[&str]| refused(&rule(lines), code, words);
    bad(
        "table = 100\npriority = 1000",
        "rule-for-all",
        &["`from` or `to`"],
    );
    bad(
        "from = \"192.0.2.0/24\"\ntable = 100",
        "missing-key",
        &["priority"],
    );
    bad(
        "from = \"192.0.2.0/24\"\npriority = 9",
        "missing-key",
        &["table"],
    );
    bad(
        "to = \"192.0.2.0/24\"\ntable = 9\npriority = 32766",
        "bad-priority",
        &["32765"],
    );
    bad(
        "from = \"192.0.2.0/24\"\nto = \"fd00::/8\"\ntable = 100\npriority = 1000",
        "rule-family",
        &[],
    );
    let one = "from = \"192.0.2.0/24\"\ntable = 100\npriority = 1000\n";
    bad(&format!("{one}[[group.rule]]\n{one}"), "extra-twice", &[]);
}

#[test]
fn tracks() {
    let text = |lines: &str| config(&track(lines)).groups[0].tracks[0].to_string();
    assert_eq!(
        text("ping = \"192.0.2.254\"\ndevice = \"eth0\""),
        "ping 192.0.2.254 on eth0 each 1s, fall 3, rise 2"
    );
    text("ping = \"fe80::1\"\ndevice = \"eth0\"\ninterval = \"100ms\"\nfall = 1\nrise = 100");
    let bad = |lines: &str, code, words: &[&str]| refused(&track(lines), code, words);
    bad("ping = \"192.0.2.254\"", "missing-key", &["device"]);
    bad("device = \"eth0\"", "missing-key", &["ping"]);
    bad(
        "ping = \"10.77.0.101\"\ndevice = \"eth0\"",
        "ping-is-vip",
        &["10.77.0.101"],
    );
    let with = "ping = \"192.0.2.254\"\ndevice = \"eth0\"\n";
    bad(
        &format!("{with}interval = \"99ms\""),
        "bad-interval",
        &["100ms to 60s"],
    );
    bad(&format!("{with}fall = 0"), "bad-threshold", &["1 to 100"]);
}

#[test]
fn the_digest_sees_them_and_not_their_devices() {
    let base = config(GOOD).digest();
    let all = "gateway = true\n[[group.route]]\ndestination = \"default\"\nvia = \"192.0.2.1\"\ndevice = \"eth1\"\n\
               [[group.rule]]\nfrom = \"192.0.2.0/24\"\ntable = 100\npriority = 1000\n\
               [[group.track]]\nping = \"192.0.2.254\"\ndevice = \"eth1\"";
    let with = config(&more(all)).digest();
    assert_ne!(base, with);
    assert_eq!(config(&more(all).replace("eth1", "eno1")).digest(), with);
    for (from, to) in [
        ("gateway = true", ""),
        ("via = \"192.0.2.1\"", "via = \"192.0.2.2\""),
        ("priority = 1000", "priority = 1001"),
        ("192.0.2.254", "192.0.2.253"),
    ] {
        assert_ne!(
            config(&more(all).replace(from, to)).digest(),
            with,
            "{from}"
        );
    }
}

#[test]
fn a_reload_takes_them_over() {
    let old = config(&more(
        "[[group.route]]\ndestination = \"default\"\nvia = \"192.0.2.1\"",
    ));
    let new = config(&more(
        "gateway = true\n[[group.route]]\ndestination = \"default\"\nvia = \"192.0.2.2\"\n\
         [[group.rule]]\nfrom = \"192.0.2.0/24\"\ntable = 100\npriority = 1000",
    ));
    let said: Vec<_> = diff(&old, &new).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "group 0: route 0.0.0.0/0 via 192.0.2.1 is removed",
            "group 0: route 0.0.0.0/0 via 192.0.2.2 is new",
            "group 0: rule from 192.0.2.0/24 table 100 priority 1000 is new",
            "group 0: VIP 10.77.0.100/32 on eth0 is now 10.77.0.100/32 on eth0 (gateway)",
        ]
    );
    assert_eq!(diff(&new, &new), []);
}

#[test]
fn too_many_are_cut_off() {
    let one = "[[group.rule]]\nfrom = \"192.0.2.0/24\"\ntable = 100\npriority = ";
    let many: String = (1..=300).map(|i| format!("{one}{i}\n")).collect();
    assert_eq!(codes(&more(&many)), ["too-many-extras"]);
}
