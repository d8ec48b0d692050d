//! Giving up: gates first, a fresh claim version second, telling others last. Every way out of owning goes through here.

use std::ops::Deref;

use agent_common::{
    Set,
    rules::Rule,
    state::{LeaseWord, Shared},
};

use crate::{
    action::Event,
    core::{Core, Now},
};

impl<S: Deref<Target = Shared>> Core<S> {
    /// Rule 7: a lapsed lease is lost.
    pub(crate) fn check_lease(&mut self, now: Now) {
        if !self.rules.hold(Rule::LapsedIsLost) {
            return;
        }
        let set = self.sh.run_set.load();
        let lease = self.sh.lease();
        if !set.is_empty() && !lease.holds(now.boot) {
            self.event(Event::LeaseLapsed {
                groups: set,
                ended: lease.expiry_ns(),
            });
            self.drop_all(now, true);
        }
    }

    /// Gates shut, then everything given up under a fresh version.
    pub(crate) fn drop_all(&mut self, now: Now, tell: bool) {
        let set = self.sh.run_set.load();
        self.reask = None;
        self.shut_gates(Set([u64::MAX; 4]));
        self.sh.run_set.store(Set::EMPTY);
        for group in set.iter() {
            self.lose(group);
        }
        self.bump(now);
        if tell && !set.is_empty() {
            self.heartbeat(now);
        }
    }

    /// Gates shut, then these groups given up under a fresh version, and all told.
    pub(crate) fn give_up(&mut self, groups: Set, now: Now) {
        let set = self.sh.run_set.load().and(groups);
        if set.is_empty() {
            return;
        }
        self.shut_gates(set);
        self.sh.run_set.store(self.sh.run_set.load().minus(set));
        for group in set.iter() {
            self.lose(group);
        }
        self.bump(now);
        self.heartbeat(now);
    }

    pub(crate) fn shut_gates(&self, groups: Set) {
        // The kernel only ever clears bits, too, so this ends.
        while !self.sh.gate.remove(groups) {}
    }

    /// A fresh claim version for what runs (rule 3); an attempt that was under way is over.
    pub(crate) fn bump(&mut self, now: Now) {
        self.pend = None;
        let cv = if self.rules.hold(Rule::VersionOnce) {
            let cv = self.sh.cv_max.load().max(self.sh.run_cv.load()) + 1;
            self.sh.cv_max.store(cv);
            cv
        } else {
            self.sh.run_cv.load() + 1
        };
        // Late acks of the old version find another running version, or another lease word (rule 8).
        self.sh.run_cv.store(cv);
        loop {
            let old = self.sh.lease();
            if self
                .sh
                .lease
                .cas(old.0, LeaseWord::until(old.expiry_ns(), cv).0)
            {
                break;
            }
        }
        let _ = now;
    }
}
