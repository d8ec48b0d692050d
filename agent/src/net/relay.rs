//! Frames that were held while their group moved ([`agent_common::held`]) go after it: to the hardware address that announces
//! the group's addresses. What nobody takes over within [`LIFE`] is lost, as it would have been.
//!
//! They are requests of clients, sent on unread: nothing here speaks as a VIP, and the egress gate looks at each.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use agent_common::held::{Held, Taker};
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
/// Frames that may wait: about what the kernel's ring holds.
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
    group: u8,
    parcel: Parcel,
}

/// What waits, and who has taken over what.
#[derive(Debug, Default)]
struct Desk {
    waiting: VecDeque<Waiting>,
    /// By group and device: since when, and its hardware address.
    takers: BTreeMap<(u8, u32), (u64, [u8; 6])>,
    lost: u64,
}

impl Desk {
    /// A frame was held; it comes back if it can be sent.
    fn frame(&mut self, held: &Held) -> Option<Parcel> {
        let bytes = held.frame.get(..usize::from(held.length))?;
        // Broadcast to a VIP: nobody's request.
        if bytes.len() <= MACS || bytes.first().is_some_and(|b| b & 1 != 0) {
            self.lost += 1;
            return None;
        }
        let parcel = Parcel {
            ifindex: held.ifindex,
            bytes: bytes.into(),
        };
        if let Some((_, mac)) = self.takers.get(&(held.group, held.ifindex)) {
            return Some(parcel.to(*mac));
        }
        if self.waiting.len() >= FRAMES {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(Waiting {
            now: held.now,
            group: held.group,
            parcel,
        });
        None
    }

    /// Somebody announced an address of the group: what waits for that can be sent, in order.
    fn taker(&mut self, t: &Taker) -> Vec<Parcel> {
        self.takers.insert((t.group, t.ifindex), (t.now, t.mac));
        let (go, stay) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|w| w.group == t.group && w.parcel.ifindex == t.ifindex);
        self.waiting = stay;
        let go: VecDeque<Waiting> = go;
        go.into_iter().map(|w| w.parcel.to(t.mac)).collect()
    }

    /// Forgets what is too old.
    fn expire(&mut self, now: u64) {
        while self
            .waiting
            .front()
            .is_some_and(|w| now > w.now.saturating_add(LIFE))
        {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.takers
            .retain(|_, (since, _)| now <= since.saturating_add(LIFE));
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.takers.is_empty()
    }
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
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(
            |e| NetError::Socket {
                doing: "open an eventfd",
                source: e.into(),
            },
        )?;
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
                    HeldItem::Frame(held) => {
                        let parcel = self.desk.frame(&held);
                        self.send(parcel);
                    }
                    HeldItem::Taker(taker) => {
                        let parcels = self.desk.taker(&taker);
                        self.send(parcels);
                    }
                }
            }
            self.desk.expire(boottime_ns());
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
        let timeout =
            (!self.desk.is_idle()).then(|| TimeSpec::from(Duration::from_nanos(LIFE / 4)));
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

    fn held(now: u64, group: u8, ifindex: u32, mark: u8) -> Held {
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
            group,
            pad: 0,
            length,
            frame,
        }
    }

    fn taker(now: u64, group: u8, ifindex: u32) -> Taker {
        Taker {
            now,
            ifindex,
            group,
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
        let mut desk = Desk::default();
        assert_eq!(desk.frame(&held(1, 7, 3, 1)), None);
        assert_eq!(desk.frame(&held(2, 8, 3, 2)), None, "of another group");
        assert_eq!(desk.frame(&held(3, 7, 4, 3)), None, "on another device");
        assert_eq!(desk.frame(&held(4, 7, 3, 4)), None);
        assert_eq!(desk.taker(&taker(5, 7, 3)), [sent(3, 1), sent(3, 4)]);
        assert_eq!(desk.frame(&held(6, 7, 3, 5)), Some(sent(3, 5)));
        assert_eq!(desk.waiting.len(), 2);
    }

    #[test]
    fn nothing_waits_for_ever_or_without_bound() {
        let mut desk = Desk::default();
        desk.frame(&held(1, 7, 3, 1));
        desk.taker(&taker(1, 8, 3));
        desk.expire(1 + LIFE);
        assert!(!desk.is_idle());
        desk.expire(2 + LIFE);
        assert!(desk.is_idle());
        assert_eq!(desk.lost, 1);
        for i in 0..=FRAMES {
            desk.frame(&held(i as u64, 7, 3, 0));
        }
        assert_eq!((desk.waiting.len(), desk.lost), (FRAMES, 2));
    }

    #[test]
    fn what_is_no_request_is_not_sent_on() {
        let mut desk = Desk::default();
        desk.taker(&taker(1, 7, 3));
        let mut wrong = held(1, 7, 3, 1);
        wrong.frame[0] = 0xff;
        assert_eq!(desk.frame(&wrong), None);
        let mut short = held(1, 7, 3, 1);
        short.length = 12;
        assert_eq!(desk.frame(&short), None);
        short.length = u16::MAX;
        assert_eq!(desk.frame(&short), None, "longer than there is room");
    }
}
