//! The one clock of the lab: `CLOCK_BOOTTIME`, shared by all namespaces of a machine, so that
//! times of nodes, probers and the switch compare directly.

use nix::{sys::time::TimeSpec, time::ClockId};

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[must_use]
pub fn boot_ns() -> u64 {
    // The clock exists on every kernel that can run the lab; zero would show up at once.
    let now = ClockId::CLOCK_BOOTTIME.now().unwrap_or(TimeSpec::new(0, 0));
    now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs()
}

/// Nanoseconds as milliseconds.
#[must_use]
pub fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Makes the calling thread real-time with a low priority (below the agents'), if that is
/// permitted. Says whether it was.
pub fn prober_priority() -> bool {
    let param = libc::sched_param { sched_priority: 10 };
    // SAFETY: a plain system call on the calling thread with a valid parameter block.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}
