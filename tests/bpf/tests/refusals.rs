//! Bad messages: counted by reason, dropped, and not one word of the table changed.

use std::net::{IpAddr, Ipv4Addr};

use agent_common::{
    Set,
    kernel::CLOCK_TOLERANCE,
    keys::key_id,
    record::RecordKind,
    siphash::Key,
    wire::{Form, Kind, LEN, Message, version_ok},
};
use heartline_bpf_tests::{Action, Rig, boot_ns, consts::*, frame, over_ipv4, over_ipv6};

fn granted() -> Rig {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    rig.own(OTHER_GROUP, boot_ns() + 60_000_000_000);
    let m = rig.heartbeat();
    assert_eq!(rig.send(&m).0, Action::Tx, "the good one is good");
    rig.delta();
    rig
}

/// The frame is dropped for this reason and leaves no trace.
#[track_caller]
fn refused_frame(rig: &mut Rig, f: &[u8], reason: &'static str, why: &str) {
    let before = rig.snapshot();
    assert_eq!(rig.xdp(f).0, Action::Drop, "{why}");
    assert_eq!(rig.delta(), [(reason, 1)], "{why}");
    assert_eq!(rig.snapshot(), before, "{why}: the table changed");
    assert!(rig.records().is_empty(), "{why}: delivered");
}

#[track_caller]
fn refused(rig: &mut Rig, m: Message, reason: &'static str, why: &str) {
    let m = rig.sign(m);
    refused_frame(rig, &over_ipv4(&m), reason, why);
}

fn datagram(payload: &[u8], v6: bool) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        (PEER6.into(), LINK6.into())
    } else {
        (PEER4.into(), LINK4.into())
    };
    frame::udp(&[], (src, 40_000), (dst, PORT), payload)
}

#[test]
fn wrong_sizes() {
    let mut rig = granted();
    for v6 in [false, true] {
        let bytes = rig.heartbeat().to_bytes();
        for len in 0..LEN {
            refused_frame(
                &mut rig,
                &datagram(&bytes[..len], v6),
                // As long as the short form of a heartbeat, but another one was signed.
                if len == Form::Beat.len() {
                    "drop_forged"
                } else {
                    "drop_truncated"
                },
                &format!("{len} bytes"),
            );
        }
        for more in [1, 8, 192, 1_000] {
            let mut b = bytes.to_vec();
            b.resize(LEN + more, 0);
            refused_frame(
                &mut rig,
                &datagram(&b, v6),
                "drop_oversized",
                &format!("{more} bytes more"),
            );
        }
        // The header promises what the frame does not hold, cut off at every byte behind the ports.
        let whole = datagram(&bytes, v6);
        let l4 = whole.len() - LEN - 8;
        for len in l4 + 4..whole.len() {
            refused_frame(
                &mut rig,
                &whole[..len],
                "drop_truncated",
                &format!("frame of {len}"),
            );
        }
        // The frame holds it, the header does not say so.
        for (said, reason) in [
            (0u16, "drop_truncated"),
            (8, "drop_truncated"),
            (199, "drop_truncated"),
            (201, "drop_oversized"),
            (u16::MAX, "drop_oversized"),
        ] {
            let mut f = whole.clone();
            f[l4 + 4..l4 + 6].copy_from_slice(&said.to_be_bytes());
            refused_frame(&mut rig, &f, reason, &format!("length {said}"));
        }
    }
}

#[test]
fn every_version() {
    let mut rig = granted();
    for version in 0..=255u8 {
        let m = Message {
            version,
            ..rig.heartbeat()
        };
        if version_ok(version) {
            let m = rig.sign(m);
            let (action, out) = rig.send(&m);
            assert_eq!(action, Action::Tx, "version {version}");
            assert_eq!(out[14 + 28 + 2], version, "answered in its version");
            rig.delta();
        } else {
            refused(
                &mut rig,
                m,
                "drop_bad_version",
                &format!("version {version}"),
            );
        }
    }
}

#[test]
fn magic_cluster_sender_kind_receiver() {
    let mut rig = granted();
    for magic in [0, 0x484c, 0x4c49, u16::MAX] {
        let m = Message {
            magic,
            ..rig.heartbeat()
        };
        refused(&mut rig, m, "drop_bad_magic", "magic");
    }
    for cluster in [0, CLUSTER + 1, !CLUSTER] {
        let m = Message {
            cluster,
            ..rig.heartbeat()
        };
        refused(&mut rig, m, "drop_other_cluster", "cluster");
    }
    for from in [0, 33, 34, 64 + PEER, 128, 255] {
        let m = Message {
            from,
            ..rig.heartbeat()
        };
        refused(&mut rig, m, "drop_bad_sender", "sender outside 1 to 32");
    }
    for from in [6, 32] {
        let m = Message {
            from,
            ..rig.heartbeat()
        };
        refused(
            &mut rig,
            m,
            "drop_bad_sender",
            "sender that is no voter of this generation",
        );
    }
    for kind in [0, 7, 8, 255] {
        let m = Message {
            kind,
            ..rig.heartbeat()
        };
        refused(&mut rig, m, "drop_bad_sender", "unknown kind");
    }
    for to in [2, 3, 33, 255] {
        let m = Message {
            to,
            ..rig.heartbeat()
        };
        refused(&mut rig, m, "drop_bad_sender", "for another node");
    }
    let m = Message {
        to: ME,
        ..rig.heartbeat()
    };
    assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx);
}

/// What a message with one bit changed after signing must be dropped for.
fn reason(m: &Message, id: u16) -> &'static str {
    if m.magic != agent_common::wire::MAGIC {
        "drop_bad_magic"
    } else if !version_ok(m.version) {
        "drop_bad_version"
    } else if m.cluster != CLUSTER {
        "drop_other_cluster"
    } else if m.from == 0 || m.from > 32 {
        "drop_bad_sender"
    } else if m.key_id != id {
        "drop_unknown_key"
    } else {
        "drop_forged"
    }
}

#[test]
fn every_bit_is_covered_by_the_mac() {
    let mut rig = granted();
    for kind in [Kind::Heartbeat, Kind::Grant] {
        let m = Message {
            kind: kind as u8,
            ..rig.heartbeat()
        };
        let good = rig.sign(m).to_bytes();
        for bit in 0..LEN * 8 {
            let mut b = good;
            b[bit / 8] ^= 1 << (bit % 8);
            let why = reason(&Message::from_bytes(&b), key_id(rig.key));
            refused_frame(
                &mut rig,
                &datagram(&b, bit % 2 == 0),
                why,
                &format!("bit {bit}"),
            );
        }
    }
    // Acks take another way through the table.
    let seq = rig.heartbeat().seq;
    let good = rig.ack(PEER, seq, 1).to_bytes();
    for bit in 8 * 8..LEN * 8 {
        let mut b = good;
        b[bit / 8] ^= 1 << (bit % 8);
        let why = reason(&Message::from_bytes(&b), key_id(rig.key));
        refused_frame(
            &mut rig,
            &datagram(&b, false),
            why,
            &format!("ack, bit {bit}"),
        );
    }
}

#[test]
fn another_key() {
    let mut rig = granted();
    let key = rig.key;
    for key in [
        Key(0, 0),
        Key(key.1, key.0),
        Key(key.0 ^ 1, key.1),
        Key(key.0, key.1 ^ 1 << 63),
    ] {
        let mut m = rig.heartbeat();
        m.sign(key);
        refused_frame(&mut rig, &over_ipv4(&m), "drop_forged", "another key");
    }
    let m = Message {
        mac: 0,
        ..rig.heartbeat()
    };
    refused_frame(&mut rig, &over_ipv4(&m), "drop_forged", "no MAC");
}

#[test]
fn promises() {
    let mut rig = granted();
    for max_promise_ms in [0, 1_000, 9_999, 10_001, u32::MAX] {
        let m = Message {
            max_promise_ms,
            ..rig.heartbeat()
        };
        refused(&mut rig, m, "drop_bad_promise", "another max_promise");
    }
    for promise_us in [10_000_001, 10_001_000, u32::MAX] {
        let m = Message {
            promise_us,
            ..rig.heartbeat()
        };
        refused(&mut rig, m, "drop_bad_promise", "a promise above it");
    }
    let m = Message {
        promise_us: 10_000_000,
        ..rig.heartbeat()
    };
    assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx);
}

#[test]
fn own_id() {
    let mut rig = granted();
    for incarnation in [MY_INCARNATION, MY_INCARNATION - 1, 0] {
        let m = Message {
            from: ME,
            incarnation,
            ..rig.heartbeat()
        };
        refused(
            &mut rig,
            m,
            "drop_bad_sender",
            "a loop, or before our reboot",
        );
    }
    // Somebody else with our id, born later: rule 11.
    let m = Message {
        from: ME,
        incarnation: MY_INCARNATION + 1,
        ..rig.heartbeat()
    };
    let m = rig.sign(m);
    let before = rig.promise();
    assert_eq!(rig.send(&m).0, Action::Drop);
    assert_eq!(rig.table.halted.load(), 1, "votes no more");
    assert!(rig.table.gate.load().is_empty(), "every gate is shut");
    assert_eq!(rig.promise(), before, "promises given stand");
    let records = rig.records();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (RecordKind::from_u32(records[0].kind), records[0].message),
        (Some(RecordKind::DuplicateId), m)
    );
    let vip = frame::udp(&[], (PEER4.into(), 1), (OTHER_VIP4.into(), 80), b"x");
    rig.delta();
    assert_eq!(rig.xdp(&vip).0, Action::Drop);
    assert_eq!(rig.delta(), [("gate_in_drop", 1)]);
    let m = rig.heartbeat();
    assert_eq!(rig.send(&m).0, Action::Drop, "no ack any more");
}

#[test]
fn incarnations() {
    let mut rig = granted();
    for incarnation in [0, 1, PEER_INCARNATION - 1] {
        for kind in [Kind::Heartbeat, Kind::Grant, Kind::Ack] {
            let m = Message {
                incarnation,
                kind: kind as u8,
                ..rig.heartbeat()
            };
            refused(&mut rig, m, "drop_old_incarnation", "old incarnation");
        }
    }
}

#[test]
fn a_clock_that_goes_back() {
    let mut rig = granted();
    let table = rig.table;
    let p = table.peer(PEER);
    let high = p.hi_clock.load();
    let m = Message {
        clock: high - CLOCK_TOLERANCE,
        ..rig.heartbeat()
    };
    assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx, "reordering");
    assert_eq!(p.hi_clock.load(), high);
    rig.delta();
    for clock in [high - CLOCK_TOLERANCE - 1, 0] {
        for kind in [Kind::Heartbeat, Kind::Ack] {
            let m = Message {
                clock,
                kind: kind as u8,
                to: ME,
                re_incarnation: MY_INCARNATION,
                ..rig.heartbeat()
            };
            let m = rig.sign(m);
            let before = rig.snapshot();
            assert_eq!(rig.send(&m).0, Action::Drop);
            assert_eq!(rig.snapshot(), before);
            let records = rig.records();
            assert_eq!(records.len(), 1);
            assert_eq!(
                (RecordKind::from_u32(records[0].kind), records[0].message),
                (Some(RecordKind::Regression), m)
            );
            assert_eq!(rig.delta(), [("drop_regressed", 1), ("to_user", 1)]);
            // A flood of the same is counted, and not reported.
            let first = boot_ns();
            for _ in 0..100 {
                rig.send(&m);
            }
            assert!(rig.records().len() as u64 <= (boot_ns() - first) / 100_000_000 + 1);
            assert!(rig.delta().contains(&("drop_regressed", 100)));
            std::thread::sleep(std::time::Duration::from_millis(101));
        }
    }
}

#[test]
fn stale_sequences() {
    let mut rig = granted();
    // The window is 24 wide; within it order does not matter.
    let first = rig.heartbeat();
    let mut held: Vec<Message> = (0..23).map(|_| rig.heartbeat()).collect();
    assert_eq!(rig.send(held.last().unwrap()).0, Action::Tx);
    held.pop();
    for m in held.iter().rev().chain([&first]) {
        // Sequences apart, the messages are as good as new: the clock tolerance is another test.
        let m = Message {
            clock: rig.table.peer(PEER).hi_clock.load(),
            ..*m
        };
        assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx, "out of order");
    }
    let next = rig.heartbeat();
    assert_eq!(rig.send(&next).0, Action::Tx);
    rig.delta();
    let m = Message {
        clock: next.clock,
        ..first
    };
    refused(&mut rig, m, "drop_replayed", "one too old");
    let m = Message { seq: 0, ..next };
    refused(&mut rig, m, "drop_replayed", "sequence 0");
    // Another link has another window.
    let m = Message { link: 1, ..next };
    assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx);
    let m = Message {
        link: 1,
        clock: next.clock,
        ..held[10]
    };
    assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx);
    // A leap ahead leaves everything before it stale.
    let far = Message {
        seq: next.seq + (1 << 30),
        ..rig.heartbeat()
    };
    assert_eq!(rig.send(&rig.sign(far)).0, Action::Tx);
    rig.delta();
    let m = Message {
        clock: far.clock,
        ..next
    };
    refused(&mut rig, m, "drop_replayed", "before the leap");
}

#[test]
fn a_copy_is_acked_but_proves_no_life() {
    // On one link twice within a few milliseconds: the network doubled it, and the first ack may have been lost.
    let mut rig = granted();
    let m = Message {
        promise_us: 10_000_000,
        ..rig.heartbeat()
    };
    let m = rig.sign(m);
    assert_eq!(rig.send(&m).0, Action::Tx);
    let heard = rig.table.peer(PEER).heard[0].load();
    rig.delta();
    assert_eq!(rig.send(&m).0, Action::Tx);
    assert_eq!(rig.delta(), [("acks_out", 1), ("heartbeats_in", 1)]);
    assert_eq!(
        rig.table.peer(PEER).heard[0].load(),
        heard,
        "a copy is no sign of life"
    );
    // Played again later by somebody who heard it: the last words of a dead node, which must not hold its promise.
    rig.table.peer(PEER).heard[0].store(heard - 10_000_000_000);
    for v6 in [false, true] {
        refused_frame(
            &mut rig,
            &if v6 { over_ipv6(&m) } else { over_ipv4(&m) },
            "drop_replayed",
            "an old copy",
        );
    }
}

#[test]
fn a_higher_epoch_shuts_the_gate() {
    let mut rig = granted();
    let until = boot_ns() + 60_000_000_000;
    rig.own(GROUP, until);
    rig.own(OTHER_GROUP, until);
    rig.table.epoch.store(9);
    let m = rig.heartbeat();
    assert_eq!(m.epoch, 9);
    rig.send(&m);
    assert_eq!(
        rig.table.gate.load(),
        Set::of(GROUP).with(OTHER_GROUP),
        "no higher epoch"
    );
    let m = Message {
        epoch: 10,
        generation: GENERATION + 1,
        ..rig.heartbeat()
    };
    rig.send(&rig.sign(m));
    assert_eq!(
        rig.table.gate.load(),
        Set::of(GROUP).with(OTHER_GROUP),
        "of another generation"
    );
    let m = Message {
        epoch: 10,
        set: Set::of(GROUP + 1),
        ..rig.heartbeat()
    };
    rig.send(&rig.sign(m));
    assert_eq!(
        rig.table.gate.load(),
        Set::of(GROUP).with(OTHER_GROUP),
        "another group"
    );
    rig.records();
    rig.delta();
    let m = Message {
        epoch: 10,
        ..rig.heartbeat()
    };
    let m = rig.sign(m);
    let before = rig.promise();
    assert_eq!(rig.send(&m).0, Action::Drop, "not acked");
    assert_eq!(rig.table.gate.load(), Set::of(OTHER_GROUP));
    assert_eq!(rig.promise(), before);
    let records = rig.records();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (RecordKind::from_u32(records[0].kind), records[0].message),
        (Some(RecordKind::GateShut), m)
    );
    assert_eq!(rig.delta(), [("heartbeats_in", 1), ("to_user", 1)]);
}

#[test]
fn what_is_no_heartbeat_passes() {
    let mut rig = granted();
    let m = rig.heartbeat();
    let good = over_ipv4(&m);
    let bytes = m.to_bytes();
    let from = (IpAddr::V4(PEER4), 40_000);
    let mut others = vec![
        (
            "another port",
            frame::udp(&[], from, (LINK4.into(), PORT + 1), &bytes),
        ),
        (
            "our port as the source",
            frame::udp(&[], (PEER4.into(), PORT), (LINK4.into(), 53), &bytes),
        ),
        (
            "passing through to a guest",
            frame::udp(
                &[],
                from,
                (Ipv4Addr::new(10, 0, 0, 77).into(), PORT),
                &bytes,
            ),
        ),
        (
            "broadcast",
            frame::udp(&[], from, (Ipv4Addr::BROADCAST.into(), PORT), &bytes),
        ),
        (
            "IPv6 to elsewhere",
            frame::udp(&[], (PEER6.into(), 1), (PEER6.into(), PORT), &bytes),
        ),
    ];
    for (why, at, xor) in [
        ("options", 14, 0x03),
        ("IPv5", 14, 0x10),
        ("TCP", 14 + 9, 17 ^ 6),
        ("more fragments", 14 + 6, 0x20),
        ("a later fragment", 14 + 7, 0x01),
        ("a much later fragment", 14 + 6, 0x10),
        ("no IP at all", 12, 0x80),
    ] {
        let mut f = good.clone();
        f[at] ^= xor;
        others.push((why, f));
    }
    let mut f = over_ipv6(&m);
    f[14 + 6] = 44; // fragment header
    others.push(("IPv6 fragment", f));
    let l4 = 14 + 20;
    for len in 14..l4 + 4 {
        others.push(("ends before its ports", good[..len].to_vec()));
    }
    let before = rig.snapshot();
    for (why, f) in others {
        assert_eq!(rig.xdp(&f).0, Action::Pass, "{why}");
        assert_eq!(rig.delta(), [], "{why}");
        assert_eq!(rig.snapshot(), before, "{why}");
    }
    // "Do not fragment" is no fragment.
    let mut f = good.clone();
    f[14 + 6] |= 0x40;
    assert_eq!(rig.xdp(&f).0, Action::Tx);
}
