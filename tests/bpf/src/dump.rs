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

use aya::maps::{HashMap, Map, MapData};

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
    let addresses = |map: &str| {
        let data = MapData::from_pin(rig.pins().join("v1/maps").join(map)).expect("a pinned map");
        let map = HashMap::<_, [u8; 16], u32>::try_from(Map::HashMap(data)).expect("a hash map");
        let all: Vec<String> = map
            .iter()
            .filter_map(Result::ok)
            .map(|(k, v)| format!("{}={v}", hex(&k)))
            .collect();
        all.join(",")
    };
    let table: Vec<String> = rig
        .snapshot()
        .words()
        .map(|(i, w)| format!("{i}={w:x}"))
        .collect();
    Some(Before(format!(
        "{program} {} {:x} {:x} [{}] [{}] [{}] {}",
        boot_ns(),
        rig.key.0,
        rig.key.1,
        addresses("VIPS"),
        addresses("LINKS"),
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
