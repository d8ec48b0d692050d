//! One tick: the real code over the state.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use agent_common::{
    kernel::{self, Verdict},
    record::RecordKind,
    state::{LAYOUT, PromiseWord, Shared},
    wire::{Kind, Message},
};
use agent_core::{Action, Command, Core, Event, Now};
use heartline_sim::ledger::{Life, Told};

use crate::{
    check::Broken,
    fault::Fault,
    setup::{NODES, SETTLE, Setup, TICK, TIMING},
    state::{Flying, NodeState, State, Table, Waiting, Way},
};

/// Records that a ring holds.
const RING: usize = 16;
/// 2024-01-01, so that epochs look like those of real nodes.
const WALL0_MS: u64 = 1_704_067_200_000;
/// More messages than that in one tick are without end.
const STORM: u32 = 2_000;

type CoreOf = Core<Rc<Shared>>;

/// Tables and cores into which states are loaded: one set for each thread.
struct Rig {
    setup: Setup,
    tables: [Rc<Shared>; NODES],
    cores: [CoreOf; NODES],
}

impl Rig {
    fn new(setup: &Setup) -> Rig {
        let tables: [Rc<Shared>; NODES] = std::array::from_fn(|_| Rc::new(Shared::default()));
        let cores = std::array::from_fn(|i| {
            let now = Now {
                boot: 0,
                wall_ms: 0,
            };
            let mut core = Core::new(setup.config(i as u8 + 1), Rc::clone(&tables[i]), now);
            core.break_rules(setup.rules);
            core
        });
        Rig {
            setup: setup.clone(),
            tables,
            cores,
        }
    }
}

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

/// A state being worked on.
struct Run<'a> {
    s: State,
    rig: &'a mut Rig,
    alive: [bool; NODES],
    queue: VecDeque<(u8, Message)>,
    sent: u32,
    log: Option<&'a mut Vec<String>>,
}

/// Says something, if anybody listens.
macro_rules! say {
    ($r:expr, $($arg:tt)*) => {
        if let Some(log) = $r.log.as_mut() {
            log.push(format!($($arg)*));
        }
    };
}

#[expect(clippy::needless_range_loop, reason = "several arrays go by one index")]
fn with<T>(
    setup: &Setup,
    s: State,
    log: Option<&mut Vec<String>>,
    f: impl FnOnce(&mut Run) -> T,
) -> (State, T) {
    RIG.with(|cell| {
        let mut cell = cell.borrow_mut();
        let rig = match cell.take() {
            Some(rig) if rig.setup == *setup => cell.insert(rig),
            _ => cell.insert(Rig::new(setup)),
        };
        let mut alive = [false; NODES];
        for i in 0..NODES {
            s.nodes[i].table.put(&rig.tables[i]);
            if let Some(saved) = &s.nodes[i].core {
                rig.cores[i].load(saved);
                alive[i] = true;
            }
        }
        let mut run = Run {
            s,
            rig,
            alive,
            queue: VecDeque::new(),
            sent: 0,
            log,
        };
        let out = f(&mut run);
        let Run {
            mut s, rig, alive, ..
        } = run;
        for i in 0..NODES {
            s.nodes[i].table = Table::of(&rig.tables[i]);
            s.nodes[i].core = alive[i].then(|| rig.cores[i].save(NODES as u8, setup.groups.into()));
        }
        (s, out)
    })
}

/// Three nodes that have just been installed, after [`SETTLE`] ticks in which all goes well.
pub(crate) fn begin(setup: &Setup) -> State {
    let nodes = std::array::from_fn(|i| NodeState {
        up: true,
        base: (i as u64 + 1) * 100_000_000_000,
        since: 0,
        table: Table::default(),
        core: None,
        frozen_until: 0,
        back_at: 0,
        timer: 0,
        ring: Vec::new(),
    });
    let s = State {
        tick: 0,
        left: setup.faults,
        last: 0,
        nodes,
        late: Vec::new(),
        cut_until: [[0; NODES]; NODES],
        ways: Vec::new(),
        orders: Vec::new(),
        reverse: false,
        owner: [0; 2],
        used: [[(0, 0); NODES]; 2],
        ledgers: Default::default(),
        ended: Vec::new(),
        moved: false,
        broken: None,
    };
    let (mut s, ()) = with(setup, s, None, |r| {
        for i in 0..NODES {
            r.fresh_table(i, 0);
            r.start_agent(i);
        }
    });
    for _ in 0..SETTLE {
        s = tick(setup, s, None);
    }
    s.moved = false;
    s
}

/// Everything that happens in one tick, then time goes on.
pub(crate) fn tick(setup: &Setup, s: State, log: Option<&mut Vec<String>>) -> State {
    with(setup, s, log, |r| r.tick()).0
}

impl Run<'_> {
    fn now(&self, i: usize) -> Now {
        let n = &self.s.nodes[i];
        let dt = (u64::from(self.s.tick - n.since) * TICK) as i64;
        Now {
            boot: n.base + (dt + dt * self.rig.setup.drift[i] / 1_000_000) as u64,
            wall_ms: WALL0_MS + u64::from(self.s.tick) * TICK / 1_000_000,
        }
    }

    fn true_now(&self) -> u64 {
        u64::from(self.s.tick) * TICK
    }

    fn fresh_table(&mut self, i: usize, wait: u64) {
        let now = self.now(i);
        let sh = &self.rig.tables[i];
        Table::default().put(sh);
        sh.id.store(i as u64 + 1);
        sh.cluster.store(1);
        sh.generation.store(1);
        sh.max_promise.store(TIMING.max_promise);
        sh.voters.store((1 << NODES) - 1);
        sh.majority.store(NODES as u64 / 2 + 1);
        sh.incarnation.store(now.wall_ms * 1_000_000);
        sh.vote_after.store(now.boot + wait);
        sh.layout.store(LAYOUT);
    }

    fn start_agent(&mut self, i: usize) {
        let setup = &self.rig.setup;
        let mut core = Core::new(
            setup.config(i as u8 + 1),
            Rc::clone(&self.rig.tables[i]),
            self.now(i),
        );
        core.break_rules(setup.rules);
        self.rig.cores[i] = core;
        self.alive[i] = true;
        self.s.nodes[i].timer = 0;
    }

    fn runs(&self, i: usize) -> bool {
        self.alive[i] && self.s.tick >= self.s.nodes[i].frozen_until
    }

    fn tick(&mut self) {
        self.orders();
        let due = self.s.tick;
        let (now, later): (Vec<Flying>, Vec<Flying>) = std::mem::take(&mut self.s.late)
            .into_iter()
            .partition(|f| f.at <= due);
        self.s.late = later;
        self.queue
            .extend(now.into_iter().map(|f| (f.to, f.message)));
        self.settle();
        let reverse = self.s.reverse;
        for k in 0..NODES {
            let i = if reverse { NODES - 1 - k } else { k };
            self.come_back(i);
            if self.runs(i) {
                while !self.s.nodes[i].ring.is_empty() && self.runs(i) {
                    let r = self.s.nodes[i].ring.remove(0).record();
                    self.call(i, |core, now| core.handle_record(&r, now));
                }
                if self.now(i).boot >= self.s.nodes[i].timer {
                    self.call(i, |core, now| core.handle_timeout(now));
                }
            }
            self.settle();
        }
        self.s.ways.clear();
        self.s.reverse = false;
        self.s.last = 0;
        self.s.tick += 1;
        // A lease that ends by itself ends here.
        self.look();
    }

    /// The faults that touch memory.
    fn orders(&mut self) {
        for f in std::mem::take(&mut self.s.orders) {
            match f {
                Fault::Kill(n, d) => {
                    let i = usize::from(n) - 1;
                    if self.alive[i] {
                        self.alive[i] = false;
                        self.s.nodes[i].back_at = self.s.tick + d;
                        self.s.nodes[i].frozen_until = 0;
                    }
                }
                Fault::Reboot(n) => {
                    let i = usize::from(n) - 1;
                    let life = self.life(i);
                    self.s.ended.push(life);
                    self.alive[i] = false;
                    Table::default().put(&self.rig.tables[i]);
                    let n = &mut self.s.nodes[i];
                    n.up = false;
                    n.ring.clear();
                    n.frozen_until = 0;
                    n.back_at = self.s.tick + 1;
                }
                Fault::Move(node) => {
                    // Told to a node that runs.
                    if let Some(i) = (0..NODES).find(|i| self.runs(*i)) {
                        self.call(i, |core, now| {
                            let _ = core.handle_command(Command::Move { group: 0, node }, now);
                        });
                    }
                }
                Fault::Plan(n) => {
                    let i = usize::from(n) - 1;
                    if self.runs(i) {
                        let promise = TIMING.max_promise;
                        self.call(i, |core, now| {
                            let _ = core.handle_command(Command::PreparePause { promise }, now);
                        });
                    }
                }
                Fault::Cut(..)
                | Fault::Apart(..)
                | Fault::Alone(..)
                | Fault::Freeze(..)
                | Fault::Hold(..)
                | Fault::Lose(..)
                | Fault::Copy(..)
                | Fault::Reverse => {}
            }
        }
    }

    fn come_back(&mut self, i: usize) {
        if self.alive[i] || self.s.tick < self.s.nodes[i].back_at {
            return;
        }
        if !self.s.nodes[i].up {
            let n = &mut self.s.nodes[i];
            n.up = true;
            n.base = 1_000_000_000;
            n.since = self.s.tick;
            let waits = self
                .rig
                .setup
                .rules
                .hold(agent_common::rules::Rule::FreshWaits);
            self.fresh_table(i, if waits { TIMING.max_promise } else { 0 });
            say!(self, "  n{} is up with fresh state", i + 1);
        }
        self.start_agent(i);
        say!(self, "  n{}'s agent starts", i + 1);
        // What it does first.
        self.call(i, |core, now| core.handle_timeout(now));
    }

    /// Delivers until nothing is on its way any more.
    fn settle(&mut self) {
        while let Some((to, m)) = self.queue.pop_front() {
            self.sent += 1;
            if self.sent > STORM {
                self.fail(Broken::Storm, "messages without end".to_owned());
                self.queue.clear();
                return;
            }
            self.arrive(usize::from(to) - 1, m);
        }
    }

    fn arrive(&mut self, i: usize, mut m: Message) {
        let now = self.now(i).boot;
        let sh = Rc::clone(&self.rig.tables[i]);
        if !self.s.nodes[i].up || kernel::precheck(&sh, &m).is_err() {
            return;
        }
        let verdict = kernel::on_message(&sh, &m, now, self.rig.setup.rules);
        say!(self, "  n{} <- {} {}", i + 1, describe(&m), word(verdict));
        let (kind, ack) = match verdict {
            Verdict::Drop(_) | Verdict::Done => (None, false),
            Verdict::Ack => (None, true),
            Verdict::AckAndDeliver => (Some(RecordKind::Message), true),
            Verdict::Deliver => (Some(RecordKind::Message), false),
            Verdict::GateShut => (Some(RecordKind::GateShut), false),
            Verdict::Duplicate => (Some(RecordKind::DuplicateId), false),
            Verdict::Regression => (Some(RecordKind::Regression), false),
        };
        let message = m;
        if ack {
            kernel::make_ack(&sh, &mut m, now);
            self.send(i, m.to, m);
        }
        self.look();
        if let Some(kind) = kind {
            let waiting = Waiting {
                kind: kind as u32,
                now,
                message,
            };
            if self.runs(i) {
                self.call(i, |core, now| core.handle_record(&waiting.record(), now));
            } else if self.s.nodes[i].ring.len() < RING {
                self.s.nodes[i].ring.push(waiting);
            }
        }
    }

    fn send(&mut self, i: usize, to: u8, m: Message) {
        self.promised(i, &m);
        let tick = self.s.tick;
        if self.s.cut_until[i][usize::from(to) - 1] > tick {
            return;
        }
        let way = self
            .s
            .ways
            .iter()
            .find(|w| usize::from(w.0) == i + 1 && w.1.0 == m.kind);
        let late = |d: u16| Flying {
            at: tick + d,
            to,
            message: m,
        };
        match way.map(|w| w.2) {
            None => self.queue.push_back((to, m)),
            Some(Way::Lost) => {}
            Some(Way::Late(d)) => self.s.late.push(late(d)),
            Some(Way::Twice(d)) => {
                self.s.late.push(late(d));
                self.queue.push_back((to, m));
            }
        }
    }

    /// One call of the core and what it wants done.
    fn call(&mut self, i: usize, f: impl FnOnce(&mut CoreOf, Now)) {
        let now = self.now(i);
        let sh = Rc::clone(&self.rig.tables[i]);
        let (held, before) = (sh.run_set.load(), self.life(i));
        f(&mut self.rig.cores[i], now);
        if sh.incarnation.load() != before.incarnation {
            self.s.ended.push(Life {
                run_cv: u64::MAX,
                cv_max: u64::MAX,
                ..before
            });
        } else if sh.run_cv.load() < before.run_cv && self.rig.setup.strict() {
            self.fail(
                Broken::Version,
                format!("n{}'s claim version went back", i + 1),
            );
        }
        self.look();
        let (mut failed, mut taken) = (false, false);
        while let Some(a) = self.rig.cores[i].poll_action() {
            match a {
                Action::Broadcast(m) => {
                    for to in (1..=NODES as u8).filter(|to| usize::from(*to) != i + 1) {
                        self.send(i, to, m);
                    }
                }
                Action::Send(to, m) => self.send(i, to, m),
                Action::Gain(g) => say!(
                    self,
                    "  n{} GAINS group {} ({:?})",
                    i + 1,
                    g.group,
                    g.reason
                ),
                Action::Lose { group, .. } => say!(self, "  n{} loses group {group}", i + 1),
                Action::Event(Event::ClaimFailed { .. }) => failed = true,
                Action::Event(
                    Event::LeaseLapsed { .. }
                    | Event::Released { .. }
                    | Event::GateShut { .. }
                    | Event::StartedAfresh
                    | Event::DuplicateId,
                ) => taken = true,
                Action::Event(_)
                | Action::Announce { .. }
                | Action::Stop { .. }
                | Action::Resume { .. }
                | Action::PauseReady { .. }
                | Action::Entered { .. }
                | Action::Left => {}
            }
        }
        let lost = held.minus(sh.run_set.load());
        if failed && !taken && !lost.is_empty() && self.rig.setup.strict() {
            self.fail(
                Broken::CostlyFailure,
                format!("a failed attempt cost n{} a group", i + 1),
            );
        }
        self.s.nodes[i].timer = self.rig.cores[i].deadline(now);
    }

    fn life(&self, i: usize) -> Life {
        let sh = &self.rig.tables[i];
        Life {
            id: i as u8 + 1,
            incarnation: sh.incarnation.load(),
            run_cv: sh.run_cv.load(),
            cv_max: sh.cv_max.load(),
        }
    }

    fn fail(&mut self, broken: Broken, text: String) {
        say!(self, "  BROKEN {broken:?}: {text}");
        self.s.broken.get_or_insert(broken);
    }

    /// Whose gates are open now?
    fn look(&mut self) {
        for g in 0..self.rig.setup.groups {
            let open: Vec<usize> = (0..NODES)
                .filter(|i| {
                    self.s.nodes[*i].up && self.rig.tables[*i].gate_open(g, self.now(*i).boot)
                })
                .collect();
            if let [a, b, ..] = open[..] {
                self.fail(
                    Broken::TwoOwners,
                    format!("group {g} is owned by n{} and n{}", a + 1, b + 1),
                );
            }
            let Some(i) = open.first().copied() else {
                continue;
            };
            let g = usize::from(g);
            let sh = &self.rig.tables[i];
            let claim = (sh.incarnation.load(), sh.group_epoch[g].load());
            let (last, used) = (self.s.owner[g], self.s.used[g][i]);
            if last != i as u8 + 1 {
                self.s.moved |= last != 0;
                if last != 0 && used == claim {
                    self.fail(
                        Broken::Resume,
                        format!(
                            "n{} resumes group {g} without a new claim after n{last}",
                            i + 1
                        ),
                    );
                }
            }
            self.s.used[g][i] = claim;
            self.s.owner[g] = i as u8 + 1;
        }
    }

    /// An ack or a grant leaves.
    fn promised(&mut self, i: usize, m: &Message) {
        if !self.rig.setup.strict() {
            return;
        }
        let now = self.now(i).boot;
        let sh = &self.rig.tables[i];
        let (cv, set, until) = match Kind::from_u8(m.kind) {
            Some(Kind::Ack) => (m.cv, m.set, now + u64::from(m.promise_us) * 1000),
            Some(Kind::Grant) => {
                let word = PromiseWord(sh.peer(m.to).word.load());
                (m.ask_cv, m.ask_set, word.expiry_ns())
            }
            _ => return,
        };
        let rate = (1_000_000 + self.rig.setup.drift[i]) as u64;
        let t = self.true_now();
        let told = Told {
            to: m.to,
            incarnation: m.re_incarnation,
            cv,
            set,
            until: t + until.saturating_sub(now) * 1_000_000 / rate,
        };
        let lives: Vec<Life> = (0..NODES)
            .map(|i| self.life(i))
            .chain(self.s.ended.iter().copied())
            .collect();
        let over = self.s.ledgers[i].enter(told, t, |p| {
            lives
                .iter()
                .find(|l| (l.id, l.incarnation) == (p.to, p.incarnation))
                .is_some_and(|l| p.cv != l.run_cv && p.cv < l.cv_max)
        });
        if let Err(over) = over {
            let text = format!(
                "n{} promises to n{} over its word to n{}",
                i + 1,
                told.to,
                over.to
            );
            self.fail(Broken::GrantOverPromise, text);
        }
    }
}

fn describe(m: &Message) -> String {
    let kind = Kind::from_u8(m.kind).map_or("?".to_owned(), |k| format!("{k:?}"));
    let mut text = format!("n{} {kind} version {} runs {:b}", m.from, m.cv, m.set.0[0]);
    if m.ask_cv != 0 {
        text += &format!(", asks version {} for {:b}", m.ask_cv, m.ask_set.0[0]);
    }
    text
}

fn word(v: Verdict) -> String {
    match v {
        Verdict::Drop(c) => format!("(dropped: {c:?})"),
        Verdict::Done => "(counted)".to_owned(),
        Verdict::Ack | Verdict::AckAndDeliver => "(acked)".to_owned(),
        Verdict::Deliver => String::new(),
        Verdict::GateShut => "(shuts the gate)".to_owned(),
        Verdict::Duplicate => "(own id)".to_owned(),
        Verdict::Regression => "(went back)".to_owned(),
    }
}
