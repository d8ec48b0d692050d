//! What a client feels: an ICMP echo to the VIP every millisecond through the client's own network
//! stack and neighbour cache.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect,
            recv, send, socket,
        },
        time::TimeSpec,
    },
};
use smoltcp::wire::Ipv4Packet;

use crate::{
    clock::{boot_ns, prober_priority},
    echo,
    lab::Station,
};

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// When it was sent.
    pub sent: u64,
    /// When its answer came; `None`: never.
    pub answered: Option<u64>,
}

/// A time without answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Gap {
    /// Arrival of the last answer before.
    pub from: u64,
    /// Arrival of the first answer after; the end of the window if there was none.
    pub to: u64,
    /// Probes lost in it.
    pub lost: usize,
    /// It had not ended within the window.
    pub open: bool,
}

/// What a client felt in a window of time.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outage {
    /// Probes sent.
    pub sent: usize,
    /// Probes never answered.
    pub lost: usize,
    /// The gaps, in order of time.
    pub gaps: Vec<Gap>,
    /// Slowest answer, ns.
    pub worst_rtt_ns: u64,
    /// Longest time between two probes: more than the interval means that the prober itself was
    /// not scheduled (noise of the machine).
    pub stall_ns: u64,
}

impl Outage {
    /// How long the client went without: all gaps together; if nothing was lost, the slowest
    /// answer. Nanoseconds.
    #[must_use]
    pub fn ns(&self) -> u64 {
        if self.gaps.is_empty() {
            self.worst_rtt_ns
        } else {
            self.gaps.iter().map(|gap| gap.to - gap.from).sum()
        }
    }

    /// Whether the last gap had ended.
    #[must_use]
    pub fn over(&self) -> bool {
        self.gaps.last().is_none_or(|gap| !gap.open)
    }

    /// From probes in order of sending, all sent within the window that ends at `to`.
    #[must_use]
    pub fn of(probes: &[Probe], to: u64) -> Self {
        let mut outage = Self {
            sent: probes.len(),
            ..Self::default()
        };
        let mut before: Option<u64> = None;
        let mut previous: Option<u64> = None;
        let mut gap: Option<Gap> = None;
        for probe in probes {
            if let Some(previous) = previous {
                outage.stall_ns = outage.stall_ns.max(probe.sent.saturating_sub(previous));
            }
            previous = Some(probe.sent);
            if let Some(answered) = probe.answered {
                outage.worst_rtt_ns = outage.worst_rtt_ns.max(answered.saturating_sub(probe.sent));
                if let Some(mut ended) = gap.take() {
                    ended.to = answered.max(ended.from);
                    outage.gaps.push(ended);
                }
                before = Some(answered);
            } else {
                outage.lost += 1;
                let from = before.unwrap_or(probe.sent);
                gap.get_or_insert(Gap {
                    from,
                    to: from,
                    lost: 0,
                    open: false,
                })
                .lost += 1;
            }
        }
        if let Some(last) = gap {
            outage.gaps.push(Gap {
                to: to.max(last.from),
                open: true,
                ..last
            });
        }
        outage
    }
}

#[derive(Debug)]
struct Record {
    sent: Box<[AtomicU64]>,
    answered: Box<[AtomicU64]>,
    next: AtomicUsize,
    stop: AtomicBool,
}

/// A running prober; stops on drop.
#[derive(Debug)]
pub struct OutageProber {
    record: Arc<Record>,
    real_time: bool,
    thread: Option<JoinHandle<()>>,
}

impl OutageProber {
    /// Starts probing `target` from `station` every `interval`, for at most `longest`.
    ///
    /// # Errors
    /// The socket is refused.
    pub fn start(
        station: &Station,
        target: IpAddr,
        interval: Duration,
        longest: Duration,
    ) -> Result<Self> {
        let capacity = (longest.as_nanos() / interval.as_nanos().max(1)) as usize;
        let zeros = || (0..capacity).map(|_| AtomicU64::new(0)).collect();
        let record = Arc::new(Record {
            sent: zeros(),
            answered: zeros(),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let socket = station.ns.run(|| open(target)).context("outage prober")?;
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("outage-prober".into())
            .spawn({
                let record = Arc::clone(&record);
                move || {
                    let _ = ready.send(prober_priority());
                    run(&socket, target, &record, interval.as_nanos() as u64);
                }
            })?;
        let real_time = started.recv().context("the outage prober did not start")?;
        Ok(Self {
            record,
            real_time,
            thread: Some(thread),
        })
    }

    /// Whether it got real-time priority.
    #[must_use]
    pub fn real_time(&self) -> bool {
        self.real_time
    }

    /// The probes sent in `[from, to)`, in order.
    #[must_use]
    pub fn probes(&self, from: u64, to: u64) -> Vec<Probe> {
        let count = self.record.next.load(Ordering::Acquire);
        let sent = self.record.sent.get(..count).unwrap_or_default();
        let first = sent.partition_point(|at| at.load(Ordering::Relaxed) < from);
        sent.iter()
            .zip(self.record.answered.iter())
            .skip(first)
            .map(|(sent, answered)| {
                (
                    sent.load(Ordering::Relaxed),
                    answered.load(Ordering::Relaxed),
                )
            })
            .take_while(|(sent, _)| *sent < to)
            .map(|(sent, answered)| Probe {
                sent,
                answered: (answered != 0).then_some(answered),
            })
            .collect()
    }

    /// What the client felt in `[from, to)`.
    #[must_use]
    pub fn outage(&self, from: u64, to: u64) -> Outage {
        Outage::of(&self.probes(from, to), to)
    }

    /// The first answer at or after `from`.
    #[must_use]
    pub fn first_answer(&self, from: u64) -> Option<u64> {
        // An answer may belong to a probe sent up to a second earlier.
        let probes = self.probes(from.saturating_sub(1_000_000_000), u64::MAX);
        probes
            .iter()
            .filter_map(|probe| probe.answered)
            .find(|answered| *answered >= from)
    }

    /// Whether the last `count` probes but the newest two were all answered.
    #[must_use]
    pub fn answered_lately(&self, count: usize) -> bool {
        let next = self.record.next.load(Ordering::Acquire);
        let Some(last) = next.checked_sub(2) else {
            return false;
        };
        let Some(first) = last.checked_sub(count) else {
            return false;
        };
        let answered = self.record.answered.get(first..last).unwrap_or_default();
        answered.len() == count && answered.iter().all(|at| at.load(Ordering::Relaxed) != 0)
    }

    /// The record is full: nothing more is measured.
    #[must_use]
    pub fn full(&self) -> bool {
        self.record.next.load(Ordering::Relaxed) >= self.record.sent.len()
    }
}

impl Drop for OutageProber {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(target: IpAddr) -> Result<OwnedFd> {
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Raw, flags, protocol)?;
    // Connected: answers of others are not for us.
    connect(
        fd.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(target, 0)),
    )?;
    Ok(fd)
}

fn run(socket: &OwnedFd, target: IpAddr, record: &Record, interval: u64) {
    let ident = (std::process::id() & 0xffff) as u16 ^ socket.as_raw_fd() as u16;
    let mut request = [0; echo::ECHO_LEN];
    let mut buffer = [0; 2048];
    let mut due = boot_ns();
    while !record.stop.load(Ordering::Relaxed) {
        let now = boot_ns();
        if now >= due {
            let index = record.next.load(Ordering::Relaxed);
            let Some(sent) = record.sent.get(index) else {
                return;
            };
            match target {
                IpAddr::V4(_) => echo::request_v4(&mut request, ident, index as u64),
                IpAddr::V6(_) => echo::request_v6(&mut request, ident, index as u64),
            }
            sent.store(boot_ns(), Ordering::Relaxed);
            record.next.store(index + 1, Ordering::Release);
            // A refused send (unreachable, no buffer) is a probe without an answer.
            let _ = send(socket.as_raw_fd(), &request, MsgFlags::empty());
            due += interval;
            if due <= now {
                // Not scheduled for a while: no burst to catch up.
                due = now + interval;
            }
        }
        while let Some(index) = receive(socket, target, ident, &mut buffer) {
            if let Some(answered) = usize::try_from(index)
                .ok()
                .and_then(|i| record.answered.get(i))
            {
                let _ =
                    answered.compare_exchange(0, boot_ns(), Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        let rest = due.saturating_sub(boot_ns());
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = ppoll(
            &mut fds,
            Some(TimeSpec::from_duration(Duration::from_nanos(rest))),
            None,
        );
    }
}

/// The next answer that waits in the socket.
fn receive(socket: &OwnedFd, target: IpAddr, ident: u16, buffer: &mut [u8]) -> Option<u64> {
    // Bounded: a flood of foreign ICMP must not keep the prober from sending.
    for _ in 0..64 {
        let length = match recv(socket.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EINTR) => continue,
            // EAGAIN: empty. Anything else is a pending error (unreachable), cleared by reading.
            Err(_) => return None,
        };
        let message = buffer.get(..length)?;
        let index = match target {
            IpAddr::V4(_) => Ipv4Packet::new_checked(message)
                .ok()
                .and_then(|packet| echo::reply_v4(packet.payload(), ident)),
            IpAddr::V6(_) => echo::reply_v6(message, ident),
        };
        if index.is_some() {
            return index;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(list: &[(u64, u64)]) -> Vec<Probe> {
        list.iter()
            .map(|&(sent, at)| Probe {
                sent,
                answered: (at != 0).then_some(at),
            })
            .collect()
    }

    #[test]
    fn a_gap_runs_from_the_last_answer_to_the_next() {
        let list = probes(&[(10, 11), (20, 0), (30, 0), (40, 45), (50, 51)]);
        let outage = Outage::of(&list, 60);
        assert_eq!(
            outage.gaps,
            [Gap {
                from: 11,
                to: 45,
                lost: 2,
                open: false
            }]
        );
        assert_eq!((outage.ns(), outage.lost, outage.over()), (34, 2, true));
    }

    #[test]
    fn nothing_lost_means_the_slowest_answer() {
        let outage = Outage::of(&probes(&[(10, 11), (20, 27), (30, 31)]), 40);
        assert_eq!((outage.ns(), outage.lost), (7, 0));
    }

    #[test]
    fn a_gap_that_never_ends_is_open() {
        let outage = Outage::of(&probes(&[(10, 11), (20, 0)]), 90);
        assert_eq!((outage.ns(), outage.over()), (79, false));
    }
}
