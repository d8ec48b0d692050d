//! Opening and closing what resets this machine, and handing it to the process that replaces this one.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use agent_services::watchdog::{Sysrq, Watchdog, look, no_proof};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::{agent::pet::Keeper, config};

/// Names the descriptor of an armed watchdog to the process that replaces this one.
pub(super) const HANDED_OVER: &str = "HEARTLINE_WATCHDOG_FD";

pub(super) fn arm(config: &config::Watchdog) -> Result<Box<Keeper>, String> {
    let hypervisor = crate::doctor::hypervisor();
    let unfit = |identity: &str| {
        let why = no_proof(identity, hypervisor.as_deref()).filter(|_| config.proof)?;
        Some(format!("`proof = true`, but {why}"))
    };
    // As the kernel shows it, before one that has no way out is armed.
    let shown = look(&config.device).ok().and_then(|l| l.identity);
    if let Some(why) = shown.as_deref().and_then(unfit) {
        return Err(why);
    }
    match Watchdog::arm(&config.device, config.timeout) {
        Ok(dog) => match unfit(&dog.identity) {
            Some(why) => {
                let _ = dog.disarm();
                Err(why)
            }
            None => Ok(Box::new(Keeper::Device(dog))),
        },
        Err(error) if config.sysrq => match Sysrq::open() {
            Ok(sysrq) => {
                tracing::warn!("{error}; this machine is reset by sysrq, if the agent still runs");
                Ok(Box::new(Keeper::Sysrq(sysrq, config.timeout)))
            }
            Err(sysrq) => Err(format!("{error}; and no sysrq: {sysrq}")),
        },
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn disarm(keeper: Keeper) -> Result<(), Box<Keeper>> {
    match keeper {
        Keeper::Device(dog) => dog.disarm().map_err(|dog| Box::new(Keeper::Device(dog))),
        Keeper::Sysrq(..) => Ok(()),
    }
}

/// The descriptor that the process before this one left open, if it is of this device.
pub(super) fn handed_over(device: &Path, number: Option<String>) -> Option<OwnedFd> {
    let number: i32 = number?.parse().ok()?;
    let is = |m: fs::Metadata| (m.dev(), m.ino());
    let open = fs::metadata(format!("/proc/self/fd/{number}")).ok()?;
    if number < 3 || is(open) != is(fs::metadata(device).ok()?) {
        return None;
    }
    // SAFETY: it is open, as was just seen, and of the device that only the process before this one could have opened here:
    // this is the first look at it, and nobody else in this process knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    close_on_exec(&fd, true).ok()?;
    Some(fd)
}

fn close_on_exec(fd: &OwnedFd, on: bool) -> nix::Result<()> {
    let flags = if on {
        FdFlag::FD_CLOEXEC
    } else {
        FdFlag::empty()
    };
    fcntl(fd, FcntlArg::F_SETFD(flags)).map(|_| ())
}

/// Leaves an armed watchdog open for the process that replaces this one: what to put into its environment.
pub(in crate::agent) fn hand_over(fd: OwnedFd) -> Option<(&'static str, String)> {
    close_on_exec(&fd, false).ok()?;
    let number = fd.as_raw_fd().to_string();
    // Closed by nobody: closing it would begin its last term.
    std::mem::forget(fd);
    Some((HANDED_OVER, number))
}

/// Is this what [`hand_over`] puts into an environment?
pub(in crate::agent) fn is_hand_over(name: &std::ffi::OsStr) -> bool {
    name == HANDED_OVER
}
