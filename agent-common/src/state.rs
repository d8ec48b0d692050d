//! The table that the XDP program and the agent share: one value of a pinned, mmapped BPF array.
//!
//! Who writes what: the agent writes everything except the fields marked *kernel*; words marked *both* change by
//! compare-and-swap only. The table outlives the agent, and with it the incarnation, the promises and the lease.

use crate::{MAX_GROUPS, MAX_LINKS, MAX_NODES, SLOTS, Set, cell::Cell64};

/// Layout number of [`Shared`]; a pinned table of another one is not adopted.
pub const LAYOUT: u64 = 0x484c_5348_0000_0001;

/// Bytes of [`Shared`] in this layout.
const SHARED_SIZE: usize = 14_808;

/// [`Shared::vote_after`] of a node that must first hear somebody vote in its generation (rule 10).
pub const UNPROVEN: u64 = u64::MAX;

/// 2^10 ns: promises and leases are kept in these units, so that an expiry and 16 more bits fit in a word.
pub const UNIT_SHIFT: u32 = 10;

/// A promise as one word: expiry (48 bits of 1024 ns), closed bit, generation (15 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PromiseWord(pub u64);

impl PromiseWord {
    const CLOSED: u64 = 1 << 15;
    const GEN: u64 = Self::CLOSED - 1;

    /// An open word with a promise until at least `ns`.
    #[inline(always)]
    pub const fn open(ns: u64, generation: u64) -> Self {
        PromiseWord(((ns >> UNIT_SHIFT) + 1) << 16 | generation & Self::GEN)
    }
    /// A closed word: nothing is promised and XDP gives nothing.
    #[inline(always)]
    pub const fn closed(generation: u64) -> Self {
        PromiseWord(Self::CLOSED | generation & Self::GEN)
    }
    /// The same promise closed, or opened, starts a new generation.
    #[inline(always)]
    pub const fn generation(self) -> u64 {
        self.0 & Self::GEN
    }
    /// Is it closed?
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }
    /// When the promise ends, ns.
    #[inline(always)]
    pub const fn expiry_ns(self) -> u64 {
        self.0 >> 16 << UNIT_SHIFT
    }
    /// Does the promise stand at `now`?
    #[inline(always)]
    pub const fn stands(self, now: u64) -> bool {
        !self.is_closed() && now < self.expiry_ns()
    }
}

/// The lease as one word: expiry (48 bits of 1024 ns, rounded down) and the low 16 bits of its claim version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseWord(pub u64);

impl LeaseWord {
    /// A lease that ends no later than `ns`.
    #[inline(always)]
    pub const fn until(ns: u64, cv: u64) -> Self {
        LeaseWord(ns >> UNIT_SHIFT << 16 | cv & 0xffff)
    }
    /// When it ends, ns.
    #[inline(always)]
    pub const fn expiry_ns(self) -> u64 {
        self.0 >> 16 << UNIT_SHIFT
    }
    /// Is it for this claim version?
    #[inline(always)]
    pub const fn is_for(self, cv: u64) -> bool {
        self.0 & 0xffff == cv & 0xffff
    }
    /// Does it hold at `now`?
    #[inline(always)]
    pub const fn holds(self, now: u64) -> bool {
        now < self.expiry_ns()
    }
}

/// A set in shared memory. Not atomic as a whole: its version is written last and read first.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SetCell(pub [Cell64; 4]);

impl SetCell {
    /// The set now.
    #[inline(always)]
    pub fn load(&self) -> Set {
        Set([
            self.0[0].load(),
            self.0[1].load(),
            self.0[2].load(),
            self.0[3].load(),
        ])
    }
    /// Writes the set, word by word.
    #[inline(always)]
    pub fn store(&self, s: Set) {
        self.0[0].store(s.0[0]);
        self.0[1].store(s.0[1]);
        self.0[2].store(s.0[2]);
        self.0[3].store(s.0[3]);
    }
    /// Takes groups out, by compare-and-swap; true if that was certainly done.
    #[inline(always)]
    pub fn remove(&self, s: Set) -> bool {
        let mut ok = true;
        let mut i = 0;
        while i < 4 {
            if s.0[i] != 0 {
                let mut tries = 0;
                let mut done = false;
                while tries < 8 && !done {
                    let old = self.0[i].load();
                    done = self.0[i].cas(old, old & !s.0[i]);
                    tries += 1;
                }
                ok &= done;
            }
            i += 1;
        }
        ok
    }
    /// Adds groups, by compare-and-swap (agent only).
    pub fn insert(&self, s: Set) {
        for (cell, bits) in self.0.iter().zip(s.0) {
            loop {
                let old = cell.load();
                if old | bits == old || cell.cas(old, old | bits) {
                    break;
                }
            }
        }
    }
}

/// A claim that this voter granted: a version and its set. Version 0 is none.
#[repr(C)]
#[derive(Debug, Default)]
pub struct ClaimCell {
    /// Claim version; written last when the claim is entered, first when it is taken out.
    pub cv: Cell64,
    /// Its set.
    pub set: SetCell,
}

/// What a node keeps about one other node.
#[repr(C)]
#[derive(Debug, Default)]
pub struct PeerCell {
    /// *both*: the [`PromiseWord`].
    pub word: Cell64,
    /// The incarnation that the promise is for; 0 is none.
    pub incarnation: Cell64,
    /// The running claim and the asked-for one.
    pub claim: [ClaimCell; 2],
    /// A closed entry reopens only for this claim version or a higher one (rule 7).
    pub min_cv: Cell64,
    /// *both*: the highest boot clock seen of this incarnation.
    pub hi_clock: Cell64,
    /// *both*: replay windows per link: highest sequence (40 bits) and the 24 before it.
    pub replay: [Cell64; MAX_LINKS],
    /// *kernel*: when a heartbeat last arrived, per link (this node's boot clock).
    pub heard: [Cell64; MAX_LINKS],
    /// *kernel*: when an ack last arrived.
    pub acked: Cell64,
    /// *kernel*: round trip of that ack, ns.
    pub rtt: Cell64,
    /// *kernel*: what its last heartbeat said: digest (high half) and generation.
    pub seen_config: Cell64,
    /// *kernel*: claim version of its last heartbeat.
    pub seen_cv: Cell64,
    /// *kernel*: epoch of its last heartbeat.
    pub seen_epoch: Cell64,
    /// *kernel*: the set of its last heartbeat. For people and placement; never for safety.
    pub seen_set: SetCell,
    /// *kernel*: of its last heartbeat: flags (low byte), version (next byte), and 16 bits each: id of the key that signed
    /// it, id of the other key that its sender accepts (both 0 if it names none).
    pub seen_flags: Cell64,
    /// *kernel*: incarnation of its last heartbeat.
    pub seen_incarnation: Cell64,
}

/// Counting acks of one heartbeat.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Slot {
    /// *both*: low half of the sequence (high 32 bits) and voters (low 32 bits).
    pub word: Cell64,
    /// Send time of the heartbeat, ns.
    pub sent: Cell64,
    /// Lease that a majority gives, counted from `sent`, ns.
    pub lease: Cell64,
    /// Claim version that it carried.
    pub cv: Cell64,
}

/// The whole table.
#[repr(C)]
#[derive(Debug)]
pub struct Shared {
    /// [`LAYOUT`], written last when the table is made.
    pub layout: Cell64,
    /// This node's incarnation: wall-clock ns when the table was made, so that it only grows (rule 4).
    pub incarnation: Cell64,
    /// Boot clock before which this node neither acks nor grants (rule 1).
    pub vote_after: Cell64,
    /// *both*: set to 1 when voting must stop: this node's id was heard from another incarnation (rule 11).
    pub halted: Cell64,
    /// This node's id.
    pub id: Cell64,
    /// Hash of the cluster's name.
    pub cluster: Cell64,
    /// Configuration generation.
    pub generation: Cell64,
    /// Configuration digest.
    pub digest: Cell64,
    /// UDP port of heartbeats.
    pub port: Cell64,
    /// `max_promise`, ns.
    pub max_promise: Cell64,
    /// Voters of this generation, one bit each.
    pub voters: Cell64,
    /// How many of them are a majority.
    pub majority: Cell64,
    /// *both*: the [`LeaseWord`].
    pub lease: Cell64,
    /// Claim version that runs.
    pub run_cv: Cell64,
    /// Groups of that version.
    pub run_set: SetCell,
    /// *both*: the gate bits: groups whose VIP traffic may pass while the lease holds.
    pub gate: SetCell,
    /// Epoch of the newest gain.
    pub epoch: Cell64,
    /// Highest claim version ever used; stored before a message with it leaves (rule 3).
    pub cv_max: Cell64,
    /// Last message sequence used; stored before the message leaves.
    pub seq: Cell64,
    /// Highest epoch seen anywhere.
    pub epoch_max: Cell64,
    /// Until when a planned pause holds the long promise; 0 is none.
    pub pause_until: Cell64,
    /// Epoch of this node's last gain of each group.
    pub group_epoch: [Cell64; MAX_GROUPS],
    /// Acks in flight.
    pub slots: [Slot; SLOTS],
    /// The other nodes, by id - 1.
    pub peers: [PeerCell; MAX_NODES],
}

// The layout has changed? Raise LAYOUT, so that no agent adopts a table that it would misread.
const _: () = assert!(size_of::<Shared>() == SHARED_SIZE);

impl Default for Shared {
    fn default() -> Self {
        Shared {
            layout: Cell64::default(),
            incarnation: Cell64::default(),
            vote_after: Cell64::default(),
            halted: Cell64::default(),
            id: Cell64::default(),
            cluster: Cell64::default(),
            generation: Cell64::default(),
            digest: Cell64::default(),
            port: Cell64::default(),
            max_promise: Cell64::default(),
            voters: Cell64::default(),
            majority: Cell64::default(),
            lease: Cell64::default(),
            run_cv: Cell64::default(),
            run_set: SetCell::default(),
            gate: SetCell::default(),
            epoch: Cell64::default(),
            cv_max: Cell64::default(),
            seq: Cell64::default(),
            epoch_max: Cell64::default(),
            pause_until: Cell64::default(),
            group_epoch: core::array::from_fn(|_| Cell64::default()),
            slots: core::array::from_fn(|_| Slot::default()),
            peers: core::array::from_fn(|_| PeerCell::default()),
        }
    }
}

#[cfg(feature = "broken-rules")]
impl Shared {
    /// Words of the table.
    pub const WORDS: usize = SHARED_SIZE / 8;

    /// The table as words, for the model checker and for rollbacks in the simulator.
    pub fn cells(&self) -> &[Cell64; Self::WORDS] {
        // SAFETY: repr(C), made of Cell64 alone (the size is asserted above), and Cell64 is repr(transparent).
        unsafe { &*(self as *const Shared as *const [Cell64; Self::WORDS]) }
    }
}

impl Shared {
    /// The peer with this id; ids outside 1 to 32 give some peer, so check them before.
    #[inline(always)]
    pub fn peer(&self, id: u8) -> &PeerCell {
        &self.peers[(id.wrapping_sub(1) & 31) as usize]
    }
    /// The ack slot of a sequence.
    #[inline(always)]
    pub fn slot(&self, seq: u64) -> &Slot {
        &self.slots[(seq & (SLOTS as u64 - 1)) as usize]
    }
    /// The lease now.
    #[inline(always)]
    pub fn lease(&self) -> LeaseWord {
        LeaseWord(self.lease.load_ordered())
    }
    /// May this node vote at `now`? (rule 1, rule 11)
    #[inline(always)]
    pub fn votes(&self, now: u64) -> bool {
        self.halted.load() == 0 && now >= self.vote_after.load()
    }
    /// May VIP traffic of `group` pass at `now`?
    #[inline(always)]
    pub fn gate_open(&self, group: u8, now: u64) -> bool {
        let word = self.gate.0[((group >> 6) & 3) as usize].load();
        word >> (group & 63) & 1 == 1 && self.lease().holds(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_promise_never_ends_early_and_a_lease_never_late(ns in 0u64..1 << 57, cv: u64, generation: u64) {
            let p = PromiseWord::open(ns, generation);
            proptest::prop_assert!(p.expiry_ns() > ns && p.expiry_ns() <= ns + 1024 && !p.is_closed());
            proptest::prop_assert_eq!(p.generation(), generation & 0x7fff);
            let l = LeaseWord::until(ns, cv);
            proptest::prop_assert!(l.expiry_ns() <= ns && l.is_for(cv));
            proptest::prop_assert!(PromiseWord::closed(generation).is_closed());
            proptest::prop_assert!(!PromiseWord::closed(generation).stands(0));
        }
    }

    #[test]
    fn sets_in_shared_memory_add_and_remove() {
        let c = SetCell::default();
        c.insert(Set::of(3).with(200));
        assert!(c.remove(Set::of(3)));
        assert_eq!(c.load(), Set::of(200));
    }
}
