//! May this node become Primary, and how? A pure function of what DRBD says here and what the cluster knows.
//!
//! DRBD alone knows neither: cut off, it promotes on both sides (8.4 has no quorum; tried). So:
//!
//! * `UpToDate` only. `Outdated` and `Inconsistent` never; `Consistent` if the cluster knows this replica to be the
//!   newest.
//! * A peer that is not connected may be writing. It must be proven gone, or have stopped while it was in step with us.
//! * A peer that is proven gone is disconnected first, so that nothing waits for its answer: 0.26 s in place of 0.75 s
//!   with a ping-timeout of 0.5 s.
//! * `--force` is never used: it makes any data `UpToDate`.

use super::state::{Connection, Disk, Peer, Replication, ResourceState, Role};

/// What is known of the other nodes that have the resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// Nothing.
    #[default]
    Unknown,
    /// The last owner stopped, demoted and said so.
    Stopped,
    /// None of them can write any more, whatever it believes: fenced, or its watchdog has certainly fired.
    Gone,
}

/// What is known of this node's data beside the others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replica {
    /// Nothing but what DRBD says.
    #[default]
    Unknown,
    /// It has every write that anybody was told is safe: it was the last owner, or in step with it to its end.
    Newest,
    /// The last owner went on writing without it (a mark in force, see [`super::handler::Mark`]).
    Behind,
}

/// What the cluster knows; without it only a connected peer is trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Of the others.
    pub others: Others,
    /// Of this node's data.
    pub replica: Replica,
}

/// Something to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `drbdadm disconnect --force`
    Disconnect,
    /// `drbdadm primary`
    Primary,
    /// `drbdadm connect`
    Connect,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is Primary.
    Already,
    /// These steps.
    Promote(&'static [Step]),
    /// Not now, perhaps soon by itself: ask again. With why.
    Wait(String),
    /// Not before somebody does something. With why, and what.
    Refuse(String),
}

const PLAIN: &[Step] = &[Step::Primary];
const RECONNECT: &[Step] = &[Step::Primary, Step::Connect];
const WITHOUT: &[Step] = &[Step::Disconnect, Step::Primary, Step::Connect];

/// Decides.
#[must_use]
pub fn promote(name: &str, s: &ResourceState, given: Given, dual: bool) -> Decision {
    if s.role == Role::Primary {
        return Decision::Already;
    }
    if s.split_brain {
        return Decision::Refuse(format!(
            "{name}: split brain: both sides were written without the other, and both are kept; choose one with `heartline drbd resolve`"
        ));
    }
    if given.replica == Replica::Behind {
        return Decision::Refuse(format!(
            "{name}: this replica is behind: the last owner went on writing without it; start that node again, or give its writes up with `heartline drbd resolve`"
        ));
    }
    if let Some(not) = disks(name, s, given) {
        return not;
    }
    let mut plan = PLAIN;
    for (id, peer) in &s.peers {
        match beside(name, peer, *id, given, dual) {
            Ok(more) if more.len() > plan.len() => plan = more,
            Ok(_) => {}
            Err(not) => return not,
        }
    }
    Decision::Promote(plan)
}

/// What the local replicas say against it.
fn disks(name: &str, s: &ResourceState, given: Given) -> Option<Decision> {
    if s.volumes.is_empty() {
        return Some(Decision::Wait(format!("{name} has no volume yet")));
    }
    for (number, v) in &s.volumes {
        let what = format!("{name} volume {number}");
        if v.quorum == Some(false) {
            return Some(Decision::Wait(format!("{what}: DRBD has no quorum")));
        }
        match v.disk {
            Disk::UpToDate => {}
            Disk::Consistent
                if given.replica == Replica::Newest && given.others == Others::Gone => {}
            Disk::Consistent => {
                return Some(Decision::Wait(format!(
                    "{what} is Consistent, but whether a peer has newer data is not known: connect the peer, or fence it"
                )));
            }
            Disk::Attaching | Disk::Negotiating => {
                return Some(Decision::Wait(format!("{what} is still {}", v.disk)));
            }
            // Without a disk on purpose: the data is a connected peer's.
            Disk::Diskless if v.client && somebody_has(s, *number) => {}
            Disk::Inconsistent if s.resyncs().iter().any(|r| r.volume == *number && r.to_here) => {
                let percent = s
                    .resyncs()
                    .iter()
                    .find(|r| r.volume == *number)
                    .and_then(|r| r.percent);
                let done = percent.map_or_else(String::new, |p| format!(", {p:.1} % done"));
                return Some(Decision::Wait(format!(
                    "{what} is Inconsistent: resync to here{done}"
                )));
            }
            Disk::Inconsistent => {
                return Some(Decision::Refuse(format!(
                    "{what} is Inconsistent: half a copy; it becomes good by a resync from a peer that has the data"
                )));
            }
            Disk::Outdated => {
                return Some(Decision::Refuse(format!(
                    "{what} is Outdated: a peer has newer data; connect that one (or see `heartline drbd resolve`)"
                )));
            }
            Disk::Diskless | Disk::Detaching | Disk::Failed => {
                return Some(Decision::Refuse(format!(
                    "{what} is {}: see dmesg, then `drbdadm attach {name}`",
                    v.disk
                )));
            }
            Disk::Unknown | Disk::Other => {
                return Some(Decision::Refuse(format!(
                    "{what} is in a state that this version does not know ({})",
                    v.disk
                )));
            }
        }
    }
    None
}

fn somebody_has(s: &ResourceState, volume: u32) -> bool {
    s.peers.values().any(|p| {
        p.connection == Connection::Connected
            && p.volumes
                .get(&volume)
                .is_some_and(|v| v.disk == Disk::UpToDate)
    })
}

/// What one peer adds to the plan, or says against it.
fn beside(
    name: &str,
    peer: &Peer,
    id: u32,
    given: Given,
    dual: bool,
) -> Result<&'static [Step], Decision> {
    let title = peer.title(id);
    let gone = given.others == Others::Gone;
    match peer.connection {
        Connection::Connected if gone => {
            // DRBD has not noticed yet, and would wait for an answer.
            Ok(WITHOUT)
        }
        Connection::Connected => match peer.role {
            Role::Primary if dual => Ok(PLAIN),
            Role::Primary => Err(Decision::Wait(format!("{name}: {title} is Primary"))),
            // A resync from it to here would have made the disk Inconsistent.
            Role::Secondary => Ok(PLAIN),
            Role::Unknown | Role::Other => Err(Decision::Wait(format!(
                "{name}: {title} has not said what it is"
            ))),
        },
        Connection::StandAlone if gone => Ok(RECONNECT),
        Connection::Connecting if gone => Ok(PLAIN),
        Connection::Disconnecting
        | Connection::Unconnected
        | Connection::Timeout
        | Connection::BrokenPipe
        | Connection::NetworkFailure
        | Connection::ProtocolError
        | Connection::TearDown
        | Connection::Other
            if gone =>
        {
            Ok(WITHOUT)
        }
        // It stopped, but was it in step with us? The disk cannot tell: without a fencing policy it stays UpToDate.
        Connection::StandAlone
            if given.others == Others::Stopped && given.replica == Replica::Newest =>
        {
            Ok(RECONNECT)
        }
        Connection::StandAlone => Err(Decision::Refuse(format!(
            "{name}: {title} is StandAlone, after a split brain or `drbdadm disconnect`: see `heartline drbd status`, then `drbdadm connect {name}` or `heartline drbd resolve`"
        ))),
        Connection::Disconnecting
        | Connection::Unconnected
        | Connection::Timeout
        | Connection::BrokenPipe
        | Connection::NetworkFailure
        | Connection::ProtocolError
        | Connection::TearDown
        | Connection::Connecting
        | Connection::Other => {
            if given.others == Others::Stopped && given.replica == Replica::Newest {
                return Ok(PLAIN);
            }
            Err(Decision::Wait(format!(
                "{name}: {title} is not connected ({}), and nothing proves that it does not write",
                peer.connection
            )))
        }
    }
}

/// How good a replica is for a takeover, for placement: a higher one wins over any preference.
///
/// To be told to the other nodes as soft state beside `fit` (a hint, like all soft state: what may be promoted is
/// decided by [`promote`] alone): 0 cannot run at all, [`SCORE_BEST`] has all the data.
#[must_use]
pub fn score(s: Option<&ResourceState>, given: Given) -> u16 {
    let Some(s) = s else { return 0 };
    if s.split_brain || given.replica == Replica::Behind {
        return 0;
    }
    let each = s.volumes.iter().map(|(number, v)| match v.disk {
        Disk::UpToDate => 90,
        Disk::Consistent => 50,
        Disk::Outdated => 20,
        Disk::Inconsistent => 10,
        Disk::Diskless if v.client && somebody_has(s, *number) => 60,
        Disk::Diskless
        | Disk::Attaching
        | Disk::Detaching
        | Disk::Failed
        | Disk::Negotiating
        | Disk::Unknown
        | Disk::Other => 0,
    });
    let disk: u16 = each.min().unwrap_or(0);
    if disk == 0 {
        return 0;
    }
    let in_step = s.peers.values().all(|p| {
        p.connection == Connection::Connected
            && p.volumes
                .values()
                .all(|v| v.replication == Replication::Established || v.replication.is_source())
    });
    disk + if in_step { 9 } else { 0 } + u16::from(given.replica == Replica::Newest)
}

/// The best that [`score`] gives.
pub const SCORE_BEST: u16 = 100;

#[cfg(test)]
mod tests;
