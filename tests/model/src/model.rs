//! The model as stateright walks it.

use stateright::{Model, Property};

use crate::{
    check::Broken,
    fault::Fault,
    setup::{SETTLE, Setup},
    state::{State, Way},
    step,
};

/// What a history is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A fault, by its place in the menu.
    Fault(u16, Fault),
    /// The tick runs and time goes on.
    Tick,
}

/// Three nodes, some rules, some faults.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What is checked.
    pub setup: Setup,
    faults: Vec<Fault>,
}

impl Lease {
    /// The model of a setup.
    pub fn new(setup: Setup) -> Lease {
        let faults = setup.menu.faults();
        Lease { setup, faults }
    }

    /// What happens next, with a line for each thing that happens.
    pub fn step(&self, s: &State, act: Act, log: Option<&mut Vec<String>>) -> State {
        let mut s = s.clone();
        match act {
            Act::Tick => step::tick(&self.setup, s, log),
            Act::Fault(place, fault) => {
                s.left -= 1;
                s.last = place + 1;
                apply(&mut s, fault);
                s
            }
        }
    }
}

fn apply(s: &mut State, f: Fault) {
    let t = s.tick;
    let mut cut = |a: u8, b: u8, d: u16| {
        let until = &mut s.cut_until[usize::from(a) - 1][usize::from(b) - 1];
        *until = (*until).max(t + d);
    };
    match f {
        Fault::Cut(a, b, d) => cut(a, b, d),
        Fault::Apart(a, b, d) => {
            cut(a, b, d);
            cut(b, a, d);
        }
        Fault::Alone(n, d) => {
            for other in (1..=3).filter(|o| *o != n) {
                cut(n, other, d);
                cut(other, n, d);
            }
        }
        Fault::Freeze(n, d) => s.nodes[usize::from(n) - 1].frozen_until = t + d,
        Fault::Hold(n, kind, d) => s.ways.push((n, kind, Way::Late(d))),
        Fault::Lose(n, kind) => s.ways.push((n, kind, Way::Lost)),
        Fault::Copy(n, kind, d) => s.ways.push((n, kind, Way::Twice(d))),
        Fault::Reverse => s.reverse = true,
        Fault::Kill(..) | Fault::Reboot(_) | Fault::Move(_) | Fault::Plan(_) => s.orders.push(f),
    }
}

impl Model for Lease {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        vec![step::begin(&self.setup)]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Act>) {
        if s.broken.is_some() || s.tick >= SETTLE + self.setup.horizon {
            return;
        }
        actions.push(Act::Tick);
        if s.left > 0 && (s.tick - SETTLE).is_multiple_of(self.setup.every) {
            // Faults of one tick in the order of the menu: their order makes no difference.
            let after = (s.last..).zip(&self.faults[usize::from(s.last)..]);
            actions.extend(after.map(|(place, f)| Act::Fault(place, *f)));
        }
    }

    fn next_state(&self, s: &State, act: Act) -> Option<State> {
        Some(self.step(s, act, None))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one owner", |_, s: &State| {
                s.broken != Some(Broken::TwoOwners)
            }),
            Property::always("nobody resumes", |_, s: &State| {
                s.broken != Some(Broken::Resume)
            }),
            Property::always("no grant over a live promise", |_, s: &State| {
                s.broken != Some(Broken::GrantOverPromise)
            }),
            Property::always("claim versions grow", |_, s: &State| {
                s.broken != Some(Broken::Version)
            }),
            Property::always("a failed attempt costs nothing", |_, s: &State| {
                s.broken != Some(Broken::CostlyFailure)
            }),
            Property::always("messages end", |_, s: &State| {
                s.broken != Some(Broken::Storm)
            }),
            // The histories are not empty ones.
            Property::sometimes("a takeover", |_, s: &State| s.moved),
        ]
    }
}
