//! Who keeps a file system from being unmounted: what fuser(1) and lsof(8) would say.

use std::{
    collections::BTreeMap,
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::{major, minor},
    },
    unistd::Pid,
};
use procfs::process::{MMapPath, Process, all_processes};

use super::mounts::{self, Mount};

/// A process that holds something open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub pid: i32,
    pub command: String,
    /// How, and what: `cwd /srv/data`, `fd 3 /srv/data/log`.
    pub what: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}): {}", self.pid, self.command, self.what)
    }
}

/// All that hold something below a mount open, and all mounts on top of it.
pub(super) fn find(mount: &Mount) -> (Vec<Holder>, Vec<PathBuf>) {
    let above = mounts::of("self")
        .unwrap_or_default()
        .into_iter()
        .map(|m| m.point)
        .filter(|p| *p != mount.point && p.starts_with(&mount.point))
        .collect();
    // In other namespaces the same path is another place; what they have of ours does not keep it from being unmounted.
    let own = namespace("self");
    let holders = all_processes()
        .into_iter()
        .flatten()
        .flatten()
        .filter(|process| namespace(&process.pid.to_string()) == own)
        .filter_map(|process| {
            let what = uses(&process, mount)?;
            Some(Holder {
                pid: process.pid,
                command: command(&process),
                what,
            })
        })
        .collect();
    (holders, above)
}

fn namespace(pid: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()
}

fn command(process: &Process) -> String {
    process.stat().map_or_else(|_| "?".into(), |s| s.comm)
}

/// The first thing of a mount that a process uses.
fn uses(process: &Process, mount: &Mount) -> Option<String> {
    let below = |path: &Path| path.starts_with(&mount.point);
    for (kind, path) in [
        ("cwd", process.cwd()),
        ("root", process.root()),
        ("program", process.exe()),
    ] {
        if let Ok(path) = path
            && below(&path)
        {
            return Some(format!("{kind} {}", path.display()));
        }
    }
    for fd in process.fd().into_iter().flatten().flatten() {
        if let procfs::process::FDTarget::Path(path) = &fd.target
            && below(path)
        {
            return Some(format!("fd {} {}", fd.fd, path.display()));
        }
    }
    process
        .maps()
        .ok()?
        .into_iter()
        .find_map(|map| match map.pathname {
            MMapPath::Path(path) if below(&path) => Some(format!("mapped {}", path.display())),
            _ => None,
        })
}

/// Other mount namespaces in which a file system of a block device is still mounted: one process of each.
///
/// Not asked while this namespace has it mounted elsewhere, too: then it is in use on purpose.
pub(super) fn elsewhere(device: (u32, u32)) -> Vec<Holder> {
    if device.0 == 0 {
        return Vec::new();
    }
    let own = namespace("self");
    let holds = |pid: &str| {
        mounts::of(pid)
            .ok()?
            .into_iter()
            .find(|m| m.device == device)
    };
    if holds("self").is_some() {
        return Vec::new();
    }
    let mut seen = BTreeMap::new();
    for process in all_processes().into_iter().flatten().flatten() {
        let pid = process.pid.to_string();
        if let Some(space) = namespace(&pid)
            && Some(&space) != own.as_ref()
        {
            seen.entry(space).or_insert(process);
        }
    }
    seen.into_values()
        .filter_map(|process| {
            let mount = holds(&process.pid.to_string())?;
            Some(Holder {
                pid: process.pid,
                command: command(&process),
                what: format!(
                    "mounted in its mount namespace at {}",
                    mount.point.display()
                ),
            })
        })
        .collect()
}

/// Sends a signal to all of them but to ourselves and to init.
pub(super) fn signal(holders: &[Holder], signal: Signal) {
    let own = Pid::this();
    for holder in holders {
        let pid = Pid::from_raw(holder.pid);
        if pid != own && holder.pid > 1 {
            // It may have ended by itself.
            let _ = kill(pid, signal);
        }
    }
}

/// Major and minor number of the block device that a path stands for.
pub(super) fn block_device(path: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::FileTypeExt as _;
    let meta = std::fs::metadata(path).ok()?;
    let number = |n: u64| u32::try_from(n).ok();
    meta.file_type()
        .is_block_device()
        .then(|| Some((number(major(meta.rdev()))?, number(minor(meta.rdev()))?)))?
}
