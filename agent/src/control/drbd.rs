//! What DRBD's handlers ask, and what comes of fencing by hand.

use agent_services::resource::drbd::{
    handler::{self, Code as Exit, Marks, Reply, Snapshot},
    rules::{Others, Replica},
    state::{Disk, Role},
};
use serde::{Deserialize, Serialize};

use super::report::{NodeState, StatusReport};

/// Which handler DRBD has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handler {
    /// `fence-peer`
    FencePeer,
    /// `unfence-peer`, on the source of a resync.
    UnfencePeer,
    /// `after-resync-target`
    AfterResyncTarget,
}

/// A handler's question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerCall {
    /// The handler.
    pub handler: Handler,
    /// Name of the group that the resource belongs to, by the configuration.
    pub group: String,
    /// DRBD's resource.
    pub resource: String,
    /// The peer, by its host name.
    pub peer: String,
    /// DRBD's role here, in its own word; empty: not known.
    #[serde(default)]
    pub role: String,
    /// The worst local disk, in DRBD's own word; empty: not known.
    #[serde(default)]
    pub disk: String,
    /// When this run of the handler began, boot clock, ns: what was answered to an earlier one says nothing to it.
    #[serde(default)]
    pub run: u64,
    /// This run has asked before, and was told to ask again.
    #[serde(default)]
    pub repeated: bool,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandlerAnswer {
    /// The exit code for DRBD.
    pub code: u8,
    /// It may be another one in a moment: ask again, if there is time.
    pub again: bool,
    /// Why.
    pub text: String,
}

/// What is proven and known of a group beyond its status.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Of the other nodes.
    pub others: Others,
    /// That proof is a fence agent's.
    pub fenced: bool,
    /// The peer's replica is outdated, by its own DRBD.
    pub outdated: bool,
    /// Of this node's data.
    pub replica: Replica,
    /// Marks that this node knows.
    pub known: &'a Marks,
    /// Marks that stand wherever the group could be granted.
    pub standing: &'a Marks,
}

/// Answers a handler, from this node's view of the cluster. Pure. What is not known is denied.
#[must_use]
pub fn answer(
    status: &StatusReport,
    call: &HandlerCall,
    known: &Known<'_>,
) -> (HandlerAnswer, Option<handler::Mark>) {
    let denied = |text: String| {
        let code = Exit::Denied.number();
        (
            HandlerAnswer {
                code,
                again: false,
                text,
            },
            None,
        )
    };
    let Some(group) = status.groups.iter().find(|g| g.name == call.group) else {
        return denied(format!("there is no group {}", call.group));
    };
    let node = |name: &str| status.nodes.iter().find(|n| n.name == name);
    let peer = node(&call.peer);
    let snapshot = Snapshot {
        me: status.node_id,
        group: group.id,
        // Of an ownership that this node only heard of, the epoch is the owner's word.
        owner: match (&group.owner, group.owned_here) {
            (_, true) => Some((status.node_id, group.epoch)),
            (Some(name), false) => node(name)
                .filter(|n| n.id != status.node_id)
                .map(|n| (n.id, group.epoch)),
            (None, false) => None,
        },
        lease: group.owned_here && status.lease.holds,
        peer: peer.map(|n| n.id),
        // With its agent frozen it may still be writing.
        heard: peer.is_some_and(|n| matches!(n.state, NodeState::Alive | NodeState::Late)),
        others: known.others,
        fenced: known.fenced,
        outdated: known.outdated,
        replica: known.replica,
        role: Role::parse(&call.role),
        disk: Disk::parse(&call.disk),
        known: known.known,
        standing: known.standing,
    };
    match call.handler {
        Handler::FencePeer => match handler::fence_peer(&snapshot) {
            Reply::Now(code, why) => (
                HandlerAnswer {
                    code: code.number(),
                    again: false,
                    text: why,
                },
                None,
            ),
            Reply::Wait(why) => (
                HandlerAnswer {
                    code: Exit::Denied.number(),
                    again: true,
                    text: why,
                },
                None,
            ),
            Reply::Place(mark) => {
                let text = "the peer is neither outdated nor fenced yet".into();
                (
                    HandlerAnswer {
                        code: Exit::Denied.number(),
                        again: true,
                        text,
                    },
                    Some(mark),
                )
            }
        },
        Handler::UnfencePeer | Handler::AfterResyncTarget => {
            let on_target = call.handler == Handler::AfterResyncTarget;
            match handler::unfence_peer(&snapshot, on_target) {
                Some((node, _)) => {
                    let text = format!("node {node}'s replica is good again");
                    (
                        HandlerAnswer {
                            code: 0,
                            again: false,
                            text,
                        },
                        None,
                    )
                }
                None => denied("nothing says that a replica is good again".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::{GroupStatus, NodeStatus};

    fn status(owner: Option<&str>, lease: bool, peer: NodeState) -> StatusReport {
        let node = |name: &str, id, state| NodeStatus {
            name: name.into(),
            id,
            state,
            ..NodeStatus::default()
        };
        let mut status = StatusReport {
            node: "n1".into(),
            node_id: 1,
            nodes: vec![node("n1", 1, NodeState::Me), node("n2", 2, peer)],
            groups: vec![GroupStatus {
                name: "db".into(),
                id: 7,
                owner: owner.map(str::to_owned),
                owned_here: owner == Some("n1"),
                epoch: 50,
                ..GroupStatus::default()
            }],
            ..StatusReport::default()
        };
        status.lease.holds = lease;
        status
    }

    fn call(handler: Handler, peer: &str) -> HandlerCall {
        HandlerCall {
            handler,
            group: "db".into(),
            resource: "r0".into(),
            peer: peer.into(),
            role: "Primary".into(),
            disk: "UpToDate".into(),
            run: 7,
            repeated: false,
        }
    }

    fn known<'a>(known: &'a Marks, standing: &'a Marks) -> Known<'a> {
        Known {
            others: Others::Unknown,
            fenced: false,
            outdated: false,
            replica: Replica::Unknown,
            known,
            standing,
        }
    }

    #[test]
    fn the_owner_is_answered_once_its_mark_stands() {
        let (none, mut placed) = (Marks::default(), Marks::default());
        let s = status(Some("n1"), true, NodeState::Silent);
        let c = call(Handler::FencePeer, "n2");
        let (first, mark) = answer(&s, &c, &known(&none, &none));
        assert_eq!((first.code, first.again), (1, true));
        assert!(placed.place(mark.unwrap()));
        let (then, mark) = answer(&s, &c, &known(&placed, &placed));
        assert_eq!((then.code, then.again, mark), (4, false, None));
        let outdated = Known {
            outdated: true,
            ..known(&none, &none)
        };
        assert_eq!(answer(&s, &c, &outdated).0.code, 4);
        let fenced = Known {
            others: Others::Gone,
            fenced: true,
            ..known(&none, &none)
        };
        assert_eq!(answer(&s, &c, &fenced).0.code, 7);
        let lapsed = status(Some("n1"), false, NodeState::Silent);
        assert_eq!(answer(&lapsed, &c, &known(&placed, &placed)).0.code, 1);
        // A word that DRBD may say one day.
        let strange = HandlerCall {
            disk: "Splendid".into(),
            ..c
        };
        assert_eq!(answer(&s, &strange, &known(&placed, &placed)).0.code, 1);
    }

    #[test]
    fn who_does_not_own_is_denied() {
        let none = Marks::default();
        let c = call(Handler::FencePeer, "n2");
        let code = |s: &StatusReport, c: &HandlerCall| answer(s, c, &known(&none, &none)).0.code;
        assert_eq!(code(&status(None, true, NodeState::Alive), &c), 1);
        assert_eq!(code(&status(Some("n2"), true, NodeState::Alive), &c), 6);
        assert_eq!(code(&status(Some("n2"), true, NodeState::Late), &c), 6);
        assert_eq!(code(&status(Some("n2"), true, NodeState::Silent), &c), 1);
        let s = status(Some("n1"), true, NodeState::Alive);
        assert_eq!(code(&s, &call(Handler::FencePeer, "n9")), 1);
        assert_eq!(code(&s, &call(Handler::FencePeer, "n1")), 1);
        assert_eq!(
            code(
                &s,
                &HandlerCall {
                    group: "x".into(),
                    ..c
                }
            ),
            1
        );
        assert_eq!(code(&s, &call(Handler::UnfencePeer, "n2")), 0);
        assert_eq!(code(&s, &call(Handler::AfterResyncTarget, "n2")), 1);
    }

    #[test]
    fn wire_form() {
        let text = r#"{"handler":"fence_peer","group":"db","resource":"r0","peer":"n2","role":"Primary","disk":"UpToDate","run":7,"repeated":false}"#;
        assert_eq!(
            serde_json::to_string(&call(Handler::FencePeer, "n2")).unwrap(),
            text
        );
        assert_eq!(
            serde_json::from_str::<HandlerCall>(text).unwrap(),
            call(Handler::FencePeer, "n2")
        );
        let answer: HandlerAnswer = serde_json::from_str(r#"{"code":4,"new":1}"#).unwrap();
        assert_eq!(answer.code, 4);
    }
}
