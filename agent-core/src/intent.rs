//! What this node should have: placement as the claimant asks for it.

use std::ops::Deref;

use agent_common::{Set, state::Shared};

use crate::{
    command::Fitness,
    config::Failback,
    core::Core,
    placement::{Decision, Reason},
    soft::Key,
    view::{Said, View},
};

/// How long a node that has just begun to vote leaves a group that nobody has owned to a preferred one, ns at most.
const COLD_START: u64 = 1_000_000_000;

impl<S: Deref<Target = Shared>> Core<S> {
    /// What this node's capacity has left beside these groups.
    pub(crate) fn room(&self, running: Set) -> u64 {
        let me = self.cfg.nodes[usize::from(self.cfg.me) - 1];
        let Some(capacity) = me.and_then(|n| n.capacity) else {
            return u64::MAX;
        };
        let used = running
            .iter()
            .map(|g| u64::from(self.cfg.settings(g).need))
            .sum();
        u64::from(capacity).saturating_sub(used)
    }

    /// A cluster that comes up: a node that is preferred to this one is there and will vote in a moment. Whoever came up
    /// first by a few milliseconds would keep the group else.
    pub(crate) fn awaits_better(&self, group: u8, view: &View, now: u64) -> bool {
        let grace = COLD_START.min(self.cfg.timing.max_promise / 2);
        if self.last_owner[group as usize] != 0 || now >= self.voting_since + grace {
            return false;
        }
        let prefer = self.cfg.settings(self.links.root(group)).prefer;
        let named = prefer.iter().copied().take_while(|id| *id != 0);
        let anybody = self.cfg.node_ids().filter(|_| prefer[0] == 0);
        // What is spread or kept apart needs all of them.
        let all = self.links.placed_together.has(group);
        named
            .chain(anybody)
            .take_while(|id| all || *id != self.cfg.me)
            .any(|id| {
                let c = view.nodes[usize::from(id.wrapping_sub(1)) & 31];
                c.member && c.alive && c.waiting && !c.drained && !c.leaving
            })
    }

    /// Where a group should be, by this node's view.
    pub(crate) fn decide(&self, group: u8, view: &View) -> Decision {
        self.cluster(view).decide(group)
    }

    /// Does nothing at all speak against a living owner? Most groups, most of the time: placement would say the same, but
    /// looks at all nodes for it.
    pub(crate) fn plainly_stays(&self, group: u8, owner: u8, view: &View) -> bool {
        let of = self.cfg.settings(group);
        let wish = self.soft.get(Key::Wish(group));
        let mut named = of.prefer.iter().take_while(|id| **id != 0);
        !self.links.placed_together.has(group)
            && of.failback == Failback::Manual
            && (wish == 0 || wish == owner)
            && (of.prefer[0] == 0 || named.any(|id| *id == owner))
            && self.fitness(owner, group) == Fitness::Fit
            && view.nodes[usize::from(owner.wrapping_sub(1)) & 31]
                .excluded()
                .is_none()
    }

    /// The plan of the groups that depend on each other is made anew if something has changed that it looks at.
    pub(crate) fn replan(&mut self, view: &View) {
        let changes = self.soft.changes();
        if self.links.placed_together.is_empty() || !self.plans.is_old(view, changes) {
            return;
        }
        let (me, plan) = (self.cfg.me, self.plans.renew(view, changes));
        let said = Said::new(&self.soft, &self.fit_since, view.at);
        plan.make(&view.cluster(&self.cfg, &self.links, said), me);
    }

    /// Target, reason, and the place of this node among those that can own the group, by the newest plan: cheaper than
    /// [`Core::decision_in`] where many groups depend on each other.
    pub fn intended(&self, group: u8, view: &View) -> (u8, Reason, Option<usize>) {
        if self.links.placed_together.has(group) && self.plans.are_made() {
            return self.plans.of(group);
        }
        let d = self.decide(group, view);
        (d.target, d.reason, d.rank(self.cfg.me))
    }
}
