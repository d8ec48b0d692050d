//! The same seed gives the same history, whatever runs beside it.

use agent_common::rules::{Rule, Rules};
use clap::Parser as _;
use heartline_sim::{Options, Schedule, Strict, World, args::Args};

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

/// The line that is printed for a failure says everything: schedule, profile, races, drift, rules.
#[test]
fn a_run_is_reproduced_by_its_line() {
    let mut lines = std::collections::BTreeSet::new();
    for n in 0..120 {
        let mut o = Schedule::nth(n);
        if n % 3 == 0 {
            o.rules = Rules::all().without(Rule::LapsedIsLost);
            o.strict = Strict::Always;
        }
        if n % 5 == 0 {
            o.drift_ppm = 77_777;
        }
        let line = o.reproduce();
        let words = line.strip_prefix("cargo xtask sim").expect("our command");
        let words = words.replace(" --trace", "");
        let args = Args::try_parse_from(["sim"].into_iter().chain(words.split_whitespace()))
            .unwrap_or_else(|e| panic!("{line}: {e}"));
        let (seed, count) = args.range();
        assert_eq!((seed, count), (n, 1), "{line}");
        let (here, there) = (World::new(o).run(), World::new(args.options(seed)).run());
        assert_eq!(here.hash, there.hash, "{line}");
        assert_eq!(here.violation, there.violation, "{line}");
        lines.insert(line);
    }
    assert_eq!(lines.len(), 120);
}
