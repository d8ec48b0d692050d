//! Ingress: frames for a VIP pass only with gate bit and lease; what names none passes always.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_common::{
    Set,
    record::{RecordKind, address_key},
    state::LeaseWord,
};
use heartline_bpf_tests::{
    Action, Rig, boot_ns,
    consts::*,
    frame::{self, QINQ, THERE, VLAN},
};
use smoltcp::wire::{ArpOperation, IpProtocol};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
/// The VIP's solicited-node group.
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MINUTE: u64 = 60_000_000_000;

const TAGS: [&[(u16, u16)]; 3] = [&[], &[(VLAN, 9)], &[(QINQ, 5), (VLAN, 9)]];

/// Frames that name the VIPs of GROUP as who they are for.
fn for_the_vip(tags: &[(u16, u16)]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "ARP request",
            frame::arp(tags, ArpOperation::Request, CLIENT4, VIP4),
        ),
        (
            "ARP reply",
            frame::arp(tags, ArpOperation::Reply, CLIENT4, VIP4),
        ),
        (
            "ARP probe",
            frame::arp(tags, ArpOperation::Request, Ipv4Addr::UNSPECIFIED, VIP4),
        ),
        (
            "UDP",
            frame::udp(tags, (CLIENT4.into(), 1), (VIP4.into(), 53), b"x"),
        ),
        (
            "heartbeat port",
            frame::udp(tags, (CLIENT4.into(), 1), (VIP4.into(), PORT), &[0; 192]),
        ),
        (
            "TCP",
            frame::ip(tags, CLIENT4.into(), VIP4.into(), IpProtocol::Tcp, &[0; 20]),
        ),
        (
            "bare IP",
            frame::ip(
                tags,
                CLIENT4.into(),
                VIP4.into(),
                IpProtocol::Unknown(200),
                &[],
            ),
        ),
        (
            "UDP over IPv6",
            frame::udp(tags, (CLIENT6.into(), 1), (VIP6.into(), 53), b"x"),
        ),
        (
            "heartbeat port over IPv6",
            frame::udp(tags, (CLIENT6.into(), 1), (VIP6.into(), PORT), &[0; 192]),
        ),
        (
            "bare IPv6",
            frame::ip(
                tags,
                CLIENT6.into(),
                VIP6.into(),
                IpProtocol::Unknown(200),
                &[],
            ),
        ),
        (
            "echo over IPv6",
            frame::ip(
                tags,
                CLIENT6.into(),
                VIP6.into(),
                IpProtocol::Icmpv6,
                &[128, 0, 0, 0],
            ),
        ),
        (
            "NS to the group",
            frame::solicit(tags, CLIENT6, SOLICITED, VIP6),
        ),
        ("NS to the VIP", frame::solicit(tags, CLIENT6, VIP6, VIP6)),
        (
            "NA to the VIP",
            frame::advertise(tags, CLIENT6, VIP6, CLIENT6),
        ),
        (
            "NS for another, to the VIP",
            frame::solicit(tags, CLIENT6, VIP6, CLIENT6),
        ),
        (
            "NS cut off, to the VIP",
            frame::ip(
                tags,
                CLIENT6.into(),
                VIP6.into(),
                IpProtocol::Icmpv6,
                &[135, 0, 0, 0, 0],
            ),
        ),
        (
            "NA cut off, to the VIP",
            frame::ip(
                tags,
                CLIENT6.into(),
                VIP6.into(),
                IpProtocol::Icmpv6,
                &[136, 0, 0, 0, 0],
            ),
        ),
        (
            "ICMPv6 without a type, to the VIP",
            frame::ip(tags, CLIENT6.into(), VIP6.into(), IpProtocol::Icmpv6, &[]),
        ),
    ]
}

/// Frames that are for somebody else, or only speak of a VIP as somebody else's.
fn for_others(tags: &[(u16, u16)]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "ARP for another",
            frame::arp(tags, ArpOperation::Request, CLIENT4, LINK4),
        ),
        (
            "ARP of the VIP's owner",
            frame::arp(tags, ArpOperation::Request, VIP4, LINK4),
        ),
        (
            "ARP reply of the owner",
            frame::arp(tags, ArpOperation::Reply, VIP4, LINK4),
        ),
        (
            "gratuitous request",
            frame::arp(tags, ArpOperation::Request, VIP4, VIP4),
        ),
        (
            "gratuitous reply",
            frame::arp(tags, ArpOperation::Reply, VIP4, VIP4),
        ),
        (
            "from the VIP",
            frame::udp(tags, (VIP4.into(), 53), (LINK4.into(), 1), b"x"),
        ),
        (
            "from the VIP over IPv6",
            frame::udp(tags, (VIP6.into(), 53), (LINK6.into(), 1), b"x"),
        ),
        (
            "NA of the owner",
            frame::advertise(tags, VIP6, ALL_NODES, VIP6),
        ),
        (
            "NA of the owner to us",
            frame::advertise(tags, VIP6, LINK6, VIP6),
        ),
        (
            "NS for another",
            frame::solicit(tags, CLIENT6, LINK6, LINK6),
        ),
        ("NS of the owner", frame::solicit(tags, VIP6, LINK6, LINK6)),
        (
            "between others",
            frame::udp(tags, (CLIENT4.into(), 1), (PEER4.into(), 2), b"x"),
        ),
    ]
}

#[track_caller]
fn all(rig: &mut Rig, want: Action, why: &str) {
    let counter = if want == Action::Pass {
        "gate_in"
    } else {
        "gate_in_drop"
    };
    for tags in TAGS {
        for (what, f) in for_the_vip(tags) {
            rig.delta();
            assert_eq!(rig.xdp(&f).0, want, "{what}, {why}, {} tags", tags.len());
            assert_eq!(rig.delta(), [(counter, 1)], "{what}, {why}");
        }
    }
}

#[test]
fn a_vip_is_let_in_with_gate_bit_and_lease_only() {
    let mut rig = Rig::new();
    all(&mut rig, Action::Drop, "nothing owned");
    rig.own(GROUP, boot_ns() + MINUTE);
    all(&mut rig, Action::Pass, "owned");
    rig.table.gate.remove(Set::of(GROUP));
    all(&mut rig, Action::Drop, "bit off");
    rig.table
        .gate
        .insert(Set::of(OTHER_GROUP).with(GROUP + 1).with(GROUP + 64));
    all(&mut rig, Action::Drop, "other groups' bits");
    rig.table.gate.insert(Set::of(GROUP));
    all(&mut rig, Action::Pass, "bit on again");
    rig.table.lease.store(LeaseWord::until(boot_ns(), CV).0);
    all(&mut rig, Action::Drop, "lease run out");
    rig.table.lease.store(0);
    all(&mut rig, Action::Drop, "no lease");
    rig.table.lease.store(u64::MAX);
    rig.table.gate.remove(Set::of(GROUP));
    all(&mut rig, Action::Drop, "a lease for ever, but no bit");
    assert!(rig.records().is_empty());
}

#[test]
fn groups_have_gates_of_their_own() {
    let mut rig = Rig::new();
    rig.own(OTHER_GROUP, boot_ns() + MINUTE);
    for (dst, want) in [
        (IpAddr::from(OTHER_VIP4), Action::Pass),
        (OTHER_VIP6.into(), Action::Pass),
        (VIP4.into(), Action::Drop),
        (VIP6.into(), Action::Drop),
    ] {
        let src = if dst.is_ipv4() {
            CLIENT4.into()
        } else {
            CLIENT6.into()
        };
        assert_eq!(
            rig.xdp(&frame::udp(&[], (src, 1), (dst, 80), b"x")).0,
            want,
            "{dst}"
        );
    }
    // One that is shut stops the frame, whichever place it is named in.
    for (dst, target) in [(VIP6, OTHER_VIP6), (OTHER_VIP6, VIP6)] {
        assert_eq!(
            rig.xdp(&frame::solicit(&[], CLIENT6, dst, target)).0,
            Action::Drop
        );
    }
    // Every group has its bit.
    for group in 0..=255u8 {
        rig.datapath.set_vips(&[(VIP4.into(), group)]).unwrap();
        rig.table.gate.store(Set::of(group));
        let f = frame::udp(&[], (CLIENT4.into(), 1), (VIP4.into(), 80), b"x");
        assert_eq!(rig.xdp(&f).0, Action::Pass, "{group}");
        rig.table.gate.store(Set([u64::MAX; 4]).without(group));
        assert_eq!(rig.xdp(&f).0, Action::Drop, "{group}");
    }
}

#[test]
fn what_is_not_for_a_vip_passes() {
    let mut rig = Rig::new();
    for owned in [false, true] {
        if owned {
            // Of another group, so that nothing is a foreign claim.
            rig.own(OTHER_GROUP, boot_ns() + MINUTE);
        }
        for tags in TAGS {
            for (what, f) in for_others(tags) {
                assert_eq!(rig.xdp(&f).0, Action::Pass, "{what}, {} tags", tags.len());
                assert_eq!(rig.delta(), [], "{what}");
            }
        }
    }
    assert!(rig.records().is_empty());
}

#[test]
fn short_and_odd_frames_pass() {
    let mut rig = Rig::new();
    for tags in TAGS {
        for (what, f) in for_the_vip(tags) {
            // Cut off before the address it is for, it is for nobody.
            let l3 = 14 + 4 * tags.len();
            let end = match f[l3 - 2..l3] {
                [0x08, 0x06] => l3 + 28,
                [0x08, 0x00] => l3 + 20,
                _ => l3 + 40,
            };
            for len in 14..end {
                assert_eq!(rig.xdp(&f[..len]).0, Action::Pass, "{what} cut to {len}");
            }
            assert_eq!(rig.delta(), [], "{what}");
        }
    }
    // ARP that is not Ethernet/IPv4 names no VIP, whatever its bytes are.
    let arp = frame::arp(&[], ArpOperation::Request, CLIENT4, VIP4);
    for (at, xor) in [(15, 2), (16, 8), (18, 2), (19, 6)] {
        let mut f = arp.clone();
        f[at] ^= xor;
        assert_eq!(rig.xdp(&f).0, Action::Pass, "byte {at}");
    }
    for kind in [0u16, 0x0026, 0x0842, 0x88cc, 0x88f7, 0xffff] {
        assert_eq!(
            rig.xdp(&frame::ethernet(&[], kind, &arp[14..])).0,
            Action::Pass,
            "{kind:#x}"
        );
    }
    assert_eq!(rig.delta(), []);
}

#[test]
fn foreign_claims_are_reported_while_we_own() {
    let mut rig = Rig::new();
    let claims = |tags| {
        vec![
            (
                "request",
                IpAddr::V4(VIP4),
                frame::arp(tags, ArpOperation::Request, VIP4, CLIENT4),
            ),
            (
                "reply",
                VIP4.into(),
                frame::arp(tags, ArpOperation::Reply, VIP4, LINK4),
            ),
            (
                "gratuitous request",
                VIP4.into(),
                frame::arp(tags, ArpOperation::Request, VIP4, VIP4),
            ),
            (
                "gratuitous reply",
                VIP4.into(),
                frame::arp(tags, ArpOperation::Reply, VIP4, VIP4),
            ),
            (
                "NA",
                VIP6.into(),
                frame::advertise(tags, VIP6, ALL_NODES, VIP6),
            ),
            (
                "NA from a link-local",
                VIP6.into(),
                frame::advertise(tags, CLIENT6, LINK6, VIP6),
            ),
        ]
    };
    for tags in TAGS {
        for (what, _, f) in claims(tags) {
            assert_eq!(rig.xdp(&f).0, Action::Pass, "{what}");
        }
    }
    assert!(rig.records().is_empty(), "nothing owned, nothing foreign");
    assert_eq!(rig.delta(), []);
    rig.own(GROUP, boot_ns() + MINUTE);
    for tags in TAGS {
        for (what, address, f) in claims(tags) {
            let before = boot_ns();
            rig.delta();
            assert_eq!(rig.xdp(&f).0, Action::Pass, "{what}");
            assert_eq!(
                rig.delta(),
                [("foreign_claims", 1), ("to_user", 1)],
                "{what}"
            );
            let records = rig.records();
            assert_eq!(records.len(), 1, "{what}");
            let r = records[0];
            assert_eq!(RecordKind::from_u32(r.kind), Some(RecordKind::ForeignClaim));
            let mut key = [0; 16];
            key[..8].copy_from_slice(&r.message.set.0[0].to_le_bytes());
            key[8..].copy_from_slice(&r.message.set.0[1].to_le_bytes());
            assert_eq!(key, address_key(address), "{what}");
            assert_eq!(r.message.seq.to_le_bytes()[..6], THERE, "{what}");
            assert_eq!(r.message.re_seq, u64::from(GROUP));
            assert_eq!(r.ifindex, 1);
            assert!(r.now >= before && r.now <= boot_ns());
            // A flood of the same is counted, and not reported.
            let first = boot_ns();
            for _ in 0..100 {
                rig.xdp(&f);
            }
            assert!(
                rig.records().len() as u64 <= (boot_ns() - first) / 100_000_000 + 1,
                "{what}"
            );
            assert!(rig.delta().contains(&("foreign_claims", 100)), "{what}");
            std::thread::sleep(std::time::Duration::from_millis(101));
        }
        // Asking for it, or sending to it, claims nothing.
        for (what, f) in for_the_vip(tags) {
            rig.xdp(&f);
            assert!(rig.records().is_empty(), "{what}");
        }
    }
    rig.table.lease.store(LeaseWord::until(boot_ns(), CV).0);
    for (what, _, f) in claims(&[]) {
        rig.xdp(&f);
        assert!(rig.records().is_empty(), "{what}: the lease is over");
    }
}

#[test]
fn vips_that_are_taken_away_are_free() {
    let mut rig = Rig::new();
    let f = frame::udp(&[], (CLIENT4.into(), 1), (VIP4.into(), 80), b"x");
    assert_eq!(rig.xdp(&f).0, Action::Drop);
    rig.datapath
        .set_vips(&[(OTHER_VIP4.into(), GROUP)])
        .unwrap();
    assert_eq!(rig.xdp(&f).0, Action::Pass);
    let f = frame::udp(&[], (CLIENT4.into(), 1), (OTHER_VIP4.into(), 80), b"x");
    assert_eq!(rig.xdp(&f).0, Action::Drop);
}
