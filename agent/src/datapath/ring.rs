//! The ring buffer of records from the kernel.

use std::os::fd::{AsRawFd, RawFd};

use agent_common::record::Record;
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
