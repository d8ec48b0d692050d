//! Which groups hang together: `with` makes units, and a unit that holds an orderly group is released as one.

use agent_common::{MAX_GROUPS, Set};

use crate::config::CoreConfig;

/// What follows from the groups' settings alone; made anew when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    root: Box<[u8; MAX_GROUPS]>,
    /// The next group of the same unit, in a circle.
    next: Box<[u8; MAX_GROUPS]>,
    /// Groups of units that hold an orderly group.
    pub orderly: Set,
    /// Groups whose place depends on that of others.
    pub placed_together: Set,
    apart: Box<[Set; MAX_GROUPS]>,
}

impl Default for Links {
    fn default() -> Links {
        let alone = || Box::new(std::array::from_fn(|g| g as u8));
        Links {
            root: alone(),
            next: alone(),
            orderly: Set::EMPTY,
            placed_together: Set::EMPTY,
            apart: Box::new([Set::EMPTY; MAX_GROUPS]),
        }
    }
}

impl Links {
    /// For a configuration.
    pub fn new(cfg: &CoreConfig) -> Links {
        let mut links = Links::default();
        links.follow(cfg);
        links
    }

    /// For another configuration, in place.
    pub(crate) fn follow(&mut self, cfg: &CoreConfig) {
        let groups = cfg.group_set();
        for g in 0..=255u8 {
            self.root[usize::from(g)] = root(cfg, g);
            self.next[usize::from(g)] = g;
            self.apart[usize::from(g)] = Set::EMPTY;
        }
        self.orderly = Set::EMPTY;
        self.placed_together = Set::EMPTY;
        for g in groups.iter() {
            let root = self.root(g);
            if root != g {
                // Behind the last one, so that a walk from the root goes by id.
                let last = self.unit(root).last().unwrap_or(root);
                self.next[usize::from(last)] = g;
                self.next[usize::from(g)] = root;
            }
        }
        for g in groups.iter() {
            let of = cfg.settings(g);
            if of.orderly {
                self.orderly = self.unit(g).fold(self.orderly, Set::with);
            }
            if self.root(g) != g {
                self.placed_together = self.placed_together.with(g).with(self.root(g));
            }
            if of.need != 0 || of.spread {
                self.placed_together = self.placed_together.with(g);
            }
            for h in of.apart.and(groups).iter() {
                // What must be together cannot be kept apart.
                if self.root(h) != self.root(g) {
                    self.apart[usize::from(g)] = self.apart[usize::from(g)].with(h);
                    self.apart[usize::from(h)] = self.apart[usize::from(h)].with(g);
                    self.placed_together = self.placed_together.with(g).with(h);
                }
            }
        }
        // A unit is decided as one.
        self.placed_together = self
            .placed_together
            .iter()
            .fold(Set::EMPTY, |s, g| self.unit(g).fold(s, Set::with));
    }

    /// The groups that a group is kept apart from.
    pub fn apart(&self, group: u8) -> Set {
        self.apart[usize::from(group)]
    }

    /// The group that a group follows in the end; itself, if it follows none.
    pub fn root(&self, group: u8) -> u8 {
        self.root[usize::from(group)]
    }

    /// The groups that must be on one node with this one, itself too; from the root, those of a root by id.
    pub fn unit(&self, group: u8) -> impl Iterator<Item = u8> + '_ {
        let first = self.root(group);
        let mut at = Some(first);
        std::iter::from_fn(move || {
            let g = at?;
            let next = self.next[usize::from(g)];
            at = (next != first).then_some(next);
            Some(g)
        })
    }
}

fn root(cfg: &CoreConfig, group: u8) -> u8 {
    let mut at = group;
    for _ in 0..MAX_GROUPS {
        match cfg.settings(at).with {
            Some(leader) if cfg.groups[usize::from(leader)].is_some() => at = leader,
            Some(_) | None => return at,
        }
    }
    // A circle; the configuration's check refuses it.
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GroupConfig, Timing};

    fn links(of: &[(u8, Option<u8>, bool)]) -> Links {
        let mut c = CoreConfig::new(1, Timing::LAN);
        for (g, with, orderly) in of {
            c.groups[usize::from(*g)] = Some(GroupConfig {
                with: *with,
                orderly: *orderly,
                ..GroupConfig::default()
            });
        }
        Links::new(&c)
    }

    #[test]
    fn chains_are_one_unit() {
        let l = links(&[
            (0, Some(5), false),
            (3, None, true),
            (5, Some(7), true),
            (7, None, false),
            (9, Some(7), false),
        ]);
        assert_eq!(l.unit(5).collect::<Vec<_>>(), [7, 0, 5, 9]);
        assert_eq!(l.unit(3).collect::<Vec<_>>(), [3]);
        assert_eq!(l.orderly.iter().collect::<Vec<_>>(), [0, 3, 5, 7, 9]);
        assert_eq!(l.placed_together.iter().collect::<Vec<_>>(), [0, 5, 7, 9]);
    }

    #[test]
    fn circles_and_unknown_leaders_count_for_nothing() {
        let l = links(&[
            (0, Some(1), true),
            (1, Some(0), false),
            (2, Some(200), false),
            (3, Some(3), false),
        ]);
        for g in 0..4 {
            assert_eq!(l.unit(g).collect::<Vec<_>>(), [g]);
        }
        assert_eq!(l.orderly, Set::of(0));
        assert!(l.placed_together.is_empty());
    }
}
