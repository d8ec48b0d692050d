//! Running many seeds on all CPUs, and looking for what a rule that is left out leads to.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use agent_common::rules::Rules;

use crate::{
    check::{Broken, Violation},
    directed::Expectation,
    options::{Options, Strict},
    world::{Outcome, World},
};

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Runs with a violation.
    pub failed: u64,
    /// Those with two owners.
    pub two_owners: u64,
    /// Those with an owner that resumed.
    pub resumes: u64,
    /// Events of all runs.
    pub events: u64,
    /// Sum of the parts of 1000 of the time that groups were owned.
    pub owned_permille: u64,
    /// The lowest failing seed.
    pub first: Option<u64>,
}

impl Tally {
    fn add(&mut self, o: &Outcome) {
        self.runs += 1;
        self.events += o.events;
        self.owned_permille += o.owned_permille;
        if let Some(v) = &o.violation {
            self.failed += 1;
            self.two_owners += u64::from(v.broken == Broken::TwoOwners);
            self.resumes += u64::from(v.broken == Broken::Resume);
            self.first = Some(self.first.map_or(o.seed, |f| f.min(o.seed)));
        }
    }
}

/// Runs seeds `from..from + count` on `jobs` threads. `each` is told every outcome with the line that reproduces it, in no
/// order; `progress` about every two seconds. Ends early when `each` says so.
pub fn run(
    (from, count): (u64, u64),
    jobs: usize,
    options: impl Fn(u64) -> Options + Sync,
    mut each: impl FnMut(&Outcome, &str) -> bool,
    mut progress: impl FnMut(&Tally, f64),
) -> Tally {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut tally = Tally::default();
    let begun = Instant::now();
    let mut told = begun;
    thread::scope(|scope| {
        let (send, receive) = sync_channel::<(Outcome, String)>(256);
        for _ in 0..jobs.max(1) {
            let (send, next, stop, options) = (send.clone(), &next, &stop, &options);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let o = options(from + n);
                    let line = o.reproduce();
                    if send.send((World::new(o).run(), line)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        loop {
            match receive.recv_timeout(Duration::from_secs(2)) {
                Ok((outcome, line)) => {
                    tally.add(&outcome);
                    if !each(&outcome, &line) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if told.elapsed() >= Duration::from_secs(2) {
                told = Instant::now();
                progress(&tally, begun.elapsed().as_secs_f64());
            }
        }
    });
    tally
}

/// A rule seen missing.
#[derive(Clone, Debug)]
pub struct Found {
    /// The seed.
    pub seed: u64,
    /// What was seen.
    pub violation: Violation,
    /// The line that shows it.
    pub line: String,
    /// What the same seed shows with all rules: it should be nothing.
    pub with_all: Option<Violation>,
}

fn broken(e: &Expectation, seed: u64, rules: Rules) -> Options {
    let mut o = Options::directed(e.rule, seed);
    o.rules = rules;
    if e.strict {
        o.strict = Strict::Always;
    }
    o
}

/// The first seed that shows the rule's absence and nothing without it.
pub fn miss(e: &Expectation) -> Option<Found> {
    let mask = e
        .masked_by
        .map_or(Rules::all(), |m| Rules::all().without(m));
    (0..e.within).find_map(|seed| {
        let o = broken(e, seed, mask.without(e.rule));
        let line = o.reproduce();
        let violation = World::new(o).run().violation?;
        if violation.broken != e.sees {
            return None;
        }
        // A masking rule that is left out breaks things by itself; only what it does not break shows this rule.
        let alone = e
            .masked_by
            .and_then(|_| World::new(broken(e, seed, mask)).run().violation);
        if alone.is_some_and(|a| a.broken == e.sees) {
            return None;
        }
        Some(Found {
            seed,
            violation,
            line,
            with_all: World::new(broken(e, seed, Rules::all())).run().violation,
        })
    })
}
