//! The initramfs: busybox, the modules that reach the disks, and a script that goes on in the root file system.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use heartline_lab::exec;

const BUSYBOX: &str = "/bin/busybox";
const INIT: &str = include_str!("../files/init");
/// What is needed to reach the root; all else the root's modprobe loads. (ext4 is built in.)
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "overlay"];
const DEADLINE: Duration = Duration::from_secs(60);

/// Made anew each time, under one name per content: it takes no time.
pub(super) fn ensure(folder: &Path, kernel: &Path, release: &str) -> Result<PathBuf> {
    let modules = kernel.join("lib/modules").join(release);
    let dependencies = fs::read_to_string(modules.join("modules.dep"))
        .with_context(|| format!("{}/modules.dep", modules.display()))?;
    let order = order(&dependencies, MODULES)?;
    let target = folder.join(format!(
        "initramfs-{}",
        super::sum(&format!("{release}{INIT}{order:?}"))
    ));
    if target.is_file() {
        return Ok(target);
    }
    let tree = tempfile::tempdir_in(folder)?;
    for name in ["bin", "dev", "modules", "proc", "sys", "ro", "rw", "new"] {
        fs::create_dir(tree.path().join(name))?;
    }
    fs::copy(BUSYBOX, tree.path().join("bin/busybox"))
        .with_context(|| format!("{BUSYBOX} (package busybox-static)"))?;
    for (number, module) in order.iter().enumerate() {
        fs::copy(
            modules.join(module),
            tree.path().join(format!("modules/{number:02}.ko")),
        )?;
    }
    let init = tree.path().join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let part = target.with_extension("part");
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | cpio -o -H newc --quiet > \"$0\""])
        .arg(&part)
        .current_dir(tree.path());
    exec::run_ok(pack, "", DEADLINE).context("cpio (package cpio)")?;
    fs::rename(part, &target)?;
    Ok(target)
}

/// The files of modules in the order in which they can be inserted, from modules.dep (modules.dep(5)).
fn order(dependencies: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    for name in wanted {
        let file = format!("/{name}.ko");
        let (module, needs) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(module, _)| module.ends_with(&file))
            .with_context(|| format!("the kernel has no module {name}"))?;
        // The first one that is needed is named last.
        let needs = needs.split_whitespace().rev();
        for one in needs.chain([module]) {
            if done.insert(one.to_owned()) {
                order.push(one.to_owned());
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let text = "k/virtio.ko:\nk/virtio_ring.ko: k/virtio.ko\nk/virtio_pci.ko: k/virtio_ring.ko k/virtio.ko\n\
                    k/virtio_blk.ko: k/virtio_ring.ko k/virtio.ko\n";
        let order = order(text, &["virtio_pci", "virtio_blk"]).expect("an order");
        assert_eq!(
            order,
            [
                "k/virtio.ko",
                "k/virtio_ring.ko",
                "k/virtio_pci.ko",
                "k/virtio_blk.ko"
            ]
        );
        assert!(super::order(text, &["drbd"]).is_err());
    }
}
