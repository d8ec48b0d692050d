//! Frames through the XDP and the TC program (their sources on the host), with a second opinion on what they are.

use agent_common::{
    Set,
    record::{AddressKey, address_key},
    siphash::Key,
    state::{LAYOUT, LeaseWord},
    wire::{self, Kind, LEN, Message},
};
use heartline_ebpf_host::Node;
use std::{cell::OnceCell, net::IpAddr};

const NOW: u64 = 1 << 50;
const PORT: u16 = 4747;
const GROUP: u8 = 3;
const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

fn ip(text: &str) -> AddressKey {
    address_key(text.parse::<IpAddr>().expect("an address"))
}

thread_local! {
    static NODE: OnceCell<(Node, [AddressKey; 2])> = const { OnceCell::new() };
}

/// Runs one input: a byte of choices, then a frame.
pub fn run(data: &[u8]) {
    let Some((choice, frame)) = data.split_first() else {
        return;
    };
    NODE.with(|cell| {
        let (node, vips) = cell.get_or_init(|| {
            let vips = [ip("10.0.0.100"), ip("fd00::100")];
            let links = [ip("10.0.0.1"), ip("fd00::1")];
            let node = Node::new(Key(1, 2), &vips.map(|v| (v, u32::from(GROUP))), &links);
            (node, vips)
        });
        one(node, vips, *choice, frame);
    });
}

fn one(node: &Node, vips: &[AddressKey], choice: u8, frame: &[u8]) {
    set_up(node, choice);
    let open = choice & 1 != 0;
    let mut out = frame.to_vec();
    // The engine cannot find a MAC by itself.
    if choice & 2 != 0 {
        sign(node, &mut out);
    }
    let sent = out.clone();
    let gate = node.table().gate.load();
    let action = node.xdp(&mut out, 1, NOW);
    assert!(matches!(action, DROP | PASS | TX), "action {action}");
    if action != TX {
        assert!(out == sent, "only an ack changes the frame");
    }
    assert!(node.table().gate.load().minus(gate).is_empty());
    let seen = look(&sent);
    let to_vip = seen.to.iter().any(|a| vips.contains(a));
    if action == PASS && to_vip {
        assert!(open, "a frame for a VIP passes a shut gate: {seen:?}");
    }
    if action == DROP && !to_vip && !seen.heartbeat {
        assert!(
            seen.unread,
            "a frame for nobody of ours is dropped: {seen:?}"
        );
    }
    if action == TX {
        assert!(
            seen.heartbeat && choice & 2 != 0,
            "an ack for what was not signed"
        );
        assert_eq!(out.len(), sent.len());
        assert_eq!(
            (&out[..6], &out[6..12]),
            (&sent[6..12], &sent[..6]),
            "sent back"
        );
    }

    let action = node.egress(&sent, NOW);
    let as_vip = seen.from.iter().any(|a| vips.contains(a));
    match action {
        -1 => assert!(
            open || !as_vip,
            "a frame speaks as a VIP through a shut gate: {seen:?}"
        ),
        2 => assert!(
            !open && as_vip || seen.unread,
            "dropped without a reason: {seen:?}"
        ),
        other => panic!("TC action {other}"),
    }
    node.counters();
    while node.record().is_some() {}
}

/// A node with or without a lease, with or without a grant to node 2.
fn set_up(node: &Node, choice: u8) {
    node.copy_table(&Default::default());
    let sh = node.table();
    sh.id.store(1);
    sh.cluster.store(9);
    sh.generation.store(7);
    sh.port.store(u64::from(PORT));
    sh.max_promise.store(10_000_000_000);
    sh.voters.store(0b111);
    sh.majority.store(2);
    sh.incarnation.store(500);
    sh.run_cv.store(5);
    if choice & 1 != 0 {
        sh.gate.store(Set::of(GROUP));
        sh.lease.store(LeaseWord::until(NOW + 40_000_000, 5).0);
    }
    if choice & 4 != 0 {
        let p = sh.peer(2);
        p.incarnation.store(1_000);
        p.claim[0].set.store(Set::of(7));
        p.claim[0].cv.store(77);
        p.word.store(1);
    }
    if choice & 8 == 0 {
        sh.layout.store(LAYOUT);
    }
}

/// Signs the message of a heartbeat, tags before it or not.
fn sign(node: &Node, frame: &mut [u8]) {
    let Some((l3, kind)) = network(frame) else {
        return;
    };
    let at = l3 + 8 + if kind == 0x0800 { 20 } else { 40 };
    let Some(place) = frame.get_mut(at..).and_then(|f| f.first_chunk_mut::<LEN>()) else {
        return;
    };
    *place = node.sign(Message::from_bytes(place)).to_bytes();
}

/// What a receiver makes of a frame.
#[derive(Debug, Default)]
struct Seen {
    /// Addresses that it is for, as a local identity of the receiver.
    to: Vec<AddressKey>,
    /// Addresses that it speaks as.
    from: Vec<AddressKey>,
    heartbeat: bool,
    /// It hides its network header, or what a neighbour message is about, behind more than anybody sends.
    unread: bool,
}

fn be16(f: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*f.get(at..)?.first_chunk()?))
}

fn v4(f: &[u8], at: usize) -> Option<AddressKey> {
    let a = *f.get(at..)?.first_chunk::<4>()?;
    Some(address_key(IpAddr::from(a)))
}

fn v6(f: &[u8], at: usize) -> Option<AddressKey> {
    f.get(at..)?.first_chunk::<16>().copied()
}

/// Offset and type of the network header. The kernel takes off any number of tags that belong to no VLAN device.
fn network(f: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    loop {
        let kind = be16(f, at)?;
        if kind != 0x8100 && kind != 0x88a8 {
            return Some((at + 2, kind));
        }
        at += 4;
    }
}

fn look(f: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let _ = look_into(f, &mut seen);
    seen
}

fn look_into(f: &[u8], seen: &mut Seen) -> Option<()> {
    let mut deepest = 12;
    while matches!(be16(f, deepest), Some(0x8100 | 0x88a8)) {
        deepest += 4;
    }
    seen.unread = deepest > 12 + 4 * 4;
    let (l3, kind) = network(f)?;
    match kind {
        // The kernel takes ARP of Ethernet and of IEEE 802 (arp_process in net/ipv4/arp.c).
        0x0806 if matches!(be16(f, l3)?, 1 | 6) && f.get(l3 + 2..l3 + 6)? == [8, 0, 6, 4] => {
            let sender = v4(f, l3 + 14)?;
            seen.from.push(sender);
            let target = v4(f, l3 + 24)?;
            // A gratuitous one tells of somebody else.
            if target != sender {
                seen.to.push(target);
            }
        }
        0x0800 => {
            seen.from.push(v4(f, l3 + 12)?);
            let dst = v4(f, l3 + 16)?;
            seen.to.push(dst);
            seen.heartbeat = f.get(l3) == Some(&0x45)
                && f.get(l3 + 9) == Some(&17)
                && be16(f, l3 + 6)? & 0x3fff == 0
                && be16(f, l3 + 22)? == PORT
                && dst == ip("10.0.0.1");
        }
        0x86dd => {
            seen.from.push(v6(f, l3 + 8)?);
            let dst = v6(f, l3 + 24)?;
            seen.to.push(dst);
            let (mut next, mut at) = (*f.get(l3 + 6)?, l3 + 40);
            seen.heartbeat = next == 17 && be16(f, at + 2) == Some(PORT) && dst == ip("fd00::1");
            let mut headers = 0;
            // Hop-by-hop, routing, destination options (RFC 8200); neighbour messages in fragments are refused (RFC 6980).
            while matches!(next, 0 | 43 | 60) {
                headers += 1;
                seen.unread |= headers > 4;
                next = *f.get(at)?;
                at += 8 + 8 * usize::from(*f.get(at + 1)?);
            }
            if next == 58 {
                let kind = *f.get(at)?;
                let target = v6(f, at + 8)?;
                match kind {
                    135 => seen.to.push(target),
                    136 => seen.from.push(target),
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Some(())
}

/// Frames of each kind that the programs know, in each state of the node.
pub fn seeds() -> Vec<Vec<u8>> {
    let v4 = |src: [u8; 4], dst: [u8; 4], proto: u8, payload: &[u8]| {
        let mut p = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0];
        p[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        p.extend(src);
        p.extend(dst);
        p.extend(payload);
        p
    };
    let v6 = |src: &str, dst: &str, next: u8, payload: &[u8]| {
        let mut p = vec![0x60, 0, 0, 0, 0, 0, next, 255];
        p[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        p.extend(ip(src));
        p.extend(ip(dst));
        p.extend(payload);
        p
    };
    let nd = |kind: u8, target: &str| {
        let mut p = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        p.extend(ip(target));
        p.extend([1, 1, 2, 0xaa, 0, 0, 0, 2]);
        p
    };
    let arp = |hw: u8, op: u8, sender: [u8; 4], target: [u8; 4]| {
        let mut p = vec![0, hw, 8, 0, 6, 4, 0, op, 2, 0xaa, 0, 0, 0, 2];
        p.extend(sender);
        p.extend([0; 6]);
        p.extend(target);
        p
    };
    let heartbeat = |kind: Kind| {
        let m = Message {
            magic: wire::MAGIC,
            version: wire::VERSION,
            kind: kind as u8,
            from: 2,
            cluster: 9,
            generation: 7,
            max_promise_ms: 10_000,
            incarnation: 1_000,
            clock: 5,
            seq: 5,
            promise_us: 50_000,
            cv: 77,
            set: Set::of(7),
            ..Message::default()
        };
        let mut d = vec![0x9c, 0x40];
        d.extend(PORT.to_be_bytes());
        d.extend((8 + LEN as u16).to_be_bytes());
        d.extend([0, 0]);
        d.extend(m.to_bytes());
        d
    };
    let (client, link, vip) = ([10, 0, 0, 9], [10, 0, 0, 1], [10, 0, 0, 100]);
    let packets: Vec<(u16, Vec<u8>)> = vec![
        (0x0806, arp(1, 1, client, vip)),
        (0x0806, arp(6, 2, vip, client)),
        (0x0806, arp(1, 1, vip, vip)),
        (0x0800, v4(client, vip, 6, &[0; 20])),
        (0x0800, v4(vip, client, 17, &[0; 8])),
        (
            0x0800,
            v4([10, 0, 0, 2], link, 17, &heartbeat(Kind::Heartbeat)),
        ),
        (0x0800, v4([10, 0, 0, 2], link, 17, &heartbeat(Kind::Grant))),
        (0x0800, v4([10, 0, 0, 2], link, 17, &heartbeat(Kind::Ack))),
        (
            0x86dd,
            v6("fd00::2", "fd00::1", 17, &heartbeat(Kind::Heartbeat)),
        ),
        (0x86dd, v6("fd00::9", "fd00::100", 6, &[0; 20])),
        (
            0x86dd,
            v6("fd00::9", "ff02::1:ff00:100", 58, &nd(135, "fd00::100")),
        ),
        (0x86dd, v6("fe80::1", "ff02::1", 58, &nd(136, "fd00::100"))),
        (
            0x86dd,
            v6(
                "fd00::9",
                "ff02::1:ff00:100",
                0,
                &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &nd(135, "fd00::100")].concat(),
            ),
        ),
        (0x88cc, vec![0; 30]),
    ];
    let mut all = Vec::new();
    for (i, (kind, packet)) in packets.iter().enumerate() {
        for tags in [0, 1, 2, 3, 5] {
            if tags > 1 && i % 5 != 0 {
                continue;
            }
            let mut f = vec![6, 2, 0xbb, 0, 0, 0, 1, 2, 0xaa, 0, 0, 0, 2];
            for tag in 0..tags {
                f.extend(if tag == 0 { [0x88u8, 0xa8] } else { [0x81, 0] });
                f.extend([0, 0]);
            }
            f.extend(kind.to_be_bytes());
            f.extend(packet);
            all.push(f);
        }
    }
    all
}
