//! Stored cluster states and what is decided in them: `tests/placement/*.toml`, each reviewed by eye.
//!
//! `HEARTLINE_BLESS=1 cargo test -p agent-core --test placement` writes what is decided now into the files; read the diff.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use agent_common::{MAX_GROUPS, MAX_NODES};
use agent_core::{
    CoreConfig, Failback, Fitness, GroupConfig, NodeConfig, Timing,
    links::Links,
    placement::{Candidate, Cluster, Decision, Exclusion, Facts, Reason},
};
use serde::Deserialize;

const SECOND: u64 = 1_000_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// What it is about, for who reads it.
    about: String,
    #[serde(default)]
    paused: bool,
    nodes: BTreeMap<String, Node>,
    /// Ids are given in alphabetical order, from 0.
    groups: BTreeMap<String, Group>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    decisions: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    #[serde(default)]
    witness: bool,
    #[serde(default = "yes")]
    alive: bool,
    #[serde(default)]
    drained: bool,
    #[serde(default)]
    leaving: bool,
    #[serde(default)]
    waiting: bool,
    #[serde(default = "long")]
    alive_for_s: u64,
    capacity: Option<u32>,
}

fn yes() -> bool {
    true
}

fn long() -> u64 {
    3600
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(default)]
    owner: u8,
    #[serde(default)]
    prefer: Vec<u8>,
    #[serde(default)]
    spread: bool,
    failback: Option<String>,
    #[serde(default)]
    failback_delay_s: u64,
    with: Option<String>,
    #[serde(default)]
    apart: Vec<String>,
    #[serde(default)]
    need: u32,
    #[serde(default)]
    wish: u8,
    #[serde(default)]
    stuck: u8,
    #[serde(default)]
    unfit: Vec<u8>,
    #[serde(default)]
    doubtful: Vec<u8>,
    #[serde(default)]
    failed: Vec<u8>,
    #[serde(default)]
    fit_for_s: BTreeMap<String, u64>,
}

impl State {
    fn group(&self, id: u8) -> &Group {
        self.groups.values().nth(usize::from(id)).expect("a group")
    }

    fn id(&self, name: &str) -> u8 {
        let at = self.groups.keys().position(|g| g == name);
        at.unwrap_or_else(|| panic!("no group {name}")) as u8
    }

    fn config(&self) -> CoreConfig {
        let mut c = CoreConfig::new(1, Timing::LAN);
        for (id, n) in self.nodes() {
            c.nodes[usize::from(id) - 1] = Some(NodeConfig {
                witness: n.witness,
                capacity: n.capacity,
            });
        }
        for (g, of) in (0u8..).zip(self.groups.values()) {
            c.groups[usize::from(g)] = Some(GroupConfig {
                spread: of.spread,
                failback: match of.failback.as_deref() {
                    None | Some("manual") => Failback::Manual,
                    Some("auto") => Failback::Auto,
                    Some(other) => panic!("failback {other:?}"),
                },
                failback_delay: of.failback_delay_s * SECOND,
                with: of.with.as_deref().map(|name| self.id(name)),
                apart: of
                    .apart
                    .iter()
                    .fold(agent_common::Set::EMPTY, |s, h| s.with(self.id(h))),
                need: of.need,
                ..GroupConfig::preferring(&of.prefer)
            });
        }
        c
    }

    fn nodes(&self) -> impl Iterator<Item = (u8, &Node)> {
        self.nodes
            .iter()
            .map(|(id, n)| (id.parse().expect("a node's id"), n))
    }

    fn candidates(&self) -> [Candidate; MAX_NODES] {
        let mut all = [Candidate::default(); MAX_NODES];
        for (id, n) in self.nodes() {
            let load = self.groups.values().filter(|g| g.owner == id).count();
            all[usize::from(id) - 1] = Candidate {
                member: !n.witness,
                witness: n.witness,
                alive: n.alive,
                drained: n.drained,
                leaving: n.leaving,
                waiting: n.waiting,
                alive_for: n.alive_for_s * SECOND,
                load: load as u16,
            };
        }
        all
    }

    fn owners(&self) -> [u8; MAX_GROUPS] {
        let mut all = [0; MAX_GROUPS];
        for (slot, g) in all.iter_mut().zip(self.groups.values()) {
            *slot = g.owner;
        }
        all
    }

    /// All decisions as text.
    fn decide(&self) -> String {
        let cfg = self.config();
        let (links, nodes, owner) = (Links::new(&cfg), self.candidates(), self.owners());
        let cluster = Cluster {
            cfg: &cfg,
            links: &links,
            nodes: &nodes,
            owner: &owner,
            paused: self.paused,
            facts: self,
        };
        let mut text = String::new();
        for (g, name) in (0u8..).zip(self.groups.keys()) {
            let d = cluster.decide(g);
            let from = match owner[usize::from(g)] {
                0 => "nowhere".to_owned(),
                id => format!("n{id}"),
            };
            let to = match d.target {
                0 => "nowhere".to_owned(),
                id => format!("n{id}"),
            };
            let change = if from == to {
                format!("at {to}")
            } else {
                format!("{from} to {to}")
            };
            let ranked: Vec<String> = d
                .ranked
                .iter()
                .take_while(|id| **id != 0)
                .map(|id| format!("n{id}"))
                .collect();
            let _ = writeln!(
                text,
                "{name}: {change}, {}; {}",
                reason(d.reason),
                ranked.join(" ")
            );
            for (id, _) in self.nodes() {
                let _ = writeln!(text, "  n{id} {}", score(&d, id));
            }
        }
        text
    }
}

impl Facts for &State {
    fn fitness(&self, node: u8, group: u8) -> Fitness {
        let g = self.group(group);
        if g.unfit.contains(&node) {
            Fitness::Unfit
        } else if g.failed.contains(&node) {
            Fitness::Failed
        } else if g.doubtful.contains(&node) {
            Fitness::Doubtful
        } else {
            Fitness::Fit
        }
    }
    fn fit_for(&self, node: u8, group: u8) -> u64 {
        let said = self.group(group).fit_for_s.get(&node.to_string());
        said.copied().unwrap_or(3600) * SECOND
    }
    fn wish(&self, group: u8) -> u8 {
        self.group(group).wish
    }
    fn stuck(&self, group: u8) -> u8 {
        self.group(group).stuck
    }
}

fn reason(r: Reason) -> &'static str {
    match r {
        Reason::Wished => "wished",
        Reason::Stays => "stays",
        Reason::Paused => "paused",
        Reason::FailsBack => "fails back",
        Reason::Preferred => "preferred",
        Reason::LeastLoaded => "least loaded",
        Reason::Follows => "follows",
        Reason::ForFollowers => "for those that follow it",
        Reason::KeptApart => "kept apart",
        Reason::LastResort => "last resort",
        Reason::Nobody => "nobody can",
        Reason::Stuck => "stuck",
    }
}

fn score(d: &Decision, id: u8) -> String {
    let s = d.score(id);
    let mut text = match s.excluded {
        None => "able",
        Some(Exclusion::NotAMember) => "not a member",
        Some(Exclusion::Witness) => "witness",
        Some(Exclusion::NotListed) => "not listed",
        Some(Exclusion::NotAlive) => "silent",
        Some(Exclusion::Drained) => "drained",
        Some(Exclusion::Leaving) => "leaving",
        Some(Exclusion::Waiting) => "waiting",
        Some(Exclusion::Unfit) => "unfit",
        Some(Exclusion::Doubtful) => "doubtful",
        Some(Exclusion::Failed) => "failed",
        Some(Exclusion::NoRoom) => "no room",
        Some(Exclusion::Follows) => "the other is not there",
    }
    .to_owned();
    for (what, n) in [
        ("unable", u16::from(s.unable)),
        ("apart", u16::from(s.apart)),
        ("load", s.load),
        ("preference", u16::from(s.preference)),
    ] {
        if n != 0 {
            let _ = write!(text, ", {what} {n}");
        }
    }
    text
}

#[test]
fn stored_states() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/placement");
    let bless = std::env::var_os("HEARTLINE_BLESS").is_some_and(|v| v == "1");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the folder")
        .map(|e| e.expect("a file").path())
        .collect();
    files.sort();
    assert!(files.len() >= 30, "{} files", files.len());
    let mut wrong = Vec::new();
    for path in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(path).expect("it can be read");
        let state: State = toml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!state.about.is_empty(), "{name}");
        let decided = state.decide();
        if decided == state.expect.decisions {
            continue;
        }
        if bless {
            let head = text.split("[expect]").next().unwrap_or_default();
            let new = format!("{head}[expect]\ndecisions = \"\"\"\n{decided}\"\"\"\n");
            fs::write(path, new).expect("it can be written");
        }
        wrong.push(format!(
            "{name}: {}\nexpected:\n{}decided:\n{decided}",
            state.about, state.expect.decisions
        ));
    }
    assert!(bless || wrong.is_empty(), "{}", wrong.join("\n"));
}
