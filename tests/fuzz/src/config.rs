//! Configuration texts: a text is a configuration that breaks no rule, or errors that can be shown.

use std::net::IpAddr;

use heartline::config::{
    Config, Group, LoadError, Loaded, MAX_LINKS, MAX_NODES, MAX_VIPS, Role, diff,
};

/// Between two texts of one input.
const CUT: &[u8] = b"\n#----\n";

/// Runs one input: a text, or two that a reload would compare.
pub fn run(data: &[u8]) {
    let at = data.windows(CUT.len()).position(|w| w == CUT);
    let (a, b) = match at {
        Some(at) => (&data[..at], Some(&data[at + CUT.len()..])),
        None => (data, None),
    };
    let a = text(a);
    let b = b.and_then(text);
    if let (Some(a), Some(b)) = (&a, &b) {
        for change in diff(a, b).iter().chain(&diff(b, a)) {
            assert!(!format!("{change:?}").is_empty());
        }
        assert!(diff(a, a).is_empty(), "nothing differs from itself");
        if diff(a, b).is_empty() {
            assert_eq!(a.digest(), b.digest(), "no change, the same digest");
        }
    }
}

fn text(data: &[u8]) -> Option<Config> {
    let text = std::str::from_utf8(data).ok()?;
    let (config, report) = match Config::from_str(text, "heartline.toml") {
        Ok(Loaded { config, report }) => {
            assert_eq!(report.errors(), 0);
            (Some(config), report)
        }
        Err(LoadError::Refused(report)) => {
            assert!(report.errors() > 0, "refused for a reason");
            (None, report)
        }
        Err(LoadError::Unreadable { .. }) => panic!("nothing was opened"),
    };
    for d in report.diagnostics() {
        assert_ne!(d.code, "internal", "{}", d.message);
        if let Some((line, column)) = report.position(d) {
            assert!(line >= 1 && column >= 1 && line <= text.lines().count() + 1);
        }
    }
    let shown = report.render(false);
    assert!(
        !shown
            .chars()
            .any(|c| c.is_control() && c != '\n' && c != '\t'),
        "no tricks with the terminal: {shown:?}"
    );
    let _ = report.render(true);
    assert!(report.to_json().lines().count() >= 1);
    let config = config?;
    rules(&config);
    assert!(!config.summary().is_empty());
    let Ok(again) = Config::from_str(text, "other name") else {
        panic!("the same text is good once and bad then");
    };
    assert!(again.config == config && again.config.digest() == config.digest());
    Some(config)
}

/// What every configuration keeps, as README and ARCHITECTURE say it.
fn rules(c: &Config) {
    let t = &c.timing;
    assert!(
        u128::from(t.lease_ns) * 123 < u128::from(t.takeover_ns) * 100,
        "{t:?}"
    );
    assert!(
        0 < t.heartbeat_ns && t.heartbeat_ns < t.lease_ns && t.takeover_ns <= t.max_promise_ns,
        "{t:?}"
    );
    assert!(
        (3..=MAX_NODES).contains(&c.nodes.len()),
        "two nodes alone are refused"
    );
    let all_differ = |mut all: Vec<String>| {
        let n = all.len();
        all.sort();
        all.dedup();
        all.len() == n
    };
    assert!(all_differ(
        c.nodes.iter().map(|n| n.id.to_string()).collect()
    ));
    assert!(all_differ(c.nodes.iter().map(|n| n.name.clone()).collect()));
    assert!(all_differ(
        c.groups.iter().map(|g| g.id.to_string()).collect()
    ));
    assert!(all_differ(
        c.groups.iter().map(|g| g.name.clone()).collect()
    ));
    let links = c.nodes.iter().flat_map(|n| &n.links).map(|l| l.address);
    let vips = c.groups.iter().flat_map(|g| &g.vips).map(|v| v.address);
    let addresses: Vec<IpAddr> = links.chain(vips).collect();
    for a in &addresses {
        assert!(
            !a.is_unspecified() && !a.is_multicast() && !a.is_loopback(),
            "{a}"
        );
    }
    assert!(all_differ(
        addresses.iter().map(IpAddr::to_string).collect()
    ));
    for n in &c.nodes {
        assert!((1..=32).contains(&n.id) && (1..=MAX_LINKS).contains(&n.links.len()));
    }
    assert!(c.groups.iter().map(|g| g.vips.len()).sum::<usize>() <= MAX_VIPS);
    for Group { prefer, vips, .. } in &c.groups {
        for id in prefer {
            let node = c.node_by_id(*id).expect("a node that exists");
            assert!(node.role != Role::Witness, "a witness owns nothing");
        }
        for v in vips {
            assert!(v.prefix >= 1 && v.prefix <= if v.address.is_ipv4() { 32 } else { 128 });
        }
    }
}

const DEMO: &str = include_str!("../../../config/demo.toml");

/// The example configurations, and pairs of them.
pub fn seeds() -> Vec<Vec<u8>> {
    let full = include_str!("../../../config/heartline.toml");
    let small = include_str!("small.toml");
    let pair = |a: &str, b: &str| [a.as_bytes(), CUT, b.as_bytes()].concat();
    vec![
        small.into(),
        DEMO.into(),
        full.into(),
        pair(small, &small.replace("10.0.0.100", "10.0.0.101")),
        pair(small, &small.replace("generation = 1", "generation = 2")),
        pair(
            small,
            &small.replace("spread = true", "failback = \"auto\""),
        ),
    ]
}

/// Runs one input as the address of a VIP, then of a link.
pub fn run_address(data: &[u8]) {
    let Ok(address) = std::str::from_utf8(data) else {
        return;
    };
    // A TOML basic string takes the escapes of JSON, and DEL only escaped.
    let Ok(quoted) = serde_json::to_string(address) else {
        return;
    };
    let quoted = quoted.replace('\u{7f}', "\\u007f");
    for old in ["\"10.0.0.100\"", "\"10.0.0.1\""] {
        let text = include_str!("small.toml").replace(old, &quoted);
        match Config::from_str(&text, "x") {
            Ok(Loaded { config, .. }) => {
                rules(&config);
                let alone = address.split('/').next().unwrap_or_default();
                assert!(alone.parse::<IpAddr>().is_ok(), "{address:?} was taken");
            }
            Err(LoadError::Refused(report)) => {
                for d in report.diagnostics() {
                    assert!(
                        d.code != "syntax" && d.code != "internal",
                        "{address:?}: {}",
                        d.message
                    );
                }
                let _ = report.render(false);
            }
            Err(LoadError::Unreadable { .. }) => panic!("nothing was opened"),
        }
    }
}

/// Addresses of all kinds.
pub fn address_seeds() -> Vec<Vec<u8>> {
    [
        "10.0.0.9",
        "10.0.0.9/24",
        "fd00::9",
        "fd00::9/64",
        "::ffff:10.0.0.9",
        "fe80::1%eth0",
        "10.0.0.255/24",
        "10.0.0.0/24",
        "224.0.0.1",
        "::",
        "0.0.0.0",
        "127.0.0.1",
        "1.2.3.4/33",
        "2001:db8::/32",
        "a",
        "10.0.0.9/",
    ]
    .map(|s| s.as_bytes().to_vec())
    .to_vec()
}
