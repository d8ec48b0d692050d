//! A test per rule: the smallest change of a good file that breaks it.

use super::*;

mod domain;
mod extras;
mod files;
mod properties;
mod reload;
mod rules;
mod services;
mod state;

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
        &changed("id = 0\n", "id = 0\nfence = 1\n"),
        "unknown-key",
        &["[[fence]]"],
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
        &changed("cluster =", "datapath = \"xdp\"\ncluster ="),
        "bad-choice",
        &["auto", "socket"],
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

/// The gate without BPF goes by the kernel's tick: a lease of a few ms is too short for it.
#[test]
fn sockets_need_a_longer_lease() {
    let sockets = changed("cluster =", "datapath = \"socket\"\ncluster =");
    warned(&sockets, "socket-lease");
    refused(
        &sockets.replace("profile = \"lan\"", "profile = \"fast\""),
        "socket-lease",
        &["too short", "wan"],
    );
    let wan = config(&sockets.replace("profile = \"lan\"", "profile = \"wan\""));
    assert_eq!(wan.datapath, Datapath::Socket);
}
