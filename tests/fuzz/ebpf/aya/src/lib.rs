//! As much of `aya-ebpf` as `agent-ebpf` uses, for the host: the same names and signatures, over plain memory.
//!
//! Maps belong to the thread that uses them, as tests run side by side. A map, helper or context that is new to
//! `agent-ebpf` needs its counterpart here.

pub mod maps;

/// The attribute macros, aya's own.
pub mod macros {
    pub use aya_ebpf_macros::map;
}

/// Numbers of the kernel's interface (linux/bpf.h, linux/pkt_cls.h).
pub mod bindings {
    /// Actions of an XDP program.
    #[allow(missing_docs, reason = "the kernel's names")]
    pub mod xdp_action {
        pub const XDP_DROP: u32 = 1;
        pub const XDP_PASS: u32 = 2;
        pub const XDP_TX: u32 = 3;
    }
    /// Go on as if there were no program.
    pub const TC_ACT_UNSPEC: i32 = -1;
    /// Drop.
    pub const TC_ACT_SHOT: i32 = 2;
}

/// The kernel's helper functions.
pub mod helpers {
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    /// What this thread's boot clock shows from now on, ns.
    pub fn set_boot_ns(ns: u64) {
        NOW.set(ns);
    }

    /// The boot clock.
    ///
    /// # Safety
    /// None needed; aya's is unsafe.
    pub unsafe fn bpf_ktime_get_boot_ns() -> u64 {
        NOW.get()
    }
}

/// What a program is called with.
pub mod programs {
    /// The field of `struct xdp_md` that is read directly.
    #[derive(Debug)]
    pub struct XdpMd {
        /// Device of arrival.
        pub ingress_ifindex: u32,
    }

    /// A frame as XDP sees it.
    #[derive(Debug)]
    pub struct XdpContext {
        /// The kernel's struct.
        pub ctx: *const XdpMd,
        start: usize,
        end: usize,
    }

    impl XdpContext {
        /// Over memory that outlives the context.
        pub fn over(frame: &mut [u8], md: &XdpMd) -> XdpContext {
            let range = frame.as_mut_ptr_range();
            XdpContext {
                ctx: md,
                start: range.start.expose_provenance(),
                end: range.end.expose_provenance(),
            }
        }
        /// Address of the first byte.
        pub fn data(&self) -> usize {
            self.start
        }
        /// Address behind the last byte.
        pub fn data_end(&self) -> usize {
            self.end
        }
    }

    /// A frame as TC sees it.
    #[derive(Debug)]
    pub struct TcContext(std::cell::RefCell<Vec<u8>>);

    impl TcContext {
        /// Over a copy of the frame.
        pub fn over(frame: &[u8]) -> TcContext {
            TcContext(std::cell::RefCell::new(frame.to_vec()))
        }

        /// The frame as the program left it.
        pub fn into_frame(self) -> Vec<u8> {
            self.0.into_inner()
        }

        /// A copy of what lies at `offset`.
        ///
        /// # Errors
        /// -EFAULT as bpf_skb_load_bytes: not all of it is in the frame.
        pub fn load<T: Copy>(&self, offset: usize) -> Result<T, i64> {
            let frame = self.0.borrow();
            let bytes = offset
                .checked_add(size_of::<T>())
                .and_then(|end| frame.get(offset..end))
                .ok_or(-14)?;
            // SAFETY: long enough; the programs load integers and arrays of them, which any bytes are.
            Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
        }

        /// Writes over what lies at `offset`.
        ///
        /// # Errors
        /// -EFAULT as bpf_skb_store_bytes: not all of it is in the frame.
        pub fn store<T: Copy>(&self, offset: usize, value: &T, _flags: u64) -> Result<(), i64> {
            let mut frame = self.0.borrow_mut();
            let bytes = offset
                .checked_add(size_of::<T>())
                .and_then(|end| frame.get_mut(offset..end))
                .ok_or(-14)?;
            // SAFETY: long enough; integers and arrays of them are bytes.
            unsafe { bytes.as_mut_ptr().cast::<T>().write_unaligned(*value) };
            Ok(())
        }
    }
}
