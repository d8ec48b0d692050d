//! Acks of our own heartbeats: a majority extends the lease, and nothing else does.

use agent_common::{
    Set,
    state::LeaseWord,
    wire::{Kind, Message},
};
use heartline_bpf_tests::{Action, Rig, boot_ns, consts::*, frame};

/// What a majority gives; long, so that nothing lapses by itself in a test.
const LEASE: u64 = 120_000_000_000;
/// What is left of the lease before.
const STANDS: u64 = 60_000_000_000;

/// A rig that has sent heartbeat `seq` at `sent`, for the running version.
fn sent(seq: u64) -> (Rig, u64) {
    let mut rig = Rig::new();
    let now = boot_ns();
    send(&rig, seq, now, CV);
    rig.table.run_cv.store(CV);
    rig.table.lease.store(before(now).0);
    rig.delta();
    (rig, now)
}

/// The lease that the acks of a heartbeat sent `at` find: running, soon over.
fn before(at: u64) -> LeaseWord {
    LeaseWord::until(at + STANDS, CV)
}

fn send(rig: &Rig, seq: u64, sent: u64, cv: u64) {
    let s = rig.table.slot(seq);
    s.sent.store(sent);
    s.lease.store(LEASE);
    s.cv.store(cv);
    s.word.store((seq & 0xffff_ffff) << 32);
}

#[track_caller]
fn counts(rig: &mut Rig, m: Message) {
    let m = rig.sign(m);
    rig.delta();
    assert_eq!(rig.send(&m).0, Action::Drop);
    assert_eq!(rig.delta(), [("acks_in", 1)]);
    assert!(rig.records().is_empty());
}

/// Refused, with the table untouched.
#[track_caller]
fn stale(rig: &mut Rig, m: Message, why: &str) {
    let m = rig.sign(m);
    let before = rig.snapshot();
    assert_eq!(rig.send(&m).0, Action::Drop, "{why}");
    assert_eq!(rig.delta(), [("drop_stale_ack", 1)], "{why}");
    assert_eq!(rig.snapshot(), before, "{why}");
}

#[test]
fn a_majority_extends_the_lease_to_send_time_plus_lease() {
    let (mut rig, at) = sent(5);
    let m = rig.ack(2, 5, at);
    counts(&mut rig, m);
    assert_eq!(rig.table.lease(), before(at), "two of five with our own");
    assert!(rig.table.peer(2).acked.load() >= at);
    assert!(rig.table.peer(2).rtt.load() < 60_000_000_000);
    let m = rig.ack(3, 5, at);
    counts(&mut rig, m);
    assert_eq!(
        rig.table.lease(),
        LeaseWord::until(at + LEASE, CV),
        "three of five"
    );
    let m = rig.ack(4, 5, at);
    counts(&mut rig, m);
    assert_eq!(
        rig.table.lease(),
        LeaseWord::until(at + LEASE, CV),
        "four of five give no more"
    );
}

#[test]
fn a_voter_counts_once() {
    let (mut rig, at) = sent(5);
    for link in 0..4 {
        let m = Message {
            link,
            ..rig.ack(2, 5, at)
        };
        counts(&mut rig, m);
    }
    assert_eq!(rig.table.lease(), before(at));
}

#[test]
fn without_an_own_vote_it_takes_one_more() {
    for halt in [false, true] {
        let (mut rig, at) = sent(5);
        if halt {
            rig.table.halted.store(1);
        } else {
            rig.table.vote_after.store(boot_ns() + 60_000_000_000);
        }
        for from in [2, 3] {
            let m = rig.ack(from, 5, at);
            counts(&mut rig, m);
        }
        assert_eq!(rig.table.lease(), before(at));
        let m = rig.ack(4, 5, at);
        counts(&mut rig, m);
        assert_eq!(
            rig.table.lease().expiry_ns(),
            LeaseWord::until(at + LEASE, CV).expiry_ns()
        );
    }
}

#[test]
fn votes_are_not_added_over_heartbeats() {
    let (mut rig, at) = sent(5);
    send(&rig, 6, at + 1_000_000, CV);
    let m = rig.ack(2, 5, at);
    counts(&mut rig, m);
    let m = rig.ack(3, 6, at + 1_000_000);
    counts(&mut rig, m);
    assert_eq!(rig.table.lease(), before(at), "one each");
    let m = rig.ack(2, 6, at + 1_000_000);
    counts(&mut rig, m);
    assert_eq!(
        rig.table.lease(),
        LeaseWord::until(at + 1_000_000 + LEASE, CV)
    );
    let m = rig.ack(3, 5, at);
    counts(&mut rig, m);
    assert_eq!(
        rig.table.lease(),
        LeaseWord::until(at + 1_000_000 + LEASE, CV),
        "an older majority shortens nothing"
    );
}

#[test]
fn acks_of_something_else_are_stale() {
    let (mut rig, at) = sent(5);
    let m = rig.ack(2, 5, at);
    counts(&mut rig, m);
    for (why, m) in [
        (
            "another heartbeat",
            Message {
                re_seq: 6,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "same slot, another round",
            Message {
                re_seq: 5 + 64,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "same low half",
            Message {
                re_seq: 5 + (1 << 40),
                re_clock: at + 1,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "another send time",
            Message {
                re_clock: at - 1,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "another version",
            Message {
                cv: CV + 1,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "no version",
            Message {
                cv: 0,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "another incarnation of ours",
            Message {
                re_incarnation: MY_INCARNATION - 1,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "another generation",
            Message {
                generation: GENERATION + 1,
                ..rig.ack(3, 5, at)
            },
        ),
        (
            "for all",
            Message {
                to: 0,
                ..rig.ack(3, 5, at)
            },
        ),
    ] {
        stale(&mut rig, m, why);
    }
    // Reused for a later heartbeat.
    send(&rig, 5 + 64, at + 1_000_000, CV);
    let m = rig.ack(3, 5, at);
    stale(&mut rig, m, "the slot is another heartbeat's now");
}

#[test]
fn only_the_running_version_extends() {
    // An ack of a heartbeat for the version before: it fits its slot, but that majority is not the new one.
    let (mut rig, at) = sent(5);
    rig.table.run_cv.store(CV + 1);
    for from in [2, 3, 4, 5] {
        let m = rig.ack(from, 5, at);
        counts(&mut rig, m);
    }
    assert_eq!(
        rig.table.lease(),
        before(at),
        "the running version is another"
    );
    // The running version has changed, the lease word not yet.
    let (mut rig, at) = sent(5);
    rig.table
        .lease
        .store(LeaseWord::until(at + STANDS, CV - 1).0);
    for from in [2, 3, 4, 5] {
        let m = rig.ack(from, 5, at);
        counts(&mut rig, m);
    }
    assert_eq!(
        rig.table.lease(),
        LeaseWord::until(at + STANDS, CV - 1),
        "the lease is another version's"
    );
}

#[test]
fn no_ack_from_outside_the_voters() {
    let (mut rig, at) = sent(5);
    for from in [6, 32] {
        let m = rig.ack(from, 5, at);
        let before = rig.snapshot();
        rig.send(&m);
        assert_eq!(rig.delta(), [("drop_bad_sender", 1)]);
        assert_eq!(rig.snapshot(), before);
    }
    let m = Message {
        from: ME,
        incarnation: MY_INCARNATION,
        ..rig.ack(2, 5, at)
    };
    let m = rig.sign(m);
    rig.send(&m);
    assert_eq!(rig.delta(), [("drop_bad_sender", 1)], "our own");
}

#[test]
fn a_heartbeat_is_no_ack() {
    let (mut rig, at) = sent(5);
    for from in [2, 3, 4, 5] {
        for kind in [Kind::Heartbeat, Kind::Grant] {
            let m = Message {
                kind: kind as u8,
                ..rig.ack(from, 5, at)
            };
            let m = rig.sign(m);
            rig.send(&m);
        }
    }
    assert_eq!(rig.table.lease(), before(at));
}

#[test]
fn the_end_of_the_lease_shuts_the_gate_for_good() {
    let (mut rig, at) = sent(5);
    rig.table.gate.insert(Set::of(GROUP));
    let vip = frame::udp(&[], (PEER4.into(), 1), (VIP4.into(), 80), b"x");
    assert_eq!(rig.xdp(&vip).0, Action::Pass);
    let lapsed = LeaseWord::until(boot_ns(), CV);
    rig.table.lease.store(lapsed.0);
    assert_eq!(rig.xdp(&vip).0, Action::Drop, "run out");
    // Rule 7: late acks, or those of a node that stood still, do not bring it back.
    for from in [2, 3, 4, 5] {
        let m = rig.ack(from, 5, at);
        counts(&mut rig, m);
        assert_eq!(rig.table.lease(), lapsed);
        assert_eq!(rig.xdp(&vip).0, Action::Drop, "acked by {from}");
    }
}
