//! Rules about timing, nodes, links, groups and VIPs.

use super::super::*;
use super::{GOOD, changed, codes, config, refused, warned};

fn timed(lines: &str) -> String {
    changed("profile = \"lan\"", lines)
}

#[test]
fn impossible_timings_name_both_sides() {
    refused(
        &timed("lease = \"60ms\"\ntakeover = \"50ms\""),
        "timing-takeover",
        &[
            "lease 60ms * 1.23 = 73.8ms must be below takeover 50ms",
            "lower lease to 40ms",
            "raise takeover to 75ms",
        ],
    );
    // The bound itself is too much, a nanosecond less is enough.
    refused(
        &timed("lease = \"100ms\"\ntakeover = \"123ms\""),
        "timing-takeover",
        &[],
    );
    config(&timed("lease = \"100ms\"\ntakeover = \"123000001ns\""));
    refused(
        &timed("lease = \"23ms\""),
        "timing-lease",
        &["lease 23ms", "heartbeat 12ms (profile lan)", "2 *"],
    );
    config(&timed("lease = \"24ms\""));
    refused(
        &timed("heartbeat = \"0s\""),
        "timing-heartbeat",
        &["heartbeat 0s"],
    );
    refused(
        &timed("max_promise = \"100ms\""),
        "timing-promise",
        &["takeover 50ms (profile lan)", "max_promise 100ms"],
    );
    config(&timed("max_promise = \"100ms 2ns\""));
    refused(
        &timed("max_promise = \"61s\""),
        "timing-max-promise",
        &["at most 60s"],
    );
    config(&timed("max_promise = \"60s\""));
    // As large as can be written: refused, no overflow.
    assert!(
        codes(&timed(
            "lease = \"18446744073s\"\ntakeover = \"18446744073s\""
        ))
        .contains(&"timing-takeover")
    );
}

fn without_witness(text: &str) -> String {
    let (start, end) = (
        text.find("[[node]]\nname = \"n3\"").unwrap(),
        text.find("[[group]]").unwrap(),
    );
    format!("{}{}", &text[..start], &text[end..])
}

#[test]
fn counts_of_nodes() {
    refused(
        &without_witness(GOOD),
        "two-nodes",
        &[
            "majority of two is two",
            "witness (recommended",
            "fencing",
            "unsafe-ping",
        ],
    );
    for word in ["unsafe-ping", "fencing"] {
        let text = changed("cluster =", &format!("tie_break = {word:?}\ncluster ="));
        refused(&text, "tie-break-later", &["later release", "witness"]);
        assert_eq!(
            codes(&without_witness(&text)),
            ["tie-break-later", "two-nodes"]
        );
    }
    refused(
        &changed("cluster =", "tie_break = \"fencin\"\ncluster ="),
        "bad-choice",
        &["did you mean `fencing`"],
    );
    let one = GOOD
        .replace("id = 2\n", "id = 2\nrole = \"witness\"\n")
        .replace("prefer = [\"n1\", \"n2\"]", "");
    refused(&one, "too-few-members", &["1 of 3"]);
    let start = GOOD.find("[[node]]").unwrap();
    assert_eq!(codes(&GOOD[..start]), ["node-count", "no-groups"]);
    warned(&many_nodes(4), "even-nodes");
    config(&many_nodes(31));
    warned(&many_nodes(32), "even-nodes");
    assert!(codes(&many_nodes(33)).contains(&"node-count"));
}

fn many_nodes(count: usize) -> String {
    let (start, end) = (
        GOOD.find("[[node]]").unwrap(),
        GOOD.find("[[group]]").unwrap(),
    );
    let node = |i| {
        format!(
            "[[node]]\nname = \"n{i}\"\nid = {i}\nlink = [{{ device = \"eth0\", address = \"10.77.0.{i}\" }}]\n"
        )
    };
    let nodes: String = (1..=count).map(node).collect();
    format!("{}{nodes}{}", &GOOD[..start], &GOOD[end..])
}

#[test]
fn rules_of_nodes_and_links() {
    refused(&changed("id = 2", "id = 0"), "node-id", &["from 1 to 32"]);
    refused(&changed("id = 2", "id = 33"), "node-id", &["from 1 to 32"]);
    refused(
        &changed("id = 2", "id = 1"),
        "duplicate-node-id",
        &["id 1", "id 2 is free"],
    );
    refused(&changed("\"n3\"", "\"n1\""), "duplicate-node-name", &["n1"]);
    refused(
        &changed("10.77.0.3", "10.77.0.1"),
        "duplicate-link-address",
        &["10.77.0.1"],
    );
    refused(
        &changed("10.77.0.3", "fd77::3"),
        "link-family",
        &["n3 is IPv6", "n1 is IPv4"],
    );
    refused(
        &changed("10.77.0.3", "10.77.0.3/24"),
        "bad-link-address",
        &["without prefix"],
    );
    refused(
        &changed("10.77.0.3", "n3.example.org"),
        "bad-link-address",
        &["not an IP address"],
    );
    refused(
        &changed("10.77.0.3", "fe80::3%eth0"),
        "bad-link-address",
        &["more than an address"],
    );
    refused(
        &changed("10.77.0.3", "fe80::3"),
        "bad-link-address",
        &["link-local", "fd00::/8"],
    );
    refused(
        &changed("10.77.0.3", "127.0.0.1"),
        "bad-link-address",
        &["loopback"],
    );
    refused(&changed("eth0", "lo"), "bad-device", &["loopback"]);
    refused(
        &changed("eth0", "a234567890123456"),
        "bad-device",
        &["15 bytes"],
    );
    refused(&changed("eth0", ""), "bad-device", &["empty"]);
    refused(&changed("eth0", "a/b"), "bad-device", &["refuses"]);
    config(&changed("eth0", "a23456789012345"));
    let nine: Vec<_> = (1..=9)
        .map(|i| format!("{{ device = \"eth0\", address = \"10.78.0.{i}\" }}"))
        .collect();
    let text = changed(
        "{ device = \"eth0\", address = \"10.77.0.1\" }",
        &nine.join(", "),
    );
    assert_eq!(
        codes(&text),
        ["too-many-links", "fewer-links", "fewer-links"]
    );
    warned(
        &changed(" }]", " }, { device = \"eth1\", address = \"fd77::1\" }]").replacen(
            "10.77.0.2\" }]",
            "10.77.0.2\" }, { device = \"eth1\", address = \"fd77::2\" }]",
            1,
        ),
        "fewer-links",
    );
}

#[test]
fn rules_of_groups() {
    refused(
        &changed("id = 0", "id = 256"),
        "group-id",
        &["from 0 to 255"],
    );
    refused(
        &changed("id = 0", "id = -1"),
        "group-id",
        &["from 0 to 255"],
    );
    config(&changed("id = 0", "id = 255"));
    assert_eq!(
        codes(&GOOD.replace("\"db\"\nid = 1", "\"db\"\nid = 0")),
        ["duplicate-group-id"]
    );
    refused(
        &changed("\"db\"", "\"web\""),
        "duplicate-group-name",
        &["web"],
    );
    refused(
        &changed("\"n2\"]", "\"n22\"]"),
        "unknown-node",
        &["did you mean `n2`"],
    );
    refused(
        &changed("\"n2\"]", "\"zebra\"]"),
        "unknown-node",
        &["`n1`, `n2`, `n3`"],
    );
    refused(
        &changed("\"n2\"]", "\"n3\"]"),
        "prefer-witness",
        &["never owns"],
    );
    refused(&changed("\"n2\"]", "\"n1\"]"), "prefer-twice", &["n1"]);
    refused(
        &changed("[\"n1\", \"n2\"]", "[]"),
        "empty-prefer",
        &["leave `prefer` out"],
    );
    warned(&changed("[\"n1\", \"n2\"]", "[\"n1\"]"), "one-owner");
    let last = GOOD.rfind("[[group.vip]]").unwrap();
    refused(&GOOD[..last], "no-vips", &["group db"]);
    let first = GOOD.find("[[group]]").unwrap();
    warned(&GOOD[..first], "no-groups");
}

#[test]
fn rules_of_vips() {
    let vip = |address: &str| changed("10.77.0.100", address);
    refused(&vip("10.77.0.101"), "duplicate-vip", &["groups web and db"]);
    refused(&vip("10.77.0.2"), "vip-is-link", &["node n2"]);
    let twice = vip("10.77.0.100\"\ndevice = \"eth0\"\n[[group.vip]]\naddress = \"10.77.0.100");
    refused(&twice, "duplicate-vip", &["in group web twice"]);
    // One address in two spellings.
    let spelled = GOOD
        .replace("10.77.0.100", "fd77::100")
        .replace("10.77.0.101", "fd77:0:0::0:100");
    assert_eq!(codes(&spelled), ["duplicate-vip"]);
    for (address, word) in [
        ("224.0.0.18", "multicast"),
        ("ff02::1", "multicast"),
        ("127.0.0.2", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("10.77.0.255/24", "broadcast"),
        ("10.77.0.0/24", "network itself"),
        ("fd77::/64", "anycast"),
        ("0.1.2.3", "reserved"),
        ("250.1.2.3", "reserved"),
        ("fe80::1", "link-local"),
        ("::ffff:10.0.0.1", "IPv4 address"),
        ("10.77.0.100/0", "1 to 32"),
        ("10.77.0.100/33", "1 to 32"),
        ("10.77.0.100/x", "1 to 32"),
        ("fd77::100/129", "1 to 128"),
        ("10.77.0", "not an IP address"),
        ("", "not an IP address"),
    ] {
        refused(&vip(address), "bad-vip", &[word]);
    }
    for (address, prefix) in [
        ("10.77.0.100/24", 24),
        ("fd77::100/64", 64),
        ("fd77::100", 128),
        ("10.77.0.200/31", 31),
        ("10.77.0.255", 32),
    ] {
        assert_eq!(
            config(&vip(address)).groups[0].vips[0].prefix,
            prefix,
            "{address}"
        );
    }
    refused(
        &changed("100\"\ndevice = \"eth0\"", "100\"\ndevice = \"lo\""),
        "bad-device",
        &["loopback"],
    );
}

/// Garbage as large as a file may be costs little, and what is left out is said.
#[test]
fn findings_are_bounded() {
    let report = super::report_of(&"[[node]]\n[[group]]\n".repeat(50_000));
    assert_eq!(report.diagnostics().len(), 101);
    assert!(
        report
            .diagnostics()
            .iter()
            .any(|d| d.code == "more" && d.severity == Severity::Error)
    );
    assert!(codes(&"[[node]]\n".repeat(33)).contains(&"node-count"));
    let group = |i| {
        format!(
            "[[group]]\nname = \"g{i}\"\nid = {}\nvip = [{{ address = \"10.1.{}.{}\", device = \"eth0\" }}]\n",
            i % 256,
            i / 256,
            i % 256
        )
    };
    let base = &GOOD[..GOOD.find("[[group]]").unwrap()];
    let groups: String = (0..256).map(group).collect();
    // 10.1.0.0 and 10.1.0.255 are ordinary without a prefix length.
    config(&format!("{base}{groups}"));
    refused(
        &format!("{base}{groups}{}", group(256)),
        "too-many-groups",
        &["257", "256"],
    );
    let vips: String = (0..MAX_VIPS + 1)
        .map(|i| {
            format!(
                "[[group.vip]]\naddress = \"10.1.{}.{}\"\ndevice = \"eth0\"\n",
                i / 256,
                i % 256
            )
        })
        .collect();
    refused(&format!("{GOOD}{vips}"), "too-many-vips", &["4096"]);
}

/// One warning too many does not make a good file bad.
#[test]
fn a_hundred_warnings_are_no_error() {
    let base = &GOOD[..GOOD.find("[[group]]").unwrap()];
    let group = |i| {
        format!(
            "[[group]]\nname = \"g{i}\"\nid = {i}\nprefer = [\"n1\"]\nvip = [{{ address = \"10.1.0.{i}\", device = \"eth0\" }}]\n"
        )
    };
    let groups: String = (0..150).map(group).collect();
    let loaded = Config::from_str(&format!("{base}{groups}"), "t").unwrap();
    assert_eq!((loaded.report.errors(), loaded.report.warnings()), (0, 101));
}
