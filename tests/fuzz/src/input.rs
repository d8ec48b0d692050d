//! Bytes to messages: half of each right, half of it anything, so that they get past the first check.

use agent_common::{
    Set,
    wire::{self, Message},
};
use arbitrary::{Arbitrary, Result, Unstructured};

/// The ids, versions and times that both sides of a target use.
pub const ME: u8 = 1;
pub const CLUSTER: u32 = 9;
pub const GENERATION: u32 = 7;
pub const MAX_PROMISE_MS: u32 = 10_000;
pub const MY_INCARNATION: u64 = 500;
pub const PEER_INCARNATION: u64 = 1_000;
pub const CV: u64 = 77;

/// One of the good values, or now and then any.
fn pick<'a, T: Arbitrary<'a> + Copy>(u: &mut Unstructured<'a>, good: &[T]) -> Result<T> {
    let i = u8::arbitrary(u)?;
    match good.get(usize::from(i) % (good.len() + 1)) {
        Some(v) => Ok(*v),
        None => T::arbitrary(u),
    }
}

/// A set of few groups, or any.
pub fn set(u: &mut Unstructured<'_>) -> Result<Set> {
    Ok(match u8::arbitrary(u)? {
        i @ 0..=15 => Set::of(i & 3),
        i @ 16..=31 => Set::of(0).with(i & 7),
        32 => Set::EMPTY,
        33 => Set::of(200),
        34 => Set(<[u64; 4]>::arbitrary(u)?),
        i => Set([u64::from(i), 0, 0, 0]),
    })
}

/// A message that is not signed. `now` is the receiver's boot clock.
pub fn message(u: &mut Unstructured<'_>, now: u64) -> Result<Message> {
    let back = |ms: u64| now.wrapping_sub(ms * 1_000_000);
    Ok(Message {
        magic: pick(u, &[wire::MAGIC; 7])?,
        version: pick(u, &[wire::VERSION, wire::VERSION, wire::VERSION - 1])?,
        kind: pick(u, &[1, 1, 2, 3, 4, 5, 6])?,
        from: pick(u, &[2, 2, 3, 4, 5, ME])?,
        to: pick(u, &[0, 0, ME, ME, 3])?,
        link: u8::arbitrary(u)? & 0x87,
        flags: u8::arbitrary(u)?,
        cluster: pick(u, &[CLUSTER; 7])?,
        generation: pick(u, &[GENERATION, GENERATION, GENERATION, GENERATION + 1])?,
        digest: u32::from(u8::arbitrary(u)?),
        max_promise_ms: pick(u, &[MAX_PROMISE_MS; 7])?,
        incarnation: pick(
            u,
            &[
                PEER_INCARNATION,
                PEER_INCARNATION,
                PEER_INCARNATION + 1,
                PEER_INCARNATION - 1,
                MY_INCARNATION,
            ],
        )?,
        clock: pick(
            u,
            &[now, back(1), back(10), back(149), back(151), back(2_000)],
        )?,
        seq: pick(u, &[60, 61, 62, 63, 64, 65, 66, 100, 120])?,
        promise_us: pick(u, &[50_000, 50_000, 1, 0, 10_000_000, 10_000_001])?,
        key_id: u16::arbitrary(u)?,
        other_key: u16::arbitrary(u)?,
        cv: pick(u, &[CV, CV, CV + 1, CV - 1, 0])?,
        set: set(u)?,
        ask_cv: pick(u, &[0, 0, CV + 1, CV + 2, CV])?,
        ask_set: set(u)?,
        epoch: pick(u, &[0, 1, 50, 100])?,
        re_incarnation: pick(u, &[MY_INCARNATION, MY_INCARNATION, PEER_INCARNATION])?,
        re_seq: pick(u, &[60, 61, 62, 63, 64, 65])?,
        re_clock: pick(u, &[back(1), back(1), now, back(30)])?,
        soft: u64::arbitrary(u)?,
        soft_version: u64::from(u16::arbitrary(u)?),
        mac: 0,
    })
}

/// Some bytes that begin a run of a target whose inputs are made up of choices: there is no file of them to start from.
pub fn noise(count: usize, len: usize) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..count)
        .map(|_| {
            (0..len)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect()
        })
        .collect()
}
