//! What a core remembers, for the model checker (which goes back and forth) and for rollbacks in the simulator.
//! Only under `broken-rules`: no agent has it.

use std::ops::Deref;

use agent_common::{MAX_NODES, state::Shared};

use crate::{
    claimant::Pending,
    core::{Core, Parked, Planned},
    detector::Health,
    orderly::Stop,
    rng::Rng,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OfGroup {
    retry: u64,
    attempts: u8,
    free_since: u64,
    last_owner: u8,
    move_since: u64,
    stop: Stop,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OfNode {
    parked: Option<Parked>,
    health: Health,
    alive_since: u64,
    mismatch: bool,
    told_regressed: u64,
    twin: (u64, u64),
}

/// Everything a core remembers beside its table, but for gossip, the generator of its jitter, and actions (there must be
/// none left).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Saved {
    pend: Option<Pending>,
    groups: Vec<OfGroup>,
    nodes: Vec<OfNode>,
    reask: Option<u64>,
    started: u64,
    planned: Option<Planned>,
    leaving: bool,
    left: bool,
    voting: bool,
    voting_since: u64,
    duplicate_at: u64,
    next_heartbeat: u64,
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// What it remembers about the first nodes and groups; the others must not be configured.
    pub fn save(&self, nodes: u8, groups: u16) -> Saved {
        // Named one by one: a field that is added must be thought of here.
        let Core {
            cfg: _,
            sh: _,
            rules: _,
            rng: _,
            soft: _,
            groups: _,
            pend,
            retry,
            attempts,
            free_since,
            last_owner,
            move_since,
            stop,
            // Looked at on every timeout.
            look: _,
            // For the agent: no decision looks at it.
            clean: _,
            links: _,
            plans: _,
            fit_since: _,
            reask,
            parked,
            health,
            alive_since,
            started,
            mismatch,
            told_regressed,
            twin,
            planned,
            leaving,
            left,
            voting,
            voting_since,
            duplicate_at,
            next_heartbeat,
            beats: _,
            // Neither the model nor a rollback knows changes of members.
            next: _,
            retired: _,
            heard_since: _,
            held_back: _,
            vote_after: _,
            actions: _,
            dropped_actions: _,
        } = self;
        Saved {
            pend: *pend,
            groups: (0..usize::from(groups))
                .map(|g| OfGroup {
                    retry: retry[g],
                    attempts: attempts[g],
                    free_since: free_since[g],
                    last_owner: last_owner[g],
                    move_since: move_since[g],
                    stop: stop[g],
                })
                .collect(),
            nodes: (0..usize::from(nodes).min(MAX_NODES))
                .map(|i| OfNode {
                    parked: parked[i],
                    health: health[i],
                    alive_since: alive_since[i],
                    mismatch: mismatch[i],
                    told_regressed: told_regressed[i],
                    twin: twin[i],
                })
                .collect(),
            reask: *reask,
            started: *started,
            planned: *planned,
            leaving: *leaving,
            left: *left,
            voting: *voting,
            voting_since: *voting_since,
            duplicate_at: *duplicate_at,
            next_heartbeat: *next_heartbeat,
        }
    }

    /// Remembers that instead. The jitter starts anew, so that the same state goes on in the same way.
    pub fn load(&mut self, s: &Saved) {
        for (g, of) in s.groups.iter().enumerate() {
            self.retry[g] = of.retry;
            self.attempts[g] = of.attempts;
            self.free_since[g] = of.free_since;
            self.last_owner[g] = of.last_owner;
            self.move_since[g] = of.move_since;
            self.stop[g] = of.stop;
        }
        for (i, of) in s.nodes.iter().enumerate() {
            self.parked[i] = of.parked;
            self.health[i] = of.health;
            self.alive_since[i] = of.alive_since;
            self.mismatch[i] = of.mismatch;
            self.told_regressed[i] = of.told_regressed;
            self.twin[i] = of.twin;
        }
        self.pend = s.pend;
        self.look = true;
        self.plans.forget();
        self.reask = s.reask;
        self.started = s.started;
        self.planned = s.planned;
        self.leaving = s.leaving;
        self.left = s.left;
        self.voting = s.voting;
        self.voting_since = s.voting_since;
        self.duplicate_at = s.duplicate_at;
        self.next_heartbeat = s.next_heartbeat;
        self.rng = Rng::new(self.cfg.seed ^ u64::from(self.cfg.me) << 32);
        self.beats = 1;
        self.actions.clear();
        self.dropped_actions = 0;
    }
}
