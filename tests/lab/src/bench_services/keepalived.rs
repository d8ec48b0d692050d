//! keepalived, Debian's package and unit, with a check script per service. The services run on all nodes by themselves.

use anyhow::{Result, bail};

use super::{
    Setting,
    layer::Layers,
    rig::Rig,
    setup,
    subject::{Subject, Well},
};
use crate::interrupt;

const UNIT: &str = "keepalived.service";

pub(super) struct Keepalived {
    rig: Rig,
    setting: Setting,
}

pub(super) fn raise(setting: Setting, layers: &Layers) -> Result<Keepalived> {
    let rig = Rig::raise(layers, |_, machine| setup::keepalived(machine, setting))?;
    Ok(Keepalived { rig, setting })
}

impl Keepalived {
    fn start(&mut self, node: &str) -> Result<()> {
        let machine = self.rig.machine(node)?;
        machine.run_ok(&["systemctl", "reset-failed"])?;
        machine.run_ok(&["systemctl", "start", UNIT]).map(drop)
    }
}

impl Subject for Keepalived {
    fn rig(&mut self) -> &mut Rig {
        &mut self.rig
    }

    /// It tells nobody; the wire must do. That the scripts are good again is seen by asking what they ask.
    fn well(&mut self) -> Result<Well> {
        for machine in &self.rig.machines {
            let out = machine.run(&[
                "sh",
                "-c",
                "systemctl is-active --quiet keepalived && \
                 for s in dns radius web sip; do /usr/local/bin/lab-check $s || exit 1; done",
            ])?;
            if out.code != Some(0) {
                return Ok(Err(format!(
                    "{}: keepalived or a service is not well: {:?} {}",
                    machine.name(),
                    out.code,
                    out.stderr.trim()
                )));
            }
        }
        // Scripts run once a second, and a node that came back says nothing for some intervals.
        let intervals = match self.setting {
            Setting::Second => 4,
            Setting::Hundredth | Setting::Lan | Setting::ShortToken | Setting::LongToken => 0,
        };
        interrupt::pass(std::time::Duration::from_millis(1200 + intervals * 1000))?;
        Ok(Ok(()))
    }

    /// A clean stop: its own way to hand over at once.
    fn hand_over(&mut self, _groups: &[&str], from: &str, _to: &str) -> Result<()> {
        let machine = self.rig.machine(from)?;
        machine.run_ok(&["systemctl", "stop", UNIT]).map(drop)
    }

    fn after_hand_over(&mut self, from: &str) -> Result<()> {
        self.start(from)
    }

    fn mend(&mut self, node: &str) -> Result<()> {
        self.start(node)?;
        if self.rig.machine(node)?.main_pid(UNIT)? == 0 {
            bail!("{node}: {UNIT} has no process");
        }
        Ok(())
    }

    fn units(&self) -> &'static [&'static str] {
        &[UNIT]
    }
}
