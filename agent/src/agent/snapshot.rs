//! What the real-time thread lets others see of the core: a fixed-size copy, published without waiting.

use agent_common::{MAX_GROUPS, MAX_NODES, Set};
use agent_core::{
    Core, Health,
    placement::{Candidate, Reason},
    soft::Key,
};

use crate::datapath::Table;

/// How many classes of lateness are told apart: the last one begins at a second.
pub const LATE_BUCKETS: usize = 21;

/// The class of a delay: 0 is below a microsecond, class i from 2^(i-1) to 2^i microseconds.
pub fn late_bucket(ns: u64) -> usize {
    let us = ns / 1000;
    ((u64::BITS - us.leading_zeros()) as usize).min(LATE_BUCKETS - 1)
}

/// How the core sees the cluster.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken, boot ns.
    pub at: u64,
    /// By id - 1.
    pub nodes: [Candidate; MAX_NODES],
    /// By id - 1.
    pub health: [Health; MAX_NODES],
    /// Who owns each group, 0 for nobody known.
    pub owner: Box<[u8; MAX_GROUPS]>,
    /// Who should own each group, 0 for nobody.
    pub target: Box<[u8; MAX_GROUPS]>,
    /// Why.
    pub reason: Box<[Reason; MAX_GROUPS]>,
    /// Nodes that are unfit for each group.
    pub unfit: Box<[u32; MAX_GROUPS]>,
    /// What runs here.
    pub owned: Set,
    /// Hands off.
    pub paused: bool,
    /// Does the real-time thread have its priority?
    pub realtime: bool,
    /// Largest delay of a timer so far, ns.
    pub late_ns: u64,
    /// How often a timer was how late: see [`late_bucket`].
    pub late: [u64; LATE_BUCKETS],
    /// Rounds of the loop so far.
    pub rounds: u64,
    /// Things lost because a queue was full.
    pub dropped: u64,
    /// Heartbeats that the kernel did not take, per link.
    pub refused: [u64; 8],
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot {
            at: 0,
            nodes: [Candidate::default(); MAX_NODES],
            health: [Health::NeverSeen; MAX_NODES],
            owner: Box::new([0; MAX_GROUPS]),
            target: Box::new([0; MAX_GROUPS]),
            reason: Box::new([Reason::Nobody; MAX_GROUPS]),
            unfit: Box::new([0; MAX_GROUPS]),
            owned: Set::EMPTY,
            paused: false,
            realtime: false,
            late_ns: 0,
            late: [0; LATE_BUCKETS],
            rounds: 0,
            dropped: 0,
            refused: [0; 8],
        }
    }
}

impl Snapshot {
    /// Copies the core's view into this buffer; allocates nothing.
    pub fn fill(&mut self, core: &Core<Table>, now: u64) {
        let view = core.view(now);
        self.at = now;
        self.nodes = view.nodes;
        self.owned = core.owned();
        self.paused = core.is_paused();
        *self.owner = view.owner;
        for id in 1..=MAX_NODES as u8 {
            self.health[usize::from(id) - 1] = core.health_of(id);
        }
        let groups = core.config().group_set();
        for g in groups.iter() {
            let d = core.decision_in(g, &view);
            let i = usize::from(g);
            self.target[i] = d.target;
            self.reason[i] = d.reason;
            self.unfit[i] = core
                .config()
                .node_ids()
                .filter(|id| {
                    core.soft(Key::Unfit {
                        node: *id,
                        group: g,
                    }) != 0
                })
                .fold(0, |m, id| m | agent_common::node_bit(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_fall_into_their_class() {
        let classes = [0, 999, 1_000, 1_999, 2_000, 3_999, 4_000, 1 << 40].map(late_bucket);
        assert_eq!(classes, [0, 0, 1, 1, 2, 2, 3, LATE_BUCKETS - 1]);
    }
}
