//! The short forms of version 2, version 1 beside it, and two keys at once.

use agent_common::{
    Set,
    keys::{Keys, key_id},
    record::Counter,
    siphash::Key,
    wire::{Form, Kind, LEN, Message, VERSION, flags},
};
use heartline_bpf_tests::{Action, KEY, Rig, boot_ns, consts::*, datagram, frame::Datagram};

fn granted() -> Rig {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    rig.delta();
    rig
}

fn keys() -> Keys {
    KEY.into()
}

fn acked(rig: &Rig, payload: &[u8], v6: bool, keys: &Keys, why: &str) -> Message {
    let frame = datagram(payload, v6);
    let (action, out) = rig.xdp(&frame);
    assert_eq!(action, Action::Tx, "{why}");
    assert_eq!(out.len(), frame.len(), "the frame keeps its length");
    let d = Datagram::parse(&out, 0);
    let behind = out.len() - frame.len() + payload.len() - d.payload.len();
    assert!(
        out[out.len() - behind..].iter().all(|b| *b == 0),
        "{why}: nothing but zeros behind it"
    );
    Message::open(&d.payload, keys).unwrap_or_else(|e| panic!("{why}: {e:?}"))
}

#[test]
fn a_short_heartbeat_is_acked_short() {
    let mut rig = granted();
    for v6 in [false, true] {
        // Many, so that carries and the checksum's rare values are met.
        for _ in 0..1_000 {
            let m = rig.heartbeat();
            let payload = rig.seal(m, &keys());
            assert_eq!(payload.len(), Form::Beat.len());
            let a = acked(&rig, &payload, v6, &keys(), "short");
            assert_eq!((a.version, a.kind), (VERSION, Kind::Ack as u8));
            assert_eq!((a.re_seq, a.re_clock, a.cv), (m.seq, m.clock, CV));
        }
    }
    let p = rig.table.peer(PEER);
    assert_eq!(
        (p.seen_epoch.load(), p.seen_set.load()),
        (9, Set::of(GROUP))
    );
    assert_eq!(rig.delta(), [("acks_out", 2_000), ("heartbeats_in", 2_000)]);
}

/// What a short heartbeat leaves out is zero for user space, too, whatever the message before it said.
#[test]
fn nothing_of_the_message_before_shows_through() {
    let mut rig = granted();
    let m = Message {
        ask_cv: CV + 1,
        ask_set: Set([u64::MAX; 4]),
        re_seq: 7,
        soft: 9,
        ..rig.heartbeat()
    };
    let payload = rig.seal(m, &keys());
    assert_eq!(payload.len(), LEN);
    acked(&rig, &payload, false, &keys(), "full");
    rig.records();
    let m = Message {
        cv: CV + 1,
        soft: 0,
        soft_version: 0,
        ..rig.heartbeat()
    };
    let payload = rig.seal(m, &keys());
    assert_eq!(
        rig.xdp(&datagram(&payload, false)).0,
        Action::Drop,
        "not granted"
    );
    let records = rig.records();
    let got = records[0].message;
    assert_eq!(
        got,
        Message {
            key_id: got.key_id,
            mac: got.mac,
            ..m
        }
    );
}

#[test]
fn a_short_ack_counts() {
    let mut rig = granted();
    rig.table.run_cv.store(CV);
    rig.table.majority.store(2);
    for v6 in [false, true] {
        let at = boot_ns();
        rig.own(GROUP, at + 30_000_000_000);
        let slot = rig.table.slot(5);
        slot.sent.store(at);
        slot.lease.store(60_000_000_000);
        slot.cv.store(CV);
        slot.word.store(5 << 32);
        let ack = rig.ack(PEER, 5, at);
        let payload = rig.seal(ack, &keys());
        assert_eq!(payload.len(), Form::Ack.len());
        rig.delta();
        assert_eq!(rig.xdp(&datagram(&payload, v6)).0, Action::Drop);
        assert_eq!(rig.delta(), [("acks_in", 1)]);
        assert!(
            rig.table.lease().expiry_ns() > at + 50_000_000_000,
            "the lease grew"
        );
    }
}

#[test]
fn version_1_is_answered_in_version_1() {
    let mut rig = granted();
    for f in [0, flags::NEXT] {
        let m = Message {
            version: 1,
            flags: f,
            ..rig.heartbeat()
        };
        let payload = rig.seal(m, &keys());
        assert_eq!(payload.len(), LEN);
        // A node of version 1 knows no key ids: what stands there is nobody's word.
        let a = acked(&rig, &payload, false, &keys(), "version 1");
        assert_eq!((a.version, a.flags, a.re_seq), (1, flags::NEXT, m.seq));
        let id = if f == 0 {
            0
        } else {
            u64::from(key_id(rig.key))
        };
        assert_eq!(
            rig.table.peer(PEER).seen_flags.load(),
            u64::from(f) | 1 << 8 | id << 16
        );
    }
    // As its program writes it: 0 where the ids are now.
    let mut m = Message {
        version: 1,
        key_id: 0,
        ..rig.heartbeat()
    };
    m.sign(rig.key);
    acked(&rig, &m.to_bytes(), true, &keys(), "as version 1 writes it");
}

#[test]
fn version_1_has_no_short_form() {
    let mut rig = granted();
    for (kind, version) in [
        (Kind::Heartbeat, 1),
        (Kind::Ack, 1),
        (Kind::Grant, 2),
        (Kind::Nack, 2),
    ] {
        for form in [Form::Beat, Form::Ack] {
            let mut m = Message {
                kind: kind as u8,
                version,
                ..rig.heartbeat()
            };
            m.mac = m.mac_of(rig.key, form);
            let mut out = [0; LEN];
            let len = m.write(form, &mut out);
            let before = rig.snapshot();
            rig.delta();
            assert_eq!(rig.xdp(&datagram(&out[..len], false)).0, Action::Drop);
            assert_eq!(
                rig.delta(),
                [("drop_truncated", 1)],
                "{kind:?} {version} {form:?}"
            );
            assert_eq!(rig.snapshot(), before);
        }
    }
}

#[test]
fn every_bit_of_a_short_form_counts() {
    let mut rig = granted();
    let ack = rig.ack(PEER, 5, 1);
    let beat = rig.heartbeat();
    let before = rig.snapshot();
    for good in [rig.seal(beat, &keys()), rig.seal(ack, &keys())] {
        for bit in 0..good.len() * 8 {
            let mut b = good.clone();
            b[bit / 8] ^= 1 << (bit % 8);
            rig.delta();
            assert_eq!(
                rig.xdp(&datagram(&b, bit % 2 == 0)).0,
                Action::Drop,
                "bit {bit}"
            );
            let delta = rig.delta();
            assert!(
                delta.len() == 1 && delta[0].0.starts_with("drop_"),
                "bit {bit}: {delta:?}"
            );
            assert_eq!(rig.snapshot(), before, "bit {bit}");
        }
    }
    assert!(rig.records().is_empty());
}

/// Both keys of a rotation are understood; the first one signs; one that is gone costs no MAC.
#[test]
fn two_keys_at_once() {
    let mut rig = granted();
    let (old, new, foreign) = (Key(1, 2), Key(3, 4), Key(5, 6));
    let only = |k| Keys::new(k, None);
    let mut step = |keys: Keys, good: &[Key], why: &str| {
        rig.datapath.set_keys(&keys).unwrap();
        for key in [old, new, foreign] {
            for version in [1, 2] {
                let m = Message {
                    version,
                    flags: flags::NEXT,
                    ..rig.heartbeat()
                };
                let payload = rig.seal(m, &only(key));
                rig.delta();
                if good.iter().any(|k| k.0 == key.0) {
                    let a = acked(&rig, &payload, false, &only(keys.signing()), why);
                    assert_eq!((a.key_id, a.other_key), (keys.id(), keys.other_id()));
                    let seen = rig.table.peer(PEER).seen_flags.load() >> 16;
                    assert_eq!(seen as u16, key_id(key), "its key is noted");
                } else {
                    assert_eq!(rig.xdp(&datagram(&payload, false)).0, Action::Drop);
                    assert_eq!(rig.delta(), [("drop_unknown_key", 1)], "{why}");
                }
            }
            // What only says that it is signed with a key of ours.
            let mut forged = Message {
                version: 2,
                ..rig.heartbeat()
            };
            forged.key_id = keys.id();
            forged.mac = forged.mac_of(foreign, Form::Full);
            rig.delta();
            assert_eq!(
                rig.xdp(&datagram(&forged.to_bytes(), false)).0,
                Action::Drop
            );
            assert_eq!(rig.delta(), [("drop_forged", 1)], "{why}");
        }
    };
    step(only(old), &[old], "before");
    step(
        Keys::new(old, Some(new)),
        &[old, new],
        "the new one is accepted",
    );
    step(Keys::new(new, Some(old)), &[old, new], "the new one signs");
    step(only(new), &[new], "the old one is gone");
}

/// User space reads what the program reads.
#[test]
fn user_space_opens_alike() {
    let mut rig = granted();
    let m = rig.heartbeat();
    let good = rig.seal(m, &keys());
    assert!(Message::open(&good, &keys()).is_ok());
    for (bytes, why) in [
        (&good[..50], Counter::Truncated),
        (&[&good[..], &[0; 200]].concat(), Counter::Oversized),
        (&rig.seal(m, &[9; 16].into()), Counter::UnknownKey),
    ] {
        assert_eq!(Message::open(bytes, &keys()), Err(why));
    }
}
