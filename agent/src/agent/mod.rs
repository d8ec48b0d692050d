//! The daemon: starts the parts, supervises them, stops or replaces itself without harm.
//!
//! ```text
//! run() -- start.rs, setup.rs: all that is first  main task (tokio): supervise.rs
//!   |      datapath: programs, maps, pins          |- control socket  -> backend.rs -> Ask
//!   |-- rt.rs: real-time thread (core)  <--queues--|- devices.rs: gates, each second
//!   `-- net: address thread             <--queues--|- narrate.rs: events for people
//!                                                  `- signals, reload, restart, sd_notify
//! ```

mod apply;
mod asks;
mod attend;
mod backend;
mod choose;
mod devices;
mod fitness;
mod foresee;
pub(crate) mod generations;
mod hooks;
mod link;
mod narrate;
mod outdate;
mod prove;
mod quiesce;
mod reload;
mod replicas;
mod rotation;
mod rt;
mod services;
mod setup;
mod snapshot;
mod start;
mod status;
mod supervise;
mod track;
mod watch;

use std::{ffi::CString, os::unix::ffi::OsStrExt, process::ExitCode};

use anyhow::{Context, Result};

pub use setup::{Refused, core_config, identity, lock, lock_run_dir};

use crate::cli::agent::AgentArgs;

/// How the main task ended.
enum End {
    /// Stopped on request.
    Stopped,
    /// Stopped on request, and something runs on that would not stop.
    Unclean,
    /// Everything is prepared for another process to go on.
    Restart,
}

/// Runs the agent until it is told to stop. A planned restart replaces this process by a new one (execve) that adopts
/// the pinned maps while the long lease holds.
///
/// # Errors
/// The configuration is refused, another agent runs, the data path cannot be loaded, or a thread cannot be started.
pub fn run(args: &AgentArgs) -> Result<ExitCode> {
    let end = {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting tokio")?;
        let end = runtime.block_on(start::run(args));
        runtime.shutdown_timeout(std::time::Duration::from_millis(100));
        end?
    };
    match end {
        End::Stopped => Ok(ExitCode::SUCCESS),
        // So that `systemctl stop` and `systemctl status` show it.
        End::Unclean => Ok(ExitCode::FAILURE),
        End::Restart => Err(replace_process()),
    }
}

/// Only returns if the new program cannot be started.
fn replace_process() -> anyhow::Error {
    let go = || -> Result<()> {
        let exe = std::env::current_exe().context("finding the program")?;
        // An upgraded package leaves " (deleted)" behind the name of the old file.
        let path = exe
            .to_string_lossy()
            .trim_end_matches(" (deleted)")
            .to_owned();
        let path = CString::new(path)?;
        let args = std::env::args_os()
            .map(|a| CString::new(a.as_os_str().as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        nix::unistd::execv(&path, &args)
            .with_context(|| format!("starting {}", path.to_string_lossy()))?;
        Ok(())
    };
    match go() {
        Ok(()) => anyhow::anyhow!("the restart came back"),
        Err(e) => e.context("the restart failed; the lease runs out and another node takes over"),
    }
}
