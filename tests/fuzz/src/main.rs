//! libFuzzer over one target: `HEARTLINE_FUZZ_TARGET` names it, the arguments are libFuzzer's. With
//! `HEARTLINE_FUZZ_SEEDS` the target's seeds are written to that folder first.
#![no_main]

use std::{env, fs, path::Path, process, sync::OnceLock};

use heartline_fuzz::{TARGETS, Target, target};

static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn choose() {
    let name = env::var("HEARTLINE_FUZZ_TARGET").unwrap_or_default();
    let Some(chosen) = target(&name) else {
        let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("no target {name:?}; there are {}", names.join(", "));
        process::exit(2);
    };
    if let Some(folder) = env::var_os("HEARTLINE_FUZZ_SEEDS") {
        for (i, seed) in (chosen.seeds)().iter().enumerate() {
            let path = Path::new(&folder).join(format!("seed-{i}"));
            if let Err(error) = fs::write(&path, seed) {
                eprintln!("{}: {error}", path.display());
                process::exit(2);
            }
        }
    }
    let _ = CHOSEN.set(chosen);
}

libfuzzer_sys::fuzz_target!(
    init: choose(),
    |data: &[u8]| {
        if let Some(target) = CHOSEN.get() {
            (target.run)(data);
        }
    }
);
