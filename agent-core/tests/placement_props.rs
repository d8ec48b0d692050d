//! What holds for every decision, whatever the cluster looks like.

use std::fmt;

use agent_common::{MAX_GROUPS, MAX_NODES, Set};
use agent_core::{
    CoreConfig, Failback, Fitness, GroupConfig, NodeConfig, Timing,
    links::Links,
    placement::{Candidate, Cluster, Decision, Exclusion, Facts, Plan, Reason, SETTLED},
};
use proptest::{collection::vec, option, prelude::*, sample};

const NODES: usize = 5;
const GROUPS: usize = 7;

#[derive(Clone)]
struct World {
    cfg: CoreConfig,
    nodes: [Candidate; MAX_NODES],
    owner: [u8; MAX_GROUPS],
    fitness: Vec<u8>,
    wish: Vec<u8>,
    stuck: Vec<u8>,
    paused: bool,
}

/// Short, so that what proptest finds can be read.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "paused {}", self.paused)?;
        for (n, c) in self.nodes.iter().zip(&self.cfg.nodes).take(NODES) {
            writeln!(f, "  {n:?} {:?}", c.and_then(|c| c.capacity))?;
        }
        for (g, of) in self.cfg.groups.iter().enumerate().take(GROUPS) {
            let Some(of) = of else { continue };
            let apart: Vec<u8> = of.apart.iter().collect();
            let fitness = &self.fitness[g * NODES..(g + 1) * NODES];
            writeln!(
                f,
                "  g{g} at {} wish {} stuck {} prefer {:?} with {:?} apart {apart:?} need {} {:?} spread {} fitness {fitness:?}",
                self.owner[g],
                self.wish[g],
                self.stuck[g],
                &of.prefer[..NODES],
                of.with,
                of.need,
                of.failback,
                of.spread
            )?;
        }
        Ok(())
    }
}

impl Facts for &World {
    fn fitness(&self, node: u8, group: u8) -> Fitness {
        let at = usize::from(group) * NODES + usize::from(node) - 1;
        Fitness::from_u8(self.fitness.get(at).copied().unwrap_or_default())
    }
    fn fit_for(&self, _: u8, _: u8) -> u64 {
        3600 * SETTLED
    }
    fn wish(&self, group: u8) -> u8 {
        self.wish[usize::from(group)]
    }
    fn stuck(&self, group: u8) -> u8 {
        self.stuck[usize::from(group)]
    }
}

impl World {
    fn need(&self, g: u8) -> u64 {
        u64::from(self.cfg.settings(g).need)
    }

    fn alive(&self, id: u8) -> bool {
        id != 0 && self.nodes[usize::from(id) - 1].alive
    }

    fn decide(&self, links: &Links) -> Vec<Decision> {
        let c = Cluster {
            cfg: &self.cfg,
            links,
            nodes: &self.nodes,
            owner: &self.owner,
            paused: self.paused,
            facts: self,
        };
        let mut plan = Plan::default();
        plan.make(&c, 2);
        (0..GROUPS as u8)
            .map(|g| {
                let d = c.decide(g);
                if links.placed_together.has(g) {
                    let i = usize::from(g);
                    assert_eq!((plan.target[i], plan.reason[i]), (d.target, d.reason));
                    let rank = d.rank(2).map_or(u8::MAX, |r| r as u8);
                    assert_eq!(plan.rank[i], rank);
                }
                d
            })
            .collect()
    }

    /// Everything that is decided has happened.
    fn apply(&mut self, decisions: &[Decision]) {
        for (g, d) in decisions.iter().enumerate() {
            if self.owner[g] != d.target && self.wish[g] == d.target {
                self.wish[g] = 0;
            }
            if d.target != 0 || !self.alive(self.owner[g]) {
                self.owner[g] = d.target;
            }
        }
        for (i, n) in self.nodes.iter_mut().enumerate() {
            let here = self.owner.iter().filter(|o| usize::from(**o) == i + 1);
            n.load = here.count() as u16;
        }
    }
}

fn node() -> impl Strategy<Value = (Candidate, Option<u32>)> {
    let rare = || prop::bool::weighted(0.12);
    let young = prop::bool::weighted(0.1);
    let flags = (rare(), rare(), rare(), rare(), rare(), young);
    (flags, option::weighted(0.5, 0u32..12)).prop_map(|(f, capacity)| {
        let (witness, dead, drained, leaving, waiting, young) = f;
        let c = Candidate {
            member: !witness,
            witness,
            alive: !dead,
            drained,
            leaving,
            waiting,
            alive_for: if young { SETTLED / 2 } else { 2 * SETTLED },
            load: 0,
        };
        (c, capacity)
    })
}

fn group() -> impl Strategy<Value = (GroupConfig, u8, u8, u8)> {
    let ids = || 1..=NODES as u8;
    let prefer = prop_oneof![
        2 => Just(Vec::new()),
        3 => sample::subsequence((1..=NODES as u8).collect::<Vec<_>>(), 1..=NODES).prop_shuffle(),
    ];
    let with = option::weighted(0.3, 0..GROUPS as u8);
    let apart = vec(0..GROUPS as u8, 0..3);
    let need = prop_oneof![Just(0u32), 1u32..7];
    let owner = prop_oneof![1 => Just(0u8), 3 => ids()];
    let wish = prop_oneof![5 => Just(0u8), 1 => ids()];
    let stuck = prop_oneof![8 => Just(0u8), 1 => ids()];
    let own = (prefer, any::<bool>(), prop::bool::weighted(0.2));
    ((own, with, apart, need), owner, wish, stuck).prop_map(|(of, owner, wish, stuck)| {
        let ((prefer, auto, spread), with, apart, need) = of;
        let config = GroupConfig {
            failback: if auto {
                Failback::Auto
            } else {
                Failback::Manual
            },
            spread,
            with,
            apart: apart.into_iter().fold(Set::EMPTY, Set::with),
            need,
            ..GroupConfig::preferring(&prefer)
        };
        (config, owner, wish, stuck)
    })
}

fn world() -> impl Strategy<Value = World> {
    let fitness = prop_oneof![12 => Just(0u8), 1 => Just(1u8), 1 => Just(2u8), 2 => Just(3u8)];
    let rest = (vec(fitness, NODES * GROUPS), prop::bool::weighted(0.05));
    (vec(node(), NODES), vec(group(), GROUPS), rest).prop_map(|(nodes, groups, rest)| {
        let mut w = World {
            cfg: CoreConfig::new(1, Timing::LAN),
            nodes: [Candidate::default(); MAX_NODES],
            owner: [0; MAX_GROUPS],
            fitness: rest.0,
            wish: Vec::new(),
            stuck: Vec::new(),
            paused: rest.1,
        };
        for (i, (n, capacity)) in nodes.into_iter().enumerate() {
            w.cfg.nodes[i] = Some(NodeConfig {
                witness: n.witness,
                capacity,
            });
            w.nodes[i] = n;
        }
        for (g, (config, owner, wish, stuck)) in groups.into_iter().enumerate() {
            w.cfg.groups[g] = Some(config);
            w.owner[g] = owner;
            w.wish.push(wish);
            w.stuck.push(stuck);
        }
        w.apply(&[]);
        w
    })
}

/// What nobody gets a group in spite of.
fn hard(e: Exclusion) -> bool {
    match e {
        Exclusion::NotAMember
        | Exclusion::Witness
        | Exclusion::NotListed
        | Exclusion::NotAlive
        | Exclusion::Drained
        | Exclusion::Leaving
        | Exclusion::Waiting
        | Exclusion::Unfit
        | Exclusion::NoRoom
        | Exclusion::Follows => true,
        Exclusion::Doubtful | Exclusion::Failed => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

    /// Who is excluded gets nothing, but for what the last resorts allow; nothing is taken from where it cannot be stopped.
    #[test]
    fn the_excluded_get_nothing(w in world()) {
        let links = Links::new(&w.cfg);
        for (g, d) in (0u8..).zip(w.decide(&links)) {
            let owner = w.owner[usize::from(g)];
            let stuck = w.stuck[usize::from(g)];
            if w.alive(stuck) && (owner == stuck || owner == 0) {
                prop_assert_eq!((d.target, d.reason), (stuck, Reason::Stuck));
                continue;
            }
            if d.target == owner || d.target == 0 {
                prop_assert!(d.target != 0 || !w.alive(owner), "taken from a living owner for nobody");
                continue;
            }
            prop_assert!(!w.paused || !w.alive(owner));
            let s = d.score(d.target);
            prop_assert!(!s.excluded.is_some_and(hard), "{g}: {:?} {:?}", d.target, s);
            if s.excluded == Some(Exclusion::Failed) {
                prop_assert_eq!(d.reason, Reason::LastResort);
                prop_assert!(!w.alive(owner) || (&w).fitness(owner, g) == Fitness::Unfit);
            }
            let fit = |id: u8| d.score(id).excluded.is_none();
            if links.root(g) == g && s.excluded.is_some() && d.reason != Reason::Stuck {
                prop_assert!(!(1..=NODES as u8).any(fit), "another is fit");
            }
        }
    }

    /// What comes to a node has room beside everything that is there, also while that is still leaving.
    #[test]
    fn no_node_is_given_too_much(w in world()) {
        let links = Links::new(&w.cfg);
        let decisions = w.decide(&links);
        for id in 1..=NODES as u8 {
            let Some(capacity) = w.cfg.nodes[usize::from(id) - 1].and_then(|n| n.capacity) else { continue };
            let groups = || (0..GROUPS as u8).filter(|g| w.need(*g) != 0);
            let target = |g: u8| decisions[usize::from(g)].target;
            let comes = |g: &u8| target(*g) == id && w.owner[usize::from(*g)] != id
                // Where it cannot be stopped it is counted as being there, asked or not.
                && decisions[usize::from(*g)].reason != Reason::Stuck;
            if !groups().any(|g| comes(&g)) { continue; }
            let there: u64 = groups()
                .filter(|g| w.owner[usize::from(*g)] == id || comes(g))
                .map(|g| w.need(g))
                .sum();
            prop_assert!(there <= u64::from(capacity), "n{id}: {there} of {capacity}");
        }
    }

    /// Decisions come to rest. But where a group leaves room for another, somebody asks, or failback is automatic (it goes home
    /// when what it is kept from has gone), no group goes back to a node that it has left.
    #[test]
    fn decisions_come_to_rest(w in world()) {
        let mut w = w;
        let links = Links::new(&w.cfg);
        let roomy = w.cfg.nodes.iter().flatten().all(|n| n.capacity.is_none());
        let auto = |g: &GroupConfig| g.failback == Failback::Auto;
        let roomy = roomy
            && w.wish.iter().all(|w| *w == 0)
            && !w.cfg.groups.iter().flatten().any(auto);
        let mut been: Vec<Vec<u8>> = (0..GROUPS).map(|g| vec![w.owner[g]]).collect();
        for round in 0.. {
            prop_assert!(round < 2 * GROUPS, "no rest");
            let before = w.owner;
            let decisions = w.decide(&links);
            w.apply(&decisions);
            if before == w.owner {
                break;
            }
            for (g, been) in been.iter_mut().enumerate() {
                let now = w.owner[g];
                if now != before[g] && now != 0 {
                    prop_assert!(!roomy || !been.contains(&now), "group {g}: {been:?}, and n{now} again");
                    been.push(now);
                }
            }
        }
    }

    /// What must be together ends up together, or cannot.
    #[test]
    fn units_meet(w in world()) {
        let mut w = w;
        let links = Links::new(&w.cfg);
        let mut decisions = w.decide(&links);
        for _ in 0..2 * GROUPS {
            w.apply(&decisions);
            decisions = w.decide(&links);
        }
        for (g, d) in (0u8..).zip(&decisions) {
            let leader = decisions[usize::from(links.root(g))].target;
            let apart = d.target != leader && !w.paused;
            if apart && d.reason != Reason::Stuck {
                let there = d.score(leader).excluded;
                prop_assert!(leader == 0 || there.is_some(), "group {g}: {d:?}");
            }
        }
    }
}
