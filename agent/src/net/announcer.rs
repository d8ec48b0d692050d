//! The second pair of hands of a large gain: a thread that announces addresses while the address thread adds the next
//! ones. Adding is the kernel's work under its RTNL lock, sending is the network's: they need not wait for each other.
//!
//! What it is given is in place already, and it asks nothing: a loss in between, or a device that vanished, is no harm,
//! for the egress gate lets nothing pass that this node does not own, and the kernel refuses frames for a device that is
//! gone. It never waits either, so what it was given is out within the time of a few batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use nix::sys::eventfd::{EfdFlags, EventFd};
use rtrb::{Consumer, Producer, RingBuffer};

use super::frames::Frame;
use super::netlink::BATCH;
use super::packet::{Outgoing, PacketSocket, SLICE};
use super::rt::{boottime_ns, set_realtime};
use super::{NetError, NetStats};

/// Parcels on their way at most. Few: what does not fit is sent by the address thread itself, and that is better than to
/// let it wait behind a thread that does not get to run.
const PARCELS: usize = 4;

/// Announcements of one batch of a gain.
struct Parcel {
    group: u8,
    gain: u64,
    frames: ArrayVec<(u32, Frame), BATCH>,
}

/// What became of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub group: u8,
    /// Which gain of the group, as handed over.
    pub gain: u64,
    /// Frames that the kernel took.
    pub frames: u32,
    /// When it had taken them, boot ns.
    pub t_ns: u64,
}

/// The address thread's end.
pub(crate) struct Announcer {
    parcels: Producer<Parcel>,
    delivered: Consumer<Delivered>,
    /// Handed over and not yet heard of.
    under_way: usize,
    wake: Arc<EventFd>,
    ended: Arc<AtomicBool>,
}

impl Announcer {
    /// Starts the thread; `done` is written to when a parcel is delivered.
    pub fn spawn(
        priority: Option<u8>,
        done: Arc<EventFd>,
        stats: Arc<NetStats>,
    ) -> Result<Self, NetError> {
        // A read of it waits: the thread has nothing else to wait for.
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|e| NetError::Socket {
            doing: "open an eventfd",
            source: e.into(),
        })?;
        let wake = Arc::new(wake);
        let ended = Arc::new(AtomicBool::new(false));
        let packets = PacketSocket::open()?;
        let (parcels, mut given) = RingBuffer::new(PARCELS);
        let (mut told, delivered) = RingBuffer::new(PARCELS);
        let (woken, over) = (Arc::clone(&wake), Arc::clone(&ended));
        std::thread::Builder::new()
            .name("hl-announce".into())
            .spawn(move || {
                // The address thread reports a refusal: it is refused the same.
                let _ = priority.map(set_realtime);
                while !over.load(Ordering::Acquire) {
                    while let Ok(parcel) = given.pop() {
                        // Never full: no more are under way than it holds.
                        let _ = told.push(deliver(&packets, &stats, &parcel));
                        let _ = done.write(1);
                    }
                    let _ = woken.read();
                }
            })
            .map_err(NetError::Thread)?;
        Ok(Self {
            parcels,
            delivered,
            under_way: 0,
            wake,
            ended,
        })
    }

    /// Hands frames over; false if they must be sent in another way.
    pub fn hand<'a>(
        &mut self,
        group: u8,
        gain: u64,
        frames: impl Iterator<Item = (u32, &'a Frame)>,
    ) -> bool {
        if self.under_way >= PARCELS {
            return false;
        }
        let frames = frames.map(|(ifindex, frame)| (ifindex, frame.clone()));
        let parcel = Parcel {
            group,
            gain,
            frames: frames.take(BATCH).collect(),
        };
        let handed = self.parcels.push(parcel).is_ok();
        if handed {
            self.under_way += 1;
            let _ = self.wake.write(1);
        }
        handed
    }

    /// The next parcel that was delivered.
    pub fn collect(&mut self) -> Option<Delivered> {
        let delivered = self.delivered.pop().ok()?;
        self.under_way = self.under_way.saturating_sub(1);
        Some(delivered)
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = self.wake.write(1);
    }
}

fn deliver(packets: &PacketSocket, stats: &NetStats, parcel: &Parcel) -> Delivered {
    let frames = parcel
        .frames
        .iter()
        .map(|(ifindex, frame)| (*ifindex, frame));
    let frames: ArrayVec<Outgoing<'_>, SLICE> = frames.take(SLICE).collect();
    let result = packets.send(&frames);
    // What found a queue full is made good by the repetition after 10 ms.
    let left = u32::try_from(result.left).unwrap_or(u32::MAX);
    NetStats::add(&stats.frames_sent, result.sent.into());
    NetStats::add(
        &stats.frames_failed,
        u64::from(result.failed) + u64::from(left),
    );
    Delivered {
        group: parcel.group,
        gain: parcel.gain,
        frames: result.sent,
        t_ns: boottime_ns(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::queue::eventfd;
    use super::*;

    fn collect(announcer: &mut Announcer) -> Delivered {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(delivered) = announcer.collect() {
                return delivered;
            }
            assert!(Instant::now() < end, "nothing was delivered");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_handed_over_is_heard_of_and_no_more_than_fits() {
        let stats = Arc::new(NetStats::default());
        let done = eventfd().unwrap();
        let mut announcer = Announcer::spawn(None, Arc::clone(&done), Arc::clone(&stats))
            .expect("this test needs root (CAP_NET_RAW)");
        // No such device: refused one by one, and nobody is stuck.
        let frame: Frame = [0xff; 42].into_iter().collect();
        let frames = || std::iter::repeat_n((u32::MAX >> 1, &frame), 3);
        for gain in 0..PARCELS as u64 {
            assert!(announcer.hand(7, gain, frames()));
        }
        assert!(!announcer.hand(7, 99, frames()), "more than it holds");
        for gain in 0..PARCELS as u64 {
            let delivered = collect(&mut announcer);
            assert_eq!(
                (delivered.group, delivered.gain, delivered.frames),
                (7, gain, 0)
            );
        }
        assert!(announcer.hand(7, 99, frames()));
        assert_eq!(collect(&mut announcer).gain, 99);
        let failed = stats.frames_failed.load(Ordering::Relaxed);
        assert_eq!(failed, 3 * (PARCELS as u64 + 1));
        assert!(done.read().is_ok(), "nobody was woken");
    }
}
