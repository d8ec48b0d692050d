//! Frames of a group that moves are kept for user space, whole and in order, whether the gate is open or shut.

use std::net::{Ipv4Addr, Ipv6Addr};

use agent_common::{
    held::{HELD_MAX, Held, Taker},
    record::address_key,
};
use heartline::datapath::{HeldItem, HeldRing};
use heartline_bpf_tests::{
    Action, Rig, boot_ns,
    consts::*,
    frame::{self, VLAN},
};
use smoltcp::wire::ArpOperation;

const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
const MINUTE: u64 = 60_000_000_000;

fn rig() -> (Rig, HeldRing) {
    let mut rig = Rig::new();
    let held = rig.datapath.take_held().expect("the ring of held frames");
    (rig, held)
}

fn request(length: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..length).map(|i| i as u8 ^ 0x5a).collect();
    frame::udp(&[], (CLIENT4.into(), 1), (VIP4.into(), 53), &payload)
}

fn kept(ring: &mut HeldRing) -> Option<Held> {
    match ring.pop() {
        Some(HeldItem::Frame(held)) => Some(held),
        Some(HeldItem::Taker(taker)) => panic!("no frame: {taker:?}"),
        None => None,
    }
}

fn taker(ring: &mut HeldRing) -> Option<Taker> {
    match ring.pop() {
        Some(HeldItem::Taker(taker)) => Some(taker),
        Some(HeldItem::Frame(held)) => panic!("a frame: {held:?}"),
        None => None,
    }
}

#[test]
fn a_group_that_moves_keeps_its_frames_gate_open_or_shut() {
    let (mut rig, mut ring) = rig();
    let plain = request(32);
    let tagged = frame::udp(
        &[(VLAN, 9)],
        (CLIENT4.into(), 1),
        (VIP4.into(), 53),
        b"tagged",
    );
    let v6 = frame::udp(&[], (CLIENT6.into(), 1), (VIP6.into(), 53), b"six");
    let solicit = frame::solicit(&[], CLIENT6, VIP6, VIP6);
    for open in [false, true] {
        if open {
            rig.own(GROUP, boot_ns() + MINUTE);
        }
        let before = if open { Action::Pass } else { Action::Drop };
        assert_eq!(rig.xdp(&plain).0, before);
        assert!(kept(&mut ring).is_none(), "nothing is held unasked");

        let from = boot_ns();
        rig.datapath.hold(GROUP, from + MINUTE).expect("held");
        for frame in [&plain, &tagged, &v6] {
            assert_eq!(rig.xdp(frame), (Action::Drop, frame.clone()));
        }
        // Whoever has the VIP answers neighbours.
        assert_eq!(rig.xdp(&solicit).0, before);
        let arp = frame::arp(&[], ArpOperation::Request, CLIENT4, VIP4);
        assert_eq!(rig.xdp(&arp).0, before);
        // Another group's.
        let other = frame::udp(&[], (CLIENT4.into(), 1), (OTHER_VIP4.into(), 53), b"x");
        assert_eq!(rig.xdp(&other).0, Action::Drop);
        for frame in [&plain, &tagged, &v6] {
            let held = kept(&mut ring).expect("held");
            assert_eq!(&held.frame[..usize::from(held.length)], frame);
            assert_eq!(held.group, GROUP);
            let vip = if frame == &v6 {
                VIP6.into()
            } else {
                VIP4.into()
            };
            assert_eq!(held.address, address_key(vip));
            assert!(held.now >= from && held.now <= boot_ns());
        }
        assert!(kept(&mut ring).is_none());

        rig.datapath.hold(GROUP, boot_ns()).expect("held");
        assert_eq!(rig.xdp(&plain).0, before, "its time is over");
        rig.datapath.hold(GROUP, 0).expect("held");
        assert_eq!(rig.xdp(&plain).0, before);
        assert!(kept(&mut ring).is_none());
    }
}

#[test]
fn frames_of_all_lengths_are_kept_whole() {
    let (mut rig, mut ring) = rig();
    rig.datapath.hold(GROUP, boot_ns() + MINUTE).expect("held");
    let headers = request(0).len();
    for length in (0..40).chain(HELD_MAX - headers - 20..=HELD_MAX - headers) {
        let frame = request(length);
        assert_eq!(rig.xdp(&frame).0, Action::Drop);
        let held = kept(&mut ring).expect("held");
        assert_eq!(&held.frame[..usize::from(held.length)], frame, "{length}");
    }
    assert_eq!(rig.xdp(&request(HELD_MAX - headers + 1)).0, Action::Drop);
    assert!(kept(&mut ring).is_none(), "too long");
}

#[test]
fn whoever_announces_the_address_is_told_of() {
    let (mut rig, mut ring) = rig();
    let announced = [
        frame::arp(&[], ArpOperation::Request, VIP4, VIP4),
        frame::advertise(&[], VIP6, CLIENT6, VIP6),
    ];
    for frame in &announced {
        rig.xdp(frame);
        assert!(taker(&mut ring).is_none(), "nothing moves");
    }
    rig.datapath.hold(GROUP, boot_ns() + MINUTE).expect("held");
    for (frame, vip) in announced.iter().zip([VIP4.into(), VIP6.into()]) {
        rig.xdp(frame);
        let taker = taker(&mut ring).expect("told");
        assert_eq!(taker.address, address_key(vip));
        assert_eq!(taker.group, GROUP);
        assert_eq!(taker.mac, frame[6..12]);
    }
    let other = frame::arp(&[], ArpOperation::Request, OTHER_VIP4, OTHER_VIP4);
    rig.xdp(&other);
    assert!(taker(&mut ring).is_none(), "another group's");
}

#[test]
fn a_full_ring_loses_frames_and_nothing_else() {
    let (mut rig, mut ring) = rig();
    rig.datapath.hold(GROUP, boot_ns() + MINUTE).expect("held");
    rig.delta();
    let frame = request(1000);
    let mut full = 0;
    for _ in 0..600 {
        assert_eq!(rig.xdp(&frame).0, Action::Drop);
        full += u64::from(rig.delta().contains(&("ring_full", 1)));
    }
    let there = std::iter::from_fn(|| kept(&mut ring)).count() as u64;
    assert!(there > 60 && there + full == 600, "{there} and {full}");
}
