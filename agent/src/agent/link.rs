//! One UDP socket per link. Receiving is XDP's, or without BPF the real-time thread's.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use agent_common::{
    siphash::Key,
    wire::{LEN, Message},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, recvfrom, sendto, setsockopt, socket,
    sockopt,
};

use crate::config::Config;

/// DSCP CS6, network control: heartbeats go first where a network has classes.
const TOS: i32 = 0xc0;

/// Where the other nodes are on one link, by id - 1.
pub type Peers = [Option<SockaddrStorage>; 32];

/// The others' addresses on each link of node `me`, in all of these configurations together.
pub fn peers(configs: &[&Config], me: u8) -> Vec<Peers> {
    let links = configs
        .iter()
        .filter_map(|c| c.node_by_id(me))
        .map(|n| n.links.len())
        .max();
    (0..links.unwrap_or(0))
        .map(|i| {
            let mut all: Peers = [None; 32];
            for config in configs {
                for node in config.nodes.iter().filter(|n| n.id != me) {
                    if let (Some(peer), Some(slot)) = (
                        node.links.get(i),
                        all.get_mut(usize::from(node.id).wrapping_sub(1)),
                    ) {
                        *slot = Some(std::net::SocketAddr::new(peer.address, config.port).into());
                    }
                }
            }
            all
        })
        .collect()
}

/// A link of this node: where the others are, and the socket towards them.
pub struct LinkSender {
    address: IpAddr,
    device: String,
    port: u16,
    socket: Option<OwnedFd>,
    peers: Peers,
    /// Messages that the kernel did not take.
    pub refused: u64,
}

impl LinkSender {
    /// The links of node `me`. Sockets that cannot be opened yet (the device is not there) are opened later.
    pub fn all(config: &Config, me: u8) -> Vec<LinkSender> {
        let Some(own) = config.node_by_id(me) else {
            return Vec::new();
        };
        own.links
            .iter()
            .zip(peers(&[config], me))
            .map(|(link, peers)| {
                let mut sender = LinkSender {
                    address: link.address,
                    device: link.device.clone(),
                    port: config.port,
                    socket: None,
                    peers,
                    refused: 0,
                };
                if let Err(e) = sender.open() {
                    tracing::warn!(
                        "link {} on {}: {e}; it is tried again",
                        sender.address,
                        sender.device
                    );
                }
                sender
            })
            .collect()
    }

    /// Opens the socket if it is not open.
    ///
    /// # Errors
    /// The address or the device is not there.
    pub fn open(&mut self) -> io::Result<()> {
        if self.socket.is_some() {
            return Ok(());
        }
        let family = if self.address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let fd = socket(
            family,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::BindToDevice, &self.device.clone().into())?;
        if self.address.is_ipv4() {
            setsockopt(&fd, sockopt::Ipv4Tos, &TOS)?;
        } else {
            setsockopt(&fd, sockopt::Ipv6TClass, &TOS)?;
        }
        bind(
            fd.as_raw_fd(),
            &SockaddrStorage::from(std::net::SocketAddr::new(self.address, self.port)),
        )?;
        self.socket = Some(fd);
        Ok(())
    }

    /// Speaks to other nodes from now on; the old list comes back for freeing.
    pub fn set_peers(&mut self, peers: &mut Peers) {
        std::mem::swap(&mut self.peers, peers);
    }

    /// Sends one message to a node, or to all if `to` is 0. Never waits.
    pub fn send(&mut self, to: u8, bytes: &[u8; LEN]) {
        let Some(fd) = &self.socket else { return };
        for (i, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            if to != 0 && usize::from(to) != i + 1 {
                continue;
            }
            if sendto(fd.as_raw_fd(), bytes, peer, MsgFlags::MSG_DONTWAIT).is_err() {
                self.refused += 1;
            }
        }
    }

    /// The socket, if it is open.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The next datagram, if one is there: its length, at most that of `bytes`, and its sender. Never waits.
    pub fn receive(&self, bytes: &mut [u8]) -> Option<(usize, Option<SockaddrStorage>)> {
        recvfrom(self.socket.as_ref()?.as_raw_fd(), bytes).ok()
    }

    /// Sends an ack back to where its heartbeat came from. Never waits.
    pub fn reply(&mut self, to: &SockaddrStorage, bytes: &[u8; LEN]) {
        let Some(fd) = &self.socket else { return };
        if sendto(fd.as_raw_fd(), bytes, to, MsgFlags::MSG_DONTWAIT).is_err() {
            self.refused += 1;
        }
    }

    /// Closes the socket, so that the next [`LinkSender::open`] binds to a device that has returned.
    pub fn close(&mut self) {
        self.socket = None;
    }
}

/// Signs a message for each link and sends it there.
pub fn broadcast(links: &mut [LinkSender], key: Key, to: u8, mut m: Message) {
    for (i, link) in links.iter_mut().enumerate() {
        m.link = i as u8;
        m.sign(key);
        link.send(to, &m.to_bytes());
    }
}
