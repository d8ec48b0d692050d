//! The cluster's keys: one that signs, and during a rotation another one that is accepted beside it.
//!
//! A message names the key that signed it by a short id, so that a receiver computes one MAC, and none at all for a key
//! that it does not have. The id is a hash under the key itself: it gives nothing of the key away.

use crate::{
    siphash::{Key, siphash24},
    wire::{Message, flags},
};

/// What the id of a key is the hash of: no message begins like this.
const ID_TEXT: [u64; 1] = [u64::from_le_bytes(*b"heartkey")];

/// Short public name of a key; 0 is no key.
#[inline(always)]
pub fn key_id(key: Key) -> u16 {
    match siphash24(key, &ID_TEXT) as u16 {
        0 => 1,
        id => id,
    }
}

/// Both keys as the programs see them. Wiped when dropped.
#[derive(Default)]
#[repr(C)]
pub struct Keys {
    sign: [u64; 2],
    other: [u64; 2],
    /// Id of the signing key, then of the other (0 if there is none), 16 bits each.
    ids: u64,
}

/// Words of [`Keys`].
pub const KEYS_WORDS: usize = size_of::<Keys>() / 8;

impl Keys {
    /// A signing key and perhaps another that is accepted.
    pub fn new(sign: Key, other: Option<Key>) -> Keys {
        let id = other.map_or(0, key_id);
        let k = other.unwrap_or(Key(0, 0));
        Keys {
            sign: [sign.0, sign.1],
            other: [k.0, k.1],
            ids: u64::from(key_id(sign)) | u64::from(id) << 16,
        }
    }

    /// The keys as the words of the map.
    pub fn words(&self) -> [u64; KEYS_WORDS] {
        [
            self.sign[0],
            self.sign[1],
            self.other[0],
            self.other[1],
            self.ids,
        ]
    }

    /// The signing key.
    #[inline(always)]
    pub fn signing(&self) -> Key {
        Key(self.sign[0], self.sign[1])
    }

    /// Id of the signing key.
    #[inline(always)]
    pub fn id(&self) -> u16 {
        self.ids as u16
    }

    /// Id of the other key, 0 if there is none.
    #[inline(always)]
    pub fn other_id(&self) -> u16 {
        (self.ids >> 16) as u16
    }

    /// The key that a message must be signed with, by what its head says. None: one that we do not have.
    /// A message of version 1 that does not say that its sender knows more names no key: that sender has one.
    #[inline(always)]
    pub fn of(&self, version: u8, message_flags: u8, id: u16) -> Option<Key> {
        if !names_keys(version, message_flags) || id == self.id() {
            Some(self.signing())
        } else if id != 0 && id == self.other_id() {
            Some(Key(self.other[0], self.other[1]))
        } else {
            None
        }
    }
}

/// Are the key ids of a message its sender's? (Those of version 1 send back what we wrote there.)
#[inline(always)]
pub const fn names_keys(version: u8, message_flags: u8) -> bool {
    version > 1 || message_flags & flags::NEXT != 0
}

impl Message {
    /// Is the message signed by one of these keys?
    pub fn is_signed_by(&self, keys: &Keys) -> bool {
        keys.of(self.version, self.flags, self.key_id)
            .is_some_and(|key| self.expected_mac(key) == self.mac)
    }
}

impl From<[u8; 16]> for Keys {
    fn from(bytes: [u8; 16]) -> Keys {
        let [a, b] = bytes.as_chunks::<8>().0 else {
            return Keys::default();
        };
        Keys::new(Key(u64::from_le_bytes(*a), u64::from_le_bytes(*b)), None)
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Drop for Keys {
    fn drop(&mut self) {
        for word in self.sign.iter_mut().chain(&mut self.other) {
            // SAFETY: a live, exclusive reference; volatile, so that it is not left out as a dead store.
            unsafe { core::ptr::write_volatile(word, 0) };
        }
    }
}

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Keys({:04x}, {:04x})", self.id(), self.other_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_key() {
        let (a, b) = (Key(1, 2), Key(3, 4));
        assert_ne!(key_id(a), key_id(b));
        let both = Keys::new(a, Some(b));
        let got = |v, f, id| both.of(v, f, id).map(|k| k.0);
        assert_eq!(got(2, 0, key_id(a)), Some(1));
        assert_eq!(got(2, 0, key_id(b)), Some(3));
        assert_eq!(got(2, 0, 0), None);
        assert_eq!(got(2, 0, key_id(a) ^ key_id(b)), None);
        assert_eq!(got(1, 0, key_id(b)), Some(1), "not its own words");
        assert_eq!(got(1, flags::NEXT, key_id(b)), Some(3));
        assert_eq!(Keys::new(a, None).of(2, 0, 0).map(|k| k.0), None);
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let text = format!("{:?}", Keys::new(Key(0x1234_5678, 2), None));
        assert!(!text.contains("5678") && text.len() < 20, "{text}");
    }
}
