//! The typed configuration: what the rest of the agent works with.
//!
//! A [`Config`] can only be had from [`super::check`], so whoever holds one may rely on every rule there:
//! ids in range and distinct, timings possible, VIPs distinct and usable, names resolved.

use std::net::IpAddr;
use std::path::PathBuf;

use agent_services::group::Services;
use serde::Serialize;

use super::fence::{Fence, Watchdog};
use super::hooks::Hook;

/// Default UDP port of heartbeats.
pub const DEFAULT_PORT: u16 = 4747;
/// Default path of the cluster key.
pub const DEFAULT_KEY_FILE: &str = "/etc/heartline/cluster.key";
/// Default path of the configuration.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/heartline/heartline.toml";
/// Fewest nodes in a cluster.
pub const MIN_NODES: usize = 2;
/// Most nodes in a cluster; also the largest node id.
pub const MAX_NODES: usize = 32;
/// Most links of a node.
pub const MAX_LINKS: usize = 8;
/// Most groups in a cluster: their ids are bits of a 32-byte map.
pub const MAX_GROUPS: usize = 256;
/// Most VIPs in a cluster.
pub const MAX_VIPS: usize = 4096;

/// A whole, checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Name of the cluster.
    pub cluster: String,
    /// Stable hash of the cluster name (FNV-1a, 32 bit), carried in every message.
    pub cluster_id: u32,
    /// Generation of the member list; grows by one with each change of members.
    pub generation: u32,
    /// File that holds the cluster key; absolute, or relative to the working directory.
    pub key_file: PathBuf,
    /// UDP port of heartbeats.
    pub port: u16,
    /// How packets are reached.
    pub datapath: Datapath,
    /// Heartbeat, lease and promise times.
    pub timing: Timing,
    /// How often an owner repeats its announcements, in nanoseconds.
    pub announce_interval_ns: u64,
    /// Log filter, as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
    /// All nodes, by id.
    pub nodes: Vec<Node>,
    /// All groups, by id.
    pub groups: Vec<Group>,
    /// Who is told of events.
    pub hooks: Vec<Hook>,
    /// How nodes are fenced.
    pub fences: Vec<Fence>,
    /// How a node ends itself.
    pub watchdog: Option<Watchdog>,
}

/// How the agent reaches packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    /// Native XDP where the driver has it, else generic XDP; plain sockets where BPF is not allowed.
    Auto,
    /// Native XDP or nothing.
    Native,
    /// Generic XDP.
    Generic,
    /// Plain sockets, with nftables as the gate.
    Socket,
}

/// Protocol times, all in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// Profile that the times came from, before single ones were changed.
    pub profile: Profile,
    /// Interval between heartbeats.
    pub heartbeat_ns: u64,
    /// How long an acknowledged heartbeat lets the owner serve, counted from sending.
    pub lease_ns: u64,
    /// How long a voter stands by its word, counted from receiving; the time to detect a failure.
    pub takeover_ns: u64,
    /// Longest promise that anyone may ask for; also the wait of a voter with fresh state.
    pub max_promise_ns: u64,
}

/// A named set of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// 1 ms / 4 ms / 6 ms: dedicated links, native XDP.
    Fast,
    /// 10 ms / 40 ms / 50 ms: ordinary LANs. The default.
    Lan,
    /// 100 ms / 800 ms / 1 s: routed or busy networks, virtual machines on busy hosts.
    Wan,
}

impl Profile {
    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }

    /// The times of this profile.
    #[must_use]
    pub fn timing(self) -> Timing {
        let (heartbeat_us, lease_us, takeover_us) = match self {
            Self::Fast => (1_000, 4_000, 6_000),
            Self::Lan => (12_000, 40_000, 50_000),
            Self::Wan => (100_000, 800_000, 1_000_000),
        };
        Timing {
            profile: self,
            heartbeat_ns: heartbeat_us * 1_000,
            lease_ns: lease_us * 1_000,
            takeover_ns: takeover_us * 1_000,
            max_promise_ns: 10_000_000_000,
        }
    }
}

/// What a node does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes and may own groups.
    Member,
    /// Votes and never owns.
    Witness,
}

/// One machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Name, as `--node` and the host name give it.
    pub name: String,
    /// Id, 1 to 32; never reused for another machine.
    pub id: u8,
    /// Member or witness.
    pub role: Role,
    /// Links in order: the i-th link of one node talks to the i-th of every other.
    pub links: Vec<Link>,
    /// The sum of what groups need that it can carry; `None`: any.
    pub capacity: Option<u32>,
    /// Its libvirt as the other nodes reach it; `None`: by the address of its first link.
    pub libvirt_uri: Option<String>,
}

/// One network path to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Network device on that node.
    pub device: String,
    /// Address that heartbeats go to; fixed on that node.
    pub address: IpAddr,
}

/// What moves as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Name, for people.
    pub name: String,
    /// Id, 0 to 255: the bit in the claim set; never reused.
    pub id: u8,
    /// Ids of the nodes that may own the group, best first. Never empty, members only.
    pub prefer: Vec<u8>,
    /// Whether groups with this mark are laid out over as many nodes as possible.
    pub spread: bool,
    /// Whether the group goes back to a better node by itself.
    pub failback: Failback,
    /// The virtual addresses; never empty.
    pub vips: Vec<Vip>,
    /// Routes that the owner has.
    pub routes: Vec<Route>,
    /// Routing rules that the owner has.
    pub rules: Vec<Rule>,
    /// What a node must reach to be fit for the group.
    pub tracks: Vec<Track>,
    /// What stands behind the group.
    #[serde(serialize_with = "super::services::summary")]
    pub services: Services,
    /// Where it goes, seen from other groups.
    pub near: Near,
}

/// How a group depends on others, and what it weighs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Near {
    /// Id of the group whose node it shares.
    pub with: Option<u8>,
    /// Ids of groups whose node it avoids while another is fit.
    pub apart: Vec<u8>,
    /// Ids of groups whose services run before its own are started.
    pub after: Vec<u8>,
    /// What it takes of a node's capacity.
    pub need: u32,
    /// How long a better node has been well before the group goes back to it by itself.
    pub failback_delay_ns: u64,
}

/// Whether a group returns to a better node once that is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Failback {
    /// Stay until someone moves it. The default.
    Manual,
    /// Go back by itself.
    Auto,
}

/// A virtual IP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Prefix length that it is added with; 32 or 128 unless the configuration says otherwise.
    pub prefix: u8,
    /// Device that it is added to.
    pub device: String,
    /// Others route through it: it has a virtual MAC that moves with it.
    pub gateway: bool,
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gateway = if self.gateway { " (gateway)" } else { "" };
        write!(
            f,
            "{}/{} on {}{gateway}",
            self.address, self.prefix, self.device
        )
    }
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// Bits that its addresses share.
    pub length: u8,
}

impl Prefix {
    /// 0.0.0.0/0 or ::/0.
    #[must_use]
    pub fn everything(v6: bool) -> Self {
        let address = if v6 {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
        };
        Self { address, length: 0 }
    }

    /// The network that this address is in, without the bits behind the prefix.
    #[must_use]
    pub fn network(self) -> Self {
        let length = u32::from(self.length);
        let address = match self.address {
            IpAddr::V4(a) => {
                let host = u32::MAX.checked_shr(length).unwrap_or(0);
                IpAddr::V4((a.to_bits() & !host).into())
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(length).unwrap_or(0);
                IpAddr::V6((a.to_bits() & !host).into())
            }
        };
        Self { address, ..self }
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A route that moves with its group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Route {
    /// Where it leads to.
    pub destination: Prefix,
    /// The next router; at least one of this and `device` is there.
    pub via: Option<IpAddr>,
    /// The device that it leaves by.
    pub device: Option<String>,
    /// Address that the node's own connections on this route have.
    pub src: Option<IpAddr>,
    /// Routing table.
    pub table: u32,
    /// The smaller one wins; the kernel's default if none is given.
    pub metric: Option<u32>,
}

impl Route {
    /// The routing table `main`.
    pub const MAIN: u32 = 254;
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if self.table != Self::MAIN {
            write!(f, " table {}", self.table)?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}

/// A routing rule that moves with its group. At least one of `from` and `to` is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Rule {
    /// Source of the packets.
    pub from: Option<Prefix>,
    /// Destination of the packets.
    pub to: Option<Prefix>,
    /// Routing table that they are looked up in.
    pub table: u32,
    /// Rules are tried in rising order.
    pub priority: u32,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(from) = self.from {
            write!(f, "from {from} ")?;
        }
        if let Some(to) = self.to {
            write!(f, "to {to} ")?;
        }
        write!(f, "table {} priority {}", self.table, self.priority)
    }
}

/// Something that a node must reach through a device to be fit for a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Track {
    /// Asked by ICMP echo.
    pub ping: IpAddr,
    /// Through this device.
    pub device: String,
    /// Time between two questions; also how long an answer may take.
    pub interval_ns: u64,
    /// So many questions in a row without an answer: unfit.
    pub fall: u32,
    /// So many answers in a row: fit again.
    pub rise: u32,
}

impl std::fmt::Display for Track {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ping {} on {} each {}, fall {}, rise {}",
            self.ping,
            self.device,
            show_ns(self.interval_ns),
            self.fall,
            self.rise
        )
    }
}

impl Config {
    /// The node of that name.
    #[must_use]
    pub fn node_by_name(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The node of that id.
    #[must_use]
    pub fn node_by_id(&self, id: u8) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == id)
    }

    /// The group of that name.
    #[must_use]
    pub fn group_by_name(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }

    /// The node that a host name means: the whole name, else its first label.
    #[must_use]
    pub fn node_by_hostname(&self, hostname: &str) -> Option<&Node> {
        self.node_by_name(hostname)
            .or_else(|| self.node_by_name(short_hostname(hostname)))
    }

    /// Votes needed to grant: more than half of all nodes (every node votes).
    #[must_use]
    pub fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// How many nodes may fail at once with the rest still able to grant.
    #[must_use]
    pub fn survives(&self) -> usize {
        self.nodes.len() - self.majority()
    }
}

/// The first label of a host name.
pub(super) fn short_hostname(hostname: &str) -> &str {
    hostname.split('.').next().unwrap_or(hostname)
}

/// A duration for people: one unit, with a fraction where needed.
#[must_use]
pub fn show_ns(ns: u64) -> String {
    let (unit, name) = match ns {
        0 => return "0s".into(),
        1_000_000_000.. => (1_000_000_000, "s"),
        1_000_000.. => (1_000_000, "ms"),
        1_000.. => (1_000, "us"),
        _ => (1, "ns"),
    };
    let (whole, rest) = (ns / unit, ns % unit);
    if rest == 0 {
        return format!("{whole}{name}");
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}{name}", digits.trim_end_matches('0'))
}
