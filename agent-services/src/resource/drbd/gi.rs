//! Generations of data, as `drbdadm get-gi` prints them: whose data is newer, and are they of one line?
//!
//! Compared as the kernel does when two nodes connect (`drbd_uuid_compare`, drbd_receiver.c of 8.4): the lowest bit of
//! an identifier only says that it belonged to a primary.

use std::fmt;

/// Identifiers of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generations {
    /// Of the data as it is.
    pub current: u64,
    /// Of the data as the peer had it when it was last connected; 0 while it is.
    pub bitmap: u64,
    /// Earlier ones, newest first.
    pub history: [u64; 2],
}

/// How two replicas stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same data, or what a resync of the last writes makes the same.
    Same,
    /// The first is older: it lacks what the second has.
    FirstBehind,
    /// The second is older.
    SecondBehind,
    /// Both were written without the other since they were last connected.
    SplitBrain,
    /// They have nothing in common.
    Unrelated,
}

impl Generations {
    /// Reads `CURRENT:BITMAP:HISTORY:HISTORY:flags…`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Generations> {
        let mut parts = line.trim().split(':');
        let mut next = || {
            let part = parts.next().filter(|p| p.len() == 16)?;
            u64::from_str_radix(part, 16).ok()
        };
        Some(Generations {
            current: next()?,
            bitmap: next()?,
            history: [next()?, next()?],
        })
    }

    /// Compares two replicas of a volume.
    #[must_use]
    pub fn compare(self, other: Generations) -> Relation {
        let same = |a: u64, b: u64| a & !1 == b & !1 && a & !1 != 0;
        let among = |a: u64, list: [u64; 2]| list.iter().any(|b| same(a, *b));
        if same(self.current, other.current) {
            Relation::Same
        } else if same(self.current, other.bitmap) || among(self.current, other.history) {
            Relation::FirstBehind
        } else if same(self.bitmap, other.current) || among(other.current, self.history) {
            Relation::SecondBehind
        } else if same(self.bitmap, other.bitmap)
            || among(self.bitmap, other.history)
            || among(other.bitmap, self.history)
            || self.history.iter().any(|h| among(*h, other.history))
        {
            Relation::SplitBrain
        } else {
            Relation::Unrelated
        }
    }
}

impl fmt::Display for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [younger, older] = self.history;
        write!(
            f,
            "data {:016X}, last in common {:016X}, before {younger:016X} {older:016X}",
            self.current, self.bitmap
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As captured, see `samples`.
    #[test]
    fn real_replicas() {
        let parse = |s| Generations::parse(s).unwrap();
        let n1 = parse(
            "7C30E95E7059185D:1F96B41B03DA746D:AC9BACA511AE9B2F:AC9AACA511AE9B2F:1:1:1:0:0:0:0",
        );
        let n2 = parse(
            "2277937780C49774:1F96B41B03DA746C:AC9BACA511AE9B2E:AC9AACA511AE9B2F:1:1:0:0:0:1:0\n",
        );
        assert_eq!(n1.compare(n2), Relation::SplitBrain);
        assert_eq!(n2.compare(n1), Relation::SplitBrain);
        // Before n2 wrote by itself.
        let before = parse(
            "1F96B41B03DA746C:0000000000000000:AC9BACA511AE9B2E:AC9AACA511AE9B2F:1:1:0:0:0:0:0",
        );
        assert_eq!(before.compare(n1), Relation::FirstBehind);
        assert_eq!(n1.compare(before), Relation::SecondBehind);
        let after = parse(
            "7C30E95E7059185C:0000000000000000:1F97B41B03DA746C:1F96B41B03DA746D:1:1:0:1:0:0:0",
        );
        assert_eq!(n1.compare(after), Relation::Same);
        let other = parse(
            "00000000000000AA:0000000000000000:0000000000000000:0000000000000000:1:1:0:1:0:0:0",
        );
        assert_eq!(n1.compare(other), Relation::Unrelated);
        for wrong in [
            "",
            "x",
            "7C30:1F:AC:AC",
            "7C30E95E7059185D:1F96B41B03DA746D",
        ] {
            assert_eq!(Generations::parse(wrong), None);
        }
    }
}
