//! The run: events on virtual time, the real kernel logic on arrival, the real core after it.

use agent_common::{
    Set,
    kernel::{self, Verdict},
    record::{Record, RecordKind},
    wire::Message,
};
use agent_core::{Action, Command, Event as CoreEvent};

use crate::{
    check::{Broken, Check, Violation, violation},
    clock::Clock,
    fault::PlannedEnd,
    net::Net,
    node::{Node, RING},
    options::{MS, Options},
    queue::{Event, Queue, What},
    rng::Rng,
};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// Hash over everything that happened.
    pub hash: u64,
    /// Events handled.
    pub events: u64,
    /// Messages sent.
    pub messages: u64,
    /// Groups gained.
    pub gains: u64,
    /// Parts of 1000 of the time that a group was owned.
    pub owned_permille: u64,
    /// From healing until every group was owned, ns.
    pub healed_in: u64,
    /// True time at the end, ns.
    pub end: u64,
}

/// A running simulation.
pub struct World {
    /// How it is run.
    pub o: Options,
    /// True time, ns.
    pub t: u64,
    /// The nodes, by id - 1.
    pub nodes: Vec<Node>,
    /// The network.
    pub net: Net,
    /// The checks.
    pub check: Check,
    pub(crate) queue: Queue,
    pub(crate) rng_fault: Rng,
    rng_net: Rng,
    rng_late: Rng,
    /// Hash over everything that happened.
    pub hash: u64,
    /// Events handled.
    pub events: u64,
    /// Messages sent.
    pub messages: u64,
    /// Groups gained: true time, node, group.
    pub gains: u64,
    /// The last gain: true time, node, group.
    pub last_gain: (u64, u8, u8),
    pub(crate) broken: Option<Violation>,
    pub(crate) healed: bool,
    /// A node's wall clock was set back by a reboot.
    pub(crate) set_back: bool,
    pub(crate) healed_in: u64,
}

/// Says something, if anybody listens.
macro_rules! say {
    ($w:expr, $($arg:tt)*) => {
        if $w.o.trace {
            eprintln!("{:12.3} ms  {}", $w.t as f64 / 1e6, format_args!($($arg)*));
        }
    };
}
pub(crate) use say;

impl World {
    /// A cluster that has just been installed: nobody has promised anything, so nobody needs to wait.
    pub fn new(o: Options) -> World {
        let mut rng = Rng::new(o.seed, 2);
        let strict = o.rules == agent_common::rules::Rules::all();
        let mut w = World {
            t: 0,
            nodes: Vec::with_capacity(o.shape.nodes as usize),
            net: Net::new(o.weather, o.shape.links),
            check: Check::new(o.shape.nodes, o.shape.groups, strict),
            queue: Queue::default(),
            rng_fault: Rng::new(o.seed, 3),
            rng_net: Rng::new(o.seed, 4),
            rng_late: Rng::new(o.seed, 5),
            hash: 0,
            events: 0,
            messages: 0,
            gains: 0,
            last_gain: (0, 0, 0),
            broken: None,
            healed: false,
            set_back: false,
            healed_in: 0,
            o,
        };
        let drift = u64::from(w.o.drift_ppm);
        for id in 1..=w.o.shape.nodes {
            // Half of the clocks are as wrong as can be: that is where lease and promise meet.
            let ppm = rng.between(0, 2 * drift + 1) as i64 - drift as i64;
            let ppm = if rng.chance(500) {
                drift as i64 * ppm.signum()
            } else {
                ppm
            };
            let clock = Clock::new(0, rng.between(5_000 * MS, 500_000 * MS), ppm);
            let mut n = Node::new(id, clock, rng.between(0, 2_000) as i64 - 1_000);
            n.fresh_table(&w.o, 0, 0);
            n.start_agent(&w.o, 0);
            w.nodes.push(n);
        }
        for i in 0..w.nodes.len() {
            let at = rng.between(0, 10 * MS);
            w.set_timer(i, at);
        }
        if w.o.mix.gap != 0 {
            w.queue.push(w.o.faults_from, 0, 0, What::Fault);
        }
        for (i, (at, _)) in w.o.script.iter().enumerate() {
            w.queue.push(*at, 0, 0, What::Script(i as u32));
        }
        if w.o.heal_at < u64::MAX {
            w.queue.push(w.o.heal_at, 0, 0, What::Phase(0));
        }
        w
    }

    /// Runs to the end.
    pub fn run(mut self) -> Outcome {
        let end = if self.o.heal_at < u64::MAX {
            u64::MAX
        } else {
            self.o.end
        };
        self.run_until(end);
        self.outcome()
    }

    /// What it has come to so far.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            seed: self.o.seed,
            violation: self.broken.clone(),
            hash: self.hash,
            events: self.events,
            messages: self.messages,
            gains: self.gains,
            owned_permille: self.check.owned * 1000
                / (u64::from(self.o.shape.groups) * self.t.max(1)),
            healed_in: self.healed_in,
            end: self.t,
        }
    }

    /// Runs until true time `end`, a violation, or the end of the run.
    pub fn run_until(&mut self, end: u64) {
        while self.broken.is_none() {
            let Some(e) = self.queue.pop() else { return };
            if e.at > end {
                // Not lost: it comes again when the run goes on.
                self.queue.push_again(e);
                self.t = end;
                return;
            }
            self.t = e.at;
            self.events += 1;
            if self.step(e) {
                return;
            }
        }
    }

    fn step(&mut self, e: Event) -> bool {
        let i = (e.node as usize).wrapping_sub(1);
        match e.what {
            What::Arrive(slot) => {
                let m = self.queue.take(slot);
                if self.nodes[i].up {
                    self.arrive(i, m);
                }
            }
            What::Timer => {
                if self.nodes[i].timer_life != e.life {
                    return false;
                }
                self.nodes[i].timer_at = u64::MAX;
                if self.nodes[i].core.is_none() || self.nodes[i].paused_until != 0 {
                    return false;
                }
                self.timeout(i);
            }
            What::Ring => {
                self.nodes[i].ring_armed &= self.nodes[i].life != e.life;
                if self.nodes[i].life != e.life || self.nodes[i].paused_until != 0 {
                    return false;
                }
                self.drain_ring(i);
            }
            What::Resume => {
                if self.nodes[i].life != e.life || self.nodes[i].paused_until > self.t {
                    return false;
                }
                self.resume(i);
            }
            What::Restart => {
                if self.nodes[i].life != e.life || !self.nodes[i].up || self.nodes[i].core.is_some()
                {
                    return false;
                }
                self.restart(i);
            }
            What::Up => {
                if self.nodes[i].life != e.life || self.nodes[i].up {
                    return false;
                }
                self.up(i);
            }
            What::LeaveTimeout => {
                if self.nodes[i].life != e.life {
                    return false;
                }
                self.left(i);
            }
            What::Fault => {
                if !self.healed {
                    self.random_fault();
                    let wait = self.o.mix.wait(&mut self.rng_fault);
                    self.queue.push(self.t + wait, 0, 0, What::Fault);
                }
            }
            What::Script(k) => {
                let fault = self.o.script[k as usize].1;
                self.fault(fault);
            }
            What::Phase(p) => {
                if self.phase(p) {
                    return true;
                }
            }
        }
        self.mix(e.at ^ (i as u64) << 56);
        if let Err(v) = self.check.gates(&self.nodes, self.t) {
            self.fail(v);
        } else if i < self.nodes.len()
            && let Err(v) = self.check.table(&self.nodes[i], self.t)
        {
            self.fail(v);
        }
        false
    }

    pub(crate) fn fail(&mut self, v: Violation) {
        say!(self, "BROKEN {:?}: {}", v.broken, v.text);
        self.broken.get_or_insert(v);
    }

    #[inline]
    pub(crate) fn mix(&mut self, v: u64) {
        self.hash = (self.hash.rotate_left(5) ^ v).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// A message reaches a kernel.
    fn arrive(&mut self, i: usize, mut m: Message) {
        let n = &self.nodes[i];
        let now = n.clock.at(self.t);
        if kernel::precheck(&n.sh, &m).is_err() {
            return;
        }
        let verdict = kernel::on_message(&n.sh, &m, now, self.o.rules);
        self.hash =
            (self.hash ^ m.seq ^ u64::from(m.from) << 40).wrapping_mul(0x517c_c1b7_2722_0a95);
        if self.o.trace && !matches!(verdict, Verdict::Done) {
            say!(
                self,
                "n{} <- n{} {} {verdict:?}",
                i + 1,
                m.from,
                describe(&m)
            );
        }
        let (kind, ack) = match verdict {
            Verdict::Drop(_) | Verdict::Done => return,
            Verdict::Ack => (None, true),
            Verdict::AckAndDeliver => (Some(RecordKind::Message), true),
            Verdict::Deliver => (Some(RecordKind::Message), false),
            Verdict::GateShut => (Some(RecordKind::GateShut), false),
            Verdict::Duplicate => (Some(RecordKind::DuplicateId), false),
            Verdict::Regression => (Some(RecordKind::Regression), false),
        };
        if let Some(kind) = kind {
            let late = self.lateness();
            let n = &mut self.nodes[i];
            if n.ring.len() < RING {
                n.ring.push_back(Record {
                    kind: kind as u32,
                    ifindex: u32::from(m.link),
                    now,
                    message: m,
                });
            } else {
                n.ring_lost += 1;
            }
            if n.core.is_some() && n.paused_until == 0 && !n.ring_armed {
                n.ring_armed = true;
                self.queue.push(self.t + late, n.id, n.life, What::Ring);
            }
        }
        if ack {
            let sh = &self.nodes[i].sh;
            kernel::make_ack(sh, &mut m, now);
            let link = m.link;
            self.transmit(i as u8 + 1, m.to, link, &m);
        }
    }

    /// How late a thread wakes up.
    #[inline]
    fn lateness(&mut self) -> u64 {
        let unit = self.o.unit();
        let r = &mut self.rng_late;
        if self.o.weather.spikes > 0 && r.chance(5) {
            r.between(60_000, 60_000 + 4 * unit)
        } else {
            r.between(4_000, 60_000)
        }
    }

    pub(crate) fn timeout(&mut self, i: usize) {
        let n = &mut self.nodes[i];
        let slice = self.t / (10 * MS);
        n.spins = if n.spins.0 == slice {
            (slice, n.spins.1 + 1)
        } else {
            (slice, 1)
        };
        if n.spins.1 > 100 {
            let text = format!("the timer of n{} fires again and again", n.id);
            return self.fail(violation(Broken::Spin, self.t, text));
        }
        self.call(i, |core, now| core.handle_timeout(now));
    }

    pub(crate) fn drain_ring(&mut self, i: usize) {
        while let Some(r) = self.nodes[i].ring.pop_front() {
            if self.nodes[i].core.is_none() {
                return;
            }
            self.call(i, |core, now| core.handle_record(&r, now));
        }
    }

    /// A person's command at a node (by id - 1), if its agent runs.
    pub fn command(&mut self, i: usize, c: Command) {
        if self.nodes[i].core.is_none() || self.nodes[i].paused_until != 0 {
            return;
        }
        self.call(i, |core, now| {
            // Refused commands change nothing.
            let _ = core.handle_command(c, now);
        });
    }

    /// One call of the core, its actions, its timer.
    pub(crate) fn call(&mut self, i: usize, f: impl FnOnce(&mut CoreOf, agent_core::Now)) {
        let n = &mut self.nodes[i];
        let Some(mut core) = n.core.take() else {
            return;
        };
        let now = n.now(self.t);
        let held = n.sh.run_set.load();
        f(&mut core, now);
        if let Some(down) = n.kill_next.take() {
            say!(self, "n{} dies in a call", i + 1);
            self.nodes[i].core = Some(core);
            self.kill(i, down);
            return;
        }
        let mut failed = false;
        let mut taken = false;
        let mut stop = None;
        while let Some(a) = core.poll_action() {
            match a {
                Action::Broadcast(m) => {
                    self.nodes[i].last_beat = self.t;
                    if let Err(v) = self.check.heartbeat(&m, self.t) {
                        self.fail(v);
                    }
                    for to in 1..=self.nodes.len() as u8 {
                        if to != m.from {
                            self.send(to, &m);
                        }
                    }
                }
                Action::Send(to, m) => self.send(to, &m),
                Action::Gain(g) => {
                    self.gains += 1;
                    self.last_gain = (self.t, i as u8 + 1, g.group);
                    say!(
                        self,
                        "n{} GAINS {} epoch {} {:?}",
                        i + 1,
                        g.group,
                        g.epoch & 0xfffff,
                        g.reason
                    );
                }
                Action::Lose { group, .. } => say!(self, "n{} LOSES {group}", i + 1),
                Action::PauseReady { .. } => stop = Some(false),
                Action::Left => stop = Some(true),
                Action::Announce { .. } => {}
                Action::Event(e) => {
                    match e {
                        CoreEvent::ClaimFailed { .. } => failed = true,
                        CoreEvent::LeaseLapsed { .. }
                        | CoreEvent::Released { .. }
                        | CoreEvent::GateShut { .. }
                        | CoreEvent::StartedAfresh
                        | CoreEvent::DuplicateId => taken = true,
                        _ => {}
                    }
                    if self.o.trace
                        && !matches!(e, CoreEvent::Gained(_) | CoreEvent::NodeHealth { .. })
                    {
                        say!(self, "n{} {e:?}", i + 1);
                    }
                }
            }
        }
        let lost = held.minus(core.owned());
        if failed && !taken && !lost.is_empty() && self.o.rules == agent_common::rules::Rules::all()
        {
            let text = format!(
                "n{}: a failed attempt cost {:?}",
                i + 1,
                lost.iter().collect::<Vec<_>>()
            );
            self.fail(violation(Broken::CostlyFailure, self.t, text));
        }
        if core.dropped_actions() > 0 {
            self.fail(violation(Broken::Dropped, self.t, format!("n{}", i + 1)));
        }
        let deadline = core.deadline(now);
        self.nodes[i].core = Some(core);
        match stop {
            Some(true) => self.left(i),
            Some(false) if self.nodes[i].plan.is_some() => self.pause_ready(i),
            _ => {
                let at = self.nodes[i].clock.when(deadline);
                if at < self.nodes[i].timer_at {
                    let late = self.lateness();
                    self.set_timer(i, at.max(self.t) + late);
                }
            }
        }
    }

    pub(crate) fn set_timer(&mut self, i: usize, at: u64) {
        let n = &mut self.nodes[i];
        n.timer_life += 1;
        n.timer_at = at;
        self.queue.push(at, n.id, n.timer_life, What::Timer);
    }

    fn send(&mut self, to: u8, m: &Message) {
        for link in 0..self.o.shape.links {
            let mut copy = *m;
            copy.link = link;
            self.transmit(m.from, to, link, &copy);
        }
    }

    #[inline]
    fn transmit(&mut self, from: u8, to: u8, link: u8, m: &Message) {
        self.messages += 1;
        for delay in self
            .net
            .delays(from, to, link, m.kind, &mut self.rng_net)
            .into_iter()
            .flatten()
        {
            self.queue.push_message(self.t + delay, to, m);
        }
    }

    pub(crate) fn pause_ready(&mut self, i: usize) {
        let Some(plan) = self.nodes[i].plan.take() else {
            return;
        };
        say!(self, "n{} may pause", i + 1);
        match plan.end {
            PlannedEnd::CalledOff => {
                // A new agent at once, or none: the promise is long either way.
                let at = self.t + 10 * MS;
                self.set_timer(i, at);
            }
            PlannedEnd::Reboot => self.reboot(i, plan.down / 4 + MS),
            PlannedEnd::Restart | PlannedEnd::Hasty => self.kill(i, plan.down),
        }
    }

    /// What was broken, if anything.
    pub fn broken(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    /// Groups that a node runs, for tests.
    pub fn runs(&self, id: u8) -> Set {
        self.nodes[id as usize - 1].sh.run_set.load()
    }

    /// Who owns a group now, for tests.
    pub fn owner(&self, group: u8) -> Option<u8> {
        self.nodes
            .iter()
            .find(|n| n.open(self.t) >> group & 1 == 1)
            .map(|n| n.id)
    }
}

/// The core as simulated.
pub type CoreOf = agent_core::Core<std::rc::Rc<agent_common::state::Shared>>;

fn describe(m: &Message) -> String {
    let kind = agent_common::wire::Kind::from_u8(m.kind);
    format!(
        "{kind:?} seq {} clock {:.3} inc {} cv {} set {:x} ask {} set {:x} promise {} ms flags {:x} re {}",
        m.seq,
        m.clock as f64 / 1e6,
        m.incarnation / 1_000_000 % 1_000_000,
        m.cv,
        m.set.0[0],
        m.ask_cv,
        m.ask_set.0[0],
        m.promise_us / 1000,
        m.flags,
        m.re_seq
    )
}
