//! A machine that has more to do than it can: stress-ng.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::exec;

/// Plain busy loops are too mild: these fork, switch and touch memory as well.
pub(super) const ARGUMENTS: [&str; 8] = ["--cpu", "8", "--fork", "8", "--switch", "4", "--vm", "2"];

/// stress-ng; it ends with this.
pub(super) struct Stress(Child);

impl Stress {
    /// Starts it for at least this long.
    pub(super) fn start(time: Duration) -> Result<Self> {
        let mut command = Command::new("stress-ng");
        // It must still run when the last moment is measured.
        let timeout = format!("{}s", time.as_secs() + 15);
        command
            .args(ARGUMENTS)
            .args(["--timeout", &timeout, "--quiet"])
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        exec::tie_to_lab(&mut command);
        // A group of its own: its workers end with it.
        command.process_group(0);
        let child = command.spawn().context(
            "cannot start stress-ng: apt-get install stress-ng, or run this by `cargo xtask bench failover`",
        )?;
        Ok(Self(child))
    }

    /// Ends it; an error if it had not run to this moment.
    pub(super) fn end(mut self) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            bail!("stress-ng ended too early ({status}): there was no load");
        }
        Ok(())
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        let group = Pid::from_raw(self.0.id().cast_signed());
        let _ = killpg(group, Signal::SIGTERM);
        if !matches!(
            exec::wait(&mut self.0, Duration::from_secs(10)),
            Ok(Some(_))
        ) {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = exec::wait(&mut self.0, Duration::from_secs(5));
        }
    }
}
