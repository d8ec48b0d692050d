//! What is checked: rules, clocks, groups, and how far.

use agent_common::rules::Rules;
use agent_core::{CoreConfig, GroupConfig, NodeConfig, Timing};

use crate::fault::Menu;

/// Nodes.
pub const NODES: usize = 3;

/// One step of time, ns.
pub const TICK: u64 = 5_000_000;

/// Ticks without faults at the beginning: the groups get their owners.
pub const SETTLE: u16 = 8;

/// Small numbers of ticks in the proportions that the configuration demands: `lease * 1.23 < takeover`.
pub const TIMING: Timing = Timing {
    heartbeat: 2 * TICK,
    lease: 4 * TICK,
    takeover: 6 * TICK,
    max_promise: 12 * TICK,
};

/// What is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Which rules hold.
    pub rules: Rules,
    /// Groups, 1 or 2.
    pub groups: u8,
    /// Ticks after [`SETTLE`] that are looked at.
    pub horizon: u16,
    /// Most faults in a history.
    pub faults: u8,
    /// A fault may happen at every such tick.
    pub every: u16,
    /// Which faults.
    pub menu: Menu,
    /// Error of each node's clock, parts per million.
    pub drift: [i64; NODES],
}

impl Setup {
    /// Everything holds, clocks as different as the lease allows, the owner's being the slow one.
    pub fn new(menu: Menu, faults: u8) -> Setup {
        Setup {
            rules: Rules::all(),
            groups: 1,
            horizon: 16,
            faults,
            every: 1,
            menu,
            drift: [-100_000, 100_000, 100_000],
        }
    }

    /// Do all rules hold?
    pub fn strict(&self) -> bool {
        self.rules == Rules::all()
    }

    /// The configuration of a node.
    pub fn config(&self, me: u8) -> CoreConfig {
        let mut c = CoreConfig::new(me, TIMING);
        for node in c.nodes.iter_mut().take(NODES) {
            *node = Some(NodeConfig::default());
        }
        for g in 0..self.groups {
            let ids: Vec<u8> = (0..NODES as u8)
                .map(|i| 1 + (i + g) % NODES as u8)
                .collect();
            c.groups[usize::from(g)] = Some(GroupConfig::preferring(&ids));
        }
        c
    }
}
