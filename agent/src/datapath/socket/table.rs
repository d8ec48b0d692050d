//! The shared table of this data path: a file in the run directory, mapped. A killed agent leaves its promises and its
//! incarnation there, as pinned maps would; a reboot, or anybody who removes the file, makes the state fresh (rule 1).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use agent_common::state::{LAYOUT, Shared};

use crate::datapath::Table;

/// Where it is below the run directory.
pub const NAME: &str = "table";

/// Room for the table, in whole pages; the mark is behind it.
const ROOM: usize = size_of::<Shared>().next_multiple_of(4096);
const MARK: usize = 256;

/// The file of the table.
pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(NAME)
}

/// Opens or makes the table; true if it is fresh.
///
/// # Errors
/// The file cannot be made, or mapped.
pub fn open(run_dir: &Path) -> io::Result<(Table, bool)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path(run_dir))?;
    let mark = mark();
    // Without a boot id nothing can be known of the table's age.
    if !mark.is_some_and(|m| fits(&file, &m).unwrap_or(false)) {
        // Another boot's times mean nothing here.
        file.set_len(0)?;
        file.set_len((ROOM + MARK) as u64)?;
        file.write_all_at(&mark.unwrap_or([0; MARK]), ROOM as u64)?;
    }
    let table = Table::map(file.as_fd())?;
    let fresh = table.layout.load() != LAYOUT;
    Ok((table, fresh))
}

/// Removes the table: what it stood for was another's meanwhile.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(run_dir: &Path) -> io::Result<()> {
    match fs::remove_file(path(run_dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What the table's times belong to: this boot, and this time namespace (time_namespaces(7)).
fn mark() -> Option<[u8; MARK]> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let clocks = fs::read_link("/proc/self/ns/time")
        .map(|p| p.display().to_string())
        .unwrap_or_default();
    let text = format!("{LAYOUT:x} {} {clocks}", boot.trim());
    let mut mark = [0; MARK];
    for (to, from) in mark.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Some(mark)
}

fn fits(file: &File, mark: &[u8; MARK]) -> io::Result<bool> {
    if file.metadata()?.len() != (ROOM + MARK) as u64 {
        return Ok(false);
    }
    let mut found = [0; MARK];
    file.read_exact_at(&mut found, ROOM as u64)?;
    Ok(found == *mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_outlives_its_agent_but_not_its_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (table, fresh) = open(dir.path()).unwrap();
        assert!(fresh);
        table.incarnation.store(7);
        table.layout.store(LAYOUT);
        let (again, fresh) = open(dir.path()).unwrap();
        assert!(!fresh && again.incarnation.load() == 7);
        // Another boot has another mark.
        let file = OpenOptions::new()
            .write(true)
            .open(path(dir.path()))
            .unwrap();
        file.write_all_at(b"x", ROOM as u64).unwrap();
        let (other, fresh) = open(dir.path()).unwrap();
        assert!(fresh && other.incarnation.load() == 0);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert!(open(dir.path()).unwrap().1);
    }
}
