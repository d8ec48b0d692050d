//! Devices that come, go and change, hands that meddle, and a kernel that refuses. Needs root.

mod net_support;

use std::sync::atomic::Ordering;

use heartline::net::{
    NetCommand, NetControl, NetEvent, NetGroup, NetVip, Start, Why, list_devices,
};
use net_support::{
    Kind, Net, Wire, config, device, eventually, group, group_on, has, ip, lab, wire,
};

fn restored(e: &NetEvent) -> bool {
    matches!(e, NetEvent::AddressRestored { .. })
}

#[test]
fn devices_are_listed_as_they_are() {
    lab(|| {
        ip("addr add 10.1.0.250/24 dev hl0");
        ip("link set hl1 mtu 1400 down");
        ip("link add br7 type bridge");
        eventually("the end of carrier", || {
            device("hl0").is_some_and(|d| !d.carrier)
        });
        let devices = list_devices().unwrap();
        let names: Vec<_> = devices.iter().map(|d| d.name.as_str()).collect();
        assert!(
            !names.contains(&"lo") && names.contains(&"br7"),
            "{names:?}"
        );
        let hl0 = device("hl0").unwrap();
        assert_eq!(hl0.kind.as_deref(), Some("veth"));
        assert_eq!(hl0.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!((hl0.mtu, hl0.up, hl0.carrier), (1500, true, false));
        assert_eq!(hl0.ifindex, nix::net::if_::if_nametoindex("hl0").unwrap());
        let own = hl0.addresses.iter().find(|a| a.address.is_ipv4()).unwrap();
        assert_eq!(
            (own.address.to_string().as_str(), own.prefix, own.ours),
            ("10.1.0.250", 24, false)
        );
        let hl1 = device("hl1").unwrap();
        assert_eq!((hl1.mtu, hl1.up, hl1.carrier), (1400, false, false));
    });
}

#[test]
fn an_address_removed_by_hand_is_put_back_and_announced() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.own(1, 1);
        ip("addr del 10.1.0.1/32 dev hl0");
        net.wait("the IPv4 address", |e| {
            matches!(
                e,
                NetEvent::AddressRestored {
                    group: 1,
                    vip: 0,
                    ..
                }
            )
        });
        net.wait("its announcement", |e| {
            matches!(
                e,
                NetEvent::Announced {
                    why: Why::Restored,
                    ..
                }
            )
        });
        ip("addr del fd00::1/128 dev hl0");
        net.wait("the IPv6 address", |e| {
            matches!(
                e,
                NetEvent::AddressRestored {
                    group: 1,
                    vip: 1,
                    ..
                }
            )
        });
        assert!(has("hl0", "10.1.0.1") && has("hl0", "fd00::1"));
        net.stop();
    });
}

#[test]
fn a_vip_added_by_hand_where_we_do_not_own_it_is_removed() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "10.1.0.2"])]),
            Start::default(),
        );
        let stray = |address: &'static str| move |e: &NetEvent| matches!(e, NetEvent::StrayRemoved { address: a, .. } if a.to_string() == address);
        ip("addr add 10.1.0.1/32 dev hl0");
        net.wait("the removal", stray("10.1.0.1"));
        ip("addr add 10.1.0.2/24 dev hl1");
        net.wait("the removal", stray("10.1.0.2"));
        assert!(!has("hl0", "10.1.0.1") && !has("hl1", "10.1.0.2"));
        net.stop();
    });
}

#[test]
fn a_device_that_vanishes_and_returns_gets_its_addresses_back() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.own(1, 1);
        let old = device("hl0").unwrap().ifindex;
        ip("link del hl0");
        net.wait(
            "the device's end",
            |e| matches!(e, NetEvent::DeviceGone { ifindex, .. } if *ifindex == old),
        );
        net.wait("the group's loss", |e| {
            *e == NetEvent::WithoutDevice {
                group: 1,
                vips: 2,
                ifindex: old,
            }
        });
        // A group may also be gained while its device is away.
        net.gain(1, 2);
        net.wait("the reason", |e| {
            matches!(
                e,
                NetEvent::AddressFailed {
                    vip: 0,
                    errno: libc::ENODEV,
                    ..
                }
            )
        });
        net.wait("the outcome", |e| {
            matches!(
                e,
                NetEvent::AddressUp {
                    epoch: 2,
                    up: 0,
                    failed: 2,
                    ..
                }
            )
        });
        wire();
        let new = device("hl0").unwrap().ifindex;
        assert_ne!(old, new);
        net.wait("the device", |e| matches!(e, NetEvent::DeviceNew { ifindex, name } if *ifindex == new && name.as_str() == "hl0"));
        eventually("both addresses are back", || {
            has("hl0", "10.1.0.1") && has("hl0", "fd00::1")
        });
        let wire = Wire::open();
        wire.until(|s| s.kind == Kind::ArpReply);
        // Lost while the device is away: nothing is left to come back.
        ip("link del hl0");
        net.wait(
            "the device's end",
            |e| matches!(e, NetEvent::DeviceGone { ifindex, .. } if *ifindex == new),
        );
        net.send(NetCommand::Lose { group: 1, epoch: 2 });
        net.wait("the loss", |e| {
            matches!(
                e,
                NetEvent::AddressDown {
                    group: 1,
                    epoch: 2,
                    ..
                }
            )
        });
        net_support::wire();
        net.wait(
            "the device",
            |e| matches!(e, NetEvent::DeviceUp { name, .. } if name.as_str() == "hl0"),
        );
        net.stop();
        assert!(!has("hl0", "10.1.0.1"));
    });
}

#[test]
fn carrier_is_followed_and_its_return_announced() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.own(1, 1);
        let is = |up: bool| {
            move |e: &NetEvent| match e {
                NetEvent::DeviceUp { name, .. } => up && name.as_str() == "hl0",
                NetEvent::DeviceDown { name, .. } => !up && name.as_str() == "hl0",
                _ => false,
            }
        };
        ip("link set hl1 down");
        net.wait("no carrier", is(false));
        ip("link set hl1 up");
        net.wait("carrier", is(true));
        net.wait("the announcement", |e| {
            matches!(
                e,
                NetEvent::Announced {
                    why: Why::CarrierUp,
                    ..
                }
            )
        });
        // Down by command: the kernel throws the IPv6 address away; it must come back with the device.
        ip("link set hl0 down");
        net.wait("down", is(false));
        ip("link set hl0 up");
        net.wait("up", is(true));
        eventually("the IPv6 address is back", || has("hl0", "fd00::1"));
        assert!(has("hl0", "10.1.0.1"));
        net.stop();
    });
}

#[test]
fn frames_follow_the_mac_and_the_forwarding_sysctl() {
    lab(|| {
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.own(1, 1);
        let wire = Wire::open();
        std::fs::write("/proc/sys/net/ipv6/conf/hl0/forwarding", "1").unwrap();
        ip("link set hl0 address 02:00:00:00:00:99");
        net.wait("the new MAC", |e| {
            matches!(
                e,
                NetEvent::DeviceMac {
                    mac: [2, 0, 0, 0, 0, 0x99],
                    ..
                }
            )
        });
        wire.until(|s| s.mac == [2, 0, 0, 0, 0, 0x99] && s.kind == Kind::ArpRequest);
        // The sysctl is read again with the next renewal, within ten seconds; ask until it shows.
        let mut seen = None;
        eventually("the router flag", || {
            net.send(NetCommand::Announce { group: 1 });
            seen = Some(wire.until(|s| matches!(s.kind, Kind::Advert { .. })));
            seen.is_some_and(|s| s.kind == Kind::Advert { router: true })
        });
        net.stop();
    });
}

#[test]
fn no_gate_no_address() {
    lab(|| {
        let mut conf = config(vec![group(1, &["10.1.0.1", "fd00::1"])]);
        conf.wait_for_gate = true;
        let mut net = Net::start(&conf, Start::default());
        let ifindex = device("hl0").unwrap().ifindex;
        net.gain(1, 1);
        net.wait(
            "the reason",
            |e| matches!(e, NetEvent::AddressFailed { text, .. } if text.contains("gate on hl0")),
        );
        net.wait("the outcome", |e| {
            matches!(
                e,
                NetEvent::AddressUp {
                    up: 0,
                    failed: 2,
                    ..
                }
            )
        });
        assert!(!has("hl0", "10.1.0.1"));
        net.control(NetControl::Gate {
            ifindex,
            covered: true,
        });
        net.wait("the announcement", |e| {
            matches!(
                e,
                NetEvent::Announced {
                    why: Why::Restored,
                    ..
                }
            )
        });
        assert!(has("hl0", "10.1.0.1") && has("hl0", "fd00::1"));
        net.control(NetControl::Gate {
            ifindex,
            covered: false,
        });
        net.wait("the report", |e| {
            *e == NetEvent::WithoutDevice {
                group: 1,
                vips: 2,
                ifindex,
            }
        });
        eventually("both are gone", || {
            !has("hl0", "10.1.0.1") && !has("hl0", "fd00::1")
        });
        net.control(NetControl::Gate {
            ifindex,
            covered: true,
        });
        eventually("both are back", || {
            has("hl0", "10.1.0.1") && has("hl0", "fd00::1")
        });
        net.stop();
        // A restart that keeps the group and knows of the gate touches nothing.
        let net = Net::start(
            &conf,
            Start {
                keep: vec![(1, 1)],
                covered: vec![ifindex],
                ..Start::default()
            },
        );
        assert!(
            net.seen.contains(&NetEvent::Swept {
                removed: 0,
                kept: 2,
                failed: 0
            }),
            "{:?}",
            net.seen
        );
        net.stop();
        // One that does not know of the gate takes the addresses away.
        let net = Net::start(
            &conf,
            Start {
                keep: vec![(1, 1)],
                ..Start::default()
            },
        );
        assert!(
            net.seen.contains(&NetEvent::Swept {
                removed: 2,
                kept: 0,
                failed: 0
            }),
            "{:?}",
            net.seen
        );
        net.stop();
    });
}

#[test]
fn a_refusal_is_told_once_and_ends_with_its_cause() {
    lab(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/hl0/disable_ipv6", "1").unwrap();
        let mut net = Net::start(
            &config(vec![group(1, &["10.1.0.1", "fd00::1"])]),
            Start::default(),
        );
        net.gain(1, 1);
        let told = |e: &NetEvent| {
            matches!(
                e,
                NetEvent::AddressFailed {
                    group: 1,
                    vip: 1,
                    errno: libc::EACCES,
                    ..
                }
            )
        };
        let event = net.wait("the refusal", told);
        let NetEvent::AddressFailed { text, .. } = event else {
            panic!()
        };
        assert!(
            text.contains("fd00::1/128") && text.contains("hl0"),
            "{text}"
        );
        net.wait("the outcome", |e| {
            matches!(
                e,
                NetEvent::AddressUp {
                    up: 1,
                    failed: 1,
                    ..
                }
            )
        });
        // What is not in place is not announced: two ARP frames, no advertisement.
        net.wait("the announcement", |e| {
            matches!(e, NetEvent::Announced { frames: 2, .. })
        });
        // It is tried again and again ...
        let stats = std::sync::Arc::clone(&net.handle.stats);
        eventually("three refusals", || {
            stats.requests_refused.load(Ordering::Relaxed) >= 3
        });
        std::fs::write("/proc/sys/net/ipv6/conf/hl0/disable_ipv6", "0").unwrap();
        net.wait("the cure", restored);
        assert!(has("hl0", "fd00::1"));
        // ... and was told once.
        assert_eq!(net.stop().iter().filter(|e| told(e)).count(), 1);
    });
}

#[test]
fn lost_notices_lead_to_a_full_reading() {
    lab(|| {
        let vips = (0..200u8)
            .map(|i| NetVip::new([10, 2, 0, i].into(), None, "hl0").unwrap())
            .collect();
        let one = NetGroup {
            id: 1,
            vips,
            extras: Vec::new(),
        };
        let groups = vec![one, group_on("hl1", 2, &["10.1.0.2"])];
        // Room for about two notices.
        let mut net = Net::start(
            &config(groups),
            Start {
                monitor_buffer: Some(1),
                ..Start::default()
            },
        );
        net.own(1, 1);
        let stats = std::sync::Arc::clone(&net.handle.stats);
        // One system call, two hundred notices.
        ip("link del hl0");
        eventually("a loss of notices", || {
            stats.resyncs.load(Ordering::Relaxed) > 0
        });
        wire();
        let ours = || device("hl0").map_or(0, |d| d.addresses.iter().filter(|a| a.ours).count());
        eventually("all are back", || ours() == 200);
        net.wait("a full reading", |e| matches!(e, NetEvent::Resynced { .. }));
        net.stop();
    });
}

#[test]
fn a_renamed_device_takes_no_vip_along() {
    lab(|| {
        let mut net = Net::start(&config(vec![group(1, &["10.1.0.1"])]), Start::default());
        net.own(1, 1);
        ip("link set hl0 down");
        ip("link set hl0 name other");
        ip("link set other up");
        net.wait(
            "the old name's end",
            |e| matches!(e, NetEvent::DeviceGone { name, .. } if name.as_str() == "hl0"),
        );
        eventually("the address is gone", || {
            device("other").is_some() && !has("other", "10.1.0.1")
        });
        ip("link set other down");
        ip("link set other name hl0");
        ip("link set hl0 up");
        eventually("the address is back", || has("hl0", "10.1.0.1"));
        net.stop();
    });
}
