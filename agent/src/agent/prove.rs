//! What makes it certain that nothing of a group runs on a node that says nothing: it was fenced, or a person says so.
//!
//! Only an owner fences, so only who has a majority does. Each node is fenced by one task; what comes of it is told to the
//! main task, which takes the node off the list of those that a group waits for ([`super::attend`]).

use std::{collections::BTreeMap, time::Duration};

use agent_common::node_bit;
use agent_services::{
    fence::{self, Action, Outcome, Plan, Power, Said, Step},
    resource::drbd::{Given, Others},
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::supervise::{Done, Supervisor};
use crate::{
    control::proto::{Code, Refusal},
    events::{Draft, EventKind},
    net::rt::boottime_ns,
};

/// News that may wait; a task waits when this is full.
const NEWS: usize = 64;
/// A node that failed before this one took over may be off since long: so long it may take to be heard, ns.
const LET_START: u64 = 30_000_000_000;
/// After a fencing that failed.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MOST: Duration = Duration::from_secs(300);

/// What is certain about the other nodes of a group that is owned here.
#[derive(Clone, Debug, Default)]
pub(super) struct Certain {
    /// For DRBD.
    pub given: Given,
    /// A fence device did it.
    pub fenced: bool,
    /// For people.
    pub how: Vec<String>,
}

impl Certain {
    /// They stopped it, by their own word.
    pub fn stopped() -> Certain {
        Certain {
            given: Given {
                others: Others::Stopped,
                ..Given::default()
            },
            ..Certain::default()
        }
    }

    /// One of them is gone, however the others are.
    pub fn gone(&mut self, how: &Gone) {
        self.given.others = Others::Gone;
        self.fenced |= how.device;
        self.how.push(how.text.clone());
    }
}

/// Why a node can do no more harm.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    /// A fence device said so, no person.
    device: bool,
    text: String,
}

impl Gone {
    /// A person says so.
    pub fn said(how: &str) -> Gone {
        Gone {
            device: false,
            text: how.to_owned(),
        }
    }
}

/// What a task tells.
#[derive(Debug)]
pub(super) enum News {
    /// A call of an agent.
    Step(Step),
    /// It can do no more harm; what is left is to start it again.
    Off(String),
    /// It is over.
    Over(Outcome, Duration),
}

#[derive(Debug)]
struct Task {
    handle: JoinHandle<()>,
    begun: u64,
    /// The node is off; what is left is to start it again.
    off: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: u64,
    wait: Duration,
}

/// Nodes that are being fenced, or were.
#[derive(Debug)]
pub(super) struct Provers {
    tasks: BTreeMap<u8, Task>,
    /// Not heard since.
    gone: BTreeMap<u8, Gone>,
    failed: BTreeMap<u8, Retry>,
    send: mpsc::Sender<(u8, u64, News)>,
    news: mpsc::Receiver<(u8, u64, News)>,
}

impl Default for Provers {
    fn default() -> Self {
        let (send, news) = mpsc::channel(NEWS);
        Provers {
            tasks: BTreeMap::new(),
            gone: BTreeMap::new(),
            failed: BTreeMap::new(),
            send,
            news,
        }
    }
}

impl Provers {
    /// Waits for news of a node: the node, when its task began, and what it tells. Safe to drop while it waits.
    pub async fn news(&mut self) -> (u8, u64, News) {
        match self.news.recv().await {
            Some(news) => news,
            // Not while `send` is held here.
            None => std::future::pending().await,
        }
    }

    /// Why a node can do no more harm; `None`: it may.
    pub fn gone(&self, node: u8) -> Option<&Gone> {
        self.gone.get(&node)
    }

    /// It is heard: what was certain of its last life says nothing of this one.
    pub fn heard(&mut self, node: u8) {
        self.gone.remove(&node);
        self.failed.remove(&node);
    }

    /// All others are called off: nobody waits for them any more. Not those that are only to be started again.
    pub fn keep(&mut self, wanted: u32) {
        self.tasks
            .retain(|id, task| task.off || wanted & node_bit(*id) != 0);
    }

    /// Is something under way, or due, against a node?
    pub fn is_busy(&self, node: u8, now: u64) -> bool {
        self.tasks.contains_key(&node) || self.failed.get(&node).is_some_and(|r| now < r.at)
    }

    /// Was it a fence device that ended the node? `None`: it is not known to be gone.
    pub fn by_device(&self, node: u8) -> Option<bool> {
        Some(self.gone.get(&node)?.device)
    }

    /// For people.
    pub fn says(&self, node: u8) -> Option<&'static str> {
        if self.tasks.contains_key(&node) {
            Some("it is being fenced")
        } else if self.failed.contains_key(&node) {
            Some("fencing it failed, and is tried again")
        } else {
            None
        }
    }

    /// Begins to fence a node; `look`: if it is off already, nothing is done to it.
    fn begin(&mut self, node: u8, plan: Plan, look: bool) {
        let (send, begun) = (self.send.clone(), boottime_ns());
        let handle = tokio::spawn(carry_out(node, begun, plan, look, send));
        let off = false;
        self.tasks.insert(node, Task { handle, begun, off });
    }

    fn failed(&mut self, node: u8) -> Duration {
        let wait = self
            .failed
            .get(&node)
            .map_or(RETRY_FIRST, |r| r.wait.saturating_mul(2).min(RETRY_MOST));
        let at = boottime_ns() + u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX / 2);
        self.failed.insert(node, Retry { at, wait });
        wait
    }
}

async fn carry_out(
    node: u8,
    begun: u64,
    plan: Plan,
    look: bool,
    send: mpsc::Sender<(u8, u64, News)>,
) {
    if look && is_off(&plan).await {
        let text = "it was off already, as its fence device says".to_owned();
        let _ = send.send((node, begun, News::Off(text))).await;
        let outcome = Outcome::Fenced {
            level: 1,
            verified: true,
        };
        let _ = send
            .send((node, begun, News::Over(outcome, Duration::ZERO)))
            .await;
        return;
    }
    let mut told = false;
    let report = fence::run(&plan, |step, fenced| {
        let by = step.what.clone();
        let _ = send.try_send((node, begun, News::Step(step.clone())));
        if fenced && !told {
            told = send
                .try_send((node, begun, News::Off(format!("fenced: {by}"))))
                .is_ok();
        }
    })
    .await;
    if report.outcome.is_fenced() && !told {
        let _ = send.send((node, begun, News::Off("fenced".into()))).await;
    }
    let over = News::Over(report.outcome, report.took);
    let _ = send.send((node, begun, over)).await;
}

/// Do all devices of a level say that the node is off?
async fn is_off(plan: &Plan) -> bool {
    for level in plan.levels.iter().filter(|l| !l.is_empty()) {
        let mut off = true;
        for device in level {
            let said = fence::call(device, &plan.node, Action::Status).await;
            off &= said == Said::Power(Power::Off);
        }
        if off {
            return true;
        }
    }
    false
}

/// What is known of a group that waits for a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// Since when, boot ns.
    pub since: u64,
    /// The node owned the group until then.
    pub owned_it: bool,
    /// The node is heard: it will say so itself.
    pub heard: bool,
}

/// Is a node to be fenced now, and if so, is it looked at first? What owned the group is; what has not been heard for longer may
/// have been off since long, or only starts.
fn due(w: Waiting, now: u64) -> Option<bool> {
    if w.heard {
        None
    } else if w.owned_it {
        Some(false)
    } else {
        (now >= w.since.saturating_add(LET_START)).then_some(true)
    }
}

impl Supervisor {
    /// A group waits for a node that says nothing: is there a way to make sure?
    pub(super) fn prove(&mut self, node: u8, w: Waiting) {
        let now = boottime_ns();
        let Some(look) = due(w, now) else { return };
        if self.provers.is_busy(node, now) {
            return;
        }
        let Some(plan) = self.config.fence_plan(node) else {
            return;
        };
        let name = self.narrator.names.node(node);
        let text = format!("fencing {name}: it owned what must not run twice, and says nothing");
        self.record(vec![Draft::new(EventKind::Fencing, text).peer(name)]);
        self.provers.begin(node, plan, look);
    }

    /// DRBD has lost a replica whose node says nothing, and writes wait until that is gone.
    pub(super) fn fence_lost(&mut self, node: u8) {
        if self.provers.is_busy(node, boottime_ns()) {
            return;
        }
        let Some(plan) = self.config.fence_plan(node) else {
            return;
        };
        let name = self.narrator.names.node(node);
        let text = format!(
            "fencing {name}: replication to it is lost, it says nothing, and writes wait for that"
        );
        self.record(vec![Draft::new(EventKind::Fencing, text).peer(name)]);
        // It may have been switched off.
        self.provers.begin(node, plan, true);
    }

    /// What a task tells.
    pub(super) fn prover_news(&mut self, (node, begun, news): (u8, u64, News)) {
        if self
            .provers
            .tasks
            .get(&node)
            .is_none_or(|t| t.begun != begun)
        {
            // Of one that was called off.
            return;
        }
        let name = self.narrator.names.node(node);
        match news {
            News::Step(step) => {
                let took = step.took.as_millis();
                let text = format!("{name}: {} in {took} ms: {}", step.what, step.result);
                let draft = Draft::new(EventKind::Fencing, text).peer(name);
                self.record(vec![draft.with("took_ms", took as u64)]);
            }
            News::Off(text) => {
                let took = (boottime_ns().saturating_sub(begun)) / 1_000_000;
                let draft = Draft::new(
                    EventKind::Fenced,
                    format!("{name} can do no more harm: {text}"),
                );
                self.record(vec![draft.peer(name.clone()).with("took_ms", took)]);
                let text = format!("{name}: {text}, {took} ms");
                self.provers.gone.insert(node, Gone { device: true, text });
                self.provers.failed.remove(&node);
                if let Some(task) = self.provers.tasks.get_mut(&node) {
                    task.off = true;
                }
                self.review_holds();
            }
            News::Over(outcome, took) => {
                self.provers.tasks.remove(&node);
                if !outcome.is_fenced() {
                    let again = self.provers.failed(node).as_secs();
                    let text = format!(
                        "{name} could not be fenced ({} ms); tried again in {again} s. If it is certainly off: heartline fence {name} --confirm",
                        took.as_millis()
                    );
                    self.record(vec![Draft::new(EventKind::FencingFailed, text).peer(name)]);
                }
                self.review_holds();
            }
        }
    }

    /// Somebody says that a node is off.
    pub(super) fn confirm_gone(&mut self, node: u8, how: &str, tell: Done<String>) {
        let name = self.narrator.names.node(node);
        if node == self.me || self.is_heard(node) {
            let text = format!("{name} is heard: it is not off");
            let _ = tell.send(Err(Refusal::new(Code::Refused, text).help(
                "what must not run twice starts by itself as soon as that node says that nothing runs there",
            )));
            return;
        }
        let waiting = self.waits_for(node);
        let names: Vec<_> = waiting
            .iter()
            .map(|g| self.narrator.names.group(*g))
            .collect();
        self.record(vec![
            Draft::new(
                EventKind::Fenced,
                format!("{name} can do no more harm: {how}"),
            )
            .peer(name.clone()),
        ]);
        self.provers
            .gone
            .insert(node, Gone::said(&format!("{name}: {how}")));
        self.review_holds();
        let text = if names.is_empty() {
            format!(
                "{name} is taken as off until it is heard; no group here waits for that (each owner must be told)"
            )
        } else {
            format!(
                "{name} is taken as off until it is heard: {}",
                names.join(", ")
            )
        };
        let _ = tell.send(Ok(text));
    }

    /// Is a node heard, agent and all?
    pub(super) fn is_heard(&mut self, node: u8) -> bool {
        let nodes = &self.rt.snapshot.read().nodes;
        nodes
            .get(usize::from(node).wrapping_sub(1))
            .is_some_and(|n| n.alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_heard_is_never_fenced_and_who_may_be_off_is_looked_at_first() {
        let w = Waiting {
            since: 5,
            owned_it: true,
            heard: false,
        };
        assert_eq!(due(w, 5), Some(false));
        assert_eq!(due(Waiting { heard: true, ..w }, 5), None);
        let old = Waiting {
            owned_it: false,
            ..w
        };
        assert_eq!(due(old, 4 + LET_START), None);
        assert_eq!(due(old, 5 + LET_START), Some(true));
        let heard = Waiting { heard: true, ..old };
        assert_eq!(due(heard, u64::MAX), None);
    }

    #[test]
    fn a_fencing_that_fails_is_tried_again_later_and_later() {
        let mut p = Provers::default();
        let waits: Vec<u64> = (0..9).map(|_| p.failed(2).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert!(p.is_busy(2, boottime_ns()) && !p.is_busy(3, boottime_ns()));
        p.heard(2);
        assert!(!p.is_busy(2, boottime_ns()));
    }

    #[test]
    fn one_that_is_gone_is_what_drbd_is_told() {
        let mut c = Certain::stopped();
        assert_eq!(c.given.others, Others::Stopped);
        c.gone(&Gone {
            device: true,
            text: "n1: fenced".into(),
        });
        assert_eq!(c.given.others, Others::Gone);
        assert!(c.fenced && c.how == ["n1: fenced"]);
    }
}
