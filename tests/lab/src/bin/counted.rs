//! The agent as it is, but each use of the heap asks the kernel something harmless first, so that a trace of its system
//! calls shows allocations too, in their place: `getppid` for memory that is taken, `geteuid` for memory that is given
//! back. For `tests/path.rs`; see `heartline_lab::strace`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    process::ExitCode,
};

struct Shown;

fn taken() {
    // SAFETY: no arguments; it cannot fail and leaves errno alone.
    let _ = unsafe { libc::getppid() };
}

fn given_back() {
    // SAFETY: as above.
    let _ = unsafe { libc::geteuid() };
}

// SAFETY: all is done by `System`, with the same arguments.
unsafe impl GlobalAlloc for Shown {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken();
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        taken();
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        given_back();
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static SHOWN: Shown = Shown;

fn main() -> ExitCode {
    heartline::cli::main()
}
