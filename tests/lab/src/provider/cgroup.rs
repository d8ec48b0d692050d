//! A control group per machine: systemd in each needs one of its own, and it is what freezes a machine as a whole.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::clock::boot_ns;

const ROOT: &str = "/sys/fs/cgroup";
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Where groups of a name are: in version 2, and where version 1 is beside it also in systemd's own hierarchy.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let second = |path: &Path| {
        nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type().0 == CGROUP2_MAGIC)
    };
    let root = Path::new(ROOT);
    if second(root) {
        return Ok(vec![root.to_owned()]);
    }
    let unified = root.join("unified");
    if !second(&unified) {
        bail!("no cgroup version 2 at {ROOT} or {ROOT}/unified: the machines of this lab need one");
    }
    let named = root.join("systemd");
    Ok(if named.is_dir() {
        vec![unified, named]
    } else {
        vec![unified]
    })
}

/// A group in each hierarchy; the first is version 2. Emptied and removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes it.
    ///
    /// # Errors
    /// Not root, or no cgroup version 2.
    pub fn make(name: &str) -> Result<Self> {
        let folders: Vec<_> = hierarchies()?
            .into_iter()
            .map(|root| root.join(name))
            .collect();
        for folder in &folders {
            fs::create_dir_all(folder).with_context(|| format!("cgroup {}", folder.display()))?;
        }
        Ok(Self { folders })
    }

    /// Lets a command start inside.
    ///
    /// # Errors
    /// The group is gone.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        for folder in &self.folders {
            let path = folder.join("cgroup.procs");
            let file = OpenOptions::new().write(true).open(&path);
            let file: File = file.with_context(|| format!("{}", path.display()))?;
            // SAFETY: one system call on a descriptor that the closure holds open.
            unsafe {
                command.pre_exec(move || {
                    // "0" is whoever writes.
                    if libc::write(file.as_raw_fd(), c"0".as_ptr().cast(), 1) == 1 {
                        Ok(())
                    } else {
                        Err(std::io::Error::last_os_error())
                    }
                });
            }
        }
        Ok(())
    }

    /// Stops every process of the machine, or lets all go on. Returns the instant (boot clock, ns) before it was asked;
    /// waits until it is so.
    ///
    /// # Errors
    /// The kernel does not do it within 5 s.
    pub fn freeze(&self, frozen: bool) -> Result<u64> {
        // systemd-nspawn itself stays awake: it is beside.
        let payload = self.version2()?.join("payload");
        let at = boot_ns();
        fs::write(
            payload.join("cgroup.freeze"),
            if frozen { "1" } else { "0" },
        )?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        let end = Instant::now() + Duration::from_secs(5);
        while !fs::read_to_string(payload.join("cgroup.events"))?
            .lines()
            .any(|line| line == wanted)
        {
            if Instant::now() > end {
                bail!("{} is not \"{wanted}\" after 5 s", payload.display());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(at)
    }

    fn version2(&self) -> Result<&PathBuf> {
        self.folders.first().context("no cgroup")
    }

    /// Ends every process inside at once, and waits for it.
    pub fn kill(&self) {
        for folder in &self.folders {
            kill(folder);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        for folder in &self.folders {
            remove(folder);
        }
    }
}

/// Ends the processes of a group, by the kernel's list of them.
fn kill(folder: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    // Frozen ones, too, die of it. Version 1 has no such file: its members are in version 2 as well.
    while fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
        if events.lines().any(|line| line == "populated 0") || Instant::now() > end {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Removes a group and those below it.
fn remove(folder: &Path) {
    for below in fs::read_dir(folder).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&below.path());
        }
    }
    let end = Instant::now() + Duration::from_secs(2);
    while let Err(error) = fs::remove_dir(folder) {
        // A process that was just killed may still be leaving.
        if error.kind() == ErrorKind::NotFound || Instant::now() > end {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Groups of machines whose lab is gone, by their names: `stale` says which are. Returns the names removed.
pub fn remove_stale(stale: impl Fn(&str) -> bool) -> Vec<String> {
    let mut removed = Vec::new();
    let names = |root: &Path| -> Vec<String> {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    };
    for root in hierarchies().unwrap_or_default() {
        for name in names(&root).into_iter().filter(|name| stale(name)) {
            let folder = root.join(&name);
            kill(&folder);
            remove(&folder);
            if !removed.contains(&name) {
                removed.push(name);
            }
        }
    }
    removed
}
