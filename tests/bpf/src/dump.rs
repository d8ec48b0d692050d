//! Keeps every frame that a test runs, with the state it met and what the kernel's program did, if
//! `HEARTLINE_BPF_DUMP` names a file: `heartline-ebpf-host` replays them over the same sources on the host, where
//! coverage can be measured, and sees that both do the same (tests/bpf/README.md).

use std::{
    env,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::OnceLock,
};

use agent_common::keys::KEYS_WORDS;
use aya::maps::{Array, HashMap, Map, MapData};

use crate::{Rig, boot_ns};

fn file() -> Option<&'static File> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = env::var_os("HEARTLINE_BPF_DUMP")?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Some(file.unwrap_or_else(|e| panic!("{}: {e}", Path::new(&path).display())))
    })
    .as_ref()
}

/// What a run met, taken before it.
pub(crate) struct Before(String);

/// The state before a run; nothing if nobody asked for it.
pub(crate) fn before(rig: &Rig, program: char, frame: &[u8]) -> Option<Before> {
    file()?;
    let data =
        |map: &str| MapData::from_pin(rig.pins().join("v1/maps").join(map)).expect("a pinned map");
    let keys = Array::<_, [u64; KEYS_WORDS]>::try_from(Map::Array(data("KEYS"))).expect("an array");
    let keys = keys.get(&0, 0).expect("its element");
    let table: Vec<String> = rig
        .snapshot()
        .words()
        .map(|(i, w)| format!("{i}={w:x}"))
        .collect();
    Some(Before(format!(
        "{program} {} {:x},{:x},{:x},{:x} [{}] [{}] [{}] [{}] {}",
        boot_ns(),
        keys[0],
        keys[1],
        keys[2],
        keys[3],
        all::<16>(data("VIPS")),
        all::<8>(data("VMACS")),
        all::<16>(data("LINKS")),
        table.join(","),
        hex(frame)
    )))
}

/// What came of it.
pub(crate) fn after(before: Option<Before>, retval: u32) {
    if let (Some(mut file), Some(Before(line))) = (file(), before) {
        // One write of one line: tests run side by side.
        file.write_all(format!("{line} {retval:x}\n").as_bytes())
            .expect("room for the dump");
    }
}

/// Keys and values of a map.
fn all<const N: usize>(data: MapData) -> String {
    let map = HashMap::<_, [u8; N], u32>::try_from(Map::HashMap(data)).expect("a hash map");
    let all: Vec<String> = map
        .iter()
        .filter_map(Result::ok)
        .map(|(k, v)| format!("{}={v}", hex(&k)))
        .collect();
    all.join(",")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
