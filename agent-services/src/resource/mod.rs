//! What is started on the owner of a group, in order, and stopped in reverse.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// One resource of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Name, unique within the group.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How long a stop may take.
    pub stop_timeout: Duration,
    /// How long asking for its state may take.
    pub status_timeout: Duration,
    /// Time between two questions for its state.
    pub status_interval: Duration,
    /// It runs on every node that may own the group, and only the VIPs move (hot standby).
    pub keep_running: bool,
    /// Two of it at once would destroy data: it is started only where the last owner has said that it stopped.
    pub stateful: bool,
}

/// What a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A unit of systemd, by D-Bus.
    Systemd {
        /// Its name, with suffix.
        unit: String,
    },
    /// Three commands, as argument lists; `status` ends with 0 (runs), 3 (does not run, as LSB has it) or another code (failed).
    Exec {
        /// Starts it.
        start: Vec<String>,
        /// Stops it.
        stop: Vec<String>,
        /// Asks whether it runs.
        status: Vec<String>,
    },
    /// An OCF resource agent.
    Ocf {
        /// The provider: `heartbeat`.
        provider: String,
        /// The agent: `Filesystem`.
        agent: String,
        /// Its parameters, without the `OCF_RESKEY_` before their names.
        parameters: BTreeMap<String, String>,
    },
    /// A file system.
    Filesystem {
        /// What is mounted: a device, `UUID=…`, `LABEL=…`, or a remote export.
        device: String,
        /// Where.
        mount: PathBuf,
        /// Its type, as `mount -t` takes it.
        fstype: String,
        /// Options, as `mount -o` takes them.
        options: String,
    },
}

/// How a resource is, as far as it could be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It does not, and left nothing behind.
    Stopped,
    /// It should run and does not, or has left something behind; with what was seen.
    Failed(String),
    /// It could not be asked (D-Bus gone, command missing or too slow); with why. Never taken for a failure.
    Unknown(String),
}

/// Why a start or a stop did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It will never succeed like this: no such unit, no such agent, wrong parameter. No use in trying again here.
    #[error("{0}")]
    Misconfigured(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// It was not done in time; what became of it is not known.
    #[error("not done within {within:?}: {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
    },
    /// It could not be tried: D-Bus gone.
    #[error("{0}")]
    Unknown(String),
}
