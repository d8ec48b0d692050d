//! One heartbeat-port datagram: size, MAC, then the decision of agent-common; the ack goes back out by XDP_TX.

use agent_common::{
    kernel::{self, Verdict},
    record::{Counter, RecordKind},
    rules::Rules,
    state::Shared,
    wire::{Kind, LEN, Message, WORDS},
};
use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_boot_ns, programs::XdpContext};

use crate::{
    maps,
    packet::{self, Short, UDP_LEN},
};

/// The device that the frame arrived on.
#[inline(always)]
pub fn ifindex(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

/// Handles the datagram whose UDP header is at `l4`. It never reaches the stack.
#[inline(always)]
pub fn handle(ctx: &XdpContext, sh: &Shared, l3: usize, l4: usize, v6: bool) -> u32 {
    match verdict(ctx, sh, l3, l4, v6) {
        Ok(action) => action,
        Err(counter) => {
            maps::count(counter);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn verdict(ctx: &XdpContext, sh: &Shared, l3: usize, l4: usize, v6: bool) -> Result<u32, Counter> {
    let length = packet::be16(ctx, l4 + 4).map_err(|Short| Counter::Truncated)? as usize;
    if length < UDP_LEN + LEN {
        return Err(Counter::Truncated);
    }
    if length > UDP_LEN + LEN {
        return Err(Counter::Oversized);
    }
    let payload = packet::at::<[u64; WORDS]>(ctx, l4 + UDP_LEN)
        .map_err(|Short| Counter::Truncated)? as *mut u64;
    let m = maps::scratch().ok_or(Counter::NoState)?;
    load(payload, m);

    kernel::precheck(sh, m)?;
    let key = maps::key().ok_or(Counter::NoState)?;
    if m.expected_mac(key) != m.mac {
        return Err(Counter::Forged);
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let dev = ifindex(ctx);
    let ack = match kernel::on_message(sh, m, now, Rules::all()) {
        Verdict::Drop(c) => return Err(c),
        Verdict::Done => {
            maps::count(Counter::AcksIn);
            return Ok(xdp_action::XDP_DROP);
        }
        Verdict::Ack => true,
        Verdict::AckAndDeliver => {
            maps::report(RecordKind::Message, dev, now, m);
            true
        }
        Verdict::Deliver => {
            maps::report(RecordKind::Message, dev, now, m);
            false
        }
        Verdict::GateShut => {
            maps::report(RecordKind::GateShut, dev, now, m);
            false
        }
        Verdict::Duplicate => {
            if maps::seldom(maps::Seldom::Duplicate, now) {
                maps::report(RecordKind::DuplicateId, dev, now, m);
            }
            false
        }
        Verdict::Regression => {
            if maps::seldom(maps::Seldom::Past(m.from), now) {
                maps::report(RecordKind::Regression, dev, now, m);
            }
            return Err(Counter::Regressed);
        }
    };
    if m.kind == Kind::Heartbeat as u8 {
        maps::count(Counter::HeartbeatsIn);
    }
    if !ack {
        return Ok(xdp_action::XDP_DROP);
    }
    kernel::make_ack(sh, m, now);
    m.sign(key);
    bounce(ctx, m, l3, l4, v6).map_err(|Short| Counter::Truncated)?;
    maps::count(Counter::AcksOut);
    Ok(xdp_action::XDP_TX)
}

#[inline(always)]
fn load(from: *const u64, m: &mut Message) {
    let to = m as *mut Message as *mut u64;
    let mut i = 0;
    while i < WORDS {
        // SAFETY: the caller bounds-checked WORDS words; BPF loads packet words at any alignment on the architectures
        // that it is built for, and read_unaligned would be eight loads each.
        unsafe { core::ptr::write_volatile(to.add(i), core::ptr::read_volatile(from.add(i))) };
        i += 1;
    }
}

/// Writes the ack over the heartbeat and turns the frame around.
#[inline(always)]
fn bounce(ctx: &XdpContext, m: &Message, l3: usize, l4: usize, v6: bool) -> Result<(), Short> {
    let payload = packet::at::<[u64; WORDS]>(ctx, l4 + UDP_LEN)? as *mut u64;
    let words = m.words();
    let mut sum = 0u64;
    let mut i = 0;
    while i < WORDS {
        // SAFETY: bounds checked by at(); alignment as in load().
        unsafe { core::ptr::write_volatile(payload.add(i), words[i]) };
        sum = add(sum, words[i]);
        i += 1;
    }
    packet::swap::<6>(ctx, 0, 6)?;
    if v6 {
        packet::swap::<16>(ctx, l3 + 8, l3 + 24)?;
    } else {
        packet::swap::<4>(ctx, l3 + 12, l3 + 16)?;
    }
    packet::swap::<2>(ctx, l4, l4 + 2)?;
    let checksum = packet::at::<[u8; 2]>(ctx, l4 + 6)?;
    // IPv4 may leave the UDP checksum out (RFC 768), IPv6 may not (RFC 8200 section 8.1).
    let value = if v6 {
        let addresses = packet::at::<[u64; 4]>(ctx, l3 + 8)? as *const u64;
        let mut i = 0;
        while i < 4 {
            // SAFETY: bounds checked by at().
            sum = add(sum, unsafe { core::ptr::read_volatile(addresses.add(i)) });
            i += 1;
        }
        // SAFETY: bounds checked by at().
        let ports = unsafe { *packet::at::<[u8; 4]>(ctx, l4)? };
        sum = add(sum, u32::from_le_bytes(ports) as u64);
        // Length twice (pseudo header and UDP header) and the protocol, all in network order.
        let length = ((UDP_LEN + LEN) as u16).to_be() as u64;
        sum = add(
            sum,
            length + length + (packet::PROTO_UDP as u16).to_be() as u64,
        );
        match fold(sum) {
            0 => 0xffff,
            v => v,
        }
    } else {
        0
    };
    // SAFETY: bounds checked by at().
    unsafe { *checksum = value.to_le_bytes() };
    Ok(())
}

/// One's-complement addition of 64-bit words; 2^16 - 1 divides 2^64 - 1, so folding can wait.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let s = a.wrapping_add(b);
    s + (s < a) as u64
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let s = (sum & 0xffff_ffff) + (sum >> 32);
    let s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16);
    let s = (s & 0xffff) + (s >> 16);
    !(s as u16)
}
