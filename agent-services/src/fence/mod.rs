//! Fencing: making sure that a node can no longer touch what it shares.
//!
//! ```text
//! levels of devices ─▶ Course (pure: what next, given what came of the last call) ─▶ run ─▶ Outcome
//!                                                                                    └▶ device::call ─▶ a fence agent
//! ```
//!
//! Any agent that speaks the protocol of ClusterLabs' fence-agents (FenceAgentAPI.md) will do: `name=value` lines on
//! its standard input, its answer is its exit status. Nothing that is secret stands in its arguments or environment.
//!
//! * Levels are tried in order; within one, all devices must succeed (a machine with two power supplies).
//! * A reboot is *off*, seen to be off, then *on*: only the first half proves anything, so only that is waited for.
//! * What an agent says is checked by `status`, where it has that: one that lies counts as failed.

mod course;
mod device;
pub mod proof;

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use self::{
    course::{Answer, Course, Do, Goal, Outcome},
    device::{
        Action, Device, Power, Said, Secret, SecretError, answers, call, check, is_secret_name,
        metadata, monitor,
    },
};

/// One call of an agent, or a wait, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// "fence_ipmilan off (ipmi-n2)".
    pub what: String,
    /// How long it took.
    pub took: Duration,
    /// What came of it, in words.
    pub result: String,
    /// It was as it should be.
    pub good: bool,
}

/// What was done to a node, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The node.
    pub node: String,
    /// Whether it was fenced.
    pub outcome: Outcome,
    /// Each step, in order.
    pub steps: Vec<Step>,
    /// All of it.
    pub took: Duration,
}

/// How a node is fenced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub node: String,
    /// Tried in order; in each, all devices must succeed.
    pub levels: Vec<Vec<Device>>,
    /// Waited for first, so that of two nodes that fence each other one wins.
    pub delay: Duration,
    /// What becomes of it.
    pub goal: Goal,
}

impl Plan {
    /// How long carrying it out can take at most: all levels fail at their last device.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let each = |d: &Device| d.timeout.saturating_mul(course::CALLS_PER_DEVICE);
        let calls: Duration = self.levels.iter().flatten().map(each).sum();
        self.delay + calls
    }
}

/// Carries a plan out. `tell` is called with each step that was done, and whether the node is fenced by then: who waits
/// for that alone need not wait until it has been started again. Safe to drop: the agent that runs is ended.
pub async fn run(plan: &Plan, mut tell: impl FnMut(&Step, bool)) -> Report {
    let begun = Instant::now();
    let mut course = Course::new(plan);
    let mut steps = Vec::new();
    let outcome = loop {
        let (what, at, answer) = match course.next() {
            Do::Done(outcome) => break outcome,
            Do::Wait(time) => {
                sleep(time).await;
                course.answer(&Answer::Waited);
                continue;
            }
            Do::Call {
                level,
                device,
                action,
            } => {
                let Some(d) = plan.levels.get(level).and_then(|l| l.get(device)) else {
                    // The course names devices of this plan only.
                    break Outcome::Failed;
                };
                let at = Instant::now();
                let said = call(d, &plan.node, action).await;
                let what = format!("{} {} ({})", d.agent, action.name(), d.name);
                (what, at, Answer::Said(said))
            }
        };
        let good = course.answer(&answer);
        let step = Step {
            what,
            took: at.elapsed(),
            result: answer.sentence(),
            good,
        };
        tell(&step, course.is_fenced());
        steps.push(step);
    };
    Report {
        node: plan.node.clone(),
        outcome,
        steps,
        took: begun.elapsed(),
    }
}
