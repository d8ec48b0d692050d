//! Frames that were held while their group moved ([`agent_common::held`]) go after it: to the hardware address that announces
//! the group's addresses. What nobody takes over within [`LIFE`] is lost, as it would have been.
//!
//! They are requests of clients, sent on unread: nothing here speaks as a VIP, and the egress gate looks at each.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use agent_common::{
    held::{Held, Taker},
    record::AddressKey,
};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
};

use super::{
    NetError,
    packet::PacketSocket,
    rt::{boottime_ns, set_realtime},
};
use crate::datapath::{HeldItem, HeldRing};

/// How long a frame waits for somebody to take over, and how long it is remembered who did, ns.
pub const LIFE: u64 = 100_000_000;
/// The kernel says that it has an IPv6 address, and hangs it into its routes a little later, from a work queue
/// (`addrconf_dad_work` in net/ipv6/addrconf.c): what comes in between is lost. ns.
const SETTLES: u64 = 5_000_000;
/// Frames that may wait.
const FRAMES: usize = 512;
/// Destination and source of an Ethernet frame.
const MACS: usize = 12;

/// What became of held frames.
#[derive(Debug, Default)]
pub struct RelayStats {
    /// Sent after their group.
    pub sent: AtomicU64,
    /// Nobody took over in time, or they could not be sent.
    pub lost: AtomicU64,
}

/// A frame ready to be sent.
#[derive(Debug, PartialEq, Eq)]
struct Parcel {
    ifindex: u32,
    bytes: Box<[u8]>,
}

#[derive(Debug)]
struct Waiting {
    now: u64,
    address: AddressKey,
    parcel: Parcel,
}

#[derive(Debug)]
struct Took {
    since: u64,
    /// From when on frames reach it.
    ready: u64,
    mac: [u8; 6],
}

/// What waits, and who has taken over what.
#[derive(Debug, Default)]
struct Desk {
    waiting: VecDeque<Waiting>,
    /// By address and device. (One address of a group may be served before the next.)
    takers: BTreeMap<(AddressKey, u32), Took>,
    lost: u64,
}

impl Desk {
    /// A frame was held.
    fn frame(&mut self, held: &Held) {
        let bytes = held.frame.get(..usize::from(held.length));
        // Broadcast to a VIP: nobody's request.
        let request = bytes.filter(|b| b.len() > MACS && b.first().is_some_and(|b| b & 1 == 0));
        let Some(bytes) = request else {
            self.lost += 1;
            return;
        };
        if self.waiting.len() >= FRAMES {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(Waiting {
            now: held.now,
            address: held.address,
            parcel: Parcel {
                ifindex: held.ifindex,
                bytes: bytes.into(),
            },
        });
    }

    /// Somebody announced an address.
    fn taker(&mut self, t: &Taker) {
        let wait = if is_v4(&t.address) { 0 } else { SETTLES };
        let took = Took {
            since: t.now,
            ready: t.now.saturating_add(wait),
            mac: t.mac,
        };
        match self.takers.entry((t.address, t.ifindex)) {
            // It announces again and again.
            Entry::Occupied(known) if known.get().mac == t.mac => {}
            Entry::Occupied(mut known) => *known.get_mut() = took,
            Entry::Vacant(new) => {
                new.insert(took);
            }
        }
    }

    /// What can be sent now, in order; forgets what is too old.
    fn due(&mut self, now: u64) -> Vec<Parcel> {
        let mut due = Vec::new();
        for w in std::mem::take(&mut self.waiting) {
            let took = self.takers.get(&(w.address, w.parcel.ifindex));
            if let Some(took) = took.filter(|t| t.ready <= now) {
                due.push(w.parcel.to(took.mac));
            } else if now > w.now.saturating_add(LIFE) {
                self.lost += 1;
            } else {
                self.waiting.push_back(w);
            }
        }
        self.takers
            .retain(|_, took| now <= took.since.saturating_add(LIFE));
        due
    }

    /// When to look again, ns from now; `None`: when something is held.
    fn next(&self, now: u64) -> Option<u64> {
        if self.waiting.is_empty() && self.takers.is_empty() {
            return None;
        }
        let ready = self.takers.values().filter(|t| t.ready > now);
        let soon = ready.map(|t| t.ready - now).min();
        Some(soon.unwrap_or(LIFE / 4))
    }
}

/// An IPv4 address mapped into IPv6?
fn is_v4(a: &AddressKey) -> bool {
    a.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
}

impl Parcel {
    /// To this hardware address, from the one that the client had sent it to: switches must not learn the client's here.
    fn to(mut self, mac: [u8; 6]) -> Parcel {
        let own: [u8; 6] = match self.bytes.first_chunk() {
            Some(own) => *own,
            None => return self,
        };
        for (to, from) in self.bytes.iter_mut().zip(mac.into_iter().chain(own)) {
            *to = from;
        }
        self
    }
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    /// What it did.
    pub stats: Arc<RelayStats>,
    over: Arc<AtomicBool>,
    wake: Arc<EventFd>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = self.wake.write(1);
    }
}

impl Relay {
    /// Starts the thread.
    ///
    /// # Errors
    /// No socket, no thread.
    pub fn spawn(ring: HeldRing, priority: Option<u8>) -> Result<Relay, NetError> {
        let wake =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(|e| {
                NetError::Socket {
                    doing: "open an eventfd",
                    source: e.into(),
                }
            })?;
        let wake = Arc::new(wake);
        let (stats, over) = (Arc::new(RelayStats::default()), Arc::default());
        let mut thread = Thread {
            ring,
            socket: PacketSocket::open()?,
            desk: Desk::default(),
            stats: Arc::clone(&stats),
            over: Arc::clone(&over),
            wake: Arc::clone(&wake),
        };
        std::thread::Builder::new()
            .name("hl-relay".into())
            .spawn(move || {
                // The address thread reports a refusal: it is refused the same.
                let _ = priority.map(set_realtime);
                thread.run();
            })
            .map_err(NetError::Thread)?;
        Ok(Relay { stats, over, wake })
    }
}

struct Thread {
    ring: HeldRing,
    socket: PacketSocket,
    desk: Desk,
    stats: Arc<RelayStats>,
    over: Arc<AtomicBool>,
    wake: Arc<EventFd>,
}

impl Thread {
    fn run(&mut self) {
        while !self.over.load(Ordering::Acquire) {
            while let Some(item) = self.ring.pop() {
                match item {
                    HeldItem::Frame(held) => self.desk.frame(&held),
                    HeldItem::Taker(taker) => self.desk.taker(&taker),
                }
            }
            let due = self.desk.due(boottime_ns());
            self.send(due);
            let lost = std::mem::take(&mut self.desk.lost);
            self.stats.lost.fetch_add(lost, Ordering::Relaxed);
            self.sleep();
        }
    }

    fn send(&self, parcels: impl IntoIterator<Item = Parcel>) {
        for p in parcels {
            let to = if self.socket.send_one(p.ifindex, &p.bytes).is_ok() {
                &self.stats.sent
            } else {
                &self.stats.lost
            };
            to.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sleep(&self) {
        // SAFETY: the ring's descriptor lives as long as the ring, which outlives this call.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut fds = [
            PollFd::new(ring, PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        // Idle, it sleeps until something is held.
        let next = self.desk.next(boottime_ns());
        let timeout = next.map(|ns| TimeSpec::from(Duration::from_nanos(ns)));
        let _ = ppoll(&mut fds, timeout, None);
    }
}

#[cfg(test)]
mod tests {
    use agent_common::held::HELD_MAX;

    use super::*;

    const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OLD: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const NEW: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn address(last: u8, v6: bool) -> AddressKey {
        let mut a = [0; 16];
        a[10..12].copy_from_slice(if v6 { &[1, 0] } else { &[0xff, 0xff] });
        a[15] = last;
        a
    }

    fn held(now: u64, address: AddressKey, ifindex: u32, mark: u8) -> Held {
        let mut frame = [0; HELD_MAX];
        let bytes = OLD.into_iter().chain(CLIENT).chain([8, 0, mark]);
        let mut length = 0;
        for (to, from) in frame.iter_mut().zip(bytes) {
            *to = from;
            length += 1;
        }
        Held {
            now,
            ifindex,
            address,
            group: 7,
            pad: 0,
            length,
            frame,
        }
    }

    fn taker(now: u64, address: AddressKey, ifindex: u32) -> Taker {
        Taker {
            now,
            ifindex,
            address,
            group: 7,
            pad: [0; 5],
            mac: NEW,
        }
    }

    fn sent(ifindex: u32, mark: u8) -> Parcel {
        let bytes = NEW.into_iter().chain(OLD).chain([8, 0, mark]);
        Parcel {
            ifindex,
            bytes: bytes.collect(),
        }
    }

    #[test]
    fn frames_wait_for_the_new_owner_and_keep_their_order() {
        let (a, b) = (address(1, false), address(2, false));
        let mut desk = Desk::default();
        desk.frame(&held(1, a, 3, 1));
        desk.frame(&held(2, b, 3, 2));
        desk.frame(&held(3, a, 4, 3));
        desk.frame(&held(4, a, 3, 4));
        assert_eq!(desk.due(5), []);
        desk.taker(&taker(5, a, 3));
        assert_eq!(desk.due(5), [sent(3, 1), sent(3, 4)]);
        desk.frame(&held(6, a, 3, 5));
        assert_eq!(desk.due(6), [sent(3, 5)]);
        assert_eq!(desk.waiting.len(), 2, "another address, another device");
    }

    #[test]
    fn an_ipv6_address_gets_a_moment_and_one_only() {
        let a = address(1, true);
        let mut desk = Desk::default();
        desk.frame(&held(1, a, 3, 1));
        desk.taker(&taker(2, a, 3));
        assert_eq!(desk.due(2), []);
        assert_eq!(desk.next(2), Some(SETTLES));
        // Announced again.
        desk.taker(&taker(1 + SETTLES, a, 3));
        desk.frame(&held(1 + SETTLES, a, 3, 2));
        assert_eq!(desk.due(2 + SETTLES), [sent(3, 1), sent(3, 2)]);
    }

    #[test]
    fn nothing_waits_for_ever_or_without_bound() {
        let (a, b) = (address(1, false), address(2, false));
        let mut desk = Desk::default();
        assert_eq!(desk.next(0), None);
        desk.frame(&held(1, a, 3, 1));
        desk.taker(&taker(1, b, 3));
        desk.due(1 + LIFE);
        assert!(desk.next(1 + LIFE).is_some());
        desk.due(2 + LIFE);
        assert_eq!((desk.next(2 + LIFE), desk.lost), (None, 1));
        for i in 0..=FRAMES {
            desk.frame(&held(i as u64, a, 3, 0));
        }
        assert_eq!((desk.waiting.len(), desk.lost), (FRAMES, 2));
    }

    #[test]
    fn what_is_no_request_is_not_sent_on() {
        let a = address(1, false);
        let mut desk = Desk::default();
        desk.taker(&taker(1, a, 3));
        let mut wrong = held(1, a, 3, 1);
        wrong.frame[0] = 0xff;
        desk.frame(&wrong);
        let mut short = held(1, a, 3, 1);
        short.length = 12;
        desk.frame(&short);
        // Longer than there is room.
        short.length = u16::MAX;
        desk.frame(&short);
        assert_eq!((desk.due(2), desk.lost), (vec![], 3));
    }
}
