//! What is unsafe in DRBD's configuration, as `drbdadm dump-xml` shows it (8.4 and 9; common options are in each
//! resource).

use std::{collections::BTreeMap, fmt, time::Duration};

use roxmltree::{Document, Node, ParsingOptions};

use super::{said, tool};

/// Bounds what parsing can cost; a resource has some 50.
const NODES: u32 = 200_000;
const WITHIN: Duration = Duration::from_secs(10);
/// What our handlers begin with.
const OURS: &str = "heartline drbd ";

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The kernel's version, if it is known: 8 or 9.
    pub major: Option<u8>,
    /// In the order of the files.
    pub resources: Vec<Resource>,
}

/// One resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// `/etc/drbd.d/r0.res:3`
    pub place: String,
    /// Names of the hosts.
    pub hosts: Vec<String>,
    /// Its devices: minor numbers.
    pub minors: Vec<u32>,
    /// Options by section and name; an option without a value is "yes".
    options: BTreeMap<(String, String), String>,
}

impl Resource {
    /// The value of an option, in any of these sections.
    #[must_use]
    pub fn option(&self, sections: &[&str], name: &str) -> Option<&str> {
        sections
            .iter()
            .find_map(|s| self.options.get(&((*s).to_owned(), name.to_owned())))
            .map(String::as_str)
    }

    fn number(&self, sections: &[&str], name: &str) -> Option<u64> {
        self.option(sections, name)?.parse().ok()
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Good to know.
    Note,
    /// It can cost availability, or data in rare cases.
    Warning,
    /// It can cost data.
    Unsafe,
}

impl Weight {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Weight::Note => "note",
            Weight::Warning => "warning",
            Weight::Unsafe => "unsafe",
        }
    }
}

/// Something to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub weight: Weight,
    /// The resource.
    pub resource: String,
    /// Its file and line.
    pub place: String,
    /// What it is, and what it leads to.
    pub what: String,
    /// What to write.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}; write `{}`",
            self.place, self.resource, self.what, self.mend
        )
    }
}

/// Asks drbdadm.
///
/// # Errors
/// It is not there, does not answer or finds its files wrong; a sentence.
pub async fn load() -> Result<Config, String> {
    let ended = tool(&["drbdadm", "dump-xml"], WITHIN)
        .await
        .map_err(|e| e.to_string())?;
    if !ended.status.success() {
        return Err(format!(
            "drbdadm finds its configuration wrong: {}",
            said(&ended)
        ));
    }
    if ended.cut {
        return Err("drbdadm dump-xml printed more than is read".into());
    }
    let mut config = parse(&String::from_utf8_lossy(&ended.stdout))?;
    // No disk behind it: it does not block.
    let version = std::fs::read_to_string("/sys/module/drbd/version").unwrap_or_default();
    config.major = version
        .split('.')
        .next()
        .and_then(|v| v.trim().parse().ok());
    Ok(config)
}

/// Reads the document.
///
/// # Errors
/// It is none, or another one; a sentence.
pub fn parse(text: &str) -> Result<Config, String> {
    let options = ParsingOptions {
        nodes_limit: NODES,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text.trim_start(), options)
        .map_err(|e| format!("drbdadm dump-xml: {e}"))?;
    let root = document.root_element();
    if !root.has_tag_name("config") {
        return Err(format!(
            "drbdadm dump-xml printed a <{}>",
            root.tag_name().name()
        ));
    }
    let mut config = Config::default();
    let mut common = BTreeMap::new();
    for node in root.children().filter(Node::is_element) {
        match node.tag_name().name() {
            "common" => sections(node, &mut common),
            "resource" => {
                let mut options = common.clone();
                sections(node, &mut options);
                let hosts: Vec<_> = node.children().filter(|n| n.has_tag_name("host")).collect();
                let mut minors: Vec<u32> = hosts
                    .iter()
                    .flat_map(roxmltree::Node::descendants)
                    .filter(|n| n.has_tag_name("device"))
                    .filter_map(|n| n.attribute("minor")?.parse().ok())
                    .collect();
                minors.sort_unstable();
                minors.dedup();
                config.resources.push(Resource {
                    name: node.attribute("name").unwrap_or_default().to_owned(),
                    place: node
                        .attribute("conf-file-line")
                        .unwrap_or("/etc/drbd.d")
                        .to_owned(),
                    hosts: hosts
                        .iter()
                        .filter_map(|h| h.attribute("name"))
                        .map(str::to_owned)
                        .collect(),
                    minors,
                    options,
                });
            }
            _ => {}
        }
    }
    Ok(config)
}

/// Sections of a resource, of its volumes and of its connections alike: the last one counts, and the worst of them is
/// mostly the same.
fn sections(node: Node<'_, '_>, into: &mut BTreeMap<(String, String), String>) {
    for section in node.descendants().filter(|n| n.has_tag_name("section")) {
        let Some(name) = section.attribute("name") else {
            continue;
        };
        for option in section.children().filter(|n| n.has_tag_name("option")) {
            if let Some(key) = option.attribute("name") {
                let value = option.attribute("value").unwrap_or("yes");
                into.insert((name.to_owned(), key.to_owned()), value.to_owned());
            }
        }
    }
}

/// What is unsafe in one resource.
#[must_use]
pub fn findings(config: &Config, r: &Resource) -> Vec<Finding> {
    let mut list = Vec::new();
    let mut add = |weight, what: &str, mend: &str| {
        list.push(Finding {
            weight,
            resource: r.name.clone(),
            place: r.place.clone(),
            what: what.to_owned(),
            mend: mend.to_owned(),
        });
    };
    let nine = config.major.is_some_and(|m| m >= 9);
    // In 8.4 it belongs to `disk`, in 9 to `net`.
    let fencing = r.option(&["net", "disk"], "fencing").unwrap_or("dont-care");
    let mend = if nine {
        "net { fencing resource-and-stonith; }"
    } else {
        "disk { fencing resource-and-stonith; }"
    };
    match fencing {
        "resource-and-stonith" => {}
        "resource-only" => add(
            Weight::Warning,
            "`fencing resource-only` lets writes go on before the peer is known to be outdated: a failure in between can lose them",
            mend,
        ),
        _ => add(
            Weight::Unsafe,
            "no `fencing` policy: after the link is cut the Primary goes on writing, and the other side does not know that it is behind; a takeover then loses those writes",
            mend,
        ),
    }
    handlers(r, &mut add);
    match r.option(&["net"], "protocol").unwrap_or("C") {
        "C" => {}
        other => add(
            Weight::Unsafe,
            &format!(
                "protocol {other} calls a write done before the peer has it on disk: a takeover can lose it"
            ),
            "net { protocol C; }",
        ),
    }
    for (key, good) in [
        ("after-sb-0pri", &["disconnect", "discard-zero-changes"][..]),
        ("after-sb-1pri", &["disconnect"]),
        ("after-sb-2pri", &["disconnect"]),
        ("rr-conflict", &["disconnect", "retry-connect"]),
    ] {
        if let Some(value) = r.option(&["net"], key).filter(|v| !good.contains(v)) {
            add(
                Weight::Unsafe,
                &format!("`{key} {value}` throws data away by itself after a split brain"),
                &format!("net {{ {key} disconnect; }}"),
            );
        }
    }
    if r.option(&["net"], "allow-two-primaries")
        .is_some_and(|v| v != "no")
    {
        add(
            Weight::Unsafe,
            "`allow-two-primaries` lets two nodes write at once: only for cluster file systems and live migration",
            "net { allow-two-primaries no; }",
        );
    }
    if r.option(&["startup"], "become-primary-on").is_some() {
        add(
            Weight::Unsafe,
            "`become-primary-on` lets the boot promote, whoever owns the group",
            "startup { } without become-primary-on",
        );
    }
    if nine && r.option(&["options"], "auto-promote").unwrap_or("yes") != "no" {
        add(
            Weight::Unsafe,
            "`auto-promote` promotes on whatever node somebody opens the device",
            "options { auto-promote no; }",
        );
    }
    times(r, &mut add);
    for key in ["disk-flushes", "md-flushes"] {
        if r.option(&["disk"], key) == Some("no") {
            add(
                Weight::Warning,
                &format!(
                    "`{key} no`: a power failure loses what is in the disk's cache, unless that has a battery"
                ),
                &format!("disk {{ {key} yes; }}"),
            );
        }
    }
    if r.option(&["disk"], "on-io-error") == Some("pass_on") {
        add(
            Weight::Warning,
            "`on-io-error pass_on` gives a disk's errors to the file system, though the peer has the data",
            "disk { on-io-error detach; }",
        );
    }
    if nine && r.hosts.len() > 2 && r.option(&["options"], "quorum").unwrap_or("off") == "off" {
        add(
            Weight::Warning,
            "three or more nodes without DRBD's own quorum",
            "options { quorum majority; on-no-quorum suspend-io; }",
        );
    }
    list.sort_by_key(|f| std::cmp::Reverse(f.weight));
    list
}

fn handlers(r: &Resource, add: &mut impl FnMut(Weight, &str, &str)) {
    let fence = r.option(&["handlers"], "fence-peer");
    let mend = "handlers { fence-peer \"/usr/bin/heartline drbd fence-peer\"; }";
    match fence {
        None => add(
            Weight::Unsafe,
            "no `fence-peer` handler: the fencing policy has nobody to ask",
            mend,
        ),
        Some(h) if h.contains(OURS) => {}
        Some(h) if h.contains("crm-fence-peer") || h.contains("stonith_admin") => {
            add(
                Weight::Unsafe,
                &format!("the fence-peer handler {h} asks Pacemaker"),
                mend,
            );
        }
        Some(h) => add(
            Weight::Warning,
            &format!("the fence-peer handler {h} does not ask Heartline, which owns the group"),
            mend,
        ),
    }
    let unfence = ["unfence-peer", "after-resync-target"];
    let there = unfence
        .iter()
        .any(|k| r.option(&["handlers"], k).is_some_and(|h| h.contains(OURS)));
    if fence.is_some_and(|h| h.contains(OURS)) && !there {
        add(
            Weight::Warning,
            "nobody is told when a resync has ended: a replica that is good again stays marked as behind until the next promotion",
            "handlers { after-resync-target \"/usr/bin/heartline drbd unfence-peer\"; }",
        );
    }
    if !r
        .option(&["handlers"], "split-brain")
        .is_some_and(|h| h.contains(OURS))
    {
        add(
            Weight::Warning,
            "no `split-brain` handler of Heartline: a split brain looks like a connection that somebody ended",
            "handlers { split-brain \"/usr/bin/heartline drbd split-brain\"; }",
        );
    }
}

/// Tenths of seconds, but `ping-int` and `connect-int`.
fn times(r: &Resource, add: &mut impl FnMut(Weight, &str, &str)) {
    let net = &["net"];
    let ping_timeout = r.number(net, "ping-timeout").unwrap_or(5);
    if ping_timeout < 10 {
        add(
            Weight::Warning,
            &format!(
                "`ping-timeout {ping_timeout}` ({} ms): a busy peer misses it, and the connection is given up",
                ping_timeout * 100
            ),
            "net { ping-timeout 30; }",
        );
    }
    let timeout = r.number(net, "timeout").unwrap_or(60);
    let ping = r.number(net, "ping-int").unwrap_or(10);
    let connect = r.number(net, "connect-int").unwrap_or(10);
    // drbd.conf(5): "must be lower than connect-int and ping-int".
    if timeout > ping.min(connect).saturating_mul(10) {
        add(
            Weight::Note,
            &format!(
                "`timeout {timeout}` is longer than `ping-int {ping}` or `connect-int {connect}`: DRBD wants it to be shorter"
            ),
            "net { timeout 60; ping-int 10; connect-int 10; }",
        );
    }
    if r.number(net, "ko-count") == Some(0) {
        add(
            Weight::Warning,
            "`ko-count 0`: a peer whose disk hangs stops all writes here, for ever",
            "net { ko-count 7; }",
        );
    }
    let wait = r.number(&["startup"], "wfc-timeout").unwrap_or(0);
    if wait == 0 {
        add(
            Weight::Note,
            "`wfc-timeout 0`: at boot drbd.service waits for the peer without end",
            "startup { wfc-timeout 15; degr-wfc-timeout 15; }",
        );
    }
}
