//! What the agent tells: the members of replies. This is also the form of `--json`.
//!
//! Stable: members are added, never renamed or given another unit. Names end in their unit
//! (`_ns`, `_us`, `_ms`). `*_boot_ns` are points on CLOCK_BOOTTIME of this node.

use std::collections::BTreeMap;

use super::{
    foresee::NodeScore,
    guards::{FenceStatus, WatchdogStatus},
    services::ServicesStatus,
};
use serde::{Deserialize, Serialize};

pub use super::takeover::*;

/// Answer to `ping`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pong {
    /// The node that answers.
    pub node: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Version of the control protocol.
    pub control_version: u32,
    /// Version of the heartbeat packets.
    pub wire_version: u32,
    /// When this process started; differs after a restart.
    pub started_boot_ns: u64,
    /// Process id of the agent.
    pub pid: u32,
}

/// Answer to requests that are done at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// Whether anything changed (false: it was so already).
    pub changed: bool,
    /// A sentence for people.
    pub text: String,
    /// Groups that will move because of it.
    pub moving: Vec<String>,
}

/// Answer to `reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadReply {
    /// The generation now in force.
    pub generation: u64,
    /// What changed, a phrase each; empty if nothing did.
    pub changed: Vec<String>,
    /// A later generation that is entered as soon as all nodes are ready; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entering: Option<u64>,
    /// What changed in the file but takes effect only after `heartline restart`.
    pub needs_restart: Vec<String>,
}

/// Answer to `move`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveReply {
    /// The group.
    pub group: String,
    /// Its owner before, if any.
    pub from: Option<String>,
    /// Its owner after.
    pub to: String,
    /// Whether it is there now (false: accepted, under way).
    pub done: bool,
    /// From the request until this node saw the new owner; null until then.
    pub took_ns: Option<u64>,
    /// The epoch of the new ownership, if known.
    pub epoch: Option<u64>,
    /// How the takeover went, if this node is the new owner.
    pub takeover: Option<Takeover>,
}

/// Answer to `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainReport {
    /// The group.
    pub group: String,
    /// The node that runs it, if any.
    pub owner: Option<String>,
    /// The node that should run it, if any.
    pub desired: Option<String>,
    /// Sentences: why it is where it is.
    pub why: Vec<String>,
    /// Why not elsewhere, in the order of preference.
    pub elsewhere: Vec<NotThere>,
    /// What placement found of each node, by id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<NodeScore>,
}

/// Why a group is not on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotThere {
    /// The node.
    pub node: String,
    /// Whether it could take the group at once.
    pub could: bool,
    /// A sentence.
    pub reason: String,
}

/// Answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// Version of the agent.
    pub agent_version: String,
    /// Version of the heartbeat packets.
    pub wire_version: u32,
    /// This node's name.
    pub node: String,
    /// This node's id, 1 to 32.
    pub node_id: u8,
    /// The cluster's name.
    pub cluster: String,
    /// Config generation.
    pub generation: u64,
    /// A change to a later generation that is under way; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeStatus>,
    /// Digest of what all nodes must agree on, hex.
    pub digest: String,
    /// Ids of this node's keys.
    pub key: KeyStatus,
    /// The node's incarnation (born with its maps).
    pub incarnation: u64,
    /// When this report was made.
    pub boot_ns: u64,
    /// How long this agent process runs.
    pub uptime_ms: u64,
    /// Hands off: nothing is moved.
    pub paused: bool,
    /// The times in force.
    pub timing: TimingStatus,
    /// Heartbeats and gates, by device.
    pub datapath: Vec<DeviceStatus>,
    /// Devices that are up and have no gate: VIP traffic can pass there unchecked.
    pub uncovered_devices: Vec<String>,
    /// Real-time rights.
    pub rt: RtStatus,
    /// Whether this node votes.
    pub voting: VotingStatus,
    /// Whether a majority is in reach.
    pub quorum: QuorumStatus,
    /// The right to serve.
    pub lease: LeaseStatus,
    /// All nodes of the config, this one too, by id.
    pub nodes: Vec<NodeStatus>,
    /// All groups of the config, by id.
    pub groups: Vec<GroupStatus>,
    /// What resets this machine; absent: nothing is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<WatchdogStatus>,
    /// What fences others, as far as this node asks it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fences: Vec<FenceStatus>,
    /// Counters by name; they only grow while the agent runs.
    pub counters: BTreeMap<String, u64>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// A change of generation on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeStatus {
    /// The present generation.
    pub from: u64,
    /// The one to be entered.
    pub to: u64,
    /// What changes, a phrase each.
    pub changes: Vec<String>,
    /// What it waits for, in a word: `nothing`, `majority_heard`, `settling`, `node_not_ready`, `file_differs`,
    /// `hands_over`, `too_few`, `proof`, `staging`.
    pub code: String,
    /// The same as a phrase for people.
    pub waits: String,
}

/// Which keys a node has, by their ids (hex; nothing of a key can be learned from them).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyStatus {
    /// The key that it signs with.
    pub signs: String,
    /// Another one that it accepts, while the key is rotated.
    pub accepts: Option<String>,
}

/// The times in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimingStatus {
    /// `fast`, `lan`, `wan` or `own`.
    pub profile: String,
    /// Between two heartbeats.
    pub heartbeat_ns: u64,
    /// How long an owner may serve on one majority of acks.
    pub lease_ns: u64,
    /// How long a promise lasts.
    pub takeover_ns: u64,
    /// The longest promise.
    pub max_promise_ns: u64,
}

/// How heartbeats or the ingress gate run on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatapathMode {
    /// XDP in the driver.
    Native,
    /// XDP behind the driver.
    Generic,
    /// Plain sockets, no BPF.
    Socket,
    /// Not at all.
    #[default]
    None,
    /// Told by a newer agent.
    #[serde(other)]
    Unknown,
}

/// How the egress gate is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressMode {
    /// TCX link (kernel 6.6 and later).
    Tcx,
    /// clsact qdisc.
    Clsact,
    /// nftables (data path of sockets).
    Nft,
    /// Not at all.
    #[default]
    None,
    /// Told by a newer agent.
    #[serde(other)]
    Unknown,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceStatus {
    /// Device name.
    pub name: String,
    /// Whether heartbeats go over it (else it has a gate only).
    pub link: bool,
    /// Ingress.
    pub mode: DatapathMode,
    /// Id of the XDP program, as in `bpftool prog`.
    pub xdp_prog_id: Option<u32>,
    /// Egress.
    pub egress: EgressMode,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// Real-time rights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RtStatus {
    /// `fifo` or `other`.
    pub policy: String,
    /// 1 to 99; 0 without real-time policy.
    pub priority: u32,
    /// Whether memory is locked.
    pub memory_locked: bool,
    /// The latest that the real-time loop ever ran behind its timer.
    pub max_loop_late_us: u64,
    /// How often its timer was how late: less than 1 µs, then for each i from 1 on from 2^(i-1) to 2^i µs.
    pub late: Vec<u64>,
}

/// Whether this node votes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VotingStatus {
    /// It does.
    pub active: bool,
    /// Since when.
    pub since_boot_ns: Option<u64>,
    /// How long it still waits (fresh state waits for `max_promise`).
    pub waits_ms: Option<u64>,
    /// Why it does not, if it is not the wait.
    pub reason: Option<String>,
}

/// Whether a majority is in reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QuorumStatus {
    /// Nodes that vote, by config.
    pub voters: u32,
    /// A majority of them.
    pub needed: u32,
    /// How many answer now, this node included.
    pub reachable: u32,
}

/// The right to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseStatus {
    /// It holds now.
    pub holds: bool,
    /// How long without a further ack.
    pub until_ns_remaining: Option<u64>,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Votes and owns.
    #[default]
    Member,
    /// Votes, never owns.
    Witness,
}

/// How a node looks from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// This node.
    #[serde(rename = "self")]
    Me,
    /// Kernel and agent answer.
    #[serde(rename = "alive")]
    Alive,
    /// The kernel answers, the agent is silent.
    #[serde(rename = "late")]
    Late,
    /// Nothing is heard any more.
    #[serde(rename = "silent")]
    Silent,
    /// Nothing was heard since this agent started.
    #[default]
    #[serde(rename = "never seen")]
    NeverSeen,
    /// Told by a newer agent.
    #[serde(rename = "unknown", other)]
    Unknown,
}

impl NodeState {
    /// The JSON name.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Me => "self",
            NodeState::Alive => "alive",
            NodeState::Late => "late",
            NodeState::Silent => "silent",
            NodeState::NeverSeen => "never seen",
            NodeState::Unknown => "unknown",
        }
    }
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its id, 1 to 32.
    pub id: u8,
    /// What it is for.
    pub role: Role,
    /// How it looks from here.
    pub state: NodeState,
    /// Since it was last heard on any link.
    pub last_heard_ms: Option<u64>,
    /// By link.
    pub links: Vec<LinkStatus>,
    /// Its incarnation, if heard.
    pub incarnation: Option<u64>,
    /// Its config generation, if heard.
    pub generation: Option<u64>,
    /// Whether its config digest is ours; null if not heard.
    pub digest_match: Option<bool>,
    /// It is heard, and votes.
    pub voting: bool,
    /// Taken out of use by `drain`.
    pub drained: bool,
    /// What differs from our config.
    pub config_mismatch: Option<String>,
    /// Newest wire version that it speaks, if heard.
    pub wire_version: Option<u32>,
    /// Ids of its keys; null if not heard, or if its version does not name them.
    pub key: Option<KeyStatus>,
}

/// One path to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStatus {
    /// Our device.
    pub device: String,
    /// The node's address on this link.
    pub address: String,
    /// Since the node was last heard on it.
    pub last_heard_ms: Option<u64>,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its id, 0 to 255.
    pub id: u8,
    /// The node that runs it as far as this node knows.
    pub owner: Option<String>,
    /// This node runs it.
    pub owned_here: bool,
    /// Its gate bit is set here (traffic passes only while the lease holds, too).
    pub gate_open: bool,
    /// Epoch of the present ownership.
    pub epoch: u64,
    /// The node that should run it.
    pub desired: Option<String>,
    /// Its virtual addresses.
    pub vips: Vec<VipStatus>,
    /// When this node first saw the present owner.
    pub since_boot_ns: Option<u64>,
    /// Order of preference, node names.
    pub prefer: Vec<String>,
    /// Whether it keeps away from other groups.
    pub spread: bool,
    /// `manual` or `auto`.
    pub failback: String,
    /// Nodes that cannot run it now, with the reason (no carrier, probe failed).
    pub unfit: Vec<Unfit>,
    /// The last time that this node took it over.
    pub last_takeover: Option<Takeover>,
    /// What stands behind it; nothing if it has only addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<ServicesStatus>,
}

/// A virtual address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VipStatus {
    /// With prefix length.
    pub address: String,
    /// Device on this node.
    pub device: String,
    /// Whether it is on the device now.
    pub present: bool,
    /// What went wrong with it.
    pub error: Option<String>,
}

/// A node that cannot run a group now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unfit {
    /// The node.
    pub node: String,
    /// Why, a phrase.
    pub reason: String,
}

/// How much a warning matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// An assumption that the promise rests on; nothing is wrong.
    Note,
    /// Something is not as it should be.
    #[default]
    Warning,
    /// The promise does not hold, or a service is down.
    Error,
}

/// What a person should know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warning {
    /// How much it matters.
    pub level: Level,
    /// For programs, snake_case; for example `no_realtime`, `config_mismatch`, `gate_missing`.
    pub code: String,
    /// A sentence.
    pub text: String,
    /// The mend.
    pub help: Option<String>,
}

impl StatusReport {
    /// A group by name.
    pub fn group(&self, name: &str) -> Option<&GroupStatus> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_takes_reports_from_older_and_newer_agents() {
        let report: StatusReport = serde_json::from_str(
            r#"{"node":"n1","news":{"a":1},"nodes":[{"name":"n2","state":"asleep"}]}"#,
        )
        .unwrap();
        assert_eq!(report.nodes[0].state, NodeState::Unknown);
        assert_eq!(
            serde_json::to_string(&NodeState::NeverSeen).unwrap(),
            r#""never seen""#
        );
    }
}
