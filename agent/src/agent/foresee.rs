//! What would become of the groups if a node were gone: placement, asked about a cluster that is not so.

use agent_core::{
    CoreConfig, Fitness, Phase,
    links::Links,
    placement::{Candidate, Cluster, Exclusion, Facts, Reason},
};

use super::{setup::core_config, snapshot::Snapshot, supervise::Supervisor};
use crate::{
    config::{self, Config},
    control::proto::{Code, NodeDown, NodeDownGroup, NodeScore, Refusal},
};

/// Soft state as the snapshot has it. Wishes are not in it: a wish counts for where a group is already.
struct Seen<'a>(&'a Snapshot);

impl Facts for Seen<'_> {
    fn fitness(&self, node: u8, group: u8) -> Fitness {
        self.0.fitness(node, group)
    }
    fn fit_for(&self, _: u8, _: u8) -> u64 {
        u64::MAX
    }
    fn wish(&self, _: u8) -> u8 {
        0
    }
    fn stuck(&self, group: u8) -> u8 {
        match self.0.phases[usize::from(group)] {
            (node, Phase::Stuck) => node,
            _ => 0,
        }
    }
}

/// Places of all groups, with some node gone (0: none).
fn places(cfg: &CoreConfig, links: &Links, seen: &Snapshot, down: u8) -> Vec<(u8, u8, Reason)> {
    let (mut nodes, mut owner) = (seen.nodes, *seen.owner);
    if let Some(node) = nodes.get_mut(usize::from(down).wrapping_sub(1)) {
        *node = Candidate {
            alive: false,
            alive_for: 0,
            load: 0,
            ..*node
        };
        owner
            .iter_mut()
            .filter(|o| **o == down)
            .for_each(|o| *o = 0);
    }
    let cluster = Cluster {
        cfg,
        links,
        nodes: &nodes,
        owner: &owner,
        paused: seen.paused,
        facts: Seen(seen),
    };
    let groups = cfg.group_set();
    let decided = groups.iter().map(|g| {
        let d = cluster.decide(g);
        (g, d.target, d.reason)
    });
    decided.collect()
}

/// What placement finds of each node as the place of a group.
fn scores(config: &Config, me: u8, seen: &Snapshot, group: u8) -> Vec<NodeScore> {
    let cfg = core_config(config, me);
    let links = Links::new(&cfg);
    let cluster = Cluster {
        cfg: &cfg,
        links: &links,
        nodes: &seen.nodes,
        owner: &seen.owner,
        paused: seen.paused,
        facts: Seen(seen),
    };
    let d = cluster.decide(group);
    let score = |n: &config::Node| {
        let s = d.scores.get(usize::from(n.id).wrapping_sub(1))?;
        Some(NodeScore {
            node: n.name.clone(),
            target: d.target == n.id,
            excluded: s.excluded.map(|why| excluded(why).to_owned()),
            unable: s.unable.into(),
            apart: s.apart.into(),
            preference: s.preference.into(),
            load: s.load.into(),
        })
    };
    config.nodes.iter().filter_map(score).collect()
}

const fn excluded(why: Exclusion) -> &'static str {
    match why {
        Exclusion::NotAMember => "it is no member",
        Exclusion::Witness => "it is a witness",
        Exclusion::NotListed => "the group's `prefer` does not name it",
        Exclusion::NotAlive => "it is not heard",
        Exclusion::Drained => "it is drained",
        Exclusion::Leaving => "its agent is stopping",
        Exclusion::Waiting => "it does not vote yet",
        Exclusion::Unfit => "it is unfit: no carrier, or no gate",
        Exclusion::Doubtful => "a target does not answer it: only where all are so",
        Exclusion::Failed => "the group failed there: only where there is nowhere else",
        Exclusion::NoRoom => "its capacity does not suffice",
        Exclusion::Follows => "the group that it goes with is not there",
    }
}

/// What would follow if `down` were gone, as this node sees the cluster.
pub(super) fn node_down(
    config: &Config,
    me: u8,
    seen: &Snapshot,
    down: u8,
) -> Result<NodeDown, Refusal> {
    let name = |id: u8| {
        let node = config.node_by_id(id);
        node.map_or_else(|| format!("node {id}"), |n| n.name.clone())
    };
    let state = |id: u8| {
        let i = usize::from(id).wrapping_sub(1);
        seen.nodes.get(i).copied().unwrap_or_default()
    };
    if state(me).waiting || !state(me).alive {
        return Err(Refusal::new(
            Code::NotReady,
            "this node does not vote yet and does not know the cluster",
        )
        .help("ask again in some seconds, or on another node"));
    }
    if !state(down).alive {
        return Err(Refusal::new(
            Code::Refused,
            format!("{} is not heard: it is down already", name(down)),
        )
        .help("see `heartline status`"));
    }
    if seen.progress.next.is_some() {
        return Err(Refusal::new(
            Code::Refused,
            "the list of nodes is being changed: where groups go then is not known yet",
        )
        .help("ask again when `heartline status` shows no change under way"));
    }
    let left = config.nodes.iter().filter(|n| {
        let s = state(n.id);
        n.id != down && s.alive && !s.waiting
    });
    let (left, needed) = (left.count(), config.majority());
    let mut report = NodeDown {
        node: name(down),
        voters_left: u32::try_from(left).unwrap_or(u32::MAX),
        voters_needed: u32::try_from(needed).unwrap_or(u32::MAX),
        quorum: left >= needed,
        groups: Vec::new(),
    };
    let cfg = core_config(config, me);
    let links = Links::new(&cfg);
    let before = places(&cfg, &links, seen, 0);
    let after = places(&cfg, &links, seen, down);
    for ((group, was, _), (_, to, reason)) in before.into_iter().zip(after) {
        let owner = seen.owner[usize::from(group)];
        // Without a majority nobody may go on.
        let moves = owner == down || !report.quorum || to != was;
        let Some(g) = config.groups.iter().find(|g| g.id == group) else {
            continue;
        };
        if !moves || owner == 0 {
            continue;
        }
        let to = if report.quorum { to } else { 0 };
        report.groups.push(NodeDownGroup {
            group: g.name.clone(),
            from: name(owner),
            to: (to != 0).then(|| name(to)),
            why: if report.quorum {
                sentence(reason, g, config)
            } else {
                format!("{left} voters are left, and {needed} are needed")
            },
            // As `plan FILE` has it: promises run out, then a few round trips and the address.
            outage_ns: (to != 0).then(|| {
                if owner == down {
                    config.timing.takeover_ns + 5_000_000
                } else {
                    5_000_000
                }
            }),
            starts: count(g, |r| !r.keep_running),
            runs_there: count(g, |r| r.keep_running),
            waits_for_word: owner == down && to != 0 && g.services.is_stateful(),
        });
    }
    Ok(report)
}

fn count(g: &config::Group, which: impl Fn(&agent_services::resource::Resource) -> bool) -> u32 {
    let n = g.services.resources.iter().filter(|r| which(r)).count();
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn sentence(reason: Reason, g: &config::Group, config: &Config) -> String {
    let leader = || {
        let id = g.near.with;
        let leader = config.groups.iter().find(|o| Some(o.id) == id);
        leader.map_or_else(String::new, |o| format!(" {}", o.name))
    };
    match reason {
        Reason::Wished => "somebody asked for it".into(),
        Reason::Stays => "it stays".into(),
        Reason::Paused => "it stays: the cluster is paused".into(),
        Reason::FailsBack => "it goes back to the node it prefers".into(),
        Reason::Preferred => "first of those that can have it".into(),
        Reason::LeastLoaded => "fewest groups of those that can have it".into(),
        Reason::Follows => format!("it goes with{}", leader()),
        Reason::ForFollowers => "more of the groups that go with it can run there".into(),
        Reason::KeptApart => "the others have groups that it is kept apart from".into(),
        Reason::LastResort => "it failed there, but there is nowhere else".into(),
        Reason::Nobody => "no other node can have it (see `heartline explain`)".into(),
        Reason::Stuck => "it cannot be stopped where it is".into(),
    }
}

impl Supervisor {
    pub(super) fn foresee(&mut self, down: u8) -> Result<NodeDown, Refusal> {
        node_down(&self.config, self.me, self.rt.snapshot.read(), down)
    }

    pub(super) fn scores(&mut self, group: u8) -> Vec<NodeScore> {
        scores(&self.config, self.me, self.rt.snapshot.read(), group)
    }
}
