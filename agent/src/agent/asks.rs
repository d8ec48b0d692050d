//! Answering what the control socket asks.

use agent_core::{Command, CommandError};
use std::time::Duration;
use tokio::time::Instant;

use super::{
    backend::Ask,
    prove::{Certain, Gone},
    supervise::{Ending, Supervisor},
};
use crate::control::proto::{Code, Refusal};

/// The promise that a planned restart asks for, ns (or `max_promise`, if that is less).
const RESTART_PROMISE: u64 = 3_000_000_000;

impl Supervisor {
    pub(super) fn ask(&mut self, ask: Ask, ending: &mut Ending) {
        match ask {
            Ask::Status(tell) => {
                let _ = tell.send(self.status());
            }
            Ask::Move(group, node, tell) => {
                let names = self.narrator.names.clone();
                self.command(
                    Command::Move { group, node },
                    Box::new(move |r| {
                        let _ = tell.send(
                            r.map_err(|e| refusal(e, &names.node(node), &names.group(group))),
                        );
                    }),
                );
            }
            Ask::Drain(node, on, tell) => {
                let was =
                    self.rt.snapshot.read().nodes[usize::from(node.wrapping_sub(1)) & 31].drained;
                let names = self.narrator.names.clone();
                self.command(
                    Command::Drain { node, on },
                    Box::new(move |r| {
                        let _ = tell.send(
                            r.map(|()| was != on)
                                .map_err(|e| refusal(e, &names.node(node), "")),
                        );
                    }),
                );
            }
            Ask::Clear(group, stopped_elsewhere, tell) => {
                if stopped_elsewhere {
                    let owner = self.rt.snapshot.read().owner[usize::from(group)];
                    if owner != 0 && owner != self.me {
                        // What waits for this word waits there.
                        let (name, owner) = (
                            self.narrator.names.group(group),
                            self.narrator.names.node(owner),
                        );
                        let text = format!("{name} is with {owner}, not here");
                        let _ = tell.send(Err(Refusal::new(Code::Refused, text)
                            .help("say --stopped-elsewhere on that node")));
                        return;
                    }
                    if self.end_doubt(group) {
                        let how = Gone::said("somebody says that it is stopped on all other nodes");
                        let mut certain = Certain::stopped();
                        certain.gone(&how);
                        self.services.give(group, certain.given);
                        self.review_holds();
                    }
                }
                self.services.clear(group);
                let names = self.narrator.names.clone();
                self.command(
                    Command::Clear { group },
                    Box::new(move |r| {
                        let _ = tell.send(r.map_err(|e| refusal(e, "", &names.group(group))));
                    }),
                );
            }
            Ask::Gone(node, how, tell) => self.confirm_gone(node, &how, tell),
            Ask::Lost(lost, tell) => {
                let _ = tell.send(self.lost_peer(lost));
            }
            Ask::Scores(group, tell) => {
                let _ = tell.send(self.scores(group));
            }
            Ask::NodeDown(node, tell) => {
                let _ = tell.send(self.foresee(node));
            }
            Ask::Pause(on, tell) => {
                let was = self.rt.snapshot.read().paused;
                self.command(
                    Command::Pause(on),
                    Box::new(move |r| {
                        let _ = tell.send(r.map(|()| was != on).map_err(|e| refusal(e, "", "")));
                    }),
                );
            }
            Ask::Restart(tell) => {
                if !matches!(ending, Ending::No) {
                    let _ = tell.send(Err(Refusal::new(
                        Code::NotReady,
                        "the agent is ending already",
                    )));
                    return;
                }
                if let Err(e) = self.may_restart() {
                    let _ = tell.send(Err(e));
                    return;
                }
                *ending = Ending::Pausing(Instant::now() + Duration::from_secs(2), Some(tell));
                self.command(
                    Command::PreparePause {
                        promise: RESTART_PROMISE,
                    },
                    Box::new(|_| {}),
                );
            }
            Ask::Reload(stop, tell) => {
                let _ = tell.send(self.reload(stop));
            }
        }
    }
}

fn refusal(e: CommandError, node: &str, group: &str) -> Refusal {
    let (code, text, help) = match e {
        CommandError::UnknownNode => (
            Code::UnknownNode,
            format!("there is no node {node:?}"),
            None,
        ),
        CommandError::UnknownGroup => (
            Code::UnknownGroup,
            format!("there is no group {group:?}"),
            None,
        ),
        CommandError::Witness => (
            Code::Refused,
            format!("{node} is a witness: it votes and owns nothing"),
            None,
        ),
        CommandError::NotAlive => (
            Code::Refused,
            format!("{node} is not heard, or does not vote yet"),
            Some("see `heartline status`"),
        ),
        CommandError::Drained => (
            Code::Refused,
            format!("{node} is drained or stopping"),
            Some("heartline undrain it first"),
        ),
        CommandError::Unfit => (
            Code::Refused,
            format!("{node} cannot run {group} (no carrier or no gate on its device)"),
            Some("see `heartline explain`"),
        ),
        CommandError::Paused => (
            Code::Refused,
            "the cluster is paused".into(),
            Some("heartline resume"),
        ),
        CommandError::Failed => (
            Code::Refused,
            format!("{group} failed on {node}"),
            Some("heartline clear it first"),
        ),
        CommandError::Stuck => (
            Code::Refused,
            format!("{group} could not be stopped where it is"),
            Some("stop it by hand, then `heartline clear`"),
        ),
        CommandError::Elsewhere => (
            Code::Refused,
            format!(
                "{group} may not be on {node}: no room, or it belongs with or apart from another group"
            ),
            Some("see `heartline explain`"),
        ),
        CommandError::NotOwned => (Code::Refused, format!("{group} does not run here"), None),
        CommandError::Stale => (
            Code::Refused,
            format!("that was about an earlier run of {group}"),
            None,
        ),
    };
    let r = Refusal::new(code, text);
    match help {
        Some(h) => r.help(h),
        None => r,
    }
}
