//! Between the core and the services: who owns a group decides what runs, and what runs decides how fit a node is.

use std::{fs, path::PathBuf};

use agent_common::node_bit;
use agent_core::{Command, Event as CoreEvent, action::Gain};
use agent_services::{
    group::{Phase, Report, What},
    resource::{Kind, Resource},
};

use super::{
    End,
    prove::{Certain, Waiting},
    services,
    supervise::Supervisor,
};
use crate::{
    events::{Draft, EventKind},
    net::rt::boottime_ns,
};

/// A doubt that lasts so long is told, ns: at a start all nodes say within moments that nothing runs there.
const DOUBT_TOLD: u64 = 1_000_000_000;

/// So long what is heard must stay the same, ns; at least four heartbeats.
const SAID_AGAIN: u64 = 150_000_000;

/// Something that must not run twice, and may run elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    /// Since when, boot ns.
    since: u64,
    /// Nodes that have not said since then that it does not run there.
    missing: u32,
    /// When they were looked at, and who said so then.
    seen: (u64, u32),
    /// The node that had it until then; 0: not known.
    from: u8,
    /// What is certain about the others by now.
    certain: Certain,
    /// People know of it.
    told: bool,
}

impl Supervisor {
    /// The groups of the configuration, at the start and after a change.
    /// What runs already is the owner's affair: found running, it is not started again.
    pub(super) fn set_services(&mut self, at_start: bool) {
        let table = self.table;
        let kept = table.run_set.load();
        for g in &self.config.groups {
            let epoch = table.group_epoch[usize::from(g.id)].load();
            if at_start || !kept.has(g.id) {
                self.last_epoch.entry(g.id).or_insert(epoch);
            }
        }
        // A gain that was not attended to yet says first whether its services may start.
        let attended = &self.last_epoch;
        let owned = |group: u8| {
            let epoch = table.group_epoch[usize::from(group)].load();
            (kept.has(group) && attended.get(&group) == Some(&epoch)).then_some(epoch)
        };
        self.services.set(&self.config, self.me, owned);
        self.replicas.set(&self.config, self.me);
        if at_start {
            self.warn_shut_off();
            let groups: Vec<u8> = self.config.groups.iter().map(|g| g.id).collect();
            for group in groups {
                if self.doubt_file(group).exists() {
                    self.doubt(group, 0);
                }
            }
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
            // However briefly: what ended its last life says nothing of this one.
            CoreEvent::NodeHealth {
                peer,
                health: agent_core::Health::Alive,
            } => self.provers.heard(*peer),
            CoreEvent::Cleared { group } => {
                self.services.clear(*group);
            }
            CoreEvent::Outdate { group, behind } => self.outdate_here(*group, *behind),
            CoreEvent::Outdated { group, behind } => self.outdating.told(*group, *behind),
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
            group, epoch, from, ..
        } = *gain;
        self.last_epoch.insert(group, epoch);
        self.stays(group);
        if self.services.is_stateful(group) {
            self.doubt(group, from);
        }
        let hold = self.hold_for(group);
        self.services.own(group, epoch, hold);
    }

    /// Remembered where a restarted agent finds it, and a rebooted machine does not.
    fn doubt_file(&self, group: u8) -> PathBuf {
        self.args.run_dir.join(format!("unproven-{group}"))
    }

    /// It may run elsewhere, and must not run twice. All other nodes that may own it have to say that it does not.
    fn doubt(&mut self, group: u8, from: u8) {
        // It has lived to own this: a fencing before that is of another life.
        self.provers.heard(from);
        let file = self.doubt_file(group);
        if let Err(e) = fs::write(&file, "") {
            tracing::warn!("{}: {e}", file.display());
        }
        let of = self.config.groups.iter().find(|g| g.id == group);
        let others = of
            .into_iter()
            .flat_map(|g| &g.prefer)
            .filter(|id| **id != self.me);
        let doubt = Doubt {
            since: boottime_ns(),
            missing: others.fold(0, |m, id| m | node_bit(*id)),
            seen: (0, 0),
            from,
            certain: Certain::stopped(),
            told: false,
        };
        self.unproven.insert(group, doubt);
        self.say(Command::Unsure { group, on: true });
    }

    /// What people are told of it.
    fn doubt_text(&self, group: u8, doubt: &Doubt) -> String {
        let name = self.narrator.names.group(group);
        let missing = (1..=32).filter(|id| doubt.missing & node_bit(*id) != 0);
        let missing: Vec<_> = missing
            .map(|id| match self.provers.says(id) {
                Some(text) => format!("{} ({text})", self.narrator.names.node(id)),
                None => self.narrator.names.node(id),
            })
            .collect();
        format!(
            "not known from {}: is {name} stopped there? Two of it at once would destroy data. It starts when that is heard, or \
             the node is fenced; if you are certain: heartline clear {name} --stopped-elsewhere",
            missing.join(", ")
        )
    }

    /// The groups here that wait for a node.
    pub(super) fn waits_for(&self, node: u8) -> Vec<u8> {
        let waits = self
            .unproven
            .iter()
            .filter(|(_, d)| d.missing & node_bit(node) != 0);
        waits.map(|(group, _)| *group).collect()
    }

    /// Somebody says that it is stopped elsewhere, or the group is not here any more.
    pub(super) fn end_doubt(&mut self, group: u8) -> bool {
        let _ = fs::remove_file(self.doubt_file(group));
        let ended = self.unproven.remove(&group).is_some();
        if ended {
            self.say(Command::Unsure { group, on: false });
        }
        ended
    }

    /// Takes the word of the nodes that are heard.
    fn review_doubts(&mut self) {
        let seen = self.rt.snapshot.read();
        let (at, clean, owned, owner) = (seen.at, seen.clean, seen.owned, *seen.owner);
        let alive = (1..=32)
            .zip(&seen.nodes)
            .filter(|(_, n)| n.alive)
            .fold(0, |m, (id, _)| m | node_bit(id));
        for id in (1..=32).filter(|id| alive & node_bit(*id) != 0) {
            self.provers.heard(id);
        }
        let mut wanted = 0;
        let again = SAID_AGAIN.max(4 * self.config.timing.heartbeat_ns);
        let doubts: Vec<_> = self.unproven.iter().map(|(g, d)| (*g, d.clone())).collect();
        for (group, mut doubt) in doubts {
            // What was heard before the gain says nothing.
            if at <= doubt.since {
                continue;
            }
            let name = self.narrator.names.group(group);
            if !owned.has(group) {
                // Whoever has it now has the doubt.
                let other = owner[usize::from(group)];
                if other != 0 && other != self.me {
                    self.end_doubt(group);
                }
                continue;
            }
            // A late heartbeat may say what is true no more: only the same word twice, with newer ones in between, counts.
            let (before, said) = doubt.seen;
            if before == 0 {
                doubt.seen = (at, clean);
            } else if at >= before + again {
                doubt.missing &= !(clean & said);
                doubt.seen = (at, clean);
            } else {
                doubt.seen = (before, clean & said);
            }
            let missing = doubt.missing;
            for id in (1..=32).filter(|id| missing & node_bit(*id) != 0) {
                if let Some(how) = self.provers.gone(id) {
                    doubt.certain.gone(how);
                    doubt.missing &= !node_bit(id);
                } else {
                    let waiting = Waiting {
                        since: doubt.since,
                        owned_it: id == doubt.from,
                        heard: alive & node_bit(id) != 0,
                    };
                    self.prove(id, waiting);
                }
            }
            if doubt.missing == 0 {
                self.end_doubt(group);
                self.certain_of(group, &doubt, at);
                continue;
            }
            wanted |= doubt.missing;
            if !doubt.told && at > doubt.since + DOUBT_TOLD {
                doubt.told = true;
                let text = format!("not started: {}", self.doubt_text(group, &doubt));
                let draft = Draft::new(EventKind::ServiceFailed, text).group(name);
                self.record(vec![draft]);
            }
            self.unproven.insert(group, doubt);
        }
        self.provers.keep(wanted | self.outdating.waits());
    }

    /// It may start: what it waited for, for the record.
    fn certain_of(&mut self, group: u8, doubt: &Doubt, at: u64) {
        self.services.give(group, doubt.certain.given);
        if !doubt.told && doubt.certain.how.is_empty() {
            return;
        }
        let name = self.narrator.names.group(group);
        let proof = if doubt.certain.how.is_empty() {
            "all other nodes say that it is stopped there".to_owned()
        } else {
            doubt.certain.how.join("; ")
        };
        let waited = at.saturating_sub(doubt.since) / 1_000_000;
        let text = format!("{name} may start: {proof}; {waited} ms after it was taken over");
        let draft = Draft::new(EventKind::Proven, text)
            .group(name)
            .with("proof", proof)
            .with("waited_ms", waited);
        self.record(vec![draft]);
    }

    /// Says of which groups nothing runs here any more.
    fn sweep(&mut self) {
        let seen = self.rt.snapshot.read();
        let left = seen.unclean.minus(seen.owned);
        for group in left.iter() {
            if !self.unproven.contains_key(&group) && self.services.is_swept(group) {
                let epoch = self.last_epoch.get(&group).copied().unwrap_or_default();
                self.command(Command::Swept { group, epoch }, Box::new(|_| {}));
            }
        }
    }

    /// The agent ends: what would not stop is said, as loudly as can be.
    pub(super) fn left_behind(&mut self) -> End {
        let left = self.services.unfinished();
        let drafts = left.iter().map(|(name, why)| {
            let text = format!(
                "the agent ends although {name} has not stopped here ({why}): it may run on, and with state it is not started \
                 elsewhere until this agent is back and has stopped it, or `heartline clear {name} --stopped-elsewhere`"
            );
            Draft::new(EventKind::ServiceFailed, text).group(name)
        });
        self.record(drafts.collect());
        if left.is_empty() {
            End::Stopped
        } else {
            End::Unclean
        }
    }

    /// Why a group's services may not be started yet.
    fn hold_for(&mut self, group: u8) -> Option<String> {
        if let Some(doubt) = self.unproven.get(&group) {
            return Some(self.doubt_text(group, doubt));
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
        self.review_doubts();
        self.sweep();
        self.services.reap();
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
        self.quiescing.stops(group, to);
        if !self.services.leave(group, epoch) {
            // Nothing to stop.
            return self.stopped(group, epoch);
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

    /// Tells the core, in this order; again, should its queue be full.
    pub(super) fn say(&mut self, command: Command) {
        if !self.unsent.is_empty() || !self.command(command, Box::new(|_| {})) {
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
        self.stays(group);
        let hold = self.hold_for(group);
        self.services.own(group, epoch, hold);
    }

    /// The rights are gone: everything of the owner's own stops.
    pub(super) fn lose_services(&mut self, group: u8) {
        self.services.lose(group);
    }

    /// News from a group's services.
    pub(super) fn service_news(&mut self, report: Report) {
        self.services.note(&report);
        let group = report.group;
        let known = self.services.name(group).map(str::to_owned);
        let name = known.unwrap_or_else(|| self.narrator.names.group(group));
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
            What::Stopped { epoch } => self.stopped(group, epoch),
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
