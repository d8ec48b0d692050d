//! A port of the lab's switch: passes frames, or drops them as `LAB_CUT` says.
//!
//! A cut here is silent: neither side loses its carrier. One map entry cuts both directions at the
//! same instant, because both programs read the same entry. The XDP program is needed in any case:
//! what a node sends by XDP_TX arrives only if the peer of its veth runs an XDP program too.

use aya_ebpf::{
    bindings::{TC_ACT_PIPE, TC_ACT_SHOT, xdp_action},
    macros::{classifier, map, xdp},
    maps::HashMap,
    programs::{TcContext, XdpContext},
};

use crate::lab_map::{CUT_FROM, CUT_NEVER, CUT_TO, LabCutKey};

#[map]
static LAB_CUT: HashMap<LabCutKey, u8> = HashMap::with_max_entries(4096, 0);

/// What holds for frames between the node on this port and that station.
#[inline(always)]
fn bits(ifindex: u32, mac: [u8; 6]) -> u8 {
    let mut key = LabCutKey {
        ifindex,
        mac,
        pad: [0; 2],
    };
    // SAFETY: the value is one byte, copied at once; a concurrent update is seen before or after.
    let own = unsafe { LAB_CUT.get(&key) }.map_or(0, |bits| *bits);
    if own & CUT_NEVER != 0 {
        return 0;
    }
    key.mac = [0; 6];
    // SAFETY: as above.
    own | unsafe { LAB_CUT.get(&key) }.map_or(0, |bits| *bits)
}

/// Frames from the node.
#[xdp]
pub fn lab_port(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + 14 > ctx.data_end() {
        return xdp_action::XDP_PASS;
    }
    let mut dst = [0u8; 6];
    let mut i = 0;
    while i < 6 {
        // SAFETY: the 14 bytes of the Ethernet header lie within the frame, checked above.
        dst[i] = unsafe { core::ptr::read_volatile((start + i) as *const u8) };
        i += 1;
    }
    // SAFETY: the kernel hands a valid context to the program.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    if bits(ifindex, dst) & CUT_FROM != 0 {
        xdp_action::XDP_DROP
    } else {
        xdp_action::XDP_PASS
    }
}

/// Frames to the node.
#[classifier]
pub fn lab_port_out(ctx: TcContext) -> i32 {
    let Ok(src) = ctx.load::<[u8; 6]>(6) else {
        return TC_ACT_PIPE;
    };
    // SAFETY: the kernel hands a valid context to the program.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if bits(ifindex, src) & CUT_TO != 0 {
        TC_ACT_SHOT
    } else {
        TC_ACT_PIPE
    }
}
