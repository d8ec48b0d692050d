//! The checks that only read (`verify`), and the mending of what mends itself (`fix`).

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{cargo, run, tidy, ui};

/// Each check compiles the workspace at most once.
const CHECK: Duration = Duration::from_secs(15 * 60);

/// Looks; true if nothing was found.
type Check = fn() -> Result<bool>;

/// How one check went.
pub struct Checked {
    /// Its name.
    pub name: &'static str,
    /// Nothing found?
    pub well: bool,
}

/// All checks, one after the other; a failure does not stop the rest.
pub fn all() -> Result<Vec<Checked>> {
    let checks: [(&'static str, Check); 4] = [
        ("fmt", fmt),
        ("clippy", clippy),
        ("docs", docs),
        ("tidy", || tidy::run(&cargo::root())),
    ];
    let mut done = Vec::new();
    for (name, check) in checks {
        let start = Instant::now();
        ui::say(&format!("verify: {name}"));
        let well = check()?;
        let text = format!("{name} ({})", ui::span(start.elapsed()));
        if well {
            ui::good(&text)
        } else {
            ui::bad(&text)
        }
        done.push(Checked { name, well });
    }
    Ok(done)
}

/// `cargo xtask verify`.
pub fn run() -> Result<ExitCode> {
    let failed: Vec<_> = all()?
        .into_iter()
        .filter(|check| !check.well)
        .map(|check| check.name)
        .collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    ui::say(&format!(
        "not well: {} (cargo xtask fix mends formatting and some lints)",
        failed.join(", ")
    ));
    Ok(ExitCode::FAILURE)
}

/// `cargo xtask fix`.
pub fn fix() -> Result<ExitCode> {
    let lints = shown(cargo::cargo().args([
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--all-targets",
    ]))?;
    let format = shown(cargo::cargo().args(["fmt", "--all"]))?;
    Ok(if lints && format {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn shown(command: &mut Command) -> Result<bool> {
    run::shown(command, CHECK)
}

fn fmt() -> Result<bool> {
    shown(cargo::cargo().args(["fmt", "--all", "--check"]))
}

// Without --workspace cargo takes the default members: all but agent-ebpf, which knows the BPF target only.
fn clippy() -> Result<bool> {
    shown(cargo::cargo().args(["clippy", "--all-targets", "--", "--deny", "warnings"]))
}

fn docs() -> Result<bool> {
    shown(
        cargo::cargo()
            .args(["doc", "--no-deps"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}
