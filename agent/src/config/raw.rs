//! First half of reading: TOML text to tables of values with the places they stand at.
//!
//! Finds what can be seen in one value alone: syntax, unknown keys, wrong types, numbers out of range, words that
//! are no choice. Nothing stops at the first error; [`super::check`] goes on with what could be read.

use std::net::IpAddr;

use toml::de::DeTable;

use super::address::{link_address, vip_address};
use super::domain;
use super::extras::{self, RawExtras};
use super::fence::{self, RawFence, Watchdog};
use super::hooks::{self, Hook};
use super::near::{self, RawNear};
use super::render::{Diagnostic, Span};
use super::services::{self, RawServices};
use super::table::Table;
use super::types::{Datapath, Failback, MAX_GROUPS, MAX_NODES, Profile, Role};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Span,
}

/// The file as read; `None` is "not there" or "wrong, and reported".
#[derive(Debug, Default)]
pub(super) struct RawConfig {
    pub cluster: Option<At<String>>,
    pub generation: Option<At<i64>>,
    pub key_file: Option<At<String>>,
    pub port: Option<At<i64>>,
    pub datapath: Option<Datapath>,
    pub announce_interval: Option<At<u64>>,
    pub log: Option<At<String>>,
    pub tie_break: Option<At<String>>,
    pub timing: RawTiming,
    /// As in the file; `nodes` holds no more than [`MAX_NODES`].
    pub node_count: usize,
    pub nodes: Vec<RawNode>,
    pub groups: Vec<RawGroup>,
    pub hooks: Vec<Option<At<Hook>>>,
    pub fences: Vec<Option<RawFence>>,
    /// `Some(None)` is "wrong, and reported".
    pub watchdog: Option<Option<Watchdog>>,
}

#[derive(Debug, Default)]
pub(super) struct RawTiming {
    pub span: Option<Span>,
    pub profile: Option<At<Profile>>,
    pub heartbeat: Option<At<u64>>,
    pub lease: Option<At<u64>>,
    pub takeover: Option<At<u64>>,
    pub max_promise: Option<At<u64>>,
}

#[derive(Debug)]
pub(super) struct RawNode {
    pub span: Span,
    pub name: Option<At<String>>,
    pub id: Option<At<i64>>,
    pub role: Role,
    pub capacity: Option<At<i64>>,
    pub libvirt_uri: Option<At<String>>,
    pub links: Vec<RawLink>,
}

#[derive(Debug)]
pub(super) struct RawLink {
    pub device: Option<At<String>>,
    pub address: Option<At<IpAddr>>,
}

#[derive(Debug)]
pub(super) struct RawGroup {
    pub span: Span,
    pub name: Option<At<String>>,
    pub id: Option<At<i64>>,
    pub prefer: Option<At<Vec<At<String>>>>,
    pub spread: bool,
    pub failback: Failback,
    pub vips: Vec<RawVip>,
    pub extras: RawExtras,
    pub services: RawServices,
    pub near: RawNear,
}

#[derive(Debug)]
pub(super) struct RawVip {
    pub device: Option<At<String>>,
    pub address: Option<At<(IpAddr, u8)>>,
    pub gateway: bool,
}

/// Reads a whole file.
pub(super) fn read(text: &str, out: &mut Vec<Diagnostic>) -> RawConfig {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        out.push(Diagnostic::error("syntax", span, error.message()));
    }
    let mut top = Table::new(document.get_ref(), 0..0, "", out);

    top.need("cluster", "cluster = \"NAME\"");
    if !top.table.contains_key("generation") {
        top.out.push(
            Diagnostic::warning("no-generation", 0..0, "`generation` is missing: 1 is taken")
                .help("add `generation = 1`, and count it up with each change of the members"),
        );
    }
    let mut raw = RawConfig {
        cluster: top.string("cluster", "cluster = \"demo\""),
        generation: top.integer("generation", 1..=i64::from(u32::MAX), "bad-generation"),
        key_file: top.string("key_file", "key_file = \"cluster.key\""),
        port: top.integer("port", 1..=65535, "bad-port"),
        datapath: datapath(&mut top),
        announce_interval: top.duration("announce_interval", "60s"),
        log: top.string("log", "log = \"info\""),
        tie_break: top.string("tie_break", "tie_break = \"fencing\""),
        ..RawConfig::default()
    };
    if let Some(value) = top.get("timing") {
        match value.get_ref().as_table() {
            Some(table) => raw.timing = timing(top.child((table, value.span()), "[timing]")),
            None => top.wrong_type("timing", value, "a table", "[timing]"),
        }
    }
    let nodes = top.tables("node", "[[node]]");
    raw.node_count = nodes.len();
    // No more than can be good: what follows may compare each with each.
    for table in nodes.into_iter().take(MAX_NODES) {
        raw.nodes.push(node(top.child(table, "[[node]]")));
    }
    let groups = top.tables("group", "[[group]]");
    if let Some((_, span)) = groups.get(MAX_GROUPS) {
        let message = format!("{} groups: {MAX_GROUPS} is the most", groups.len());
        top.out.push(
            Diagnostic::error("too-many-groups", span.clone(), message)
                .help("put VIPs that may move together into one group, or split the cluster"),
        );
    }
    for table in groups.into_iter().take(MAX_GROUPS) {
        raw.groups.push(group(top.child(table, "[[group]]")));
    }
    raw.hooks = hooks::read(&mut top);
    raw.fences = fence::read(&mut top);
    raw.watchdog = fence::watchdog(&mut top);
    top.finish();
    raw
}

fn datapath(top: &mut Table<'_, '_, '_>) -> Option<Datapath> {
    let choices = [
        ("auto", Datapath::Auto),
        ("native", Datapath::Native),
        ("generic", Datapath::Generic),
        ("socket", Datapath::Socket),
    ];
    Some(top.choice("datapath", &choices)?.value)
}

fn timing(mut t: Table<'_, '_, '_>) -> RawTiming {
    let profiles = [
        ("fast", Profile::Fast),
        ("lan", Profile::Lan),
        ("wan", Profile::Wan),
    ];
    let raw = RawTiming {
        span: Some(t.span.clone()),
        profile: t.choice("profile", &profiles),
        heartbeat: t.duration("heartbeat", "10ms"),
        lease: t.duration("lease", "40ms"),
        takeover: t.duration("takeover", "50ms"),
        max_promise: t.duration("max_promise", "10s"),
    };
    t.finish();
    raw
}

fn node(mut t: Table<'_, '_, '_>) -> RawNode {
    t.need("name", "name = \"n1\"");
    t.need("id", "id = 1");
    let mut raw = RawNode {
        span: t.span.clone(),
        name: t.string("name", "name = \"n1\""),
        id: t.integer("id", 1..=MAX_NODES as i64, "node-id"),
        role: t
            .choice(
                "role",
                &[("member", Role::Member), ("witness", Role::Witness)],
            )
            .map_or(Role::Member, |r| r.value),
        capacity: t.integer("capacity", 0..=1_000_000_000, "bad-capacity"),
        libvirt_uri: domain::node_uri(&mut t),
        links: Vec::new(),
    };
    for table in t.tables("link", "[[node.link]]") {
        let mut link = t.child(table, "[[node.link]]");
        link.need("device", "device = \"eth0\"");
        link.need("address", "address = \"10.77.0.1\"");
        let device = link.string("device", "device = \"eth0\"");
        let address = link.string("address", "address = \"10.77.0.1\"");
        let address = address.and_then(|a| link_address(&a, link.out));
        link.finish();
        raw.links.push(RawLink { device, address });
    }
    t.finish();
    raw
}

fn group(mut t: Table<'_, '_, '_>) -> RawGroup {
    t.need("name", "name = \"web\"");
    t.need("id", "id = 0");
    let failback = [("manual", Failback::Manual), ("auto", Failback::Auto)];
    let mut raw = RawGroup {
        span: t.span.clone(),
        name: t.string("name", "name = \"web\""),
        id: t.integer("id", 0..=255, "group-id"),
        prefer: t.strings("prefer", "prefer = [\"n1\", \"n2\"]"),
        spread: t.boolean("spread").unwrap_or(false),
        failback: t
            .choice("failback", &failback)
            .map_or(Failback::Manual, |f| f.value),
        vips: Vec::new(),
        extras: RawExtras::default(),
        services: RawServices::default(),
        near: near::read(&mut t),
    };
    for table in t.tables("vip", "[[group.vip]]") {
        let mut vip = t.child(table, "[[group.vip]]");
        vip.need("device", "device = \"eth0\"");
        vip.need("address", "address = \"10.77.0.100\"");
        let device = vip.string("device", "device = \"eth0\"");
        let address = vip.string("address", "address = \"10.77.0.100\"");
        let address = address.and_then(|a| vip_address(&a, vip.out));
        let gateway = vip.boolean("gateway").unwrap_or(false);
        vip.finish();
        raw.vips.push(RawVip {
            device,
            address,
            gateway,
        });
    }
    raw.extras = extras::read(&mut t);
    raw.services = services::read(&mut t);
    t.finish();
    raw
}
