//! The maps. All but the scratch space are pinned, so that promises, leases and the gate outlive the agent.

use agent_common::{
    MAX_GROUPS, MAX_NODES,
    keys::Keys,
    record::{AddressKey, COUNTER_COUNT, Counter, Record, RecordKind, VMAC_PREFIX},
    state::{LAYOUT, Shared},
    wire::Message,
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};

/// Lets user space mmap an array (linux/bpf.h: BPF_F_MMAPABLE).
const MMAPABLE: u32 = 1 << 10;

#[map]
static STATE: Array<Shared> = Array::pinned(1, MMAPABLE);

/// The cluster's keys, apart from STATE so that a dump of that one may be shown around. (KEY held a single one.)
#[map]
static KEYS: Array<Keys> = Array::pinned(1, 0);

/// VIP -> group, and whether it is a gateway. Twice what a configuration may have: a reload gates the new ones before it
/// lets go of the old.
#[map]
static VIPS: HashMap<AddressKey, u32> = HashMap::pinned(8192, 0);

/// Virtual MAC -> group. The key is padded to 8 bytes.
#[map]
static VMACS: HashMap<[u8; 8], u32> = HashMap::pinned(256, 0);

/// This node's link addresses -> link index: heartbeats to any other address are not ours.
#[map]
static LINKS: HashMap<AddressKey, u32> = HashMap::pinned(64, 0);

#[map]
static EVENTS: RingBuf = RingBuf::pinned(256 * 1024, 0);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(COUNTER_COUNT, 0);

/// When each of [`Seldom`] was last reported, boot ns.
#[map]
static TOLD: Array<u64> = Array::with_max_entries(TOLD_SLOTS, 0);

/// Until when (boot ns) frames for a group's addresses are held; 0: they are not.
#[map]
static HOLD: Array<u64> = Array::with_max_entries(MAX_GROUPS as u32, 0);

/// What was held, and who has taken over ([`agent_common::held`]): some 80 frames, and user space takes them out at once. All of
/// it counts twice as the agent's memory.
#[map]
static HELD: RingBuf = RingBuf::with_byte_size(128 * 1024, 0);

#[map]
static SCRATCH: PerCpuArray<Message> = PerCpuArray::with_max_entries(1, 0);

/// The shared table, once the agent has filled it in.
#[inline(always)]
pub fn state() -> Option<&'static Shared> {
    // SAFETY: an array value lives as long as the program; Shared is made for concurrent use.
    let sh = unsafe { &*STATE.get_ptr(0)? };
    if sh.layout.load() == LAYOUT {
        Some(sh)
    } else {
        None
    }
}

/// The cluster's keys.
#[inline(always)]
pub fn keys() -> Option<&'static Keys> {
    KEYS.get(0)
}

/// The group of a virtual MAC. Other frames are told by their first byte, and cost no look-up.
#[inline(always)]
pub fn vmac(m: &[u8; 6]) -> Option<u32> {
    if m[0] != VMAC_PREFIX {
        return None;
    }
    let key = [m[0], m[1], m[2], m[3], m[4], m[5], 0, 0];
    // SAFETY: as below.
    unsafe { VMACS.get(key) }.copied()
}

/// Until when frames for the group in the low byte are held, boot ns.
#[inline(always)]
pub fn hold_until(group: u32) -> u64 {
    HOLD.get(group & 0xff).copied().unwrap_or(0)
}

/// Room for something that is held.
#[inline(always)]
pub fn held<T: 'static>() -> Option<aya_ebpf::maps::ring_buf::RingBufEntry<T>> {
    let room = HELD.reserve::<T>(0);
    if room.is_none() {
        count(Counter::RingFull);
    }
    room
}

/// The group of a VIP, and [`agent_common::record::VIP_GATEWAY`].
#[inline(always)]
pub fn vip(a: &AddressKey) -> Option<u32> {
    // SAFETY: the value is copied at once; user space replaces elements, never reuses them in place.
    unsafe { VIPS.get(a) }.copied()
}

/// Is this one of our link addresses?
#[inline(always)]
pub fn is_link(a: &AddressKey) -> bool {
    // SAFETY: as above.
    unsafe { LINKS.get(a) }.is_some()
}

/// This CPU's scratch message.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Message> {
    // SAFETY: per CPU, and XDP runs to its end on one CPU.
    unsafe { Some(&mut *SCRATCH.get_ptr_mut(0)?) }
}

/// What anybody on the network can cause as often as he likes: each is reported at most every [`SELDOM`], and counted
/// always. A flood of it would keep the agent busy, and leave no room in the ring for what honest nodes say.
pub enum Seldom {
    /// Words of a node (its id) from its past.
    Past(u8),
    /// Our own id from elsewhere.
    Duplicate,
    /// Somebody else claims an address of a group; IPv4 and IPv6 apart.
    Claim(u8, bool),
}

/// 100 ms: as often as the agent announces again when asked to.
const SELDOM: u64 = 100_000_000;
const CLAIMS: u32 = MAX_NODES as u32 + 1;
const TOLD_SLOTS: u32 = CLAIMS + 2 * MAX_GROUPS as u32;

/// Is it time to report this again? Two CPUs at once may both find so.
#[inline(always)]
pub fn seldom(what: Seldom, now: u64) -> bool {
    let slot = match what {
        Seldom::Past(id) => (id as u32).wrapping_sub(1) & (MAX_NODES as u32 - 1),
        Seldom::Duplicate => MAX_NODES as u32,
        Seldom::Claim(group, v4) => CLAIMS + 2 * group as u32 + v4 as u32,
    };
    let Some(last) = TOLD.get_ptr_mut(slot) else {
        return true;
    };
    // SAFETY: an array value; volatile, as other CPUs write it.
    unsafe {
        if now < core::ptr::read_volatile(last).wrapping_add(SELDOM) {
            return false;
        }
        core::ptr::write_volatile(last, now);
    }
    true
}

/// Counts one.
#[inline(always)]
pub fn count(c: Counter) {
    if let Some(p) = COUNTERS.get_ptr_mut(c as u32) {
        // SAFETY: per CPU.
        unsafe { *p += 1 };
    }
}

/// Reports to user space; a full ring loses the record and counts it, never blocks.
#[inline(always)]
pub fn report(kind: RecordKind, ifindex: u32, now: u64, message: &Message) {
    match EVENTS.reserve::<Record>(0) {
        Some(mut slot) => {
            let r = slot.as_mut_ptr();
            // SAFETY: the reservation has the size of a Record; each field is written before it is submitted.
            unsafe {
                (*r).kind = kind as u32;
                (*r).ifindex = ifindex;
                (*r).now = now;
                let from = message.words();
                let to = core::ptr::addr_of_mut!((*r).message) as *mut u64;
                let mut i = 0;
                while i < from.len() {
                    core::ptr::write_volatile(to.add(i), from[i]);
                    i += 1;
                }
            }
            slot.submit(0);
            count(Counter::ToUser);
        }
        None => count(Counter::RingFull),
    }
}
