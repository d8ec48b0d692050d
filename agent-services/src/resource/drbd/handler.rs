//! What to answer DRBD's handlers `fence-peer` and `unfence-peer`: pure functions of what the cluster has agreed on.
//!
//! The kernel calls `fence-peer` when a Primary has lost a peer, and before it promotes without one; with
//! `fencing resource-and-stonith` no write goes on until it has an answer. The answer is an exit code
//! (`enum drbd_fence_peer_exit`; what the kernel does with each: `conn_try_outdate_peer`, drbd_nl.c), tried with
//! 8.4.11.
//!
//! Before writes go on, the peer's replica must be known to be behind wherever it could be promoted. Three ways:
//!
//! * The peer has outdated it itself, as asked over the cluster's own links ([`super::outdate()`]): its metadata says so,
//!   through reboots, until a resync.
//! * The peer was fenced. Under a fencing policy (without one nobody is asked) a replica that was not taken down in
//!   order is attached as `Consistent`, and that is never promoted alone.
//! * The owner's *mark* stands wherever the group could be granted. It ends with the resync, and with the next promotion:
//!   the new Primary's own kernel asks anew about each peer that it lacks. So a stale mark blocks nobody for ever. (The
//!   agent does not spread marks yet.)

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rules::{Others, Replica};
use super::state::{Disk, Role};

/// Marks that a book holds: one for each group and node.
const MOST: usize = 256 * 32;

/// The exit code of a fence-peer handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 1, and all that the kernel does not know: nothing was done. A promotion is refused, writes stay suspended.
    Denied,
    /// 3: the peer's data is inconsistent or worse.
    PeerInconsistent,
    /// 4: the peer's data counts as outdated from now on.
    PeerOutdated,
    /// 5: the peer is down. Helps only who is UpToDate.
    PeerDown,
    /// 6: the peer has better data: this node's is outdated now.
    PeerBetter,
    /// 7: the peer was fenced.
    PeerFenced,
}

impl Code {
    /// The exit code.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Code::Denied => 1,
            Code::PeerInconsistent => 3,
            Code::PeerOutdated => 4,
            Code::PeerDown => 5,
            Code::PeerBetter => 6,
            Code::PeerFenced => 7,
        }
    }
}

/// A replica that the owner went on writing without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The group.
    pub group: u8,
    /// Whose replica is behind.
    pub behind: u8,
    /// Who says so: the owner.
    pub by: u8,
    /// Of its ownership.
    pub epoch: u64,
}

/// All marks that a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    list: Vec<Mark>,
}

impl Marks {
    /// Takes a mark; the one of the latest epoch stays. False if there is no room, and it was not taken.
    #[must_use]
    pub fn place(&mut self, mark: Mark) -> bool {
        if let Some(held) = self
            .list
            .iter_mut()
            .find(|m| (m.group, m.behind) == (mark.group, mark.behind))
        {
            if held.epoch <= mark.epoch {
                *held = mark;
            }
            return true;
        }
        let room = self.list.len() < MOST;
        if room {
            self.list.push(mark);
        }
        room
    }

    /// The replica is good again, as the owner of this epoch says.
    pub fn lift(&mut self, group: u8, behind: u8, epoch: u64) {
        self.list
            .retain(|m| (m.group, m.behind) != (group, behind) || m.epoch > epoch);
    }

    /// A node has promoted the group's resources in this epoch: what was said before is over.
    pub fn promoted(&mut self, group: u8, epoch: u64) {
        self.list.retain(|m| m.group != group || m.epoch >= epoch);
    }

    /// The mark against a node, if there is one.
    #[must_use]
    pub fn against(&self, group: u8, node: u8) -> Option<Mark> {
        let mut all = self.list.iter();
        all.find(|m| (m.group, m.behind) == (group, node)).copied()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.list.iter()
    }
}

/// The group of the resource, as this node sees it at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// This node.
    pub me: u8,
    /// The group of the resource.
    pub group: u8,
    /// Its owner by the lease, and the epoch; `None`: nobody, or not known.
    pub owner: Option<(u8, u64)>,
    /// This node's own lease holds right now.
    pub lease: bool,
    /// The peer that DRBD asks about; `None`: no node of the cluster.
    pub peer: Option<u8>,
    /// The peer was heard within the last moments.
    pub heard: bool,
    /// What is proven about the others.
    pub others: Others,
    /// That proof is a fence agent's.
    pub fenced: bool,
    /// The peer has outdated its replica since it was lost.
    pub outdated: bool,
    /// What is known of this node's data.
    pub replica: Replica,
    /// DRBD's role here.
    pub role: Role,
    /// The worst local replica.
    pub disk: Disk,
    /// Marks that this node knows.
    pub known: &'a Marks,
    /// Marks that stand wherever the group could be granted.
    pub standing: &'a Marks,
}

/// What to do about a question of DRBD's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This is the answer, and why.
    Now(Code, String),
    /// Place this mark where it counts, then ask again.
    Place(Mark),
    /// Not known yet: ask again.
    Wait(String),
}

fn deny(why: &str) -> Reply {
    Reply::Now(Code::Denied, why.into())
}

/// Answers `fence-peer`. What is not known is denied.
#[must_use]
pub fn fence_peer(s: &Snapshot<'_>) -> Reply {
    let Some(peer) = s.peer.filter(|p| *p != s.me) else {
        return deny("the peer is no other node of this cluster");
    };
    if s.known.against(s.group, s.me).is_some() || s.replica == Replica::Behind {
        let why = "the last owner went on writing without this node's replica: it is outdated";
        return Reply::Now(Code::PeerBetter, why.into());
    }
    let epoch = match s.owner {
        Some((owner, epoch)) if owner == s.me && s.lease => epoch,
        Some((owner, _)) if owner == s.me => {
            return deny("this node's lease on the group has run out");
        }
        Some((owner, _)) if owner == peer && s.heard => {
            return Reply::Now(Code::PeerBetter, "the peer owns the group".into());
        }
        Some((owner, _)) if owner == peer => {
            return Reply::Wait("the peer owns the group and is silent".into());
        }
        Some(_) => return deny("another node owns the group"),
        None => return deny("nobody owns the group: only its owner may write"),
    };
    // Before it is promoted, the last owner may still be writing.
    let proven = match s.others {
        Others::Gone => true,
        Others::Stopped => s.replica == Replica::Newest,
        Others::Unknown => false,
    };
    if s.role != Role::Primary && !proven {
        return Reply::Wait("nothing proves that the last owner does not write any more".into());
    }
    let good = match s.disk {
        Disk::UpToDate => true,
        Disk::Consistent => s.replica == Replica::Newest,
        // Of a diskless Primary the data is on the peers alone.
        Disk::Other
        | Disk::Diskless
        | Disk::Attaching
        | Disk::Detaching
        | Disk::Failed
        | Disk::Negotiating
        | Disk::Inconsistent
        | Disk::Outdated
        | Disk::Unknown => false,
    };
    if !good {
        let gone = s.others == Others::Gone;
        let code = if gone { Code::PeerDown } else { Code::Denied };
        return Reply::Now(
            code,
            format!(
                "this node's disk is {}: the peer may have better data",
                s.disk
            ),
        );
    }
    let marked = s
        .standing
        .against(s.group, peer)
        .is_some_and(|m| m.epoch >= epoch);
    let (code, why) = match (s.outdated, s.others, marked) {
        (true, _, _) => (Code::PeerOutdated, "the peer has outdated its replica"),
        (false, Others::Gone, _) if s.fenced => (Code::PeerFenced, "the peer was fenced"),
        (false, _, true) => (Code::PeerOutdated, "the peer's replica is marked as behind"),
        (false, Others::Gone, false) => (Code::PeerDown, "somebody says that the peer is off"),
        (false, Others::Unknown | Others::Stopped, false) => {
            return Reply::Place(Mark {
                group: s.group,
                behind: peer,
                by: s.me,
                epoch,
            });
        }
    };
    Reply::Now(code, why.into())
}

/// What `unfence-peer` (on the source of a resync) or `after-resync-target` (on its target) lifts: the node whose
/// replica is good again, and the epoch. `None`: nothing, as it is not known to be so.
#[must_use]
pub fn unfence_peer(s: &Snapshot<'_>, on_target: bool) -> Option<(u8, u64)> {
    let (owner, epoch) = s.owner?;
    let peer = s.peer.filter(|p| *p != s.me)?;
    if on_target {
        // Only a resync from the owner makes it good.
        return (owner == peer && s.disk == Disk::UpToDate).then_some((s.me, epoch));
    }
    (owner == s.me && s.lease).then_some((peer, epoch))
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "group {}: node {}'s replica is behind, says node {} (epoch {})",
            self.group, self.behind, self.by, self.epoch
        )
    }
}

#[cfg(test)]
mod tests;
