//! `cargo xtask fuzz`: builds the targets of tests/fuzz with coverage feedback, and runs them for a bounded time.
//!
//! No nightly and no sanitizer: the pass that counts edges is in every rustc. Only the crates that are fuzzed are built with
//! it, through a wrapper around rustc; what they depend on is what `cargo test` built. Corpora and finds are under
//! target/fuzz.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::PermissionsExt as _,
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

/// The crates that are built with it, and their folders.
const CRATES: [(&str, &str); 5] = [
    ("agent_common", "agent-common"),
    ("agent_core", "agent-core"),
    ("heartline", "agent"),
    ("heartline_ebpf_host", "tests/fuzz/ebpf"),
    ("heartline_fuzz", "tests/fuzz"),
];

/// The targets of tests/fuzz; a test below sees that none is missing.
const TARGETS: [&str; 9] = [
    "wire", "core", "frames", "config", "address", "key", "request", "reply", "netlink",
];

/// A bug put there on purpose, which only feedback finds.
const PLANTED: &str = "planted";

/// Runs for finding it, from a fixed seed: the same on every machine. It takes some thousand.
const PROOF: u64 = 1_000_000;

/// Time for these on a machine that has other things to do.
const PROOF_TIME: Duration = Duration::from_secs(600);

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
    // libFuzzer looks at its clock between two inputs; the rest is for loading the corpus on a busy machine.
    let deadline = Duration::from_secs(each + 120);
    let mut outcomes = Vec::new();
    for name in names {
        let how = [
            format!("-max_total_time={each}"),
            "-max_len=8192".to_owned(),
        ];
        let (well, log) = fuzz(&program, name, &how, deadline)?;
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
    let how = [
        "-seed=1".to_owned(),
        format!("-runs={PROOF}"),
        "-max_len=64".to_owned(),
        "-use_value_profile=1".to_owned(),
        // Finding it is no failure.
        "-error_exitcode=0".to_owned(),
    ];
    let (_, log) = fuzz(program, PLANTED, &how, PROOF_TIME)?;
    if !log.contains("the planted bug") {
        bail!(
            "the planted bug was not found in {PROOF} runs: there is no coverage feedback; see {}",
            cargo::log("fuzz-planted").display()
        );
    }
    ui::good(&format!(
        "feedback: the planted bug was found ({})",
        Stats::read(&log)
    ));
    Ok(())
}

/// Where cargo builds.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| cargo::root().join("target"), PathBuf::from)
}

/// Everything of fuzzing but the program lies here.
fn folder() -> PathBuf {
    target().join("fuzz")
}

fn build() -> Result<PathBuf> {
    let mut command = cargo::cargo();
    command
        .args(["build", "--package", "heartline-fuzz"])
        .args(["--features", "engine"])
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper()?)
        // The targets load no program into the kernel (agent/build.rs).
        .env("AYA_BUILD_SKIP", "1")
        // What is built once needs no notes for building it again.
        .env("CARGO_INCREMENTAL", "0");
    run::logged(
        "fuzz targets",
        &mut command,
        &cargo::log("fuzz-build"),
        BUILD,
    )?;
    Ok(target().join("debug/heartline-fuzz"))
}

/// The program that cargo calls in place of rustc for the workspace's own crates. Its name tells what it does: cargo takes
/// the name into what it calls the results, so that they stand beside the ordinary ones, and are made anew when it changes.
fn wrapper() -> Result<PathBuf> {
    let text = wrapper_text();
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    let path = folder().join(format!("rustc-{:016x}", hash.finish()));
    fs::create_dir_all(folder()).with_context(|| format!("cannot make {}", folder().display()))?;
    if !path.exists() {
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

fn wrapper_text() -> String {
    let names: Vec<String> = CRATES
        .iter()
        .map(|(name, _)| format!("*' --crate-name {name} '*"))
        .collect();
    format!(
        "#!/bin/sh\n# Made by `cargo xtask fuzz`: rustc, with coverage for the crates that are fuzzed.\n\
         case \" $* \" in\n{}) exec \"$@\" {COVERAGE} ;;\nesac\nexec \"$@\"\n",
        names.join("|")
    )
}

/// Runs a target; true if it found nothing, and what libFuzzer said.
fn fuzz(program: &Path, name: &str, how: &[String], deadline: Duration) -> Result<(bool, String)> {
    let corpus = folder().join("corpus").join(name);
    let seeds = folder().join("seeds").join(name);
    let found = folder().join("found").join(name);
    // Those of an older program.
    let _ = fs::remove_dir_all(&seeds);
    for path in [&corpus, &seeds, &found] {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let kept = cargo::root().join("tests/fuzz/found").join(name);
    let mut command = std::process::Command::new(program);
    command
        .env("HEARTLINE_FUZZ_TARGET", name)
        .env("HEARTLINE_FUZZ_SEEDS", &seeds)
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .args(how)
        .args([&corpus, &seeds]);
    if kept.is_dir() {
        command.arg(kept);
    }
    let log = cargo::log(&format!("fuzz-{name}"));
    let ended = run::logged(name, &mut command, &log, deadline);
    let text = fs::read(&log).map(|b| String::from_utf8_lossy(&b).into_owned());
    let text = text.with_context(|| format!("cannot read {}", log.display()))?;
    match ended {
        Ok(()) => Ok((true, text)),
        Err(error) if error.downcast_ref::<Failed>().is_some() && run::caught().is_none() => {
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
    fn the_crates_that_are_fuzzed_are_there() {
        let text = wrapper_text();
        for (name, path) in CRATES {
            let manifest = cargo::root().join(path).join("Cargo.toml");
            let manifest = fs::read_to_string(manifest).expect("a package");
            let package = format!("name = \"{}\"", name.replace('_', "-"));
            assert!(manifest.contains(&package), "{path} is {package}");
            assert!(text.contains(&format!(" --crate-name {name} ")));
        }
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
