//! The voter's half in user space: granting what the kernel does not know yet. Rule 9 rules the order of writes.

use std::ops::Deref;

use agent_common::{
    MAX_NODES, Set, kernel,
    rules::Rule,
    state::{PeerCell, PromiseWord, Shared},
    wire::{Kind, Message, flags},
};

use crate::{
    action::{Action, Event},
    core::{Core, Now, Parked},
};

/// What stands against a set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked {
    /// The groups that somebody holds.
    pub groups: Set,
    /// When the last of them is free, ns.
    pub until: u64,
}

/// Running set and asked set of an entry, as this voter stands by them.
pub(crate) fn held_by(p: &PeerCell, union: bool) -> Set {
    let of = |i: usize| {
        if p.claim[i].cv.load() != 0 {
            p.claim[i].set.load()
        } else {
            Set::EMPTY
        }
    };
    // Asked sets contain the running ones (claims only add), so standing by the asked one alone would be no less.
    if union { of(0).union(of(1)) } else { of(0) }
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// Is the set free for node `x` at this voter?
    pub(crate) fn blocked(&self, x: u8, set: Set, now: u64) -> Option<Blocked> {
        let me = self.cfg.me;
        let mut b = Blocked {
            groups: Set::EMPTY,
            until: 0,
        };
        if x != me {
            // Rule 5: what runs here while the lease holds, and what is being asked for.
            let lease = self.sh.lease();
            if lease.holds(now) {
                let own = self.sh.run_set.load().and(set);
                if !own.is_empty() {
                    b.groups = b.groups.union(own);
                    b.until = b.until.max(lease.expiry_ns());
                }
            }
            if let Some(p) = &self.pend
                && self.rules.hold(Rule::OwnVotePending)
                && !p.set.and(set).is_empty()
                && p.own
            {
                b.groups = b.groups.union(p.set.and(set));
                b.until = b.until.max(p.sent + self.cfg.timing.claim_timeout());
            }
        }
        // All nodes: a promise to one that is no member any more stands to its end (rule 10).
        for h in 1..=MAX_NODES as u8 {
            let gone = self.cfg.nodes[usize::from(h) - 1].is_none();
            if h == x || h == me || gone && !self.rules.hold(Rule::RemovedStands) {
                continue;
            }
            let p = self.sh.peer(h);
            let word = PromiseWord(p.word.load_ordered());
            if p.incarnation.load() == 0 || !word.stands(now) {
                continue;
            }
            let held = held_by(p, self.rules.hold(Rule::Union)).and(set);
            if !held.is_empty() {
                b.groups = b.groups.union(held);
                b.until = b.until.max(word.expiry_ns());
            }
        }
        (!b.groups.is_empty()).then_some(b)
    }

    /// Takes the set from everybody else for `x`: closes the entries of those whose promise has run out, and gives the own
    /// vote. False if the kernel extended a promise in between; nothing is granted then.
    pub(crate) fn take(&mut self, x: u8, set: Set, now: Now) -> bool {
        if self.blocked(x, set, now.boot).is_some() {
            return false;
        }
        let me = self.cfg.me;
        for h in 1..=MAX_NODES as u8 {
            let gone = self.cfg.nodes[usize::from(h) - 1].is_none();
            if h == x || h == me || gone && !self.rules.hold(Rule::RemovedStands) {
                continue;
            }
            let p = self.sh.peer(h);
            if held_by(p, self.rules.hold(Rule::Union)).and(set).is_empty() {
                continue;
            }
            if !self.rules.hold(Rule::TakeCloses) {
                continue;
            }
            if !self.close(h, now.boot) {
                return false;
            }
        }
        if x != me && self.rules.hold(Rule::OwnVoteGiven) {
            let own = self.sh.run_set.load().and(set);
            if !own.is_empty() {
                self.give_up(own, now);
            }
        }
        true
    }

    /// Closes an entry whose promise has run out. False if it stands after all.
    fn close(&mut self, h: u8, now: u64) -> bool {
        let p = self.sh.peer(h);
        let word = PromiseWord(p.word.load_ordered());
        if word.stands(now) {
            return false;
        }
        if !word.is_closed() {
            // Kept first: should we end here, the entry must not reopen for the versions that it had.
            let above = p.claim[0].cv.load().max(p.claim[1].cv.load());
            let min = if self.rules.hold(Rule::ClosedStays) {
                above + 1
            } else {
                above
            };
            p.min_cv.store(p.min_cv.load().max(min));
            if !p
                .word
                .cas(word.0, PromiseWord::closed(word.generation() + 1).0)
            {
                return false;
            }
        }
        let held = held_by(p, true);
        p.claim[1].cv.store(0);
        p.claim[1].set.store(Set::EMPTY);
        if self.rules.hold(Rule::ClosedStays) {
            p.claim[0].cv.store(0);
        }
        p.claim[0].set.store(Set::EMPTY);
        self.event(Event::PromiseExpired {
            peer: h,
            groups: held,
        });
        true
    }

    /// Rule 4: is the incarnation one to deal with? A newer one waits until the older one's promise is over.
    fn accept_incarnation(&mut self, m: &Message, now: Now) -> bool {
        let p = self.sh.peer(m.from);
        let known = p.incarnation.load();
        if known == m.incarnation {
            return true;
        }
        let word = PromiseWord(p.word.load_ordered());
        if m.incarnation < known
            || known != 0 && word.stands(now.boot) && self.rules.hold(Rule::IncarnationWaits)
        {
            if m.incarnation > known {
                self.see_twin(m, now);
            }
            return false;
        }
        let generation = word.generation() + 1;
        if !p.word.cas(word.0, PromiseWord::closed(generation).0) {
            return false;
        }
        for c in &p.claim {
            c.cv.store(0);
            c.set.store(Set::EMPTY);
        }
        p.min_cv.store(0);
        p.hi_clock.store(m.clock);
        for r in &p.replay {
            r.store(0);
        }
        p.incarnation.store(m.incarnation);
        // Open, with nothing promised.
        p.word.store((generation + 1) & 0x7fff);
        if known != 0 {
            self.event(Event::NewIncarnation { peer: m.from });
        }
        true
    }

    /// Another incarnation beside one whose promise stands. Longer than any promise lasts by itself means that somebody
    /// renews it: there are two of them.
    fn see_twin(&mut self, m: &Message, now: Now) {
        let Some(twin) = self.twin.get_mut(usize::from(m.from).wrapping_sub(1)) else {
            return;
        };
        if twin.0 != m.incarnation {
            *twin = (m.incarnation, now.boot);
        } else if twin.1 != 0 && now.boot > twin.1 + self.cfg.timing.max_promise {
            // Told once per incarnation.
            twin.1 = 0;
            self.event(Event::PeerTwice { peer: m.from });
        }
    }

    /// Opens an entry that is closed, with its claims already written (rule 9: the word last).
    fn reopen(&self, p: &PeerCell, until: u64) {
        let word = PromiseWord(p.word.load_ordered());
        p.word
            .store(PromiseWord::open(until, word.generation() + 1).0);
    }

    /// A promise given here in user space.
    fn promise(&self, p: &PeerCell, until: u64) {
        for _ in 0..8 {
            let word = PromiseWord(p.word.load_ordered());
            if word.is_closed() || kernel::extend(p, word, until, self.rules) {
                return;
            }
        }
    }

    pub(crate) fn may_vote(&self, m: &Message, now: Now) -> bool {
        (self.sh.votes(now.boot) || !self.rules.hold(Rule::FreshWaits))
            && (m.generation == self.cfg.generation || !self.rules.hold(Rule::GenerationsApart))
            && self
                .cfg
                .nodes
                .get(usize::from(m.from).wrapping_sub(1))
                .copied()
                .flatten()
                .is_some()
    }

    pub(crate) fn on_heartbeat(&mut self, m: &Message, now: Now) {
        if !self.may_vote(m, now) || !self.accept_incarnation(m, now) {
            return;
        }
        let p = self.sh.peer(m.from);
        let (running, asked) = (p.claim[0].cv.load(), p.claim[1].cv.load());
        let closed = PromiseWord(p.word.load_ordered()).is_closed();
        // Rule 6: a running version below the kept one is ignored.
        if m.cv < running && self.rules.hold(Rule::OldRunningIgnored) {
            return;
        }
        if m.cv != running || closed {
            let promoted = !closed && asked != 0 && asked == m.cv && p.claim[1].set.load() == m.set;
            // Rule 7: a closed entry reopens by an ask; a running set would be the one that it was closed for. An empty one
            // stands for nothing.
            let dead = closed && !m.set.is_empty() && self.rules.hold(Rule::ClosedStays);
            if dead || m.cv < p.min_cv.load() {
                let lost = self
                    .blocked(m.from, m.set, now.boot)
                    .map_or(Set::EMPTY, |b| b.groups);
                self.nack(m, lost, now);
            } else if promoted || self.take(m.from, m.set, now) {
                self.enter_running(m, closed, asked, now);
            } else {
                let lost = self
                    .blocked(m.from, m.set, now.boot)
                    .map_or(m.set, |b| b.groups);
                let p = self.sh.peer(m.from);
                if !closed {
                    // Rule 6: a refused set still frees what it no longer contains.
                    p.claim[0].set.store(p.claim[0].set.load().and(m.set));
                    if asked != 0 && asked < m.cv {
                        p.claim[1].cv.store(0);
                    }
                }
                self.nack(m, lost, now);
            }
        }
        if m.ask_cv > m.cv {
            self.on_ask(m, now);
        }
    }

    fn enter_running(&mut self, m: &Message, closed: bool, asked: u64, now: Now) {
        let p = self.sh.peer(m.from);
        let until = now.boot + u64::from(m.promise_us) * 1000;
        let c = &p.claim[0];
        c.cv.store(0);
        c.set.store(m.set);
        c.cv.store(m.cv);
        if asked <= m.cv {
            p.claim[1].cv.store(0);
            p.claim[1].set.store(Set::EMPTY);
        }
        if closed {
            self.reopen(p, until);
        } else {
            self.promise(p, until);
        }
        let mut ack = *m;
        kernel::make_ack(&self.sh, &mut ack, now.boot);
        self.push(Action::Send(m.from, ack));
    }

    fn nack(&mut self, m: &Message, lost: Set, now: Now) {
        let mut r = self.message(Kind::Nack, now);
        r.to = m.from;
        r.re_incarnation = m.incarnation;
        r.re_seq = m.seq;
        r.cv = m.cv;
        r.set = lost;
        self.push(Action::Send(m.from, r));
    }

    /// The asked-for part of a heartbeat.
    pub(crate) fn on_ask(&mut self, m: &Message, now: Now) {
        let p = self.sh.peer(m.from);
        let (running, asked) = (p.claim[0].cv.load(), p.claim[1].cv.load());
        if m.ask_cv < p.min_cv.load() || m.ask_cv < asked || m.ask_cv <= running {
            return;
        }
        let closed = PromiseWord(p.word.load_ordered()).is_closed();
        if m.ask_cv == asked {
            let same = p.claim[1].set.load() == m.ask_set || !self.rules.hold(Rule::CompareSet);
            if same && !closed {
                self.grant(m, now);
            }
            return;
        }
        self.release_for(m, now);
        if let Some(b) = self.blocked(m.from, m.ask_set, now.boot) {
            let wait = b.until.saturating_sub(now.boot);
            // A planned move waits for the release; any other claim for a promise that ends before the claim does.
            if m.flags & flags::MOVE != 0 || wait < self.cfg.timing.claim_timeout() {
                let until = now.boot + self.cfg.timing.claim_timeout();
                if let Some(slot) = self.parked.get_mut(usize::from(m.from).wrapping_sub(1)) {
                    let until = match slot {
                        Some(old) if old.message.ask_cv == m.ask_cv => old.until,
                        _ => until,
                    };
                    *slot = Some(Parked { message: *m, until });
                }
            } else {
                self.refuse(m, wait, now);
            }
            return;
        }
        if !self.take(m.from, m.ask_set, now) {
            self.refuse(m, self.cfg.timing.takeover, now);
            return;
        }
        let p = self.sh.peer(m.from);
        if closed {
            p.claim[0].cv.store(0);
            p.claim[0].set.store(Set::EMPTY);
        }
        let c = &p.claim[1];
        c.cv.store(0);
        c.set.store(m.ask_set);
        c.cv.store(m.ask_cv);
        if closed {
            self.reopen(p, now.boot + self.cfg.timing.takeover);
        }
        self.grant(m, now);
    }

    fn grant(&mut self, m: &Message, now: Now) {
        let p = self.sh.peer(m.from);
        self.promise(
            p,
            now.boot + self.cfg.timing.takeover.max(u64::from(m.promise_us) * 1000),
        );
        let mut r = self.message(Kind::Grant, now);
        r.to = m.from;
        r.re_incarnation = m.incarnation;
        r.re_seq = m.seq;
        r.ask_cv = m.ask_cv;
        r.ask_set = m.ask_set;
        self.push(Action::Send(m.from, r));
        if let Some(slot) = self.parked.get_mut(usize::from(m.from).wrapping_sub(1)) {
            *slot = None;
        }
    }

    fn refuse(&mut self, m: &Message, wait: u64, now: Now) {
        let mut r = self.message(Kind::Refuse, now);
        r.to = m.from;
        r.re_incarnation = m.incarnation;
        r.re_seq = m.seq;
        r.ask_cv = m.ask_cv;
        r.promise_us = (wait.min(self.cfg.timing.max_promise) / 1000) as u32;
        self.push(Action::Send(m.from, r));
    }

    /// Parked asks whose time has come.
    pub(crate) fn check_parked(&mut self, now: Now) {
        for i in 0..self.parked.len() {
            let Some(p) = self.parked[i] else { continue };
            let m = p.message;
            let stale =
                self.sh.peer(m.from).incarnation.load() != m.incarnation || !self.may_vote(&m, now);
            if stale || now.boot > p.until {
                self.parked[i] = None;
                continue;
            }
            // Not for an asker that is about to give up: the group would be without owner.
            if now.boot + self.cfg.timing.claim_timeout() / 2 < p.until {
                self.release_for(&m, now);
            }
            if self.yields(&m, now.boot) {
                continue;
            }
            if self.blocked(m.from, m.ask_set, now.boot).is_none() {
                self.parked[i] = None;
                self.on_ask(&m, now);
            }
        }
    }

    /// Where several wait for one group, who should have it goes first: grants split between them help nobody.
    pub(crate) fn yields(&self, m: &Message, now: u64) -> bool {
        let wanted = m.ask_set.minus(m.set);
        let parked = self
            .parked
            .iter()
            .flatten()
            .map(|p| (p.message.from, p.message.ask_set));
        let mine = self.pend.iter().map(|p| (self.cfg.me, p.gains));
        let mut rivals = parked
            .chain(mine)
            .filter(|(id, set)| *id != m.from && !set.and(wanted).is_empty());
        if rivals.clone().next().is_none() {
            return false;
        }
        let view = self.view(now);
        rivals.any(|(id, set)| {
            set.and(wanted)
                .iter()
                .any(|g| self.decide(g, &view).target == id)
        })
    }
}
