//! `cargo xtask fuzz`: builds the targets of tests/fuzz with coverage feedback, and runs them for a bounded time.
//!
//! No nightly and no sanitizer: the pass that counts edges is in every rustc. Corpora and finds are under target/fuzz.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    cargo,
    install::{self, Policy},
    run::{self, Failed},
    toolchain::Need,
    ui,
};

/// Seconds for all targets together, in `cargo xtask test`.
pub const USUAL: u64 = 60;

/// The same with `--all`.
pub const LONG: u64 = 3600;

/// What `cargo fuzz` passes, too: edges as 8-bit counters, their table, and the operands of comparisons.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The targets of tests/fuzz; a test below sees that none is missing.
const TARGETS: [&str; 9] = [
    "wire", "core", "frames", "config", "address", "key", "request", "reply", "netlink",
];

/// A bug put there on purpose, which only feedback finds.
const PLANTED: &str = "planted";

/// For finding it. It takes some 100,000 runs: seconds, or minutes where the machine has other things to do.
const PROOF: u64 = 600;

/// A build from nothing on a busy machine.
const BUILD: Duration = Duration::from_secs(30 * 60);

/// What to fuzz, and for how long.
#[derive(Args, Debug)]
pub struct Options {
    /// For all targets together
    #[arg(long, value_name = "N", default_value_t = USUAL)]
    seconds: u64,
    /// One target: wire, core, frames, config, address, key, request, reply, netlink
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
}

/// `cargo xtask fuzz`.
pub fn run(options: &Options, policy: Policy) -> Result<ExitCode> {
    install::ensure(Need::FUZZ, policy)?;
    let outcomes = match &options.target {
        Some(name) => some(&[name], options.seconds),
        None => all(options.seconds),
    }?;
    Ok(if outcomes.iter().all(|(_, well)| *well) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All targets, `seconds` together. Name and "found nothing" of each.
pub fn all(seconds: u64) -> Result<Vec<(String, bool)>> {
    some(&TARGETS, seconds)
}

fn some(names: &[&str], seconds: u64) -> Result<Vec<(String, bool)>> {
    let program = build()?;
    proof(&program)?;
    let each = (seconds / names.len() as u64).max(1);
    let mut outcomes = Vec::new();
    for name in names {
        let (well, log) = fuzz(&program, name, each, each)?;
        if well {
            ui::good(&format!("{name}: {}", Stats::read(&log)));
        }
        outcomes.push(((*name).to_owned(), well));
    }
    Ok(outcomes)
}

/// The engine must find what only an engine with feedback finds; else a run that finds nothing says nothing.
fn proof(program: &Path) -> Result<()> {
    // Without what an earlier run learnt.
    let _ = fs::remove_dir_all(folder().join("corpus").join(PLANTED));
    let (well, log) = fuzz(program, PLANTED, PROOF, PROOF)?;
    if well || !log.contains("the planted bug") {
        bail!(
            "the planted bug was not found in {PROOF} s: there is no coverage feedback; see {}",
            cargo::log("fuzz-planted").display()
        );
    }
    ui::good(&format!(
        "feedback: the planted bug was found ({})",
        Stats::read(&log)
    ));
    Ok(())
}

/// Everything of fuzzing lies here.
fn folder() -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| cargo::root().join("target"), PathBuf::from);
    target.join("fuzz")
}

fn build() -> Result<PathBuf> {
    // With a target named, the flags are for the targets alone, not for build scripts and macros.
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut command = cargo::cargo();
    command
        .args([
            "build",
            "--package",
            "heartline-fuzz",
            "--features",
            "engine",
            "--profile",
            "fuzz",
        ])
        .args(["--target", &triple])
        .arg("--target-dir")
        .arg(folder())
        .env("RUSTFLAGS", COVERAGE)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run::logged(
        "fuzz targets",
        &mut command,
        &cargo::log("fuzz-build"),
        BUILD,
    )?;
    Ok(folder().join(triple).join("fuzz/heartline-fuzz"))
}

/// Runs a target; true if it found nothing, and what libFuzzer said.
fn fuzz(program: &Path, name: &str, seconds: u64, most: u64) -> Result<(bool, String)> {
    let corpus = folder().join("corpus").join(name);
    let seeds = folder().join("seeds").join(name);
    let found = folder().join("found").join(name);
    for path in [&corpus, &seeds, &found] {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let kept = cargo::root().join("tests/fuzz/found").join(name);
    let max_len = format!("-max_len={}", if name == PLANTED { 64 } else { 8192 });
    let mut command = std::process::Command::new(program);
    command
        .env("HEARTLINE_FUZZ_TARGET", name)
        .env("HEARTLINE_FUZZ_SEEDS", &seeds)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args([
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            &max_len,
        ])
        .args([&corpus, &seeds]);
    if kept.is_dir() {
        command.arg(kept);
    }
    let log = cargo::log(&format!("fuzz-{name}"));
    // libFuzzer looks at its clock between two inputs; the rest is for loading the corpus on a busy machine.
    let ended = run::logged(name, &mut command, &log, Duration::from_secs(most + 120));
    let text = fs::read(&log).map(|b| String::from_utf8_lossy(&b).into_owned());
    let text = text.with_context(|| format!("cannot read {}", log.display()))?;
    match ended {
        Ok(()) => Ok((true, text)),
        Err(error) if error.downcast_ref::<Failed>().is_some() && run::caught().is_none() => {
            if name != PLANTED {
                ui::bad(&format!("{error:#}"));
                if let Some(file) = text
                    .lines()
                    .find_map(|l| l.split_once("Test unit written to "))
                {
                    ui::mend(&format!(
                        "again: HEARTLINE_FUZZ_TARGET={name} {} {}; once mended, keep the input in tests/fuzz/found/{name}/",
                        program.display(),
                        file.1
                    ));
                }
            }
            Ok((false, text))
        }
        Err(error) => Err(error),
    }
}

/// What libFuzzer counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stats {
    runs: u64,
    per_second: u64,
    edges: u64,
    features: u64,
    inputs: u64,
}

impl Stats {
    fn read(log: &str) -> Stats {
        let mut s = Stats::default();
        let number = |text: &str| -> u64 {
            let text = text.trim_start();
            let end = text
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len());
            text.get(..end).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        for line in log.lines() {
            if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
                s.runs = number(rest);
            } else if let Some(rest) = line.strip_prefix("stat::average_exec_per_sec:") {
                s.per_second = number(rest);
            } else if line.starts_with('#') {
                for (word, slot) in [
                    (" cov: ", &mut s.edges),
                    (" ft: ", &mut s.features),
                    (" corp: ", &mut s.inputs),
                ] {
                    if let Some((_, rest)) = line.split_once(word) {
                        *slot = number(rest);
                    }
                }
            }
        }
        s
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} runs, {}/s, {} edges, {} features, {} inputs kept",
            self.runs, self.per_second, self.edges, self.features, self.inputs
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzers_words_are_read() {
        let log = "INFO: seed corpus\n#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #4096\tpulse  cov: 420 ft: 1311 corp: 77/12Kb lim: 43 exec/s: 2048 rss: 60Mb\nDone 4096 runs in 2 second(s)\n\
            stat::number_of_executed_units: 4096\nstat::average_exec_per_sec:     2048\n";
        let want = Stats {
            runs: 4096,
            per_second: 2048,
            edges: 420,
            features: 1311,
            inputs: 77,
        };
        assert_eq!(Stats::read(log), want);
    }

    #[test]
    fn no_target_is_forgotten() {
        let source =
            fs::read_to_string(cargo::root().join("tests/fuzz/src/lib.rs")).expect("lib.rs");
        let named: Vec<&str> = source
            .lines()
            .filter_map(|l| l.trim().strip_prefix("name: \"")?.strip_suffix("\","))
            .filter(|name| *name != PLANTED)
            .collect();
        assert_eq!(named, TARGETS);
    }
}
