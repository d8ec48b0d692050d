//! A thousand addresses in one group: how long their announcement takes, read off the wire.
//!
//! Frames are counted, with the kernel's time stamps, rather than neighbours: the limit of the neighbour table
//! (`gc_thresh3`) is one for all namespaces, and a thousand entries reach it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::IoSliceMut,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, recvmsg, setsockopt,
    sockopt::{RcvBufForce, ReceiveTimestampns},
};
use serde::Serialize;
use smoltcp::wire::{ArpPacket, EthernetFrame, EthernetProtocol};

use crate::{
    Cluster, Lab, LabSpec,
    config::{self, ConfigSpec},
    interrupt::{pass, until},
    probe_owner::open,
};

/// Addresses in the group.
const VIPS: u32 = 1000;
/// Repetitions.
const MOVES: usize = 5;
/// 10.78.0.0/16: not the lab's own networks.
const FIRST: u32 = u32::from_be_bytes([10, 78, 0, 1]);

/// What the wire showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Announced {
    /// Addresses in one group.
    pub vips: u32,
    /// From the first announcement to the last address's first, ms, of each move.
    pub span_ms: Vec<f64>,
    /// From the command to move to the last address's first announcement, ms, of each move.
    pub whole_ms: Vec<f64>,
}

/// Moves such a group to and fro.
pub(super) fn measure() -> Result<Announced> {
    let spec = LabSpec::default();
    let mut text = config::text(
        &spec,
        &ConfigSpec {
            vip6: false,
            ..ConfigSpec::default()
        },
    );
    for n in 0..VIPS - 1 {
        let address = Ipv4Addr::from(FIRST + n);
        let _ = write!(
            text,
            "[[group.vip]]\naddress = \"{address}\"\ndevice = \"eth0\"\n"
        );
    }
    let mut cluster = Cluster::start(Lab::up(&spec)?, &text, "cluster.key")?;
    let result = moves(&mut cluster);
    if result.is_err()
        && let Some(dir) = cluster.keep_dir()
    {
        eprintln!("logs and config are kept in {}", dir.display());
    }
    result
}

fn moves(cluster: &mut Cluster) -> Result<Announced> {
    cluster.settled(Duration::from_secs(30))?;
    let prober = cluster.lab.prober.clone();
    let device = prober.eth0().device.clone();
    let socket = prober.ns.run(|| {
        let socket = open(&device, libc::ETH_P_ARP)?;
        // Room for all of them, and their repetitions: nobody reads while they come.
        setsockopt(&socket, RcvBufForce, &(64 << 20))?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        Ok(socket)
    })?;
    let (mut span_ms, mut whole_ms) = (Vec::new(), Vec::new());
    for _ in 0..MOVES {
        // Repetitions of the announcement before (10 ms, 100 ms, 1 s, takeover + 1 s) must be over.
        pass(Duration::from_millis(2500))?;
        cluster.settled(Duration::from_secs(10))?;
        let old = cluster.owner("web").context("nobody owns the group")?;
        let names = cluster.lab.nodes.iter().map(|node| node.name.clone());
        let next = names
            .clone()
            .find(|name| *name != old)
            .context("one node")?;
        let mac = cluster.lab.node(&next)?.eth0().mac;
        read(&socket, mac, &mut BTreeMap::new())?;
        let start = wall_ns()?;
        cluster.agent(&next)?.cli_ok(&["move", "web", &next])?;
        let mut seen = BTreeMap::new();
        let all = until(Duration::from_secs(10), Duration::from_millis(20), || {
            read(&socket, mac, &mut seen)?;
            Ok(seen.len() >= VIPS as usize)
        })?;
        ensure!(
            all,
            "only {} of {VIPS} addresses were announced",
            seen.len()
        );
        let (Some(first), Some(last)) = (seen.values().min(), seen.values().max()) else {
            bail!("nothing was announced")
        };
        span_ms.push((last - first) as f64 / 1e6);
        whole_ms.push(last.saturating_sub(start) as f64 / 1e6);
    }
    Ok(Announced {
        vips: VIPS,
        span_ms,
        whole_ms,
    })
}

/// The clock of the time stamps.
fn wall_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)?;
    Ok(now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs())
}

/// Reads what waits: the first time (ns) at which a node said that it has an address.
fn read(socket: &OwnedFd, mac: [u8; 6], seen: &mut BTreeMap<Ipv4Addr, u64>) -> Result<()> {
    let mut bytes = [0; 256];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
        {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let at = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(at) => {
                Some(at.tv_sec().unsigned_abs() * 1_000_000_000 + at.tv_nsec().unsigned_abs())
            }
            _ => None,
        });
        let at = at.context("the kernel gave no time stamp")?;
        let length = message.bytes;
        if let Some(address) = announced(bytes.get(..length), mac) {
            seen.entry(address).or_insert(at);
        }
    }
}

/// The address that a frame of `mac` announces.
fn announced(bytes: Option<&[u8]>, mac: [u8; 6]) -> Option<Ipv4Addr> {
    let frame = EthernetFrame::new_checked(bytes?).ok()?;
    if frame.src_addr().0 != mac || frame.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let arp = ArpPacket::new_checked(frame.payload()).ok()?;
    let (source, target) = (arp.source_protocol_addr(), arp.target_protocol_addr());
    if source != target {
        return None;
    }
    let [a, b, c, d] = source.try_into().ok()?;
    Some(Ipv4Addr::new(a, b, c, d))
}
