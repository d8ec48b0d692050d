//! On the way from an input to its actions the core does not touch the heap.

mod bench;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use agent_core::Command;
use bench::Bench;

struct Counting;

thread_local! {
    /// Of this thread alone: the test runner's own threads allocate when they please.
    static ARMED: Cell<bool> = const { Cell::new(false) };
}
static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        if ARMED.get() {
            COUNT.fetch_add(1, SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(l) }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        if ARMED.get() {
            COUNT.fetch_add(1, SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, l) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test of this program: the counter is for the whole process.
#[test]
fn takeover_move_and_release_allocate_nothing() {
    let mut b = Bench::new(5, 4);
    b.run(30);
    assert!(b.open(1, 0));
    b.around = |on| ARMED.set(on);
    b.freeze(1, true);
    b.run(70);
    assert!(b.open(2, 0), "taken over");
    b.freeze(1, false);
    b.run(50);
    b.command(3, Command::Move { group: 0, node: 4 });
    b.run(50);
    assert!(b.open(4, 0), "moved");
    b.command(1, Command::Drain { node: 2, on: true });
    b.command(1, Command::Pause(true));
    b.run(50);
    assert_eq!(
        COUNT.load(SeqCst),
        0,
        "calls of the allocator inside the core"
    );
}
