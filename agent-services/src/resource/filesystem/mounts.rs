//! The mounts of a process: `/proc/PID/mountinfo`, proc_pid_mountinfo(5).
//!
//! Read as bytes: the crate `procfs` leaves the escapes in, and gives up at the first name that is not UTF-8.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Major and minor number of the file system's device; major 0 for those without one.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its type.
    pub fstype: String,
    /// What is mounted.
    pub source: PathBuf,
    /// The whole file system is read-only.
    pub read_only: bool,
}

/// The mounts of a process in the order in which they were made.
pub(super) fn of(process: &str) -> io::Result<Vec<Mount>> {
    let bytes = std::fs::read(format!("/proc/{process}/mountinfo"))?;
    Ok(bytes.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// What is mounted on a folder: the last of several.
pub(super) fn at(point: &Path) -> io::Result<Option<Mount>> {
    Ok(of("self")?.into_iter().rev().find(|m| m.point == point))
}

fn parse(line: &[u8]) -> Option<Mount> {
    // 36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue
    let mut fields = line.split(|b| *b == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let point = unescape(fields.nth(1)?);
    fields.find(|f| *f == b"-")?;
    let fstype = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let read_only = fields.next()?.split(|b| *b == b',').any(|o| o == b"ro");
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        point,
        fstype,
        source,
        read_only,
    })
}

/// Space, tab, newline and backslash are written as `\040`, …
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)))
            .and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let m = parse(b"36 35 98:0 /mnt1 /mnt\\0402\\134 rw shared:1 master:2 - ext3 /dev/ro\xffot ro,errors=continue")
            .unwrap();
        assert_eq!(m.device, (98, 0));
        assert_eq!(m.point, Path::new("/mnt 2\\"));
        assert_eq!(m.fstype, "ext3");
        assert!(m.read_only && m.source.as_os_str().len() == 10);
        assert!(!parse(b"1 1 0:5 / / ro - proc proc rw").unwrap().read_only);
        for bad in [&b""[..], b"36 35", b"1 2 x / /", b"1 2 3:4 / / rw - ext4"] {
            assert_eq!(parse(bad), None);
        }
        assert_eq!(unescape(b"\\04"), Path::new("\\04"));
        assert_eq!(unescape(b"\\777"), Path::new("\\777"));
    }

    #[test]
    fn own() {
        assert!(
            at(Path::new("/proc"))
                .unwrap()
                .is_some_and(|m| m.fstype == "proc")
        );
        assert_eq!(at(Path::new("/proc/self/no")).unwrap(), None);
    }
}
