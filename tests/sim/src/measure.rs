//! Takeover and move latency on virtual time: what the protocol itself costs, without the machine's noise.

use agent_core::{Command, Timing};

use crate::{
    fault::Fault,
    options::{MS, Options, Shape},
    rng::Rng,
    world::World,
};

/// Samples in ns.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// The middle one.
    pub fn median(&self) -> u64 {
        let mut s = self.0.clone();
        s.sort_unstable();
        s.get(s.len() / 2).copied().unwrap_or(0)
    }
    /// The largest.
    pub fn max(&self) -> u64 {
        self.0.iter().copied().max().unwrap_or(0)
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A silent crash of the owner.
#[derive(Clone, Debug, Default)]
pub struct Takeovers {
    /// From the crash until another gate is open.
    pub outage: Samples,
    /// The same from the end of the promise, `takeover` after the last heartbeat was sent.
    pub beyond: Samples,
}

/// A planned move.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    /// From the command until the new gate is open.
    pub total: Samples,
    /// No gate is open.
    pub gap: Samples,
}

fn settled(nodes: u8, timing: Timing, seed: u64) -> (World, u8) {
    let mut o = Options::calm(seed, Shape::new(nodes, 1));
    o.timing = timing;
    let mut w = World::new(o);
    let phase = Rng::new(seed, 8).between(0, timing.heartbeat);
    w.run_until(20 * timing.takeover + phase);
    let owner = w.owner(0).expect("a healthy cluster owns its group");
    (w, owner)
}

/// Crashes the owner in silence, `runs` times.
pub fn takeovers(nodes: u8, timing: Timing, runs: u64) -> Takeovers {
    let mut out = Takeovers::default();
    for seed in 0..runs {
        let (mut w, owner) = settled(nodes, timing, seed);
        let (crash, last) = (w.t, w.nodes[owner as usize - 1].last_beat);
        w.fault(Fault::Reboot(owner, 3_600_000 * MS));
        w.run_until(crash + 20 * timing.takeover);
        assert!(
            w.broken().is_none() && w.owner(0).is_some(),
            "seed {seed}: {:?}",
            w.broken()
        );
        let gained = w.last_gain.0;
        out.outage.0.push(gained - crash);
        out.beyond
            .0
            .push(gained.saturating_sub(last + timing.takeover));
    }
    out
}

/// Moves the group on request, `runs` times.
pub fn moves(nodes: u8, timing: Timing, runs: u64) -> Moves {
    let mut out = Moves::default();
    for seed in 0..runs {
        let (mut w, owner) = settled(nodes, timing, seed);
        let to = owner % nodes + 1;
        let at = (seed % u64::from(nodes)) as usize;
        w.check.forget_outages(w.t);
        let begun = w.t;
        w.command(at, Command::Move { group: 0, node: to });
        w.run_until(begun + 20 * timing.takeover);
        assert!(
            w.broken().is_none() && w.owner(0) == Some(to),
            "seed {seed}"
        );
        out.total.0.push(w.last_gain.0 - begun);
        out.gap.0.push(w.check.longest_outage);
    }
    out
}
