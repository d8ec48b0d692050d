//! Egress: nobody speaks as a VIP without gate bit and lease.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_common::{Set, state::LeaseWord};
use heartline_bpf_tests::{
    Action, Rig, boot_ns,
    consts::*,
    frame::{self, QINQ, VLAN},
};
use smoltcp::wire::{ArpOperation, IpProtocol};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MINUTE: u64 = 60_000_000_000;
const TAGS: [&[(u16, u16)]; 3] = [&[], &[(VLAN, 9)], &[(QINQ, 5), (VLAN, 9)]];

fn as_the_vip(tags: &[(u16, u16)]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "ARP reply",
            frame::arp(tags, ArpOperation::Reply, VIP4, CLIENT4),
        ),
        (
            "ARP request",
            frame::arp(tags, ArpOperation::Request, VIP4, CLIENT4),
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
            "UDP",
            frame::udp(tags, (VIP4.into(), 53), (CLIENT4.into(), 1), b"x"),
        ),
        (
            "TCP",
            frame::ip(tags, VIP4.into(), CLIENT4.into(), IpProtocol::Tcp, &[0; 20]),
        ),
        (
            "bare IP",
            frame::ip(
                tags,
                VIP4.into(),
                CLIENT4.into(),
                IpProtocol::Unknown(200),
                &[],
            ),
        ),
        (
            "UDP over IPv6",
            frame::udp(tags, (VIP6.into(), 53), (CLIENT6.into(), 1), b"x"),
        ),
        (
            "bare IPv6",
            frame::ip(
                tags,
                VIP6.into(),
                CLIENT6.into(),
                IpProtocol::Unknown(200),
                &[],
            ),
        ),
        ("NA", frame::advertise(tags, VIP6, ALL_NODES, VIP6)),
        (
            "NA from a link-local",
            frame::advertise(tags, LINK6, CLIENT6, VIP6),
        ),
        (
            "NA of another, from the VIP",
            frame::advertise(tags, VIP6, CLIENT6, LINK6),
        ),
        ("NS", frame::solicit(tags, VIP6, CLIENT6, CLIENT6)),
        (
            "NA cut off, from the VIP",
            frame::ip(
                tags,
                VIP6.into(),
                CLIENT6.into(),
                IpProtocol::Icmpv6,
                &[136, 0, 0, 0],
            ),
        ),
        (
            "ICMPv6 without a type, from the VIP",
            frame::ip(tags, VIP6.into(), CLIENT6.into(), IpProtocol::Icmpv6, &[]),
        ),
    ]
}

fn as_others(tags: &[(u16, u16)]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "ARP request for the VIP",
            frame::arp(tags, ArpOperation::Request, LINK4, VIP4),
        ),
        (
            "ARP reply to the VIP",
            frame::arp(tags, ArpOperation::Reply, LINK4, VIP4),
        ),
        (
            "to the VIP",
            frame::udp(tags, (LINK4.into(), 1), (VIP4.into(), 53), b"x"),
        ),
        (
            "to the VIP over IPv6",
            frame::udp(tags, (LINK6.into(), 1), (VIP6.into(), 53), b"x"),
        ),
        ("NS for the VIP", frame::solicit(tags, LINK6, VIP6, VIP6)),
        ("NA to the VIP", frame::advertise(tags, LINK6, VIP6, LINK6)),
        (
            "a heartbeat",
            frame::udp(tags, (LINK4.into(), PORT), (PEER4.into(), PORT), &[0; 192]),
        ),
        ("something else", frame::ethernet(tags, 0x88cc, &[0; 40])),
    ]
}

#[track_caller]
fn all(rig: &mut Rig, want: Action, why: &str) {
    let counter = if want == Action::Pass {
        "gate_out"
    } else {
        "gate_out_drop"
    };
    for tags in TAGS {
        for (what, f) in as_the_vip(tags) {
            rig.delta();
            assert_eq!(rig.egress(&f), want, "{what}, {why}, {} tags", tags.len());
            assert_eq!(rig.delta(), [(counter, 1)], "{what}, {why}");
        }
        for (what, f) in as_others(tags) {
            assert_eq!(rig.egress(&f), Action::Pass, "{what}, {why}");
            assert_eq!(rig.delta(), [], "{what}, {why}");
        }
    }
}

#[test]
fn a_vip_is_let_out_with_gate_bit_and_lease_only() {
    let mut rig = Rig::new();
    all(&mut rig, Action::Drop, "nothing owned");
    rig.own(GROUP, boot_ns() + MINUTE);
    all(&mut rig, Action::Pass, "owned");
    rig.table.gate.remove(Set::of(GROUP));
    all(&mut rig, Action::Drop, "bit off");
    rig.table.gate.insert(Set::of(OTHER_GROUP));
    all(&mut rig, Action::Drop, "another group's bit");
    rig.table.gate.insert(Set::of(GROUP));
    rig.table.lease.store(LeaseWord::until(boot_ns(), CV).0);
    all(&mut rig, Action::Drop, "lease run out");
    rig.table.halted.store(1);
    rig.table.gate.store(Set::EMPTY);
    all(&mut rig, Action::Drop, "halted");
}

#[test]
fn one_that_is_shut_stops_the_frame() {
    let mut rig = Rig::new();
    rig.own(OTHER_GROUP, boot_ns() + MINUTE);
    for (src, target) in [(VIP6, OTHER_VIP6), (OTHER_VIP6, VIP6)] {
        assert_eq!(
            rig.egress(&frame::advertise(&[], src, ALL_NODES, target)),
            Action::Drop
        );
    }
    assert_eq!(rig.delta(), [("gate_out_drop", 2)]);
    assert_eq!(
        rig.egress(&frame::advertise(&[], OTHER_VIP6, ALL_NODES, OTHER_VIP6)),
        Action::Pass
    );
}

#[test]
fn short_and_odd_frames_pass() {
    let mut rig = Rig::new();
    for tags in TAGS {
        for (what, f) in as_the_vip(tags) {
            // Cut off before the address it speaks as. The kernel itself refuses to run on less than an IP header.
            let l3 = 14 + 4 * tags.len();
            let (from, end) = match f[12..14] {
                [0x08, 0x06] => (15, l3 + 18),
                [0x08, 0x00] | [0x86, 0xdd] => continue,
                _ => (l3 + 1, l3 + 12),
            };
            for len in from..end {
                assert_eq!(rig.egress(&f[..len]), Action::Pass, "{what} cut to {len}");
            }
        }
    }
    let arp = frame::arp(&[], ArpOperation::Reply, VIP4, CLIENT4);
    for (at, xor) in [(15, 2), (16, 8), (18, 2), (19, 6)] {
        let mut f = arp.clone();
        f[at] ^= xor;
        assert_eq!(rig.egress(&f), Action::Pass, "byte {at}");
    }
    assert_eq!(rig.delta(), []);
}
