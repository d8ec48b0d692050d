//! With the real maps in the kernel and the real queues; nobody empties the queues. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, sync_channel},
    },
};

use agent_common::{keys::KEYS_WORDS, record::address_key, siphash::Key};
use aya::maps::{Array, HashMap, Map, MapData};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        eventfd::EventFd,
        statfs::{BPF_FS_MAGIC, statfs},
    },
};
use rtrb::{Consumer, RingBuffer};

use super::*;
use crate::{agent::snapshot::Snapshot, datapath::DataPath};

/// Pins of this test, removed with it.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Pins {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = Path::new("/sys/fs/bpf");
        if !statfs(root).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC) {
            let none = None::<&str>;
            mount(Some("bpf"), root, Some("bpf"), MsFlags::empty(), none)
                .expect("a BPF file system");
        }
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("heartline-test-{}-apply{n}", std::process::id()));
        fs::create_dir(&path).expect("a place for pins: this test needs root");
        Pins(path)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Rig {
    datapath: AnyPath,
    rt: RtHandle,
    commands: Consumer<RtCommand>,
    net: ControlSender,
    told: Receiver<NetControl>,
    gated: Gated,
    serial: Serial,
    // Dropped last.
    pins: Pins,
}

const ROOM: usize = 4;
const NET_ROOM: usize = 2;

fn old_keys() -> Keys {
    Keys::new(Key(1, 2), None)
}

fn new_keys() -> Keys {
    Keys::new(Key(3, 4), Some(Key(1, 2)))
}

/// One group with this VIP.
fn config(vip: &str) -> Config {
    let text = format!(
        r#"
cluster = "test"
generation = 1
key_file = "/nowhere"
[[node]]
name = "a"
id = 1
link = [{{ device = "eth0", address = "192.0.2.1" }}]
[[node]]
name = "b"
id = 2
link = [{{ device = "eth0", address = "192.0.2.2" }}]
[[node]]
name = "c"
id = 3
link = [{{ device = "eth0", address = "192.0.2.3" }}]
[[group]]
name = "web"
id = 0
prefer = ["a", "b"]
[[group.vip]]
address = "{vip}"
device = "eth0"
"#
    );
    Config::from_str(&text, "test.toml")
        .expect("a good file")
        .config
}

const OLD: &str = "192.0.2.100";
const NEW: &str = "192.0.2.101";

impl Rig {
    fn new() -> Rig {
        let pins = Pins::new();
        let mut datapath =
            AnyPath::Bpf(DataPath::load(&pins.0, old_keys()).unwrap_or_else(|e| panic!("{e}")));
        let gated = setup::vips(&config(OLD));
        datapath.set_gated(1, &gated).expect("the gate");
        let (commands, taken) = RingBuffer::new(ROOM);
        let (_, reports) = RingBuffer::new(1);
        let (_, snapshot) = triple_buffer::triple_buffer(&Snapshot::default());
        let fd = || Arc::new(EventFd::new().expect("a descriptor"));
        let (net, told) = sync_channel(NET_ROOM);
        Rig {
            datapath,
            rt: RtHandle {
                commands,
                wake: fd(),
                reports,
                reported: fd(),
                snapshot,
                thread: std::thread::spawn(|| {}),
            },
            commands: taken,
            net: ControlSender::new(net, fd()),
            told,
            gated,
            serial: Serial::default(),
            pins,
        }
    }

    fn change(&mut self, vip: Option<&str>, keys: bool) -> Result<Option<Gated>> {
        let parts = vip.map(|vip| Parts::of(&self.gated, &config(vip), 1).expect("parts"));
        let keys = keys.then(|| Rekey {
            old: old_keys(),
            new: Box::new(new_keys()),
        });
        Places {
            datapath: &mut self.datapath,
            rt: &mut self.rt,
            net: &self.net,
            serial: &mut self.serial,
        }
        .change(parts, keys)
    }

    fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.pins.0.join("v1/maps").join(name)).expect("a pinned map")
    }

    /// What the kernel gates.
    fn vips(&self) -> Vec<([u8; 16], u32)> {
        let map = HashMap::<_, [u8; 16], u32>::try_from(Map::HashMap(self.map("VIPS")));
        let mut all: Vec<_> = map.expect("VIPS").iter().filter_map(Result::ok).collect();
        all.sort_unstable();
        all
    }

    /// The keys that the kernel accepts.
    fn keys(&self) -> [u64; KEYS_WORDS] {
        let map = Array::<_, [u64; KEYS_WORDS]>::try_from(Map::Array(self.map("KEYS")));
        map.expect("KEYS").get(&0, 0).expect("its element")
    }

    fn queued(&mut self) -> (usize, usize) {
        let commands = std::iter::from_fn(|| self.commands.pop().ok()).count();
        (commands, self.told.try_iter().count())
    }

    #[track_caller]
    fn is_as_before(&mut self, why: &str) {
        assert_eq!(self.vips(), gates(&[OLD]), "{why}");
        assert_eq!(self.keys(), old_keys().words(), "{why}");
    }
}

fn gates(vips: &[&str]) -> Vec<([u8; 16], u32)> {
    let key = |v: &&str| address_key(v.parse().expect("an address"));
    vips.iter().map(|v| (key(v), 0)).collect()
}

#[test]
fn a_change_reaches_everybody() {
    let mut rig = Rig::new();
    let after = rig.change(Some(NEW), true).expect("room for it");
    assert_eq!(
        rig.vips(),
        gates(&[OLD, NEW]),
        "old ones until they are gone"
    );
    assert_eq!(after.map(|g| g.len()), Some(2));
    assert_eq!(rig.keys(), new_keys().words());
    assert!(matches!(
        rig.told.try_recv(),
        Ok(NetControl::Reconfigure(_))
    ));
    assert!(matches!(rig.commands.pop(), Ok(RtCommand::Reconfigure(_))));
    assert!(matches!(rig.commands.pop(), Ok(RtCommand::Rekey(_))));
    // One of them alone.
    assert!(rig.change(None, true).expect("room for it").is_none());
    assert_eq!(rig.queued(), (1, 0));
    assert!(rig.change(Some(NEW), false).expect("room for it").is_some());
    assert_eq!(rig.queued(), (1, 1));
}

/// Configuration and keys in one reload, and no room for all that the real-time thread must be told.
#[test]
fn a_full_queue_of_the_real_time_thread_changes_nothing() {
    for room in 0..COMMANDS {
        let mut rig = Rig::new();
        for _ in room..ROOM {
            assert!(rig.rt.send(RtCommand::Unstage).is_ok());
        }
        let e = rig.change(Some(NEW), true).expect_err("no room");
        assert!(e.to_string().contains("busy"), "{e:#}");
        rig.is_as_before("room for some");
        assert_eq!(rig.queued(), (ROOM - room, 0), "nobody was told");
        rig.change(Some(NEW), true).expect("and now there is");
    }
}

#[test]
fn a_full_queue_of_the_address_thread_changes_nothing() {
    let mut rig = Rig::new();
    for _ in 0..NET_ROOM {
        assert!(rig.net.send(NetControl::Stop).is_ok());
    }
    let e = rig.change(Some(NEW), true).expect_err("no room");
    assert!(e.to_string().contains("address thread"), "{e:#}");
    rig.is_as_before("the last step failed");
    assert_eq!(rig.queued(), (0, NET_ROOM));
    assert_eq!(
        rig.change(None, true).expect("keys alone").map(|_| ()),
        None
    );
    assert_eq!(rig.keys(), new_keys().words());
}

/// More VIPs than the gate's map holds.
#[test]
fn a_gate_that_refuses_changes_nothing() {
    let mut rig = Rig::new();
    let many = (0..8192u32).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 0, false));
    let parts = Parts {
        cluster: 1,
        before: rig.gated.clone(),
        after: rig.gated.iter().copied().chain(many).collect(),
        net: setup::net_config(&config(NEW)).expect("parts"),
        core: setup::core_config(&config(NEW), 1),
    };
    let keys = Some(Rekey {
        old: old_keys(),
        new: Box::new(new_keys()),
    });
    let places = &mut Places {
        datapath: &mut rig.datapath,
        rt: &mut rig.rt,
        net: &rig.net,
        serial: &mut rig.serial,
    };
    assert!(places.change(Some(parts), keys).is_err());
    rig.is_as_before("the gate is full");
    assert_eq!(rig.queued(), (0, 0));
}

/// Two reloads, one right after the other: the answer to the first must not open what the second still has to remove.
#[test]
fn only_the_answer_to_the_newest_change_ends_gates() {
    let mut rig = Rig::new();
    let third = "192.0.2.102";
    for vip in [NEW, third] {
        rig.gated = rig.change(Some(vip), false).expect("room").expect("gates");
    }
    assert_eq!(rig.vips(), gates(&[OLD, NEW, third]));
    let told: Vec<u64> = rig
        .told
        .try_iter()
        .map(|c| match c {
            NetControl::Reconfigure(net) => net.serial,
            NetControl::Stop | NetControl::Gate { .. } => 0,
        })
        .collect();
    assert_eq!(told.len(), 2);
    let newest = told.iter().map(|serial| rig.serial.is_newest(*serial));
    assert_eq!(newest.collect::<Vec<_>>(), [false, true]);
}

/// What could not be sent is not waited for.
#[test]
fn a_change_that_was_refused_does_not_count() {
    let mut rig = Rig::new();
    let before = rig.serial;
    for _ in 0..NET_ROOM {
        assert!(rig.net.send(NetControl::Stop).is_ok());
    }
    assert!(rig.change(Some(NEW), false).is_err());
    assert_eq!(rig.serial, before);
}
