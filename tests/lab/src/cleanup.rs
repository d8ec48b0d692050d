//! Leftovers of labs that were killed hard: namespaces, pins and folders whose process is gone.

use std::{fs, path::Path};

use anyhow::Result;
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

use crate::{agent::bpf_dir, lab::PREFIX, netns, provider};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Folders of pins and of files.
    pub folders: Vec<String>,
}

/// Removes what labs left whose process no longer lives. Agents and web servers died with it.
///
/// # Errors
/// Something cannot be removed.
pub fn remove_leftovers() -> Result<Removed> {
    // Machines do not die with their lab; while they live, their namespace does.
    provider::rig::remove_leftovers();
    let namespaces = names_in(Path::new(netns::NETNS_DIR));
    let mut removed = Removed {
        namespaces,
        folders: Vec::new(),
    };
    if !removed.namespaces.is_empty() {
        netns::delete(&removed.namespaces)?;
    }
    let pins = bpf_dir("");
    for folder in [pins.as_path(), std::env::temp_dir().as_path()] {
        for name in names_in(folder) {
            let path = folder.join(name);
            if path.is_dir() {
                fs::remove_dir_all(&path)?;
                removed.folders.push(path.display().to_string());
            }
        }
    }
    Ok(removed)
}

/// Names in a folder that belong to a lab whose process is gone.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_stale(name)).collect()
}

/// Whether a name belongs to a lab whose process is gone.
#[must_use]
pub fn is_stale(name: &str) -> bool {
    owner(name).is_some_and(|pid| !alive(pid))
}

/// The process id in a name such as `hl-4711-0-n1`.
fn owner(name: &str) -> Option<i32> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    let (pid, serial, rest) = (parts.next()?, parts.next()?, parts.next());
    // Pins have no third part.
    let ours = !serial.is_empty() && serial.bytes().all(|b| b.is_ascii_digit());
    if ours && rest != Some("") {
        pid.parse().ok().filter(|pid| *pid > 1)
    } else {
        None
    }
}

fn alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_are_ours() {
        assert_eq!(owner("hl-4711-0-n1"), Some(4711));
        assert_eq!(owner("hl-4711-12"), Some(4711));
        for other in [
            "hl-",
            "hl-n1",
            "hl-1-0-n1",
            "hl--3-0-n1",
            "hl-4711",
            "hl-47x-0-n1",
            "hl-47-x-n1",
            "web-4711-0",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
        assert!(alive(std::process::id().cast_signed()));
    }
}
