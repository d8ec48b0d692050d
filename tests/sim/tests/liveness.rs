//! When a majority is connected and healthy for long enough, every group has an owner; what is healthy is left alone.

use agent_core::{Command, Timing};
use heartline_sim::{
    Fault, MS, Options, PlannedEnd, Shape, World,
    measure::{moves, takeovers},
};

fn settled(seed: u64, shape: Shape) -> World {
    let mut w = World::new(Options::calm(seed, shape));
    w.run_until(500 * MS);
    assert!(
        shape.group_ids().all(|g| w.owner(g).is_some()),
        "seed {seed}, {shape:?}"
    );
    w
}

fn fine(w: &World) {
    assert!(w.broken().is_none(), "{:?}", w.broken());
}

#[test]
fn a_healthy_cluster_leaves_everything_where_it_is() {
    for shape in Shape::SOME {
        let mut w = settled(1, shape);
        w.check.forget_outages(w.t);
        w.run_until(10_000 * MS);
        fine(&w);
        assert_eq!(
            (w.check.longest_outage, w.check.changes.iter().sum::<u32>()),
            (0, 0),
            "{shape:?}"
        );
    }
}

#[test]
fn a_lasting_majority_owns_everything() {
    for shape in Shape::SOME.into_iter().filter(|s| s.nodes > 2) {
        for seed in 0..8 {
            for alone in 1..=shape.nodes {
                let mut w = settled(seed, shape);
                w.fault(Fault::Partition(1 << (alone - 1)));
                w.run_until(w.t + 300 * MS);
                for g in shape.group_ids() {
                    assert!(
                        w.owner(g).is_some_and(|o| o != alone),
                        "{shape:?}, seed {seed}, n{alone} cut off, group {g}"
                    );
                }
                w.check.forget_outages(w.t);
                w.run_until(w.t + 1_000 * MS);
                fine(&w);
                assert_eq!(
                    w.check.longest_outage, 0,
                    "{shape:?}, seed {seed}, n{alone} cut off"
                );
            }
        }
    }
}

/// Two nodes of three that cannot hear each other, both heard by the third.
#[test]
fn a_broken_line_between_two_costs_nothing() {
    for seed in 0..30 {
        let mut w = settled(seed, Shape::new(3, 2));
        let owner = w.owner(0).unwrap();
        w.check.forget_outages(w.t);
        w.fault(Fault::Cut {
            from: owner,
            to: owner % 3 + 1,
            links: u8::MAX,
            both: true,
        });
        w.run_until(w.t + 3_000 * MS);
        fine(&w);
        assert_eq!(w.check.longest_outage, 0, "seed {seed}");
    }
}

#[test]
fn a_planned_restart_moves_nothing() {
    for seed in 0..20 {
        for node in 1..=3 {
            let mut w = settled(seed, Shape::new(3, 3));
            w.check.forget_outages(w.t);
            let (promise, down) = (300 * MS, 150 * MS);
            w.fault(Fault::Planned {
                node,
                promise,
                down,
                end: PlannedEnd::Restart,
            });
            w.run_until(w.t + 2_000 * MS);
            fine(&w);
            assert_eq!(
                (w.check.longest_outage, w.check.changes.iter().sum::<u32>()),
                (0, 0),
                "seed {seed}, n{node}"
            );
        }
    }
}

#[test]
fn leaving_and_draining_hand_over_without_waiting_for_a_promise() {
    for seed in 0..30 {
        let mut w = settled(seed, Shape::new(3, 3));
        w.check.forget_outages(w.t);
        let node = w.owner(0).unwrap();
        w.fault(Fault::Leave(node, 10_000 * MS));
        w.run_until(w.t + 250 * MS);
        assert!(
            (0..3).all(|g| w.owner(g).is_some_and(|o| o != node)),
            "seed {seed}, leaving"
        );
        let node = w.owner(0).unwrap();
        let at = w.owner(0).unwrap() as usize - 1;
        w.command(at, Command::Drain { node, on: true });
        w.run_until(w.t + 250 * MS);
        fine(&w);
        assert!(
            (0..3).all(|g| w.owner(g).is_some_and(|o| o != node)),
            "seed {seed}, drained"
        );
        // Below a claim's time: nobody waited for a promise to run out.
        assert!(
            w.check.longest_outage < 8 * MS,
            "seed {seed}: {} ns",
            w.check.longest_outage
        );
    }
}

/// The group is back `takeover` after the last heartbeat, plus about a round trip (0.3 ms here) and 1 % of clock drift.
#[test]
fn a_takeover_costs_a_round_trip_beyond_the_promise() {
    for nodes in [3, 5] {
        let t = takeovers(nodes, Timing::LAN, 100);
        assert!(
            t.beyond.median() < MS && t.beyond.max() < 3 * MS,
            "{} {}",
            t.beyond.median(),
            t.beyond.max()
        );
        assert!(t.outage.max() < 53 * MS, "{}", t.outage.max());
    }
}

#[test]
fn a_move_costs_a_round_trip() {
    for nodes in [3, 5] {
        let m = moves(nodes, Timing::LAN, 100);
        assert!(
            m.gap.max() < MS && m.total.max() < 2 * MS,
            "{} {}",
            m.gap.max(),
            m.total.max()
        );
    }
}

/// A node that is frozen for ever is taken over, also when it comes back in the middle of it.
#[test]
fn frozen_owners_are_taken_over() {
    for (seed, frozen) in (0..40).map(|s| (s, (30 + 3 * s) * MS)) {
        let mut w = settled(seed, Shape::new(3, 1));
        let owner = w.owner(0).unwrap();
        w.fault(Fault::PauseAgent(owner, frozen));
        w.run_until(w.t + 400 * MS);
        fine(&w);
        assert!(w.owner(0).is_some(), "seed {seed}");
    }
}
