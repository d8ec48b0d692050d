//! What the kernel and user space must agree on, defined once.
//!
//! * [`wire`]: the one signed message that nodes exchange, its short forms, and its SipHash; [`keys`]: what signs it.
//! * [`state`]: the table shared by the XDP program and the agent (a pinned, mmapped BPF array).
//! * [`kernel`]: the half of the lease protocol that runs in the kernel: promise, ack counting, gate.
//!   The eBPF program, the simulator and the plain-socket path all call these very functions.
//! * [`held`]: frames that the kernel keeps while a group moves.
//! * [`record`]: what the kernel reports through the ring buffer, and the counters.
//! * [`rules`]: names of the lease's rules, so that tests can switch one off and see it missed.
//!
//! All times are nanoseconds of CLOCK_BOOTTIME of one node. They are never compared between nodes.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    expect(
        internal_features,
        reason = "bpfel has no AtomicU64::compare_exchange; the intrinsic compiles to cmpxchg_64"
    )
)]

#[cfg(target_endian = "big")]
compile_error!(
    "the wire format and the shared table are little-endian; big-endian hosts are not supported"
);

pub mod cell;
pub mod held;
pub mod kernel;
pub mod keys;
pub mod record;
pub mod rules;
pub mod siphash;
pub mod state;
pub mod wire;

/// Most nodes in a cluster. Node ids are 1 to 32.
pub const MAX_NODES: usize = 32;
/// Most groups in a cluster. Group ids are 0 to 255, each a bit of a [`Set`].
pub const MAX_GROUPS: usize = 256;
/// Most links of a node.
pub const MAX_LINKS: usize = 8;
/// Heartbeats whose acks are still counted.
pub const SLOTS: usize = 64;

/// A set of groups, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Set(pub [u64; 4]);

impl Set {
    /// No group.
    pub const EMPTY: Set = Set([0; 4]);

    /// The set of one group.
    pub const fn of(group: u8) -> Set {
        let mut s = [0u64; 4];
        s[(group >> 6) as usize] = 1 << (group & 63);
        Set(s)
    }

    /// Is `group` in it?
    #[inline(always)]
    pub const fn has(&self, group: u8) -> bool {
        self.0[((group >> 6) & 3) as usize] >> (group & 63) & 1 == 1
    }

    /// True if no group is in it.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// Groups in either.
    #[inline(always)]
    pub const fn union(self, o: Set) -> Set {
        Set([
            self.0[0] | o.0[0],
            self.0[1] | o.0[1],
            self.0[2] | o.0[2],
            self.0[3] | o.0[3],
        ])
    }

    /// Groups in both.
    #[inline(always)]
    pub const fn and(self, o: Set) -> Set {
        Set([
            self.0[0] & o.0[0],
            self.0[1] & o.0[1],
            self.0[2] & o.0[2],
            self.0[3] & o.0[3],
        ])
    }

    /// Groups of this one that are not in the other.
    #[inline(always)]
    pub const fn minus(self, o: Set) -> Set {
        Set([
            self.0[0] & !o.0[0],
            self.0[1] & !o.0[1],
            self.0[2] & !o.0[2],
            self.0[3] & !o.0[3],
        ])
    }

    /// With one group more.
    pub const fn with(self, group: u8) -> Set {
        self.union(Set::of(group))
    }

    /// With one group less.
    pub const fn without(self, group: u8) -> Set {
        self.minus(Set::of(group))
    }

    /// The groups in rising order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let (i, w) = left.iter_mut().enumerate().find(|(_, w)| **w != 0)?;
            let bit = w.trailing_zeros();
            *w &= *w - 1;
            Some((i as u32 * 64 + bit) as u8)
        })
    }

    /// How many groups are in it.
    pub const fn len(&self) -> u32 {
        self.0[0].count_ones()
            + self.0[1].count_ones()
            + self.0[2].count_ones()
            + self.0[3].count_ones()
    }
}

/// The bit of a node in a voter mask. `id` is 1 to 32; anything else gives 0.
#[inline(always)]
pub const fn node_bit(id: u8) -> u32 {
    if id >= 1 && id as usize <= MAX_NODES {
        1 << (id - 1)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_set_gives_its_groups_in_rising_order(words: [u64; 4]) {
            let s = Set(words);
            let got: Vec<u8> = s.iter().collect();
            let want: Vec<u8> = (0..=255).filter(|g| s.has(*g)).collect();
            proptest::prop_assert_eq!(got, want);
        }
    }
}
