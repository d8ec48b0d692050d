//! One group's services on this node: started in order, watched, started again, stopped in reverse.
//!
//! A task per group (`runner`) follows what is wanted of it ([`Wanted`], always the newest) and tells what became of
//! it ([`Report`]). It decides nothing about who owns the group.

mod heed;
mod monitor;
mod runner;
mod tell;
mod transfer;
mod view;

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::{
    policy::Policy,
    probe::Probe,
    resource::{
        Resource,
        domain::{self, Peer},
        drbd::Given,
    },
};

pub use view::{GroupView, ProbeView, ResourceView, Stake};

/// What a group has besides its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// In the order of starting.
    pub resources: Vec<Resource>,
    /// Asked while the services run.
    pub probes: Vec<Probe>,
    /// What to do about failures.
    pub policy: Policy,
}

impl Services {
    /// Is there anything to do?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.probes.is_empty()
    }

    /// Does the group leave in order: what must be stopped has stopped, answers under way have left?
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        !self.is_empty()
    }

    /// Must something be stopped before another node may have the group?
    #[must_use]
    pub fn has_to_stop(&self) -> bool {
        self.resources.iter().any(|r| !r.keep_running)
    }

    /// Does all that is known of it run on every node, so that whoever takes it over answers at once?
    #[must_use]
    pub fn is_hot_standby(&self) -> bool {
        !self.is_empty() && self.resources.iter().all(|r| r.keep_running)
    }

    /// Would two of it at once destroy data?
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        self.resources.iter().any(|r| r.stateful)
    }

    /// How long stopping all may take at most.
    #[must_use]
    pub fn stop_timeout(&self) -> Duration {
        let each = self.resources.iter().filter(|r| !r.keep_running);
        each.map(|r| r.stop_timeout + domain::longest_move(r)).sum()
    }

    /// Does something in it move alive?
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.resources.iter().any(domain::is_live)
    }
}

/// What is wanted of a group on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing is known yet, or hands off: neither start nor stop.
    Unknown,
    /// Another node's or nobody's: only what keeps running runs.
    Standby,
    /// This node owns it: all runs.
    Owner {
        /// Of this ownership.
        epoch: u64,
    },
    /// This node owns it and is to give it up: all that is the owner's alone stops; [`What::Stopped`] follows.
    Leaving {
        /// Of this ownership.
        epoch: u64,
    },
}

/// What is wanted now. Only the newest counts, so what must not be missed is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// See [`Role`].
    pub role: Role,
    /// Counts how often the group was lost: what was started before must stop before anything starts again.
    pub losses: u64,
    /// Counts how often somebody asked to forget failures.
    pub clears: u64,
    /// Why nothing may be started yet (`after`, or something stateful whose last owner said nothing); shown to people.
    pub hold: Option<String>,
    /// What is proven about the other nodes: without it, DRBD is promoted beside a connected peer only.
    pub given: Given,
    /// The other nodes that may own the group, if something in it moves alive.
    pub peers: std::sync::Arc<Vec<Peer>>,
    /// Which of them is to have it, when it leaves.
    pub heir: Option<String>,
    /// Hands off: what runs is left as it is, and no failure is acted on; a lost group is stopped all the same.
    pub paused: bool,
    /// The services.
    pub services: std::sync::Arc<Services>,
}

/// What a group's services are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of the owner's runs here.
    #[default]
    Idle,
    /// Being started.
    Starting,
    /// All runs.
    Running,
    /// Being stopped.
    Stopping,
    /// Failed; it is tried again at a slow pace.
    Failed,
    /// Waits for something before it starts.
    Blocked,
    /// A stop has failed; nothing is started elsewhere.
    Stuck,
}

impl Phase {
    /// The word in status and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
            Phase::Failed => "failed",
            Phase::Blocked => "blocked",
            Phase::Stuck => "stuck",
        }
    }
}

/// How bad a piece of news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// As it should be.
    Good,
    /// Neither.
    Plain,
    /// To be looked at.
    Warn,
    /// Something does not work.
    Bad,
}

/// News from one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The group's id.
    pub group: u8,
    /// What has happened.
    pub what: What,
}

/// See [`Report`].
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Another phase.
    Phase(Phase),
    /// All that is the owner's alone is stopped, as [`Role::Leaving`] asked.
    Stopped {
        /// As asked.
        epoch: u64,
    },
    /// Something stateful would not stop: the group must not start elsewhere.
    StopFailed {
        /// As asked.
        epoch: u64,
        /// What, and why.
        why: String,
    },
    /// What was to move alive has not gone, or that is not certain: the move is off.
    MoveFailed {
        /// As asked.
        epoch: u64,
        /// What, and why.
        why: String,
    },
    /// The group does not work here (why), or may be tried here again (`None`).
    Broken(Option<String>),
    /// For people.
    Note(Weight, String),
}

/// The end that the agent holds.
#[derive(Debug)]
pub struct Group {
    wanted: watch::Sender<Wanted>,
    view: watch::Receiver<GroupView>,
}

impl Group {
    /// Starts the task of one group.
    #[must_use]
    pub fn spawn(id: u8, services: Services, reports: mpsc::Sender<Report>) -> Group {
        let wanted = Wanted {
            role: Role::Unknown,
            losses: 0,
            clears: 0,
            hold: None,
            given: Given::default(),
            peers: Vec::new().into(),
            heir: None,
            paused: false,
            services: services.into(),
        };
        let (wanted, follow) = watch::channel(wanted);
        let (show, view) = watch::channel(GroupView::default());
        tokio::spawn(runner::run(id, follow, show, reports));
        Group { wanted, view }
    }

    /// Changes what is wanted.
    pub fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_if_modified(|w| {
            let before = w.clone();
            change(w);
            *w != before
        });
    }

    /// What is wanted now.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.wanted.borrow().clone()
    }

    /// Waits until nothing of the owner's own runs here, as far as it can be stopped.
    pub async fn settled_idle(&self) {
        let mut view = self.view.clone();
        // The first view says nothing: it is of before the first step.
        let _ = view.changed().await;
        let _ = view.wait_for(|v| v.phase == Phase::Idle).await;
    }

    /// May something that must not run twice be running here, and of which wish that was said.
    #[must_use]
    pub fn stake(&self) -> (Stake, Option<(Role, u64)>) {
        let view = self.view.borrow();
        (view.stake, view.answers)
    }

    /// How things are.
    #[must_use]
    pub fn view(&self) -> GroupView {
        self.view.borrow().clone()
    }
}
