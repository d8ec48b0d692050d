//! Each rule left out on purpose must be missed: two owners, or an owner that resumes. With the rule, the same seed is clean.

use agent_common::rules::{ALL, Rule, Rules};
use heartline_sim::{
    Options, Strict, World,
    directed::{BY_RACE, EXPECTED, MASKED},
    hunt,
};

fn missed(rule: Rule) {
    let e = EXPECTED
        .iter()
        .find(|e| e.rule == rule)
        .expect("every rule has its line");
    let found = hunt::miss(e).unwrap_or_else(|| {
        panic!(
            "{rule:?} was left out for {} seeds and nobody noticed",
            e.within
        )
    });
    println!("{found:?}");
    assert_eq!(
        found.with_all, None,
        "seed {} is broken with all rules",
        found.seed
    );
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $rule:ident,)*) => {
        $($(#[$doc])* #[test] fn $name() { missed(Rule::$rule); })*
        #[test]
        fn every_rule_has_a_test() {
            // One by a walk through all accesses, one is masked whatever happens.
            let tested = [$(Rule::$rule,)* BY_RACE, MASKED.0];
            assert_eq!(ALL.len(), tested.len());
            for r in ALL {
                assert!(tested.contains(&r), "{r:?}");
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
    promise_bounded = PromiseBounded,
    /// A rollback is against what the lease assumes; without the rule the node never takes part again.
    regressed_told = RegressedTold,
    old_running_ignored = OldRunningIgnored,
    failure_keeps = FailureKeeps,
    /// A stopped clock is against what the lease assumes; the rule shortens what follows.
    later_epoch_shuts = LaterEpochShuts,
    replay_window = ReplayWindow,
}

/// What masks a rule is as said: left out alone, the masked rule is not missed.
#[test]
fn masked_rules_are_masked() {
    for e in EXPECTED.iter().filter(|e| e.masked_by.is_some()) {
        for seed in 0..40 {
            let mut o = Options::directed(e.rule, seed);
            o.rules = Rules::all().without(e.rule);
            assert_eq!(
                World::new(o).run().violation,
                None,
                "{:?}, seed {seed}",
                e.rule
            );
        }
    }
}

/// The masked one, looked at from inside, too.
#[test]
fn a_twin_gains_nothing() {
    for seed in 0..40 {
        let mut o = Options::directed(MASKED.0, seed);
        o.rules = Rules::all().without(MASKED.0);
        o.strict = Strict::Always;
        assert_eq!(World::new(o).run().violation, None, "seed {seed}");
    }
}
