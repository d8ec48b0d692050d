//! Orderly release: the services of a group are stopped here before another node may have it. The lease stays until the
//! agent has said so; when it lapses, nothing of this counts.

use std::ops::Deref;

use agent_common::{Set, state::Shared};

use crate::{
    action::{Action, Event},
    command::{CommandError, Phase},
    core::{Core, Now},
    placement::Reason,
    soft::Key,
};

/// What an owned group is on its way to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Stop {
    /// The agent was told, and not yet told otherwise.
    pub asked: bool,
    /// Who is to have it; 0: nobody.
    pub to: u8,
    /// Nothing of it runs any more.
    pub stopped: bool,
    /// Who was to have it when it was last let go; 0: somebody has had it since.
    pub offered: u8,
    /// How often it came back from there untaken,
    pub spurned: u8,
    /// and when that is tried again, boot ns.
    pub not_before: u64,
}

impl Stop {
    /// Nothing is asked any more.
    fn ended(self) -> Stop {
        Stop {
            asked: false,
            to: 0,
            stopped: false,
            ..self
        }
    }
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// Whose services of a group were spoken of last, and what they do. Idle may also mean that nobody ever spoke.
    pub fn phase(&self, group: u8) -> (u8, Phase) {
        Phase::of(self.soft.get(Key::Phase(group)))
    }

    /// Where a group cannot be stopped; 0: nowhere.
    pub fn stuck_at(&self, group: u8) -> u8 {
        match self.phase(group) {
            (node, Phase::Stuck) => node,
            _ => 0,
        }
    }

    /// Owned groups of orderly units: what is to be stopped, what is to stay after all, what can be released.
    pub(crate) fn check_orderly(&mut self, now: Now) {
        if !std::mem::take(&mut self.look) {
            return;
        }
        let held = self.sh.run_set.load().and(self.links.orderly);
        if held.is_empty() {
            return;
        }
        let view = self.view(now.boot);
        self.replan(&view);
        for g in held.iter() {
            let (target, reason, _) = self.intended(g, &view);
            let away = target != self.cfg.me && target != 0;
            let to = if away { target } else { 0 };
            // Who leaves stops also what nobody else can have.
            let leave = self.leaving && reason != Reason::Stuck;
            let s = &self.stop[usize::from(g)];
            let agreed = now.boot >= s.not_before && self.soft.get(Key::Want(g)) == to;
            self.turn(g, leave || away && (s.asked || agreed), to);
        }
        self.release_stopped(held, now);
    }

    fn turn(&mut self, group: u8, away: bool, to: u8) {
        let i = usize::from(group);
        let was = self.stop[i];
        let epoch = self.sh.group_epoch[i].load();
        let has_services = self.cfg.settings(group).orderly;
        match (away, was.asked) {
            (true, false) => {
                self.stop[i] = Stop {
                    asked: true,
                    to,
                    stopped: !has_services,
                    ..was
                };
                if has_services {
                    self.push(Action::Stop { group, epoch, to });
                }
            }
            (true, true) => self.stop[i].to = to,
            (false, true) => {
                self.stop[i] = was.ended();
                if has_services {
                    self.push(Action::Resume { group, epoch });
                }
            }
            (false, false) => {}
        }
    }

    /// A unit goes as one, when the last of its groups that are to go has been stopped.
    fn release_stopped(&mut self, held: Set, now: Now) {
        let mut go = Set::EMPTY;
        for g in held.iter() {
            let ready = |m: u8| {
                let s = self.stop[usize::from(m)];
                !held.has(m) || !s.asked || s.stopped
            };
            if self.stop[usize::from(g)].stopped && self.links.unit(g).all(ready) {
                go = go.with(g);
            }
        }
        for group in go.iter() {
            let i = usize::from(group);
            let (epoch, to) = (self.sh.group_epoch[i].load(), self.stop[i].to);
            self.event(Event::Released { group, epoch, to });
            if to != 0 {
                self.last_owner[i] = to;
                self.stop[i].offered = to;
            }
        }
        self.give_up(go, now);
    }

    /// Gained. If it was let go here for another who did not take it, that one does not know what this node knows: it is
    /// told, and not asked again at once, because services would start and stop in turn.
    pub(crate) fn back_again(&mut self, group: u8, now: Now) {
        let again = 20 * self.cfg.timing.takeover;
        let s = &mut self.stop[usize::from(group)];
        if s.offered != 0 {
            s.offered = 0;
            s.spurned = (s.spurned + 1).min(6);
            s.not_before = now.boot + (again << (s.spurned - 1));
            self.soft.repeat_all();
        }
    }

    /// Somebody else has the group.
    pub(crate) fn taken(&mut self, group: u8) {
        self.stop[usize::from(group)] = Stop::default();
    }

    /// The group is not ours any more.
    pub(crate) fn lose(&mut self, group: u8) {
        let i = usize::from(group);
        let epoch = self.sh.group_epoch[i].load();
        self.left_behind(group, self.stop[i].stopped);
        self.stop[i] = self.stop[i].ended();
        self.push(Action::Lose { group, epoch });
    }

    fn ours(&self, group: u8, epoch: u64) -> Result<usize, CommandError> {
        if !self.sh.run_set.load().has(group) {
            return Err(CommandError::NotOwned);
        }
        let i = usize::from(group);
        if self.sh.group_epoch[i].load() != epoch {
            return Err(CommandError::Stale);
        }
        Ok(i)
    }

    pub(crate) fn stopped(&mut self, group: u8, epoch: u64) -> Result<(), CommandError> {
        let i = self.ours(group, epoch)?;
        if !self.stop[i].asked {
            // It stays after all; what was stopped is being started again.
            return Err(CommandError::Stale);
        }
        self.stop[i].stopped = true;
        Ok(())
    }

    pub(crate) fn stop_failed(
        &mut self,
        group: u8,
        epoch: u64,
        now: Now,
    ) -> Result<(), CommandError> {
        match self.ours(group, epoch) {
            Ok(i) => self.stop[i] = self.stop[i].ended(),
            Err(CommandError::NotOwned)
                if self.sh.group_epoch[usize::from(group)].load() == epoch
                    && self.owner_of(group, now.boot) == 0 => {}
            Err(e) => return Err(e),
        }
        self.say_phase(group, Phase::Stuck, now);
        Ok(())
    }

    pub(crate) fn speak(&mut self, group: u8, phase: Phase, now: Now) -> Result<(), CommandError> {
        let (node, said) = self.phase(group);
        if node != self.cfg.me && !self.sh.run_set.load().has(group) {
            return Err(CommandError::NotOwned);
        }
        if said == Phase::Stuck && phase != Phase::Stuck && node == self.cfg.me {
            return Err(CommandError::Stuck);
        }
        self.say_phase(group, phase, now);
        Ok(())
    }

    pub(crate) fn say_phase(&mut self, group: u8, phase: Phase, now: Now) {
        let me = self.cfg.me;
        let before = self.stuck_at(group);
        let value = phase.at(me);
        if self.soft.get(Key::Phase(group)) == value {
            return;
        }
        if before == 0 && phase != Phase::Stuck {
            // It travels with the heartbeats that are sent anyway: a takeover of many groups must not become a storm.
            self.soft.set(Key::Phase(group), value, now.wall_ms, me);
            return;
        }
        self.set_soft(Key::Phase(group), value, now);
        self.stuck_changed(group, before);
    }

    /// Tells if a group got stuck, or is not any more.
    pub(crate) fn stuck_changed(&mut self, group: u8, before: u8) {
        let after = self.stuck_at(group);
        if before != after {
            let (node, on) = if after == 0 {
                (before, false)
            } else {
                (after, true)
            };
            self.event(Event::Stuck { group, node, on });
        }
    }

    pub(crate) fn clear(&mut self, group: u8, now: Now) {
        if self.stuck_at(group) != 0 {
            self.say_phase(group, Phase::Idle, now);
        }
        for node in 1..=agent_common::MAX_NODES as u8 {
            if self.fitness(node, group) == crate::Fitness::Failed {
                self.set_soft(Key::Unfit { node, group }, 0, now);
            }
        }
    }
}
