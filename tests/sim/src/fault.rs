//! What goes wrong, and how often.

use agent_common::wire::Kind;

use crate::{
    options::{MS, Shape},
    rng::Rng,
};

/// One thing that goes wrong (or that people ask for).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Messages from one node to another are lost, on these links.
    Cut {
        /// Sender.
        from: u8,
        /// Receiver.
        to: u8,
        /// Bits of the links.
        links: u8,
        /// The other direction, too.
        both: bool,
    },
    /// All cuts, losses and holds end.
    Mend,
    /// These nodes and the others are apart.
    Partition(u32),
    /// So many of 1000 messages are lost.
    Loss(u32),
    /// Messages of one kind are lost: from, to (0: any), kind, of 1000.
    Aim(u8, u8, Kind, u32),
    /// Messages of one kind are held back: from, to (0: any), kind, ns.
    Hold(u8, u8, Kind, u64),
    /// The agent stands still for a time (SIGSTOP); its kernel goes on.
    PauseAgent(u8, u64),
    /// The agent dies and starts again over its table.
    KillAgent {
        /// The node.
        node: u8,
        /// Until it starts again, ns.
        down: u64,
        /// In the middle: what it had decided last is never sent.
        in_call: bool,
    },
    /// The node loses its memory and comes back, after ns.
    Reboot(u8, u64),
    /// The node's table is lost while it runs; the old gate lives on until its lease ends.
    MapsLost(u8),
    /// The agent prepares a pause, stops when it may, and starts again.
    Planned {
        /// The node.
        node: u8,
        /// The promise, ns.
        promise: u64,
        /// How long it stays away, ns.
        down: u64,
        /// What really happens.
        end: PlannedEnd,
    },
    /// A person moves a group; told to a third node.
    Move {
        /// Where the command is given.
        at: u8,
        /// The group.
        group: u8,
        /// Where to.
        node: u8,
    },
    /// A person drains a node, or ends it.
    Drain {
        /// Where the command is given.
        at: u8,
        /// The node.
        node: u8,
        /// On or off.
        on: bool,
    },
    /// Hands off, or on.
    HandsOff {
        /// Where the command is given.
        at: u8,
        /// On or off.
        on: bool,
    },
    /// A node can or cannot run a group.
    Fit(u8, u8, bool),
    /// The agent hands everything over, stops, and starts again after ns.
    Leave(u8, u64),
    /// The operator writes the next generation's file, and copies and reloads it node by node.
    Publish,
    /// A file of a generation is copied to a node and read.
    Reload(u8, u32),
    /// The node and its clock stand still for ns (a hypervisor stops the guest): against assumption (a).
    ClockStop(u8, u64),
    /// An image of the node's memory is taken.
    Snapshot(u8),
    /// The node goes back to its image, boot clock and all: against assumption (b).
    Rollback(u8),
    /// The node reboots and uses another node's id: against assumption (c).
    Twin {
        /// The node.
        node: u8,
        /// The id.
        id: u8,
    },
    /// Somebody records the node's heartbeats, and plays the last one again and again while the node is silent.
    Recorder(u8),
}

impl Fault {
    /// Durations by another measure.
    pub fn scale(&mut self, to: impl Fn(u64) -> u64) {
        match self {
            Fault::Hold(_, _, _, ns)
            | Fault::PauseAgent(_, ns)
            | Fault::Reboot(_, ns)
            | Fault::Leave(_, ns)
            | Fault::ClockStop(_, ns) => *ns = to(*ns),
            Fault::KillAgent { down, .. } => *down = to(*down),
            Fault::Planned { promise, down, .. } => (*promise, *down) = (to(*promise), to(*down)),
            Fault::Cut { .. }
            | Fault::Mend
            | Fault::Partition(_)
            | Fault::Loss(_)
            | Fault::Aim(..)
            | Fault::MapsLost(_)
            | Fault::Move { .. }
            | Fault::Drain { .. }
            | Fault::HandsOff { .. }
            | Fault::Fit(..)
            | Fault::Snapshot(_)
            | Fault::Rollback(_)
            | Fault::Twin { .. }
            | Fault::Recorder(_)
            | Fault::Publish
            | Fault::Reload(..) => {}
        }
    }
}

/// How a planned pause ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedEnd {
    /// As planned.
    Restart,
    /// The agent goes on instead.
    CalledOff,
    /// The node reboots in it.
    Reboot,
    /// It stops at once, without waiting for the promise.
    Hasty,
}

/// Weights of the faults, in the order of [`Mix::pick`].
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Mean time between two, ns; 0 for none.
    pub gap: u64,
    /// Weights.
    pub cut: u16,
    /// One-way cuts.
    pub one_way: u16,
    /// Mending.
    pub mend: u16,
    /// Partitions.
    pub partition: u16,
    /// Loss of everything.
    pub loss: u16,
    /// Loss or hold of one kind.
    pub aim: u16,
    /// Agent pauses.
    pub pause: u16,
    /// Agent deaths.
    pub kill: u16,
    /// Reboots.
    pub reboot: u16,
    /// Lost tables.
    pub maps: u16,
    /// Planned pauses.
    pub planned: u16,
    /// Moves, drains, fitness, hands off.
    pub people: u16,
    /// Leaving.
    pub leave: u16,
    /// Stopped clocks.
    pub clock: u16,
    /// Changes of members.
    pub members: u16,
    /// A reboot cuts the node off together with another one.
    pub storm: bool,
}

impl Mix {
    /// Nothing.
    pub const NONE: Mix = Mix {
        gap: 0,
        cut: 0,
        one_way: 0,
        mend: 0,
        partition: 0,
        loss: 0,
        aim: 0,
        pause: 0,
        kill: 0,
        reboot: 0,
        maps: 0,
        planned: 0,
        people: 0,
        leave: 0,
        clock: 0,
        members: 0,
        storm: false,
    };
    /// Everything within the assumptions; weights as in the reference model.
    pub const ALL: Mix = Mix {
        gap: 100 * MS,
        cut: 12,
        one_way: 12,
        mend: 22,
        partition: 8,
        loss: 6,
        aim: 8,
        pause: 12,
        kill: 6,
        reboot: 6,
        maps: 2,
        planned: 8,
        people: 10,
        leave: 2,
        clock: 0,
        members: 0,
        storm: false,
    };

    /// Time to the next fault.
    pub fn wait(&self, r: &mut Rng) -> u64 {
        r.between(0, 2 * self.gap.max(1))
    }

    /// A fault; its durations are multiples of `unit` ns.
    pub fn pick(&self, s: &Shape, unit: u64, max_promise: u64, r: &mut Rng) -> Fault {
        let n = u64::from(s.nodes);
        let a = 1 + r.below(n) as u8;
        let b = 1 + ((u64::from(a - 1) + 1 + r.below(n - 1)) % n) as u8;
        let links = if s.links > 1 && r.chance(500) {
            1 << r.below(u64::from(s.links))
        } else {
            u8::MAX
        };
        let group = r.below(u64::from(s.groups)) as u8;
        let weights = [
            self.cut,
            self.one_way,
            self.mend,
            self.partition,
            self.loss,
            self.aim,
            self.pause,
            self.kill,
            self.reboot,
            self.maps,
            self.planned,
            self.people,
            self.leave,
            self.clock,
            self.members,
        ];
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut at = r.below(sum);
        let mut which = 0;
        while at >= u64::from(weights[which]) {
            at -= u64::from(weights[which]);
            which += 1;
        }
        match which {
            0 => Fault::Cut {
                from: a,
                to: b,
                links,
                both: true,
            },
            1 => Fault::Cut {
                from: a,
                to: b,
                links,
                both: false,
            },
            2 => Fault::Mend,
            3 => Fault::Partition((r.next() & ((1 << s.nodes) - 1)) as u32),
            4 => Fault::Loss(r.pick(&[20, 20, 300])),
            5 => {
                let kind = r.pick(&[
                    Kind::Heartbeat,
                    Kind::Ack,
                    Kind::Grant,
                    Kind::Refuse,
                    Kind::Nack,
                ]);
                let (from, to) = (r.pick(&[0, a]), r.pick(&[0, b]));
                if r.chance(500) {
                    Fault::Aim(from, to, kind, r.pick(&[300, 900, 1000]))
                } else {
                    Fault::Hold(from, to, kind, r.between(5 * unit, 120 * unit))
                }
            }
            6 => Fault::PauseAgent(a, unit * r.pick(&[5, 30, 45, 55, 100, 500])),
            7 => Fault::KillAgent {
                node: a,
                down: unit * r.pick(&[1, 10, 35, 60, 300]),
                in_call: r.chance(500),
            },
            8 => Fault::Reboot(a, unit * r.pick(&[1, 5, 20, 60, 400])),
            9 => Fault::MapsLost(a),
            10 => {
                let ends = [
                    PlannedEnd::Restart,
                    PlannedEnd::Restart,
                    PlannedEnd::CalledOff,
                    PlannedEnd::Reboot,
                    PlannedEnd::Hasty,
                ];
                let promise = r.between(max_promise / 4, max_promise + 1);
                Fault::Planned {
                    node: a,
                    promise,
                    down: r.between(unit, max_promise),
                    end: r.pick(&ends),
                }
            }
            11 => match r.below(8) {
                0..4 => Fault::Move {
                    at: a,
                    group,
                    node: b,
                },
                4 => Fault::Drain {
                    at: a,
                    node: b,
                    on: true,
                },
                5 => Fault::Drain {
                    at: a,
                    node: b,
                    on: false,
                },
                6 => Fault::HandsOff {
                    at: a,
                    on: r.chance(300),
                },
                _ => Fault::Fit(a, group, r.chance(600)),
            },
            12 => Fault::Leave(a, unit * r.pick(&[10, 60, 400])),
            14 => Fault::Publish,
            _ => Fault::ClockStop(a, r.between(5 * unit, 400 * unit)),
        }
    }
}
