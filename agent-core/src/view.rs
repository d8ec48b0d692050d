//! How the cluster looks from this node: for placement and for people, never for safety.

use std::ops::Deref;

use agent_common::{
    MAX_GROUPS, MAX_NODES, Set,
    state::{PromiseWord, Shared},
    wire::flags,
};

use crate::{
    command::{Fitness, Phase},
    config::CoreConfig,
    core::Core,
    detector::{self, Health},
    links::Links,
    placement::{Candidate, Cluster, Decision, Facts},
    soft::{Key, Soft},
    voter::held_by,
};

/// Nodes and owners as seen from here.
#[derive(Clone, Debug)]
pub struct View {
    /// When, boot ns.
    pub at: u64,
    /// By id - 1.
    pub nodes: [Candidate; MAX_NODES],
    /// Who owns each group, 0 for nobody known.
    pub owner: [u8; MAX_GROUPS],
}

/// What nodes and people have said, as far as known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    soft: &'a Soft,
    fit_since: &'a [[u64; MAX_GROUPS]; MAX_NODES],
    now: u64,
}

impl View {
    pub(crate) fn cluster<'a>(
        &'a self,
        cfg: &'a CoreConfig,
        links: &'a Links,
        said: Said<'a>,
    ) -> Cluster<'a, Said<'a>> {
        Cluster {
            cfg,
            links,
            nodes: &self.nodes,
            owner: &self.owner,
            paused: said.soft.get(Key::Pause) != 0,
            facts: said,
        }
    }
}

impl<'a> Said<'a> {
    pub(crate) fn new(
        soft: &'a Soft,
        fit_since: &'a [[u64; MAX_GROUPS]; MAX_NODES],
        now: u64,
    ) -> Said<'a> {
        Said {
            soft,
            fit_since,
            now,
        }
    }
}

impl Facts for Said<'_> {
    fn fitness(&self, node: u8, group: u8) -> Fitness {
        Fitness::from_u8(self.soft.get(Key::Unfit { node, group }))
    }
    fn fit_for(&self, node: u8, group: u8) -> u64 {
        let i = usize::from(node).wrapping_sub(1);
        let since = self.fit_since.get(i).map_or(0, |of| of[usize::from(group)]);
        self.now.saturating_sub(since)
    }
    fn wish(&self, group: u8) -> u8 {
        self.soft.get(Key::Wish(group))
    }
    fn stuck(&self, group: u8) -> u8 {
        match Phase::of(self.soft.get(Key::Phase(group))) {
            (node, Phase::Stuck) => node,
            _ => 0,
        }
    }
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
            at: now,
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
            witness: self.cfg.nodes[i].is_some_and(|n| n.witness),
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
            alive_for: now.saturating_sub(if me {
                self.started
            } else {
                self.alive_since[i]
            }),
            load: 0,
        }
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

    /// All that placement looks at.
    pub(crate) fn cluster<'a>(&'a self, view: &'a View) -> Cluster<'a, Said<'a>> {
        let said = Said::new(&self.soft, &self.fit_since, view.at);
        view.cluster(&self.cfg, &self.links, said)
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
