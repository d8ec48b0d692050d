//! Digest and reload.

use super::super::*;
use super::{GOOD, changed, config};

#[test]
fn digest_sees_what_nodes_must_agree_on() {
    let base = config(GOOD).digest();
    for (from, to) in [
        ("\"demo\"", "\"demo2\""),
        ("generation = 1", "generation = 2"),
        ("cluster =", "port = 4748\ncluster ="),
        ("cluster =", "announce_interval = \"30s\"\ncluster ="),
        ("profile = \"lan\"", "max_promise = \"9s\""),
        ("profile = \"lan\"", "profile = \"fast\""),
        ("\"n3\"", "\"n4\""),
        ("id = 3", "id = 4"),
        ("role = \"witness\"\n", ""),
        ("10.77.0.3", "10.77.0.4"),
        ("\"db\"", "\"dc\""),
        ("id = 0", "id = 7"),
        ("\"n1\", \"n2\"", "\"n2\", \"n1\""),
        ("id = 0", "id = 0\nspread = true"),
        ("id = 0", "id = 0\nfailback = \"auto\""),
        ("10.77.0.100", "10.77.0.99"),
        ("10.77.0.100", "10.77.0.100/24"),
    ] {
        assert_ne!(config(&changed(from, to)).digest(), base, "{from} -> {to}");
    }
}

#[test]
fn digest_leaves_out_what_is_local_and_how_it_is_written() {
    let base = config(GOOD).digest();
    for (from, to) in [
        ("demo.key", "other.key"),
        ("cluster =", "log = \"debug\"\ncluster ="),
        ("cluster =", "datapath = \"generic\"\ncluster ="),
        ("eth0", "eno1"),
        (
            "profile = \"lan\"",
            "heartbeat = \"12ms\"\nlease = \"40000us\"",
        ),
        ("[timing]\nprofile = \"lan\"\n", ""),
        ("id = 2", "id = 0x2 # the second"),
        ("id = 0", "id = 0\nfailback = \"manual\""),
        ("10.77.0.100", "10.77.0.100/32"),
    ] {
        assert_eq!(config(&changed(from, to)).digest(), base, "{from} -> {to}");
    }
}

/// Written down once: a change of the function is seen by whoever makes it.
#[test]
fn digest_is_stable() {
    assert_eq!(config(GOOD).digest(), DIGEST_OF_GOOD);
}
const DIGEST_OF_GOOD: u32 = 4_161_459_308;

fn changes(text: &str) -> Vec<Change> {
    diff(&config(GOOD), &config(text))
}

#[test]
fn same_file_changes_nothing() {
    assert_eq!(changes(GOOD), []);
    assert_eq!(changes(&changed("[timing]\nprofile = \"lan\"\n", "")), []);
}

#[test]
fn reload_takes_over_groups_and_vips() {
    let vip = |address: &str, prefix| Vip {
        address: address.parse().unwrap(),
        prefix,
        device: "eth0".into(),
        gateway: false,
    };
    assert_eq!(
        changes(&changed("10.77.0.100", "10.77.0.99")),
        [
            Change::VipRemoved {
                id: 0,
                vip: vip("10.77.0.100", 32)
            },
            Change::VipAdded {
                id: 0,
                vip: vip("10.77.0.99", 32)
            }
        ]
    );
    assert_eq!(
        changes(&changed("10.77.0.100", "10.77.0.100/24")),
        [Change::VipChanged {
            id: 0,
            from: vip("10.77.0.100", 32),
            to: vip("10.77.0.100", 24)
        }]
    );
    assert_eq!(
        changes(&changed("\"n1\", \"n2\"", "\"n2\", \"n1\"")),
        [Change::Prefer {
            id: 0,
            from: vec![1, 2],
            to: vec![2, 1]
        }]
    );
    assert_eq!(
        changes(&changed("\"db\"", "\"dc\"")),
        [Change::GroupRenamed {
            id: 1,
            from: "db".into(),
            to: "dc".into()
        }]
    );
    assert_eq!(
        changes(&changed("id = 0", "id = 0\nspread = true")),
        [Change::Spread { id: 0, to: true }]
    );
    assert_eq!(
        changes(&changed("id = 0", "id = 0\nfailback = \"auto\"")),
        [Change::Failback {
            id: 0,
            to: Failback::Auto
        }]
    );
    assert_eq!(
        changes(&changed("cluster =", "log = \"debug\"\ncluster =")),
        [Change::Log { to: "debug".into() }]
    );
    assert_eq!(
        changes(&changed(
            "cluster =",
            "announce_interval = \"30s\"\ncluster ="
        )),
        [Change::AnnounceInterval {
            to_ns: 30_000_000_000
        }]
    );
    let more = format!(
        "{GOOD}\n[[group]]\nname = \"new\"\nid = 9\nvip = [{{ address = \"10.77.0.9\", device = \"eth0\" }}]\n"
    );
    assert_eq!(
        changes(&more),
        [Change::GroupAdded {
            id: 9,
            name: "new".into()
        }]
    );
    assert_eq!(
        diff(&config(&more), &config(GOOD)),
        [Change::GroupRemoved {
            id: 9,
            name: "new".into()
        }]
    );
}

#[test]
fn reload_refuses_what_is_fixed() {
    for (from, to, expected, word) in [
        ("\"demo\"", "\"demo2\"", Refusal::Cluster, "demo2"),
        ("\"n3\"", "\"n4\"", Refusal::Members, "n3 is now n4"),
        (
            "role = \"witness\"\n",
            "",
            Refusal::Members,
            "n3 has another role",
        ),
        (
            "10.77.0.3",
            "10.77.0.4",
            Refusal::Members,
            "n3 has other links",
        ),
        ("cluster =", "port = 4748\ncluster =", Refusal::Port, "4748"),
        (
            "profile = \"lan\"",
            "profile = \"fast\"",
            Refusal::Timing,
            "1ms/4ms/6ms/10s",
        ),
        (
            "cluster =",
            "datapath = \"generic\"\ncluster =",
            Refusal::Datapath,
            "data path",
        ),
        ("demo.key", "other.key", Refusal::Key, "other.key"),
    ] {
        let changes = changes(&changed(from, to));
        let refused: Vec<_> = changes.iter().filter(|c| c.is_refused()).collect();
        let [Change::Refused { what, why, mend }] = refused.as_slice() else {
            panic!("{from} -> {to}: {changes:?}")
        };
        assert_eq!(*what, expected);
        assert!(why.contains(word), "{word:?} is not in {why:?}");
        assert!(!mend.is_empty());
    }
    let ids = changes(&changed("id = 3", "id = 5"));
    assert!(
        ids[0]
            .to_string()
            .contains("node n3 (id 5) joins; node n3 (id 3) leaves"),
        "{}",
        ids[0]
    );
}

#[test]
fn reload_refuses_a_vip_that_changes_its_group() {
    let swapped = GOOD
        .replace("10.77.0.100", "X")
        .replace("10.77.0.101", "10.77.0.100")
        .replace("X", "10.77.0.101");
    let changes = changes(&swapped);
    let refused = |c: &&Change| {
        matches!(
            c,
            Change::Refused {
                what: Refusal::VipGroup,
                ..
            }
        )
    };
    assert_eq!(changes.iter().filter(refused).count(), 2, "{changes:?}");
    // The same group under a new id is another group.
    let renumbered = diff(&config(GOOD), &config(&changed("id = 0", "id = 5")));
    assert!(
        renumbered[0].is_refused()
            && renumbered[0]
                .to_string()
                .contains("from group 0 to group 5")
    );
}

/// Rule 10: with the next generation one member joins or leaves, and VIPs may go to other groups.
#[test]
fn members_change_one_at_a_time_with_the_generation() {
    let generation =
        |text: &str, g: u32| text.replace("generation = 1", &format!("generation = {g}"));
    let node = |id: u8| {
        format!(
            "\n[[node]]\nname = \"m{id}\"\nid = {id}\nlink = [{{ device = \"eth0\", address = \"10.77.0.{id}\" }}]\n"
        )
    };
    let four = generation(&format!("{GOOD}{}", node(7)), 2);
    let joins = Change::MemberAdded {
        id: 7,
        name: "m7".into(),
    };
    let next = Change::Generation { from: 1, to: 2 };
    assert_eq!(changes(&four)[..2], [next.clone(), joins]);
    assert_eq!(changes(&generation(GOOD, 2)), [next]);
    let back = diff(&config(&four), &config(&generation(GOOD, 3)));
    assert!(back.contains(&Change::MemberRemoved {
        id: 7,
        name: "m7".into()
    }));
    for (old, new, what, word) in [
        (
            four.as_str(),
            GOOD.to_owned(),
            Refusal::Generation,
            "goes back from 2 to 1",
        ),
        (
            GOOD,
            generation(&format!("{GOOD}{}{}", node(7), node(8)), 2),
            Refusal::Members,
            "generation 2: node m7 (id 7) joins; generation 3: node m8 (id 8) joins",
        ),
        (
            GOOD,
            generation(&four, 1).replace("generation = 2", "generation = 1"),
            Refusal::Members,
            "set generation = 2",
        ),
    ] {
        let all = diff(&config(old), &config(&new));
        let Some(Change::Refused { what: found, .. }) = all.first() else {
            panic!("{all:?}")
        };
        assert!(
            *found == what && all[0].to_string().contains(word),
            "{all:?}"
        );
    }
    let swapped = generation(
        &GOOD
            .replace("10.77.0.100", "X")
            .replace("10.77.0.101", "10.77.0.100")
            .replace("X", "10.77.0.101"),
        2,
    );
    let all = changes(&swapped);
    let moved = |c: &&Change| matches!(c, Change::VipMoved { .. });
    assert!(
        all.iter().filter(moved).count() == 2 && !all.iter().any(Change::is_refused),
        "{all:?}"
    );
}

#[test]
fn reload_takes_the_steps_of_a_rotation_and_refuses_another_key() {
    let key = |b: u8| ClusterKey::from_bytes([b; KEY_BYTES]);
    let file = |sign: u8, other: Option<u8>| KeyFile {
        sign: key(sign),
        other: other.map(key),
    };
    let steps = [
        file(1, None),
        file(1, Some(2)),
        file(2, Some(1)),
        file(2, None),
    ];
    for pair in steps.windows(2) {
        assert_eq!(key_change(&pair[0], &pair[0]), None);
        for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let change = key_change(from, to).unwrap();
            assert!(!change.is_refused(), "{change}");
        }
    }
    assert!(key_change(&steps[0], &steps[3]).is_some_and(|c| c.is_refused()));
    assert!(key_change(&steps[1], &file(3, Some(4))).is_some_and(|c| c.is_refused()));
}
