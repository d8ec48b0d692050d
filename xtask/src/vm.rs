//! `cargo xtask vm`: the lab of QEMU guests.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;

use crate::{
    cargo,
    install::{self, Policy},
    suites::{self, Suite},
    toolchain::Need,
};

/// What to do with guests.
#[derive(Subcommand, Debug)]
pub enum Task {
    /// The tests in guests: DRBD, fencing, native XDP on virtio
    Test {
        /// Everything, with optimisation
        #[arg(long)]
        all: bool,
        /// Only tests whose name contains this
        #[arg(long, value_name = "TEXT")]
        filter: Option<String>,
    },
    /// Make what guests boot (once; kept under target/vm): `--fresh` makes it anew, with Debian's newest
    Image {
        /// Anew
        #[arg(long)]
        fresh: bool,
    },
    /// Boot a guest, run a command in it, show what it says
    Do {
        /// The command, for sh
        script: OsString,
    },
}

/// Does it.
pub fn run(task: Task, policy: Policy) -> Result<ExitCode> {
    match task {
        Task::Test { all, filter } => {
            suites::run(&suites::Options::only(Suite::Vm, all, filter), policy)
        }
        Task::Image { fresh } => {
            let fresh = fresh.then(|| OsString::from("--fresh"));
            hand_over("image", fresh.into_iter().collect(), policy)
        }
        Task::Do { script } => hand_over("do", vec![script], policy),
    }
}

/// Builds with optimisation and becomes `heartline-vm TASK ARGS`, so that Ctrl-C lets it clean up.
pub fn hand_over(task: &str, args: Vec<OsString>, policy: Policy) -> Result<ExitCode> {
    install::ensure(Need::BUILD.and(Need::VM), policy)?;
    let programs = cargo::build(cargo::AGENT_AND_VM, cargo::Profile::Optimised)?;
    cargo::hand_over(&programs, "heartline-vm", Some(task), args, None)
}
