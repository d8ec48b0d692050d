//! Every seed, and every input that once found something, goes through its target.

use std::{fs, path::Path};

use heartline_fuzz::{TARGETS, target};

#[test]
fn seeds_find_nothing() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        for seed in &seeds {
            (target.run)(seed);
            // Cut off anywhere, too.
            for len in 0..seed.len().min(400) {
                (target.run)(&seed[..len]);
            }
        }
    }
}

#[test]
fn what_was_found_is_mended() {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("found");
    for folder in fs::read_dir(found).expect("the folder of finds") {
        let folder = folder.expect("an entry");
        let name = folder.file_name().into_string().expect("a name");
        if name == "README.md" {
            continue;
        }
        let target = target(&name).unwrap_or_else(|| panic!("found/{name} is no target"));
        for input in fs::read_dir(folder.path()).expect("inputs") {
            let path = input.expect("an entry").path();
            println!("{}", path.display());
            (target.run)(&fs::read(path).expect("an input"));
        }
    }
}

#[test]
#[should_panic(expected = "the planted bug")]
fn the_planted_bug_is_there() {
    (target("planted").expect("it is a target").run)(b"RAEHLT");
}
