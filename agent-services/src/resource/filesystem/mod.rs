//! File systems.
//!
//! Mounted and unmounted by mount(8) and umount(8), not by mount(2): `UUID=`, `LABEL=`, `loop`, options that are not
//! the kernel's (`nofail`, `x-…`, `_netdev`), and the helpers of NFS, CIFS, GlusterFS or FUSE are theirs, and a process
//! that hangs on a dead server can be given up, a thread not. Looked at in `/proc/self/mountinfo`, which asks no
//! server. Never unmounted lazily: a lazy unmount says "done" while the data is still being written.

mod holders;
mod mounts;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use self::{holders::Holder, mounts::Mount};
use super::{Failure, Kind, Resource, State, no_answer};
use crate::command::{Ended, Run, RunError, find};

/// Of those who hold a mount point open so many are named.
const NAMED: usize = 8;
/// How long they have to end after SIGTERM.
const TERM: Duration = Duration::from_secs(5);
/// How long the kernel may take to let go of what they held, after they have ended.
const KILL: Duration = Duration::from_secs(5);
/// How long translating a label or looking into /proc may take.
const LOOK: Duration = Duration::from_secs(5);

/// What is configured.
struct Wanted<'a> {
    resource: &'a Resource,
    device: &'a str,
    point: PathBuf,
    fstype: &'a str,
    options: &'a str,
    kill_holders: bool,
}

impl<'a> Wanted<'a> {
    async fn of(resource: &'a Resource) -> Option<Wanted<'a>> {
        match &resource.kind {
            Kind::Filesystem {
                device,
                mount,
                fstype,
                options,
                kill_holders,
            } => {
                // As the kernel writes it. Only the folder above is looked at: the mount point itself may be of a
                // server that does not answer.
                let mount = mount.clone();
                let path = mount.clone();
                let point = aside(format!("finding {}", path.display()), move || {
                    let parent = mount.parent()?.canonicalize().ok()?;
                    Some(parent.join(mount.file_name()?))
                })
                .await
                .ok()
                .flatten()
                .unwrap_or(path);
                Some(Wanted {
                    resource,
                    device,
                    point,
                    fstype,
                    options,
                    kill_holders: *kill_holders,
                })
            }
            Kind::Systemd { .. }
            | Kind::Exec { .. }
            | Kind::Ocf { .. }
            | Kind::Drbd { .. }
            | Kind::Domain(_) => None,
        }
    }

    fn option(&self, name: &str) -> bool {
        self.options.split(',').any(|o| o == name)
    }

    /// Is this mount the one that is wanted?
    async fn is(&self, mount: &Mount) -> bool {
        let type_differs = !self.fstype.is_empty()
            && !matches!(self.fstype, "auto" | "none")
            // nfs is mounted as nfs4, fuse as fuse.NAME.
            && !mount.fstype.starts_with(self.fstype)
            && !self.fstype.starts_with(&mount.fstype);
        if type_differs {
            return false;
        }
        if mount.source.as_os_str() == self.device || self.option("bind") || self.option("rbind") {
            return true;
        }
        let Some(path) = self.device_path().await else {
            // No block device: an NFS export's name may be written in more ways than one.
            let plain = |text: &[u8]| {
                let mut text = text.to_vec();
                while text.last() == Some(&b'/') {
                    text.pop();
                }
                text
            };
            return plain(mount.source.as_os_str().as_bytes()) == plain(self.device.as_bytes());
        };
        let source = mount.source.clone();
        let numbers = mount.device;
        aside(format!("looking at {}", self.device), move || {
            let wanted = holders::block_device(&path);
            let same = |a: &Path, b: &Path| {
                matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
            };
            wanted == Some(numbers) || same(&source, &path) || is_loop_of(&source, &path)
        })
        .await
        .unwrap_or(false)
    }

    /// The file that the device is named by; findfs(8) knows labels.
    async fn device_path(&self) -> Option<PathBuf> {
        if self.device.starts_with('/') {
            return Some(self.device.into());
        }
        if !tagged(self.device) {
            return None;
        }
        let ended = Run::new(&["findfs".into(), self.device.into()], LOOK)
            .output()
            .await
            .ok()?;
        ended
            .status
            .success()
            .then(|| PathBuf::from(ended.first_line()))
    }
}

fn tagged(device: &str) -> bool {
    ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="]
        .iter()
        .any(|tag| device.starts_with(tag))
}

/// Is this `/dev/loopN` of that file?
fn is_loop_of(device: &Path, file: &Path) -> bool {
    let Some(name) = device
        .file_name()
        .and_then(|n| n.to_str())
        .filter(|n| n.starts_with("loop"))
    else {
        return false;
    };
    let backing = std::fs::read(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
    file.canonicalize()
        .is_ok_and(|f| f.as_os_str().as_bytes() == backing.trim_ascii_end())
}

/// What a thread has been sent to do and has not come back from.
static AWAY: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// Mount points whose server does not answer, and the process that still waits for it, though it was killed.
static STUCK: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());

/// Does something that may block in a thread of its own, of which there is at most one per errand.
async fn aside<T: Send + 'static>(
    errand: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let begun = Instant::now();
    while !AWAY
        .lock()
        .map_err(|_| "a thread has died".to_owned())?
        .insert(errand.clone())
    {
        if begun.elapsed() > LOOK {
            return Err(format!("{errand} still takes"));
        }
        sleep(Duration::from_millis(10)).await;
    }
    let (sender, receiver) = oneshot::channel();
    let back = {
        let errand = errand.clone();
        move || {
            if let Ok(mut away) = AWAY.lock() {
                away.remove(&errand);
            }
        }
    };
    let done = back.clone();
    let thread = std::thread::Builder::new()
        .name("hl-mount".into())
        .spawn(move || {
            let result = work();
            done();
            // Nobody may be waiting any more.
            let _ = sender.send(result);
        });
    if let Err(error) = thread {
        back();
        return Err(format!("no thread for {errand}: {error}"));
    }
    match timeout(LOOK, receiver).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err(format!("{errand} died")),
        Err(_) => Err(format!("{errand} takes more than {LOOK:?}")),
    }
}

/// Asks the file system itself. By a process, not a thread: a thread that waits for a dead server would keep the file
/// system from being unmounted for as long as we live.
async fn answers(point: &Path, within: Duration) -> State {
    let waiting = STUCK.lock().ok().and_then(|s| s.get(point).copied());
    if let Some(pid) = waiting {
        if Path::new("/proc").join(pid.to_string()).exists() {
            return State::Unknown(format!("{} still does not answer", point.display()));
        }
        if let Ok(mut stuck) = STUCK.lock() {
            stuck.remove(point);
        }
    }
    let argv = ["stat", "-f", "-c", "%T", "--"].map(str::to_owned);
    let mut argv = argv.to_vec();
    argv.push(point.to_string_lossy().into_owned());
    match Run::new(&argv, within).output().await {
        Ok(ended) if ended.status.success() => State::Running,
        Ok(ended) => State::Failed(lines(&ended)),
        Err(RunError::TimedOut { left, .. }) => {
            if let (Some(pid), Ok(mut stuck)) = (left, STUCK.lock()) {
                stuck.insert(point.to_owned(), pid);
            }
            State::Unknown(format!("{} does not answer", point.display()))
        }
        Err(error @ RunError::Start { .. }) => State::Unknown(error.to_string()),
    }
}

pub(super) async fn status(resource: &Resource) -> State {
    let Some(wanted) = Wanted::of(resource).await else {
        return State::Stopped;
    };
    let mount = match mounts::at(&wanted.point) {
        Ok(None) => return State::Stopped,
        Ok(Some(mount)) => mount,
        Err(error) => return State::Unknown(format!("/proc/self/mountinfo: {error}")),
    };
    if !wanted.is(&mount).await {
        return State::Failed(format!(
            "something else is mounted at {}: {} ({})",
            wanted.point.display(),
            mount.source.display(),
            mount.fstype
        ));
    }
    if mount.read_only && !wanted.option("ro") {
        return State::Failed(format!(
            "{} has become read-only; the kernel does that after an error (dmesg)",
            wanted.point.display()
        ));
    }
    // So that it ends before the deadline of the whole question.
    answers(&wanted.point, resource.status_timeout.mul_f32(0.8)).await
}

pub(super) async fn start(resource: &Resource) -> Result<(), Failure> {
    let Some(wanted) = Wanted::of(resource).await else {
        return Ok(());
    };
    match status(resource).await {
        State::Running => return Ok(()),
        State::Stopped => {}
        State::Failed(why) => return Err(Failure::Failed(why)),
        State::Unknown(why) => return Err(Failure::Unknown(why)),
    }
    if !wanted.point.is_dir() {
        return Err(Failure::Misconfigured(no_folder(&wanted.point)));
    }
    let mut argv = vec!["mount".to_owned()];
    for (flag, value) in [("-t", wanted.fstype), ("-o", wanted.options)] {
        if !value.is_empty() {
            argv.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    argv.extend([
        "--".to_owned(),
        wanted.device.to_owned(),
        wanted.point.to_string_lossy().into_owned(),
    ]);
    let ended = run(&argv, resource.start_timeout, "mount", resource).await?;
    if !ended.status.success() {
        let text = format!("{} is not mounted: {}", wanted.device, lines(&ended));
        // 1: "incorrect invocation or permissions", mount(8).
        return Err(if ended.status.code() == Some(1) {
            Failure::Misconfigured(text)
        } else {
            Failure::Failed(text)
        });
    }
    resource.settle("mount", &State::Running).await
}

pub(super) async fn stop(resource: &Resource) -> Result<(), Failure> {
    let Some(wanted) = Wanted::of(resource).await else {
        return Ok(());
    };
    let begun = Instant::now();
    let mount = match mounts::at(&wanted.point) {
        Ok(None) => return Ok(()),
        Ok(Some(mount)) => mount,
        Err(error) => return Err(Failure::Unknown(format!("/proc/self/mountinfo: {error}"))),
    };
    if !wanted.is(&mount).await {
        return Err(Failure::Failed(format!(
            "{} ({}) is mounted at {}, and not by Heartline: left alone",
            mount.source.display(),
            mount.fstype,
            wanted.point.display()
        )));
    }
    if let Err(said) = unmount(&wanted, begun).await? {
        let (mut who, above) = look(&wanted, mount.clone()).await?;
        if !wanted.kill_holders || who.is_empty() {
            return Err(Failure::Failed(busy(&wanted, &said, &who, &above)));
        }
        for (signal, patience) in [(Signal::SIGTERM, TERM), (Signal::SIGKILL, KILL)] {
            holders::signal(&who, signal);
            let until = Instant::now() + patience;
            while !who.is_empty() && Instant::now() < until {
                sleep(Duration::from_millis(50)).await;
                who = look(&wanted, mount.clone()).await?.0;
            }
            if who.is_empty() {
                break;
            }
        }
        if let Err(said) = unmount(&wanted, begun).await? {
            let (who, above) = look(&wanted, mount.clone()).await?;
            return Err(Failure::Failed(busy(&wanted, &said, &who, &above)));
        }
    }
    let device = mount.device;
    let errand = format!("looking for {} elsewhere", mount.source.display());
    let rest = aside(errand, move || holders::elsewhere(device))
        .await
        .map_err(Failure::Unknown)?;
    if !rest.is_empty() {
        return Err(Failure::Failed(format!(
            "{} is unmounted here, but {} is still in use: {}",
            wanted.point.display(),
            mount.source.display(),
            named(&rest)
        )));
    }
    Ok(())
}

/// Once; and again while more is mounted at the same place. What it said is the inner error.
async fn unmount(wanted: &Wanted<'_>, begun: Instant) -> Result<Result<(), String>, Failure> {
    let left = wanted.resource.stop_timeout.saturating_sub(begun.elapsed());
    // -c: does not look at the mount point, whose server may be dead.
    let argv = ["umount", "-c", "--"].map(str::to_owned);
    let mut argv = argv.to_vec();
    argv.push(wanted.point.to_string_lossy().into_owned());
    let ended = run(&argv, left, "umount", wanted.resource).await?;
    let still = mounts::at(&wanted.point)
        .map_err(|e| Failure::Unknown(format!("/proc/self/mountinfo: {e}")))?;
    Ok(match still {
        None => Ok(()),
        Some(_) if ended.status.success() => Err("something else is mounted below it".into()),
        Some(_) => Err(lines(&ended)),
    })
}

async fn look(wanted: &Wanted<'_>, mount: Mount) -> Result<(Vec<Holder>, Vec<PathBuf>), Failure> {
    let errand = format!("looking for who uses {}", wanted.point.display());
    aside(errand, move || holders::find(&mount))
        .await
        .map_err(Failure::Unknown)
}

fn busy(wanted: &Wanted<'_>, said: &str, who: &[Holder], above: &[PathBuf]) -> String {
    let mut text = format!("{} is not unmounted: {said}", wanted.point.display());
    if !who.is_empty() {
        text += &format!("; held open by {}", named(who));
    }
    if !above.is_empty() {
        let above: Vec<String> = above
            .iter()
            .take(NAMED)
            .map(|p| p.display().to_string())
            .collect();
        text += &format!("; mounted in it: {}", above.join(", "));
    }
    if who.is_empty() && above.is_empty() {
        text += "; no process was seen to hold it open (an NFS export, swap file or loop device in it would)";
    }
    text
}

fn named(who: &[Holder]) -> String {
    let mut list: Vec<String> = who.iter().take(NAMED).map(ToString::to_string).collect();
    if let Some(more) = who.len().checked_sub(NAMED).filter(|n| *n > 0) {
        list.push(format!("and {more} more"));
    }
    list.join("; ")
}

async fn run(
    argv: &[String],
    within: Duration,
    verb: &str,
    resource: &Resource,
) -> Result<Ended, Failure> {
    Run::new(argv, within)
        .output()
        .await
        .map_err(|error| match no_answer(&error) {
            Failure::TimedOut { within, .. } => Failure::TimedOut {
                what: format!("{verb} of {}", resource.what()),
                within,
            },
            other => other,
        })
}

/// What mount(8) says goes over more than one line.
fn lines(ended: &Ended) -> String {
    let text = String::from_utf8_lossy(&ended.stderr);
    let text: Vec<String> = text
        .lines()
        .map(|l| {
            l.trim()
                .chars()
                .filter(|c| !c.is_control())
                .take(300)
                .collect()
        })
        .filter(|l: &String| !l.is_empty() && !l.starts_with("dmesg(1)"))
        .take(3)
        .collect();
    if text.is_empty() {
        ended.how()
    } else {
        text.join(" ")
    }
}

fn no_folder(point: &Path) -> String {
    format!(
        "the mount point {0} is missing: mkdir -p {0}",
        point.display()
    )
}

/// What is wrong with it on this machine.
pub(super) async fn check(resource: &Resource) -> Vec<String> {
    let Some(wanted) = Wanted::of(resource).await else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    for program in ["mount", "umount"] {
        wrong.extend(find(program).err());
    }
    if !wanted.point.is_absolute() {
        wrong.push(format!(
            "the mount point {} must begin with /",
            wanted.point.display()
        ));
    }
    // Mounted: then it is there, and its server need not be asked.
    let mounted = mounts::at(&wanted.point).ok().flatten();
    if mounted.is_none() && !wanted.point.is_dir() {
        wrong.push(no_folder(&wanted.point));
    }
    if let Some(mount) = mounted
        && !wanted.is(&mount).await
    {
        wrong.push(format!(
            "something else is mounted at {}: {} ({})",
            wanted.point.display(),
            mount.source.display(),
            mount.fstype
        ));
    }
    let helper = format!("mount.{}", wanted.fstype);
    let known = wanted.fstype.is_empty()
        || matches!(wanted.fstype, "auto" | "none")
        || std::fs::read_to_string("/proc/filesystems")
            .is_ok_and(|all| all.split_whitespace().any(|f| f == wanted.fstype))
        || module(wanted.fstype)
        || ["/sbin", "/usr/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join(&helper).exists());
    if !known {
        wrong.push(format!(
            "nothing here can mount the type {}: the kernel does not know it, has no module for it, and there is no {helper}",
            wanted.fstype
        ));
    }
    let fstab = std::fs::read_to_string("/etc/fstab").unwrap_or_default();
    for line in fstab.lines() {
        let mut fields = line.split_whitespace();
        let (Some(_), Some(point), _, options) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let auto = !options.is_some_and(|o| o.split(',').any(|o| o == "noauto"));
        if !line.trim_start().starts_with('#') && Path::new(point) == wanted.point && auto {
            wrong.push(format!(
                "/etc/fstab mounts {point} at boot, also where the group does not run: remove its line, or add noauto"
            ));
        }
    }
    wrong
}

/// Is there a module for a file system that is not loaded yet?
fn module(fstype: &str) -> bool {
    let Ok(uname) = nix::sys::utsname::uname() else {
        return false;
    };
    let path = Path::new("/lib/modules")
        .join(uname.release())
        .join("modules.alias");
    std::fs::read_to_string(path).is_ok_and(|text| {
        let alias = format!("fs-{fstype}");
        text.lines()
            .any(|l| l.split_whitespace().nth(1) == Some(alias.as_str()))
    })
}
