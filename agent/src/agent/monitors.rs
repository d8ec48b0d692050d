//! Is each fence device there? Asked now and then, so that a dead one is known before it is needed. Touches no node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use agent_services::fence::{self, Device};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{setup::Names, supervise::Supervisor};
use crate::{
    config::{Config, Fence, Role},
    control::proto::{FenceStanding, FenceStatus, Level, Warning},
    events::{Draft, EventKind},
    net::rt::boottime_ns,
};

/// News that may wait; a task waits when this is full.
const NEWS: usize = 64;
/// So many agents run at once: each is a Python program.
const AT_ONCE: usize = 2;
/// The first question comes within this time, or the interval if that is less.
const FIRST: Duration = Duration::from_secs(5);
/// Failures in a row that are told: one may be a session that somebody else had open.
const TOLD: u32 = 2;
/// How much sooner a device that failed is asked again.
const SOONER: u32 = 4;

/// What a device said, and how long that took.
pub(super) type News = (String, u64, Duration, Result<(), String>);

#[derive(Debug)]
struct Seen {
    fence: Fence,
    task: JoinHandle<()>,
    /// Tells the words of this task from those of one before it.
    round: u64,
    /// When it answered last, or did not, boot ns; 0: not yet.
    at: u64,
    took: Duration,
    /// Why it failed last; empty: it answered.
    why: String,
    failures: u32,
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The devices that end other nodes, by name.
#[derive(Debug)]
pub(super) struct Monitors {
    seen: BTreeMap<String, Seen>,
    rounds: u64,
    permits: Arc<Semaphore>,
    send: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

impl Default for Monitors {
    fn default() -> Self {
        let (send, news) = mpsc::channel(NEWS);
        Monitors {
            seen: BTreeMap::new(),
            rounds: 0,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            send,
            news,
        }
    }
}

impl Monitors {
    /// Waits for news. Safe to drop while it waits.
    pub async fn news(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // Not while `send` is held here.
            None => std::future::pending().await,
        }
    }

    /// Asks the devices of a configuration, where this node may fence: a member, and others' devices.
    pub fn set(&mut self, config: &Config, me: u8) {
        let member = config
            .node_by_id(me)
            .is_some_and(|n| n.role == Role::Member);
        let mine = |f: &&Fence| member && f.node != me;
        let wanted = |seen: &Seen| config.fences.iter().filter(mine).any(|f| *f == seen.fence);
        self.seen.retain(|_, seen| wanted(seen));
        for fence in config.fences.iter().filter(mine) {
            if !self.seen.contains_key(&fence.device.name) {
                let first = jitter(fence.monitor_interval.min(FIRST));
                self.begin(config, fence.clone(), first);
            }
        }
    }

    /// A node is about to be fenced: its devices have better things to do than to answer questions.
    pub fn hush(&mut self, config: &Config, node: u8) {
        let of = self.seen.values().filter(|s| s.fence.node == node);
        let fences: Vec<_> = of.map(|s| s.fence.clone()).collect();
        for fence in fences {
            let wait = fence.monitor_interval;
            self.begin(config, fence, wait);
        }
    }

    fn begin(&mut self, config: &Config, fence: Fence, first: Duration) {
        let Some(node) = config.node_by_id(fence.node) else {
            return;
        };
        self.rounds += 1;
        let watch = Watch {
            device: fence.device.clone(),
            node: node.name.clone(),
            interval: fence.monitor_interval,
            round: self.rounds,
        };
        let send = self.send.clone();
        let task = tokio::spawn(watch.run(first, Arc::clone(&self.permits), send));
        let name = fence.device.name.clone();
        let before = self.seen.remove(&name);
        let known = before.map(|s| (s.at, s.took, s.why.clone(), s.failures));
        let (at, took, why, failures) = known.unwrap_or_default();
        let seen = Seen {
            fence,
            task,
            round: self.rounds,
            at,
            took,
            why,
            failures,
        };
        self.seen.insert(name, seen);
    }

    /// Takes what a device said. Gives it if people should know: it is bad now (with why), or good again.
    fn note(&mut self, (name, round, took, said): News, at: u64) -> Option<(&Fence, Option<&str>)> {
        let seen = self.seen.get_mut(&name).filter(|s| s.round == round)?;
        (seen.at, seen.took) = (at, took);
        match said {
            Ok(()) => {
                let was_bad = seen.failures >= TOLD;
                seen.failures = 0;
                seen.why.clear();
                was_bad.then_some((&seen.fence, None))
            }
            Err(why) => {
                seen.failures = seen.failures.saturating_add(1);
                seen.why = why;
                (seen.failures == TOLD).then_some((&seen.fence, Some(seen.why.as_str())))
            }
        }
    }

    /// For status.
    pub fn status(&self, names: &Names, now: u64) -> Vec<FenceStatus> {
        let seen = self.seen.values().map(|s| FenceStatus {
            name: s.fence.device.name.clone(),
            node: names.node(s.fence.node),
            agent: s.fence.device.agent.clone(),
            level: s.fence.level,
            state: match s.at {
                0 => FenceStanding::NotAsked,
                _ if s.failures == 0 => FenceStanding::Good,
                _ => FenceStanding::Failing,
            },
            text: s.why.clone(),
            failures: s.failures,
            age_ms: (s.at != 0).then(|| now.saturating_sub(s.at) / 1_000_000),
            took_ms: u64::try_from(s.took.as_millis()).unwrap_or(u64::MAX),
        });
        seen.collect()
    }

    /// What people should do about it.
    pub fn warnings(&self, names: &Names) -> Vec<Warning> {
        let bad = self.seen.values().filter(|s| s.failures >= TOLD);
        let warning = |s: &Seen| {
            let node = names.node(s.fence.node);
            Warning {
                level: Level::Warning,
                code: "fence_device_failed".into(),
                text: format!(
                    "the fence device {} does not answer, so {node} may not be fenced when it must be: {}",
                    s.fence.device.name, s.why
                ),
                help: Some(format!("`heartline fence {node} --test` asks it at once")),
            }
        };
        bad.map(warning).collect()
    }
}

/// One device, asked over and over.
struct Watch {
    device: Device,
    node: String,
    interval: Duration,
    round: u64,
}

impl Watch {
    async fn run(self, first: Duration, permits: Arc<Semaphore>, send: mpsc::Sender<News>) {
        sleep(first).await;
        let mut failures = 0u32;
        loop {
            // Closed by nobody.
            let Ok(permit) = permits.acquire().await else {
                return;
            };
            let begun = Instant::now();
            let said = fence::answers(&self.device, &self.node).await;
            drop(permit);
            failures = if said.is_ok() {
                0
            } else {
                failures.saturating_add(1)
            };
            let news = (self.device.name.clone(), self.round, begun.elapsed(), said);
            if send.send(news).await.is_err() {
                return;
            }
            sleep(pause(self.interval, failures)).await;
        }
    }
}

/// Until the next question: a device that has failed once is asked again soon, to be sure.
fn pause(interval: Duration, failures: u32) -> Duration {
    let time = if (1..TOLD).contains(&failures) {
        interval / SOONER
    } else {
        interval
    };
    // Nodes that started together do not ask together for ever.
    time - time / 10 + jitter(time / 5)
}

/// Somewhere from nothing to this time.
fn jitter(most: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

impl Supervisor {
    /// A fence device was asked.
    pub(super) fn monitor_news(&mut self, news: News) {
        let Some((fence, why)) = self.monitors.note(news, boottime_ns()) else {
            return;
        };
        let (name, agent) = (&fence.device.name, &fence.device.agent);
        let node = self.narrator.names.node(fence.node);
        let draft = match why {
            Some(why) => {
                let text = format!(
                    "the fence device {name} ({agent}) does not answer, so {node} may not be fenced when it must be: {why}"
                );
                Draft::new(EventKind::FenceDeviceFailed, text)
            }
            None => Draft::new(
                EventKind::FenceDeviceRecovered,
                format!("the fence device {name} ({agent}) of {node} answers again"),
            ),
        };
        let draft = draft.peer(node).with("device", name);
        self.record(vec![draft]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(name: &str) -> Fence {
        Fence {
            node: 2,
            level: 1,
            stays_off: false,
            delay: Duration::ZERO,
            monitor_interval: Duration::from_secs(60),
            device: Device {
                name: name.into(),
                agent: "fence_x".into(),
                parameters: BTreeMap::new(),
                secrets: Vec::new(),
                timeout: Duration::from_secs(1),
                verify: true,
                can_on: true,
                only_reboots: false,
            },
        }
    }

    #[tokio::test]
    async fn told_at_the_second_failure_and_at_the_first_answer() {
        let mut m = Monitors::default();
        let seen = Seen {
            fence: fence("a"),
            task: tokio::spawn(async {}),
            round: 7,
            at: 0,
            took: Duration::ZERO,
            why: String::new(),
            failures: 0,
        };
        m.seen.insert("a".into(), seen);
        let names = Names::default();
        assert_eq!(m.status(&names, 5)[0].state, FenceStanding::NotAsked);
        let say = |m: &mut Monitors, round, said: Result<(), &str>| {
            let took = Duration::from_millis(3);
            let news = ("a".to_owned(), round, took, said.map_err(str::to_owned));
            let told = m.note(news, 1_000_000_000);
            told.map(|(_, why)| why.map(str::to_owned))
        };
        assert_eq!(say(&mut m, 7, Ok(())), None);
        assert_eq!(say(&mut m, 7, Err("no route")), None);
        let status = &m.status(&names, 3_000_000_000)[0];
        assert_eq!(
            (status.state, status.age_ms),
            (FenceStanding::Failing, Some(2000))
        );
        assert!(m.warnings(&names).is_empty(), "once is no news");
        let why = Some(Some("dead".to_owned()));
        assert_eq!(say(&mut m, 7, Err("dead")), why);
        assert_eq!(m.warnings(&names)[0].code, "fence_device_failed");
        assert_eq!(say(&mut m, 7, Err("dead")), None, "told once");
        assert_eq!(say(&mut m, 6, Ok(())), None, "of a task before");
        assert_eq!(say(&mut m, 7, Ok(())), Some(None));
        assert_eq!(m.status(&names, 0)[0].state, FenceStanding::Good);
    }

    #[test]
    fn pauses_are_about_the_interval_and_shorter_to_be_sure() {
        let minute = Duration::from_secs(60);
        for _ in 0..1000 {
            let (plain, unsure) = (pause(minute, 0), pause(minute, 1));
            assert!((54..=66).contains(&plain.as_secs()), "{plain:?}");
            assert!((13..=16).contains(&unsure.as_secs()), "{unsure:?}");
            assert!(
                pause(minute, TOLD).as_secs() >= 54,
                "a dead one is not asked the more"
            );
            assert!(jitter(FIRST) <= FIRST);
        }
    }
}
