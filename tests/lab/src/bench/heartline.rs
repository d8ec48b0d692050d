//! Heartline as it comes: three members, one group, one VIP.

use std::time::Duration;

use anyhow::Result;

use super::Subject;
use crate::{
    Cluster, Lab, LabSpec,
    config::{self, ConfigSpec},
};

/// Three agents.
pub(super) struct Heartline {
    cluster: Cluster,
    profile: &'static str,
}

pub(super) fn raise(profile: &'static str) -> Result<Heartline> {
    let spec = LabSpec::default();
    let text = config::text(
        &spec,
        &ConfigSpec {
            profile,
            vip6: false,
            ..ConfigSpec::default()
        },
    );
    let cluster = Cluster::start(Lab::up(&spec)?, &text, "cluster.key")?;
    Ok(Heartline { cluster, profile })
}

impl Subject for Heartline {
    fn system(&self) -> &'static str {
        "heartline"
    }

    fn setting(&self) -> String {
        format!("profile {}", self.profile)
    }

    fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    fn lab_mut(&mut self) -> &mut Lab {
        &mut self.cluster.lab
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(if self.profile == "fast" { 1 } else { 10 })
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

    fn keep(&mut self) {
        if let Some(dir) = self.cluster.keep_dir() {
            eprintln!("heartline: logs and config are kept in {}", dir.display());
        }
    }
}
