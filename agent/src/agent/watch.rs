//! What the main task looks at by itself: the address thread's events, gates, counters, the clock source.

use agent_core::{Command, Fitness};

use super::fitness::Seen;
use super::{rt::RtCommand, setup, start::clock_source, supervise::Supervisor};
use crate::{
    events::{Draft, EventKind},
    net::{NetControl, NetEvent, rt::boottime_ns},
};

impl Supervisor {
    pub(super) fn net_events(&mut self) {
        let mut check = false;
        while let Some(e) = self.net.events.pop() {
            match e {
                NetEvent::AddressUp { group, up, .. } => self.set_present(group, up > 0),
                // The answer to an earlier one says nothing of what a later one still has to remove.
                NetEvent::Reconfigured { serial, .. } if self.net_serial.is_newest(serial) => {
                    self.ungate_removed();
                    self.mapped();
                }
                NetEvent::AddressDown { group, .. } => {
                    self.set_present(group, false);
                    self.vip_errors.retain(|(g, _), _| *g != group);
                }
                NetEvent::AddressFailed {
                    group, vip, text, ..
                } => {
                    self.vip_errors.insert((group, vip), text.to_string());
                }
                NetEvent::AddressRestored { group, vip, .. }
                | NetEvent::AddressAdopted { group, vip } => {
                    self.vip_errors.remove(&(group, vip));
                }
                NetEvent::DeviceUp { .. }
                | NetEvent::DeviceDown { .. }
                | NetEvent::DeviceGone { .. } => check = true,
                NetEvent::DeviceNew { .. } => {
                    check = true;
                    self.closed = true;
                    let _ = self.rt.send(RtCommand::Reopen { anew: true });
                }
                _ => {}
            }
            let drafts = self.narrator.net(boottime_ns(), e);
            self.record(drafts);
        }
        if check {
            self.check_gates();
        }
    }

    fn set_present(&mut self, group: u8, on: bool) {
        let (word, bit) = (usize::from(group) / 64, 1u64 << (group % 64));
        if on {
            self.present[word] |= bit;
        } else {
            self.present[word] &= !bit;
        }
    }

    /// Rule 13, and what follows from it: a node whose device has no carrier or no gate is unfit for the group.
    pub(super) fn check_gates(&mut self) {
        let (drafts, changes) = self
            .gates
            .check(&mut self.datapath, setup::modes(self.config.datapath));
        self.record(drafts);
        for (ifindex, covered) in changes {
            let _ = self.net.control.send(NetControl::Gate { ifindex, covered });
        }
        self.check_fitness();
    }

    /// Says how fit this node is for its groups, where that has changed, or where another agent's memory of an earlier
    /// run of ours says otherwise.
    pub(super) fn check_fitness(&mut self) {
        let now = boottime_ns();
        let owners = &self.rt.snapshot.read().owner;
        let seen = Seen {
            gates: &self.gates,
            targets: &self.targets,
            services: &self.services,
            replicas: &self.replicas,
        };
        let changes = self
            .fitness
            .check(&self.config, self.me, &seen, owners, now);
        let drafts = changes.into_iter().map(|c| self.narrator.fitness(now, c));
        let drafts: Vec<_> = drafts.collect();
        self.record(drafts);
        let snapshot = self.rt.snapshot.read();
        let known = |group: u8| snapshot.fitness(self.me, group);
        let wrong: Vec<_> = self
            .fitness
            .said()
            .filter(|(group, fitness, _)| known(*group) != *fitness)
            .map(|(group, fitness, _)| (group, fitness))
            .collect();
        for (group, fitness) in wrong {
            let command = match fitness {
                Fitness::Fit => Command::Fit { group, fit: true },
                Fitness::Unfit => Command::Fit { group, fit: false },
                Fitness::Doubtful => Command::Doubt { group },
                Fitness::Failed => Command::Fail { group },
            };
            self.command(command, Box::new(|_| {}));
        }
    }

    /// Asks the targets of the groups that this node may own.
    pub(super) fn set_targets(&mut self) {
        let groups = self.config.groups.iter();
        let mine = groups.filter(|g| g.prefer.contains(&self.me));
        let mut tracks: Vec<_> = mine.flat_map(|g| g.tracks.iter().cloned()).collect();
        tracks.sort_unstable();
        tracks.dedup();
        self.targets.set(tracks);
    }

    /// A link is closed, targets are asked, or some group's services are not known to be stopped.
    pub(super) fn is_restless(&mut self) -> bool {
        let seen = self.rt.snapshot.read();
        self.closed
            || self.targets.are_asked()
            || !self.unproven.is_empty()
            || !seen.unclean.minus(seen.owned).is_empty()
    }

    pub(super) fn quick(&mut self) {
        let snapshot = self.rt.snapshot.read();
        let rounds = snapshot.rounds;
        self.closed = snapshot.closed;
        if self.closed {
            // A device that returned may get its address a while later.
            let _ = self.rt.send(RtCommand::Reopen { anew: false });
        }
        self.say_unsent();
        self.end_outdating();
        self.repeat_phases();
        self.review_holds();
        self.check_fitness();
        let drafts = self.narrator.tick(boottime_ns());
        self.record(drafts);
        // A sign of life only while the real-time thread goes round.
        if rounds != self.rounds {
            self.rounds = rounds;
            self.notifier.watchdog();
        }
    }

    pub(super) fn second(&mut self) {
        self.check_gates();
        let paused = self.rt.snapshot.read().paused;
        self.services.pause(paused);
        self.check_generations();
        let source = clock_source();
        if source != self.clock_source {
            let text = format!(
                "the kernel's clock source is now {source}, was {}",
                self.clock_source
            );
            self.record(vec![Draft::new(EventKind::ClockSourceChanged, text)]);
            self.clock_source = source;
        }
        let mut drafts = Vec::new();
        for (name, value) in self.datapath.counters() {
            let before = self.rejected.insert(name, value).unwrap_or(value);
            if value <= before {
                continue;
            }
            let n = value - before;
            if let Some(reason) = name.strip_prefix("drop_")
                && reason != "stale_ack"
            {
                let text = format!(
                    "{n} packets refused in the last second: {}",
                    reason.replace('_', " ")
                );
                drafts.push(
                    Draft::new(EventKind::PacketRejected, text)
                        .with("reason", reason)
                        .with("count", n),
                );
            } else if name == "ring_full" {
                let text = format!("{n} records of the kernel were lost: the ring buffer was full");
                drafts.push(
                    Draft::new(EventKind::QueueFull, text)
                        .with("queue", "ring")
                        .with("count", n),
                );
            }
        }
        self.record(drafts);
        let s = self.status_with(Vec::new());
        let owned = s.groups.iter().filter(|g| g.owned_here).count();
        let line = format!(
            "{owned} of {} groups here, {} of {} nodes reachable",
            s.groups.len(),
            s.quorum.reachable,
            s.quorum.voters
        );
        self.notifier.status(line);
    }
}
