//! The machine's watchdog: it resets the machine when nobody pets it. So a node that lost its lease and cannot stop
//! what must not run twice ends by itself, with none of our code running.
//!
//! Linux's interface: Documentation/watchdog/watchdog-api.rst. Opening the device arms it; closing it disarms it only
//! after the letter `V`, and not at all with `nowayout`. Petting is one system call, without use of the heap, for the
//! real-time thread; all else is for the main task.
//!
//! A proof only where its clock runs while the machine stands still: bare metal, or a device of the host's. A guest's
//! softdog stands still with the guest.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::errno::Errno;

/// The first device.
pub const DEVICE: &str = "/dev/watchdog";
/// What devices take.
pub const TIMEOUT_S: std::ops::RangeInclusive<u32> = 2..=600;
/// Petted so many times within the device's time.
const PETS: u64 = 4;
/// Beyond the device's time: its tick (softdog and most others count in seconds) and the reset itself.
const MARGIN_NS: u64 = 2_000_000_000;

/// `struct watchdog_info` (linux/watchdog.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    options: u32,
    firmware: u32,
    identity: [u8; 32],
}

const MAGIC_CLOSE: u32 = 0x0100;
const SET_TIMEOUT: u32 = 0x0080;
const ALARM_ONLY: u32 = 0x0400;

mod sys {
    use super::Info;
    nix::ioctl_read!(get_support, b'W', 0, Info);
    nix::ioctl_read!(keep_alive, b'W', 5, libc_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc_int);
    nix::ioctl_read!(get_timeout, b'W', 7, libc_int);
    /// C's `int`.
    #[allow(non_camel_case_types, reason = "as C has it")]
    pub(super) type libc_int = std::ffi::c_int;
}

/// Why there is no watchdog.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// No device.
    #[error("there is no {}: load the driver of this machine's watchdog (wdctl shows it; iTCO_wdt, sp5100_tco, i6300esb), or softdog", .0.display())]
    Absent(PathBuf),
    /// Another program has it open.
    #[error("{} is in use by another program: systemd (RuntimeWatchdogSec=) or a watchdog daemon; let it have another device, or stop it", .0.display())]
    Busy(PathBuf),
    /// It is no watchdog, or does not do what is needed.
    #[error("{}: {why}", device.display())]
    Unfit {
        /// The device.
        device: PathBuf,
        /// Why.
        why: String,
    },
    /// Something else.
    #[error("{}: {error}", device.display())]
    Failed {
        /// The device.
        device: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// An armed watchdog. Dropped, it stays armed and resets the machine: use [`Watchdog::disarm`].
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    device: PathBuf,
    /// What it calls itself.
    pub identity: String,
    /// After which it resets; what the device took, which may differ from what was asked for.
    pub timeout: Duration,
    /// It cannot be disarmed.
    pub no_way_out: bool,
}

impl Watchdog {
    /// Opens and arms it.
    ///
    /// # Errors
    /// [`WatchdogError`]. If the device was opened and is unfit it is disarmed again, where it lets itself.
    pub fn arm(device: &Path, timeout: Duration) -> Result<Watchdog, WatchdogError> {
        let file = OpenOptions::new()
            .write(true)
            .open(device)
            .map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
                    WatchdogError::Absent(device.into())
                }
                Some(Errno::EBUSY) => WatchdogError::Busy(device.into()),
                _ => WatchdogError::Failed {
                    device: device.into(),
                    error,
                },
            })?;
        Self::take(file, device, Some(timeout))
    }

    /// Takes over an armed one, after an `execve`.
    ///
    /// # Errors
    /// It is no watchdog.
    pub fn adopt(fd: OwnedFd, device: &Path) -> Result<Watchdog, WatchdogError> {
        Self::take(fd.into(), device, None)
    }

    fn take(
        file: File,
        device: &Path,
        timeout: Option<Duration>,
    ) -> Result<Watchdog, WatchdogError> {
        let fd = file.as_raw_fd();
        let mut info = Info {
            options: 0,
            firmware: 0,
            identity: [0; 32],
        };
        // SAFETY: the descriptor is open, and the kernel writes one `struct watchdog_info`.
        unsafe { sys::get_support(fd, &raw mut info) }.map_err(|errno| WatchdogError::Unfit {
            device: device.into(),
            why: format!("it is no watchdog ({})", errno.desc()),
        })?;
        let end = info
            .identity
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(info.identity.len());
        let identity =
            String::from_utf8_lossy(info.identity.get(..end).unwrap_or_default()).into_owned();
        let mut dog = Watchdog {
            file,
            device: device.into(),
            identity,
            timeout: Duration::ZERO,
            no_way_out: no_way_out(device),
        };
        match dog.set_up(info.options, timeout) {
            Ok(took) => {
                dog.timeout = took;
                Ok(dog)
            }
            Err(error) => {
                // It has been armed by being opened.
                let _ = dog.disarm();
                Err(error)
            }
        }
    }

    fn set_up(&self, options: u32, timeout: Option<Duration>) -> Result<Duration, WatchdogError> {
        let unfit = |why: String| WatchdogError::Unfit {
            device: self.device.clone(),
            why,
        };
        if options & MAGIC_CLOSE == 0 {
            return Err(unfit(format!(
                "{} stops when the program that pets it ends, so it proves nothing",
                self.identity
            )));
        }
        if options & ALARM_ONLY != 0 {
            return Err(unfit(format!(
                "{} only sounds an alarm, it resets nothing",
                self.identity
            )));
        }
        let fd = self.file.as_raw_fd();
        let mut seconds: std::ffi::c_int = 0;
        if let Some(wanted) = timeout.filter(|_| options & SET_TIMEOUT != 0) {
            let wanted = wanted
                .as_secs()
                .clamp(u64::from(*TIMEOUT_S.start()), u64::from(*TIMEOUT_S.end()));
            seconds = std::ffi::c_int::try_from(wanted).unwrap_or(std::ffi::c_int::MAX);
            // SAFETY: the descriptor is open, and the kernel reads and writes one int.
            unsafe { sys::set_timeout(fd, &raw mut seconds) }.map_err(|errno| {
                unfit(format!(
                    "{} does not take {wanted} s: {}",
                    self.identity,
                    errno.desc()
                ))
            })?;
        }
        // SAFETY: as above; it is written only.
        unsafe { sys::get_timeout(fd, &raw mut seconds) }.map_err(|errno| {
            unfit(format!(
                "{} does not say its time: {}",
                self.identity,
                errno.desc()
            ))
        })?;
        let took = u64::try_from(seconds)
            .ok()
            .filter(|s| *s > 0)
            .map(Duration::from_secs);
        let took =
            took.ok_or_else(|| unfit(format!("{} has a time of {seconds} s", self.identity)))?;
        if timeout.is_some_and(|wanted| took > wanted + Duration::from_secs(1)) {
            return Err(unfit(format!(
                "{} takes {took:?} at least: configure that, so that takeovers wait as long",
                self.identity
            )));
        }
        Ok(took)
    }

    /// Another round. One system call, nothing allocated.
    ///
    /// # Errors
    /// The device did not take it.
    pub fn pet(&self) -> Result<(), Errno> {
        let mut unused: std::ffi::c_int = 0;
        // SAFETY: the descriptor is open; the kernel looks at no argument.
        unsafe { sys::keep_alive(self.file.as_raw_fd(), &raw mut unused) }.map(|_| ())
    }

    /// Disarms and closes it.
    ///
    /// # Errors
    /// It cannot be disarmed: it goes on, and must be petted; it is given back.
    pub fn disarm(self) -> Result<(), Watchdog> {
        if self.no_way_out {
            return Err(self);
        }
        match (&self.file).write_all(b"V") {
            Ok(()) => Ok(()),
            Err(_) => Err(self),
        }
    }

    /// The descriptor, to be handed over an `execve`; it stays armed.
    #[must_use]
    pub fn hand_over(self) -> OwnedFd {
        self.file.into()
    }
}

/// `nowayout` as the kernel shows it.
fn no_way_out(device: &Path) -> bool {
    let name = match device.file_name().and_then(|n| n.to_str()) {
        Some("watchdog") | None => "watchdog0",
        Some(name) => name,
    };
    std::fs::read_to_string(Path::new("/sys/class/watchdog").join(name).join("nowayout"))
        .is_ok_and(|t| t.trim() == "1")
}

/// What the real-time thread does about the watchdog. Pure, and without use of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Rest,
    /// Pet it.
    Pet,
    /// Never again, until the lease holds or all is stopped: let it reset the machine. At this time, at the latest, it
    /// has.
    Starve {
        /// Boot clock, ns.
        reset_by: u64,
    },
}

/// Decides, each time the real-time thread comes by (at least [`Pacer::INTERVALS`] times within the device's time).
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    timeout_ns: u64,
    last: Option<u64>,
}

impl Pacer {
    /// So many times within the device's time it must be asked at least.
    pub const INTERVALS: u64 = 2 * PETS;

    /// For a device that resets after so long.
    #[must_use]
    pub fn new(timeout: Duration) -> Pacer {
        Pacer {
            timeout_ns: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            last: None,
        }
    }

    /// `lease_until`: when this node's lease ends (boot clock, ns; 0: it has none). `stateful`: something that must not
    /// run twice runs here, or may.
    ///
    /// Petting under a lease that ends soon could outlive it by the device's whole time; that is what takeovers wait
    /// for ([`fired_by`]).
    #[must_use]
    pub fn beat(&mut self, now: u64, lease_until: u64, stateful: bool) -> Beat {
        if stateful && lease_until <= now {
            // Not petted yet: it was armed by being opened, before this.
            let last = *self.last.get_or_insert(now);
            return Beat::Starve {
                reset_by: last.saturating_add(self.timeout_ns),
            };
        }
        let due = self
            .last
            .is_none_or(|last| now.saturating_sub(last) >= self.timeout_ns / PETS);
        if due {
            self.last = Some(now);
            Beat::Pet
        } else {
            Beat::Rest
        }
    }
}

/// From when on the watchdog of a node whose promise ended at `promise_end` (boot clock of who asks, ns) has certainly
/// fired, unless what ran there was stopped. The last pet was under a lease, which ends before the promise; the two
/// clocks may be slewed against each other (the factor of the lease), and the device has a tick.
#[must_use]
pub fn fired_by(promise_end: u64, timeout: Duration) -> u64 {
    let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    promise_end
        .saturating_add(timeout / 100 * 123)
        .saturating_add(MARGIN_NS)
}

/// The last resort where there is no watchdog: a reset by sysrq, which a kernel does that still runs. Opened
/// beforehand, so that neither a full disk nor a lack of descriptors is in the way.
#[derive(Debug)]
pub struct Sysrq(File);

impl Sysrq {
    /// Opens `/proc/sysrq-trigger`.
    ///
    /// # Errors
    /// Not root, a container, or a kernel without it.
    pub fn open() -> io::Result<Sysrq> {
        OpenOptions::new()
            .write(true)
            .open("/proc/sysrq-trigger")
            .map(Sysrq)
    }

    /// Resets the machine at once: nothing is written back, nothing is unmounted.
    ///
    /// # Errors
    /// The kernel refused; else it does not return.
    pub fn reset(&self) -> io::Result<()> {
        (&self.0).write_all(b"b")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn petted_under_a_lease_or_with_nothing_to_lose() {
        let mut p = Pacer::new(Duration::from_secs(8));
        assert_eq!(p.beat(10 * S, 11 * S, true), Beat::Pet);
        assert_eq!(p.beat(11 * S, 12 * S, true), Beat::Rest);
        assert_eq!(p.beat(12 * S, 13 * S, true), Beat::Pet);
        assert_eq!(p.beat(14 * S, 0, false), Beat::Pet);
        // The lease ends as this comes by: no more.
        assert_eq!(
            p.beat(15 * S, 15 * S, true),
            Beat::Starve { reset_by: 22 * S }
        );
        assert_eq!(
            p.beat(20 * S, 15 * S, true),
            Beat::Starve { reset_by: 22 * S }
        );
        // All was stopped in time.
        assert_eq!(p.beat(21 * S, 15 * S, false), Beat::Pet);
        let mut never = Pacer::new(Duration::from_secs(8));
        assert_eq!(never.beat(S, 0, true), Beat::Starve { reset_by: 9 * S });
        assert_eq!(never.beat(5 * S, 0, true), Beat::Starve { reset_by: 9 * S });
    }

    /// Whatever happens in whatever order: no pet without lease while something stateful runs; and with either, no gap
    /// that the device could take for death.
    #[test]
    fn never_petted_without_a_right_and_never_forgotten_with_one() {
        let timeout = 8 * S;
        let step = timeout / Pacer::INTERVALS;
        let mut p = Pacer::new(Duration::from_nanos(timeout));
        let mut state = 7u64;
        let (mut now, mut last, mut lease) = (S, None::<u64>, 0);
        let (mut pets, mut starved) = (0, 0);
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            now += (state >> 40) % (step + 1);
            if state & 3 == 0 {
                lease = now + (state >> 20) % (2 * S);
            }
            let stateful = state & 4 != 0;
            let right = lease > now || !stateful;
            match p.beat(now, lease, stateful) {
                Beat::Pet => {
                    assert!(right);
                    pets += 1;
                    last = Some(now);
                }
                Beat::Rest => assert!(right && last.is_some_and(|l| now - l < timeout / PETS)),
                Beat::Starve { reset_by } => {
                    assert!(!right);
                    starved += 1;
                    assert!(reset_by <= last.map_or(now, |l| l.max(S)) + timeout + now);
                }
            }
        }
        assert!(pets > 100 && starved > 100);
    }

    #[test]
    fn a_takeover_waits_long_enough() {
        // Last pet at the very end of the lease, which is before the end of the promise.
        for timeout in [2u64, 8, 60] {
            let mut p = Pacer::new(Duration::from_secs(timeout));
            let promise_end = 100 * S;
            assert_eq!(p.beat(promise_end - 1, promise_end, true), Beat::Pet);
            let Beat::Starve { reset_by } = p.beat(promise_end, promise_end, true) else {
                panic!()
            };
            // Even with the owner's clock slower by the factor that the lease allows for.
            let late = promise_end + (reset_by - promise_end) / 100 * 122;
            assert!(fired_by(promise_end, Duration::from_secs(timeout)) > late + S);
        }
        assert_eq!(fired_by(u64::MAX - 1, Duration::from_secs(600)), u64::MAX);
    }

    #[test]
    fn clear_errors_and_nothing_left_armed() {
        let absent =
            Watchdog::arm(Path::new("/dev/no-such-watchdog"), Duration::from_secs(10)).unwrap_err();
        assert!(matches!(absent, WatchdogError::Absent(_)), "{absent}");
        assert!(absent.to_string().contains("softdog"));
        // Neither is a watchdog, and a write of V to the first would be kept by a file.
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path(), Path::new("/dev/null")] {
            let error = Watchdog::arm(path, Duration::from_secs(10)).unwrap_err();
            assert!(error.to_string().contains("no watchdog"), "{error}");
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), b"");
    }

    /// This kernel has no softdog, so the device itself is tried in guests: `examples/watchdog.rs`. The numbers of its
    /// calls can be compared here, with those of linux/watchdog.h.
    #[test]
    fn numbers_of_the_calls() {
        assert_eq!(
            nix::request_code_read!(b'W', 0, std::mem::size_of::<Info>()),
            0x8028_5700
        );
        assert_eq!(
            nix::request_code_read!(b'W', 5, std::mem::size_of::<std::ffi::c_int>()),
            0x8004_5705
        );
        assert_eq!(
            nix::request_code_readwrite!(b'W', 6, std::mem::size_of::<std::ffi::c_int>()),
            0xc004_5706
        );
        assert_eq!(
            nix::request_code_read!(b'W', 7, std::mem::size_of::<std::ffi::c_int>()),
            0x8004_5707
        );
    }
}
