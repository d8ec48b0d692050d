//! What the core must know of the configuration, in fixed-size tables.

use agent_common::{MAX_GROUPS, MAX_NODES, Set, node_bit};

/// The durations of the lease, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: u64,
    /// How long a majority's acks let the owner serve, from sending.
    pub lease: u64,
    /// How long a voter stands by its word, from receiving.
    pub takeover: u64,
    /// The longest promise; also how long fresh state waits (rule 1).
    pub max_promise: u64,
}

impl Timing {
    /// The profile for ordinary LANs. Every 12 ms, as the lease of 40 ms outlives two lost heartbeats then as well as at
    /// 10 ms, which cost a fifth more processor time.
    pub const LAN: Timing = Timing {
        heartbeat: 12_000_000,
        lease: 40_000_000,
        takeover: 50_000_000,
        max_promise: 10_000_000_000,
    };

    /// A claim is given up after this: less than `takeover - lease` (rule 8).
    pub const fn claim_timeout(&self) -> u64 {
        (self.takeover - self.lease) / 5 * 4
    }
    /// How long the next rank waits for the one before it: claims at once block each other.
    pub const fn stagger(&self) -> u64 {
        self.takeover - self.lease
    }
    /// A node is alive if it was heard within this; less than a promise, so that who died is no candidate at its end.
    pub const fn alive(&self) -> u64 {
        self.takeover - self.heartbeat
    }
    /// The lease that goes with a promise of `promise` ns: the same proportion as in ordinary running.
    pub const fn lease_for(&self, promise: u64) -> u64 {
        if promise <= self.takeover {
            self.lease
        } else {
            promise / 100 * (self.lease * 100 / self.takeover)
        }
    }
}

/// A node as the core knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// Votes, but never owns.
    pub witness: bool,
    /// How much it bears: the sum of [`GroupConfig::need`] over its groups. `None`: anything.
    pub capacity: Option<u32>,
}

/// When a group goes back to a preferred node that has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// Never by itself.
    Manual,
    /// Once the node has been well for a while.
    Auto,
}

/// A group as the core knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Ids of the nodes that may own it, best first; ended by 0. Empty: all members, by id.
    pub prefer: [u8; MAX_NODES],
    /// Prefer the node with the fewest groups.
    pub spread: bool,
    /// See [`Failback`].
    pub failback: Failback,
    /// For how long the preferred node must have been alive and fit for [`Failback::Auto`], ns; at least two seconds in any
    /// case.
    pub failback_delay: u64,
    /// It has services that must be stopped before another node may have it: it is released by [`crate::Action::Stop`] and
    /// `Command::Stopped`, never at once.
    pub orderly: bool,
    /// It must be on the node of this group. A chain is followed to its end; a circle or an unknown group counts for nothing.
    pub with: Option<u8>,
    /// It is kept from these groups' nodes as long as another node is fit. Said on either side, it holds for both.
    pub apart: Set,
    /// How much of a node's capacity it takes.
    pub need: u32,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig::NONE
    }
}

impl GroupConfig {
    const NONE: GroupConfig = GroupConfig {
        prefer: [0; MAX_NODES],
        spread: false,
        failback: Failback::Manual,
        failback_delay: 0,
        orderly: false,
        with: None,
        apart: Set::EMPTY,
        need: 0,
    };

    /// A group that prefers these nodes in this order.
    pub fn preferring(ids: &[u8]) -> GroupConfig {
        let mut g = GroupConfig::default();
        for (slot, id) in g.prefer.iter_mut().zip(ids) {
            *slot = *id;
        }
        g
    }
}

/// Everything the core must know. Nodes by id - 1, groups by id.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This node's id.
    pub me: u8,
    /// The members, by id - 1.
    pub nodes: [Option<NodeConfig>; MAX_NODES],
    /// The groups, by id.
    pub groups: Box<[Option<GroupConfig>; MAX_GROUPS]>,
    /// The durations.
    pub timing: Timing,
    /// Hash of the cluster's name.
    pub cluster: u32,
    /// Configuration generation.
    pub generation: u32,
    /// Configuration digest.
    pub digest: u32,
    /// Seed of the retry jitter.
    pub seed: u64,
}

impl CoreConfig {
    /// A configuration without nodes or groups.
    pub fn new(me: u8, timing: Timing) -> CoreConfig {
        CoreConfig {
            me,
            nodes: [None; MAX_NODES],
            groups: Box::new([None; MAX_GROUPS]),
            timing,
            cluster: 1,
            generation: 1,
            digest: 0,
            seed: 0,
        }
    }
    /// The configured groups.
    pub fn group_set(&self) -> Set {
        let mut s = Set::EMPTY;
        for g in 0..=255u8 {
            if self.groups[g as usize].is_some() {
                s = s.with(g);
            }
        }
        s
    }
    /// Ids of all members, rising.
    pub fn node_ids(&self) -> impl Iterator<Item = u8> + '_ {
        (1..=MAX_NODES as u8).filter(|id| self.nodes[*id as usize - 1].is_some())
    }
    /// The members as a mask.
    pub fn voters(&self) -> u32 {
        self.node_ids().fold(0, |m, id| m | node_bit(id))
    }
    /// Votes needed.
    pub fn majority(&self) -> u32 {
        self.voters().count_ones() / 2 + 1
    }
    /// Is the node a witness?
    pub fn is_witness(&self, id: u8) -> bool {
        self.nodes
            .get(usize::from(id).wrapping_sub(1))
            .copied()
            .flatten()
            .is_some_and(|n| n.witness)
    }
    /// A group's settings, or the defaults.
    pub fn settings(&self, g: u8) -> &GroupConfig {
        const NONE: &GroupConfig = &GroupConfig::NONE;
        self.groups[usize::from(g)].as_ref().unwrap_or(NONE)
    }
}
