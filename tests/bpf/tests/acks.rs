//! Good heartbeats: promised, acked, and handed to user space where it must decide.

use agent_common::{
    Set,
    keys::key_id,
    record::RecordKind,
    state::PromiseWord,
    wire::{Form, Kind, Message, VERSION, flags},
};
use heartline_bpf_tests::{
    Action, Rig, boot_ns,
    consts::*,
    frame::{self, Datagram, HERE, QINQ, THERE, VLAN},
    over_ipv4, over_ipv6,
};

fn message(d: &Datagram) -> Message {
    Message::read(&d.payload).expect("a form of a message")
}

/// Checks an ack field by field.
fn check_ack(rig: &Rig, sent: &Message, out: &[u8], tags: usize, before: u64) -> Datagram {
    let d = Datagram::parse(out, tags);
    assert_eq!(d.macs, (THERE, HERE), "MACs swapped");
    assert_eq!(d.payload.len(), Form::Ack.len());
    let a = message(&d);
    assert_eq!(a.mac, a.mac_of(rig.key, Form::Ack), "signed");
    assert!(a.clock >= before && a.clock <= boot_ns(), "our clock");
    let expected = Message {
        magic: sent.magic,
        version: VERSION,
        kind: Kind::Ack as u8,
        from: ME,
        to: sent.from,
        link: sent.link,
        cluster: sent.cluster,
        generation: sent.generation,
        digest: DIGEST,
        max_promise_ms: sent.max_promise_ms,
        incarnation: MY_INCARNATION,
        clock: a.clock,
        promise_us: sent.promise_us,
        key_id: key_id(rig.key),
        cv: sent.cv,
        re_incarnation: sent.incarnation,
        re_seq: sent.seq,
        re_clock: sent.clock,
        mac: a.mac,
        ..Message::default()
    };
    assert_eq!(a, expected);
    d
}

#[test]
fn a_granted_claim_is_acked_over_ipv4() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    rig.table.epoch.store(123);
    let m = rig.heartbeat();
    let before = boot_ns();
    let (action, out) = rig.send(&m);
    assert_eq!(action, Action::Tx);
    let d = check_ack(&rig, &m, &out, 0, before);
    assert_eq!(
        (d.src, d.dst),
        ((LINK4.into(), PORT), (PEER4.into(), 40_000))
    );
    assert_eq!(d.checksum, 0, "left out over IPv4");
    let promised = rig.promise();
    assert!(!promised.is_closed() && promised.generation() == 1);
    assert!(
        promised.expiry_ns() > before + PROMISE
            && promised.expiry_ns() <= boot_ns() + PROMISE + 1024
    );
    assert_eq!(rig.delta(), [("acks_out", 1), ("heartbeats_in", 1)]);
    assert!(rig.records().is_empty());
    let p = rig.table.peer(PEER);
    assert!(p.heard[0].load() >= before);
    assert_eq!(
        (p.seen_cv.load(), p.seen_set.load(), p.seen_epoch.load()),
        (CV, Set::of(GROUP), 9)
    );
    assert_eq!(p.seen_config.load(), 0xabc << 32 | u64::from(GENERATION));
    assert_eq!(p.seen_incarnation.load(), PEER_INCARNATION);
    assert_eq!(p.hi_clock.load(), m.clock);
}

#[test]
fn a_granted_claim_is_acked_over_ipv6_with_a_right_checksum() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    // Many, so that carries and the checksum's rare values are met.
    for _ in 0..2_000 {
        let m = rig.heartbeat();
        let before = boot_ns();
        let (action, out) = rig.xdp(&over_ipv6(&m));
        assert_eq!(action, Action::Tx);
        let d = check_ack(&rig, &m, &out, 0, before);
        assert_eq!(
            (d.src, d.dst),
            ((LINK6.into(), PORT), (PEER6.into(), 40_000))
        );
        assert_ne!(d.checksum, 0);
    }
    assert_eq!(rig.delta(), [("acks_out", 2_000), ("heartbeats_in", 2_000)]);
}

#[test]
fn tagged_heartbeats_are_acked_in_their_vlan() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    for tags in [&[(VLAN, 7)][..], &[(QINQ, 7)], &[(QINQ, 7), (VLAN, 0x2008)]] {
        for v6 in [false, true] {
            let m = rig.heartbeat();
            let before = boot_ns();
            let (src, dst) = if v6 {
                (PEER6.into(), LINK6.into())
            } else {
                (PEER4.into(), LINK4.into())
            };
            let f = frame::udp(tags, (src, 1), (dst, PORT), &m.to_bytes());
            let (action, out) = rig.xdp(&f);
            assert_eq!(action, Action::Tx, "{tags:?}");
            check_ack(&rig, &m, &out, tags.len(), before);
            assert_eq!(
                out[12..14 + 4 * tags.len()],
                f[12..14 + 4 * tags.len()],
                "tags kept"
            );
        }
    }
    // Five tags are nothing that any network has.
    let m = rig.heartbeat();
    let f = frame::udp(
        &[(VLAN, 1), (VLAN, 2), (VLAN, 3), (VLAN, 4), (VLAN, 5)],
        (PEER4.into(), 1),
        (LINK4.into(), PORT),
        &m.to_bytes(),
    );
    assert_eq!(rig.xdp(&f).0, Action::Drop);
}

#[test]
fn a_longer_frame_than_its_datagram_is_taken() {
    // Ethernet pads; the padding comes back as it came.
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    let m = rig.heartbeat();
    let mut f = over_ipv4(&m);
    f.extend_from_slice(&[0xee; 9]);
    let before = boot_ns();
    let (action, out) = rig.xdp(&f);
    assert_eq!(action, Action::Tx);
    check_ack(&rig, &m, &out, 0, before);
    assert_eq!(out.len(), f.len());
}

#[test]
fn a_promise_grows_and_never_shrinks() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    let mut last = rig.promise().expiry_ns();
    for wanted_us in [
        50_000, 10_000, 1, 0, 200_000, 50_000, 9_000_000, 10_000_000, 50_000,
    ] {
        let before = boot_ns();
        let m = Message {
            promise_us: wanted_us,
            ..rig.heartbeat()
        };
        let (action, out) = rig.send(&rig.sign(m));
        assert_eq!(action, Action::Tx);
        assert_eq!(
            message(&Datagram::parse(&out, 0)).promise_us,
            wanted_us,
            "the ack says what was promised"
        );
        let now = rig.promise().expiry_ns();
        let wanted = before + u64::from(wanted_us) * 1_000;
        assert!(now >= last, "{wanted_us}: shrank");
        assert!(now > wanted, "{wanted_us}: shorter than acked");
        assert!(
            now <= last.max(boot_ns() + u64::from(wanted_us) * 1_000 + 1_024),
            "{wanted_us}: longer than asked"
        );
        last = now;
    }
}

#[test]
fn the_asked_version_once_granted_is_acked_too() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    let p = rig.table.peer(PEER);
    p.claim[1].set.store(Set::of(GROUP).with(9));
    p.claim[1].cv.store(CV + 1);
    for (cv, set) in [(CV, Set::of(GROUP)), (CV + 1, Set::of(GROUP).with(9))] {
        let m = Message {
            cv,
            set,
            ..rig.heartbeat()
        };
        assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx);
    }
    // Rule 3: version and set.
    for (cv, set) in [
        (CV + 1, Set::of(GROUP)),
        (CV, Set::of(GROUP).with(9)),
        (CV, Set::EMPTY),
        (CV, Set::of(GROUP).with(255)),
    ] {
        let m = Message {
            cv,
            set,
            ..rig.heartbeat()
        };
        assert_eq!(rig.send(&rig.sign(m)).0, Action::Drop, "{cv} {set:?}");
    }
    assert_eq!(rig.records().len(), 4);
}

#[test]
fn asks_and_soft_state_are_acked_and_delivered() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    let ask = Message {
        ask_cv: CV + 1,
        ask_set: Set::of(GROUP).with(4),
        ..rig.heartbeat()
    };
    let soft = Message {
        flags: flags::SOFT,
        ..rig.heartbeat()
    };
    for m in [ask, soft] {
        let m = rig.sign(m);
        let before = boot_ns();
        let (action, out) = rig.send(&m);
        assert_eq!(action, Action::Tx);
        check_ack(&rig, &m, &out, 0, before);
        let records = rig.records();
        assert_eq!(records.len(), 1);
        assert_eq!(
            RecordKind::from_u32(records[0].kind),
            Some(RecordKind::Message)
        );
        assert_eq!(
            records[0].message, m,
            "delivered as it came, not as the ack"
        );
        assert_eq!(records[0].ifindex, 1);
        assert!(records[0].now >= before && records[0].now <= boot_ns());
        assert_eq!(
            rig.delta(),
            [("acks_out", 1), ("heartbeats_in", 1), ("to_user", 1)]
        );
    }
    // Other flags are for people and placement.
    let m = Message {
        flags: flags::WITNESS | flags::LEAVING | flags::WAITING | flags::MOVE,
        ..rig.heartbeat()
    };
    assert_eq!(rig.send(&rig.sign(m)).0, Action::Tx);
    assert!(rig.records().is_empty());
    assert_eq!(
        rig.table.peer(PEER).seen_flags.load(),
        u64::from(m.flags) | u64::from(VERSION) << 8 | u64::from(key_id(rig.key)) << 16
    );
}

/// Sends a heartbeat that must not be acked but reach user space, without a promise.
#[track_caller]
fn delivered_not_acked(rig: &mut Rig, m: Message, why: &str) {
    let m = rig.sign(m);
    let word = rig.promise();
    rig.delta();
    assert_eq!(rig.send(&m).0, Action::Drop, "{why}");
    assert_eq!(rig.promise(), word, "{why}: promised");
    let records = rig.records();
    assert_eq!(records.len(), 1, "{why}");
    assert_eq!(
        (RecordKind::from_u32(records[0].kind), records[0].message),
        (Some(RecordKind::Message), m),
        "{why}"
    );
    assert_eq!(rig.delta(), [("heartbeats_in", 1), ("to_user", 1)], "{why}");
}

#[test]
fn what_was_not_granted_is_delivered_and_not_acked() {
    let mut rig = Rig::new();
    let m = rig.heartbeat();
    delivered_not_acked(&mut rig, m, "a node never seen");
    rig.grant(PEER, CV, Set::of(GROUP));
    let m = Message {
        incarnation: PEER_INCARNATION + 1,
        ..rig.heartbeat()
    };
    delivered_not_acked(&mut rig, m, "a newer incarnation");
    let m = Message {
        cv: CV + 1,
        ..rig.heartbeat()
    };
    delivered_not_acked(&mut rig, m, "another version");
    let m = Message {
        cv: 0,
        ..rig.heartbeat()
    };
    delivered_not_acked(&mut rig, m, "no version, and no such entry");
    let m = Message {
        set: Set::of(GROUP).with(1),
        ..rig.heartbeat()
    };
    delivered_not_acked(&mut rig, m, "another set");
    let m = Message {
        from: 3,
        ..rig.heartbeat()
    };
    delivered_not_acked(&mut rig, m, "another node's claim");
    for generation in [GENERATION - 1, GENERATION + 1] {
        let m = Message {
            generation,
            ..rig.heartbeat()
        };
        delivered_not_acked(&mut rig, m, "another generation");
    }
    let m = rig.heartbeat();
    assert_eq!(rig.send(&m).0, Action::Tx, "and still the granted one is");
}

#[test]
fn a_closed_entry_gives_nothing() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    rig.table.peer(PEER).word.store(PromiseWord::closed(2).0);
    let m = rig.heartbeat();
    delivered_not_acked(&mut rig, m, "closed");
    assert_eq!(rig.promise(), PromiseWord::closed(2));
}

#[test]
fn a_node_that_may_not_vote_gives_nothing() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    rig.table.halted.store(1);
    let m = rig.heartbeat();
    delivered_not_acked(&mut rig, m, "halted");
    rig.table.halted.store(0);
    rig.table.vote_after.store(boot_ns() + 60_000_000_000);
    let m = rig.heartbeat();
    delivered_not_acked(&mut rig, m, "fresh");
    rig.table.vote_after.store(boot_ns());
    let m = rig.heartbeat();
    assert_eq!(rig.send(&m).0, Action::Tx, "waited out");
    rig.table.voters.store(u64::from(VOTERS & !1));
    let m = rig.heartbeat();
    delivered_not_acked(&mut rig, m, "no voter");
}

#[test]
fn identify_starts_the_wait_of_rule_1() {
    let mut rig = Rig::unidentified();
    let before = boot_ns();
    rig.identify();
    assert!(rig.table.vote_after.load() >= before + MAX_PROMISE);
    rig.grant(PEER, CV, Set::of(GROUP));
    let m = rig.heartbeat();
    delivered_not_acked(&mut rig, m, "fresh");
}

#[test]
fn grants_refusals_and_the_like_are_delivered_once() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    for kind in [Kind::Grant, Kind::Refuse, Kind::Nack, Kind::Regressed] {
        let m = Message {
            kind: kind as u8,
            to: ME,
            ..rig.heartbeat()
        };
        let m = rig.sign(m);
        rig.delta();
        let word = rig.promise();
        assert_eq!(rig.send(&m).0, Action::Drop, "{kind:?}");
        let records = rig.records();
        assert_eq!(records.len(), 1, "{kind:?}");
        assert_eq!(records[0].message, m);
        assert_eq!(rig.delta(), [("to_user", 1)], "{kind:?}");
        assert_eq!(rig.send(&m).0, Action::Drop);
        assert!(rig.records().is_empty(), "{kind:?}: a copy");
        assert_eq!(rig.delta(), [("drop_replayed", 1)], "{kind:?}");
        assert_eq!(rig.promise(), word, "{kind:?}: no promise");
    }
}

#[test]
fn a_closed_word_that_is_contended_is_not_reopened() {
    // Closed between reading and swapping cannot be staged from outside; that XDP leaves any closed word alone can.
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    for generation in [0, 1, 0x7fff] {
        let closed = PromiseWord::closed(generation);
        rig.table.peer(PEER).word.store(closed.0);
        let m = rig.heartbeat();
        assert_eq!(rig.send(&m).0, Action::Drop);
        assert_eq!(rig.promise(), closed);
    }
}
