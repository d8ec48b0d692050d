//! What is started on the owner of a group, in order, and stopped in reverse.
//!
//! ```text
//! Resource::start ─┬─ systemd     StartUnit, its job, ActiveState   D-Bus
//!         stop     ├─ exec        three commands                    command::Run
//!         status   ├─ ocf         an OCF agent, 1.1                 command::Run
//!         check    ├─ filesystem  mount(8), umount(8), mountinfo    command::Run, /proc
//!                  ├─ drbd        drbdadm(8), drbdsetup events2     command::Run
//!                  └─ domain      libvirt                           heartline-libvirt, a process beside
//! ```
//!
//! * Idempotent: a start of what runs and a stop of what is stopped succeed.
//! * Verified: a start is done when the state is [`State::Running`], a stop when it is [`State::Stopped`].
//! * Bounded: by the resource's own deadlines, and no thread or process is left waiting behind them but one per mount
//!   point that does not answer.
//! * "It does not run" is only said when it was seen; all else is [`State::Unknown`].

use std::{collections::BTreeMap, future::Future, path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::command::RunError;

pub mod domain;
pub mod drbd;
mod exec;
pub mod filesystem;
pub mod ocf;
pub mod systemd;

/// How long what has been started may take to say so, and what has been stopped; less if the deadline is nearer.
const SETTLE: Duration = Duration::from_secs(5);

/// One resource of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Name, unique on the node, so with the group's (`web.nginx`): OCF agents keep their state under it.
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
        /// Ends who holds the mount point open when it is to be unmounted: SIGTERM, then SIGKILL.
        kill_holders: bool,
    },
    /// A DRBD resource, promoted.
    Drbd {
        /// Its name in DRBD's configuration.
        resource: String,
        /// It may be Primary on several nodes at once.
        dual_primary: bool,
    },
    /// A virtual machine, by libvirt.
    Domain(domain::Domain),
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

impl Resource {
    /// Starts it and sees that it runs.
    ///
    /// # Errors
    /// It does not run, or was not seen to within `start_timeout`.
    pub async fn start(&self) -> Result<(), Failure> {
        self.start_given(drbd::Given::default(), &[]).await
    }

    /// The same, with what the cluster has proven about the other nodes: DRBD is promoted without its peer only then. `peers`: the
    /// other nodes where a domain may run that moves alive.
    ///
    /// # Errors
    /// As [`Resource::start`].
    pub async fn start_given(
        &self,
        given: drbd::Given,
        peers: &[domain::Peer],
    ) -> Result<(), Failure> {
        let work = async {
            match &self.kind {
                Kind::Systemd { unit } => systemd::start(unit).await,
                Kind::Exec { start, status, .. } => exec::start(self, start, status).await,
                Kind::Ocf { .. } => ocf::start(self).await,
                Kind::Filesystem { .. } => filesystem::start(self).await,
                Kind::Drbd { .. } => drbd::start(self, given).await,
                Kind::Domain(_) => domain::start(self, peers).await,
            }
        };
        self.within("start", self.start_timeout, work).await
    }

    /// Stops it and sees that nothing of it runs.
    ///
    /// # Errors
    /// Something of it runs, or may: it was not seen to be stopped within `stop_timeout`.
    pub async fn stop(&self) -> Result<(), Failure> {
        let work = async {
            match &self.kind {
                Kind::Systemd { unit } => systemd::stop(unit).await,
                Kind::Exec { stop, status, .. } => exec::stop(self, stop, status).await,
                Kind::Ocf { .. } => ocf::stop(self).await,
                Kind::Filesystem { .. } => filesystem::stop(self).await,
                Kind::Drbd { .. } => drbd::stop(self).await,
                Kind::Domain(_) => domain::stop(self).await,
            }
        };
        self.within("stop", self.stop_timeout, work).await
    }

    /// Asks how it is.
    pub async fn status(&self) -> State {
        let work = async {
            match &self.kind {
                Kind::Systemd { unit } => systemd::status(unit).await,
                Kind::Exec { status, .. } => exec::status(self, status).await,
                Kind::Ocf { .. } => ocf::status(self).await,
                Kind::Filesystem { .. } => filesystem::status(self).await,
                Kind::Drbd { .. } => drbd::status(self).await,
                Kind::Domain(_) => domain::status(self).await,
            }
        };
        timeout(self.status_timeout, work)
            .await
            .unwrap_or_else(|_| {
                State::Unknown(format!(
                    "{} did not say how it is within {:?}",
                    self.what(),
                    self.status_timeout
                ))
            })
    }

    /// What is wrong with it on this machine, in sentences; empty if nothing was found. Starts and stops nothing.
    pub async fn check(&self) -> Vec<String> {
        match &self.kind {
            Kind::Systemd { unit } => {
                let work = systemd::check(unit, self.keep_running);
                timeout(self.status_timeout, work)
                    .await
                    .unwrap_or_else(|_| {
                        vec![format!(
                            "systemd did not answer within {:?}",
                            self.status_timeout
                        )]
                    })
            }
            Kind::Exec {
                start,
                stop,
                status,
            } => exec::check(&[
                ("start", start.as_slice()),
                ("stop", stop),
                ("status", status),
            ]),
            Kind::Ocf { .. } => ocf::check(self).await,
            Kind::Filesystem { .. } => filesystem::check(self).await,
            Kind::Drbd { .. } => drbd::check(self).await,
            Kind::Domain(_) => domain::check(self).await,
        }
    }

    /// "unit nginx.service", for sentences.
    fn what(&self) -> String {
        match &self.kind {
            Kind::Systemd { unit } => format!("unit {unit}"),
            Kind::Exec { .. } => format!("{} (exec)", self.name),
            Kind::Ocf {
                provider, agent, ..
            } => format!("{} (ocf:{provider}:{agent})", self.name),
            Kind::Filesystem { mount, .. } => format!("the file system at {}", mount.display()),
            Kind::Drbd { resource, .. } => format!("DRBD resource {resource}"),
            Kind::Domain(domain) => format!("domain {}", domain.name),
        }
    }

    async fn within(
        &self,
        verb: &str,
        within: Duration,
        work: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        timeout(within, work).await.unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                what: format!("{verb} of {}", self.what()),
                within,
            })
        })
    }

    /// Asks until the answer is the wanted one, for at most [`SETTLE`]; then it is a failure.
    async fn settle(&self, verb: &str, wanted: &State) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let state = self.status().await;
            if state == *wanted {
                return Ok(());
            }
            if begun.elapsed() + pause >= SETTLE {
                let what = self.what();
                return Err(match state {
                    State::Running => {
                        Failure::Failed(format!("{what} still runs after its {verb}"))
                    }
                    State::Stopped => {
                        Failure::Failed(format!("{what} does not run after its {verb}"))
                    }
                    State::Failed(seen) => {
                        Failure::Failed(format!("{what}, after its {verb}: {seen}"))
                    }
                    State::Unknown(why) => Failure::Unknown(format!(
                        "{what}, after its {verb}, cannot be asked: {why}"
                    )),
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

/// A command that gave no answer, as a failure.
fn no_answer(error: &RunError) -> Failure {
    match error {
        RunError::Start { error: cause, .. }
            if matches!(
                cause.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            Failure::Misconfigured(error.to_string())
        }
        RunError::Start { .. } => Failure::Unknown(error.to_string()),
        RunError::TimedOut {
            program, within, ..
        } => Failure::TimedOut {
            what: program.clone(),
            within: *within,
        },
    }
}
