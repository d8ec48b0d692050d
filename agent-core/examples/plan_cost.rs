//! What one plan for the largest cluster costs: 32 nodes and 256 groups, all of which depend on each other.
//!
//! `cargo run --release -p agent-core --example plan_cost`

#![expect(clippy::disallowed_methods, reason = "a measurement, not the core")]

use std::{hint::black_box, time::Instant};

use agent_common::{MAX_GROUPS, MAX_NODES, Set};
use agent_core::{
    CoreConfig, Fitness, GroupConfig, NodeConfig, Timing,
    links::Links,
    placement::{Candidate, Cluster, Facts, Plan},
};

const ROUNDS: u32 = 200;

#[derive(Clone, Copy)]
struct Fine;

impl Facts for Fine {
    fn fitness(&self, _: u8, _: u8) -> Fitness {
        Fitness::Fit
    }
    fn fit_for(&self, _: u8, _: u8) -> u64 {
        u64::MAX
    }
    fn wish(&self, _: u8) -> u8 {
        0
    }
    fn stuck(&self, _: u8) -> u8 {
        0
    }
}

fn main() {
    let well = Candidate {
        member: true,
        alive: true,
        alive_for: u64::MAX,
        load: (MAX_GROUPS / MAX_NODES) as u16,
        ..Candidate::default()
    };
    println!("plan of {MAX_NODES} nodes and {MAX_GROUPS} groups, the mean of {ROUNDS}:");
    for (name, apart, need, capacity) in [
        ("spread", Set::EMPTY, 0, None),
        ("spread, with capacity", Set::EMPTY, 1, Some(9)),
        ("each apart from 3", Set::of(1).with(2).with(3), 0, None),
    ] {
        let mut cfg = CoreConfig::new(1, Timing::LAN);
        let witness = false;
        cfg.nodes = [Some(NodeConfig { witness, capacity }); MAX_NODES];
        let group = GroupConfig {
            spread: true,
            apart,
            need,
            ..GroupConfig::default()
        };
        cfg.groups.fill(Some(group));
        let links = Links::new(&cfg);
        for (when, dead) in [("all well", 0), ("one node gone", 1)] {
            let mut nodes = [well; MAX_NODES];
            for node in &mut nodes[..dead] {
                node.alive = false;
            }
            let mut owner = [0; MAX_GROUPS];
            for (g, of) in owner.iter_mut().enumerate() {
                *of = (g % MAX_NODES) as u8 + 1;
            }
            let cluster = Cluster {
                cfg: &cfg,
                links: &links,
                nodes: &nodes,
                owner: &owner,
                paused: false,
                facts: Fine,
            };
            let mut plan = Plan::default();
            let start = Instant::now();
            for _ in 0..ROUNDS {
                plan.make(black_box(&cluster), 2);
                black_box(&plan);
            }
            let each = start.elapsed() / ROUNDS;
            println!("  {name}, {when}: {} us", each.as_micros());
        }
    }
}
