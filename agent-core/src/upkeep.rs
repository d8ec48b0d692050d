//! What is looked at on every timeout: the others' health and configuration, duplicates, rollbacks, planned pauses.

use std::ops::Deref;

use agent_common::{
    MAX_NODES,
    rules::Rule,
    state::{PromiseWord, Shared},
    wire::{Kind, Message},
};

use crate::{
    action::{Action, Event},
    core::{Core, Now, Planned},
    detector::{self, Health},
};

impl<S: Deref<Target = Shared>> Core<S> {
    /// Once per timeout: health, configuration and incarnation of the others.
    pub(crate) fn check_peers(&mut self, now: Now) {
        for id in 1..=MAX_NODES as u8 {
            if id == self.cfg.me || self.cfg.nodes[id as usize - 1].is_none() {
                continue;
            }
            let i = id as usize - 1;
            let p = self.sh.peer(id);
            let health = detector::health(p, now.boot, &self.cfg.timing);
            let (config, epoch) = (p.seen_config.load(), p.seen_epoch.load());
            self.see_epoch(epoch);
            if health != self.health[i] {
                if health == Health::Alive {
                    self.alive_since[i] = now.boot;
                    self.soft.repeat_all();
                    // A part of the network has come back, and what it learned meanwhile may be wrong.
                    if self.health[i] != Health::NeverSeen {
                        for group in self.sh.run_set.load().iter() {
                            self.push(Action::Announce { group });
                        }
                    }
                }
                self.health[i] = health;
                self.event(Event::NodeHealth { peer: id, health });
            }
            if config != 0 {
                let (digest, generation) = ((config >> 32) as u32, config as u32);
                let differs = digest != self.cfg.digest || generation != self.cfg.generation;
                if differs != self.mismatch[i] {
                    self.mismatch[i] = differs;
                    self.event(Event::ConfigMismatch {
                        peer: id,
                        digest,
                        generation,
                        matches: !differs,
                    });
                }
            }
        }
    }

    pub(crate) fn check_own_state(&mut self, now: Now) {
        // What the kernel did although its record was lost (ring full, agent restarted).
        if self.sh.halted.load() != 0 && self.duplicate_at == 0 {
            self.duplicate_heard(now);
        }
        let shut = self.sh.run_set.load().minus(self.sh.gate.load());
        if !shut.is_empty() {
            self.event(Event::GateShut {
                peer: 0,
                groups: shut,
            });
            self.give_up(shut, now);
        }
        if self.duplicate_at != 0 && now.boot > self.duplicate_at + self.cfg.timing.max_promise {
            self.duplicate_at = 0;
            self.wait_to_vote(now.boot + self.cfg.timing.max_promise);
            self.sh.halted.store(0);
            self.event(Event::DuplicateGone);
        }
        let votes = self.sh.votes(now.boot);
        if votes && !self.voting {
            self.voting_since = now.boot;
            self.event(Event::Voting);
        }
        self.voting = votes;
        if let Some(p) = self.planned {
            let lease = self.sh.lease().expiry_ns();
            let ready = self.sh.run_set.load().is_empty()
                || lease > now.boot + self.cfg.timing.lease_for(p.promise) / 4 * 3;
            if ready && !p.told {
                self.planned = Some(Planned { told: true, ..p });
                self.sh.pause_until.store(lease);
                self.push(Action::PauseReady { until: lease });
            }
            if now.boot > p.give_up {
                self.planned = None;
                self.sh.pause_until.store(0);
            }
        }
        if self.leaving && !self.left && self.sh.run_set.load().is_empty() {
            self.left = true;
            self.push(Action::Left);
        }
    }

    pub(crate) fn duplicate_heard(&mut self, now: Now) {
        if self.duplicate_at == 0 {
            self.event(Event::DuplicateId);
            self.drop_all(now, true);
        }
        self.duplicate_at = now.boot;
    }

    pub(crate) fn tell_regressed(&mut self, m: &Message, now: Now) {
        let i = (m.from.wrapping_sub(1) & 31) as usize;
        // A straggler of a node that goes on as ever says nothing; a node that went back is heard no more.
        if now.boot < self.told_regressed[i] + self.cfg.timing.max_promise.min(1_000_000_000)
            || self.is_alive(m.from, now.boot)
            || !self.rules.hold(Rule::RegressedTold)
        {
            return;
        }
        self.told_regressed[i] = now.boot;
        let mut r = self.message(Kind::Regressed, now);
        r.to = m.from;
        r.re_incarnation = m.incarnation;
        let known = self.sh.peer(m.from).incarnation.load();
        if m.incarnation < known {
            self.event(Event::PeerReplaced { peer: m.from });
            r.re_seq = known;
        } else {
            self.event(Event::PeerRegressed { peer: m.from });
            r.re_clock = self.sh.peer(m.from).hi_clock.load();
        }
        self.push(Action::Send(m.from, r));
    }

    /// Rule 4: a voter has seen us further on than we are; what we remember is not what we promised.
    pub(crate) fn on_regressed(&mut self, m: &Message, now: Now) {
        // Only a clock that has not yet been where the voter saw it proves that, or a newer incarnation; else an old
        // message of ours came late.
        let mine = self.sh.incarnation.load();
        if m.re_incarnation != mine || m.re_clock <= now.boot && m.re_seq <= mine {
            return;
        }
        self.drop_all(now, false);
        for p in &self.sh.peers {
            let generation = PromiseWord(p.word.load()).generation() + 1;
            p.word.store(PromiseWord::closed(generation).0);
            p.incarnation.store(0);
        }
        // Not simply the next one: who told us may not know the newest of ours, and no two lives may share one (a late grant
        // of the other would count in this).
        let apart = 1 + now.boot % 1_000_000_000;
        let incarnation = (now.wall_ms * 1_000_000).max(mine.max(m.re_seq).saturating_add(apart));
        self.wait_to_vote(now.boot + self.cfg.timing.max_promise);
        self.sh.incarnation.store(incarnation);
        self.event(Event::StartedAfresh);
    }
}
