//! Faults as the demo has them: a fixed choice of them, and what the lab must see of each. The whole matrix is
//! `cargo xtask demo drbd`.

use heartline_lab::paint::Busy;
use heartline_vm::{
    cluster::{Proof, Setting, Stack},
    demo::{self, Fault, Outcome},
};

/// The agent promotes DRBD, and fences.
fn guarded(fault: Fault) -> Outcome {
    let busy = Busy::quiet(fault.name());
    let setting = Setting {
        stack: Stack::Drbd,
        proof: Proof::Fencing,
        ..Setting::default()
    };
    let outcome = demo::one(fault, &setting, &busy).expect("an outcome");
    assert!(outcome.as_expected(), "{outcome:#?}");
    assert!(outcome.acknowledged > 25, "{outcome:#?}");
    outcome
}

fn off(outcome: &Outcome, node: &str) -> bool {
    let order = format!("off {node}: ok off");
    outcome.fenced.contains(&order)
}

#[test]
fn a_machine_that_dies_is_fenced_and_no_row_is_lost() {
    let outcome = guarded(Fault::GuestKilled);
    assert!(off(&outcome, "n1") && !off(&outcome, "n2"), "{outcome:#?}");
    let by_fencing = |proof: &String| proof.contains("n1") && proof.contains("fenc");
    assert!(outcome.proof_used.iter().any(by_fencing), "{outcome:#?}");
    assert_eq!(outcome.owner.as_deref(), Some("n2"), "{outcome:#?}");
}

/// It would go on where it stood, and write.
#[test]
fn a_machine_that_stands_still_is_ended_before_another_writes() {
    let outcome = guarded(Fault::GuestFrozen);
    assert!(off(&outcome, "n1"), "{outcome:#?}");
}

/// Both agents live and hear each other: nobody is ended, the other replica is outdated, and writes go on.
#[test]
fn replication_that_is_cut_outdates_the_other_replica_and_ends_nobody() {
    let outcome = guarded(Fault::ReplicationCut);
    assert!(!off(&outcome, "n1") && !off(&outcome, "n2"), "{outcome:#?}");
    assert_eq!(outcome.owner.as_deref(), Some("n1"), "{outcome:#?}");
}

/// Nothing proves that the owner is dead, so nobody follows it.
#[test]
fn a_dead_fence_device_lets_nobody_write() {
    guarded(Fault::FenceDead);
}

/// Without it, "never two primaries" would mean nothing.
#[test]
fn the_lab_sees_two_primaries_where_nothing_prevents_them() {
    let busy = Busy::quiet("guest-frozen");
    let setting = Setting {
        stack: Stack::Exec,
        ..Setting::default()
    };
    let outcome = demo::one(Fault::GuestFrozen, &setting, &busy).expect("an outcome");
    assert!(outcome.two_at_once, "{outcome:?}");
    assert!(!outcome.as_expected());
}
