//! What the kernel tells user space: ring-buffer records and counters.

use crate::wire::Message;

/// What a [`Record`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum RecordKind {
    /// An authentic message that the kernel does not (or not alone) handle: `message`.
    Message = 1,
    /// Somebody else's ARP or NA claims one of our VIPs: `claim`.
    ForeignClaim = 2,
    /// A heartbeat with a higher epoch ran one of our groups: its gate bits were shut (rule 11).
    GateShut = 3,
    /// This node's own id was heard from another incarnation: gates shut, voting stopped (rule 11).
    DuplicateId = 4,
    /// A message went back in time: the sender should be told (rule 4).
    Regression = 5,
}

impl RecordKind {
    /// The kind of a record's number.
    pub const fn from_u32(v: u32) -> Option<RecordKind> {
        match v {
            1 => Some(RecordKind::Message),
            2 => Some(RecordKind::ForeignClaim),
            3 => Some(RecordKind::GateShut),
            4 => Some(RecordKind::DuplicateId),
            5 => Some(RecordKind::Regression),
            _ => None,
        }
    }
}

/// A record of the ring buffer. For a foreign claim the message carries: `set.0[0..2]` the address (16 bytes,
/// IPv4 mapped into IPv6), `seq` the claiming MAC in its low 6 bytes, `re_seq` the group.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Record {
    /// A [`RecordKind`].
    pub kind: u32,
    /// Device on which it arrived.
    pub ifindex: u32,
    /// Boot clock at arrival, ns.
    pub now: u64,
    /// The message.
    pub message: Message,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Everything that the data path counts.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $name,)* }
        /// All counters with the names that people see.
        pub const COUNTERS: &[(Counter, &str)] = &[$((Counter::$name, $text),)*];
    };
}

counters! {
    /// Heartbeats that were authentic and in order.
    HeartbeatsIn = "heartbeats_in",
    /// Acks sent by XDP.
    AcksOut = "acks_out",
    /// Acks that counted.
    AcksIn = "acks_in",
    /// Messages handed to user space.
    ToUser = "to_user",
    /// Shorter than a message.
    Truncated = "drop_truncated",
    /// Longer than a message.
    Oversized = "drop_oversized",
    /// Not our magic number.
    BadMagic = "drop_bad_magic",
    /// A wire version more than one away.
    BadVersion = "drop_bad_version",
    /// Another cluster's.
    OtherCluster = "drop_other_cluster",
    /// A wrong MAC.
    Forged = "drop_forged",
    /// Sender id outside 1 to 32, unknown kind, or not for this node.
    BadSender = "drop_bad_sender",
    /// Seen before, or too old for the window.
    Replayed = "drop_replayed",
    /// From an incarnation that has ended.
    OldIncarnation = "drop_old_incarnation",
    /// The sender's clock went back.
    Regressed = "drop_regressed",
    /// Another `max_promise`, or a promise above it.
    BadPromise = "drop_bad_promise",
    /// An ack that fits no heartbeat in flight.
    StaleAck = "drop_stale_ack",
    /// The ring buffer was full; the record is lost.
    RingFull = "ring_full",
    /// VIP frames let in.
    GateIn = "gate_in",
    /// VIP frames stopped at the ingress.
    GateInDrop = "gate_in_drop",
    /// VIP frames let out.
    GateOut = "gate_out",
    /// VIP frames stopped at the egress.
    GateOutDrop = "gate_out_drop",
    /// ARP or NA of somebody else for our VIP.
    ForeignClaims = "foreign_claims",
    /// A compare-and-swap that was lost too often; the packet is dropped, the next one tries again.
    Contended = "contended",
    /// The shared table is missing or of another layout.
    NoState = "no_state",
    /// Signed with a key that this node does not have; no MAC was computed.
    UnknownKey = "drop_unknown_key",
}

/// How many counters there are.
pub const COUNTER_COUNT: u32 = COUNTERS.len() as u32;

/// First byte of every virtual MAC: locally administered and unicast, in the quadrant that IEEE 802c leaves to
/// administrators. Not VRRP's 00:00:5e:00:01: those belong to VRRP routers, which listen and speak up on networks where one
/// is in use, and they hold a group number only, so that two clusters on one network would share them.
pub const VMAC_PREFIX: u8 = 0x72;

/// The virtual MAC of a group's gateway VIPs: the same on every node, of its own in each cluster and group.
pub const fn virtual_mac(cluster: u32, group: u8) -> [u8; 6] {
    let c = cluster.to_be_bytes();
    [VMAC_PREFIX, c[0], c[1], c[2], c[3], group]
}

/// Set in a VIP's value of the VIP map beside its group: it is a gateway, and only the virtual MAC speaks for it.
pub const VIP_GATEWAY: u32 = 1 << 8;

/// An address as the VIP and link maps know it: IPv6, or IPv4 mapped into it.
pub type AddressKey = [u8; 16];

/// The key of an address.
pub const fn address_key(a: core::net::IpAddr) -> AddressKey {
    match a {
        core::net::IpAddr::V4(v) => v.to_ipv6_mapped().octets(),
        core::net::IpAddr::V6(v) => v.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_numbered_in_order() {
        for (i, (c, name)) in COUNTERS.iter().enumerate() {
            assert_eq!(*c as usize, i, "{name}");
        }
    }

    #[test]
    fn virtual_macs_are_local_unicast_and_distinct() {
        let mac = virtual_mac(0x0102_0304, 7);
        assert_eq!(mac, [0x72, 1, 2, 3, 4, 7]);
        assert_eq!(mac[0] & 3, 2, "locally administered, not multicast");
        assert_ne!(virtual_mac(0x0102_0304, 8), mac);
        assert_ne!(virtual_mac(0x0102_0305, 7), mac);
    }

    #[test]
    fn kinds_round_trip() {
        for k in 0..10 {
            if let Some(kind) = RecordKind::from_u32(k) {
                assert_eq!(kind as u32, k);
            }
        }
    }
}
