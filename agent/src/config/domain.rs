//! `domain = …` of a `[[group.resource]]`: a virtual machine of libvirt's.

use std::{path::PathBuf, time::Duration};

use agent_services::resource::{
    Kind, Resource,
    domain::{Domain, Live, Transport},
};

use super::raw::At;
use super::render::{Diagnostic, Span};
use super::services::{RawServices, bounded, filled};
use super::table::Table;

/// How it is written.
const EXAMPLE: &str = "domain = { name = \"web\", xml = \"/etc/heartline/web.xml\" }";
/// libvirt's own default for a machine's QEMU.
const URI: &str = "qemu:///system";
/// Bounds of the time for a migration, of the pause at its end, and of its bandwidth in MiB/s.
const MIGRATE_NS: std::ops::RangeInclusive<u64> = 5_000_000_000..=86_400_000_000_000;
const DOWNTIME_NS: std::ops::RangeInclusive<u64> = 1_000_000..=60_000_000_000;
const BANDWIDTH: std::ops::RangeInclusive<i64> = 1..=1_000_000;
/// What says how it moves alive; wrong without `migrate = "live"`.
const ONLY_LIVE: [&str; 7] = [
    "transport",
    "postcopy",
    "auto_converge",
    "bandwidth",
    "downtime",
    "migrate_timeout",
    "fallback",
];

/// Reads it.
pub(super) fn read(t: &mut Table<'_, '_, '_>) -> Option<Kind> {
    let mut d = t.table("domain", EXAMPLE)?;
    let name = filled(&mut d, "name", "name = \"web\"");
    let xml = filled(&mut d, "xml", "xml = \"/etc/heartline/web.xml\"");
    let uri = match d.string("uri", "uri = \"qemu:///system\"") {
        Some(uri) => Some(uri.value),
        // Wrong, and reported.
        None if d.table.contains_key("uri") => None,
        None => Some(URI.into()),
    };
    let live = live(&mut d);
    let span = d.span.clone();
    d.finish();
    let (name, xml, uri, live) = (name?, PathBuf::from(xml?), uri?, live?);
    let mut wrong = |message: String, help: &str| {
        t.out
            .push(Diagnostic::error("bad-domain", span.clone(), message).help(help));
    };
    if name.contains('/') || name.chars().any(char::is_control) {
        wrong(
            format!("{name:?} is no name of a domain"),
            "write what stands in <name> of its XML, as in `name = \"web\"`",
        );
        return None;
    }
    if !xml.is_absolute() {
        wrong(
            format!("{} is no absolute path", xml.display()),
            "name the file with the domain's XML from the root on; it must be there on every node that may own the group",
        );
        return None;
    }
    // Another host's libvirt may be out of reach when this node has to stop what it runs.
    if !is_local(&uri) {
        wrong(
            format!("{uri:?} is no libvirt of this machine"),
            "the machine that owns the group runs the domain: `qemu:///system`, or `lxc:///system`, `xen:///system`",
        );
        return None;
    }
    Some(Kind::Domain(Domain {
        name,
        xml,
        uri,
        live,
    }))
}

/// How it moves alive; outer `None`: wrong, and reported.
fn live(d: &mut Table<'_, '_, '_>) -> Option<Option<Live>> {
    let choices = [("live", true), ("no", false)];
    let wanted = match d.choice("migrate", &choices) {
        Some(wanted) => wanted.value,
        None if d.table.contains_key("migrate") => return None,
        None => false,
    };
    if !wanted {
        for key in ONLY_LIVE {
            if let Some(value) = d.get(key) {
                let message = format!("`{key}` says how a domain migrates, and this one does not");
                let span = value.span();
                d.out.push(
                    Diagnostic::error("no-migration", span, message)
                        .help("add `migrate = \"live\"`, or remove it"),
                );
                return None;
            }
        }
        return Some(None);
    }
    let transports = [
        ("tls", Transport::Tls),
        ("tcp", Transport::Tcp),
        ("ssh", Transport::Ssh),
    ];
    let there = |d: &Table<'_, '_, '_>, key: &str| d.table.contains_key(key);
    let transport = d.choice("transport", &transports).map(|t| t.value);
    if transport.is_none() && there(d, "transport") {
        return None;
    }
    let fallbacks = [("refuse", false), ("shutdown", true)];
    let fallback = d.choice("fallback", &fallbacks).map(|f| f.value);
    if fallback.is_none() && there(d, "fallback") {
        return None;
    }
    let bandwidth = d
        .integer("bandwidth", BANDWIDTH, "bad-bandwidth")
        .map(|b| b.value);
    if bandwidth.is_none() && there(d, "bandwidth") {
        return None;
    }
    let downtime = bounded(d, "downtime", "300ms", &DOWNTIME_NS, Duration::ZERO)?;
    let timeout = bounded(
        d,
        "migrate_timeout",
        "10min",
        &MIGRATE_NS,
        Duration::from_secs(600),
    )?;
    Some(Some(Live {
        transport: transport.unwrap_or(Transport::Tls),
        postcopy: d.boolean("postcopy").unwrap_or(false),
        auto_converge: d.boolean("auto_converge").unwrap_or(true),
        bandwidth: bandwidth.and_then(|b| u64::try_from(b).ok()),
        downtime: Some(downtime).filter(|d| !d.is_zero()),
        timeout,
        or_shutdown: fallback.unwrap_or(false),
    }))
}

/// `libvirt_uri` of a node.
pub(super) fn node_uri(t: &mut Table<'_, '_, '_>) -> Option<At<String>> {
    const EXAMPLE: &str = "libvirt_uri = \"qemu+tls://n1.example.org/system\"";
    let uri = t.string("libvirt_uri", EXAMPLE)?;
    let named = uri.value.split_once("://").is_some_and(|(driver, rest)| {
        !driver.is_empty() && !rest.is_empty() && !rest.starts_with('/')
    });
    let plain = !uri
        .value
        .chars()
        .any(|c| c.is_control() || c.is_whitespace());
    if named && plain {
        return Some(uri);
    }
    let message = format!("{:?} does not name a libvirt on another machine", uri.value);
    t.out.push(
        Diagnostic::error("bad-libvirt-uri", uri.span, message).help(format!(
            "as the other nodes' daemons reach this node's: `{EXAMPLE}`"
        )),
    );
    None
}

/// What moves alive moves alone: with several, one could have gone and the next not.
pub(super) fn check_alone(group: &str, raw: &RawServices, out: &mut Vec<Diagnostic>) {
    let own = || raw.known().filter(|r| !r.value.keep_running);
    let is_live =
        |r: &At<Resource>| matches!(&r.value.kind, Kind::Domain(domain) if domain.live.is_some());
    let Some(live) = own().find(|r| is_live(r)) else {
        return;
    };
    if let Some(other) = own().find(|r| r.span != live.span) {
        out.push(
            Diagnostic::error(
                "not-alone",
                other.span.clone(),
                format!(
                    "group {group} has {} beside {}, which migrates",
                    other.value.name, live.value.name
                ),
            )
            .also(live.span.clone(), "migrates")
            .help(
                "a machine that migrates is alone in its group: with several, one could have gone and the next not. Give each a \
                 group of its own; what it rests on must be there on both nodes (`keep_running`)",
            ),
        );
    }
}

/// `DRIVER:///PATH`, with `+unix` at most.
fn is_local(uri: &str) -> bool {
    uri.split_once(":///").is_some_and(|(driver, path)| {
        let driver = driver.strip_suffix("+unix").unwrap_or(driver);
        let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric());
        plain(driver) && !path.chars().any(|c| c.is_control() || c.is_whitespace())
    })
}

/// A domain belongs to one group.
pub(super) fn check_once<'a>(
    all: impl Iterator<Item = &'a At<Resource>>,
    out: &mut Vec<Diagnostic>,
) {
    let mut seen: Vec<(&Domain, &Span)> = Vec::new();
    for at in all {
        let Kind::Domain(domain) = &at.value.kind else {
            continue;
        };
        let same =
            |(other, _): &&(&Domain, &Span)| other.name == domain.name && other.uri == domain.uri;
        match seen.iter().find(same) {
            Some((_, first)) => out.push(
                Diagnostic::error(
                    "domain-twice",
                    at.span.clone(),
                    format!("domain {} runs in two places", domain.name),
                )
                .also((*first).clone(), "first used here")
                .help("it can follow one group only: remove one"),
            ),
            None => seen.push((domain, &at.span)),
        }
    }
}
