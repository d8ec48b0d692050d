//! Services, how groups depend on each other, hooks.

use std::time::Duration;

use agent_services::{
    probe::{Kind as Asks, On, Trust},
    resource::Kind,
};

use super::super::*;
use super::{changed, codes, config, refused, warned};

/// The good file with more behind the first VIP.
fn more(text: &str) -> String {
    changed(
        "device = \"eth0\"\n[[group]]",
        &format!("device = \"eth0\"\n{text}\n[[group]]"),
    )
}

fn resource(lines: &str) -> String {
    more(&format!("[[group.resource]]\nname = \"r\"\n{lines}"))
}

fn probe(lines: &str) -> String {
    more(&format!("[[group.probe]]\nname = \"p\"\n{lines}"))
}

fn near(lines: &str) -> String {
    changed("prefer = [\"n1\", \"n2\"]", lines)
}

#[test]
fn resources() {
    let one = |lines: &str| config(&resource(lines)).groups[0].services.resources[0].clone();
    let r = one("systemd = \"nginx\"");
    assert_eq!(
        r.kind,
        Kind::Systemd {
            unit: "nginx.service".into()
        }
    );
    assert_eq!(
        (r.name.as_str(), r.stateful, r.keep_running),
        ("web.r", false, false)
    );
    assert_eq!(r.start_timeout, Duration::from_secs(60));
    let r = one(
        "exec = { start = [\"a\"], stop = [\"b\", \"c\"], status = [\"d\"] }\nkeep_running = true",
    );
    assert!(matches!(&r.kind, Kind::Exec { stop, .. } if stop == &["b", "c"]) && r.keep_running);
    let r = one(
        "ocf = \"ocf:heartbeat:Filesystem\"\nparameters = { device = \"/dev/sdb1\", run_fsck = false, n = 3 }",
    );
    let Kind::Ocf {
        provider,
        agent,
        parameters,
    } = &r.kind
    else {
        panic!()
    };
    assert_eq!(
        (
            provider.as_str(),
            agent.as_str(),
            parameters["n"].as_str(),
            parameters["run_fsck"].as_str()
        ),
        ("heartbeat", "Filesystem", "3", "false")
    );
    assert!(r.stateful, "storage");
    assert!(
        one("filesystem = { device = \"LABEL=x\", mount = \"/srv\", type = \"ext4\" }").stateful
    );
}

#[test]
fn resources_that_are_none() {
    let bad = |lines: &str, code, words: &[&str]| refused(&resource(lines), code, words);
    bad("", "no-kind", &["`systemd`", "`filesystem`"]);
    bad(
        "systemd = \"a\"\nocf = \"ocf:x:y\"",
        "two-kinds",
        &["systemd", "ocf"],
    );
    bad("systemd = \"\"", "empty", &["systemd"]);
    bad(
        "exec = { start = [], stop = [\"b\"], status = [\"c\"] }",
        "empty",
        &["no program"],
    );
    bad(
        "exec = { start = [\"a\"], stop = [\"b\"] }",
        "missing-key",
        &["status"],
    );
    bad(
        "ocf = \"heartbeat:Dummy\"",
        "bad-ocf",
        &["ocf:PROVIDER:AGENT"],
    );
    bad("ocf = \"ocf:..:Dummy\"", "bad-ocf", &["no OCF agent"]);
    bad(
        "filesystem = { device = \"/dev/x\", mount = \"srv\", type = \"ext4\" }",
        "bad-mount",
        &["absolute"],
    );
    bad(
        "filesystem = { device = \"/dev/x\", mount = \"/\", type = \"ext4\" }",
        "bad-mount",
        &["`/`"],
    );
    bad(
        "systemd = \"a\"\nstart_timeout = \"1ms\"",
        "bad-interval",
        &["100ms"],
    );
    bad(
        "systemd = \"a\"\nstart_tiemout = \"1s\"",
        "unknown-key",
        &["start_timeout"],
    );
    bad(
        "systemd = \"a\"\nkeep_running = true\nstateful = true",
        "keeps-state",
        &["every node"],
    );
    let twice = "systemd = \"a\"\n[[group.probe]]\nname = \"r\"\nicmp = \"192.0.2.1\"";
    refused(&resource(twice), "service-twice", &["own name"]);
}

#[test]
fn probes() {
    let one = |lines: &str| config(&probe(lines)).groups[0].services.probes[0].clone();
    let p = one("tcp = \"127.0.0.1:25\"");
    assert_eq!(
        (p.interval, p.timeout, p.rise, p.fall, p.on),
        (
            Duration::from_secs(1),
            Duration::from_secs(1),
            1,
            3,
            On::Owner
        )
    );
    let p = one(
        "http = { url = \"https://w.example/h\", status = [\"200\", \"300-302\"], regex = \"^ok\", ca = \"/ca\", connect = \"127.0.0.1:443\" }\non = \"all\"",
    );
    let Asks::Http(h) = &p.kind else { panic!() };
    assert_eq!(
        (h.status.as_slice(), &h.trust, p.on),
        (
            &[200..=200, 300..=302][..],
            &Trust::File("/ca".into()),
            On::All
        )
    );
    for kind in [
        "dns = { server = \"127.0.0.1:53\", name = \"a.example\", type = \"AAAA\", answers = [\"::1\"], match = \"all\", tcp = true }",
        "icmp = { address = \"fe80::1\", device = \"eth0\" }",
        "radius = { server = \"127.0.0.1:1812\", secret_file = \"/s\", user = \"u\", password_file = \"/p\", want = \"reject\" }",
        "sip = { server = \"127.0.0.1:5060\", uri = \"sip:example.org\", status = [\"200-499\"] }",
        "systemd = \"nginx\"",
        "exec = [\"/usr/lib/nagios/plugins/check_dummy\", \"0\"]\nwarning_is_good = false",
    ] {
        one(kind);
    }
}

#[test]
fn probes_that_are_none() {
    let bad = |lines: &str, code, words: &[&str]| refused(&probe(lines), code, words);
    bad("", "no-kind", &["`dns`", "`exec`"]);
    bad("tcp = \"localhost:25\"", "bad-address", &["127.0.0.1:25"]);
    bad(
        "tcp = \"127.0.0.1:25\"\ninterval = \"10ms\"",
        "bad-interval",
        &["50ms"],
    );
    bad(
        "tcp = { address = \"127.0.0.1:25\", expect = \"a\", regex = \"b\" }",
        "two-patterns",
        &["choose one"],
    );
    bad(
        "tcp = { address = \"127.0.0.1:25\", regex = \"(\" }",
        "bad-pattern",
        &["regex"],
    );
    bad("http = \"ftp://x/\"", "bad-probe", &["probe p"]);
    bad(
        "http = { url = \"http://127.0.0.1/\", status = [\"9\"] }",
        "bad-code",
        &["200-299"],
    );
    bad(
        "radius = { server = \"127.0.0.1:1812\", secret_file = \"/s\", user = \"u\" }",
        "missing-key",
        &["password_file", "Status-Server"],
    );
    bad("icmp = \"router\"", "bad-address", &["192.0.2.254"]);
    bad("exec = []", "empty", &["no program"]);
    bad(
        "sip = \"127.0.0.1:5060\"\non = \"every\"",
        "bad-choice",
        &["owner"],
    );
    bad(
        "sip = \"127.0.0.1:5060\"\nfall = 0",
        "bad-threshold",
        &["1 to 1000"],
    );
}

#[test]
fn policies() {
    let text = resource(
        "systemd = \"a\"\n[group.policy]\nrestarts = 0\nwindow = \"1min\"\nfailure_memory = \"1h\"",
    );
    let policy = config(&text).groups[0].services.policy;
    assert_eq!(
        (policy.restarts, policy.window, policy.failure_memory),
        (0, Duration::from_secs(60), Duration::from_secs(3600))
    );
    refused(
        &resource("systemd = \"a\"\n[group.policy]\nrestarts = -1"),
        "bad-restarts",
        &["0 to 1000"],
    );
    warned(&more("[group.policy]\nrestarts = 1"), "idle-policy");
}

#[test]
fn groups_that_depend_on_each_other() {
    let c = config(&near(
        "with = \"db\"\nafter = [\"db\"]\nneed = 2\nfailback = \"auto\"\nfailback_delay = \"30s\"",
    ));
    let n = &c.groups[0].near;
    assert_eq!(
        (n.with, n.after.as_slice(), n.need, n.failback_delay_ns),
        (Some(1), &[1][..], 2, 30_000_000_000)
    );
    refused(&near("after = [\"web\"]"), "near-itself", &["web"]);
    refused(&near("apart = [\"dp\"]"), "unknown-group", &["`db`"]);
    refused(
        &near("with = \"db\"\napart = [\"db\"]"),
        "with-and-apart",
        &["one of the lists"],
    );
    let both =
        near("after = [\"db\"]").replace("name = \"db\"\n", "name = \"db\"\nafter = [\"web\"]\n");
    refused(
        &both,
        "cycle",
        &["web is after db is after web", "nobody would start first"],
    );
    let both = near("with = \"db\"").replace("name = \"db\"\n", "name = \"db\"\nwith = \"web\"\n");
    refused(&both, "cycle", &["web is with db is with web"]);
    let small = near("need = 9")
        .replace("id = 1\nlink", "id = 1\ncapacity = 4\nlink")
        .replace("id = 2\nlink", "id = 2\ncapacity = 8\nlink");
    assert_eq!(
        codes(&small),
        Vec::<&str>::new(),
        "the witness has no bound, and a node without one carries any"
    );
    warned(&near("failback_delay = \"30s\""), "idle-delay");
}

#[test]
fn hooks() {
    let text = |lines: &str| format!("{}\n[[hook]]\nname = \"h\"\n{lines}\n", super::GOOD);
    let c = config(&text("command = [\"/x\"]\nevents = [\"gained\"]"));
    assert_eq!(c.hooks[0].events, [crate::events::EventKind::Gained]);
    let c = config(&text("url = \"https://h.example/secret?x=1\""));
    assert_eq!(
        c.hooks[0].to_string(),
        "h: posts to https://h.example",
        "what follows the host may be a secret"
    );
    refused(&text("url = \"h.example\""), "bad-url", &["https://"]);
    refused(
        &text("command = [\"/x\"]\nevents = [\"gaind\"]"),
        "unknown-event",
        &["`gained`"],
    );
    refused(&text(""), "no-kind", &["`command`", "`url`"]);
    let own = config(&text(
        "url = \"https://x.example/y\"\nca = \"/etc/own.pem\"",
    ));
    assert_eq!(own.hooks[0].ca.as_deref(), Some("/etc/own.pem".as_ref()));
    for told in ["url = \"http://x.example/y\"", "command = [\"/bin/true\"]"] {
        let useless = format!("{told}\nca = \"/etc/own.pem\"");
        refused(&text(&useless), "useless-ca", &["https"]);
    }
}

/// What a removed group stops, in the words of `plan` and of a refused reload.
#[test]
fn a_removed_group_says_what_it_stops() {
    let old = config(
        &(super::GOOD.to_owned()
            + "[[group.resource]]\nname = \"disk\"\nsystemd = \"disk\"\n[[group.resource]]\nname = \"kept\"\nsystemd = \"kept\"\n\
               keep_running = true\n[[group.resource]]\nname = \"app\"\nsystemd = \"app\"\n"),
    );
    let mut new = old.clone();
    assert!(crate::config::stops(&old, &new).is_empty());
    let gone = new.groups.pop().unwrap();
    let [stop] = crate::config::stops(&old, &new).try_into().unwrap();
    assert_eq!((stop.id, &stop.group), (gone.id, &gone.name));
    assert_eq!(
        stop.sentence(Some("n1")),
        "db: n1 stops app, then disk, and no longer serves 10.77.0.101; left running on all nodes: kept"
    );
    let nobody = stop.sentence(None);
    assert!(
        nobody.starts_with("db: its owner (n1 or n2) stops app"),
        "{nobody}"
    );
}

#[test]
fn every_part_changes_the_digest_and_shows_in_a_reload() {
    let old = config(&resource("systemd = \"a\""));
    for text in [
        resource("systemd = \"b\""),
        resource("systemd = \"a\"\nstop_timeout = \"7s\""),
        resource("systemd = \"a\"\n[[group.probe]]\nname = \"p\"\nicmp = \"192.0.2.1\""),
        resource("systemd = \"a\"\n[group.policy]\nrestarts = 9"),
    ] {
        let new = config(&text);
        assert_ne!(old.digest(), new.digest(), "{text}");
        assert!(
            matches!(
                diff(&old, &new).as_slice(),
                [Change::Services { id: 0, .. }]
            ),
            "{text}"
        );
    }
    let none = config(super::GOOD);
    let [change] = diff(&old, &none).try_into().unwrap();
    assert_eq!(
        change.to_string(),
        "group 0: services change; its owner stops web.r"
    );
    let near = config(&near("with = \"db\""));
    assert_ne!(near.digest(), none.digest());
    assert!(diff(&none, &near).contains(&Change::Near { id: 0 }));
}
