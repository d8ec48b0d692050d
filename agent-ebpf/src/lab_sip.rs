//! What the heartbeat's cryptography costs, for `cargo xtask bench xdp`: the same datagram verified and signed by two
//! programs. The frame is Ethernet, IPv4 without options, UDP, 13 words, their MAC, and room for another MAC.

use agent_common::siphash::{Key, Sip, siphash24};
use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::Array,
    programs::XdpContext,
};

/// Words that are verified: as many as a short heartbeat signs, 104 bytes.
const WORDS: usize = 13;
/// Words that are signed: as many as a short ack signs.
const ACK_WORDS: usize = 10;
const PAYLOAD: usize = 14 + 20 + 8;

#[map]
static LAB_KEY: Array<[u64; 2]> = Array::with_max_entries(1, 0);

#[inline(always)]
fn key() -> Option<Key> {
    let k = LAB_KEY.get(0)?;
    Some(Key(k[0], k[1]))
}

#[inline(always)]
fn payload(ctx: &XdpContext) -> Option<usize> {
    let start = ctx.data() + PAYLOAD;
    (start + (WORDS + 2) * 8 <= ctx.data_end()).then_some(start)
}

/// A word as plain Rust reads it from a packet, whose alignment it does not know: byte by byte.
#[inline(always)]
fn bytes(at: usize) -> u64 {
    // SAFETY: payload() checked the bounds.
    u64::from_le_bytes(unsafe { *(at as *const [u8; 8]) })
}

#[inline(always)]
fn naive(ctx: &XdpContext) -> Option<bool> {
    let (at, key) = (payload(ctx)?, key()?);
    let mut words = [0; WORDS];
    let mut i = 0;
    while i < WORDS {
        words[i] = bytes(at + i * 8);
        i += 1;
    }
    if siphash24(key, &words) != bytes(at + WORDS * 8) {
        return Some(false);
    }
    // The answer is as long, and is read back from the packet to be signed.
    i = 0;
    while i < WORDS {
        words[i] = bytes(at + i * 8);
        i += 1;
    }
    let mac = siphash24(key, &words).to_le_bytes();
    // SAFETY: payload() checked the bounds.
    unsafe { *((at + WORDS * 8) as *mut [u8; 8]) = mac };
    Some(true)
}

/// Verifies 104 bytes and signs 104, as one writes it down first.
#[xdp]
pub fn lab_naive(ctx: XdpContext) -> u32 {
    action(naive(&ctx))
}

#[inline(always)]
fn alike(ctx: &XdpContext) -> Option<bool> {
    let (at, key) = (payload(ctx)?, key()?);
    let words = at as *mut u64;
    let mut hash = Sip::new(key);
    let mut i = 0;
    while i < WORDS {
        // SAFETY: payload() checked the bounds; BPF loads words at any alignment.
        hash.word(unsafe { core::ptr::read_volatile(words.add(i)) });
        i += 1;
    }
    // SAFETY: as above.
    if hash.finish(WORDS) != unsafe { core::ptr::read_volatile(words.add(WORDS)) } {
        return Some(false);
    }
    let mut hash = Sip::new(key);
    i = 0;
    while i < ACK_WORDS {
        // SAFETY: as above.
        hash.word(unsafe { core::ptr::read_volatile(words.add(i)) });
        i += 1;
    }
    // Beside the other MAC, so that the frame can be verified again.
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(words.add(WORDS + 1), hash.finish(ACK_WORDS)) };
    Some(true)
}

/// Verifies and signs as the agent's program does: whole words, hashed as they are read, and a shorter answer.
#[xdp]
pub fn lab_alike(ctx: XdpContext) -> u32 {
    action(alike(&ctx))
}

/// Does nothing: what the measurement itself costs.
#[xdp]
pub fn lab_nothing(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

#[inline(always)]
fn action(good: Option<bool>) -> u32 {
    match good {
        Some(true) => xdp_action::XDP_TX,
        Some(false) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_ABORTED,
    }
}
