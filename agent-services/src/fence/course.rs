//! What to do next when a node is fenced. Pure.

use std::time::Duration;

use super::{
    Plan,
    device::{Action, Power, Said},
};

/// Times that an agent which failed is called again.
const RETRIES: u8 = 1;
/// Times that it is asked whether the node is off, before it counts as lying.
const LOOKS: u8 = 3;
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Calls of one device at most: off, off, three looks.
pub(super) const CALLS_PER_DEVICE: u32 = RETRIES as u32 + 1 + LOOKS as u32;

/// What becomes of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// Off, and then on again.
    #[default]
    Reboot,
    /// Off; a person starts it.
    Off,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// Wait.
    Wait(Duration),
    /// Call an agent.
    Call {
        /// Index of the level.
        level: usize,
        /// Index in the level.
        device: usize,
        /// What it is to do.
        action: Action,
    },
    /// It is over.
    Done(Outcome),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The wait is over.
    Waited,
    /// An agent answered, or did not.
    Said(Said),
}

impl Answer {
    pub(super) fn sentence(&self) -> String {
        match self {
            Answer::Waited => "waited".into(),
            Answer::Said(Said::Done) => "done".into(),
            Answer::Said(Said::Power(Power::On)) => "the node is on".into(),
            Answer::Said(Said::Power(Power::Off)) => "the node is off".into(),
            Answer::Said(Said::Failed(why) | Said::Silent(why)) => why.clone(),
        }
    }
}

/// Is the node fenced?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is, or it was for a moment before it was started again.
    Fenced {
        /// By this level, counted from 1.
        level: usize,
        /// It was seen to be off by every device; false if one of them cannot be asked, or can only reboot.
        verified: bool,
    },
    /// No level worked.
    Failed,
    /// There is nothing to fence it with.
    NoDevice,
}

impl Outcome {
    /// Can the node certainly do no more harm?
    #[must_use]
    pub const fn is_fenced(self) -> bool {
        matches!(self, Outcome::Fenced { .. })
    }
}

/// Where it stands with one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Delay,
    Off { tried: u8 },
    Look { seen: u8 },
    Pause { seen: u8 },
    On,
    Over(Outcome),
}

/// The state of fencing one node.
#[derive(Clone, Debug)]
pub struct Course<'a> {
    plan: &'a Plan,
    level: usize,
    device: usize,
    at: At,
    verified: bool,
}

impl<'a> Course<'a> {
    /// At its beginning.
    #[must_use]
    pub fn new(plan: &'a Plan) -> Course<'a> {
        let mut course = Course {
            plan,
            level: 0,
            device: 0,
            at: At::Delay,
            verified: true,
        };
        if plan.delay.is_zero() {
            course.enter(0);
        }
        course
    }

    /// Begins a level, or ends.
    fn enter(&mut self, level: usize) {
        (self.level, self.device, self.verified) = (level, 0, true);
        self.at = match self.plan.levels.get(level) {
            Some(devices) if !devices.is_empty() => At::Off { tried: 0 },
            Some(_) => return self.enter(level + 1),
            None if self.plan.levels.iter().all(Vec::is_empty) => At::Over(Outcome::NoDevice),
            None => At::Over(Outcome::Failed),
        };
    }

    fn current(&self) -> Option<&'a super::Device> {
        self.plan.levels.get(self.level)?.get(self.device)
    }

    /// How the present device is told to end the node.
    fn ending(&self) -> Action {
        match self.current() {
            Some(d) if d.only_reboots => Action::Reboot,
            _ => Action::Off,
        }
    }

    /// What to do now. The same until it is answered.
    #[must_use]
    pub fn next(&self) -> Do {
        let call = |action| Do::Call {
            level: self.level,
            device: self.device,
            action,
        };
        match self.at {
            At::Delay => Do::Wait(self.plan.delay),
            At::Off { .. } => call(self.ending()),
            At::Look { .. } => call(Action::Status),
            At::Pause { .. } => Do::Wait(PAUSE),
            At::On => call(Action::On),
            At::Over(outcome) => Do::Done(outcome),
        }
    }

    /// Takes what came of it; true if that was as it should be.
    pub fn answer(&mut self, answer: &Answer) -> bool {
        match self.at {
            At::Delay => {
                self.enter(0);
                true
            }
            At::Pause { seen } => {
                self.at = At::Look { seen };
                true
            }
            At::Off { tried } => {
                let done = matches!(answer, Answer::Said(Said::Done));
                let looks = self.current().is_some_and(|d| d.verify && !d.only_reboots);
                match (done, looks) {
                    // Also after a failure: it may have worked all the same, or by somebody else's hand.
                    (_, true) if done || tried >= RETRIES => self.at = At::Look { seen: 0 },
                    (true, _) => {
                        self.verified = false;
                        self.ended();
                    }
                    (false, _) if tried < RETRIES => self.at = At::Off { tried: tried + 1 },
                    (false, _) => self.enter(self.level + 1),
                }
                done
            }
            At::Look { seen } => {
                let off = matches!(answer, Answer::Said(Said::Power(Power::Off)));
                if off {
                    self.ended();
                } else if seen + 1 < LOOKS {
                    self.at = At::Pause { seen: seen + 1 };
                } else {
                    self.enter(self.level + 1);
                }
                off
            }
            At::On => {
                // The node is fenced whatever comes of it.
                let done = matches!(answer, Answer::Said(Said::Done));
                self.turn_on(self.device + 1);
                done
            }
            At::Over(_) => false,
        }
    }

    /// The present device has ended the node.
    fn ended(&mut self) {
        self.device += 1;
        if self.current().is_some() {
            self.at = At::Off { tried: 0 };
        } else {
            self.turn_on(0);
        }
    }

    /// Lets the devices of this level start the node again, from one on.
    fn turn_on(&mut self, from: usize) {
        let fenced = Outcome::Fenced {
            level: self.level + 1,
            verified: self.verified,
        };
        let devices = self
            .plan
            .levels
            .get(self.level)
            .map_or(&[][..], Vec::as_slice);
        let next = devices
            .iter()
            .enumerate()
            .skip(from)
            .find(|(_, d)| d.can_on && !d.only_reboots);
        self.at = match (self.plan.goal, next) {
            (Goal::Reboot, Some((index, _))) => {
                self.device = index;
                At::On
            }
            (Goal::Reboot, None) | (Goal::Off, _) => At::Over(fenced),
        };
    }

    /// The node is fenced already, though it is still to be started again: what waits for that need not.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self.at, At::On | At::Over(Outcome::Fenced { .. }))
    }
}

#[cfg(test)]
mod tests;
