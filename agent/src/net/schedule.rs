//! When a group is announced next. Pure: time is passed in.

/// Never due.
pub(crate) const NEVER: u64 = u64::MAX;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// Rounds that were asked for (foreign claim, heal, carrier) are at least this far apart, ns.
pub(crate) const MIN_GAP: u64 = 100 * MS;

/// Why a round of announcements goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The group was just gained.
    Gain,
    /// A device of the group got its carrier back.
    CarrierUp,
    /// The agent asked for it: foreign claim of a VIP, heal.
    Asked,
    /// A VIP was added again, or for the first time after a reload.
    Restored,
    /// A repetition shortly after one of the above.
    Repeat,
    /// Every `announce_interval`.
    Periodic,
}

/// The announcement times of one group: at once, +10 ms, +100 ms, +1 s, takeover + 1 s (frames of
/// the old owner may have sat in a transmit ring until its lease was over), then every interval.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    base: u64,
    stage: u8,
    due: u64,
    why: Why,
    last_round: u64,
}

impl Schedule {
    /// Nothing due.
    pub fn off() -> Self {
        Self {
            base: 0,
            stage: 0,
            due: NEVER,
            why: Why::Periodic,
            last_round: 0,
        }
    }

    /// Starts the whole series. Anything but a gain keeps [`MIN_GAP`] to the round before, and a
    /// round that is already waiting for that gap is not pushed back further.
    pub fn start(&mut self, now: u64, why: Why) {
        let due = if why == Why::Gain {
            now
        } else {
            now.max(self.last_round.saturating_add(MIN_GAP))
        };
        self.base = due;
        self.due = due;
        self.stage = 0;
        self.why = why;
    }

    /// Only the periodic rounds: the group was ours all along.
    pub fn keep(&mut self, now: u64, interval: u64) {
        *self = Self {
            due: now.saturating_add(interval),
            last_round: now,
            stage: u8::MAX,
            ..Self::off()
        };
    }

    /// When the next round starts, boot clock ns; [`NEVER`] if none.
    pub fn due(&self) -> u64 {
        self.due
    }

    /// Why the due round goes out.
    pub fn why(&self) -> Why {
        self.why
    }

    /// A round begins: counts for [`MIN_GAP`], and nothing is due until [`Self::finish`].
    pub fn begin(&mut self, now: u64) {
        self.last_round = now;
        self.due = NEVER;
    }

    /// A round is over; repetitions that have become late while it ran are left out.
    pub fn finish(&mut self, now: u64, takeover: u64, interval: u64) {
        if self.due != NEVER {
            return; // start() was called while the round ran
        }
        let offsets = [
            0,
            10 * MS,
            100 * MS,
            SECOND,
            takeover.saturating_add(SECOND),
        ];
        let next = offsets
            .iter()
            .enumerate()
            .skip(usize::from(self.stage).saturating_add(1))
            // Only a gain repeats within MIN_GAP: a stream of foreign claims must not multiply.
            .filter(|(stage, _)| *stage != 1 || matches!(self.why, Why::Gain | Why::CarrierUp))
            .map(|(stage, offset)| (stage, self.base.saturating_add(*offset)))
            .find(|(_, due)| *due > now);
        match next {
            Some((stage, due)) => {
                self.stage = u8::try_from(stage).unwrap_or(u8::MAX);
                self.due = due;
                self.why = Why::Repeat;
            }
            None => {
                self.stage = u8::MAX;
                self.due = now.saturating_add(interval.max(MIN_GAP));
                self.why = Why::Periodic;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEOVER: u64 = 50 * MS;
    const INTERVAL: u64 = 60 * SECOND;

    fn run(schedule: &mut Schedule, rounds: usize) -> Vec<(u64, Why)> {
        (0..rounds)
            .map(|_| {
                let (due, why) = (schedule.due(), schedule.why());
                schedule.begin(due);
                schedule.finish(due, TAKEOVER, INTERVAL);
                (due, why)
            })
            .collect()
    }

    #[test]
    fn a_gain_is_announced_at_the_times_of_the_design() {
        let mut s = Schedule::off();
        assert_eq!(s.due(), NEVER);
        s.start(1000, Why::Gain);
        let at = |ns: u64| 1000 + ns;
        assert_eq!(
            run(&mut s, 7),
            [
                (at(0), Why::Gain),
                (at(10 * MS), Why::Repeat),
                (at(100 * MS), Why::Repeat),
                (at(SECOND), Why::Repeat),
                (at(SECOND + TAKEOVER), Why::Repeat),
                (at(SECOND + TAKEOVER + INTERVAL), Why::Periodic),
                (at(SECOND + TAKEOVER + 2 * INTERVAL), Why::Periodic),
            ]
        );
    }

    #[test]
    fn asked_rounds_keep_their_distance_however_often_asked() {
        let mut s = Schedule::off();
        s.start(SECOND, Why::Gain);
        let mut now = SECOND;
        let mut rounds = Vec::new();
        for _ in 0..3000 {
            now += MS / 10;
            s.start(now, Why::Asked);
            if s.due() <= now {
                s.begin(now);
                s.finish(now, TAKEOVER, INTERVAL);
                rounds.push(now);
            }
        }
        assert!(rounds.len() >= 3, "{rounds:?}");
        assert!(
            rounds.windows(2).all(|w| w[1] - w[0] >= MIN_GAP),
            "{rounds:?}"
        );
    }

    #[test]
    fn repetitions_that_became_late_are_left_out() {
        let mut s = Schedule::off();
        s.start(0, Why::Gain);
        s.begin(0);
        s.finish(500 * MS, TAKEOVER, INTERVAL);
        assert_eq!((s.due(), s.why()), (SECOND, Why::Repeat));
    }

    #[test]
    fn a_start_during_a_round_is_not_lost() {
        let mut s = Schedule::off();
        s.start(0, Why::Gain);
        s.begin(0);
        s.start(5 * MS, Why::CarrierUp);
        s.finish(6 * MS, TAKEOVER, INTERVAL);
        assert_eq!((s.due(), s.why()), (MIN_GAP, Why::CarrierUp));
    }

    #[test]
    fn kept_groups_are_announced_periodically_only() {
        let mut s = Schedule::off();
        s.keep(SECOND, INTERVAL);
        assert_eq!(
            run(&mut s, 2),
            [
                (SECOND + INTERVAL, Why::Periodic),
                (SECOND + 2 * INTERVAL, Why::Periodic)
            ]
        );
    }
}
