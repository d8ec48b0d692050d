//! Whether services of groups that are not a node's own may still run there. Each node says so in every heartbeat
//! (`flags::CLEAN`). It decides nothing here: the agent starts what must not run twice only where that is certain.
//!
//! What is heard may be old: a heartbeat that comes late is taken for the newest. So the agent believes only what it hears for a
//! while after a gain, and no gain says of itself that the owner before had stopped (tried: seeds 14 and 147 of the simulator's
//! schedule with services made a lapse look like a release).

use std::ops::Deref;

use agent_common::{Set, state::Shared, wire::flags};

use crate::{command::CommandError, core::Core};

/// What is known of the services of groups that this node does not own.
#[derive(Debug)]
pub(crate) struct Clean {
    /// Their services may run here: from before this core began, or because the group was lost before they were stopped.
    left: Set,
    /// They may run elsewhere, and this node was the last to own the group.
    unsure: Set,
}

impl Clean {
    /// Of a core that begins: all may have been left running.
    pub(crate) fn new(orderly: Set) -> Clean {
        Clean {
            left: orderly,
            unsure: Set::EMPTY,
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
