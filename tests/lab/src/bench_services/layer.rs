//! What the nodes have beyond the provider's image: the peers, resource agents, and clients for check scripts. A layer
//! of its own over that image, made once, so that the image of the demo stays as small as it is.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{exec, interrupt, paint::Busy, provider::image};

/// The peers and what their checks call.
const PACKAGES: &[&str] = &[
    "keepalived",
    "corosync",
    "pacemaker",
    "pacemaker-cli-utils",
    "resource-agents",
    "knot-dnsutils",
    "freeradius-utils",
    "curl",
    "sipsak",
];
/// Downloads on a slow line included.
const DEADLINE: Duration = Duration::from_secs(20 * 60);
/// Runs in a mount namespace of its own, so the mounts end with it. Arguments: image, folder, packages.
const MAKE: &str = r#"
set -e
image=$1 part=$2
shift 2
mkdir -p "$part/upper" "$part/work" "$part/root"
chmod 755 "$part/upper"
mount -t overlay overlay -o "lowerdir=$image,upperdir=$part/upper,workdir=$part/work" "$part/root"
mount -t proc proc "$part/root/proc"
# No package starts a service in here.
printf '#!/bin/sh\nexit 101\n' >"$part/root/usr/sbin/policy-rc.d"
chmod 755 "$part/root/usr/sbin/policy-rc.d"
chroot "$part/root" apt-get update
chroot "$part/root" apt-get install -y --no-install-recommends "$@"
rm -rf "$part/root/usr/sbin/policy-rc.d" "$part"/root/var/lib/apt/lists/* "$part"/root/var/cache/apt/*
# Each system's nodes enable their own.
for unit in keepalived corosync pacemaker logd; do
    rm -f "$part/root/etc/systemd/system/multi-user.target.wants/$unit.service"
done
"#;

/// The image and the layer over it.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    /// The provider's.
    pub image: PathBuf,
    /// Ours.
    pub layer: PathBuf,
}

impl Layers {
    /// The version of a package of the layer, without Debian's own part.
    pub(super) fn version(&self, package: &str) -> Option<String> {
        let text = fs::read_to_string(self.layer.join("var/lib/dpkg/status")).ok()?;
        version(&text, package)
    }
}

/// From dpkg's list.
fn version(status: &str, package: &str) -> Option<String> {
    let wanted = format!("Package: {package}");
    let entry = status
        .split("\n\n")
        .find(|entry| entry.lines().any(|line| line == wanted))?;
    let version = entry
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))?;
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    Some(
        upstream
            .rsplit_once('-')
            .map_or(upstream, |(upstream, _)| upstream)
            .to_owned(),
    )
}

/// Makes both if they are not there, which takes minutes.
///
/// # Errors
/// A download fails: the error shows the end of the log.
pub(super) fn ensure() -> Result<Layers> {
    let image = fs::canonicalize(image::ensure()?)?;
    let folder = image.parent().context("the image's folder")?;
    let name = image
        .file_name()
        .context("the image's name")?
        .to_string_lossy();
    // Another list of packages is another layer.
    let layer = folder.join(format!("{name}-peers-{:x}", sum(PACKAGES)));
    let lock = lock(&folder.join("peers-lock"))?;
    if !layer.is_dir() {
        make(&image, &layer, folder)?;
    }
    drop(lock);
    Ok(Layers { image, layer })
}

/// FNV-1a, 32 bits: any mix will do that stays the same from build to build.
fn sum(words: &[&str]) -> u32 {
    words
        .iter()
        .flat_map(|word| word.bytes().chain([0]))
        .fold(0x811c_9dc5, |sum, byte| {
            (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

/// Two labs at once make it once.
fn lock(path: &Path) -> Result<Flock<File>> {
    let mut file = Some(File::create(path)?);
    let mut held = None;
    interrupt::until(DEADLINE, Duration::from_millis(100), || {
        match file
            .take()
            .map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock))
        {
            Some(Ok(lock)) => held = Some(lock),
            Some(Err((again, _))) => file = Some(again),
            None => {}
        }
        Ok(held.is_some())
    })?;
    held.with_context(|| format!("{} is held by another lab", path.display()))
}

fn make(image: &Path, layer: &Path, folder: &Path) -> Result<()> {
    let part = layer.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let busy = Busy::with(format!(
        "adding keepalived, Pacemaker and Corosync to the nodes' image once ({})",
        layer.display()
    ));
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .args(["sh", "-c", MAKE, "sh"])
        .arg(image)
        .arg(&part)
        .args(PACKAGES)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8");
    if let (None, Some(proxy)) = (std::env::var_os("http_proxy"), image::proxy()) {
        command.env("http_proxy", proxy);
    }
    let out = exec::run(command, "", DEADLINE)?;
    drop(busy);
    let log = folder.join("peers.log");
    fs::write(&log, format!("{}{}", out.stdout, out.stderr))?;
    if out.code != Some(0) {
        let _ = fs::remove_dir_all(&part);
        let lines: Vec<_> = out.stderr.lines().rev().take(8).collect();
        let tail: Vec<_> = lines.into_iter().rev().collect();
        bail!(
            "the packages {} could not be added; end of {}:\n{}",
            PACKAGES.join(", "),
            log.display(),
            tail.join("\n")
        );
    }
    fs::rename(part.join("upper"), layer)?;
    let _ = fs::remove_dir_all(&part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_that_of_the_package() {
        let status = "Package: corosync-doc\nVersion: 9\n\nPackage: corosync\nStatus: x\n\
                      Version: 3.1.7-1+deb12u2\n\nPackage: keepalived\nVersion: 1:2.2.7-1+b2\n";
        assert_eq!(version(status, "corosync").as_deref(), Some("3.1.7"));
        assert_eq!(version(status, "keepalived").as_deref(), Some("2.2.7"));
        assert_eq!(version(status, "pacemaker"), None);
    }
}
