//! SplitMix64 (Steele, Lea, Flood 2014): one seed, the same history on every machine.

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed and a purpose, so that one purpose does not disturb another.
    pub fn new(seed: u64, purpose: u64) -> Rng {
        let mut r =
            Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ^ purpose.wrapping_mul(0xd134_2543_de82_ef95));
        r.next();
        r
    }
    /// 64 random bits.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "not an iterator: it never ends"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`; 0 if `n` is 0.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        // Multiply and shift: no division, and the bias of 2^-32 does not matter here.
        ((self.next() >> 32) * n) >> 32
    }
    /// A number in `lo..hi`; `lo` if the range is empty.
    #[inline]
    pub fn between(&mut self, lo: u64, hi: u64) -> u64 {
        if hi <= lo {
            lo
        } else if (hi - lo) >> 32 == 0 {
            lo + self.below(hi - lo)
        } else {
            lo + self.next() % (hi - lo)
        }
    }
    /// True in `permille` of 1000 cases.
    #[inline]
    pub fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.below(1000) < u64::from(permille)
    }
    /// One of a list.
    #[inline]
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
