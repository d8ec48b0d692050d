//! `heartline-sim`: runs seeds and says which broke what.

use std::{process::ExitCode, thread, time::Instant};

use agent_common::rules::Rules;
use clap::Parser;
use heartline_sim::{
    args::Args,
    directed::{BY_RACE, EXPECTED, MASKED},
    directed_members,
    hunt::{self, Found},
    race,
};

fn main() -> ExitCode {
    let a = Args::parse();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let jobs = if a.trace { 1 } else { a.jobs.unwrap_or(cpus) };
    if a.measure {
        measure(a.nodes.unwrap_or(3), a.seeds.unwrap_or(100));
        return ExitCode::SUCCESS;
    }
    if a.break_all {
        return break_all(jobs);
    }
    let begun = Instant::now();
    let (from, count) = a.range();
    let tally = hunt::run(
        (from, count),
        jobs,
        |seed| a.options(seed),
        |out, line| {
            let Some(v) = &out.violation else {
                if a.seed.is_some() && !a.json {
                    println!("seed {}: {out:?}\n  {line}", out.seed);
                }
                return true;
            };
            if a.json {
                println!(
                    "{{\"seed\":{},\"broken\":\"{:?}\",\"at_ns\":{},\"text\":{:?},\"hash\":\"{:016x}\",\"reproduce\":{line:?}}}",
                    out.seed, v.broken, v.at, v.text, out.hash
                );
            } else {
                println!(
                    "seed {}: {:?} at {:.3} ms: {}\n  {line}",
                    out.seed,
                    v.broken,
                    v.at as f64 / 1e6,
                    v.text
                );
            }
            a.all
        },
        |t, seconds| {
            let rate = t.runs as f64 / seconds;
            eprintln!(
                "{} of {count} seeds, {} failed, {rate:.0} seeds/s, about {:.0} s to go",
                t.runs,
                t.failed,
                (count - t.runs) as f64 / rate.max(0.1)
            );
        },
    );
    let s = begun.elapsed().as_secs_f64();
    if a.json {
        println!(
            "{{\"seeds\":{},\"from\":{from},\"failed\":{},\"two_owners\":{},\"resumes\":{},\"events\":{},\"seconds\":{s:.3}}}",
            tally.runs, tally.failed, tally.two_owners, tally.resumes, tally.events
        );
    } else {
        println!(
            "{} seeds from {from}: {} failed ({} two owners, {} resumes){}; owned {:.1} %; {} events in {s:.1} s",
            tally.runs,
            tally.failed,
            tally.two_owners,
            tally.resumes,
            tally
                .first
                .map_or(String::new(), |f| format!(", first {f}")),
            tally.owned_permille as f64 / 10.0 / tally.runs.max(1) as f64,
            tally.events
        );
    }
    if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Each rule left out, one at a time: a table in Markdown, as ARCHITECTURE.md has it.
fn break_all(jobs: usize) -> ExitCode {
    let expected: Vec<_> = EXPECTED
        .into_iter()
        .chain(directed_members::EXPECTED)
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut found: Vec<(usize, Option<Found>)> = thread::scope(|scope| {
        let work = || {
            let mut mine = Vec::new();
            loop {
                let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(e) = expected.get(i) else {
                    return mine;
                };
                mine.push((i, hunt::miss(e)));
                eprintln!("{:?} done", e.rule);
            }
        };
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_default())
            .collect()
    });
    found.sort_by_key(|f| f.0);
    println!("| left out | and what masks it | seen | within | first seed |");
    println!("| --- | --- | --- | --- | --- |");
    let mut good = found.len() == expected.len();
    for (e, (_, f)) in expected.iter().zip(&found) {
        let mask = e.masked_by.map_or(String::new(), |m| format!("`{m:?}`"));
        let first = f
            .as_ref()
            .map_or("not seen".to_owned(), |f| f.seed.to_string());
        println!(
            "| `{:?}` | {mask} | `{:?}` | {} | {first} |",
            e.rule, e.sees, e.within
        );
        good &= f.as_ref().is_some_and(|f| f.with_all.is_none());
    }
    for (e, (_, f)) in expected.iter().zip(&found) {
        match f {
            None => println!("{:?}: NOT SEEN within {} seeds", e.rule, e.within),
            Some(f) => {
                println!("{:?}: {}\n  {}", e.rule, f.violation.text, f.line);
                if let Some(v) = &f.with_all {
                    println!("  WITH ALL RULES, TOO: {:?} {}", v.broken, v.text);
                }
            }
        }
    }
    let rules = Rules::all();
    let seen = race::word_first(rules.without(BY_RACE));
    println!(
        "{BY_RACE:?}: with the agent's step before the kernel's access {seen:?}, a voter gives its word twice"
    );
    println!("{:?}: {}", MASKED.0, MASKED.1);
    good &= !seen.is_empty() && race::word_first(rules).is_empty();
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
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
