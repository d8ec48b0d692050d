//! For each rule, faults that reach the narrow history in which it matters, and what must then be seen.

use agent_common::rules::{Rule, Rules};

use crate::{
    check::Broken,
    fault::{Fault, Mix, PlannedEnd},
    net::Weather,
    options::{MS, Options, Shape},
    rng::Rng,
};
use agent_common::wire::Kind;

/// What leaving a rule out must lead to.
#[derive(Clone, Copy, Debug)]
pub struct Expectation {
    /// The rule.
    pub rule: Rule,
    /// A rule that masks it: left out, too, in both runs that are compared.
    pub masked_by: Option<Rule>,
    /// What is seen.
    pub sees: Broken,
    /// Within so many seeds.
    pub within: u64,
}

const fn sees(rule: Rule, sees: Broken, within: u64) -> Expectation {
    Expectation {
        rule,
        masked_by: None,
        sees,
        within,
    }
}

const fn masked(rule: Rule, by: Rule, sees: Broken, within: u64) -> Expectation {
    Expectation {
        rule,
        masked_by: Some(by),
        sees,
        within,
    }
}

/// One line per rule.
pub const EXPECTED: [Expectation; 17] = [
    sees(Rule::FreshWaits, Broken::TwoOwners, 100),
    sees(Rule::PromisesGrow, Broken::TwoOwners, 200),
    sees(Rule::VersionOnce, Broken::TwoOwners, 100),
    masked(Rule::CompareSet, Rule::VersionOnce, Broken::TwoOwners, 200),
    sees(Rule::IncarnationWaits, Broken::TwoOwners, 100),
    sees(Rule::OwnVotePending, Broken::TwoOwners, 50),
    masked(
        Rule::OwnVoteGiven,
        Rule::LapsedIsLost,
        Broken::TwoOwners,
        200,
    ),
    sees(Rule::Union, Broken::TwoOwners, 50),
    sees(Rule::LapsedIsLost, Broken::Resume, 200),
    masked(Rule::ClosedStays, Rule::LapsedIsLost, Broken::Resume, 200),
    masked(Rule::TakeCloses, Rule::LapsedIsLost, Broken::TwoOwners, 200),
    sees(Rule::AckPerHeartbeat, Broken::TwoOwners, 100),
    sees(Rule::AckRunningVersion, Broken::TwoOwners, 500),
    sees(Rule::GrowthRestarts, Broken::TwoOwners, 500),
    sees(Rule::LeaseShorter, Broken::TwoOwners, 50),
    sees(Rule::Majority, Broken::TwoOwners, 20),
    sees(Rule::AckGrantedVersion, Broken::TwoOwners, 100),
];

/// Options under which leaving `rule` out is seen soon. All rules hold in them.
pub fn options(rule: Rule, seed: u64) -> Options {
    let shapes = match rule {
        Rule::AckPerHeartbeat => [Shape::new(5, 2), Shape::new(5, 3)],
        _ => [Shape::new(3, 2), Shape::new(5, 3)],
    };
    let mut o = Options::random(seed, Some(shapes[seed as usize % 2]));
    o.rules = Rules::all();
    o.weather = Weather::ROUGH;
    o.drift_ppm = 10_000;
    if matches!(rule, Rule::AckRunningVersion | Rule::GrowthRestarts) {
        return growth(rule, seed);
    }
    if rule == Rule::ClosedStays {
        return reopened(seed);
    }
    o.mix = match rule {
        Rule::FreshWaits => Mix {
            gap: 50 * MS,
            reboot: 30,
            storm: true,
            ..Mix::ALL
        },
        Rule::PromisesGrow => Mix {
            gap: 40 * MS,
            planned: 30,
            pause: 20,
            kill: 0,
            reboot: 0,
            maps: 0,
            ..Mix::ALL
        },
        Rule::LapsedIsLost | Rule::TakeCloses | Rule::OwnVoteGiven => Mix {
            gap: 50 * MS,
            planned: 20,
            pause: 30,
            leave: 6,
            people: 20,
            ..Mix::ALL
        },
        Rule::IncarnationWaits => Mix {
            maps: 20,
            ..Mix::ALL
        },
        _ => Mix {
            gap: 60 * MS,
            ..Mix::ALL
        },
    };
    if matches!(rule, Rule::LapsedIsLost | Rule::TakeCloses) {
        o.weather = Weather::STALE;
    }
    o
}

/// Node 1 has (or soon gets) a long lease for group 0 from node 3, grows by group 1 with node 2's vote, and is cut off. The
/// long lease must not cover group 1: node 2 stood by it for an ordinary promise only.
fn growth(rule: Rule, seed: u64) -> Options {
    let mut r = Rng::new(seed, 6);
    let mut o = Options::calm(seed, Shape::new(3, 2));
    let start = r.between(300 * MS, 400 * MS);
    let at = |ms: u64, r: &mut Rng| start + ms * MS + r.between(0, 4 * MS);
    let cut = |a: u8, b: u8| Fault::Cut {
        from: a,
        to: b,
        links: u8::MAX,
        both: true,
    };
    // The acks of the long heartbeat come before the growth, or after it.
    let late = rule == Rule::AckRunningVersion;
    if late {
        o.script.push((
            start,
            Fault::Hold(3, 1, Kind::Ack, r.between(32 * MS, 40 * MS)),
        ));
    }
    let end = if late {
        PlannedEnd::Hasty
    } else {
        PlannedEnd::Restart
    };
    o.script.push((at(4, &mut r), cut(1, 2)));
    o.script.push((
        at(10, &mut r),
        Fault::Planned {
            node: 1,
            promise: 300 * MS,
            down: 2 * MS,
            end,
        },
    ));
    o.script.push((at(20, &mut r), Fault::Mend));
    let moved = at(36, &mut r);
    o.script.push((
        moved,
        Fault::Move {
            at: 1,
            group: 1,
            node: 1,
        },
    ));
    o.script.push((moved - MS / 2, cut(1, 3)));
    o.script
        .push((moved + r.between(MS / 2, 3 * MS), Fault::Partition(1)));
    o.heal_at = 1_500 * MS;
    o
}

/// Node 1 sends one heartbeat with a long promise and dies; it is held up on the way. Node 2 takes group 0 and reboots. Then
/// the old heartbeat reaches node 3, which had closed node 1's entry for node 2. (Node 1 must not hear node 2, or rule 11 shuts
/// its gate.)
fn reopened(seed: u64) -> Options {
    let mut r = Rng::new(seed, 7);
    let mut o = Options::calm(seed, Shape::new(3, 1));
    let start = r.between(300 * MS, 400 * MS);
    o.script = vec![
        (start - 100 * MS, Fault::Fit(3, 0, false)),
        (
            start,
            Fault::Hold(1, 0, Kind::Heartbeat, r.between(130 * MS, 160 * MS)),
        ),
        (
            start + 10 * MS,
            Fault::Planned {
                node: 1,
                promise: 300 * MS,
                down: 1_000 * MS,
                end: PlannedEnd::Hasty,
            },
        ),
        (
            start + 20 * MS,
            Fault::Cut {
                from: 2,
                to: 1,
                links: u8::MAX,
                both: false,
            },
        ),
        (
            start + r.between(75 * MS, 85 * MS),
            Fault::Reboot(2, 400 * MS),
        ),
    ];
    o.heal_at = 2_000 * MS;
    o
}
