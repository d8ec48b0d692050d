//! A world of its own for a test: mount, PID, network and control group of its own, gone with it.
//!
//! A test calls [`inside`] with its own name. The first time it runs itself anew in new namespaces, the second time it
//! is there. Whatever it leaves running ends with its PID namespace. Needs root, and fails without.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    env, fs,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use agent_services::resource::{Kind, Resource};

/// Tells the second run which test it is.
const INSIDE: &str = "HEARTLINE_TEST_INSIDE";
/// Where it may write.
const FOLDER: &str = "HEARTLINE_TEST_FOLDER";

/// What the outer half does: joins the control groups in its arguments, then runs the rest in new namespaces. A shell
/// is their init, because an init must bury the dead.
const OUTER: &str = r#"
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 99; shift; done; shift
exec unshare --mount --pid --net --uts --fork --kill-child --mount-proc sh -c '
    mount -t tmpfs none /run && mkdir -p /run/lock /run/systemd/system && ip link set lo up || exit 98
    "$@"; exit $?' sh "$@"
"#;

/// Runs a test in a world of its own.
pub fn inside<F: Future<Output = ()>>(
    name: &str,
    environment: &[(&str, &str)],
    test: impl FnOnce(PathBuf) -> F,
) {
    if env::var(INSIDE).as_deref() == Ok(name) {
        let folder = PathBuf::from(env::var_os(FOLDER).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(folder));
        return;
    }
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let folder = tempfile::Builder::new()
        .prefix("heartline-test-")
        .tempdir()
        .unwrap();
    let groups = Groups::new(name);
    let mut command = Command::new("sh");
    command
        .args(["-c", OUTER, "sh"])
        .args(&groups.0)
        .arg("--")
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .env("RUST_BACKTRACE", "0")
        .env(FOLDER, folder.path());
    for (key, value) in environment {
        command.env(key, value.replace("{}", folder.path().to_str().unwrap()));
    }
    let output = command.output().unwrap();
    drop(groups);
    free_loops(folder.path());
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{}:\n{text}", output.status);
    assert!(text.contains("1 passed"), "it did not run:\n{text}");
    println!("{text}");
}

/// Loop devices outlive namespaces: those of a test that failed are freed here.
fn free_loops(folder: &Path) {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(file.trim_end()).starts_with(folder) {
            let device = Path::new("/dev").join(entry.file_name());
            let _ = Command::new("losetup").arg("-d").arg(device).status();
        }
    }
}

/// Control groups of our own, in the hierarchies that systemd uses; below ours, so that nobody else's are touched.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn new(name: &str) -> Groups {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let mut made = Vec::new();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let path = match right.split(' ').next() {
                Some("cgroup2") => own.lines().find_map(|l| l.strip_prefix("0::")),
                Some("cgroup") if right.contains("name=systemd") => own
                    .lines()
                    .find_map(|l| l.split_once(":name=systemd:").map(|(_, path)| path)),
                _ => None,
            };
            if let (Some(path), Some(point)) = (path, left.split(' ').nth(4)) {
                let group = Path::new(point)
                    .join(path.trim_start_matches('/'))
                    .join(format!("heartline-test-{}-{name}", std::process::id()));
                fs::create_dir(&group).unwrap();
                made.push(group);
            }
        }
        assert!(!made.is_empty(), "no control groups are mounted");
        Groups(made)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        fn remove(folder: &Path) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    remove(&entry.path());
                }
            }
            // Who was in it has just been killed, and may need a moment to be gone.
            for _ in 0..500 {
                if fs::remove_dir(folder).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.0.iter().for_each(|g| remove(g));
    }
}

/// A resource with deadlines that a slow machine keeps.
pub fn resource(kind: Kind) -> Resource {
    Resource {
        name: "web.test".into(),
        kind,
        start_timeout: Duration::from_secs(60),
        stop_timeout: Duration::from_secs(60),
        status_timeout: Duration::from_secs(30),
        status_interval: Duration::from_secs(10),
        keep_running: false,
        stateful: false,
    }
}

/// Waits for something, for a minute at most.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("in vain: {what}");
}

/// Writes a program.
pub fn program(path: &Path, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs a command that must succeed; returns what it printed.
pub fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An OCF agent.
pub fn ocf(provider: &str, agent: &str, parameters: &[(&str, &str)]) -> Resource {
    resource(Kind::Ocf {
        provider: provider.into(),
        agent: agent.into(),
        parameters: parameters
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    })
}
