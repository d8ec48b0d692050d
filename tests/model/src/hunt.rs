//! Walking a model to its end or to a counterexample.

use std::time::{Duration, Instant};

use agent_common::rules::Rule;
use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::{
    fault::Menu,
    model::{Act, Lease},
    setup::{SETTLE, Setup, TICK},
    state::State,
};

/// What a walk came to.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Different states.
    pub unique: usize,
    /// States generated.
    pub generated: usize,
    /// How long it took.
    pub took: Duration,
    /// Was a takeover among the histories?
    pub takeover: bool,
    /// The property that was broken, and how.
    pub broken: Option<(&'static str, Vec<String>)>,
}

const SOMETIMES: &str = "a takeover";

/// Walks all histories, or to the first that breaks something. `shortest`: breadth first, which keeps more states in memory.
pub fn walk(
    setup: &Setup,
    jobs: usize,
    shortest: bool,
    progress: impl Fn(usize, Duration),
) -> Walk {
    let begun = Instant::now();
    let lease = Lease::new(setup.clone());
    let names = lease.properties();
    let failures: Vec<&'static str> = names
        .iter()
        .map(|p| p.name)
        .filter(|n| *n != SOMETIMES)
        .collect();
    let builder = lease
        .clone()
        .checker()
        .threads(jobs.max(1))
        .finish_when(HasDiscoveries::AnyFailures);
    let checker: Box<dyn Checked> = if shortest {
        Box::new(builder.spawn_bfs())
    } else {
        Box::new(builder.spawn_dfs())
    };
    while !checker.done() {
        std::thread::sleep(Duration::from_millis(20));
        progress(checker.counts().0, begun.elapsed());
    }
    let broken = failures
        .iter()
        .find_map(|name| Some((*name, history(&lease, checker.path(name)?))));
    Walk {
        unique: checker.counts().0,
        generated: checker.counts().1,
        took: begun.elapsed(),
        takeover: checker.path(SOMETIMES).is_some(),
        broken,
    }
}

/// The two kinds of checkers behind one face.
trait Checked {
    fn done(&self) -> bool;
    fn counts(&self) -> (usize, usize);
    fn path(&self, name: &'static str) -> Option<Path<State, Act>>;
}

impl<C: Checker<Lease>> Checked for C {
    fn done(&self) -> bool {
        self.is_done()
    }
    fn counts(&self) -> (usize, usize) {
        (self.unique_state_count(), self.state_count())
    }
    fn path(&self, name: &'static str) -> Option<Path<State, Act>> {
        self.discovery(name)
    }
}

/// A path as people read it: per tick its faults and what happened.
fn history(lease: &Lease, path: Path<State, Act>) -> Vec<String> {
    let mut lines = Vec::new();
    for (state, act) in path.into_vec() {
        let Some(act) = act else { continue };
        let ms = f64::from(state.tick - SETTLE) * TICK as f64 / 1e6;
        match act {
            Act::Fault(_, f) => lines.push(format!("{ms:5} ms  FAULT {f:?}")),
            Act::Tick => {
                let mut log = Vec::new();
                let _ = lease.step(&state, act, Some(&mut log));
                if !log.is_empty() {
                    lines.push(format!("{ms:5} ms"));
                    lines.extend(log);
                }
            }
        }
    }
    if lines.is_empty() {
        lines.push("BROKEN while the groups got their first owners, without any fault".to_owned());
    }
    lines
}

/// What is checked with all rules.
pub fn bounds(thorough: bool) -> Vec<Setup> {
    let two = |s: Setup| Setup { groups: 2, ..s };
    let even = |s: Setup| Setup { drift: [0; 3], ..s };
    let mut all = vec![
        Setup::new(Menu::Full, 1),
        even(Setup::new(Menu::Full, 1)),
        two(Setup::new(Menu::Full, 1)),
        Setup::new(Menu::Small, 2),
    ];
    if thorough {
        all.push(two(Setup::new(Menu::Small, 2)));
        all.push(Setup::new(Menu::Full, 2));
        all.push(Setup {
            every: 2,
            ..Setup::new(Menu::Coarse, 3)
        });
    }
    all
}

/// A rule that is left out, and the bound within which a counterexample is found.
#[derive(Clone, Copy, Debug)]
pub struct Deliberate {
    /// The rule.
    pub rule: Rule,
    /// A rule that masks it, left out as well.
    pub masked_by: Option<Rule>,
    /// Which faults.
    pub menu: Menu,
    /// How many.
    pub faults: u8,
    /// Groups.
    pub groups: u8,
    /// The property that breaks.
    pub breaks: &'static str,
}

const fn without(rule: Rule, faults: u8, groups: u8) -> Deliberate {
    Deliberate {
        rule,
        masked_by: None,
        menu: Menu::Small,
        faults,
        groups,
        breaks: "one owner",
    }
}

/// Rules whose absence shows within these bounds. The others need more faults, or finer time; the simulator sees them.
pub const DELIBERATE: [Deliberate; 6] = [
    without(Rule::Majority, 2, 1),
    without(Rule::LeaseShorter, 1, 1),
    without(Rule::FreshWaits, 2, 1),
    without(Rule::OwnVotePending, 2, 1),
    without(Rule::Union, 0, 2),
    without(Rule::OldRunningIgnored, 2, 2),
];

impl Deliberate {
    /// The model without the rule.
    pub fn setup(&self) -> Setup {
        let mut s = Setup::new(self.menu, self.faults);
        s.groups = self.groups;
        s.rules = s.rules.without(self.rule);
        if let Some(m) = self.masked_by {
            s.rules = s.rules.without(m);
        }
        s
    }
}
