//! One UDP socket per link. Receiving is XDP's, or without BPF the real-time thread's.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use agent_common::{
    MAX_NODES,
    keys::Keys,
    node_bit,
    wire::{LEN, Message, flags},
};
use arrayvec::ArrayVec;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, bind,
    recvfrom, sendto, setsockopt, socket, sockopt,
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
    /// Who of them is there: the list is long and mostly empty, and is gone through at each heartbeat.
    mask: u32,
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
                    mask: mask(&peers),
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
        self.mask = mask(&self.peers);
    }

    /// Sends one message to the nodes in the mask, with one system call. Never waits.
    pub fn send(&mut self, to: u32, bytes: &[u8]) {
        let Some(fd) = &self.socket else { return };
        let mut part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut messages: ArrayVec<libc::mmsghdr, MAX_NODES> = ArrayVec::new();
        for i in bits(to & self.mask) {
            let Some(Some(peer)) = self.peers.get(i) else {
                continue;
            };
            // SAFETY: all zero is a valid mmsghdr.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = peer.as_ptr().cast_mut().cast();
            message.msg_hdr.msg_namelen = peer.len();
            message.msg_hdr.msg_iov = &raw mut part;
            message.msg_hdr.msg_iovlen = 1;
            messages.push(message);
        }
        let mut rest = &mut messages[..];
        while !rest.is_empty() {
            // SAFETY: the headers point to addresses in `self`, and to `part` and `bytes`, which the call only reads
            // and which outlive it; their number is the slice's.
            let sent = unsafe {
                libc::sendmmsg(
                    fd.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            // It stops at the first that it does not take: the others still have to go.
            let done = usize::try_from(sent).unwrap_or(0).max(1).min(rest.len());
            self.refused += u64::from(sent < 1);
            rest = &mut rest[done..];
        }
    }

    /// Is there a socket?
    pub fn is_open(&self) -> bool {
        self.socket.is_some()
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
    pub fn reply(&mut self, to: &SockaddrStorage, bytes: &[u8]) {
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

/// The nodes that are there.
fn mask(peers: &Peers) -> u32 {
    (1..=32)
        .zip(peers)
        .filter(|(_, peer)| peer.is_some())
        .fold(0, |mask, (id, _)| mask | node_bit(id))
}

/// The places of the ones in a mask: ids - 1.
fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let i = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(i)
    })
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
        let mut left = to & link.mask;
        // Once for each version that is spoken; mostly that is one.
        while left != 0 {
            let version = versions(left.trailing_zeros() as u8 + 1).min(newest);
            let same = bits(left)
                .map(|i| i as u8 + 1)
                .filter(|id| versions(*id).min(newest) == version)
                .fold(0, |mask, id| mask | node_bit(id));
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

    use super::*;

    /// A link on loopback towards these peers (id - 1, address).
    fn link(peers: &[(usize, SocketAddr)]) -> LinkSender {
        let mut link = LinkSender {
            address: Ipv4Addr::LOCALHOST.into(),
            device: "lo".into(),
            port: 0,
            socket: None,
            peers: [None; MAX_NODES],
            mask: 0,
            refused: 0,
        };
        let mut list: Peers = [None; MAX_NODES];
        for (i, address) in peers {
            list[*i] = Some((*address).into());
        }
        link.set_peers(&mut list);
        link.open().expect("this test needs root (SO_BINDTODEVICE)");
        link
    }

    fn peer() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let wait = std::time::Duration::from_secs(5);
        socket.set_read_timeout(Some(wait)).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn a_refused_message_keeps_no_other_from_going() {
        let ((one, first), (two, last)) = (peer(), peer());
        // Not from a socket of IPv4.
        let nowhere: SocketAddr = "[::1]:9".parse().unwrap();
        let mut link = link(&[(1, first), (2, nowhere), (31, last)]);
        link.send(u32::MAX, &[7; LEN]);
        let mut bytes = [0; 2 * LEN];
        for socket in [one, two] {
            assert_eq!(socket.recv(&mut bytes).unwrap(), LEN);
            assert_eq!(bytes[..LEN], [7; LEN]);
        }
        assert_eq!(link.refused, 1);
    }

    #[test]
    fn one_receiver_is_one_receiver() {
        let ((one, first), (two, last)) = (peer(), peer());
        let mut link = link(&[(0, first), (31, last)]);
        link.send(node_bit(32), &[1; LEN]);
        link.send(node_bit(1), &[2; LEN]);
        let mut bytes = [0; 2 * LEN];
        assert_eq!(two.recv(&mut bytes).unwrap(), LEN);
        assert_eq!(bytes[0], 1);
        assert_eq!(one.recv(&mut bytes).unwrap(), LEN);
        assert_eq!(bytes[0], 2);
    }
}
