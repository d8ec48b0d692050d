//! What is measured: three machines with the services, and a system that says which of them has the VIPs.

use anyhow::Result;

use super::{Setting, System, heartline, keepalived, layer::Layers, pacemaker, rig::Rig};

/// Whether all is well, or why not.
pub(super) type Well = std::result::Result<(), String>;

/// A system under measurement: what differs from one to the other.
pub(super) trait Subject {
    /// Machines, clients, lab.
    fn rig(&mut self) -> &mut Rig;
    /// Whether it says of itself that all is well on all nodes.
    ///
    /// # Errors
    /// It cannot be asked, and never will.
    fn well(&mut self) -> Result<Well>;
    /// Moves the VIPs of these services (groups of that name) to a node, in its own way.
    ///
    /// # Errors
    /// It refuses.
    fn hand_over(&mut self, groups: &[&str], from: &str, to: &str) -> Result<()>;
    /// Undoes what [`Subject::hand_over`] left behind.
    ///
    /// # Errors
    /// It refuses.
    fn after_hand_over(&mut self, from: &str) -> Result<()>;
    /// Forgets failures, and is started again where it was killed.
    ///
    /// # Errors
    /// It refuses, or does not start.
    fn mend(&mut self, node: &str) -> Result<()>;
    /// Its units, for faults: all of their processes are killed.
    fn units(&self) -> &'static [&'static str];
}

/// Raises one.
///
/// # Errors
/// The lab does not come up.
pub(super) fn raise(setting: Setting, layers: &Layers) -> Result<Box<dyn Subject>> {
    Ok(match setting.system() {
        System::Heartline => Box::new(heartline::raise(layers)?),
        System::Keepalived => Box::new(keepalived::raise(setting, layers)?),
        System::Pacemaker => Box::new(pacemaker::raise(setting, layers)?),
    })
}
