//! The task of one group: one step at a time towards what is wanted.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    GroupView, Phase, ProbeView, Report, ResourceView, Role, Services, Wanted, Weight, What,
    monitor::Monitors, transfer::Left,
};
use crate::{
    policy::{Failures, SLOW},
    probe::{Judge, On},
    resource::{
        Failure, Resource, State,
        domain::{self, Peer},
    },
};

/// Verdicts that wait to be looked at; a monitor waits when this is full.
const SEEN: usize = 64;

/// After a look at a machine that arrives, the next one; more than it takes to own its group once it has.
const ARRIVAL: Duration = Duration::from_secs(5);

/// May a resource be running?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Not asked yet: it may, from before this agent began.
    Unasked,
    /// Perhaps: a start was broken off, or has failed.
    Perhaps,
    Up,
    Down,
}

pub(super) struct Runner {
    pub(super) group: u8,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) services: Arc<Services>,
    pub(super) monitors: Monitors,
    /// What is being watched: as an owner, or as a standby.
    pub(super) watching: Option<bool>,
    pub(super) marks: Vec<Mark>,
    /// To be stopped before it is started again.
    pub(super) bounce: Vec<bool>,
    pub(super) judges: Vec<Judge>,
    pub(super) begun: Instant,
    pub(super) failures: Failures,
    /// Nothing is started before.
    pub(super) start_at: Option<Instant>,
    /// Nothing is stopped before: a stop has failed.
    pub(super) stop_at: Option<Instant>,
    /// Something stateful would not stop.
    pub(super) stuck: Option<String>,
    /// Why the group does not work here, as long as it is remembered.
    pub(super) broken: Option<String>,
    /// What was said of that last.
    pub(super) broken_told: Option<String>,
    /// The loss that everything has been stopped for.
    pub(super) losses: u64,
    pub(super) clears: u64,
    pub(super) role: Role,
    pub(super) paused: bool,
    /// Where something of it has migrated to, for as long as this node owns the group.
    pub(super) gone_to: Option<Peer>,
    /// Why something did not migrate, until it is tried again or somebody clears it; for people.
    pub(super) stays: Option<String>,
    /// Nothing migrates before: it was tried in vain.
    pub(super) moves_at: Option<Instant>,
    /// Resources of an earlier configuration that may be running.
    pub(super) orphans: Vec<Resource>,
    /// The ownership whose end was told.
    pub(super) ended: Option<u64>,
    /// The ownership that could not be ended, as was told.
    pub(super) stuck_told: Option<u64>,
    pub(super) phase: Phase,
    pub(super) shown: GroupView,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Todo {
    Start(usize),
    Stop(usize),
}

/// Follows what is wanted until the sender of that is gone. Nothing is stopped then: the agent that comes next finds
/// what runs.
pub(super) async fn run(
    group: u8,
    mut wanted: watch::Receiver<Wanted>,
    view: watch::Sender<GroupView>,
    reports: mpsc::Sender<Report>,
) {
    let (send, mut seen) = mpsc::channel(SEEN);
    let services = Arc::clone(&wanted.borrow().services);
    let mut r = Runner {
        group,
        reports,
        monitors: Monitors::new(send),
        watching: None,
        marks: Vec::new(),
        bounce: Vec::new(),
        judges: Vec::new(),
        begun: Instant::now(),
        failures: Failures::default(),
        start_at: None,
        stop_at: None,
        stuck: None,
        broken: None,
        broken_told: None,
        losses: 0,
        clears: 0,
        role: Role::Unknown,
        paused: false,
        gone_to: None,
        stays: None,
        moves_at: None,
        orphans: Vec::new(),
        ended: None,
        stuck_told: None,
        phase: Phase::Idle,
        shown: GroupView::default(),
        services,
    };
    r.take_services(&[]);
    loop {
        let w = wanted.borrow_and_update().clone();
        r.follow(&w);
        // Last started, first stopped.
        if w.role != Role::Unknown
            && let Some(orphan) = r.orphans.pop()
        {
            if let Err(why) = orphan.stop().await {
                let text = format!(
                    "{} is no longer configured and does not stop ({why}): it is left behind",
                    orphan.name
                );
                r.note(Weight::Bad, text).await;
            }
            continue;
        }
        let todo = r.todo(&w);
        if todo.is_none() {
            r.settle(&w);
        }
        r.tell(&w, todo).await;
        view.send_replace(r.shown.clone());
        match todo {
            Some(Todo::Start(i)) => {
                // Not to be waited for if the group is lost meanwhile: then it is stopped, started or not.
                let resource = r.services.resources[i].clone();
                r.unwatch();
                r.marks[i] = Mark::Perhaps;
                let away = r.gone_to.clone();
                let start = async {
                    domain::is_not_at(&resource, away.as_ref()).await?;
                    resource.start_given(w.given, &w.peers).await
                };
                match unless_gone(&mut wanted, &w, resource.keep_running, start).await {
                    Some(done) => r.start_ended(i, done).await,
                    None => {
                        r.note(
                            Weight::Plain,
                            format!("starting {} was broken off", resource.name),
                        )
                        .await
                    }
                }
            }
            Some(Todo::Stop(i)) => {
                let resource = r.services.resources[i].clone();
                r.unwatch();
                // An agent that was restarted here while a machine arrives: its owner lets the group go as soon as it has.
                if r.marks[i] == Mark::Unasked
                    && w.role == Role::Standby
                    && domain::is_arriving(&resource).await
                {
                    r.stop_at = Some(Instant::now() + ARRIVAL);
                    continue;
                }
                // Most of the time nothing is left over from before this agent began.
                let nothing = r.marks[i] == Mark::Unasked
                    && !r.bounce[i]
                    && r.is_stopped(i, &resource, todo, &view).await;
                let left = match r.heir(&w, &resource) {
                    _ if nothing => Left::Ended(Ok(())),
                    Some(peer) => r.transfer(i, peer, &w, &mut wanted, &view).await,
                    None => Left::Ended(resource.stop().await),
                };
                if let Left::Ended(done) = left {
                    r.stop_ended(i, done, &w).await;
                }
            }
            None => {
                let until = r.wakes_at();
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    Some((round, what)) = seen.recv() => {
                        if r.monitors.is_current(round) {
                            r.saw(what, &w).await;
                        }
                    }
                    () = sleep_until(until.unwrap_or_else(far)), if until.is_some() => {}
                }
            }
        }
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Runs a start, unless this node is not to run the resource any more before it is done. What is `kept` runs whoever owns
/// the group.
async fn unless_gone<T>(
    wanted: &mut watch::Receiver<Wanted>,
    before: &Wanted,
    kept: bool,
    start: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(start);
    loop {
        tokio::select! {
            // What was lost while this was being told is not even begun.
            biased;
            changed = wanted.changed() => {
                let now = wanted.borrow_and_update().clone();
                // A new ownership of what is being started for the old one is a loss in between, which is counted.
                let gone = !kept && (now.role != before.role || now.losses != before.losses);
                if changed.is_err() || gone || !Arc::ptr_eq(&now.services, &before.services) {
                    wanted.mark_changed();
                    return None;
                }
            }
            done = &mut start => return Some(done),
        }
    }
}

impl Runner {
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Takes new services; `before` are the ones so far, with what is known of them.
    fn take_services(&mut self, before: &[(Resource, Mark)]) {
        let s = &self.services;
        let gone = |r: &Resource| {
            !s.resources
                .iter()
                .any(|n| n.name == r.name && n.kind == r.kind)
        };
        // What keeps running belongs to the system as well: it is left alone.
        let orphans = before
            .iter()
            .filter(|(r, m)| gone(r) && !r.keep_running && *m != Mark::Down);
        self.orphans.extend(orphans.map(|(r, _)| r.clone()));
        self.monitors.stop();
        self.watching = None;
        // All may be running, from before this agent began.
        let mark = |r: &Resource| {
            let same = before
                .iter()
                .find(|(b, _)| b.name == r.name && b.kind == r.kind);
            same.map_or(Mark::Unasked, |(_, m)| *m)
        };
        self.marks = s.resources.iter().map(mark).collect();
        self.bounce = vec![false; s.resources.len()];
        self.judges = s
            .probes
            .iter()
            .map(|p| Judge::new(p.rise, p.fall, 0))
            .collect();
        let resources = s.resources.iter().map(|r| ResourceView {
            name: r.name.clone(),
            ..ResourceView::default()
        });
        self.shown.resources = resources.collect();
        let probes = s.probes.iter().map(|p| ProbeView {
            name: p.name.clone(),
            ..ProbeView::default()
        });
        self.shown.probes = probes.collect();
    }

    /// Asks what may be left over from before this agent began. What is, is shown before it is stopped.
    async fn is_stopped(
        &mut self,
        i: usize,
        resource: &Resource,
        todo: Option<Todo>,
        view: &watch::Sender<GroupView>,
    ) -> bool {
        match resource.status().await {
            State::Stopped => return true,
            State::Running | State::Failed(_) => self.marks[i] = Mark::Perhaps,
            State::Unknown(_) => {}
        }
        self.shown.stake = self.stake(todo);
        view.send_replace(self.shown.clone());
        false
    }

    /// Takes over what has changed in what is wanted.
    fn follow(&mut self, w: &Wanted) {
        if !Arc::ptr_eq(&w.services, &self.services) {
            let before: Vec<_> = self
                .services
                .resources
                .iter()
                .cloned()
                .zip(self.marks.iter().copied())
                .collect();
            self.services = Arc::clone(&w.services);
            self.take_services(&before);
        }
        if w.clears != self.clears {
            self.clears = w.clears;
            // Should it fail once more, that is news; and what has stopped meanwhile is told again, as it was not taken before.
            (self.stuck_told, self.ended) = (None, None);
            (self.moves_at, self.stays) = (None, None);
            self.failures.clear();
            (self.start_at, self.stop_at, self.stuck, self.broken) = (None, None, None, None);
        }
        if w.role != self.role {
            self.role = w.role;
            self.stop_at = match w.role {
                Role::Leaving { .. } => self.moves_at,
                Role::Unknown | Role::Standby | Role::Owner { .. } => None,
            };
            self.start_at = None;
            if w.role == Role::Standby {
                (self.gone_to, self.stays) = (None, None);
            }
            if let Role::Owner { .. } = w.role {
                self.ended = None;
                self.stuck_told = None;
            }
        }
        if w.role != Role::Unknown && self.is_down() {
            self.losses = w.losses;
        }
        let policy = self.services.policy;
        if self
            .failures
            .forgotten_at(&policy)
            .is_some_and(|at| at <= self.now())
        {
            self.failures.clear();
            let owner = matches!(w.role, Role::Owner { .. });
            self.broken = self.bad_probe(owner);
        }
    }

    /// The next step towards what is wanted.
    fn todo(&self, w: &Wanted) -> Option<Todo> {
        let owner = match w.role {
            Role::Unknown => return None,
            Role::Owner { .. } => true,
            Role::Standby | Role::Leaving { .. } => false,
        };
        let now = Instant::now();
        let kept = |i: usize| {
            self.services
                .resources
                .get(i)
                .is_some_and(|r| r.keep_running)
        };
        let down = !owner || w.losses != self.losses;
        let up = |i: &usize| self.marks[*i] != Mark::Down;
        let stop = (0..self.marks.len())
            .rev()
            .find(|i| self.bounce[*i] || down && !kept(*i) && up(i));
        if let Some(i) = stop {
            return self
                .stop_at
                .is_none_or(|at| at <= now)
                .then_some(Todo::Stop(i));
        }
        let missing =
            |i: &usize| self.marks[*i] != Mark::Up && (kept(*i) || owner && w.hold.is_none());
        let start = (0..self.marks.len()).find(missing)?;
        self.start_at
            .is_none_or(|at| at <= now)
            .then_some(Todo::Start(start))
    }

    /// Nothing to be done now: is all as it should be, or does it wait?
    fn settle(&mut self, w: &Wanted) {
        let owner = matches!(w.role, Role::Owner { .. });
        let all_up = self
            .services
            .resources
            .iter()
            .zip(&self.marks)
            .all(|(r, m)| *m == Mark::Up || !(r.keep_running || owner && w.hold.is_none()));
        let watch = (w.role != Role::Unknown && all_up).then_some(owner && w.hold.is_none());
        if w.paused != self.paused {
            // What was seen before the pause is old.
            self.paused = w.paused;
            self.unwatch();
        }
        if watch != self.watching {
            self.unwatch();
            if let Some(owner) = watch {
                self.watch(owner);
            }
        }
    }

    /// Does nothing of the owner's own run?
    pub(super) fn is_down(&self) -> bool {
        let own = self
            .services
            .resources
            .iter()
            .zip(&self.marks)
            .filter(|(r, _)| !r.keep_running);
        own.into_iter().all(|(_, m)| *m == Mark::Down)
    }

    pub(super) fn unwatch(&mut self) {
        if self.watching.take().is_some() {
            self.monitors.stop();
            for p in &mut self.shown.probes {
                p.standing = "";
            }
        }
    }

    fn watch(&mut self, owner: bool) {
        self.watching = Some(owner);
        for (i, r) in self.services.resources.iter().enumerate() {
            if owner || r.keep_running {
                self.monitors.watch_resource(i, r.clone());
            }
        }
        for (i, p) in self.services.probes.iter().enumerate() {
            if owner || p.on == On::All {
                if let Some(j) = self.judges.get_mut(i) {
                    j.forget(0);
                }
                self.monitors.watch_probe(i, p.clone());
            }
        }
    }

    /// When something is to be done although nothing comes.
    fn wakes_at(&self) -> Option<Instant> {
        let forget = self
            .failures
            .forgotten_at(&self.services.policy)
            .map(|at| self.begun + at);
        [self.start_at, self.stop_at, forget]
            .into_iter()
            .flatten()
            .filter(|at| *at > Instant::now())
            .min()
    }

    async fn start_ended(&mut self, i: usize, done: Result<(), Failure>) {
        let name = self.services.resources[i].name.clone();
        match done {
            Ok(()) => {
                self.marks[i] = Mark::Up;
                if domain::is_live(&self.services.resources[i]) {
                    self.gone_to = None;
                }
                self.show_resource(i, &State::Running);
            }
            Err(why) => {
                let state = match &why {
                    Failure::Unknown(_) => State::Unknown(why.to_string()),
                    Failure::Misconfigured(_) | Failure::Failed(_) | Failure::TimedOut { .. } => {
                        State::Failed(why.to_string())
                    }
                };
                let before = self.shown.resources.get(i).map(|v| v.text.clone());
                self.show_resource(i, &state);
                if let Failure::Unknown(why) = &why {
                    // Nothing has failed: it could not be tried. Again soon.
                    self.start_at = Some(Instant::now() + Duration::from_secs(1));
                    if before.as_ref() == Some(why) {
                        // As was told the last time.
                        return;
                    }
                    return self
                        .note(Weight::Warn, format!("{name} cannot be started yet: {why}"))
                        .await;
                }
                self.bounce[i] = true;
                let hopeless = matches!(why, Failure::Misconfigured(_));
                self.failed(format!("{name} does not start: {why}"), hopeless)
                    .await;
            }
        }
    }

    async fn stop_ended(&mut self, i: usize, done: Result<(), Failure>, w: &Wanted) {
        let r = &self.services.resources[i];
        let (name, stateful) = (r.name.clone(), r.stateful);
        let Err(why) = done else {
            self.marks[i] = Mark::Down;
            self.bounce[i] = false;
            self.stuck = None;
            self.show_resource(i, &State::Stopped);
            return;
        };
        self.show_resource(i, &State::Failed(why.to_string()));
        if stateful {
            let text = format!("{name} does not stop: {why}");
            self.stop_at = Some(Instant::now() + SLOW);
            if self.stuck.replace(text.clone()).is_none() {
                self.note(
                    Weight::Bad,
                    format!("{text}; it is not started anywhere else until it has stopped"),
                )
                .await;
            }
            if let Role::Leaving { epoch } = w.role
                && self.stuck_told != Some(epoch)
            {
                self.stuck_told = Some(epoch);
                self.send(What::StopFailed { epoch, why: text }).await;
            }
            return;
        }
        // It keeps nothing that a second one could destroy: the rest goes on without it.
        self.marks[i] = Mark::Down;
        self.bounce[i] = false;
        self.note(
            Weight::Bad,
            format!("{name} does not stop ({why}) and is left behind"),
        )
        .await;
    }
}
