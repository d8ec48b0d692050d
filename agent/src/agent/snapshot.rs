//! What the real-time thread lets others see of the core: a fixed-size copy, published without waiting.

use agent_common::{MAX_GROUPS, MAX_NODES, Set, node_bit};
use agent_core::{
    Core, Fitness, Health, Phase, Progress,
    placement::{Candidate, Reason},
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
    /// Nodes that should not run it while another can.
    pub doubtful: Box<[u32; MAX_GROUPS]>,
    /// Nodes where it has failed.
    pub failed: Box<[u32; MAX_GROUPS]>,
    /// Whose services each group's are, and what they do, by that node's word.
    pub phases: Box<[(u8, Phase); MAX_GROUPS]>,
    /// What runs here.
    pub owned: Set,
    /// Groups whose services may run here, or nobody knows where, although this node does not own them.
    pub unclean: Set,
    /// Nodes that say that nothing runs there of what they do not own.
    pub clean: u32,
    /// The generation that the core is in.
    pub generation: u32,
    /// A change of generation.
    pub progress: Progress,
    /// The generation may be left, as far as this node is concerned.
    pub settled: bool,
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
    /// A link has no socket: its device or address is not there.
    pub closed: bool,
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
            doubtful: Box::new([0; MAX_GROUPS]),
            failed: Box::new([0; MAX_GROUPS]),
            phases: Box::new([(0, Phase::Idle); MAX_GROUPS]),
            owned: Set::EMPTY,
            unclean: Set::EMPTY,
            clean: 0,
            generation: 0,
            progress: Progress::default(),
            settled: false,
            paused: false,
            realtime: false,
            late_ns: 0,
            late: [0; LATE_BUCKETS],
            rounds: 0,
            dropped: 0,
            refused: [0; 8],
            closed: true,
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
        self.unclean = core.unclean();
        let clean = core
            .config()
            .node_ids()
            .filter(|id| core.is_clean(*id, now));
        self.clean = clean.fold(0, |m, id| m | node_bit(id));
        self.generation = core.config().generation;
        self.progress = core.progress(now);
        self.settled = core.settled(now);
        self.paused = core.is_paused();
        *self.owner = view.owner;
        for id in 1..=MAX_NODES as u8 {
            self.health[usize::from(id) - 1] = core.health_of(id);
        }
        let groups = core.config().group_set();
        for g in groups.iter() {
            let (target, reason, _) = core.intended(g, &view);
            let i = usize::from(g);
            self.target[i] = target;
            self.reason[i] = reason;
            let who = |fitness| {
                core.config()
                    .node_ids()
                    .filter(|id| core.fitness(*id, g) == fitness)
                    .fold(0, |m, id| m | node_bit(id))
            };
            self.unfit[i] = who(Fitness::Unfit);
            self.doubtful[i] = who(Fitness::Doubtful);
            self.failed[i] = who(Fitness::Failed);
            self.phases[i] = core.phase(g);
        }
    }

    /// What a node says of itself and a group.
    pub fn fitness(&self, node: u8, group: u8) -> Fitness {
        let (i, bit) = (usize::from(group), node_bit(node));
        if self.unfit[i] & bit != 0 {
            Fitness::Unfit
        } else if self.doubtful[i] & bit != 0 {
            Fitness::Doubtful
        } else if self.failed[i] & bit != 0 {
            Fitness::Failed
        } else {
            Fitness::Fit
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
