//! Calls of the real core: timeouts, commands, and what its actions do to the world.

use agent_core::{Action, Command, Event as CoreEvent};

use crate::{
    check::{Broken, violation},
    fault::PlannedEnd,
    ledger::Life,
    options::MS,
    queue::What,
    services::Task,
    world::{World, say},
};

/// The core as simulated.
pub type CoreOf = agent_core::Core<std::rc::Rc<agent_common::state::Shared>>;

impl World {
    pub(crate) fn timeout(&mut self, i: usize) {
        let n = &mut self.nodes[i];
        let slice = self.t / (10 * MS);
        n.spins = if n.spins.0 == slice {
            (slice, n.spins.1 + 1)
        } else {
            (slice, 1)
        };
        if n.spins.1 > 100 {
            let text = format!("the timer of n{} fires again and again", n.id);
            return self.fail(violation(Broken::Spin, self.t, text));
        }
        self.call(i, |core, now| core.handle_timeout(now));
    }

    /// A person's command at a node (by id - 1), if its agent runs.
    pub fn command(&mut self, i: usize, c: Command) {
        if self.nodes[i].core.is_none() || self.nodes[i].paused_until != 0 {
            return;
        }
        self.call(i, |core, now| {
            // Refused commands change nothing.
            let _ = core.handle_command(c, now);
        });
    }

    /// One call of the core, its actions, its timer.
    pub(crate) fn call(&mut self, i: usize, f: impl FnOnce(&mut CoreOf, agent_core::Now)) {
        let n = &mut self.nodes[i];
        let Some(mut core) = n.core.take() else {
            return;
        };
        let now = n.now(self.t);
        let held = n.sh.run_set.load();
        let before = Life::of(n);
        f(&mut core, now);
        self.started_afresh(i, before);
        let n = &mut self.nodes[i];
        if let Some(down) = n.kill_next.take() {
            say!(self, "n{} dies in a call", i + 1);
            self.nodes[i].core = Some(core);
            self.kill(i, down);
            return;
        }
        let mut failed = false;
        let mut taken = false;
        let mut stop = None;
        let mut tasks = Vec::new();
        while let Some(a) = core.poll_action() {
            match a {
                Action::Broadcast(m) => {
                    self.nodes[i].last_beat = self.t;
                    if let Err(v) = self.check.heartbeat(i, &m, self.t) {
                        self.fail(v);
                    }
                    if self.recorder.node as usize == i + 1 {
                        self.recorder.last = Some(m);
                    }
                    let audience = core.audience();
                    for to in 1..=self.nodes.len() as u8 {
                        if to != m.from && audience & agent_common::node_bit(to) != 0 {
                            self.send(i as u8 + 1, to, &m);
                        }
                    }
                }
                Action::Send(to, m) => {
                    if let Err(v) = self.promised(i, &m) {
                        self.fail(v);
                    }
                    self.send(i as u8 + 1, to, &m);
                }
                Action::Gain(g) => {
                    self.gains += 1;
                    self.last_gain = (self.t, i as u8 + 1, g.group);
                    say!(
                        self,
                        "n{} GAINS {} epoch {} {:?}",
                        i + 1,
                        g.group,
                        g.epoch & 0xfffff,
                        g.reason
                    );
                    tasks.push(Task::Gain(g));
                }
                Action::Lose { group, epoch } => {
                    say!(self, "n{} LOSES {group}", i + 1);
                    tasks.push(Task::Lose(group, epoch));
                }
                Action::Stop { group, epoch, to } => {
                    say!(self, "n{} STOPS {group} for n{to}", i + 1);
                    tasks.push(Task::Stop(group, epoch));
                }
                Action::Resume { group, .. } => {
                    say!(self, "n{} RESUMES {group}", i + 1);
                    tasks.push(Task::Resume(group));
                }
                Action::PauseReady { .. } => stop = Some(false),
                Action::Left => stop = Some(true),
                Action::Entered { generation } => {
                    say!(self, "n{} ENTERS generation {generation}", i + 1);
                }
                Action::Announce { .. } => {}
                Action::Event(e) => {
                    match e {
                        CoreEvent::ClaimFailed { .. } => failed = true,
                        CoreEvent::Released { group, .. } => {
                            taken = true;
                            tasks.push(Task::Released(group));
                        }
                        CoreEvent::LeaseLapsed { .. }
                        | CoreEvent::GateShut { .. }
                        | CoreEvent::StartedAfresh
                        | CoreEvent::GenerationEntered { .. }
                        | CoreEvent::DuplicateId => taken = true,
                        _ => {}
                    }
                    if self.o.trace
                        && !matches!(e, CoreEvent::Gained(_) | CoreEvent::NodeHealth { .. })
                    {
                        say!(self, "n{} {e:?}", i + 1);
                    }
                }
            }
        }
        let lost = held.minus(core.owned());
        if failed && !taken && !lost.is_empty() && self.check.strict {
            let text = format!(
                "n{}: a failed attempt cost {:?}",
                i + 1,
                lost.iter().collect::<Vec<_>>()
            );
            self.fail(violation(Broken::CostlyFailure, self.t, text));
        }
        if core.dropped_actions() > 0 {
            self.fail(violation(Broken::Dropped, self.t, format!("n{}", i + 1)));
        }
        self.after_call(i, &mut core);
        let deadline = core.deadline(now);
        if self.o.services.is_some() {
            for task in tasks {
                self.task(i, task);
            }
            self.nodes[i].note_stuck(&core, self.o.shape.groups, now.boot);
        }
        self.nodes[i].core = Some(core);
        match stop {
            Some(true) => self.left(i),
            Some(false) if self.nodes[i].plan.is_some() => self.pause_ready(i),
            _ => {
                let at = self.nodes[i].clock.when(deadline);
                if at < self.nodes[i].timer_at {
                    let late = self.lateness();
                    self.set_timer(i, at.max(self.t) + late);
                }
            }
        }
    }

    pub(crate) fn set_timer(&mut self, i: usize, at: u64) {
        let n = &mut self.nodes[i];
        n.timer_life += 1;
        n.timer_at = at;
        self.queue.push(at, n.id, n.timer_life, What::Timer);
    }

    pub(crate) fn pause_ready(&mut self, i: usize) {
        let Some(plan) = self.nodes[i].plan.take() else {
            return;
        };
        say!(self, "n{} may pause", i + 1);
        match plan.end {
            PlannedEnd::CalledOff => {
                // A new agent at once, or none: the promise is long either way.
                let at = self.t + 10 * MS;
                self.set_timer(i, at);
            }
            PlannedEnd::Reboot => self.reboot(i, plan.down / 4 + MS),
            PlannedEnd::Restart | PlannedEnd::Hasty => self.kill(i, plan.down),
        }
    }
}
