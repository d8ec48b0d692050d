//! Rolling maintenance by `heartline maintain --all -- systemctl reboot`, run on one of the nodes, which reaches the
//! others by ssh. The lab only switches machines on again, and logs in again after that node's own reboot.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::rig::Provider;
use crate::interrupt;

const POLL: Duration = Duration::from_millis(20);
/// Three reboots, and waiting for three nodes to be well again.
const DEADLINE: Duration = Duration::from_secs(5 * 60);
/// What it said, on the disk of the machine that it runs on.
const LOG: &str = "/root/maintain.log";
/// Written when it ends, unless the machine took it with it.
const ENDED: &str = "ended with ";

/// Reboots all nodes, one after the other; the one that it is run on comes last. Returns what it said.
///
/// # Errors
/// It fails, or a machine does not come up; the error shows what it said.
pub fn run(provider: &mut Provider, on: &str) -> Result<String> {
    let done = drive(provider, on);
    let said = provider.machine(on)?.disk(LOG);
    match done {
        Ok(()) => Ok(said),
        Err(error) => Err(error.context(format!("heartline maintain on {on} said:\n{said}"))),
    }
}

fn drive(provider: &mut Provider, on: &str) -> Result<()> {
    provider.machine(on)?.run_ok(&["rm", "-f", LOG])?;
    start(provider, on, "--all -- systemctl reboot")?;
    let done = interrupt::until(DEADLINE, POLL, || {
        let names: Vec<_> = provider
            .machines
            .iter()
            .map(|machine| machine.name().to_owned())
            .collect();
        for name in names {
            if provider.machine(&name)?.running() {
                continue;
            }
            provider.again(&name)?;
            if name == on {
                provider.machine(on)?.booted()?;
                start(provider, on, "--resume")?;
            }
        }
        match provider.machine(on)?.disk(LOG).rsplit_once(ENDED) {
            Some((_, "0\n")) => Ok(true),
            Some((_, code)) => bail!("it {ENDED}{}", code.trim()),
            None => Ok(false),
        }
    })?;
    ensure!(done, "not done after {DEADLINE:?}");
    Ok(())
}

/// In a unit of its own, as it would be in somebody's session: not below a process outside of the machine.
fn start(provider: &mut Provider, on: &str, words: &str) -> Result<()> {
    let script =
        format!("heartline maintain --settle 2s {words} >>{LOG} 2>&1; echo \"{ENDED}$?\" >>{LOG}");
    let unit = ["systemd-run", "--quiet", "--setenv=HOME=/root", "sh", "-c"];
    let words: Vec<_> = unit.into_iter().chain([script.as_str()]).collect();
    provider.machine(on)?.run_ok(&words).map(drop)
}
