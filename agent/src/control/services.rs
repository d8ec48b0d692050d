//! What stands behind a group, in `status`.

use serde::{Deserialize, Serialize};

/// A group's services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServicesStatus {
    /// What they do on the owner, by its own word: `idle`, `starting`, `running`, `stopping`, `failed`, `blocked` or `stuck`.
    pub phase: String,
    /// What they do on this node.
    pub phase_here: String,
    /// What they wait for here, or why they do not work.
    pub text: String,
    /// How long stopping it may take at most.
    pub stop_timeout_ms: u64,
    /// Failures on this node within the window of the group's policy.
    pub failures: u32,
    /// This node has given up on the group: it is avoided until that is forgotten, or cleared.
    pub given_up: bool,
    /// The resources, in the order of starting.
    pub resources: Vec<ResourceStatus>,
    /// The probes.
    pub probes: Vec<ProbeStatus>,
}

/// A resource on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceStatus {
    /// Its name, with the group's.
    pub name: String,
    /// `running`, `stopped`, `failed` or `unknown`; empty before it was asked.
    pub state: String,
    /// What was seen.
    pub text: String,
}

/// A probe on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeStatus {
    /// Its name.
    pub name: String,
    /// `good`, `bad` or `unknown`; empty while it is not asked.
    pub standing: String,
    /// What the last answer said.
    pub text: String,
    /// Performance data of the last answer, as a Nagios plugin prints it.
    pub performance: String,
    /// How long the last good answer took, ms.
    pub took_ms: f64,
}
