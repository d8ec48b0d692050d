//! `heartline-model`: checks every history with a few faults.

use std::{cell::Cell, process::ExitCode, thread, time::Duration};

use agent_common::rules::{self, Rule};
use clap::{Parser, ValueEnum};
use heartline_model::{
    fault::Menu,
    hunt::{self, Walk},
    setup::Setup,
};

fn main() -> ExitCode {
    let a = Args::parse();
    let mut s = Setup::new(a.menu.into(), a.faults);
    s.groups = a.groups;
    s.horizon = a.horizon;
    s.every = a.every;
    for b in &a.broken { s.rules = s.rules.without(*b); }
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let told = Cell::new(Duration::ZERO);
    let w = hunt::walk(&s, a.jobs.unwrap_or(cpus), a.shortest, |n, t| {
        if t - told.get() >= Duration::from_secs(2) { told.set(t); eprintln!("{n} states in {:.0} s", t.as_secs_f64()); }
    });
    print(&w);
    if w.broken.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(w: &Walk) {
    println!("{} states ({} generated) in {:.1} s, takeover {}", w.unique, w.generated, w.took.as_secs_f64(), w.takeover);
    if let Some((name, lines)) = &w.broken {
        println!("BROKEN: {name}");
        for l in lines { println!("{l}"); }
    }
}

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 2)]
    faults: u8,
    #[arg(long, default_value_t = 1)]
    groups: u8,
    #[arg(long, default_value_t = 16)]
    horizon: u16,
    #[arg(long, default_value_t = 1)]
    every: u16,
    #[arg(long, value_enum, default_value = "small")]
    menu: MenuArg,
    #[arg(long = "break", value_parser = rule)]
    broken: Vec<Rule>,
    #[arg(long)]
    jobs: Option<usize>,
    #[arg(long)]
    shortest: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum MenuArg { Small, Full, Coarse }
impl From<MenuArg> for Menu { fn from(m: MenuArg) -> Menu { match m { MenuArg::Small => Menu::Small, MenuArg::Full => Menu::Full, MenuArg::Coarse => Menu::Coarse } } }

fn rule(s: &str) -> Result<Rule, String> {
    rules::ALL.into_iter().find(|r| format!("{r:?}").eq_ignore_ascii_case(s)).ok_or_else(|| "no such rule".to_owned())
}
