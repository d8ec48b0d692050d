//! Looking at what runs: resources at their status interval, probes at theirs, each in its own task.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use crate::{
    probe::{Probe, Verdict},
    resource::{Resource, State},
};

/// What a look has shown.
#[derive(Debug)]
pub(super) enum Seen {
    /// Resource number, its state.
    Resource(usize, State),
    /// Probe number, its verdict.
    Probe(usize, Verdict),
}

/// Tasks that look; they end with this.
#[derive(Debug)]
pub(super) struct Monitors {
    tasks: JoinSet<()>,
    send: mpsc::Sender<(u64, Seen)>,
    /// What was seen before a restart says nothing about what runs now.
    round: u64,
}

impl Monitors {
    pub fn new(send: mpsc::Sender<(u64, Seen)>) -> Monitors {
        Monitors {
            tasks: JoinSet::new(),
            send,
            round: 0,
        }
    }

    /// Is this of now?
    pub fn is_current(&self, round: u64) -> bool {
        self.round == round
    }

    pub fn stop(&mut self) {
        self.tasks.abort_all();
        // Ended ones are taken off, so that the set does not grow.
        while self.tasks.try_join_next().is_some() {}
        self.round += 1;
    }

    pub fn watch_resource(&mut self, number: usize, resource: Resource) {
        let (send, round) = (self.send.clone(), self.round);
        self.tasks.spawn(async move {
            let mut tick = ticks(resource.status_interval, resource.status_interval);
            loop {
                tick.tick().await;
                let state = resource.status().await;
                if send
                    .send((round, Seen::Resource(number, state)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }

    pub fn watch_probe(&mut self, number: usize, probe: Probe) {
        let (send, round) = (self.send.clone(), self.round);
        self.tasks.spawn(async move {
            let mut tick = ticks(probe.interval, Duration::ZERO);
            loop {
                tick.tick().await;
                let verdict = probe.run().await;
                if send
                    .send((round, Seen::Probe(number, verdict)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
}

fn ticks(every: Duration, first: Duration) -> tokio::time::Interval {
    let mut tick = interval_at(Instant::now() + first, every.max(Duration::from_millis(10)));
    // A look that took long is not made up for by several at once.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
