//! What the receivers of a frame make of it, written from the RFCs and Linux, not from the programs.

use std::net::IpAddr;

use agent_common::record::{AddressKey, address_key};

use super::{PORT, World};

/// What a receiver makes of a frame.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Addresses that it is for, as a local identity of the receiver.
    pub to: Vec<AddressKey>,
    /// Addresses that it speaks as.
    pub from: Vec<AddressKey>,
    /// It goes to the heartbeat port of a link; where its UDP header is.
    pub heartbeat: Option<usize>,
    /// It tells neighbours where a gateway VIP is.
    pub claim: Option<Claim>,
    /// It hides its network header, or what a neighbour message is about, behind more than anybody sends.
    pub unread: bool,
}

/// A neighbour message in the name of a gateway VIP, or about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// It asks for another address, and only says who asks.
    pub question: bool,
    /// Where the VIP stands in the frame.
    pub at: usize,
}

pub(super) fn be16(f: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*f.get(at..)?.first_chunk()?))
}

fn v4(f: &[u8], at: usize) -> Option<AddressKey> {
    let a = *f.get(at..)?.first_chunk::<4>()?;
    Some(address_key(IpAddr::from(a)))
}

fn v6(f: &[u8], at: usize) -> Option<AddressKey> {
    f.get(at..)?.first_chunk::<16>().copied()
}

/// Offset and type of the network header. The kernel takes off any number of tags that belong to no VLAN device.
pub(super) fn network(f: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    loop {
        let kind = be16(f, at)?;
        if kind != 0x8100 && kind != 0x88a8 {
            return Some((at + 2, kind));
        }
        at += 4;
    }
}

pub(super) fn look(world: &World, f: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let _ = look_into(world, f, &mut seen);
    seen
}

fn look_into(world: &World, f: &[u8], seen: &mut Seen) -> Option<()> {
    let mut deepest = 12;
    while matches!(be16(f, deepest), Some(0x8100 | 0x88a8)) {
        deepest += 4;
    }
    seen.unread = deepest > 12 + 4 * 4;
    let (l3, kind) = network(f)?;
    let is_gateway = |a: &AddressKey| world.vip(a).is_some_and(|(_, gateway)| gateway);
    match kind {
        // The kernel takes ARP of Ethernet and of IEEE 802 (arp_process in net/ipv4/arp.c).
        0x0806 if matches!(be16(f, l3)?, 1 | 6) && f.get(l3 + 2..l3 + 6)? == [8, 0, 6, 4] => {
            let sender = v4(f, l3 + 14)?;
            seen.from.push(sender);
            // What is missing is filled up on the way.
            let target = v4(f, l3 + 24);
            if is_gateway(&sender) {
                seen.claim = Some(Claim {
                    question: f.get(l3 + 7) == Some(&1) && target.is_some_and(|t| t != sender),
                    at: l3 + 14,
                });
            }
            // A gratuitous one tells of somebody else.
            seen.to.extend(target.filter(|t| *t != sender));
        }
        0x0800 => {
            seen.from.push(v4(f, l3 + 12)?);
            let dst = v4(f, l3 + 16)?;
            seen.to.push(dst);
            let is_one = f.get(l3) == Some(&0x45)
                && f.get(l3 + 9) == Some(&17)
                && be16(f, l3 + 6)? & 0x3fff == 0
                && be16(f, l3 + 22)? == PORT
                && dst == world.links[0];
            seen.heartbeat = is_one.then_some(l3 + 20);
        }
        0x86dd => {
            seen.from.push(v6(f, l3 + 8)?);
            let dst = v6(f, l3 + 24)?;
            seen.to.push(dst);
            let (mut next, mut at) = (*f.get(l3 + 6)?, l3 + 40);
            let is_one = next == 17 && be16(f, at + 2) == Some(PORT) && dst == world.links[1];
            seen.heartbeat = is_one.then_some(at);
            let mut headers = 0;
            // Hop-by-hop, routing, destination options (RFC 8200); neighbour messages in fragments are refused (RFC 6980).
            while matches!(next, 0 | 43 | 60) {
                headers += 1;
                seen.unread |= headers > 4;
                next = *f.get(at)?;
                at += 8 + 8 * usize::from(*f.get(at + 1)?);
            }
            if next == 58 {
                let kind = *f.get(at)?;
                let target = v6(f, at + 8)?;
                match kind {
                    135 => seen.to.push(target),
                    136 => {
                        seen.from.push(target);
                        if is_gateway(&target) {
                            seen.claim = Some(Claim {
                                question: false,
                                at: at + 8,
                            });
                        }
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Some(())
}
