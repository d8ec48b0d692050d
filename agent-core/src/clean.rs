//! Whether services of groups that are not a node's own may still run there. Each node says so in every heartbeat
//! (`flags::CLEAN`); a gain says whether its last owner had stopped them. It decides nothing here: the agent starts what
//! must not run twice only where that is certain.

use std::ops::Deref;

use agent_common::{Set, state::Shared, wire::flags};

use crate::{command::CommandError, core::Core, detector};

/// What is known of the services of groups that this node does not own.
#[derive(Debug)]
pub(crate) struct Clean {
    /// Their services may run here: from before this core began, or because the group was lost before they were stopped.
    left: Set,
    /// They may run elsewhere, and this node was the last to own the group.
    unsure: Set,
    /// When the last owner of each group was last heard to own it, boot ns.
    owned_at: Box<[u64; agent_common::MAX_GROUPS]>,
}

impl Clean {
    /// Of a core that begins: all may have been left running.
    pub(crate) fn new(orderly: Set) -> Clean {
        Clean {
            left: orderly,
            unsure: Set::EMPTY,
            owned_at: Box::new([0; agent_common::MAX_GROUPS]),
        }
    }
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// Groups whose services may run here although this node does not own them, or nobody knows where.
    pub fn unclean(&self) -> Set {
        let c = &self.clean;
        c.left.union(c.unsure).minus(self.sh.run_set.load())
    }

    /// By its own word, is nothing of a group running on a node that the node does not own? Who is not heard says nothing.
    pub fn is_clean(&self, id: u8, now: u64) -> bool {
        if id == self.cfg.me {
            return self.unclean().is_empty();
        }
        let said = self.sh.peer(id).seen_flags.load() as u8;
        self.is_alive(id, now) && said & flags::CLEAN != 0
    }

    /// A group is lost here: were its services stopped before?
    pub(crate) fn left_behind(&mut self, group: u8, stopped: bool) {
        if stopped {
            self.clean.left = self.clean.left.without(group);
        } else if self.cfg.settings(group).orderly {
            self.clean.left = self.clean.left.with(group);
        }
    }

    /// Groups that the configuration knows no more are not asked for their settings.
    pub(crate) fn left_by(&mut self, gone: Set) {
        self.clean.left = self.clean.left.union(gone);
    }

    /// Another node is heard to own a group.
    pub(crate) fn owned_by(&mut self, group: u8, owner: u8) {
        self.clean.owned_at[usize::from(group)] = detector::last_heard(self.sh.peer(owner));
    }

    /// Had the last owner of a group stopped it when it let go, and can nobody else have owned it since? A voter grants a
    /// group to one node at a time, and who loses it without letting go keeps it blocked for `takeover`.
    pub(crate) fn was_stopped(&self, group: u8, from: u8, now: u64) -> bool {
        let at = self.clean.owned_at[usize::from(group)];
        from != 0
            && from != self.cfg.me
            && at != 0
            && now < at.saturating_add(self.cfg.timing.takeover)
            && self.is_clean(from, now)
    }

    pub(crate) fn swept(&mut self, group: u8, epoch: u64) -> Result<(), CommandError> {
        if self.sh.group_epoch[usize::from(group)].load() != epoch {
            return Err(CommandError::Stale);
        }
        self.clean.left = self.clean.left.without(group);
        Ok(())
    }

    pub(crate) fn unsure(&mut self, group: u8, on: bool) {
        let c = &mut self.clean;
        c.unsure = if on {
            c.unsure.with(group)
        } else {
            c.unsure.without(group)
        };
    }
}
