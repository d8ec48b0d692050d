//! Heartline as it comes: three members, one group, one VIP.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Setting, subject::Subject};
use crate::{
    Cluster, Lab, LabSpec,
    config::{self, ConfigSpec},
};

/// Three agents.
pub(super) struct Heartline {
    cluster: Cluster,
    setting: Setting,
}

pub(super) fn raise(setting: Setting) -> Result<Heartline> {
    let spec = LabSpec::default();
    let text = config::text(
        &spec,
        &ConfigSpec {
            profile: setting.name(),
            vip6: false,
            ..ConfigSpec::default()
        },
    );
    let cluster = Cluster::start(Lab::up(&spec)?, &text, "cluster.key")?;
    Ok(Heartline { cluster, setting })
}

impl Heartline {
    /// The kernel's id of the XDP program on a node's `eth0`.
    pub(super) fn xdp_program(&mut self, node: &str) -> Result<u32> {
        let status = self.cluster.agent(node)?.status()?;
        let devices = status.get("datapath");
        let devices = devices.and_then(Value::as_array).into_iter().flatten();
        let id = devices
            .filter(|device| device["name"] == "eth0")
            .find_map(|device| device["xdp_prog_id"].as_u64());
        let id = id.and_then(|id| u32::try_from(id).ok());
        id.with_context(|| format!("{node} does not tell its XDP program"))
    }
}

impl Subject for Heartline {
    fn setting(&self) -> Setting {
        self.setting
    }

    fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    fn lab_mut(&mut self) -> &mut Lab {
        &mut self.cluster.lab
    }

    fn give_up(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn settled(&mut self) -> Result<()> {
        self.cluster.settled(Duration::from_secs(15))
    }

    fn freeze(&mut self, node: &str) -> Result<()> {
        self.cluster.freeze(node)
    }

    fn thaw(&mut self, node: &str) -> Result<()> {
        self.cluster.thaw(node)
    }

    fn kill(&mut self, node: &str) -> Result<()> {
        self.cluster.agent(node)?.kill()
    }

    fn start(&mut self, node: &str) -> Result<()> {
        self.cluster.agent(node)?.start()
    }

    fn hand_over(&mut self, _from: &str, to: &str) -> Result<()> {
        self.cluster
            .agent(to)?
            .cli_ok(&["move", "web", to])
            .map(drop)
    }

    fn after_hand_over(&mut self, _from: &str) -> Result<()> {
        Ok(())
    }

    fn processes(&mut self, node: &str) -> Result<Vec<u32>> {
        Ok(vec![self.cluster.agent(node)?.pid()?])
    }

    fn told(&mut self, from: u64) -> Vec<String> {
        let mut all = Vec::new();
        for agent in self.cluster.agents() {
            // One that was just started does not answer yet.
            for event in agent.events().unwrap_or_default() {
                let at = event["boot_ns"].as_u64().unwrap_or(0);
                if at >= from {
                    all.push((at, agent.name().to_owned(), event));
                }
            }
        }
        all.sort_by_key(|(at, ..)| *at);
        all.iter()
            .map(|(at, node, event)| {
                let after = (at - from) as f64 / 1e6;
                let text = event["text"].as_str().unwrap_or("?");
                let split = event
                    .get("split")
                    .map_or(String::new(), |split| format!(" {split}"));
                format!("{after:.1} ms: {node}: {text}{split}")
            })
            .collect()
    }

    fn keep(&mut self) {
        if let Some(dir) = self.cluster.keep_dir() {
            eprintln!("heartline: logs and config are kept in {}", dir.display());
        }
    }
}
