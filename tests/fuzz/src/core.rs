//! One core with its kernel half: any sequence of messages, records, commands, pauses and restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use agent_common::{
    Set,
    kernel::{self, Verdict},
    record::{Record, RecordKind},
    rules::Rules,
    state::{PromiseWord, Shared},
    wire::{Kind, Message},
};
use agent_core::{
    Action, Command, Core, CoreConfig, Failback, GroupConfig, Next, NodeConfig, Now, Timing,
};
use arbitrary::{Arbitrary, Result, Unstructured};

use crate::input::{CLUSTER, GENERATION, MAX_PROMISE_MS, ME, MY_INCARNATION, message, noise};

const START: u64 = 1 << 50;

/// More than any one input can cause: one per group and a few more each.
const MOST_ACTIONS: usize = 1024;

/// Runs one input.
pub fn run(data: &[u8]) {
    let _ = sequence(&mut Unstructured::new(data));
}

/// Noise; libFuzzer finds the sequences.
pub fn seeds() -> Vec<Vec<u8>> {
    noise(12, 1200)
}

struct World {
    sh: Rc<Shared>,
    core: Core<Rc<Shared>>,
    now: Now,
    /// Every claim version that left, with its set: rule 3.
    versions: BTreeMap<u64, Set>,
    sequences: BTreeSet<u64>,
    cv_max: u64,
    incarnation: u64,
}

fn config(u: &mut Unstructured<'_>) -> Result<CoreConfig> {
    let mut c = CoreConfig::new(ME, Timing::LAN);
    for id in 0..5u8 {
        c.nodes[usize::from(id)] = Some(NodeConfig {
            witness: id == 4,
            ..NodeConfig::default()
        });
    }
    let groups = 1 + (u8::arbitrary(u)? & 7);
    for g in 0..groups {
        let mut group = GroupConfig::preferring(&[1, 2, 3, 4]);
        let bits = u8::arbitrary(u)?;
        group.spread = bits & 1 != 0;
        group.failback = if bits & 2 != 0 {
            Failback::Auto
        } else {
            Failback::Manual
        };
        group.prefer[..4].rotate_left(usize::from(bits >> 2 & 3));
        c.groups[usize::from(g)] = Some(group);
    }
    c.cluster = CLUSTER;
    c.generation = GENERATION;
    Ok(c)
}

fn sequence(u: &mut Unstructured<'_>) -> Result<()> {
    let sh = Shared::default();
    sh.id.store(u64::from(ME));
    sh.cluster.store(u64::from(CLUSTER));
    sh.generation.store(u64::from(GENERATION));
    sh.max_promise.store(u64::from(MAX_PROMISE_MS) * 1_000_000);
    sh.voters.store(0b1_1111);
    sh.majority.store(3);
    sh.incarnation.store(MY_INCARNATION);
    if bool::arbitrary(u)? {
        sh.vote_after.store(START + 100_000_000);
    }
    let sh = Rc::new(sh);
    let now = Now {
        boot: START,
        wall_ms: 1_700_000_000_000,
    };
    let core = Core::new(config(u)?, Rc::clone(&sh), now);
    let mut w = World {
        sh,
        core,
        now,
        versions: BTreeMap::new(),
        sequences: BTreeSet::new(),
        cv_max: 0,
        incarnation: MY_INCARNATION,
    };
    w.drain();
    while !u.is_empty() {
        w.step(u)?;
        w.check();
    }
    Ok(())
}

impl World {
    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        match u8::arbitrary(u)? {
            // Time.
            b @ 0..64 => {
                let ns = match b & 3 {
                    0 => u64::from(u8::arbitrary(u)?) * 1_000,
                    1 => u64::from(u8::arbitrary(u)?) * 1_000_000,
                    2 => self.core.deadline(self.now).saturating_sub(self.now.boot),
                    _ => u64::from(u16::arbitrary(u)?) * 1_000_000,
                };
                self.now.boot += ns.min(100_000_000_000);
                self.now.wall_ms += ns / 1_000_000;
                self.time();
            }
            // A message as it arrives.
            64..144 => {
                let m = message(u, self.now.boot)?;
                self.arrive(m);
            }
            // Answers to what was just sent: the way to a lease.
            b @ 144..200 => self.answer(2 + b % 4, b & 8 != 0),
            // A record as the kernel writes it, but for nothing that it saw.
            200..208 => {
                let r = Record {
                    kind: u32::from(u8::arbitrary(u)? & 7),
                    ifindex: 1,
                    now: self.now.boot,
                    message: message(u, self.now.boot)?,
                };
                let short = u64::from(r.message.promise_us) * 1_000 <= self.sh.max_promise.load();
                if kernel::precheck(&self.sh, &r.message).is_ok() && r.message.from != ME && short {
                    self.core.handle_record(&r, self.now);
                }
            }
            208..232 => {
                let group = u8::arbitrary(u)? & 7;
                let node = u8::arbitrary(u)? & 7;
                let on = bool::arbitrary(u)?;
                let c = match u8::arbitrary(u)? % 7 {
                    0 => Command::Move { group, node },
                    1 => Command::Drain { node, on },
                    2 => Command::Pause(on),
                    3 => Command::Fit { group, fit: on },
                    4 => Command::Doubt { group },
                    5 => Command::PreparePause {
                        promise: u64::arbitrary(u)?,
                    },
                    _ => Command::Leave,
                };
                let _ = self.core.handle_command(c, self.now);
            }
            232..240 => {
                let mut c = config(u)?;
                // Members change by generations only.
                c.nodes = self.core.config().nodes;
                c.generation = self.core.config().generation;
                self.core.reconfigure(&mut c, self.now);
            }
            240..248 => {
                // The agent dies and comes again over its table.
                let c = self.core.config().clone();
                self.drain();
                self.core = Core::new(c, Rc::clone(&self.sh), self.now);
            }
            248..250 => self.core.shut_down(self.now),
            b @ 250..254 => {
                let mut c = config(u)?;
                c.nodes = self.core.config().nodes;
                c.generation = self.core.config().generation + 1 + u32::from(b == 253);
                let choice = u8::arbitrary(u)?;
                // Node 2 to 6 comes or goes, or none.
                let id = usize::from(choice & 7);
                if (1..6).contains(&id)
                    && let Some(node) = c.nodes.get_mut(id)
                {
                    *node = match node {
                        Some(_) => None,
                        None => Some(NodeConfig::default()),
                    };
                }
                let moved = match choice >> 6 {
                    0 => vec![(0, 1)],
                    _ => Vec::new(),
                };
                let _ = self.core.stage(Box::new(Next::new(c, moved)), self.now);
            }
            254 => drop(self.core.unstage(self.now)),
            _ => self.time(),
        }
        Ok(())
    }

    /// The timer fires; it must not fire again and again at one instant.
    fn time(&mut self) {
        for _ in 0..32 {
            self.core.handle_timeout(self.now);
            self.drain();
            if self.core.deadline(self.now) > self.now.boot {
                return;
            }
        }
        panic!("a deadline that never moves on: the thread would spin");
    }

    fn arrive(&mut self, m: Message) {
        if kernel::precheck(&self.sh, &m).is_err() {
            return;
        }
        let kind = match kernel::on_message(&self.sh, &m, self.now.boot, Rules::all()) {
            Verdict::Deliver | Verdict::AckAndDeliver => RecordKind::Message,
            Verdict::GateShut => RecordKind::GateShut,
            Verdict::Duplicate => RecordKind::DuplicateId,
            Verdict::Regression => RecordKind::Regression,
            Verdict::Drop(_) | Verdict::Done | Verdict::Ack => return,
        };
        let r = Record {
            kind: kind as u32,
            ifindex: 1,
            now: self.now.boot,
            message: m,
        };
        self.core.handle_record(&r, self.now);
    }

    /// A grant of what is asked, or an ack of what runs, by a peer that we know.
    fn answer(&mut self, from: u8, grant: bool) {
        let seq = self.sh.seq.load();
        let slot = self.sh.slot(seq);
        let ask = self.versions.iter().next_back();
        let (cv, set) = match (grant, ask) {
            (true, Some((cv, set))) => (*cv, *set),
            (true, None) => return,
            (false, _) => (self.sh.run_cv.load(), self.sh.run_set.load()),
        };
        self.arrive(Message {
            magic: agent_common::wire::MAGIC,
            version: agent_common::wire::VERSION,
            kind: if grant { Kind::Grant } else { Kind::Ack } as u8,
            from,
            to: ME,
            cluster: CLUSTER,
            generation: self.core.config().generation,
            max_promise_ms: MAX_PROMISE_MS,
            incarnation: self.sh.peer(from).incarnation.load().max(1),
            clock: self.now.boot,
            seq: self.now.boot >> 10,
            promise_us: 50_000,
            cv,
            set,
            re_incarnation: self.incarnation,
            re_seq: seq,
            re_clock: slot.sent.load(),
            ..Message::default()
        });
    }

    fn drain(&mut self) {
        let mut n = 0;
        while let Some(action) = self.core.poll_action() {
            n += 1;
            let m = match action {
                Action::Broadcast(m) => m,
                Action::Send(to, m) => {
                    assert!((1..=32).contains(&to) && to != ME, "sent to {to}");
                    m
                }
                Action::Gain(_)
                | Action::Lose { .. }
                | Action::Announce { .. }
                | Action::Stop { .. }
                | Action::Resume { .. }
                | Action::PauseReady { .. }
                | Action::Left
                | Action::Entered { .. }
                | Action::Event(_) => continue,
            };
            assert_eq!(m.from, ME);
            assert!(
                m.promise_us as u64 * 1_000 <= self.sh.max_promise.load(),
                "{m:?}"
            );
            // A new incarnation of this node begins to count anew.
            if m.incarnation != self.incarnation {
                assert!(m.incarnation > self.incarnation);
                self.incarnation = m.incarnation;
                self.versions.clear();
                self.sequences.clear();
                self.cv_max = 0;
            }
            // An ack is its heartbeat turned around, and has no sequence of its own.
            assert!(
                m.kind == Kind::Ack as u8 || self.sequences.insert(m.seq),
                "a sequence is used once: {m:?}"
            );
            if m.kind == Kind::Heartbeat as u8 {
                for (cv, set) in [(m.cv, m.set), (m.ask_cv, m.ask_set)] {
                    if cv == 0 {
                        continue;
                    }
                    assert!(cv <= self.sh.cv_max.load(), "stored before it leaves");
                    let known = *self.versions.entry(cv).or_insert(set);
                    assert_eq!(known, set, "a version names one set for ever");
                }
            }
        }
        assert!(n <= MOST_ACTIONS, "{n} actions at once");
        assert_eq!(self.core.dropped_actions(), 0);
    }

    /// What holds between any two inputs.
    fn check(&mut self) {
        self.drain();
        if self.core.take_retired().is_some() {
            self.core.mapped(self.now);
            self.drain();
        }
        let (sh, now) = (&*self.sh, self.now.boot);
        let run = sh.run_set.load();
        assert!(
            sh.gate.load().minus(run).is_empty(),
            "a gate only for what runs"
        );
        assert!(run.minus(self.core.config().group_set()).is_empty());
        assert!(sh.cv_max.load() >= self.cv_max, "versions only grow");
        self.cv_max = sh.cv_max.load();
        // A voter grants each group to at most one node at a time.
        let mut taken = if sh.lease().holds(now) {
            run
        } else {
            Set::EMPTY
        };
        for p in &sh.peers {
            let word = PromiseWord(p.word.load());
            if !word.stands(now) {
                continue;
            }
            assert!(word.expiry_ns() <= now + sh.max_promise.load() + 1_024);
            let mut held = Set::EMPTY;
            for c in &p.claim {
                if c.cv.load() != 0 {
                    held = held.union(c.set.load());
                }
            }
            assert!(
                held.and(taken).is_empty(),
                "{:?} is granted twice",
                held.and(taken)
            );
            taken = taken.union(held);
        }
    }
}
