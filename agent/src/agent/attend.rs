//! Between the core and the services: who owns a group decides what runs, and what runs decides how fit a node is.

use std::{fs, path::PathBuf};

use agent_core::{
    Command, Event as CoreEvent,
    action::{Gain, GainReason},
};
use agent_services::{
    group::{Phase, Report, What},
    resource::{Kind, Resource},
};

use super::{services, supervise::Supervisor};
use crate::events::{Draft, EventKind};

impl Supervisor {
    /// The groups of the configuration, at the start and after a change.
    /// What runs already is the owner's affair: found running, it is not started again.
    pub(super) fn set_services(&mut self, at_start: bool) {
        let table = self.table;
        let kept = table.run_set.load();
        let owned = move |group: u8| {
            kept.has(group)
                .then(|| table.group_epoch[usize::from(group)].load())
        };
        if at_start {
            for group in kept.iter() {
                if let Ok(text) = fs::read_to_string(self.doubt_file(group)) {
                    self.unproven.insert(group, text);
                }
            }
        }
        self.services.set(&self.config, self.me, owned);
        if at_start {
            self.warn_shut_off();
        }
        self.hooks.set(&self.config.hooks, &self.log);
        self.review_holds();
    }

    /// What is mounted in a name space of the agent's own is mounted for nobody else.
    fn warn_shut_off(&self) {
        let acts_itself = |r: &Resource| !matches!(r.kind, Kind::Systemd { .. });
        let mut resources = self
            .config
            .groups
            .iter()
            .flat_map(|g| &g.services.resources);
        let Some(first) = resources.find(|r| acts_itself(r)) else {
            return;
        };
        let space = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
        if space("self") != space("1") {
            let text = format!(
                "{} acts on the machine itself, and this agent has mounts of its own: install config/heartline-services.conf \
                 as /etc/systemd/system/heartline.service.d/services.conf",
                first.name
            );
            self.record(vec![Draft::new(EventKind::ServiceTrouble, text)]);
        }
    }

    /// What an event of the core means for services.
    pub(super) fn attend(&mut self, event: &CoreEvent) {
        match event {
            CoreEvent::Gained(gain) => self.gained(gain),
            CoreEvent::Paused(on) => self.services.pause(*on),
            CoreEvent::Cleared { group } => {
                self.services.clear(*group);
            }
            // Cleared on whichever node: what would not stop here is tried again at once, not when it is due.
            CoreEvent::Stuck {
                group,
                node,
                on: false,
            } if *node == self.me => {
                self.services.clear(*group);
            }
            _ => {}
        }
    }

    fn gained(&mut self, gain: &Gain) {
        let Gain {
            group,
            epoch,
            reason,
            from,
            ..
        } = *gain;
        if self.services.is_stateful(group) && !self.is_proven(group, reason) {
            self.doubt(group, from);
        }
        let hold = self.hold_for(group);
        self.services.own(group, epoch, hold);
    }

    /// Is it certain that nothing of the group runs elsewhere? An owner that gave it up has stopped it first. Where no
    /// owner was known, all who may own it must be heard: they stop what is not theirs.
    fn is_proven(&mut self, group: u8, reason: GainReason) -> bool {
        match reason {
            GainReason::Move => true,
            GainReason::OwnerLost => false,
            GainReason::Start => {
                let Some(group) = self.config.groups.iter().find(|g| g.id == group) else {
                    return false;
                };
                let nodes = &self.rt.snapshot.read().nodes;
                let heard = |id: &u8| {
                    *id == self.me
                        || nodes
                            .get(usize::from(*id).wrapping_sub(1))
                            .is_some_and(|n| n.alive)
                };
                group.prefer.iter().all(heard)
            }
        }
    }

    /// Remembered where a restarted agent finds it, and a rebooted machine does not.
    fn doubt_file(&self, group: u8) -> PathBuf {
        self.args.run_dir.join(format!("unproven-{group}"))
    }

    fn doubt(&mut self, group: u8, from: u8) {
        let who = if from == 0 {
            "another node".to_owned()
        } else {
            self.narrator.names.node(from)
        };
        let name = self.narrator.names.group(group);
        let text = format!(
            "{who} has not said that {name} is stopped there, and two of it at once would destroy data; once it is certain: heartline clear {name} --stopped-elsewhere"
        );
        if let Err(e) = fs::write(self.doubt_file(group), &text) {
            tracing::warn!("{}: {e}", self.doubt_file(group).display());
        }
        self.record(vec![
            Draft::new(EventKind::ServiceFailed, format!("not started: {text}")).group(name),
        ]);
        self.unproven.insert(group, text);
    }

    /// Somebody says that it is stopped elsewhere, or the group is not here any more.
    pub(super) fn end_doubt(&mut self, group: u8) -> bool {
        let _ = fs::remove_file(self.doubt_file(group));
        self.unproven.remove(&group).is_some()
    }

    /// Why a group's services may not be started yet.
    fn hold_for(&mut self, group: u8) -> Option<String> {
        if let Some(text) = self.unproven.get(&group) {
            return Some(text.clone());
        }
        let after = self
            .config
            .groups
            .iter()
            .find(|g| g.id == group)?
            .near
            .after
            .clone();
        let waits = |other: &u8| {
            let (_, phase) = self.rt.snapshot.read().phases[usize::from(*other)];
            // A group without services has no phase: its owner is enough.
            let services = self
                .config
                .groups
                .iter()
                .any(|g| g.id == *other && !g.services.is_empty());
            let owned = self.rt.snapshot.read().owner[usize::from(*other)] != 0;
            (!(owned && (!services || phase == agent_core::Phase::Running))).then_some(*other)
        };
        let other = after.iter().find_map(waits)?;
        Some(format!(
            "waits for group {}",
            self.narrator.names.group(other)
        ))
    }

    /// What groups wait for may have come, or gone: what runs already goes on.
    pub(super) fn review_holds(&mut self) {
        let held: Vec<_> = self.services.held().collect();
        for (group, before) in held {
            let now = self.hold_for(group);
            let runs = matches!(
                self.services.phase(group),
                Some(Phase::Running | Phase::Starting | Phase::Failed)
            );
            if now != before && !(now.is_some() && runs) {
                self.services.hold(group, now);
            }
        }
    }

    /// The last word counts, and it may be that of an owner before: its "idle" crosses the new one's "running". Whoever
    /// waits for the group would wait for ever.
    pub(super) fn repeat_phases(&mut self) {
        let mut commands = Vec::new();
        let snapshot = self.rt.snapshot.read();
        for group in snapshot.owned.iter() {
            let Some(phase) = self.services.phase(group).map(core_phase) else {
                continue;
            };
            let said = snapshot.phases[usize::from(group)];
            if said != (self.me, phase) && said != (self.me, agent_core::Phase::Stuck) {
                commands.push(Command::Phase { group, phase });
            }
        }
        for command in commands {
            self.command(command, Box::new(|_| {}));
        }
    }

    /// This node is to give a group up: its services are stopped first.
    pub(super) fn stop_services(&mut self, group: u8, epoch: u64, to: u8) {
        if !self.services.leave(group, epoch) {
            // Nothing to stop.
            return self.say(Command::Stopped { group, epoch });
        }
        let name = self.narrator.names.group(group);
        let whither = if to == 0 {
            "nobody else can have it".into()
        } else {
            format!("for {}", self.narrator.names.node(to))
        };
        let text = format!("stopping the services of {name}: {whither}");
        self.record(vec![
            Draft::new(EventKind::Service, text)
                .group(name)
                .epoch(epoch),
        ]);
    }

    /// Tells the core; again, should its queue be full.
    fn say(&mut self, command: Command) {
        if !self.command(command, Box::new(|_| {})) {
            self.unsent.push(command);
        }
    }

    /// What could not be told so far.
    pub(super) fn say_unsent(&mut self) {
        for command in std::mem::take(&mut self.unsent) {
            self.say(command);
        }
    }

    /// It stays after all.
    pub(super) fn resume_services(&mut self, group: u8, epoch: u64) {
        let hold = self.hold_for(group);
        self.services.own(group, epoch, hold);
    }

    /// The rights are gone: everything of the owner's own stops.
    pub(super) fn lose_services(&mut self, group: u8) {
        self.services.lose(group);
        self.end_doubt(group);
    }

    /// News from a group's services.
    pub(super) fn service_news(&mut self, report: Report) {
        self.services.note(&report);
        let group = report.group;
        let name = self.narrator.names.group(group);
        match report.what {
            What::Phase(phase) => {
                let command = Command::Phase {
                    group,
                    phase: core_phase(phase),
                };
                self.say(command);
                let text = format!("services of {name}: {}", phase.name());
                self.record(vec![
                    Draft::new(EventKind::Service, text)
                        .group(name)
                        .with("phase", phase.name()),
                ]);
            }
            What::Stopped { epoch } => {
                self.say(Command::Stopped { group, epoch });
            }
            What::StopFailed { epoch, why: _ } => {
                self.say(Command::StopFailed { group, epoch });
            }
            What::Broken(_) => self.check_fitness(),
            What::Note(weight, text) => {
                let draft = Draft::new(services::kind(weight), text).group(name);
                self.record(vec![draft]);
            }
        }
        self.review_holds();
    }
}

fn core_phase(phase: Phase) -> agent_core::Phase {
    match phase {
        Phase::Idle => agent_core::Phase::Idle,
        Phase::Starting => agent_core::Phase::Starting,
        Phase::Running => agent_core::Phase::Running,
        Phase::Stopping => agent_core::Phase::Stopping,
        Phase::Failed => agent_core::Phase::Failed,
        Phase::Blocked => agent_core::Phase::Blocked,
        Phase::Stuck => agent_core::Phase::Stuck,
    }
}

/// The same words, from the core's side.
pub fn service_phase(phase: agent_core::Phase) -> Phase {
    match phase {
        agent_core::Phase::Idle => Phase::Idle,
        agent_core::Phase::Starting => Phase::Starting,
        agent_core::Phase::Running => Phase::Running,
        agent_core::Phase::Stopping => Phase::Stopping,
        agent_core::Phase::Failed => Phase::Failed,
        agent_core::Phase::Blocked => Phase::Blocked,
        agent_core::Phase::Stuck => Phase::Stuck,
    }
}
