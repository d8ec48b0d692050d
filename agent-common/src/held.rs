//! Frames for a VIP that is on its way to another node: the data path keeps them for user space, which sends them after it.
//!
//! A planned move has a moment in which nobody serves: the old owner has shut its gate, the new one is not announced yet, and
//! what arrives then at the old owner would be lost. It is held instead, for some milliseconds.

use crate::record::AddressKey;

/// Longest frame that is held, bytes. One that is longer is lost, as it would be without.
pub const HELD_MAX: usize = 1536;

/// A frame that was held.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Held {
    /// Boot clock at arrival, ns.
    pub now: u64,
    /// Device on which it arrived.
    pub ifindex: u32,
    /// The VIP that it is for.
    pub address: AddressKey,
    /// Its group.
    pub group: u8,
    /// Zero.
    pub pad: u8,
    /// How much of `frame` it is, bytes.
    pub length: u16,
    /// The frame; what is behind its end means nothing.
    pub frame: [u8; HELD_MAX],
}

/// Somebody else announced an address of a group whose frames are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Taker {
    /// Boot clock at arrival, ns.
    pub now: u64,
    /// Device on which it arrived.
    pub ifindex: u32,
    /// The VIP that was announced.
    pub address: AddressKey,
    /// Its group.
    pub group: u8,
    /// Zero.
    pub pad: [u8; 5],
    /// Hardware address that the announcement came from.
    pub mac: [u8; 6],
}
