//! What happened on this node: the event type and a bounded history that many can follow.
//!
//! ```text
//! real-time thread --(its own bounded queue)--> tokio task --EventLog::push--> ring (last N)
//!                                                                        \--> followers (bounded, told what they missed)
//! ```
//! [`EventLog::push`] locks and allocates: the real-time thread must never call it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

/// How many events an agent keeps.
pub const HISTORY: usize = 4096;
/// How many events may wait for one follower before it starts to miss some.
const FOLLOWER_QUEUE: usize = 1024;

/// The kinds of events. The JSON names are stable; a name not known to the reader becomes [`EventKind::Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The agent is up and takes part.
    AgentStarted,
    /// The agent was asked to stop.
    AgentStopping,
    /// A restarted node waits until every promise that it may have forgotten has run out.
    RejoinWait,
    /// This node now owns a group. Extra: `reason`, `phases`.
    Gained,
    /// This node no longer owns a group.
    Lost,
    /// A claim did not reach a majority in time.
    ClaimFailed,
    /// A voter's promise to an owner ran out: its groups may be claimed.
    PromiseExpired,
    /// This node's own lease ran out.
    LeaseLapsed,
    /// A node is heard again, kernel and agent.
    NodeAlive,
    /// A node's kernel answers, its agent does not.
    NodeLate,
    /// Nothing is heard from a node.
    NodeSilent,
    /// Members, or the group of a VIP, change: what is waited for, and what was entered.
    GenerationChange,
    /// Another MAC address claimed one of our virtual addresses.
    ForeignClaim,
    /// Another machine uses this node's id: all gates shut, no more votes.
    DuplicateId,
    /// Two nodes run different configurations.
    ConfigMismatch,
    /// A heartbeat showed one of our groups on another node with a higher epoch; its gate shut at once.
    GateShutByHigherEpoch,
    /// A device that carries addresses has no gate.
    GateMissing,
    /// A gate that was missing is back.
    GateReturned,
    /// An address could not be added or removed.
    AddressFailed,
    /// A route or a rule of a group could not be added or removed.
    RouteFailed,
    /// This node cannot run a group now, or should not; the text says why.
    Unfit,
    /// This node can run a group again.
    Fit,
    /// A configured device vanished.
    DeviceGone,
    /// A configured device came back.
    DeviceReturned,
    /// The configuration was read again. Extra: `changed`.
    Reload,
    /// A planned restart began or ended.
    Restart,
    /// A node was drained.
    Drained,
    /// A drained node is back in use.
    Undrained,
    /// Hands off: everything stays where it is.
    Paused,
    /// The pause is over.
    Resumed,
    /// A group was moved on request.
    Moved,
    /// The kernel changed its clock source.
    ClockSourceChanged,
    /// Packets were refused; a summary over some time. Extra: `reason`, `count`.
    PacketRejected,
    /// A bounded queue was full and something was dropped. Extra: `queue`, `count`.
    QueueFull,
    /// Pinned maps or programs of another version or layout were found.
    StalePins,
    /// An address of ours, left by an earlier run, was removed.
    StaleAddress,
    /// What stands behind a group: started, stopped, waiting. Extra: `phase`.
    Service,
    /// A service or a probe of a group is good again.
    ServiceRecovered,
    /// A service or a probe of a group needs a look.
    ServiceTrouble,
    /// A service of a group does not work here.
    ServiceFailed,
    /// A machine could not migrate: the move is off.
    MoveFailed,
    /// A node is being fenced: what was asked of a fence device, and what it answered.
    Fencing,
    /// A node can do no more harm: a fence device or a person says so.
    Fenced,
    /// A node could not be fenced.
    FencingFailed,
    /// What must not run twice may start, and why. Extra: `proof`, `waited_ms`.
    Proven,
    /// A fence device does not answer when it is asked whether it works. Extra: `device`.
    FenceDeviceFailed,
    /// It answers again. Extra: `device`.
    FenceDeviceRecovered,
    /// The watchdog is armed, or petted again.
    WatchdogArmed,
    /// The watchdog is disarmed: nothing stateful runs here.
    WatchdogDisarmed,
    /// The watchdog cannot be armed, petted or disarmed.
    WatchdogFailed,
    /// The watchdog is petted no more, and will reset this machine. Extra: `left_ms`.
    WatchdogStarving,
    /// A hook could not be told, or had to miss events.
    HookFailed,
    /// Something else worth telling; the text says what.
    Note,
    /// A kind that this program does not know (a newer agent).
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// All that this program can tell, for those who choose among them.
    pub const ALL: [EventKind; 53] = {
        use EventKind::*;
        [
            AgentStarted,
            AgentStopping,
            RejoinWait,
            Gained,
            Lost,
            ClaimFailed,
            PromiseExpired,
            LeaseLapsed,
            NodeAlive,
            NodeLate,
            NodeSilent,
            GenerationChange,
            ForeignClaim,
            DuplicateId,
            ConfigMismatch,
            GateShutByHigherEpoch,
            GateMissing,
            GateReturned,
            AddressFailed,
            RouteFailed,
            Unfit,
            Fit,
            DeviceGone,
            DeviceReturned,
            Reload,
            Restart,
            Drained,
            Undrained,
            Paused,
            Resumed,
            Moved,
            ClockSourceChanged,
            PacketRejected,
            QueueFull,
            StalePins,
            StaleAddress,
            Service,
            ServiceRecovered,
            ServiceTrouble,
            ServiceFailed,
            MoveFailed,
            Fencing,
            Fenced,
            FencingFailed,
            Proven,
            FenceDeviceFailed,
            FenceDeviceRecovered,
            WatchdogArmed,
            WatchdogDisarmed,
            WatchdogFailed,
            WatchdogStarving,
            HookFailed,
            Note,
        ]
    };

    /// The JSON name.
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            _ => "unknown".to_owned(),
        }
    }

    /// How loudly it should be shown.
    pub fn severity(self) -> Severity {
        use EventKind::*;
        match self {
            DuplicateId
            | GateMissing
            | AddressFailed
            | RouteFailed
            | GateShutByHigherEpoch
            | ServiceFailed
            | MoveFailed
            | FencingFailed
            | FenceDeviceFailed
            | WatchdogFailed
            | WatchdogStarving
            | LeaseLapsed => Severity::Bad,
            ClaimFailed | PromiseExpired | NodeLate | NodeSilent | ForeignClaim
            | ConfigMismatch | DeviceGone | ClockSourceChanged | PacketRejected | QueueFull
            | StalePins | RejoinWait | Lost | Unfit | ServiceTrouble | Fencing | Fenced
            | HookFailed => Severity::Warn,
            Gained | NodeAlive | DeviceReturned | GateReturned | Moved | Resumed | Undrained
            | Fit | ServiceRecovered | Proven | FenceDeviceRecovered => Severity::Good,
            AgentStarted | AgentStopping | Reload | GenerationChange | Restart | Drained
            | Paused | StaleAddress | Service | WatchdogArmed | WatchdogDisarmed | Note
            | Unknown => Severity::Plain,
        }
    }
}

/// How loudly an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Needs a person.
    Bad,
    /// Worth a look.
    Warn,
    /// Good news.
    Good,
    /// For the record.
    Plain,
}

/// One thing that happened, as kept and as printed by `heartline events --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds of CLOCK_BOOTTIME of `node`.
    pub boot_ns: u64,
    /// When, RFC 3339 in UTC with milliseconds; derived from `boot_ns` when recorded.
    pub time: String,
    /// The node that tells it.
    pub node: String,
    /// Counts from 1 in each run of the agent, without gaps.
    pub seq: u64,
    /// What kind.
    pub kind: EventKind,
    /// The group it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The other node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The epoch it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// A sentence for people.
    pub text: String,
    /// Further members, by kind (for `gained`: `reason` and `phases`).
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The members of [`Event`] that `extra` must not shadow.
const RESERVED: [&str; 9] = [
    "boot_ns", "time", "node", "seq", "kind", "group", "peer", "epoch", "text",
];

/// An event not yet recorded.
#[derive(Clone, Debug)]
pub struct Draft {
    kind: EventKind,
    text: String,
    boot_ns: Option<u64>,
    group: Option<String>,
    peer: Option<String>,
    epoch: Option<u64>,
    extra: Map<String, Value>,
}

impl Draft {
    /// A draft of the given kind, with a sentence for people.
    pub fn new(kind: EventKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            boot_ns: None,
            group: None,
            peer: None,
            epoch: None,
            extra: Map::new(),
        }
    }

    /// When it happened (CLOCK_BOOTTIME, ns). Without it: when it is recorded.
    pub fn at(mut self, boot_ns: u64) -> Self {
        self.boot_ns = Some(boot_ns);
        self
    }

    /// The group it is about.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The other node it is about.
    pub fn peer(mut self, peer: impl Into<String>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// The epoch it belongs to.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// A further member. One with the name of a member of [`Event`], or that is not JSON, is left out.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let reserved = RESERVED.contains(&name);
        debug_assert!(!reserved, "{name} is a member of Event itself");
        if let (false, Ok(value)) = (reserved, serde_json::to_value(value)) {
            self.extra.insert(name.to_owned(), value);
        }
        self
    }
}

/// A part of the history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventPage {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// How many of the events asked for are no longer kept.
    pub missed: u64,
    /// The sequence number that the next event will get.
    pub next_seq: u64,
}

/// What a follower receives.
#[derive(Clone, Debug)]
pub enum Followed {
    /// The next event.
    Event(Arc<Event>),
    /// The follower was too slow: so many events are lost to it.
    Missed(u64),
    /// The log is gone (the agent ends).
    Closed,
}

/// A place in the stream of events.
pub struct Follower {
    queue: broadcast::Receiver<Arc<Event>>,
}

impl Follower {
    /// Waits for the next event. Safe to drop while it waits.
    pub async fn next(&mut self) -> Followed {
        match self.queue.recv().await {
            Ok(event) => Followed::Event(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Followed::Missed(count),
            Err(broadcast::error::RecvError::Closed) => Followed::Closed,
        }
    }
}

/// The bounded history of one agent. Shared by `Arc`; every method takes `&self`.
pub struct EventLog {
    node: String,
    capacity: usize,
    ring: Mutex<Ring>,
    followers: broadcast::Sender<Arc<Event>>,
}

struct Ring {
    next_seq: u64,
    events: VecDeque<Arc<Event>>,
}

impl EventLog {
    /// An empty history of [`HISTORY`] events for this node.
    pub fn new(node: impl Into<String>) -> Arc<Self> {
        Self::with_capacity(node, HISTORY, FOLLOWER_QUEUE)
    }

    /// An empty history that keeps `capacity` events and lets `queue` of them wait for each follower.
    /// Both are at least 1.
    pub fn with_capacity(node: impl Into<String>, capacity: usize, queue: usize) -> Arc<Self> {
        let capacity = capacity.max(1);
        Arc::new(Self {
            node: node.into(),
            capacity,
            ring: Mutex::new(Ring {
                next_seq: 1,
                events: VecDeque::with_capacity(capacity),
            }),
            followers: broadcast::Sender::new(queue.max(1)),
        })
    }

    /// Records an event now and passes it to the followers; never waits for one. Not for the real-time thread.
    pub fn push(&self, draft: Draft) -> Arc<Event> {
        self.push_at(draft, boot_now_ns(), Timestamp::now())
    }

    /// As [`EventLog::push`], with both clocks given.
    pub fn push_at(&self, draft: Draft, boot_now: u64, wall_now: Timestamp) -> Arc<Event> {
        let boot_ns = draft.boot_ns.unwrap_or(boot_now);
        let age = Duration::from_nanos(boot_now.saturating_sub(boot_ns));
        let wall = wall_now.checked_sub(age).unwrap_or(wall_now);
        let mut ring = self.ring();
        let event = Arc::new(Event {
            boot_ns,
            time: format!("{wall:.3}"),
            node: self.node.clone(),
            seq: ring.next_seq,
            kind: draft.kind,
            group: draft.group,
            peer: draft.peer,
            epoch: draft.epoch,
            text: draft.text,
            extra: draft.extra,
        });
        ring.next_seq += 1;
        if ring.events.len() >= self.capacity {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        // Under the lock, so that every follower sees the order of the sequence numbers.
        // An error only means that nobody follows.
        let _ = self.followers.send(event.clone());
        event
    }

    /// The events from `since_seq` on (from the oldest kept without it), the newest `limit` of them.
    pub fn page(&self, since_seq: Option<u64>, limit: usize) -> EventPage {
        let part = self.ring().part(since_seq, limit);
        part.into()
    }

    /// As [`EventLog::page`], and a follower that starts right behind it: nothing is lost or told twice.
    pub fn follow(&self, since_seq: Option<u64>, limit: usize) -> (EventPage, Follower) {
        let (part, queue) = {
            let ring = self.ring();
            (ring.part(since_seq, limit), self.followers.subscribe())
        };
        (part.into(), Follower { queue })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is whole after every statement that changes it, so a panic elsewhere does not spoil it.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An [`EventPage`] whose events are not yet copied: that happens outside the lock.
struct Part {
    events: Vec<Arc<Event>>,
    missed: u64,
    next_seq: u64,
}

impl From<Part> for EventPage {
    fn from(part: Part) -> Self {
        let events = part
            .events
            .iter()
            .map(|event| Event::clone(event))
            .collect();
        EventPage {
            events,
            missed: part.missed,
            next_seq: part.next_seq,
        }
    }
}

impl Ring {
    fn part(&self, since_seq: Option<u64>, limit: usize) -> Part {
        let oldest = self.events.front().map_or(self.next_seq, |event| event.seq);
        let from = since_seq.unwrap_or(oldest);
        let missed = oldest.min(self.next_seq).saturating_sub(from.max(1));
        let wanted = self.next_seq.saturating_sub(from.max(oldest));
        let take = usize::try_from(wanted)
            .unwrap_or(usize::MAX)
            .min(limit)
            .min(self.events.len());
        let events = self
            .events
            .iter()
            .skip(self.events.len() - take)
            .cloned()
            .collect();
        Part {
            events,
            missed,
            next_seq: self.next_seq,
        }
    }
}

/// CLOCK_BOOTTIME in nanoseconds; 0 if the kernel refuses (it does not).
pub fn boot_now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
