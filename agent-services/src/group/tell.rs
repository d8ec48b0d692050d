//! What is told of a group, and shown.

use super::{
    Phase, Report, Role, Stake, Wanted, Weight, What,
    runner::{Mark, Runner, Todo},
};
use crate::resource::State;

impl Runner {
    pub(super) fn show_resource(&mut self, i: usize, state: &State) {
        if let Some(v) = self.shown.resources.get_mut(i) {
            (v.state, v.text) = match state {
                State::Running => ("running", String::new()),
                State::Stopped => ("stopped", String::new()),
                State::Failed(why) => ("failed", why.clone()),
                State::Unknown(why) => ("unknown", why.clone()),
            };
        }
    }

    pub(super) fn phase_for(&self, w: &Wanted, todo: Option<Todo>) -> Phase {
        match w.role {
            Role::Unknown => self.phase,
            Role::Standby | Role::Leaving { .. } if self.stuck.is_some() => Phase::Stuck,
            Role::Standby | Role::Leaving { .. } if self.is_down() => Phase::Idle,
            Role::Standby | Role::Leaving { .. } => Phase::Stopping,
            Role::Owner { .. } if self.stuck.is_some() => Phase::Stuck,
            Role::Owner { .. } if matches!(todo, Some(Todo::Start(_))) => Phase::Starting,
            Role::Owner { .. } if todo.is_some() => Phase::Stopping,
            Role::Owner { .. } if w.hold.is_some() => Phase::Blocked,
            Role::Owner { .. } if self.watching == Some(true) && self.broken.is_none() => {
                Phase::Running
            }
            Role::Owner { .. } => Phase::Failed,
        }
    }

    /// May something that must not run twice run here? What is about to be started may.
    pub(super) fn stake(&self, todo: Option<Todo>) -> Stake {
        let orphans = self.orphans.iter().any(|r| r.stateful);
        let all = self.services.resources.iter().zip(&self.marks).enumerate();
        let marks = all.filter(|(_, (r, _))| r.stateful && !r.keep_running);
        let stakes = marks.map(|(i, (_, mark))| match mark {
            _ if todo == Some(Todo::Start(i)) => Stake::AtStake,
            Mark::Up | Mark::Perhaps => Stake::AtStake,
            Mark::Unasked => Stake::Unknown,
            Mark::Down => Stake::Nothing,
        });
        let stakes: Vec<_> = stakes.collect();
        if orphans || stakes.contains(&Stake::AtStake) {
            Stake::AtStake
        } else if stakes.contains(&Stake::Unknown) {
            Stake::Unknown
        } else {
            Stake::Nothing
        }
    }

    /// Says what has changed.
    pub(super) async fn tell(&mut self, w: &Wanted, todo: Option<Todo>) {
        let phase = self.phase_for(w, todo);
        let policy = self.services.policy;
        self.shown.phase = phase;
        self.shown.stake = self.stake(todo);
        self.shown.answers = Some((w.role, w.losses));
        self.shown.failures =
            u32::try_from(self.failures.count(&policy, self.now())).unwrap_or(u32::MAX);
        self.shown.given_up = self.failures.is_given_up(&policy, self.now());
        self.shown.text = self
            .stuck
            .clone()
            .or_else(|| self.broken.clone())
            .or_else(|| w.hold.clone())
            .or_else(|| self.stays.clone())
            .unwrap_or_default();
        if self.broken != self.broken_told {
            self.broken_told.clone_from(&self.broken);
            self.send(What::Broken(self.broken.clone())).await;
        }
        if phase != self.phase {
            self.phase = phase;
            self.send(What::Phase(phase)).await;
        }
        if let Role::Leaving { epoch } = w.role
            && self.ended != Some(epoch)
            && todo.is_none()
            && self.is_down()
        {
            self.ended = Some(epoch);
            self.send(What::Stopped { epoch }).await;
        }
    }

    pub(super) async fn note(&self, weight: Weight, text: String) {
        self.send(What::Note(weight, text)).await;
    }

    /// The agent reads these as long as it lives; without it nobody wants to know.
    pub(super) async fn send(&self, what: What) {
        let _ = self
            .reports
            .send(Report {
                group: self.group,
                what,
            })
            .await;
    }
}
