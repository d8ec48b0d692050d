//! Pacemaker and Corosync, Debian's packages and units, without fencing.

use anyhow::Result;

use super::{
    Setting,
    layer::Layers,
    rig::Rig,
    setup,
    subject::{Subject, Well},
};
use crate::provider::rig::Service;

const UNITS: [&str; 2] = ["pacemaker.service", "corosync.service"];

pub(super) struct Pacemaker {
    rig: Rig,
}

pub(super) fn raise(setting: Setting, layers: &Layers) -> Result<Pacemaker> {
    let rig = Rig::raise(layers, |lab, machine| {
        setup::pacemaker(lab, machine, setting)
    })?;
    Ok(Pacemaker { rig })
}

impl Subject for Pacemaker {
    fn rig(&mut self) -> &mut Rig {
        &mut self.rig
    }

    fn well(&mut self) -> Result<Well> {
        let nodes = self.rig.machines.len();
        // A check that came too late on a busy machine, say: remembered for ever unless somebody clears it.
        if let Some(machine) = self.rig.machines.first() {
            let out = machine.run(&["crm_mon", "--one-shot", "--output-as=xml"])?;
            if out.stdout.contains("<failure ") {
                machine.run(&["crm_resource", "--cleanup"])?;
            }
        }
        for machine in &self.rig.machines {
            let out = machine.run(&["crm_mon", "--one-shot", "--output-as=xml"])?;
            if let Err(why) = shown(&out.stdout, nodes) {
                return Ok(Err(format!(
                    "{}: {why} {}",
                    machine.name(),
                    out.stderr.trim()
                )));
            }
        }
        // Nothing is to be done any more.
        let Some(machine) = self.rig.machines.first() else {
            return Ok(Err("no machines".into()));
        };
        let out = machine.run(&["crm_resource", "--wait", "--timeout=10s"])?;
        Ok(if out.code == Some(0) {
            Ok(())
        } else {
            Err(format!("crm_resource --wait: {}", out.stderr.trim()))
        })
    }

    fn hand_over(&mut self, groups: &[&str], from: &str, to: &str) -> Result<()> {
        let machine = self.rig.machine(from)?;
        groups.iter().try_for_each(|group| {
            let ip = format!("{group}-ip");
            let words = ["crm_resource", "--resource", &ip, "--move", "--node", to];
            machine.run_ok(&words).map(drop)
        })
    }

    /// A move leaves a rule behind that ties the resource to its node.
    fn after_hand_over(&mut self, from: &str) -> Result<()> {
        let machine = self.rig.machine(from)?;
        Service::ALL.iter().try_for_each(|service| {
            let ip = format!("{}-ip", service.group());
            let words = ["crm_resource", "--resource", &ip, "--clear"];
            machine.run_ok(&words).map(drop)
        })
    }

    fn mend(&mut self, node: &str) -> Result<()> {
        let other = self.rig.other(node)?;
        let machine = self.rig.machine(node)?;
        machine.run_ok(&["systemctl", "reset-failed"])?;
        // What is there already is left alone.
        let words: Vec<_> = ["systemctl", "start"]
            .into_iter()
            .chain(UNITS.into_iter().rev())
            .collect();
        machine.run_ok(&words)?;
        let words = ["crm_resource", "--cleanup"];
        self.rig.machine(&other)?.run(&words).map(drop)
    }

    fn units(&self) -> &'static [&'static str] {
        &UNITS
    }
}

/// What `crm_mon` shows, as far as it must be right: all nodes there, one in charge, everything started, nothing failed.
fn shown(xml: &str, nodes: usize) -> Well {
    let count = |text: &str| xml.matches(text).count();
    // A VIP per service, and on each node its unit and its check.
    let started = Service::ALL.len() * (1 + 2 * nodes);
    let seen = (
        count(" online=\"true\""),
        count("<current_dc present=\"true\""),
        count(" role=\"Started\""),
        count(" failed=\"true\"") + count("<failure "),
    );
    if seen == (nodes, 1, started, 0) {
        return Ok(());
    }
    Err(format!(
        "{} nodes online, {} in charge, {} of {started} started, {} failed",
        seen.0, seen.1, seen.2, seen.3
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_be_started_and_none_failed() {
        let one = |failed: bool| {
            format!("<resource id=\"x\" role=\"Started\" active=\"true\" failed=\"{failed}\"/>")
        };
        let head = "<current_dc present=\"true\"/><node online=\"true\"/>";
        let all = format!("{head}{}", one(false).repeat(12));
        assert_eq!(shown(&all, 1), Ok(()));
        shown(&format!("{head}{}", one(false).repeat(11)), 1).expect_err("one is missing");
        shown(&format!("{all}{}", one(true)), 1).expect_err("one has failed");
        shown(
            &all.replace("node online=\"true\"", "node online=\"false\""),
            1,
        )
        .expect_err("nobody is there");
    }
}
