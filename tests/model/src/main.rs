//! `heartline-model`: checks every history with a few faults, with all rules and without each that it can miss.

use std::{cell::Cell, process::ExitCode, thread, time::Duration};

use agent_common::rules::{self, Rule};
use clap::{Parser, ValueEnum};
use heartline_model::{
    fault::Menu,
    hunt::{self, DELIBERATE, Walk},
    setup::{NODES, SETTLE, Setup, TICK},
};

/// Checks the lease: three real cores and the real kernel half, every history with a few faults.
///
/// Without options: the bounds that it always checks with all rules, then rules left out on purpose, each with its
/// counterexample.
#[derive(Parser)]
#[command(name = "cargo xtask model", version)]
struct Args {
    /// This many faults in a history, with all rules or --break; one walk only
    #[arg(long)]
    faults: Option<u8>,
    /// Which faults
    #[arg(long, value_enum, default_value = "small")]
    menu: MenuArg,
    /// Groups, 1 or 2
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    groups: u8,
    /// Ticks of 5 ms that are looked at
    #[arg(long, default_value_t = 16)]
    horizon: u16,
    /// A fault may happen at every such tick
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    every: u16,
    /// Leave a rule out (several times for several)
    #[arg(long = "break", value_name = "RULE", value_parser = rule)]
    broken: Vec<Rule>,
    /// Also wider bounds, which take long
    #[arg(long)]
    thorough: bool,
    /// Threads [default: as many as there are CPUs]
    #[arg(long)]
    jobs: Option<usize>,
    /// Of each counterexample its faults alone
    #[arg(long)]
    brief: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum MenuArg {
    Small,
    Full,
    Coarse,
}

fn rule(s: &str) -> Result<Rule, String> {
    rules::ALL
        .into_iter()
        .find(|r| format!("{r:?}").eq_ignore_ascii_case(s))
        .ok_or_else(|| {
            let names: Vec<String> = rules::ALL.iter().map(|r| format!("{r:?}")).collect();
            format!("no such rule; there are {}", names.join(", "))
        })
}

fn main() -> ExitCode {
    let a = Args::parse();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let jobs = a.jobs.unwrap_or(cpus);
    if let Some(faults) = a.faults {
        let menu = match a.menu {
            MenuArg::Small => Menu::Small,
            MenuArg::Full => Menu::Full,
            MenuArg::Coarse => Menu::Coarse,
        };
        let mut s = Setup::new(menu, faults);
        (s.groups, s.horizon, s.every) = (a.groups, a.horizon, a.every);
        s.rules = a.broken.iter().fold(s.rules, |r, b| r.without(*b));
        let w = walk(&s, jobs, !a.broken.is_empty());
        print(&s, &w, a.brief);
        return code(w.broken.is_none());
    }
    println!(
        "With all rules: every history of {NODES} nodes with so many faults, at any of the ticks"
    );
    let mut good = true;
    for s in hunt::bounds(a.thorough) {
        let w = walk(&s, jobs, false);
        print(&s, &w, false);
        good &= w.broken.is_none() && w.takeover;
    }
    println!("\nWith a rule left out: the shortest history that breaks something");
    for d in &DELIBERATE {
        let s = d.setup();
        let w = walk(&s, jobs, true);
        let masked = d.masked_by.map_or(String::new(), |m| format!(" and {m:?}"));
        println!("{:?}{masked}:", d.rule);
        print(&s, &w, a.brief);
        let found = w.broken.as_ref().map(|b| b.0);
        if found != Some(d.breaks) {
            println!("  EXPECTED: {}", d.breaks);
            good = false;
        }
    }
    code(good)
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn walk(s: &Setup, jobs: usize, shortest: bool) -> Walk {
    let told = Cell::new(Duration::ZERO);
    hunt::walk(s, jobs, shortest, |states, took| {
        if took >= told.get() + Duration::from_secs(2) {
            told.set(took);
            eprintln!("{states} states in {:.0} s", took.as_secs_f64());
        }
    })
}

fn print(s: &Setup, w: &Walk, brief: bool) {
    println!(
        "  up to {} of {} faults ({:?}), each {} of {} ticks of {} ms (from {} ms on), {} group{}: {} states in {:.1} s{}",
        s.faults,
        s.menu.faults().len(),
        s.menu,
        if s.every == 1 {
            "one".to_owned()
        } else {
            format!("{}th", s.every)
        },
        s.horizon,
        TICK / 1_000_000,
        u64::from(SETTLE) * TICK / 1_000_000,
        s.groups,
        if s.groups == 1 { "" } else { "s" },
        w.unique,
        w.took.as_secs_f64(),
        match &w.broken {
            None if w.takeover => ", nothing broken".to_owned(),
            None => ", nothing broken, and NO TAKEOVER: nothing was tried".to_owned(),
            Some((name, _)) => format!(", BROKEN: {name}"),
        }
    );
    for line in w.broken.iter().flat_map(|b| &b.1) {
        if !brief || line.contains("FAULT") || line.contains("BROKEN") {
            println!("    {line}");
        }
    }
}
