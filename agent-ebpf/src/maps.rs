//! The maps. All but the scratch space are pinned, so that promises, leases and the gate outlive the agent.

use agent_common::{
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

/// VIP -> group, and whether it is a gateway.
#[map]
static VIPS: HashMap<AddressKey, u32> = HashMap::pinned(4096, 0);

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
    unsafe { VMACS.get(&key) }.copied()
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
