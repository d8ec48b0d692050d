//! The kernel's half and the agent at the same moment, as two CPUs would have it: one runs between two accesses of the other.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use agent_common::{cell::race, kernel, record::Record, wire::Message};
use agent_core::Now;

use crate::{
    call::CoreOf,
    world::{World, say},
};

/// A step of the agent.
enum Step {
    Record(Box<Record>),
    Timeout,
}

impl Step {
    fn run(&self, core: &mut CoreOf, now: Now) {
        match self {
            Step::Record(r) => core.handle_record(r, now),
            Step::Timeout => core.handle_timeout(now),
        }
    }
}

impl World {
    /// A message arrives while the agent takes a step.
    pub(crate) fn race(&mut self, i: usize, from: u8, m: Message) {
        let n = &mut self.nodes[i];
        let idle = n.core.is_none() || n.paused_until != 0;
        if idle || kernel::precheck(&n.sh, &m).is_err() {
            return self.arrive(i, from, m);
        }
        let step = match n.ring.pop_front() {
            Some(r) => Step::Record(Box::new(r)),
            None => Step::Timeout,
        };
        let (sh, now, rules) = (Rc::clone(&n.sh), n.now(self.t), self.o.rules);
        if self.rng_late.chance(500) {
            // The kernel's half inside a step of the agent, which has many more accesses.
            let reach = self.rng_late.pick(&[8, 40, 200, 600]);
            let at = 1 + self.rng_late.below(reach) as u32;
            say!(self, "n{} takes a step, and before its access {at}:", i + 1);
            let verdict = Rc::new(Cell::new(None));
            let out = Rc::clone(&verdict);
            let arrival: Box<dyn FnOnce()> =
                Box::new(move || out.set(Some(kernel::on_message(&sh, &m, now.boot, rules))));
            self.call(i, |core, now| {
                race::arm(at, arrival);
                step.run(core, now);
                if let Some(arrival) = race::disarm() {
                    arrival();
                }
            });
            if let Some(verdict) = verdict.get()
                && self.nodes[i].up
            {
                self.arrived(i, from, m, verdict);
            }
        } else {
            // A step of the agent inside the kernel's half.
            let at = 1 + self.rng_late.below(24) as u32;
            say!(self, "n{} takes a step before access {at} of:", i + 1);
            let core = Rc::new(RefCell::new(self.nodes[i].core.take()));
            let inside = Rc::clone(&core);
            race::arm(
                at,
                Box::new(move || {
                    if let Some(core) = inside.borrow_mut().as_mut() {
                        step.run(core, now);
                    }
                }),
            );
            let verdict = kernel::on_message(&sh, &m, now.boot, rules);
            if let Some(step) = race::disarm() {
                step();
            }
            self.nodes[i].core = core.take();
            self.arrived(i, from, m, verdict);
            // What the step wants done.
            self.call(i, |_, _| ());
        }
    }
}
