//! What can happen, and how it is undone.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use heartline_lab::clock::boot_ns;
use serde::Serialize;

use crate::{
    cluster::{Cluster, Proof, Stack},
    device::{Device, Mood},
    drbd::{self, MOUNT, Options, RESOURCE},
    roles::Roles,
    site::Cut,
};

const SOON: Duration = Duration::from_secs(60);
/// A machine that is fenced while it boots is switched on so often.
const BOOTS: u32 = 3;

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
    /// Every access to the owner's disk fails
    DiskError,
    /// The owner's machine loses power while the other's disk is still being brought up to date
    KilledInResync,
    /// The owner's machine loses power, and the fence device is dead
    FenceDead,
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
    pub fn moves(self, proof: Proof) -> bool {
        match self {
            Self::GuestKilled | Self::GuestFrozen | Self::AllCut | Self::HeartbeatsCut => true,
            // The machine lives on, primary: it must be ended first.
            Self::AgentFrozen | Self::AgentKilled => proof != Proof::None,
            // Nobody proves that the owner is dead; nobody else has all of the data.
            Self::FenceDead | Self::KilledInResync => false,
            Self::ReplicationCut
            | Self::DiskError
            | Self::BothKilledOwnerFirst
            | Self::BothKilledOtherFirst => false,
        }
    }

    /// Whether the owner goes on serving while the fault lasts.
    #[must_use]
    pub fn stays(self) -> bool {
        matches!(self, Self::ReplicationCut | Self::DiskError)
    }

    /// Who should serve while the fault lasts.
    #[must_use]
    pub fn during(self, stack: Stack, proof: Proof) -> During {
        if self == Self::FenceDead && proof != Proof::Fencing {
            During::Whatever
        } else if self.stays() {
            During::Stays
        } else if self.moves(proof) && !(stack == Stack::Drbd && proof == Proof::None) {
            During::Moves
        } else {
            During::Quiet
        }
    }
}

/// What is expected while a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    /// The other node serves.
    Moves,
    /// The owner serves.
    Stays,
    /// Nobody does.
    Quiet,
    /// It depends on how the commands that promote DRBD are written.
    Whatever,
}

/// What was done and is to be undone.
#[derive(Debug)]
pub struct Hurt {
    /// The fault.
    pub fault: Fault,
    device: Device,
    options: Options,
    dead: Vec<&'static str>,
}

impl Hurt {
    /// Nothing yet. `options` are those of the DRBD configuration, which a machine that is started again gets again.
    #[must_use]
    pub fn new(fault: Fault, device: Device, options: Options) -> Self {
        Self {
            fault,
            device,
            options,
            dead: Vec::new(),
        }
    }

    /// What the fence device was told to end, and answered.
    #[must_use]
    pub fn fenced(&self) -> Vec<String> {
        let deeds = self.device.deeds();
        let orders = deeds
            .iter()
            .filter(|deed| !deed.order.starts_with("status"));
        orders
            .map(|deed| format!("{}: {}", deed.order, deed.answer))
            .collect()
    }

    /// Makes it happen to n1; returns when, ns.
    ///
    /// # Errors
    /// The lab cannot.
    pub fn strike(&mut self, cluster: &mut Cluster) -> Result<u64> {
        if self.fault == Fault::KilledInResync {
            resyncing(cluster)?;
        }
        if self.fault == Fault::FenceDead {
            self.device.set(Mood::Dead);
        }
        let at = boot_ns();
        match self.fault {
            Fault::GuestKilled | Fault::KilledInResync | Fault::FenceDead => {
                cluster.site.guest("n1")?.kill()?;
                self.dead = vec!["n1"];
            }
            Fault::GuestFrozen => cluster.site.guest("n1")?.freeze()?,
            Fault::AgentFrozen => cluster.signal("n1", "STOP")?,
            Fault::AgentKilled => cluster.signal("n1", "KILL")?,
            Fault::DiskError => drbd::break_disk(&cluster.control("n1")?)?,
            Fault::ReplicationCut => cluster.site.cut(Cut::Back("n1".into(), "n2".into()))?,
            Fault::HeartbeatsCut => cluster.site.cut(Cut::Heartbeats("n1".into()))?,
            Fault::AllCut => cluster.site.cut(Cut::All("n1".into()))?,
            Fault::BothKilledOwnerFirst | Fault::BothKilledOtherFirst => {
                cluster.site.guest("n1")?.kill()?;
                cluster.site.guest("n2")?.kill()?;
                self.dead = match self.fault {
                    Fault::BothKilledOwnerFirst => vec!["n1", "n2"],
                    _ => vec!["n2", "n1"],
                };
            }
        }
        Ok(at)
    }

    /// Undoes it. Machines that are off, for whatever reason, are switched on; DRBD is brought up there and left to itself.
    ///
    /// # Errors
    /// The lab cannot.
    pub fn heal(&mut self, cluster: &mut Cluster, roles: &mut Roles) -> Result<()> {
        cluster.site.heal()?;
        self.device.set(Mood::Works);
        // It may have been fenced meanwhile.
        if cluster.site.guest("n1")?.running() {
            match self.fault {
                Fault::GuestFrozen => cluster.site.guest("n1")?.thaw()?,
                Fault::AgentFrozen => cluster.signal("n1", "CONT")?,
                Fault::AgentKilled => cluster.start_agent("n1")?,
                Fault::DiskError => drbd::mend_disk(&cluster.control("n1")?)?,
                _ => {}
            }
        }
        for name in ["n1", "n2"] {
            if !cluster.site.guest(name)?.running() && !self.dead.contains(&name) {
                self.dead.push(name);
            }
        }
        for name in std::mem::take(&mut self.dead) {
            let mut tries = 0;
            while let Err(error) = self.bring_up(name, cluster, roles) {
                tries += 1;
                // Fenced while it booted: to who waits for its end it was silent all along. It is switched on again.
                if tries == BOOTS || cluster.site.guest(name)?.running() {
                    return Err(error.context(format!("{name} does not come back")));
                }
            }
        }
        Ok(())
    }

    fn bring_up(&self, name: &str, cluster: &mut Cluster, roles: &mut Roles) -> Result<()> {
        cluster.site.boot(name)?;
        let control = cluster.control(name)?;
        drbd::configure(&control, &drbd::text(2, &self.options))?;
        control.sh(&format!("drbdadm up {RESOURCE}"), SOON)?;
        roles.watch(name, control)?;
        cluster.start_agent(name)
    }
}

/// Lets n2 miss something, and catch up slowly.
fn resyncing(cluster: &mut Cluster) -> Result<()> {
    let [one, two] = [cluster.control("n1")?, cluster.control("n2")?];
    for control in [&one, &two] {
        control.sh(
            &format!("drbdadm disk-options --resync-rate=500K {RESOURCE}"),
            SOON,
        )?;
    }
    cluster.site.cut(Cut::Back("n1".into(), "n2".into()))?;
    drbd::until(&one, "cs:WFConnection")?;
    one.sh(
        &format!("dd if=/dev/urandom of={MOUNT}/bulk bs=1M count=16 conv=fsync"),
        SOON,
    )?;
    cluster.site.heal()?;
    drbd::until(&one, "cs:SyncSource")?;
    drbd::until(&two, "ds:Inconsistent/UpToDate")
}
