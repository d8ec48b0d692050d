//! Second half of reading: what can only be seen in the whole, and the typed [`Config`] at the end.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use tracing_subscriber::EnvFilter;

use super::check_groups::{check_groups, typed_groups};
use super::check_nodes::{check_nodes, typed_nodes};
use super::digest::cluster_id;
use super::key::KeyFile;
use super::raw::{At, RawConfig, RawTiming};
use super::render::{Diagnostic, Severity, Span};
use super::table::{did_you_mean, nearest};
use super::types::{Config, DEFAULT_KEY_FILE, DEFAULT_PORT, Datapath, Profile, Timing, show_ns};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Bounds of a heartbeat interval.
const HEARTBEAT_NS: std::ops::RangeInclusive<u64> = MS / 10..=10 * SECOND;
/// Bounds of the time between announcements.
const ANNOUNCE_NS: std::ops::RangeInclusive<u64> = SECOND..=3_600 * SECOND;
/// Upper bound of `max_promise`.
const MAX_PROMISE_NS: u64 = 60 * SECOND;

/// What to look at besides the text. By default: nothing.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// Look at the key file.
    pub key_file: bool,
    /// Look for the interfaces of this node on this machine.
    pub interfaces_of: Option<Local>,
}

/// Which node this machine is.
#[derive(Clone, Debug)]
pub enum Local {
    /// Somebody said so: a name that is not in the file is an error.
    Named(String),
    /// Guessed from the host name: if that is no node, nothing is looked for.
    Hostname(String),
}

/// Goes through all rules. Gives a configuration if no error was found, by this or before.
pub(super) fn check(
    raw: &RawConfig,
    base: &Path,
    checks: &Checks,
    out: &mut Vec<Diagnostic>,
) -> Option<Config> {
    if let Some(cluster) = &raw.cluster {
        check_name("cluster name", cluster, out);
    }
    let announce_interval_ns = check_announce(raw.announce_interval.as_ref(), out);
    let log = check_log(raw.log.as_ref(), out);
    if let Some(tie_break) = &raw.tie_break {
        check_tie_break(tie_break, out);
    }
    let timing = check_timing(&raw.timing, out);
    check_sockets(raw, &timing, out);

    let key_text = raw
        .key_file
        .as_ref()
        .map_or(DEFAULT_KEY_FILE, |k| k.value.as_str());
    let key_file = base.join(key_text);
    if raw
        .key_file
        .as_ref()
        .is_some_and(|k| k.value.trim().is_empty())
    {
        let span = raw.key_file.as_ref().map(|k| k.span.clone());
        out.push(
            Diagnostic::error("key-missing", span, "`key_file` is empty")
                .help("write the path of the key file"),
        );
    } else if checks.key_file
        && let Err(error) = KeyFile::load(&key_file)
    {
        let span = raw.key_file.as_ref().map_or(0..0, |k| k.span.clone());
        out.push(Diagnostic::error(error.code(), span, error.to_string()).help(error.help()));
    }

    check_nodes(raw, out);
    check_groups(raw, out);
    super::fence::check(raw, out);
    if let Some(local) = &checks.interfaces_of {
        super::local::check_interfaces(raw, local, out);
    }

    if out.iter().any(|d| d.severity == Severity::Error) {
        return None;
    }
    let config = build(raw, key_file, timing, announce_interval_ns, log);
    if config.is_none() {
        // No rule complained, yet a part is missing: a fault of this module. Refusing is the safe side of it.
        out.push(Diagnostic::error(
            "internal",
            None,
            "a part of the configuration was lost while reading; please report this",
        ));
    }
    let local = checks.interfaces_of.as_ref();
    config.filter(|config| local.is_none_or(|local| super::fence::check_local(config, local, out)))
}

fn build(
    raw: &RawConfig,
    key_file: std::path::PathBuf,
    timing: Timing,
    announce_interval_ns: u64,
    log: String,
) -> Option<Config> {
    let cluster = raw.cluster.as_ref()?.value.clone();
    let nodes = typed_nodes(raw)?;
    let groups = typed_groups(raw, &nodes)?;
    Some(Config {
        cluster_id: cluster_id(&cluster),
        cluster,
        generation: raw
            .generation
            .as_ref()
            .map_or(Some(1), |g| u32::try_from(g.value).ok())?,
        key_file,
        port: raw
            .port
            .as_ref()
            .map_or(Some(DEFAULT_PORT), |p| u16::try_from(p.value).ok())?,
        datapath: raw.datapath.unwrap_or(Datapath::Auto),
        timing,
        announce_interval_ns,
        log,
        nodes,
        groups,
        hooks: raw
            .hooks
            .iter()
            .map(|h| Some(h.as_ref()?.value.clone()))
            .collect::<Option<_>>()?,
        fences: super::fence::typed(raw)?,
        watchdog: match &raw.watchdog {
            None => None,
            Some(watchdog) => Some(watchdog.clone()?),
        },
    })
}

/// Names go into command lines, file names and tables: letters, digits, `-`, `_` and `.`, 1 to 63.
pub(super) fn check_name(what: &str, name: &At<String>, out: &mut Vec<Diagnostic>) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts_well = name.value.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !starts_well || name.value.len() > 63 || !name.value.chars().all(good) {
        out.push(
            Diagnostic::error(
                "bad-name",
                name.span.clone(),
                format!("{:?} is no good {what}", name.value),
            )
            .help("letters, digits, `-`, `_` and `.`, a letter or digit first, at most 63"),
        );
    }
}

/// Device names as the kernel takes them; the loopback device carries nothing from outside.
pub(super) fn check_device(device: &At<String>, out: &mut Vec<Diagnostic>) {
    let name = device.value.as_str();
    let why = match name {
        "" => "is empty",
        "lo" => "is the loopback device: nothing from other machines passes there",
        "." | ".." => "is no device name",
        _ if name.len() > 15 => "is longer than the 15 bytes that the kernel allows",
        _ if name
            .contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) =>
        {
            "holds a character that the kernel refuses in device names"
        }
        _ => return,
    };
    out.push(
        Diagnostic::error(
            "bad-device",
            device.span.clone(),
            format!("device {name:?} {why}"),
        )
        .help("use a name that `ip -brief link` shows on that node"),
    );
}

/// Reports each value that was there before.
pub(super) fn check_distinct<'a, T: Hash + Eq + 'a>(
    code: &'static str,
    values: impl Iterator<Item = &'a At<T>>,
    out: &mut Vec<Diagnostic>,
    message: impl Fn(&T) -> String,
    help: impl Fn(&T) -> String,
) {
    let mut seen: HashMap<&T, Span> = HashMap::new();
    for value in values {
        if let Some(first) = seen.get(&value.value) {
            out.push(
                Diagnostic::error(code, value.span.clone(), message(&value.value))
                    .also(first.clone(), "first used here")
                    .help(help(&value.value)),
            );
        } else {
            seen.insert(&value.value, value.span.clone());
        }
    }
}

fn check_announce(interval: Option<&At<u64>>, out: &mut Vec<Diagnostic>) -> u64 {
    let Some(interval) = interval else {
        return 60 * SECOND;
    };
    if !ANNOUNCE_NS.contains(&interval.value) {
        let (low, high) = (show_ns(*ANNOUNCE_NS.start()), show_ns(*ANNOUNCE_NS.end()));
        let message = format!(
            "announce_interval {} is outside {low} to {high}",
            show_ns(interval.value)
        );
        out.push(
            Diagnostic::error("bad-announce-interval", interval.span.clone(), message)
                .help("the default is \"60s\""),
        );
    }
    interval.value
}

fn check_log(log: Option<&At<String>>, out: &mut Vec<Diagnostic>) -> String {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let Some(log) = log else { return "info".into() };
    // A bare word would be taken as the name of a module, and silence everything else.
    let bare = !log.value.contains(['=', ',', '['])
        && !LEVELS.contains(&log.value.to_lowercase().as_str());
    if bare || EnvFilter::builder().parse(&log.value).is_err() {
        out.push(
            Diagnostic::error(
                "bad-log",
                log.span.clone(),
                format!("`log`: {:?} is not a log filter", log.value),
            )
            .help(format!(
                "{}; or a filter per module, as in \"info,heartline::rt=debug\"",
                did_you_mean(&log.value, LEVELS)
            )),
        );
    }
    log.value.clone()
}

fn check_tie_break(tie_break: &At<String>, out: &mut Vec<Diagnostic>) {
    const KNOWN: [&str; 2] = ["unsafe-ping", "fencing"];
    let word = tie_break.value.as_str();
    let diagnostic = if KNOWN.contains(&word) {
        Diagnostic::error("tie-break-later", tie_break.span.clone(), format!("tie_break \"{word}\" comes in a later release"))
            .help("add a witness for now: a third, tiny node with `role = \"witness\"`, and remove `tie_break`")
    } else {
        let near =
            nearest(word, KNOWN).map_or_else(String::new, |k| format!("did you mean `{k}`? "));
        Diagnostic::error("bad-choice", tie_break.span.clone(), format!("`tie_break` cannot be {word:?}")).help(format!(
            "{near}\"unsafe-ping\" and \"fencing\" are planned; for now add a witness and remove `tie_break`"
        ))
    };
    out.push(diagnostic);
}

/// Shortest lease that any usual kernel (tick of 1 ms) can keep with sockets and nftables, beyond its heartbeat.
const SOCKET_LEASE_MIN: u64 = 9_000_000;
/// Below this, a kernel with a long tick (10 ms) cannot keep it, and one lost heartbeat may be felt.
const SOCKET_LEASE_GOOD: u64 = 100_000_000;

/// The gate of the socket data path shuts by the kernel's tick, some ticks before its lease: the lease must be longer.
/// What this machine's tick is, the agent looks at, and `doctor`.
fn check_sockets(raw: &RawConfig, timing: &Timing, out: &mut Vec<Diagnostic>) {
    if raw.datapath != Some(Datapath::Socket) {
        return;
    }
    let span = raw.timing.profile.as_ref().map(|p| p.span.clone());
    let lease = show_ns(timing.lease_ns);
    let help = "use profile \"wan\", or a longer `takeover` (such as \"250ms\"), on all nodes; or `datapath = \"auto\"` on this one";
    if timing.lease_ns < timing.heartbeat_ns + SOCKET_LEASE_MIN {
        let message = format!(
            "the lease of {lease} is too short for datapath \"socket\": its gate goes by the kernel's tick (1 to 10 ms)"
        );
        out.push(Diagnostic::error("socket-lease", span, message).help(help));
    } else if timing.lease_ns < SOCKET_LEASE_GOOD {
        let message = format!(
            "a lease of {lease} is tight for datapath \"socket\": one lost heartbeat may stop VIP traffic for a moment"
        );
        out.push(Diagnostic::warning("socket-lease", span, message).help(help));
    }
}

/// A time with the place to blame: its own line, else the profile's, else the section, else the top.
struct Time<'a> {
    name: &'static str,
    ns: u64,
    own: Option<&'a Span>,
    profile: Profile,
}

impl Time<'_> {
    /// `lease 40ms`, and where it comes from if the file does not say it.
    fn show(&self) -> String {
        let from = if self.own.is_some() {
            String::new()
        } else {
            format!(" (profile {})", self.profile.name())
        };
        format!("{} {}{from}", self.name, show_ns(self.ns))
    }
}

fn check_timing(raw: &RawTiming, out: &mut Vec<Diagnostic>) -> Timing {
    let profile = raw.profile.as_ref().map_or(Profile::Lan, |p| p.value);
    let default = profile.timing();
    let fallback = raw
        .profile
        .as_ref()
        .map(|p| p.span.clone())
        .or_else(|| raw.span.clone())
        .unwrap_or(0..0);
    let time = |name, at: &'_ Option<At<u64>>, default| {
        (
            name,
            at.as_ref().map_or(default, |t| t.value),
            at.as_ref().map(|t| t.span.clone()),
        )
    };
    let parts = [
        time("heartbeat", &raw.heartbeat, default.heartbeat_ns),
        time("lease", &raw.lease, default.lease_ns),
        time("takeover", &raw.takeover, default.takeover_ns),
        time("max_promise", &raw.max_promise, default.max_promise_ns),
    ];
    let [heartbeat, lease, takeover, max_promise] = parts.each_ref().map(|(name, ns, own)| Time {
        name,
        ns: *ns,
        own: own.as_ref(),
        profile,
    });

    // Blame a time that the file names rather than one of the profile.
    let blame =
        |first: &Time<'_>, second: &Time<'_>| first.own.or(second.own).unwrap_or(&fallback).clone();
    let mut bad = |code, span, message: String, help: String| {
        out.push(Diagnostic::error(code, span, message).help(help))
    };

    if !HEARTBEAT_NS.contains(&heartbeat.ns) {
        let (low, high) = (show_ns(*HEARTBEAT_NS.start()), show_ns(*HEARTBEAT_NS.end()));
        bad(
            "timing-heartbeat",
            blame(&heartbeat, &heartbeat),
            format!(
                "heartbeat {} is outside {low} to {high}",
                show_ns(heartbeat.ns)
            ),
            "choose a profile (fast, lan, wan), or a heartbeat inside the bounds".into(),
        );
    }
    let two = heartbeat.ns.saturating_mul(2);
    if lease.ns < two {
        bad(
            "timing-lease",
            blame(&lease, &heartbeat),
            format!(
                "{} must be at least two heartbeats, 2 * {} = {}",
                lease.show(),
                heartbeat.show(),
                show_ns(two)
            ),
            format!(
                "one lost heartbeat would end the lease: raise lease to {} (four heartbeats), or lower heartbeat",
                show_ns(heartbeat.ns.saturating_mul(4))
            ),
        );
    }
    // 1.23: two clocks slewed against each other.
    let stretched = u128::from(lease.ns) * 123;
    if stretched >= u128::from(takeover.ns) * 100 {
        let stretched_ns = u64::try_from(stretched / 100).unwrap_or(u64::MAX);
        let room = round_down(
            u64::try_from((u128::from(takeover.ns) * 100).saturating_sub(1) / 123)
                .unwrap_or(u64::MAX),
        );
        let fit = round_up(u64::try_from(u128::from(lease.ns) * 5 / 4).unwrap_or(u64::MAX));
        bad(
            "timing-takeover",
            blame(&takeover, &lease),
            format!(
                "{} * 1.23 = {} must be below {}",
                lease.show(),
                show_ns(stretched_ns),
                takeover.show()
            ),
            format!(
                "a lease must end before the promises behind it, even with clocks that drift: lower lease to {}, or raise takeover to {}",
                show_ns(room),
                show_ns(fit)
            ),
        );
    }
    if max_promise.ns > MAX_PROMISE_NS {
        bad(
            "timing-max-promise",
            blame(&max_promise, &max_promise),
            format!(
                "{} must be at most {}",
                max_promise.show(),
                show_ns(MAX_PROMISE_NS)
            ),
            "a voter with fresh state waits that long before it votes; the default is \"10s\""
                .into(),
        );
    }
    if takeover.ns >= max_promise.ns / 2 {
        bad(
            "timing-promise",
            blame(&takeover, &max_promise),
            format!(
                "{} must be below half of {}",
                takeover.show(),
                max_promise.show()
            ),
            format!(
                "lower takeover, or raise max_promise (default 10s) above {}",
                show_ns(takeover.ns.saturating_mul(2))
            ),
        );
    }
    Timing {
        profile,
        heartbeat_ns: heartbeat.ns,
        lease_ns: lease.ns,
        takeover_ns: takeover.ns,
        max_promise_ns: max_promise.ns,
    }
}

/// To two digits, downwards: a mend that a person would write.
fn round_down(ns: u64) -> u64 {
    let step = 10_u64.pow(ns.max(1).ilog10().saturating_sub(1));
    ns / step * step
}

/// To two digits, upwards.
fn round_up(ns: u64) -> u64 {
    let step = 10_u64.pow(ns.max(1).ilog10().saturating_sub(1));
    ns.div_ceil(step).saturating_mul(step)
}
