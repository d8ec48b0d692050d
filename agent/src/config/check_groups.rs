//! Rules about groups and VIPs.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::check::{check_device, check_distinct, check_name};
use super::extras::{self, check_extras};
use super::near::{self, check_near};
use super::raw::{At, RawConfig, RawGroup, RawNode, RawVip};
use super::render::{Diagnostic, Span};
use super::services;
use super::table::did_you_mean;
use super::types::{Group, MAX_VIPS, Node, Role, Vip};

pub(super) fn check_groups(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let groups = &raw.groups;
    if groups.is_empty() {
        out.push(
            Diagnostic::warning(
                "no-groups",
                None,
                "no groups: the cluster keeps nothing running",
            )
            .help("add a `[[group]]` with a `[[group.vip]]`"),
        );
    }
    for group in groups {
        if let Some(name) = &group.name {
            check_name("group name", name, out);
        }
        if group.vips.is_empty() {
            let name = group.name.as_ref().map_or("?", |n| n.value.as_str());
            out.push(
                Diagnostic::error(
                    "no-vips",
                    group.span.clone(),
                    format!("group {name} has no VIP"),
                )
                .help("add a `[[group.vip]]` with `address` and `device`"),
            );
        }
        for device in group.vips.iter().filter_map(|v| v.device.as_ref()) {
            check_device(device, out);
        }
        check_prefer(group, &raw.nodes, out);
        let name = group.name.as_ref().map_or("?", |n| n.value.as_str());
        services::check(name, &group.services, out);
    }
    services::check_all(groups.iter().map(|g| &g.services), out);
    check_distinct(
        "duplicate-group-name",
        groups.iter().filter_map(|g| g.name.as_ref()),
        out,
        |name| format!("two groups have the name \"{name}\""),
        |_| "give each group its own name".into(),
    );
    let ids: Vec<_> = groups.iter().filter_map(|g| g.id.as_ref()).collect();
    let free = (0..=255).find(|id| ids.iter().all(|used| used.value != *id));
    check_distinct(
        "duplicate-group-id",
        ids.iter().copied(),
        out,
        |id| format!("two groups have the id {id}"),
        |_| {
            free.map_or_else(
                || "remove a group".into(),
                |id| format!("id {id} is free; never reuse the id of a removed group"),
            )
        },
    );
    check_vips(raw, out);
    check_extras(raw, out);
    check_near(raw, out);
}

fn check_prefer(group: &RawGroup, nodes: &[RawNode], out: &mut Vec<Diagnostic>) {
    let Some(prefer) = &group.prefer else { return };
    if prefer.value.is_empty() {
        out.push(
            Diagnostic::error(
                "empty-prefer",
                prefer.span.clone(),
                "`prefer` is empty: nobody may own this group",
            )
            .help(
                "name the nodes that may own it, best first; or leave `prefer` out for all members",
            ),
        );
    }
    let mut good = 0;
    for wish in &prefer.value {
        let node = nodes
            .iter()
            .find(|n| n.name.as_ref().is_some_and(|name| name.value == wish.value));
        let Some(node) = node else {
            let names = nodes
                .iter()
                .filter_map(|n| n.name.as_ref())
                .map(|n| n.value.as_str());
            out.push(
                Diagnostic::error(
                    "unknown-node",
                    wish.span.clone(),
                    format!("there is no node \"{}\"", wish.value),
                )
                .help(did_you_mean(&wish.value, names)),
            );
            continue;
        };
        if node.role == Role::Witness {
            let message = format!("node {} is a witness: it votes and never owns", wish.value);
            out.push(
                Diagnostic::error("prefer-witness", wish.span.clone(), message)
                    .help("remove it from `prefer`"),
            );
            continue;
        }
        good += 1;
    }
    check_distinct(
        "prefer-twice",
        prefer.value.iter(),
        out,
        |name| format!("node {name} is in `prefer` twice"),
        |_| "name each node once".into(),
    );
    if good == 1 && prefer.value.len() == 1 {
        out.push(
            Diagnostic::warning(
                "one-owner",
                prefer.span.clone(),
                "only one node may own this group: nobody could take over",
            )
            .help("`prefer` lists all nodes that may own the group, best first: add another"),
        );
    }
}

fn check_vips(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let links: HashMap<IpAddr, (&str, Span)> = raw
        .nodes
        .iter()
        .flat_map(|n| n.links.iter().map(move |l| (n, l)))
        .filter_map(|(n, l)| {
            let name = n.name.as_ref().map_or("?", |n| n.value.as_str());
            l.address
                .as_ref()
                .map(|a| (a.value, (name, a.span.clone())))
        })
        .collect();
    let mut seen: HashMap<IpAddr, (&str, Span)> = HashMap::new();
    let mut count = 0_usize;
    for group in &raw.groups {
        let name = group.name.as_ref().map_or("?", |n| n.value.as_str());
        for At {
            value: (address, _),
            span,
        } in group.vips.iter().filter_map(|v| v.address.as_ref())
        {
            count += 1;
            if let Some((node, link)) = links.get(address) {
                out.push(
                    Diagnostic::error(
                        "vip-is-link",
                        span.clone(),
                        format!("VIP {address} is a link address of node {node}"),
                    )
                    .also(link.clone(), "the link")
                    .help("a VIP moves, a link address stays: use a free address of the network"),
                );
            }
            if let Some((other, first)) = seen.get(address) {
                let message = if *other == name {
                    format!("VIP {address} is in group {name} twice")
                } else {
                    format!("VIP {address} is in groups {other} and {name}: two nodes could own it")
                };
                out.push(
                    Diagnostic::error("duplicate-vip", span.clone(), message)
                        .also(first.clone(), "first used here")
                        .help("keep it in one group"),
                );
            } else {
                seen.insert(*address, (name, span.clone()));
            }
        }
    }
    if count > MAX_VIPS {
        out.push(
            Diagnostic::error(
                "too-many-vips",
                None,
                format!("{count} VIPs: {MAX_VIPS} is the most"),
            )
            .help("split the cluster"),
        );
    }
}

/// The groups by id, if nothing is missing.
pub(super) fn typed_groups(raw: &RawConfig, nodes: &[Node]) -> Option<Vec<Group>> {
    let mut groups = raw
        .groups
        .iter()
        .map(|g| typed_group(raw, g, nodes))
        .collect::<Option<Vec<_>>>()?;
    groups.sort_by_key(|g| g.id);
    Some(groups)
}

fn typed_group(all: &RawConfig, raw: &RawGroup, nodes: &[Node]) -> Option<Group> {
    let members: Vec<&Node> = nodes.iter().filter(|n| n.role == Role::Member).collect();
    let prefer = match &raw.prefer {
        None => members.iter().map(|n| n.id).collect(),
        Some(prefer) => {
            let id =
                |wish: &At<String>| members.iter().find(|n| n.name == wish.value).map(|n| n.id);
            prefer.value.iter().map(id).collect::<Option<Vec<_>>>()?
        }
    };
    let vip = |v: &RawVip| {
        let (address, prefix) = v.address.as_ref()?.value;
        Some(Vip {
            address,
            prefix,
            device: v.device.as_ref()?.value.clone(),
            gateway: v.gateway,
        })
    };
    Some(Group {
        name: raw.name.as_ref()?.value.clone(),
        id: u8::try_from(raw.id.as_ref()?.value).ok()?,
        prefer,
        spread: raw.spread,
        failback: raw.failback,
        vips: raw.vips.iter().map(vip).collect::<Option<_>>()?,
        routes: extras::typed(&raw.extras.routes)?,
        rules: extras::typed(&raw.extras.rules)?,
        tracks: extras::typed(&raw.extras.tracks)?,
        services: services::typed(raw.name.as_ref()?, &raw.services)?,
        near: near::typed(all, raw)?,
    })
}

/// Devices of VIPs, routes and targets that the named node may have to carry, each once, with the first place that names it.
pub(super) fn vip_devices<'a>(raw: &'a RawConfig, node: &str) -> Vec<&'a At<String>> {
    let mut seen = HashSet::new();
    raw.groups
        .iter()
        .filter(|g| {
            g.prefer
                .as_ref()
                .is_none_or(|p| p.value.iter().any(|w| w.value == node))
        })
        .flat_map(|g| {
            let vips = g.vips.iter().filter_map(|v| v.device.as_ref());
            let routes = g.extras.routes.iter().flat_map(|r| &r.devices);
            vips.chain(routes)
                .chain(g.extras.tracks.iter().flat_map(|t| &t.devices))
        })
        .filter(|d| seen.insert(d.value.as_str()))
        .collect()
}
