//! Gateway VIPs: the virtual MAC passes the gate only with bit and lease, whatever the frame carries; and nobody but the
//! virtual MAC speaks for the VIP.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_common::record::virtual_mac;
use heartline_bpf_tests::{
    Action, Rig, boot_ns,
    consts::*,
    frame::{self, QINQ, THERE, VLAN},
};
use smoltcp::wire::{ArpOperation, IpProtocol};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
const FAR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MINUTE: u64 = 60_000_000_000;

const TAGS: [&[(u16, u16)]; 3] = [&[], &[(VLAN, 9)], &[(QINQ, 5), (VLAN, 9)]];

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.datapath
        .set_gated(
            CLUSTER,
            &[
                (VIP4.into(), GROUP, true),
                (VIP6.into(), GROUP, true),
                (OTHER_VIP4.into(), OTHER_GROUP, false),
            ],
        )
        .expect("the maps");
    rig.delta();
    rig
}

fn vmac() -> [u8; 6] {
    virtual_mac(CLUSTER, GROUP)
}

fn to(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

fn from(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// Frames that a router passes on, and others that name no address at all.
fn through(tags: &[(u16, u16)]) -> Vec<Vec<u8>> {
    vec![
        frame::udp(tags, (CLIENT4.into(), 1), (FAR4.into(), 53), b"x"),
        frame::udp(tags, (CLIENT6.into(), 1), (FAR6.into(), 53), b"x"),
        frame::ip(tags, CLIENT4.into(), FAR4.into(), IpProtocol::Tcp, &[0; 20]),
        frame::arp(tags, ArpOperation::Reply, CLIENT4, LINK4),
        frame::ethernet(tags, 0x88cc, &[0; 46]),
        frame::ethernet(tags, 0x8847, &[0; 46]),
    ]
}

#[test]
fn a_virtual_mac_is_let_in_with_gate_bit_and_lease_only() {
    let mut rig = rig();
    for tags in TAGS {
        for f in through(tags) {
            let f = to(vmac(), f);
            assert_eq!(rig.xdp(&f).0, Action::Drop, "shut: {f:x?}");
            assert_eq!(rig.delta(), [("gate_in_drop", 1)]);
        }
    }
    rig.own(GROUP, boot_ns() + MINUTE);
    for tags in TAGS {
        for f in through(tags) {
            let f = to(vmac(), f);
            assert_eq!(rig.xdp(&f).0, Action::Pass, "open: {f:x?}");
            assert_eq!(rig.delta(), [("gate_in", 1)]);
        }
    }
    // The lease alone shuts it.
    rig.own(GROUP, boot_ns() - 1);
    let f = to(vmac(), through(&[]).remove(0));
    assert_eq!(rig.xdp(&f).0, Action::Drop);
}

#[test]
fn an_open_virtual_mac_opens_no_other_vip() {
    let rig = rig();
    rig.own(GROUP, boot_ns() + MINUTE);
    let f = frame::udp(&[], (CLIENT4.into(), 1), (OTHER_VIP4.into(), 53), b"x");
    assert_eq!(rig.xdp(&to(vmac(), f)).0, Action::Drop);
}

#[test]
fn other_macs_are_not_touched() {
    let mut rig = rig();
    let like = |at: usize| {
        let mut mac = vmac();
        mac[at] ^= 4;
        mac
    };
    for tags in TAGS {
        for f in through(tags) {
            for mac in [frame::HERE, [0xff; 6], virtual_mac(CLUSTER, OTHER_GROUP)]
                .into_iter()
                .chain((0..6).map(like))
            {
                assert_eq!(rig.xdp(&to(mac, f.clone())).0, Action::Pass, "{mac:x?}");
                assert_eq!(rig.egress(&from(mac, f.clone())), Action::Pass, "{mac:x?}");
            }
        }
    }
    assert_eq!(rig.delta(), []);
}

#[test]
fn a_virtual_mac_is_let_out_with_gate_bit_and_lease_only() {
    let mut rig = rig();
    let all = |rig: &mut Rig, want, name| {
        for tags in TAGS {
            for f in through(tags) {
                let f = from(vmac(), f);
                assert_eq!(rig.egress(&f), want, "{f:x?}");
                let counted = rig.delta();
                if want == Action::Drop {
                    assert_eq!(counted, [(name, 1)]);
                }
            }
        }
        // The first frame of every device: a report that it listens to a multicast group.
        let report = frame::ip(
            &[],
            Ipv6Addr::UNSPECIFIED.into(),
            ALL_NODES.into(),
            IpProtocol::Icmpv6,
            &[143, 0, 0, 0, 0, 0, 0, 0],
        );
        assert_eq!(rig.egress(&from(vmac(), report)), want);
        rig.delta();
    };
    all(&mut rig, Action::Drop, "gate_out_drop");
    rig.own(GROUP, boot_ns() + MINUTE);
    all(&mut rig, Action::Pass, "gate_out");
    rig.own(GROUP, boot_ns() - 1);
    all(&mut rig, Action::Drop, "gate_out_drop");
}

#[test]
fn only_the_virtual_mac_answers_for_a_gateway() {
    let rig = rig();
    let claims = |tags| {
        [
            frame::arp(tags, ArpOperation::Reply, VIP4, CLIENT4),
            frame::arp(tags, ArpOperation::Request, VIP4, VIP4),
            frame::arp(tags, ArpOperation::Reply, VIP4, VIP4),
            frame::advertise(tags, VIP6, ALL_NODES, VIP6),
            frame::advertise(tags, LINK6, CLIENT6, VIP6),
        ]
    };
    for (open, with_vmac) in [(false, Action::Drop), (true, Action::Pass)] {
        if open {
            rig.own(GROUP, boot_ns() + MINUTE);
        }
        for tags in TAGS {
            for f in claims(tags) {
                assert_eq!(rig.egress(&from(vmac(), f.clone())), with_vmac, "{f:x?}");
                assert_eq!(rig.egress(&from(THERE, f.clone())), Action::Drop, "{f:x?}");
                let other = virtual_mac(CLUSTER, OTHER_GROUP);
                assert_eq!(rig.egress(&from(other, f.clone())), Action::Drop);
            }
            // What it sends as an ordinary host may carry any MAC.
            let f = frame::udp(tags, (VIP4.into(), 53), (CLIENT4.into(), 1), b"x");
            assert_eq!(rig.egress(&from(THERE, f)), with_vmac);
        }
    }
    // A VIP that is no gateway answers with the device's own MAC.
    rig.own(OTHER_GROUP, boot_ns() + MINUTE);
    let f = frame::arp(&[], ArpOperation::Reply, OTHER_VIP4, CLIENT4);
    assert_eq!(rig.egress(&from(THERE, f)), Action::Pass);
}

#[test]
fn a_question_in_the_name_of_a_gateway_is_asked_in_nobodys() {
    let rig = rig();
    for tags in TAGS {
        let asked = frame::arp(tags, ArpOperation::Request, VIP4, CLIENT4);
        let f = from(THERE, asked);
        rig.own(GROUP, boot_ns() - 1);
        assert_eq!(rig.egress(&f), Action::Drop, "shut");
        rig.own(GROUP, boot_ns() + MINUTE);
        let (action, out) = rig.egress_out(&f);
        assert_eq!(action, Action::Pass);
        let probe = frame::arp(tags, ArpOperation::Request, Ipv4Addr::UNSPECIFIED, CLIENT4);
        assert_eq!(out, from(THERE, probe), "an ARP probe, RFC 5227");
        // With the virtual MAC it is asked as it is.
        assert_eq!(rig.egress(&from(vmac(), f)), Action::Pass);
    }
}

/// Padding would make a whole ARP packet of it on the wire.
#[test]
fn a_claim_that_is_cut_off_is_stopped() {
    let mut rig = rig();
    rig.own(GROUP, boot_ns() + MINUTE);
    for tags in TAGS {
        for operation in [ArpOperation::Request, ArpOperation::Reply] {
            let whole = from(THERE, frame::arp(tags, operation, VIP4, CLIENT4));
            for cut in 1..=10 {
                let f = &whole[..whole.len() - cut];
                rig.delta();
                assert_eq!(rig.egress(f), Action::Drop, "{f:x?}");
                assert_eq!(rig.delta(), [("gate_out_drop", 1)]);
            }
            // Without all of the sender's address it is nobody's.
            let f = &whole[..whole.len() - 11];
            assert_eq!(rig.egress(f), Action::Pass, "{f:x?}");
        }
    }
}

#[test]
fn without_a_table_a_virtual_mac_is_shut() {
    let mut rig = Rig::unidentified();
    rig.datapath
        .set_gated(CLUSTER, &[(VIP4.into(), GROUP, true)])
        .expect("the maps");
    let f = through(&[]).remove(0);
    assert_eq!(rig.xdp(&to(vmac(), f.clone())).0, Action::Drop);
    assert_eq!(rig.egress(&from(vmac(), f.clone())), Action::Drop);
    // And gone with its last VIP.
    rig.datapath.set_gated(CLUSTER, &[]).expect("the maps");
    assert_eq!(rig.xdp(&to(vmac(), f.clone())).0, Action::Pass);
    assert_eq!(rig.egress(&from(vmac(), f)), Action::Pass);
}
