//! Which outages the faults explain. An outage is excused near the beginning or end of a fault, and while no majority of
//! healthy nodes hears each other; what is left of it should not have been.

/// A time, boot clock ns.
pub type Ns = u64;

/// Something that kept nodes from taking part, as it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impaired {
    /// From when.
    pub from: Ns,
    /// Until when.
    pub to: Ns,
    /// What.
    pub what: What,
}

/// What was impaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A node (from 0) does not take part, or the client does not reach it.
    Node(u8),
    /// Two nodes do not hear each other in at least one direction.
    Pair(u8, u8),
    /// Nothing by itself: a request, a reload.
    Nothing,
}

/// What happened in a cycle.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All of it.
    pub list: Vec<Impaired>,
    /// Number of nodes.
    pub nodes: u8,
    /// How long after a change everything may need, ns.
    pub grace: Ns,
}

impl History {
    /// Whether a majority of nodes was healthy and connected at this time.
    #[must_use]
    pub fn majority(&self, at: Ns) -> bool {
        let now = self.list.iter().filter(|i| i.from <= at && at < i.to);
        let mut healthy: u32 = (1 << self.nodes) - 1;
        let mut hears = [u32::MAX; 32];
        for impaired in now {
            match impaired.what {
                What::Node(node) => healthy &= !(1 << node),
                What::Pair(a, b) => {
                    hears[usize::from(a & 31)] &= !(1 << b);
                    hears[usize::from(b & 31)] &= !(1 << a);
                }
                What::Nothing => {}
            }
        }
        let needed = u32::from(self.nodes) / 2 + 1;
        clique(healthy, 0, &hears, needed)
    }

    /// The part of an outage that nothing explains, ns.
    #[must_use]
    pub fn unexplained(&self, from: Ns, to: Ns) -> Ns {
        let mut edges: Vec<Ns> = self
            .list
            .iter()
            .flat_map(|i| [i.from, i.to])
            .filter(|at| *at != Ns::MAX)
            .collect();
        edges.sort_unstable();
        // What the prober notes as the last answer may be from shortly before the fault.
        let early = 100_000_000;
        let mut excused: Vec<(Ns, Ns)> = edges
            .iter()
            .map(|at| (at.saturating_sub(early), at + self.grace))
            .collect();
        for (nth, at) in edges.iter().enumerate() {
            let next = edges.get(nth + 1).copied().unwrap_or(Ns::MAX);
            if !self.majority(*at) {
                excused.push((*at, next.saturating_add(self.grace)));
            }
        }
        excused.sort_unstable();
        let (mut left, mut at) = (0, from);
        for (begin, end) in excused {
            if begin >= to {
                break;
            }
            if begin > at {
                left += begin - at;
            }
            at = at.max(end);
        }
        left + to.saturating_sub(at)
    }
}

/// Is there a set of `needed` of these nodes that all hear each other?
fn clique(rest: u32, chosen: u32, hears: &[u32; 32], needed: u32) -> bool {
    if chosen.count_ones() >= needed {
        return true;
    }
    if chosen.count_ones() + rest.count_ones() < needed {
        return false;
    }
    let node = rest.trailing_zeros();
    let rest = rest & !(1 << node);
    clique(
        rest & hears[node as usize],
        chosen | 1 << node,
        hears,
        needed,
    ) || clique(rest, chosen, hears, needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Ns = 1_000_000;

    fn history(nodes: u8, list: &[(Ns, Ns, What)]) -> History {
        let list = list.iter().map(|&(from, to, what)| Impaired {
            from: from * MS,
            to: to * MS,
            what,
        });
        History {
            list: list.collect(),
            nodes,
            grace: 100 * MS,
        }
    }

    #[test]
    fn a_healthy_cluster_has_no_excuse() {
        let h = history(3, &[(1000, 2000, What::Node(0))]);
        assert_eq!(h.unexplained(5000 * MS, 5200 * MS), 200 * MS);
        // At the fault, for the grace, and no longer: two others are a majority.
        assert_eq!(h.unexplained(1000 * MS, 1090 * MS), 0);
        assert_eq!(h.unexplained(1000 * MS, 1500 * MS), 400 * MS);
        // Its end is a change as well.
        assert_eq!(h.unexplained(2000 * MS, 2100 * MS), 0);
    }

    #[test]
    fn no_majority_excuses_everything_until_shortly_after() {
        let two = [(1000, 5000, What::Node(0)), (2000, 4000, What::Node(1))];
        let h = history(3, &two);
        assert!(h.majority(1500 * MS) && !h.majority(3000 * MS));
        assert_eq!(h.unexplained(2000 * MS, 4050 * MS), 0);
        assert_eq!(h.unexplained(2000 * MS, 4200 * MS), 100 * MS);
        let h = history(5, &two);
        assert!(h.majority(3000 * MS), "three of five");
    }

    #[test]
    fn a_majority_must_hear_each_other() {
        let all = [(0, 9, What::Pair(0, 1)), (0, 9, What::Pair(1, 2))];
        assert!(history(3, &all).majority(MS), "n1 and n3");
        let all = [
            (0, 9, What::Pair(0, 1)),
            (0, 9, What::Pair(1, 2)),
            (0, 9, What::Pair(0, 2)),
        ];
        assert!(!history(3, &all).majority(MS));
        let star = [
            (0, 9, What::Pair(0, 1)),
            (0, 9, What::Pair(2, 3)),
            (0, 9, What::Pair(3, 4)),
        ];
        assert!(history(5, &star).majority(MS), "n1, n3, n5");
    }
}
