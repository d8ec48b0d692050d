//! The command line: definitions, one file per command, rendering.
//!
//! Exit status of every command: 0 done, 1 refused or failed, 2 usage or cannot read, 3 the agent is not
//! running, 4 timeout.

pub mod agent;
pub mod check;
pub mod clear;
pub mod doctor;
pub mod drain;
pub mod drbd;
pub mod drbd_handler;
pub mod events;
pub mod explain;
pub mod fence;
pub mod foresee;
pub mod keygen;
pub mod logging;
pub mod maintain;
pub mod move_group;
pub mod output;
pub mod pause;
pub mod plan;
pub mod reload;
pub mod render;
pub mod restart;
mod sessions;
pub mod status;
pub mod unload;
pub mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::control::{Client, DEFAULT_RUN_DIR, socket_path};
pub use output::Failure;

/// The environment variable that names the control socket.
pub const SOCKET_ENV: &str = "HEARTLINE_SOCKET";

const EXIT_STATUS: &str = "Exit status: 0 done, 1 refused or failed, 2 usage or cannot read, \
3 the agent is not running, 4 timeout.";

/// Heartline: takes over virtual IPs in milliseconds, and never two owners.
#[derive(Debug, Parser)]
#[command(name = "heartline", version, after_help = EXIT_STATUS, max_term_width = 100)]
pub struct Cli {
    /// Where the agent is.
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the agent is.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Where the agent is")]
pub struct Place {
    /// Control socket [default: RUN_DIR/control.sock; environment: HEARTLINE_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Run directory of the agent [default: /run/heartline]
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "socket")]
    pub run_dir: Option<PathBuf>,
}

impl Place {
    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir
            .clone()
            .unwrap_or_else(|| DEFAULT_RUN_DIR.into())
    }

    /// The control socket: `--socket`, else in `--run-dir`, else from the environment, else the usual place.
    pub fn socket(&self) -> PathBuf {
        let environment = || {
            std::env::var_os(SOCKET_ENV)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        self.socket
            .clone()
            .or_else(|| self.run_dir.as_deref().map(socket_path))
            .or_else(environment)
            .unwrap_or_else(|| socket_path(DEFAULT_RUN_DIR.as_ref()))
    }

    /// A client of the agent there.
    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent (the systemd service does this)
    Agent(agent::AgentArgs),
    /// Show this node, the others, the groups and what is wrong
    Status(status::Args),
    /// Say why a group is where it is, and why not elsewhere
    Explain(explain::Args),
    /// Move a group to a node
    Move(move_group::Args),
    /// Take a node out of use: its groups move away, none comes
    Drain(drain::DrainArgs),
    /// Put a drained node back into use
    Undrain(drain::UndrainArgs),
    /// Take a node out of use, run a command there, wait until it is back, put it into use; or all nodes in turn
    Maintain(maintain::Args),
    /// Forget that a group failed, so that it may run there again
    Clear(clear::ClearArgs),
    /// Fence a node by its devices, or say that somebody made sure that it is off
    Fence(fence::Args),
    /// DRBD: show, check, end a split brain; and the handlers that DRBD itself calls
    #[command(subcommand)]
    Drbd(drbd::Command),
    /// Hands off: keep everything where it is
    Pause(pause::Args),
    /// End a pause
    Resume(pause::Args),
    /// Show what happened, or follow it
    Events(events::Args),
    /// Read the configuration again; moves nothing that need not move
    Reload(reload::Args),
    /// Say what a changed configuration, or the loss of a node, would do; changes nothing
    Plan(plan::Args),
    /// Replace the agent process; moves nothing
    Restart(restart::Args),
    /// Check a configuration file
    Check(check::Args),
    /// Write a new cluster key
    Keygen(keygen::Args),
    /// Check this machine: kernel, BPF, drivers, clock, rights
    Doctor(doctor::Args),
    /// Take the programs and maps of a stopped agent out of the kernel (before removing the package)
    Unload(unload::Args),
    /// Show versions, of this program and of the running agent
    Version(version::Args),
}

/// Reads the command line, runs the command, returns its exit status.
pub fn main() -> ExitCode {
    run(Cli::parse())
}

/// The definition of the command line, for man pages and completions.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs a command and reports its failure on stderr.
pub fn run(cli: Cli) -> ExitCode {
    let Cli { place, command } = cli;
    let result = match command {
        Command::Agent(args) => return agent::run(args, &place),
        Command::Check(args) => return check::run(args),
        Command::Plan(args) => match &args.node_down {
            Some(node) => block_on(foresee::run(node, args.json, place.client())),
            None => return plan::run(&args, &place.client()),
        },
        Command::Keygen(args) => return keygen::run(args),
        Command::Doctor(args) => return doctor::run(args, &place.client()),
        Command::Fence(args) => block_on(fence::run(args, place.client())),
        Command::Drbd(command) => return drbd::run(command, place.client()),
        Command::Status(args) => block_on(status::run(args, place.client())),
        Command::Explain(args) => block_on(explain::run(args, place.client())),
        Command::Move(args) => block_on(move_group::run(args, place.client())),
        Command::Drain(args) => block_on(drain::drain(args, place.client())),
        Command::Undrain(args) => block_on(drain::undrain(args, place.client())),
        Command::Maintain(args) => block_on(maintain::run(args, place.client())),
        Command::Clear(args) => block_on(clear::run(args, place.client())),
        Command::Pause(args) => block_on(pause::run(args, true, place.client())),
        Command::Resume(args) => block_on(pause::run(args, false, place.client())),
        Command::Events(args) => block_on(events::run(args, place.client())),
        Command::Reload(args) => block_on(reload::run(args, place.client())),
        Command::Restart(args) => block_on(restart::run(args, place.client())),
        Command::Unload(args) => unload::run(&args, &place),
        Command::Version(args) => block_on(version::run(args, place.client())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn block_on<F: Future<Output = Result<(), Failure>>>(command: F) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn the_place_goes_before_or_behind_the_command() {
        for line in [
            ["heartline", "--run-dir", "/x", "status"],
            ["heartline", "status", "--run-dir", "/x"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.place.socket(), PathBuf::from("/x/control.sock"));
        }
        let both = ["heartline", "status", "--run-dir", "/x", "--socket", "/y"];
        assert!(Cli::try_parse_from(both).is_err());
    }
}
