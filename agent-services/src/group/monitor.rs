//! Looking at what runs: resources at their status interval, probes at theirs, each in its own task.

use std::time::Duration;

use agent_virt_proto::message::Event;
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

use crate::{
    probe::{Probe, Verdict},
    resource::{Resource, State, domain},
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
            let mut news = domain::events(&resource);
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    () = heard(&resource, &mut news) => {}
                }
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

/// Waits until libvirt says that something has happened to the resource; for ever if it is no domain.
async fn heard(resource: &Resource, news: &mut Option<broadcast::Receiver<Event>>) {
    loop {
        let Some(events) = news else {
            return std::future::pending().await;
        };
        match events.recv().await {
            Ok(event) if domain::concerns(resource, &event) => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            // Its helper serves another runtime now; the tick is left.
            Err(broadcast::error::RecvError::Closed) => *news = None,
        }
    }
}

fn ticks(every: Duration, first: Duration) -> tokio::time::Interval {
    let mut tick = interval_at(Instant::now() + first, every.max(Duration::from_millis(10)));
    // A look that took long is not made up for by several at once.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
