//! Against what real programs printed (`samples`), and against anything at all.

use proptest::prelude::*;

use super::{
    check::{Weight, findings},
    events::{Book, News},
    state::{Connection, Disk, Replication, ResourceState, Role},
    *,
};

const NOW: &str = include_str!("samples/now.txt");

/// Name and state of each sample.
fn samples() -> Vec<(&'static str, ResourceState)> {
    let read = |part: &'static str| {
        let (title, text) = part.split_once('\n').unwrap();
        let mut book = Book::read(text.as_bytes());
        assert!(book.complete && book.strange == 0, "{title}: {book:?}");
        (title, book.resources.remove("r0").unwrap())
    };
    NOW.split("## ").skip(1).map(read).collect()
}

fn sample(title: &str) -> ResourceState {
    let all = samples();
    let found = all.into_iter().find(|(t, _)| *t == title);
    found.unwrap_or_else(|| panic!("{title}")).1
}

#[test]
fn real_states() {
    use Connection as C;
    use Disk as D;
    use Replication as P;
    use Role as R;
    //  role, disk, connection, peer's role, peer's disk, replication
    #[rustfmt::skip]
    let table = [
        ("inconsistent-alone n1",    R::Secondary, D::Inconsistent, C::Connecting,     R::Unknown,   D::Unknown,      P::Off),
        ("inconsistent-both n2",     R::Secondary, D::Inconsistent, C::Connected,      R::Secondary, D::Inconsistent, P::Established),
        ("connected-secondary n1",   R::Secondary, D::UpToDate,     C::Connected,      R::Secondary, D::UpToDate,     P::Established),
        ("connected-primary n1",     R::Primary,   D::UpToDate,     C::Connected,      R::Secondary, D::UpToDate,     P::Established),
        ("connected-primary n2",     R::Secondary, D::UpToDate,     C::Connected,      R::Primary,   D::UpToDate,     P::Established),
        ("disconnected-outdated n2", R::Secondary, D::UpToDate,     C::StandAlone,     R::Unknown,   D::Unknown,      P::Off),
        ("resync n2",                R::Secondary, D::Inconsistent, C::Connected,      R::Primary,   D::UpToDate,     P::SyncTarget),
        ("resync-paused n1",         R::Primary,   D::UpToDate,     C::Connected,      R::Secondary, D::Inconsistent, P::PausedSyncS),
        ("cut n1",                   R::Primary,   D::UpToDate,     C::Connecting,     R::Unknown,   D::Unknown,      P::Off),
        ("split-brain n1",           R::Primary,   D::UpToDate,     C::StandAlone,     R::Unknown,   D::Unknown,      P::Off),
        ("split-brain n2",           R::Secondary, D::UpToDate,     C::StandAlone,     R::Unknown,   D::Outdated,     P::Off),
        ("dual-primary n2",          R::Primary,   D::UpToDate,     C::Connected,      R::Primary,   D::UpToDate,     P::Established),
        ("diskless n1",              R::Primary,   D::Diskless,     C::Connected,      R::Secondary, D::UpToDate,     P::Established),
        ("suspended n1",             R::Primary,   D::UpToDate,     C::NetworkFailure, R::Unknown,   D::Unknown,      P::Off),
        ("fenced n1",                R::Primary,   D::UpToDate,     C::Connecting,     R::Unknown,   D::Outdated,     P::Off),
        ("consistent n2",            R::Secondary, D::Consistent,   C::Connecting,     R::Unknown,   D::Unknown,      P::Off),
        ("consistent-fenced n2",     R::Primary,   D::UpToDate,     C::Connecting,     R::Unknown,   D::Outdated,     P::Off),
        ("outdated n2",              R::Secondary, D::Outdated,     C::StandAlone,     R::Unknown,   D::Outdated,     P::Off),
    ];
    for (title, role, disk, connection, peer_role, peer_disk, replication) in table {
        let s = sample(title);
        let peer = s.peers.get(&0).unwrap();
        let far = peer.volumes.get(&0).unwrap();
        let seen = (
            s.role,
            s.worst_disk().unwrap(),
            peer.connection,
            peer.role,
            far.disk,
            far.replication,
        );
        assert_eq!(
            seen,
            (role, disk, connection, peer_role, peer_disk, replication),
            "{title}"
        );
        assert_eq!(s.volumes.get(&0).unwrap().minor, Some(0));
        assert_eq!(s.suspended.any(), title == "suspended n1", "{title}");
    }
    assert!(samples().len() >= 30);
}

#[test]
fn sentences() {
    assert_eq!(
        sample("resync n2").sentence(),
        "Secondary, Inconsistent, peer Connected Primary UpToDate, resync to here 53.6 %"
    );
    assert_eq!(
        sample("resync-paused n1").sentence(),
        "Primary, UpToDate, peer Connected Secondary Inconsistent, resync from here 61.0 % (rests)"
    );
    assert_eq!(
        sample("suspended n1").sentence(),
        "Primary, UpToDate, I/O suspended (waits for fencing), peer NetworkFailure DUnknown"
    );
}

#[test]
fn does_it_run() {
    let mut s = sample("connected-primary n1");
    assert_eq!(judge(&s), State::Running);
    assert_eq!(judge(&sample("cut n1")), State::Running);
    assert_eq!(judge(&sample("connected-primary n2")), State::Stopped);
    // The peer has the data, and writes go there.
    assert_eq!(judge(&sample("diskless n1")), State::Running);
    assert!(matches!(judge(&sample("suspended n1")), State::Unknown(_)));
    s = sample("diskless n1");
    s.peers.get_mut(&0).unwrap().connection = Connection::NetworkFailure;
    assert!(matches!(judge(&s), State::Failed(_)));
}

#[test]
fn a_stream_shows_split_brain_and_its_end() {
    let text = include_str!("samples/stream-split-brain.txt");
    let mut book = Book::default();
    let mut seen = Vec::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let before = book.resources.get("r0").is_some_and(|r| r.split_brain);
        match book.apply(line.as_bytes()) {
            Some(News::Call { helper, .. }) => calls.push(helper),
            Some(_) => {}
            None => panic!("not understood: {line}"),
        }
        let after = book.resources.get("r0").is_some_and(|r| r.split_brain);
        if before != after {
            seen.push((after, line));
        }
    }
    // It comes, stays while StandAlone, and ends with the connection after `connect --discard-my-data`.
    assert_eq!(
        seen.iter().map(|(on, _)| *on).collect::<Vec<_>>(),
        [true, false],
        "{seen:?}"
    );
    assert!(
        seen[0].1.contains("helper:split-brain") && seen[1].1.contains("role:Secondary"),
        "{seen:?}"
    );
    assert!(calls.contains(&"fence-peer".to_owned()) && calls.contains(&"unfence-peer".to_owned()));
    assert!(book.resources.is_empty(), "it went down in the end");
}

#[test]
fn a_stream_tells_of_handlers_and_suspension() {
    let text = include_str!("samples/stream-fenced.txt");
    let mut book = Book::default();
    let mut suspended = false;
    let mut codes = Vec::new();
    for line in text.lines() {
        if let Some(News::Response { helper, code, .. }) = book.apply(line.as_bytes()) {
            codes.push((helper, code));
        }
        suspended |= book
            .resources
            .get("r0")
            .is_some_and(|r| r.suspended.fencing);
    }
    assert!(suspended);
    assert!(codes.contains(&("fence-peer".into(), Some(4))), "{codes:?}");
    assert_eq!(book.strange, 0);
    let s = book.resources.get("r0").unwrap();
    assert_eq!(
        s.peers.get(&0).unwrap().volumes.get(&0).unwrap().disk,
        Disk::UpToDate
    );
}

/// By the source of drbdsetup_events2.c, as no machine of ours has the module 9.
const NINE: &str = "\
exists resource name:db role:Secondary suspended:no force-io-failures:no write-ordering:flush may_promote:no promotion_score:10102
exists connection name:db peer-node-id:1 conn-name:beta connection:Connected role:Primary congested:no ap-in-flight:0 rs-in-flight:0
exists connection name:db peer-node-id:2 conn-name:gamma connection:Connecting role:Unknown congested:no ap-in-flight:0 rs-in-flight:0
exists device name:db volume:0 minor:1000 backing_dev:/dev/vg/db disk:Inconsistent client:no quorum:yes size:1048576 read:0 written:9 al-writes:1 bm-writes:0 upper-pending:0 lower-pending:0 al-suspended:no blocked:no
exists peer-device name:db peer-node-id:1 conn-name:beta volume:0 replication:SyncTarget peer-disk:UpToDate peer-client:no resync-suspended:no done:12.50 eta:30 received:1 sent:0 out-of-sync:917504 pending:0 unacked:0
exists peer-device name:db peer-node-id:2 conn-name:gamma volume:0 replication:Off peer-disk:Outdated peer-client:no resync-suspended:no received:0 sent:0 out-of-sync:0 pending:0 unacked:0
exists path name:db peer-node-id:1 conn-name:beta local:ipv4:10.0.0.1:7000 peer:ipv4:10.0.0.2:7000 established:yes
exists -
";

#[test]
fn nine_as_documented() {
    let mut book = Book::read(NINE.as_bytes());
    assert!(book.complete && book.strange == 0, "{book:?}");
    let s = book.resources.get("db").unwrap();
    assert_eq!(
        (s.may_promote, s.promotion_score),
        (Some(false), Some(10102))
    );
    assert_eq!(s.volumes.get(&0).unwrap().quorum, Some(true));
    assert_eq!(
        s.sentence(),
        "Secondary, Inconsistent, peer beta Connected Primary UpToDate, peer gamma Connecting Outdated, resync to here 12.5 %"
    );
    let json = br#"[{"name":"db","node-id":0,"role":"Secondary","suspended":false,"suspended-user":false,
      "suspended-no-data":false,"suspended-fencing":false,"suspended-quorum":false,"force-io-failures":false,
      "write-ordering":"flush","devices":[{"volume":0,"minor":1000,"disk-state":"Inconsistent","client":false,"quorum":true,
      "size":1048576,"read":0}],"connections":[{"peer-node-id":1,"name":"beta","connection-state":"Connected",
      "congested":false,"peer-role":"Primary","peer_devices":[{"volume":0,"replication-state":"SyncTarget",
      "peer-disk-state":"UpToDate","peer-client":false,"resync-suspended":"no","out-of-sync":917504,
      "percent-in-sync":12.50,"percent-resync-done":12.5}]},{"peer-node-id":2,"name":"gamma",
      "connection-state":"Connecting","congested":false,"peer-role":"Unknown","peer_devices":[{"volume":0,
      "replication-state":"Off","peer-disk-state":"Outdated","peer-client":false,"resync-suspended":"no",
      "out-of-sync":0,"percent-in-sync":100.0}]}]}]"#;
    let by_json = json::read(json).unwrap().remove("db").unwrap();
    // What JSON does not say.
    let s = book.resources.get_mut("db").unwrap();
    (s.may_promote, s.promotion_score) = (None, None);
    assert_eq!(&by_json, s);
    book.apply(b"rename resource name:db new_name:data");
    assert!(book.resources.contains_key("data") && !book.resources.contains_key("db"));
    assert_eq!(book.apply(b"- skipped 3"), Some(News::Skipped));
    assert!(!book.complete);
    assert_eq!(
        book.apply(b"destroy resource name:data"),
        Some(News::Gone("data".into()))
    );
    assert!(json::read(b"{").is_err());
}

/// What drbdadm and drbdsetup-84 printed on standard error, and how they ended.
#[test]
fn real_refusals() {
    use std::os::unix::process::ExitStatusExt as _;
    let ended = |code: i32, text: &str| Ended {
        status: std::process::ExitStatus::from_raw(code << 8),
        stdout: Vec::new(),
        stderr: text.as_bytes().to_vec(),
        cut: false,
        took: Duration::ZERO,
    };
    for (exit, text, drbd, part) in [
        (
            17,
            "0: State change failed: (-2) Need access to UpToDate data\nCommand 'drbdsetup-84 primary 0' terminated with exit code 17\n",
            Some(-2),
            "no UpToDate data",
        ),
        (
            11,
            "0: State change failed: (-1) Multiple primaries not allowed by config\nCommand 'x' terminated with exit code 11\n",
            Some(-1),
            "another node is Primary",
        ),
        (
            11,
            "0: State change failed: (-7) Refusing to be Primary while peer is not outdated\n",
            Some(-7),
            "fence-peer handler",
        ),
        (
            11,
            "0: State change failed: (-12) Device is held open by someone\n",
            Some(-12),
            "held open",
        ),
        (
            10,
            "0: Failure: (127) Device minor not allocated\nadditional info from kernel:\nunknown minor\n",
            Some(127),
            "drbdadm up",
        ),
        (
            10,
            "??: Failure: (162) Invalid configuration request\nadditional info from kernel:\nunknown connection\n",
            Some(162),
            "not up",
        ),
        (1, "something new", None, "something new"),
    ] {
        let e = ended(exit, text);
        assert_eq!(code(&said(&e)), drbd, "{text}");
        let Failure::Failed(sentence) = refusal("r0", "primary", &e) else {
            panic!("{text}")
        };
        assert!(
            sentence.contains(part) && sentence.contains("r0") && !sentence.contains("Command"),
            "{sentence}"
        );
    }
    let e = ended(10, "'nosuch' not defined in your config (for this host).\n");
    assert!(matches!(
        refusal("nosuch", "primary", &e),
        Failure::Misconfigured(_)
    ));
}

#[test]
fn a_real_configuration_is_checked() {
    let mut config = check::parse(include_str!("samples/dump.xml")).unwrap();
    config.major = Some(8);
    let r = &config.resources[0];
    assert_eq!(
        (r.name.as_str(), r.place.as_str()),
        ("r0", "/etc/drbd.d/r0.res:3")
    );
    assert_eq!(
        (r.hosts.as_slice(), r.minors.as_slice()),
        (&["n1".to_owned(), "n2".to_owned()][..], &[0][..])
    );
    let seen: Vec<String> = findings(&config, r)
        .iter()
        .map(ToString::to_string)
        .collect();
    let has = |part: &str| seen.iter().any(|f| f.contains(part));
    assert!(
        has("resource-only") && has("/bin/fencer does not ask") && has("`timeout 60`"),
        "{seen:#?}"
    );
    assert!(!has("protocol") && !has("ping-timeout"), "{seen:#?}");
}

fn options(text: &str, major: u8) -> Vec<(Weight, String)> {
    let xml = format!(
        "<config><resource name=\"r\" conf-file-line=\"f:1\"><host name=\"a\"/><host name=\"b\"/><host name=\"c\"/>{text}</resource></config>"
    );
    let mut config = check::parse(&xml).unwrap();
    config.major = Some(major);
    findings(&config, &config.resources[0])
        .into_iter()
        .map(|f| (f.weight, f.what))
        .collect()
}

#[test]
fn what_is_unsafe_and_what_is_not() {
    let section = |name: &str, list: &[(&str, &str)]| {
        let list: String = list
            .iter()
            .map(|(k, v)| format!("<option name=\"{k}\" value=\"{v}\"/>"))
            .collect();
        format!("<section name=\"{name}\">{list}</section>")
    };
    let handlers = section(
        "handlers",
        &[
            ("fence-peer", "/usr/bin/heartline drbd fence-peer"),
            (
                "after-resync-target",
                "/usr/bin/heartline drbd unfence-peer",
            ),
            ("split-brain", "/usr/bin/heartline drbd split-brain"),
        ],
    );
    let startup = section("startup", &[("wfc-timeout", "15")]);
    let net = section("net", &[("ping-timeout", "30"), ("protocol", "C")]);
    let disk = section("disk", &[("fencing", "resource-and-stonith")]);
    let good = format!("{handlers}{startup}{net}{disk}");
    assert_eq!(options(&good, 8), []);
    let with = |more: String, major| {
        let found = options(&format!("{good}{more}"), major);
        found.first().map(|(w, what)| (*w, what.clone()))
    };
    for (more, major, weight, part) in [
        (
            section("disk", &[("fencing", "dont-care")]),
            8,
            Weight::Unsafe,
            "no `fencing` policy",
        ),
        (
            section("net", &[("protocol", "A")]),
            8,
            Weight::Unsafe,
            "protocol A",
        ),
        (
            section("net", &[("after-sb-1pri", "discard-secondary")]),
            8,
            Weight::Unsafe,
            "after-sb-1pri",
        ),
        (
            section("net", &[("allow-two-primaries", "yes")]),
            8,
            Weight::Unsafe,
            "two nodes",
        ),
        (
            "<section name=\"net\"><option name=\"allow-two-primaries\"/></section>".into(),
            8,
            Weight::Unsafe,
            "two nodes",
        ),
        (
            section("startup", &[("become-primary-on", "both")]),
            8,
            Weight::Unsafe,
            "boot",
        ),
        (
            section(
                "handlers",
                &[("fence-peer", "/usr/lib/drbd/crm-fence-peer.sh")],
            ),
            8,
            Weight::Unsafe,
            "Pacemaker",
        ),
        (
            section("net", &[("ping-timeout", "5")]),
            8,
            Weight::Warning,
            "500 ms",
        ),
        (
            section("net", &[("ko-count", "0")]),
            8,
            Weight::Warning,
            "ko-count",
        ),
        (
            section("disk", &[("disk-flushes", "no")]),
            8,
            Weight::Warning,
            "battery",
        ),
        (
            section("disk", &[("on-io-error", "pass_on")]),
            8,
            Weight::Warning,
            "pass_on",
        ),
        (String::new(), 9, Weight::Unsafe, "auto-promote"),
        (
            section("options", &[("auto-promote", "no")]),
            9,
            Weight::Warning,
            "quorum",
        ),
    ] {
        let (w, what) = with(more, major).unwrap_or_else(|| panic!("{part}"));
        assert!(w == weight && what.contains(part), "{part}: {w:?} {what}");
    }
    for wrong in ["", "<a/>", "no", "<config"] {
        assert!(check::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn resolving_is_what_the_documentation_says() {
    use resolve::{Part, plan};
    let verbs = |s: &ResourceState, part| {
        plan("r0", s, part).map(|l| l.iter().map(|c| c.verb.join(" ")).collect::<Vec<_>>())
    };
    let (n1, n2) = (sample("split-brain n1"), sample("split-brain n2"));
    assert_eq!(
        verbs(&n2, Part::Discard).unwrap(),
        ["disconnect", "connect --discard-my-data"]
    );
    assert_eq!(verbs(&n1, Part::Keep).unwrap(), ["connect"]);
    assert!(
        verbs(&n1, Part::Discard)
            .unwrap_err()
            .contains("Primary here")
    );
    assert!(
        verbs(&sample("connected-secondary n1"), Part::Discard)
            .unwrap_err()
            .contains("connected")
    );
    assert!(
        verbs(&sample("connected-secondary n1"), Part::KeepAlone)
            .unwrap_err()
            .contains("connected")
    );
    assert_eq!(
        verbs(&sample("outdated n2"), Part::KeepAlone).unwrap(),
        ["primary --force", "secondary"]
    );
    assert_eq!(
        verbs(&sample("cut n1"), Part::Keep).unwrap(),
        Vec::<String>::new()
    );
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let book = Book::read(&bytes);
        let _ = format!("{:?}", book.resources.values().map(ResourceState::sentence).collect::<Vec<_>>());
        let _ = json::read(&bytes);
        let _ = check::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn damaged_lines_are_taken(at in 0usize..20_000, byte in any::<u8>(), cut in 0usize..20_000, nine in any::<bool>()) {
        let mut text = if nine { NINE.to_owned() } else { NOW.to_owned() }.into_bytes();
        let (at, cut) = (at % text.len(), cut % text.len());
        text[at] = byte;
        text.truncate(cut.max(1));
        let book = Book::read(&text);
        for s in book.resources.values() {
            let _ = (s.sentence(), judge(s), rules::promote("r0", s, Given::default(), false), rules::score(Some(s), Given::default()));
        }
    }

    /// Words in any order: nothing grows without bounds, and no state comes from nothing.
    #[test]
    fn many_words(words in proptest::collection::vec("(exists|change|destroy|call|resource|device|connection|peer-device|helper|name:[a-c]|volume:[0-9]{1,9}|peer-node-id:[0-9]{1,9}|disk:UpToDate|role:Primary|helper:split-brain|status:[0-9]{1,12}|done:(nan|inf|-1|50)|-|\n)", 0..400)) {
        let book = Book::read(words.join(" ").as_bytes());
        prop_assert!(book.resources.len() <= 3);
        for r in book.resources.values() {
            prop_assert!(r.volumes.len() <= state::MOST && r.peers.len() <= state::MOST);
        }
    }
}

#[test]
fn bounds_hold() {
    let mut book = Book::default();
    for n in 0..10_000u32 {
        book.apply(format!("exists device name:r0 volume:{n} minor:{n} disk:UpToDate").as_bytes());
        book.apply(format!("exists resource name:x{n} role:Primary").as_bytes());
    }
    assert_eq!(book.resources.get("r0").unwrap().volumes.len(), state::MOST);
    assert_eq!(book.resources.len(), 4096);
    let long = format!("exists resource name:{} role:Primary", "y".repeat(5000));
    assert_eq!(book.apply(long.as_bytes()), None);
}
