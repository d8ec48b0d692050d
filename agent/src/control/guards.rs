//! What ends nodes, in `status`: this machine's watchdog, and the devices that fence others.

use serde::{Deserialize, Serialize};

/// The watchdog of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchdogStatus {
    /// As configured.
    pub device: String,
    /// What it calls itself, once it was armed.
    pub identity: String,
    /// What it is doing.
    pub state: WatchdogState,
    /// After so long without a sign of life it resets the machine.
    pub timeout_ms: u64,
    /// Others take this node as reset when its time is over.
    pub proof: bool,
    /// The device cannot be had: the agent resets the machine itself.
    pub sysrq: bool,
    /// It cannot be disarmed.
    pub no_way_out: bool,
    /// Groups of which something that must not run twice runs here, or may.
    pub at_stake: Vec<String>,
    /// Until it resets the machine, unless all is stopped before; absent: it is petted, or not armed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_in_ms: Option<u64>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a watchdog is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogState {
    /// Not armed: nothing stateful runs here.
    #[default]
    Off,
    /// Armed by an agent that was killed, and not petted by this one until all that runs is stopped or owned.
    Left,
    /// Being opened.
    Arming,
    /// Armed and petted.
    Armed,
    /// Not petted any more: the lease is lost, and something has not stopped.
    Starving,
    /// Being closed.
    Disarming,
    /// It cannot be armed: nothing stateful is started here.
    Failed,
    /// Told by a newer agent.
    #[serde(other)]
    Unknown,
}

impl WatchdogState {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            WatchdogState::Off => "not armed",
            WatchdogState::Left => "left armed",
            WatchdogState::Arming => "being armed",
            WatchdogState::Armed => "armed",
            WatchdogState::Starving => "NOT PETTED",
            WatchdogState::Disarming => "being disarmed",
            WatchdogState::Failed => "cannot be armed",
            WatchdogState::Unknown => "unknown",
        }
    }
}

/// A fence device that ends another node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FenceStatus {
    /// Its name.
    pub name: String,
    /// The node that it ends.
    pub node: String,
    /// Its agent.
    pub agent: String,
    /// Its level.
    pub level: u8,
    /// What it said last.
    pub state: FenceStanding,
    /// Why it failed; empty: it did not.
    pub text: String,
    /// Failures in a row.
    pub failures: u32,
    /// Since it was asked last.
    pub age_ms: Option<u64>,
    /// How long that took.
    pub took_ms: u64,
}

/// How a fence device is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceStanding {
    /// Not asked since the agent started.
    #[default]
    NotAsked,
    /// It answers.
    Good,
    /// It does not.
    Failing,
    /// Told by a newer agent.
    #[serde(other)]
    Unknown,
}

impl FenceStanding {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            FenceStanding::NotAsked => "not asked yet",
            FenceStanding::Good => "answers",
            FenceStanding::Failing => "FAILS",
            FenceStanding::Unknown => "unknown",
        }
    }
}
