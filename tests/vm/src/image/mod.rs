//! What guests boot: Debian's kernel, a root file system of Debian packages, and the little that mounts it.
//!
//! Made once, kept under `target/vm`; guests share it read-only, below an overlay in their memory. What is half made has
//! another name and is never used. `cargo xtask vm image --fresh` makes it anew, with Debian's newest kernel.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use heartline_lab::{exec, interrupt, paint::Busy};
use nix::fcntl::{Flock, FlockArg};

mod elf;
mod initramfs;

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
const KERNEL: &str = "linux-image-cloud-amd64";
/// What a guest has beyond Debian's smallest.
const PACKAGES: &[&str] = &[
    "dmsetup",
    "drbd-utils",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "iputils-ping",
    "kmod",
    "nftables",
    "postgresql-15",
    "procps",
    "sqlite3",
    "xfsprogs",
];
/// Downloads on a slow line and a busy machine included.
const LONG: Duration = Duration::from_secs(30 * 60);
const SHORT: Duration = Duration::from_secs(5 * 60);

/// The files that QEMU is given.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel, unpacked: an emulated machine takes long over that.
    pub kernel: PathBuf,
    /// The initramfs: mounts the root and goes on there.
    pub initramfs: PathBuf,
    /// The root file system, ext4, never written.
    pub root: PathBuf,
    /// The kernel's release, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
}

/// Makes what is missing; quick when nothing is.
///
/// # Errors
/// A program is missing or fails: the error shows the end of its log.
pub fn ensure(fresh: bool) -> Result<Image> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the guests' image is made with debootstrap, and their network with namespaces: this needs root"
        );
    }
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
    let _lock = lock(&folder)?;
    let kernel = folder.join("kernel");
    if fresh || !kernel.is_dir() {
        fetch_kernel(&folder, &kernel)?;
    }
    let release = release(&kernel)?;
    let vmlinux = folder.join(format!("vmlinux-{release}"));
    if !vmlinux.is_file() {
        let packed = kernel.join(format!("boot/vmlinuz-{release}"));
        let bytes = fs::read(&packed).with_context(|| packed.display().to_string())?;
        let part = vmlinux.with_extension("part");
        fs::write(
            &part,
            elf::unpack(&bytes).with_context(|| packed.display().to_string())?,
        )?;
        fs::rename(part, &vmlinux)?;
    }
    let root = folder.join(format!("root-{}.ext4", sum(&release)));
    if fresh || !root.is_file() {
        make_root(&folder, &kernel, &release, &root)?;
    }
    let initramfs = initramfs::ensure(&folder, &kernel, &release)?;
    Ok(Image {
        kernel: vmlinux,
        initramfs,
        root,
        release,
    })
}

/// Below the target folder of the workspace.
fn folder() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    target.join("vm")
}

/// Two runs at once make it once.
fn lock(folder: &Path) -> Result<Flock<File>> {
    let mut file = Some(File::create(folder.join("lock"))?);
    let mut held = None;
    let busy = Busy::quiet("waiting for another run that makes the guests' image");
    interrupt::until(LONG, Duration::from_millis(100), || {
        if let Some(own) = file.take() {
            match Flock::lock(own, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => held = Some(lock),
                Err((own, _)) => file = Some(own),
            }
        }
        Ok(held.is_some())
    })?;
    drop(busy);
    held.with_context(|| {
        format!(
            "another run has been making {} for {LONG:?}",
            folder.display()
        )
    })
}

/// FNV-1a: any mix will do that stays the same from build to build.
fn sum(more: &str) -> String {
    let sum = PACKAGES
        .iter()
        .chain([&SUITE, &more])
        .flat_map(|word| word.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{:08x}", sum >> 32)
}

/// A program with its output in a log, whose end the error shows.
fn logged(mut command: Command, log: &Path, deadline: Duration) -> Result<()> {
    let name = format!("{:?}", command.get_program());
    let file = File::create(log).with_context(|| log.display().to_string())?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    exec::tie_to_lab(&mut command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut ended = None;
    let waited = interrupt::until(deadline, Duration::from_millis(50), || {
        ended = child.try_wait()?;
        Ok(ended.is_some())
    });
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    waited?;
    if ended.is_some_and(|status| status.success()) {
        return Ok(());
    }
    let text = fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<_> = text.lines().rev().take(8).collect();
    let tail: Vec<_> = tail.into_iter().rev().collect();
    let how = ended.map_or_else(
        || format!("not done after {deadline:?}"),
        |status| status.to_string(),
    );
    bail!(
        "{name}: {how}; end of {}:\n{}",
        log.display(),
        tail.join("\n")
    )
}

/// Debian's newest kernel of the flavour, unpacked and not installed.
fn fetch_kernel(folder: &Path, kernel: &Path) -> Result<()> {
    let busy = Busy::with("fetching the guests' kernel (27 MB)");
    let package = kernel_package()?;
    let part = folder.join("kernel.part");
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part)?;
    let mut download = Command::new("apt-get");
    download
        // The user _apt may not write here, and need not.
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
        .current_dir(&part);
    logged(download, &folder.join("kernel.log"), SHORT)
        .context("Debian's kernel for the guests (are the package lists there? apt-get update)")?;
    let found = fs::read_dir(&part)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"));
    let deb = found.context("apt-get download left no package")?;
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&deb).arg(&part);
    logged(unpack, &folder.join("kernel.log"), SHORT)?;
    fs::remove_file(deb)?;
    let _ = fs::remove_dir_all(kernel);
    fs::rename(&part, kernel)?;
    let mut depmod = Command::new("depmod");
    depmod.arg("-b").arg(kernel).arg(release(kernel)?);
    logged(depmod, &folder.join("kernel.log"), SHORT)?;
    drop(busy);
    Ok(())
}

/// The package that the flavour's newest version depends on.
fn kernel_package() -> Result<String> {
    let mut ask = Command::new("apt-cache");
    ask.args(["show", "--no-all-versions", KERNEL])
        .env("LC_ALL", "C.UTF-8");
    let text = exec::run_ok(ask, "", SHORT).context(
        "apt knows no kernel for the guests: they need Debian's package lists (apt-get update)",
    )?;
    text.lines()
        .find_map(|line| line.strip_prefix("Depends: ")?.split([' ', ',']).next())
        .map(str::to_owned)
        .with_context(|| format!("apt-cache show {KERNEL} names no package"))
}

fn release(kernel: &Path) -> Result<String> {
    let modules = kernel.join("lib/modules");
    let mut names = fs::read_dir(&modules)
        .with_context(|| modules.display().to_string())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .next()
        .with_context(|| format!("{} is empty", modules.display()))
}

fn make_root(folder: &Path, kernel: &Path, release: &str, image: &Path) -> Result<()> {
    let busy = Busy::with(format!(
        "making the root file system of the guests once ({}), some minutes",
        image.display()
    ));
    let tree = folder.join("root.part");
    if tree.exists() {
        // Nothing is mounted in it: debootstrap's mounts ended with the namespace that it ran in.
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    // With a process namespace of its own: what a package starts (PostgreSQL does) ends with it.
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
        ])
        .args(["--", "debootstrap", "--variant=minbase"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(SUITE)
        .arg(&tree)
        .arg(MIRROR)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8");
    let log = folder.join("debootstrap.log");
    logged(command, &log, LONG)?;
    for waste in [
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/locale",
        "usr/share/man",
    ] {
        let _ = fs::remove_dir_all(tree.join(waste));
    }
    fs::write(tree.join("etc/machine-id"), "")?;
    busy.say("the root file system of the guests: modules");
    let mut copy = Command::new("cp");
    copy.arg("-a")
        .arg(kernel.join("lib/modules").join(release))
        .arg(tree.join("lib/modules/"));
    fs::create_dir_all(tree.join("lib/modules"))?;
    logged(copy, &folder.join("root.log"), SHORT)?;
    busy.say("the root file system of the guests: file system");
    let part = image.with_extension("part");
    make_ext4(&tree, &part, 2048, &folder.join("root.log"))?;
    fs::rename(&part, image)?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    // Of other packages or another kernel: nobody will ask for it again, and who runs with it has it open.
    for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("root-") && name.ends_with(".ext4") && entry.path() != image {
            fs::remove_file(entry.path())?;
        }
    }
    drop(busy);
    Ok(())
}

/// A file with an ext4 file system that holds a folder's content; sparse, `megabytes` large.
///
/// # Errors
/// mke2fs is missing or the content does not fit.
pub fn make_ext4(from: &Path, to: &Path, megabytes: u64, log: &Path) -> Result<()> {
    let _ = fs::remove_file(to);
    File::create(to)?.set_len(megabytes << 20)?;
    let mut make = Command::new("mke2fs");
    make.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-O",
        "^has_journal",
        "-m",
        "0",
        "-d",
    ])
    .arg(from)
    .arg(to);
    logged(make, log, SHORT)
}
