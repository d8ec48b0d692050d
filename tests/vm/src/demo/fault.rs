//! What can happen, and how it is undone.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cluster::Cluster,
    drbd::{self, RESOURCE},
    roles::Roles,
    site::Cut,
};

const SOON: Duration = Duration::from_secs(60);

/// A fault; n1 owns the group when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The owner's machine loses power
    GuestKilled,
    /// The owner's machine stands still, and goes on later (QMP stop, cont)
    GuestFrozen,
    /// The owner's agent stands still, and goes on later (SIGSTOP, SIGCONT)
    AgentFrozen,
    /// The owner's agent dies (SIGKILL), and is started again
    AgentKilled,
    /// The replication link is cut
    ReplicationCut,
    /// Heartbeats of the owner are cut, replication and clients are not
    HeartbeatsCut,
    /// The owner is cut off from all, clients too
    AllCut,
    /// Both machines lose power; the old owner is started first
    BothKilledOwnerFirst,
    /// Both machines lose power; the other one is started first
    BothKilledOtherFirst,
}

impl Fault {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// In a few words.
    #[must_use]
    pub fn describe(self) -> String {
        self.to_possible_value()
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    /// Whether the other node should take over while the fault lasts.
    #[must_use]
    pub fn moves(self) -> bool {
        match self {
            Self::GuestKilled | Self::GuestFrozen | Self::AgentFrozen | Self::AllCut => true,
            // A killed agent leaves a lease that nobody renews; a cut of heartbeats leaves an owner without a majority.
            Self::AgentKilled | Self::HeartbeatsCut => true,
            Self::ReplicationCut | Self::BothKilledOwnerFirst | Self::BothKilledOtherFirst => false,
        }
    }

    /// Whether rows can be written while the fault lasts.
    #[must_use]
    pub fn serves(self) -> bool {
        match self {
            Self::GuestKilled
            | Self::GuestFrozen
            | Self::AgentFrozen
            | Self::AgentKilled
            | Self::HeartbeatsCut
            | Self::ReplicationCut
            | Self::AllCut => true,
            Self::BothKilledOwnerFirst | Self::BothKilledOtherFirst => false,
        }
    }
}

/// What was done and is to be undone.
#[derive(Debug, Default)]
pub struct Hurt {
    dead: Vec<&'static str>,
}

impl Hurt {
    /// Makes it happen to n1.
    ///
    /// # Errors
    /// The lab cannot.
    pub fn strike(&mut self, fault: Fault, cluster: &mut Cluster) -> Result<()> {
        match fault {
            Fault::GuestKilled => {
                cluster.site.guest("n1")?.kill()?;
                self.dead.push("n1");
            }
            Fault::GuestFrozen => cluster.site.guest("n1")?.freeze()?,
            Fault::AgentFrozen => cluster.signal("n1", "STOP")?,
            Fault::AgentKilled => cluster.signal("n1", "KILL")?,
            Fault::ReplicationCut => cluster.site.cut(Cut::Back("n1".into(), "n2".into()))?,
            Fault::HeartbeatsCut => cluster.site.cut(Cut::Heartbeats("n1".into()))?,
            Fault::AllCut => cluster.site.cut(Cut::All("n1".into()))?,
            Fault::BothKilledOwnerFirst | Fault::BothKilledOtherFirst => {
                cluster.site.guest("n1")?.kill()?;
                cluster.site.guest("n2")?.kill()?;
                self.dead = match fault {
                    Fault::BothKilledOwnerFirst => vec!["n1", "n2"],
                    _ => vec!["n2", "n1"],
                };
            }
        }
        Ok(())
    }

    /// Undoes it. Machines that are off, for whatever reason, are switched on; DRBD is brought up there and left to itself.
    ///
    /// # Errors
    /// The lab cannot.
    pub fn heal(&mut self, fault: Fault, cluster: &mut Cluster, roles: &mut Roles) -> Result<()> {
        cluster.site.heal()?;
        match fault {
            // It may have been fenced meanwhile.
            Fault::GuestFrozen if cluster.site.guest("n1")?.running() => cluster.site.guest("n1")?.thaw()?,
            Fault::AgentFrozen if cluster.site.guest("n1")?.running() => cluster.signal("n1", "CONT")?,
            Fault::AgentKilled if cluster.site.guest("n1")?.running() => cluster.start_agent("n1")?,
            _ => {}
        }
        for name in ["n1", "n2"] {
            if !cluster.site.guest(name)?.running() && !self.dead.contains(&name) {
                self.dead.push(name);
            }
        }
        for name in self.dead.drain(..) {
            cluster.site.boot(name)?;
            let control = cluster.control(name)?;
            drbd::configure(&control, &drbd::text(2, &drbd::Options::default()))?;
            control.sh(&format!("drbdadm up {RESOURCE}"), SOON)?;
            roles.watch(name, control)?;
            cluster.start_agent(name)?;
        }
        Ok(())
    }
}
