//! A test per rule: the smallest change of a good file that breaks it.

use std::path::{Path, PathBuf};

use super::*;

mod properties;
mod reload;

/// A good file; tests change pieces of it.
pub(super) const GOOD: &str = r#"
cluster = "demo"
generation = 1
key_file = "demo.key"
[timing]
profile = "lan"
[[node]]
name = "n1"
id = 1
link = [{ device = "eth0", address = "10.77.0.1" }]
[[node]]
name = "n2"
id = 2
link = [{ device = "eth0", address = "10.77.0.2" }]
[[node]]
name = "n3"
id = 3
role = "witness"
link = [{ device = "eth0", address = "10.77.0.3" }]
[[group]]
name = "web"
id = 0
prefer = ["n1", "n2"]
[[group.vip]]
address = "10.77.0.100"
device = "eth0"
[[group]]
name = "db"
id = 1
[[group.vip]]
address = "10.77.0.101"
device = "eth0"
"#;

pub(super) fn config(text: &str) -> Config {
    match Config::from_str(text, "t.toml") {
        Ok(loaded) => loaded.config,
        Err(LoadError::Refused(report)) => panic!("{}", report.render(false)),
        Err(other) => panic!("{other}"),
    }
}

/// The good file with one piece replaced (which must be there).
pub(super) fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the good file");
    GOOD.replacen(from, to, 1)
}

fn report_of(text: &str) -> Report {
    match Config::from_str(text, "t.toml") {
        Ok(loaded) => loaded.report,
        Err(LoadError::Refused(report)) => report,
        Err(other) => panic!("{other}"),
    }
}

/// The findings as `severity code line:column`.
fn found(text: &str) -> Vec<String> {
    let report = report_of(text);
    let place = |d| {
        report
            .position(d)
            .map_or("-".into(), |(l, c)| format!("{l}:{c}"))
    };
    report
        .diagnostics()
        .iter()
        .map(|d| format!("{} {}", d.code, place(d)))
        .collect()
}

fn codes(text: &str) -> Vec<&'static str> {
    report_of(text)
        .diagnostics()
        .iter()
        .map(|d| d.code)
        .collect()
}

/// Exactly this code, refused, with words in message or help.
#[track_caller]
fn refused(text: &str, code: &str, words: &[&str]) {
    let report = report_of(text);
    let all: Vec<_> = report.diagnostics().iter().collect();
    assert_eq!(all.len(), 1, "{}", report.render(false));
    assert_eq!(
        (all[0].code, all[0].severity),
        (code, Severity::Error),
        "{}",
        report.render(false)
    );
    let said = format!(
        "{} | {}",
        all[0].message,
        all[0].help.as_deref().unwrap_or("")
    );
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

/// Taken, with exactly this warning.
#[track_caller]
fn warned(text: &str, code: &str) {
    let report = report_of(text);
    let all: Vec<_> = report
        .diagnostics()
        .iter()
        .map(|d| (d.code, d.severity))
        .collect();
    assert_eq!(all, [(code, Severity::Warning)], "{}", report.render(false));
    config(text);
}

#[test]
fn good_file_has_no_findings_and_the_right_values() {
    assert_eq!(codes(GOOD), [""; 0]);
    let c = config(GOOD);
    assert_eq!(
        (c.cluster.as_str(), c.generation, c.port),
        ("demo", 1, 4747)
    );
    assert_eq!(c.cluster_id, cluster_id("demo"));
    assert_eq!(c.timing, Profile::Lan.timing());
    assert_eq!(c.announce_interval_ns, 60_000_000_000);
    assert_eq!((c.log.as_str(), c.datapath), ("info", Datapath::Auto));
    assert_eq!(c.groups[0].prefer, [1, 2]);
    assert_eq!(
        c.groups[1].prefer,
        [1, 2],
        "no prefer: all members, no witness"
    );
    assert_eq!(c.groups[0].vips[0].prefix, 32);
    assert_eq!(c.groups[0].failback, Failback::Manual);
    assert_eq!((c.majority(), c.survives()), (2, 1));
    assert_eq!(c.node_by_hostname("n2.example.org").map(|n| n.id), Some(2));
    assert!(
        c.summary().contains("survives  the loss of 1 of 3 nodes"),
        "{}",
        c.summary()
    );
}

#[test]
fn cluster_id_is_fnv1a() {
    // Vectors of draft-eastlake-fnv.
    assert_eq!(cluster_id(""), 0x811c_9dc5);
    assert_eq!(cluster_id("a"), 0xe40c_292c);
    assert_eq!(cluster_id("foobar"), 0xbf9c_f968);
}

#[test]
fn profiles_are_possible() {
    for profile in ["fast", "lan", "wan"] {
        assert_eq!(codes(&changed("\"lan\"", &format!("{profile:?}"))), [""; 0]);
    }
}

#[test]
fn all_errors_at_once_each_with_its_place() {
    let text = GOOD
        .replace("prefer = [\"n1\", \"n2\"]", "prefer = [\"n1\", \"m2\"]")
        .replace("port", "prot")
        .replace("profile = \"lan\"", "profile = \"lan\"\nlease = \"60ms\"")
        .replace("address = \"10.77.0.101\"", "adress = \"10.77.0.101\"");
    assert_eq!(
        found(&text),
        [
            "timing-takeover 7:9",
            "unknown-node 24:17",
            "missing-key 31:1",
            "unknown-key 32:1"
        ]
    );
}

#[test]
fn syntax_errors_do_not_hide_others() {
    let text = format!("{}\nx = = 1\n", changed("id = 2", "id = 77"));
    let codes = codes(&text);
    assert!(
        codes.contains(&"syntax") && codes.contains(&"node-id"),
        "{codes:?}"
    );
}

#[test]
fn unknown_keys_everywhere() {
    refused(
        &changed("cluster =", "prot = 1\ncluster ="),
        "unknown-key",
        &["`port`"],
    );
    refused(
        &changed("profile", "leese = \"1ms\"\nprofile"),
        "unknown-key",
        &["[timing]", "`lease`"],
    );
    refused(
        &changed("id = 1\n", "id = 1\nrool = \"member\"\n"),
        "unknown-key",
        &["[[node]]", "`role`"],
    );
    refused(
        &changed("{ device", "{ mtu = 1, device"),
        "unknown-key",
        &["[[node.link]]"],
    );
    refused(
        &changed("id = 0\n", "id = 0\nperfer = []\n"),
        "unknown-key",
        &["[[group]]", "`prefer`"],
    );
    refused(
        &changed(
            "address = \"10.77.0.100\"",
            "prefix = 24\naddress = \"10.77.0.100\"",
        ),
        "unknown-key",
        &["/24"],
    );
    refused(
        &changed("profile", "port = 1\nprofile"),
        "unknown-key",
        &["top of the file"],
    );
    refused(
        &changed("id = 0\n", "id = 0\nprobe = 1\n"),
        "unknown-key",
        &["later release"],
    );
}

#[test]
fn missing_keys_and_wrong_types() {
    refused(
        &changed("cluster = \"demo\"\n", ""),
        "missing-key",
        &["`cluster`", "cluster ="],
    );
    refused(
        &changed("cluster = \"demo\"", "cluster = 3"),
        "wrong-type",
        &["string", "integer"],
    );
    refused(
        &changed("name = \"n1\"\nid = 1\n", "name = \"n1\"\n"),
        "missing-key",
        &["`id`", "[[node]]"],
    );
    refused(
        &changed(
            "link = [{ device = \"eth0\", address = \"10.77.0.1\" }]",
            "",
        ),
        "no-links",
        &["n1"],
    );
    refused(
        &changed(
            "link = [{ device = \"eth0\", address = \"10.77.0.1\" }]",
            "link = []",
        ),
        "no-links",
        &["n1"],
    );
    refused(
        &changed("id = 0\n", "id = 0\nspread = \"yes\"\n"),
        "wrong-type",
        &["true or false"],
    );
    refused(
        &changed("[timing]\nprofile = \"lan\"", "timing = 3"),
        "wrong-type",
        &["[timing]"],
    );
    refused(
        &changed("prefer = [\"n1\", \"n2\"]", "prefer = \"n1\""),
        "wrong-type",
        &["list"],
    );
    warned(&changed("generation = 1\n", ""), "no-generation");
    refused(
        &changed("generation = 1\n", "generation = 0\n"),
        "bad-generation",
        &["from 1"],
    );
    refused(
        &changed("cluster =", "port = 70000\ncluster ="),
        "bad-port",
        &["65535"],
    );
    refused(&changed("\"demo\"", "\"a b\""), "bad-name", &["a b"]);
    refused(
        &changed("role = \"witness\"", "role = \"witnes\""),
        "bad-choice",
        &["did you mean `witness`"],
    );
    refused(
        &changed("cluster =", "log = \"inof\"\ncluster ="),
        "bad-log",
        &["did you mean `info`"],
    );
    refused(
        &changed("cluster =", "log = \"a=b=c\"\ncluster ="),
        "bad-log",
        &[],
    );
    refused(
        &changed("cluster =", "datapath = \"socket\"\ncluster ="),
        "datapath-later",
        &["later release", "auto"],
    );
    refused(
        &changed("cluster =", "announce_interval = \"1ms\"\ncluster ="),
        "bad-announce-interval",
        &["1s to 3600s"],
    );
    refused(
        &changed("cluster =", "announce_interval = 60\ncluster ="),
        "wrong-type",
        &["announce_interval = \"60s\""],
    );
    refused(
        &changed("cluster =", "announce_interval = \"soon\"\ncluster ="),
        "bad-duration",
        &["unit"],
    );
}

fn timed(lines: &str) -> String {
    changed("profile = \"lan\"", lines)
}

#[test]
fn impossible_timings_name_both_sides() {
    refused(
        &timed("lease = \"60ms\"\ntakeover = \"50ms\""),
        "timing-takeover",
        &[
            "lease 60ms * 1.23 = 73.8ms must be below takeover 50ms",
            "lower lease to 40ms",
            "raise takeover to 75ms",
        ],
    );
    // The bound itself is too much, a nanosecond less is enough.
    refused(
        &timed("lease = \"100ms\"\ntakeover = \"123ms\""),
        "timing-takeover",
        &[],
    );
    config(&timed("lease = \"100ms\"\ntakeover = \"123000001ns\""));
    refused(
        &timed("lease = \"19ms\""),
        "timing-lease",
        &["lease 19ms", "heartbeat 10ms (profile lan)", "2 *"],
    );
    config(&timed("lease = \"20ms\""));
    refused(
        &timed("heartbeat = \"0s\""),
        "timing-heartbeat",
        &["heartbeat 0s"],
    );
    refused(
        &timed("max_promise = \"100ms\""),
        "timing-promise",
        &["takeover 50ms (profile lan)", "max_promise 100ms"],
    );
    config(&timed("max_promise = \"100ms 2ns\""));
    refused(
        &timed("max_promise = \"61s\""),
        "timing-max-promise",
        &["at most 60s"],
    );
    config(&timed("max_promise = \"60s\""));
    // As large as can be written: refused, no overflow.
    assert!(
        codes(&timed(
            "lease = \"18446744073s\"\ntakeover = \"18446744073s\""
        ))
        .contains(&"timing-takeover")
    );
}

fn without_witness(text: &str) -> String {
    let (start, end) = (
        text.find("[[node]]\nname = \"n3\"").unwrap(),
        text.find("[[group]]").unwrap(),
    );
    format!("{}{}", &text[..start], &text[end..])
}

#[test]
fn counts_of_nodes() {
    refused(
        &without_witness(GOOD),
        "two-nodes",
        &[
            "majority of two is two",
            "witness (recommended",
            "fencing",
            "unsafe-ping",
        ],
    );
    for word in ["unsafe-ping", "fencing"] {
        let text = changed("cluster =", &format!("tie_break = {word:?}\ncluster ="));
        refused(&text, "tie-break-later", &["later release", "witness"]);
        assert_eq!(
            codes(&without_witness(&text)),
            ["tie-break-later", "two-nodes"]
        );
    }
    refused(
        &changed("cluster =", "tie_break = \"fencin\"\ncluster ="),
        "bad-choice",
        &["did you mean `fencing`"],
    );
    let one = GOOD
        .replace("id = 2\n", "id = 2\nrole = \"witness\"\n")
        .replace("prefer = [\"n1\", \"n2\"]", "");
    refused(&one, "too-few-members", &["1 of 3"]);
    let start = GOOD.find("[[node]]").unwrap();
    assert_eq!(codes(&GOOD[..start]), ["node-count", "no-groups"]);
    warned(&many_nodes(4), "even-nodes");
    config(&many_nodes(31));
    warned(&many_nodes(32), "even-nodes");
    assert!(codes(&many_nodes(33)).contains(&"node-count"));
}

fn many_nodes(count: usize) -> String {
    let (start, end) = (
        GOOD.find("[[node]]").unwrap(),
        GOOD.find("[[group]]").unwrap(),
    );
    let node = |i| {
        format!(
            "[[node]]\nname = \"n{i}\"\nid = {i}\nlink = [{{ device = \"eth0\", address = \"10.77.0.{i}\" }}]\n"
        )
    };
    let nodes: String = (1..=count).map(node).collect();
    format!("{}{nodes}{}", &GOOD[..start], &GOOD[end..])
}

#[test]
fn rules_of_nodes_and_links() {
    refused(&changed("id = 2", "id = 0"), "node-id", &["from 1 to 32"]);
    refused(&changed("id = 2", "id = 33"), "node-id", &["from 1 to 32"]);
    refused(
        &changed("id = 2", "id = 1"),
        "duplicate-node-id",
        &["id 1", "id 2 is free"],
    );
    refused(&changed("\"n3\"", "\"n1\""), "duplicate-node-name", &["n1"]);
    refused(
        &changed("10.77.0.3", "10.77.0.1"),
        "duplicate-link-address",
        &["10.77.0.1"],
    );
    refused(
        &changed("10.77.0.3", "fd77::3"),
        "link-family",
        &["n3 is IPv6", "n1 is IPv4"],
    );
    refused(
        &changed("10.77.0.3", "10.77.0.3/24"),
        "bad-link-address",
        &["without prefix"],
    );
    refused(
        &changed("10.77.0.3", "n3.example.org"),
        "bad-link-address",
        &["not an IP address"],
    );
    refused(
        &changed("10.77.0.3", "fe80::3%eth0"),
        "bad-link-address",
        &["more than an address"],
    );
    refused(
        &changed("10.77.0.3", "fe80::3"),
        "bad-link-address",
        &["link-local", "fd00::/8"],
    );
    refused(
        &changed("10.77.0.3", "127.0.0.1"),
        "bad-link-address",
        &["loopback"],
    );
    refused(&changed("eth0", "lo"), "bad-device", &["loopback"]);
    refused(
        &changed("eth0", "a234567890123456"),
        "bad-device",
        &["15 bytes"],
    );
    refused(&changed("eth0", ""), "bad-device", &["empty"]);
    refused(&changed("eth0", "a/b"), "bad-device", &["refuses"]);
    config(&changed("eth0", "a23456789012345"));
    let nine: Vec<_> = (1..=9)
        .map(|i| format!("{{ device = \"eth0\", address = \"10.78.0.{i}\" }}"))
        .collect();
    let text = changed(
        "{ device = \"eth0\", address = \"10.77.0.1\" }",
        &nine.join(", "),
    );
    assert_eq!(
        codes(&text),
        ["too-many-links", "fewer-links", "fewer-links"]
    );
    warned(
        &changed(" }]", " }, { device = \"eth1\", address = \"fd77::1\" }]").replacen(
            "10.77.0.2\" }]",
            "10.77.0.2\" }, { device = \"eth1\", address = \"fd77::2\" }]",
            1,
        ),
        "fewer-links",
    );
}

#[test]
fn rules_of_groups() {
    refused(
        &changed("id = 0", "id = 256"),
        "group-id",
        &["from 0 to 255"],
    );
    refused(
        &changed("id = 0", "id = -1"),
        "group-id",
        &["from 0 to 255"],
    );
    config(&changed("id = 0", "id = 255"));
    assert_eq!(
        codes(&GOOD.replace("\"db\"\nid = 1", "\"db\"\nid = 0")),
        ["duplicate-group-id"]
    );
    refused(
        &changed("\"db\"", "\"web\""),
        "duplicate-group-name",
        &["web"],
    );
    refused(
        &changed("\"n2\"]", "\"n22\"]"),
        "unknown-node",
        &["did you mean `n2`"],
    );
    refused(
        &changed("\"n2\"]", "\"zebra\"]"),
        "unknown-node",
        &["`n1`, `n2`, `n3`"],
    );
    refused(
        &changed("\"n2\"]", "\"n3\"]"),
        "prefer-witness",
        &["never owns"],
    );
    refused(&changed("\"n2\"]", "\"n1\"]"), "prefer-twice", &["n1"]);
    refused(
        &changed("[\"n1\", \"n2\"]", "[]"),
        "empty-prefer",
        &["leave `prefer` out"],
    );
    warned(&changed("[\"n1\", \"n2\"]", "[\"n1\"]"), "one-owner");
    let last = GOOD.rfind("[[group.vip]]").unwrap();
    refused(&GOOD[..last], "no-vips", &["group db"]);
    let first = GOOD.find("[[group]]").unwrap();
    warned(&GOOD[..first], "no-groups");
}

#[test]
fn rules_of_vips() {
    let vip = |address: &str| changed("10.77.0.100", address);
    refused(&vip("10.77.0.101"), "duplicate-vip", &["groups web and db"]);
    refused(&vip("10.77.0.2"), "vip-is-link", &["node n2"]);
    let twice = vip("10.77.0.100\"\ndevice = \"eth0\"\n[[group.vip]]\naddress = \"10.77.0.100");
    refused(&twice, "duplicate-vip", &["in group web twice"]);
    // One address in two spellings.
    let spelled = GOOD
        .replace("10.77.0.100", "fd77::100")
        .replace("10.77.0.101", "fd77:0:0::0:100");
    assert_eq!(codes(&spelled), ["duplicate-vip"]);
    for (address, word) in [
        ("224.0.0.18", "multicast"),
        ("ff02::1", "multicast"),
        ("127.0.0.2", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("10.77.0.255/24", "broadcast"),
        ("10.77.0.0/24", "network itself"),
        ("fd77::/64", "anycast"),
        ("0.1.2.3", "reserved"),
        ("250.1.2.3", "reserved"),
        ("fe80::1", "link-local"),
        ("::ffff:10.0.0.1", "IPv4 address"),
        ("10.77.0.100/0", "1 to 32"),
        ("10.77.0.100/33", "1 to 32"),
        ("10.77.0.100/x", "1 to 32"),
        ("fd77::100/129", "1 to 128"),
        ("10.77.0", "not an IP address"),
        ("", "not an IP address"),
    ] {
        refused(&vip(address), "bad-vip", &[word]);
    }
    for (address, prefix) in [
        ("10.77.0.100/24", 24),
        ("fd77::100/64", 64),
        ("fd77::100", 128),
        ("10.77.0.200/31", 31),
        ("10.77.0.255", 32),
    ] {
        assert_eq!(
            config(&vip(address)).groups[0].vips[0].prefix,
            prefix,
            "{address}"
        );
    }
    refused(
        &changed("100\"\ndevice = \"eth0\"", "100\"\ndevice = \"lo\""),
        "bad-device",
        &["loopback"],
    );
}

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
    assert_eq!(ClusterKey::load(&path).unwrap(), key);
    let other = ClusterKey::generate().unwrap();
    assert_ne!(key, other);
    assert_eq!(other.write(&path, false).unwrap_err().code(), "key-exists");
    assert_eq!(ClusterKey::load(&path).unwrap(), key, "left as it was");
    other.write(&path, true).unwrap();
    assert_eq!(ClusterKey::load(&path).unwrap(), other);
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

#[test]
fn shown_to_people_and_to_scripts() {
    let report = report_of(&changed("\"n2\"]", "\"m2\"]"));
    let text = report.render(false);
    for part in [
        "error[unknown-node]",
        "t.toml:23:17",
        "prefer = [\"n1\", \"m2\"]",
        "help: did you mean `n2`?",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains('\x1b') && report.render(true).contains('\x1b'));
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(
        json,
        serde_json::json!([{
            "file": "t.toml", "line": 23, "column": 17, "severity": "error", "code": "unknown-node",
            "message": "there is no node \"m2\"", "help": "did you mean `n2`?"
        }])
    );
}

#[test]
fn durations_for_people() {
    for (ns, text) in [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5us"),
        (73_800_000, "73.8ms"),
        (1_000_000_000, "1s"),
        (u64::MAX, "18446744073.709551615s"),
    ] {
        assert_eq!(show_ns(ns), text);
    }
}
