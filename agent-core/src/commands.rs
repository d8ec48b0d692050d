//! What people and the agent's other parts ask for.

use std::ops::Deref;

use agent_common::{rules::Rule, state::Shared};

use crate::{
    action::Event,
    command::{Behind, Command, CommandError, Fitness},
    core::{Core, Now, Planned},
    placement::{Exclusion, Reason},
    soft::Key,
};

impl<S: Deref<Target = Shared>> Core<S> {
    /// A command of a person or of another part of the agent.
    ///
    /// # Errors
    /// It names what does not exist or cannot be done now; nothing has changed then.
    pub fn handle_command(&mut self, c: Command, now: Now) -> Result<(), CommandError> {
        self.check_lease(now);
        match c {
            Command::Move { group, node } => self.wish(group, node, now)?,
            Command::Drain { node, on } => {
                if !self.is_member(node) {
                    return Err(CommandError::UnknownNode);
                }
                self.set_soft(Key::Drain(node), u8::from(on), now);
                self.event(Event::Drained { node, on });
            }
            Command::Pause(on) => {
                self.set_soft(Key::Pause, u8::from(on), now);
                self.event(Event::Paused(on));
            }
            Command::Fit { group, fit: true } => self.set_fitness(group, Fitness::Fit, now),
            Command::Fit { group, fit: false } => self.set_fitness(group, Fitness::Unfit, now),
            Command::Doubt { group } => self.set_fitness(group, Fitness::Doubtful, now),
            Command::Fail { group } => self.set_fitness(group, Fitness::Failed, now),
            Command::Phase { group, phase } => self.speak(group, phase, now)?,
            Command::Stopped { group, epoch } => self.stopped(group, epoch)?,
            Command::StopFailed { group, epoch } => self.stop_failed(group, epoch, now)?,
            Command::Swept { group, epoch } => self.swept(group, epoch)?,
            Command::Unsure { group, on } => self.unsure(group, on),
            Command::Outdate { group, behind } => {
                // Who does not own the group has nothing to write without anybody.
                if behind.is_some() && !self.owned().has(group) {
                    return Err(CommandError::NotOwned);
                }
                let value = behind.map_or(0, Behind::to_u8);
                if self.soft.get(Key::Outdate(group)) != value {
                    self.set_soft(Key::Outdate(group), value, now);
                }
            }
            Command::Outdated { group, behind } => {
                if behind.node != self.cfg.me {
                    return Err(CommandError::Stale);
                }
                // Said again if need be: whoever asks twice has not heard it.
                self.set_soft(Key::Outdated(group), behind.to_u8(), now);
            }
            Command::Clear { group } => {
                if !self.groups.has(group) {
                    return Err(CommandError::UnknownGroup);
                }
                self.clear(group, now);
            }
            Command::PreparePause { promise } => {
                let longest = self.cfg.timing.max_promise;
                let promise = if self.rules.hold(Rule::PromiseBounded) {
                    promise.min(longest)
                } else {
                    promise
                };
                self.planned = Some(Planned {
                    promise,
                    give_up: now.boot + promise,
                    told: false,
                });
                self.heartbeat(now);
            }
            Command::Leave => {
                self.leaving = true;
                self.heartbeat(now);
            }
        }
        self.look = true;
        self.advance(now);
        Ok(())
    }

    fn is_member(&self, id: u8) -> bool {
        self.cfg.node_ids().any(|n| n == id)
    }

    fn wish(&mut self, group: u8, node: u8, now: Now) -> Result<(), CommandError> {
        if !self.groups.has(group) {
            return Err(CommandError::UnknownGroup);
        }
        if !self.is_member(node) {
            return Err(CommandError::UnknownNode);
        }
        if self.cfg.is_witness(node) {
            return Err(CommandError::Witness);
        }
        if self.is_paused() {
            return Err(CommandError::Paused);
        }
        // What goes with another is moved by moving that.
        let root = self.links.root(group);
        let d = self.decision(root, now.boot);
        match d.score(node).excluded {
            Some(Exclusion::NotAlive | Exclusion::Waiting) => return Err(CommandError::NotAlive),
            Some(Exclusion::Drained | Exclusion::Leaving) => return Err(CommandError::Drained),
            _ if d.reason == Reason::Stuck => return Err(CommandError::Stuck),
            // Where all doubt, doubt is no reason.
            _ if d.would_go(node) => {}
            Some(Exclusion::Failed) => return Err(CommandError::Failed),
            Some(Exclusion::NoRoom | Exclusion::NotListed) | None => {
                return Err(CommandError::Elsewhere);
            }
            Some(
                Exclusion::NotAMember
                | Exclusion::Witness
                | Exclusion::Unfit
                | Exclusion::Doubtful
                | Exclusion::Follows,
            ) => return Err(CommandError::Unfit),
        }
        self.set_soft(Key::Wish(root), node, now);
        self.event(Event::Wished { group, node });
        self.fulfil(root, now);
        Ok(())
    }

    fn set_fitness(&mut self, group: u8, fitness: Fitness, now: Now) {
        let key = Key::Unfit {
            node: self.cfg.me,
            group,
        };
        if self.soft.get(key) != fitness as u8 {
            self.set_soft(key, fitness as u8, now);
        }
    }
}
