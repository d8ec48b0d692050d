//! Each rule left out on purpose must be missed: two owners, or an owner that resumes. With the rule, the same seed is clean.

use agent_common::rules::{ALL, Rule, Rules};
use heartline_sim::{Options, World, directed::EXPECTED};

fn run(rule: Rule, seed: u64, rules: Rules) -> Option<heartline_sim::Violation> {
    let mut o = Options::directed(rule, seed);
    o.rules = rules;
    World::new(o).run().violation
}

fn missed(rule: Rule) {
    let e = EXPECTED
        .iter()
        .find(|e| e.rule == rule)
        .expect("every rule has its line");
    let mask = e
        .masked_by
        .map_or(Rules::all(), |m| Rules::all().without(m));
    for seed in 0..e.within {
        let Some(v) = run(rule, seed, mask.without(rule)) else {
            continue;
        };
        // A masking rule that is left out breaks things by itself; only what it does not break shows this rule.
        let alone = run(rule, seed, mask);
        if v.broken != e.sees || alone.is_some_and(|a| a.broken == e.sees) {
            continue;
        }
        println!(
            "{rule:?} (masked by {:?}): seed {seed}, {:?} at {} ns: {}",
            e.masked_by, v.broken, v.at, v.text
        );
        assert_eq!(
            run(rule, seed, Rules::all()),
            None,
            "seed {seed} is broken with all rules"
        );
        return;
    }
    panic!(
        "{rule:?} was left out for {} seeds and nobody noticed",
        e.within
    );
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $rule:ident,)*) => {
        $($(#[$doc])* #[test] fn $name() { missed(Rule::$rule); })*
        #[test]
        fn every_rule_has_a_test() {
            assert_eq!(ALL.len(), [$(Rule::$rule),*].len());
            for r in ALL {
                assert!([$(Rule::$rule),*].contains(&r), "{r:?}");
            }
        }
    };
}

rules! {
    fresh_waits = FreshWaits,
    promises_grow = PromisesGrow,
    version_once = VersionOnce,
    /// Masked: while versions are never used twice, an equal version means an equal set.
    compare_set = CompareSet,
    /// Needs an old gate that outlives its table (lost maps); a plain reboot takes the old lease with it.
    incarnation_waits = IncarnationWaits,
    own_vote_pending = OwnVotePending,
    /// Masked: a node that looks at its lease on every way in has dropped everything before it gives its vote away.
    own_vote_given = OwnVoteGiven,
    union = Union,
    lapsed_is_lost = LapsedIsLost,
    /// Masked: a lapsed lease is not extended, whoever acks; closing keeps voters from promising for nothing.
    closed_stays = ClosedStays,
    /// Masked: the same; a second promise for a taken group cannot revive the first owner's lease.
    take_closes = TakeCloses,
    ack_per_heartbeat = AckPerHeartbeat,
    ack_running_version = AckRunningVersion,
    growth_restarts = GrowthRestarts,
    lease_shorter = LeaseShorter,
    majority = Majority,
    ack_granted_version = AckGrantedVersion,
}

/// What masks a rule is as said: left out alone, the masked rule is not missed.
#[test]
fn masked_rules_are_masked() {
    for e in EXPECTED.iter().filter(|e| e.masked_by.is_some()) {
        for seed in 0..40 {
            assert_eq!(
                run(e.rule, seed, Rules::all().without(e.rule)),
                None,
                "{:?}, seed {seed}",
                e.rule
            );
        }
    }
}
