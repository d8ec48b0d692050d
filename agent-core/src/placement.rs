//! Who should own a group: one pure function of configuration, soft state and health. Who may is the lease's affair alone.
//!
//! Health is a hard gate, preference a soft score. A node is *able* if nothing excludes it; where no node is, those that
//! doubt count as able, and where there are none of them either and the owner is gone, those on which the group failed.
//! Among the able it counts, in this order: how many groups that follow this one could not run there, how many are there
//! that it should be kept from, a wish, staying where it is, groups there (`spread`), and the order of preference.
//!
//! Most groups depend on nothing but nodes and are decided alone ([`Cluster::alone`]). Those that depend on others are decided
//! together, one after the other with the places of those before it known ([`plan`]).

mod judge;
pub mod plan;

use agent_common::{MAX_GROUPS, MAX_NODES};

use crate::{command::Fitness, config::CoreConfig, links::Links};
pub use plan::Plan;

/// How long a node must have been alive to be given groups that are well elsewhere, ns.
pub const SETTLED: u64 = 2_000_000_000;

/// A node as placement sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// A configured member that is not a witness.
    pub member: bool,
    /// A configured member that never owns.
    pub witness: bool,
    /// Heard lately, or this node itself.
    pub alive: bool,
    /// Drained on request.
    pub drained: bool,
    /// About to stop.
    pub leaving: bool,
    /// Still waits under rule 1.
    pub waiting: bool,
    /// Alive for so long, ns.
    pub alive_for: u64,
    /// Groups that it owns now.
    pub load: u16,
}

impl Candidate {
    /// Why the node can own nothing; `None` if it can.
    pub fn excluded(&self) -> Option<Exclusion> {
        if self.witness {
            Some(Exclusion::Witness)
        } else if !self.member {
            Some(Exclusion::NotAMember)
        } else if !self.alive {
            Some(Exclusion::NotAlive)
        } else if self.drained {
            Some(Exclusion::Drained)
        } else if self.leaving {
            Some(Exclusion::Leaving)
        } else if self.waiting {
            Some(Exclusion::Waiting)
        } else {
            None
        }
    }
}

/// Why a node cannot own a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Not configured.
    NotAMember,
    /// It votes and never owns.
    Witness,
    /// The group names its nodes, and this one is not among them.
    NotListed,
    /// Not heard lately.
    NotAlive,
    /// Drained on request.
    Drained,
    /// About to stop.
    Leaving,
    /// Its state is fresh, it waits before it votes (rule 1).
    Waiting,
    /// It said that it cannot run the group.
    Unfit,
    /// It said that it should not run the group as long as another can.
    Doubtful,
    /// The group failed there.
    Failed,
    /// Its capacity does not suffice beside what is there.
    NoRoom,
    /// The group must be with another one, and that is not there.
    Follows,
}

/// Why a node should own a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked for it.
    Wished,
    /// It owns the group, and nothing speaks against it (or there is nothing better).
    Stays,
    /// It owns the group, and the cluster is paused.
    Paused,
    /// The group goes back to the node it prefers.
    FailsBack,
    /// First of those that can.
    Preferred,
    /// It has the fewest groups.
    LeastLoaded,
    /// The group goes with the one that it must be with.
    Follows,
    /// More of the groups that follow this one can run there.
    ForFollowers,
    /// It is not with a group that it should be kept from.
    KeptApart,
    /// It failed there, but there is nowhere else.
    LastResort,
    /// Nobody can own the group.
    #[default]
    Nobody,
    /// It cannot be stopped where it is.
    Stuck,
}

/// How a node does as the place of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// Why it cannot have the group; `None` if it can. What doubts or has failed may still have it where nobody is better.
    pub excluded: Option<Exclusion>,
    /// So many of the groups that follow this one cannot run there.
    pub unable: u8,
    /// So many groups are there that this one (with those that follow it) should be kept from.
    pub apart: u8,
    /// Groups that it owns, or is about to.
    pub load: u16,
    /// Place in the order of preference, from 1; 0: not in it.
    pub preference: u8,
}

impl Score {
    const NONE: Score = Score {
        excluded: Some(Exclusion::NotAMember),
        unable: 0,
        apart: 0,
        load: 0,
        preference: 0,
    };

    /// 0 where nothing is in the way, then what comes after it; `None`: never.
    fn class(&self) -> Option<usize> {
        match self.excluded {
            None => Some(0),
            Some(Exclusion::Doubtful) => Some(1),
            Some(Exclusion::Failed) => Some(2),
            Some(
                Exclusion::NotAMember
                | Exclusion::Witness
                | Exclusion::NotListed
                | Exclusion::NotAlive
                | Exclusion::Drained
                | Exclusion::Leaving
                | Exclusion::Waiting
                | Exclusion::Unfit
                | Exclusion::NoRoom
                | Exclusion::Follows,
            ) => None,
        }
    }

    /// What counts before wishes and staying.
    fn company(&self) -> (u8, u8) {
        (self.unable, self.apart)
    }
}

/// A decision for one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The node that should own it, 0 for none.
    pub target: u8,
    /// Why.
    pub reason: Reason,
    /// All nodes that can own it, best first, ended by 0. The first is the target.
    pub ranked: [u8; MAX_NODES],
    /// How each node does, by id - 1.
    pub scores: [Score; MAX_NODES],
}

impl Decision {
    const NOBODY: Decision = Decision {
        target: 0,
        reason: Reason::Nobody,
        ranked: [0; MAX_NODES],
        scores: [Score::NONE; MAX_NODES],
    };

    /// Place of a node among those that can own the group.
    pub fn rank(&self, id: u8) -> Option<usize> {
        self.ranked
            .iter()
            .take_while(|r| **r != 0)
            .position(|r| *r == id)
    }

    /// How a node does.
    pub fn score(&self, id: u8) -> Score {
        self.scores
            .get(usize::from(id).wrapping_sub(1))
            .copied()
            .unwrap_or(Score::NONE)
    }

    /// Would the group go to this node if somebody asked for it?
    pub fn would_go(&self, id: u8) -> bool {
        let best = self
            .ranked
            .iter()
            .take_while(|r| **r != 0)
            .map(|r| self.score(*r).company())
            .min();
        self.rank(id).is_some() && Some(self.score(id).company()) == best
    }

    /// Everything about one node alone.
    fn only(id: u8, reason: Reason, scores: [Score; MAX_NODES]) -> Decision {
        let mut d = Decision {
            target: id,
            reason,
            scores,
            ..Decision::NOBODY
        };
        d.ranked[0] = id;
        d
    }

    /// The target goes to the front.
    fn target_first(mut self) -> Decision {
        if let Some(at) = self.rank(self.target) {
            self.ranked[..=at].rotate_right(1);
        }
        self
    }
}

/// What nodes and people have said.
pub trait Facts {
    /// What a node says of itself and a group.
    fn fitness(&self, node: u8, group: u8) -> Fitness;
    /// How long it has said that, ns.
    fn fit_for(&self, node: u8, group: u8) -> u64;
    /// Where somebody wants a group; 0: nowhere special.
    fn wish(&self, group: u8) -> u8;
    /// Where a group cannot be stopped; 0: nowhere.
    fn stuck(&self, group: u8) -> u8;
}

/// All that placement looks at.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a, F> {
    /// The configuration.
    pub cfg: &'a CoreConfig,
    /// What follows from it.
    pub links: &'a Links,
    /// By id - 1.
    pub nodes: &'a [Candidate; MAX_NODES],
    /// Who owns each group, 0 for nobody known.
    pub owner: &'a [u8; MAX_GROUPS],
    /// Hands off?
    pub paused: bool,
    /// Soft state.
    pub facts: F,
}

impl<F: Facts> Cluster<'_, F> {
    fn node(&self, id: u8) -> Candidate {
        self.nodes
            .get(usize::from(id).wrapping_sub(1))
            .copied()
            .unwrap_or_default()
    }

    fn owner(&self, group: u8) -> u8 {
        self.owner[usize::from(group)]
    }

    /// Its owner, if that is alive.
    fn living_owner(&self, group: u8) -> Option<u8> {
        let owner = self.owner(group);
        self.node(owner).alive.then_some(owner)
    }

    /// Where it is stuck, if it is to be kept there: once somebody else has it that is no use any more.
    fn stuck(&self, group: u8) -> Option<u8> {
        let at = self.facts.stuck(group);
        let owner = self.owner(group);
        (at != 0 && self.node(at).alive && (owner == at || owner == 0)).then_some(at)
    }

    /// The decision for one group.
    pub fn decide(&self, group: u8) -> Decision {
        if self.links.placed_together.has(group) {
            plan::decide(self, group)
        } else {
            self.alone(group)
        }
    }

    /// The decision for a group that depends on no other.
    pub fn alone(&self, group: u8) -> Decision {
        judge::lead(self, None, group)
    }
}
