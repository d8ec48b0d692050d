//! Heartline, as a user would install it.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    layer::Layers,
    rig::Rig,
    setup,
    subject::{Subject, Well},
};
use crate::{
    agent, cluster,
    provider::rig::{AGENT, Service},
};

pub(super) struct Heartline {
    rig: Rig,
}

pub(super) fn raise(layers: &Layers) -> Result<Heartline> {
    // One key for all machines; the folder goes when it was read.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("cluster.key");
    agent::keygen(&path)?;
    let key = std::fs::read_to_string(&path)?;
    let rig = Rig::raise(layers, |lab, machine| setup::heartline(lab, machine, &key))?;
    Ok(Heartline { rig })
}

impl Heartline {
    fn cli(&mut self, node: &str, args: &[&str]) -> Result<()> {
        let out = self.rig.machine(node)?.caller().cli(args)?;
        if out.code != Some(0) {
            bail!(
                "{node}: heartline {} ended with {:?}: {} {}",
                args.join(" "),
                out.code,
                out.stderr.trim(),
                out.stdout.trim()
            );
        }
        Ok(())
    }
}

impl Subject for Heartline {
    fn rig(&mut self) -> &mut Rig {
        &mut self.rig
    }

    fn well(&mut self) -> Result<Well> {
        let nodes = self.rig.machines.len();
        let mut agreed: Option<Vec<Option<String>>> = None;
        for machine in &self.rig.machines {
            let name = machine.name();
            let status = match machine.status() {
                Ok(status) => status,
                Err(error) => return Ok(Err(format!("{name}: {error:#}"))),
            };
            if let Some(why) = unwell(&status, nodes) {
                return Ok(Err(format!("{name}: {why}")));
            }
            let owners: Vec<_> = Service::ALL
                .iter()
                .map(|service| cluster::owner(&status, service.group()))
                .collect();
            if owners.iter().any(Option::is_none)
                || agreed.as_ref().is_some_and(|known| *known != owners)
            {
                return Ok(Err(format!("{name}: owners are {owners:?}")));
            }
            agreed = Some(owners);
        }
        Ok(Ok(()))
    }

    fn hand_over(&mut self, groups: &[&str], from: &str, to: &str) -> Result<()> {
        groups
            .iter()
            .try_for_each(|group| self.cli(from, &["move", group, to]))
    }

    fn after_hand_over(&mut self, _from: &str) -> Result<()> {
        Ok(())
    }

    fn mend(&mut self, node: &str) -> Result<()> {
        // systemd starts a killed one by itself.
        let other = self.rig.other(node)?;
        Service::ALL
            .iter()
            .try_for_each(|service| self.cli(&other, &["clear", service.group()]))
    }

    fn units(&self) -> &'static [&'static str] {
        &[AGENT]
    }
}

/// What is not well by a node's own word.
fn unwell(status: &Value, nodes: usize) -> Option<String> {
    let alive = cluster::alive(status);
    if alive != nodes {
        return Some(format!("{alive} nodes alive"));
    }
    if status.pointer("/voting/active") != Some(&Value::Bool(true)) {
        return Some("does not vote".into());
    }
    let groups = status.get("groups").and_then(Value::as_array);
    groups.context("no groups").map_or_else(
        |error| Some(error.to_string()),
        |groups| groups.iter().find_map(ailing),
    )
}

/// What is not well with a group: nobody may be unfit for it, and its services must run and answer.
fn ailing(group: &Value) -> Option<String> {
    let name = group.get("name").and_then(Value::as_str).unwrap_or("?");
    let unfit = group.get("unfit").and_then(Value::as_array);
    if unfit.is_some_and(|unfit| !unfit.is_empty()) {
        return Some(format!("{name}: unfit: {unfit:?}"));
    }
    let services = group.get("services")?;
    let word = |key: &str| services.get(key).and_then(Value::as_str).unwrap_or("?");
    if word("phase") != "running" {
        return Some(format!(
            "{name}: services are {} ({})",
            word("phase"),
            word("text")
        ));
    }
    if services.get("given_up") == Some(&Value::Bool(true)) {
        return Some(format!("{name}: given up here"));
    }
    let probes = services.get("probes").and_then(Value::as_array);
    let bad = |probe: &&Value| probe.get("standing").and_then(Value::as_str) != Some("good");
    probes
        .into_iter()
        .flatten()
        .find(bad)
        .map(|probe| format!("{name}: {probe}"))
}
