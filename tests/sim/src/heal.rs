//! The end of a run: everything is healed, then every group must get an owner, and keep it.

use agent_core::{Command, soft::Key};

use crate::{
    check::{Broken, violation},
    net::Weather,
    options::MS,
    queue::What,
    world::{World, say},
};

impl World {
    /// Everything works again, everybody is back, all wishes are withdrawn.
    fn heal(&mut self) {
        say!(self, "HEAL");
        self.healed = true;
        self.net.mend();
        self.net.weather = Weather::CALM;
        for i in 0..self.nodes.len() {
            self.nodes[i].kill_next = None;
            if self.nodes[i].plays != self.nodes[i].id {
                self.nodes[i].plays = self.nodes[i].id;
                self.set_back = true;
                self.reboot(i, 0);
            }
            if !self.nodes[i].up {
                self.up(i);
            } else if self.nodes[i].leaving.is_some() {
                self.left(i);
            } else if self.nodes[i].plan.take().is_some() {
                // The pause is called off.
            }
            if self.nodes[i].core.is_none() {
                self.restart(i);
            }
            if self.nodes[i].paused_until != 0 {
                self.resume(i);
            }
        }
        self.all_fit();
        if self.o.services.is_some() {
            self.mend_services();
        }
        self.all_wanted();
    }

    /// No node is drained, nothing is paused.
    fn all_wanted(&mut self) {
        self.command(0, Command::Pause(false));
        for id in 1..=self.o.shape.nodes {
            self.command(
                0,
                Command::Drain {
                    node: id,
                    on: false,
                },
            );
        }
    }

    /// Each agent says that it is fit, and says it again where gossip brings back what it said before a reboot.
    fn all_fit(&mut self) {
        for i in 0..self.nodes.len() {
            for g in self.o.shape.group_ids() {
                self.command(
                    i,
                    Command::Fit {
                        group: g,
                        fit: true,
                    },
                );
            }
        }
    }

    /// What each core would do with a group, for the trace.
    fn tell_decisions(&self, g: u8) {
        for n in &self.nodes {
            if let Some(core) = &n.core {
                let d = core.decision(g, n.now(self.t).boot);
                let (stuck, scores) = (core.stuck_at(g), &d.scores[..self.nodes.len()]);
                say!(
                    self,
                    "n{} group {g} to n{}, {:?}, stuck {stuck}: {scores:?}",
                    n.id,
                    d.target,
                    d.reason
                );
            }
        }
    }

    pub(crate) fn phase(&mut self, p: u8) -> bool {
        // A node set back is told after `max_promise`, at most once in that time by each, and then waits for as long; it may
        // have to be told twice.
        let told = if self.set_back { 5 } else { 0 };
        let settle = (1 + told) * self.o.timing.max_promise;
        let bound = settle + self.o.timing.max_promise + 20 * self.o.timing.takeover;
        match p {
            0 => {
                self.heal();
                self.queue
                    .push(self.t + 5 * self.o.unit(), 0, 0, What::Phase(1));
                false
            }
            1 => {
                // Where a clock is behind another or was set back, what was said before wins over what is said now, and may come
                // late: people see that a node is drained and say it again (seed 47067).
                let (core, shape) = (self.nodes[0].core.as_ref(), self.o.shape);
                let left = |key| core.is_some_and(|c| c.soft(key) != 0);
                let unfit = |node| {
                    let mut keys = shape.group_ids().map(|group| Key::Unfit { node, group });
                    keys.any(left)
                };
                let unfit = (1..=shape.nodes).any(unfit);
                if left(Key::Pause) || (1..=shape.nodes).any(|id| left(Key::Drain(id))) {
                    self.all_wanted();
                }
                // So does each agent, of itself, as long as it finds something else said (seed 97176).
                if self.o.services.is_some() || unfit {
                    self.all_fit();
                }
                if self.o.services.is_some() {
                    self.mend_services();
                }
                if !self.finish_generations() {
                    return self.unfinished(bound);
                }
                let all = self.check.unowned_since[..self.o.shape.groups as usize]
                    .iter()
                    .all(|u| *u == u64::MAX);
                let since = self.t - self.o.heal_at.max(self.unfinished_at);
                if all && since > settle {
                    // Settled: from here on nothing may change without reason.
                    self.healed_in = since;
                    self.check.forget_outages(self.t);
                    self.queue
                        .push(self.t + 1_000 * self.o.unit(), 0, 0, What::Phase(2));
                } else if since > bound {
                    let g = self
                        .check
                        .unowned_since
                        .iter()
                        .position(|u| *u != u64::MAX)
                        .unwrap_or(0);
                    self.tell_decisions(g as u8);
                    let text = format!("group {g} has no owner {} ms after healing", since / MS);
                    self.fail(violation(Broken::NotOwned, self.t, text));
                } else {
                    self.queue
                        .push(self.t + 5 * self.o.unit(), 0, 0, What::Phase(1));
                }
                false
            }
            _ => {
                // A move costs a round trip; failing back is a move. Where groups go home by themselves, a wish from before the
                // end of the faults that gossip brings late is one more (seed 44982).
                let worst = self.check.changes.iter().max().copied().unwrap_or(0);
                // What was brought together by faults is taken apart again, too.
                let most = if self.o.services.is_some() {
                    4
                } else if self.o.failback_auto || self.o.spread {
                    3
                } else {
                    2
                };
                // Fitness that changes in the instant of a release: who was to have the group defers, and the next one waits for
                // its turn (seed 33753).
                let turn = if self.o.services.is_some() {
                    2 * (self.o.timing.takeover - self.o.timing.lease)
                } else {
                    0
                };
                if worst > most || self.check.longest_outage > 5 * self.o.unit() + turn {
                    let text = format!(
                        "up to {worst} changes of owner, {:.3} ms without one",
                        self.check.longest_outage as f64 / 1e6
                    );
                    self.fail(violation(Broken::Flapping, self.t, text));
                }
                true
            }
        }
    }
}
