//! A machine's files: put there before it boots, as a package or an administrator would; some while it runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::stat::{Mode, SFlag, mknod};

use super::machine::Machine;

impl Machine {
    /// Puts a file onto its disk, before the first boot.
    ///
    /// # Errors
    /// The disk of the lab is full, say.
    pub fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let path = self.place(path)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Copies a file onto its disk, with its mode, before the first boot.
    ///
    /// # Errors
    /// As [`Machine::write`].
    pub fn copy(&self, from: &Path, path: &str) -> Result<()> {
        let path = self.place(path)?;
        fs::copy(from, &path).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    /// Makes a symbolic link on its disk, before the first boot.
    ///
    /// # Errors
    /// As [`Machine::write`].
    pub fn link(&self, path: &str, target: &str) -> Result<()> {
        Ok(std::os::unix::fs::symlink(target, self.place(path)?)?)
    }

    /// Takes a file of the image off its disk, before the first boot.
    ///
    /// # Errors
    /// As [`Machine::write`].
    pub fn remove(&self, path: &str) -> Result<()> {
        // overlayfs, "whiteouts and opaque directories": such a device hides what lies below.
        let place = self.place(path)?;
        mknod(&place, SFlag::S_IFCHR, Mode::empty(), 0)
            .with_context(|| format!("whiteout {}", place.display()))
    }

    /// A file of the image.
    ///
    /// # Errors
    /// There is none.
    pub fn from_image(&self, path: &str) -> Result<String> {
        let path = inside(&self.image, path)?;
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Where a file of its own lies, with the folders above it, open to all as Debian's are.
    fn place(&self, path: &str) -> Result<PathBuf> {
        let place = inside(&self.dir.join("upper"), path)?;
        let upper = self.dir.join("upper");
        let folders: Vec<_> = place
            .ancestors()
            .skip(1)
            .take_while(|folder| *folder != upper)
            .collect();
        for folder in folders.into_iter().rev().filter(|folder| !folder.is_dir()) {
            fs::create_dir(folder)?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        // Writing through a link would follow it on the host.
        if place.is_symlink() {
            bail!("{} is a link already", place.display());
        }
        Ok(place)
    }

    /// A file of its own as it is on its disk, on or off; empty if there is none.
    #[must_use]
    pub fn disk(&self, path: &str) -> String {
        let place = inside(&self.dir.join("upper"), path);
        place
            .ok()
            .and_then(|place| fs::read_to_string(place).ok())
            .unwrap_or_default()
    }

    /// Writes a file while it runs, as somebody there would.
    ///
    /// # Errors
    /// As [`Machine::run_ok`].
    pub fn put(&self, path: &str, text: &str) -> Result<()> {
        let script = "mkdir -p \"$(dirname \"$0\")\" && printf %s \"$1\" >\"$0\"";
        self.run_ok(&["sh", "-c", script, path, text]).map(drop)
    }
}

/// A path of the machine, below a folder of ours. Anything that could lead out of the folder is refused: joined to it,
/// an absolute path would name a file of the host.
fn inside(folder: &Path, path: &str) -> Result<PathBuf> {
    let relative = path
        .strip_prefix('/')
        .context("a machine's paths begin with /")?;
    let mut place = folder.to_owned();
    for part in Path::new(relative).components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => {
                bail!("{path} is no plain path")
            }
        }
    }
    if place == folder {
        bail!("{path} names no file");
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_files_stay_on_its_own_disk() {
        let folder = Path::new("/lab/upper");
        let place = |path: &str| inside(folder, path).ok();
        assert_eq!(
            place("/etc/hosts"),
            Some(PathBuf::from("/lab/upper/etc/hosts"))
        );
        for path in [
            "/",
            "",
            "etc/hosts",
            "//etc/hosts",
            "/../etc/hosts",
            "/etc/../../hosts",
        ] {
            assert_eq!(place(path), None, "{path:?}");
        }
    }
}
