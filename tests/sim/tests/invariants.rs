//! Each check can fail: a rule left out, or a world that goes on being unkind, makes it say so.

use agent_common::rules::{Rule, Rules};
use agent_core::Command;
use heartline_sim::{Broken, Fault, MS, Options, Schedule, Shape, Strict, World};

/// The first seeds of the rule's schedule without it, tables and promises looked at.
fn sees(rule: Rule, broken: Broken) {
    let seen: Vec<Broken> = (0..60)
        .filter_map(|seed| {
            let mut o = Schedule::Rule(rule).options(seed, None);
            o.rules = Rules::all().without(rule);
            o.strict = Strict::Always;
            World::new(o).run().violation.map(|v| v.broken)
        })
        .collect();
    assert!(seen.contains(&broken), "{rule:?}: {seen:?}");
}

#[test]
fn promises_cut_short_and_versions_used_twice() {
    sees(Rule::PromisesGrow, Broken::Promise);
    sees(Rule::VersionOnce, Broken::Version);
}

#[test]
fn grants_over_promises() {
    sees(Rule::FreshWaits, Broken::GrantOverPromise);
    sees(Rule::Union, Broken::GrantOverPromise);
    sees(Rule::TakeCloses, Broken::DoubleGrant);
}

#[test]
fn attempts_that_cost() {
    sees(Rule::FailureKeeps, Broken::CostlyFailure);
}

/// A run that is healed at 500 ms; what the script does after that is the test's.
fn after_healing(fault: (u64, Fault)) -> Option<Broken> {
    let mut o = Options::calm(1, Shape::new(3, 1));
    o.heal_at = 500 * MS;
    o.script = vec![fault];
    World::new(o).run().violation.map(|v| v.broken)
}

#[test]
fn groups_without_owner_and_owners_without_rest() {
    assert_eq!(after_healing((400 * MS, Fault::Mend)), None);
    assert_eq!(
        after_healing((510 * MS, Fault::Loss(1000))),
        Some(Broken::NotOwned)
    );
    // A long outage after everything has settled.
    assert_eq!(
        after_healing((1_200 * MS, Fault::Loss(1000))),
        Some(Broken::Flapping)
    );
}

#[test]
fn actions_that_nobody_takes() {
    let mut w = World::new(Options::calm(1, Shape::new(3, 1)));
    w.run_until(300 * MS);
    let n = &mut w.nodes[0];
    let now = n.now(w.t);
    let core = n.core.as_mut().expect("it runs");
    for _ in 0..2_000 {
        let _ = core.handle_command(Command::Pause(true), now);
    }
    w.command(0, Command::Pause(false));
    assert_eq!(w.broken().map(|v| v.broken), Some(Broken::Dropped));
}
