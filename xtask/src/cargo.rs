//! Calling cargo, and handing over to what it built.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::run;

/// The agent with its eBPF programs, and the lab. Never built together with the simulator: that one turns on
/// `broken-rules` in the crates they share, and cargo unites the features of all packages of one call.
pub const AGENT_AND_LAB: &[&str] = &["heartline", "heartline-lab"];

/// The helper for libvirt; its tests need no agent.
pub const HELPER: &[&str] = &["agent-virt"];

/// The agent, its helper for libvirt, and the lab of guests.
pub const AGENT_AND_VM: &[&str] = &["heartline", "agent-virt", "heartline-vm"];

/// The simulator, whose crates can break rules on purpose.
pub const SIMULATOR: &[&str] = &["heartline-sim"];

/// The model checker, with the same crates.
pub const MODEL: &[&str] = &["heartline-model"];

/// A build from nothing takes minutes on two cores; this is for one that hangs.
const BUILD: Duration = Duration::from_secs(30 * 60);

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where logs go.
pub fn log(name: &str) -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("xtask").join(format!("{name}.log"))
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// How programs are built (Cargo.toml).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quickly built.
    Dev,
    /// As users have them.
    Release,
    /// Optimised, without minutes of linking.
    Optimised,
}

impl Profile {
    /// As cargo names it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Release => "release",
            Profile::Optimised => "optimised",
        }
    }
}

/// Builds the programs of some packages; gives their names and paths.
pub fn build(packages: &[&str], profile: Profile) -> Result<BTreeMap<String, PathBuf>> {
    let mut command = cargo();
    command.args([
        "build",
        "--bins",
        "--message-format=json-render-diagnostics",
    ]);
    for package in packages {
        command.args(["--package", package]);
    }
    command.args(["--profile", profile.name()]);
    let mut programs = BTreeMap::new();
    let status = run::lines(&mut command, BUILD, |line| {
        programs.extend(program(line));
    })?;
    if !status.success() {
        bail!(
            "the build of {} failed; cargo says why above",
            packages.join(" and ")
        );
    }
    Ok(programs)
}

/// Name and path of the program that a line of cargo's JSON tells of.
fn program(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}

/// Becomes the program `name` with the arguments `[task] rest`, and perhaps one more variable of the environment.
pub fn hand_over(
    programs: &BTreeMap<String, PathBuf>,
    name: &str,
    task: Option<&str>,
    rest: Vec<OsString>,
    variable: Option<(&str, &OsStr)>,
) -> Result<ExitCode> {
    let path = programs
        .get(name)
        .with_context(|| format!("the workspace builds no program called {name}"))?;
    let mut command = Command::new(path);
    command.args(task.map(OsStr::new)).args(rest).envs(variable);
    Err(run::become_program(&mut command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_cargos_words() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"heartline"},"executable":"/t/heartline"}"#;
        assert_eq!(
            program(line),
            Some(("heartline".to_owned(), PathBuf::from("/t/heartline")))
        );
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"anyhow"},"executable":null}"#;
        assert_eq!(program(library), None);
        assert_eq!(program("warning: not JSON"), None);
        assert_eq!(
            program(r#"{"reason":"build-finished","success":true}"#),
            None
        );
    }
}
