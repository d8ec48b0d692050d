//! Frames to begin with.

use agent_common::{
    Set,
    wire::{Kind, LEN, MAGIC, Message, VERSION, flags},
};

use super::{
    CLUSTER, CV, GENERATION, GRANTED, INCARNATION, MINE, NOW, PORT, SEQ, ack, choice, ip, keys,
    vmac,
};

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const HERE: [u8; 6] = [2, 0xbb, 0, 0, 0, 1];
const THERE: [u8; 6] = [2, 0xaa, 0, 0, 0, 2];

fn v4(src: [u8; 4], dst: [u8; 4], proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0];
    p[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    p.extend(src);
    p.extend(dst);
    let check = !ack::sum(&p, 0) as u16;
    p[10..12].copy_from_slice(&check.to_be_bytes());
    p.extend(payload);
    p
}

fn v6(src: &str, dst: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0, 0, 0, next, 255];
    p[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    p.extend(ip(src));
    p.extend(ip(dst));
    p.extend(payload);
    p
}

fn nd(kind: u8, target: &str) -> Vec<u8> {
    let mut p = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    p.extend(ip(target));
    p.extend([1, 1, 2, 0xaa, 0, 0, 0, 2]);
    p
}

fn arp(hw: u8, op: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut p = vec![0, hw, 8, 0, 6, 4, 0, op];
    p.extend(THERE);
    p.extend(sender);
    p.extend([0; 6]);
    p.extend(target);
    p
}

/// A signed message in its shortest form, in UDP.
fn datagram(m: Message) -> Vec<u8> {
    let mut bytes = [0; LEN];
    let mut m = m;
    let length = m.seal(&keys(), &mut bytes);
    let mut d = vec![0x9c, 0x40];
    d.extend(PORT.to_be_bytes());
    d.extend((8 + length as u16).to_be_bytes());
    d.extend([0, 0]);
    d.extend(&bytes[..length]);
    d
}

/// Each form and each kind, in both versions.
fn datagrams() -> Vec<Vec<u8>> {
    let m = |version, kind: Kind| Message {
        magic: MAGIC,
        version,
        kind: kind as u8,
        from: 2,
        cluster: CLUSTER,
        generation: GENERATION,
        max_promise_ms: 10_000,
        incarnation: INCARNATION,
        clock: 5,
        seq: 5,
        promise_us: 50_000,
        cv: CV,
        set: Set::of(GRANTED),
        ..Message::default()
    };
    let mut all = Vec::new();
    for version in [VERSION, VERSION - 1] {
        let beat = m(version, Kind::Heartbeat);
        all.push(beat);
        all.push(Message {
            flags: flags::SOFT | flags::NEXT,
            soft: 1,
            ..beat
        });
        all.push(Message {
            ask_cv: CV + 1,
            ask_set: Set::of(GRANTED).with(GRANTED + 1),
            ..beat
        });
        let to_me = |kind| Message {
            to: 1,
            re_incarnation: MINE,
            re_seq: SEQ,
            re_clock: NOW - 1_000_000,
            cv: SEQ,
            ..m(version, kind)
        };
        all.push(to_me(Kind::Ack));
        all.push(to_me(Kind::Grant));
        all.push(to_me(Kind::Regressed));
    }
    all.into_iter().map(datagram).collect()
}

pub(super) fn all() -> Vec<Vec<u8>> {
    let (client, link) = ([10, 0, 0, 9], [10, 0, 0, 1]);
    let (vip, router) = ([10, 0, 0, 100], [10, 0, 0, 200]);
    let mut packets: Vec<(u16, Vec<u8>)> = vec![
        (ARP, arp(1, 1, client, vip)),
        (ARP, arp(6, 2, vip, client)),
        (ARP, arp(1, 1, vip, vip)),
        (ARP, arp(1, 1, client, router)),
        (ARP, arp(1, 1, router, client)),
        (ARP, arp(1, 2, router, client)),
        (ARP, arp(1, 1, router, router)),
        (IPV4, v4(client, vip, 6, &[0; 20])),
        (IPV4, v4(vip, client, 17, &[0; 8])),
        (IPV4, v4(client, [192, 0, 2, 7], 17, &[0; 8])),
        (IPV4, v4(router, client, 1, &[0; 8])),
        (IPV6, v6("fd00::9", "fd00::100", 6, &[0; 20])),
        (
            IPV6,
            v6("fd00::9", "ff02::1:ff00:100", 58, &nd(135, "fd00::100")),
        ),
        (IPV6, v6("fe80::1", "ff02::1", 58, &nd(136, "fd00::100"))),
        (IPV6, v6("fd00::200", "ff02::1", 58, &nd(136, "fd00::200"))),
        (
            IPV6,
            v6("fd00::9", "ff02::1:ff00:200", 58, &nd(135, "fd00::200")),
        ),
        (0x88cc, vec![0; 30]),
    ];
    let behind = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &nd(135, "fd00::100")].concat();
    packets.push((IPV6, v6("fd00::9", "ff02::1:ff00:100", 0, &behind)));
    for d in datagrams() {
        packets.push((IPV4, v4([10, 0, 0, 2], link, 17, &d)));
        packets.push((IPV6, v6("fd00::2", "fd00::1", 17, &d)));
    }
    let states = [
        choice::GRANT,
        choice::GRANT | choice::SIGN | choice::OTHER_KEY,
        choice::GRANT | choice::OPEN | choice::ROUTER_OPEN,
    ];
    let mut all = Vec::new();
    for (i, (kind, packet)) in packets.iter().enumerate() {
        for (tags, state) in [0, 1, 2, 3, 5].into_iter().zip(states.into_iter().cycle()) {
            if tags > 1 && i % 5 != 0 {
                continue;
            }
            for (to, from) in [(HERE, THERE), (vmac(), THERE), (HERE, vmac())] {
                if to != HERE && i % 2 != 0 {
                    continue;
                }
                let mut f = vec![state];
                f.extend(to);
                f.extend(from);
                for tag in 0..tags {
                    f.extend(if tag == 0 { [0x88u8, 0xa8] } else { [0x81, 0] });
                    f.extend([0, 0]);
                }
                f.extend(kind.to_be_bytes());
                f.extend(packet);
                all.push(f);
            }
        }
    }
    all
}
