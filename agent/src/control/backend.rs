//! What the control server needs from an agent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::proto::{
    Code, Done, ExplainReport, HandlerAnswer, HandlerCall, NodeDown, Pong, Refusal, ReloadReply,
    StatusReport,
};
use super::{drbd, explain};
use agent_services::resource::drbd::{Others, Replica, handler::Marks};

use crate::events::EventLog;

/// An answer under way: `Box::pin(async move { .. })`.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// A node or group that a request named and that is in the config: the server has looked it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Node id (1 to 32) or group id (0 to 255).
    pub id: u8,
    /// Its name.
    pub name: String,
}

/// The agent took a `move` on; the server then watches it happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveAccepted {
    /// When the agent began, CLOCK_BOOTTIME; `took_ns` counts from here.
    pub started_boot_ns: u64,
}

/// What the control server needs from an agent. The real one stands before the real-time thread
/// (commands by its bounded queue, status from its latest snapshot); tests have a fake.
///
/// Contract:
/// - Methods are called from tokio tasks, several at once. They must not block the thread.
/// - Each has 5 s; then the future is dropped and the client gets [`Code::Timeout`]. So a future must be
///   safe to drop at each `await`. A full queue is [`Code::Refused`] or [`Code::NotReady`] at once, not a wait.
/// - Targets exist in the status that the server has just read; a reload may still take them away in between
///   ([`Code::UnknownGroup`], [`Code::UnknownNode`]).
/// - Messages are sentences for people, with the mend in `help`.
pub trait Backend: Send + Sync + 'static {
    /// Who is there. Must answer even while the agent is starting.
    fn ping(&self) -> Pending<'_, Pong>;

    /// Everything about this node. Called every few milliseconds while a client waits for a move: cheap.
    fn status(&self) -> Pending<'_, StatusReport>;

    /// Why a group is where it is. The default derives it from the status.
    fn explain(&self, group: Target) -> Pending<'_, ExplainReport> {
        Box::pin(async move {
            let status = self.status().await?;
            explain::explain(&status, &group.name).ok_or_else(|| {
                Refusal::new(
                    Code::UnknownGroup,
                    format!("there is no group {:?}", group.name),
                )
            })
        })
    }

    /// Begins to move a group. Returns once the core has accepted it, not once it is done.
    /// Must work on every node, not on the owner alone (or refuse and say where to ask).
    fn move_group(&self, group: Target, node: Target) -> Pending<'_, MoveAccepted>;

    /// Takes a node out of use (`true`) or puts it back. Any node may be named.
    fn set_drained(&self, node: Target, drained: bool) -> Pending<'_, Done>;

    /// Forgets that a group failed; with `stopped_elsewhere` also that its last owner said nothing.
    fn clear(&self, group: Target, stopped_elsewhere: bool) -> Pending<'_, Done>;

    /// What would become of the groups without a node.
    fn node_down(&self, node: Target) -> Pending<'_, NodeDown>;

    /// Answers one of DRBD's handlers. The default knows of no proofs and places no marks: it tells a node that another
    /// one owns the group, and denies all else.
    fn drbd_handler(&self, call: HandlerCall) -> Pending<'_, HandlerAnswer> {
        Box::pin(async move {
            let none = Marks::default();
            let known = drbd::Known {
                others: Others::Unknown,
                fenced: false,
                outdated: false,
                replica: Replica::Unknown,
                known: &none,
                standing: &none,
            };
            Ok(drbd::answer(&self.status().await?, &call, &known).0)
        })
    }

    /// A node was fenced, or somebody made sure that it is off.
    fn fenced(&self, node: Target, how: String) -> Pending<'_, Done> {
        Box::pin(async move {
            let _ = how;
            Err(Refusal::new(
                Code::Refused,
                format!("this agent cannot take over after {} was fenced yet", node.name),
            )
            .help("`heartline clear GROUP --stopped-elsewhere` starts a group whose last owner said nothing"))
        })
    }

    /// Hands off (`true`), or on again; for the whole cluster.
    fn set_paused(&self, paused: bool) -> Pending<'_, Done>;

    /// Accepts a planned restart and returns. The agent then ends the server by its `stop` future, waits for
    /// `run` to return (so that the reply is out), and restarts.
    fn restart(&self) -> Pending<'_, Done>;

    /// Reads the configuration again; on [`Code::BadConfig`] and [`Code::Refused`] the old one stays in force. Groups that
    /// run and are in it no more are a reason to refuse it, unless they are to be stopped (`stop`).
    fn reload(&self, stop: bool) -> Pending<'_, ReloadReply>;

    /// The history.
    fn events(&self) -> &Arc<EventLog>;
}
