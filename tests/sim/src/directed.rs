//! For each rule, faults that reach the narrow history in which it matters, and what must then be seen.

use agent_common::rules::{Rule, Rules};

use crate::{
    check::Broken,
    fault::{Fault, Mix, PlannedEnd},
    net::Weather,
    options::{MS, Options, Outage, Shape, Strict},
    rng::Rng,
};
use agent_common::wire::Kind;

/// What leaving a rule out must lead to, under [`Schedule::Rule`](crate::Schedule::Rule).
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
    /// Are tables and promises looked at for it?
    pub strict: bool,
}

const fn sees(rule: Rule, sees: Broken, within: u64) -> Expectation {
    Expectation {
        rule,
        masked_by: None,
        sees,
        within,
        strict: false,
    }
}

const fn masked(rule: Rule, by: Rule, sees: Broken, within: u64) -> Expectation {
    Expectation {
        rule,
        masked_by: Some(by),
        sees,
        within,
        strict: false,
    }
}

const fn inside(rule: Rule, sees: Broken, within: u64) -> Expectation {
    Expectation {
        rule,
        masked_by: None,
        sees,
        within,
        strict: true,
    }
}

/// One line per rule, but for [`BY_RACE`] and [`MASKED`].
pub const EXPECTED: [Expectation; 23] = [
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
    sees(Rule::PromiseBounded, Broken::TwoOwners, 50),
    sees(Rule::RegressedTold, Broken::Outage, 50),
    sees(Rule::OldRunningIgnored, Broken::TwoOwners, 100),
    inside(Rule::FailureKeeps, Broken::CostlyFailure, 50),
    sees(Rule::LaterEpochShuts, Broken::TwoOwners, 50),
    sees(Rule::ReplayWindow, Broken::Outage, 50),
];

/// Seen by a walk through all accesses: [`word_first`](crate::race::word_first).
pub const BY_RACE: Rule = Rule::WordFirst;

/// A rule that is not missed here, and why.
pub const MASKED: (Rule, &str) = (
    Rule::TwinHalts,
    "masked: grants go to the address that the configuration has for the id, so a second machine with it gains nothing",
);

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
    match rule {
        Rule::ClosedStays => return reopened(seed),
        Rule::PromiseBounded => return unbounded(seed),
        Rule::RegressedTold => return rolled_back(seed),
        Rule::LaterEpochShuts => return stopped(seed),
        Rule::TwinHalts => return twins(seed),
        Rule::ReplayWindow => return replayed(seed),
        _ => {}
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
    if rule == Rule::WordFirst {
        o.races = 300;
    }
    if rule == Rule::OldRunningIgnored {
        // Many overtake each other.
        o.weather = Weather {
            stragglers: 300,
            straggle: 60 * MS,
            ..Weather::ROUGH
        };
    }
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

/// Nothing that the random faults of a schedule would add: what is chosen is enough.
fn chosen(seed: u64, shape: Shape, purpose: u64) -> (Options, Rng) {
    (Options::calm(seed, shape), Rng::new(seed, purpose))
}

fn apart(a: u8, b: u8) -> Fault {
    Fault::Cut {
        from: a,
        to: b,
        links: u8::MAX,
        both: true,
    }
}

/// Node 1 asks node 2 for a promise of three times what is allowed, and stays away. Node 2 reboots and has forgotten it.
fn unbounded(seed: u64) -> Options {
    let (mut o, mut r) = chosen(seed, Shape::new(3, 1), 11);
    let start = r.between(300 * MS, 400 * MS);
    o.script = vec![
        (start, apart(1, 3)),
        (
            start + 100 * MS,
            Fault::Planned {
                node: 1,
                promise: 900 * MS,
                down: 1_500 * MS,
                end: PlannedEnd::Restart,
            },
        ),
        (start + r.between(140 * MS, 160 * MS), apart(1, 2)),
        (start + r.between(140 * MS, 200 * MS), Fault::Reboot(2, MS)),
    ];
    o.heal_at = 2_500 * MS;
    o
}

/// Node 1 goes back to an older image of its memory. Later another node dies, and the third needs node 1's vote. Two gates
/// may be open until node 1 hears the newer owner (rule 11), or its old lease ends: rollbacks are against what the lease
/// assumes, this is the mitigation.
fn rolled_back(seed: u64) -> Options {
    let (mut o, mut r) = chosen(seed, Shape::new(3, 1), 12);
    let image = r.between(300 * MS, 400 * MS);
    let back = image + r.between(1_500 * MS, 2_500 * MS);
    let dies = back + 3 * o.timing.max_promise;
    o.script = vec![(image, Fault::Snapshot(1)), (back, Fault::Rollback(1))];
    if r.chance(500) {
        // It owned the group then, and does no more.
        o.script.push((
            image + 100 * MS,
            Fault::Move {
                at: 1,
                group: 0,
                node: 2,
            },
        ));
    }
    o.script.push((dies, Fault::Reboot(2, 3_000 * MS)));
    o.script.sort_by_key(|s| s.0);
    o.heal_at = dies + 1_000 * MS;
    o.outage = Some(Outage {
        from: back + 2 * o.timing.max_promise,
        until: o.heal_at,
        limit: o.timing.takeover * 2,
    });
    o.strict = Strict::Never;
    o.dual_allowed = 15 * MS;
    o
}

/// A hypervisor stops node 1, clock and all, until another has taken over. Two gates may be open until it hears the other.
fn stopped(seed: u64) -> Options {
    let (mut o, mut r) = chosen(seed, Shape::new(3, 1), 13);
    let mut at = r.between(300 * MS, 400 * MS);
    while at < 3_000 * MS {
        let ns = r.between(60 * MS, 400 * MS);
        for node in 1..=3 {
            // Not the third: a majority must go on.
            if node < 3 {
                o.script
                    .push((at + u64::from(node) * 500 * MS, Fault::ClockStop(node, ns)));
            }
        }
        at += 1_000 * MS;
    }
    o.script.sort_by_key(|s| s.0);
    o.heal_at = 4_500 * MS;
    o.strict = Strict::Never;
    o.dual_allowed = 15 * MS;
    o
}

/// Node 3 uses node 1's id while node 1 is away; then node 1 comes back, which makes node 3 the older of the two.
fn twins(seed: u64) -> Options {
    let (mut o, mut r) = chosen(seed, Shape::new(3, 1), 14);
    let start = r.between(300 * MS, 400 * MS);
    let down = r.between(2_500 * MS, 3_000 * MS);
    o.script = vec![
        (200 * MS, Fault::Fit(2, 0, false)),
        (start, Fault::Reboot(1, down)),
        (start + 100 * MS, Fault::Twin { node: 3, id: 1 }),
    ];
    o.heal_at = start + down + 1_500 * MS;
    o
}

/// Node 1 dies, and somebody plays its last heartbeat for as long as it is silent.
fn replayed(seed: u64) -> Options {
    let (mut o, mut r) = chosen(seed, Shape::new(3, 1), 15);
    let start = r.between(300 * MS, 400 * MS);
    o.script = vec![
        (200 * MS, Fault::Recorder(1)),
        (start, Fault::Reboot(1, 2_000 * MS)),
    ];
    o.outage = Some(Outage {
        from: start,
        until: start + 1_500 * MS,
        limit: o.timing.takeover * 2,
    });
    o.heal_at = start + 1_500 * MS;
    o
}
