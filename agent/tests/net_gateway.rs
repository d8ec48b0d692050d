//! Gateway VIPs on their macvlan, and routes and rules that go with a group. Needs root.

mod net_support;

use std::net::IpAddr;

use agent_common::record::virtual_mac;
use heartline::config::{Prefix, Route, Rule};
use heartline::net::{
    NetCommand, NetControl, NetEvent, NetExtra, NetGroup, NetVip, Start, remove_leftovers,
};
use net_support::{Kind, Net, Wire, config, device, eventually, group, has, ip, lab, wire};

const CLUSTER: u32 = 0xaabb_ccdd;
const VIRTUAL: &str = "hl1-hl0";

fn gateway(vips: &[&str]) -> NetGroup {
    let vip = |vip: &&str| {
        NetVip::new(vip.parse().unwrap(), None, "hl0")
            .unwrap()
            .into_gateway(CLUSTER, 1)
    };
    NetGroup {
        id: 1,
        vips: vips.iter().map(vip).collect(),
        extras: Vec::new(),
    }
}

fn is_up(name: &str) -> bool {
    device(name).is_some_and(|d| d.up && d.carrier)
}

fn sysctl(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{key}"))
        .unwrap()
        .trim()
        .to_owned()
}

fn lose(net: &mut Net, epoch: u64) {
    net.send(NetCommand::Lose { group: 1, epoch });
    net.wait("the loss", |e| {
        matches!(e, NetEvent::AddressDown { group: 1, .. })
    });
}

#[test]
fn a_gateway_lives_on_a_macvlan_that_standbys_have_too() {
    lab(|| {
        ip("addr add 10.1.0.250/24 dev hl0");
        std::fs::write("/proc/sys/net/ipv4/conf/hl0/forwarding", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let frames = Wire::open();
        let mut net = Net::start(
            &config(vec![gateway(&["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        eventually("the macvlan", || is_up(VIRTUAL));
        let virt = device(VIRTUAL).unwrap();
        assert_eq!(virt.mac, Some(virtual_mac(CLUSTER, 1)));
        assert_eq!(virt.kind.as_deref(), Some("macvlan"));
        assert!(virt.addresses.is_empty(), "no link-local address: {virt:?}");
        for (key, value) in [("arp_ignore", "1"), ("rp_filter", "2"), ("forwarding", "1")] {
            assert_eq!(
                sysctl(&format!("ipv4/conf/{VIRTUAL}/{key}")),
                value,
                "{key}"
            );
        }
        for (key, value) in [("forwarding", "1"), ("accept_ra", "0")] {
            assert_eq!(
                sysctl(&format!("ipv6/conf/{VIRTUAL}/{key}")),
                value,
                "{key}"
            );
        }
        assert_eq!(
            sysctl("ipv4/conf/hl0/arp_ignore"),
            "0",
            "the parent is left alone"
        );
        assert!(!has(VIRTUAL, "10.1.0.1"));

        net.own(1, 1);
        for (address, kind) in [
            ("10.1.0.1", Kind::ArpRequest),
            ("10.1.0.1", Kind::ArpReply),
            ("fd00::1", Kind::Advert { router: true }),
        ] {
            assert!(has(VIRTUAL, address) && !has("hl0", address));
            let address: IpAddr = address.parse().unwrap();
            let seen = frames.until(|seen| seen.address == address && seen.kind == kind);
            assert_eq!(seen.mac, virtual_mac(CLUSTER, 1));
        }
        lose(&mut net, 1);
        assert!(
            !has(VIRTUAL, "10.1.0.1") && is_up(VIRTUAL),
            "ready for the next time"
        );
        net.stop();
        assert!(device(VIRTUAL).is_none(), "a clean stop leaves nothing");
    });
}

#[test]
fn without_both_gates_it_is_neither_raised_nor_used() {
    lab(|| {
        let mut conf = config(vec![gateway(&["10.1.0.1", "fd00::1"])]);
        conf.wait_for_gate = true;
        let mut net = Net::start(&conf, Start::default());
        eventually("the macvlan", || device(VIRTUAL).is_some());
        let cover = |net: &mut Net, name: &str, covered| {
            let ifindex = device(name).unwrap().ifindex;
            net.control(NetControl::Gate { ifindex, covered });
        };
        net.gain(1, 1);
        let failed = |e: &NetEvent| {
            matches!(
                e,
                NetEvent::AddressUp {
                    up: 0,
                    failed: 2,
                    ..
                }
            )
        };
        net.wait("no address", failed);
        cover(&mut net, VIRTUAL, true);
        net.gain(1, 2);
        net.wait("no address with one gate", failed);
        assert!(!device(VIRTUAL).unwrap().up);
        cover(&mut net, "hl0", true);
        eventually("the address", || {
            has(VIRTUAL, "10.1.0.1") && has(VIRTUAL, "fd00::1")
        });
        assert!(is_up(VIRTUAL));
        // The parent's gate is as good a reason to leave as its own.
        cover(&mut net, "hl0", false);
        eventually("the end", || {
            !has(VIRTUAL, "10.1.0.1") && !has(VIRTUAL, "fd00::1")
        });
        cover(&mut net, "hl0", true);
        eventually("the address", || has(VIRTUAL, "10.1.0.1"));
        cover(&mut net, VIRTUAL, false);
        eventually("the end", || !has(VIRTUAL, "10.1.0.1"));
        net.stop();
    });
}

#[test]
fn a_parent_pulled_out_and_put_back() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![gateway(&["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        eventually("the macvlan", || is_up(VIRTUAL));
        net.own(1, 1);
        ip("link del hl0");
        net.wait("the end", |e| {
            matches!(
                e,
                NetEvent::WithoutDevice {
                    group: 1,
                    vips: 2,
                    ..
                }
            )
        });
        assert!(device(VIRTUAL).is_none());
        wire();
        eventually("all is back", || {
            is_up(VIRTUAL) && has(VIRTUAL, "10.1.0.1") && has(VIRTUAL, "fd00::1")
        });
        // Lowered and raised with it.
        ip("link set hl0 down");
        ip("link set hl0 up");
        eventually("all is back", || is_up(VIRTUAL) && has(VIRTUAL, "fd00::1"));
        // By hand.
        ip(&format!("link del {VIRTUAL}"));
        eventually("all is back", || is_up(VIRTUAL) && has(VIRTUAL, "10.1.0.1"));
        net.stop();
        assert!(
            device(VIRTUAL).is_some(),
            "its group is still owned: a planned restart"
        );
        assert_eq!(remove_leftovers().unwrap(), [VIRTUAL]);
        assert!(device(VIRTUAL).is_none());
    });
}

#[test]
fn stale_macvlans_go_and_strangers_stay() {
    lab(|| {
        ip("link add hl9-hl0 link hl0 address 72:00:00:00:00:09 type macvlan mode private");
        ip("link add hl8-hl0 link hl0 address 02:00:00:00:00:08 type macvlan mode private");
        ip(&format!("link add {VIRTUAL} type veth peer name other"));
        let mut net = Net::start(&config(vec![gateway(&["10.1.0.1"])]), Start::default());
        net.wait(
            "the reason",
            |e| matches!(e, NetEvent::DeviceFailed { text, .. } if text.contains("another device")),
        );
        eventually("the stale one is gone", || device("hl9-hl0").is_none());
        assert!(device("hl8-hl0").is_some(), "not our MAC");
        assert_eq!(device(VIRTUAL).unwrap().kind.as_deref(), Some("veth"));
        ip(&format!("link del {VIRTUAL}"));
        eventually("the macvlan", || is_up(VIRTUAL));
        // No gateway any more: no macvlan.
        net.control(NetControl::Reconfigure(Box::new(config(vec![group(
            1,
            &["10.1.0.1"],
        )]))));
        eventually("the end", || device(VIRTUAL).is_none());
        net.own(1, 1);
        assert!(has("hl0", "10.1.0.1"));
        // And back, while it is owned.
        net.control(NetControl::Reconfigure(Box::new(config(vec![gateway(&[
            "10.1.0.1",
        ])]))));
        eventually("the address", || {
            has(VIRTUAL, "10.1.0.1") && !has("hl0", "10.1.0.1")
        });
        lose(&mut net, 1);
        net.stop();
        assert!(device("hl8-hl0").is_some());
    });
}

fn route(destination: &str, length: u8, via: &str) -> Route {
    Route {
        destination: Prefix {
            address: destination.parse().unwrap(),
            length,
        },
        via: Some(via.parse().unwrap()),
        device: None,
        src: None,
        table: Route::MAIN,
        metric: None,
    }
}

fn extras() -> Vec<NetExtra> {
    let by_device = Route {
        device: Some("hl0".into()),
        via: None,
        table: 1234,
        metric: Some(7),
        ..route("198.51.100.0", 24, "10.1.0.1")
    };
    let with_src = Route {
        src: Some("10.1.0.1".parse().unwrap()),
        ..route("203.0.113.0", 24, "10.1.0.254")
    };
    let rule = Rule {
        from: Some(Prefix {
            address: "192.0.2.0".parse().unwrap(),
            length: 24,
        }),
        to: None,
        table: 1234,
        priority: 1000,
    };
    let rule6 = Rule {
        from: None,
        to: Some(Prefix {
            address: "2001:db8::".parse().unwrap(),
            length: 32,
        }),
        table: 12,
        priority: 1001,
    };
    vec![
        NetExtra::Route(route("0.0.0.0", 0, "10.1.0.254")),
        NetExtra::Route(by_device),
        NetExtra::Route(with_src),
        NetExtra::Route(route("2001:db8::", 32, "fd00::fe")),
        NetExtra::Rule(rule),
        NetExtra::Rule(rule6),
    ]
}

fn with_extras() -> NetGroup {
    NetGroup {
        extras: extras(),
        ..group(1, &["10.1.0.1", "fd00::1"])
    }
}

/// What the kernel has with our mark.
fn marked() -> Vec<String> {
    let mut all = String::new();
    for v in ["-4", "-6"] {
        all += &ip(&format!("{v} route show proto 72 table all"));
        // Here iproute2 does not filter.
        let rules = ip(&format!("{v} rule show"));
        for rule in rules.lines().filter(|l| l.contains("proto 72")) {
            all += &format!("{rule}\n");
        }
    }
    let line = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines: Vec<_> = all.lines().map(line).collect();
    lines.sort();
    lines
}

const ALL: [&str; 6] = [
    "1000: from 192.0.2.0/24 lookup 1234 proto 72",
    "1001: from all to 2001:db8::/32 lookup 12 proto 72",
    "198.51.100.0/24 dev hl0 table 1234 scope link metric 7",
    "2001:db8::/32 via fd00::fe dev hl0 metric 1024 pref medium",
    "203.0.113.0/24 via 10.1.0.254 dev hl0 src 10.1.0.1",
    "default via 10.1.0.254 dev hl0",
];

/// The node's own addresses, by which the next routers are reached.
fn own_addresses() {
    ip("addr add 10.1.0.250/24 dev hl0");
    ip("addr add fd00::250/64 dev hl0 nodad");
}

#[test]
fn routes_and_rules_come_and_go_with_their_group() {
    lab(|| {
        own_addresses();
        // Stale ones of ours, and others that are none of ours.
        ip("route add 198.51.100.0/24 via 10.1.0.253 proto 72");
        ip("rule add from 192.0.2.9 table 9 priority 999 protocol 72");
        ip("route add 192.0.2.0/24 via 10.1.0.253");
        ip("rule add from 192.0.2.9 table 9 priority 998");
        let mut net = Net::start(&config(vec![with_extras()]), Start::default());
        assert_eq!(marked(), [""; 0], "swept at start");
        net.own(1, 1);
        assert_eq!(marked(), ALL, "in place when the group is announced");
        lose(&mut net, 1);
        assert_eq!(marked(), [""; 0]);
        net.own(1, 2);
        assert_eq!(marked(), ALL);
        // A restart keeps them.
        net.stop();
        assert_eq!(marked(), ALL);
        let mut net = Net::start(
            &config(vec![with_extras()]),
            Start {
                keep: vec![(1, 2)],
                ..Start::default()
            },
        );
        assert_eq!(marked(), ALL);
        // Another configuration takes some away and brings another.
        let mut other = with_extras();
        other.extras.truncate(3);
        other
            .extras
            .push(NetExtra::Route(route("192.0.2.128", 25, "10.1.0.254")));
        net.control(NetControl::Reconfigure(Box::new(config(vec![other]))));
        net.wait("the new configuration", |e| {
            matches!(e, NetEvent::Reconfigured { .. })
        });
        let mut want: Vec<_> = ALL
            .iter()
            .copied()
            .filter(|l| !l.starts_with("100") && !l.starts_with("2001"))
            .collect();
        want.insert(0, "192.0.2.128/25 via 10.1.0.254 dev hl0");
        eventually("the difference", || marked() == want);
        lose(&mut net, 2);
        assert_eq!(marked(), [""; 0]);
        assert!(
            ip("route show 192.0.2.0/24").contains("10.1.0.253"),
            "not ours"
        );
        assert!(ip("rule show").contains("998:"), "not ours");
        net.stop();
    });
}

#[test]
fn a_route_that_cannot_be_added_is_told_and_tried_again() {
    lab(|| {
        own_addresses();
        ip("route add default via 10.1.0.253");
        let mut net = Net::start(&config(vec![with_extras()]), Start::default());
        net.own(1, 1);
        let told = |e: &NetEvent| {
            matches!(e, NetEvent::ExtraFailed { group: 1, text, .. }
                if text.contains("0.0.0.0/0 via 10.1.0.254") && text.contains("not ours"))
        };
        assert!(net.seen.iter().any(told), "{:#?}", net.seen);
        assert_eq!(marked(), ALL[..5], "the others are in place");
        assert!(ip("route show default").contains("10.1.0.253"));
        ip("route del default via 10.1.0.253");
        eventually("it is added then", || marked() == ALL);
        lose(&mut net, 1);
        assert_eq!(
            net.stop().iter().filter(|e| told(e)).count(),
            1,
            "told once"
        );
        assert_eq!(marked(), [""; 0]);
    });
}

#[test]
fn routes_that_went_with_a_device_come_back_with_it() {
    lab(|| {
        own_addresses();
        let mut net = Net::start(&config(vec![with_extras()]), Start::default());
        net.own(1, 1);
        // The kernel drops routes by a device that goes down; the IPv6 addresses, too.
        ip("link set hl0 down");
        eventually("the kernel drops them", || marked().len() < 6);
        ip("link set hl0 up");
        ip("addr replace fd00::250/64 dev hl0 nodad");
        eventually("all are back", || marked() == ALL);
        ip("link del hl0");
        net.wait("the end", |e| matches!(e, NetEvent::WithoutDevice { .. }));
        wire();
        own_addresses();
        eventually("all are back", || marked() == ALL);
        lose(&mut net, 1);
        assert_eq!(marked(), [""; 0]);
        net.stop();
    });
}

#[test]
fn what_a_killed_agent_left_is_removed() {
    lab(|| {
        own_addresses();
        let mut net = Net::start(&config(vec![with_extras()]), Start::default());
        net.own(1, 1);
        net.stop();
        assert_eq!(marked(), ALL);
        remove_leftovers().unwrap();
        assert_eq!(marked(), [""; 0]);
        // Also by an agent that does not own the group now.
        let mut net = Net::start(&config(vec![with_extras()]), Start::default());
        net.own(1, 2);
        net.stop();
        let net = Net::start(&config(vec![with_extras()]), Start::default());
        assert_eq!(marked(), [""; 0]);
        net.stop();
    });
}
