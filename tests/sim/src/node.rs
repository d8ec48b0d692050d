//! One simulated node: the real shared table, the real core, and what surrounds them.

use std::{collections::VecDeque, rc::Rc};

use agent_common::{
    Set,
    record::Record,
    state::{LAYOUT, Shared},
};
use agent_core::{Core, Now, saved::Saved};

use crate::{
    clock::Clock,
    fault::PlannedEnd,
    members::{self, Disk},
    options::{HOMES, Options},
    services::Service,
};

/// Records that wait for a paused agent.
pub const RING: usize = 64;

/// 2024-01-01, so that epochs look like those of real nodes.
const WALL0_MS: i64 = 1_704_067_200_000;

/// A planned pause under way.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long the agent stays away, ns.
    pub down: u64,
    /// What really happens.
    pub end: PlannedEnd,
}

/// What a rollback goes back to: boot clock, table, and the agent's memory if it ran.
#[derive(Clone, Debug)]
pub struct Image {
    at: u64,
    table: Vec<u64>,
    core: Option<Saved>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its number, by which the network knows it.
    pub id: u8,
    /// The id that its agent uses: its number, unless somebody made a mistake (against assumption (c)).
    pub plays: u8,
    /// Its table.
    pub sh: Rc<Shared>,
    /// Its agent, if it runs.
    pub core: Option<Box<Core<Rc<Shared>>>>,
    /// Its boot clock.
    pub clock: Clock,
    /// Error of its wall clock, ms.
    pub skew_ms: i64,
    /// How far it jumps to and fro, ms.
    pub wall_jumps_ms: u64,
    /// Is it up?
    pub up: bool,
    /// The whole node stands still until then (true time), clock and all.
    pub stopped_until: u64,
    /// An older image of its memory.
    pub image: Option<Image>,
    /// The agent stands still until then (true time); 0 if it runs.
    pub paused_until: u64,
    /// Records that wait.
    pub ring: VecDeque<Record>,
    /// Records lost.
    pub ring_lost: u64,
    /// Has the agent been woken for the ring?
    pub ring_armed: bool,
    /// When the timer fires (true time), and for which arming.
    pub timer_at: u64,
    /// Counts armings.
    pub timer_life: u32,
    /// Counts lives: reboots, deaths, starts.
    pub life: u32,
    /// An old table whose gate still stands.
    pub ghost: Option<Rc<Shared>>,
    /// The agent dies in its next call, for so long.
    pub kill_next: Option<u64>,
    /// A planned pause under way.
    pub plan: Option<Plan>,
    /// It is leaving, and stays away for so long.
    pub leaving: Option<u64>,
    /// What runs for each group.
    pub services: [Service; HOMES],
    /// What is on its disk.
    pub disk: Disk,
    /// When its last heartbeat left, true time.
    pub last_beat: u64,
    /// Its last incarnation.
    pub incarnation: u64,
    /// Timeouts in the present 10 ms, to see a timer that spins.
    pub spins: (u64, u32),
}

impl Node {
    /// A node that is up, without agent and table.
    pub fn new(id: u8, clock: Clock, skew_ms: i64) -> Node {
        Node {
            id,
            plays: id,
            sh: Rc::new(Shared::default()),
            core: None,
            clock,
            skew_ms,
            wall_jumps_ms: 0,
            up: true,
            stopped_until: 0,
            image: None,
            paused_until: 0,
            ring: VecDeque::with_capacity(RING),
            ring_lost: 0,
            ring_armed: false,
            timer_at: u64::MAX,
            timer_life: 0,
            life: 0,
            ghost: None,
            kill_next: None,
            plan: None,
            leaving: None,
            services: [Service::default(); HOMES],
            disk: Disk::default(),
            last_beat: 0,
            incarnation: 0,
            spins: (0, 0),
        }
    }

    /// Its two clocks at true time `t`.
    #[inline]
    pub fn now(&self, t: u64) -> Now {
        Now {
            boot: self.clock.at(t),
            wall_ms: (WALL0_MS + self.skew_ms + (t / 1_000_000) as i64 + self.wall_jump(t)) as u64,
        }
    }

    /// Somebody, or something, sets the wall clock again and again.
    fn wall_jump(&self, t: u64) -> i64 {
        if self.wall_jumps_ms == 0 {
            return 0;
        }
        let mixed =
            ((t / 20_000_000) ^ (u64::from(self.id) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 20) % (2 * self.wall_jumps_ms)) as i64 - self.wall_jumps_ms as i64
    }

    /// Fresh maps, as the loader makes them. `wait`: before it votes (rule 1).
    pub fn fresh_table(&mut self, o: &Options, t: u64, wait: u64) {
        let now = self.now(t);
        let sh = Shared::default();
        sh.id.store(u64::from(self.plays));
        sh.cluster.store(1);
        sh.max_promise.store(o.timing.max_promise);
        // As the loader: by the wall clock, which may have been set back.
        let wall = now.wall_ms * 1_000_000;
        self.incarnation = if wall == self.incarnation {
            wall + 1
        } else {
            wall
        };
        sh.incarnation.store(self.incarnation);
        self.sh = Rc::new(sh);
        self.enroll(o, t, true, wait);
        self.sh.layout.store(LAYOUT);
        self.ring.clear();
    }

    /// An agent over the table.
    pub fn start_agent(&mut self, o: &Options, t: u64) {
        if !self.enroll(o, t, false, 0) {
            return;
        }
        let cfg = members::config(self.plays, o, self.disk.file);
        let core = Core::new(cfg, Rc::clone(&self.sh), self.now(t));
        let mut core = Box::new(core);
        core.break_rules(o.rules);
        self.core = Some(core);
        self.paused_until = 0;
        self.ring_armed = false;
        self.kill_next = None;
        self.plan = None;
        self.leaving = None;
        self.life += 1;
    }

    /// Takes an image of its memory.
    pub fn take_image(&mut self, o: &Options, t: u64) {
        self.image = Some(Image {
            at: self.clock.at(t),
            table: self.sh.cells().iter().map(|c| c.load()).collect(),
            core: self
                .core
                .as_ref()
                .map(|c| c.save(o.shape.nodes, o.shape.groups)),
        });
    }

    /// Goes back to its image, boot clock and all (against assumption (b)). The wall clock is right again at once.
    pub fn roll_back(&mut self, o: &Options, t: u64) {
        let Some(image) = self.image.take() else {
            return;
        };
        self.stop_agent();
        self.ring.clear();
        self.clock = Clock::new(t, image.at, self.clock.ppm());
        if let Some(saved) = &image.core {
            self.start_agent(o, t);
            if let Some(core) = &mut self.core {
                core.load(saved);
            }
        }
        for (cell, word) in self.sh.cells().iter().zip(&image.table) {
            cell.store(*word);
        }
    }

    /// The agent is gone.
    pub fn stop_agent(&mut self) {
        self.core = None;
        self.paused_until = 0;
        self.timer_at = u64::MAX;
        self.timer_life += 1;
        self.life += 1;
        self.plan = None;
        self.leaving = None;
        self.kill_next = None;
    }

    /// Groups whose VIP traffic passes at true time `t`, through the table or an old one.
    #[inline]
    pub fn open(&self, t: u64) -> Set {
        if !self.up || t < self.stopped_until {
            return Set::EMPTY;
        }
        let now = self.clock.at(t);
        let ghost = self.ghost.as_ref().map_or(Set::EMPTY, |g| {
            members::vips(open_of(g, now), &self.disk.ghost_home)
        });
        members::vips(open_of(&self.sh, now), &self.disk.home).union(ghost)
    }

    /// Which claim a passing VIP stands on.
    pub fn claim_of(&self, vip: u8, t: u64) -> (u64, u64) {
        let now = self.clock.at(t);
        let of = |home: &[u8; HOMES]| home.get(usize::from(vip)).copied().unwrap_or(vip);
        let group = of(&self.disk.home);
        let (sh, group) = match &self.ghost {
            Some(g) if !self.sh.gate_open(group, now) => (g, of(&self.disk.ghost_home)),
            _ => (&self.sh, group),
        };
        (sh.incarnation.load(), sh.group_epoch[group as usize].load())
    }
}

#[inline]
fn open_of(sh: &Shared, now: u64) -> Set {
    let gate = sh.gate.load();
    if !gate.is_empty() && sh.lease().holds(now) {
        gate
    } else {
        Set::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::state::LeaseWord;

    #[test]
    fn open_agrees_with_the_gate() {
        let sh = Shared::default();
        sh.gate.store(Set::of(3).with(200));
        sh.lease.store(LeaseWord::until(5_000_000, 1).0);
        for now in [0, 4_000_000, 6_000_000] {
            for group in [2, 3, 199, 200] {
                assert_eq!(open_of(&sh, now).has(group), sh.gate_open(group, now));
            }
        }
    }
}
