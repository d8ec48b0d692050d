//! Rules about nodes and links.

use std::net::IpAddr;

use super::check::{check_device, check_distinct, check_name};
use super::raw::{At, RawConfig, RawLink, RawNode};
use super::render::{Diagnostic, Span};
use super::types::{Link, MAX_LINKS, MAX_NODES, MIN_NODES, Node, Role};

pub(super) fn check_nodes(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let nodes = &raw.nodes;
    check_count(raw, out);
    for node in nodes {
        if let Some(name) = &node.name {
            check_name("node name", name, out);
        }
        check_links(node, out);
    }
    let names = nodes.iter().filter_map(|n| n.name.as_ref());
    check_distinct(
        "duplicate-node-name",
        names,
        out,
        |name| format!("two nodes have the name \"{name}\""),
        |_| "give each node its own name".into(),
    );
    let ids: Vec<_> = nodes.iter().filter_map(|n| n.id.as_ref()).collect();
    let free = (1..=MAX_NODES as i64).find(|id| ids.iter().all(|used| used.value != *id));
    check_distinct(
        "duplicate-node-id",
        ids.iter().copied(),
        out,
        |id| format!("two nodes have the id {id}"),
        |_| {
            free.map_or_else(
                || "remove a node".into(),
                |id| format!("id {id} is free; never reuse the id of a removed node"),
            )
        },
    );
    check_distinct(
        "duplicate-link-address",
        nodes
            .iter()
            .flat_map(|n| &n.links)
            .filter_map(|l| l.address.as_ref()),
        out,
        |address| format!("two links have the address {address}"),
        |_| "each link has an address of its own, fixed on its node".into(),
    );
    check_families(nodes, out);
}

/// How many nodes there are, and whether losing one leaves a majority and an owner.
fn check_count(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let nodes = &raw.nodes;
    let last: Option<Span> = nodes.last().map(|n| n.span.clone());
    if !(MIN_NODES..=MAX_NODES).contains(&raw.node_count) {
        let message = format!(
            "{} nodes: a cluster has {MIN_NODES} to {MAX_NODES}",
            raw.node_count
        );
        let help = if nodes.len() < MIN_NODES {
            "add a `[[node]]` for each machine; three is a good start"
        } else {
            "split the cluster"
        };
        out.push(Diagnostic::error("node-count", last.unwrap_or(0..0), message).help(help));
        return;
    }
    let members = nodes.iter().filter(|n| n.role == Role::Member).count();
    if members < 2 {
        let message = format!(
            "{members} of {} nodes may own groups: nobody could take over",
            nodes.len()
        );
        out.push(
            Diagnostic::error("too-few-members", last.unwrap_or(0..0), message)
                .help("at least two nodes need `role = \"member\"`, the default"),
        );
    } else if nodes.len() == 2 {
        // With a tie_break there is an error about that already, but this is the one that explains.
        out.push(
            Diagnostic::error(
                "two-nodes",
                last.unwrap_or(0..0),
                "two nodes alone cannot survive a failure safely: a majority of two is two",
            )
            .help(
                "name how the tie is broken: \
                 a witness (recommended: a third, tiny machine with `role = \"witness\"` that votes and never owns); \
                 fencing (the survivor makes sure that the other is off, then takes over: `tie_break = \"fencing\"`, comes in a later release); \
                 or a guess for stateless VIPs, which can give two owners (`tie_break = \"unsafe-ping\"`, comes in a later release)",
            ),
        );
    } else if nodes.len().is_multiple_of(2) {
        let count = nodes.len();
        let survives = count - (count / 2 + 1);
        out.push(
            Diagnostic::warning(
                "even-nodes",
                last,
                format!(
                    "{count} nodes survive the loss of {survives}, no more than {} would",
                    count - 1
                ),
            )
            .help(
                "add a witness (`role = \"witness\"`), or leave it: an even number costs no safety",
            ),
        );
    }
}

fn check_links(node: &RawNode, out: &mut Vec<Diagnostic>) {
    let name = node.name.as_ref().map_or("?", |n| n.value.as_str());
    if node.links.is_empty() {
        let message = format!("node {name} has no link: the others cannot hear it");
        out.push(
            Diagnostic::error("no-links", node.span.clone(), message)
                .help("add a `[[node.link]]` with `device` and `address`"),
        );
    }
    if node.links.len() > MAX_LINKS {
        out.push(
            Diagnostic::error(
                "too-many-links",
                node.span.clone(),
                format!(
                    "node {name} has {} links: {MAX_LINKS} is the most",
                    node.links.len()
                ),
            )
            .help("keep links that fail independently of each other"),
        );
    }
    for device in node.links.iter().filter_map(|l| l.device.as_ref()) {
        check_device(device, out);
    }
}

/// The i-th links of all nodes talk to each other, so they must speak the same IP version.
fn check_families(nodes: &[RawNode], out: &mut Vec<Diagnostic>) {
    for index in 0..MAX_LINKS {
        let mut first: Option<(&str, &At<IpAddr>)> = None;
        for node in nodes {
            let name = node.name.as_ref().map_or("?", |n| n.value.as_str());
            let Some(address) = node.links.get(index).and_then(|l| l.address.as_ref()) else {
                continue;
            };
            let Some((first_name, first_address)) = first else {
                first = Some((name, address));
                continue;
            };
            if first_address.value.is_ipv4() != address.value.is_ipv4() {
                let message = format!(
                    "link {} of node {name} is {}, that of node {first_name} is {}: they cannot talk",
                    index + 1,
                    family(address.value),
                    family(first_address.value)
                );
                out.push(
                    Diagnostic::error("link-family", address.span.clone(), message)
                        .also(first_address.span.clone(), "talks to this one")
                        .help("list the links of all nodes in the same order: the first talks to the first, the second to the second"),
                );
            }
        }
    }
    let most = nodes.iter().map(|n| n.links.len()).max().unwrap_or(0);
    for node in nodes {
        // One without any link has its own error.
        if !node.links.is_empty() && node.links.len() < most {
            let name = node.name.as_ref().map_or("?", |n| n.value.as_str());
            let message = format!(
                "node {name} has {} of {most} links: it does not hear the others on the rest",
                node.links.len()
            );
            out.push(
                Diagnostic::warning("fewer-links", node.span.clone(), message)
                    .help("give each node the same number of links, in the same order, if it can have them"),
            );
        }
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The nodes by id, if nothing is missing.
pub(super) fn typed_nodes(raw: &RawConfig) -> Option<Vec<Node>> {
    let mut nodes = raw
        .nodes
        .iter()
        .map(typed_node)
        .collect::<Option<Vec<_>>>()?;
    nodes.sort_by_key(|n| n.id);
    Some(nodes)
}

fn typed_node(raw: &RawNode) -> Option<Node> {
    let link = |l: &RawLink| {
        Some(Link {
            device: l.device.as_ref()?.value.clone(),
            address: l.address.as_ref()?.value,
        })
    };
    Some(Node {
        name: raw.name.as_ref()?.value.clone(),
        id: u8::try_from(raw.id.as_ref()?.value).ok()?,
        role: raw.role,
        links: raw.links.iter().map(link).collect::<Option<_>>()?,
        capacity: raw
            .capacity
            .as_ref()
            .map_or(Some(None), |c| u32::try_from(c.value).ok().map(Some))?,
        libvirt_uri: raw.libvirt_uri.as_ref().map(|u| u.value.clone()),
    })
}
