//! Where a run's faults come from: all kinds at random, or directed at narrow histories that uniform ones do not reach.

use std::{fmt, str::FromStr};

use agent_common::{
    rules::{self, Rule},
    wire::Kind,
};

use crate::{
    directed, directed_members,
    fault::{Fault, Mix},
    net::Weather,
    options::{MS, Options, Shape},
    rng::Rng,
    services::Services,
};

/// Where the faults come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// All kinds, at random.
    Uniform,
    /// One kind of message is lost at a time, between chosen nodes or all, in part or whole.
    LossByKind,
    /// Grants are held back by up to a lease, between chosen nodes or all.
    LateGrants,
    /// Kernel and agent of a node step into each other's way in many of the arrivals.
    Races,
    /// Members and VIPs' groups change among all other faults.
    Members,
    /// Services behind groups that start and stop slowly, fail and get stuck; groups that must be together or apart.
    Services,
    /// What this rule is there for.
    Rule(Rule),
}

impl Schedule {
    /// The directed ones.
    pub fn directed() -> impl Iterator<Item = Schedule> {
        [
            Schedule::LossByKind,
            Schedule::LateGrants,
            Schedule::Races,
            Schedule::Members,
            Schedule::Services,
        ]
        .into_iter()
        .chain(
            rules::ALL
                .into_iter()
                .chain(rules::GENERATIONS)
                .map(Schedule::Rule),
        )
    }

    /// A run of it; what is not given comes from the seed. All rules hold.
    pub fn options(self, seed: u64, shape: Option<Shape>) -> Options {
        let mut o = match self {
            Schedule::Uniform => Options::random(seed, shape),
            Schedule::LossByKind => loss_by_kind(seed, shape),
            Schedule::LateGrants => late_grants(seed, shape),
            Schedule::Races => {
                let mut o = Options::random(seed, shape);
                o.races = 300;
                o
            }
            Schedule::Members => Options::members(seed),
            Schedule::Services => {
                let mut o = Options::random(seed, shape);
                o.services = Some(Services::random(seed, &o));
                o.mix.people = 40;
                o
            }
            Schedule::Rule(rule) if rules::GENERATIONS.contains(&rule) => {
                directed_members::options(rule, seed)
            }
            Schedule::Rule(rule) => directed::options(rule, seed),
        };
        o.schedule = self;
        o
    }

    /// What the `n`th run of `cargo xtask sim` is: one half uniform, one half directed; all profiles, with and without
    /// races.
    pub fn nth(n: u64) -> Options {
        let directed: Vec<Schedule> = Schedule::directed().collect();
        let schedule = if n.is_multiple_of(2) {
            Schedule::Uniform
        } else {
            directed[(n / 2 % directed.len() as u64) as usize]
        };
        let mut r = Rng::new(n, 8);
        let mut o = schedule.options(n, None);
        if schedule == Schedule::Uniform {
            o.races = r.pick(&[0, 0, 20, 200]);
            o = o.scaled(r.pick(&[
                crate::Profile::Lan,
                crate::Profile::Lan,
                crate::Profile::Lan,
                crate::Profile::Fast,
                crate::Profile::Wan,
            ]));
        }
        o
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Rule(r) => write!(f, "{r:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(s: &str) -> Result<Schedule, String> {
        let mut all = Schedule::directed().chain([Schedule::Uniform]);
        all.find(|x| x.to_string().eq_ignore_ascii_case(s))
            .ok_or_else(|| {
                let names: Vec<String> = Schedule::directed().map(|x| x.to_string()).collect();
                format!("no such schedule; there are {}", names.join(", "))
            })
    }
}

/// From and to, each of a random node or any.
fn between(r: &mut Rng, s: &Shape) -> (u8, u8) {
    let n = u64::from(s.nodes);
    let (a, b) = (1 + r.below(n) as u8, 1 + r.below(n) as u8);
    (r.pick(&[0, a]), r.pick(&[0, b]))
}

/// Without faults that `mend` or replace what the script chose.
fn quiet(seed: u64, shape: Option<Shape>) -> Options {
    let mut o = Options::random(seed, shape);
    o.mix = Mix {
        aim: 0,
        mend: 4,
        loss: 0,
        people: 20,
        gap: o.mix.gap,
        ..Mix::ALL
    };
    o.weather = Weather {
        loss: 0,
        ..o.weather
    };
    o
}

fn loss_by_kind(seed: u64, shape: Option<Shape>) -> Options {
    let mut o = quiet(seed, shape);
    let mut r = Rng::new(seed, 9);
    let mut at = 250 * MS;
    while at < o.heal_at {
        let kind = r.pick(&[
            Kind::Heartbeat,
            Kind::Ack,
            Kind::Grant,
            Kind::Refuse,
            Kind::Nack,
            Kind::Regressed,
        ]);
        let (from, to) = between(&mut r, &o.shape);
        let permille = r.pick(&[300, 700, 1000, 1000]);
        o.script.push((at, Fault::Aim(from, to, kind, permille)));
        at += r.between(20 * MS, 400 * MS);
    }
    o
}

fn late_grants(seed: u64, shape: Option<Shape>) -> Options {
    let mut o = quiet(seed, shape);
    let mut r = Rng::new(seed, 10);
    let lease = o.timing.lease;
    let mut at = 150 * MS;
    while at < o.heal_at {
        let (from, to) = between(&mut r, &o.shape);
        let hold = r.between(0, lease);
        o.script
            .push((at, Fault::Hold(from, to, Kind::Grant, hold)));
        at += r.between(20 * MS, 300 * MS);
    }
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for s in Schedule::directed() {
            assert_eq!(s.to_string().parse(), Ok(s));
        }
        assert!("nothing".parse::<Schedule>().is_err());
    }
}
