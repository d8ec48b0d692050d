//! With a FIFO in place of the device.

use std::{fs::OpenOptions, io::Read as _, os::unix::fs::OpenOptionsExt as _};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{follow::fired, *};

const S: u64 = 1_000_000_000;

fn fifo(dir: &Path) -> (PathBuf, fs::File) {
    let path = dir.join("dog");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .unwrap();
    (path, reader)
}

fn config(device: &Path) -> config::Watchdog {
    config::Watchdog {
        device: device.into(),
        timeout: Duration::from_secs(10),
        proof: true,
        sysrq: false,
    }
}

#[test]
fn it_goes_over_to_the_next_process_armed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut reader) = fifo(dir.path());
    let Keeper::Device(dog) = *arm(&config(&path)).unwrap() else {
        panic!("a device")
    };
    let fd = dog.hand_over();
    let flags = |fd: &OwnedFd| FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
    assert!(flags(&fd).contains(FdFlag::FD_CLOEXEC));
    let (name, number) = hand_over(fd).unwrap();
    assert_eq!(name, HANDED_OVER);
    // Not one of another file, however it came into the environment.
    assert!(handed_over(Path::new("/dev/null"), Some(number.clone())).is_none());
    assert!(handed_over(&path, Some("1".into())).is_none());
    assert!(handed_over(&path, Some("x".into())).is_none());
    let fd = handed_over(&path, Some(number)).unwrap();
    assert!(
        flags(&fd).contains(FdFlag::FD_CLOEXEC),
        "not for what the agent starts"
    );
    let dog = Watchdog::adopt(fd, &path, Duration::from_secs(10)).unwrap();
    assert!(disarm(Keeper::Device(dog)).is_ok());
    let mut said = Vec::new();
    reader.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"V");
}

/// A clean end disarms it; with something left it stays armed, and both are remembered as long as they must be.
#[test]
fn how_the_agent_ends() {
    for (last, said) in [(Last::Clean, &b"V"[..]), (Last::Unclean, &b""[..])] {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut reader) = fifo(dir.path());
        let guard = Guard::new(Some(config(&path)), dir.path(), true);
        fs::write(&guard.marker, "").unwrap();
        let marker = guard.marker.clone();
        let keeper = arm(&config(&path)).unwrap();
        assert!(guard.finish(Some(keeper), last).is_none());
        let mut heard = Vec::new();
        reader.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, said);
        assert_eq!(marker.exists(), last == Last::Unclean);
        let next = Guard::new(Some(config(&path)), dir.path(), true);
        let left = last == Last::Unclean;
        assert_eq!(next.state, if left { State::Left } else { State::Off });
    }
}

#[test]
fn it_has_fired_two_terms_after_the_last_sign() {
    let time = Duration::from_secs(10);
    // Twice 12.3 s and 2 s.
    let at = 126 * S + S / 10 * 6;
    assert!(!fired(100 * S, time, at - 1));
    assert!(fired(100 * S, time, at));
}

#[test]
fn what_is_absent_is_said() {
    let why = arm(&config(Path::new("/dev/no-such-watchdog"))).unwrap_err();
    assert!(why.contains("there is no /dev/no-such-watchdog"), "{why}");
    let dir = tempfile::tempdir().unwrap();
    let absent = || Some(config(Path::new("/dev/no-such-watchdog")));
    let guard = Guard::new(absent(), dir.path(), true);
    assert_eq!(guard.fault(), Some(why.as_str()), "before it is needed");
    assert_eq!(Guard::new(absent(), dir.path(), false).fault(), None);
}
