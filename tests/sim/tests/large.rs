//! The largest cluster that there can be, under the same faults and checks as the small ones.

use agent_common::Set;
use heartline_sim::{Broken, MS, Options, Outcome, Shape, World};

fn faults(seed: u64, witnesses: u32) -> Options {
    let shape = Shape {
        witnesses,
        ..Shape::LARGEST
    };
    let mut o = Options::random(5_000_000 + seed, Some(shape));
    o.heal_at = 1_500 * MS;
    o
}

fn clean(o: Options) -> Outcome {
    let line = o.reproduce();
    let out = World::new(o).run();
    eprintln!("{} events, {} gains", out.events, out.gains);
    if let Some(v) = out.violation {
        panic!("{:?} at {} ns: {}\n{line}", v.broken, v.at, v.text);
    }
    out
}

#[test]
fn faults_of_all_kinds() {
    // About a minute each; HEARTLINE_TEST_ALL=1: 60.
    let all = std::env::var_os("HEARTLINE_TEST_ALL").is_some_and(|v| v == "1");
    for seed in 0..if all { 60 } else { 1 } {
        let out = clean(faults(seed, [0, 0b11, 1 << 31][seed as usize % 3]));
        assert!(out.gains >= 256, "{} gains", out.gains);
    }
}

/// The checks look at the last group, too.
#[test]
fn two_owners_of_the_last_group_are_seen() {
    let mut w = World::new(Options::calm(1, Shape::LARGEST));
    w.run_until(400 * MS);
    let owner = w.owner(255).expect("a healthy cluster owns all groups");
    let other = w
        .nodes
        .iter()
        .find(|n| n.id != owner && !n.open(w.t).is_empty())
        .expect("another that owns something");
    other.sh.gate.insert(Set::of(255));
    w.run_until(w.t + MS);
    let v = w.broken().expect("a violation");
    assert_eq!(v.broken, Broken::TwoOwners);
    assert!(v.text.starts_with("group 255 is owned by"), "{}", v.text);
}
