//! The image: Debian with systemd and the provider's services, made once by debootstrap and kept under `target`.
//!
//! Nodes mount it read-only below an overlay of their own, so it never changes. One that is half made has another name
//! and is never used.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::{exec, interrupt, paint::Busy};

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
/// What a node has beyond Debian's smallest.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "netbase",
    "unbound",
    "freeradius",
    "nginx-light",
    "kamailio",
    // How one node reaches another in `heartline maintain`.
    "openssh-server",
];
/// Downloads on a slow line included.
const DEADLINE: Duration = Duration::from_secs(20 * 60);

/// The folder of the image; made if it is not there, which takes minutes.
///
/// # Errors
/// debootstrap is missing or fails: the error shows the end of its log.
pub fn ensure() -> Result<PathBuf> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("folder {}", folder.display()))?;
    let image = folder.join(name());
    let lock = File::create(folder.join("lock"))?;
    // Two labs at once make it once.
    let busy = Busy::quiet("waiting for another lab that makes the image");
    let mut lock = Some(lock);
    let mut held = None;
    interrupt::until(DEADLINE, Duration::from_millis(100), || {
        let Some(file) = lock.take() else {
            return Ok(true);
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(flock) => held = Some(flock),
            Err((file, _)) => lock = Some(file),
        }
        Ok(held.is_some())
    })?;
    drop(busy);
    if held.is_none() {
        bail!(
            "another lab has been making {} for {DEADLINE:?}",
            image.display()
        );
    }
    if image.is_dir() {
        return Ok(image);
    }
    make(&folder, &image)?;
    Ok(image)
}

/// Below the target folder of the workspace.
fn folder() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    target.join("provider")
}

/// Another list of packages is another image.
fn name() -> String {
    // FNV-1a: any mix will do that stays the same from build to build.
    let sum = PACKAGES
        .iter()
        .flat_map(|package| package.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{SUITE}-{:08x}", sum >> 32)
}

fn make(folder: &Path, image: &Path) -> Result<()> {
    let part = image.with_extension("part");
    if part.exists() {
        // Nothing is mounted in it: debootstrap's mounts ended with the namespace that it ran in.
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let log_path = folder.join("debootstrap.log");
    let log = File::create(&log_path)?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--", "debootstrap"])
        .args([
            "--variant=minbase",
            &format!("--include={}", PACKAGES.join(",")),
        ])
        .arg(SUITE)
        .arg(&part)
        .arg(mirror())
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8");
    if let (None, Some(proxy)) = (env::var_os("http_proxy"), proxy()) {
        command.env("http_proxy", proxy);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?);
    command.process_group(0);
    let busy = Busy::with(format!(
        "making the image of the nodes once ({}), some minutes",
        image.display()
    ));
    let mut child = command
        .spawn()
        .context("cannot start unshare (util-linux)")?;
    let out = child.stdout.take();
    let done = std::thread::scope(|scope| {
        scope.spawn(|| tell(out, log, &busy));
        await_end(&mut child)
    });
    drop(busy);
    if let Err(error) = done {
        let text = fs::read_to_string(&log_path).unwrap_or_default();
        let tail: Vec<_> = text.lines().rev().take(8).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        // What is left lies under the name of a half-made one.
        let _ = fs::remove_dir_all(&part);
        return Err(error.context(format!(
            "debootstrap; end of {}:\n{}",
            log_path.display(),
            tail.join("\n")
        )));
    }
    // Debian's archives are in the packages now.
    let _ = fs::remove_dir_all(part.join("var/cache/apt/archives"));
    let _ = fs::remove_dir_all(part.join("var/lib/apt/lists"));
    // Every node gets its own.
    fs::write(part.join("etc/machine-id"), "")?;
    fs::rename(&part, image).with_context(|| format!("cannot name {}", image.display()))
}

/// Shows what debootstrap does, and logs it.
fn tell(out: Option<impl std::io::Read>, mut log: File, busy: &Busy) {
    use std::io::Write as _;
    for line in out
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
        .map_while(Result::ok)
    {
        let _ = writeln!(log, "{line}");
        if let Some(step) = line.strip_prefix("I: ") {
            busy.say(format!(
                "making the image of the nodes once: {}",
                step.to_lowercase()
            ));
        }
    }
}

fn await_end(child: &mut Child) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    let ended = loop {
        if let Some(ended) = exec::wait(child, Duration::from_millis(100))? {
            break Ok(ended);
        }
        if let Err(error) = interrupt::check() {
            break Err(error);
        }
        if Instant::now() > end {
            break Err(anyhow::anyhow!("not done after {DEADLINE:?}"));
        }
    };
    match ended {
        Ok(Some(0)) => Ok(()),
        Ok(code) => bail!("it ended with {code:?}"),
        Err(error) => {
            // The group that we made for it.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = exec::wait(child, Duration::from_secs(5));
            Err(error)
        }
    }
}

/// Where this machine gets the same release from, if it does.
fn mirror() -> String {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]);
    let said = exec::run(command, "", Duration::from_secs(10)).map(|out| out.stdout);
    said.ok()
        .and_then(|text| listed(&text))
        .unwrap_or_else(|| MIRROR.to_owned())
}

/// The first plain archive of the release.
fn listed(text: &str) -> Option<String> {
    let suffix = format!(" {SUITE} main");
    let uri = text.lines().find_map(|line| line.strip_suffix(&suffix))?;
    let plain = ["http://", "https://"]
        .iter()
        .any(|scheme| uri.starts_with(scheme));
    plain.then(|| uri.trim_end_matches('/').to_owned())
}

/// The proxy that apt goes through.
pub(crate) fn proxy() -> Option<OsString> {
    let mut command = Command::new("apt-config");
    command.args(["dump", "--format", "%v%n", "Acquire::http::Proxy"]);
    let out = exec::run(command, "", Duration::from_secs(10)).ok()?;
    let proxy = out.stdout.lines().next()?.trim().to_owned();
    (!proxy.is_empty() && proxy != "DIRECT").then(|| proxy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let text = "http://mirror.example/debian-security/ bookworm-security main\n\
                    http://mirror.example/debian/ bookworm main\n";
        assert_eq!(
            listed(text).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(listed("cdrom:[x]/ bookworm main\n"), None);
        assert_eq!(listed("http://mirror.example/debian/ trixie main\n"), None);
    }
}
