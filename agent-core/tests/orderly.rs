//! Services are stopped on one node before another may have their group.

mod bench;

use agent_core::{Action, Command, CommandError, Event, GroupConfig, Phase};
use bench::{Bench, MS};

fn orderly(n: u8, groups: u8) -> Bench {
    Bench::with(n, groups, |_, g| g.orderly = true)
}

/// The only thing asked of a node: a stop; its epoch, and for whom.
fn stop(b: &mut Bench, id: u8, of: u8) -> (u64, u8) {
    match b.asked(id)[..] {
        [Action::Stop { group, epoch, to }] if group == of => (epoch, to),
        ref other => panic!("{other:?}"),
    }
}

fn resumed(b: &mut Bench, id: u8, of: u8) {
    let asked = b.asked(id);
    assert!(
        matches!(asked[..], [Action::Resume { group, .. }] if group == of),
        "{asked:?}"
    );
}

#[test]
fn a_move_waits_for_the_services_and_for_nothing_else() {
    let mut b = orderly(5, 1);
    b.run(30);
    b.command(3, Command::Move { group: 0, node: 4 });
    let (epoch, to) = stop(&mut b, 1, 0);
    assert_eq!(to, 4);
    b.run(5_000);
    assert!(b.open(1, 0), "it serves until it is stopped");
    assert!(b.asked(1).is_empty(), "asked once");
    let stale = Command::Stopped {
        group: 0,
        epoch: epoch - 64,
    };
    assert_eq!(b.refused(1, stale), CommandError::Stale);
    assert!(b.open(1, 0));
    // No time passes: everything else is messages.
    b.command(1, Command::Stopped { group: 0, epoch });
    assert!(b.open(4, 0) && !b.open(1, 0));
    let released = Event::Released {
        group: 0,
        epoch,
        to: 4,
    };
    assert!(b.events(1).contains(&released));
    b.run(200);
    assert!(b.open(4, 0) && b.asked(4).is_empty());
}

/// The voters that have not heard of the release keep the ask until they do.
#[test]
fn a_release_that_is_late_at_the_voters_is_waited_for() {
    let mut b = orderly(5, 1);
    b.run(30);
    b.command(1, Command::Move { group: 0, node: 2 });
    let (epoch, _) = stop(&mut b, 1, 0);
    b.pass = |from, to, _| !(from == 1 && to > 2);
    b.command(1, Command::Stopped { group: 0, epoch });
    assert!(!b.open(1, 0) && !b.open(2, 0));
    b.pass = |_, _, _| true;
    b.t += MS;
    for (to, m) in std::mem::take(&mut b.kept) {
        b.arrive(to, m);
    }
    b.settle();
    assert!(b.open(2, 0));
}

#[test]
fn a_drain_that_is_taken_back_starts_again() {
    let mut b = orderly(3, 1);
    b.run(30);
    b.command(2, Command::Drain { node: 1, on: true });
    let (epoch, to) = stop(&mut b, 1, 0);
    assert_eq!(to, 2);
    b.command(2, Command::Drain { node: 1, on: false });
    resumed(&mut b, 1, 0);
    // They crossed.
    let late = Command::Stopped { group: 0, epoch };
    assert_eq!(b.refused(1, late), CommandError::Stale);
    b.run(100);
    assert!(b.open(1, 0));
}

#[test]
fn the_target_may_change_on_the_way() {
    let mut b = orderly(3, 1);
    b.run(30);
    b.command(1, Command::Drain { node: 1, on: true });
    let (epoch, _) = stop(&mut b, 1, 0);
    b.command(1, Command::Drain { node: 2, on: true });
    b.run(50);
    assert!(b.asked(1).is_empty());
    b.command(1, Command::Stopped { group: 0, epoch });
    assert!(b.open(3, 0));
}

#[test]
fn what_cannot_be_stopped_stays_until_it_is_cleared() {
    let mut b = orderly(3, 1);
    // In step with the heartbeats: a cut counts from the last one.
    let beat = b.timing.heartbeat / MS;
    b.run(3 * beat);
    b.command(1, Command::Drain { node: 1, on: true });
    let (epoch, _) = stop(&mut b, 1, 0);
    b.command(1, Command::StopFailed { group: 0, epoch });
    b.run(80 * beat);
    assert!(b.open(1, 0) && b.asked(1).is_empty());
    let stuck = |on| Event::Stuck {
        group: 0,
        node: 1,
        on,
    };
    for id in 1..=3 {
        assert!(b.events(id).contains(&stuck(true)), "n{id}");
    }
    let away = Command::Move { group: 0, node: 2 };
    assert_eq!(b.refused(3, away), CommandError::Stuck);
    let fine = Command::Phase {
        group: 0,
        phase: Phase::Running,
    };
    assert_eq!(b.refused(1, fine), CommandError::Stuck);
    // Its lease lapses; it is alive again, and whether something runs there nobody knows.
    b.pass = |from, to, _| from != 1 && to != 1;
    b.run(45);
    assert!(!b.open(1, 0));
    b.pass = |_, _, _| true;
    b.run(200);
    assert!(b.open(1, 0), "nobody else has taken it");
    b.command(3, Command::Clear { group: 0 });
    assert!(b.events(1).contains(&stuck(false)));
    let (epoch, to) = stop(&mut b, 1, 0);
    b.command(1, Command::Stopped { group: 0, epoch });
    assert_eq!(to, 2);
    assert!(b.open(2, 0));
}

/// The node that it was stuck on is gone: what was there is no reason any more.
#[test]
fn a_stuck_group_is_taken_over_from_a_dead_node() {
    let mut b = orderly(3, 1);
    b.run(30);
    let epoch = b.sh(1).group_epoch[0].load();
    b.command(1, Command::StopFailed { group: 0, epoch });
    b.run(50);
    b.pass = |from, to, _| from != 1 && to != 1;
    b.run(200);
    assert!(b.open(2, 0));
    b.pass = |_, _, _| true;
    b.run(200);
    assert!(b.open(2, 0), "nor afterwards");
    let late = Command::StopFailed { group: 0, epoch };
    assert_eq!(b.refused(1, late), CommandError::NotOwned);
}

#[test]
fn a_node_that_leaves_stops_everything_first() {
    let mut b = orderly(3, 1);
    b.run(30);
    for node in [2, 3] {
        b.command(
            node,
            Command::Fit {
                group: 0,
                fit: false,
            },
        );
    }
    b.command(1, Command::Leave);
    let (epoch, to) = stop(&mut b, 1, 0);
    assert_eq!(to, 0, "nobody else can have it");
    let left = |b: &Bench| b.nodes[0].actions.iter().any(|a| matches!(a, Action::Left));
    b.run(100);
    assert!(b.open(1, 0) && !left(&b));
    b.command(1, Command::Stopped { group: 0, epoch });
    b.run(20);
    assert!(!b.open(1, 0) && left(&b));
}

/// Without a lease there is nothing to be orderly about.
#[test]
fn a_lapsed_lease_ends_the_order() {
    let mut b = orderly(3, 1);
    b.run(30);
    b.command(1, Command::Drain { node: 1, on: true });
    let (epoch, _) = stop(&mut b, 1, 0);
    b.pass = |from, to, _| from != 1 && to != 1;
    b.run(200);
    assert!(!b.open(1, 0) && b.open(2, 0));
    let late = Command::Stopped { group: 0, epoch };
    assert_eq!(b.refused(1, late), CommandError::NotOwned);
    b.pass = |_, _, _| true;
    b.run(100);
    assert!(b.asked(1).is_empty() && b.open(2, 0));
}

#[test]
fn failures_are_remembered_and_cleared_everywhere() {
    let mut b = orderly(3, 1);
    b.run(30);
    b.command(1, Command::Fail { group: 0 });
    let (epoch, to) = stop(&mut b, 1, 0);
    assert_eq!(to, 2);
    b.command(1, Command::Stopped { group: 0, epoch });
    assert!(b.open(2, 0));
    let back = Command::Move { group: 0, node: 1 };
    assert_eq!(b.refused(2, back), CommandError::Failed);
    b.command(2, Command::Fail { group: 0 });
    let (epoch, to) = stop(&mut b, 2, 0);
    assert_eq!(to, 3);
    b.command(2, Command::Stopped { group: 0, epoch });
    b.command(3, Command::Fail { group: 0 });
    b.run(100);
    assert!(b.open(3, 0) && b.asked(3).is_empty(), "nobody is better");
    b.freeze(3, true);
    b.run(200);
    assert!(b.open(1, 0), "tried where it failed rather than not at all");
    b.freeze(3, false);
    b.run(100);
    b.command(2, Command::Clear { group: 0 });
    assert!(b.events(1).contains(&Event::Cleared { group: 0 }));
    b.run(100);
    assert!(b.open(1, 0), "fit again, and there already");
}

#[test]
fn phases_are_the_owners_word() {
    let mut b = orderly(3, 1);
    b.run(30);
    let says = |phase| Command::Phase { group: 0, phase };
    assert_eq!(b.refused(2, says(Phase::Running)), CommandError::NotOwned);
    b.command(1, says(Phase::Running));
    b.run(30);
    for id in 0..3 {
        let core = b.nodes[id].core.as_ref().unwrap();
        assert_eq!(core.phase(0), (1, Phase::Running), "n{}", id + 1);
    }
    b.freeze(1, true);
    b.run(100);
    b.command(2, says(Phase::Starting));
    b.freeze(1, false);
    b.run(100);
    assert_eq!(b.refused(1, says(Phase::Idle)), CommandError::NotOwned);
    let core = b.nodes[0].core.as_ref().unwrap();
    assert_eq!(core.phase(0), (2, Phase::Starting));
}

/// A group with services and one that goes with it: neither is anywhere without the other.
#[test]
fn a_unit_goes_as_one() {
    let mut b = Bench::with(3, 3, |g, of: &mut GroupConfig| {
        of.orderly = g != 1;
        of.with = (g != 0).then_some(0);
    });
    b.run(50);
    assert!((0..3).all(|g| b.open(1, g)));
    b.command(3, Command::Drain { node: 1, on: true });
    let asked = b.asked(1);
    assert_eq!(asked.len(), 2, "{asked:?}");
    let epoch = |b: &Bench, g: usize| b.sh(1).group_epoch[g].load();
    let first = Command::Stopped {
        group: 2,
        epoch: epoch(&b, 2),
    };
    b.command(1, first);
    b.run(500);
    assert!((0..3).all(|g| b.open(1, g)), "one of them still runs");
    let second = Command::Stopped {
        group: 0,
        epoch: epoch(&b, 0),
    };
    b.command(1, second);
    assert!((0..3).all(|g| b.open(2, g)));
}
