//! Histories that once went wrong, at the level of the core.

mod bench;

use agent_common::{Set, record::{Record, RecordKind}, wire::{Kind, Message}};
use agent_core::{Command, Event};
use bench::{Bench, MS};

#[test]
fn a_group_is_owned_soon_and_taken_over() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    assert!(b.open(1, 0));
    b.freeze(1, true);
    b.run(70);
    assert!(!b.open(1, 0) && b.open(2, 0));
}

/// A late heartbeat looked like a rollback; the receiver said so, and an owner in good health gave up everything.
#[test]
fn a_straggler_does_not_make_a_node_start_afresh() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    b.pass = |from, to, m| !(from == 1 && to == 3 && m.kind == Kind::Heartbeat as u8);
    b.run(10);
    let old = b.kept.iter().find(|(to, _)| *to == 3).copied().unwrap();
    b.pass = |_, _, _| true;
    b.run(300);
    b.arrive(old.0, old.1);
    b.settle();
    assert!(b.open(1, 0), "{:?}", b.events(1));
    // Even when it is told: its clock has been there.
    let told = Message {
        re_incarnation: b.sh(1).incarnation.load(),
        re_clock: b.t - 1,
        kind: Kind::Regressed as u8,
        ..Message::default()
    };
    b.call(1, |c, now| c.handle_message(&told, now));
    assert!(b.open(1, 0) && !b.events(1).contains(&Event::StartedAfresh));
}

/// Rule 4: a node whose clock has not yet been where a voter saw it was rolled back.
#[test]
fn a_rolled_back_node_starts_afresh() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    let told = Message {
        re_incarnation: b.sh(1).incarnation.load(),
        re_clock: b.t + 500 * MS,
        kind: Kind::Regressed as u8,
        ..Message::default()
    };
    b.call(1, |c, now| c.handle_message(&told, now));
    assert!(!b.open(1, 0) && b.events(1).contains(&Event::StartedAfresh));
    assert!(!b.sh(1).votes(b.t));
}
