//! What a run is: shape of the cluster, faults, weather, rules.

use agent_common::rules::{Rule, Rules};
use agent_core::Timing;

use crate::{
    fault::{Fault, Mix},
    members::Generation,
    net::Weather,
    rng::Rng,
    schedule::Schedule,
    services::Services,
};

/// VIPs that may change their group: those of the first groups.
pub const HOMES: usize = 8;

/// One millisecond in ns.
pub const MS: u64 = 1_000_000;

/// The cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes, 2 to 32.
    pub nodes: u8,
    /// Which of them are witnesses, bit id - 1.
    pub witnesses: u32,
    /// Groups, 1 to 256.
    pub groups: u16,
    /// Links of each node.
    pub links: u8,
}

impl Shape {
    /// Members and groups, one link, no witness.
    pub const fn new(nodes: u8, groups: u16) -> Shape {
        Shape {
            nodes,
            witnesses: 0,
            groups,
            links: 1,
        }
    }
    /// The largest that there is.
    pub const LARGEST: Shape = Shape::new(32, 256);

    /// The groups' ids.
    pub fn group_ids(&self) -> impl Iterator<Item = u8> + use<> {
        (0..self.groups).map(|g| g as u8)
    }

    /// Shapes that random runs walk through.
    pub const SOME: [Shape; 8] = [
        Shape::new(3, 2),
        Shape {
            nodes: 3,
            witnesses: 0b100,
            groups: 2,
            links: 1,
        },
        Shape::new(5, 3),
        Shape::new(4, 4),
        Shape {
            nodes: 3,
            witnesses: 0,
            groups: 1,
            links: 2,
        },
        Shape::new(2, 2),
        Shape {
            nodes: 5,
            witnesses: 0b1_0000,
            groups: 2,
            links: 1,
        },
        Shape::new(3, 4),
    ];
}

/// Are tables and promises checked, beside what is seen from outside?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {
    /// While no rule is left out: what a broken rule breaks first would hide what it leads to.
    Usual,
    /// Always.
    Always,
    /// Never: the schedule goes against what the lease assumes.
    Never,
}

/// How long groups may be without owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Looked at from here on, true time, ns,
    pub from: u64,
    /// until here.
    pub until: u64,
    /// At most so long at a time, ns.
    pub limit: u64,
}

/// The timing profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// 10, 40 and 50 ms.
    Lan,
    /// A tenth of that, about.
    Fast,
    /// Twenty times that, about.
    Wan,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 3] = [Profile::Lan, Profile::Fast, Profile::Wan];
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Profile::Lan => "lan",
            Profile::Fast => "fast",
            Profile::Wan => "wan",
        })
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random derives from it.
    pub seed: u64,
    /// The cluster.
    pub shape: Shape,
    /// The durations.
    pub timing: Timing,
    /// Largest error of a clock, parts per million.
    pub drift_ppm: u32,
    /// Wall clocks jump so far to and fro, each 20 ms, ms; 0: they do not.
    pub wall_jumps_ms: u64,
    /// Which rules hold.
    pub rules: Rules,
    /// Random faults.
    pub mix: Mix,
    /// The network while faults happen.
    pub weather: Weather,
    /// Chosen faults at chosen true times, ns.
    pub script: Vec<(u64, Fault)>,
    /// Random faults from here on, ns.
    pub faults_from: u64,
    /// The generations that members go through; empty: one, with all nodes.
    pub generations: Vec<Generation>,
    /// The operator waits until one change is done before the next; then changes must come to an end, too.
    pub careful: bool,
    /// Everything is healed here, ns; then liveness is asked for.
    pub heal_at: u64,
    /// The run ends here if `heal_at` is later, ns.
    pub end: u64,
    /// Fail back by itself?
    pub failback_auto: bool,
    /// What stands behind groups, and how they hang together.
    pub services: Option<Services>,
    /// Spread groups over the nodes?
    pub spread: bool,
    /// Where the faults come from.
    pub schedule: Schedule,
    /// Which of the profiles.
    pub profile: Profile,
    /// In how many of 1000 arrivals the agent takes a step at the same moment.
    pub races: u32,
    /// Are tables and promises checked, too?
    pub strict: Strict,
    /// Two owners at once are allowed for so long, ns: where the schedule goes against what the lease assumes.
    pub dual_allowed: u64,
    /// Which time without owner this schedule allows.
    pub outage: Option<Outage>,
    /// Tell what happens on standard error.
    pub trace: bool,
}

/// The other profiles; `max_promise` comes from the run.
pub const FAST: Timing = Timing {
    heartbeat: MS,
    lease: 4 * MS,
    takeover: 6 * MS,
    max_promise: 0,
};
/// See [`FAST`].
pub const WAN: Timing = Timing {
    heartbeat: 100 * MS,
    lease: 800 * MS,
    takeover: 1_000 * MS,
    max_promise: 0,
};

/// `max_promise` of simulated clusters: short, so that planned pauses and reboots meet often.
pub const MAX_PROMISE: u64 = 300 * MS;

impl Options {
    /// A quiet run without faults.
    pub fn calm(seed: u64, shape: Shape) -> Options {
        Options {
            seed,
            shape,
            timing: Timing {
                max_promise: MAX_PROMISE,
                ..Timing::LAN
            },
            drift_ppm: 10_000,
            wall_jumps_ms: 0,
            rules: Rules::all(),
            mix: Mix::NONE,
            weather: Weather::CALM,
            script: Vec::new(),
            faults_from: 0,
            generations: Vec::new(),
            careful: false,
            heal_at: u64::MAX,
            end: 10_000 * MS,
            failback_auto: false,
            services: None,
            spread: false,
            schedule: Schedule::Uniform,
            profile: Profile::Lan,
            races: 0,
            strict: Strict::Usual,
            dual_allowed: 0,
            outage: None,
            trace: false,
        }
    }

    /// A run of faults of all kinds; what is not given comes from the seed.
    pub fn random(seed: u64, shape: Option<Shape>) -> Options {
        let mut r = Rng::new(seed, 1);
        let shape = shape.unwrap_or(Shape::SOME[r.below(Shape::SOME.len() as u64) as usize]);
        let mut o = Options::calm(seed, shape);
        o.weather = r.pick(&[
            Weather::CALM,
            Weather::ROUGH,
            Weather::ROUGH,
            Weather::STALE,
        ]);
        o.drift_ppm = r.pick(&[10_000, 10_000, 10_000, 100_000]);
        o.mix = Mix::ALL;
        o.mix.gap = r.pick(&[50 * MS, 100 * MS, 200 * MS]);
        o.faults_from = 200 * MS;
        o.heal_at = 8_000 * MS;
        o.failback_auto = r.chance(200);
        o.spread = r.chance(200);
        o
    }

    /// The same history in another profile: everything is slower or faster alike, but for threads' wake-up times.
    pub fn scaled(mut self, profile: Profile) -> Options {
        let timing = match profile {
            Profile::Lan => return self,
            Profile::Fast => FAST,
            Profile::Wan => WAN,
        };
        self.profile = profile;
        let before = self.unit();
        let to = |ns: u64| ns / 1_000 * timing.takeover / 50 / (before / 1_000);
        self.timing = Timing {
            max_promise: to(self.timing.max_promise),
            ..timing
        };
        // Whole milliseconds, as on the wire.
        self.timing.max_promise = self.timing.max_promise.next_multiple_of(MS);
        let w = &mut self.weather;
        for ns in [&mut w.delay_min, &mut w.delay_max, &mut w.straggle] {
            *ns = to(*ns);
        }
        for ns in [
            &mut self.mix.gap,
            &mut self.faults_from,
            &mut self.heal_at,
            &mut self.end,
        ] {
            if *ns != u64::MAX {
                *ns = to(*ns);
            }
        }
        for (at, fault) in &mut self.script {
            *at = to(*at);
            fault.scale(to);
        }
        self.dual_allowed = to(self.dual_allowed);
        if let Some(o) = &mut self.outage {
            for ns in [&mut o.from, &mut o.until, &mut o.limit] {
                *ns = to(*ns);
            }
        }
        self
    }

    /// The measure of durations: one millisecond in the lan profile, a fiftieth of `takeover` in all.
    pub fn unit(&self) -> u64 {
        self.timing.takeover / 50
    }

    /// The command that runs this again, exactly, as far as it came from [`Schedule::options`] and what the command line
    /// can change.
    pub fn reproduce(&self) -> String {
        let s = self.shape;
        let mut c = format!(
            "cargo xtask sim --seed {} --drift {} --races {} --profile {}",
            self.seed, self.drift_ppm, self.races, self.profile
        );
        match self.schedule {
            Schedule::Uniform => {
                let shape = [
                    ("nodes", u32::from(s.nodes)),
                    ("witnesses", s.witnesses),
                    ("groups", s.groups.into()),
                    ("links", s.links.into()),
                ];
                for (name, v) in shape {
                    c += &format!(" --{name} {v}");
                }
            }
            directed => c += &format!(" --directed {directed}"),
        }
        let generations = agent_common::rules::GENERATIONS;
        for r in agent_common::rules::ALL.into_iter().chain(generations) {
            if !self.rules.hold(r) {
                c += &format!(" --break {r:?}");
            }
        }
        if self.strict == Strict::Always {
            c += " --strict";
        }
        c + " --trace"
    }

    /// Faults that reach the narrow history in which this rule matters.
    pub fn directed(rule: Rule, seed: u64) -> Options {
        Schedule::Rule(rule).options(seed, None)
    }
}
