//! What may go wrong in a history.

use std::fmt;

use agent_common::wire::Kind;

use crate::setup::NODES;

/// One deviation from the history in which all goes well. Nodes are numbered from 1, durations are ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Messages from one node to another are lost for so long.
    Cut(u8, u8, u16),
    /// Messages between two nodes are lost for so long.
    Apart(u8, u8, u16),
    /// All messages of a node, both ways, are lost for so long.
    Alone(u8, u16),
    /// The agent stands still for so long; its kernel goes on.
    Freeze(u8, u16),
    /// The agent dies and starts again over its table after so long.
    Kill(u8, u16),
    /// The node loses its memory, and is back in the next tick.
    Reboot(u8),
    /// What the node sends of this kind in this tick takes so long.
    Hold(u8, Kind8, u16),
    /// What the node sends of this kind in this tick is lost.
    Lose(u8, Kind8),
    /// What the node sends of this kind in this tick comes again after so long.
    Copy(u8, Kind8, u16),
    /// Somebody moves group 0 to this node.
    Move(u8),
    /// The agent asks for the longest promise, as before a restart.
    Plan(u8),
    /// In this tick the nodes come in the other order.
    Reverse,
}

/// A kind of message, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind8(pub u8);

impl fmt::Debug for Kind8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Kind::from_u8(self.0) {
            Some(k) => write!(f, "{k:?}"),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Which faults are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Menu {
    /// One duration of each, fewer kinds: for more faults in a history.
    Small,
    /// All kinds and several durations.
    Full,
    /// Cuts, reboots and planned pauses only: for long combinations of those.
    Coarse,
}

impl Menu {
    /// The faults, in a fixed order.
    pub fn faults(self) -> Vec<Fault> {
        let n = NODES as u8;
        let pairs = [(1, 2), (1, 3), (2, 3)];
        let kinds =
            |kinds: &[Kind]| -> Vec<Kind8> { kinds.iter().map(|k| Kind8(*k as u8)).collect() };
        let mut all = Vec::new();
        let (freezes, alones, kills): (&[u16], &[u16], &[u16]) = match self {
            Menu::Small | Menu::Coarse => (&[7], &[8], &[1]),
            Menu::Full => (&[3, 7, 10], &[3, 8], &[1, 6]),
        };
        all.extend(pairs.map(|(a, b)| Fault::Apart(a, b, 8)));
        for node in 1..=n {
            all.extend(alones.iter().map(|d| Fault::Alone(node, *d)));
            all.extend(freezes.iter().map(|d| Fault::Freeze(node, *d)));
            all.push(Fault::Reboot(node));
        }
        all.push(Fault::Plan(1));
        if self == Menu::Coarse {
            return all;
        }
        all.push(Fault::Move(2));
        for node in 1..=n {
            all.extend(kills.iter().map(|d| Fault::Kill(node, *d)));
            for kind in kinds(&[Kind::Heartbeat, Kind::Ack, Kind::Grant]) {
                let holds: &[u16] = match self {
                    Menu::Full => &[1, 3, 6],
                    Menu::Small | Menu::Coarse => &[3],
                };
                all.extend(holds.iter().map(|d| Fault::Hold(node, kind, *d)));
                if self == Menu::Full {
                    all.push(Fault::Lose(node, kind));
                    all.push(Fault::Copy(node, kind, 4));
                }
            }
        }
        if self == Menu::Full {
            for (a, b) in pairs {
                all.push(Fault::Cut(a, b, 8));
                all.push(Fault::Cut(b, a, 8));
            }
            all.push(Fault::Move(3));
            all.push(Fault::Plan(2));
            all.push(Fault::Reverse);
        }
        all
    }
}
