//! What the core wants done, in the order of [`crate::Core::poll_action`].

use agent_common::{Set, wire::Message};

/// Something to do. The rights themselves are already given or withdrawn in the shared table.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Send to every other node, on every link. `link` is filled in, and the MAC made, by the sender.
    Broadcast(Message),
    /// Send to one node, on every link.
    Send(u8, Message),
    /// The group is ours: address, then announcement.
    Gain(Gain),
    /// The group is not ours any more, the gate is shut: take the address away.
    Lose {
        /// The group.
        group: u8,
        /// Epoch in which it had been gained.
        epoch: u64,
    },
    /// Stop what the group runs, lease and addresses stay; then `Command::Stopped` or `Command::StopFailed`.
    Stop {
        /// The group.
        group: u8,
        /// Epoch of the ownership.
        epoch: u64,
        /// Who is to have it then; 0: nobody, this node leaves.
        to: u8,
    },
    /// The group stays after all: start again what was stopped, stop no more.
    Resume {
        /// The group.
        group: u8,
        /// Epoch of the ownership.
        epoch: u64,
    },
    /// Announce the group's addresses again.
    Announce {
        /// The group.
        group: u8,
    },
    /// A planned pause may begin: the long lease holds until the given boot time.
    PauseReady {
        /// End of the long lease, ns.
        until: u64,
    },
    /// Everything is handed over: the agent may stop.
    Left,
    /// A staged generation has been entered: addresses, gates and links follow, then `Core::mapped`.
    Entered {
        /// It.
        generation: u32,
    },
    /// For people and records.
    Event(Event),
}

/// A group gained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gain {
    /// The group.
    pub group: u8,
    /// The epoch of this ownership.
    pub epoch: u64,
    /// Why.
    pub reason: GainReason,
    /// The owner before, 0 if none was known.
    pub from: u8,
    /// When what happened.
    pub phases: Phases,
}

/// Why a group came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GainReason {
    /// Nobody was known to own it.
    Start,
    /// Its owner fell silent.
    OwnerLost,
    /// On request, or because its owner is drained or leaving.
    Move,
}

/// Boot times of the steps of a takeover, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Phases {
    /// The old owner was last heard; 0 if nobody was known to own the group.
    pub last_heard: u64,
    /// The old owner's promise was seen to be over (a move: the wish was seen).
    pub detected: u64,
    /// The claim left.
    pub claimed: u64,
    /// A majority had granted it; lease and gate were set at once.
    pub agreed: u64,
}

/// Something worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A group was gained.
    Gained(Gain),
    /// A group was given up on purpose.
    Released {
        /// The group.
        group: u8,
        /// Epoch of the ownership that ended.
        epoch: u64,
        /// Who asked for it; 0 if nobody.
        to: u8,
    },
    /// The lease ran out: these groups are lost.
    LeaseLapsed {
        /// The groups.
        groups: Set,
        /// When it had ended, ns.
        ended: u64,
    },
    /// An owner's promise ran out.
    PromiseExpired {
        /// The owner.
        peer: u8,
        /// What it held here.
        groups: Set,
    },
    /// A claim was not granted in time.
    ClaimFailed {
        /// What was asked for.
        groups: Set,
        /// Voters that granted.
        granted: u32,
        /// Voters that refused.
        refused: u32,
    },
    /// A node's health changed.
    NodeHealth {
        /// The node.
        peer: u8,
        /// Its health now.
        health: crate::Health,
    },
    /// A node's digest or generation differs from ours (or no longer does).
    ConfigMismatch {
        /// The node.
        peer: u8,
        /// Its digest.
        digest: u32,
        /// Its generation.
        generation: u32,
        /// Does it match now?
        matches: bool,
    },
    /// A node of another incarnation is known now: it restarted with fresh state.
    NewIncarnation {
        /// The node.
        peer: u8,
    },
    /// The kernel shut gate bits because a later owner was heard (rule 11).
    GateShut {
        /// Who was heard; 0 if the record of it was lost.
        peer: u8,
        /// The groups.
        groups: Set,
    },
    /// Our own id was heard from elsewhere.
    DuplicateId,
    /// No duplicate was heard for long enough: voting again after the wait of rule 1.
    DuplicateGone,
    /// A node's clock went back; it was told.
    PeerRegressed {
        /// The node.
        peer: u8,
    },
    /// An incarnation of a node that another one has replaced is back; it was told.
    PeerReplaced {
        /// The node.
        peer: u8,
    },
    /// Two machines use a node's id: the one that came first is listened to.
    PeerTwice {
        /// The node.
        peer: u8,
    },
    /// A peer says that we went back in time: starting afresh.
    StartedAfresh,
    /// This node votes from now on.
    Voting,
    /// This node has entered a later generation (rule 10).
    GenerationEntered {
        /// The one left.
        from: u32,
        /// The one entered.
        to: u32,
    },
    /// Somebody who votes in this node's generation was heard: this node may vote in it, too.
    Proven {
        /// Who.
        peer: u8,
        /// The generation.
        generation: u32,
    },
    /// A drain flag changed.
    Drained {
        /// The node.
        node: u8,
        /// Drained now?
        on: bool,
    },
    /// The cluster is paused or no longer.
    Paused(bool),
    /// A move was asked for.
    Wished {
        /// The group.
        group: u8,
        /// Where to.
        node: u8,
    },
    /// A group cannot be stopped on its node, or this has been cleared.
    Stuck {
        /// The group.
        group: u8,
        /// Where.
        node: u8,
        /// Stuck now?
        on: bool,
    },
    /// A group's owner wants a replica outdated, as its storage has lost it; answered by
    /// [`Command::Outdated`](crate::Command::Outdated) of the node that is named.
    Outdate {
        /// The group.
        group: u8,
        /// Whose replica, and which question.
        behind: crate::Behind,
    },
    /// A node says that its replica of the group's data is outdated.
    Outdated {
        /// The group.
        group: u8,
        /// Whose replica, and the answer to which question.
        behind: crate::Behind,
    },
    /// Somebody else has cleared what this node remembered of the group's failures.
    Cleared {
        /// The group.
        group: u8,
    },
    /// Somebody else announced a VIP of ours.
    ForeignClaim {
        /// The group.
        group: u8,
        /// The address, IPv4 mapped into IPv6.
        address: [u8; 16],
        /// Who claims it.
        mac: [u8; 6],
    },
}
