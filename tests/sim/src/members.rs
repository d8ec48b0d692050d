//! Changes of members and of VIPs' groups while everything else goes wrong (rule 10): files that an operator copies and
//! reloads node by node, what nodes keep on disk, and machines that are installed or left out on the way.

use agent_common::{
    MAX_NODES, Set, node_bit,
    rules::Rule,
    state::{Shared, UNPROVEN},
};
use agent_core::{CoreConfig, GroupConfig, History, Next, NodeConfig, StartError};

use crate::{
    check::{Broken, violation},
    node::Node,
    options::{HOMES, Options},
    queue::What,
    rng::Rng,
    world::{World, say},
};

/// One generation of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its members, one bit each.
    pub members: u32,
    /// The group of each VIP; there are as many VIPs as groups, and those of later groups stay where they are.
    pub home: [u8; HOMES],
}

/// VIP *n* in group *n*.
pub const AT_HOME: [u8; HOMES] = {
    let mut home = [0; HOMES];
    let mut i = 0;
    while i < HOMES {
        home[i] = i as u8;
        i += 1;
    }
    home
};

/// What a node has on its disk, and which VIP its gate takes for which group's.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// Generation of its configuration file; 0: not installed.
    pub file: u32,
    /// Its record of generations.
    pub history: History,
    /// The gate's map.
    pub home: [u8; HOMES],
    /// The map of the old table, while its gate still stands.
    pub ghost_home: [u8; HOMES],
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            file: 0,
            history: History::default(),
            home: AT_HOME,
            ghost_home: AT_HOME,
        }
    }
}

impl Options {
    /// A generation, from 1 on.
    pub fn generation(&self, g: u32) -> Generation {
        let all = Generation {
            members: ((1u64 << self.shape.nodes) - 1) as u32,
            home: AT_HOME,
        };
        let last = self.generations.len().saturating_sub(1);
        let at = (g.max(1) as usize - 1).min(last);
        self.generations.get(at).copied().unwrap_or(all)
    }

    /// Random faults, and members and VIPs that change as well.
    pub fn members(seed: u64) -> Options {
        let mut r = Rng::new(seed, 20);
        let mut shape = crate::Shape::new(6, r.pick(&[1, 2, 3]));
        shape.nodes = r.pick(&[4, 5, 6, 7]);
        let mut o = Options::random(seed, Some(shape));
        let start = r.pick(&[0b11, 0b111, 0b111, 0b1111]);
        o.generations = walk(&mut r, shape.nodes, start, shape.groups);
        o.mix.members = r.pick(&[6, 12, 24]);
        o.careful = r.chance(600);
        if o.careful {
            o.mix.gap = 2 * o.mix.gap.max(crate::MS);
        }
        o
    }
}

/// A sequence of generations, each one step from the one before. Ids are never used again.
fn walk(r: &mut Rng, machines: u8, start: u32, groups: u16) -> Vec<Generation> {
    let mut all = vec![Generation {
        members: start,
        home: AT_HOME,
    }];
    let mut next_id = start.count_ones() as u8 + 1;
    for _ in 0..10 {
        let mut g = all[all.len() - 1];
        if groups > 1 && r.chance(250) {
            let vip = r.below(u64::from(groups)) as usize;
            g.home[vip] = ((u64::from(g.home[vip]) + 1 + r.below(u64::from(groups) - 1))
                % u64::from(groups)) as u8;
        }
        if next_id <= machines && r.chance(450) {
            g.members |= node_bit(next_id);
            next_id += 1;
        } else if g.members.count_ones() > 2 && r.chance(600) {
            let n = r.below(u64::from(g.members.count_ones()));
            let gone = (1..=MAX_NODES as u8)
                .filter(|id| g.members & node_bit(*id) != 0)
                .nth(n as usize);
            g.members &= !gone.map_or(0, node_bit);
        }
        all.push(g);
    }
    all
}

/// The core's configuration of a node in a generation.
pub(crate) fn config(me: u8, o: &Options, g: u32) -> CoreConfig {
    let members = o.generation(g).members;
    let mut c = CoreConfig::new(me, o.timing);
    let n = o.shape.nodes;
    for id in (1..=n).filter(|id| members & node_bit(*id) != 0) {
        c.nodes[id as usize - 1] = Some(NodeConfig {
            witness: o.shape.witnesses >> (id - 1) & 1 == 1,
            ..NodeConfig::default()
        });
        if let (Some(s), Some(node)) = (&o.services, &mut c.nodes[id as usize - 1]) {
            s.configure_node(node);
        }
    }
    for g in o.shape.group_ids() {
        let ids: Vec<u8> = (0..n)
            .map(|i| 1 + ((u16::from(i) + u16::from(g)) % u16::from(n)) as u8)
            .filter(|id| members & node_bit(*id) != 0)
            .collect();
        let mut group = GroupConfig::preferring(&ids);
        group.spread = o.spread;
        if o.failback_auto {
            group.failback = agent_core::Failback::Auto;
        }
        if let Some(s) = &o.services {
            s.configure(g, &mut group);
        }
        c.groups[g as usize] = Some(group);
    }
    c.generation = g;
    c.digest = g;
    c.seed = o.seed;
    c
}

/// VIPs that pass while these groups do.
#[inline]
pub(crate) fn vips(groups: Set, home: &[u8; HOMES]) -> Set {
    if *home == AT_HOME || groups.is_empty() {
        return groups;
    }
    let [low, a, b, c] = groups.0;
    let moved = home
        .iter()
        .enumerate()
        .fold(0, |m, (v, g)| m | (low >> g & 1) << v);
    Set([low >> HOMES << HOMES | moved, a, b, c])
}

fn in_table(sh: &Shared) -> History {
    History {
        generation: sh.generation.load() as u32,
        voters: sh.voters.load() as u32,
        proven: sh.vote_after.load() != UNPROVEN,
        ..History::default()
    }
}

impl Node {
    /// The identity of a table, as the loader writes it: `fresh`, or one of an earlier run. False: the agent must not start.
    pub(crate) fn enroll(&mut self, o: &Options, t: u64, fresh: bool, wait: u64) -> bool {
        let (g, now) = (self.disk.file, self.now(t).boot);
        let new = o.generation(g);
        if new.members & node_bit(self.id) == 0 || g == 0 {
            return false;
        }
        let table = (!fresh).then(|| in_table(&self.sh));
        let history = match self.disk.history.start(table, g, new.members) {
            Ok(h) => h,
            Err(StartError::Several) if !o.rules.hold(Rule::OneMember) => History {
                generation: g,
                voters: new.members,
                proven: true,
                ..History::default()
            },
            Err(_) => return false,
        };
        let sh = &self.sh;
        let proven = history.proven || !o.rules.hold(Rule::JoinerProven);
        let same = sh.generation.load() == u64::from(g);
        if fresh || !same {
            sh.gate.store(Set::EMPTY);
            sh.lease.store(0);
            let until = now + if fresh { wait } else { o.timing.max_promise };
            sh.vote_after.store(if proven { until } else { UNPROVEN });
        }
        sh.generation.store(u64::from(g));
        sh.digest.store(u64::from(g));
        sh.voters.store(u64::from(new.members));
        sh.majority
            .store(u64::from(new.members.count_ones() / 2 + 1));
        self.disk.history = history;
        self.disk.home = new.home;
        true
    }
}

impl World {
    /// The operator has written the next file, and copies and reloads it node by node.
    pub(crate) fn publish(&mut self) {
        if self.latest as usize >= self.o.generations.len() {
            return;
        }
        let members = self.o.generation(self.latest).members;
        let there = |n: &Node| {
            let h = &n.disk.history;
            let running = n.core.is_some() && h.proven && h.settled;
            members & node_bit(n.id) == 0 || running && h.generation == self.latest
        };
        if self.o.careful && !self.nodes.iter().all(there) {
            return;
        }
        self.latest += 1;
        let (before, after) = (
            self.o.generation(self.latest - 1).members,
            self.o.generation(self.latest).members,
        );
        say!(self, "GENERATION {}: members {after:#b}", self.latest);
        for id in 1..=self.nodes.len() as u8 {
            let wait = self.rng_fault.between(0, 300 * self.o.unit());
            let new = after & !before & node_bit(id) != 0;
            if new || !self.rng_fault.chance(150) {
                self.queue
                    .push(self.t + wait, id, 0, What::Reload(self.latest));
            }
        }
    }

    /// A node is given a file and told to read it.
    pub(crate) fn reload(&mut self, i: usize, g: u32) {
        let node = &mut self.nodes[i];
        let member = self.o.generation(g).members & node_bit(node.id) != 0;
        if !member || g < node.disk.file {
            return;
        }
        let installed = node.disk.file != 0;
        node.disk.file = g;
        if !installed {
            return self.up(i);
        }
        if node.core.is_none() {
            return;
        }
        if node.paused_until != 0 {
            let at = node.paused_until + self.o.unit();
            self.queue.push(at, i as u8 + 1, 0, What::Reload(g));
            return;
        }
        self.stage(i, g);
    }

    /// Stages a generation at a node whose agent runs.
    pub(crate) fn stage(&mut self, i: usize, g: u32) {
        let Some(core) = &self.nodes[i].core else {
            return;
        };
        let present = core.config().generation;
        if g <= present {
            return;
        }
        let (old, new) = (self.o.generation(present), self.o.generation(g));
        let moved = (0..usize::from(self.o.shape.groups).min(HOMES))
            .filter(|v| old.home[*v] != new.home[*v])
            .map(|v| (old.home[v], new.home[v]))
            .collect();
        let next = Box::new(Next::new(config(i as u8 + 1, &self.o, g), moved));
        // On disk before the core learns of it.
        let before = self.nodes[i].disk.history.next;
        self.nodes[i].disk.history.next = before.max(g);
        let mut refused = false;
        self.call(i, |core, now| refused = core.stage(next, now).is_err());
        if refused {
            self.nodes[i].disk.history.next = before;
        }
    }

    /// A call of the core is over: what the agent writes down.
    #[inline]
    pub(crate) fn after_call(&mut self, i: usize, core: &mut crate::call::CoreOf) {
        if self.o.generations.is_empty() {
            return;
        }
        let now = self.nodes[i].now(self.t).boot;
        let g = core.config().generation;
        let node = &mut self.nodes[i];
        let h = &mut node.disk.history;
        if h.generation != g {
            *h = History {
                generation: g,
                voters: core.config().voters(),
                next: if h.next > g { h.next } else { 0 },
                ..History::default()
            };
        }
        h.proven = in_table(&node.sh).proven;
        h.settled |= core.settled(now);
        if core.take_retired().is_some() {
            // Addresses and the gate's map follow a little later.
            let at = self.t + self.rng_late.between(20_000, 3 * self.o.unit());
            self.queue
                .push(at, i as u8 + 1, self.nodes[i].life, What::Map);
        }
    }

    /// The gate's map follows the generation that was entered.
    pub(crate) fn map(&mut self, i: usize) {
        let Some(core) = &self.nodes[i].core else {
            return;
        };
        self.nodes[i].disk.home = self.o.generation(core.config().generation).home;
        self.call(i, |core, now| core.mapped(now));
    }

    /// After healing: the operator finishes what was begun, one generation after the other. True when everybody is there.
    pub(crate) fn finish_generations(&mut self) -> bool {
        if self.o.generations.is_empty() {
            return true;
        }
        let running = |n: &&Node| n.core.is_some();
        let proven = |n: &&Node| n.disk.history.proven && n.core.is_some();
        let newest = self
            .nodes
            .iter()
            .filter(proven)
            .map(|n| n.disk.history.generation);
        let newest = newest.max().unwrap_or(0);
        let goal = self.nodes.iter().filter(running).map(|n| {
            let h = &n.disk.history;
            h.generation.max(h.next).max(n.disk.file)
        });
        let goal = goal.max().unwrap_or(0);
        let members = self.o.generation(goal).members;
        let mut done = true;
        for i in 0..self.nodes.len() {
            let n = &self.nodes[i];
            if members & node_bit(n.id) == 0 {
                // Left out for good.
                continue;
            }
            let (at, there) = (n.disk.history.generation, n.disk.history.proven);
            done &= at == goal && there && n.core.is_some();
            let to = newest.max(at + 1).min(goal);
            let member = self.o.generation(to).members & node_bit(n.id) != 0;
            if n.disk.file == 0 || n.core.is_none() {
                self.nodes[i].disk.file = self.nodes[i].disk.file.max(goal);
                if self.nodes[i].up {
                    self.restart(i);
                } else {
                    self.up(i);
                }
            } else if at < goal && member {
                let staged = self.nodes[i].core.as_ref().and_then(|c| c.progress(0).next);
                if staged != Some(to) {
                    self.nodes[i].disk.file = self.nodes[i].disk.file.max(to);
                    self.stage(i, to);
                }
            }
        }
        done
    }

    /// A phase of healing in which not everybody is in the newest generation yet; true ends the run.
    pub(crate) fn unfinished(&mut self, bound: u64) -> bool {
        if self.nobody_proven() {
            // Safe, and stuck.
            return true;
        }
        self.unfinished_at = self.t;
        let since = self.t - self.o.heal_at;
        if since > bound && !self.o.careful {
            return true;
        }
        if since > bound + 4 * self.o.generations.len() as u64 * self.o.timing.max_promise {
            let who: Vec<_> = self.nodes.iter().map(|n| n.disk).collect();
            let text = format!("a change of members does not end: {who:?}");
            self.fail(violation(Broken::NotOwned, self.t, text));
        }
        self.queue
            .push(self.t + 5 * self.o.unit(), 0, 0, What::Phase(1));
        false
    }

    /// Can nobody vote any more, because all began in a generation that none of them had shown to be safe? README says
    /// what people do then.
    pub(crate) fn nobody_proven(&self) -> bool {
        !self.o.generations.is_empty()
            && !self
                .nodes
                .iter()
                .any(|n| n.core.is_some() && n.disk.history.proven)
    }
}
