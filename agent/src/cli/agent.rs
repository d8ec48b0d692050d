//! `heartline agent`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agent_common::wire::VERSION;

use super::{Place, logging};
use crate::agent::Refused;

/// Exit status of an agent whose configuration is refused: EX_CONFIG of sysexits.h. The unit does not start it again.
pub const MISCONFIGURED: u8 = 78;
/// An agent that fails sooner after its start waits so long before it ends.
const PACE: Duration = Duration::from_secs(3);

/// How to run the agent.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// Configuration file
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "/etc/heartline/heartline.toml"
    )]
    pub config: PathBuf,
    /// Which node of the configuration this is [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where maps and programs are pinned (on a BPF file system)
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/heartline")]
    pub bpf_dir: PathBuf,
    /// Where the generation is kept that this node has been in: must outlast a reboot
    #[arg(long, value_name = "DIR", default_value = "/var/lib/heartline")]
    pub state_dir: PathBuf,
    /// What to log: error, warn, info, debug, trace, or a filter like info,heartline::control=debug
    /// [default: as configured]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Run without real-time scheduling and locked memory (for tests; takeovers may be late)
    #[arg(long)]
    pub no_realtime: bool,
    /// Let the eBPF programs log each frame (slow; for debugging)
    #[arg(long)]
    pub debug_datapath: bool,
    /// Speak no newer wire version than this (for tests of upgrades)
    #[arg(long, hide = true, default_value_t = VERSION, value_parser = clap::value_parser!(u8).range(i64::from(VERSION) - 1..=i64::from(VERSION)))]
    pub wire_version: u8,
    /// Run directory, from the global option.
    #[arg(skip)]
    pub run_dir: PathBuf,
}

/// Runs the agent. Its failure goes to the log.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing runs here any more, and there is no event to wait for"
)]
pub fn run(mut args: AgentArgs, place: &Place) -> ExitCode {
    args.run_dir = place.run_dir();
    if let Err(error) = logging::init(args.log.as_deref()) {
        eprintln!("heartline: {error:#}");
        return ExitCode::from(2);
    }
    let begun = Instant::now();
    crate::agent::run(&args).unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        if error.is::<Refused>() {
            return ExitCode::from(MISCONFIGURED);
        }
        // systemd starts it again at once, which is right for an agent that dies in its work, and no use where it cannot
        // begin: it would fill the journal.
        let managed = std::env::var_os("NOTIFY_SOCKET").is_some();
        if managed && begun.elapsed() < PACE {
            std::thread::sleep(PACE);
        }
        ExitCode::FAILURE
    })
}
