//! `[[fence]]`: how nodes are fenced, and `[watchdog]`: how a node ends itself.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use agent_services::fence::{Device, Goal, Plan, Secret, is_secret_name};
use serde::{Serialize, Serializer};

use super::check::Local;
use super::raw::{At, RawConfig};
use super::render::Diagnostic;
use super::services::{bounded, filled};
use super::table::{Table, did_you_mean};
use super::types::Config;

/// Devices that a cluster may have.
const MAX_DEVICES: usize = 256;
/// Levels of a node.
const MAX_LEVEL: i64 = 8;
const SECOND: u64 = 1_000_000_000;
/// Bounds of the time that one call of an agent may take.
const TIMEOUT_NS: RangeInclusive<u64> = SECOND..=600 * SECOND;
/// Bounds of the wait before a node is fenced.
const DELAY_NS: RangeInclusive<u64> = 0..=60 * SECOND;
/// Bounds of the time between two questions whether a device works.
const MONITOR_NS: RangeInclusive<u64> = 5 * SECOND..=86_400 * SECOND;
/// Bounds of the watchdog's time.
const WATCHDOG_NS: RangeInclusive<u64> = 2 * SECOND..=600 * SECOND;

/// One fence device of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fence {
    /// Id of the node that it ends.
    pub node: u8,
    /// Levels are tried in rising order; within one, all devices must succeed.
    pub level: u8,
    /// The node stays off, in place of being started again.
    pub stays_off: bool,
    /// Waited for before the node is fenced.
    #[serde(skip)]
    pub delay: Duration,
    /// Time between two questions whether the device works.
    #[serde(skip)]
    pub monitor_interval: Duration,
    /// The device.
    #[serde(serialize_with = "device_name")]
    pub device: Device,
}

fn device_name<S: Serializer>(device: &Device, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{} ({})", device.name, device.agent))
}

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}, level {}",
            self.device.name, self.device.agent, self.level
        )
    }
}

/// How a node ends itself when it has lost its lease and something that must not run twice does not stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watchdog {
    /// The device.
    pub device: PathBuf,
    /// After which it resets the machine.
    #[serde(skip)]
    pub timeout: Duration,
    /// Its clock runs while the machine stands still, so that others may take over when its time is over.
    pub proof: bool,
    /// Where the device cannot be had the agent resets the machine itself, by sysrq.
    pub sysrq: bool,
}

impl Watchdog {
    /// So long after it was last heard a node is certainly reset.
    #[must_use]
    pub fn fires_within(&self) -> Duration {
        agent_services::watchdog::fires_within(self.timeout)
    }
}

impl Config {
    /// May a node own something that must not run twice?
    #[must_use]
    pub fn holds_state(&self, node: u8) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|g| g.prefer.contains(&node) && g.services.is_stateful())
    }

    /// How a node is fenced: its devices by level. `None` if it has none.
    #[must_use]
    pub fn fence_plan(&self, node: u8) -> Option<Plan> {
        let mut devices: Vec<&Fence> = self.fences.iter().filter(|f| f.node == node).collect();
        devices.sort_by_key(|f| f.level);
        let name = self.node_by_id(node)?.name.clone();
        let levels = devices.chunk_by(|a, b| a.level == b.level);
        let plan = Plan {
            node: name,
            levels: levels
                .map(|l| l.iter().map(|f| f.device.clone()).collect())
                .collect(),
            delay: devices.iter().map(|f| f.delay).max().unwrap_or_default(),
            goal: if devices.iter().any(|f| f.stays_off) {
                Goal::Off
            } else {
                Goal::Reboot
            },
        };
        (!plan.levels.is_empty()).then_some(plan)
    }
}

/// What was read of one device; the node is still a name.
#[derive(Debug)]
pub(super) struct RawFence {
    node: At<String>,
    name: At<String>,
    fence: Fence,
}

/// Reads all devices. `None` in the list is "wrong, and reported".
pub(super) fn read(top: &mut Table<'_, '_, '_>) -> Vec<Option<RawFence>> {
    let tables = top.tables("fence", "[[fence]]");
    if let Some((_, span)) = tables.get(MAX_DEVICES) {
        let message = format!("{} fence devices: {MAX_DEVICES} is the most", tables.len());
        top.out.push(
            Diagnostic::error("too-many-fences", span.clone(), message)
                .help("a node needs one or two"),
        );
    }
    let mut list = Vec::new();
    for table in tables.into_iter().take(MAX_DEVICES) {
        let mut t = top.child(table, "[[fence]]");
        list.push(fence(&mut t));
        t.finish();
    }
    list
}

fn fence(t: &mut Table<'_, '_, '_>) -> Option<RawFence> {
    t.need("name", "name = \"ipmi-n2\"");
    t.need("node", "node = \"n2\"");
    let name = t.string("name", "name = \"ipmi-n2\"");
    let node = t.string("node", "node = \"n2\"");
    let agent = agent(t);
    let parameters = t.strings_by_name("parameters");
    let parameters_span = t
        .table
        .get("parameters")
        .map_or(t.span.clone(), |v| v.span());
    let secrets = t.strings_by_name("secrets");
    let level = t.integer("level", 1..=MAX_LEVEL, "bad-level");
    let level_wrong = level.is_none() && t.table.contains_key("level");
    // Off, seen to be off, on; off alone; or what the agent calls a reboot, of which nothing can be seen.
    let actions = [
        ("reboot", (false, false)),
        ("off", (true, false)),
        ("cycle", (false, true)),
    ];
    let action = t.choice("action", &actions);
    let action_wrong = action.is_none() && t.table.contains_key("action");
    let (stays_off, only_reboots) = action.map_or((false, false), |a| a.value);
    let verify = t.boolean("verify").unwrap_or(true);
    let minute = Duration::from_secs(60);
    let timeout = bounded(t, "timeout", "60s", &TIMEOUT_NS, minute);
    let delay = bounded(t, "delay", "5s", &DELAY_NS, Duration::ZERO);
    let monitor_interval = bounded(t, "monitor_interval", "1min", &MONITOR_NS, minute);
    let (name, parameters) = (name?, parameters?);
    let mut good = true;
    let mut refuse = |code, message: String, help: String| {
        t.out
            .push(Diagnostic::error(code, parameters_span.clone(), message).help(help));
        good = false;
    };
    for (key, value) in &parameters {
        if matches!(key.as_str(), "action" | "option" | "nodename") {
            let help =
                "remove it: what is done is said by `action` of [[fence]] and by Heartline".into();
            refuse(
                "fence-own",
                format!("`{key}` is not for `parameters`"),
                help,
            );
        } else if is_secret_name(key) {
            let help = format!(
                "put the value into a file of mode 0600, and write `secrets = {{ {key} = \"/etc/heartline/{}.secret\" }}`",
                name.value
            );
            refuse(
                "fence-secret",
                format!("`{key}` is a secret, and this file is none"),
                help,
            );
        } else if !is_line(key) || !is_line(value) || key.contains('=') {
            let help = "letters, digits, `_` and `-` for the name, one line for the value".into();
            refuse(
                "fence-line",
                format!("`{key}` or its value cannot be given to an agent"),
                help,
            );
        }
    }
    let secrets: Vec<Secret> = secrets?
        .into_iter()
        .map(|(parameter, file)| Secret {
            parameter,
            file: file.into(),
        })
        .collect();
    for s in &secrets {
        if !s.file.is_absolute() || !is_line(&s.parameter) || s.parameter.contains('=') {
            let help = "write the absolute path of a file of mode 0600 that holds the value".into();
            refuse(
                "fence-secret",
                format!("`{}` of `secrets` does not name a file", s.parameter),
                help,
            );
        }
    }
    if !good || level_wrong || action_wrong {
        return None;
    }
    let device = Device {
        name: name.value.clone(),
        agent: agent?,
        parameters,
        secrets,
        timeout: timeout?,
        verify,
        can_on: !stays_off && !only_reboots,
        only_reboots,
    };
    let fence = Fence {
        node: 0,
        level: level.map_or(Some(1), |l| u8::try_from(l.value).ok())?,
        stays_off,
        delay: delay?,
        monitor_interval: monitor_interval?,
        device,
    };
    Some(RawFence {
        node: node?,
        name,
        fence,
    })
}

fn is_line(text: &str) -> bool {
    !text.contains(|c: char| c.is_control())
}

/// The name of an agent in PATH, or the path of a program.
fn agent(t: &mut Table<'_, '_, '_>) -> Option<String> {
    t.need("agent", "agent = \"fence_ipmilan\"");
    let agent = t.string("agent", "agent = \"fence_ipmilan\"")?;
    let name = agent.value.as_str();
    let plain = name.starts_with("fence_")
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if plain || name.starts_with('/') && is_line(name) {
        return Some(agent.value);
    }
    t.out.push(
        Diagnostic::error("bad-agent", agent.span, format!("{name:?} is no fence agent"))
            .help("the name of one of the package fence-agents, as in `fence_ipmilan`, or the path of a program"),
    );
    None
}

/// Rules about all devices.
pub(super) fn check(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let names: Vec<&str> = raw
        .nodes
        .iter()
        .filter_map(|n| n.name.as_ref())
        .map(|n| n.value.as_str())
        .collect();
    for fence in raw.fences.iter().flatten() {
        if !names.contains(&fence.node.value.as_str()) {
            let message = format!("there is no node \"{}\" to fence", fence.node.value);
            out.push(
                Diagnostic::error("unknown-node", fence.node.span.clone(), message)
                    .help(did_you_mean(&fence.node.value, names.iter().copied())),
            );
        }
        super::check::check_name("name of a fence device", &fence.name, out);
    }
    super::check::check_distinct(
        "duplicate-fence",
        raw.fences.iter().flatten().map(|f| &f.name),
        out,
        |name| format!("two fence devices have the name \"{name}\""),
        |_| {
            "give each its own name; a device that ends several nodes has a section for each".into()
        },
    );
}

/// As the configuration holds them; `None` if something is missing.
pub(super) fn typed(raw: &RawConfig) -> Option<Vec<Fence>> {
    let typed = |raw_fence: &Option<RawFence>| {
        let raw_fence = raw_fence.as_ref()?;
        let mut nodes = raw.nodes.iter();
        let node = nodes.find(|n| {
            n.name
                .as_ref()
                .is_some_and(|name| name.value == raw_fence.node.value)
        })?;
        let node = u8::try_from(node.id.as_ref()?.value).ok()?;
        Some(Fence {
            node,
            ..raw_fence.fence.clone()
        })
    };
    raw.fences.iter().map(typed).collect()
}

/// Rules about this machine: the watchdog must be here, and free, where this is a node that may need it.
pub(super) fn check_local(config: &Config, local: &Local, out: &mut Vec<Diagnostic>) -> bool {
    let node = match local {
        Local::Named(name) => config.node_by_name(name),
        Local::Hostname(name) => config.node_by_hostname(name),
    };
    let (Some(dog), Some(node)) = (&config.watchdog, node) else {
        return true;
    };
    if !config.holds_state(node.id) {
        return true;
    }
    let strangers = |l: agent_services::watchdog::Look| {
        let others = l.held_by.into_iter().filter(|p| !p.contains("heartline"));
        others.collect::<Vec<_>>().join(", ")
    };
    let why = match agent_services::watchdog::look(&dog.device).map(strangers) {
        Ok(who) if who.is_empty() => return true,
        Ok(who) => format!("{} is in use by {who}", dog.device.display()),
        Err(error) => error.to_string(),
    };
    let name = &node.name;
    if dog.sysrq {
        let text = format!("node {name} is this machine: {why}; it would reset itself by sysrq");
        out.push(Diagnostic::warning("no-watchdog", None, text));
        return true;
    }
    let text = format!("node {name} is this machine, and would start nothing stateful: {why}");
    out.push(Diagnostic::error("no-watchdog", None, text).help(
        "`--no-local` judges the text alone; `sysrq = true` is the last resort where there is no device",
    ));
    false
}

/// Reads `[watchdog]`: `Some(None)` is "wrong, and reported".
pub(super) fn watchdog(top: &mut Table<'_, '_, '_>) -> Option<Option<Watchdog>> {
    let mut t = top.table("watchdog", "[watchdog]")?;
    let device = if t.table.contains_key("device") {
        filled(&mut t, "device", "device = \"/dev/watchdog\"")
    } else {
        t.known("device");
        Some(agent_services::watchdog::DEVICE.to_owned())
    };
    let device = device.filter(|d| {
        let good = d.starts_with('/') && is_line(d);
        if !good {
            let span = t.span.clone();
            t.out.push(
                Diagnostic::error("bad-watchdog", span, format!("{d} is no device")).help(
                    "write it as `device = \"/dev/watchdog\"`; wdctl(8) shows those that there are",
                ),
            );
        }
        good
    });
    let timeout = bounded(
        &mut t,
        "timeout",
        "10s",
        &WATCHDOG_NS,
        Duration::from_secs(10),
    );
    let whole = timeout.filter(|time| {
        let whole = time.subsec_nanos() == 0;
        if !whole {
            let span = t.span.clone();
            t.out.push(
                Diagnostic::error("bad-watchdog", span, "watchdogs count in whole seconds")
                    .help("write it as `timeout = \"10s\"`"),
            );
        }
        whole
    });
    let proof = t.boolean("proof").unwrap_or(false);
    let sysrq = t.boolean("sysrq").unwrap_or(false);
    if proof && sysrq {
        let span = t.span.clone();
        let message = "`proof` and `sysrq` contradict each other: who resets itself by sysrq is not reset while it stands still";
        t.out.push(
            Diagnostic::error("bad-watchdog", span, message)
                .help("remove one of them; without `sysrq` a node whose device cannot be had starts nothing stateful"),
        );
    }
    t.finish();
    Some(device.zip(whole).map(|(device, timeout)| Watchdog {
        device: device.into(),
        timeout,
        proof,
        sysrq,
    }))
}
