//! The message that nodes exchange: one layout for heartbeats, acks, grants and refusals, 192 bytes of UDP payload,
//! little-endian, signed with SipHash-2-4 under the cluster key.
//!
//! Version 2 leaves words out that are zero or not needed: see [`Form`].

use crate::{
    Set,
    keys::Keys,
    record::Counter,
    siphash::{Key, Sip},
};

/// First two bytes of every message: "HL".
pub const MAGIC: u16 = 0x4c48;
/// The version this build speaks; it also speaks the one before.
pub const VERSION: u8 = 2;
/// Bytes of a message in its full form.
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
    /// The sender understands the next version, too, and says in this message what only that one knows.
    pub const NEXT: u8 = 64;
    /// No services run on the sender of groups that it does not own, and none of those it owned last may run elsewhere.
    pub const CLEAN: u8 = 128;
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
    /// Id of the key that signed this; zero in version 1 without [`flags::NEXT`].
    pub key_id: u16,
    /// Id of the other key that the sender accepts, 0 if there is none; as `key_id`.
    pub other_key: u16,
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

    /// The shortest form that holds all of the message.
    #[inline(always)]
    pub fn form(&self) -> Form {
        if self.version < 2 {
            Form::Full
        } else if self.kind == Kind::Ack as u8 {
            Form::Ack
        } else if self.kind == Kind::Heartbeat as u8
            && self.ask_cv == 0
            && self.flags & flags::SOFT == 0
        {
            Form::Beat
        } else {
            Form::Full
        }
    }

    /// The MAC that the message should carry in its full form.
    #[inline(always)]
    pub fn expected_mac(&self, key: Key) -> u64 {
        self.mac_of(key, Form::Full)
    }

    /// The MAC that the message should carry in this form.
    #[inline(always)]
    pub fn mac_of(&self, key: Key, form: Form) -> u64 {
        let words = self.words();
        let mut hash = Sip::new(key);
        for range in form.words() {
            let mut i = range.0;
            while i < range.1 {
                hash.word(words[i]);
                i += 1;
            }
        }
        hash.finish(form.len() / 8 - 1)
    }

    /// Signs the full form with a key, whatever key the message names.
    #[inline(always)]
    pub fn sign(&mut self, key: Key) {
        self.mac = self.expected_mac(key);
    }

    /// Names the keys in the message, signs it, and writes it in its shortest form. Returns the length in bytes.
    pub fn seal(&mut self, keys: &Keys, out: &mut [u8; LEN]) -> usize {
        self.key_id = keys.id();
        self.other_key = keys.other_id();
        let form = self.form();
        self.mac = self.mac_of(keys.signing(), form);
        self.write(form, out)
    }

    /// Writes the message in this form. Returns the length in bytes.
    pub fn write(&self, form: Form, out: &mut [u8; LEN]) -> usize {
        let words = self.words();
        let ranges = form.words();
        let signed = ranges
            .iter()
            .flat_map(|r| words.get(r.0..r.1).unwrap_or_default());
        let mut to = out.as_chunks_mut::<8>().0.iter_mut();
        for (word, o) in signed.chain([&self.mac]).zip(&mut to) {
            *o = word.to_le_bytes();
        }
        form.len()
    }

    /// Reads the payload of a datagram, unchecked but for its size; words that its form leaves out are zero.
    ///
    /// # Errors
    /// No form has this length, or this kind of message has not this form.
    pub fn read(bytes: &[u8]) -> Result<Message, Counter> {
        let form = match Form::of_len(bytes.len()) {
            Some(form) => form,
            None if bytes.len() < LEN => return Err(Counter::Truncated),
            None => return Err(Counter::Oversized),
        };
        let mut m = Message::default();
        // SAFETY: as in words(), exclusive here.
        let words = unsafe { &mut *(&mut m as *mut Message as *mut [u64; WORDS]) };
        let mut from = bytes.as_chunks::<8>().0.iter();
        let last = [(WORDS - 1, WORDS)];
        for range in form.words().iter().chain(&last) {
            for (w, c) in words
                .get_mut(range.0..range.1)
                .unwrap_or_default()
                .iter_mut()
                .zip(&mut from)
            {
                *w = u64::from_le_bytes(*c);
            }
        }
        if form.fits(m.version, m.kind) {
            Ok(m)
        } else {
            Err(Counter::Truncated)
        }
    }

    /// Reads the payload of a datagram and checks who signed it: what the XDP program does, for the plain-socket path
    /// and for tests.
    ///
    /// # Errors
    /// Why it is refused. Magic, version and cluster are for [`crate::kernel::precheck`] to look at.
    pub fn open(bytes: &[u8], keys: &Keys) -> Result<Message, Counter> {
        let m = Message::read(bytes)?;
        let form = Form::of_len(bytes.len()).unwrap_or(Form::Full);
        let key = keys
            .of(m.version, m.flags, m.key_id)
            .ok_or(Counter::UnknownKey)?;
        if m.mac_of(key, form) == m.mac {
            Ok(m)
        } else {
            Err(Counter::Forged)
        }
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

/// Can a message of version `theirs` be understood? Ours and the one before: a newer node speaks ours to us.
#[inline(always)]
pub const fn version_ok(theirs: u8) -> bool {
    theirs == VERSION || theirs == VERSION - 1
}

/// The version to speak to a node whose last heartbeat had this version and these flags.
#[inline(always)]
pub const fn version_for(theirs: u8, their_flags: u8) -> u8 {
    if theirs >= VERSION || theirs == VERSION - 1 && their_flags & flags::NEXT != 0 {
        VERSION
    } else {
        VERSION - 1
    }
}

/// Which words of a [`Message`] are in a datagram; the rest is zero. Signed is what is there, then comes the MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// All: version 1, and what asks, answers an ask or carries soft state.
    Full,
    /// A heartbeat of version 2 that asks nothing and carries no soft state.
    Beat,
    /// An ack of version 2.
    Ack,
}

/// Words of a heartbeat up to its set.
pub const BEAT_HEAD: usize = 12;
/// Word of the epoch, the last one of a short heartbeat.
pub const EPOCH_WORD: usize = 17;
/// Words of an ack up to its clock; then come the word of `promise_us` and `cv`.
pub const ACK_HEAD: usize = 5;
/// First word of what an ack answers.
pub const RE_WORD: usize = 18;

impl Form {
    /// Bytes of the datagram's payload.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "no form is")]
    pub const fn len(self) -> usize {
        match self {
            Form::Full => LEN,
            Form::Beat => (BEAT_HEAD + 1 + 1) * 8,
            Form::Ack => (ACK_HEAD + 2 + 3 + 1) * 8,
        }
    }

    /// The form of a payload of so many bytes.
    #[inline(always)]
    pub const fn of_len(bytes: usize) -> Option<Form> {
        if bytes == Form::Full.len() {
            Some(Form::Full)
        } else if bytes == Form::Beat.len() {
            Some(Form::Beat)
        } else if bytes == Form::Ack.len() {
            Some(Form::Ack)
        } else {
            None
        }
    }

    /// May a message of this version and kind come in this form?
    #[inline(always)]
    pub const fn fits(self, version: u8, kind: u8) -> bool {
        match self {
            Form::Full => true,
            Form::Beat => version >= 2 && kind == Kind::Heartbeat as u8,
            Form::Ack => version >= 2 && kind == Kind::Ack as u8,
        }
    }

    /// The signed words, as ranges (from, to) in their order.
    #[inline(always)]
    const fn words(self) -> [(usize, usize); 3] {
        match self {
            Form::Full => [(0, WORDS - 1), (0, 0), (0, 0)],
            Form::Beat => [(0, BEAT_HEAD), (EPOCH_WORD, EPOCH_WORD + 1), (0, 0)],
            Form::Ack => [
                (0, ACK_HEAD),
                (ACK_HEAD + 1, ACK_HEAD + 3),
                (RE_WORD, RE_WORD + 3),
            ],
        }
    }
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
    fn this_version_and_the_one_before_are_understood() {
        let understood: Vec<u8> = (0..=255).filter(|v| version_ok(*v)).collect();
        assert_eq!(understood, [1, 2]);
        assert_eq!(version_for(1, 0), 1);
        assert_eq!(version_for(0, 0), 1, "never heard");
        assert_eq!(version_for(1, flags::NEXT), 2);
        assert_eq!(version_for(2, 0), 2);
    }

    /// The places in the layout that the forms name by number.
    #[test]
    fn forms_leave_out_what_they_say() {
        use core::mem::offset_of;
        assert_eq!(offset_of!(Message, ask_cv), BEAT_HEAD * 8);
        assert_eq!(offset_of!(Message, epoch), EPOCH_WORD * 8);
        assert_eq!(offset_of!(Message, seq), ACK_HEAD * 8);
        assert_eq!(offset_of!(Message, promise_us), ACK_HEAD * 8 + 8);
        assert_eq!(offset_of!(Message, re_incarnation), RE_WORD * 8);
        assert_eq!((Form::Beat.len(), Form::Ack.len()), (112, 88));
    }

    fn sealed(mut m: Message) -> (Message, Vec<u8>) {
        let mut out = [0; LEN];
        let len = m.seal(&Keys::from([7; 16]), &mut out);
        (m, out[..len].to_vec())
    }

    proptest::proptest! {
        #[test]
        fn what_is_sealed_opens(seed: [u64; 24], version in 1u8..=2, kind in 1u8..=6, asks: bool) {
            let mut raw = [0u8; LEN];
            for (c, w) in raw.chunks_exact_mut(8).zip(seed) {
                c.copy_from_slice(&w.to_le_bytes());
            }
            let mut m = Message { version, kind, ..Message::from_bytes(&raw) };
            if !asks {
                m.ask_cv = 0;
                m.flags &= !flags::SOFT;
            }
            m.flags |= flags::NEXT;
            let (m, bytes) = sealed(m);
            proptest::prop_assert_eq!(bytes.len(), m.form().len());
            let got = Message::open(&bytes, &Keys::from([7; 16])).unwrap();
            // What its form leaves out is zero, all else is there.
            for (i, (a, b)) in got.words().iter().zip(m.words()).enumerate() {
                let there = i == WORDS - 1 || m.form().words().iter().any(|r| (r.0..r.1).contains(&i));
                proptest::prop_assert_eq!(*a, if there { *b } else { 0 }, "word {}", i);
            }
            proptest::prop_assert!(Message::open(&bytes, &Keys::from([8; 16])).is_err());
        }

        #[test]
        fn every_bit_of_every_form_is_signed(kind in 1u8..=2, at in 0usize..110 * 8) {
            let (m, mut bytes) = sealed(Message { magic: MAGIC, version: 2, kind, ..Message::default() });
            let at = at % ((bytes.len() - 8) * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            proptest::prop_assert!(Message::open(&bytes, &Keys::from([7; 16])).is_err(), "{:?}", m.form());
        }
    }

    /// A form is not another one cut off: the length is part of what is signed.
    #[test]
    fn a_form_is_no_other() {
        let (_, full) = sealed(Message {
            version: 2,
            kind: 1,
            ask_cv: 1,
            ..Message::default()
        });
        assert_eq!(full.len(), LEN);
        for len in [Form::Beat.len(), Form::Ack.len()] {
            assert!(Message::open(&full[..len], &Keys::from([7; 16])).is_err());
        }
        let (_, beat) = sealed(Message {
            version: 2,
            kind: 1,
            ..Message::default()
        });
        assert_eq!(beat.len(), Form::Beat.len());
        assert!(Message::read(&beat).is_ok());
        let old = {
            let mut b = beat.clone();
            b[2] = 1;
            b
        };
        assert_eq!(
            Message::read(&old),
            Err(Counter::Truncated),
            "version 1 has no short form"
        );
    }
}
