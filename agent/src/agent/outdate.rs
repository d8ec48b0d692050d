//! Replicas that DRBD has lost. An owner writes without one only when the node that keeps it has outdated it, or is gone.
//!
//! ```text
//! owner: DRBD's fence-peer handler ─▶ lost_peer ─▶ Command::Outdate ─▶ soft state ─▶ Event::Outdate: the other node
//!                                         ▲                                                │ drbdadm outdate
//!                                         └─ Event::Outdated ◀─ soft state ◀─ Command::Outdated
//! ```
//!
//! Soft state only carries the words. What makes it safe is in the other node's DRBD, which remembers; and an answer
//! counts only for the question that is asked now. A node that says nothing is fenced, if it can be.

use std::{collections::BTreeMap, time::Duration};

use agent_common::node_bit;
use agent_core::{Behind, Command};
use agent_services::resource::{Kind, drbd};
use tokio::{sync::mpsc, task::JoinHandle};

use super::supervise::Supervisor;
use crate::{
    events::{Draft, EventKind},
    net::rt::boottime_ns,
};

/// News that may wait; a task waits when this is full.
const NEWS: usize = 16;
/// How long DRBD on the other node may take to notice that the connection is lost.
const WITHIN: Duration = Duration::from_secs(30);
/// A question without an answer is asked again with another number, ns: the other agent may have been away.
const ASK_AGAIN: u64 = 5_000_000_000;
/// A handler that has not asked for so long has ended, ns.
const OVER: u64 = 5_000_000_000;

/// What DRBD's handler asks: a peer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The group.
    pub group: u8,
    /// The peer.
    pub node: u8,
    /// When this run of the handler began, boot ns. The connection may have been there since an earlier one, and the replica
    /// good again: each has a question of its own.
    pub run: u64,
    /// This node is Primary, and writes wait until they may go on without the peer.
    pub writes: bool,
}

/// What is certain about a peer that DRBD has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostPeer {
    /// It can do no more harm; true: a fence device ended it.
    pub gone: Option<bool>,
    /// It has outdated its replica.
    pub outdated: bool,
}

/// A question of this node's DRBD.
#[derive(Clone, Copy, Debug)]
struct Question {
    run: u64,
    behind: Behind,
    /// When that was asked of the other node; 0: not yet.
    asked: u64,
    /// It has answered.
    told: bool,
    /// When the handler wanted to know last.
    polled: u64,
}

#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What came of outdating a replica here.
#[derive(Debug)]
pub(super) struct News {
    group: u8,
    behind: Behind,
    result: Result<(), String>,
}

/// Questions that are under way, and answers.
#[derive(Debug)]
pub(super) struct Outdating {
    /// By group: of this node's DRBD. DRBD 8.4 has one peer; of several, one is asked about at a time.
    lost: BTreeMap<u8, Question>,
    /// By group: a replica here is being outdated.
    tasks: BTreeMap<u8, Task>,
    /// The number of the last question.
    round: u8,
    send: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
}

impl Default for Outdating {
    fn default() -> Self {
        let (send, news) = mpsc::channel(NEWS);
        Outdating {
            lost: BTreeMap::new(),
            tasks: BTreeMap::new(),
            // Not 1 each time: a new agent must not take an answer to its predecessor for one to itself.
            round: (boottime_ns() / 1_000_000 % 7) as u8,
            send,
            news,
        }
    }
}

impl Outdating {
    /// Waits for news. Safe to drop while it waits.
    pub async fn news(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // Not while `send` is held here.
            None => std::future::pending().await,
        }
    }

    /// Nodes that a handler waits for.
    pub fn waits(&self) -> u32 {
        let lost = self.lost.values();
        lost.fold(0, |m, l| m | node_bit(l.behind.node))
    }

    /// Another node's answer.
    pub fn told(&mut self, group: u8, behind: Behind) {
        if let Some(lost) = self.lost.get_mut(&group)
            && lost.asked != 0
            && lost.behind == behind
        {
            lost.told = true;
        }
    }

    /// A handler wants to know about a node. `None`: a later run of it does, too.
    fn poll(&mut self, lost: &Lost, now: u64) -> Option<&mut Question> {
        let new = Question {
            run: lost.run,
            behind: Behind {
                node: lost.node,
                round: 0,
            },
            asked: 0,
            told: false,
            polled: now,
        };
        let question = self.lost.entry(lost.group).or_insert(new);
        if question.run > lost.run {
            return None;
        }
        if question.run < lost.run || question.behind.node != lost.node {
            *question = new;
        }
        question.polled = now;
        Some(question)
    }

    /// Has the peer answered this run?
    fn is_told(&mut self, lost: &Lost, now: u64) -> bool {
        self.poll(lost, now).is_some_and(|q| q.told)
    }

    /// What is to be asked of a node that is heard, if it is time for that.
    fn question(&mut self, lost: &Lost, now: u64) -> Option<Behind> {
        let round = self.round % 7 + 1;
        let question = self.poll(lost, now)?;
        if question.told || question.asked != 0 && now < question.asked.saturating_add(ASK_AGAIN) {
            return None;
        }
        question.behind.round = round;
        question.asked = now;
        let behind = question.behind;
        self.round = round;
        Some(behind)
    }

    /// Groups whose handler has ended, and whether something was asked for it.
    fn over(&mut self, now: u64) -> Vec<(u8, bool)> {
        let over = |q: &Question| now >= q.polled.saturating_add(OVER);
        let ended: Vec<_> = self
            .lost
            .iter()
            .filter(|(_, l)| over(l))
            .map(|(group, l)| (*group, l.asked != 0))
            .collect();
        for (group, _) in &ended {
            self.lost.remove(group);
        }
        ended
    }
}

impl Supervisor {
    /// What is certain about a peer that DRBD has lost. Where writes wait for it, what can be done to make it certain is
    /// begun.
    pub(super) fn lost_peer(&mut self, lost: Lost) -> LostPeer {
        let Lost { group, node, .. } = lost;
        let heard = self.is_heard(node);
        let gone = if heard {
            None
        } else {
            self.provers.by_device(node)
        };
        let owned = self.rt.snapshot.read().owned.has(group);
        if !lost.writes || !owned || gone.is_some() {
            return LostPeer {
                gone,
                outdated: false,
            };
        }
        let now = boottime_ns();
        let outdated = self.outdating.is_told(&lost, now);
        match (outdated, heard) {
            (true, _) => {}
            (false, true) => self.ask_to_outdate(&lost, now),
            (false, false) => self.fence_lost(node),
        }
        LostPeer { gone, outdated }
    }

    fn ask_to_outdate(&mut self, lost: &Lost, now: u64) {
        let Some(behind) = self.outdating.question(lost, now) else {
            return;
        };
        let group = lost.group;
        let names = &self.narrator.names;
        let (name, peer) = (names.group(group), names.node(lost.node));
        let text = format!(
            "replication of {name} to {peer} is lost: it is asked to outdate its replica, and writes wait for that"
        );
        let draft = Draft::new(EventKind::ServiceTrouble, text).group(name);
        self.record(vec![draft.peer(peer)]);
        let behind = Some(behind);
        self.command(Command::Outdate { group, behind }, Box::new(|_| {}));
    }

    /// Questions whose handler has ended are taken back: who starts later must not take them for new.
    pub(super) fn end_outdating(&mut self) {
        for (group, asked) in self.outdating.over(boottime_ns()) {
            if asked {
                let behind = None;
                self.command(Command::Outdate { group, behind }, Box::new(|_| {}));
            }
        }
    }

    /// The owner of a group has lost a replica.
    pub(super) fn outdate_here(&mut self, group: u8, behind: Behind) {
        if behind.node != self.me || self.rt.snapshot.read().owned.has(group) {
            return;
        }
        let of = self.config.groups.iter().find(|g| g.id == group);
        let resources = of.into_iter().flat_map(|g| &g.services.resources);
        let names = resources.filter_map(|r| match &r.kind {
            Kind::Drbd { resource, .. } => Some(resource.clone()),
            Kind::Systemd { .. }
            | Kind::Exec { .. }
            | Kind::Ocf { .. }
            | Kind::Filesystem { .. } => None,
        });
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            return;
        }
        let send = self.outdating.send.clone();
        let task = tokio::spawn(async move {
            let mut result = Ok(());
            for name in names {
                if let Err(why) = drbd::outdate(&name, WITHIN).await {
                    result = Err(why.to_string());
                    break;
                }
            }
            let news = News {
                group,
                behind,
                result,
            };
            let _ = send.send(news).await;
        });
        // An earlier question is answered no more: nobody waits for that.
        self.outdating.tasks.insert(group, Task(task));
    }

    /// It is outdated, or it could not be.
    pub(super) fn outdated_here(&mut self, news: News) {
        let News {
            group,
            behind,
            result,
        } = news;
        self.outdating.tasks.remove(&group);
        let name = self.narrator.names.group(group);
        let text = match &result {
            Ok(()) => format!(
                "this node's replica of {name} is outdated: its owner goes on without it; a resync makes it good again"
            ),
            Err(why) => format!("this node's replica of {name} could not be outdated: {why}"),
        };
        let draft = Draft::new(EventKind::ServiceTrouble, text).group(name);
        self.record(vec![draft]);
        if result.is_ok() {
            self.command(Command::Outdated { group, behind }, Box::new(|_| {}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(group: u8, node: u8, run: u64) -> Lost {
        Lost {
            group,
            node,
            run,
            writes: true,
        }
    }

    #[test]
    fn only_the_answer_to_the_newest_question_counts() {
        let mut o = Outdating::default();
        let l = lost(0, 2, 1);
        let first = o.question(&l, 10).expect("a question");
        assert_eq!(o.question(&l, 11), None, "it is under way");
        let second = o.question(&l, 10 + ASK_AGAIN).expect("asked again");
        assert_ne!(first, second);
        o.told(0, first);
        assert!(!o.is_told(&l, 20));
        o.told(1, second);
        assert!(!o.is_told(&l, 20), "of another group");
        o.told(0, second);
        assert!(o.is_told(&l, 20));
        assert_eq!(o.question(&l, u64::MAX), None);
        // Of another peer nothing is known.
        assert!(!o.is_told(&lost(0, 3, 1), 20));
    }

    /// Between two runs of the handler the connection was there: the replica may be good again.
    #[test]
    fn an_answer_is_not_for_the_next_run_of_the_handler() {
        let mut o = Outdating::default();
        let behind = o.question(&lost(0, 2, 1), 10).expect("a question");
        o.told(0, behind);
        assert!(o.is_told(&lost(0, 2, 1), 11));
        assert!(!o.is_told(&lost(0, 2, 5), 12));
        // And the run before it gets no answer to what the next one asks.
        let behind = o.question(&lost(0, 2, 5), 13).expect("a question");
        o.told(0, behind);
        assert!(!o.is_told(&lost(0, 2, 1), 14));
        assert!(o.is_told(&lost(0, 2, 5), 15));
    }

    #[test]
    fn a_question_ends_with_its_handler_and_its_answer_with_it() {
        let mut o = Outdating::default();
        assert_eq!(o.waits(), 0);
        let behind = o.question(&lost(4, 2, 1), 10).expect("a question");
        assert_eq!(o.waits(), node_bit(2));
        o.is_told(&lost(5, 3, 1), 10);
        assert_eq!(o.over(9 + OVER), []);
        o.is_told(&lost(5, 3, 1), 20);
        assert_eq!(o.over(10 + OVER), [(4, true)]);
        o.told(4, behind);
        assert!(
            !o.is_told(&lost(4, 2, 1), 30),
            "the next loss is another one"
        );
        assert_eq!(o.over(20 + OVER), [(5, false)]);
    }
}
