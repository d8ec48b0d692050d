//! Why a group is where it is: sentences derived from a status report.

use super::proto::{
    ExplainReport, GroupStatus, NodeState, NodeStatus, NotThere, Role, StatusReport, TakeoverReason,
};

/// Explains the place of a group; `None` if the report has no such group.
pub fn explain(status: &StatusReport, group: &str) -> Option<ExplainReport> {
    let group = status.group(group)?;
    let mut why = vec![place(status, group)];
    why.extend(arrival(group));
    why.extend(gate(status, group));
    why.extend(intention(status, group));
    if status.paused {
        why.push("The cluster is paused: nothing is moved until `heartline resume`.".to_owned());
    }
    why.push(policy(group));
    let elsewhere = order(status, group)
        .into_iter()
        .filter(|node| group.owner.as_deref() != Some(node.name.as_str()))
        .map(|node| not_there(status, group, node))
        .collect();
    let (owner, desired) = (group.owner.clone(), group.desired.clone());
    Some(ExplainReport {
        group: group.name.clone(),
        owner,
        desired,
        why,
        elsewhere,
        scores: Vec::new(),
    })
}

fn place(status: &StatusReport, group: &GroupStatus) -> String {
    match group.owner.as_deref() {
        Some(owner) if group.owned_here => {
            format!(
                "{} runs on {owner} (this node), epoch {}.",
                group.name, group.epoch
            )
        }
        Some(owner) => format!(
            "{} runs on {owner}, as {} hears it, epoch {}.",
            group.name, status.node, group.epoch
        ),
        None => format!(
            "{} runs nowhere that {} can hear of.",
            group.name, status.node
        ),
    }
}

fn arrival(group: &GroupStatus) -> Option<String> {
    let takeover = group.last_takeover.as_ref().filter(|_| group.owned_here)?;
    let from = takeover.from.as_deref();
    Some(match (takeover.reason, from) {
        (TakeoverReason::Start, _) => "It came here because nobody owned it.".to_owned(),
        (TakeoverReason::OwnerLost, Some(from)) => {
            format!("It came here because {from} fell silent.")
        }
        (TakeoverReason::OwnerLost, None) => {
            "It came here because its owner fell silent.".to_owned()
        }
        (TakeoverReason::Move, Some(from)) => format!("It was moved here from {from}."),
        (TakeoverReason::Move, None) => "It was moved here.".to_owned(),
        (TakeoverReason::Restart, _) => "It stayed here over a restart of the agent.".to_owned(),
        (TakeoverReason::Unknown, _) => return None,
    })
}

fn gate(status: &StatusReport, group: &GroupStatus) -> Option<String> {
    if group.owned_here && !group.gate_open {
        Some("Its gate is shut here: its addresses do not answer.".to_owned())
    } else if group.owned_here && !status.lease.holds {
        Some("This node's lease does not hold: the kernel lets nothing pass until a majority answers again.".to_owned())
    } else if group.owner.is_none() && !has_quorum(status) {
        let quorum = &status.quorum;
        Some(format!(
            "No majority is in reach ({} of {} voters answer, {} are needed), so this node may not take it.",
            quorum.reachable, quorum.voters, quorum.needed
        ))
    } else if group.owner.is_none() && !status.voting.active {
        Some(match status.voting.waits_ms {
            Some(ms) => format!(
                "This node does not vote yet: it waits {:.1} s more until every promise that it may have forgotten has run out.",
                std::time::Duration::from_millis(ms).as_secs_f64()
            ),
            None => "This node does not vote yet.".to_owned(),
        })
    } else {
        None
    }
}

fn intention(status: &StatusReport, group: &GroupStatus) -> Option<String> {
    match (group.owner.as_deref(), group.desired.as_deref()) {
        (Some(owner), Some(desired)) if owner == desired => None,
        (Some(_), Some(desired)) if status.paused => Some(format!(
            "It would go to {desired}, were it not for the pause."
        )),
        (Some(_), Some(desired)) => Some(format!("It is on its way to {desired}.")),
        (None, Some(desired)) => Some(format!("{desired} is to take it.")),
        (Some(_), None) => None,
        (None, None) => Some("No node can take it now.".to_owned()),
    }
}

fn policy(group: &GroupStatus) -> String {
    let order = match group.prefer.as_slice() {
        [] => "No node is preferred".to_owned(),
        prefer => format!("The order of preference is {}", prefer.join(", ")),
    };
    let failback = match group.failback.as_str() {
        "auto" => "failback is automatic: it returns to a preferred node as soon as that is well",
        _ => "failback is manual: it stays where it is until its node fails or someone moves it",
    };
    let spread = if group.spread {
        "; it keeps away from other groups"
    } else {
        ""
    };
    format!("{order}; {failback}{spread}.")
}

/// The nodes in order of preference, the others after them by id.
fn order<'a>(status: &'a StatusReport, group: &GroupStatus) -> Vec<&'a NodeStatus> {
    let mut nodes: Vec<_> = status.nodes.iter().collect();
    nodes.sort_by_key(|node| {
        let rank = group
            .prefer
            .iter()
            .position(|name| *name == node.name)
            .unwrap_or(usize::MAX);
        (node.role == Role::Witness, rank, node.id)
    });
    nodes
}

fn not_there(status: &StatusReport, group: &GroupStatus, node: &NodeStatus) -> NotThere {
    let blocked = blocked(group, node);
    let could = blocked.is_none();
    let reason = blocked.unwrap_or_else(|| free(status, group, node));
    NotThere {
        node: node.name.clone(),
        could,
        reason,
    }
}

/// What keeps a node from taking the group, whatever the placement says.
fn blocked(group: &GroupStatus, node: &NodeStatus) -> Option<String> {
    if node.role == Role::Witness {
        return Some("is a witness: it votes and never owns.".to_owned());
    }
    match node.state {
        NodeState::Silent => return Some("is silent.".to_owned()),
        NodeState::NeverSeen => {
            return Some("was never heard since this agent started.".to_owned());
        }
        NodeState::Late => {
            return Some("answers from its kernel only; its agent is silent.".to_owned());
        }
        NodeState::Me | NodeState::Alive | NodeState::Unknown => {}
    }
    if node.drained {
        return Some(format!(
            "is drained (mend: heartline undrain {}).",
            node.name
        ));
    }
    if let Some(unfit) = group.unfit.iter().find(|unfit| unfit.node == node.name) {
        return Some(format!("is unfit for it: {}.", unfit.reason));
    }
    node.config_mismatch
        .as_deref()
        .map(|text| format!("has another configuration: {text}."))
}

/// Why a node that could run the group does not.
fn free(status: &StatusReport, group: &GroupStatus, node: &NodeStatus) -> String {
    let rank = |name: &str| {
        group
            .prefer
            .iter()
            .position(|known| known == name)
            .unwrap_or(usize::MAX)
    };
    let Some(owner) = group.owner.as_deref() else {
        return match group.desired.as_deref() {
            Some(desired) if desired == node.name => "is to take it.".to_owned(),
            Some(desired) => format!("could take it; {desired} comes first."),
            None if !has_quorum(status) => "could take it if a majority answered.".to_owned(),
            None => "could take it.".to_owned(),
        };
    };
    if group.desired.as_deref() == Some(node.name.as_str()) {
        return "is about to take it.".to_owned();
    }
    if rank(&node.name) < rank(owner) {
        format!(
            "could run it and is preferred; it does not go back by itself (heartline move {} {}).",
            group.name, node.name
        )
    } else if rank(&node.name) > rank(owner) {
        format!("could run it; {owner} is preferred.")
    } else {
        format!("could run it; nothing speaks for leaving {owner}.")
    }
}

fn has_quorum(status: &StatusReport) -> bool {
    status.quorum.reachable >= status.quorum.needed
}
