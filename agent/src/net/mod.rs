//! Addresses and announcements: the body of the agent's second real-time thread.
//!
//! ```text
//!  RT thread --NetCommand--> [queue + eventfd] --\                       /--> netlink: add, renew, remove
//!  tokio ----NetControl----> [queue + eventfd] ---> worker (this thread) ---> packet socket: ARP, NA
//!  kernel ---notices-------> [monitor socket] ---/                       \--> NetEvent [queue + eventfd]
//! ```
//!
//! Rules kept here:
//! - *Address first, routes and rules next, announcement last*; a VIP that is not in place is never announced.
//! - *No gate, no address* (rule 13): with [`NetConfig::wait_for_gate`] a device gets no VIP before
//!   [`NetControl::Gate`] says that its gate covers it, and loses them when the gate goes.
//! - *Withdrawing before anything slow*: commands are read between any two batches, removals come
//!   first, periodic work goes in slices and last.
//! - *A stale epoch does nothing*: a gain not newer than the group's last loss is refused.
//! - A gateway VIP lives on a macvlan with the group's virtual MAC, made beforehand on every node (`virtual_mac`).
//! - Addresses lapse by themselves: `valid_lft` of [`VALID_LIFETIME_S`], renewed every
//!   [`RENEW_INTERVAL_NS`].
//! - Nothing on the way from a gain to its announcement allocates: requests and frames are built
//!   when the configuration or a device changes.
//!
//! Absent: any right to own. The gate in the kernel decides who passes traffic; this thread only
//! makes the addresses follow.

mod announcer;
mod config;
mod devices;
mod events;
mod extras;
mod frames;
mod groups;
mod messages;
mod monitor;
mod netlink;
mod packet;
mod parse;
mod queue;
pub mod relay;
pub mod rt;
mod schedule;
mod virtual_mac;
mod work;
mod worker;

pub use config::{Gateway, NetConfig, NetGroup, NetVip};
pub use devices::{Device, DeviceAddress, list_devices};
pub use events::{NetCommand, NetControl, NetEvent, NetStats};
pub use extras::NetExtra;
pub use queue::{CommandSender, ControlSender, EventReceiver};
pub use schedule::Why;
pub use virtual_mac::{device_name as virtual_device_name, remove_leftovers};
pub use worker::{NetHandle, Start, spawn};

/// A device name (at most 15 bytes), without heap.
pub type DevName = arrayvec::ArrayString<16>;
/// A short text in an event, without heap; cut where it does not fit.
pub type Text = arrayvec::ArrayString<128>;

/// `IFA_PROTO` of our addresses, ASCII `H`. Kernels before 5.18 ignore it; the label marks IPv4 there.
/// (1 to 3 are the kernel's, 18 is keepalived's.)
pub const IFA_PROTO_HEARTLINE: u8 = 72;
/// `rtm_protocol` of our routes and `FRA_PROTOCOL` of our rules, the same number; `ip route show proto 72`.
pub const PROTO_HEARTLINE: u8 = IFA_PROTO_HEARTLINE;
/// The end of the label of our IPv4 addresses: `eth0:hl`.
pub const LABEL_SUFFIX: &str = ":hl";
/// How long the kernel keeps an address that nobody renews, seconds.
pub const VALID_LIFETIME_S: u32 = 30;
/// How often owned addresses are renewed, ns. A third of the lifetime, so that what is left after
/// a planned restart (20 s) outlasts any `max_promise`.
pub const RENEW_INTERVAL_NS: u64 = 10_000_000_000;

/// For tests/fuzz: how many messages a datagram of the kernel's holds, and whether it ended in something else.
#[doc(hidden)]
pub fn read_notices(datagram: &[u8]) -> (usize, bool) {
    let mut items = parse::items(datagram);
    let count = items.by_ref().count();
    (count, items.malformed)
}

/// Why the address thread could not start or list.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A socket could not be opened or set up.
    #[error("cannot {doing}: {source}")]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Devices or addresses could not be listed.
    #[error("cannot list devices and addresses over netlink: {0}")]
    Dump(nix::errno::Errno),
    /// The configuration cannot be right.
    #[error("{0}")]
    Config(String),
    /// The thread could not be started.
    #[error("cannot start the address thread: {0}")]
    Thread(std::io::Error),
}
