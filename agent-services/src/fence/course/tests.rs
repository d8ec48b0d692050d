use std::collections::BTreeMap;

use super::*;
use crate::fence::Device;

fn device(name: &str) -> Device {
    Device {
        name: name.into(),
        agent: "fence_x".into(),
        parameters: BTreeMap::new(),
        secrets: Vec::new(),
        timeout: Duration::from_secs(10),
        verify: true,
        can_on: true,
        only_reboots: false,
    }
}

fn plan(levels: Vec<Vec<Device>>) -> Plan {
    Plan {
        node: "n2".into(),
        levels,
        delay: Duration::ZERO,
        goal: Goal::Reboot,
    }
}

/// Carries it out with a world that answers; returns what was done, as words, and how it ended.
fn walk(plan: &Plan, mut world: impl FnMut(&str, Action) -> Said) -> (Vec<String>, Outcome) {
    let mut course = Course::new(plan);
    let mut done = Vec::new();
    for _ in 0..1000 {
        match course.next() {
            Do::Done(outcome) => return (done, outcome),
            Do::Wait(t) => {
                done.push(format!("wait {}", t.as_secs()));
                course.answer(&Answer::Waited);
            }
            Do::Call {
                level,
                device,
                action,
            } => {
                let name = &plan.levels[level][device].name;
                done.push(format!("{name} {}", action.name()));
                course.answer(&Answer::Said(world(name, action)));
            }
        }
    }
    panic!("no end: {done:?}")
}

fn obedient(_: &str, action: Action) -> Said {
    match action {
        Action::Status => Said::Power(Power::Off),
        _ => Said::Done,
    }
}

#[test]
fn off_seen_on() {
    let (done, outcome) = walk(&plan(vec![vec![device("a")]]), obedient);
    assert_eq!(done, ["a off", "a status", "a on"]);
    assert_eq!(
        outcome,
        Outcome::Fenced {
            level: 1,
            verified: true
        }
    );
    let off = Plan {
        goal: Goal::Off,
        delay: Duration::from_secs(5),
        ..plan(vec![vec![device("a")]])
    };
    assert_eq!(walk(&off, obedient).0, ["wait 5", "a off", "a status"]);
}

#[test]
fn both_power_supplies_go_off_before_one_goes_on() {
    let two = plan(vec![vec![device("a"), device("b")]]);
    assert_eq!(
        walk(&two, obedient).0,
        ["a off", "a status", "b off", "b status", "a on", "b on"]
    );
    // The second cannot: the first alone proves nothing, and is not turned on by this level.
    let (done, outcome) = walk(&two, |name, action| match (name, action) {
        ("b", Action::Status) => Said::Power(Power::On),
        ("b", _) => Said::Failed("no".into()),
        _ => obedient(name, action),
    });
    assert_eq!(outcome, Outcome::Failed);
    assert!(!done.contains(&"a on".to_owned()), "{done:?}");
}

#[test]
fn a_hang_a_failure_and_a_lie_go_to_the_next_level() {
    let levels = plan(vec![vec![device("a")], vec![], vec![device("b")]]);
    for bad in [
        Said::Silent("hung".into()),
        Said::Failed("no".into()),
        Said::Done,
    ] {
        let (done, outcome) = walk(&levels, |name, action| match (name, action) {
            ("a", Action::Status) => Said::Power(Power::On),
            ("a", _) => bad.clone(),
            _ => obedient(name, action),
        });
        assert_eq!(
            outcome,
            Outcome::Fenced {
                level: 3,
                verified: true
            },
            "{bad:?}: {done:?}"
        );
        assert!(
            done.ends_with(&["b off".into(), "b status".into(), "b on".into()]),
            "{done:?}"
        );
        let offs = done.iter().filter(|d| *d == "a off").count();
        assert_eq!(offs, if bad == Said::Done { 1 } else { 2 });
        assert_eq!(done.iter().filter(|d| *d == "a status").count(), 3);
    }
    let (_, outcome) = walk(&levels, |_, _| Said::Failed("no".into()));
    assert_eq!(outcome, Outcome::Failed);
}

#[test]
fn off_by_somebody_else_counts() {
    let (_, outcome) = walk(&plan(vec![vec![device("a")]]), |_, action| match action {
        Action::Status => Said::Power(Power::Off),
        _ => Said::Failed("already".into()),
    });
    assert_eq!(
        outcome,
        Outcome::Fenced {
            level: 1,
            verified: true
        }
    );
}

#[test]
fn what_cannot_be_asked_is_said_to_be_unverified() {
    let blind = Device {
        verify: false,
        ..device("a")
    };
    let (done, outcome) = walk(&plan(vec![vec![blind.clone()]]), obedient);
    assert_eq!(done, ["a off", "a on"]);
    assert_eq!(
        outcome,
        Outcome::Fenced {
            level: 1,
            verified: false
        }
    );
    let (_, outcome) = walk(&plan(vec![vec![blind]]), |_, _| Said::Silent("hung".into()));
    assert_eq!(outcome, Outcome::Failed);
    let reboots = Device {
        only_reboots: true,
        ..device("a")
    };
    let (done, outcome) = walk(&plan(vec![vec![reboots]]), |_, _| Said::Done);
    assert_eq!(done, ["a reboot"]);
    assert_eq!(
        outcome,
        Outcome::Fenced {
            level: 1,
            verified: false
        }
    );
}

#[test]
fn nothing_to_fence_with() {
    assert_eq!(walk(&plan(vec![]), obedient).1, Outcome::NoDevice);
    assert_eq!(walk(&plan(vec![vec![]]), obedient).1, Outcome::NoDevice);
}

/// A machine with power supplies that do as they are told, or not, at random; the course must end, and what it calls
/// fenced and verified must have been off with all supplies at once, as far as anybody can see: all that answers
/// truthfully is believed.
#[test]
fn fenced_means_that_it_was_off() {
    let mut seed = 1u64;
    let mut random = move |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let (mut fenced, mut failed) = (0, 0);
    for round in 0..20_000 {
        let levels: Vec<Vec<Device>> = (0..=random(2))
            .map(|_| {
                (0..=random(2))
                    .map(|_| Device {
                        can_on: random(2) == 0,
                        ..device("d")
                    })
                    .collect()
            })
            .collect();
        let goal = if random(2) == 0 {
            Goal::Off
        } else {
            Goal::Reboot
        };
        let plan = Plan {
            goal,
            ..plan(levels)
        };
        let mut course = Course::new(&plan);
        // Each level's supplies; true: on.
        let mut on: Vec<Vec<bool>> = plan.levels.iter().map(|l| vec![true; l.len()]).collect();
        let mut was_off = None;
        let mut calls = 0;
        let outcome = loop {
            calls += 1;
            assert!(calls < 200, "round {round}");
            match course.next() {
                Do::Done(outcome) => break outcome,
                Do::Wait(_) => {
                    course.answer(&Answer::Waited);
                }
                Do::Call {
                    level,
                    device,
                    action,
                } => {
                    let works = random(3) > 0;
                    let supply = &mut on[level][device];
                    let said = match action {
                        Action::Off => {
                            *supply &= !works;
                            // It may do it and fail to say so, or say so and lie.
                            [
                                Said::Done,
                                Said::Failed("?".into()),
                                Said::Silent("?".into()),
                            ][random(3) as usize]
                                .clone()
                        }
                        Action::On => {
                            *supply |= works;
                            Said::Done
                        }
                        Action::Status if random(5) == 0 => Said::Silent("?".into()),
                        Action::Status => Said::Power(if *supply { Power::On } else { Power::Off }),
                        Action::Monitor | Action::Reboot | Action::Metadata => panic!("{action:?}"),
                    };
                    course.answer(&Answer::Said(said));
                    if on[level].iter().all(|o| !*o) {
                        was_off = Some(level);
                    }
                    assert!(
                        !course.is_fenced() || was_off == Some(level),
                        "round {round}"
                    );
                }
            }
        };
        match outcome {
            Outcome::Fenced { level, verified } => {
                fenced += 1;
                assert!(verified && was_off == Some(level - 1), "round {round}");
            }
            Outcome::Failed => failed += 1,
            Outcome::NoDevice => panic!("round {round}"),
        }
    }
    assert!(fenced > 1000 && failed > 1000, "{fenced} {failed}");
}
