//! From single verdicts to a standing. Pure.

use super::{Answer, Verdict};

/// Where a service stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Too little is known.
    #[default]
    Unknown,
    /// It answers as it should.
    Good,
    /// It did not so often in a row that this counts.
    Bad,
}

/// Counts verdicts of one probe. An unknown one counts for neither side: it neither adds to a row nor breaks one.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    rise: u32,
    fall: u32,
    standing: Standing,
    since_ns: u64,
    /// Verdicts in a row that speak against the standing.
    against: u32,
    /// Unknown verdicts in a row.
    unknown: u32,
    last: Option<Verdict>,
}

impl Judge {
    /// Knows nothing yet; of thresholds below 1 it makes 1.
    #[must_use]
    pub fn new(rise: u32, fall: u32, now_ns: u64) -> Judge {
        Judge {
            rise: rise.max(1),
            fall: fall.max(1),
            standing: Standing::Unknown,
            since_ns: now_ns,
            against: 0,
            unknown: 0,
            last: None,
        }
    }

    /// Takes a verdict in and says where the service stands now. Times are those of any clock that only grows.
    ///
    /// The first good answer is as good as any; bad ones must be `fall` in a row also at the beginning, which may be
    /// the service's own.
    pub fn hear(&mut self, verdict: Verdict, now_ns: u64) -> Standing {
        let good = match &verdict {
            Verdict::Good(_) => Some(true),
            Verdict::Bad(_) => Some(false),
            Verdict::Unknown(_) => None,
        };
        self.last = Some(verdict);
        let Some(good) = good else {
            self.unknown = self.unknown.saturating_add(1);
            return self.standing;
        };
        self.unknown = 0;
        let (other, needed) = match (self.standing, good) {
            (Standing::Good, true) | (Standing::Bad, false) => {
                self.against = 0;
                return self.standing;
            }
            (Standing::Unknown, true) => (Standing::Good, 1),
            (Standing::Bad, true) => (Standing::Good, self.rise),
            (Standing::Unknown | Standing::Good, false) => (Standing::Bad, self.fall),
        };
        self.against = self.against.saturating_add(1);
        if self.against >= needed {
            self.standing = other;
            self.since_ns = now_ns;
            self.against = 0;
        }
        self.standing
    }

    /// Forgets what it heard: the service was started anew, or moved.
    pub fn forget(&mut self, now_ns: u64) {
        *self = Judge::new(self.rise, self.fall, now_ns);
    }

    /// Where the service stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Since when, in ns.
    #[must_use]
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// The last verdict.
    #[must_use]
    pub fn last(&self) -> Option<&Verdict> {
        self.last.as_ref()
    }

    /// What the last verdict says, for people.
    #[must_use]
    pub fn text(&self) -> &str {
        match &self.last {
            None => "not asked yet",
            Some(
                Verdict::Good(Answer { text, .. }) | Verdict::Bad(text) | Verdict::Unknown(text),
            ) => text,
        }
    }

    /// Verdicts in a row that speak against the standing, and how many of them would change it.
    #[must_use]
    pub fn against(&self) -> (u32, u32) {
        let needed = match self.standing {
            Standing::Bad => self.rise,
            Standing::Good | Standing::Unknown => self.fall,
        };
        (self.against, needed)
    }

    /// So many verdicts in a row were unknown: who asks nothing guards nothing, and people should hear of it.
    #[must_use]
    pub fn unknown_in_a_row(&self) -> u32 {
        self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict(c: char) -> Verdict {
        match c {
            'g' => Verdict::Good(Answer::default()),
            'b' => Verdict::Bad("b".into()),
            _ => Verdict::Unknown("u".into()),
        }
    }

    /// One letter per verdict in, one per standing out.
    fn hear(rise: u32, fall: u32, all: &str) -> String {
        let mut judge = Judge::new(rise, fall, 0);
        let letter = |(i, c)| match judge.hear(verdict(c), i as u64) {
            Standing::Unknown => '?',
            Standing::Good => 'G',
            Standing::Bad => 'B',
        };
        all.chars().enumerate().map(letter).collect()
    }

    #[test]
    fn rise_and_fall_count_in_a_row() {
        assert_eq!(hear(2, 3, "gbbgbbbggbgg"), "GGGGGGBBGGGG");
        assert_eq!(hear(2, 3, "bbbgbgg"), "??BBBBG");
        assert_eq!(hear(0, 0, "gbg"), "GBG");
    }

    #[test]
    fn unknown_counts_for_neither_side() {
        assert_eq!(hear(1, 2, "guuuuuu"), "GGGGGGG");
        assert_eq!(hear(1, 2, "uuuu"), "????");
        assert_eq!(hear(1, 2, "gbub"), "GGGB");
        assert_eq!(hear(2, 1, "gbgug"), "GBBBG");
    }

    #[test]
    fn what_it_remembers() {
        let mut judge = Judge::new(2, 2, 5);
        assert_eq!((judge.text(), judge.since_ns()), ("not asked yet", 5));
        judge.hear(verdict('g'), 10);
        judge.hear(verdict('b'), 20);
        assert_eq!(
            (judge.text(), judge.since_ns(), judge.against()),
            ("b", 10, (1, 2))
        );
        judge.hear(verdict('u'), 30);
        assert_eq!((judge.text(), judge.unknown_in_a_row()), ("u", 1));
        judge.hear(verdict('b'), 40);
        assert_eq!(
            (judge.standing(), judge.since_ns(), judge.unknown_in_a_row()),
            (Standing::Bad, 40, 0)
        );
        judge.forget(50);
        assert_eq!(
            (judge.standing(), judge.last(), judge.since_ns()),
            (Standing::Unknown, None, 50)
        );
    }

    proptest! {
        #[test]
        fn unknowns_change_nothing(all in "[gbu]{0,40}", rise in 1u32..4, fall in 1u32..4) {
            let with = hear(rise, fall, &all);
            let without = hear(rise, fall, &all.replace('u', ""));
            prop_assert_eq!(with.chars().last().filter(|_| !without.is_empty()), without.chars().last());
        }

        #[test]
        fn a_long_row_always_wins(all in "[gbu]{0,40}", rise in 1u32..4, fall in 1u32..4) {
            prop_assert!(hear(rise, fall, &(all.clone() + "bbb")).ends_with('B'));
            prop_assert!(hear(rise, fall, &(all + "ggg")).ends_with('G'));
        }
    }
}
