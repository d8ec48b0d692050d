//! Rule 10: members and VIPs' groups change one step at a time, among all other faults. HEARTLINE_TEST_ALL=1: 20,000 seeds.

use agent_common::rules::{GENERATIONS, Rule, Rules};
use heartline_sim::{Options, Violation, World, directed_members::EXPECTED};

fn all() -> bool {
    std::env::var_os("HEARTLINE_TEST_ALL").is_some_and(|v| v == "1")
}

/// Nothing is broken, and where the operator was careful every change comes to its end.
#[test]
fn random_changes() {
    let mut newest = 0;
    for seed in 0..if all() { 20_000 } else { 120 } {
        let o = Options::members(seed);
        let line = o.reproduce();
        let mut w = World::new(o);
        w.run_until(u64::MAX);
        if let Some(v) = w.broken() {
            panic!("{:?} at {} ns: {}\n{line}", v.broken, v.at, v.text);
        }
        let there = w.nodes.iter().map(|n| n.disk.history.generation).max();
        newest = newest.max(there.unwrap_or(0));
    }
    assert!(newest > 5, "hardly anything changed");
}

/// Histories that once failed.
#[test]
fn once_failed() {
    // Somebody ended the drain of a node that was being removed, and it was waited for without end.
    for seed in [3066, 3512] {
        let out = World::new(Options::members(seed)).run();
        assert_eq!(out.violation, None, "seed {seed}");
    }
}

fn run(rule: Rule, seed: u64, rules: Rules) -> Option<Violation> {
    let mut o = Options::directed(rule, seed);
    o.rules = rules;
    World::new(o).run().violation
}

/// Each part of rule 10, left out, is missed; with it the same history is clean.
#[test]
fn each_part_is_missed() {
    for rule in GENERATIONS {
        let e = EXPECTED
            .iter()
            .find(|e| e.rule == rule)
            .expect("each has its line");
        let found = (0..e.within).find(|seed| {
            run(rule, *seed, Rules::all().without(rule)).is_some_and(|v| v.broken == e.sees)
        });
        let seed = found.unwrap_or_else(|| {
            panic!(
                "{rule:?} was left out for {} seeds and nobody noticed",
                e.within
            )
        });
        println!("{rule:?}: seed {seed}");
        for seed in 0..e.within {
            assert_eq!(
                run(rule, seed, Rules::all()),
                None,
                "{rule:?}, seed {seed}: broken with all rules"
            );
        }
    }
}
