//! Generations: how the list of members changes while the cluster runs (rule 10).
//!
//! A change is *staged* on each node first. When everybody who lives is ready, the first node *enters* the new
//! generation, and the others follow as soon as they hear it: within a round trip, so that leases go on. The staging
//! decides nothing; what keeps two generations apart is who may enter:
//!
//! * from the generation before, which differs by one member at most, when a majority of its voters was heard in it or
//!   later, `max_promise` ago. Every lease of the generations before that one is over then, and none can come again;
//! * or on hearing a node that is in the new generation and votes there: it has shown that already.
//!
//! A node that starts in a generation that it has no record of having entered votes after the second only.

use std::ops::Deref;

use agent_common::{
    MAX_NODES, Set, node_bit,
    rules::Rule,
    state::{PromiseWord, Shared, UNPROVEN},
    wire::{Kind, Message, flags},
};

use crate::{
    action::{Action, Event},
    config::CoreConfig,
    core::{Core, Now},
    detector::{self, Health},
    soft::Key,
};

/// A configuration of a later generation, ready to be entered.
#[derive(Debug)]
pub struct Next {
    /// The configuration.
    pub cfg: CoreConfig,
    /// VIPs that change their group: from, to. Both groups are given up on entering.
    pub moved: Vec<(u8, u8)>,
}

impl Next {
    /// A configuration, and the VIPs that change their group in it.
    pub fn new(cfg: CoreConfig, moved: Vec<(u8, u8)>) -> Next {
        Next { cfg, moved }
    }

    /// Groups whose VIPs change.
    pub fn concerned(&self) -> Set {
        self.moved
            .iter()
            .fold(Set::EMPTY, |s, (from, to)| s.with(*from).with(*to))
    }
}

/// Why a configuration cannot be staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageError {
    /// The generation is not later than the present one.
    NotLater,
    /// More than one member differs.
    Several,
    /// This node is not a member of it.
    NotAMember,
}

/// What a change waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Waits {
    /// Nothing: it is entered now.
    #[default]
    Nothing,
    /// A majority of the present generation's voters must be heard in it; those that were.
    Heard(u32),
    /// Older promises run out at this boot time, ns.
    Settling(u64),
    /// The node lives and has not read the new configuration.
    Ready(u8),
    /// The node lives and is in the new generation with another configuration.
    Differs(u8),
    /// The node is to be removed and still owns these groups.
    HandsOver(u8, Set),
    /// Too few of the new voters are there; these are.
    Majority(u32),
    /// More than one generation was missed: somebody who is in the new one and votes must be heard.
    Proof,
}

/// A change as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The generation to be entered; `None`: no change is staged.
    pub next: Option<u32>,
    /// What that waits for.
    pub waits: Waits,
    /// May this node vote in its present generation at all?
    pub proven: bool,
    /// From when on the present generation may be left, boot ns; `None`: no majority of it was heard yet.
    pub settled_at: Option<u64>,
    /// The newest generation that another node was heard in.
    pub newest: u32,
}

/// The generation in which a node was last heard; 0: never heard.
fn generation_of(seen_config: u64) -> u32 {
    seen_config as u32
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// Takes a configuration of a later generation, to enter it when that may be. Gives back one that had been staged
    /// before, so that the caller may free it where that does no harm.
    ///
    /// # Errors
    /// It can never be entered from here; it is given back, too.
    pub fn stage(
        &mut self,
        next: Box<Next>,
        now: Now,
    ) -> Result<Option<Box<Next>>, (StageError, Box<Next>)> {
        let (mine, theirs) = (self.cfg.generation, next.cfg.generation);
        if theirs <= mine {
            return Err((StageError::NotLater, next));
        }
        if node_bit(self.cfg.me) & next.cfg.voters() == 0 {
            return Err((StageError::NotAMember, next));
        }
        let differ = (self.cfg.voters() ^ next.cfg.voters()).count_ones();
        if theirs == mine + 1 && differ > 1 && self.rules.hold(Rule::OneMember) {
            return Err((StageError::Several, next));
        }
        self.check_lease(now);
        let old = self.next.replace(next);
        self.set_removed(true, now);
        self.heartbeat(now);
        self.advance(now);
        Ok(old)
    }

    /// Takes a staged configuration back.
    pub fn unstage(&mut self, now: Now) -> Option<Box<Next>> {
        self.check_lease(now);
        self.set_removed(false, now);
        let old = self.next.take();
        self.heartbeat(now);
        old
    }

    /// A configuration that entering a generation has replaced, to be freed.
    pub fn take_retired(&mut self) -> Option<Box<Next>> {
        self.retired.take()
    }

    /// The addresses and the gate's map follow the new configuration: groups whose VIPs changed may be asked for again.
    pub fn mapped(&mut self, now: Now) {
        self.held_back = Set::EMPTY;
        self.advance(now);
    }

    /// The generation is left behind, as far as this node is concerned, when older promises have run out.
    pub fn settled(&self, now: u64) -> bool {
        self.proven()
            && self.heard_since != 0
            && now >= self.heard_since + self.cfg.timing.max_promise
    }

    /// Nodes that this one must speak to: members, and those of a staged configuration.
    pub fn audience(&self) -> u32 {
        let next = self.next.as_ref().map_or(0, |n| n.cfg.voters());
        self.cfg.voters() | next
    }

    /// The change under way, for people.
    pub fn progress(&self, now: u64) -> Progress {
        let newest = (1..=MAX_NODES as u8).filter(|id| *id != self.cfg.me);
        Progress {
            next: self.next.as_ref().map(|n| n.cfg.generation),
            waits: self.waits(now),
            proven: self.proven(),
            settled_at: (self.heard_since != 0)
                .then(|| self.heard_since + self.cfg.timing.max_promise),
            newest: newest
                .map(|id| generation_of(self.sh.peer(id).seen_config.load()))
                .max()
                .unwrap_or(0),
        }
    }

    /// Has this node come into its generation as rule 10 demands?
    pub(crate) fn proven(&self) -> bool {
        self.sh.vote_after.load() != UNPROVEN
    }

    /// Begins a wait under rule 1; a node that is not proven waits for the proof, too.
    pub(crate) fn wait_to_vote(&mut self, until: u64) {
        if self.proven() {
            self.sh.vote_after.store(until);
        } else {
            self.vote_after = until;
        }
    }

    /// Would this node do its part in the next generation at once?
    pub(crate) fn ready(&self, now: u64) -> bool {
        match &self.next {
            Some(next) => next.cfg.generation == self.cfg.generation + 1,
            None => !self.proven() && now >= self.vote_after,
        }
    }

    /// A node that will be removed hands over first.
    fn set_removed(&mut self, on: bool, now: Now) {
        let Some(next) = &self.next else { return };
        if next.cfg.generation != self.cfg.generation + 1 {
            return;
        }
        let removed = self.cfg.voters() & !next.cfg.voters();
        for id in 1..=MAX_NODES as u8 {
            if removed & node_bit(id) != 0 && self.soft.get(Key::Drain(id)) != u8::from(on) {
                self.set_soft(Key::Drain(id), u8::from(on), now);
                self.event(Event::Drained { node: id, on });
            }
        }
    }

    /// On each timeout: who was heard where, and whether the next generation may be entered.
    pub(crate) fn check_generation(&mut self, now: Now) {
        if self.heard_since == 0 && self.heard().count_ones() >= self.cfg.majority() {
            self.heard_since = now.boot;
        }
        if self.next.is_some() {
            match self.waits(now.boot) {
                Waits::Nothing => self.enter(now),
                // Somebody may have ended the drain meanwhile.
                Waits::HandsOver(..) => self.set_removed(true, now),
                Waits::Heard(_)
                | Waits::Settling(_)
                | Waits::Ready(_)
                | Waits::Differs(_)
                | Waits::Majority(_)
                | Waits::Proof => {}
            }
        }
        // What a message said may have been lost with its record; the table remembers the sender's last word.
        for id in 1..=MAX_NODES as u8 {
            if id == self.cfg.me || self.next.is_none() && self.proven() {
                continue;
            }
            let p = self.sh.peer(id);
            if detector::health(p, now.boot, &self.cfg.timing) == Health::Alive {
                let (config, f) = (p.seen_config.load(), p.seen_flags.load() as u8);
                self.follow(
                    id,
                    generation_of(config),
                    (config >> 32) as u32,
                    f & flags::WAITING != 0,
                    now,
                );
            }
        }
    }

    /// Somebody who votes in a generation has shown that it may be entered.
    pub(crate) fn follow_message(&mut self, m: &Message, now: Now) {
        if m.kind == Kind::Heartbeat as u8 && (self.next.is_some() || !self.proven()) {
            let waiting = m.flags & flags::WAITING != 0;
            self.follow(m.from, m.generation, m.digest, waiting, now);
        }
    }

    fn follow(&mut self, from: u8, generation: u32, digest: u32, waiting: bool, now: Now) {
        let proof = |cfg: &CoreConfig| {
            !waiting
                && cfg.voters() & node_bit(from) != 0
                && (cfg.generation, cfg.digest) == (generation, digest)
        };
        if self.next.as_ref().is_some_and(|n| proof(&n.cfg)) {
            self.enter(now);
        }
        if !self.proven() && proof(&self.cfg) {
            self.sh.vote_after.store(self.vote_after.max(now.boot));
            self.event(Event::Proven {
                peer: from,
                generation,
            });
        }
    }

    /// Voters of this generation that were heard in it or later, this node among them.
    fn heard(&self) -> u32 {
        self.cfg
            .node_ids()
            .filter(|id| {
                let seen = generation_of(self.sh.peer(*id).seen_config.load());
                *id == self.cfg.me || seen >= self.cfg.generation
            })
            .fold(0, |m, id| m | node_bit(id))
    }

    /// What keeps this node from being the first in the next generation.
    fn waits(&self, now: u64) -> Waits {
        let Some(next) = &self.next else {
            return Waits::Nothing;
        };
        let (mine, theirs) = (self.cfg.generation, next.cfg.generation);
        let jump = theirs != mine + 1 && self.rules.hold(Rule::OneMember);
        if jump || !self.proven() {
            return Waits::Proof;
        }
        if self.heard_since == 0 && self.rules.hold(Rule::LeaveHeard) {
            return Waits::Heard(self.heard());
        }
        let settled = self.heard_since + self.cfg.timing.max_promise;
        if now < settled && self.heard_since != 0 && self.rules.hold(Rule::LeaveWaits) {
            return Waits::Settling(settled);
        }
        // From here on nothing bears safety: it keeps leases going over the change.
        let (present, future) = (self.cfg.voters(), next.cfg.voters());
        let mut ready = node_bit(self.cfg.me);
        for id in 1..=MAX_NODES as u8 {
            let bit = node_bit(id);
            let p = self.sh.peer(id);
            if id == self.cfg.me
                || (present | future) & bit == 0
                || detector::health(p, now, &self.cfg.timing) != Health::Alive
            {
                continue;
            }
            let seen = p.seen_config.load();
            let (generation, digest) = (generation_of(seen), (seen >> 32) as u32);
            let f = p.seen_flags.load() as u8;
            if future & bit == 0 {
                let owns = p.seen_set.load();
                if !owns.is_empty() && generation == mine {
                    return Waits::HandsOver(id, owns);
                }
            } else if generation >= theirs {
                if generation == theirs && digest != next.cfg.digest {
                    return Waits::Differs(id);
                }
                // A new node is ready when its fresh state has waited (rule 1); one that is further on will not come back.
                if f & flags::WAITING == 0 || f & flags::READY != 0 || generation > theirs {
                    ready |= bit;
                }
            } else if f & flags::READY != 0 && generation == mine {
                ready |= bit;
            } else if present & bit != 0 && generation < theirs {
                return Waits::Ready(id);
            }
        }
        if ready.count_ones() < next.cfg.majority() && self.rules.hold(Rule::LeaveHeard) {
            return Waits::Majority(ready);
        }
        Waits::Nothing
    }

    /// Enters the staged generation. Rights are withdrawn first, promises are kept.
    fn enter(&mut self, now: Now) {
        let Some(mut next) = self.next.take() else {
            return;
        };
        let concerned = next.concerned();
        let lost = self.sh.run_set.load().and(concerned);
        self.shut_gates(concerned);
        self.sh.run_set.store(self.sh.run_set.load().minus(lost));
        for group in lost.iter() {
            self.lose(group);
        }
        // A fresh version first: an ack of the old generation that the kernel is just counting finds another lease word,
        // whichever voters and majority it has read.
        self.bump(now);
        if self.rules.hold(Rule::MovedVipWaits) {
            self.keep_moved(&next.moved);
        }
        let gone = self.sh.run_set.load().minus(next.cfg.group_set());
        self.left_by(gone.and(self.links.orderly));
        let from = self.cfg.generation;
        std::mem::swap(&mut self.cfg, &mut next.cfg);
        self.retired = Some(next);
        self.heard_since = 0;
        self.held_back = self.held_back.union(concerned);
        self.groups = self.cfg.group_set();
        self.links.follow(&self.cfg);
        self.plans.forget();
        self.look = true;
        self.sh.digest.store(u64::from(self.cfg.digest));
        self.sh.voters.store(u64::from(self.cfg.voters()));
        self.sh.majority.store(u64::from(self.cfg.majority()));
        self.sh.generation.store(u64::from(self.cfg.generation));
        let to = self.cfg.generation;
        self.push(Action::Entered { generation: to });
        self.event(Event::GenerationEntered { from, to });
        self.give_up(self.sh.run_set.load().minus(self.groups), now);
        // The first word in the new generation lets the others follow.
        self.heartbeat(now);
    }

    /// Whoever was promised a group stands, until that promise ends, for the groups that its VIPs go to as well: it may
    /// still serve them under the old configuration.
    fn keep_moved(&self, moved: &[(u8, u8)]) {
        for p in &self.sh.peers {
            if PromiseWord(p.word.load_ordered()).is_closed() {
                continue;
            }
            for c in &p.claim {
                let held = c.set.load();
                let more = moved
                    .iter()
                    .filter(|(from, _)| held.has(*from))
                    .fold(held, |s, (_, to)| s.with(*to));
                if c.cv.load() != 0 && more != held {
                    c.set.store(more);
                }
            }
        }
    }
}
