//! The speed of the code itself: what a packet costs in the kernel, and how punctual the real-time thread is.

pub mod jitter;
pub mod xdp;

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::bench::folder;

/// Writes a result into the bench's folder.
fn save(name: &str, value: &impl serde::Serialize) -> Result<std::path::PathBuf> {
    save_text(name, &serde_json::to_string_pretty(value)?)
}

fn save_text(name: &str, text: &str) -> Result<std::path::PathBuf> {
    let folder = folder();
    std::fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The processor's and the kernel's name, for people who compare.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel =
        std::fs::read_to_string(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    format!("{count} x {cpu}, kernel {}", kernel.trim())
}
