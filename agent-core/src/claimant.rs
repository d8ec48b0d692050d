//! The claimant's half: when to ask for what, adopting a majority's grants, releasing for a move.

use std::ops::Deref;

use agent_common::{
    MAX_NODES, Set, node_bit,
    rules::Rule,
    state::{LeaseWord, PromiseWord, Shared},
    wire::{Message, flags},
};

use crate::{
    action::{Action, Event, Gain, GainReason, Phases},
    command::Phase,
    core::{Core, Now},
    soft::Key,
    stamp::stamp,
    voter::held_by,
};

/// An attempt under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pending {
    /// Its claim version.
    pub cv: u64,
    /// The running set and what is asked for.
    pub set: Set,
    /// What is asked for.
    pub gains: Set,
    /// When it left.
    pub sent: u64,
    /// Voters that granted.
    pub granted: u32,
    /// Voters that refused.
    pub refused: u32,
    /// When the first refusing voter's promise is over.
    pub refused_until: u64,
    /// Has this node's own vote been taken for it?
    pub own: bool,
    /// Is it a planned move?
    pub is_move: bool,
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// Everything that can go on now: parked asks, an attempt's end, new attempts.
    pub(crate) fn advance(&mut self, now: Now) {
        self.check_parked(now);
        self.check_pending(now);
        self.check_orderly(now);
        self.consider(now);
    }

    fn check_pending(&mut self, now: Now) {
        let Some(p) = self.pend else { return };
        if !p.own
            && self.blocked(self.cfg.me, p.set, now.boot).is_none()
            && self.take(self.cfg.me, p.set, now)
        {
            if let Some(p) = &mut self.pend {
                p.own = true;
            }
            self.try_adopt(now);
        }
        let Some(p) = self.pend else { return };
        let lost = (p.refused & !p.granted).count_ones()
            > self.cfg.voters().count_ones() - self.cfg.majority();
        if lost || now.boot > p.sent + self.cfg.timing.claim_timeout() {
            self.fail(p, now);
        }
    }

    /// Rule 6: a lost attempt costs no group held.
    fn fail(&mut self, p: Pending, now: Now) {
        if !p.gains.is_empty() {
            self.event(Event::ClaimFailed {
                groups: p.gains,
                granted: p.granted,
                refused: p.refused,
            });
        }
        if !self.rules.hold(Rule::FailureKeeps) {
            self.give_up(self.sh.run_set.load(), now);
        }
        if self.sh.run_set.load().is_empty() {
            self.bump(now);
        } else {
            // What runs goes on under the version that the voters' kernels know; frozen voters could not learn another.
            // The attempt is withdrawn by asking for the running set under a fresh version.
            self.pend = None;
            if p.gains.is_empty() {
                self.reask = Some(
                    now.boot
                        + self
                            .rng
                            .between(self.cfg.timing.stagger(), 4 * self.cfg.timing.stagger()),
                );
            } else {
                self.ask(self.sh.run_set.load(), Set::EMPTY, true, false, now);
            }
        }
        let stagger = self.cfg.timing.stagger();
        for g in p.gains.iter() {
            let i = g as usize;
            // An owner that sees no reason to move is asked more and more seldom.
            self.attempts[i] = (self.attempts[i] + 1).min(if p.is_move { 8 } else { 4 });
            let wait = (stagger << self.attempts[i]) / 4;
            let jitter = self.rng.between(0, wait.max(stagger));
            self.retry[i] = p
                .refused_until
                .max(now.boot + if p.is_move { stagger / 2 } else { wait / 2 } + jitter / 2);
        }
        self.heartbeat(now);
    }

    /// Looks at every group that is not here, and asks for those that should be.
    fn consider(&mut self, now: Now) {
        let me = self.cfg.me;
        // A withdrawal under way makes room for the next claim, which withdraws as well.
        let busy = self.pend.is_some_and(|p| !p.gains.is_empty());
        if busy || self.cfg.is_witness(me) || !self.may_claim(now) {
            return;
        }
        let running = self.sh.run_set.load();
        let missing = self.groups.minus(running).minus(self.held_back);
        if missing.is_empty() && self.reask.is_none() {
            // The owner of everything, at each heartbeat: nothing to look at.
            return;
        }
        let view = self.view(now.boot);
        self.replan(&view);
        // Without a majority that hears us and votes a claim can only fail.
        let voting = |id: &u8| {
            view.nodes[usize::from(*id) - 1].alive && !view.nodes[usize::from(*id) - 1].waiting
        };
        let reachable = self.cfg.node_ids().filter(voting).count();
        // Once for all of them: asked group by group, 256 groups and 32 nodes are 80,000 words to read.
        let taken = self.blocked(me, missing, now.boot);
        let taken = taken.map_or(Set::EMPTY, |b| b.groups);
        let mut fresh = Set::EMPTY;
        let mut released = Set::EMPTY;
        let mut moves = Set::EMPTY;
        let (mut moves_from, mut moves_alone) = (0, false);
        let mut room = self.room(running);
        for g in missing.iter() {
            let i = g as usize;
            let owner = view.owner[i];
            if owner != 0 {
                self.last_owner[i] = owner;
                if owner != me {
                    self.taken(g);
                }
            }
            let free = !taken.has(g);
            let owner_alive = owner != 0 && self.is_alive(owner, now.boot);
            if !free || owner_alive {
                self.free_since[i] = 0;
            } else if self.free_since[i] == 0 {
                self.free_since[i] = now.boot.max(1);
            }
            let helpless = reachable < self.cfg.majority() as usize || self.leaving;
            let stays = owner_alive && self.plainly_stays(g, owner, &view);
            if owner_alive && self.links.orderly.has(g) {
                // Its owner stops it first, and lets go by itself, if this node would take it.
                let want = !helpless && !stays && self.intended(g, &view).0 == me;
                if want != (self.soft.get(Key::Want(g)) == me) {
                    self.set_soft(Key::Want(g), if want { me } else { 0 }, now);
                }
                continue;
            }
            if helpless || now.boot < self.retry[i] {
                continue;
            }
            if stays {
                self.move_since[i] = 0;
                continue;
            }
            if self.awaits_better(g, &view, now.boot) {
                continue;
            }
            let (target, _, rank) = self.intended(g, &view);
            let Some(rank) = rank else { continue };
            // The plan is of what should be where; several that come here second best at once are not in it.
            let need = u64::from(self.cfg.settings(g).need);
            if need > room {
                continue;
            }
            if owner_alive {
                // One owner at a time, and what failed once alone: who is asked for several gives all or nothing.
                let with = moves.is_empty()
                    || moves_from == owner && !moves_alone && self.attempts[i] == 0;
                let wanted = target == me;
                if !wanted {
                    self.move_since[i] = 0;
                } else if self.move_since[i] == 0 {
                    self.move_since[i] = now.boot.max(1);
                }
                if wanted && with {
                    room -= need;
                    moves = moves.with(g);
                    moves_from = owner;
                    moves_alone = self.attempts[i] != 0;
                }
            } else if free
                && now.boot >= self.free_since[i] + rank as u64 * self.cfg.timing.stagger()
            {
                room -= need;
                // Let go by an owner that lives: voters may hear of that a little later than this node.
                let last = self.last_owner[i];
                if self.links.orderly.has(g)
                    && last != 0
                    && last != me
                    && self.is_alive(last, now.boot)
                {
                    released = released.with(g);
                } else {
                    fresh = fresh.with(g);
                }
            }
        }
        let reask = self.reask.is_some_and(|at| now.boot >= at)
            && !running.is_empty()
            && self.pend.is_none();
        if !fresh.is_empty() || reask {
            self.reask = None;
            self.claim(running.union(fresh), fresh, false, now);
        } else if !released.is_empty() {
            self.claim(running.union(released), released, true, now);
        } else if !moves.is_empty() {
            self.claim(running.union(moves), moves, true, now);
        }
    }

    fn may_claim(&self, now: Now) -> bool {
        self.sh.votes(now.boot) || !self.rules.hold(Rule::FreshWaits)
    }

    fn claim(&mut self, set: Set, gains: Set, is_move: bool, now: Now) {
        let own = self.take(self.cfg.me, set, now);
        if !own && !is_move {
            return;
        }
        self.ask(set, gains, own, is_move, now);
        self.heartbeat(now);
        self.try_adopt(now);
    }

    /// An attempt under a fresh version (rule 3).
    fn ask(&mut self, set: Set, gains: Set, own: bool, is_move: bool, now: Now) {
        let cv = if self.rules.hold(Rule::VersionOnce) {
            self.sh.cv_max.load().max(self.sh.run_cv.load()) + 1
        } else {
            self.sh.run_cv.load() + 1
        };
        self.sh.cv_max.store(self.sh.cv_max.load().max(cv));
        self.pend = Some(Pending {
            cv,
            set,
            gains,
            sent: now.boot,
            granted: 0,
            refused: 0,
            refused_until: 0,
            own,
            is_move,
        });
    }

    pub(crate) fn on_grant(&mut self, m: &Message, now: Now) {
        let inc = self.sh.incarnation.load();
        let foreign =
            m.generation != self.cfg.generation && self.rules.hold(Rule::GenerationsApart);
        let Some(p) = &mut self.pend else { return };
        if m.re_incarnation != inc || m.ask_cv != p.cv || foreign {
            return;
        }
        p.granted |= node_bit(m.from);
        self.try_adopt(now);
    }

    pub(crate) fn on_refuse(&mut self, m: &Message, now: Now) {
        let inc = self.sh.incarnation.load();
        let Some(p) = &mut self.pend else { return };
        if m.re_incarnation != inc || m.ask_cv != p.cv {
            return;
        }
        let until = now.boot + u64::from(m.promise_us) * 1000;
        p.refused_until = if p.refused == 0 {
            until
        } else {
            p.refused_until.min(until)
        };
        p.refused |= node_bit(m.from);
    }

    /// A majority has granted: lease first, gate bits second, then the address and the announcement.
    fn try_adopt(&mut self, now: Now) {
        let Some(p) = self.pend else { return };
        let own = if p.own && self.may_claim(now) {
            node_bit(self.cfg.me)
        } else {
            0
        };
        let votes = (p.granted | own) & self.cfg.voters();
        let enough = votes.count_ones() >= self.cfg.majority() && own != 0;
        if !enough && self.rules.hold(Rule::Majority) {
            return;
        }
        let holds = self.sh.lease().holds(now.boot);
        let before = if holds {
            self.sh.run_set.load()
        } else {
            Set::EMPTY
        };
        let grow = p.set.minus(before);
        // Rule 8: grants that come later would cut the lease of what runs already to a rest.
        if now.boot > p.sent + self.cfg.timing.claim_timeout() {
            return self.fail(p, now);
        }
        let end = p.sent + self.cfg.timing.lease;
        self.pend = None;
        self.sh.run_cv.store(p.cv);
        loop {
            // Rule 8: the majority behind the old set is not the one behind the new.
            let old = self.sh.lease();
            let keep = grow.is_empty() || !self.rules.hold(Rule::GrowthRestarts);
            let end = if keep { end.max(old.expiry_ns()) } else { end };
            if self.sh.lease.cas(old.0, LeaseWord::until(end, p.cv).0) {
                break;
            }
        }
        self.sh.run_set.store(p.set);
        let epoch = stamp(self.sh.epoch_max.load(), now.wall_ms, self.cfg.me);
        if !grow.is_empty() {
            // Also one beyond what is believed of others: the next gain here must be later than this one.
            self.sh.epoch_max.store(self.sh.epoch_max.load().max(epoch));
            for g in grow.iter() {
                self.sh.group_epoch[g as usize].store(epoch);
            }
            self.sh.epoch.store(epoch);
            self.sh.gate.insert(grow);
        }
        // The new version is what voters shall ack from now on.
        self.heartbeat(now);
        for g in grow.iter() {
            self.gained(g, epoch, &p, now);
        }
    }

    fn gained(&mut self, group: u8, epoch: u64, p: &Pending, now: Now) {
        let i = group as usize;
        let from = self.last_owner[i];
        let reason = if p.is_move {
            GainReason::Move
        } else if from == 0 {
            GainReason::Start
        } else {
            GainReason::OwnerLost
        };
        let detected = if p.is_move {
            self.move_since[i]
        } else {
            self.free_since[i]
        };
        let detected = if detected == 0 || detected > p.sent {
            p.sent
        } else {
            detected
        };
        let last_heard = if reason == GainReason::OwnerLost && from != self.cfg.me {
            crate::detector::last_heard(self.sh.peer(from))
        } else {
            0
        };
        let phases = Phases {
            last_heard,
            detected,
            claimed: p.sent,
            agreed: now.boot,
        };
        let gain = Gain {
            group,
            epoch,
            reason,
            from,
            phases,
        };
        self.push(Action::Gain(gain));
        self.event(Event::Gained(gain));
        self.attempts[i] = 0;
        self.retry[i] = 0;
        self.free_since[i] = 0;
        self.move_since[i] = 0;
        self.last_owner[i] = self.cfg.me;
        self.back_again(group, now);
        if self.stuck_at(group) != 0 && self.stuck_at(group) != self.cfg.me {
            // Where it was stuck is silent, or has given it up; from now on it is here.
            self.say_phase(group, Phase::Idle, now);
        }
        self.fulfil(group, now);
    }

    /// What is wished for here and runs here: the wish must not call the group back after a later failure.
    pub(crate) fn fulfil(&mut self, group: u8, now: Now) {
        let wished = self.soft.get(Key::Wish(group)) == self.cfg.me;
        if wished && self.sh.run_set.load().has(group) {
            self.set_soft(Key::Wish(group), 0, now);
        }
    }

    /// A voter cannot stand by what runs here. While the lease holds, a minority's word changes nothing and is asked again.
    pub(crate) fn on_nack(&mut self, m: &Message, now: Now) {
        if m.re_incarnation != self.sh.incarnation.load() || m.cv != self.sh.run_cv.load() {
            return;
        }
        if self.sh.lease().holds(now.boot) {
            if self.reask.is_none() {
                let hb = self.cfg.timing.heartbeat;
                self.reask = Some(now.boot + self.rng.between(hb / 2, 2 * hb));
            }
        } else {
            // Nothing runs without a lease (rule 7), but the version that was refused must not be used again.
            let set = if m.set.is_empty() {
                Set::EMPTY
            } else {
                self.sh.run_set.load().and(m.set)
            };
            self.give_up(set, now);
            self.bump(now);
        }
    }

    /// A planned move: if the asker should have a group of ours, let it go now.
    pub(crate) fn release_for(&mut self, m: &Message, now: Now) {
        // An old message, overtaken by newer ones, is of an asker that may have given up.
        let age = self.sh.peer(m.from).hi_clock.load().saturating_sub(m.clock);
        if m.flags & flags::MOVE == 0
            || self.is_paused()
            || age > self.cfg.timing.claim_timeout() / 2
        {
            return;
        }
        let mine = self.sh.run_set.load().and(m.ask_set);
        if mine.is_empty() {
            return;
        }
        let view = self.view(now.boot);
        self.replan(&view);
        let mut go = Set::EMPTY;
        for g in mine.iter() {
            if !self.links.orderly.has(g) && self.intended(g, &view).0 == m.from {
                go = go.with(g);
            }
        }
        if go != mine {
            // Giving a part would leave it without owner: the ask would still be blocked by the rest.
            return;
        }
        for g in go.iter() {
            let epoch = self.sh.group_epoch[g as usize].load();
            self.event(Event::Released {
                group: g,
                epoch,
                to: m.from,
            });
            self.last_owner[g as usize] = m.from;
        }
        self.give_up(go, now);
    }

    /// When the claimant's half must be called next.
    pub(crate) fn claim_deadline(&self, now: Now) -> u64 {
        let mut at = u64::MAX;
        if let Some(p) = &self.pend {
            at = at.min(p.sent + self.cfg.timing.claim_timeout() + 1);
        }
        for p in self.parked.iter().flatten() {
            let b = self
                .blocked(p.message.from, p.message.ask_set, now.boot)
                .map_or(now.boot, |b| b.until);
            // Whoever yields goes on when another's message changes that, or not at all.
            let b = if b <= now.boot && self.yields(&p.message, now.boot) {
                p.until
            } else {
                b
            };
            at = at.min(p.until.min(b) + 1);
        }
        // As in consider(): what would not be done then must not wake anybody.
        let may = self.may_claim(now) && !self.cfg.is_witness(self.cfg.me);
        if let Some(r) = self.reask
            && may
            && self.pend.is_none()
            && !self.sh.run_set.load().is_empty()
        {
            at = at.min(r);
        }
        let missing = self
            .groups
            .minus(self.sh.run_set.load())
            .minus(self.held_back);
        if missing.is_empty() {
            return at;
        }
        // All nodes: one that was removed may still be promised something (rule 10).
        for id in 1..=MAX_NODES as u8 {
            let p = self.sh.peer(id);
            let word = PromiseWord(p.word.load_ordered());
            if id != self.cfg.me
                && word.stands(now.boot)
                && !held_by(p, true).and(missing).is_empty()
            {
                at = at.min(word.expiry_ns());
            }
        }
        for g in missing.iter() {
            let i = g as usize;
            if self.retry[i] > now.boot {
                at = at.min(self.retry[i]);
            } else if self.free_since[i] != 0 {
                // A lower rank waits its turn; look again at each step.
                let step = self.cfg.timing.stagger();
                let turns = (now.boot - self.free_since[i].min(now.boot)) / step + 1;
                at = at.min(self.free_since[i] + turns * step);
            }
        }
        at.max(now.boot)
    }
}
