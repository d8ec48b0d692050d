//! Sending: one UDP socket per link. Receiving is XDP's.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use agent_common::{
    keys::Keys,
    node_bit,
    wire::{LEN, Message, flags},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, sendto, setsockopt, socket,
    sockopt,
};

use crate::config::Config;

/// DSCP CS6, network control: heartbeats go first where a network has classes.
const TOS: i32 = 0xc0;

/// A link of this node: where the others are, and the socket towards them.
pub struct LinkSender {
    address: IpAddr,
    device: String,
    port: u16,
    socket: Option<OwnedFd>,
    /// By node id - 1.
    peers: [Option<SockaddrStorage>; 32],
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
            .enumerate()
            .map(|(i, link)| {
                let mut peers = [None; 32];
                for node in config.nodes.iter().filter(|n| n.id != me) {
                    if let (Some(peer), Some(slot)) = (
                        node.links.get(i),
                        peers.get_mut(usize::from(node.id).wrapping_sub(1)),
                    ) {
                        *slot = Some(std::net::SocketAddr::new(peer.address, config.port).into());
                    }
                }
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

    /// Sends one message to the nodes in the mask. Never waits.
    pub fn send(&mut self, to: u32, bytes: &[u8]) {
        let Some(fd) = &self.socket else { return };
        for (i, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer else { continue };
            if to & node_bit(i as u8 + 1) == 0 {
                continue;
            }
            if sendto(fd.as_raw_fd(), bytes, peer, MsgFlags::MSG_DONTWAIT).is_err() {
                self.refused += 1;
            }
        }
    }

    /// The nodes that it leads to.
    fn mask(&self) -> u32 {
        (1..=32)
            .zip(&self.peers)
            .filter(|(_, peer)| peer.is_some())
            .fold(0, |mask, (id, _)| mask | node_bit(id))
    }

    /// Closes the socket, so that the next [`LinkSender::open`] binds to a device that has returned.
    pub fn close(&mut self) {
        self.socket = None;
    }
}

/// Signs a message for each link and sends it there, to a node or to all if `to` is 0: to each in the version that
/// `versions` gives for it, to which this agent may be held at most (`newest`).
pub fn broadcast(
    links: &mut [LinkSender],
    keys: &Keys,
    to: u8,
    m: Message,
    newest: u8,
    versions: impl Fn(u8) -> u8,
) {
    let to = if to == 0 { u32::MAX } else { node_bit(to) };
    for (i, link) in links.iter_mut().enumerate() {
        let mut left = to & link.mask();
        // Once for each version that is spoken; mostly that is one.
        while left != 0 {
            let version = versions(left.trailing_zeros() as u8 + 1).min(newest);
            let same = (1..=32)
                .filter(|id| versions(*id).min(newest) == version)
                .fold(0, |mask, id| mask | node_bit(id) & left);
            left &= !same;
            let mut m = m;
            m.link = i as u8;
            m.version = m.version.min(version);
            if m.version < newest {
                m.flags |= flags::NEXT;
            }
            let mut bytes = [0; LEN];
            let len = m.seal(keys, &mut bytes);
            link.send(same, bytes.get(..len).unwrap_or_default());
        }
    }
}
