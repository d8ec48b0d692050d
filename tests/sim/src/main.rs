//! `heartline-sim`: runs seeds and says which broke what.

use std::time::Instant;

use agent_common::rules::{self, Rule, Rules};
use clap::Parser;
use heartline_sim::{Options, Shape, World};

/// Simulates clusters of real cores under faults, by seed.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Nodes; without it the shape comes from the seed.
    #[arg(long)]
    nodes: Option<u8>,
    /// Witnesses, a mask.
    #[arg(long, default_value_t = 0)]
    witnesses: u32,
    /// Groups.
    #[arg(long, default_value_t = 2)]
    groups: u8,
    /// Links.
    #[arg(long, default_value_t = 1)]
    links: u8,
    /// Leave a rule out (several times for several).
    #[arg(long = "break", value_parser = rule)]
    broken: Vec<Rule>,
    /// With faults directed at this rule instead of all faults.
    #[arg(long, value_parser = rule)]
    directed: Option<Rule>,
    /// Members and VIPs' groups change as well.
    #[arg(long, conflicts_with_all = ["directed", "nodes"])]
    members: bool,
    /// The timing profile: fast, lan or wan.
    #[arg(long, default_value = "lan", value_parser = ["fast", "lan", "wan"])]
    profile: String,
    /// Largest clock error, parts per million; without it the seed chooses.
    #[arg(long)]
    drift: Option<u32>,
    /// Go on after the first failure.
    #[arg(long)]
    all: bool,
    /// One JSON line per failing seed and for the summary.
    #[arg(long)]
    json: bool,
    /// Measure takeovers and moves instead, under the lan profile.
    #[arg(long)]
    measure: bool,
    /// Tell everything that happens.
    #[arg(long)]
    trace: bool,
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

fn main() -> std::process::ExitCode {
    let a = Args::parse();
    if a.measure {
        measure(a.nodes.unwrap_or(3), a.seeds);
        return std::process::ExitCode::SUCCESS;
    }
    let shape = a.nodes.map(|nodes| Shape {
        nodes,
        witnesses: a.witnesses,
        groups: a.groups,
        links: a.links,
    });
    let rules = a.broken.iter().fold(Rules::all(), |r, b| r.without(*b));
    let (from, count) = a.seed.map_or((a.from, a.seeds), |s| (s, 1));
    let begun = Instant::now();
    let mut told = Instant::now();
    let (mut bad, mut two, mut resume, mut events, mut owned) = (0u64, 0u64, 0u64, 0u64, 0u64);
    let mut first = None;
    for seed in from..from + count {
        let mut o = match a.directed {
            Some(r) => Options::directed(r, seed),
            None if a.members => Options::members(seed),
            None => Options::random(seed, shape),
        };
        o = match a.profile.as_str() {
            "fast" => o.scaled(heartline_sim::FAST),
            "wan" => o.scaled(heartline_sim::WAN),
            _ => o,
        };
        o.rules = rules;
        o.trace = a.trace;
        o.drift_ppm = a.drift.unwrap_or(o.drift_ppm);
        let line = o.reproduce();
        let out = World::new(o).run();
        events += out.events;
        owned += out.owned_permille;
        if let Some(v) = &out.violation {
            bad += 1;
            two += u64::from(v.broken == heartline_sim::Broken::TwoOwners);
            resume += u64::from(v.broken == heartline_sim::Broken::Resume);
            first.get_or_insert(seed);
            if a.json {
                println!(
                    "{{\"seed\":{seed},\"broken\":\"{:?}\",\"at_ns\":{},\"text\":{:?},\"hash\":\"{:016x}\"}}",
                    v.broken, v.at, v.text, out.hash
                );
            } else {
                println!(
                    "seed {seed}: {:?} at {:.3} ms: {}\n  {line}",
                    v.broken,
                    v.at as f64 / 1e6,
                    v.text
                );
            }
            if !a.all {
                break;
            }
        } else if a.seed.is_some() && !a.json {
            println!("seed {seed}: {out:?}");
        }
        if told.elapsed().as_secs() >= 2 {
            told = Instant::now();
            let done = seed - from + 1;
            eprintln!(
                "{done} of {count} seeds, {bad} failed, {:.0} seeds/s",
                done as f64 / begun.elapsed().as_secs_f64()
            );
        }
    }
    let s = begun.elapsed().as_secs_f64();
    if a.json {
        println!(
            "{{\"seeds\":{count},\"from\":{from},\"failed\":{bad},\"two_owners\":{two},\"resumes\":{resume},\"events\":{events},\"seconds\":{s:.3}}}"
        );
    } else {
        println!(
            "{count} seeds from {from}: {bad} failed ({two} two owners, {resume} resumes){}; owned {:.1} %; {events} events in {s:.1} s",
            first.map_or(String::new(), |f| format!(", first {f}")),
            owned as f64 / 10.0 / count as f64
        );
    }
    if bad == 0 {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}

fn measure(nodes: u8, runs: u64) {
    let ms = |v: u64| v as f64 / 1e6;
    let line = |what: &str, s: &heartline_sim::measure::Samples| {
        println!(
            "{what}: median {:.3} ms, max {:.3} ms ({} runs)",
            ms(s.median()),
            ms(s.max()),
            s.len()
        );
    };
    let t = heartline_sim::measure::takeovers(nodes, agent_core::Timing::LAN, runs);
    line("silent crash, outage", &t.outage);
    line("silent crash, beyond the promise's end", &t.beyond);
    let m = heartline_sim::measure::moves(nodes, agent_core::Timing::LAN, runs);
    line("planned move, from the command", &m.total);
    line("planned move, without owner", &m.gap);
}
