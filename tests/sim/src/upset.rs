//! Applying faults to a running world.

use agent_core::Command;

use crate::{
    clock::Clock,
    fault::{Fault, PlannedEnd},
    node::Plan,
    options::MS,
    queue::What,
    world::{World, say},
};
use agent_common::rules::Rule;

impl World {
    pub(crate) fn random_fault(&mut self) {
        let f = self.o.mix.pick(
            &self.o.shape,
            self.o.unit(),
            self.o.timing.max_promise,
            &mut self.rng_fault,
        );
        self.fault(f);
        if self.o.mix.storm
            && let Fault::Reboot(node, _) = f
        {
            let other = 1
                + (u64::from(node) + self.rng_fault.below(u64::from(self.o.shape.nodes) - 1))
                    % u64::from(self.o.shape.nodes);
            self.fault(Fault::Partition(1 << (node - 1) | 1 << (other - 1)));
        }
    }

    /// Something goes wrong now.
    pub fn fault(&mut self, f: Fault) {
        say!(self, "FAULT {f:?}");
        match f {
            Fault::Cut {
                from,
                to,
                links,
                both,
            } => {
                self.net.cut(from, to, links);
                if both {
                    self.net.cut(to, from, links);
                }
            }
            Fault::Mend => self.net.mend(),
            Fault::Partition(side) => self.net.partition(side),
            Fault::Loss(permille) => self.net.weather.loss = permille,
            Fault::Aim(from, to, kind, permille) => {
                self.net.aimed = Some((from, to, kind, permille))
            }
            Fault::Hold(from, to, kind, ns) => self.net.held = Some((from, to, kind, ns)),
            Fault::PauseAgent(node, ns) => {
                let n = &mut self.nodes[node as usize - 1];
                if n.core.is_some() {
                    n.paused_until = n.paused_until.max(self.t + ns);
                    self.queue.push(n.paused_until, node, n.life, What::Resume);
                }
            }
            Fault::KillAgent {
                node,
                down,
                in_call,
            } => {
                let i = node as usize - 1;
                if self.nodes[i].core.is_none() {
                } else if in_call {
                    self.nodes[i].kill_next = Some(down);
                } else {
                    self.kill(i, down);
                }
            }
            Fault::Reboot(node, down) => self.reboot(node as usize - 1, down),
            Fault::MapsLost(node) => {
                let i = node as usize - 1;
                if self.nodes[i].up {
                    let wait = self.fresh_wait();
                    self.end_life(i);
                    let (o, t, n) = (&self.o, self.t, &mut self.nodes[i]);
                    n.stop_agent();
                    n.ghost = Some(std::rc::Rc::clone(&n.sh));
                    n.disk.ghost_home = n.disk.home;
                    n.fresh_table(o, t, wait);
                    self.restart(i);
                }
            }
            Fault::Planned {
                node,
                promise,
                down,
                end,
            } => {
                let i = node as usize - 1;
                if self.nodes[i].core.is_some() && self.nodes[i].paused_until == 0 {
                    self.nodes[i].plan = Some(Plan { down, end });
                    self.command(i, Command::PreparePause { promise });
                    if end == PlannedEnd::Hasty && self.nodes[i].core.is_some() {
                        self.kill(i, down);
                    }
                }
            }
            Fault::Move { at, group, node } => {
                self.command(at as usize - 1, Command::Move { group, node })
            }
            Fault::Drain { at, node, on } => {
                self.command(at as usize - 1, Command::Drain { node, on })
            }
            Fault::HandsOff { at, on } => self.command(at as usize - 1, Command::Pause(on)),
            Fault::Fit(node, group, fit) => {
                self.command(node as usize - 1, Command::Fit { group, fit })
            }
            Fault::Leave(node, down) => {
                let i = node as usize - 1;
                if self.nodes[i].core.is_some() && self.nodes[i].paused_until == 0 {
                    self.nodes[i].leaving = Some(down);
                    self.queue.push(
                        self.t + 300 * MS,
                        node,
                        self.nodes[i].life,
                        What::LeaveTimeout,
                    );
                    self.command(i, Command::Leave);
                }
            }
            Fault::Publish => self.publish(),
            Fault::Reload(node, g) => {
                self.latest = self.latest.max(g);
                self.reload(node as usize - 1, g);
            }
            Fault::ClockStop(node, ns) => {
                let (t, n) = (self.t, &mut self.nodes[node as usize - 1]);
                n.clock.stop(t, t + ns);
                n.stopped_until = t + ns;
                n.paused_until = n.paused_until.max(t + ns);
                self.queue.push(n.paused_until, node, n.life, What::Resume);
            }
            Fault::Snapshot(node) => {
                let n = &mut self.nodes[node as usize - 1];
                if n.up {
                    n.take_image(&self.o, self.t);
                }
            }
            Fault::Rollback(node) => {
                let i = node as usize - 1;
                if self.nodes[i].up {
                    self.nodes[i].roll_back(&self.o, self.t);
                    self.resume(i);
                }
            }
            Fault::Twin { node, id } => {
                let i = node as usize - 1;
                self.nodes[i].plays = id;
                self.reboot(i, MS);
            }
            Fault::Recorder(node) => {
                self.recorder.node = node;
                self.queue.push(self.t, 0, 0, What::Replay);
            }
        }
    }

    fn fresh_wait(&self) -> u64 {
        if self.o.rules.hold(Rule::FreshWaits) {
            self.o.timing.max_promise
        } else {
            0
        }
    }

    /// The agent dies; what it had decided and not sent is lost.
    pub(crate) fn kill(&mut self, i: usize, down: u64) {
        say!(self, "n{} agent stops for {} ms", i + 1, down / MS);
        let n = &mut self.nodes[i];
        n.stop_agent();
        self.queue.push(self.t + down, n.id, n.life, What::Restart);
    }

    /// The node loses its memory.
    pub(crate) fn reboot(&mut self, i: usize, down: u64) {
        if self.nodes[i].disk.file == 0 {
            return;
        }
        say!(self, "n{} reboots, down {} ms", i + 1, down / MS);
        let n = &mut self.nodes[i];
        n.stop_agent();
        n.up = false;
        n.ghost = None;
        n.ring.clear();
        self.queue.push(self.t + down, n.id, n.life, What::Up);
    }

    pub(crate) fn up(&mut self, i: usize) {
        say!(self, "n{} is up with fresh state", i + 1);
        let base = self.rng_fault.between(MS, 60_000 * MS);
        let wait = self.fresh_wait();
        // A machine without a good clock of its own now and then starts in the past.
        let set_back = if self.rng_fault.chance(100) && !self.healed {
            self.rng_fault.between(1, 3_600_000) as i64
        } else {
            0
        };
        self.set_back |= set_back != 0;
        self.end_life(i);
        let (t, n) = (self.t, &mut self.nodes[i]);
        n.up = true;
        for s in &mut n.services {
            s.stop();
        }
        n.skew_ms -= set_back;
        n.clock = Clock::new(t, base, n.clock.ppm());
        n.fresh_table(&self.o, t, wait);
        self.restart(i);
    }

    pub(crate) fn restart(&mut self, i: usize) {
        say!(self, "n{} agent starts", i + 1);
        if self.rng_fault.chance(500) {
            // Sometimes the ring outlives the agent, sometimes not.
            self.nodes[i].ring.clear();
        }
        let (t, n) = (self.t, &mut self.nodes[i]);
        n.start_agent(&self.o, t);
        if self.o.services.is_some() {
            self.look_at_services(i);
        }
        self.resume(i);
    }

    pub(crate) fn resume(&mut self, i: usize) {
        self.nodes[i].paused_until = 0;
        if self.nodes[i].core.is_none() {
            return;
        }
        say!(self, "n{} agent goes on", i + 1);
        // Timer and ring are both ready: either may come first.
        if self.rng_fault.chance(500) {
            self.timeout(i);
            self.drain_ring(i);
        } else {
            self.drain_ring(i);
            self.timeout(i);
        }
    }

    /// Everything is handed over, or was waited for long enough.
    pub(crate) fn left(&mut self, i: usize) {
        let Some(down) = self.nodes[i].leaving.take() else {
            return;
        };
        self.call(i, |core, now| core.shut_down(now));
        if self.nodes[i].core.is_some() {
            self.kill(i, down);
        }
    }
}
