//! Two machines with libvirt: this process is on the first, in namespaces of its own (`common::inside`), and starts the second
//! in further ones. Each has its own daemon, files and bridge; the bridges are one network.
//!
//! ```text
//!   n1  br0 10.88.0.1 ──veth── br0 10.88.0.2  n2       guest 10.88.0.50, wherever it runs
//! ```

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use agent_services::resource::{
    Kind, Resource,
    domain::{Domain, Live, Peer, Transport},
};

use crate::common::{self, sh, until};

/// Emulated machines on a busy one are slow.
pub const LONG: Duration = Duration::from_secs(120);
/// n1's libvirt, as the agent on n1 has it.
pub const HERE: &str = "qemu:///system";
/// n2's.
pub const THERE: &str = "qemu+tcp://10.88.0.2/system";
/// The guest.
pub const GUEST: &str = "10.88.0.50";
/// Its name.
pub const NAME: &str = "g1";

/// The two.
pub struct Hosts {
    pub folder: PathBuf,
    daemon: Option<Child>,
    second: Child,
    guest: PathBuf,
}

impl Hosts {
    /// Starts both daemons; the first one's namespaces are this process's own.
    pub async fn up(folder: &Path, guest: &Path) -> Hosts {
        for tool in [
            "/usr/sbin/libvirtd",
            "/usr/bin/virsh",
            "/usr/bin/qemu-system-x86_64",
        ] {
            assert!(
                Path::new(tool).exists(),
                "{tool} is missing: cargo xtask test --suite virt installs it"
            );
        }
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libvirt");
        let own = |n: u8| {
            let own = folder.join(format!("n{n}"));
            fs::create_dir(&own).unwrap();
            own
        };
        let (first, second) = (own(1), own(2));
        nix::unistd::sethostname("n1").unwrap();
        let ran = Command::new("sh")
            .arg(scripts.join("machine.sh"))
            .arg("1")
            .arg(&first)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        let second = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--net",
                "--uts",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .arg("sh")
            .arg(scripts.join("second.sh"))
            .arg(&scripts)
            .arg(&second)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // The shell in the new namespaces is the child of `unshare`.
        let children = format!("/proc/{0}/task/{0}/children", second.id());
        let inner = || fs::read_to_string(&children).unwrap_or_default();
        until("n2 has begun", async || !inner().trim().is_empty()).await;
        sh(&format!(
            "ip link add v2 type veth peer name up0 netns {}; ip link set v2 master br0 up",
            inner().trim()
        ));
        let mut hosts = Hosts {
            folder: folder.to_owned(),
            daemon: None,
            second,
            guest: guest.to_owned(),
        };
        hosts.start_daemon();
        for uri in [HERE, THERE] {
            until(&format!("{uri} answers"), async || {
                Command::new("virsh")
                    .args(["-c", uri, "version"])
                    .stdin(Stdio::null())
                    .output()
                    .is_ok_and(|o| o.status.success())
            })
            .await;
        }
        hosts
    }

    /// Starts n1's daemon.
    pub fn start_daemon(&mut self) {
        let log = fs::File::create(self.folder.join("n1/daemon.log")).unwrap();
        let child = Command::new("/usr/sbin/libvirtd")
            .arg("--listen")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
    }

    /// Sends n1's daemon a signal.
    pub fn signal_daemon(&self, signal: &str) {
        let pid = self.daemon.as_ref().unwrap().id();
        sh(&format!("kill -{signal} {pid}"));
    }

    /// Kills n1's daemon.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// n2 loses its power.
    pub fn kill_second(&mut self) {
        self.second.kill().unwrap();
        self.second.wait().unwrap();
    }

    /// The guest's XML; `more` goes onto its kernel's command line, `devices` among its devices.
    pub fn xml(&self, more: &str, devices: &str) -> String {
        let file = |name: &str| self.guest.join(name).to_str().unwrap().to_owned();
        include_str!("guest.xml")
            .replace("@KERNEL@", &file("kernel"))
            .replace("@INITRAMFS@", &file("initramfs"))
            .replace("@SERIAL@", self.folder.join("serial").to_str().unwrap())
            .replace("@ADDRESS@", GUEST)
            .replace("@MORE@", more)
            .replace("@DEVICES@", devices)
    }

    /// The guest as a resource of one of the two.
    pub fn resource(&self, uri: &str, xml: &str) -> Resource {
        let path = self.folder.join("g1.xml");
        fs::write(&path, xml).unwrap();
        Resource {
            start_timeout: LONG,
            stop_timeout: LONG,
            status_timeout: Duration::from_secs(20),
            ..common::resource(Kind::Domain(Domain {
                name: NAME.into(),
                xml: path,
                uri: uri.into(),
                live: Some(Live {
                    transport: Transport::Tcp,
                    postcopy: false,
                    auto_converge: true,
                    bandwidth: None,
                    downtime: Some(Duration::from_millis(300)),
                    timeout: LONG,
                    or_shutdown: false,
                }),
            }))
        }
    }

    /// One of the two, for the other.
    pub fn peer(&self, number: u8) -> Peer {
        Peer {
            node: format!("n{number}"),
            address: [10, 88, 0, number].into(),
            uri: None,
        }
    }

    /// Until the guest answers.
    pub async fn answers(&self) {
        for _ in 0..LONG.as_secs() {
            let ping = Command::new("ping")
                .args(["-n", "-q", "-c", "1", "-W", "1", GUEST])
                .stdout(Stdio::null())
                .status()
                .unwrap();
            if ping.success() {
                return;
            }
        }
        let serial = fs::read_to_string(self.folder.join("serial")).unwrap_or_default();
        panic!("the guest does not answer; its console:\n{serial}");
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // What is left ends with the namespace of processes; n2's would outlive it for a moment.
        let _ = self.second.kill();
        let _ = self.second.wait();
    }
}

/// `virsh`, for what the agent is not meant to do.
pub fn virsh(uri: &str, words: &str) -> String {
    sh(&format!("virsh -q -c {uri} {words} </dev/null"))
}
