//! The core's state and its entry points; the voter's and the claimant's halves are next door.

use std::collections::VecDeque;
use std::ops::Deref;

use agent_common::{
    MAX_GROUPS, MAX_NODES, Set,
    record::{Record, RecordKind},
    rules::{Rule, Rules},
    state::{Shared, UNPROVEN},
    wire::{self, Kind, Message, flags},
};

use crate::{
    action::{Action, Event},
    claimant::Pending,
    clean::Clean,
    command::{Behind, Fitness, Phase},
    config::CoreConfig,
    detector::Health,
    generation::Next,
    links::Links,
    orderly::Stop,
    placement::plan::Plans,
    rng::Rng,
    soft::{Key, Soft},
};

/// The two clocks of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME, ns.
    pub boot: u64,
    /// Wall clock, ms since 1970: for epochs and gossip versions only.
    pub wall_ms: u64,
}

/// Most actions that may wait; more would be lost, and counted.
const ACTIONS: usize = 2048;

/// An ask that waits for a promise to end or for a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Parked {
    pub message: Message,
    pub until: u64,
}

/// A planned pause that is being prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Planned {
    pub promise: u64,
    pub give_up: u64,
    pub told: bool,
}

/// One node's brain. `S` is the shared table, however it is held.
#[derive(Debug)]
pub struct Core<S: Deref<Target = Shared>> {
    pub(crate) cfg: CoreConfig,
    pub(crate) sh: S,
    pub(crate) rules: Rules,
    pub(crate) rng: Rng,
    pub(crate) soft: Soft,
    pub(crate) groups: Set,
    pub(crate) pend: Option<Pending>,
    pub(crate) retry: Box<[u64; MAX_GROUPS]>,
    pub(crate) attempts: Box<[u8; MAX_GROUPS]>,
    pub(crate) free_since: Box<[u64; MAX_GROUPS]>,
    pub(crate) last_owner: Box<[u8; MAX_GROUPS]>,
    pub(crate) move_since: Box<[u64; MAX_GROUPS]>,
    pub(crate) stop: Box<[Stop; MAX_GROUPS]>,
    /// Something has changed that may change where orderly groups should be.
    pub(crate) look: bool,
    pub(crate) clean: Clean,
    pub(crate) links: Links,
    pub(crate) plans: Box<Plans>,
    /// Since when each node has said what it says of each group, by id - 1.
    pub(crate) fit_since: Box<[[u64; MAX_GROUPS]; MAX_NODES]>,
    pub(crate) reask: Option<u64>,
    pub(crate) parked: [Option<Parked>; MAX_NODES],
    pub(crate) health: [Health; MAX_NODES],
    pub(crate) alive_since: [u64; MAX_NODES],
    pub(crate) started: u64,
    pub(crate) mismatch: [bool; MAX_NODES],
    pub(crate) told_regressed: [u64; MAX_NODES],
    /// Another incarnation that is refused because the known one stands, and since when.
    pub(crate) twin: [(u64, u64); MAX_NODES],
    pub(crate) planned: Option<Planned>,
    pub(crate) leaving: bool,
    pub(crate) left: bool,
    pub(crate) voting: bool,
    pub(crate) voting_since: u64,
    pub(crate) duplicate_at: u64,
    pub(crate) next_heartbeat: u64,
    pub(crate) beats: u64,
    /// A configuration of a later generation, to be entered.
    pub(crate) next: Option<Box<Next>>,
    /// The one that was left, to be freed.
    pub(crate) retired: Option<Box<Next>>,
    /// Since when a majority of this generation's voters has been heard in it or later; 0: not yet.
    pub(crate) heard_since: u64,
    /// Groups that wait until the gate's map follows the configuration.
    pub(crate) held_back: Set,
    /// The end of rule 1's wait, for a node that is not proven yet.
    pub(crate) vote_after: u64,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) dropped_actions: u64,
}

impl<S: Deref<Target = Shared>> Core<S> {
    /// A core over a shared table that has been identified. What an earlier agent left there is taken over: a lease that
    /// still holds goes on under a fresh claim version (rule 3), anything else is dropped.
    pub fn new(cfg: CoreConfig, sh: S, now: Now) -> Core<S> {
        let seed = cfg.seed ^ u64::from(cfg.me) << 32;
        let groups = cfg.group_set();
        let links = Links::new(&cfg);
        let orderly = groups.iter().filter(|g| cfg.settings(*g).orderly);
        let clean = Clean::new(orderly.fold(Set::EMPTY, Set::with));
        let mut core = Core {
            cfg,
            sh,
            rules: Rules::all(),
            rng: Rng::new(seed),
            soft: Soft::default(),
            groups,
            pend: None,
            retry: Box::new([0; MAX_GROUPS]),
            attempts: Box::new([0; MAX_GROUPS]),
            free_since: Box::new([0; MAX_GROUPS]),
            last_owner: Box::new([0; MAX_GROUPS]),
            move_since: Box::new([0; MAX_GROUPS]),
            stop: Box::new([Stop::default(); MAX_GROUPS]),
            look: true,
            clean,
            links,
            plans: Box::default(),
            fit_since: Box::new([[0; MAX_GROUPS]; MAX_NODES]),
            reask: None,
            parked: [None; MAX_NODES],
            health: [Health::NeverSeen; MAX_NODES],
            alive_since: [0; MAX_NODES],
            started: now.boot,
            mismatch: [false; MAX_NODES],
            told_regressed: [0; MAX_NODES],
            twin: [(0, 0); MAX_NODES],
            planned: None,
            leaving: false,
            left: false,
            voting: false,
            voting_since: 0,
            duplicate_at: 0,
            next_heartbeat: now.boot,
            beats: 0,
            next: None,
            retired: None,
            heard_since: 0,
            held_back: Set::EMPTY,
            vote_after: 0,
            actions: VecDeque::with_capacity(ACTIONS),
            dropped_actions: 0,
        };
        if core.sh.vote_after.load() == UNPROVEN {
            core.vote_after = now.boot + core.cfg.timing.max_promise;
        }
        // Groups that the configuration does not know any more are not ours to run.
        let unknown = core.sh.run_set.load().minus(core.groups);
        core.sh.gate.remove(unknown);
        core.sh.run_set.store(core.sh.run_set.load().minus(unknown));
        core.shut_gates(core.sh.gate.load().minus(core.sh.run_set.load()));
        core.sh.pause_until.store(0);
        if core.sh.lease().holds(now.boot) {
            // An attempt that had its lease but not yet its gate bits is finished here.
            let gate_missing = core.sh.run_set.load().minus(core.sh.gate.load());
            core.sh
                .run_set
                .store(core.sh.run_set.load().minus(gate_missing));
            core.bump(now);
        } else {
            core.drop_all(now, false);
        }
        core
    }

    /// Leaves a rule out, for tests that must see it missed.
    #[cfg(feature = "broken-rules")]
    pub fn break_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// An authentic message that the kernel delivered.
    pub fn handle_message(&mut self, m: &Message, now: Now) {
        self.check_lease(now);
        self.follow_message(m, now);
        self.see_epoch(m.epoch);
        if m.flags & flags::SOFT != 0 {
            self.merge_soft(m, now);
        }
        match Kind::from_u8(m.kind) {
            Some(Kind::Heartbeat) => self.on_heartbeat(m, now),
            Some(Kind::Grant) => self.on_grant(m, now),
            Some(Kind::Refuse) => self.on_refuse(m, now),
            Some(Kind::Nack) => self.on_nack(m, now),
            Some(Kind::Regressed) => self.on_regressed(m, now),
            // Acks are the kernel's own affair.
            Some(Kind::Ack) | None => {}
        }
        self.advance(now);
    }

    /// A record of the ring buffer.
    pub fn handle_record(&mut self, r: &Record, now: Now) {
        self.check_lease(now);
        match RecordKind::from_u32(r.kind) {
            Some(RecordKind::Message) => self.handle_message(&r.message, now),
            Some(RecordKind::ForeignClaim) => {
                let m = &r.message;
                let mut address = [0u8; 16];
                address[..8].copy_from_slice(&m.set.0[0].to_le_bytes());
                address[8..].copy_from_slice(&m.set.0[1].to_le_bytes());
                let b = m.seq.to_le_bytes();
                let group = m.re_seq as u8;
                self.event(Event::ForeignClaim {
                    group,
                    address,
                    mac: [b[0], b[1], b[2], b[3], b[4], b[5]],
                });
                if self.sh.run_set.load().has(group) {
                    self.push(Action::Announce { group });
                }
            }
            Some(RecordKind::GateShut) => {
                self.see_epoch(r.message.epoch);
                let shut = self.sh.run_set.load().minus(self.sh.gate.load());
                if !shut.is_empty() {
                    self.event(Event::GateShut {
                        peer: r.message.from,
                        groups: shut,
                    });
                    self.give_up(shut, now);
                }
                self.handle_message(&r.message, now);
            }
            Some(RecordKind::DuplicateId) => self.duplicate_heard(now),
            Some(RecordKind::Regression) => self.tell_regressed(&r.message, now),
            None => {}
        }
    }

    /// Time has come to [`Core::deadline`], or simply passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.check_lease(now);
        self.check_peers(now);
        self.check_own_state(now);
        self.check_generation(now);
        self.look = true;
        if self.cfg.is_witness(self.cfg.me) {
            // It plans nothing for itself, but shows what it sees.
            let view = self.view(now.boot);
            self.replan(&view);
        }
        self.advance(now);
        if now.boot >= self.next_heartbeat {
            let hb = self.cfg.timing.heartbeat;
            // A late wake-up does not make up for lost beats.
            self.next_heartbeat = (self.next_heartbeat + hb).max(now.boot + hb / 2);
            self.heartbeat(now);
        }
    }

    /// When to call [`Core::handle_timeout`] at the latest, boot ns.
    pub fn deadline(&self, now: Now) -> u64 {
        self.claim_deadline(now).min(self.next_heartbeat)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Actions lost because nobody polled them.
    pub fn dropped_actions(&self) -> u64 {
        self.dropped_actions
    }

    /// Gives everything up at once and tells the others: the last thing before the agent ends for good.
    pub fn shut_down(&mut self, now: Now) {
        self.leaving = true;
        self.drop_all(now, true);
        self.heartbeat(now);
    }

    /// Takes a changed configuration with the same members and timing, and leaves the old one in its place, so that the
    /// caller may free it where that does no harm.
    pub fn reconfigure(&mut self, cfg: &mut CoreConfig, now: Now) {
        self.check_lease(now);
        self.groups = cfg.group_set();
        let gone = self.sh.run_set.load().minus(self.groups);
        self.left_by(gone.and(self.links.orderly));
        std::mem::swap(&mut self.cfg, cfg);
        self.links.follow(&self.cfg);
        self.plans.forget();
        self.look = true;
        self.give_up(self.sh.run_set.load().minus(self.groups), now);
        self.advance(now);
    }

    /// The groups that this node runs.
    pub fn owned(&self) -> Set {
        self.sh.run_set.load()
    }

    /// The configuration.
    pub fn config(&self) -> &CoreConfig {
        &self.cfg
    }

    /// Is the cluster paused?
    pub fn is_paused(&self) -> bool {
        self.soft.get(Key::Pause) != 0
    }

    pub(crate) fn push(&mut self, a: Action) {
        if self.actions.len() < ACTIONS {
            self.actions.push_back(a);
        } else {
            self.dropped_actions += 1;
        }
    }

    pub(crate) fn event(&mut self, e: Event) {
        self.push(Action::Event(e));
    }

    pub(crate) fn see_epoch(&mut self, epoch: u64) {
        // Who followed an epoch that no clock comes to in four million years would soon have none left to gain by: the
        // address thread takes a gain only with a later epoch than the loss.
        let sane = epoch >> 63 == 0;
        if sane && epoch > self.sh.epoch_max.load() {
            self.sh.epoch_max.store(epoch);
        }
    }

    /// A message of this node with everything that every message carries.
    pub(crate) fn message(&mut self, kind: Kind, now: Now) -> Message {
        let seq = self.sh.seq.load() + 1;
        self.sh.seq.store(seq);
        let mut f = 0;
        if self.cfg.is_witness(self.cfg.me) {
            f |= flags::WITNESS;
        }
        if self.leaving {
            f |= flags::LEAVING;
        }
        if !self.sh.votes(now.boot) {
            f |= flags::WAITING;
        }
        if self.ready(now.boot) {
            f |= flags::READY;
        }
        if self.unclean().is_empty() {
            f |= flags::CLEAN;
        }
        Message {
            magic: wire::MAGIC,
            version: wire::VERSION,
            kind: kind as u8,
            from: self.cfg.me,
            flags: f,
            cluster: self.cfg.cluster,
            generation: self.cfg.generation,
            digest: self.cfg.digest,
            max_promise_ms: (self.cfg.timing.max_promise / 1_000_000) as u32,
            incarnation: self.sh.incarnation.load(),
            clock: now.boot,
            seq,
            epoch: self.sh.epoch.load(),
            ..Message::default()
        }
    }

    /// Sends a heartbeat now, with the slot for its acks made ready first.
    pub(crate) fn heartbeat(&mut self, now: Now) {
        self.beats += 1;
        let t = self.cfg.timing;
        let promise = match self.planned {
            Some(p) => p.promise.max(t.takeover),
            None => t.takeover,
        };
        let mut m = self.message(Kind::Heartbeat, now);
        m.promise_us = (promise / 1000) as u32;
        m.cv = self.sh.run_cv.load();
        m.set = self.sh.run_set.load();
        // A move is asked for in the first half of its time only: who releases later releases for nobody.
        let half = t.claim_timeout() / 2;
        if let Some(p) = self
            .pend
            .as_ref()
            .filter(|p| !p.is_move || now.boot <= p.sent + half)
        {
            m.ask_cv = p.cv;
            m.ask_set = p.set;
            if p.is_move {
                m.flags |= flags::MOVE;
            }
        }
        // Slow gossip: one record about each second.
        let slow = self
            .beats
            .is_multiple_of((1_000_000_000 / t.heartbeat).max(1));
        if let Some((word, version)) = self.soft.next(slow) {
            m.soft = word;
            m.soft_version = version;
            m.flags |= flags::SOFT;
        }
        if self.leaving {
            m.flags |= flags::SOFT;
        }
        let lease = if self.rules.hold(Rule::LeaseShorter) {
            t.lease_for(promise)
        } else {
            promise / 5 * 7
        };
        let slot = self.sh.slot(m.seq);
        if self.rules.hold(Rule::AckPerHeartbeat) {
            // The word first: a late ack for the slot's old heartbeat finds nothing from here on.
            slot.word.store(m.seq << 32);
        }
        slot.sent.store(now.boot);
        slot.lease.store(lease);
        slot.cv.store(m.cv);
        self.push(Action::Broadcast(m));
    }

    fn merge_soft(&mut self, m: &Message, now: Now) {
        let changed = Key::of_word(m.soft).map(|k| (k, self.soft.get(k)));
        let Some((key, value)) = self.soft.merge(m.soft, m.soft_version) else {
            return;
        };
        self.look = true;
        self.note_fitness(key, now);
        match key {
            Key::Drain(node) => self.event(Event::Drained {
                node,
                on: value != 0,
            }),
            Key::Pause => self.event(Event::Paused(value != 0)),
            Key::Wish(group) => {
                if value != 0 {
                    self.event(Event::Wished { group, node: value });
                    self.fulfil(group, now);
                }
            }
            Key::Unfit { node, group } => {
                let failed = changed.is_some_and(|(_, v)| v == Fitness::Failed as u8);
                if node == self.cfg.me && value == Fitness::Fit as u8 && failed {
                    self.event(Event::Cleared { group });
                }
            }
            Key::Want(_) => {}
            Key::Outdate(group) => {
                if let Some(behind) = Behind::from_u8(value) {
                    self.event(Event::Outdate { group, behind });
                }
            }
            Key::Outdated(group) => {
                if let Some(behind) = Behind::from_u8(value) {
                    self.event(Event::Outdated { group, behind });
                }
            }
            Key::Phase(group) => {
                let before = changed.map_or(0, |(_, v)| match Phase::of(v) {
                    (node, Phase::Stuck) => node,
                    _ => 0,
                });
                self.stuck_changed(group, before);
            }
        }
    }

    pub(crate) fn set_soft(&mut self, key: Key, value: u8, now: Now) {
        self.soft.set(key, value, now.wall_ms, self.cfg.me);
        self.look = true;
        self.note_fitness(key, now);
        self.heartbeat(now);
    }

    fn note_fitness(&mut self, key: Key, now: Now) {
        if let Key::Unfit { node, group } = key
            && let Some(of) = self.fit_since.get_mut(usize::from(node).wrapping_sub(1))
        {
            of[usize::from(group)] = now.boot;
        }
    }
}
