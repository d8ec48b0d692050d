//! Addresses and announcements on a real kernel. Needs root.

mod net_support;

use std::collections::BTreeSet;
use std::net::IpAddr;

use heartline::net::{
    IFA_PROTO_HEARTLINE, NetCommand, NetControl, NetEvent, NetGroup, NetVip, Start, Why, rt,
};
use net_support::{Kind, Net, Seen, Wire, config, device, eventually, group, has, ip, lab};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What `ip -j` says of one address on a device: an object with label, valid_life_time and so on.
fn ip_address(device: &str, address: &str) -> Option<serde_json::Value> {
    let all: serde_json::Value =
        serde_json::from_str(&ip(&format!("-j addr show dev {device}"))).unwrap();
    let infos = all
        .as_array()?
        .iter()
        .find_map(|d| d.get("addr_info"))?
        .as_array()?
        .clone();
    infos.into_iter().find(|a| a["local"] == address)
}

fn down(id: u8) -> impl Fn(&NetEvent) -> bool {
    move |e| matches!(e, NetEvent::AddressDown { group, .. } if *group == id)
}

#[test]
fn a_gain_adds_marked_addresses_and_then_announces_them() {
    lab(|| {
        let wire = Wire::open();
        let mut net = Net::start(
            &config(vec![group(7, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.gain(7, 5);
        let up = net.wait("the address", |e| matches!(e, NetEvent::AddressUp { .. }));
        let NetEvent::AddressUp {
            group: 7,
            epoch: 5,
            up: 2,
            failed: 0,
            t_decided_ns,
            t_ns,
        } = up
        else {
            panic!("{up:?}")
        };
        let said = net.wait("the announcement", |e| {
            matches!(e, NetEvent::Announced { .. })
        });
        let NetEvent::Announced {
            group: 7,
            epoch: 5,
            frames: 3,
            why: Why::Gain,
            t_ns: announced,
        } = said
        else {
            panic!("{said:?}")
        };
        assert!(
            t_decided_ns < t_ns && t_ns <= announced,
            "{t_decided_ns} {t_ns} {announced}"
        );

        let v4 = ip_address("hl0", "10.1.0.1").unwrap();
        assert_eq!(v4["label"], "hl0:hl", "{v4}");
        assert_eq!(v4["prefixlen"], 32, "{v4}");
        assert_eq!(v4["noprefixroute"], true, "{v4}");
        assert!(
            (20..=30).contains(&v4["valid_life_time"].as_u64().unwrap()),
            "{v4}"
        );
        let v6 = ip_address("hl0", "fd00::1").unwrap();
        assert_eq!(v6["prefixlen"], 128, "{v6}");
        assert_eq!(
            (&v6["nodad"], &v6["noprefixroute"]),
            (&true.into(), &true.into()),
            "{v6}"
        );
        assert_eq!(
            (v6.get("tentative"), v6.get("dadfailed")),
            (None, None),
            "{v6}"
        );
        // Deprecated, so that the node's own connections never start from it.
        assert_eq!(v6["preferred_life_time"], 0, "{v6}");
        for address in device("hl0").unwrap().addresses {
            let vip = ["10.1.0.1", "fd00::1"].contains(&address.address.to_string().as_str());
            assert_eq!(address.ours, vip, "{address:?}");
        }

        // The first round, and the one after 10 ms.
        for _ in 0..2 {
            let got = [wire.next(), wire.next(), wire.next()];
            let seen = |address: &str, kind| Seen {
                address: address.parse().unwrap(),
                mac: MAC,
                kind,
            };
            assert_eq!(
                got,
                [
                    seen("10.1.0.1", Kind::ArpRequest),
                    seen("10.1.0.1", Kind::ArpReply),
                    seen("fd00::1", Kind::Advert { router: false })
                ]
            );
        }
        net.stop();
        assert!(has("hl0", "10.1.0.1"), "a stop is no loss");
    });
}

#[test]
fn the_protocol_number_is_in_the_kernel() {
    // The IPv6 address has no label: without IFA_PROTO nothing would show whose it is.
    lab(|| {
        let mut net = Net::start(&config(vec![group(1, &["fd00::1"])]), Start::default());
        net.own(1, 1);
        let ours =
            |d: heartline::net::Device| d.addresses.iter().any(|a| a.ours && a.address.is_ipv6());
        assert!(
            device("hl0").is_some_and(ours),
            "IFA_PROTO {IFA_PROTO_HEARTLINE} is not reported back"
        );
        net.stop();
    });
}

#[test]
fn a_loss_removes_the_address_and_ends_its_announcements() {
    lab(|| {
        let wire = Wire::open();
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1"]), group(2, &["10.1.0.2"])]),
            Start::default(),
        );
        net.own(1, 1);
        net.send(NetCommand::Lose { group: 1, epoch: 1 });
        net.wait("the removal", down(1));
        assert!(!has("hl0", "10.1.0.1"));
        // Everything of group 1 that is on the wire lies before the marker of group 2; then follow
        // group 2 through all its repetitions, which outlast those of group 1.
        net.own(2, 2);
        wire.until(|s| s.address.to_string() == "10.1.0.2");
        for _ in 0..9 {
            assert_eq!(wire.next().address.to_string(), "10.1.0.2");
        }
        net.stop();
    });
}

#[test]
fn a_gain_that_is_older_than_the_loss_is_refused() {
    lab(|| {
        let mut net = Net::start(&config(vec![group(1, &["10.1.0.1"])]), Start::default());
        net.send(NetCommand::Lose { group: 1, epoch: 9 });
        net.wait("the loss", down(1));
        for epoch in [3, 9] {
            net.gain(1, epoch);
            let refused = net.wait("a refusal", |e| matches!(e, NetEvent::StaleGain { .. }));
            assert_eq!(
                refused,
                NetEvent::StaleGain {
                    group: 1,
                    epoch,
                    lost_epoch: 9
                }
            );
            assert!(!has("hl0", "10.1.0.1"));
        }
        net.own(1, 10);
        // And a loss from an earlier ownership does not end a later one.
        net.send(NetCommand::Lose { group: 1, epoch: 9 });
        net.wait("a refusal", |e| {
            *e == NetEvent::StaleLose {
                group: 1,
                epoch: 9,
                owned_epoch: 10,
            }
        });
        assert!(has("hl0", "10.1.0.1"));
        net.gain(200, 1);
        net.wait("a refusal", |e| *e == NetEvent::UnknownGroup { group: 200 });
        net.stop();
    });
}

#[test]
fn an_address_that_is_there_already_is_taken_over() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.own(1, 1);
        net.stop();
        ip("addr del 10.1.0.1/32 dev hl0");
        ip("addr del fd00::1/128 dev hl0");
        ip("addr add 10.1.0.1/32 dev hl0");
        ip("addr add fd00::1/128 dev hl0 valid_lft forever");

        // A restart that keeps the group: they are not ours by their mark, but the group is.
        let start = Start {
            keep: vec![(1, 1)],
            ..Start::default()
        };
        let mut net = Net::start(&config(vec![group(1, &["10.1.0.1", "fd00::1"])]), start);
        for vip in [0, 1] {
            net.wait("the takeover", |e| {
                *e == NetEvent::AddressAdopted { group: 1, vip }
            });
        }
        for address in ["10.1.0.1", "fd00::1"] {
            let now = ip_address("hl0", address).unwrap();
            assert!(now["valid_life_time"].as_u64().unwrap() <= 30, "{now}");
        }
        assert_eq!(ip_address("hl0", "fd00::1").unwrap()["nodad"], true);
        let ours = device("hl0")
            .unwrap()
            .addresses
            .iter()
            .filter(|a| a.ours)
            .count();
        assert_eq!(ours, 2);
        net.stop();
    });
}

#[test]
fn the_sweep_takes_what_is_stale_and_nothing_else() {
    lab(|| {
        ip("addr add 10.1.0.250/24 dev hl0"); // the node's own
        ip("addr add 10.1.0.1/32 dev hl0"); // a VIP, by hand
        ip("addr add 10.1.0.2/24 dev hl1"); // a VIP on another device, with another prefix
        ip("addr add 10.9.9.9/32 dev hl0 label hl0:hl"); // ours once, not configured any more
        ip("addr add fd00::3/128 dev hl0"); // an IPv6 VIP
        ip("addr add 10.1.0.4/32 dev hl0 label hl0:hl valid_lft 9 preferred_lft 9"); // of a group we keep
        ip("addr add 10.1.0.1/32 dev lo"); // loopback is not our business (direct routing behind a balancer)
        let groups = vec![
            group(1, &["10.1.0.1", "10.1.0.2", "fd00::3"]),
            group(2, &["10.1.0.4"]),
        ];
        let start = Start {
            keep: vec![(2, 44), (77, 1)],
            ..Start::default()
        };
        let net = Net::start(&config(groups), start);
        assert!(
            net.seen.contains(&NetEvent::Swept {
                removed: 4,
                kept: 1,
                failed: 0
            }),
            "{:?}",
            net.seen
        );
        assert!(net.seen.contains(&NetEvent::UnknownGroup { group: 77 }));
        assert!(has("hl0", "10.1.0.250"));
        assert!(ip("addr show dev lo").contains("10.1.0.1/32"));
        for gone in ["10.1.0.1", "10.9.9.9", "fd00::3"] {
            assert!(!has("hl0", gone), "{gone}");
        }
        assert!(!has("hl1", "10.1.0.2"));
        eventually("the kept address is renewed", || {
            ip_address("hl0", "10.1.0.4").is_some_and(|a| a["valid_life_time"].as_u64() > Some(20))
        });
        let seen = net.stop();
        // Kept means that nothing happened to it.
        let touched = |e: &NetEvent| {
            matches!(
                e,
                NetEvent::AddressAdopted { .. } | NetEvent::AddressRestored { .. }
            )
        };
        assert!(!seen.iter().any(touched), "{seen:?}");
    });
}

#[test]
fn a_thousand_addresses_come_and_go_and_let_others_pass() {
    lab(|| {
        let wire = Wire::open();
        let many: Vec<NetVip> = (0..1000u16)
            .map(|i| {
                let [a, b] = i.to_be_bytes();
                let address: IpAddr = if i % 4 == 0 {
                    [0xfd00, 0, 0, 0, 0, 0, 0, i + 1].into()
                } else {
                    [10, 2, a, b].into()
                };
                NetVip::new(address, None, "hl0").unwrap()
            })
            .collect();
        let all: BTreeSet<IpAddr> = many.iter().map(|v| v.address).collect();
        let one = NetGroup {
            id: 1,
            vips: many,
            extras: Vec::new(),
        };
        let groups = vec![one, group(2, &["10.1.0.2"])];
        let mut net = Net::start(
            &config(groups),
            Start {
                priority: Some(10),
                ..Start::default()
            },
        );
        // As in the agent the sender ranks above the address thread, which else might do all of the
        // first gain before the second is sent.
        rt::set_realtime(20).expect("this test needs root (CAP_SYS_NICE)");
        net.gain(1, 1);
        net.gain(2, 2);
        net.wait("the large group", |e| {
            matches!(
                e,
                NetEvent::AddressUp {
                    group: 1,
                    up: 1000,
                    failed: 0,
                    ..
                }
            )
        });
        net.wait("its announcement", |e| {
            matches!(
                e,
                NetEvent::Announced {
                    group: 1,
                    // Of a group of several batches, one frame each first.
                    frames: 1000,
                    ..
                }
            )
        });
        let order: Vec<u8> = net
            .seen
            .iter()
            .filter_map(|e| {
                if let NetEvent::AddressUp { group, .. } = e {
                    Some(*group)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(
            order,
            [2, 1],
            "the small group must not wait for the large one"
        );
        // The reply form comes with the repetition.
        let (mut heard, mut replied) = (BTreeSet::new(), BTreeSet::new());
        let v4: BTreeSet<IpAddr> = all.iter().copied().filter(IpAddr::is_ipv4).collect();
        while !heard.is_superset(&all) || !replied.is_superset(&v4) {
            let seen = wire.next();
            heard.insert(seen.address);
            if seen.kind == Kind::ArpReply {
                replied.insert(seen.address);
            }
        }
        assert_eq!(
            device("hl0")
                .unwrap()
                .addresses
                .iter()
                .filter(|a| a.ours)
                .count(),
            1001
        );
        net.send(NetCommand::Lose { group: 1, epoch: 1 });
        net.wait("the end", down(1));
        assert_eq!(
            device("hl0")
                .unwrap()
                .addresses
                .iter()
                .filter(|a| a.ours)
                .count(),
            1
        );
        let stats = std::sync::Arc::clone(&net.handle.stats);
        let seen = net.stop();
        assert!(!seen.iter().any(|e| matches!(
            e,
            NetEvent::RealtimeRefused { .. } | NetEvent::AddressFailed { .. }
        )));
        let zero = |counter: &std::sync::atomic::AtomicU64| {
            counter.load(std::sync::atomic::Ordering::Relaxed)
        };
        assert_eq!(
            zero(&stats.events_dropped) + zero(&stats.requests_silent) + zero(&stats.malformed),
            0,
            "{stats:?}"
        );
    });
}

#[test]
fn asked_announcements_are_limited() {
    lab(|| {
        let mut net = Net::start(&config(vec![group(1, &["10.1.0.1"])]), Start::default());
        net.own(1, 1);
        let mut times = Vec::new();
        while times.len() < 4 {
            net.send(NetCommand::Announce { group: 1 });
            std::thread::yield_now();
            while let Some(event) = net.handle.events.pop() {
                if let NetEvent::Announced {
                    t_ns,
                    why: Why::Asked,
                    ..
                } = event
                {
                    times.push(t_ns);
                }
            }
        }
        // The stamps are taken at a round's end; a round of two frames takes less than the slack.
        assert!(
            times.windows(2).all(|w| w[1] - w[0] > 80_000_000),
            "{times:?}"
        );
        net.stop();
    });
}

#[test]
fn owned_addresses_are_renewed_over_and_over() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.own(1, 1);
        let left = || {
            ["10.1.0.1", "fd00::1"].map(|a| {
                ip_address("hl0", a).unwrap()["valid_life_time"]
                    .as_u64()
                    .unwrap()
            })
        };
        let mut lowest = left();
        let mut renewed = [false; 2];
        eventually("both lifetimes grow again", || {
            for ((now, lowest), renewed) in left().into_iter().zip(&mut lowest).zip(&mut renewed) {
                *lowest = now.min(*lowest);
                *renewed |= now > *lowest + 5;
            }
            renewed == [true; 2]
        });
        let seen = net.stop();
        assert!(
            !seen
                .iter()
                .any(|e| matches!(e, NetEvent::AddressRestored { .. })),
            "{seen:?}"
        );
    });
}

#[test]
fn a_new_configuration_touches_only_what_differs() {
    lab(|| {
        let groups = vec![
            group(1, &["10.1.0.1", "10.1.0.2", "fd00::1"]),
            group(2, &["10.1.0.5"]),
            group(3, &["10.1.0.6"]),
        ];
        let mut net = Net::start(&config(groups), Start::default());
        for id in 1..=3 {
            net.own(id, 1);
        }
        let wire = Wire::open();
        // 10.1.0.1 stays, 10.1.0.2 goes, 10.1.0.3 is new; group 2 is gone; group 3's VIP moves to
        // group 4, which is not ours.
        let groups = vec![
            group(4, &["10.1.0.6"]),
            group(1, &["10.1.0.3", "10.1.0.1", "fd00::1"]),
            group(3, &[]),
        ];
        net.control(NetControl::Reconfigure(Box::new(config(groups))));
        net.wait("the change", |e| {
            *e == NetEvent::Reconfigured {
                serial: 7,
                vips: 4,
                removed: 3,
            }
        });
        net.wait("the new address", |e| {
            matches!(
                e,
                NetEvent::AddressRestored {
                    group: 1,
                    vip: 0,
                    ..
                }
            )
        });
        wire.until(|s| s.address.to_string() == "10.1.0.3");
        for (address, there) in [
            ("10.1.0.1", true),
            ("10.1.0.2", false),
            ("10.1.0.3", true),
            ("10.1.0.5", false),
            ("10.1.0.6", false),
            ("fd00::1", true),
        ] {
            assert_eq!(has("hl0", address), there, "{address}");
        }
        let twice = vec![group(1, &["10.1.0.1"]), group(2, &["10.1.0.1"])];
        net.control(NetControl::Reconfigure(Box::new(config(twice))));
        net.wait(
            "the refusal",
            |e| matches!(e, NetEvent::ConfigRefused { text } if text.contains("10.1.0.1")),
        );
        let seen = net.stop();
        let touched = |e: &NetEvent| {
            matches!(
                e,
                NetEvent::AddressAdopted { .. } | NetEvent::AddressRestored { vip: 1 | 2, .. }
            )
        };
        assert!(!seen.iter().any(touched), "{seen:?}");
        assert!(has("hl0", "10.1.0.1"));
    });
}
