//! Who should own a group: one pure function of soft state and health. Who may is the lease's affair alone.

use agent_common::{MAX_NODES, node_bit};

use crate::{
    command::Fitness,
    config::{Failback, GroupConfig},
};

/// A node as placement sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// A configured member that is not a witness.
    pub member: bool,
    /// Heard lately, or this node itself.
    pub alive: bool,
    /// Drained on request.
    pub drained: bool,
    /// About to stop.
    pub leaving: bool,
    /// Still waits under rule 1.
    pub waiting: bool,
    /// What it says of itself and this group.
    pub fitness: Fitness,
    /// Alive for long enough to be given a group back.
    pub settled: bool,
    /// Groups that it owns now.
    pub load: u16,
}

impl Candidate {
    /// Why the node cannot own the group; `None` if it can.
    pub fn excluded(&self) -> Option<Exclusion> {
        if !self.member {
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
            match self.fitness {
                Fitness::Fit => None,
                Fitness::Unfit => Some(Exclusion::Unfit),
                Fitness::Doubtful => Some(Exclusion::Doubtful),
                Fitness::Failed => Some(Exclusion::Failed),
            }
        }
    }
}

/// Why a node cannot own a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Not configured, or a witness.
    NotAMember,
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
}

/// Why a node should own a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked for it.
    Wished,
    /// It owns the group, and nothing speaks against it.
    Stays,
    /// The group goes back to the node it prefers.
    FailsBack,
    /// First of those that can.
    Preferred,
    /// It has the fewest groups.
    LeastLoaded,
    /// Nobody can own the group.
    Nobody,
    /// It cannot be stopped where it is.
    Stuck,
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
}

impl Decision {
    /// Place of a node among those that can own the group.
    pub fn rank(&self, id: u8) -> Option<usize> {
        self.ranked
            .iter()
            .take_while(|r| **r != 0)
            .position(|r| *r == id)
    }
}

/// Decides where a group should be.
///
/// * `owner`: who owns it now, 0 for nobody.
/// * `wish`: who was asked for, 0 for nobody.
/// * `paused`: hands off: whoever owns it keeps it.
/// * `nodes`: by id - 1.
pub fn place(
    group: &GroupConfig,
    owner: u8,
    wish: u8,
    paused: bool,
    nodes: &[Candidate; MAX_NODES],
) -> Decision {
    let mut ranked = [0u8; MAX_NODES];
    let mut n = rank(group, nodes, None, &mut ranked);
    if n == 0 {
        // Where all doubt, nobody is worse than the others: a dead target must not take the service down.
        n = rank(group, nodes, Some(Exclusion::Doubtful), &mut ranked);
    }
    let gone = owner == 0
        || nodes
            .get(usize::from(owner) - 1)
            .is_none_or(|c| !c.alive || c.fitness == Fitness::Unfit);
    if n == 0 && gone {
        // Better tried where it failed than not at all.
        n = rank(group, nodes, Some(Exclusion::Failed), &mut ranked);
    }
    let able = &mut ranked[..n];
    if group.spread {
        // Stable: equal loads keep the order of preference.
        able.sort_by_key(|id| nodes[usize::from(*id) - 1].load);
    }
    let owner_alive = owner != 0 && nodes.get(usize::from(owner) - 1).is_some_and(|c| c.alive);
    let first = able.first().copied().unwrap_or(0);
    let (target, reason) = if paused && owner_alive {
        (owner, Reason::Stays)
    } else if wish != 0 && able.contains(&wish) {
        (wish, Reason::Wished)
    } else if able.contains(&owner) {
        let better = group.failback == Failback::Auto
            && !group.spread
            && first != owner
            && nodes[usize::from(first) - 1].settled;
        if better {
            (first, Reason::FailsBack)
        } else {
            (owner, Reason::Stays)
        }
    } else if first == 0 {
        // A drained owner keeps what nobody else can have.
        if owner_alive {
            (owner, Reason::Stays)
        } else {
            (0, Reason::Nobody)
        }
    } else {
        (
            first,
            if group.spread {
                Reason::LeastLoaded
            } else {
                Reason::Preferred
            },
        )
    };
    if let Some(at) = able.iter().position(|id| *id == target) {
        able[..=at].rotate_right(1);
    }
    Decision {
        target,
        reason,
        ranked,
    }
}

/// Enters those whom nothing but `but` excludes, in order of preference; returns how many.
fn rank(
    group: &GroupConfig,
    nodes: &[Candidate; MAX_NODES],
    but: Option<Exclusion>,
    ranked: &mut [u8; MAX_NODES],
) -> usize {
    let mut n = 0;
    let mut taken = 0u32;
    let named = group.prefer.iter().copied().take_while(|id| *id != 0);
    // A list says who may own the group; without one everybody may, by id.
    let anybody = (1..=MAX_NODES as u8).filter(|_| group.prefer[0] == 0);
    for id in named.chain(anybody) {
        let Some(c) = nodes.get(usize::from(id).wrapping_sub(1)) else {
            continue;
        };
        if taken & node_bit(id) == 0 && c.excluded() == but {
            taken |= node_bit(id);
            ranked[n] = id;
            n += 1;
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> [Candidate; MAX_NODES] {
        let mut n = [Candidate::default(); MAX_NODES];
        for c in n.iter_mut().take(3) {
            *c = Candidate {
                member: true,
                alive: true,
                settled: true,
                ..Candidate::default()
            };
        }
        n
    }

    #[test]
    fn preference_then_id() {
        let d = place(&GroupConfig::preferring(&[2, 3]), 0, 0, false, &three());
        assert_eq!((d.target, d.reason), (2, Reason::Preferred));
        assert_eq!(d.ranked[..3], [2, 3, 0]);
        assert_eq!(d.rank(3), Some(1));
        assert_eq!(d.rank(1), None, "not in the list");
        assert_eq!(
            place(&GroupConfig::default(), 0, 0, false, &three()).ranked[..4],
            [1, 2, 3, 0]
        );
    }

    #[test]
    fn sticky_unless_auto() {
        let mut g = GroupConfig::preferring(&[1, 2, 3]);
        assert_eq!(place(&g, 3, 0, false, &three()).target, 3);
        g.failback = Failback::Auto;
        assert_eq!(place(&g, 3, 0, false, &three()).reason, Reason::FailsBack);
        let mut n = three();
        n[0].settled = false;
        assert_eq!(
            place(&g, 3, 0, false, &n).target,
            3,
            "not before the node has settled"
        );
    }

    #[test]
    fn wishes_drains_and_pause() {
        let g = GroupConfig::preferring(&[1, 2, 3]);
        let mut n = three();
        assert_eq!(place(&g, 1, 3, false, &n).reason, Reason::Wished);
        assert_eq!(place(&g, 1, 3, true, &n).target, 1, "paused");
        n[0].drained = true;
        assert_eq!(place(&g, 1, 0, false, &n).target, 2);
        n[1].fitness = Fitness::Unfit;
        n[2].leaving = true;
        assert_eq!(place(&g, 1, 0, false, &n).target, 1, "nobody else can");
        n[0].alive = false;
        assert_eq!(place(&g, 1, 0, false, &n).reason, Reason::Nobody);
    }

    #[test]
    fn doubt_counts_where_another_has_none() {
        let g = GroupConfig::preferring(&[1, 2, 3]);
        let mut n = three();
        n[0].fitness = Fitness::Doubtful;
        let d = place(&g, 1, 0, false, &n);
        assert_eq!((d.target, d.reason), (2, Reason::Preferred));
        assert_eq!(d.ranked[..3], [2, 3, 0], "who doubts is no candidate");
        n[1].fitness = Fitness::Doubtful;
        n[2].fitness = Fitness::Doubtful;
        let d = place(&g, 3, 0, false, &n);
        assert_eq!((d.target, d.reason), (3, Reason::Stays), "all doubt");
        n[2].alive = false;
        let d = place(&g, 3, 0, false, &n);
        assert_eq!(
            (d.target, d.reason),
            (1, Reason::Preferred),
            "all doubt, the owner is gone"
        );
        n[0].fitness = Fitness::Unfit;
        assert_eq!(
            place(&g, 1, 0, false, &n).target,
            2,
            "doubt is better than no carrier"
        );
        n[1].fitness = Fitness::Unfit;
        n[2].fitness = Fitness::Unfit;
        assert_eq!(place(&g, 0, 0, false, &n).reason, Reason::Nobody);
    }

    #[test]
    fn spread_takes_the_emptiest() {
        let mut g = GroupConfig::preferring(&[1, 2, 3]);
        g.spread = true;
        let mut n = three();
        n[0].load = 2;
        n[1].load = 1;
        n[2].load = 1;
        let d = place(&g, 0, 0, false, &n);
        assert_eq!((d.target, d.reason), (2, Reason::LeastLoaded));
    }
}
