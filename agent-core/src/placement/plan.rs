//! Groups that depend on each other, decided together: first those without an owner, then the others, by id, each with the
//! places of those before it known.

use agent_common::{MAX_GROUPS, MAX_NODES, Set};

use super::{Candidate, Cluster, Decision, Facts, Reason, judge};
use crate::view::View;

/// How often those that should be kept apart are looked at again.
const SWEEPS: usize = 4;

/// Where each group of [`crate::links::Links::placed_together`] should be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node, 0 for none.
    pub target: [u8; MAX_GROUPS],
    /// Why.
    pub reason: [Reason; MAX_GROUPS],
    /// The place of the node that asks among those that can own the group; `u8::MAX`: none.
    pub rank: [u8; MAX_GROUPS],
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            target: [0; MAX_GROUPS],
            reason: [Reason::Nobody; MAX_GROUPS],
            rank: [u8::MAX; MAX_GROUPS],
        }
    }
}

impl Plan {
    /// The plan, as node `me` needs it.
    pub fn make<F: Facts>(&mut self, c: &Cluster<'_, F>, me: u8) {
        run(c, |group, d| {
            let i = usize::from(group);
            (self.target[i], self.reason[i]) = (d.target, d.reason);
            self.rank[i] = d.rank(me).map_or(u8::MAX, |r| r as u8);
        });
    }
}

/// The newest plan, and what it was made from.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    plan: Plan,
    from: Option<From>,
}

#[derive(Debug)]
struct From {
    at: u64,
    changes: u64,
    nodes: [Candidate; MAX_NODES],
    owner: [u8; MAX_GROUPS],
}

impl Plans {
    /// A plan is made anew at least that often: what only time changes (for how long a node has been well) may wait, ns.
    const LASTS: u64 = 100_000_000;

    /// Would a new one be another? `changes` counts those of soft state.
    pub fn is_old(&self, view: &View, changes: u64) -> bool {
        self.from.as_ref().is_none_or(|f| {
            let same = |(a, b): (&Candidate, &Candidate)| {
                // But for how long it has been alive.
                Candidate { alive_for: 0, ..*a } == Candidate { alive_for: 0, ..*b }
            };
            f.changes != changes
                || view.at.wrapping_sub(f.at) > Self::LASTS
                || f.owner != view.owner
                || !f.nodes.iter().zip(&view.nodes).all(same)
        })
    }

    /// The plan, to be made from these.
    pub fn renew(&mut self, view: &View, changes: u64) -> &mut Plan {
        self.from = Some(From {
            at: view.at,
            changes,
            nodes: view.nodes,
            owner: view.owner,
        });
        &mut self.plan
    }

    /// Is there a plan?
    pub fn are_made(&self) -> bool {
        self.from.is_some()
    }

    /// Settings have changed.
    pub fn forget(&mut self) {
        self.from = None;
    }

    /// Target, reason and rank.
    pub fn of(&self, group: u8) -> (u8, Reason, Option<usize>) {
        let i = usize::from(group);
        let rank = self.plan.rank[i];
        let rank = (rank != u8::MAX).then_some(usize::from(rank));
        (self.plan.target[i], self.plan.reason[i], rank)
    }
}

/// What the plan says of one group, in full.
pub(super) fn decide<F: Facts>(c: &Cluster<'_, F>, group: u8) -> Decision {
    let mut found = Decision::NOBODY;
    run(c, |g, d| {
        if g == group {
            found = *d;
        }
    });
    found
}

/// Tells each decision; what it tells last of a group counts.
fn run<F: Facts>(c: &Cluster<'_, F>, mut tell: impl FnMut(u8, &Decision)) {
    let mut l = Ledger::new(c);
    let groups = c.links.placed_together;
    let roots = || groups.iter().filter(|g| c.links.root(*g) == *g);
    // Those that are nowhere come before those that might be better off elsewhere.
    let homeless = |g: &u8| c.living_owner(*g).is_none();
    for root in roots().filter(homeless) {
        l.place(c, root, &mut tell);
    }
    for root in roots().filter(|g| !homeless(g)) {
        l.place(c, root, &mut tell);
    }
    // Who came first did not know those behind it. Where two are together that should be kept apart, and the second has
    // nowhere to go, the first may have. That may bring it together with a third, so it is looked at again, if not for ever.
    for _ in 0..SWEEPS {
        let before = l.place;
        for root in roots() {
            let at = l.place[usize::from(root)];
            let together = |m: u8| at != 0 && l.conflicts(c, m, at) != 0;
            if c.links.unit(root).any(together) {
                for m in c.links.unit(root) {
                    l.enter(c, m, false);
                }
                l.place(c, root, &mut tell);
            }
        }
        if l.place == before {
            return;
        }
    }
}

/// What a unit takes of a node while its groups are looked at one by one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    staying: u64,
    coming: u64,
}

/// What is known of the others' places.
#[derive(Debug)]
pub(super) struct Ledger {
    known: Set,
    place: [u8; MAX_GROUPS],
    /// By node: what runs there now,
    present: [u64; MAX_NODES],
    /// what is to come there,
    coming: [u64; MAX_NODES],
    /// and what is known to stay or come.
    kept: [u64; MAX_NODES],
    arrivals: [u16; MAX_NODES],
}

impl Ledger {
    fn new<F: Facts>(c: &Cluster<'_, F>) -> Ledger {
        let mut l = Ledger {
            known: Set::EMPTY,
            place: [0; MAX_GROUPS],
            present: [0; MAX_NODES],
            coming: [0; MAX_NODES],
            kept: [0; MAX_NODES],
            arrivals: [0; MAX_NODES],
        };
        for g in c.links.placed_together.iter() {
            if let Some(present) = at(&mut l.present, c.owner(g)) {
                *present += u64::from(c.cfg.settings(g).need);
            }
        }
        l
    }

    /// Decides a unit, with what is known.
    fn place<F: Facts>(
        &mut self,
        c: &Cluster<'_, F>,
        root: u8,
        tell: &mut impl FnMut(u8, &Decision),
    ) {
        let leader = judge::lead(c, Some(self), root);
        self.place[usize::from(root)] = leader.target;
        self.enter(c, root, true);
        tell(root, &leader);
        for m in c.links.unit(root) {
            if m != root {
                let d = judge::follow(c, self, &leader, m);
                self.place[usize::from(m)] = d.target;
                self.enter(c, m, true);
                tell(m, &d);
            }
        }
    }

    /// Enters a group at its place, or takes it out.
    fn enter<F: Facts>(&mut self, c: &Cluster<'_, F>, group: u8, on: bool) {
        let (to, owner) = (self.place[usize::from(group)], c.owner(group));
        let need = u64::from(c.cfg.settings(group).need);
        let change = |sum: &mut u64| {
            *sum = if on {
                *sum + need
            } else {
                sum.saturating_sub(need)
            };
        };
        self.known = if on {
            self.known.with(group)
        } else {
            self.known.without(group)
        };
        at(&mut self.kept, to).map(change);
        if owner != to {
            at(&mut self.coming, to).map(change);
            if let Some(n) = at(&mut self.arrivals, to) {
                *n = if on { *n + 1 } else { n.saturating_sub(1) };
            }
        }
    }

    pub(super) fn coming_groups(&self, id: u8) -> u16 {
        self.arrivals
            .get(usize::from(id).wrapping_sub(1))
            .copied()
            .unwrap_or(0)
    }

    /// Is there room for a group on a node? What comes needs room beside all that is there or coming; what stays only
    /// beside what has been decided before it, so that of a node with too much the last go.
    pub(super) fn room<F: Facts>(&self, c: &Cluster<'_, F>, group: u8, id: u8) -> bool {
        self.room_beside(c, group, id, Taken::default())
    }

    pub(super) fn room_beside<F: Facts>(
        &self,
        c: &Cluster<'_, F>,
        group: u8,
        id: u8,
        taken: Taken,
    ) -> bool {
        let i = usize::from(id).wrapping_sub(1);
        let need = u64::from(c.cfg.settings(group).need);
        let capacity = c
            .cfg
            .nodes
            .get(i)
            .copied()
            .flatten()
            .and_then(|n| n.capacity);
        let (Some(capacity), true) = (capacity, need != 0) else {
            return true;
        };
        let used = if c.owner(group) == id {
            self.kept[i] + taken.staying + taken.coming
        } else {
            self.present[i] + self.coming[i] + taken.coming
        };
        used + need <= u64::from(capacity)
    }

    /// With one group more on a node.
    pub(super) fn taken_by<F: Facts>(
        &self,
        c: &Cluster<'_, F>,
        group: u8,
        id: u8,
        mut taken: Taken,
    ) -> Taken {
        let need = u64::from(c.cfg.settings(group).need);
        if c.owner(group) == id {
            taken.staying += need;
        } else {
            taken.coming += need;
        }
        taken
    }

    /// How many are on a node that a group should be kept from. One whose place is not known yet counts where it is, but
    /// not for a group that stays: it may go.
    pub(super) fn conflicts<F: Facts>(&self, c: &Cluster<'_, F>, group: u8, id: u8) -> u8 {
        let apart = c.links.apart(group);
        if apart.is_empty() {
            return 0;
        }
        let stays = c.owner(c.links.root(group)) == id;
        let there = |h: &u8| {
            if self.known.has(*h) {
                self.place[usize::from(*h)] == id
            } else {
                !stays && c.owner(*h) == id
            }
        };
        apart.iter().filter(there).count() as u8
    }
}

fn at<T>(of: &mut [T; MAX_NODES], id: u8) -> Option<&mut T> {
    of.get_mut(usize::from(id).wrapping_sub(1))
}
