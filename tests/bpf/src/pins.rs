//! A pin directory of the test's own, removed when the test ends, however it ends.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "heartline-test-";

/// A directory below `/sys/fs/bpf`.
pub struct PinDir(PathBuf);

impl PinDir {
    /// A fresh one.
    ///
    /// # Panics
    /// Without root, or if no BPF file system can be mounted: these tests prove nothing then.
    pub fn new() -> PinDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static READY: Once = Once::new();
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "the eBPF tests need root: they load programs into the kernel"
        );
        READY.call_once(|| {
            mount_bpffs();
            sweep();
        });
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(BPFFS).join(format!("{PREFIX}{}-{n}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        PinDir(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for PinDir {
    fn default() -> PinDir {
        PinDir::new()
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mount_bpffs() {
    if statfs(BPFFS).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC) {
        return;
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap_or_else(|e| panic!("cannot mount a BPF file system on {BPFFS}: {e}"));
}

/// Removes what a killed run left behind; a directory whose process lives is somebody else's.
fn sweep() {
    let Ok(entries) = fs::read_dir(BPFFS) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let pid = entry.file_name().to_str().and_then(|n| {
            let (pid, _) = n.strip_prefix(PREFIX)?.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        if pid.is_some_and(|p| !Path::new("/proc").join(OsStr::new(&p.to_string())).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
