//! Who is alive: heartbeats come from a node's agent, acks from its kernel, so "kernel alive, agent late" can be told.

use agent_common::state::PeerCell;

use crate::Timing;

/// How a node looks from here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Health {
    /// Never heard since this agent began.
    #[default]
    NeverSeen,
    /// Heartbeats come in time.
    Alive,
    /// Its kernel still acks, its agent sends nothing: frozen or starved.
    Late,
    /// Nothing comes.
    Silent,
}

/// When any link of the peer was last heard, 0 for never.
pub fn last_heard(p: &PeerCell) -> u64 {
    p.heard.iter().map(|c| c.load()).max().unwrap_or(0)
}

/// The health of a peer at `now`.
pub fn health(p: &PeerCell, now: u64, t: &Timing) -> Health {
    let heard = last_heard(p);
    if heard == 0 {
        return Health::NeverSeen;
    }
    if now.saturating_sub(heard) < t.alive() {
        return Health::Alive;
    }
    // A kernel that goes on to ack after its agent fell silent; a node that was cut off does both to the end.
    let acked = p.acked.load();
    let goes_on = acked.saturating_sub(heard) >= t.alive() / 2;
    if goes_on && now.saturating_sub(acked) < t.alive() {
        Health::Late
    } else {
        Health::Silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_agent_is_late_and_a_dead_node_silent() {
        let (p, t) = (PeerCell::default(), Timing::LAN);
        assert_eq!(health(&p, 5, &t), Health::NeverSeen);
        p.heard[2].store(1_000_000_000);
        assert_eq!(health(&p, 1_000_000_000 + t.alive() - 1, &t), Health::Alive);
        p.acked.store(1_000_000_000 + t.alive());
        assert_eq!(health(&p, 1_000_000_000 + t.alive() + 1, &t), Health::Late);
        assert_eq!(
            health(&p, 1_000_000_000 + 3 * t.alive(), &t),
            Health::Silent
        );
        p.acked.store(1_000_000_000 + t.heartbeat);
        assert_eq!(
            health(&p, 1_000_000_000 + t.alive() + 1, &t),
            Health::Silent,
            "both ended together: cut off"
        );
    }
}
