//! How the cluster looks from this node: for placement and for people, never for safety.

use std::ops::Deref;

use agent_common::{
    MAX_GROUPS, MAX_NODES, Set,
    state::{PromiseWord, Shared},
    wire::flags,
};

use crate::{
    command::Fitness,
    core::Core,
    detector::{self, Health},
    placement::{Candidate, Decision},
    soft::Key,
    voter::held_by,
};

/// How long a node must have been alive to be given groups back, ns.
const SETTLED: u64 = 2_000_000_000;

/// Nodes and owners as seen from here.
#[derive(Clone, Debug)]
pub struct View {
    /// By id - 1; `fitness` is filled in per group.
    pub nodes: [Candidate; MAX_NODES],
    /// Who owns each group, 0 for nobody known.
    pub owner: [u8; MAX_GROUPS],
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// Is the node this one, or heard lately?
    pub fn is_alive(&self, id: u8, now: u64) -> bool {
        id == self.cfg.me
            || detector::health(self.sh.peer(id), now, &self.cfg.timing) == Health::Alive
    }

    /// The view now.
    pub fn view(&self, now: u64) -> View {
        let mut v = View {
            nodes: [Candidate::default(); MAX_NODES],
            owner: [0; MAX_GROUPS],
        };
        for id in self.cfg.node_ids() {
            v.nodes[id as usize - 1] = self.node(id, now);
        }
        for id in self.cfg.node_ids() {
            let i = id as usize - 1;
            let mut set = self.runs(id, now).and(self.groups);
            v.nodes[i].load = set.len() as u16;
            let epoch = |n: u8| {
                if n == self.cfg.me {
                    self.sh.epoch.load()
                } else {
                    self.sh.peer(n).seen_epoch.load()
                }
            };
            for g in set.iter() {
                let known = v.owner[g as usize];
                if known != 0 && epoch(known) >= epoch(id) {
                    set = set.without(g);
                } else {
                    v.owner[g as usize] = id;
                }
            }
        }
        v
    }

    /// What a node runs, as far as known here: its last heartbeat, or what it is promised.
    fn runs(&self, id: u8, now: u64) -> Set {
        if id == self.cfg.me {
            return self.sh.run_set.load();
        }
        let p = self.sh.peer(id);
        if self.is_alive(id, now) {
            return p.seen_set.load();
        }
        let word = PromiseWord(p.word.load_ordered());
        if word.stands(now) {
            held_by(p, true).and(p.seen_set.load())
        } else {
            Set::EMPTY
        }
    }

    fn node(&self, id: u8, now: u64) -> Candidate {
        let i = id as usize - 1;
        let me = id == self.cfg.me;
        let f = self.sh.peer(id).seen_flags.load() as u8;
        Candidate {
            member: self.cfg.nodes[i].is_some_and(|n| !n.witness),
            alive: self.is_alive(id, now),
            drained: self.soft.get(Key::Drain(id)) != 0,
            leaving: if me {
                self.leaving
            } else {
                f & flags::LEAVING != 0
            },
            waiting: if me {
                !self.sh.votes(now)
            } else {
                // Who is in another generation cannot be granted anything here, nor grant anything.
                let seen = self.sh.peer(id).seen_config.load() as u32;
                f & flags::WAITING != 0 || seen != self.cfg.generation
            },
            fitness: Fitness::Fit,
            settled: now.saturating_sub(if me {
                self.started
            } else {
                self.alive_since[i]
            }) > SETTLED,
            load: 0,
        }
    }

    /// A node as a candidate for one group.
    pub fn candidate(&self, id: u8, group: u8, now: u64) -> Candidate {
        let mut c = if id >= 1 && usize::from(id) <= MAX_NODES {
            self.node(id, now)
        } else {
            Candidate::default()
        };
        c.fitness = self.fitness(id, group);
        c
    }

    /// What a node says of itself and a group.
    pub fn fitness(&self, node: u8, group: u8) -> Fitness {
        Fitness::from_u8(self.soft.get(Key::Unfit { node, group }))
    }

    /// Where a group should be and why, for `explain`.
    pub fn decision(&self, group: u8, now: u64) -> Decision {
        self.decide(group, &self.view(now))
    }

    /// As [`Core::decision`], with a view that is at hand.
    pub fn decision_in(&self, group: u8, view: &View) -> Decision {
        self.decide(group, view)
    }

    /// Who owns a group as far as known here, 0 for nobody.
    pub fn owner_of(&self, group: u8, now: u64) -> u8 {
        self.view(now).owner[group as usize]
    }

    /// The health of a peer at the last look.
    pub fn health_of(&self, id: u8) -> Health {
        self.health
            .get(usize::from(id).wrapping_sub(1))
            .copied()
            .unwrap_or_default()
    }

    /// A record of soft state.
    pub fn soft(&self, key: Key) -> u8 {
        self.soft.get(key)
    }
}
