//! Without a table, with a full ring buffer, and with pins from before.

use agent_common::{Set, state::LAYOUT};
use heartline::datapath::{DataPath, Identity};
use heartline_bpf_tests::{
    Action, PinDir, Rig, boot_ns, consts::*, frame, over_ipv4, over_ipv6, pin_array,
};
use smoltcp::wire::ArpOperation;

const CLIENT6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);

#[test]
fn without_a_table_vips_are_shut_and_all_else_passes() {
    let mut rig = Rig::unidentified();
    // Everything is there but the layout word, which the loader writes last; then with a wrong one.
    rig.grant(PEER, CV, Set::of(GROUP));
    rig.own(GROUP, boot_ns() + 60_000_000_000);
    rig.table.port.store(u64::from(PORT));
    rig.table.cluster.store(u64::from(CLUSTER));
    for layout in [0, LAYOUT + 1, LAYOUT - 1, 1] {
        rig.table.layout.store(layout);
        let before = rig.snapshot();
        let m = rig.heartbeat();
        for (what, f) in [
            ("heartbeat", over_ipv4(&m)),
            ("heartbeat", over_ipv6(&m)),
            (
                "another's",
                frame::udp(&[], (PEER4.into(), 1), (LINK4.into(), 80), b"x"),
            ),
            (
                "another's ARP",
                frame::arp(&[], ArpOperation::Request, PEER4, LINK4),
            ),
            (
                "the owner's ARP",
                frame::arp(&[], ArpOperation::Request, VIP4, VIP4),
            ),
            ("the owner's NA", frame::advertise(&[], VIP6, CLIENT6, VIP6)),
        ] {
            assert_eq!(rig.xdp(&f).0, Action::Pass, "{what}");
            assert_eq!(rig.delta(), [("no_state", 1)], "{what}");
        }
        for (what, f) in [
            (
                "IPv4",
                frame::udp(&[], (PEER4.into(), 1), (VIP4.into(), 80), b"x"),
            ),
            (
                "IPv6",
                frame::udp(&[], (PEER6.into(), 1), (VIP6.into(), 80), b"x"),
            ),
            ("ARP", frame::arp(&[], ArpOperation::Request, PEER4, VIP4)),
            ("NS", frame::solicit(&[], CLIENT6, LINK6, VIP6)),
        ] {
            assert_eq!(rig.xdp(&f).0, Action::Drop, "{what}");
            assert_eq!(
                rig.delta(),
                [("gate_in_drop", 1), ("no_state", 1)],
                "{what}"
            );
        }
        for (what, f) in [
            (
                "IPv4",
                frame::udp(&[], (VIP4.into(), 80), (PEER4.into(), 1), b"x"),
            ),
            (
                "IPv6",
                frame::udp(&[], (VIP6.into(), 80), (PEER6.into(), 1), b"x"),
            ),
            ("ARP", frame::arp(&[], ArpOperation::Reply, VIP4, PEER4)),
        ] {
            assert_eq!(rig.egress(&f), Action::Drop, "{what}");
            assert_eq!(
                rig.delta(),
                [("gate_out_drop", 1), ("no_state", 1)],
                "{what}"
            );
        }
        assert_eq!(
            rig.egress(&frame::udp(
                &[],
                (LINK4.into(), 80),
                (PEER4.into(), 1),
                b"x"
            )),
            Action::Pass
        );
        assert_eq!(rig.delta(), []);
        assert_eq!(rig.snapshot(), before);
        assert!(rig.records().is_empty());
    }
}

#[test]
fn a_full_ring_buffer_loses_records_and_nothing_else() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    // 256 KiB hold about 1200 records of 216 bytes.
    let sent = 2_000;
    for _ in 0..sent {
        let m = agent_common::wire::Message {
            cv: CV + 1,
            ..rig.heartbeat()
        };
        assert_eq!(rig.send(&rig.sign(m)).0, Action::Drop);
    }
    let counted = rig.delta();
    let of = |name| {
        counted
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, n)| *n)
    };
    assert_eq!(of("heartbeats_in"), sent);
    assert_eq!(of("to_user") + of("ring_full"), sent);
    assert!(
        of("to_user") > 1_000 && of("ring_full") > 500,
        "{counted:?}"
    );
    assert_eq!(counted.len(), 3, "{counted:?}");
    // Full as it is: promises, acks, the gate and rule 11 do not need it.
    let m = rig.heartbeat();
    assert_eq!(rig.send(&m).0, Action::Tx);
    let m = agent_common::wire::Message {
        ask_cv: CV + 1,
        ..rig.heartbeat()
    };
    assert_eq!(
        rig.send(&rig.sign(m)).0,
        Action::Tx,
        "acked, though not delivered"
    );
    assert_eq!(
        rig.delta(),
        [("acks_out", 2), ("heartbeats_in", 2), ("ring_full", 1)]
    );
    rig.own(GROUP, boot_ns() + 60_000_000_000);
    let vip = frame::udp(&[], (PEER4.into(), 1), (VIP4.into(), 80), b"x");
    assert_eq!(rig.xdp(&vip).0, Action::Pass);
    let m = agent_common::wire::Message {
        epoch: 10,
        ..rig.heartbeat()
    };
    assert_eq!(rig.send(&rig.sign(m)).0, Action::Drop);
    assert_eq!(rig.xdp(&vip).0, Action::Drop, "shut, though not reported");
    rig.delta();
    // Read empty, it works again.
    assert!(rig.records().len() > 1_000);
    let m = agent_common::wire::Message {
        cv: CV + 1,
        ..rig.heartbeat()
    };
    let m = rig.sign(m);
    rig.send(&m);
    assert_eq!(rig.delta(), [("heartbeats_in", 1), ("to_user", 1)]);
    assert_eq!(rig.records()[0].message, m);
}

fn identity() -> Identity {
    Identity {
        id: ME,
        cluster: CLUSTER,
        generation: GENERATION,
        digest: DIGEST,
        port: PORT,
        max_promise_ns: MAX_PROMISE,
        voters: VOTERS,
    }
}

#[test]
fn a_second_load_adopts_the_table() {
    let pins = PinDir::new();
    let mut first = DataPath::load(pins.path(), [1; 16]).unwrap();
    assert!(first.is_fresh());
    first.set_vips(&[(VIP4.into(), GROUP)]).unwrap();
    first.identify(&identity(), 1_000, 42);
    let t = first.table();
    assert_eq!(
        (t.incarnation.load(), t.vote_after.load()),
        (42, 1_000 + MAX_PROMISE)
    );
    t.peer(PEER).word.store(0x1234_0000_0001);
    t.cv_max.store(99);
    drop(first);

    let second = DataPath::load(pins.path(), [1; 16]).unwrap();
    assert!(!second.is_fresh(), "the table is the pinned one");
    second.identify(
        &Identity {
            digest: DIGEST + 1,
            ..identity()
        },
        5_000,
        4_242,
    );
    let t = second.table();
    assert_eq!(t.incarnation.load(), 42, "born once");
    assert_eq!(t.vote_after.load(), 1_000 + MAX_PROMISE, "waited out once");
    assert_eq!(t.digest.load(), u64::from(DIGEST) + 1);
    assert_eq!(
        (t.peer(PEER).word.load(), t.cv_max.load()),
        (0x1234_0000_0001, 99)
    );

    // Two at once see each other's words: it is one table, not two.
    let third = DataPath::load(pins.path(), [1; 16]).unwrap();
    third.table().cv_max.store(100);
    assert_eq!(t.cv_max.load(), 100);
}

#[test]
fn other_members_or_another_generation_wait_as_if_fresh() {
    for id in [
        Identity {
            generation: GENERATION + 1,
            ..identity()
        },
        Identity {
            voters: VOTERS >> 2,
            ..identity()
        },
    ] {
        let mut rig = Rig::new();
        rig.grant(PEER, CV, Set::of(GROUP));
        let m = rig.heartbeat();
        assert_eq!(rig.send(&m).0, Action::Tx);
        let promise = rig.promise();
        rig.own(GROUP, boot_ns() + 60_000_000_000);
        let vip = frame::udp(&[], (PEER4.into(), 1), (VIP4.into(), 80), b"x");
        assert_eq!(rig.xdp(&vip).0, Action::Pass);

        let again = DataPath::load(rig.pins(), [1; 16]).unwrap();
        let now = boot_ns();
        again.identify(&id, now, 4_242);
        assert_eq!(rig.table.vote_after.load(), now + MAX_PROMISE);
        assert_eq!(rig.xdp(&vip).0, Action::Drop, "owns nothing any more");
        assert!(rig.table.gate.load().is_empty() && rig.table.lease.load() == 0);
        assert_eq!(rig.promise(), promise, "what was promised stands");
        assert_eq!(
            (rig.table.voters.load(), rig.table.majority.load()),
            (
                u64::from(id.voters),
                u64::from(id.voters.count_ones() / 2 + 1)
            )
        );
    }
}

#[test]
fn a_new_key_holds_from_the_next_load() {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    let m = rig.heartbeat();
    assert_eq!(rig.send(&m).0, Action::Tx);
    rig.delta();
    let again = DataPath::load(rig.pins(), [9; 16]).unwrap();
    assert!(!again.is_fresh());
    let m = rig.heartbeat();
    assert_eq!(
        rig.send(&m).0,
        Action::Drop,
        "the map is one, so the running program knows the new key, too"
    );
    assert_eq!(rig.delta(), [("drop_unknown_key", 1)]);
}

#[test]
fn too_many_vips_are_an_error_and_those_that_fit_stay_gated() {
    let mut rig = Rig::new();
    let many: Vec<_> = (0..9_000u32)
        .map(|i| (std::net::Ipv4Addr::from_bits(0x0b00_0000 + i).into(), GROUP))
        .collect();
    let e = rig.datapath.set_vips(&many).expect_err("8192 fit");
    assert!(e.to_string().contains("VIPS"), "{e}");
    for vip in [VIP4, OTHER_VIP4] {
        let f = frame::udp(&[], (PEER4.into(), 1), (vip.into(), 80), b"x");
        assert_eq!(rig.xdp(&f).0, Action::Drop, "{vip} is gated as before");
    }
    let added = std::net::Ipv4Addr::new(11, 0, 0, 1);
    let f = frame::udp(&[], (PEER4.into(), 1), (added.into(), 80), b"x");
    assert_eq!(rig.xdp(&f).0, Action::Pass, "all or nothing");
    rig.datapath
        .set_vips(&many[..8_000])
        .expect("a reload with old and new ones, the most that there can be");
    rig.datapath
        .set_vips(&[(VIP4.into(), GROUP)])
        .expect("and it can be mended");
    let f = frame::udp(
        &[],
        (PEER4.into(), 1),
        (std::net::Ipv4Addr::new(11, 0, 0, 1).into(), 80),
        b"x",
    );
    assert_eq!(rig.xdp(&f).0, Action::Pass);
}

#[test]
fn a_load_that_ended_before_its_identity_is_fresh_again() {
    let pins = PinDir::new();
    drop(DataPath::load(pins.path(), [1; 16]).unwrap());
    assert!(DataPath::load(pins.path(), [1; 16]).unwrap().is_fresh());
}

#[test]
fn pins_of_another_layout_are_removed() {
    let pins = PinDir::new();
    let other = pins.path().join("v7/maps");
    std::fs::create_dir_all(&other).unwrap();
    pin_array(&other.join("STATE"), 64).unwrap();
    let unrelated = ["other", "var", "v", "v7-of-mine"].map(|n| pins.path().join(n));
    for dir in &unrelated {
        std::fs::create_dir(dir).unwrap();
    }
    let loaded = DataPath::load(pins.path(), [1; 16]).unwrap();
    assert!(loaded.is_fresh());
    assert!(!other.exists() && !pins.path().join("v7").exists());
    for dir in &unrelated {
        assert!(dir.exists(), "only what is ours: {}", dir.display());
    }
    drop(loaded);
    DataPath::unload(pins.path());
    let mut left: Vec<_> = std::fs::read_dir(pins.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    left.sort();
    let mut unrelated = unrelated.to_vec();
    unrelated.sort();
    assert_eq!(left, unrelated, "nothing of ours, all of others");
}

#[test]
fn a_foreign_map_in_the_way_is_a_clear_error() {
    for name in ["STATE", "KEYS", "VIPS", "LINKS", "EVENTS", "COUNTERS"] {
        let pins = PinDir::new();
        let maps = pins
            .path()
            .join(format!("v{:x}", LAYOUT as u32))
            .join("maps");
        std::fs::create_dir_all(&maps).unwrap();
        pin_array(&maps.join(name), 24).unwrap();
        let Err(e) = DataPath::load(pins.path(), [1; 16]) else {
            panic!("{name} was adopted")
        };
        let text = e.to_string();
        let path = maps.join(name);
        assert!(
            text.contains(path.to_str().unwrap()),
            "{name}: the path is missing: {text}"
        );
        assert!(
            text.contains("remove"),
            "{name}: the mend is missing: {text}"
        );
        std::fs::remove_file(&path).unwrap();
        DataPath::load(pins.path(), [1; 16]).unwrap_or_else(|e| panic!("{name}, mended: {e}"));
    }
}

#[test]
fn a_program_in_the_way_is_a_clear_error() {
    let donor = PinDir::new();
    let rig = DataPath::load(donor.path(), [1; 16]).unwrap();
    let pins = PinDir::new();
    let maps = pins
        .path()
        .join(format!("v{:x}", LAYOUT as u32))
        .join("maps");
    std::fs::create_dir_all(&maps).unwrap();
    heartline_bpf_tests::pin(
        rig.program_fd("heartline_pass").unwrap(),
        &maps.join("STATE"),
    )
    .unwrap();
    let Err(e) = DataPath::load(pins.path(), [1; 16]) else {
        panic!("adopted")
    };
    assert!(
        e.to_string().contains(maps.join("STATE").to_str().unwrap()),
        "{e}"
    );
}

#[test]
fn without_a_bpf_file_system_the_error_says_so_and_nothing_is_removed() {
    let dir = std::env::temp_dir().join(format!("heartline-test-{}", std::process::id()));
    let files = dir.join("v7");
    std::fs::create_dir_all(&files).unwrap();
    let e = DataPath::load(&dir, [1; 16]).err().map(|e| e.to_string());
    let kept = files.exists();
    let _ = std::fs::remove_dir_all(&dir);
    let e = e.expect("pins need a BPF file system");
    assert!(
        e.contains("mount -t bpf") && e.contains(dir.to_str().unwrap()),
        "{e}"
    );
    assert!(kept, "a wrong --bpf-dir must not cost anybody's files");
}
