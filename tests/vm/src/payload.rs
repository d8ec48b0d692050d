//! The second disk of a guest: the programs that are being tried, as they were just built.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use heartline_lab::{agent, exec};

use crate::image;

const INIT: &str = include_str!("files/guest-init");
const SCRIPTS: &[(&str, &str)] = &[
    ("drbd-ctl", include_str!("files/drbd-ctl")),
    ("postgres-ctl", include_str!("files/postgres-ctl")),
    ("rows-ctl", include_str!("files/rows-ctl")),
];
const PROGRAMS: &[&str] = &["heartline-guest", "fence_heartline_qmp"];
const MEGABYTES: u64 = 128;
const DEADLINE: Duration = Duration::from_secs(60);

/// Makes the disk in a folder: `/opt/heartline` of the guests.
///
/// # Errors
/// A program was not built, or a tool is missing.
pub fn make(folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("payload");
    let programs = tree.join("bin");
    fs::create_dir_all(&programs)?;
    put(&tree.join("init"), INIT)?;
    for (name, text) in SCRIPTS {
        put(&programs.join(name), text)?;
    }
    strip(&agent::binary()?, &programs.join("heartline"))?;
    for name in PROGRAMS {
        strip(&beside(name)?, &programs.join(name))?;
    }
    let disk = folder.join("payload.ext4");
    image::make_ext4(&tree, &disk, MEGABYTES, &folder.join("payload.log"))?;
    fs::remove_dir_all(tree)?;
    Ok(disk)
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Without what only a debugger reads: a guest loads it over an emulated disk.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("strip");
    command.arg("-o").arg(to).arg(from);
    exec::run_ok(command, "", DEADLINE)
        .map(drop)
        .with_context(|| format!("strip {} (package binutils)", from.display()))
}

/// A program of this package: beside this one, or in its parent folder (cargo puts tests into `deps`).
fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `{name}` beside {}: build it (cargo build -p heartline-vm)",
                own.display()
            )
        })
}
