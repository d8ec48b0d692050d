//! `heartline doctor`: can this machine run Heartline well, and if not, what is the mend?
//!
//! One function per finding. What is read from `/proc` and `/sys` goes through [`Machine`], so that tests can show
//! another machine. Nothing here changes anything.

mod device;
mod guards;
mod links;
mod rights;
mod sockets;
mod system;
mod units;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Checks, Config, LoadError, Node};
use crate::control::proto::StatusReport;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but know this.
    Warn,
    /// Heartline cannot do its work.
    Bad,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was looked at, as `kernel` or `eth0: mtu`.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do; `None` if nothing needs to be done.
    pub mend: Option<String>,
}

impl Finding {
    fn ok(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            found: found.into(),
            mend: None,
        }
    }
    fn warn(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            what: what.into(),
            found: found.into(),
            mend: Some(mend.into()),
        }
    }
    fn bad(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Bad,
            what: what.into(),
            found: found.into(),
            mend: Some(mend.into()),
        }
    }
}

/// Where `/proc` and `/sys` are.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        Self { root: "/".into() }
    }

    #[cfg(test)]
    fn at(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// A small file below the root, without white space around it.
    fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Whether a folder `*.wants` or `*.requires` below `place` has this name, as `systemctl enable` makes it.
    fn linked(&self, place: &str, name: &str) -> bool {
        let entries = std::fs::read_dir(self.root.join(place));
        entries.into_iter().flatten().flatten().any(|entry| {
            let folder = entry.path();
            let pulls = folder
                .extension()
                .is_some_and(|kind| kind == "wants" || kind == "requires");
            // The link may lead to a place of the machine, not below this root.
            pulls && folder.join(name).symlink_metadata().is_ok()
        })
    }
}

/// What `heartline doctor` is asked to look at.
#[derive(Clone, Debug)]
pub struct Questions {
    /// The configuration.
    pub config: PathBuf,
    /// Whether somebody named it, so that it must be there.
    pub config_named: bool,
    /// Which node this machine is; by host name otherwise.
    pub node: Option<String>,
    /// Where the agent pins its programs and maps.
    pub bpf_dir: PathBuf,
    /// What the agent that runs here says of itself.
    pub agent: Option<Box<StatusReport>>,
}

/// Looks at everything, in the order in which a person would mend it.
#[must_use]
pub fn examine(machine: &Machine, questions: &Questions) -> Vec<Finding> {
    let mut all = vec![
        system::kernel(machine),
        system::bpf_file_system(machine, &questions.bpf_dir),
        system::btf(machine),
        system::jit(machine),
        rights::capabilities(machine),
        rights::real_time(machine),
        rights::real_time_budget(machine),
        rights::locked_memory(machine),
        rights::group(),
        system::clock_source(machine),
        system::other_tools(machine),
    ];
    let (finding, config) = configuration(questions);
    all.push(finding);
    if let Some(config) = &config {
        sockets::without_bpf(machine, config, &mut all);
        let hostname = nix::unistd::gethostname()
            .map(|h| h.to_string_lossy().into_owned())
            .unwrap_or_default();
        let node = match &questions.node {
            Some(name) => config.node_by_name(name),
            None => config.node_by_hostname(&hostname),
        };
        match node {
            Some(node) => {
                all.extend(of_node(machine, config, node));
                all.extend(guards::watchdog(machine, config, node));
                all.extend(guards::fences(config, node, questions.agent.as_deref()));
                all.extend(units::shutdown(machine, config, node, units::show));
            }
            None => all.push(no_node(questions.node.as_deref(), &hostname)),
        }
    }
    all.extend(system::assumptions(machine));
    all
}

/// What this machine runs on, if it is a guest.
#[must_use]
pub fn hypervisor() -> Option<String> {
    system::hypervisor(&Machine::this())
}

fn no_node(named: Option<&str>, hostname: &str) -> Finding {
    match named {
        Some(name) => Finding::bad(
            "node",
            format!("there is no node \"{name}\" in the configuration"),
            "correct --node, or add the node",
        ),
        None => Finding::warn(
            "node",
            format!("this machine ({hostname}) is none of the nodes: its links were not looked at"),
            "say which node it is: `--node NAME`",
        ),
    }
}

/// All about the links and VIP devices of one node.
fn of_node(machine: &Machine, config: &Config, node: &Node) -> Vec<Finding> {
    let mut all = Vec::new();
    for used in links::devices_of(config, node) {
        let Some(seen) = device::look(&used.name) else {
            all.push(Finding::bad(
                format!("{}: device", used.name),
                "there is no such device",
                "correct `device` in the configuration, or bring the device up",
            ));
            continue;
        };
        all.push(links::state(&used, &seen));
        all.push(links::data_path(config, &used, &seen));
        all.push(links::mtu(&used, &seen));
        all.extend(links::checksum_offload(&used, &seen));
        all.extend(links::sysctls(machine, &used));
    }
    all.extend(links::addresses(node));
    all
}

/// The configuration with its key file. Devices have findings of their own.
fn configuration(questions: &Questions) -> (Finding, Option<Config>) {
    let what = "configuration";
    let path = &questions.config;
    match Config::load(path) {
        Ok(loaded) => {
            let finding = match loaded.report.warnings() {
                0 => Finding::ok(
                    what,
                    format!("{} is good, and so is its key file", path.display()),
                ),
                n => Finding::warn(
                    what,
                    format!("{} is good, with {n} warnings", path.display()),
                    format!("`heartline check {}` shows them", path.display()),
                ),
            };
            (finding, Some(loaded.config))
        }
        Err(error @ LoadError::Refused(_)) => {
            let mend = format!(
                "`heartline check {}` shows all errors, each with its mend",
                path.display()
            );
            // Look at the links all the same, if it is not the text that is wrong.
            let config = Config::load_with(path, &Checks::default())
                .ok()
                .map(|l| l.config);
            (Finding::bad(what, error.to_string(), mend), config)
        }
        Err(error @ LoadError::Unreadable { .. }) => {
            let mend = "write one (see config/heartline.toml), then `heartline check` it; or name it with --config";
            let level = if questions.config_named {
                Level::Bad
            } else {
                Level::Warn
            };
            (
                Finding {
                    level,
                    ..Finding::warn(what, error.to_string(), mend)
                },
                None,
            )
        }
    }
}

/// Whether `path` or one of its parents is `mount`.
fn is_below(path: &Path, mount: &str) -> bool {
    path.starts_with(mount)
}
