//! `cargo xtask test`: the suites, one after the other, and their sum.

use std::{
    env,
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    cargo, fuzz,
    install::{self, Policy},
    run,
    toolchain::Need,
    ui, verify,
};

/// Tells the tests to run all they have: long simulations, whole fault matrices.
const ALL: &str = "HEARTLINE_TEST_ALL";

/// Tells the lab's tests where the agent is, and its helper for libvirt.
const PROGRAMS: [(&str, &str); 2] = [
    ("heartline", "HEARTLINE_BIN"),
    ("heartline-libvirt", "HEARTLINE_LIBVIRT"),
];

/// For one suite of the fixed choice, its build included.
const USUAL: Duration = Duration::from_secs(20 * 60);

/// For one suite with `--all`.
const LONG: Duration = Duration::from_secs(4 * 60 * 60);

/// What to run.
#[derive(Args, Debug)]
pub struct Options {
    /// Everything: long simulations and whole fault matrices, with optimisation
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only these suites
    #[arg(long, value_enum, value_name = "NAME")]
    suite: Vec<Suite>,
}

impl Options {
    /// One suite alone.
    pub fn only(suite: Suite, all: bool, filter: Option<String>) -> Self {
        Self {
            all,
            filter,
            suite: vec![suite],
        }
    }
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Formatting, lints, documentation, tidiness
    Verify,
    /// Unit tests of the crates; probes against real servers
    Unit,
    /// The simulator: many cores on virtual time; the model checker, bounded
    Sim,
    /// The XDP and TC programs, run by the kernel on made-up packets
    Bpf,
    /// Made-up input for all that reads outside data, for a bounded time
    Fuzz,
    /// The real agent in network namespaces
    Lab,
    /// Virtual machines as resources: real libvirt daemons, QEMU guests
    Virt,
    /// The real agent in QEMU guests, with DRBD
    Vm,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Unit => "unit",
            Self::Sim => "sim",
            Self::Bpf => "bpf",
            Self::Fuzz => "fuzz",
            Self::Lab => "lab",
            Self::Virt => "virt",
            Self::Vm => "vm",
        }
    }

    // One call of cargo each: the simulator turns on `broken-rules`, and cargo unites the features of one call.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Verify => &[],
            Self::Unit => &[
                "agent-common",
                "agent-core",
                "agent-services",
                "agent-virt-proto",
                "heartline",
                "xtask",
            ],
            Self::Sim => &["heartline-sim", "heartline-model"],
            Self::Bpf => &["heartline-bpf-tests"],
            Self::Fuzz => &["heartline-fuzz", "heartline-ebpf-host"],
            Self::Lab => &["heartline-lab"],
            Self::Virt => &["agent-virt"],
            Self::Vm => &["heartline-vm"],
        }
    }

    /// Runs one test at a time: they share the machine's CPUs and measure time.
    fn alone(self) -> bool {
        matches!(self, Self::Lab | Self::Virt | Self::Vm)
    }
}

/// How a suite went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Names of what failed.
    names: Vec<String>,
}

impl Tally {
    /// Takes in a line of the test harness.
    fn read(&mut self, line: &str) {
        let line = plain(line);
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += before(result, " passed");
            self.failed += before(result, " failed");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.names.push(name.to_owned());
        }
    }

    /// Takes in how cargo ended: a build that fails or a test program that dies counts as a failure.
    fn end(&mut self, well: bool, why: impl FnOnce() -> String) {
        if !well && self.failed == 0 {
            self.failed = 1;
            self.names.push(why());
        }
    }
}

/// The number before a word.
fn before(text: &str, word: &str) -> u64 {
    text.split_once(word)
        .and_then(|(head, _)| head.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// Without terminal colours.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A colour ends with its letter; `[` opens it.
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Runs the suites. Exit status 1 if anything failed.
pub fn run(options: &Options, policy: Policy) -> Result<ExitCode> {
    let chosen: Vec<Suite> = Suite::value_variants()
        .iter()
        .copied()
        .filter(|suite| options.suite.is_empty() || options.suite.contains(suite))
        // Guests take minutes, and not all of their faults hold yet: asked for by name, or with --all.
        .filter(|suite| {
            let guests = matches!(suite, Suite::Virt | Suite::Vm);
            !guests || options.all || options.suite.contains(suite)
        })
        // A filter is for tests, and verify has none.
        .filter(|suite| options.filter.is_none() || *suite != Suite::Verify)
        .collect();
    let mut need = Need::FUZZ
        .and(Need::LAB)
        .and(Need::SERVICES)
        .and(Need::LINTS);
    let guests = [Suite::Virt, Suite::Vm];
    if chosen.iter().all(|suite| guests.contains(suite)) {
        need = Need::BUILD;
    }
    if chosen.iter().any(|suite| guests.contains(suite)) {
        need = need.and(Need::VM);
    }
    install::ensure(need, policy)?;
    let mut rows = Vec::new();
    for suite in chosen {
        let start = Instant::now();
        ui::title(&format!("{}: {}", suite.name(), suite.packages().join(" ")));
        let tally = match suite {
            Suite::Verify => checks()?,
            Suite::Fuzz => fuzzed(options)?,
            _ => tests(suite, options)?,
        };
        rows.push((suite, tally, start.elapsed()));
    }
    let (passed, failed) = report(&rows);
    if options.filter.is_some() && passed + failed == 0 {
        bail!("no test has a name like that");
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn checks() -> Result<Tally> {
    let mut tally = Tally::default();
    for check in verify::all()? {
        if check.well {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            tally.names.push(check.name.to_owned());
        }
    }
    Ok(tally)
}

/// The seeds as ordinary tests, then the engine.
fn fuzzed(options: &Options) -> Result<Tally> {
    let mut tally = tests(Suite::Fuzz, options)?;
    // A filter is for tests, and the engine has none.
    if options.filter.is_some() {
        return Ok(tally);
    }
    let seconds = if options.all { fuzz::LONG } else { fuzz::USUAL };
    match fuzz::all(seconds) {
        Ok(outcomes) => {
            for (name, well) in outcomes {
                if well {
                    tally.passed += 1;
                } else {
                    tally.failed += 1;
                    tally.names.push(format!("fuzz target {name}"));
                }
            }
        }
        Err(error) if run::caught().is_none() => {
            tally.failed += 1;
            tally.names.push(format!("{error:#}"));
        }
        Err(error) => return Err(error),
    }
    Ok(tally)
}

fn tests(suite: Suite, options: &Options) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut command = cargo::cargo();
    command.args(["test", "--no-fail-fast"]);
    for package in suite.packages() {
        command.args(["--package", package]);
    }
    // Many seeds and states: the build pays.
    let profile = if options.all || suite == Suite::Sim {
        cargo::Profile::Optimised
    } else {
        cargo::Profile::Dev
    };
    command.args(["--profile", profile.name()]);
    if options.all {
        command.env(ALL, "1");
    } else {
        command.env_remove(ALL);
    }
    if suite.alone() {
        // `cargo test` builds the library that the labs use, but not the agent they start.
        let programs = match suite {
            Suite::Virt => cargo::HELPER,
            Suite::Vm => cargo::AGENT_AND_VM,
            _ => cargo::AGENT_AND_LAB,
        };
        match cargo::build(programs, profile) {
            Ok(programs) => {
                for (name, variable) in PROGRAMS {
                    if let Some(path) = programs.get(name) {
                        command.env(variable, path);
                    }
                }
            }
            Err(error) if run::caught().is_none() => {
                tally.end(false, || format!("{error:#}"));
                return Ok(tally);
            }
            Err(error) => return Err(error),
        }
    }
    command.args(&options.filter).arg("--");
    if suite.alone() {
        command.arg("--test-threads=1");
    }
    if std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
        command.arg("--color=always");
    }
    let deadline = if options.all { LONG } else { USUAL };
    let ended = run::lines(&mut command, deadline, |line| {
        println!("{line}");
        tally.read(line);
    });
    match ended {
        Ok(status) => tally.end(status.success(), || {
            format!("cargo test ended with {status}; its words are above")
        }),
        Err(error) if run::caught().is_none() => {
            tally.failed = tally.failed.max(1);
            tally.names.push(format!("{error:#}"));
        }
        Err(error) => return Err(error),
    }
    Ok(tally)
}

/// Prints the sum; its last line is what CI reads.
fn report(rows: &[(Suite, Tally, Duration)]) -> (u64, u64) {
    println!(
        "\n{:<8}{:>8}{:>8}{:>14}",
        "suite", "passed", "failed", "time"
    );
    for (suite, tally, time) in rows {
        println!(
            "{:<8}{:>8}{:>8}{:>14}",
            suite.name(),
            tally.passed,
            tally.failed,
            ui::span(*time)
        );
    }
    for (suite, tally, _) in rows {
        for name in &tally.names {
            println!("failed: {}: {name}", suite.name());
        }
    }
    let passed = rows.iter().map(|(_, tally, _)| tally.passed).sum();
    let failed = rows.iter().map(|(_, tally, _)| tally.failed).sum();
    println!("{passed} passed, {failed} failed");
    (passed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn results_of_several_programs_add_up() {
        let tally = tally(&[
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... \u{1b}[31mFAILED\u{1b}[m",
            "test result: \u{1b}[31mFAILED\u{1b}[m. 2 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.01s",
            "test result: ok. 40 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ]);
        assert_eq!((tally.passed, tally.failed), (42, 1));
        assert_eq!(tally.names, ["a::c"]);
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        let mut none = tally(&[]);
        none.end(false, || "no build".to_owned());
        assert_eq!((none.failed, none.names.len()), (1, 1));
        let mut good = tally(&["test result: ok. 1 passed; 0 failed;"]);
        good.end(true, || unreachable!());
        assert_eq!((good.passed, good.failed), (1, 0));
        // A test program that dies tells no result: cargo's status does.
        let mut died = tally(&["test result: ok. 1 passed; 0 failed;", "test x ... "]);
        died.end(false, || "signal 11".to_owned());
        assert_eq!((died.passed, died.failed), (1, 1));
    }

    #[test]
    fn the_simulator_is_never_built_with_the_agent() {
        for suite in Suite::value_variants() {
            let packages = suite.packages();
            assert!(
                suite == &Suite::Sim
                    || !packages.contains(&"heartline-sim")
                        && !packages.contains(&"heartline-model"),
                "{suite:?} would get broken-rules into the agent"
            );
        }
        assert!(!cargo::AGENT_AND_LAB.contains(&"heartline-sim"));
    }
}
