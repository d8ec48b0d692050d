//! From what happened to sentences: the core's and the address thread's events as entries of the log.

use std::collections::{BTreeMap, BTreeSet};

use agent_common::Set;
use agent_core::{Event as CoreEvent, Fitness, GainReason, Health, action::Gain};

use super::{fitness::Change as FitnessChange, setup::Names};
use crate::{
    control::proto::{Phases, Takeover, TakeoverReason},
    events::{Draft, EventKind},
    net::NetEvent,
};

/// How long a takeover's record waits for its announcement, ns.
const WAIT: u64 = 500_000_000;

/// Claims of one address are told at most this often, ns.
const CLAIM_TOLD: u64 = 1_000_000_000;

/// Makes drafts; a takeover waits here until its announcement completes it.
#[derive(Default)]
pub struct Narrator {
    /// Names for people.
    pub names: Names,
    open: BTreeMap<u8, Open>,
    /// When a claim of an address was last told, boot ns.
    claims: BTreeMap<[u8; 16], u64>,
    devices_gone: BTreeSet<String>,
    devices_down: BTreeSet<String>,
    /// The newest takeover of each group by this node.
    pub takeovers: BTreeMap<u8, Takeover>,
}

struct Open {
    gain: Gain,
    phases: Phases,
    since: u64,
}

impl Narrator {
    /// A narrator that knows these names.
    pub fn new(names: Names) -> Narrator {
        Narrator {
            names,
            ..Narrator::default()
        }
    }

    fn groups(&self, s: Set) -> String {
        s.iter()
            .map(|g| self.names.group(g))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The drafts for an event of the core.
    pub fn core(&mut self, at: u64, e: CoreEvent) -> Vec<Draft> {
        if let CoreEvent::ForeignClaim { address, .. } = e {
            // Claims can come for hours, ten a second; a line per second says as much.
            let last = self.claims.entry(address).or_default();
            if *last != 0 && at < *last + CLAIM_TOLD {
                return Vec::new();
            }
            *last = at;
        }
        let n = &self.names;
        let d = |kind, text: String| Draft::new(kind, text).at(at);
        let one = match e {
            CoreEvent::Stuck { group, node, on } => {
                let (name, node) = (n.group(group), n.node(node));
                let text = if on {
                    format!("{name} cannot be stopped on {node}: it starts nowhere else")
                } else {
                    format!("{name} is not stuck on {node} any more")
                };
                d(EventKind::Note, text).group(name)
            }
            CoreEvent::Cleared { group } => {
                let name = n.group(group);
                d(EventKind::Note, format!("the failures of {name} here are forgotten")).group(name)
            }
            // Told by those who act on it, with what came of it.
            CoreEvent::Outdate { .. } | CoreEvent::Outdated { .. } => return Vec::new(),
            CoreEvent::Gained(gain) => {
                let p = gain.phases;
                let phases = Phases {
                    last_heard_ns: (p.last_heard != 0).then_some(p.last_heard),
                    detected_ns: p.detected,
                    claimed_ns: p.claimed,
                    agreed_ns: p.agreed,
                    address_ns: 0,
                    announced_ns: 0,
                };
                self.open.insert(gain.group, Open { gain, phases, since: at });
                return Vec::new();
            }
            CoreEvent::Released { group, epoch, to } => {
                let to = n.node(to);
                d(EventKind::Moved, format!("{} is handed over to {to}", n.group(group)))
                    .group(n.group(group))
                    .peer(to)
                    .epoch(epoch)
            }
            CoreEvent::LeaseLapsed { groups, ended } => {
                let late = at.saturating_sub(ended) / 1_000_000;
                let text = format!(
                    "the lease ran out {late} ms ago: no majority acked in time; the gate shut itself; given up: {}",
                    self.groups(groups)
                );
                d(EventKind::LeaseLapsed, text)
            }
            CoreEvent::PromiseExpired { peer, groups } => {
                let text = format!("{} has not renewed its promise: {} may be claimed", n.node(peer), self.groups(groups));
                d(EventKind::PromiseExpired, text).peer(n.node(peer))
            }
            CoreEvent::ClaimFailed { groups, granted, refused } => {
                let text = format!(
                    "the claim for {} was not granted in time ({} granted, {} refused); it is tried again",
                    self.groups(groups),
                    granted.count_ones(),
                    refused.count_ones()
                );
                d(EventKind::ClaimFailed, text)
            }
            CoreEvent::NodeHealth { peer, health } => {
                let name = n.node(peer);
                let (kind, text) = match health {
                    Health::Alive => (EventKind::NodeAlive, format!("{name} is heard")),
                    Health::Late => {
                        (EventKind::NodeLate, format!("{name}: its kernel answers, its agent does not (frozen or starved?)"))
                    }
                    Health::Silent => (EventKind::NodeSilent, format!("nothing is heard from {name}")),
                    Health::NeverSeen => (EventKind::NodeSilent, format!("{name} was never heard")),
                };
                d(kind, text).peer(name)
            }
            CoreEvent::ConfigMismatch { peer, digest, generation, matches } => {
                let name = n.node(peer);
                let text = if matches {
                    format!("{name} has our configuration again")
                } else {
                    format!(
                        "{name} runs another configuration (digest {digest:08x}, generation {generation}): \
                         copy the same file to all nodes and reload"
                    )
                };
                d(EventKind::ConfigMismatch, text).peer(name).with("matches", matches)
            }
            CoreEvent::NewIncarnation { peer } => {
                d(EventKind::Note, format!("{} came back with fresh state", n.node(peer))).peer(n.node(peer))
            }
            CoreEvent::GenerationEntered { from, to } => {
                d(EventKind::GenerationChange, format!("generation {to} is entered, {from} is left; leases go on"))
                    .with("from", from)
                    .with("to", to)
            }
            CoreEvent::Proven { peer, generation } => {
                let text = format!("{} votes in generation {generation}: this node may, too", n.node(peer));
                d(EventKind::GenerationChange, text).peer(n.node(peer))
            }
            CoreEvent::GateShut { peer, groups } => {
                let text = format!("{} runs {} with a later epoch: our gate shut at once", n.node(peer), self.groups(groups));
                d(EventKind::GateShutByHigherEpoch, text).peer(n.node(peer))
            }
            CoreEvent::DuplicateId => {
                let text = "another machine uses this node's id: all gates are shut, no votes until it is gone; \
                            give each node an id of its own";
                d(EventKind::DuplicateId, text.into())
            }
            CoreEvent::DuplicateGone => {
                d(EventKind::RejoinWait, "the other machine with our id is gone; waiting max_promise, then voting".into())
            }
            CoreEvent::PeerRegressed { peer } => {
                let text = format!("{}'s clock went back (rolled back to a snapshot?); it was told to start afresh", n.node(peer));
                d(EventKind::Note, text).peer(n.node(peer))
            }
            CoreEvent::PeerReplaced { peer } => {
                let text = format!("{} is back as it was before another machine took its place; it was told to start afresh", n.node(peer));
                d(EventKind::Note, text).peer(n.node(peer))
            }
            CoreEvent::PeerTwice { peer } => {
                let text = format!(
                    "two machines use the id of {}: the first goes on, the second is not listened to; give each node an id of its own",
                    n.node(peer)
                );
                d(EventKind::DuplicateId, text).peer(n.node(peer))
            }
            CoreEvent::StartedAfresh => {
                d(EventKind::RejoinWait, "the others have seen us further on, or another machine in our place: starting afresh".into())
            }
            CoreEvent::Voting => d(EventKind::Note, "voting from now on".into()),
            CoreEvent::Drained { node, on: true } => {
                d(EventKind::Drained, format!("{} is drained", n.node(node))).peer(n.node(node))
            }
            CoreEvent::Drained { node, on: false } => {
                d(EventKind::Undrained, format!("{} is back in use", n.node(node))).peer(n.node(node))
            }
            CoreEvent::Paused(true) => d(EventKind::Paused, "hands off: everything stays where it is".into()),
            CoreEvent::Paused(false) => d(EventKind::Resumed, "the pause is over".into()),
            CoreEvent::Wished { group, node } => {
                d(EventKind::Moved, format!("{} shall move to {}", n.group(group), n.node(node)))
                    .group(n.group(group))
                    .peer(n.node(node))
            }
            CoreEvent::ForeignClaim { group, address, mac } => {
                let ip = std::net::Ipv6Addr::from(address);
                let ip = ip.to_ipv4_mapped().map_or_else(|| ip.to_string(), |v4| v4.to_string());
                let [a, b, c, e, f, g] = mac;
                let mac = format!("{a:02x}:{b:02x}:{c:02x}:{e:02x}:{f:02x}:{g:02x}");
                d(EventKind::ForeignClaim, format!("{mac} claims our address {ip}; announcing again"))
                    .group(n.group(group))
                    .with("mac", mac)
                    .with("address", ip)
            }
        };
        vec![one]
    }

    /// The drafts for an event of the address thread.
    pub fn net(&mut self, at: u64, e: NetEvent) -> Vec<Draft> {
        let names = self.names.clone();
        let g = |id| names.group(id);
        let d = |kind, text: String| Draft::new(kind, text).at(at);
        vec![match e {
            NetEvent::AddressUp {
                group, epoch, t_ns, ..
            } => {
                if let Some(o) = self.open.get_mut(&group).filter(|o| o.gain.epoch == epoch) {
                    o.phases.address_ns = t_ns;
                }
                return Vec::new();
            }
            NetEvent::Announced {
                group, epoch, t_ns, ..
            } => {
                if let Some(o) = self.open.get_mut(&group).filter(|o| o.gain.epoch == epoch) {
                    o.phases.announced_ns = t_ns;
                    return self.close(group);
                }
                return Vec::new();
            }
            NetEvent::AddressFailed {
                group, text, errno, ..
            } => d(EventKind::AddressFailed, text.to_string())
                .group(g(group))
                .with("errno", errno),
            NetEvent::ExtraFailed {
                group, text, errno, ..
            } => d(EventKind::RouteFailed, text.to_string())
                .group(g(group))
                .with("errno", errno),
            NetEvent::DeviceFailed { text, .. } => d(EventKind::AddressFailed, text.to_string()),
            NetEvent::AddressAdopted { group, vip } => d(
                EventKind::Note,
                format!(
                    "VIP {vip} of {} was there already; it is ours now",
                    g(group)
                ),
            )
            .group(g(group)),
            NetEvent::AddressRestored { group, vip, .. } => d(
                EventKind::Note,
                format!("VIP {vip} of {} had vanished and is back", g(group)),
            )
            .group(g(group)),
            NetEvent::StrayRemoved { address, .. } => d(
                EventKind::StaleAddress,
                format!("{address} was here although this node does not own it; removed"),
            ),
            NetEvent::WithoutDevice { group, vips, .. } => d(
                EventKind::DeviceGone,
                format!("{vips} VIPs of {} have lost their device", g(group)),
            )
            .group(g(group)),
            // What is there at the start is no news.
            NetEvent::DeviceNew { name, .. } if !self.devices_gone.remove(name.as_str()) => {
                return Vec::new();
            }
            NetEvent::DeviceNew { name, .. } => d(
                EventKind::DeviceReturned,
                format!("device {name} is there again"),
            ),
            NetEvent::DeviceGone { name, .. } => {
                self.devices_gone.insert(name.to_string());
                d(EventKind::DeviceGone, format!("device {name} is gone"))
            }
            NetEvent::DeviceUp { name, .. } if !self.devices_down.remove(name.as_str()) => {
                return Vec::new();
            }
            NetEvent::DeviceUp { name, .. } => d(
                EventKind::DeviceReturned,
                format!("device {name} has carrier again"),
            ),
            NetEvent::DeviceDown { name, .. } => {
                self.devices_down.insert(name.to_string());
                d(
                    EventKind::DeviceGone,
                    format!("device {name} has no carrier"),
                )
            }
            NetEvent::Swept {
                removed,
                kept,
                failed,
            } if removed + failed > 0 => d(
                EventKind::StaleAddress,
                format!(
                    "{removed} stale addresses, routes and rules of ours removed at start, {kept} kept, {failed} could not be removed"
                ),
            ),
            NetEvent::Resynced { removed, restored } => d(
                EventKind::Note,
                format!(
                    "read all devices and addresses anew: {removed} removed, {restored} restored"
                ),
            ),
            NetEvent::ResyncFailed { errno } => d(
                EventKind::AddressFailed,
                format!("devices and addresses could not be read: error {errno}; tried again"),
            ),
            NetEvent::ConfigRefused { text } => d(EventKind::AddressFailed, text.to_string()),
            NetEvent::RealtimeRefused { errno } => d(
                EventKind::Note,
                format!("the address thread has no real-time priority: error {errno}"),
            ),
            NetEvent::AddressDown { .. }
            | NetEvent::StaleGain { .. }
            | NetEvent::StaleLose { .. }
            | NetEvent::UnknownGroup { .. }
            | NetEvent::DeviceMac { .. }
            | NetEvent::Swept { .. }
            | NetEvent::Reconfigured { .. }
            | NetEvent::Stopped => return Vec::new(),
        }]
    }

    /// This node has become fit for a group, or less so.
    pub fn fitness(&self, at: u64, c: FitnessChange) -> Draft {
        let name = self.names.group(c.group);
        let (kind, text) = match c.fitness {
            Fitness::Fit => (EventKind::Fit, format!("this node can run {name} again")),
            Fitness::Unfit => (
                EventKind::Unfit,
                format!("this node cannot run {name}: {}", c.reason),
            ),
            Fitness::Failed => (
                EventKind::Unfit,
                format!("{name} failed on this node: {}", c.reason),
            ),
            Fitness::Doubtful => (
                EventKind::Unfit,
                format!(
                    "this node gives {name} to any that is better off: {}",
                    c.reason
                ),
            ),
        };
        Draft::new(kind, text).at(at).group(name)
    }

    /// A group was given up.
    pub fn lost(&mut self, at: u64, group: u8, epoch: u64) -> Vec<Draft> {
        let mut drafts = self.close(group);
        let name = self.names.group(group);
        drafts.push(
            Draft::new(EventKind::Lost, format!("{name} is not here any more"))
                .at(at)
                .group(name)
                .epoch(epoch),
        );
        drafts
    }

    /// Takeovers that wait for an announcement that does not come.
    pub fn tick(&mut self, now: u64) -> Vec<Draft> {
        let late: Vec<u8> = self
            .open
            .iter()
            .filter(|(_, o)| now > o.since + WAIT)
            .map(|(g, _)| *g)
            .collect();
        late.into_iter().flat_map(|g| self.close(g)).collect()
    }

    fn close(&mut self, group: u8) -> Vec<Draft> {
        let Some(Open { gain, phases, .. }) = self.open.remove(&group) else {
            return Vec::new();
        };
        let name = self.names.group(group);
        let from = (gain.from != 0).then(|| self.names.node(gain.from));
        let (reason, why) = match (gain.reason, &from) {
            (GainReason::Start, _) => (TakeoverReason::Start, "nobody owned it".to_owned()),
            (GainReason::OwnerLost, Some(f)) => {
                (TakeoverReason::OwnerLost, format!("{f} fell silent"))
            }
            (GainReason::OwnerLost, None) => (
                TakeoverReason::OwnerLost,
                "its owner fell silent".to_owned(),
            ),
            (GainReason::Move, Some(f)) => (TakeoverReason::Move, format!("moved from {f}")),
            (GainReason::Move, None) => (TakeoverReason::Move, "moved".to_owned()),
        };
        let split = phases.split();
        let takeover = Takeover {
            reason,
            from: from.clone(),
            epoch: gain.epoch,
            at_boot_ns: phases.agreed_ns,
            phases,
            split,
        };
        self.takeovers.insert(group, takeover);
        let took = ms(split.agreement_ns + split.address_ns + split.announcement_ns);
        let text = format!("{name} is ours: {why}; granted and announced in {took:.1} ms");
        let mut d = Draft::new(EventKind::Gained, text)
            .at(phases.agreed_ns)
            .group(name)
            .epoch(gain.epoch)
            .with("reason", reason)
            .with("phases", phases)
            .with("split", split);
        if let Some(f) = from {
            d = d.peer(f);
        }
        vec![d]
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
