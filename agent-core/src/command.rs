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
    /// The group failed here: it is avoided as [`Fitness::Failed`] says, until [`Command::Fit`] here or
    /// [`Command::Clear`] anywhere.
    Fail {
        /// The group.
        group: u8,
    },
    /// What the group's services do here. Taken from the owner, and from who spoke last of the group.
    Phase {
        /// The group.
        group: u8,
        /// What they do.
        phase: Phase,
    },
    /// The answer to `Action::Stop`: nothing of the group runs here any more.
    Stopped {
        /// The group.
        group: u8,
        /// Epoch of the ownership.
        epoch: u64,
    },
    /// Something of the group could not be stopped, whether or not that was asked for here: the group stays with this
    /// node until [`Command::Clear`].
    StopFailed {
        /// The group.
        group: u8,
        /// Epoch of the ownership; it may be one that has just ended, as long as nobody else owns the group.
        epoch: u64,
    },
    /// Nothing of a group's services runs here, although this node does not own it.
    Swept {
        /// The group.
        group: u8,
        /// Of the last ownership here that the agent knows of.
        epoch: u64,
    },
    /// Nobody can say whether the group's services run on another node; said by who owns it, or owned it last.
    Unsure {
        /// The group.
        group: u8,
        /// Is it so?
        on: bool,
    },
    /// The owner's storage has lost a replica of the group's data: it is to be outdated before anything is written
    /// without it. `None`: nothing is asked any more.
    Outdate {
        /// The group.
        group: u8,
        /// The replica.
        behind: Option<Behind>,
    },
    /// The answer to [`Event::Outdate`](crate::Event::Outdate): this node's replica is outdated, and its storage will
    /// remember that.
    Outdated {
        /// The group.
        group: u8,
        /// As asked.
        behind: Behind,
    },
    /// Forget where the group failed, and that it is stuck; on all nodes.
    Clear {
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
    /// The group failed there. Its owner keeps it where no other is better; where its owner is gone it is tried again as the
    /// last resort.
    Failed = 3,
}

impl Fitness {
    /// From a record of soft state. A value of a later version means something that keeps the group away.
    pub const fn from_u8(v: u8) -> Fitness {
        match v {
            0 => Fitness::Fit,
            2 => Fitness::Doubtful,
            3 => Fitness::Failed,
            _ => Fitness::Unfit,
        }
    }
}

/// What a group's services do, by their owner's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing runs.
    #[default]
    Idle = 0,
    /// They are being started.
    Starting = 1,
    /// All of them run.
    Running = 2,
    /// They are being stopped.
    Stopping = 3,
    /// One of them failed, and is tried again.
    Failed = 4,
    /// They wait for another group.
    Blocked = 5,
    /// One of them could not be stopped: the group must not start anywhere else.
    Stuck = 6,
}

impl Phase {
    /// From a record of soft state. A value of a later version is none that anybody waits for.
    pub const fn from_u8(v: u8) -> Phase {
        match v {
            1 => Phase::Starting,
            2 => Phase::Running,
            3 => Phase::Stopping,
            4 => Phase::Failed,
            5 => Phase::Blocked,
            6 => Phase::Stuck,
            _ => Phase::Idle,
        }
    }

    /// As a value of soft state: of these services on a node, 1 to 32.
    pub const fn at(self, node: u8) -> u8 {
        self as u8 | (node.wrapping_sub(1) & 31) << 3
    }

    /// What [`Phase::at`] made: the node, and the phase.
    pub const fn of(value: u8) -> (u8, Phase) {
        ((value >> 3) + 1, Phase::from_u8(value & 7))
    }
}

/// A replica that its group's owner has lost, and a question about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Whose replica: 1 to 32.
    pub node: u8,
    /// Which question, 1 to 7: an answer to another one says nothing.
    pub round: u8,
}

impl Behind {
    /// As a value of soft state, never 0.
    pub const fn to_u8(self) -> u8 {
        let round = match self.round & 7 {
            0 => 1,
            round => round,
        };
        round << 5 | self.node.wrapping_sub(1) & 31
    }

    /// What [`Behind::to_u8`] made; `None`: nothing is asked.
    pub const fn from_u8(v: u8) -> Option<Behind> {
        match v >> 5 {
            0 => None,
            round => Some(Behind {
                node: (v & 31) + 1,
                round,
            }),
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
    /// The group failed on the node; [`Command::Clear`] lets it be tried there again.
    Failed,
    /// A service of the group could not be stopped; [`Command::Clear`] once it is.
    Stuck,
    /// The node is not among those of the group, or has no room for it, or another group keeps it away.
    Elsewhere,
    /// This node does not run the group.
    NotOwned,
    /// The group has been gained anew, or was not to be stopped any more.
    Stale,
}
