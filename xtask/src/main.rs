//! `cargo xtask`: everything a person does with a clone of Heartline.
//!
//! It first finds or installs what the build needs (`toolchain`, `install`), then builds (`cargo`), and hands over
//! to the program that does the work. `test` and `verify` run the checks; `doctor` looks at the machine.

mod cargo;
mod doctor;
/// The rule that `agent/build.rs` builds by, so that both choose the same compiler.
#[path = "../../agent/build/toolchain.rs"]
mod ebpf;
mod fuzz;
mod install;
mod run;
mod suites;
mod tidy;
mod toolchain;
mod ui;
mod verify;
mod vm;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::{cargo::Profile, toolchain::Need};

/// Build, try and test Heartline.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    /// Install nothing: say what is missing and how to get it, and stop
    #[arg(long, global = true)]
    no_install: bool,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the eBPF programs, the agent and the lab (installs what the build needs)
    Build {
        /// With optimisation, into target/release
        #[arg(long)]
        release: bool,
    },
    /// Three nodes in network namespaces lose, freeze, kill and move a VIP; prints what a client saw. `demo provider`:
    /// DNS, RADIUS, web and SIP on three Debian machines under systemd. `demo drbd`: a replicated disk in QEMU guests
    #[command(disable_help_flag = true)]
    Demo(Rest),
    /// A lab of nodes in network namespaces: up, down, status, shell, do
    #[command(disable_help_flag = true)]
    Lab(Rest),
    /// Load the programs on a device and show what they see: load DEV
    #[command(disable_help_flag = true)]
    Load(Rest),
    /// Measure: failover (takeovers beside keepalived), services (on Debian machines, beside keepalived and Pacemaker),
    /// flood (hostile packets), xdp (cost of a packet), jitter (of the real-time thread)
    #[command(disable_help_flag = true)]
    Bench(Rest),
    /// Machines of their own kernel (QEMU guests), for what namespaces cannot show: disks, watchdogs, power
    #[command(subcommand)]
    Vm(vm::Task),
    /// Random faults on a cluster in the lab, several at once, every promise checked from outside
    #[command(disable_help_flag = true)]
    Nemesis(Rest),
    /// Run the simulator: 100,000 seeds unless told otherwise
    #[command(disable_help_flag = true)]
    Sim(Rest),
    /// Check every history of three nodes with a few faults, with all rules and without some
    #[command(disable_help_flag = true)]
    Model(Rest),
    /// Feed made-up input to everything that reads outside data, guided by coverage
    Fuzz(fuzz::Options),
    /// Run the project's tests: a fixed choice, or all of them
    Test(suites::Options),
    /// Check formatting, lints, documentation and tidiness; changes nothing
    Verify,
    /// Mend what can be mended by itself: formatting and lints
    Fix,
    /// Look at this machine: what the build and the lab need, and how to get it
    Doctor,
}

/// Words for the program behind the task, passed on as they are.
#[derive(Args)]
struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            ui::error(&error);
            match run::caught() {
                // As a shell reports it.
                Some(signal) => ExitCode::from(128 + signal as u8),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let policy = install::Policy {
        install: !cli.no_install,
    };
    match cli.task {
        Task::Build { release } => {
            install::ensure(Need::BUILD, policy)?;
            let profile = if release {
                Profile::Release
            } else {
                Profile::Dev
            };
            cargo::build(cargo::AGENT_AND_LAB, profile)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Demo(mut rest) => {
            if rest.args.first().is_some_and(|word| word == "drbd") {
                rest.args.remove(0);
                return vm::hand_over("demo", rest.args, policy);
            }
            lab(Some("demo"), rest, policy)
        }
        Task::Vm(task) => vm::run(task, policy),
        Task::Lab(rest) => lab(Some("lab"), rest, policy),
        Task::Load(rest) => lab(Some("load"), rest, policy),
        Task::Bench(rest) => {
            install::ensure(Need::BUILD.and(Need::LAB).and(Need::BENCH), policy)?;
            // The agent as users have it.
            let agent = cargo::build(&["heartline"], Profile::Release)?;
            let programs = cargo::build(&["heartline-lab"], Profile::Optimised)?;
            let agent = agent.get("heartline").context("no agent was built")?;
            let agent = ("HEARTLINE_BIN", agent.as_os_str());
            cargo::hand_over(
                &programs,
                "heartline-lab",
                Some("bench"),
                rest.args,
                Some(agent),
            )
        }
        Task::Nemesis(rest) => lab(Some("nemesis"), rest, policy),
        Task::Sim(rest) => {
            let programs = cargo::build(cargo::SIMULATOR, Profile::Optimised)?;
            cargo::hand_over(&programs, "heartline-sim", None, rest.args, None)
        }
        Task::Fuzz(options) => fuzz::run(&options, policy),
        Task::Model(rest) => {
            let programs = cargo::build(cargo::MODEL, Profile::Optimised)?;
            cargo::hand_over(&programs, "heartline-model", None, rest.args, None)
        }
        Task::Test(options) => suites::run(&options, policy),
        Task::Verify => {
            install::ensure(Need::BUILD.and(Need::LINTS), policy)?;
            verify::run()
        }
        Task::Fix => {
            install::ensure(Need::BUILD.and(Need::LINTS), policy)?;
            verify::fix()
        }
        Task::Doctor => doctor::run(),
    }
}

/// Builds with optimisation and becomes `heartline-lab TASK ARGS`: signals, terminal and exit status are its own,
/// so that Ctrl-C lets the lab clean up.
fn lab(task: Option<&str>, rest: Rest, policy: install::Policy) -> anyhow::Result<ExitCode> {
    install::ensure(Need::BUILD.and(Need::LAB), policy)?;
    let programs = cargo::build(cargo::AGENT_AND_LAB, Profile::Optimised)?;
    cargo::hand_over(&programs, "heartline-lab", task, rest.args, None)
}
