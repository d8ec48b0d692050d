//! QEMU looked at directly, for when its daemon cannot be asked.

use std::{fs, io::Read as _, path::Path};

use nix::fcntl::{FcntlArg, fcntl};

/// Where the daemon of the system keeps the PIDs of its guests.
const FOLDER: &str = "/run/libvirt/qemu";

/// What of a guest can be seen without libvirt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// Its QEMU is there.
    Runs(i32),
    /// Its QEMU has ended, and the daemon was not there to notice.
    Ended,
    /// The daemon holds no PID of it, or it is no guest of the system's QEMU.
    NotKnown,
}

/// Looks.
pub fn look(uri: &str, name: &str) -> Process {
    if uri.split_once(":///").is_some_and(|(driver, rest)| {
        matches!(driver, "qemu" | "qemu+unix") && rest.starts_with("system")
    }) {
        look_in(Path::new(FOLDER), Path::new("/proc"), name)
    } else {
        Process::NotKnown
    }
}

fn look_in(folder: &Path, proc: &Path, name: &str) -> Process {
    // A name with a slash would lead elsewhere; libvirt takes none.
    if name.contains('/') {
        return Process::NotKnown;
    }
    let Ok(mut file) = fs::File::open(folder.join(format!("{name}.pid"))) else {
        return Process::NotKnown;
    };
    let mut text = String::new();
    if (&mut file).take(64).read_to_string(&mut text).is_err() {
        return Process::NotKnown;
    }
    let Ok(pid) = text.trim().parse::<i32>() else {
        return Process::NotKnown;
    };
    match is_locked(&file) {
        Some(true) => return Process::Runs(pid),
        Some(false) => {}
        None => return Process::NotKnown,
    }
    // A PID is used again: only a QEMU with this name counts. That of a process that has ended and is not buried yet is empty.
    match fs::read(proc.join(pid.to_string()).join("cmdline")) {
        Ok(line) if is_guest(&line, name) => Process::Runs(pid),
        Ok(_) => Process::Ended,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Process::Ended,
        Err(_) => Process::NotKnown,
    }
}

/// QEMU holds a lock on its PID file for as long as it lives (virPidFileAcquirePath), which is seen from any namespace of
/// processes.
fn is_locked(file: &fs::File) -> Option<bool> {
    let mut lock = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).ok()?,
        l_whence: i16::try_from(nix::libc::SEEK_SET).ok()?,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    Some(i32::from(lock.l_type) != nix::libc::F_UNLCK)
}

/// `-name guest=NAME,debug-threads=on`, as libvirt starts QEMU; a comma in a name is doubled.
fn is_guest(line: &[u8], name: &str) -> bool {
    let guest = format!("guest={}", name.replace(',', ",,"));
    let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
    words.windows(2).any(|pair| {
        let [option, value] = pair else { return false };
        *option == b"-name"
            && value.strip_prefix(guest.as_bytes()).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(b",") && !rest.starts_with(b",,")
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_qemu_of_that_name_counts() {
        let line = |text: &str| text.replace(' ', "\0").into_bytes();
        let qemu = "/usr/bin/qemu-system-x86_64 -name guest=g1,debug-threads=on -S";
        assert!(is_guest(&line(qemu), "g1"));
        for other in [
            "/usr/bin/qemu-system-x86_64 -name guest=g11,debug-threads=on",
            "/usr/bin/qemu-system-x86_64 -name guest=g1,,x,debug-threads=on",
            "cat guest=g1,",
            "",
        ] {
            assert!(!is_guest(&line(other), "g1"), "{other}");
        }
        assert!(is_guest(&line("q -name guest=a,,b,x=y"), "a,b"));
    }

    #[test]
    fn what_is_left_of_a_guest() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, proc) = (dir.path().join("run"), dir.path().join("proc"));
        fs::create_dir_all(proc.join("77")).unwrap();
        fs::create_dir(&folder).unwrap();
        let look = || look_in(&folder, &proc, "g1");
        assert_eq!(look(), Process::NotKnown);
        fs::write(folder.join("g1.pid"), "77\n").unwrap();
        fs::write(proc.join("77/cmdline"), "q\0-name\0guest=g1,x=y\0").unwrap();
        assert_eq!(look(), Process::Runs(77));
        fs::write(proc.join("77/cmdline"), "sleep\0").unwrap();
        assert_eq!(look(), Process::Ended);
        fs::write(folder.join("g1.pid"), "78").unwrap();
        assert_eq!(look(), Process::Ended);
        fs::write(folder.join("g1.pid"), "x").unwrap();
        assert_eq!(look(), Process::NotKnown);
        assert_eq!(look_in(&folder, &proc, "../g1"), Process::NotKnown);
    }
}
