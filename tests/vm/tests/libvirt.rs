//! Real agents, a group with a virtual machine: moved alive by `move`, kept where it is when that does not work, shut down and
//! started where it may. n1 and n2 have libvirt, n3 only votes.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use heartline_lab::{
    Cluster, Lab, LabSpec, agent,
    config::{self, ConfigSpec},
    demo::rig::Rig,
    exec,
    interrupt::until,
    trial::{cli, with_cluster},
};
use serde_json::Value;

/// Emulated machines on a busy one are slow.
const LONG: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_secs(30);

/// A node's namespaces beyond its network, with its daemon; all ends with this.
struct Machine {
    outer: Child,
    /// A process inside.
    inner: u32,
}

impl Machine {
    fn start(lab: &Lab, name: &str, scripts: &Path) -> Result<Machine> {
        let station = lab.node(name)?;
        let folder = lab.dir().join(format!("libvirt-{name}"));
        fs::create_dir(&folder)?;
        let script = format!(
            "hostname {name}; mount -t tmpfs none /run; sh {}/machine.sh {} {} {} && exec /usr/sbin/libvirtd --listen",
            scripts.display(),
            station.id,
            folder.display(),
            station.eth0().v4
        );
        let log = fs::File::create(folder.join("daemon.log"))?;
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--uts",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ])
            .args(["sh", "-c", &script])
            .env("HEARTLINE_TEST_INSIDE", name)
            .env(
                "HEARTLINE_TEST_HOST",
                nix::unistd::gethostname()?.to_string_lossy().as_ref(),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        exec::tie_to_lab(&mut command);
        station.ns.apply(&mut command);
        let outer = command.spawn().context("unshare")?;
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let mut inner = None;
        until(DEADLINE, POLL, || {
            let text = fs::read_to_string(&children).unwrap_or_default();
            inner = text.split_whitespace().next().and_then(|p| p.parse().ok());
            Ok(inner.is_some())
        })?;
        let machine = Machine {
            outer,
            inner: inner.context("no process in the new namespaces")?,
        };
        let up = until(DEADLINE, POLL, || Ok(machine.virsh("version").is_ok()))?;
        ensure!(
            up,
            "the daemon of {name}: {}",
            fs::read_to_string(folder.join("daemon.log")).unwrap_or_default()
        );
        Ok(machine)
    }

    /// What enters this machine, but for the namespace of processes.
    fn enter(&self) -> String {
        let inner = self.inner;
        format!(
            "nsenter --mount=/proc/{inner}/ns/mnt --uts=/proc/{inner}/ns/uts --net=/proc/{inner}/ns/net --"
        )
    }

    fn virsh(&self, words: &str) -> Result<String> {
        let mut command = Command::new("sh");
        let script = format!("{} virsh -q -c qemu:///system {words}", self.enter());
        command.args(["-c", &script]);
        exec::run_ok(command, "", DEADLINE).map(|text| text.trim().to_owned())
    }

    fn runs(&self) -> bool {
        self.virsh("domstate g1")
            .is_ok_and(|state| state == "running")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

struct Pair {
    one: Machine,
    two: Machine,
    xml: String,
    serial: PathBuf,
}

impl Pair {
    /// Where the machine runs, once it is at one place.
    fn place(&self) -> Option<&'static str> {
        match (self.one.runs(), self.two.runs()) {
            (true, false) => Some("n1"),
            (false, true) => Some("n2"),
            (true, true) | (false, false) => None,
        }
    }

    /// How often the guest has booted.
    fn boots(&self) -> usize {
        let text = fs::read_to_string(&self.serial).unwrap_or_default();
        text.matches("heartline-vm: ready").count()
    }
}

/// The helper that the agents use.
fn helper() -> Result<PathBuf> {
    let beside = || agent::binary().map(|path| path.with_file_name("heartline-libvirt"));
    let path = env::var_os("HEARTLINE_LIBVIRT").map_or_else(beside, |path| Ok(path.into()))?;
    ensure!(
        path.is_file(),
        "no {}: cargo build --package agent-virt",
        path.display()
    );
    Ok(path)
}

/// A cluster with a machine in its group; `keys` say more of it.
fn with_machine(keys: &str, test: impl FnOnce(&mut Rig, &Pair) -> Result<()>) -> Result<()> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent-virt/tests/libvirt");
    let guest = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    let mut make = Command::new("sh");
    make.arg(scripts.join("guest.sh")).arg(&guest);
    exec::run_ok(make, "", LONG * 5).context("a kernel for the guests")?;
    let file = |name: &str| guest.join(name).display().to_string();
    let (kernel, initramfs) = (file("kernel"), file("initramfs"));
    let spec = LabSpec::default();
    let lab = Lab::up(&spec)?;
    let serial = lab.dir().join("serial");
    let xml = include_str!("../../../agent-virt/tests/libvirt/guest.xml")
        .replace("@KERNEL@", &kernel)
        .replace("@INITRAMFS@", &initramfs)
        .replace("@SERIAL@", serial.to_str().context("path")?)
        .replace("@ADDRESS@", "10.88.0.50")
        .replace("@MORE@", "")
        .replace("@DEVICES@", "");
    let file = lab.dir().join("g1.xml");
    fs::write(&file, &xml)?;
    let pair = Pair {
        one: Machine::start(&lab, "n1", &scripts)?,
        two: Machine::start(&lab, "n2", &scripts)?,
        xml,
        serial,
    };
    let options = ConfigSpec {
        profile: "wan",
        witnesses: 1,
        ..ConfigSpec::default()
    };
    let text = config::text(&spec, &options)
        + &format!(
            "\n[[group.resource]]\nname = \"vm\"\nstatus_interval = \"500ms\"\nstop_timeout = \"60s\"\n\
             domain = {{ name = \"g1\", xml = \"{}\", migrate = \"live\", transport = \"tcp\"{keys} }}\n",
            file.display()
        );
    let agent = agent::binary()?;
    let cluster = Cluster::start_prepared(usize::MAX, lab, &text, "cluster.key", |a| {
        let machine = match a.name() {
            "n1" => &pair.one,
            "n2" => &pair.two,
            _ => return Ok(()),
        };
        // The agent is on the machine: it sees its mounts, among them the daemon's socket. Its /proc is that of the test's processes,
        // of which it is one.
        let program = a.run_dir().join("heartline");
        fs::write(
            &program,
            format!(
                "#!/bin/sh\nexport HEARTLINE_LIBVIRT={}\n\
                 exec {} unshare --mount sh -c 'mount -t proc proc /proc && exec {} \"$@\"' sh \"$@\"\n",
                helper()?.display(),
                machine.enter(),
                agent.display()
            ),
        )?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        a.set_binary(program);
        Ok(())
    })?;
    with_cluster(cluster, |rig| test(rig, &pair))
}

fn group(status: &Value) -> &Value {
    let groups = status["groups"].as_array().into_iter().flatten();
    groups
        .into_iter()
        .find(|g| g["name"] == "web")
        .unwrap_or(&Value::Null)
}

/// Waits until the group is with a node, its services run, and the guest runs there alone.
fn runs_on(rig: &mut Rig, pair: &Pair, node: &str) -> Result<()> {
    rig.cluster
        .wait_for(&format!("web runs on {node}"), LONG, |said| {
            let own = said.iter().find(|(name, _)| name == node);
            own.is_some_and(|(_, s)| {
                s.as_ref().is_ok_and(|s| {
                    group(s)["owner"] == node && group(s)["services"]["phase"] == "running"
                })
            })
        })?;
    ensure!(
        until(LONG, POLL, || Ok(pair.place() == Some(node)))?,
        "the group is on {node}, the guest on {:?}",
        pair.place()
    );
    Ok(())
}

/// Waits for an event of a node with these words.
fn tells(rig: &mut Rig, node: &str, words: &str) -> Result<()> {
    let mut told = Vec::new();
    let came = until(LONG, POLL, || {
        told = rig.cluster.agent(node)?.events()?;
        Ok(told.iter().any(|e| e.to_string().contains(words)))
    })?;
    ensure!(came, "{node} does not tell {words:?}: {told:#?}");
    Ok(())
}

#[test]
fn a_move_is_a_live_migration() {
    with_machine("", |rig, pair| {
        runs_on(rig, pair, "n1")?;
        ensure!(until(LONG, POLL, || Ok(pair.boots() == 1))?, "it boots");
        cli(rig, "n1", &["move", "web", "n2", "--no-wait"])?;
        runs_on(rig, pair, "n2")?;
        tells(rig, "n1", "migrated to n2")?;
        ensure!(
            pair.one.virsh("list --all --name")?.is_empty(),
            "nothing is left on n1 to be started by accident"
        );
        // Drained, and back by wish.
        cli(rig, "n1", &["drain", "n2", "--no-wait"])?;
        runs_on(rig, pair, "n1")?;
        tells(rig, "n2", "migrated to n1")?;
        cli(rig, "n1", &["undrain", "n2"])?;
        ensure!(pair.boots() == 1, "it booted {} times", pair.boots());

        // Another domain has the name there: it stays, runs, and the move is off.
        let other = rig.cluster.agent("n1")?.run_dir().join("other.xml");
        fs::write(&other, pair.xml.replace("aaaaaaaa", "bbbbbbbb"))?;
        pair.two.virsh(&format!("define {}", other.display()))?;
        let refused = rig.cluster.agent("n1")?.cli(&["move", "web", "n2"])?;
        ensure!(
            refused.code != Some(0) && refused.stderr.contains("another domain by the name g1"),
            "{refused:?}"
        );
        tells(rig, "n1", "move_failed")?;
        runs_on(rig, pair, "n1")?;

        // Drained, it has nowhere to go: stuck, running, until somebody mends it.
        cli(rig, "n1", &["drain", "n1", "--no-wait"])?;
        rig.cluster.wait_for("stuck on n1", LONG, |said| {
            said.iter().all(|(_, s)| {
                s.as_ref()
                    .is_ok_and(|s| group(s).to_string().contains("stuck"))
            })
        })?;
        ensure!(pair.place() == Some("n1"), "{:?}", pair.place());
        pair.two.virsh("undefine g1")?;
        cli(rig, "n1", &["clear", "web"])?;
        runs_on(rig, pair, "n2")?;
        ensure!(pair.boots() == 1, "it booted {} times", pair.boots());
        Ok(())
    })
    .expect("a live migration");
}

#[test]
fn where_it_may_it_is_shut_down_instead() {
    with_machine(", fallback = \"shutdown\"", |rig, pair| {
        runs_on(rig, pair, "n1")?;
        ensure!(until(LONG, POLL, || Ok(pair.boots() == 1))?, "it boots");
        // A guest with its hardware address runs there, so it cannot arrive alive.
        let other = rig.cluster.agent("n1")?.run_dir().join("other.xml");
        let text = pair
            .xml
            .replace("<name>g1", "<name>g2")
            .replace("aaaaaaaa", "cccccccc");
        let serial = pair.serial.to_str().context("path")?;
        fs::write(&other, text.replace(serial, "/dev/null"))?;
        pair.two.virsh(&format!("define {}", other.display()))?;
        pair.two.virsh("start g2")?;
        cli(rig, "n1", &["move", "web", "n2", "--no-wait"])?;
        runs_on(rig, pair, "n2")?;
        tells(rig, "n1", "shut down instead")?;
        ensure!(
            until(LONG, POLL, || Ok(pair.boots() == 2))?,
            "it boots there"
        );
        Ok(())
    })
    .expect("a cold move");
}

#[test]
fn a_migration_is_called_off_on_the_way() {
    let slowly = ", bandwidth = 1, auto_converge = false";
    with_machine(slowly, |rig, pair| {
        runs_on(rig, pair, "n1")?;
        ensure!(until(LONG, POLL, || Ok(pair.boots() == 1))?, "it boots");
        cli(rig, "n1", &["move", "web", "n2", "--no-wait"])?;
        rig.cluster.wait_for("progress on n1", LONG, |said| {
            let own = said.iter().find(|(name, _)| name == "n1");
            own.is_some_and(|(_, s)| {
                s.as_ref()
                    .is_ok_and(|s| group(s).to_string().contains("MiB left"))
            })
        })?;
        cli(rig, "n1", &["move", "web", "n1", "--no-wait"])?;
        runs_on(rig, pair, "n1")?;
        let told = rig.cluster.agent("n1")?.events()?;
        ensure!(
            !told
                .iter()
                .any(|e| e.to_string().contains("migrated to n2")),
            "{told:#?}"
        );
        ensure!(pair.boots() == 1, "it booted {} times", pair.boots());
        Ok(())
    })
    .expect("it stays");
}

#[test]
fn only_the_helper_links_libvirt() {
    let links = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        bytes
            .windows(b"libvirt.so".len())
            .any(|w| w == b"libvirt.so")
    };
    let (agent, helper) = (agent::binary().expect("agent"), helper().expect("helper"));
    assert!(!links(&agent), "{} needs libvirt", agent.display());
    assert!(links(&helper), "the helper does not need libvirt?");
}
