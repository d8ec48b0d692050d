//! The files of docs/two-layers.md, by the program that the document tells people to run; and what `heartline check` says of groups
//! that need each other.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has its runner's deadline"
)]
fn heartline(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartline"));
    command.args(args).env("NO_COLOR", "1");
    command.output().expect("the program runs")
}

/// As on the machines: the key made by `keygen`, the file checked with it.
#[test]
fn both_files_are_good_and_have_nothing_in_common() {
    let doc = fs::read_to_string(folder().join("docs/two-layers.md")).expect("the document");
    let dir = tempfile::tempdir().expect("a folder");
    let mut values = Vec::new();
    for name in ["two-layers-hosts.toml", "two-layers-guests.toml"] {
        assert!(
            doc.contains(&format!("(../config/{name})")),
            "{name} is not in the document"
        );
        let text = fs::read_to_string(folder().join("config").join(name)).expect("the file");
        let line = text
            .lines()
            .find(|l| l.starts_with("key_file"))
            .expect("key_file");
        let key = line.split('"').nth(1).expect("a path");
        assert!(doc.contains(&format!("heartline keygen {key}")), "{key}");
        let own = dir.path().join(Path::new(key).file_name().expect("a name"));
        let own = own.to_str().expect("text");
        assert!(heartline(&["keygen", own]).status.success());
        let file = dir.path().join(name);
        fs::write(&file, text.replace(key, own)).expect("written");
        let file = file.to_str().expect("text");
        // All but the interfaces, which are on other machines.
        let out = heartline(&["check", file, "--no-local"]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{name}: {said}");
        let config = heartline::config::Config::load(Path::new(file)).expect("good, with its key");
        let addresses = config.config.groups.iter().flat_map(|g| &g.vips);
        let networks: Vec<String> = addresses
            .map(|v| v.address.to_string())
            .chain(
                config
                    .config
                    .nodes
                    .iter()
                    .map(|n| n.links[0].address.to_string()),
            )
            .map(|a| a.rsplit_once('.').expect("IPv4").0.to_owned())
            .collect();
        assert!(networks.windows(2).all(|w| w[0] == w[1]), "{networks:?}");
        values.push((config.config, networks[0].clone()));
    }
    let [(hosts, below), (guests, above)] = values.as_slice() else {
        panic!("two files")
    };
    assert_ne!(hosts.cluster_id, guests.cluster_id);
    assert_ne!(hosts.port, guests.port);
    assert_ne!(hosts.key_file, guests.key_file);
    assert_ne!(below, above);
    // What the document draws.
    for word in [
        &hosts.cluster,
        &guests.cluster,
        &hosts.port.to_string(),
        &guests.port.to_string(),
    ] {
        assert!(doc.contains(word.as_str()), "{word}");
    }
}

#[test]
fn groups_that_need_each_other_are_refused_with_the_cycle() {
    let text = fs::read_to_string(folder().join("config/two-layers-guests.toml")).expect("there");
    let group = |name: &str, id: u8, key: &str, other: &str| {
        format!(
            "\n[[group]]\nname = \"{name}\"\nid = {id}\nprefer = [\"shop1\", \"shop2\", \"shop3\"]\n{key} = {other}\n\
             [[group.vip]]\naddress = \"198.51.100.{}\"\ndevice = \"eth0\"\n",
            150 + id
        )
    };
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("heartline.toml");
    for (key, quoted, cycle) in [
        (
            "with",
            ["\"db\"", "\"cache\""],
            "cache is with db is with cache",
        ),
        (
            "after",
            ["[\"db\"]", "[\"cache\"]"],
            "cache is after db is after cache",
        ),
    ] {
        let both =
            text.clone() + &group("cache", 1, key, quoted[0]) + &group("db", 2, key, quoted[1]);
        fs::write(&file, both).expect("written");
        let out = heartline(&["check", file.to_str().expect("text"), "--no-local"]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(cycle), "{key}: {said}");
        assert!(
            said.contains("heartline.toml:"),
            "it names file and line: {said}"
        );
    }
}
