//! Virtual machines.

use std::{path::Path, time::Duration};

use agent_services::resource::{
    Kind,
    domain::{Domain, Transport},
};

use super::{changed, config, refused};

/// The good file with resources behind the first VIP.
fn with(text: &str) -> String {
    changed(
        "device = \"eth0\"\n[[group]]",
        &format!("device = \"eth0\"\n{text}\n[[group]]"),
    )
}

fn domain(keys: &str) -> String {
    with(&format!(
        "[[group.resource]]\nname = \"vm\"\ndomain = {{ name = \"g1\", xml = \"/srv/g1.xml\"{keys} }}\n"
    ))
}

fn read(keys: &str) -> Domain {
    match config(&domain(keys)).groups[0].services.resources[0]
        .kind
        .clone()
    {
        Kind::Domain(domain) => domain,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_domain_is_stateful_and_stays_unless_told() {
    let c = config(&domain(""));
    let r = &c.groups[0].services.resources[0];
    assert!(r.stateful && !r.keep_running);
    let d = read("");
    assert_eq!(
        (d.name.as_str(), d.xml.as_path(), d.uri.as_str()),
        ("g1", Path::new("/srv/g1.xml"), "qemu:///system")
    );
    assert!(d.live.is_none());
    assert_eq!(read(", uri = \"lxc:///system\"").uri, "lxc:///system");
}

#[test]
fn how_it_migrates() {
    let live = read(", migrate = \"live\"").live.unwrap();
    assert_eq!(
        live.transport,
        Transport::Tls,
        "encrypted unless told otherwise"
    );
    assert!(live.auto_converge && !live.postcopy && !live.or_shutdown);
    assert_eq!(live.timeout, Duration::from_secs(600));
    let live = read(
        ", migrate = \"live\", transport = \"tcp\", postcopy = true, auto_converge = false, bandwidth = 100, \
         downtime = \"200ms\", migrate_timeout = \"1min\", fallback = \"shutdown\"",
    )
    .live
    .unwrap();
    assert_eq!(
        (live.transport, live.bandwidth),
        (Transport::Tcp, Some(100))
    );
    assert_eq!(live.downtime, Some(Duration::from_millis(200)));
    assert!(live.or_shutdown && live.postcopy && !live.auto_converge);
    refused(
        &domain(", postcopy = true"),
        "no-migration",
        &["migrate = \"live\""],
    );
    refused(
        &domain(", migrate = \"live\", downtime = \"2min\""),
        "bad-interval",
        &["1ms to 60s"],
    );
}

#[test]
fn domains_that_are_none() {
    let bad = |keys: &str, words: &[&str]| {
        let text = with(&format!(
            "[[group.resource]]\nname = \"vm\"\ndomain = {{ {keys} }}\n"
        ));
        refused(&text, "bad-domain", words);
    };
    bad("name = \"a/b\", xml = \"/x\"", &["<name>"]);
    bad("name = \"a\", xml = \"x.xml\"", &["absolute"]);
    for uri in ["qemu+ssh://n2/system", "system", "qemu:// /x"] {
        let keys = format!("name = \"a\", xml = \"/x\", uri = \"{uri}\"");
        bad(&keys, &["this machine"]);
    }
    refused(
        &changed("id = 1\n", "id = 1\nlibvirt_uri = \"qemu:///system\"\n"),
        "bad-libvirt-uri",
        &["other nodes"],
    );
    let one = "[[group.resource]]\nname = \"NAME\"\ndomain = { name = \"g1\", xml = \"/x\" }\n";
    let two = one.replace("NAME", "a") + &one.replace("NAME", "b");
    refused(&with(&two), "domain-twice", &["one group only"]);
    refused(
        &(domain("").replace("g1.xml\" }", "g1.xml\" }\nkeep_running = true")),
        "keeps-state",
        &["every node"],
    );
}

#[test]
fn what_migrates_is_alone() {
    let beside = |more: &str| {
        with(&format!(
            "[[group.resource]]\nname = \"vm\"\ndomain = {{ name = \"g1\", xml = \"/x\", migrate = \"live\" }}\n\
             [[group.resource]]\nname = \"other\"\n{more}\n"
        ))
    };
    refused(
        &beside("systemd = \"nginx\""),
        "not-alone",
        &["alone in its group"],
    );
    config(&beside("systemd = \"nginx\"\nkeep_running = true"));
}
