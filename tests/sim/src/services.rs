//! What stands behind groups: services that take their time to start and to stop, fail at it, and outlive their agent.

use agent_common::{MAX_NODES, Set};
use agent_core::{Command, GroupConfig, NodeConfig, Phase, action::Gain};

use crate::{
    check::{Broken, violation},
    options::{HOMES, Options},
    queue::What,
    rng::Rng,
    world::{World, say},
};

/// Which groups have services, how groups hang together, and what goes wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// Groups that must be stopped before another node may have them, one bit each.
    pub orderly: u8,
    /// The group that each must be with.
    pub with: [Option<u8>; HOMES],
    /// The groups that each is kept from, one bit each.
    pub apart: [u8; HOMES],
    /// What each node bears; each group needs one.
    pub capacity: Option<u32>,
    /// So many of 1000 stops fail.
    pub stop_fails: u32,
    /// Where starts fail until everything is healed: one bit per group, by id - 1.
    pub start_fails: [u8; MAX_NODES],
}

impl Services {
    /// From the seed. Where units must meet, no node is too small: what has no place anywhere would be no fault.
    pub fn random(seed: u64, o: &Options) -> Services {
        let mut r = Rng::new(seed, 21);
        let groups = u64::from(o.shape.groups);
        let some = r.next() as u8;
        let mut s = Services {
            orderly: r.pick(&[0xff, 0xff, some]),
            with: [None; HOMES],
            apart: [0; HOMES],
            capacity: None,
            stop_fails: r.pick(&[0, 20, 100]),
            start_fails: [0; MAX_NODES],
        };
        let units = r.chance(500) && groups > 1;
        for g in 0..groups {
            // Only earlier ones, so that there is no circle.
            let other = |r: &mut Rng| r.below(g.max(1)) as u8;
            if units && g > 0 && r.chance(500) {
                s.with[g as usize] = Some(other(&mut r));
            } else if g > 0 && r.chance(300) {
                s.apart[g as usize] = 1 << other(&mut r);
            }
        }
        let owners = u64::from(o.shape.nodes) - u64::from(o.shape.witnesses.count_ones());
        if !units && r.chance(400) {
            s.capacity = Some(r.between(groups.div_ceil(owners), groups + 1) as u32);
        }
        for mask in s.start_fails.iter_mut().take(usize::from(o.shape.nodes)) {
            if r.chance(150) {
                *mask = 1 << r.below(groups);
            }
        }
        s
    }

    pub(crate) fn configure(&self, g: u8, of: &mut GroupConfig) {
        of.orderly = self.orderly >> g & 1 == 1;
        of.with = self.with[usize::from(g)];
        of.apart = (0..8)
            .filter(|h| self.apart[usize::from(g)] >> h & 1 == 1)
            .fold(Set::EMPTY, Set::with);
        of.need = u32::from(self.capacity.is_some());
    }

    pub(crate) fn configure_node(&self, of: &mut NodeConfig) {
        of.capacity = self.capacity;
    }
}

/// The services of one group on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing runs.
    #[default]
    Idle,
    /// Being started.
    Starting,
    /// All of it runs.
    Running,
    /// A start failed; it is tried again.
    Failed,
    /// Being stopped, because the core asked for it or because the group is lost.
    Stopping {
        /// In which epoch the core asked.
        asked: Option<u64>,
    },
    /// It could not be stopped.
    Stuck,
}

/// What runs on a node for one group, and when its agent learned that it is stuck elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service {
    /// What it does.
    pub state: State,
    token: u32,
    /// By the node's boot clock; 0: not known to be stuck at a node that is heard.
    stuck_known: u64,
}

impl Service {
    /// The machine has no memory of it.
    pub(crate) fn stop(&mut self) {
        *self = Service {
            token: self.token + 1,
            ..Service::default()
        };
    }
}

/// What a core asked of a node's services in a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Task {
    Gain(Gain),
    Lose(u8, u64),
    Stop(u8, u64),
    Resume(u8),
    Released(u8),
}

impl World {
    fn has_services(&self, g: u8) -> bool {
        self.o.services.is_some_and(|s| s.orderly >> g & 1 == 1)
    }

    /// Something begins that ends after a while.
    fn begin(&mut self, i: usize, g: u8, state: State) {
        let wait = match state {
            State::Failed => 100 * self.o.unit(),
            _ => {
                let long = self.rng_late.pick(&[2, 20, 120]);
                self.rng_late.between(0, long * self.o.unit())
            }
        };
        let n = &mut self.nodes[i];
        let s = &mut n.services[usize::from(g)];
        s.state = state;
        s.token += 1;
        let (id, token) = (n.id, s.token);
        self.queue.push(self.t + wait, id, token, What::Service(g));
    }

    pub(crate) fn task(&mut self, i: usize, task: Task) {
        match task {
            Task::Gain(gain) => {
                let g = gain.group;
                let known = self.nodes[i].services[usize::from(g)].stuck_known;
                let elsewhere = self
                    .nodes
                    .iter()
                    .position(|n| n.services[usize::from(g)].state == State::Stuck);
                if let Some(at) = elsewhere.filter(|at| *at != i)
                    && known != 0
                    && known < gain.phases.claimed
                {
                    let text = format!("n{} takes group {g}, stuck on n{}", i + 1, at + 1);
                    self.fail(violation(Broken::Unstopped, self.t, text));
                }
                if self.has_services(g) && self.service(i, g) != State::Stuck {
                    self.begin(i, g, State::Starting);
                }
            }
            Task::Lose(g, epoch) => {
                if !matches!(self.service(i, g), State::Idle | State::Stuck) {
                    // Should that fail, it is said of the epoch that has ended.
                    self.begin(i, g, State::Stopping { asked: Some(epoch) });
                }
            }
            Task::Stop(g, epoch) => {
                if self.service(i, g) != State::Stuck {
                    self.begin(i, g, State::Stopping { asked: Some(epoch) });
                }
            }
            Task::Resume(g) => {
                if self.service(i, g) != State::Stuck {
                    self.begin(i, g, State::Starting);
                }
            }
            Task::Released(g) => {
                let state = self.service(i, g);
                if self.has_services(g) && state != State::Idle {
                    let text = format!("n{} lets go of group {g}: {state:?}", i + 1);
                    self.fail(violation(Broken::Unstopped, self.t, text));
                }
            }
        }
    }

    fn service(&self, i: usize, g: u8) -> State {
        self.nodes[i].services[usize::from(g)].state
    }

    /// What was begun ends, well or not. Without an agent nobody takes note of it: it looks again later.
    pub(crate) fn serviced(&mut self, i: usize, g: u8, token: u32) {
        let n = &self.nodes[i];
        let s = n.services[usize::from(g)];
        if s.token != token || !n.up {
            return;
        }
        if n.core.is_none() || n.paused_until != 0 {
            let at = self.t + 5 * self.o.unit();
            self.queue.push(at, n.id, token, What::Service(g));
            return;
        }
        let Some(services) = self.o.services else {
            return;
        };
        say!(self, "n{} service {g}: {:?} ends", i + 1, s.state);
        let owned = n.sh.run_set.load().has(g);
        match s.state {
            State::Starting | State::Failed if !owned => {
                self.begin(i, g, State::Stopping { asked: None });
            }
            State::Starting | State::Failed => {
                let fails = services.start_fails[i] >> g & 1 == 1 && !self.healed;
                if fails {
                    self.begin(i, g, State::Failed);
                    self.command(i, Command::Fail { group: g });
                } else {
                    self.nodes[i].services[usize::from(g)].state = State::Running;
                    self.speak(i, g, Phase::Running);
                }
            }
            State::Stopping { asked } => {
                if self.rng_late.chance(services.stop_fails) && !self.healed {
                    self.nodes[i].services[usize::from(g)].state = State::Stuck;
                    let epoch = self.nodes[i].sh.group_epoch[usize::from(g)].load();
                    self.command(i, Command::StopFailed { group: g, epoch });
                    return;
                }
                self.nodes[i].services[usize::from(g)].state = State::Idle;
                if let Some(epoch) = asked {
                    self.command(i, Command::Stopped { group: g, epoch });
                }
                self.sweep(i, g);
            }
            State::Idle | State::Running | State::Stuck => {}
        }
    }

    /// Nothing runs here of a group that belongs elsewhere.
    fn sweep(&mut self, i: usize, group: u8) {
        if self.service(i, group) == State::Idle && !self.nodes[i].sh.run_set.load().has(group) {
            let epoch = self.nodes[i].sh.group_epoch[usize::from(group)].load();
            self.command(i, Command::Swept { group, epoch });
        }
    }

    fn speak(&mut self, i: usize, group: u8, phase: Phase) {
        self.command(i, Command::Phase { group, phase });
    }

    /// A new agent looks at what there is: what belongs here goes on, the rest is stopped.
    pub(crate) fn look_at_services(&mut self, i: usize) {
        for g in 0..self.o.shape.groups.min(HOMES as u16) as u8 {
            let owned = self.nodes[i].sh.run_set.load().has(g);
            match self.service(i, g) {
                State::Stuck => {}
                State::Idle if !owned => self.sweep(i, g),
                _ if !owned => self.begin(i, g, State::Stopping { asked: None }),
                _ if self.has_services(g) => self.begin(i, g, State::Starting),
                _ => {}
            }
        }
    }

    /// Somebody has mended by hand what could not be stopped.
    pub(crate) fn mend_services(&mut self) {
        for i in 0..self.nodes.len() {
            for g in 0..self.o.shape.groups.min(HOMES as u16) as u8 {
                if self.service(i, g) == State::Stuck {
                    self.nodes[i].services[usize::from(g)].state = State::Idle;
                    self.sweep(i, g);
                    if self.nodes[i].sh.run_set.load().has(g) {
                        self.begin(i, g, State::Starting);
                    }
                }
            }
        }
        for g in 0..self.o.shape.groups.min(HOMES as u16) as u8 {
            self.command(0, Command::Clear { group: g });
        }
    }
}

impl crate::node::Node {
    /// After a call: since when does its agent know that a group is stuck at a node that it hears?
    pub(crate) fn note_stuck(&mut self, core: &crate::call::CoreOf, groups: u16, now: u64) {
        for g in 0..groups.min(HOMES as u16) as u8 {
            let at = core.stuck_at(g);
            let known = &mut self.services[usize::from(g)].stuck_known;
            if at == 0 || at == self.plays || !core.is_alive(at, now) {
                *known = 0;
            } else if *known == 0 {
                *known = now;
            }
        }
    }
}
