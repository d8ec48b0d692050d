//! SipHash-2-4 over whole 64-bit words (Aumasson, Bernstein 2012), in a form that the BPF verifier takes:
//! no slices, no tail bytes. Equal to the reference for inputs whose length is a multiple of 8.

/// The 128-bit key as two little-endian words.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Key(pub u64, pub u64);

/// A hash under way: words are taken in as they are touched, so that a packet is read once.
pub struct Sip(u64, u64, u64, u64);

impl Sip {
    /// Nothing taken in yet.
    #[inline(always)]
    pub const fn new(key: Key) -> Sip {
        Sip(
            key.0 ^ 0x736f_6d65_7073_6575,
            key.1 ^ 0x646f_7261_6e64_6f6d,
            key.0 ^ 0x6c79_6765_6e65_7261,
            key.1 ^ 0x7465_6462_7974_6573,
        )
    }

    #[inline(always)]
    fn round(&mut self) {
        self.0 = self.0.wrapping_add(self.1);
        self.2 = self.2.wrapping_add(self.3);
        self.1 = self.1.rotate_left(13) ^ self.0;
        self.3 = self.3.rotate_left(16) ^ self.2;
        self.0 = self.0.rotate_left(32);
        self.2 = self.2.wrapping_add(self.1);
        self.0 = self.0.wrapping_add(self.3);
        self.1 = self.1.rotate_left(17) ^ self.2;
        self.3 = self.3.rotate_left(21) ^ self.0;
        self.2 = self.2.rotate_left(32);
    }

    /// Takes in a word.
    #[inline(always)]
    pub fn word(&mut self, m: u64) {
        self.3 ^= m;
        self.round();
        self.round();
        self.0 ^= m;
    }

    /// The hash of the `words` taken in.
    #[inline(always)]
    pub fn finish(mut self, words: usize) -> u64 {
        self.word(((words as u64 * 8) & 0xff) << 56);
        self.2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        self.0 ^ self.1 ^ self.2 ^ self.3
    }
}

/// SipHash-2-4 of `N` words.
#[inline(always)]
pub fn siphash24<const N: usize>(key: Key, words: &[u64; N]) -> u64 {
    let mut s = Sip::new(key);
    let mut i = 0;
    while i < N {
        s.word(words[i]);
        i += 1;
    }
    s.finish(N)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;

    proptest::proptest! {
        #[test]
        fn equals_the_reference(k0: u64, k1: u64, words: [u64; 23]) {
            let mut h = siphasher::sip::SipHasher24::new_with_keys(k0, k1);
            for w in words {
                h.write(&w.to_le_bytes());
            }
            proptest::prop_assert_eq!(siphash24(Key(k0, k1), &words), h.finish());
        }
    }
}
