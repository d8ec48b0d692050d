//! The watchdog: armed while this node owns something that must not run twice, or has something of it that was not seen to
//! stop. The real-time thread pets it ([`super::pet`]); this opens and closes it, beside the main task, as drivers may be slow.
//!
//! ```text
//!        needed               opened                     nothing at stake          given back       closed
//! Off ───────────▶ Opening ──────────▶ Armed (with the ─────────────────▶ Returning ────────▶ Closing ─────▶ Off
//!  ▲ later            │ refused         real-time thread)
//!  └──── Failed ◀─────┘
//! Left: a life of the agent that was killed left it armed, and it counts. Opened when this node has a right to all that runs.
//! ```
//!
//! *Invariant*: nothing stateful is started before it is armed. Others rest on that (`Supervisor::watchdog_fired`).

mod device;
mod follow;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent_common::Set;
use agent_services::watchdog::{Watchdog, WatchdogError};
use tokio::sync::mpsc;

use self::device::{HANDED_OVER, arm, disarm, handed_over};
pub(super) use self::device::{hand_over, is_hand_over};
use super::pet::{AtStake, Keeper, Petter};
use crate::{
    config,
    control::proto::{Level, Warning, WatchdogState, WatchdogStatus},
    net::rt::boottime_ns,
};

/// A device that could not be had is looked at again after so long, ns.
const AGAIN: u64 = 10_000_000_000;
/// What is under way with the device when the agent ends may take so long.
const LAST: Duration = Duration::from_secs(2);

/// What came of opening or closing.
#[derive(Debug)]
pub(super) enum Work {
    Opened(Result<Box<Keeper>, String>),
    /// The one that could not be closed is given back.
    Closed(Result<(), Box<Keeper>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Off,
    Left,
    Opening,
    Armed,
    Returning,
    Closing,
    Failed { again: u64 },
}

/// The main task's side of the watchdog.
#[derive(Debug)]
pub(super) struct Guard {
    config: Option<config::Watchdog>,
    /// There while the device may be armed; a reboot removes it.
    marker: PathBuf,
    at_stake: Arc<AtStake>,
    state: State,
    /// The device that is being opened was left armed.
    left: bool,
    /// Armed and not taken by the real-time thread yet.
    pending: Option<Box<Petter>>,
    /// Groups that nobody has looked at yet since this agent began.
    unknown: Set,
    /// Taken over from the process before, which knew that nothing else runs here.
    inherited: bool,
    identity: String,
    timeout: Duration,
    no_way_out: bool,
    sysrq: bool,
    /// Why it cannot be armed, or not be petted.
    error: Option<String>,
    /// When the machine is reset, boot ns.
    reset_by: Option<u64>,
    send: mpsc::Sender<Work>,
    work: mpsc::Receiver<Work>,
}

impl Guard {
    /// That of a configuration, with what the process before this one has handed over.
    /// `needed`: this node may own something stateful.
    pub fn new(config: Option<config::Watchdog>, run_dir: &Path, needed: bool) -> Guard {
        let (send, work) = mpsc::channel(4);
        let mut guard = Guard {
            config,
            marker: run_dir.join("watchdog-armed"),
            at_stake: Arc::default(),
            state: State::Off,
            left: false,
            pending: None,
            unknown: Set::EMPTY,
            inherited: false,
            identity: String::new(),
            timeout: Duration::ZERO,
            no_way_out: false,
            sysrq: false,
            error: None,
            reset_by: None,
            send,
            work,
        };
        guard.rest();
        if let Some(config) = guard.config.clone()
            && needed
            && !config.sysrq
            && !config.device.exists()
        {
            let why = WatchdogError::Absent(config.device).to_string();
            guard.state = State::Failed { again: 0 };
            guard.error = Some(why);
        }
        if let Some(config) = &guard.config
            && let Some(fd) = handed_over(&config.device, std::env::var(HANDED_OVER).ok())
        {
            match Watchdog::adopt(fd, &config.device, config.timeout) {
                Ok(dog) => {
                    guard.inherited = true;
                    guard.error = None;
                    guard.state = State::Opening;
                    guard.take(Box::new(Keeper::Device(dog)));
                }
                Err(error) => tracing::error!("the watchdog that was handed over: {error}"),
            }
        }
        guard
    }

    /// Waits for news. Safe to drop while it waits.
    pub async fn news(&mut self) -> Work {
        match self.work.recv().await {
            Some(work) => work,
            // Not while `send` is held here.
            None => std::future::pending().await,
        }
    }

    /// Is anything under way that is to be looked at soon?
    pub fn is_restless(&self) -> bool {
        let rests = matches!(self.state, State::Off | State::Armed | State::Failed { .. });
        !rests || self.reset_by.is_some()
    }

    /// Why this node cannot have anything stateful.
    pub fn fault(&self) -> Option<&str> {
        let failed = matches!(self.state, State::Failed { .. });
        self.error.as_deref().filter(|_| failed)
    }

    /// For status; `None` if none is configured.
    pub fn status(&self, now: u64, name: impl Fn(u8) -> String) -> Option<WatchdogStatus> {
        let config = self.config.as_ref()?;
        Some(WatchdogStatus {
            device: config.device.display().to_string(),
            identity: self.identity.clone(),
            state: match self.state {
                _ if self.reset_by.is_some() => WatchdogState::Starving,
                State::Off => WatchdogState::Off,
                State::Left => WatchdogState::Left,
                State::Opening => WatchdogState::Arming,
                State::Armed => WatchdogState::Armed,
                State::Returning | State::Closing => WatchdogState::Disarming,
                State::Failed { .. } => WatchdogState::Failed,
            },
            timeout_ms: millis(config.timeout),
            proof: config.proof,
            sysrq: self.sysrq,
            no_way_out: self.no_way_out,
            at_stake: self.at_stake.load().iter().map(name).collect(),
            reset_in_ms: self.reset_by.map(|at| at.saturating_sub(now) / 1_000_000),
            error: self.error.clone(),
        })
    }

    /// What people should know at once.
    pub fn warning(&self) -> Option<Warning> {
        let device = self.config.as_ref()?.device.display();
        let (level, code, text) = if self.reset_by.is_some() {
            let text = "this machine is about to be reset: its lease is lost, and something stateful has not stopped";
            (Level::Error, "watchdog_starving", text.to_owned())
        } else if let Some(why) = self.fault() {
            let text = format!("nothing stateful is started here: {why}");
            (Level::Error, "watchdog_failed", text)
        } else if let Some(why) = &self.error {
            let text = format!("the watchdog {device}: {why}");
            (Level::Warning, "watchdog_failed", text)
        } else if self.no_way_out {
            let text = format!(
                "{device} cannot be disarmed (nowayout): when the agent ends, it resets this machine"
            );
            (Level::Warning, "watchdog_no_way_out", text)
        } else {
            return None;
        };
        Some(Warning {
            level,
            code: code.into(),
            text,
            help: Some("see `heartline doctor`".into()),
        })
    }

    /// Off, or left armed by an earlier life.
    fn rest(&mut self) {
        self.state = if self.marker.exists() {
            State::Left
        } else {
            State::Off
        };
    }

    fn take(&mut self, keeper: Box<Keeper>) {
        (self.timeout, self.sysrq) = (keeper.timeout(), matches!(*keeper, Keeper::Sysrq(..)));
        match &*keeper {
            Keeper::Device(dog) => {
                self.identity.clone_from(&dog.identity);
                self.no_way_out |= dog.no_way_out;
            }
            Keeper::Sysrq(..) => self.identity = "sysrq".into(),
        }
        self.pending = Some(Box::new(Petter::new(keeper, Arc::clone(&self.at_stake))));
    }

    fn open(&mut self) {
        let Some(config) = self.config.clone() else {
            return;
        };
        self.left = self.state == State::Left;
        self.state = State::Opening;
        // Before it is armed: who comes after must know.
        if let Err(error) = fs::write(&self.marker, "") {
            tracing::warn!("{}: {error}", self.marker.display());
        }
        let send = self.send.clone();
        tokio::task::spawn_blocking(move || {
            let _ = send.blocking_send(Work::Opened(arm(&config)));
        });
    }

    fn close(&mut self, keeper: Box<Keeper>) {
        self.state = State::Closing;
        let send = self.send.clone();
        tokio::task::spawn_blocking(move || {
            let _ = send.blocking_send(Work::Closed(disarm(*keeper)));
        });
    }

    /// The agent ends. `keeper`: what the real-time thread gave back. Gives what the next process is to have.
    pub fn finish(mut self, keeper: Option<Box<Keeper>>, ending: Last) -> Option<OwnedFd> {
        let mut keeper = keeper;
        if let Some(petter) = self.pending.take() {
            keeper = Some(petter.into_keeper());
            self.state = State::Off;
        }
        // What is under way must not come after the end: opened then, nobody would pet it.
        let until = boottime_ns() + u64::try_from(LAST.as_nanos()).unwrap_or(0);
        while matches!(self.state, State::Opening | State::Closing) && boottime_ns() < until {
            match self.work.try_recv() {
                Ok(Work::Opened(Ok(opened))) => keeper = Some(opened),
                Ok(Work::Closed(Err(open))) => keeper = Some(open),
                Ok(Work::Closed(Ok(()))) => self.gone(),
                Ok(Work::Opened(Err(_))) => {}
                Err(_) => {
                    std::thread::yield_now();
                    continue;
                }
            }
            self.state = State::Off;
        }
        let keeper = *keeper?;
        match (ending, keeper) {
            (Last::Restart, Keeper::Device(dog)) => Some(dog.hand_over()),
            (Last::Clean, keeper) => {
                match disarm(keeper) {
                    Ok(()) => self.gone(),
                    Err(keeper) => tracing::error!(
                        "the watchdog cannot be disarmed: it resets this machine in {} s, unless the agent is back by then",
                        keeper.timeout().as_secs()
                    ),
                }
                None
            }
            (Last::Restart, Keeper::Sysrq(..)) => None,
            (Last::Unclean, keeper) => {
                tracing::error!(
                    "something that must not run twice has not stopped here: the watchdog resets this machine in {} s",
                    keeper.timeout().as_secs()
                );
                // Closed without the letter, by the end of this process.
                None
            }
        }
    }

    fn gone(&self) {
        if let Err(error) = fs::remove_file(&self.marker)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {error}", self.marker.display());
        }
    }
}

/// How the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// Another process goes on.
    Restart,
    /// Nothing that must not run twice runs here.
    Clean,
    /// It does, or may.
    Unclean,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
