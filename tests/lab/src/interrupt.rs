//! Ctrl-C and SIGTERM: noted, and seen by every wait of the lab, which then unwinds and cleans up.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    SIGNAL.store(signal, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP are noted instead of ending the process. One that was ignored stays so:
/// under nohup a hang-up ends nothing.
///
/// # Errors
/// Never in practice.
pub fn catch() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        let before = unsafe { sigaction(signal, &action)? };
        if matches!(before.handler(), SigHandler::SigIgn) {
            // SAFETY: puts back what was there.
            unsafe { sigaction(signal, &before)? };
        }
    }
    Ok(())
}

/// The signal that was caught, if any.
#[must_use]
pub fn caught() -> Option<i32> {
    Some(SIGNAL.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// An error if a signal was caught.
///
/// # Errors
/// A signal was caught.
pub fn check() -> Result<()> {
    match caught() {
        Some(signal) => bail!("interrupted by signal {signal}"),
        None => Ok(()),
    }
}

/// Waits until `holds`, asking again after each `pause`. Returns whether it came to hold.
///
/// # Errors
/// A signal was caught, or `holds` fails.
pub fn until(
    deadline: Duration,
    pause: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<bool> {
    let end = Instant::now() + deadline;
    loop {
        check()?;
        if holds()? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(pause);
    }
}

/// Lets time pass.
///
/// # Errors
/// A signal was caught.
pub fn pass(time: Duration) -> Result<()> {
    until(time, time.min(Duration::from_millis(50)), || Ok(false)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_stays_ignored() {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler of ours runs.
        unsafe { sigaction(Signal::SIGHUP, &ignore) }.expect("sigaction");
        catch().expect("catch");
        nix::sys::signal::raise(Signal::SIGHUP).expect("raise");
        assert_eq!(caught(), None, "noted, although it was to be ignored");
        nix::sys::signal::raise(Signal::SIGTERM).expect("raise");
        assert_eq!(caught(), Some(libc::SIGTERM));
        SIGNAL.store(0, Ordering::Relaxed);
    }
}
