//! A few cores on one clock and a network that a test holds in its hands.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{collections::VecDeque, rc::Rc};

use agent_common::{
    kernel::{self, Verdict},
    record::{Record, RecordKind},
    rules::Rules,
    state::Shared,
    wire::Message,
};
use agent_core::{
    Action, Command, CommandError, Core, CoreConfig, Event, GroupConfig, NodeConfig, Now, Timing,
};

pub const MS: u64 = 1_000_000;

pub struct Node {
    pub sh: Rc<Shared>,
    pub core: Option<Core<Rc<Shared>>>,
    pub frozen: VecDeque<Record>,
    pub is_frozen: bool,
    pub timer: u64,
    pub events: Vec<Event>,
    pub actions: Vec<Action>,
}

pub struct Bench {
    pub t: u64,
    pub timing: Timing,
    pub nodes: Vec<Node>,
    pub wire: VecDeque<(u8, Message)>,
    /// May a message from one node to another pass?
    pub pass: fn(u8, u8, &Message) -> bool,
    pub kept: Vec<(u8, Message)>,
    /// Called with true before the core is, and with false after.
    pub around: fn(bool),
    /// Changes the settings of a group.
    pub settings: fn(u8, &mut GroupConfig),
}

impl Bench {
    /// `n` nodes that may vote at once, `groups` groups that prefer node 1, then 2, ...
    pub fn new(n: u8, groups: u8) -> Bench {
        Bench::with(n, groups, |_, _| {})
    }

    /// The same with other settings.
    pub fn with(n: u8, groups: u8, settings: fn(u8, &mut GroupConfig)) -> Bench {
        let mut b = Bench {
            t: 1_000_000 * MS,
            timing: Timing::LAN,
            nodes: Vec::new(),
            wire: VecDeque::new(),
            pass: |_, _, _| true,
            kept: Vec::new(),
            around: |_| {},
            settings,
        };
        for id in 1..=n {
            let sh = Shared::default();
            sh.id.store(u64::from(id));
            sh.cluster.store(1);
            sh.generation.store(1);
            sh.max_promise.store(b.timing.max_promise);
            sh.voters.store((1 << n) - 1);
            sh.majority.store(u64::from(n) / 2 + 1);
            sh.incarnation.store(1000 + u64::from(id));
            let sh = Rc::new(sh);
            b.nodes.push(Node {
                sh,
                core: None,
                frozen: VecDeque::new(),
                is_frozen: false,
                timer: 0,
                events: Vec::new(),
                actions: Vec::new(),
            });
            b.nodes.last_mut().unwrap().core = Some(b.core(id, n, groups));
        }
        b
    }

    fn core(&self, id: u8, n: u8, groups: u8) -> Core<Rc<Shared>> {
        let mut c = CoreConfig::new(id, self.timing);
        for i in 0..n {
            c.nodes[i as usize] = Some(NodeConfig::default());
        }
        let ids: Vec<u8> = (1..=n).collect();
        for g in 0..groups {
            let mut group = GroupConfig::preferring(&ids);
            (self.settings)(g, &mut group);
            c.groups[g as usize] = Some(group);
        }
        Core::new(c, Rc::clone(&self.nodes[id as usize - 1].sh), self.now())
    }

    pub fn now(&self) -> Now {
        Now {
            boot: self.t,
            wall_ms: 1_700_000_000_000 + self.t / MS,
        }
    }

    pub fn sh(&self, id: u8) -> &Shared {
        &self.nodes[id as usize - 1].sh
    }

    pub fn open(&self, id: u8, group: u8) -> bool {
        self.sh(id).gate_open(group, self.t)
    }

    pub fn events(&self, id: u8) -> &[Event] {
        &self.nodes[id as usize - 1].events
    }

    /// The agent stands still; its kernel goes on.
    pub fn freeze(&mut self, id: u8, on: bool) {
        let n = &mut self.nodes[id as usize - 1];
        n.is_frozen = on;
        if !on {
            for r in std::mem::take(&mut n.frozen) {
                self.call(id, |c, now| c.handle_record(&r, now));
            }
        }
    }

    /// The machine comes up anew: fresh maps of this incarnation, which wait before they vote.
    pub fn reborn(&mut self, id: u8, incarnation: u64) {
        let (n, groups) = (self.nodes.len() as u8, 1);
        let sh = Shared::default();
        let old = Rc::clone(&self.nodes[id as usize - 1].sh);
        sh.id.store(u64::from(id));
        for (new, old) in [
            (&sh.cluster, &old.cluster),
            (&sh.generation, &old.generation),
            (&sh.max_promise, &old.max_promise),
            (&sh.voters, &old.voters),
            (&sh.majority, &old.majority),
        ] {
            new.store(old.load());
        }
        sh.incarnation.store(incarnation);
        sh.vote_after.store(self.t + self.timing.max_promise);
        let node = &mut self.nodes[id as usize - 1];
        node.sh = Rc::new(sh);
        node.is_frozen = false;
        node.frozen.clear();
        node.core = None;
        node.timer = 0;
        let core = self.core(id, n, groups);
        self.nodes[id as usize - 1].core = Some(core);
    }

    /// The agent dies and starts again over its table.
    pub fn restart(&mut self, id: u8, groups: u8) {
        let n = self.nodes.len() as u8;
        self.nodes[id as usize - 1].core = None;
        let core = self.core(id, n, groups);
        self.nodes[id as usize - 1].core = Some(core);
        self.nodes[id as usize - 1].timer = 0;
    }

    pub fn call(&mut self, id: u8, f: impl FnOnce(&mut Core<Rc<Shared>>, Now)) {
        let now = self.now();
        let ids = self.nodes.len() as u8;
        let around = self.around;
        let n = &mut self.nodes[id as usize - 1];
        let Some(core) = &mut n.core else { return };
        around(true);
        f(core, now);
        around(false);
        while let Some(a) = core.poll_action() {
            match a {
                Action::Broadcast(m) => (1..=ids)
                    .filter(|to| *to != id)
                    .for_each(|to| self.wire.push_back((to, m))),
                Action::Send(to, m) => self.wire.push_back((to, m)),
                Action::Event(e) => n.events.push(e),
                a => n.actions.push(a),
            }
        }
        around(true);
        n.timer = core.deadline(now);
        around(false);
    }

    /// What a core asks its agent to stop or start again, since the last look.
    pub fn asked(&mut self, id: u8) -> Vec<Action> {
        let actions = &mut self.nodes[id as usize - 1].actions;
        let asked = |a: &mut Action| matches!(a, Action::Stop { .. } | Action::Resume { .. });
        actions.extract_if(.., asked).collect()
    }

    /// A command that is refused.
    pub fn refused(&mut self, id: u8, c: Command) -> CommandError {
        let mut error = None;
        self.call(id, |core, now| error = core.handle_command(c, now).err());
        self.settle();
        error.expect("it is taken")
    }

    pub fn command(&mut self, id: u8, c: Command) {
        self.call(id, |core, now| core.handle_command(c, now).unwrap());
        self.settle();
    }

    /// A message reaches a kernel, and its agent unless frozen.
    pub fn arrive(&mut self, to: u8, mut m: Message) {
        let now = self.t;
        let sh = Rc::clone(&self.nodes[to as usize - 1].sh);
        let v = kernel::on_message(&sh, &m, now, Rules::all());
        let kind = match v {
            Verdict::Deliver | Verdict::AckAndDeliver => Some(RecordKind::Message),
            Verdict::GateShut => Some(RecordKind::GateShut),
            Verdict::Duplicate => Some(RecordKind::DuplicateId),
            Verdict::Regression => Some(RecordKind::Regression),
            Verdict::Drop(_) | Verdict::Done | Verdict::Ack => None,
        };
        if let Some(kind) = kind {
            let r = Record {
                kind: kind as u32,
                ifindex: 0,
                now,
                message: m,
            };
            if self.nodes[to as usize - 1].is_frozen {
                self.nodes[to as usize - 1].frozen.push_back(r);
            } else {
                self.call(to, |c, now| c.handle_record(&r, now));
            }
        }
        if matches!(v, Verdict::Ack | Verdict::AckAndDeliver) {
            kernel::make_ack(&sh, &mut m, now);
            self.wire.push_back((m.to, m));
        }
    }

    /// Everything on the wire arrives, and what that causes.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some((to, m)) = self.wire.pop_front() else {
                return;
            };
            if (self.pass)(m.from, to, &m) {
                self.arrive(to, m);
            } else {
                self.kept.push((to, m));
            }
        }
        panic!("the wire never falls silent");
    }

    /// Time goes on in steps of 1 ms; timers fire.
    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.t += MS;
            for id in 1..=self.nodes.len() as u8 {
                let n = &self.nodes[id as usize - 1];
                if n.is_frozen || n.core.is_none() || n.timer > self.t {
                    continue;
                }
                self.call(id, |c, now| c.handle_timeout(now));
                self.settle();
            }
        }
    }
}
