//! What people and the agent's other parts ask of the core.

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move a group to a node.
    Move {
        /// The group.
        group: u8,
        /// The node.
        node: u8,
    },
    /// Let a node own nothing, or again.
    Drain {
        /// The node.
        node: u8,
        /// Drain, or end it.
        on: bool,
    },
    /// Hands off: no placement decisions, everything stays; failures are still taken over.
    Pause(bool),
    /// This node can or cannot run a group (no carrier, no gate on its device).
    Fit {
        /// The group.
        group: u8,
        /// Can it?
        fit: bool,
    },
    /// This node should not run the group while another can; ended by [`Command::Fit`].
    Doubt {
        /// The group.
        group: u8,
    },
    /// Ask for a long promise, so that the agent can restart; answered by `Action::PauseReady`.
    PreparePause {
        /// The promise, ns.
        promise: u64,
    },
    /// Hand everything over; answered by `Action::Left`.
    Leave,
}

/// How well a node can run a group, by its own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fitness {
    /// Nothing speaks against it.
    #[default]
    Fit = 0,
    /// It cannot: no carrier, no gate on its device.
    Unfit = 1,
    /// It could, but something that it should reach does not answer: it runs the group only where all are so.
    Doubtful = 2,
}

impl Fitness {
    /// From a record of soft state. A value of a later version means something that keeps the group away.
    pub const fn from_u8(v: u8) -> Fitness {
        match v {
            0 => Fitness::Fit,
            2 => Fitness::Doubtful,
            _ => Fitness::Unfit,
        }
    }
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No such node.
    UnknownNode,
    /// No such group.
    UnknownGroup,
    /// The node is a witness.
    Witness,
    /// The node is not alive.
    NotAlive,
    /// The node is drained or leaving.
    Drained,
    /// The node said that it cannot run the group.
    Unfit,
    /// The cluster is paused.
    Paused,
}
