//! What surrounds the programs: the maps of one node, filled and read as user space does.

use agent_common::{
    keys::Keys,
    record::{AddressKey, COUNTER_COUNT, COUNTERS, Record},
    state::Shared,
};
use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    helpers,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::{TcContext, XdpContext, XdpMd},
};

use crate::{egress, ingress, packet};

// The statics of maps.rs are private; `#[map]` exports them under these names for the loader.
unsafe extern "Rust" {
    static STATE: Array<Shared>;
    static KEYS: Array<Keys>;
    static VIPS: HashMap<AddressKey, u32>;
    static VMACS: HashMap<[u8; 8], u32>;
    static LINKS: HashMap<AddressKey, u32>;
    static EVENTS: RingBuf;
    #[link_name = "COUNTERS"]
    static COUNTERS_MAP: PerCpuArray<u64>;
}

/// What user space writes into the maps beside the table, as it stands there.
#[derive(Debug, Default)]
pub struct Maps {
    /// Both keys.
    pub keys: Keys,
    /// VIP to group and `VIP_GATEWAY`.
    pub vips: Vec<(AddressKey, u32)>,
    /// Virtual MAC (and two zeros) to group.
    pub vmacs: Vec<([u8; 8], u32)>,
    /// Link address to index.
    pub links: Vec<(AddressKey, u32)>,
}

/// The node of this thread. There is one per thread: making another empties it.
#[derive(Debug)]
pub struct Node {
    // Not to be sent to another thread: its maps stay.
    here: std::marker::PhantomData<*const ()>,
}

impl Node {
    /// A node with an empty table: nothing is identified, so VIPs are shut.
    pub fn new(maps: Maps) -> Node {
        let node = Node {
            here: std::marker::PhantomData,
        };
        node.copy_table(&Shared::default());
        // SAFETY: the statics are those of maps.rs, of these types.
        unsafe {
            if let Some(slot) = KEYS.get_ptr_mut(0) {
                *slot = maps.keys;
            }
            VIPS.fill(maps.vips);
            VMACS.fill(maps.vmacs);
            LINKS.fill(maps.links);
        }
        node.counters();
        while node.record().is_some() {}
        node
    }

    /// The table, which the programs read and change.
    ///
    /// # Panics
    /// Never: the map has one element.
    pub fn table(&self) -> &Shared {
        // SAFETY: as in new(); zero is a Shared.
        unsafe { STATE.get(0) }.expect("the map has one element")
    }

    /// Takes over every word of another table.
    pub fn copy_table(&self, from: &Shared) {
        const WORDS: usize = size_of::<Shared>() / 8;
        use agent_common::cell::Cell64;
        // SAFETY: Shared is made of Cell64 alone (repr(C), repr(transparent)).
        let (from, to) = unsafe {
            (
                &*(from as *const Shared as *const [Cell64; WORDS]),
                &*(self.table() as *const Shared as *const [Cell64; WORDS]),
            )
        };
        for (from, to) in from.iter().zip(to) {
            to.store(from.load());
        }
    }

    /// Runs the XDP program at `now` (boot clock, ns) on a frame that arrived on `ifindex`; it may change the frame.
    pub fn xdp(&self, frame: &mut [u8], ifindex: u32, now: u64) -> u32 {
        helpers::set_boot_ns(now);
        let md = XdpMd {
            ingress_ifindex: ifindex,
        };
        // The program reads the words of a message wherever they lie, as BPF may; here they must lie straight.
        let skew = skew(frame);
        let mut room = vec![0u64; (skew + frame.len()).div_ceil(8)];
        // SAFETY: the same bytes.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), room.len() * 8) };
        let place: &mut [u8] = &mut bytes[skew..skew + frame.len()];
        place.copy_from_slice(frame);
        // As `heartline_xdp` in main.rs, which cannot be compiled here.
        let action = match ingress::handle(&XdpContext::over(place, &md)) {
            Ok(action) => action,
            Err(packet::Short) => xdp_action::XDP_PASS,
        };
        frame.copy_from_slice(place);
        action
    }

    /// Runs the egress program on a frame; it may change the frame.
    pub fn egress(&self, frame: &mut [u8], now: u64) -> i32 {
        helpers::set_boot_ns(now);
        let ctx = TcContext::over(frame);
        // As `heartline_egress` in main.rs.
        let action = egress::handle(&ctx).unwrap_or(TC_ACT_UNSPEC);
        frame.copy_from_slice(&ctx.into_frame());
        action
    }

    /// What was counted since the last call, without the zeros.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        (0..COUNTER_COUNT)
            .zip(COUNTERS)
            .filter_map(|(i, (_, name))| {
                // SAFETY: as in new(); this thread alone has the element.
                let slot = unsafe { &mut *COUNTERS_MAP.get_ptr_mut(i)? };
                let n = std::mem::take(slot);
                (n != 0).then_some((*name, n))
            })
            .collect()
    }

    /// The oldest record in the ring buffer.
    pub fn record(&self) -> Option<Record> {
        // SAFETY: as in new().
        let bytes = unsafe { EVENTS.pop() }?;
        let bytes: &[u8; size_of::<Record>()] = bytes.as_slice().try_into().ok()?;
        // SAFETY: a Record is integers without padding, and as long.
        Some(unsafe { std::mem::transmute_copy::<_, Record>(bytes) })
    }
}

/// How far from a word's border a frame must begin, so that a message in it begins on one.
fn skew(frame: &[u8]) -> usize {
    let mut l3 = packet::ETH_LEN;
    let kind = |at: usize| {
        frame
            .get(at..at + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
    };
    while kind(l3 - 2).is_some_and(packet::is_tag) {
        l3 += 4;
    }
    let header = match kind(l3 - 2) {
        Some(packet::ETH_IPV6) => packet::IPV6_LEN,
        _ => packet::IPV4_LEN,
    };
    (8 - (l3 + header + packet::UDP_LEN) % 8) % 8
}
