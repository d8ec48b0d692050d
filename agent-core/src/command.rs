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
    /// Ask for a long promise, so that the agent can restart; answered by `Action::PauseReady`.
    PreparePause {
        /// The promise, ns.
        promise: u64,
    },
    /// Hand everything over; answered by `Action::Left`.
    Leave,
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
