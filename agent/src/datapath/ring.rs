//! The ring buffers from the kernel: records, and frames that were held.

use std::os::fd::{AsRawFd, RawFd};

use agent_common::{
    held::{Held, Taker},
    record::Record,
};
use aya::maps::{MapData, RingBuf};

/// Reads [`Record`]s; poll its descriptor for readability.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    pub(super) fn new(map: RingBuf<MapData>) -> Ring {
        Ring(map)
    }

    /// The next record, if one is there. One of another size (another version's program) is skipped.
    pub fn pop(&mut self) -> Option<Record> {
        loop {
            let item = self.0.next()?;
            let bytes: &[u8] = &item;
            if bytes.len() == size_of::<Record>() {
                // SAFETY: the size is right, every bit pattern is a valid Record, the read is unaligned.
                return Some(unsafe { bytes.as_ptr().cast::<Record>().read_unaligned() });
            }
        }
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What a [`HeldRing`] gives.
// A frame is read once and kept as a slice of its length.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack, for a moment"
)]
pub enum HeldItem {
    /// A frame for a VIP that is on its way.
    Frame(Held),
    /// Who has taken over.
    Taker(Taker),
}

/// Reads [`Held`]s and [`Taker`]s; poll its descriptor for readability.
pub struct HeldRing(RingBuf<MapData>);

impl HeldRing {
    pub(super) fn new(map: RingBuf<MapData>) -> HeldRing {
        HeldRing(map)
    }

    /// The next item, if one is there; they are told apart by their sizes.
    pub fn pop(&mut self) -> Option<HeldItem> {
        loop {
            let item = self.0.next()?;
            let bytes: &[u8] = &item;
            // SAFETY: the sizes are right, every bit pattern is valid, the reads are unaligned.
            unsafe {
                if bytes.len() == size_of::<Held>() {
                    return Some(HeldItem::Frame(
                        bytes.as_ptr().cast::<Held>().read_unaligned(),
                    ));
                }
                if bytes.len() == size_of::<Taker>() {
                    return Some(HeldItem::Taker(
                        bytes.as_ptr().cast::<Taker>().read_unaligned(),
                    ));
                }
            }
        }
    }
}

impl AsRawFd for HeldRing {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
