//! The shared table, mapped into the agent.

use std::{
    io,
    ops::Deref,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
};

use agent_common::state::Shared;

/// The `STATE` map's value, mmapped read-write. Dereferences to [`Shared`]; stays mapped until the process ends, because
/// threads hold references to it.
#[derive(Clone, Copy)]
pub struct Table(&'static Shared);

impl Table {
    /// Maps the value of a memory-mappable array with one element of type [`Shared`].
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Table> {
        let page = 4096;
        let len = size_of::<Shared>().next_multiple_of(page);
        // SAFETY: a fresh shared mapping of a map fd; the kernel checks the length against the map's size.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let p = NonNull::new(p.cast::<Shared>())
            .ok_or_else(|| io::Error::other("mmap gave a null pointer"))?;
        // SAFETY: page-aligned, big enough, zero-initialised or written by us; Shared consists of atomic words only.
        Ok(Table(unsafe { p.as_ref() }))
    }

    /// The table itself.
    pub fn shared(&self) -> &'static Shared {
        self.0
    }
}

impl Deref for Table {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        self.0
    }
}
