//! Soft state: wishes, drains, pause, fitness, phases. Gossiped, last writer wins, never bears safety.

use agent_common::{MAX_GROUPS, MAX_NODES, Set};

use crate::stamp::stamp;

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// Is the node drained?
    Drain(u8),
    /// Is the cluster paused?
    Pause,
    /// Where should the group go? 0: nowhere special.
    Wish(u8),
    /// How fit is the node for the group? A [`crate::command::Fitness`].
    Unfit {
        /// The node.
        node: u8,
        /// The group.
        group: u8,
    },
    /// What do the group's services do, and where? See [`crate::command::Phase::at`].
    Phase(u8),
    /// Who would take the group if its owner let it go? An orderly owner begins to stop only when who should have it says so:
    /// nodes that see different things must not make services start and stop in turn.
    Want(u8),
    /// Whose replica of the group's data does its owner want to be outdated, because it writes without it? A
    /// [`crate::command::Behind`]; 0: nobody's.
    Outdate(u8),
    /// The answer, of the node that was named, once its replica is outdated: the same value.
    Outdated(u8),
}

const NODES: usize = MAX_NODES;
const OUTDATE: usize = NODES + 1 + MAX_GROUPS + NODES * MAX_GROUPS;
const OUTDATED: usize = OUTDATE + MAX_GROUPS;
const PHASES: usize = OUTDATED + MAX_GROUPS;
const WANTS: usize = PHASES + MAX_GROUPS;
const SIZE: usize = WANTS + MAX_GROUPS;

impl Key {
    fn index(self) -> Option<usize> {
        let node = |n: u8| (n >= 1 && usize::from(n) <= NODES).then(|| usize::from(n) - 1);
        Some(match self {
            Key::Drain(n) => node(n)?,
            Key::Pause => NODES,
            Key::Wish(g) => NODES + 1 + usize::from(g),
            Key::Unfit { node: n, group } => {
                NODES + 1 + MAX_GROUPS + node(n)? * MAX_GROUPS + usize::from(group)
            }
            Key::Phase(g) => PHASES + usize::from(g),
            Key::Want(g) => WANTS + usize::from(g),
            Key::Outdate(g) => OUTDATE + usize::from(g),
            Key::Outdated(g) => OUTDATED + usize::from(g),
        })
    }
    fn from_index(i: usize) -> Key {
        if i < NODES {
            Key::Drain(i as u8 + 1)
        } else if i == NODES {
            Key::Pause
        } else if i < NODES + 1 + MAX_GROUPS {
            Key::Wish((i - NODES - 1) as u8)
        } else if i >= WANTS {
            Key::Want((i - WANTS) as u8)
        } else if i >= PHASES {
            Key::Phase((i - PHASES) as u8)
        } else if i >= OUTDATED {
            Key::Outdated((i - OUTDATED) as u8)
        } else if i >= OUTDATE {
            Key::Outdate((i - OUTDATE) as u8)
        } else {
            let r = i - NODES - 1 - MAX_GROUPS;
            Key::Unfit {
                node: (r / MAX_GROUPS) as u8 + 1,
                group: (r % MAX_GROUPS) as u8,
            }
        }
    }
    fn pack(self, value: u8) -> u64 {
        let (kind, a, b) = match self {
            Key::Drain(n) => (1u64, n, 0),
            Key::Pause => (2, 0, 0),
            Key::Wish(g) => (3, g, 0),
            Key::Unfit { node, group } => (4, node, group),
            Key::Phase(g) => (5, g, 0),
            Key::Want(g) => (6, g, 0),
            Key::Outdate(g) => (7, g, 0),
            Key::Outdated(g) => (8, g, 0),
        };
        kind | u64::from(a) << 8 | u64::from(b) << 16 | u64::from(value) << 24
    }
    /// What a record from another node is about.
    pub(crate) fn of_word(w: u64) -> Option<Key> {
        Key::unpack(w).map(|(key, _)| key)
    }
    fn unpack(w: u64) -> Option<(Key, u8)> {
        let (a, b, value) = ((w >> 8) as u8, (w >> 16) as u8, (w >> 24) as u8);
        let key = match w as u8 {
            1 => Key::Drain(a),
            2 => Key::Pause,
            3 => Key::Wish(a),
            4 => Key::Unfit { node: a, group: b },
            5 => Key::Phase(a),
            6 => Key::Want(a),
            7 => Key::Outdate(a),
            8 => Key::Outdated(a),
            _ => return None,
        };
        key.index().map(|_| (key, value))
    }
}

/// How often a change is repeated before gossip leaves it to the slow round.
const REPEATS: u8 = 3;

/// The table of records.
#[derive(Debug)]
pub struct Soft {
    version: Vec<u64>,
    value: Vec<u8>,
    /// Records that changed lately, with the sends left.
    hot: [Option<(u16, u8)>; 32],
    /// Sends left of each group's phase and wanter: those of many groups change at once.
    left: Box<[u8; 2 * MAX_GROUPS]>,
    hot_phases: Set,
    hot_wants: Set,
    next: usize,
    /// Records that are still to be walked over in every heartbeat.
    walk: usize,
    changes: u64,
}

impl Default for Soft {
    fn default() -> Self {
        Soft {
            version: vec![0; SIZE],
            value: vec![0; SIZE],
            hot: [None; 32],
            left: Box::new([0; 2 * MAX_GROUPS]),
            hot_phases: Set::EMPTY,
            hot_wants: Set::EMPTY,
            next: 0,
            walk: 0,
            changes: 0,
        }
    }
}

impl Soft {
    /// The value of a record; 0 if never set.
    pub fn get(&self, key: Key) -> u8 {
        key.index().map_or(0, |i| self.value[i])
    }

    /// Sets a record here; versions are wall-clock ms and the node id, so that later writers win.
    pub fn set(&mut self, key: Key, value: u8, wall_ms: u64, me: u8) {
        let Some(i) = key.index() else { return };
        let version = stamp(self.version[i], wall_ms, me);
        self.version[i] = version;
        self.value[i] = value;
        self.changes += 1;
        self.heat(i);
    }

    /// A record from another node. Gives the key and value if that changed anything.
    pub fn merge(&mut self, word: u64, version: u64) -> Option<(Key, u8)> {
        let (key, value) = Key::unpack(word)?;
        let i = key.index()?;
        if version < self.version[i] {
            // Who says that has missed something, or its clock is behind and its word has lost: it should know.
            self.heat(i);
        }
        if version <= self.version[i] {
            return None;
        }
        self.version[i] = version;
        let changed = self.value[i] != value;
        self.value[i] = value;
        self.changes += u64::from(changed);
        changed.then_some((key, value))
    }

    /// Counts changes: what was derived from the table holds while this stays the same.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The record to send now: one that changed lately, else (if `slow`) the next one in turn.
    pub fn next(&mut self, slow: bool) -> Option<(u64, u64)> {
        if let Some(i) = self.next_hot() {
            return Some((Key::from_index(i).pack(self.value[i]), self.version[i]));
        }
        if !slow && self.walk == 0 {
            return None;
        }
        // At most one walk around the table; most of it was never set.
        for _ in 0..SIZE {
            self.next = (self.next + 1) % SIZE;
            self.walk = self.walk.saturating_sub(1);
            if self.version[self.next] != 0 {
                return Some((
                    Key::from_index(self.next).pack(self.value[self.next]),
                    self.version[self.next],
                ));
            }
        }
        None
    }

    /// Somebody may have missed much: everything is told once, a record with each heartbeat.
    pub fn repeat_all(&mut self) {
        self.walk = SIZE;
    }

    /// The changed record with most sends left, so that each is said once before any is repeated.
    fn next_hot(&mut self) -> Option<usize> {
        let groups = |set: Set, from: usize| set.iter().map(move |g| from + usize::from(g));
        let many = groups(self.hot_wants, WANTS).chain(groups(self.hot_phases, PHASES));
        let first = many
            .map(|i| (i, self.left[i - PHASES]))
            .reduce(|a, b| if b.1 > a.1 { b } else { a });
        let few = self.hot.iter().flatten();
        let (i, left) = few
            .map(|(i, left)| (usize::from(*i), *left))
            .chain(first)
            .reduce(|a, b| if b.1 > a.1 { b } else { a })?;
        let left = left.saturating_sub(1);
        if i >= PHASES {
            self.left[i - PHASES] = left;
            let group = ((i - PHASES) % MAX_GROUPS) as u8;
            if left > 0 {
            } else if i >= WANTS {
                self.hot_wants = self.hot_wants.without(group);
            } else {
                self.hot_phases = self.hot_phases.without(group);
            }
        } else if let Some(h) = self
            .hot
            .iter_mut()
            .find(|h| matches!(h, Some((k, _)) if usize::from(*k) == i))
        {
            *h = (left > 0).then_some((i as u16, left));
        }
        Some(i)
    }

    /// Is a recent change still to be sent?
    pub fn is_hot(&self) -> bool {
        self.hot.iter().any(Option::is_some) || !self.hot_phases.union(self.hot_wants).is_empty()
    }

    fn heat(&mut self, i: usize) {
        if i >= PHASES {
            self.left[i - PHASES] = REPEATS;
            if i >= WANTS {
                self.hot_wants = self.hot_wants.with((i - WANTS) as u8);
            } else {
                self.hot_phases = self.hot_phases.with((i - PHASES) as u8);
            }
            return;
        }
        let entry = Some((i as u16, REPEATS));
        if let Some(h) = self
            .hot
            .iter_mut()
            .find(|h| matches!(h, Some((k, _)) if usize::from(*k) == i))
        {
            *h = entry;
        } else if let Some(h) = self.hot.iter_mut().find(|h| h.is_none()) {
            *h = entry;
        }
        // A full list: the slow round will carry it.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        for i in 0..SIZE {
            let k = Key::from_index(i);
            assert_eq!(k.index(), Some(i));
            assert_eq!(Key::unpack(k.pack(7)), Some((k, 7)));
        }
        assert_eq!(Key::unpack(1), None, "node 0");
        assert_eq!(Key::unpack(99), None, "unknown kind");
    }

    /// A node whose wall clock is behind says something that has lost already: it is told at once.
    #[test]
    fn who_is_behind_is_told() {
        let (mut a, mut b) = (Soft::default(), Soft::default());
        a.set(Key::Drain(3), 1, 200, 1);
        while a.next(false).is_some() {}
        b.set(Key::Drain(3), 0, 100, 2);
        let (word, version) = b.next(false).unwrap();
        assert_eq!(a.merge(word, version), None);
        let (word, version) = a.next(false).expect("told again");
        assert_eq!(b.merge(word, version), Some((Key::Drain(3), 1)));
        b.set(Key::Drain(3), 0, 100, 2);
        while let Some((word, version)) = b.next(false) {
            a.merge(word, version);
        }
        assert_eq!(a.get(Key::Drain(3)), 0, "the second word counts");
    }

    /// All groups change their phase at once: each is told before any is repeated.
    #[test]
    fn phases_of_many_groups_are_told_in_turn() {
        let mut s = Soft::default();
        for g in 0..=255 {
            s.set(Key::Phase(g), 2, 100, 1);
        }
        let mut told = Set::EMPTY;
        for _ in 0..256 {
            let (word, _) = s.next(false).unwrap();
            let Some((Key::Phase(g), 2)) = Key::unpack(word) else {
                panic!("{word:x}")
            };
            told = told.with(g);
        }
        assert_eq!(told.len(), 256);
        s.set(Key::Wish(1), 2, 100, 1);
        let (word, _) = s.next(false).unwrap();
        assert_eq!(Key::unpack(word), Some((Key::Wish(1), 2)), "wishes first");
        for _ in 0..2 * 256 + 2 {
            assert!(s.next(false).is_some());
        }
        assert!(!s.is_hot() && s.next(false).is_none());
    }

    #[test]
    fn the_later_writer_wins_everywhere() {
        let (mut a, mut b) = (Soft::default(), Soft::default());
        a.set(Key::Wish(3), 1, 100, 1);
        b.set(Key::Wish(3), 2, 100, 2);
        let (ra, rb) = (a.next(false).unwrap(), b.next(false).unwrap());
        a.merge(rb.0, rb.1);
        b.merge(ra.0, ra.1);
        assert_eq!(a.get(Key::Wish(3)), b.get(Key::Wish(3)));
    }
}
