//! What is measured: three nodes that share a VIP, however they do it.

use std::time::Duration;

use anyhow::Result;

use super::Setting;
use crate::Lab;

/// A system under measurement, with a lab of its own.
pub(super) trait Subject {
    /// How it is set up.
    fn setting(&self) -> Setting;
    /// Its lab.
    fn lab(&self) -> &Lab;
    /// Its lab, for cuts.
    fn lab_mut(&mut self) -> &mut Lab;
    /// After this a takeover does not come any more.
    fn give_up(&self) -> Duration;
    /// Waits until it says of itself that all is well.
    ///
    /// # Errors
    /// It never does, or Ctrl-C.
    fn settled(&mut self) -> Result<()>;
    /// SIGSTOP to all its processes on a node.
    ///
    /// # Errors
    /// They do not run.
    fn freeze(&mut self, node: &str) -> Result<()>;
    /// SIGCONT.
    ///
    /// # Errors
    /// They do not run.
    fn thaw(&mut self, node: &str) -> Result<()>;
    /// SIGKILL.
    ///
    /// # Errors
    /// They do not run.
    fn kill(&mut self, node: &str) -> Result<()>;
    /// Starts it again on a node.
    ///
    /// # Errors
    /// It runs, or does not start.
    fn start(&mut self, node: &str) -> Result<()>;
    /// Asks for a planned change of owner, in its own way.
    ///
    /// # Errors
    /// It refuses.
    fn hand_over(&mut self, from: &str, to: &str) -> Result<()>;
    /// Undoes what [`Subject::hand_over`] left behind.
    ///
    /// # Errors
    /// It does not start again.
    fn after_hand_over(&mut self, from: &str) -> Result<()>;
    /// Its processes on a node, for what it costs.
    ///
    /// # Errors
    /// They do not run.
    fn processes(&mut self, node: &str) -> Result<Vec<u32>>;
    /// Something went wrong: keep its logs, and say where.
    fn keep(&mut self);

    /// What it says of itself from a moment (boot clock, ns) on, oldest first: for a run that took long.
    fn told(&mut self, _from: u64) -> Vec<String> {
        Vec::new()
    }

    /// The interval of its messages.
    fn interval(&self) -> Duration {
        Duration::from_millis(self.setting().interval_ms())
    }
}
