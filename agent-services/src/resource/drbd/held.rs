//! Who keeps a DRBD device open.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use nix::sys::stat::{major, minor};
use procfs::process::{FDTarget, all_processes};

/// The major number of DRBD's devices (Documentation/admin-guide/devices.txt).
const MAJOR: u64 = 147;
/// So many are named.
const NAMED: usize = 8;
/// Looking through /proc takes some ms; no longer than this.
const LOOK: Duration = Duration::from_secs(2);

/// ": mounted at /srv; process 12 (postgres)", or empty if nobody was seen.
pub(super) async fn by_whom(minors: Vec<u32>) -> String {
    let look = tokio::task::spawn_blocking(move || find(&minors));
    let who = match tokio::time::timeout(LOOK, look).await {
        Ok(Ok(who)) => who,
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    if who.is_empty() {
        ", by no process that was seen (LVM, dm-crypt or an export on it would do so)".into()
    } else {
        format!(": {}", who.join("; "))
    }
}

fn find(minors: &[u32]) -> Vec<String> {
    let is_ours =
        |rdev: u64| major(rdev) == MAJOR && minors.iter().any(|m| u64::from(*m) == minor(rdev));
    let mut who = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(numbers), Some(point)) = (fields.nth(2), fields.nth(1)) else {
            continue;
        };
        let ours = numbers.split_once(':').is_some_and(|(major, minor)| {
            major == "147" && minors.iter().any(|m| m.to_string() == minor)
        });
        if ours {
            who.push(format!("mounted at {point}"));
        }
    }
    for process in all_processes().into_iter().flatten().flatten() {
        let opens = process.fd().into_iter().flatten().flatten().any(|fd| {
            let FDTarget::Path(path) = &fd.target else {
                return false;
            };
            path.starts_with("/dev") && is_device(path, is_ours)
        });
        if opens {
            let name = process.stat().map_or_else(|_| "?".into(), |s| s.comm);
            who.push(format!("process {} ({name})", process.pid));
        }
        if who.len() >= NAMED {
            who.push("perhaps more".into());
            break;
        }
    }
    who
}

fn is_device(path: &Path, is_ours: impl Fn(u64) -> bool) -> bool {
    fs::metadata(path).is_ok_and(|m| is_ours(m.rdev()))
}
