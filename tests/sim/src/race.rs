//! The kernel's half and the agent at the same moment, as two CPUs would have it: one runs between two accesses of the other.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use agent_common::{
    Set,
    cell::race,
    kernel::{self, Verdict},
    record::Record,
    rules::Rules,
    state::{PromiseWord, Shared},
    wire::{self, Kind, Message},
};
use agent_core::{Action, Core, CoreConfig, NodeConfig, Now, Timing};

use crate::{
    call::CoreOf,
    ledger::Life,
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
            let before = Life::of(&self.nodes[i]);
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
            self.started_afresh(i, before);
            self.arrived(i, from, m, verdict);
            // What the step wants done.
            self.call(i, |_, _| ());
        }
    }
}

/// Rule 9 at each of the kernel's accesses. A voter's promise to node 1 has just run out when node 1's next heartbeat and node
/// 2's ask for the same group arrive; the agent deals with the ask between two accesses of the kernel. Gives the accesses at
/// which both got the voter's word.
pub fn word_first(rules: Rules) -> Vec<u32> {
    (1..60).filter(|at| both_promised(*at, rules)).collect()
}

fn both_promised(at: u32, rules: Rules) -> bool {
    let boot = 1_000_000_000_000;
    let now = Now {
        boot,
        wall_ms: 1_704_067_200_000,
    };
    let group = Set::of(0);
    let sh = Rc::new(Shared::default());
    sh.id.store(3);
    sh.cluster.store(1);
    sh.generation.store(1);
    sh.max_promise.store(Timing::LAN.max_promise);
    sh.voters.store(0b111);
    sh.majority.store(2);
    sh.incarnation.store(3);
    let p = sh.peer(1);
    p.incarnation.store(1);
    p.claim[0].set.store(group);
    p.claim[0].cv.store(5);
    p.word.store(PromiseWord::open(boot - 2_000, 1).0);
    let mut cfg = CoreConfig::new(3, Timing::LAN);
    for node in cfg.nodes.iter_mut().take(3) {
        *node = Some(NodeConfig::default());
    }
    let mut core = Core::new(cfg, Rc::clone(&sh), now);
    core.break_rules(rules);
    let message = |from: u8| Message {
        magic: wire::MAGIC,
        version: wire::VERSION,
        kind: Kind::Heartbeat as u8,
        from,
        cluster: 1,
        generation: 1,
        max_promise_ms: (Timing::LAN.max_promise / 1_000_000) as u32,
        incarnation: u64::from(from),
        clock: 1_000,
        seq: 100,
        promise_us: 50_000,
        ..Message::default()
    };
    let beat = Message {
        cv: 5,
        set: group,
        ..message(1)
    };
    let ask = Message {
        cv: 1,
        ask_cv: 2,
        ask_set: group,
        ..message(2)
    };
    let core = Rc::new(RefCell::new(core));
    let inside = Rc::clone(&core);
    race::arm(
        at,
        Box::new(move || inside.borrow_mut().handle_message(&ask, now)),
    );
    let verdict = kernel::on_message(&sh, &beat, boot, rules);
    if let Some(step) = race::disarm() {
        step();
    }
    let mut granted = false;
    while let Some(a) = core.borrow_mut().poll_action() {
        granted |= matches!(a, Action::Send(2, m) if m.kind == Kind::Grant as u8);
    }
    granted && matches!(verdict, Verdict::Ack | Verdict::AckAndDeliver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::rules::Rule;

    #[test]
    fn the_word_comes_first() {
        assert_eq!(word_first(Rules::all()), []);
        assert_ne!(word_first(Rules::all().without(Rule::WordFirst)), []);
    }
}
