//! Names in requests, and the wait for a move.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::control::backend::{Backend, Target};
use crate::control::proto::{Code, MoveReply, Refusal, StatusReport};
use crate::events::{EventKind, Followed};

/// Asks for a move and waits until this node sees it done, at most `wait`; with none the answer is
/// "accepted".
pub(super) async fn move_and_wait(
    backend: &dyn Backend,
    group: &str,
    node: &str,
    wait: Duration,
) -> Result<MoveReply, Refusal> {
    let before = backend.status().await?;
    let (group, node) = (find_group(&before, group)?, find_node(&before, node)?);
    let from = before
        .group(&group.name)
        .and_then(|group| group.owner.clone());
    let mut reply = MoveReply {
        group: group.name.clone(),
        from,
        to: node.name.clone(),
        ..MoveReply::default()
    };
    // Subscribed first, so that no sign of success can be missed.
    let (_, mut follower) = backend.events().follow(None, 0);
    let asked = Instant::now();
    let started = backend
        .move_group(group.clone(), node.clone())
        .await?
        .started_boot_ns;
    let mut failure = None;
    loop {
        let now = backend.status().await?;
        if let Some(seen) = now.group(&group.name)
            && seen.owner.as_deref() == Some(node.name.as_str())
            && (!seen.owned_here || seen.gate_open)
        {
            let elapsed = u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let moved = reply.from.as_deref() != Some(node.name.as_str());
            let since = seen.since_boot_ns.filter(|since| *since >= started);
            reply.done = true;
            reply.took_ns = Some(if moved {
                since.map_or(elapsed, |since| since - started)
            } else {
                0
            });
            reply.epoch = Some(seen.epoch);
            reply.takeover = seen
                .last_takeover
                .clone()
                .filter(|takeover| moved && takeover.epoch == seen.epoch);
            return Ok(reply);
        }
        if asked.elapsed() >= wait {
            break;
        }
        // Nothing tells this node of a takeover elsewhere but heartbeats: look often at first, then less.
        let pause = Duration::from_millis(if asked.elapsed() < Duration::from_millis(100) {
            1
        } else {
            10
        });
        if let Ok(Followed::Event(event)) = timeout(pause, follower.next()).await
            && event.group.as_deref() == Some(group.name.as_str())
        {
            match event.kind {
                EventKind::ClaimFailed => failure = Some(event.text.clone()),
                // Only the owner's agent tells it; others wait in vain.
                EventKind::MoveFailed => {
                    return Err(Refusal::new(Code::Failed, event.text.clone()));
                }
                _ => {}
            }
        }
    }
    if wait.is_zero() {
        return Ok(reply);
    }
    let mut message = format!("{} is not on {} after {wait:?}", group.name, node.name);
    if let Some(failure) = failure {
        message = format!("{message}: {failure}");
    }
    Err(Refusal::new(Code::Timeout, message)
        .help(format!("see `heartline explain {}`", group.name)))
}

pub(super) fn find_group(status: &StatusReport, name: &str) -> Result<Target, Refusal> {
    find(
        Code::UnknownGroup,
        "group",
        name,
        status
            .groups
            .iter()
            .map(|group| (group.id, group.name.as_str())),
    )
}

pub(super) fn find_node(status: &StatusReport, name: &str) -> Result<Target, Refusal> {
    find(
        Code::UnknownNode,
        "node",
        name,
        status
            .nodes
            .iter()
            .map(|node| (node.id, node.name.as_str())),
    )
}

fn find<'a>(
    code: Code,
    what: &str,
    name: &str,
    all: impl Iterator<Item = (u8, &'a str)> + Clone,
) -> Result<Target, Refusal> {
    if let Some((id, name)) = all.clone().find(|(_, known)| *known == name) {
        return Ok(Target {
            id,
            name: name.to_owned(),
        });
    }
    let known = all.map(|(_, known)| known).collect::<Vec<_>>().join(", ");
    let refusal = Refusal::new(
        code,
        format!("there is no {what} {name:?} in the configuration"),
    );
    Err(if known.is_empty() {
        refusal
    } else {
        refusal.help(format!("there is: {known}"))
    })
}
