//! Frames for a group that is on its way to another node are kept for user space, which sends them after it.

use agent_common::{
    held::{HELD_MAX, Held, Taker},
    record::AddressKey,
};
use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_boot_ns, programs::XdpContext};

use crate::{heartbeat, maps, packet};

/// Is the group in the low byte on its way? Then the time.
#[inline(always)]
pub fn on(group: u32) -> Option<u64> {
    let until = maps::hold_until(group);
    if until == 0 {
        return None;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    (now < until).then_some(now)
}

/// Keeps a frame. It goes no further here; a full ring or a long frame loses it, as if nothing had been held.
#[inline(always)]
pub fn keep(ctx: &XdpContext, group: u32, address: &AddressKey, now: u64) -> u32 {
    let length = ctx.data_end() - ctx.data();
    if length <= HELD_MAX
        && let Some(mut room) = maps::held::<Held>()
    {
        let held = room.as_mut_ptr();
        // SAFETY: the reservation has the size of a Held; the fields that are read are written before it is submitted.
        unsafe {
            (*held).now = now;
            (*held).ifindex = heartbeat::ifindex(ctx);
            (*held).address = *address;
            (*held).group = group as u8;
            (*held).pad = 0;
            copy(ctx, length, held);
            (*held).length = length as u16;
        }
        room.submit(0);
    }
    xdp_action::XDP_DROP
}

/// Bytes that are copied at once.
const STEP: usize = 8;

/// Copies the frame, of this length.
///
/// # Safety
/// `held` is a reservation.
#[inline(always)]
unsafe fn copy(ctx: &XdpContext, length: usize, held: *mut Held) {
    // SAFETY: inside the reservation.
    let (to, note) = unsafe {
        (
            core::ptr::addr_of_mut!((*held).frame) as *mut u8,
            core::ptr::addr_of_mut!((*held).length),
        )
    };
    let mut i = 0;
    while i + STEP <= HELD_MAX {
        let Ok(from) = packet::at::<[u8; STEP]>(ctx, i) else {
            break;
        };
        // SAFETY: bounds checked by at() and by the loop.
        unsafe { core::ptr::write_volatile(to.add(i) as *mut [u8; STEP], *from) };
        i += STEP;
    }
    // What is left over, with some bytes before it once more. Its place goes through memory: else the compiler counts it from
    // the end of the packet, which the verifier does not follow.
    // SAFETY: inside the reservation.
    let last = unsafe {
        core::ptr::write_volatile(note, length.wrapping_sub(STEP) as u16);
        core::ptr::read_volatile(note) as usize
    };
    if last <= HELD_MAX - STEP
        && let Ok(from) = packet::at::<[u8; STEP]>(ctx, last)
    {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(to.add(last) as *mut [u8; STEP], *from) };
    }
}

/// Somebody else announces an address of the group: what was held has a destination.
#[inline(always)]
pub fn taken(ctx: &XdpContext, group: u32, address: &AddressKey, now: u64) {
    let Ok(mac) = packet::at::<[u8; 6]>(ctx, 6) else {
        return;
    };
    if let Some(mut room) = maps::held::<Taker>() {
        let taker = room.as_mut_ptr();
        // SAFETY: as in keep(); bounds checked by at().
        unsafe {
            (*taker).now = now;
            (*taker).ifindex = heartbeat::ifindex(ctx);
            (*taker).address = *address;
            (*taker).group = group as u8;
            (*taker).pad = [0; 5];
            (*taker).mac = *mac;
        }
        room.submit(0);
    }
}
