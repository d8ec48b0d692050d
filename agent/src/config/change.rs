//! One difference between two configurations, as a sentence and as data.

use std::net::IpAddr;

use serde::Serialize;

use super::types::{Failback, Vip, show_ns};

/// One difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A new group.
    GroupAdded {
        /// Its id.
        id: u8,
        /// Its name.
        name: String,
    },
    /// A group is gone: its owner stops it.
    GroupRemoved {
        /// Its id.
        id: u8,
        /// Its old name.
        name: String,
    },
    /// Same id, other name.
    GroupRenamed {
        /// Its id.
        id: u8,
        /// Old name.
        from: String,
        /// New name.
        to: String,
    },
    /// A new VIP in a group that stays.
    VipAdded {
        /// The group's id.
        id: u8,
        /// The VIP.
        vip: Vip,
    },
    /// A VIP leaves a group that stays.
    VipRemoved {
        /// The group's id.
        id: u8,
        /// The VIP.
        vip: Vip,
    },
    /// Same address, other prefix length or device.
    VipChanged {
        /// The group's id.
        id: u8,
        /// Old.
        from: Vip,
        /// New.
        to: Vip,
    },
    /// Who may own the group, or in which order.
    Prefer {
        /// The group's id.
        id: u8,
        /// Old node ids.
        from: Vec<u8>,
        /// New node ids.
        to: Vec<u8>,
    },
    /// The spread mark.
    Spread {
        /// The group's id.
        id: u8,
        /// New value.
        to: bool,
    },
    /// Whether it goes back by itself.
    Failback {
        /// The group's id.
        id: u8,
        /// New value.
        to: Failback,
    },
    /// A route, rule or target comes or goes; one that changes does both.
    Extra {
        /// The group's id.
        id: u8,
        /// `route`, `rule` or `track`.
        what: &'static str,
        /// What it is.
        item: String,
        /// It comes.
        added: bool,
    },
    /// What stands behind the group.
    Services {
        /// The group's id.
        id: u8,
        /// Resources that its owner stops, because they are no longer there.
        stops: Vec<String>,
    },
    /// How the group depends on others.
    Near {
        /// The group's id.
        id: u8,
    },
    /// Who is told of events.
    Hooks {
        /// How many there are now.
        count: usize,
    },
    /// How nodes are fenced.
    Fences {
        /// How many devices there are now.
        count: usize,
    },
    /// Time between announcements, in nanoseconds.
    AnnounceInterval {
        /// New value.
        to_ns: u64,
    },
    /// The log filter.
    Log {
        /// New value.
        to: String,
    },
    /// A later generation: members, or the group of a VIP, change with it.
    Generation {
        /// Old.
        from: u32,
        /// New.
        to: u32,
    },
    /// A node joins.
    MemberAdded {
        /// Its id.
        id: u8,
        /// Its name.
        name: String,
    },
    /// A node leaves: it hands over first.
    MemberRemoved {
        /// Its id.
        id: u8,
        /// Its name.
        name: String,
    },
    /// A VIP goes from one group to another; both are given up for a moment.
    VipMoved {
        /// The VIP.
        address: IpAddr,
        /// Old group's id.
        from: u8,
        /// New group's id.
        to: u8,
    },
    /// A step of a key rotation.
    Key {
        /// Id of the key that signs now.
        signs: u16,
        /// Id of the other one that is accepted, 0 if there is none.
        accepts: u16,
    },
    /// Cannot be changed while the agent runs.
    Refused {
        /// What.
        what: Refusal,
        /// What differs, and why it is refused.
        why: String,
        /// What to do instead.
        mend: String,
    },
}

/// What a reload refuses to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The cluster's name.
    Cluster,
    /// The generation of the member list.
    Generation,
    /// The members, their roles or links.
    Members,
    /// The heartbeat port.
    Port,
    /// The protocol times.
    Timing,
    /// The data path.
    Datapath,
    /// The key or its file.
    Key,
    /// A VIP that would change its group.
    VipGroup,
    /// The watchdog and its time.
    Watchdog,
}

impl Change {
    /// Whether this one is refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GroupAdded { id, name } => write!(f, "group {name} (id {id}) is new"),
            Self::GroupRemoved { id, name } => write!(
                f,
                "group {name} (id {id}) is removed: its owner gives it up"
            ),
            Self::GroupRenamed { id, from, to } => {
                write!(f, "group {from} (id {id}) is now called {to}")
            }
            Self::VipAdded { id, vip } => write!(f, "group {id}: VIP {vip} is new"),
            Self::VipRemoved { id, vip } => write!(f, "group {id}: VIP {vip} is removed"),
            Self::VipChanged { id, from, to } => write!(f, "group {id}: VIP {from} is now {to}"),
            Self::Prefer { id, from, to } => {
                write!(f, "group {id}: may be owned by nodes {to:?}, was {from:?}")
            }
            Self::Spread { id, to } => write!(f, "group {id}: spread is now {to}"),
            Self::Failback { id, to } => {
                write!(
                    f,
                    "group {id}: failback is now {}",
                    if *to == Failback::Auto {
                        "auto"
                    } else {
                        "manual"
                    }
                )
            }
            Self::Extra {
                id,
                what,
                item,
                added,
            } => {
                let verb = if *added { "new" } else { "removed" };
                write!(f, "group {id}: {what} {item} is {verb}")
            }
            Self::Services { id, stops } if stops.is_empty() => {
                write!(f, "group {id}: services change")
            }
            Self::Services { id, stops } => {
                write!(
                    f,
                    "group {id}: services change; its owner stops {}",
                    stops.join(", ")
                )
            }
            Self::Near { id } => write!(
                f,
                "group {id}: with, apart, after, need or failback_delay change"
            ),
            Self::Hooks { count } => write!(f, "hooks change: {count} from now on"),
            Self::Fences { count } => write!(f, "fence devices change: {count} from now on"),
            Self::AnnounceInterval { to_ns } => {
                write!(f, "announce_interval is now {}", show_ns(*to_ns))
            }
            Self::Generation { from, to } => write!(f, "generation {from} becomes {to}"),
            Self::MemberAdded { id, name } => write!(f, "node {name} (id {id}) joins"),
            Self::MemberRemoved { id, name } => {
                write!(f, "node {name} (id {id}) leaves: it hands over first")
            }
            Self::VipMoved { address, from, to } => {
                write!(f, "VIP {address} goes from group {from} to group {to}")
            }
            Self::Log { to } => write!(f, "log is now {to:?}"),
            Self::Key { signs, accepts: 0 } => {
                write!(f, "key {signs:04x} signs, and no other is accepted")
            }
            Self::Key { signs, accepts } => {
                write!(f, "key {signs:04x} signs, {accepts:04x} is accepted")
            }
            Self::Refused { why, mend, .. } => write!(f, "refused: {why}; {mend}"),
        }
    }
}

pub(super) fn refused(what: Refusal, why: impl Into<String>, mend: &str) -> Change {
    Change::Refused {
        what,
        why: why.into(),
        mend: mend.into(),
    }
}
