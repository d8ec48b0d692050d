//! Which pins are ours. aya adopts whatever lies at a map's path, and what is removed must never be somebody else's.

use std::{ffi::OsStr, io, path::Path};

use agent_common::{keys::Keys, state::Shared};
use aya::maps::{MapData, MapError, MapInfo, MapType};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::LoadError;

/// Name, type, key size and value size of each pinned map. How many entries fit may differ between versions.
const MAPS: [(&str, MapType, u32, u32); 7] = [
    ("STATE", MapType::Array, 4, size_of::<Shared>() as u32),
    ("KEYS", MapType::Array, 4, size_of::<Keys>() as u32),
    ("VIPS", MapType::Hash, 16, 4),
    ("VMACS", MapType::Hash, 8, 4),
    ("LINKS", MapType::Hash, 16, 4),
    ("EVENTS", MapType::RingBuf, 0, 0),
    ("COUNTERS", MapType::PerCpuArray, 4, 8),
];

/// Is this the name of a directory that the loader makes, `v` and a layout number in hex?
pub(super) fn is_layout(name: &OsStr) -> bool {
    let number = name.to_str().and_then(|n| n.strip_prefix('v'));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Has any version of the agent pinned something below this directory?
pub fn has_pins(bpf_dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(bpf_dir) else {
        return false;
    };
    entries
        .filter_map(Result::ok)
        .any(|e| is_layout(&e.file_name()) && e.path().join("maps").join("STATE").exists())
}

/// Refuses a directory that cannot hold pins: nothing in it is ours to remove, either.
///
/// # Errors
/// Not a BPF file system.
pub(super) fn check_file_system(dir: &Path) -> Result<(), LoadError> {
    let refused = |source| LoadError::PinDir {
        path: dir.to_owned(),
        source,
    };
    let found = statfs(dir).map_err(|e| refused(e.into()))?;
    if found.filesystem_type() != BPF_FS_MAGIC {
        return Err(refused(io::Error::other("not on a BPF file system")));
    }
    Ok(())
}

/// Refuses pins in `dir` that are not the maps they should be; one that is missing will be made.
///
/// # Errors
/// The path of the first that is something else.
pub(super) fn check(dir: &Path) -> Result<(), LoadError> {
    for (name, kind, key, value) in MAPS {
        let path = dir.join(name);
        if !path.try_exists().unwrap_or(true) {
            continue;
        }
        let foreign = |found: String| LoadError::ForeignPin {
            path: path.clone(),
            found,
        };
        let info = info(&path).map_err(|e| foreign(format!("no map that can be opened ({e})")))?;
        let found = (
            info.map_type().map_err(|e| foreign(e.to_string()))?,
            info.key_size(),
            info.value_size(),
        );
        if found != (kind, key, value) {
            let (kind, key, value) = found;
            return Err(foreign(format!(
                "a map of type {kind:?} with keys of {key} and values of {value} bytes"
            )));
        }
    }
    Ok(())
}

fn info(path: &Path) -> io::Result<MapInfo> {
    let of = |e: MapError| io::Error::other(anyhow::Error::from(e).root_cause().to_string());
    MapData::from_pin(path).and_then(|m| m.info()).map_err(of)
}
