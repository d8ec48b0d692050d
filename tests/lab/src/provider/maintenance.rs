//! Rolling maintenance by `heartline maintain --all -- systemctl reboot`, run on one of the nodes, which reaches the
//! others by ssh. The lab only switches machines on again, and logs in again after that node's own reboot.

use std::{
    fs::{File, OpenOptions},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::rig::Provider;
use crate::{exec, interrupt};

const POLL: Duration = Duration::from_millis(20);
/// Three reboots, and waiting for three nodes to be well again.
const DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Reboots all nodes, one after the other; the one that it is run on comes last. Returns what it said.
///
/// # Errors
/// It fails, or a machine does not come up; the error shows what it said.
pub fn run(provider: &mut Provider, on: &str) -> Result<String> {
    let log = provider.lab.dir().join("maintain.log");
    let _ = std::fs::remove_file(&log);
    let done = drive(provider, on, &log);
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    match done {
        Ok(()) => Ok(said),
        Err(error) => Err(error.context(format!("heartline maintain on {on} said:\n{said}"))),
    }
}

fn drive(provider: &mut Provider, on: &str, log: &std::path::Path) -> Result<()> {
    let begin = ["--all", "--", "systemctl", "reboot"];
    let mut child = start(provider, on, &begin, log)?;
    let mut rebooted = false;
    let mut done = false;
    let result = interrupt::until(DEADLINE, POLL, || {
        let names: Vec<_> = provider
            .machines
            .iter()
            .map(|machine| machine.name().to_owned())
            .collect();
        for name in names {
            if !provider.machine(&name)?.running() {
                provider.again(&name)?;
                rebooted |= name == on;
            }
        }
        let Some(status) = child.try_wait()? else {
            return Ok(false);
        };
        if status.success() {
            done = true;
            return Ok(true);
        }
        if !rebooted {
            // Ended by the shutdown of its own machine, which is not down yet; or it has failed.
            return match provider.machine(on)?.run(&["systemctl", "is-system-running"]) {
                Ok(out) if matches!(out.stdout.trim(), "running" | "degraded" | "starting") => {
                    bail!("it ended with {status}")
                }
                Ok(_) | Err(_) => Ok(false),
            };
        }
        rebooted = false;
        provider.machine(on)?.booted()?;
        child = start(provider, on, &["--resume"], log)?;
        Ok(false)
    });
    if !done {
        let _ = child.kill();
        let _ = exec::wait(&mut child, Duration::from_secs(5));
    }
    if !result? {
        bail!("not done after {DEADLINE:?}");
    }
    Ok(())
}

fn start(provider: &mut Provider, on: &str, words: &[&str], log: &std::path::Path) -> Result<Child> {
    let log: File = OpenOptions::new().create(true).append(true).open(log)?;
    let mut all = vec!["/usr/bin/heartline", "maintain", "--settle", "2s"];
    all.extend(words);
    let mut command = provider.machine(on)?.command(&all);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    exec::tie_to_lab(&mut command);
    command.spawn().context("cannot start nsenter (util-linux)")
}
