//! What a VIP frame can be wrapped in, good and hostile: tags, options, extension headers, other kinds of ARP, wrong lengths.
//! A shut gate lets none of it by, in or out; what is for others passes.

use std::net::{Ipv4Addr, Ipv6Addr};

use heartline_bpf_tests::{
    Action, Rig, boot_ns,
    consts::*,
    frame::{self, QINQ, VLAN},
    over_ipv4, over_ipv6,
};
use smoltcp::wire::{ArpOperation, IpProtocol};

const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x100);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MINUTE: u64 = 60_000_000_000;

/// One frame of each family for the VIP, and one as it.
type Pair = (Vec<u8>, Vec<u8>);

fn pairs(tags: &[(u16, u16)]) -> Vec<(&'static str, Pair)> {
    let tcp = |src, dst| frame::ip(tags, src, dst, IpProtocol::Tcp, &[0; 20]);
    vec![
        (
            "ARP",
            (
                frame::arp(tags, ArpOperation::Request, CLIENT4, VIP4),
                frame::arp(tags, ArpOperation::Reply, VIP4, CLIENT4),
            ),
        ),
        (
            "IPv4",
            (
                tcp(CLIENT4.into(), VIP4.into()),
                tcp(VIP4.into(), CLIENT4.into()),
            ),
        ),
        (
            "IPv6",
            (
                tcp(CLIENT6.into(), VIP6.into()),
                tcp(VIP6.into(), CLIENT6.into()),
            ),
        ),
        (
            "ND",
            (
                frame::solicit(tags, CLIENT6, SOLICITED, VIP6),
                frame::advertise(tags, LINK6, ALL_NODES, VIP6),
            ),
        ),
    ]
}

/// Shut: both are stopped and counted. Open: both pass.
#[track_caller]
fn gated(rig: &mut Rig, what: &str, (to, from): &Pair) {
    rig.table.lease.store(0);
    rig.delta();
    assert_eq!(rig.xdp(to).0, Action::Drop, "{what}: in, shut");
    assert_eq!(rig.egress(from), Action::Drop, "{what}: out, shut");
    assert_eq!(
        rig.delta(),
        [("gate_in_drop", 1), ("gate_out_drop", 1)],
        "{what}"
    );
    rig.own(GROUP, boot_ns() + MINUTE);
    assert_eq!(rig.xdp(to).0, Action::Pass, "{what}: in, open");
    assert_eq!(rig.egress(from), Action::Pass, "{what}: out, open");
    assert_eq!(rig.delta(), [("gate_in", 1), ("gate_out", 1)], "{what}");
}

/// The kernel takes off any number of tags with id 0 and delivers what is inside to the device itself.
#[test]
fn tags_up_to_four_are_looked_behind_and_more_are_dropped() {
    let mut rig = Rig::new();
    for kinds in [[VLAN; 6], [QINQ; 6], [QINQ, VLAN, QINQ, VLAN, VLAN, VLAN]] {
        for id in [0u16, 9] {
            let tags = kinds.map(|kind| (kind, id));
            for n in 0..=4 {
                for (what, pair) in pairs(&tags[..n]) {
                    gated(
                        &mut rig,
                        &format!("{what} behind {n} tags of id {id}"),
                        &pair,
                    );
                }
            }
            for n in 5..=6 {
                rig.own(GROUP, boot_ns() + MINUTE);
                for (what, (to, from)) in pairs(&tags[..n]) {
                    assert_eq!(rig.xdp(&to).0, Action::Drop, "{what} behind {n} tags");
                    assert_eq!(rig.egress(&from), Action::Drop, "{what} behind {n} tags");
                }
            }
        }
    }
    // Cut off inside the tags, it is for nobody.
    let tags = [(VLAN, 0); 4];
    let f = frame::arp(&tags, ArpOperation::Request, CLIENT4, VIP4);
    rig.table.lease.store(0);
    rig.delta();
    for len in 14..30 {
        assert_eq!(rig.xdp(&f[..len]).0, Action::Pass, "{len}");
        assert_eq!(rig.egress(&f[..len.max(15)]), Action::Pass, "{len}");
    }
    assert_eq!(rig.delta(), []);
}

/// Linux takes ARP of hardware type 1 and 6 on Ethernet (`arp_process`), and no other.
#[test]
fn arp_of_every_hardware_type() {
    let mut rig = Rig::new();
    let (to, from) = pairs(&[]).swap_remove(0).1;
    for hardware in 0..=40u16 {
        let of = |f: &[u8]| {
            let mut f = f.to_vec();
            f[14..16].copy_from_slice(&hardware.to_be_bytes());
            // Padding to the least length of Ethernet, with the VIP in it, changes nothing.
            f.extend(VIP4.octets().iter().cycle().take(18));
            f
        };
        let pair = (of(&to), of(&from));
        if hardware == 1 || hardware == 6 {
            gated(&mut rig, "ARP", &pair);
        } else {
            rig.table.lease.store(0);
            assert_eq!(rig.xdp(&pair.0).0, Action::Pass, "hardware {hardware}");
            assert_eq!(rig.egress(&pair.1), Action::Pass, "hardware {hardware}");
            assert_eq!(rig.delta(), []);
        }
    }
    // Any operation: RARP and InARP numbers, too.
    for operation in 0..=25u16 {
        let of = |f: &[u8]| {
            let mut f = f.to_vec();
            f[20..22].copy_from_slice(&operation.to_be_bytes());
            f
        };
        gated(&mut rig, "operation", &(of(&to), of(&from)));
    }
}

/// Type, hidden fields and payload of an extension header of `units` times 8 bytes more.
fn extension(next: u8, units: u8) -> Vec<u8> {
    let mut h = vec![next, units];
    h.resize(8 + 8 * usize::from(units), 0);
    h
}

/// Puts headers between the IPv6 header and what it carries.
fn behind(f: &[u8], chain: &[(u8, u8)]) -> Vec<u8> {
    let (head, upper) = f.split_at(14 + 40);
    let mut head = head.to_vec();
    let mut next = head[20];
    let mut headers = Vec::new();
    for (kind, units) in chain.iter().rev() {
        headers.push(extension(next, *units));
        next = *kind;
    }
    head[20] = next;
    headers.reverse();
    let body = [headers.concat(), upper.to_vec()].concat();
    head[18..20].copy_from_slice(&(body.len() as u16).to_be_bytes());
    [head, body].concat()
}

const HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

#[test]
fn neighbour_messages_behind_extension_headers() {
    let mut rig = Rig::new();
    let (solicit, advertise) = pairs(&[]).swap_remove(3).1;
    let chains: [&[(u8, u8)]; 9] = [
        &[(HOP, 0)],
        &[(ROUTING, 2)],
        &[(DESTINATION, 0)],
        &[(HOP, 0), (DESTINATION, 0)],
        &[(HOP, 1), (DESTINATION, 0), (ROUTING, 2)],
        &[(HOP, 0), (DESTINATION, 1), (ROUTING, 2), (DESTINATION, 3)],
        &[(DESTINATION, 150)],
        &[(HOP, 40), (ROUTING, 40), (DESTINATION, 40), (HOP, 40)],
        &[(DESTINATION, 0); 4],
    ];
    for chain in chains {
        let pair = (behind(&solicit, chain), behind(&advertise, chain));
        gated(&mut rig, &format!("{chain:?}"), &pair);
    }
    // More than anybody sends: dropped, whoever owns what.
    for n in 5..=8 {
        let chain = vec![(DESTINATION, 0); n];
        rig.own(GROUP, boot_ns() + MINUTE);
        assert_eq!(rig.xdp(&behind(&solicit, &chain)).0, Action::Drop, "{n}");
        assert_eq!(rig.egress(&behind(&advertise, &chain)), Action::Drop, "{n}");
    }
    // For another address, and cut off anywhere: for nobody of ours.
    rig.table.lease.store(0);
    let other = frame::solicit(&[], CLIENT6, SOLICITED, CLIENT6);
    let long = behind(&solicit, chains[5]);
    rig.delta();
    assert_eq!(rig.xdp(&behind(&other, chains[5])).0, Action::Pass);
    let target = 14 + 40 + 8 * (1 + 2 + 3 + 4) + 24;
    let long_out = behind(&advertise, chains[5]);
    for len in 54..target {
        assert_eq!(rig.xdp(&long[..len]).0, Action::Pass, "cut to {len}");
        assert_eq!(rig.egress(&long_out[..len]), Action::Pass, "cut to {len}");
    }
    assert_eq!(rig.delta(), []);
    assert_eq!(rig.xdp(&long[..target]).0, Action::Drop);
    // A length that leads out of the frame.
    for at in [55, 63] {
        let mut f = long.clone();
        f[at] = 255;
        assert_eq!(rig.xdp(&f).0, Action::Pass, "length at {at}");
    }
}

/// The addresses stand in the fixed header, whatever follows it.
#[test]
fn ipv6_with_any_next_header() {
    let mut rig = Rig::new();
    let (to, from) = pairs(&[]).swap_remove(2).1;
    for next in 0..=255u8 {
        let of = |f: &[u8]| {
            let mut f = f.to_vec();
            f[20] = next;
            f
        };
        gated(
            &mut rig,
            &format!("next header {next}"),
            &(of(&to), of(&from)),
        );
    }
    for chain in [
        [(HOP, 0), (FRAGMENT, 0)],
        [(FRAGMENT, 0), (FRAGMENT, 0)],
        [(51, 4), (50, 0)],
    ] {
        gated(
            &mut rig,
            &format!("{chain:?}"),
            &(behind(&to, &chain), behind(&from, &chain)),
        );
    }
}

/// Header lengths, options, fragments, totals: the addresses of IPv4 stand where they stand.
#[test]
fn ipv4_headers_of_all_kinds() {
    let mut rig = Rig::new();
    let (to, from) = pairs(&[]).swap_remove(1).1;
    let with = |f: &[u8], at: usize, value: u8| {
        let mut f = f.to_vec();
        f[at] = value;
        f
    };
    for value in 0..=255u8 {
        // Version and header length; length in all; fragment bits; protocol.
        for at in [14, 16, 17, 20, 21, 23] {
            let pair = (with(&to, at, value), with(&from, at, value));
            gated(&mut rig, &format!("byte {at} is {value}"), &pair);
        }
    }
    // With options between header and payload.
    let options = |f: &[u8]| {
        let mut f = with(f, 14, 0x4f);
        f.splice(34..34, [7u8; 40]);
        f
    };
    gated(
        &mut rig,
        "40 bytes of options",
        &(options(&to), options(&from)),
    );
}

/// A heartbeat with options, in a fragment, or behind an extension header is none; it goes to the stack.
#[test]
fn a_wrapped_heartbeat_is_none() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, agent_common::Set::of(GROUP));
    let m = rig.heartbeat();
    let f = over_ipv4(&m);
    let before = rig.snapshot();
    for (at, value) in [
        (14, 0x46),
        (14, 0x44),
        (14, 0x40),
        (14, 0x55),
        (20, 0x20),
        (21, 1),
        (23, 6),
    ] {
        let mut f = f.clone();
        f[at] = value;
        assert_eq!(rig.xdp(&f).0, Action::Pass, "byte {at} is {value:#x}");
    }
    for kind in [HOP, ROUTING, FRAGMENT, DESTINATION] {
        let f = behind(&over_ipv6(&m), &[(kind, 0)]);
        assert_eq!(rig.xdp(&f).0, Action::Pass, "header {kind}");
    }
    assert_eq!(rig.delta(), []);
    assert!(rig.snapshot() == before, "none of these was read");
    // "Do not fragment" is no fragment, and a wrong checksum of UDP no matter: the MAC is the check.
    for (at, value) in [(20, 0x40), (40, 0xff), (41, 0)] {
        let mut f = over_ipv4(&rig.heartbeat());
        f[at] = value;
        assert_eq!(rig.xdp(&f).0, Action::Tx, "byte {at} is {value:#x}");
    }
    for checksum in [[0, 0], [0xff, 0xff]] {
        let mut f = over_ipv6(&rig.heartbeat());
        f[60..62].copy_from_slice(&checksum);
        let (action, out) = rig.xdp(&f);
        assert_eq!(action, Action::Tx);
        frame::Datagram::parse(&out, 0);
    }
}

/// Every length that the UDP header can claim, and every length of the frame.
#[test]
fn a_heartbeat_of_any_length() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, agent_common::Set::of(GROUP));
    for v6 in [false, true] {
        let (udp, whole) = if v6 { (54, 254) } else { (34, 234) };
        for claimed in (0..=210u16).chain([511, 1472, 0x7fff, 0xffff]) {
            let m = rig.heartbeat();
            let mut f = if v6 { over_ipv6(&m) } else { over_ipv4(&m) };
            assert_eq!(f.len(), whole);
            f[udp + 4..udp + 6].copy_from_slice(&claimed.to_be_bytes());
            rig.delta();
            let (action, _) = rig.xdp(&f);
            let (want, counter) = match claimed {
                // A short heartbeat: of this one the MAC is elsewhere.
                120 => (Action::Drop, "drop_forged"),
                0..200 => (Action::Drop, "drop_truncated"),
                200 => (Action::Tx, "acks_out"),
                201.. => (Action::Drop, "drop_oversized"),
            };
            assert_eq!(action, want, "UDP length {claimed}");
            assert!(rig.delta().contains(&(counter, 1)), "UDP length {claimed}");
        }
        for len in 14..whole {
            let m = rig.heartbeat();
            let f = if v6 { over_ipv6(&m) } else { over_ipv4(&m) };
            rig.delta();
            let (action, _) = rig.xdp(&f[..len]);
            // Up to the port nobody can tell what it is; from there on it is a heartbeat that was cut off.
            let known = len >= udp + 4;
            assert_eq!(
                action,
                if known { Action::Drop } else { Action::Pass },
                "cut to {len}"
            );
            let counted = rig.delta();
            assert_eq!(!counted.is_empty(), known, "cut to {len}: {counted:?}");
            assert!(
                !known || counted == [("drop_truncated", 1)],
                "cut to {len}: {counted:?}"
            );
        }
    }
}

/// An address of IPv4 in IPv6 clothes has the key of the VIP itself: shut is shut. Broadcast, multicast and MPLS name none.
#[test]
fn clothes_and_crowds() {
    let mut rig = Rig::new();
    let (v, c) = (VIP4.to_ipv6_mapped(), CLIENT4.to_ipv6_mapped());
    let udp =
        |src: Ipv6Addr, dst: Ipv6Addr| frame::udp(&[], (src.into(), 1), (dst.into(), 2), b"x");
    gated(&mut rig, "mapped", &(udp(c, v), udp(v, c)));
    rig.table.lease.store(0);
    let dhcp = frame::udp(
        &[],
        (Ipv4Addr::UNSPECIFIED.into(), 68),
        (Ipv4Addr::BROADCAST.into(), 67),
        &[0; 240],
    );
    let mut others = vec![("DHCP", dhcp)];
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
        let mut f = frame::udp(
            &[],
            (CLIENT4.into(), 1),
            (Ipv4Addr::new(224, 0, 0, 1).into(), 2),
            b"x",
        );
        f[..6].copy_from_slice(&mac);
        others.push(("multicast", f));
        // To such a MAC, but for the VIP: the stack would take it.
        let mut f = pairs(&[]).swap_remove(1).1.0;
        f[..6].copy_from_slice(&mac);
        assert_eq!(rig.xdp(&f).0, Action::Drop);
    }
    rig.delta();
    let inner = pairs(&[]).swap_remove(1).1.0[14..].to_vec();
    let mpls = [vec![0, 1, 1, 64], inner.clone()].concat();
    others.push((
        "MPLS: README names tunnels as a way past the gate",
        frame::ethernet(&[], 0x8847, &mpls),
    ));
    let ipip = frame::ip(
        &[],
        CLIENT4.into(),
        LINK4.into(),
        IpProtocol::Unknown(4),
        &inner,
    );
    others.push(("IP in IP: as MPLS", ipip));
    for (what, f) in others {
        assert_eq!(rig.xdp(&f).0, Action::Pass, "{what}");
        assert_eq!(rig.delta(), [], "{what}");
    }
}

/// In a frame of several buffers the program sees the first one, which holds the headers. (It is loaded without support for
/// such frames: a driver that would hand them over refuses the program, or the MTU.)
#[test]
fn a_long_frame_is_judged_by_its_head() {
    let rig = Rig::new();
    for len in [3000, 3500, 4000, 8900] {
        let to = frame::udp(&[], (CLIENT4.into(), 1), (VIP4.into(), 53), &vec![0; len]);
        let from = frame::udp(&[], (VIP4.into(), 53), (CLIENT4.into(), 1), &vec![0; len]);
        for (open, want) in [(false, Action::Drop), (true, Action::Pass)] {
            rig.own(GROUP, if open { boot_ns() + MINUTE } else { 0 });
            assert_eq!(rig.xdp_head(&to), want, "{len}, open: {open}");
            if len < 3500 {
                // A TC test run takes one page; on the wire it reads through the skb.
                assert_eq!(rig.egress(&from), want, "{len}, open: {open}");
            }
        }
    }
    let mut rig = Rig::new();
    rig.grant(PEER, CV, agent_common::Set::of(GROUP));
    let mut f = over_ipv4(&rig.heartbeat());
    f.resize(6000, 0);
    assert_eq!(
        rig.xdp_head(&f),
        Action::Tx,
        "a heartbeat with a long tail of padding"
    );
}
