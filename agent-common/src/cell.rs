//! A 64-bit word that the kernel and the agent both change.

use core::cell::UnsafeCell;

/// One word of shared memory. In user space an `AtomicU64`, in eBPF the instructions that the verifier knows.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Cell64(UnsafeCell<u64>);

// SAFETY: every access goes through atomic operations (user space) or single 64-bit loads, stores and cmpxchg (BPF).
unsafe impl Sync for Cell64 {}
// SAFETY: a Cell64 owns nothing that is bound to a thread.
unsafe impl Send for Cell64 {}

impl Cell64 {
    /// A word with a first value.
    pub const fn new(v: u64) -> Self {
        Cell64(UnsafeCell::new(v))
    }
}

/// For the simulator: something else happens between two accesses, as another CPU would have it.
#[cfg(all(feature = "broken-rules", not(target_arch = "bpf")))]
pub mod race {
    extern crate std;
    use std::{
        boxed::Box,
        cell::{Cell, RefCell},
        thread_local,
    };

    type Other = Box<dyn FnOnce()>;

    thread_local! {
        static LEFT: Cell<u32> = const { Cell::new(0) };
        static OTHER: RefCell<Option<Other>> = const { RefCell::new(None) };
    }

    /// `other` runs right before the `n`th access of this thread from now on, counted from 1.
    pub fn arm(n: u32, other: Other) {
        OTHER.with(|o| *o.borrow_mut() = Some(other));
        LEFT.with(|l| l.set(n.max(1)));
    }

    /// Nothing else happens any more; what has not yet happened is given back.
    pub fn disarm() -> Option<Other> {
        LEFT.with(|l| l.set(0));
        OTHER.with(|o| o.borrow_mut().take())
    }

    #[inline]
    pub(super) fn step() {
        LEFT.with(|l| {
            let left = l.get();
            if left != 0 {
                l.set(left - 1);
                if left == 1
                    && let Some(other) = disarm()
                {
                    other();
                }
            }
        });
    }
}

#[cfg(not(target_arch = "bpf"))]
mod imp {
    use super::Cell64;
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

    impl Cell64 {
        #[inline]
        fn atomic(&self) -> &AtomicU64 {
            // SAFETY: same size and alignment, valid for the lifetime of self, and only used atomically.
            unsafe { AtomicU64::from_ptr(self.0.get()) }
        }
        /// The value now.
        #[inline]
        pub fn load(&self) -> u64 {
            #[cfg(feature = "broken-rules")]
            super::race::step();
            self.atomic().load(SeqCst)
        }
        /// The value now, with nothing after it read earlier.
        #[inline]
        pub fn load_ordered(&self) -> u64 {
            #[cfg(feature = "broken-rules")]
            super::race::step();
            self.atomic().load(SeqCst)
        }
        /// Sets the value.
        #[inline]
        pub fn store(&self, v: u64) {
            #[cfg(feature = "broken-rules")]
            super::race::step();
            self.atomic().store(v, SeqCst)
        }
        /// Swaps `old` for `new`; false if the value was another one.
        #[inline]
        pub fn cas(&self, old: u64, new: u64) -> bool {
            #[cfg(feature = "broken-rules")]
            super::race::step();
            self.atomic()
                .compare_exchange(old, new, SeqCst, SeqCst)
                .is_ok()
        }
    }
}

#[cfg(target_arch = "bpf")]
mod imp {
    use super::Cell64;
    use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

    impl Cell64 {
        /// The value now.
        #[inline(always)]
        pub fn load(&self) -> u64 {
            // SAFETY: points into a map value that outlives the program run. An atomic load crashes LLVM's BPF
            // instruction selection; a 64-bit volatile load is a single instruction.
            unsafe { core::ptr::read_volatile(self.0.get()) }
        }
        /// The value now, with nothing after it read earlier: a fetch-and-add is a full barrier in BPF, a plain load is not.
        #[inline(always)]
        pub fn load_ordered(&self) -> u64 {
            // SAFETY: as above.
            unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(self.0.get(), 0) }
        }
        /// Sets the value.
        #[inline(always)]
        pub fn store(&self, v: u64) {
            // SAFETY: as above.
            unsafe { core::ptr::write_volatile(self.0.get(), v) }
        }
        /// Swaps `old` for `new`; false if the value was another one.
        #[inline(always)]
        pub fn cas(&self, old: u64, new: u64) -> bool {
            // SAFETY: as above.
            unsafe {
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                    self.0.get(),
                    old,
                    new,
                )
                .1
            }
        }
    }
}
