//! A shutdown of this machine: are the groups handed over before systemd stops what serves them?
//!
//! systemd stops what is ordered after another first (systemd.unit(5), `Before=`). `heartline-handover.service` is
//! ordered after `multi-user.target`, so it comes before all that this target wants; a unit that only Heartline starts
//! may be ordered nowhere. What is the owner's alone is stopped by the handover itself, and is not looked at.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agent_services::resource::Kind;

use super::{Finding, Machine};
use crate::config::{Config, Node};

const AGENT: &str = "heartline.service";
const HANDOVER: &str = "heartline-handover.service";
/// Where unit files are, systemd.unit(5): the first one wins.
const PLACES: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// systemd answers in milliseconds; this is for one that does not.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks systemd; gets its answer to `systemctl show`.
#[expect(
    clippy::disallowed_methods,
    reason = "a command of its own, where nothing else waits; with a deadline"
)]
pub(super) fn show(words: &[&str]) -> Option<String> {
    let mut child = Command::new("systemctl")
        .arg("show")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let end = Instant::now() + DEADLINE;
    // Its answer is a few lines: it fits into the pipe.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// All about a shutdown of the machine that is `node`.
pub(super) fn shutdown(
    machine: &Machine,
    config: &Config,
    node: &Node,
    show: impl Fn(&[&str]) -> Option<String>,
) -> Vec<Finding> {
    let what = "shutdown";
    // sd_booted(3)
    if !machine.exists("run/systemd/system") {
        return vec![Finding::warn(
            what,
            "this machine was not booted by systemd: nothing hands over when it shuts down",
            format!(
                "stop the agent first, and wait for it; or `heartline drain {}`",
                node.name
            ),
        )];
    }
    let mut all = vec![enabled(machine, AGENT), enabled(machine, HANDOVER)];
    all.extend(order(config, node, show));
    all
}

/// Whether a unit is there, and started at boot.
fn enabled(machine: &Machine, unit: &str) -> Finding {
    let what = "shutdown";
    let installed = PLACES
        .iter()
        .any(|place| machine.exists(&format!("{place}/{unit}")));
    if !installed {
        return Finding::warn(
            what,
            format!("{unit} is not installed"),
            format!(
                "install config/{unit} as /etc/systemd/system/{unit}, then `systemctl daemon-reload`"
            ),
        );
    }
    let wanted = PLACES.iter().any(|place| machine.linked(place, unit));
    if wanted {
        return Finding::ok(what, format!("{unit} is enabled"));
    }
    Finding::warn(
        what,
        if unit == HANDOVER {
            format!(
                "{unit} is not enabled: services stop before their groups have gone to other nodes"
            )
        } else {
            format!("{unit} is not enabled: the agent does not come back after a reboot")
        },
        format!("`systemctl enable --now {unit}`"),
    )
}

/// Whether the units of this node's groups are stopped after the groups have been handed over.
fn order(
    config: &Config,
    node: &Node,
    show: impl Fn(&[&str]) -> Option<String>,
) -> Option<Finding> {
    let what = "shutdown: order";
    let units: BTreeSet<&str> = config
        .groups
        .iter()
        .filter(|group| group.prefer.contains(&node.id))
        .flat_map(|group| &group.services.resources)
        .filter(|resource| resource.keep_running)
        .filter_map(|resource| match &resource.kind {
            Kind::Systemd { unit } => Some(unit.as_str()),
            Kind::Exec { .. }
            | Kind::Ocf { .. }
            | Kind::Filesystem { .. }
            | Kind::Drbd { .. }
            | Kind::Domain(_) => None,
        })
        .collect();
    if units.is_empty() {
        return None;
    }
    let words = |unit: &str, property: &str| -> Option<BTreeSet<String>> {
        let text = show(&["--value", "--property", property, "--", unit])?;
        Some(text.split_whitespace().map(str::to_owned).collect())
    };
    let Some(mut behind) = words(HANDOVER, "After") else {
        return Some(Finding::warn(
            what,
            "systemd could not be asked (systemctl show)",
            "run `heartline doctor` as root on the node itself",
        ));
    };
    behind.insert(HANDOVER.to_owned());
    // An alias has the orders of the unit that it stands for.
    let loose: Vec<_> = units
        .iter()
        .filter(|unit| words(unit, "Before").is_none_or(|before| before.is_disjoint(&behind)))
        .copied()
        .collect();
    if loose.is_empty() {
        return Some(Finding::ok(
            what,
            format!("{HANDOVER} is stopped before {}", join(units)),
        ));
    }
    Some(Finding::warn(
        what,
        format!(
            "{} may be stopped before the groups are handed over",
            loose.join(", ")
        ),
        format!(
            "`systemctl edit {HANDOVER}`, with the lines \"[Unit]\" and \"After={}\"",
            loose.join(" ")
        ),
    ))
}

fn join(units: BTreeSet<&str>) -> String {
    units.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::{
        Level,
        tests::{Fake, expect},
    };
    use super::*;

    /// Its group `dns` has unbound.service.
    fn config() -> Config {
        let text = include_str!("../../../config/heartline.toml");
        Config::from_str(text, "heartline.toml").unwrap().config
    }

    fn look(files: &[&str], show: impl Fn(&[&str]) -> Option<String>) -> Vec<Finding> {
        let files: Vec<_> = files.iter().map(|path| (*path, "")).collect();
        let config = config();
        let fake = Fake::new(&files);
        shutdown(&fake.machine(), &config, &config.nodes[0], show)
    }

    const SYSTEMD: &str = "run/systemd/system/.keep";

    #[test]
    fn what_is_not_installed_or_enabled_is_named() {
        let none = |_: &[&str]| None;
        let all = look(&[], none);
        assert_eq!(all.len(), 1);
        expect(
            &all[0],
            Level::Warn,
            &["not booted by systemd", "heartline drain n1"],
        );

        let all = look(&[SYSTEMD], none);
        expect(
            &all[0],
            Level::Warn,
            &["heartline.service is not installed"],
        );
        expect(&all[1], Level::Warn, &["handover.service is not installed"]);
        expect(&all[2], Level::Warn, &["could not be asked"]);

        let installed = [
            SYSTEMD,
            "etc/systemd/system/heartline.service",
            "usr/lib/systemd/system/heartline-handover.service",
            // Not what enables it.
            "etc/systemd/system/heartline.service.d/heartline.service",
        ];
        let all = look(&installed, none);
        expect(
            &all[0],
            Level::Warn,
            &["does not come back after a reboot", "systemctl enable"],
        );
        expect(&all[1], Level::Warn, &["services stop before their groups"]);

        let enabled = [
            &installed[..],
            &["etc/systemd/system/multi-user.target.wants/heartline.service"],
            &["etc/systemd/system/multi-user.target.wants/heartline-handover.service"],
        ]
        .concat();
        let all = look(&enabled, none);
        expect(&all[0], Level::Ok, &["enabled"]);
        expect(&all[1], Level::Ok, &["enabled"]);
    }

    #[test]
    fn a_unit_that_may_stop_too_early_is_named() {
        let says = |after: &'static str, before: &'static str| {
            move |words: &[&str]| match words {
                ["--value", "--property", "After", "--", HANDOVER] => Some(after.to_owned()),
                ["--value", "--property", "Before", "--", "unbound.service"] => {
                    Some(before.to_owned())
                }
                _ => panic!("{words:?}"),
            }
        };
        let order = |after, before| look(&[SYSTEMD], says(after, before)).remove(2);
        let after = "multi-user.target dbus.service heartline.service\n";
        expect(
            &order(after, "shutdown.target multi-user.target\n"),
            Level::Ok,
            &["before unbound.service"],
        );
        expect(
            &order(after, "shutdown.target\n"),
            Level::Warn,
            &[
                "unbound.service may be stopped before",
                "After=unbound.service",
            ],
        );
        // As the mend makes it.
        expect(
            &order(after, "shutdown.target heartline-handover.service\n"),
            Level::Ok,
            &["unbound.service"],
        );
    }
}
