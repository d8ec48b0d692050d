//! What the main task does about the watchdog, and what it tells people of it.

use std::time::Duration;

use agent_common::Set;
use agent_services::fence::proof::{Evidence, Proof, Verdict, judge};

use super::{AGAIN, State, Work};
use crate::{
    agent::{
        pet::{Keeper, Petter, Told},
        rt::RtCommand,
        supervise::Supervisor,
    },
    control::proto::{Code, Refusal},
    events::{Draft, EventKind},
    net::rt::boottime_ns,
};

impl Supervisor {
    /// Arms it, disarms it, or leaves it, by what runs here. To be called whenever that may have changed, before anything is
    /// let start.
    pub(in crate::agent) fn review_guard(&mut self) {
        if self.guard.config.is_none() {
            return;
        }
        let stakes = self.services.stakes();
        let guard = &mut self.guard;
        guard.inherited &= !stakes.unknown.is_empty();
        // What was not looked at yet may run, from a life of the agent that was killed.
        let unknown = if guard.inherited {
            Set::EMPTY
        } else {
            stakes.unknown
        };
        guard.unknown = unknown;
        guard.at_stake.store(stakes.at.union(unknown));
        let now = boottime_ns();
        let right =
            stakes.at.minus(self.table.run_set.load()).is_empty() && self.table.lease().holds(now);
        match guard.state {
            // To be opened for a start that is not known to be needed would begin with a term that nobody may end.
            State::Off if !stakes.at.is_empty() && unknown.is_empty() => guard.open(),
            State::Left if unknown.is_empty() && (stakes.at.is_empty() || right) => guard.open(),
            State::Failed { again } if now >= again => {
                let device = guard.config.as_ref().map(|c| c.device.exists());
                if device == Some(true) {
                    guard.rest();
                } else {
                    guard.state = State::Failed {
                        again: now.saturating_add(AGAIN),
                    };
                }
            }
            State::Armed if stakes.at.is_empty() && unknown.is_empty() && !guard.no_way_out => {
                if self.rt.send(RtCommand::Unguard).is_ok() {
                    guard.state = State::Returning;
                }
            }
            State::Off
            | State::Left
            | State::Opening
            | State::Armed
            | State::Returning
            | State::Closing
            | State::Failed { .. } => {}
        }
        self.hand_to_rt();
    }

    /// At the start: that nothing stateful can be started is told at once.
    pub(in crate::agent) fn tell_guard_fault(&self) {
        if let Some(why) = self.guard.fault() {
            let text = format!("nothing stateful is started here: {why}");
            self.record(vec![Draft::new(EventKind::WatchdogFailed, text)]);
        }
    }

    fn hand_to_rt(&mut self) {
        let guard = &mut self.guard;
        let Some(petter) = guard.pending.take() else {
            return;
        };
        match self.rt.send(RtCommand::Guard(petter)) {
            Ok(()) => guard.state = State::Armed,
            Err(RtCommand::Guard(petter)) => guard.pending = Some(petter),
            Err(_) => {}
        }
    }

    /// Why something stateful may not be started yet, as far as the watchdog is concerned.
    pub(in crate::agent) fn unguarded(&self, group: u8) -> Option<String> {
        let (guard, config) = (&self.guard, self.guard.config.as_ref()?);
        if !self.services.is_stateful(group) {
            return None;
        }
        match (&guard.state, &guard.error) {
            (State::Armed, _) if guard.at_stake.load().has(group) => None,
            (State::Failed { .. }, Some(why)) => Some(format!(
                "not started: the watchdog {} cannot be armed: {why}",
                config.device.display()
            )),
            _ => match guard.unknown.iter().next() {
                None => Some("waits until the watchdog is armed".into()),
                Some(other) => Some(format!(
                    "waits for the watchdog, which is not armed before it is known whether {} runs here",
                    self.narrator.names.group(other)
                )),
            },
        }
    }

    /// What came of opening or closing the device.
    pub(in crate::agent) fn guard_news(&mut self, work: Work) {
        let guard = &mut self.guard;
        match work {
            Work::Opened(Ok(keeper)) => {
                guard.error = None;
                if let Keeper::Sysrq(..) = *keeper {
                    guard.gone();
                }
                guard.take(keeper);
                self.hand_to_rt();
                self.tell_armed();
            }
            Work::Opened(Err(why)) => {
                let news = guard.error.as_ref() != Some(&why);
                let again = boottime_ns().saturating_add(AGAIN);
                // One that was left armed goes on.
                if !guard.left {
                    guard.gone();
                }
                guard.state = State::Failed { again };
                guard.error = Some(why.clone());
                if news {
                    let text = format!(
                        "the watchdog cannot be armed, so nothing stateful is started here: {why}"
                    );
                    self.record(vec![Draft::new(EventKind::WatchdogFailed, text)]);
                }
                self.check_fitness();
            }
            Work::Closed(Ok(())) => {
                guard.gone();
                guard.state = State::Off;
                guard.reset_by = None;
                let text = "the watchdog is disarmed: nothing stateful runs here";
                self.record(vec![Draft::new(EventKind::WatchdogDisarmed, text)]);
            }
            Work::Closed(Err(keeper)) => {
                guard.take(keeper);
                guard.no_way_out = true;
                self.hand_to_rt();
                let text = "the watchdog cannot be disarmed: it is petted on, and when this agent ends it resets this machine";
                self.record(vec![Draft::new(EventKind::WatchdogFailed, text)]);
            }
        }
        self.review_holds();
    }

    fn tell_armed(&mut self) {
        let guard = &self.guard;
        let device = guard
            .config
            .as_ref()
            .map(|c| c.device.display().to_string());
        let (timeout, name) = (guard.timeout.as_secs(), guard.identity.as_str());
        let mut text = if guard.sysrq {
            format!(
                "{} cannot be had: this agent resets the machine by sysrq if it has lost its lease for {timeout} s and something \
                 stateful does not stop; not if it stands still itself",
                device.unwrap_or_default()
            )
        } else {
            format!(
                "the watchdog {} ({name}) is armed: it resets this machine if it has lost its lease for {timeout} s and something \
                 stateful does not stop",
                device.unwrap_or_default()
            )
        };
        if guard.no_way_out {
            text +=
                "; it cannot be disarmed (nowayout): when this agent ends, it resets this machine";
        }
        self.record(vec![Draft::new(EventKind::WatchdogArmed, text)]);
    }

    /// The real-time thread has given it back.
    pub(in crate::agent) fn guard_returned(&mut self, petter: Petter) {
        self.guard.close(petter.into_keeper());
    }

    /// What the real-time thread tells.
    pub(in crate::agent) fn guard_told(&mut self, told: Told) {
        let lost = self.guard.at_stake.load().minus(self.table.run_set.load());
        let names: Vec<_> = lost.iter().map(|g| self.narrator.names.group(g)).collect();
        let names = if names.is_empty() {
            "what ran under it".into()
        } else {
            names.join(", ")
        };
        match told {
            Told::Starving(by) => {
                self.guard.reset_by = Some(by);
                let left = by.saturating_sub(boottime_ns()) / 1_000_000;
                let text = format!(
                    "the lease is lost and {names} has not stopped: the watchdog is petted no more and resets this machine in {left} ms, \
                     unless it stops"
                );
                let draft = Draft::new(EventKind::WatchdogStarving, text);
                self.record(vec![draft.with("left_ms", left)]);
            }
            Told::Fed => {
                self.guard.reset_by = None;
                let text = "the watchdog is petted again";
                self.record(vec![Draft::new(EventKind::WatchdogArmed, text)]);
            }
            Told::Refused(errno) => {
                let why = format!("it takes no sign of life: {}", errno.desc());
                let text = format!("the watchdog will reset this machine: {why}");
                self.guard.error = Some(why);
                self.record(vec![Draft::new(EventKind::WatchdogFailed, text)]);
            }
        }
    }

    /// May this process be replaced now, as far as the watchdog is concerned?
    pub(in crate::agent) fn guard_may_restart(&self) -> Result<(), Refusal> {
        let busy = match self.guard.state {
            State::Off | State::Failed { .. } => false,
            State::Armed => {
                let lost = self.guard.at_stake.load().minus(self.table.run_set.load());
                !lost.is_empty()
            }
            State::Left | State::Opening | State::Returning | State::Closing => true,
        };
        if !busy {
            return Ok(());
        }
        let text = "something stateful that this node has lost has not stopped, or its watchdog is just being armed or disarmed";
        Err(Refusal::new(Code::Refused, text).help("ask again in a moment; nothing was restarted"))
    }

    /// Has the watchdog of a node certainly fired, since this node has owned the group (`since`, boot ns)? From the config
    /// alone: no agent starts anything stateful before its watchdog is armed, and none pets it while it runs something of
    /// a group that it does not own.
    pub(in crate::agent) fn watchdog_fired(&self, node: u8, since: u64) -> bool {
        let Some(dog) = self.config.watchdog.as_ref().filter(|dog| dog.proof) else {
            return false;
        };
        let peer = self.table.peer(node);
        let seen = peer.seen_config.load();
        let same =
            ((seen >> 32) as u32, seen as u32) == (self.config.digest(), self.config.generation);
        // Of who was never heard, or had another configuration, it is not known what it armed.
        if !same {
            return false;
        }
        fired(
            since.max(agent_core::detector::last_heard(peer)),
            dog.timeout,
            boottime_ns(),
        )
    }
}

pub(super) fn fired(base: u64, timeout: Duration, now: u64) -> bool {
    let evidence = Evidence {
        promise_end: base,
        last_heard: base,
        watchdog: Some(timeout),
        watchdog_counts: true,
        ..Evidence::default()
    };
    judge(&evidence, now) == Verdict::Proven(Proof::Watchdog)
}
