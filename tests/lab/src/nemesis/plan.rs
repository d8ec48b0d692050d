//! The schedule: what is done when. It follows from the seed alone, so a seed gives the same schedule again.

use std::fmt;

/// Small and good enough: splitmix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is at least 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit.max(1)
    }

    /// From `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This node, from 0.
    Node(u8),
    /// The node that answers for this group (from 0) when the fault begins.
    Owner(u8),
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything from and to the node is lost.
    Cut(Who),
    /// Everything that the node sends is lost.
    Mute(Who),
    /// What the node sends to the other, counted from it, is lost.
    OneWay(Who, u8),
    /// Nodes in the mask and the others do not hear each other; clients hear both.
    Part(u32),
    /// The node's second network is cut.
    CutLink(Who),
    /// The first network's carrier.
    Carrier(Who),
    /// The card of the first network is pulled out.
    Unplug(Who),
    /// SIGSTOP to the agent.
    Freeze(Who),
    /// SIGKILL to the agent, started again later.
    Kill(Who),
    /// SIGTERM, started again later.
    Stop(Who),
    /// SIGKILL, and nothing that the kernel kept is left.
    Reboot(Who),
    /// `heartline restart`.
    Restart(Who),
    /// `heartline reload` on all nodes, with another file.
    Reload,
    /// `heartline move` of a group to the node.
    Move(u8, u8),
    /// `heartline drain`, undone at the end.
    Drain(Who),
    /// `heartline pause`, undone at the end.
    Pause,
    /// The group's address is deleted by hand at its owner.
    Delete(u8),
    /// Busy processes, more than there are CPUs.
    Load,
    /// Garbage, forgeries and replays at the node's heartbeat port.
    Flood(Who),
}

impl Fault {
    /// A word for counting.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Cut(_) => "cut",
            Self::Mute(_) => "mute",
            Self::OneWay(..) => "one way",
            Self::Part(_) => "part",
            Self::CutLink(_) => "cut link",
            Self::Carrier(_) => "carrier",
            Self::Unplug(_) => "unplug",
            Self::Freeze(_) => "freeze",
            Self::Kill(_) => "kill",
            Self::Stop(_) => "stop",
            Self::Reboot(_) => "reboot",
            Self::Restart(_) => "restart",
            Self::Reload => "reload",
            Self::Move(..) => "move",
            Self::Drain(_) => "drain",
            Self::Pause => "pause",
            Self::Delete(_) => "delete address",
            Self::Load => "load",
            Self::Flood(_) => "flood",
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "n{}", node + 1),
            Self::Owner(group) => write!(f, "owner of g{group}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::OneWay(who, other) => write!(f, "{kind} {who} to {}. next", other + 1),
            Self::Part(mask) => {
                let side: Vec<_> = (0..32).filter(|i| mask >> i & 1 == 1).collect();
                let side: Vec<_> = side.iter().map(|i| format!("n{}", i + 1)).collect();
                write!(f, "{kind} {}", side.join("+"))
            }
            Self::Move(group, node) => write!(f, "{kind} g{group} n{}", node + 1),
            Self::Delete(group) => write!(f, "{kind} of g{group}"),
            Self::Reload | Self::Pause | Self::Load => f.write_str(kind),
            Self::Cut(who)
            | Self::Mute(who)
            | Self::CutLink(who)
            | Self::Carrier(who)
            | Self::Unplug(who)
            | Self::Freeze(who)
            | Self::Kill(who)
            | Self::Stop(who)
            | Self::Reboot(who)
            | Self::Restart(who)
            | Self::Drain(who)
            | Self::Flood(who) => write!(f, "{kind} {who}"),
        }
    }
}

/// One fault of a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it begins, ms from the beginning of the cycle.
    pub at_ms: u64,
    /// When it is undone, ms from the beginning of the cycle.
    pub end_ms: u64,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.at_ms as f64 / 1e3, self.end_ms as f64 / 1e3);
        write!(f, "{} {from:.2}-{to:.2} s", self.fault)
    }
}

/// The faults of cycle `number` (from 1) of a run with this seed: several, some at once. After the last one all is
/// healed.
#[must_use]
pub fn cycle(seed: u64, number: u64, nodes: u8, groups: u8) -> Vec<Step> {
    let mut rng = Rng::new(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
    // The first numbers of near seeds are alike.
    rng.draw();
    let length = rng.between(1500, 5000);
    let count = 1 + rng.below(3) + rng.below(3);
    let mut steps: Vec<Step> = (0..count)
        .map(|_| {
            let fault = fault(&mut rng, nodes, groups);
            // Several at the very same moment, too.
            let at_ms = if rng.chance(25) {
                500
            } else {
                rng.between(0, length * 7 / 10)
            };
            // Short ones as often as long ones: 8 ms to 4 s.
            let lasts = (8 << rng.below(10)).min(length) + rng.below(50);
            Step {
                at_ms,
                end_ms: at_ms + lasts,
                fault,
            }
        })
        .collect();
    steps.sort_by_key(|step| step.at_ms);
    steps
}

fn fault(rng: &mut Rng, nodes: u8, groups: u8) -> Fault {
    let nodes = u64::from(nodes);
    let groups = u64::from(groups);
    let node = |rng: &mut Rng| rng.below(nodes) as u8;
    // Owners are hit more often than chance would.
    let who = if rng.chance(60) {
        Who::Owner(rng.below(groups) as u8)
    } else {
        Who::Node(node(rng))
    };
    match rng.below(34) {
        0..=3 => Fault::Cut(who),
        4..=5 => Fault::Mute(who),
        6..=8 => Fault::OneWay(who, rng.below(nodes - 1) as u8),
        9..=11 => Fault::Part(1 + rng.below((1 << nodes) - 2) as u32),
        12 => Fault::CutLink(who),
        13 => Fault::Carrier(who),
        14 => Fault::Unplug(who),
        15..=18 => Fault::Freeze(who),
        19..=21 => Fault::Kill(who),
        22 => Fault::Stop(who),
        23 => Fault::Reboot(who),
        24..=25 => Fault::Restart(who),
        26 => Fault::Reload,
        27..=28 => Fault::Move(rng.below(groups) as u8, node(rng)),
        29 => Fault::Drain(who),
        30 => Fault::Pause,
        31 => Fault::Delete(rng.below(groups) as u8),
        32 => Fault::Load,
        _ => Fault::Flood(who),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_schedule_again_and_others_differ() {
        assert_eq!(cycle(7, 3, 3, 3), cycle(7, 3, 3, 3));
        assert_ne!(cycle(7, 3, 3, 3), cycle(7, 4, 3, 3));
        assert_ne!(cycle(7, 3, 3, 3), cycle(8, 3, 3, 3));
    }

    #[test]
    fn every_fault_comes_and_none_is_impossible() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..1000 {
            for step in cycle(seed, 1, 5, 3) {
                kinds.insert(step.fault.kind());
                assert!(step.end_ms > step.at_ms && step.end_ms < 10_000, "{step}");
                if let Fault::Part(mask) = step.fault {
                    assert!(mask > 0 && mask < 0b11111, "{mask:b}");
                }
            }
        }
        assert_eq!(kinds.len(), 19, "{kinds:?}");
    }
}
