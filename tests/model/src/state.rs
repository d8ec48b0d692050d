//! A state of the three nodes and the network, compact enough to be kept and compared.

use agent_common::{record::Record, state::Shared, wire::Message};
use agent_core::saved::Saved;
use heartline_sim::ledger::{Ledger, Life};

use crate::{
    check::Broken,
    fault::{Fault, Kind8},
    setup::NODES,
};

/// A node's table: its words that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Table(Box<[(u16, u64)]>);

impl Table {
    /// Reads a table.
    pub fn of(sh: &Shared) -> Table {
        let words = sh.cells().iter().map(|c| c.load()).enumerate();
        Table(
            words
                .filter(|(_, w)| *w != 0)
                .map(|(i, w)| (i as u16, w))
                .collect(),
        )
    }

    /// Writes it.
    pub fn put(&self, sh: &Shared) {
        let cells = sh.cells();
        for c in cells {
            c.store(0);
        }
        for (i, w) in &self.0 {
            cells[usize::from(*i)].store(*w);
        }
    }
}

/// A record that waits for a frozen or dead agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// Its kind.
    pub kind: u32,
    /// Boot clock at arrival.
    pub now: u64,
    /// The message.
    pub message: Message,
}

impl Waiting {
    /// As the ring buffer has it.
    pub fn record(&self) -> Record {
        Record {
            kind: self.kind,
            ifindex: 0,
            now: self.now,
            message: self.message,
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeState {
    /// Is it up?
    pub up: bool,
    /// Its boot clock showed this
    pub base: u64,
    /// at this tick.
    pub since: u16,
    /// Its table.
    pub table: Table,
    /// Its agent's memory, if the agent runs.
    pub core: Option<Saved>,
    /// The agent stands still before this tick.
    pub frozen_until: u16,
    /// A dead agent (or a node that is down) comes back at this tick.
    pub back_at: u16,
    /// When its timer fires, boot clock.
    pub timer: u64,
    /// What waits for the agent.
    pub ring: Vec<Waiting>,
}

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flying {
    /// It arrives at this tick,
    pub at: u16,
    /// at this node.
    pub to: u8,
    /// The message.
    pub message: Message,
}

/// What becomes of messages that leave in this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Lost.
    Lost,
    /// Late by so many ticks.
    Late(u16),
    /// In time, and once more after so many ticks.
    Twice(u16),
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Time.
    pub tick: u16,
    /// Faults that may still happen.
    pub left: u8,
    /// The last fault of this tick, by its place in the menu: others of the same tick come after it.
    pub last: u16,
    /// The nodes.
    pub nodes: [NodeState; NODES],
    /// Messages that are late.
    pub late: Vec<Flying>,
    /// Messages from one node to another are lost before this tick.
    pub cut_until: [[u16; NODES]; NODES],
    /// What becomes of a node's messages of a kind, in this tick.
    pub ways: Vec<(u8, Kind8, Way)>,
    /// Commands of this tick.
    pub orders: Vec<Fault>,
    /// The nodes come in the other order in this tick.
    pub reverse: bool,
    /// Who owned each group last; 0 for nobody yet.
    pub owner: [u8; 2],
    /// Incarnation and epoch on which each node last owned each group.
    pub used: [[(u64, u64); NODES]; 2],
    /// What each voter has told others.
    pub ledgers: [Ledger; NODES],
    /// Incarnations that have ended.
    pub ended: Vec<Life>,
    /// Another node has owned a group than at first.
    pub moved: bool,
    /// What was broken, if anything.
    pub broken: Option<Broken>,
}
