//! What a flood consists of.

use anyhow::{Context as _, Result};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr,
};

use super::{garbage, udp_frame};
use crate::{
    Lab, VIP4,
    lab::Station,
    spray::{Forger, overhear},
};

/// The heartbeat port of labs.
pub const PORT: u16 = 4747;
/// Different frames of one flood.
const FRAMES: u64 = 512;

/// Kinds of floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Random bytes of random length.
    Garbage,
    /// Heartbeats as they should be, signed with another key.
    WrongKey,
    /// Signed with the cluster's key, by a node that the configuration does not know.
    WrongNode,
    /// What another node said a moment ago, as it was.
    Replay,
    /// What another node said before its state was made anew.
    OldLife,
    /// What a node that is silent now said a while ago.
    DeadNode,
    /// ARP announcements of the VIP by somebody else.
    ForeignClaim,
}

impl Kind {
    /// All, in the order of a bench.
    pub const ALL: [Self; 7] = [
        Self::Garbage,
        Self::WrongKey,
        Self::WrongNode,
        Self::Replay,
        Self::OldLife,
        Self::DeadNode,
        Self::ForeignClaim,
    ];

    /// For tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::WrongKey => "wrong key",
            Self::WrongNode => "wrong node",
            Self::Replay => "replay",
            Self::OldLife => "old incarnation",
            Self::DeadNode => "dead node's words",
            Self::ForeignClaim => "foreign ARP claims",
        }
    }

    /// Counters that the victim counts them by.
    #[must_use]
    pub const fn counters(self) -> &'static [&'static str] {
        match self {
            Self::Garbage => &["drop_truncated", "drop_oversized", "drop_bad_magic"],
            Self::WrongKey => &["drop_forged"],
            Self::WrongNode => &["drop_bad_sender"],
            Self::Replay => &["drop_replayed", "drop_regressed"],
            Self::OldLife => &["drop_old_incarnation"],
            Self::DeadNode => &["drop_regressed", "drop_replayed"],
            Self::ForeignClaim => &["foreign_claims"],
        }
    }

    /// Frames from `from` to a node, as if another node (`peer`, with its incarnation) had sent them. For
    /// [`Kind::DeadNode`] the words must have been overheard before: `words`.
    ///
    /// # Errors
    /// The peer says nothing.
    pub fn frames(
        self,
        lab: &Lab,
        forger: &Forger,
        from: &Station,
        to: &str,
        peer: (&str, u64),
        words: &[Vec<u8>],
    ) -> Result<Vec<Vec<u8>>> {
        let target = lab.node(to)?.eth0().clone();
        let own = from.eth0().clone();
        let (peer_name, incarnation) = peer;
        let peer = lab.node(peer_name)?;
        let id = peer.id;
        let signed = |nth: u64, from: u8, incarnation: u64| {
            forger.signed(|m| {
                m.from = from;
                m.incarnation = incarnation;
                m.seq = (1 << 39) + nth;
                m.epoch = u64::MAX >> 8;
                m.cv = u64::MAX >> 1;
                m.set.0[0] = 1;
            })
        };
        let payloads: Vec<Vec<u8>> = match self {
            Self::Garbage => garbage(0x4717, FRAMES as usize, 1400),
            Self::WrongKey => (0..FRAMES)
                .map(|nth| {
                    let mut forged = signed(nth, id, incarnation);
                    if let Some(last) = forged.last_mut() {
                        *last ^= 1 + nth as u8 % 255;
                    }
                    forged
                })
                .collect(),
            Self::WrongNode => (0..FRAMES)
                .map(|nth| signed(nth, 31, incarnation))
                .collect(),
            Self::Replay => overhear(lab, peer_name, PORT, 20)?,
            Self::OldLife => (0..FRAMES)
                .map(|nth| signed(nth, id, incarnation.saturating_sub(1)))
                .collect(),
            Self::DeadNode => {
                words.first().context("nothing was overheard")?;
                words.to_vec()
            }
            Self::ForeignClaim => return Ok(vec![claim(own.mac, target.mac)]),
        };
        // The address of the node that they are said to come from.
        let frame = |p: &Vec<u8>| udp_frame(&own, peer.eth0().v4, target.mac, target.v4, PORT, p);
        Ok(payloads.iter().map(frame).collect())
    }
}

/// A gratuitous ARP for the VIP, to one node alone: others must not lose the way to the VIP by it.
fn claim(own: [u8; 6], target: [u8; 6]) -> Vec<u8> {
    let claim = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(own),
        source_protocol_addr: VIP4,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: VIP4,
    };
    let mut bytes = vec![0; 14 + claim.buffer_len()];
    let head = EthernetRepr {
        src_addr: EthernetAddress(own),
        dst_addr: EthernetAddress(target),
        ethertype: EthernetProtocol::Arp,
    };
    head.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    claim.emit(&mut ArpPacket::new_unchecked(&mut bytes[14..]));
    bytes
}
