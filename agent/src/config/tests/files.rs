//! What is looked at besides the text: files, keys, interfaces.

use std::path::{Path, PathBuf};

use super::super::*;
use super::GOOD;

fn file(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn key_file_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "heartline.toml", GOOD, 0o644);
    let key = folder.path().join("demo.key");
    let good = "00112233445566778899aabbccddeeff\n";
    let code = || match Config::load(&path) {
        Ok(loaded) => {
            assert_eq!(loaded.config.key_file, key, "relative to the file");
            String::new()
        }
        Err(LoadError::Refused(report)) => {
            assert!(!report.to_json().contains("aabbccdd"), "the key shows");
            let found = report.diagnostics();
            assert_eq!(
                (found.len(), report.position(&found[0]).map(|p| p.0)),
                (1, Some(4))
            );
            found[0].code.to_string()
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(code(), "key-missing");
    for (text, mode, expected) in [
        (good, 0o600, ""),
        (good, 0o400, ""),
        (good.trim(), 0o600, ""),
        (good, 0o640, "key-permissions"),
        (good, 0o604, "key-permissions"),
        (good, 0o620, "key-permissions"),
        ("", 0o600, "key-size"),
        ("00112233445566778899aabbccddee", 0o600, "key-size"),
        ("00112233445566778899aabbccddeeff00", 0o600, "key-size"),
        ("00112233445566778899aabbccddeegg", 0o600, "key-format"),
        ("00000000000000000000000000000000", 0o600, "key-placeholder"),
        (
            &format!("{good}ffeeddccbbaa99887766554433221100\n"),
            0o600,
            "",
        ),
        (&format!("{good}\n{good}"), 0o600, "key-too-many"),
        (&format!("{good}{good}"), 0o600, "key-alike"),
        (&format!("{good}aabbccdd\n"), 0o600, "key-size"),
    ] {
        file(folder.path(), "demo.key", text, mode);
        assert_eq!(code(), expected, "{text:?} {mode:o}");
    }
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    assert_eq!(code(), "key-not-a-file");
    std::fs::remove_dir(&key).unwrap();
    // Nobody writes into it: opening must not wait.
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(code(), "key-not-a-file");
    assert!(
        KeyError::Permissions {
            path: key,
            mode: 0o644
        }
        .help()
        .contains("chmod 600")
    );
}

#[test]
fn keys_are_written_safely_and_never_shown() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    let key = ClusterKey::generate().unwrap();
    key.write(&path, false).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap().len(),
        KEY_DIGITS + 1
    );
    assert_eq!(KeyFile::load(&path).unwrap().sign, key);
    let other = ClusterKey::generate().unwrap();
    assert_ne!(key, other);
    assert_eq!(other.write(&path, false).unwrap_err().code(), "key-exists");
    assert_eq!(KeyFile::load(&path).unwrap().sign, key, "left as it was");
    other.write(&path, true).unwrap();
    assert_eq!(KeyFile::load(&path).unwrap().sign, other);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing left beside it"
    );
    assert_eq!(
        key.write(&folder.path().join("no/such"), false)
            .unwrap_err()
            .code(),
        "key-unwritable"
    );
    assert_eq!(format!("{key:?}"), "ClusterKey(hidden)");
}

#[test]
fn a_rotation_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    ClusterKey::generate().unwrap().write(&path, false).unwrap();
    let mut file = KeyFile::load(&path).unwrap();
    let old = file.sign.clone();
    assert_eq!(file.swap(&path).unwrap_err().code(), "key-step");
    assert_eq!(file.drop_other(&path).unwrap_err().code(), "key-step");
    assert_eq!(file.sign, old, "a refused step changes nothing");

    file.add(&path).unwrap();
    file.write(&path, true).unwrap();
    let mut file = KeyFile::load(&path).unwrap();
    assert_eq!(file.sign, old, "the old one goes on to sign");
    let new = file.other.clone().unwrap();
    assert_eq!(file.add(&path).unwrap_err().code(), "key-step");

    file.swap(&path).unwrap();
    file.write(&path, true).unwrap();
    let mut file = KeyFile::load(&path).unwrap();
    assert_eq!((&file.sign, &file.other), (&new, &Some(old)));

    file.drop_other(&path).unwrap();
    file.write(&path, true).unwrap();
    assert_eq!(KeyFile::load(&path).unwrap(), KeyFile::from(new));
}

#[test]
fn interfaces_of_this_node_are_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    // No machine has these.
    let text = GOOD
        .replacen("eth0", "hl-none1", 1)
        .replace("100\"\ndevice = \"eth0\"", "100\"\ndevice = \"hl-none2\"");
    let path = file(folder.path(), "heartline.toml", &text, 0o644);
    let codes = |local| {
        let checks = Checks {
            key_file: false,
            interfaces_of: Some(local),
        };
        match Config::load_with(&path, &checks) {
            Ok(_) => Vec::new(),
            Err(LoadError::Refused(r)) => r
                .diagnostics()
                .iter()
                .map(|d| (d.code, d.message.clone()))
                .collect(),
            Err(other) => panic!("{other}"),
        }
    };
    let missing = |found: Vec<(&str, String)>, device: &str| {
        found
            .iter()
            .any(|(code, text)| *code == "no-interface" && text.contains(device))
    };
    for local in [
        Local::Named("n1".into()),
        Local::Hostname("n1.example.org".into()),
    ] {
        assert!(missing(codes(local.clone()), "hl-none1") && missing(codes(local), "hl-none2"));
    }
    // Another node's link is no matter of this machine; the VIP's device is, unless this is a witness.
    assert!(!missing(codes(Local::Named("n2".into())), "hl-none1"));
    assert!(missing(codes(Local::Named("n2".into())), "hl-none2"));
    assert!(!missing(codes(Local::Named("n3".into())), "hl-none2"));
    assert_eq!(codes(Local::Hostname("elsewhere".into())), []);
    assert_eq!(codes(Local::Named("n4".into()))[0].0, "unknown-node");
}

#[test]
fn unreadable_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let unreadable = |path: &Path| matches!(Config::load(path), Err(LoadError::Unreadable { .. }));
    assert!(unreadable(&folder.path().join("none.toml")));
    assert!(unreadable(folder.path()));
    assert!(unreadable(&file(
        folder.path(),
        "large.toml",
        &" ".repeat((FILE_MAX + 1) as usize),
        0o644
    )));
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    assert!(unreadable(&binary));
}
