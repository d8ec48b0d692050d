//! What the control socket asks, answered by the main task through a bounded queue.

use std::sync::Arc;

use agent_services::resource::drbd::{Others, Replica, handler::Marks, state::Role};
use tokio::sync::{mpsc, oneshot};

use super::outdate::{Lost, LostPeer};
use crate::{
    control::{
        Backend, MoveAccepted, Pending, Target, drbd,
        explain::explain,
        proto::{
            CONTROL_VERSION, Code, Done, ExplainReport, Handler, HandlerAnswer, HandlerCall,
            NodeDown, NodeScore, Pong, Refusal, ReloadReply, StatusReport,
        },
    },
    events::EventLog,
    net::rt::boottime_ns,
};

/// A request to the main task.
pub enum Ask {
    /// Everything about this node.
    Status(oneshot::Sender<StatusReport>),
    /// Move a group to a node.
    Move(u8, u8, oneshot::Sender<Result<(), Refusal>>),
    /// Drain a node, or end it.
    Drain(u8, bool, oneshot::Sender<Result<bool, Refusal>>),
    /// Forget that a group failed; and, if so said, that its last owner may run it still.
    Clear(u8, bool, oneshot::Sender<Result<(), Refusal>>),
    /// What would become of the groups without a node.
    NodeDown(u8, oneshot::Sender<Result<NodeDown, Refusal>>),
    /// What placement finds of each node for a group.
    Scores(u8, oneshot::Sender<Vec<NodeScore>>),
    /// Somebody says that a node is off, and how that was made sure.
    Gone(u8, String, oneshot::Sender<Result<String, Refusal>>),
    /// What is certain about a node that DRBD has lost.
    Lost(Lost, oneshot::Sender<LostPeer>),
    /// Hands off, or on again.
    Pause(bool, oneshot::Sender<Result<bool, Refusal>>),
    /// Planned restart.
    Restart(oneshot::Sender<Result<(), Refusal>>),
    /// Read the configuration again; true: and stop what is in it no more.
    Reload(bool, oneshot::Sender<Result<ReloadReply, Refusal>>),
}

/// Requests that may wait.
pub const ASKS: usize = 64;

/// The agent as the control server sees it.
pub struct AgentBackend {
    /// Towards the main task.
    pub asks: mpsc::Sender<Ask>,
    /// The history.
    pub log: Arc<EventLog>,
    /// This node's name.
    pub node: String,
    /// When the agent began, boot ns.
    pub started_ns: u64,
}

impl AgentBackend {
    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Refusal> {
        let (tell, answer) = oneshot::channel();
        self.asks.try_send(make(tell)).map_err(|_| {
            Refusal::new(Code::NotReady, "the agent has too much to do, or is ending")
                .help("ask again")
        })?;
        answer
            .await
            .map_err(|_| Refusal::new(Code::NotReady, "the agent is ending"))
    }
}

impl Backend for AgentBackend {
    fn ping(&self) -> Pending<'_, Pong> {
        Box::pin(async move {
            Ok(Pong {
                node: self.node.clone(),
                agent_version: env!("CARGO_PKG_VERSION").into(),
                control_version: CONTROL_VERSION,
                wire_version: u32::from(agent_common::wire::VERSION),
                started_boot_ns: self.started_ns,
                pid: std::process::id(),
            })
        })
    }

    fn status(&self) -> Pending<'_, StatusReport> {
        Box::pin(self.ask(Ask::Status))
    }

    fn move_group(&self, group: Target, node: Target) -> Pending<'_, MoveAccepted> {
        Box::pin(async move {
            let started_boot_ns = boottime_ns();
            self.ask(|tell| Ask::Move(group.id, node.id, tell))
                .await??;
            Ok(MoveAccepted { started_boot_ns })
        })
    }

    fn set_drained(&self, node: Target, drained: bool) -> Pending<'_, Done> {
        Box::pin(async move {
            let changed = self
                .ask(|tell| Ask::Drain(node.id, drained, tell))
                .await??;
            let text = match (drained, changed) {
                (true, true) => {
                    format!("{} is drained: its groups move away, none comes", node.name)
                }
                (true, false) => format!("{} was drained already", node.name),
                (false, true) => format!("{} is back in use", node.name),
                (false, false) => format!("{} was not drained", node.name),
            };
            Ok(Done {
                changed,
                text,
                moving: Vec::new(),
            })
        })
    }

    fn clear(&self, group: Target, stopped_elsewhere: bool) -> Pending<'_, Done> {
        Box::pin(async move {
            self.ask(|tell| Ask::Clear(group.id, stopped_elsewhere, tell))
                .await??;
            let what = if stopped_elsewhere {
                "; taken as stopped everywhere else"
            } else {
                ""
            };
            Ok(Done {
                changed: true,
                text: format!(
                    "failures of {} are forgotten on all nodes{what}",
                    group.name
                ),
                moving: Vec::new(),
            })
        })
    }

    fn explain(&self, group: Target) -> Pending<'_, ExplainReport> {
        Box::pin(async move {
            let status = self.status().await?;
            let mut report = explain(&status, &group.name).ok_or_else(|| {
                let text = format!("there is no group {:?}", group.name);
                Refusal::new(Code::UnknownGroup, text)
            })?;
            report.scores = self.ask(|tell| Ask::Scores(group.id, tell)).await?;
            Ok(report)
        })
    }

    fn node_down(&self, node: Target) -> Pending<'_, NodeDown> {
        Box::pin(async move { self.ask(|tell| Ask::NodeDown(node.id, tell)).await? })
    }

    fn drbd_handler(&self, call: HandlerCall) -> Pending<'_, HandlerAnswer> {
        Box::pin(async move {
            let status = self.status().await?;
            let peer = status.nodes.iter().find(|n| n.name == call.peer);
            let group = status.groups.iter().find(|g| g.name == call.group);
            let writes =
                call.handler == Handler::FencePeer && Role::parse(&call.role) == Role::Primary;
            let lost = match (group.map(|g| g.id), peer.map(|n| n.id)) {
                (Some(group), Some(node)) => {
                    let run = call.run;
                    let lost = Lost {
                        group,
                        node,
                        run,
                        writes,
                    };
                    self.ask(|tell| Ask::Lost(lost, tell)).await?
                }
                (_, None) | (None, Some(_)) => LostPeer::default(),
            };
            // Marks that stand wherever a group could be granted are not there yet: a replica is outdated where it is.
            let none = Marks::default();
            let known = drbd::Known {
                others: lost.gone.map_or(Others::Unknown, |_| Others::Gone),
                fenced: lost.gone == Some(true),
                outdated: lost.outdated,
                replica: Replica::Unknown,
                known: &none,
                standing: &none,
            };
            Ok(drbd::answer(&status, &call, &known).0)
        })
    }

    fn fenced(&self, node: Target, how: String) -> Pending<'_, Done> {
        Box::pin(async move {
            let text = self.ask(|tell| Ask::Gone(node.id, how, tell)).await??;
            Ok(Done {
                changed: true,
                text,
                moving: Vec::new(),
            })
        })
    }

    fn set_paused(&self, paused: bool) -> Pending<'_, Done> {
        Box::pin(async move {
            let changed = self.ask(|tell| Ask::Pause(paused, tell)).await??;
            let text = match (paused, changed) {
                (true, true) => {
                    "paused: everything stays where it is; failures are still taken over"
                }
                (true, false) => "it was paused already",
                (false, true) => "resumed",
                (false, false) => "it was not paused",
            };
            Ok(Done {
                changed,
                text: text.into(),
                moving: Vec::new(),
            })
        })
    }

    fn restart(&self) -> Pending<'_, Done> {
        Box::pin(async move {
            self.ask(Ask::Restart).await??;
            Ok(Done {
                changed: true,
                text: "restarting; nothing moves".into(),
                moving: Vec::new(),
            })
        })
    }

    fn reload(&self, stop: bool) -> Pending<'_, ReloadReply> {
        Box::pin(async move { self.ask(|tell| Ask::Reload(stop, tell)).await? })
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.log
    }
}
