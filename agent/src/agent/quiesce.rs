//! A planned move of a hot standby loses no request: first new requests are held in the data path, then the answers to the old
//! ones get a moment to leave, and only then the group is let go. The lease holds meanwhile. What was held follows the group
//! ([`crate::net::relay`]).
//!
//! Only where nothing has to be started on the other side: what comes up in seconds is not worth holding for.

use std::{collections::BTreeMap, time::Duration};

use agent_core::Command;
use tokio::time::Instant;

use super::supervise::Supervisor;
use crate::net::rt::boottime_ns;

/// For answers under way: what a DNS, RADIUS or web server knows takes less, on a busy machine, too.
const ANSWERS: Duration = Duration::from_millis(8);
/// How long frames are held at most, ns: a move takes a few milliseconds.
const HOLD: u64 = 50_000_000;

/// Groups on their way.
#[derive(Debug, Default)]
pub(super) struct Quiescing {
    /// Whither each is to go that was asked to stop.
    to: BTreeMap<u8, u8>,
    /// When each is let go, and in which epoch.
    due: BTreeMap<u8, (Instant, u64)>,
    /// Until when frames may be held, boot ns.
    until: u64,
}

impl Quiescing {
    /// It is to stop for this node; 0: for none.
    pub(super) fn stops(&mut self, group: u8, to: u8) {
        self.to.insert(group, to);
    }

    /// When something is to be done next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.values().map(|(at, _)| *at).min()
    }

    /// How long frames may still be held.
    pub(super) fn rest(&self) -> Duration {
        Duration::from_nanos(self.until.saturating_sub(boottime_ns()).min(HOLD))
    }
}

impl Supervisor {
    /// Nothing of the group is in the way of another node any more.
    pub(super) fn stopped(&mut self, group: u8, epoch: u64) {
        let to = self.quiescing.to.remove(&group).unwrap_or_default();
        let until = boottime_ns() + HOLD;
        if to != 0 && self.services.is_hot_standby(group) && self.datapath.hold(group, until) {
            self.quiescing.until = until;
            let due = Instant::now() + ANSWERS;
            self.quiescing.due.insert(group, (due, epoch));
        } else {
            self.say(Command::Stopped { group, epoch });
        }
    }

    /// The answers have left.
    pub(super) fn quiesced(&mut self) {
        let now = Instant::now();
        let due = std::mem::take(&mut self.quiescing.due);
        for (group, (at, epoch)) in due {
            if at <= now {
                self.say(Command::Stopped { group, epoch });
            } else {
                self.quiescing.due.insert(group, (at, epoch));
            }
        }
    }

    /// The group is here, and stays.
    pub(super) fn stays(&mut self, group: u8) {
        self.quiescing.to.remove(&group);
        self.quiescing.due.remove(&group);
        self.datapath.hold(group, 0);
    }
}
