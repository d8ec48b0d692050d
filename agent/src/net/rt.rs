//! What a real-time thread needs from the kernel: a priority, memory that stays, a clock.

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::time::{ClockId, clock_gettime};

/// The kernel refused a real-time right. The caller decides whether to go on without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtError {
    /// `sched_setscheduler` refused. EPERM: no CAP_SYS_NICE and no RLIMIT_RTPRIO, or a cgroup-v1
    /// cpu group without `cpu.rt_runtime_us`.
    #[error("SCHED_FIFO priority {priority} refused: {errno}")]
    Priority {
        /// The priority asked for.
        priority: u8,
        /// What the kernel said.
        errno: Errno,
    },
    /// `mlockall` refused. EPERM or ENOMEM: no CAP_IPC_LOCK and RLIMIT_MEMLOCK too small.
    #[error("locking memory refused: {0}")]
    Lock(Errno),
}

/// Puts the calling thread under SCHED_FIFO with `priority` (1..=99). Children do not inherit it.
///
/// # Errors
/// [`RtError::Priority`]; the thread keeps its old policy then.
pub fn set_realtime(priority: u8) -> Result<(), RtError> {
    let param = libc::sched_param {
        sched_priority: i32::from(priority),
    };
    // SAFETY: `param` is a valid sched_param for the whole call; pid 0 is the calling thread.
    let done = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const param,
        )
    };
    Errno::result(done)
        .map(drop)
        .map_err(|errno| RtError::Priority { priority, errno })
}

/// Locks all present and future pages of the process once they are touched (ONFAULT keeps the
/// memory small: untouched stacks and reserves cost nothing).
///
/// # Errors
/// [`RtError::Lock`]; nothing is locked then.
pub fn lock_memory() -> Result<(), RtError> {
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(flags).map_err(RtError::Lock)
}

/// Gives memory that was freed back to the kernel (malloc_trim(3)); to be called before [`lock_memory`], which would
/// keep it.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Nanoseconds of CLOCK_BOOTTIME, the clock of every time in Heartline (the same as BPF's
/// `bpf_ktime_get_boot_ns`).
///
/// The call cannot fail on any kernel we support; if it did, the far future is the safe answer:
/// every lease is over then.
#[must_use]
pub fn boottime_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(u64::MAX, |t| {
        let secs = u64::try_from(t.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
        secs.saturating_mul(1_000_000_000).saturating_add(nanos)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_matches_proc_uptime() {
        let before = boottime_ns();
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let after = boottime_ns();
        let uptime: f64 = text.split(' ').next().unwrap().parse().unwrap();
        // /proc/uptime has hundredths of a second.
        assert!(uptime >= before as f64 / 1e9 - 0.011, "{uptime} {before}");
        assert!(uptime <= after as f64 / 1e9 + 0.011, "{uptime} {after}");
    }

    #[test]
    fn an_impossible_priority_is_a_typed_error() {
        let err = std::thread::spawn(|| set_realtime(100))
            .join()
            .unwrap()
            .unwrap_err();
        assert_eq!(
            err,
            RtError::Priority {
                priority: 100,
                errno: Errno::EINVAL
            }
        );
    }

    #[test]
    fn realtime_holds_for_the_calling_thread_only() {
        let policy = std::thread::spawn(|| {
            set_realtime(1).expect("this test needs root (CAP_SYS_NICE)");
            // SAFETY: no pointers; pid 0 is the calling thread.
            unsafe { libc::sched_getscheduler(0) }
        })
        .join()
        .unwrap();
        assert_eq!(policy, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_OTHER);
    }
}
