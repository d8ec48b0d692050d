//! What a reload would change, and what it refuses.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use agent_services::{group::Services, resource::Resource};

use super::change::{Change, Refusal, refused};
use super::key::{ClusterKey, KeyFile};
use super::types::{Config, Group, Node, show_ns};

/// What a reload from `old` to `new` changes, refusals first. Empty if nothing differs.
///
/// One refusal is reason enough to keep the whole old configuration: half a file is a file nobody wrote.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    diff_fixed(old, new, &mut changes);
    diff_members(old, new, &mut changes);
    diff_moved_vips(old, new, &mut changes);
    diff_groups(old, new, &mut changes);
    // Stable: within both halves the order stays.
    changes.sort_by_key(|c| !c.is_refused());
    if old.announce_interval_ns != new.announce_interval_ns {
        changes.push(Change::AnnounceInterval {
            to_ns: new.announce_interval_ns,
        });
    }
    if old.hooks != new.hooks {
        changes.push(Change::Hooks {
            count: new.hooks.len(),
        });
    }
    if old.fences != new.fences {
        changes.push(Change::Fences {
            count: new.fences.len(),
        });
    }
    if old.watchdog != new.watchdog {
        changes.push(refused(
            Refusal::Watchdog,
            "the watchdog changes, and takeovers on other nodes wait for the old one's time",
            "stop all agents, change it on all nodes and start them",
        ));
    }
    if old.log != new.log {
        changes.push(Change::Log {
            to: new.log.clone(),
        });
    }
    changes
}

/// The change of the keys in the file; `None` if they are the same. Refused if old and new file have no key in common:
/// no step of a rotation is like that. Whether another node would be cut off is for the caller to see.
#[must_use]
pub fn key_change(old: &KeyFile, new: &KeyFile) -> Option<Change> {
    if old == new {
        return None;
    }
    let has =
        |file: &KeyFile, key: &ClusterKey| file.sign == *key || file.other.as_ref() == Some(key);
    if !has(new, &old.sign) && !old.other.as_ref().is_some_and(|key| has(new, key)) {
        return Some(refused(
            Refusal::Key,
            "the cluster key has changed, and nodes with different keys do not hear each other",
            "put the old key back and rotate it: `heartline keygen --rotate add`",
        ));
    }
    let keys = new.keys();
    Some(Change::Key {
        signs: keys.id(),
        accepts: keys.other_id(),
    })
}

/// What is fixed while the agent runs.
fn diff_fixed(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    if old.cluster != new.cluster {
        let why = format!(
            "the cluster's name changes from {} to {}, and with it every message",
            old.cluster, new.cluster
        );
        changes.push(refused(
            Refusal::Cluster,
            why,
            "stop all agents, change it on all nodes and start them",
        ));
    }
    if old.port != new.port {
        let why = format!(
            "the port changes from {} to {}, and nodes on different ports do not hear each other",
            old.port, new.port
        );
        changes.push(refused(
            Refusal::Port,
            why,
            "stop all agents, change it on all nodes and start them",
        ));
    }
    let times = |c: &Config| {
        (
            c.timing.heartbeat_ns,
            c.timing.lease_ns,
            c.timing.takeover_ns,
            c.timing.max_promise_ns,
        )
    };
    if times(old) != times(new) {
        let show = |c: &Config| {
            let t = &c.timing;
            [t.heartbeat_ns, t.lease_ns, t.takeover_ns, t.max_promise_ns]
                .map(show_ns)
                .join("/")
        };
        let why = format!(
            "the timing (heartbeat/lease/takeover/max_promise) changes from {} to {}, and promises already given follow the old one",
            show(old),
            show(new)
        );
        changes.push(refused(
            Refusal::Timing,
            why,
            "stop all agents, change it on all nodes and start them",
        ));
    }
    if old.datapath != new.datapath {
        let why = "the data path changes, and its programs are attached only at start";
        changes.push(refused(
            Refusal::Datapath,
            why,
            "`heartline restart` on this node takes it over",
        ));
    }
    if old.key_file != new.key_file {
        let why = format!(
            "the key file changes from {} to {}",
            old.key_file.display(),
            new.key_file.display()
        );
        changes.push(refused(
            Refusal::Key,
            why,
            "`heartline restart` on this node takes it over; the key in it must be the same",
        ));
    }
}

/// Members change with the generation, one at a time (rule 10).
fn diff_members(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let (from, to) = (old.generation, new.generation);
    if to < from {
        let why = format!("the generation goes back from {from} to {to}, and it never does");
        let mend = format!("count it up to {} on all nodes", from + 1);
        return changes.push(refused(Refusal::Generation, why, &mend));
    }
    let altered = altered_members(&old.nodes, &new.nodes);
    if !altered.is_empty() {
        let why = format!(
            "{}, and every node must know that at once",
            altered.join(", ")
        );
        let mend = "remove the node and add it again with a new id, or stop all agents, change all nodes and start them";
        changes.push(refused(Refusal::Members, why, mend));
    }
    let steps = member_steps(&old.nodes, &new.nodes);
    if to == from {
        if !steps.is_empty() {
            let why = format!(
                "the members change ({}) and the generation does not, and majorities of two lists need not meet",
                sentences(&steps)
            );
            let mend = format!("set generation = {}", from + 1);
            changes.push(refused(Refusal::Members, why, &mend));
        }
        return;
    }
    if to == from + 1 && steps.len() > 1 {
        let why = format!(
            "{} members change at once ({}), and majorities of two such lists need not meet",
            steps.len(),
            sentences(&steps)
        );
        let each: Vec<String> = steps
            .iter()
            .zip(to..)
            .map(|(step, g)| format!("generation {g}: {step}"))
            .collect();
        let mend = format!("one file after the other: {}", each.join("; "));
        return changes.push(refused(Refusal::Members, why, &mend));
    }
    changes.push(Change::Generation { from, to });
    changes.extend(steps);
}

fn sentences(steps: &[Change]) -> String {
    let each: Vec<String> = steps.iter().map(ToString::to_string).collect();
    each.join("; ")
}

/// Who joins and who leaves, one step each; first those who join, so that the cluster never shrinks on the way.
#[must_use]
pub fn member_steps(old: &[Node], new: &[Node]) -> Vec<Change> {
    let missing = |from: &[Node], node: &Node| !from.iter().any(|n| n.id == node.id);
    let joins = new.iter().filter(|n| missing(old, n));
    let leaves = old.iter().filter(|n| missing(new, n));
    joins
        .map(|n| Change::MemberAdded {
            id: n.id,
            name: n.name.clone(),
        })
        .chain(leaves.map(|n| Change::MemberRemoved {
            id: n.id,
            name: n.name.clone(),
        }))
        .collect()
}

/// "n1 has other links", ...
fn altered_members(old: &[Node], new: &[Node]) -> Vec<String> {
    old.iter()
        .filter_map(|a| Some((a, new.iter().find(|b| b.id == a.id)?)))
        .filter_map(|(a, b)| {
            if a.name != b.name {
                Some(format!("{} is now {}", a.name, b.name))
            } else if a.role != b.role {
                Some(format!("{} has another role", a.name))
            } else if a.links != b.links {
                Some(format!("{} has other links", a.name))
            } else {
                None
            }
        })
        .collect()
}

/// VIPs that go from one group to another: address, old group, new group.
#[must_use]
pub fn moved_vips(old: &Config, new: &Config) -> Vec<(IpAddr, u8, u8)> {
    let home = |c: &Config| -> HashMap<IpAddr, u8> {
        c.groups
            .iter()
            .flat_map(|g| g.vips.iter().map(|v| (v.address, g.id)))
            .collect()
    };
    let before = home(old);
    new.groups
        .iter()
        .flat_map(|g| g.vips.iter().map(move |v| (v.address, g.id)))
        .filter_map(|(address, to)| {
            let from = *before.get(&address)?;
            (from != to).then_some((address, from, to))
        })
        .collect()
}

/// A VIP that goes from one group to another could be granted twice, once as part of each, but for a new generation, which
/// waits for the promises of the old one (rule 10).
fn diff_moved_vips(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for (address, from, to) in moved_vips(old, new) {
        if new.generation > old.generation {
            changes.push(Change::VipMoved { address, from, to });
            continue;
        }
        let why = format!(
            "VIP {address} would go from group {from} to group {to}, and both could be granted at once"
        );
        let mend = format!("set generation = {}", old.generation + 1);
        changes.push(refused(Refusal::VipGroup, why, &mend));
    }
}

fn diff_groups(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    let by_id = |c: &Config| {
        c.groups
            .iter()
            .map(|g| (g.id, g.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (by_id(old), by_id(new));
    for (id, group) in &before {
        if !after.contains_key(id) {
            changes.push(Change::GroupRemoved {
                id: *id,
                name: group.name.clone(),
            });
        }
    }
    for (id, group) in &after {
        match before.get(id) {
            None => changes.push(Change::GroupAdded {
                id: *id,
                name: group.name.clone(),
            }),
            Some(old) => diff_group(old, group, changes),
        }
    }
}

fn diff_group(old: &Group, new: &Group, changes: &mut Vec<Change>) {
    let id = new.id;
    if old.name != new.name {
        changes.push(Change::GroupRenamed {
            id,
            from: old.name.clone(),
            to: new.name.clone(),
        });
    }
    if old.prefer != new.prefer {
        changes.push(Change::Prefer {
            id,
            from: old.prefer.clone(),
            to: new.prefer.clone(),
        });
    }
    if old.spread != new.spread {
        changes.push(Change::Spread { id, to: new.spread });
    }
    if old.failback != new.failback {
        changes.push(Change::Failback {
            id,
            to: new.failback,
        });
    }
    diff_extras(id, "route", &old.routes, &new.routes, changes);
    diff_extras(id, "rule", &old.rules, &new.rules, changes);
    diff_extras(id, "track", &old.tracks, &new.tracks, changes);
    let lines = |g: &Group| super::services::fingerprint(&g.services);
    if lines(old) != lines(new) {
        changes.push(Change::Services {
            id,
            stops: stopped_by(&old.services, &new.services),
        });
    }
    if old.near != new.near {
        changes.push(Change::Near { id });
    }
    let by_address = |g: &Group| {
        g.vips
            .iter()
            .map(|v| (v.address, v.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (by_address(old), by_address(new));
    for (address, vip) in &before {
        if !after.contains_key(address) {
            changes.push(Change::VipRemoved {
                id,
                vip: vip.clone(),
            });
        }
    }
    for (address, vip) in &after {
        match before.get(address) {
            None => changes.push(Change::VipAdded {
                id,
                vip: vip.clone(),
            }),
            Some(old) if old != vip => changes.push(Change::VipChanged {
                id,
                from: old.clone(),
                to: vip.clone(),
            }),
            Some(_) => {}
        }
    }
}

fn diff_extras<T: PartialEq + ToString>(
    id: u8,
    what: &'static str,
    old: &[T],
    new: &[T],
    changes: &mut Vec<Change>,
) {
    let mut note = |item: &T, added| {
        changes.push(Change::Extra {
            id,
            what,
            item: item.to_string(),
            added,
        });
    };
    old.iter()
        .filter(|item| !new.contains(item))
        .for_each(|item| note(item, false));
    new.iter()
        .filter(|item| !old.contains(item))
        .for_each(|item| note(item, true));
}

/// Names of resources that run on the owner and that the new configuration no longer has: they are stopped.
fn stopped_by(old: &Services, new: &Services) -> Vec<String> {
    let gone = |r: &&Resource| {
        !new.resources
            .iter()
            .any(|n| n.name == r.name && n.kind == r.kind)
    };
    let old = old.resources.iter().filter(|r| !r.keep_running);
    old.filter(gone).map(|r| r.name.clone()).collect()
}
