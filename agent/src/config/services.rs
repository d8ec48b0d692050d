//! What stands behind a group: `[[group.resource]]` and `[group.policy]`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use agent_services::{
    group::Services,
    policy::Policy,
    resource::{Kind, Resource},
};

use super::raw::At;
use super::render::{Diagnostic, Span};
use super::services_probe::{self, RawProbe};
use super::table::Table;
use super::types::show_ns;

/// Resources or probes that a group may have, each.
const MAX_EACH: usize = 64;
const SECOND: u64 = 1_000_000_000;
/// Bounds of a deadline of a start, a stop or a question.
const TIMEOUT_NS: std::ops::RangeInclusive<u64> = SECOND / 10..=3_600 * SECOND;
/// Bounds of the time between two questions for a resource's state.
const STATUS_NS: std::ops::RangeInclusive<u64> = SECOND / 10..=3_600 * SECOND;
/// Bounds of `window` and `failure_memory`.
const MEMORY_NS: std::ops::RangeInclusive<u64> = SECOND..=7 * 86_400 * SECOND;

/// The kinds of resources: the key says which one it is.
const KINDS: [&str; 6] = ["systemd", "exec", "ocf", "filesystem", "drbd", "domain"];
/// OCF agents that hold something which two nodes must not have at once.
const STATEFUL_AGENTS: [&str; 9] = [
    "Filesystem",
    "LVM",
    "LVM-activate",
    "ZFS",
    "Raid1",
    "mdraid",
    "iSCSI",
    "iSCSITarget",
    "drbd",
];

/// What was read of one group; `None` in it is "wrong, and reported".
#[derive(Debug, Default)]
pub(super) struct RawServices {
    resources: Vec<Option<At<Resource>>>,
    probes: Vec<RawProbe>,
    policy: Option<Policy>,
    /// A section was there.
    pub policy_span: Option<Span>,
}

impl RawServices {
    /// The resources that could be read.
    pub fn known(&self) -> impl Iterator<Item = &At<Resource>> {
        self.resources.iter().flatten()
    }
}

/// Reads the sections of one group.
pub(super) fn read(group: &mut Table<'_, '_, '_>) -> RawServices {
    let resources = sections(group, "resource", "[[group.resource]]", resource);
    let probes = sections(group, "probe", "[[group.probe]]", services_probe::probe);
    let mut policy_span = None;
    let policy = match group.table("policy", "[group.policy]") {
        None => Some(Policy::default()),
        Some(mut t) => {
            policy_span = Some(t.span.clone());
            let read = policy(&mut t);
            t.finish();
            read
        }
    };
    RawServices {
        resources,
        probes,
        policy,
        policy_span,
    }
}

fn sections<T>(
    group: &mut Table<'_, '_, '_>,
    key: &'static str,
    place: &'static str,
    read: impl Fn(&mut Table<'_, '_, '_>) -> T,
) -> Vec<T> {
    let tables = group.tables(key, place);
    if let Some((_, span)) = tables.get(MAX_EACH) {
        let message = format!("{} sections {place}: {MAX_EACH} is the most", tables.len());
        group.out.push(
            Diagnostic::error("too-many-services", span.clone(), message).help("split the group"),
        );
    }
    let mut list = Vec::new();
    for table in tables.into_iter().take(MAX_EACH) {
        let mut t = group.child(table, place);
        list.push(read(&mut t));
        t.finish();
    }
    list
}

/// Which one of the keys is there; exactly one must be.
pub(super) fn one_of(
    t: &mut Table<'_, '_, '_>,
    keys: &[&'static str],
    what: &str,
) -> Option<&'static str> {
    let there: Vec<_> = keys
        .iter()
        .copied()
        .filter(|k| t.table.contains_key(*k))
        .collect();
    match there.as_slice() {
        [one] => Some(one),
        [] => {
            let all: Vec<_> = keys.iter().map(|k| format!("`{k}`")).collect();
            let message = format!("this {what} does not say what it is");
            t.out.push(
                Diagnostic::error("no-kind", t.span.clone(), message)
                    .help(format!("one of {} must be there", all.join(", "))),
            );
            None
        }
        [first, second, ..] => {
            let message = format!("this {what} is two things at once: `{first}` and `{second}`");
            t.out.push(
                Diagnostic::error("two-kinds", t.span.clone(), message)
                    .help(format!("write two sections, one for each {what}")),
            );
            None
        }
    }
}

/// A duration within bounds, or the default; `None` if it is wrong.
pub(super) fn bounded(
    t: &mut Table<'_, '_, '_>,
    key: &'static str,
    example: &str,
    range: &std::ops::RangeInclusive<u64>,
    default: Duration,
) -> Option<Duration> {
    if !t.table.contains_key(key) {
        t.known(key);
        return Some(default);
    }
    let at = t.duration(key, example)?;
    if range.contains(&at.value) {
        return Some(Duration::from_nanos(at.value));
    }
    let (low, high) = (show_ns(*range.start()), show_ns(*range.end()));
    let message = format!(
        "`{key}` of {} is outside {low} to {high}",
        show_ns(at.value)
    );
    t.out.push(
        Diagnostic::error("bad-interval", at.span, message)
            .help(format!("choose a time from {low} to {high}")),
    );
    None
}

/// A string that is there and not empty.
pub(super) fn filled(
    t: &mut Table<'_, '_, '_>,
    key: &'static str,
    example: &str,
) -> Option<String> {
    t.need(key, example);
    let text = t.string(key, example)?;
    if text.value.trim().is_empty() {
        t.out.push(
            Diagnostic::error("empty", text.span, format!("`{key}` is empty"))
                .help(format!("write it as `{example}`")),
        );
        return None;
    }
    Some(text.value)
}

/// A command as a list: program and arguments.
pub(super) fn argv(t: &mut Table<'_, '_, '_>, key: &'static str) -> Option<Vec<String>> {
    let example = format!("{key} = [\"/usr/bin/true\"]");
    t.need(key, &example);
    let list = t.strings(key, &example)?;
    let argv: Vec<String> = list.value.into_iter().map(|at| at.value).collect();
    if argv.first().is_none_or(|p| p.trim().is_empty()) {
        t.out.push(
            Diagnostic::error("empty", list.span, format!("`{key}` names no program")).help(
                format!("program and arguments, as in `{example}`; no shell is involved"),
            ),
        );
        return None;
    }
    Some(argv)
}

fn resource(t: &mut Table<'_, '_, '_>) -> Option<At<Resource>> {
    let span = t.span.clone();
    let name = filled(t, "name", "name = \"unbound\"");
    let kind = one_of(t, &KINDS, "resource");
    let kind = match kind {
        Some("systemd") => {
            filled(t, "systemd", "systemd = \"unbound.service\"").map(|name| Kind::Systemd {
                unit: unit_name(name),
            })
        }
        Some("exec") => exec(t),
        Some("ocf") => ocf(t),
        Some("filesystem") => filesystem(t),
        Some("drbd") => super::drbd::read(t),
        Some("domain") => super::domain::read(t),
        _ => None,
    };
    for key in KINDS {
        t.known(key);
    }
    let second = Duration::from_secs(1);
    let start_timeout = bounded(t, "start_timeout", "60s", &TIMEOUT_NS, second * 60);
    let stop_timeout = bounded(t, "stop_timeout", "60s", &TIMEOUT_NS, second * 60);
    let status_timeout = bounded(t, "status_timeout", "10s", &TIMEOUT_NS, second * 10);
    let status_interval = bounded(t, "status_interval", "5s", &STATUS_NS, second * 5);
    let keep_running = t.boolean("keep_running");
    let stateful = t.boolean("stateful");
    let kind = kind?;
    let holds_data = match &kind {
        Kind::Filesystem { .. } | Kind::Domain(_) => true,
        // On several nodes at once on purpose.
        Kind::Drbd { dual_primary, .. } => !(*dual_primary && keep_running == Some(true)),
        Kind::Ocf { agent, .. } => STATEFUL_AGENTS.contains(&agent.as_str()),
        Kind::Systemd { .. } | Kind::Exec { .. } => false,
    };
    let value = Resource {
        name: name?,
        kind,
        start_timeout: start_timeout?,
        stop_timeout: stop_timeout?,
        status_timeout: status_timeout?,
        status_interval: status_interval?,
        keep_running: keep_running.unwrap_or(false),
        stateful: stateful.unwrap_or(holds_data),
    };
    if value.keep_running && value.stateful {
        t.out.push(
            Diagnostic::error("keeps-state", span.clone(), format!("{} is stateful and cannot run on every node at once", value.name))
                .help("remove `keep_running`; or write `stateful = false` if two of it at once do no harm"),
        );
        return None;
    }
    Some(At { value, span })
}

/// As systemctl does: a name without suffix is a service.
pub(super) fn unit_name(name: String) -> String {
    const SUFFIXES: [&str; 6] = [
        ".service", ".socket", ".target", ".mount", ".timer", ".path",
    ];
    if SUFFIXES.iter().any(|s| name.ends_with(s)) {
        name
    } else {
        format!("{name}.service")
    }
}

fn exec(t: &mut Table<'_, '_, '_>) -> Option<Kind> {
    let mut e = t.table(
        "exec",
        "exec = { start = [...], stop = [...], status = [...] }",
    )?;
    let (start, stop, status) = (
        argv(&mut e, "start"),
        argv(&mut e, "stop"),
        argv(&mut e, "status"),
    );
    e.finish();
    Some(Kind::Exec {
        start: start?,
        stop: stop?,
        status: status?,
    })
}

fn ocf(t: &mut Table<'_, '_, '_>) -> Option<Kind> {
    let text = t.string("ocf", "ocf = \"ocf:heartbeat:IPsrcaddr\"");
    let parameters = t.strings_by_name("parameters");
    let text = text?;
    let mut parts = text.value.split(':');
    let good = |p: &&str| {
        !p.is_empty()
            && p.chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !p.starts_with('.')
    };
    match (
        parts.next(),
        parts.next().filter(good),
        parts.next().filter(good),
        parts.next(),
    ) {
        (Some("ocf"), Some(provider), Some(agent), None) => Some(Kind::Ocf {
            provider: provider.into(),
            agent: agent.into(),
            parameters: parameters?,
        }),
        _ => {
            t.out.push(
                Diagnostic::error(
                    "bad-ocf",
                    text.span,
                    format!("{:?} names no OCF agent", text.value),
                )
                .help("write it as `ocf:PROVIDER:AGENT`, as in \"ocf:heartbeat:IPsrcaddr\""),
            );
            None
        }
    }
}

fn filesystem(t: &mut Table<'_, '_, '_>) -> Option<Kind> {
    let mut f = t.table(
        "filesystem",
        "filesystem = { device = \"/dev/sdb1\", mount = \"/srv\", type = \"ext4\" }",
    )?;
    let device = filled(&mut f, "device", "device = \"/dev/sdb1\"");
    let mount = filled(&mut f, "mount", "mount = \"/srv\"");
    let fstype = filled(&mut f, "type", "type = \"ext4\"");
    let options = f
        .string("options", "options = \"noatime\"")
        .map_or_else(String::new, |o| o.value);
    let kill_holders = f.boolean("kill_holders").unwrap_or(false);
    let span = f.span.clone();
    f.finish();
    let mount = PathBuf::from(mount?);
    let plain = mount.components().all(|c| {
        matches!(
            c,
            std::path::Component::RootDir | std::path::Component::Normal(_)
        )
    });
    if !mount.is_absolute() || !plain || mount.parent().is_none() {
        t.out.push(
            Diagnostic::error(
                "bad-mount",
                span,
                format!("{} is no place to mount at", mount.display()),
            )
            .help("an absolute path without `..`, and not `/` itself"),
        );
        return None;
    }
    Some(Kind::Filesystem {
        device: device?,
        mount,
        fstype: fstype?,
        options,
        kill_holders,
    })
}

fn policy(t: &mut Table<'_, '_, '_>) -> Option<Policy> {
    let default = Policy::default();
    let restarts = if t.table.contains_key("restarts") {
        t.integer("restarts", 0..=1000, "bad-restarts")
            .and_then(|n| u32::try_from(n.value).ok())
    } else {
        t.known("restarts");
        Some(default.restarts)
    };
    let window = bounded(t, "window", "10min", &MEMORY_NS, default.window);
    let failure_memory = bounded(
        t,
        "failure_memory",
        "10min",
        &MEMORY_NS,
        default.failure_memory,
    );
    Some(Policy {
        restarts: restarts?,
        window: window?,
        failure_memory: failure_memory?,
    })
}

/// Rules about the whole of one group's services.
pub(super) fn check(group: &str, raw: &RawServices, out: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, &Span> = BTreeMap::new();
    let resources = raw
        .resources
        .iter()
        .flatten()
        .map(|r| (r.value.name.as_str(), &r.span));
    let probes = raw
        .probes
        .iter()
        .flatten()
        .map(|p| (p.value.name.as_str(), &p.span));
    for (name, span) in resources.chain(probes) {
        if let Some(first) = seen.insert(name, span) {
            out.push(
                Diagnostic::error(
                    "service-twice",
                    span.clone(),
                    format!("group {group} has two services with the name \"{name}\""),
                )
                .also(first.clone(), "first used here")
                .help("give each resource and probe of a group its own name"),
            );
        }
    }
    super::drbd::check_order(group, &raw.resources, out);
    super::domain::check_alone(group, raw, out);
    if let Some(span) = &raw.policy_span
        && raw.resources.is_empty()
        && raw.probes.is_empty()
    {
        out.push(
            Diagnostic::warning(
                "idle-policy",
                span.clone(),
                format!("group {group} has nothing that this policy could be about"),
            )
            .help("add a `[[group.resource]]` or a `[[group.probe]]`, or remove it"),
        );
    }
}

/// Rules about the services of all groups.
pub(super) fn check_all<'a>(all: impl Iterator<Item = &'a RawServices>, out: &mut Vec<Diagnostic>) {
    let all: Vec<_> = all.flat_map(|s| s.resources.iter().flatten()).collect();
    super::drbd::check_once(all.iter().copied(), out);
    super::domain::check_once(all.into_iter(), out);
}

/// As the configuration holds them; `None` if something is missing.
pub(super) fn typed(group: &At<String>, raw: &RawServices) -> Option<Services> {
    let resource = |r: &Option<At<Resource>>| {
        let mut resource = r.as_ref()?.value.clone();
        // OCF agents keep their state under it, so it must be unique on a node.
        resource.name = format!("{}.{}", group.value, resource.name);
        Some(resource)
    };
    Some(Services {
        resources: raw.resources.iter().map(resource).collect::<Option<_>>()?,
        probes: raw
            .probes
            .iter()
            .map(|p| Some(p.as_ref()?.value.clone()))
            .collect::<Option<_>>()?,
        policy: raw.policy?,
    })
}

/// Everything about them that must be the same on every node, in order; empty where there is nothing.
pub(super) fn fingerprint(s: &Services) -> Vec<String> {
    if s.is_empty() {
        return Vec::new();
    }
    let resources = s
        .resources
        .iter()
        .enumerate()
        .map(|(i, r)| format!("{i} {r:?}"));
    let probes = s
        .probes
        .iter()
        .enumerate()
        .map(|(i, p)| format!("{i} {p:?}"));
    resources
        .chain(probes)
        .chain([format!("{:?}", s.policy)])
        .collect()
}

/// For people and for `check --json`: a line for each.
pub(super) fn summary<S: serde::Serializer>(s: &Services, to: S) -> Result<S::Ok, S::Error> {
    let resources = s.resources.iter().map(describe);
    let probes = s.probes.iter().map(|p| format!("probe {}", p.name));
    to.collect_seq(resources.chain(probes))
}

/// "systemd unbound.service (keeps running)".
pub fn describe(r: &Resource) -> String {
    let what = match &r.kind {
        Kind::Systemd { unit } => format!("systemd {unit}"),
        Kind::Exec { start, .. } => format!("exec {}", start.first().map_or("", String::as_str)),
        Kind::Ocf {
            provider, agent, ..
        } => format!("ocf:{provider}:{agent}"),
        Kind::Drbd {
            resource,
            dual_primary,
        } => {
            let dual = if *dual_primary { ", dual primary" } else { "" };
            format!("DRBD {resource}{dual}")
        }
        Kind::Filesystem { device, mount, .. } => {
            format!("filesystem {device} on {}", mount.display())
        }
        Kind::Domain(domain) => {
            let live = domain.live.as_ref().map_or("", |_| ", migrates live");
            format!("domain {} of {}{live}", domain.name, domain.uri)
        }
    };
    let keeps = if r.keep_running {
        " (keeps running)"
    } else {
        ""
    };
    format!("{}: {what}{keeps}", r.name)
}
