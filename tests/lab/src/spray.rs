//! Hostile and broken traffic: what an attacker without the key, a wrong cable or a bad neighbour
//! would send.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    time::Duration,
};

use agent_common::{
    keys::key_id,
    siphash::Key,
    wire::{self, Form, Kind, Message},
};
use anyhow::{Context as _, Result, bail};
use heartline::config::{Config, KeyFile};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
        EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6Packet, Ipv6Repr,
        NdiscNeighborFlags, NdiscRepr, RawHardwareAddress, UdpPacket,
    },
};

use crate::{
    clock::boot_ns,
    interrupt,
    lab::{Lab, Station, port_name},
    probe_owner::open,
};

/// Who speaks: a cluster's name, numbers and key, or some of them wrong.
#[derive(Clone)]
pub struct Forger {
    /// The cluster key.
    pub key: Key,
    /// A heartbeat without sender, sequence and incarnation.
    pub template: Message,
}

impl std::fmt::Debug for Forger {
    // Not the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forger").finish_non_exhaustive()
    }
}

impl Forger {
    /// One that knows everything that a node with this config knows.
    ///
    /// # Errors
    /// The config or its key cannot be read.
    pub fn of(config: &Path) -> Result<Self> {
        let config = Config::load(config).context("the lab's config")?.config;
        let keys = KeyFile::load(&config.key_file)?.keys();
        Ok(Self {
            key: keys.signing(),
            template: Message {
                magic: wire::MAGIC,
                version: wire::VERSION,
                kind: Kind::Heartbeat as u8,
                cluster: config.cluster_id,
                generation: config.generation,
                digest: config.digest(),
                max_promise_ms: (config.timing.max_promise_ns / 1_000_000) as u32,
                promise_us: (config.timing.takeover_ns / 1000) as u32,
                ..Message::default()
            },
        })
    }

    /// A signed heartbeat: the template, changed.
    #[must_use]
    pub fn signed(&self, change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = self.template;
        message.clock = boot_ns();
        message.key_id = key_id(self.key);
        change(&mut message);
        message.sign(self.key);
        message.to_bytes().to_vec()
    }
}

/// Sends datagrams from a station, with a pause after each so that no queue overflows.
///
/// # Errors
/// The socket is refused, or Ctrl-C.
pub fn datagrams(
    from: &Station,
    to: SocketAddr,
    payloads: impl IntoIterator<Item = Vec<u8>> + Send,
    pause: Duration,
) -> Result<usize> {
    from.ns.run(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        let mut sent = 0;
        for payload in payloads {
            interrupt::check()?;
            socket.send_to(&payload, to).context("spraying")?;
            sent += 1;
            std::thread::sleep(pause);
        }
        Ok(sent)
    })
}

/// Listens at the switch to what a node sends on its first link until it has heard `count`
/// heartbeats; returns them as they were.
///
/// # Errors
/// None come within two seconds.
pub fn overhear(lab: &Lab, node: &str, port: u16, count: usize) -> Result<Vec<Vec<u8>>> {
    let station = lab.node(node)?;
    let device = port_name(station, 0);
    lab.switch.ns.run(|| {
        // The bridge takes frames before anybody who asks for one protocol alone.
        let socket = open(&device, libc::ETH_P_ALL)?;
        let end = boot_ns() + 2_000_000_000;
        let (mut heard, mut buffer) = (Vec::new(), [0; 2048]);
        while heard.len() < count {
            if boot_ns() > end {
                bail!("{node} sends no heartbeats");
            }
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(100_u8))?;
            while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                heard.extend(heartbeat(&buffer[..length], station.eth0().mac, port));
            }
        }
        heard.truncate(count);
        Ok(heard)
    })
}

/// The payload of a frame, if it is a heartbeat of the node with this hardware address.
fn heartbeat(frame: &[u8], from: [u8; 6], port: u16) -> Option<Vec<u8>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.src_addr().0 != from || frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if packet.next_header() != IpProtocol::Udp {
        return None;
    }
    let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
    let payload = datagram.payload();
    let kind = payload.get(3).copied();
    let wanted = datagram.dst_port() == port
        && Form::of_len(payload.len()).is_some()
        && kind == Some(Kind::Heartbeat as u8);
    wanted.then(|| payload.to_vec())
}

/// Says to everyone that `vip` is at `mac`: a gratuitous ARP, request form.
///
/// # Errors
/// The socket is refused.
pub fn claim_v4(from: &Station, vip: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
    let mac = EthernetAddress(mac);
    let claim = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: mac,
        source_protocol_addr: vip,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: vip,
    };
    let mut bytes = vec![0; 14 + claim.buffer_len()];
    ethernet(
        &mut bytes,
        mac,
        EthernetAddress::BROADCAST,
        EthernetProtocol::Arp,
    );
    claim.emit(&mut ArpPacket::new_unchecked(&mut bytes[14..]));
    raw(from, &bytes, libc::ETH_P_ARP)
}

/// Says to everyone that `vip` is at `mac`: an unsolicited neighbour advertisement, override set.
///
/// # Errors
/// The socket is refused.
pub fn claim_v6(from: &Station, vip: Ipv6Addr, mac: [u8; 6]) -> Result<()> {
    let mac = EthernetAddress(mac);
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let claim = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: vip,
        lladdr: Some(RawHardwareAddress::from(mac)),
    });
    let ip = Ipv6Repr {
        src_addr: vip,
        dst_addr: all,
        next_header: IpProtocol::Icmpv6,
        payload_len: claim.buffer_len(),
        hop_limit: 255,
    };
    let mut bytes = vec![0; 14 + ip.buffer_len() + claim.buffer_len()];
    let to = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);
    ethernet(&mut bytes, mac, to, EthernetProtocol::Ipv6);
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[14..]));
    claim.emit(
        &vip,
        &all,
        &mut Icmpv6Packet::new_unchecked(&mut bytes[54..]),
        &ChecksumCapabilities::default(),
    );
    raw(from, &bytes, libc::ETH_P_IPV6)
}

fn ethernet(
    bytes: &mut [u8],
    src_addr: EthernetAddress,
    dst_addr: EthernetAddress,
    ethertype: EthernetProtocol,
) {
    let head = EthernetRepr {
        src_addr,
        dst_addr,
        ethertype,
    };
    head.emit(&mut EthernetFrame::new_unchecked(bytes));
}

fn raw(from: &Station, bytes: &[u8], protocol: i32) -> Result<()> {
    from.ns.run(|| {
        let socket = open(&from.eth0().device, protocol)?;
        send(socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    })
}
