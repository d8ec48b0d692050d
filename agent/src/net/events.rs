//! What goes in and out of the address thread.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DevName, NetConfig, Text, Why};

/// What the real-time thread says. No heap, so that sending never allocates or frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetCommand {
    /// The lease is held and the gate bit is set: add the addresses, then announce.
    Gain {
        /// Group id.
        group: u8,
        /// Epoch of this ownership.
        epoch: u64,
        /// When the agent decided, boot clock ns; handed back in [`NetEvent::AddressUp`].
        t_decided_ns: u64,
    },
    /// The gate bit is shut: stop announcing, remove the addresses.
    Lose {
        /// Group id.
        group: u8,
        /// The epoch that ends. A gain with this epoch or an older one is refused from now on.
        epoch: u64,
    },
    /// Announce again (foreign claim of a VIP, heal); at most one round per 100 ms and group.
    Announce {
        /// Group id.
        group: u8,
    },
    /// Finish removals that were asked for and end. Addresses of groups still owned stay (planned restart).
    Stop,
}

/// What the rest of the agent says.
#[derive(Debug)]
pub enum NetControl {
    /// Take a new configuration; what does not differ is not touched.
    Reconfigure(Box<NetConfig>),
    /// The gate on a device is attached and verified, or gone. Only of use with
    /// [`NetConfig::wait_for_gate`].
    Gate {
        /// The device.
        ifindex: u32,
        /// Whether its gate is in place.
        covered: bool,
    },
    /// As [`NetCommand::Stop`].
    Stop,
}

/// What the address thread reports. No heap: the real-time thread may read it.
/// All times are boot clock ns; `vip` is an index into [`super::NetGroup::vips`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the field names say it; units and indices are in the line above"
)]
pub enum NetEvent {
    /// All addresses of a gained group were tried; `up` are in place, `failed` are retried.
    AddressUp {
        group: u8,
        epoch: u64,
        t_decided_ns: u64,
        t_ns: u64,
        up: u16,
        failed: u16,
    },
    /// A round of announcements went out (repetitions and periodic rounds are not reported).
    Announced {
        group: u8,
        epoch: u64,
        t_ns: u64,
        frames: u32,
        why: Why,
    },
    /// A lost group's addresses are removed.
    AddressDown { group: u8, epoch: u64, t_ns: u64 },
    /// The kernel refused an address (or its removal); it is tried again. Told once per reason.
    AddressFailed {
        group: u8,
        vip: u16,
        errno: i32,
        text: Text,
    },
    /// The kernel refused a route or a rule (or its removal); it is tried again. Told once per reason.
    ExtraFailed { group: u8, errno: i32, text: Text },
    /// The macvlan of a gateway VIP could not be made or raised; it is tried again. Told once per reason.
    DeviceFailed { name: DevName, text: Text },
    /// The address was there already when the group was gained; it is ours now.
    AddressAdopted { group: u8, vip: u16 },
    /// An owned address had vanished (or could not be added before) and is back.
    AddressRestored { group: u8, vip: u16, t_ns: u64 },
    /// A VIP that this node does not own had been added by somebody, and was removed.
    StrayRemoved { address: IpAddr, ifindex: u32 },
    /// The device of owned VIPs went away, or its gate did; they come back with it.
    WithoutDevice { group: u8, vips: u16, ifindex: u32 },
    /// A gain not newer than the group's last loss was refused.
    StaleGain {
        group: u8,
        epoch: u64,
        lost_epoch: u64,
    },
    /// A loss older than the group's present ownership was refused.
    StaleLose {
        group: u8,
        epoch: u64,
        owned_epoch: u64,
    },
    /// A command for a group that is not in the configuration.
    UnknownGroup { group: u8 },
    /// A device appeared (or got this name): attach the gate.
    DeviceNew { ifindex: u32, name: DevName },
    /// A device vanished (or lost this name).
    DeviceGone { ifindex: u32, name: DevName },
    /// A device can pass traffic.
    DeviceUp { ifindex: u32, name: DevName },
    /// A device cannot pass traffic: down, or no carrier.
    DeviceDown { ifindex: u32, name: DevName },
    /// A device has a new hardware address; the announcements carry it from now on.
    DeviceMac {
        ifindex: u32,
        name: DevName,
        mac: [u8; 6],
    },
    /// The sweep at start: stale addresses, routes and rules removed, addresses of groups still owned kept.
    Swept {
        removed: u32,
        kept: u32,
        failed: u32,
    },
    /// Kernel notices were lost and everything was read anew; `removed` addresses were not to be there.
    Resynced { removed: u32, restored: u32 },
    /// Devices and addresses could not be read; tried again within a second.
    ResyncFailed { errno: i32 },
    /// A new configuration is in force.
    Reconfigured {
        serial: u64,
        vips: u32,
        removed: u32,
    },
    /// A new configuration was refused; the old one stays.
    ConfigRefused { text: Text },
    /// The thread runs without real-time priority.
    RealtimeRefused { errno: i32 },
    /// The thread has ended.
    Stopped,
}

/// Counters, readable at any time from anywhere.
#[derive(Debug, Default)]
pub struct NetStats {
    /// Events dropped because the queue was full.
    pub events_dropped: AtomicU64,
    /// Commands that had to wait in the sender because the queue was full.
    pub commands_delayed: AtomicU64,
    /// Announcement frames the kernel took.
    pub frames_sent: AtomicU64,
    /// Announcement frames it refused, or that were given up on a full queue.
    pub frames_failed: AtomicU64,
    /// Netlink requests refused (EEXIST on adding and "not there" on removing not counted).
    pub requests_refused: AtomicU64,
    /// Netlink requests without an answer in time.
    pub requests_silent: AtomicU64,
    /// Times that kernel notices were lost.
    pub resyncs: AtomicU64,
    /// Datagrams from the kernel that did not parse.
    pub malformed: AtomicU64,
}

impl NetStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
