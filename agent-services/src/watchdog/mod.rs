//! The machine's watchdog: it resets the machine when nobody pets it. So a node that lost its lease and cannot stop
//! what must not run twice ends by itself, with none of our code running.
//!
//! Linux's interface: Documentation/watchdog/watchdog-api.rst. Opening the device arms it; closing it disarms it only
//! after the letter `V`, and not at all with `nowayout`. Petting is one system call, without use of the heap, for the
//! real-time thread; all else is for the main task.
//!
//! A proof only where its clock runs while the machine stands still: bare metal, or a device of the host's. A guest's
//! softdog stands still with the guest, and so does what QEMU shows it (i6300esb counts by the guest's clock).
//!
//! A FIFO will do as well, for machines that something else watches: a program that reads it takes each byte as a sign of
//! life, and its end without a `V` before as none. What it does then, and by which clock, is its own affair.

mod pacer;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{errno::Errno, unistd::write};
use procfs::process::{FDTarget, all_processes};

pub use pacer::{Beat, Pacer, fired_by, fires_within};

/// The first device.
pub const DEVICE: &str = "/dev/watchdog";
/// Its other name.
const FIRST: &str = "/dev/watchdog0";
/// What devices take.
pub const TIMEOUT_S: std::ops::RangeInclusive<u32> = 2..=600;
/// How the kernel's own timer calls itself.
const SOFTDOG: &str = "Software Watchdog";
/// What shows a device, by its name.
const CLASS: &str = "/sys/class/watchdog";

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
    #[error("there is no {}: load the driver of this machine's watchdog (wdctl shows it; iTCO_wdt, sp5100_tco, i6300esb), or softdog; under systemd, PrivateDevices=yes hides it (config/heartline-services.conf)", .0.display())]
    Absent(PathBuf),
    /// A FIFO that no program reads.
    #[error("nobody reads {}, so nothing watches this machine: start the program that does", .0.display())]
    Unread(PathBuf),
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
        // A FIFO must make nobody wait, neither now nor when it is full.
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(device)
            .map_err(|error| why_not(device, error))?;
        Self::take(file, device, Some(timeout), timeout)
    }

    /// Takes over an armed one, after an `execve`. `timeout`: of a FIFO, which cannot be asked.
    ///
    /// # Errors
    /// It is no watchdog.
    pub fn adopt(fd: OwnedFd, device: &Path, timeout: Duration) -> Result<Watchdog, WatchdogError> {
        Self::take(fd.into(), device, None, timeout)
    }

    /// `set`: the time to be set, if it is to be.
    fn take(
        file: File,
        device: &Path,
        set: Option<Duration>,
        timeout: Duration,
    ) -> Result<Watchdog, WatchdogError> {
        if file.metadata().is_ok_and(|m| m.file_type().is_fifo()) {
            return Ok(Watchdog {
                file,
                device: device.into(),
                identity: "FIFO".into(),
                timeout,
                no_way_out: false,
            });
        }
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
        match dog.set_up(info.options, set) {
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
        if timeout.is_some_and(|wanted| took > wanted) {
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
        // Anything but a `V`. Not every driver has WDIOC_KEEPALIVE; each takes a write.
        write(&self.file, &[0]).map(|_| ())
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

fn why_not(device: &Path, error: io::Error) -> WatchdogError {
    let fifo = || fs::metadata(device).is_ok_and(|m| m.file_type().is_fifo());
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENXIO) if fifo() => WatchdogError::Unread(device.into()),
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => WatchdogError::Absent(device.into()),
        Some(Errno::EBUSY) => WatchdogError::Busy(device.into()),
        _ => WatchdogError::Failed {
            device: device.into(),
            error,
        },
    }
}

/// A property of a device as the kernel shows it (Documentation/ABI/testing/sysfs-class-watchdog).
fn shown(device: &Path, property: &str) -> Option<String> {
    let name = match device.file_name().and_then(|n| n.to_str()) {
        Some("watchdog") | None => "watchdog0",
        Some(name) => name,
    };
    let text = fs::read_to_string(Path::new(CLASS).join(name).join(property)).ok()?;
    Some(text.trim().to_owned())
}

fn no_way_out(device: &Path) -> bool {
    shown(device, "nowayout").is_some_and(|t| t == "1")
}

/// What can be seen of a device without opening it, which would arm it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What it calls itself; `None`: the kernel does not show it.
    pub identity: Option<String>,
    /// Once armed it cannot be disarmed.
    pub no_way_out: bool,
    /// It is armed.
    pub armed: bool,
    /// "process 12 (systemd)", of those that have it open and may be looked at.
    pub held_by: Vec<String>,
}

/// Looks at a device without touching it. Reads `/proc`: some milliseconds.
///
/// # Errors
/// [`WatchdogError`]: it is not there, or is none.
pub fn look(device: &Path) -> Result<Look, WatchdogError> {
    let kind = fs::metadata(device)
        .map_err(|error| why_not(device, error))?
        .file_type();
    if !kind.is_char_device() && !kind.is_fifo() {
        return Err(WatchdogError::Unfit {
            device: device.into(),
            why: "it is no watchdog, and no FIFO".into(),
        });
    }
    let identity = match shown(device, "identity") {
        Some(identity) if kind.is_char_device() => Some(identity),
        _ => kind.is_fifo().then(|| "FIFO".to_owned()),
    };
    Ok(Look {
        identity,
        no_way_out: kind.is_char_device() && no_way_out(device),
        armed: kind.is_char_device() && shown(device, "state").is_some_and(|s| s == "active"),
        held_by: holders(device),
    })
}

fn holders(device: &Path) -> Vec<String> {
    let mut who = Vec::new();
    for process in all_processes().into_iter().flatten().flatten() {
        let open = process.fd().into_iter().flatten().flatten();
        // `watchdog` is another name of `watchdog0`.
        let same = |p: &Path| p == device || device == Path::new(DEVICE) && p == Path::new(FIRST);
        if open
            .into_iter()
            .any(|fd| matches!(&fd.target, FDTarget::Path(path) if same(path)))
        {
            let name = process.stat().map_or_else(|_| "?".into(), |s| s.comm);
            who.push(format!("process {} ({name})", process.pid));
        }
    }
    who
}

/// Why a device proves nothing to others, though its time is over: it stands still with the machine. `None`: nothing is
/// known against it. `hypervisor`: what this machine runs on, if it is a guest.
#[must_use]
pub fn no_proof(identity: &str, hypervisor: Option<&str>) -> Option<String> {
    match hypervisor {
        _ if identity == "FIFO" => None,
        _ if identity == SOFTDOG => {
            Some("softdog is a timer of this kernel: it stands still when the machine does".into())
        }
        Some(host) => Some(format!(
            "this is a virtual machine ({host}): its watchdog stands still when the host stops it"
        )),
        None => None,
    }
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

    #[test]
    fn clear_errors_and_nothing_left_armed() {
        let absent =
            Watchdog::arm(Path::new("/dev/no-such-watchdog"), Duration::from_secs(10)).unwrap_err();
        assert!(matches!(absent, WatchdogError::Absent(_)), "{absent}");
        assert!(absent.to_string().contains("softdog"));
        assert!(matches!(
            look(Path::new("/dev/no-such-watchdog")),
            Err(WatchdogError::Absent(_))
        ));
        // Neither is a watchdog, and a write of V to the first would be kept by a file.
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path(), Path::new("/dev/null")] {
            let error = Watchdog::arm(path, Duration::from_secs(10)).unwrap_err();
            assert!(error.to_string().contains("no watchdog"), "{error}");
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), b"");
    }

    fn fifo(dir: &Path) -> PathBuf {
        let path = dir.join("dog");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    /// As who reads it sees it: each sign of life, the `V`, the end.
    #[test]
    fn a_fifo_gets_signs_of_life_and_the_magic_close() {
        use std::io::Read as _;
        let dir = tempfile::tempdir().unwrap();
        let path = fifo(dir.path());
        let time = Duration::from_secs(10);
        let unread = Watchdog::arm(&path, time).unwrap_err();
        assert!(unread.to_string().contains("nobody reads"), "{unread}");
        let open = || {
            OpenOptions::new()
                .read(true)
                .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
                .open(&path)
                .unwrap()
        };
        let mut reader = open();
        let dog = Watchdog::arm(&path, time).unwrap();
        assert_eq!((dog.identity.as_str(), dog.timeout), ("FIFO", time));
        assert!(look(&path).unwrap().held_by.len() == 1);
        dog.pet().unwrap();
        dog.pet().unwrap();
        // Over an execve, as another process would take it.
        let dog = Watchdog::adopt(dog.hand_over(), &path, time).unwrap();
        dog.pet().unwrap();
        dog.disarm().unwrap();
        let mut said = Vec::new();
        reader.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"\0\0\0V");
        // Left behind, it ends without the letter; and a full one makes nobody wait.
        let dog = Watchdog::arm(&path, time).unwrap();
        while dog.pet().is_ok() {}
        assert_eq!(dog.pet(), Err(Errno::EAGAIN));
        drop(dog);
        said.clear();
        reader.read_to_end(&mut said).unwrap();
        assert!(said.len() > 1000 && said.iter().all(|b| *b == 0));
        drop(reader);
        let dog = {
            let _reader = open();
            Watchdog::arm(&path, time).unwrap()
        };
        assert_eq!(dog.pet(), Err(Errno::EPIPE), "nobody reads any more");
    }

    #[test]
    fn what_stands_still_with_the_machine_proves_nothing() {
        assert!(no_proof("Software Watchdog", None).is_some());
        assert!(
            no_proof("i6300ESB timer", Some("QEMU"))
                .unwrap()
                .contains("QEMU")
        );
        assert_eq!(no_proof("iTCO_wdt", None), None);
        assert_eq!(no_proof("FIFO", Some("QEMU")), None);
    }

    /// This kernel has no softdog, so the device itself is tried in guests: `examples/watchdog.rs`, `tests/vm`. The numbers of its
    /// calls can be compared here, with those of linux/watchdog.h.
    #[test]
    fn numbers_of_the_calls() {
        assert_eq!(
            nix::request_code_read!(b'W', 0, std::mem::size_of::<Info>()),
            0x8028_5700
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
