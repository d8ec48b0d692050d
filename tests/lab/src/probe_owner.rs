//! Who answers for the VIP: every 2 ms an ICMP echo to the VIP in a frame addressed to each node's
//! hardware address. Measured on the wire, whatever the agents believe.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
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
        socket::{MsgFlags, recv, send},
        time::TimeSpec,
    },
};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
        Ipv4Repr,
    },
};

use crate::{
    clock::{boot_ns, prober_priority},
    echo,
    lab::{Lab, Link, Station},
    ownership::{Ownership, Round},
};

const FRAME_LEN: usize = 14 + 20 + echo::ECHO_LEN;

#[derive(Debug)]
struct Record {
    /// Round-major: `round * nodes + node`.
    sent: Box<[AtomicU64]>,
    answered: Box<[AtomicU64]>,
    nodes: usize,
    rounds: AtomicUsize,
    stop: AtomicBool,
}

/// A running prober; stops on drop.
#[derive(Debug)]
pub struct OwnerProber {
    record: Arc<Record>,
    interval: u64,
    thread: Option<JoinHandle<()>>,
}

impl OwnerProber {
    /// Starts asking all nodes of the lab for `vip` every `interval`, for at most `longest`.
    ///
    /// # Errors
    /// The socket is refused.
    pub fn start(lab: &Lab, vip: Ipv4Addr, interval: Duration, longest: Duration) -> Result<Self> {
        let macs = lab.nodes.iter().map(|node| node.eth0().mac).collect();
        Self::start_on(&lab.prober, macs, vip, interval, longest)
    }

    /// As [`OwnerProber::start`], asking these stations.
    ///
    /// # Errors
    /// As [`OwnerProber::start`].
    pub fn start_on(
        prober: &Station,
        macs: Vec<[u8; 6]>,
        vip: Ipv4Addr,
        interval: Duration,
        longest: Duration,
    ) -> Result<Self> {
        let nodes = macs.len();
        let rounds = (longest.as_nanos() / interval.as_nanos().max(1)) as usize;
        let zeros = || (0..rounds * nodes).map(|_| AtomicU64::new(0)).collect();
        let record = Arc::new(Record {
            sent: zeros(),
            answered: zeros(),
            nodes,
            rounds: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let own = prober.eth0().clone();
        let socket = prober
            .ns
            .run(|| open(&own.device, libc::ETH_P_IP))
            .context("owner prober")?;
        let interval = interval.as_nanos() as u64;
        let thread = std::thread::Builder::new()
            .name("owner-prober".into())
            .spawn({
                let record = Arc::clone(&record);
                move || {
                    prober_priority();
                    run(&socket, &own, vip, &macs, &record, interval);
                }
            })?;
        Ok(Self {
            record,
            interval,
            thread: Some(thread),
        })
    }

    /// The rounds whose probes were sent in `[from, to)`.
    #[must_use]
    pub fn rounds(&self, from: u64, to: u64) -> Vec<Round> {
        let count = self.record.rounds.load(Ordering::Acquire);
        let nodes = self.record.nodes;
        let sent = self.record.sent.chunks(nodes).take(count);
        let read = |at: &AtomicU64| at.load(Ordering::Relaxed);
        let asked = |sent: &[AtomicU64]| sent.iter().map(read).min().unwrap_or(0);
        // Rounds are in order of time: find the first, stop at the last.
        let (mut first, mut end) = (0, count);
        while first < end {
            let middle = first.midpoint(end);
            if sent
                .clone()
                .nth(middle)
                .is_some_and(|sent| asked(sent) < from)
            {
                first = middle + 1;
            } else {
                end = middle;
            }
        }
        sent.zip(self.record.answered.chunks(nodes))
            .skip(first)
            .map(|(sent, answered)| Round {
                sent: asked(sent),
                answered: answered
                    .iter()
                    .map(|at| Some(read(at)).filter(|at| *at != 0))
                    .collect(),
            })
            .take_while(|round| round.sent < to)
            .collect()
    }

    /// Who answered in `[from, to)`, and whether ever two at once.
    #[must_use]
    pub fn ownership(&self, from: u64, to: u64) -> Ownership {
        Ownership::of(&self.rounds(from, to), self.interval)
    }

    /// The node (index) that answered last, if that was less than `within` ago.
    #[must_use]
    pub fn owner(&self, within: Duration) -> Option<usize> {
        let from = boot_ns().saturating_sub(within.as_nanos() as u64);
        let rounds = self.rounds(from, u64::MAX);
        rounds
            .iter()
            .rev()
            .find_map(|round| round.answered.iter().position(Option::is_some))
    }
}

impl Drop for OwnerProber {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet socket for the frames of one protocol (`ETH_P_*`) on one device of this thread's namespace.
pub(crate) fn open(device: &str, protocol: i32) -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let protocol = (protocol as u16).to_be();
    // SAFETY: a plain system call; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
    Errno::result(fd)?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = nix::net::if_::if_nametoindex(device)?.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address lives on the stack for the call and has the length given.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(bound)?;
    Ok(fd)
}

/// An echo request for the VIP in a frame to one node.
fn frame(own: &Link, node: [u8; 6], vip: Ipv4Addr, ident: u16, index: u64) -> [u8; FRAME_LEN] {
    let mut bytes = [0; FRAME_LEN];
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(own.mac),
        dst_addr: EthernetAddress(node),
        ethertype: EthernetProtocol::Ipv4,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    let ip = Ipv4Repr {
        src_addr: own.v4,
        dst_addr: vip,
        next_header: IpProtocol::Icmp,
        payload_len: echo::ECHO_LEN,
        hop_limit: 64,
    };
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[14..]);
    ip.emit(&mut packet, &ChecksumCapabilities::default());
    let mut request = [0; echo::ECHO_LEN];
    echo::request_v4(&mut request, ident, index);
    packet.payload_mut().copy_from_slice(&request);
    bytes
}

fn run(
    socket: &OwnedFd,
    own: &Link,
    vip: Ipv4Addr,
    macs: &[[u8; 6]],
    record: &Record,
    interval: u64,
) {
    let ident = (std::process::id() & 0xffff) as u16 ^ 0x5a5a;
    let mut buffer = [0; 2048];
    let mut due = boot_ns();
    while !record.stop.load(Ordering::Relaxed) {
        let now = boot_ns();
        if now >= due {
            let round = record.rounds.load(Ordering::Relaxed);
            // Another node first in each round, so that none is always asked before the others.
            for turn in 0..macs.len() {
                let node = (round + turn) % macs.len();
                let index = round * record.nodes + node;
                let (Some(sent), Some(mac)) = (record.sent.get(index), macs.get(node)) else {
                    return;
                };
                let bytes = frame(own, *mac, vip, ident, round as u64);
                sent.store(boot_ns(), Ordering::Relaxed);
                let _ = send(socket.as_raw_fd(), &bytes, MsgFlags::empty());
            }
            record.rounds.store(round + 1, Ordering::Release);
            due += interval;
            if due <= now {
                due = now + interval;
            }
        }
        // Bounded, so that a flood cannot keep the prober from sending.
        for _ in 0..256 {
            let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            let at = boot_ns();
            let Some((source, round)) = answer(buffer.get(..length), own, vip, ident) else {
                continue;
            };
            let node = macs.iter().position(|mac| *mac == source);
            let slot = node
                .zip(usize::try_from(round).ok())
                .and_then(|(node, round)| record.answered.get(round * record.nodes + node));
            if let Some(slot) = slot {
                let _ = slot.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
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

/// Source and round of an answer to us.
fn answer(bytes: Option<&[u8]>, own: &Link, vip: Ipv4Addr, ident: u16) -> Option<([u8; 6], u64)> {
    let frame = EthernetFrame::new_checked(bytes?).ok()?;
    if frame.dst_addr().0 != own.mac || frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if packet.src_addr() != vip || packet.next_header() != IpProtocol::Icmp {
        return None;
    }
    Some((frame.src_addr().0, echo::reply_v4(packet.payload(), ident)?))
}
