//! SipHash-2-4 over whole 64-bit words (Aumasson, Bernstein 2012), in a form that the BPF verifier takes:
//! no slices, no tail bytes. Equal to the reference for inputs whose length is a multiple of 8.

/// The 128-bit key as two little-endian words.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Key(pub u64, pub u64);

struct State(u64, u64, u64, u64);

#[inline(always)]
fn round(s: &mut State) {
    s.0 = s.0.wrapping_add(s.1);
    s.2 = s.2.wrapping_add(s.3);
    s.1 = s.1.rotate_left(13) ^ s.0;
    s.3 = s.3.rotate_left(16) ^ s.2;
    s.0 = s.0.rotate_left(32);
    s.2 = s.2.wrapping_add(s.1);
    s.0 = s.0.wrapping_add(s.3);
    s.1 = s.1.rotate_left(17) ^ s.2;
    s.3 = s.3.rotate_left(21) ^ s.0;
    s.2 = s.2.rotate_left(32);
}

/// SipHash-2-4 of `N` words.
#[inline(always)]
pub fn siphash24<const N: usize>(key: Key, words: &[u64; N]) -> u64 {
    let mut s = State(
        key.0 ^ 0x736f_6d65_7073_6575,
        key.1 ^ 0x646f_7261_6e64_6f6d,
        key.0 ^ 0x6c79_6765_6e65_7261,
        key.1 ^ 0x7465_6462_7974_6573,
    );
    let mut i = 0;
    while i < N {
        let m = words[i];
        s.3 ^= m;
        round(&mut s);
        round(&mut s);
        s.0 ^= m;
        i += 1;
    }
    let last = ((N as u64 * 8) & 0xff) << 56;
    s.3 ^= last;
    round(&mut s);
    round(&mut s);
    s.0 ^= last;
    s.2 ^= 0xff;
    round(&mut s);
    round(&mut s);
    round(&mut s);
    round(&mut s);
    s.0 ^ s.1 ^ s.2 ^ s.3
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
