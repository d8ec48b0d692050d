//! Split brains that were seen. DRBD itself forgets: after one it is StandAlone, as after `drbdadm disconnect`.
//!
//! Its `split-brain` handler (`heartline drbd split-brain`) leaves a file, whether or not the agent runs. The file
//! counts while a peer is not connected; a connection ends it. A reboot forgets it, and DRBD calls the handler again
//! when it connects.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::state::{Connection, ResourceState, Role};

/// Where they are.
pub const FOLDER: &str = "/run/heartline";

fn path(folder: &Path, name: &str) -> Option<PathBuf> {
    // It comes from the environment of a handler.
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
    let plain = !name.is_empty() && name.len() < 128 && name.chars().all(good);
    plain.then(|| folder.join(format!("split-brain.{name}")))
}

/// Notes one.
///
/// # Errors
/// The file cannot be written, or the name is none.
pub fn note(folder: &Path, name: &str) -> io::Result<()> {
    let path = path(folder, name).ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    fs::write(path, b"")
}

/// Adds what is noted to what DRBD says now, and forgets it if that is over.
pub fn recall(folder: &Path, name: &str, state: &mut ResourceState) {
    let Some(path) = path(folder, name).filter(|p| p.exists()) else {
        return;
    };
    // 8.4 is Connected for a moment before it finds out; then the peer has not said yet what it is.
    let over = !state.peers.is_empty()
        && state
            .peers
            .values()
            .all(|p| p.connection == Connection::Connected && p.role != Role::Unknown);
    if over {
        // Left behind, it counts for nothing until the next loss of the connection; then somebody looks once more.
        let _ = fs::remove_file(path);
    } else {
        state.split_brain = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::drbd::events::Book;

    fn state(connection: &str, role: &str) -> ResourceState {
        let text = format!(
            "exists connection name:r0 peer-node-id:0 connection:{connection} role:{role}\nexists -"
        );
        Book::read(text.as_bytes()).resources.remove("r0").unwrap()
    }

    #[test]
    fn noted_until_connected() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new");
        let seen = |connection, role| {
            let mut s = state(connection, role);
            recall(&folder, "r0", &mut s);
            s.split_brain
        };
        assert!(!seen("StandAlone", "Unknown"));
        note(&folder, "r0").unwrap();
        assert!(
            seen("StandAlone", "Unknown")
                && seen("Connecting", "Unknown")
                && seen("Connected", "Unknown")
        );
        assert!(!seen("Connected", "Secondary"));
        assert!(!seen("StandAlone", "Unknown"), "forgotten");
        for wrong in ["", "../x", "a/b", "a b"] {
            assert!(note(&folder, wrong).is_err());
        }
    }
}
