//! A flood: prebuilt frames, sent from a station as fast as asked or as fast as it goes.

pub mod kinds;
pub mod measure;

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol,
        Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
    },
};

use crate::{
    lab::{Link, Station},
    probe_owner::open,
};

/// Frames of one call of sendmmsg(2).
const BATCH: usize = 64;

/// A running flood; stops on drop.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Sends the frames round and round from a station's first link, `rate` per second in all (`None`: as fast as it
    /// goes), by this many threads.
    ///
    /// # Errors
    /// There are no frames, or a socket is refused.
    pub fn start(
        from: &Station,
        frames: Vec<Vec<u8>>,
        rate: Option<u64>,
        threads: usize,
    ) -> Result<Self> {
        ensure!(!frames.is_empty(), "a flood of nothing");
        let frames = Arc::new(frames);
        let mut flood = Self {
            sent: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for nth in 0..threads.max(1) {
            let device = from.eth0().device.clone();
            let socket = from.ns.run(|| sender(&device)).context("flood")?;
            let (frames, sent, stop) = (
                Arc::clone(&frames),
                Arc::clone(&flood.sent),
                Arc::clone(&flood.stop),
            );
            let rate = rate.map(|rate| (rate / threads.max(1) as u64).max(1));
            let thread = std::thread::Builder::new()
                .name(format!("flood-{nth}"))
                .spawn(move || run(&socket, &frames, nth * BATCH, rate, &sent, &stop))?;
            flood.threads.push(thread);
        }
        Ok(flood)
    }

    /// Frames that the device has taken so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A packet socket that receives nothing and goes past the queueing discipline.
fn sender(device: &str) -> Result<OwnedFd> {
    let fd = open(device, 0)?;
    let on: libc::c_int = 1;
    // SAFETY: the option's value lives for the call and has the length given.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(done).context("PACKET_QDISC_BYPASS")?;
    Ok(fd)
}

fn run(
    socket: &OwnedFd,
    frames: &[Vec<u8>],
    first: usize,
    rate: Option<u64>,
    sent: &AtomicU64,
    stop: &AtomicBool,
) {
    let begin = Instant::now();
    let mut next = first;
    let mut mine = 0_u64;
    // A slow flood comes in small bursts, too.
    let batch = rate.map_or(BATCH, |rate| (rate / 1000).clamp(1, BATCH as u64) as usize);
    while !stop.load(Ordering::Relaxed) {
        if let Some(rate) = rate {
            let due = Duration::from_nanos(mine * 1_000_000_000 / rate);
            if let Some(early) = due.checked_sub(begin.elapsed()) {
                std::thread::sleep(early.min(Duration::from_millis(50)));
                continue;
            }
        }
        let mut parts: Vec<libc::iovec> = Vec::with_capacity(batch);
        for nth in 0..batch {
            let frame = &frames[(next + nth) % frames.len()];
            parts.push(libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            });
        }
        next = (next + batch) % frames.len();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all zero is a valid mmsghdr.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: messages, parts and frames outlive the call, and the kernel only reads them.
        let done = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                0,
            )
        };
        // Refused: the device is full or gone; what was not sent is not counted, the pace goes on.
        mine += batch as u64;
        sent.fetch_add(u64::try_from(done).unwrap_or(0), Ordering::Relaxed);
    }
}

/// A frame with a UDP datagram from one link to an address behind a hardware address.
#[must_use]
pub fn udp_frame(
    from: &Link,
    source: Ipv4Addr,
    mac: [u8; 6],
    to: Ipv4Addr,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: port,
        dst_port: port,
    };
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + 20 + udp.header_len() + payload.len()];
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(from.mac),
        dst_addr: EthernetAddress(mac),
        ethertype: EthernetProtocol::Ipv4,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[14..]);
    ip.emit(&mut packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(packet.payload_mut()),
        &IpAddress::Ipv4(source),
        &IpAddress::Ipv4(to),
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &checksums,
    );
    bytes
}

/// Pseudo-random bytes, the same for the same seed: garbage that can be sent again.
#[must_use]
pub fn garbage(seed: u64, count: usize, longest: usize) -> Vec<Vec<u8>> {
    let mut rng = crate::nemesis::Rng::new(seed);
    (0..count)
        .map(|_| {
            let size = rng.below(longest as u64 + 1) as usize;
            (0..size).map(|_| rng.draw() as u8).collect()
        })
        .collect()
}
