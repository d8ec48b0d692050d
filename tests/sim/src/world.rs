//! The run: events on virtual time, the real kernel logic on arrival, the real core after it.

use agent_common::Set;

use crate::{
    check::{Check, Violation},
    clock::Clock,
    ledger::{Ledger, Life},
    members,
    net::Net,
    node::Node,
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

/// Somebody on the network without the key, who plays a silent node's last heartbeat again and again.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Whose; 0 for nobody's.
    pub node: u8,
    /// Its last heartbeat.
    pub last: Option<agent_common::wire::Message>,
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
    pub(crate) rng_net: Rng,
    pub(crate) rng_late: Rng,
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
    pub(crate) recorder: Recorder,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) ended: Vec<Life>,
    pub(crate) broken: Option<Violation>,
    pub(crate) healed: bool,
    /// A node's wall clock was set back by a reboot.
    pub(crate) set_back: bool,
    pub(crate) healed_in: u64,
    /// The newest generation that the operator has written.
    pub(crate) latest: u32,
    /// When a generation was last seen to be unfinished after healing.
    pub(crate) unfinished_at: u64,
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
        let mut w = World {
            t: 0,
            nodes: Vec::with_capacity(o.shape.nodes as usize),
            net: Net::new(o.weather, o.shape.links),
            check: Check::new(&o),
            queue: Queue::default(),
            rng_fault: Rng::new(o.seed, 3),
            rng_net: Rng::new(o.seed, 4),
            rng_late: Rng::new(o.seed, 5),
            hash: 0,
            events: 0,
            messages: 0,
            gains: 0,
            last_gain: (0, 0, 0),
            recorder: Recorder::default(),
            ended: Vec::new(),
            ledgers: vec![Ledger::default(); o.shape.nodes as usize],
            broken: None,
            healed: false,
            set_back: false,
            healed_in: 0,
            latest: 1,
            unfinished_at: 0,
            o,
        };
        let drift = u64::from(w.o.drift_ppm);
        w.set_back = w.o.wall_jumps_ms != 0;
        w.check.vips_move = w.o.generations.iter().any(|g| g.home != members::AT_HOME);
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
            n.wall_jumps_ms = w.o.wall_jumps_ms;
            if w.o.generation(1).members & agent_common::node_bit(id) != 0 {
                n.disk.file = 1;
                n.fresh_table(&w.o, 0, 0);
                n.start_agent(&w.o, 0);
            } else {
                n.up = false;
            }
            w.nodes.push(n);
        }
        if w.o.services.is_some() {
            for i in 0..w.nodes.len() {
                w.look_at_services(i);
            }
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
            What::Arrive(slot, from) => {
                let m = self.queue.take(slot);
                let n = &self.nodes[i];
                if n.up && self.t >= n.stopped_until {
                    if self.o.races > 0 && self.rng_late.chance(self.o.races) {
                        self.race(i, from, m);
                    } else {
                        self.arrive(i, from, m);
                    }
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
            What::Replay => self.replay(),
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
            What::Reload(g) => self.reload(i, g),
            What::Map => {
                if self.nodes[i].life == e.life {
                    self.map(i);
                }
            }
            What::Service(g) => self.serviced(i, g, e.life),
            What::Phase(p) => {
                if self.phase(p) {
                    return true;
                }
            }
        }
        self.mix(e.at ^ (i as u64) << 56);
        if let Err(v) = self.check.gates(&self.nodes, i, self.t) {
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
            .find(|n| n.open(self.t).has(group))
            .map(|n| n.id)
    }
}
