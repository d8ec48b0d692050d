//! The same seed gives the same history, whatever runs beside it.

use heartline_sim::{Options, World};

#[test]
fn the_same_seed_twice() {
    let hash = |seed| World::new(Options::random(seed, None)).run().hash;
    let there: Vec<u64> = (0..20).map(hash).collect();
    let back: Vec<u64> = (0..20).rev().map(hash).collect();
    assert_eq!(there, back.into_iter().rev().collect::<Vec<_>>());
    let mut distinct = there.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(
        distinct.len(),
        there.len(),
        "different seeds, different histories"
    );
}

#[test]
fn threads_do_not_matter() {
    let run = || World::new(Options::random(77, None)).run();
    let here = run();
    let there = std::thread::spawn(run).join().unwrap();
    assert_eq!(
        (here.hash, here.events, here.messages),
        (there.hash, there.events, there.messages)
    );
}

/// The line that is printed for a failure names the shape; the run must be the same as when the seed had chosen it.
#[test]
fn a_run_is_reproduced_by_its_line() {
    for seed in 0..10 {
        let o = Options::random(seed, None);
        let again = Options::random(seed, Some(o.shape));
        assert!(o.reproduce().contains(&format!("--seed {seed} ")));
        assert_eq!(
            World::new(o).run().hash,
            World::new(again).run().hash,
            "seed {seed}"
        );
    }
}
