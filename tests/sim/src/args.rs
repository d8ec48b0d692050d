//! What the command line can say, and the run that it means.

use agent_common::rules::{self, Rule, Rules};
use clap::Parser;

use crate::{
    options::{Options, Profile, Shape, Strict},
    schedule::Schedule,
};

/// Runs of [`Schedule::nth`] unless told otherwise.
const CAMPAIGN: u64 = 100_000;
/// Runs of one schedule unless told otherwise.
const SOME: u64 = 1_000;

/// Simulates clusters of real cores and the real kernel half under faults, by seed.
///
/// Without --seed, --directed, --break, --nodes or --profile: one half of the seeds uniform faults of all kinds, the other
/// half directed schedules in turn, over shapes, profiles and races.
#[derive(Parser, Clone, Debug)]
#[command(name = "cargo xtask sim", version)]
pub struct Args {
    /// How many seeds [default: 100000, or 1000 of a chosen schedule]
    #[arg(long)]
    pub seeds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// This seed alone
    #[arg(long)]
    pub seed: Option<u64>,
    /// Nodes; without it the shape comes from the seed
    #[arg(long)]
    pub nodes: Option<u8>,
    /// Witnesses, a mask
    #[arg(long, default_value_t = 0)]
    pub witnesses: u32,
    /// Groups
    #[arg(long, default_value_t = 2)]
    pub groups: u16,
    /// Links
    #[arg(long, default_value_t = 1)]
    pub links: u8,
    /// Leave a rule out (several times for several)
    #[arg(long = "break", value_name = "RULE", value_parser = rule)]
    pub broken: Vec<Rule>,
    /// A directed schedule instead of uniform faults: the name of a rule, or LossByKind, LateGrants, Races, Members, Services
    #[arg(long, value_name = "SCHEDULE", value_parser = schedule)]
    pub directed: Option<Schedule>,
    /// The timing profile: fast, lan or wan
    #[arg(long, value_parser = profile)]
    pub profile: Option<Profile>,
    /// Largest clock error, parts per million; without it the seed chooses
    #[arg(long)]
    pub drift: Option<u32>,
    /// In how many of 1000 arrivals kernel and agent step into each other's way; without it the schedule says
    #[arg(long)]
    pub races: Option<u32>,
    /// Look at tables and promises also while a rule is left out
    #[arg(long)]
    pub strict: bool,
    /// Threads [default: as many as there are CPUs]
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Go on after the first failure
    #[arg(long)]
    pub all: bool,
    /// One JSON line per failing seed and for the summary
    #[arg(long)]
    pub json: bool,
    /// Leave each rule out, one at a time, and print what sees it missed
    #[arg(long)]
    pub break_all: bool,
    /// Measure takeovers and moves instead, under the lan profile
    #[arg(long)]
    pub measure: bool,
    /// Tell everything that happens; one thread
    #[arg(long)]
    pub trace: bool,
}

impl Args {
    /// Is it the mixed choice?
    pub fn is_campaign(&self) -> bool {
        self.seed.is_none()
            && self.directed.is_none()
            && self.nodes.is_none()
            && self.profile.is_none()
            && self.broken.is_empty()
    }

    /// First seed and number of seeds.
    pub fn range(&self) -> (u64, u64) {
        let some = if self.is_campaign() { CAMPAIGN } else { SOME };
        match self.seed {
            Some(s) => (s, 1),
            None => (self.from, self.seeds.unwrap_or(some)),
        }
    }

    /// The run of a seed.
    pub fn options(&self, seed: u64) -> Options {
        let mut o = if self.is_campaign() {
            Schedule::nth(seed)
        } else {
            let shape = self.nodes.map(|nodes| Shape {
                nodes,
                witnesses: self.witnesses,
                groups: self.groups,
                links: self.links,
            });
            self.directed
                .unwrap_or(Schedule::Uniform)
                .options(seed, shape)
                .scaled(self.profile.unwrap_or(Profile::Lan))
        };
        o.rules = self.broken.iter().fold(Rules::all(), |r, b| r.without(*b));
        if self.strict {
            o.strict = Strict::Always;
        }
        o.trace = self.trace;
        o.drift_ppm = self.drift.unwrap_or(o.drift_ppm);
        o.races = self.races.unwrap_or(o.races);
        o
    }
}

fn rule(s: &str) -> Result<Rule, String> {
    rules::ALL
        .into_iter()
        .chain(rules::GENERATIONS)
        .find(|r| format!("{r:?}").eq_ignore_ascii_case(s))
        .ok_or_else(|| {
            let names: Vec<String> = rules::ALL.iter().map(|r| format!("{r:?}")).collect();
            format!("no such rule; there are {}", names.join(", "))
        })
}

fn schedule(s: &str) -> Result<Schedule, String> {
    s.parse()
}

fn profile(s: &str) -> Result<Profile, String> {
    Profile::ALL
        .into_iter()
        .find(|p| p.to_string() == s)
        .ok_or_else(|| "fast, lan or wan".to_owned())
}
