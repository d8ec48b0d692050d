//! The message that nodes exchange: one layout for heartbeats, acks, grants and refusals, 192 bytes of UDP payload,
//! little-endian, signed with SipHash-2-4 under the cluster key.

use crate::{
    Set,
    siphash::{Key, siphash24},
};

/// First two bytes of every message: "HL".
pub const MAGIC: u16 = 0x4c48;
/// The version this build speaks.
pub const VERSION: u8 = 1;
/// Bytes of a message.
pub const LEN: usize = core::mem::size_of::<Message>();
/// Words of a message.
pub const WORDS: usize = LEN / 8;
/// UDP port unless configured otherwise.
pub const DEFAULT_PORT: u16 = 4747;

/// What a message is. Values on the wire never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Sent each interval, on every link, to every other node; carries claims and perhaps an ask.
    Heartbeat = 1,
    /// A voter's promise for one heartbeat's running set.
    Ack = 2,
    /// A voter accepts the asked set `ask_cv`.
    Grant = 3,
    /// A voter refuses the asked set; `promise_us` says how long the promise in the way still runs.
    Refuse = 4,
    /// A voter cannot stand by the running set; `set` names the groups that it gave to others.
    Nack = 5,
    /// The receiver has been rolled back (clock or incarnation went backwards) and must start afresh.
    Regressed = 6,
}

impl Kind {
    /// The kind of a wire byte.
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Option<Kind> {
        match v {
            1 => Some(Kind::Heartbeat),
            2 => Some(Kind::Ack),
            3 => Some(Kind::Grant),
            4 => Some(Kind::Refuse),
            5 => Some(Kind::Nack),
            6 => Some(Kind::Regressed),
            _ => None,
        }
    }
}

/// Bits of [`Message::flags`].
pub mod flags {
    /// A record of soft state is in the message: hand it to user space.
    pub const SOFT: u8 = 1;
    /// The ask is a planned move: park it until the owner has released.
    pub const MOVE: u8 = 2;
    /// The sender never owns a group.
    pub const WITNESS: u8 = 4;
    /// The sender is about to stop and wants no group.
    pub const LEAVING: u8 = 8;
    /// The sender still waits under rule 1: it grants nothing yet.
    pub const WAITING: u8 = 16;
    /// The sender is ready for a generation: it has read the configuration of the next one, or it is in a new one and
    /// waits only for somebody who votes there (rule 10).
    pub const READY: u8 = 32;
}

/// One message. Plain integers in little-endian order; the whole is copied to and from packets as bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(C)]
pub struct Message {
    /// [`MAGIC`].
    pub magic: u16,
    /// Wire version of the sender.
    pub version: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// Id of the sender, 1 to 32.
    pub from: u8,
    /// Id of the receiver, 0 for all.
    pub to: u8,
    /// Index of the link that this copy went out on.
    pub link: u8,
    /// See [`flags`].
    pub flags: u8,
    /// Hash of the cluster's name.
    pub cluster: u32,
    /// Generation of the sender's configuration.
    pub generation: u32,
    /// Digest of what all nodes must have configured alike.
    pub digest: u32,
    /// The cluster's `max_promise` in milliseconds; a different one is refused (rule 1).
    pub max_promise_ms: u32,
    /// The sender's incarnation: born with its maps (rule 4).
    pub incarnation: u64,
    /// The sender's boot clock when it sent this, ns.
    pub clock: u64,
    /// The sender's message number; the same on all links.
    pub seq: u64,
    /// Promise wanted (heartbeat), given (ack) or still running (refusal), microseconds.
    pub promise_us: u32,
    /// Zero; for later versions.
    pub reserved: u32,
    /// Claim version of `set`.
    pub cv: u64,
    /// The groups that the sender runs (in a nack: the ones it lost).
    pub set: Set,
    /// Claim version of `ask_set`; 0 if nothing is asked.
    pub ask_cv: u64,
    /// The groups that the sender wants to run.
    pub ask_set: Set,
    /// Epoch of the sender's newest gain.
    pub epoch: u64,
    /// The incarnation that this answers.
    pub re_incarnation: u64,
    /// The sequence that this answers.
    pub re_seq: u64,
    /// The send time that this answers.
    pub re_clock: u64,
    /// Record of soft state: kind, key and value (see agent-core's `soft`).
    pub soft: u64,
    /// Version of that record.
    pub soft_version: u64,
    /// SipHash-2-4 of all words before.
    pub mac: u64,
}

const _: () = assert!(LEN == 192);

impl Message {
    /// The message as words, the last one being the MAC.
    #[inline(always)]
    pub fn words(&self) -> &[u64; WORDS] {
        // SAFETY: repr(C) without padding (the size is asserted), alignment 8, all bit patterns valid.
        unsafe { &*(self as *const Message as *const [u64; WORDS]) }
    }

    /// The MAC that the message should carry.
    #[inline(always)]
    pub fn expected_mac(&self, key: Key) -> u64 {
        // SAFETY: as in words(); the first 23 of 24 words.
        let signed = unsafe { &*(self as *const Message as *const [u64; WORDS - 1]) };
        siphash24(key, signed)
    }

    /// Signs the message.
    #[inline(always)]
    pub fn sign(&mut self, key: Key) {
        self.mac = self.expected_mac(key);
    }

    /// The message as it goes into a packet.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut out = [0u8; LEN];
        for (o, w) in out.chunks_exact_mut(8).zip(self.words()) {
            o.copy_from_slice(&w.to_le_bytes());
        }
        out
    }

    /// Reads a message from exactly [`LEN`] bytes, unchecked otherwise.
    pub fn from_bytes(b: &[u8; LEN]) -> Message {
        let mut m = Message::default();
        // SAFETY: as in words(), exclusive here.
        let words = unsafe { &mut *(&mut m as *mut Message as *mut [u64; WORDS]) };
        for (w, c) in words.iter_mut().zip(b.as_chunks::<8>().0) {
            *w = u64::from_le_bytes(*c);
        }
        m
    }
}

/// Can a message of version `theirs` be understood? One step either way.
#[inline(always)]
pub const fn version_ok(theirs: u8) -> bool {
    theirs.abs_diff(VERSION) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn bytes_round_trip(seed: [u64; 24]) {
            let mut raw = [0u8; LEN];
            for (c, w) in raw.chunks_exact_mut(8).zip(seed) {
                c.copy_from_slice(&w.to_le_bytes());
            }
            let m = Message::from_bytes(&raw);
            proptest::prop_assert_eq!(m.to_bytes(), raw);
        }

        #[test]
        fn every_bit_is_signed(seed: [u64; 24], bit in 0usize..(LEN - 8) * 8) {
            let mut raw = [0u8; LEN];
            for (c, w) in raw.chunks_exact_mut(8).zip(seed) {
                c.copy_from_slice(&w.to_le_bytes());
            }
            let mut m = Message::from_bytes(&raw);
            m.sign(Key(1, 2));
            let mut b = m.to_bytes();
            b[bit / 8] ^= 1 << (bit % 8);
            let forged = Message::from_bytes(&b);
            proptest::prop_assert_ne!(forged.mac, forged.expected_mac(Key(1, 2)));
        }
    }

    #[test]
    fn layout_is_fixed() {
        let m = Message {
            from: 3,
            cluster: 0xaabb_ccdd,
            mac: 0x0102_0304_0506_0708,
            ..Message::default()
        };
        let b = m.to_bytes();
        assert_eq!(b[4], 3);
        assert_eq!(&b[8..12], &[0xdd, 0xcc, 0xbb, 0xaa]);
        assert_eq!(&b[184..], &[8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn versions_one_away_are_understood() {
        assert!(version_ok(VERSION) && version_ok(VERSION + 1) && version_ok(VERSION - 1));
        assert!(!version_ok(VERSION + 2));
    }
}
