//! A node's boot clock: an offset and a rate against true time.

/// Reads true time as a node does.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    since: u64,
    base: u64,
    ppm: i64,
}

impl Clock {
    /// A clock that shows `base` at true time `since` and is `ppm` parts per million too fast.
    pub fn new(since: u64, base: u64, ppm: i64) -> Clock {
        Clock { since, base, ppm }
    }
    /// What it shows at true time `t`.
    #[inline]
    pub fn at(&self, t: u64) -> u64 {
        let dt = t.saturating_sub(self.since) as i64;
        self.base + (dt + dt * self.ppm / 1_000_000) as u64
    }
    /// The first true time at which it shows `shown` or more.
    pub fn when(&self, shown: u64) -> u64 {
        if shown <= self.base {
            return self.since;
        }
        let d = u128::from(shown - self.base) * 1_000_000 / (1_000_000 + self.ppm) as u128;
        let Ok(mut t) = u64::try_from(u128::from(self.since) + d) else {
            return u64::MAX;
        };
        if t >> 62 != 0 {
            return u64::MAX;
        }
        // Rounding puts the estimate a few ns off, either way.
        while self.at(t) < shown {
            t += 1;
        }
        while t > self.since && self.at(t - 1) >= shown {
            t -= 1;
        }
        t
    }
    /// True time in which it goes on by `shown`.
    #[inline]
    pub fn true_span(&self, shown: u64) -> u64 {
        shown * 1_000_000 / (1_000_000 + self.ppm) as u64
    }
    /// The clock stands still between two true times (a hypervisor stops the guest).
    pub fn stop(&mut self, from: u64, until: u64) {
        self.base = self.at(from);
        self.since = until;
    }
    /// Its error in parts per million.
    pub fn ppm(&self) -> i64 {
        self.ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_time() {
        for ppm in [-100_000, -10_000, -1, 0, 7, 100_000] {
            let c = Clock::new(1_000, 77_000_000, ppm);
            for shown in [77_000_001, 77_000_999, 80_000_000, 9_000_000_123] {
                let t = c.when(shown);
                assert!(c.at(t) >= shown && c.at(t - 1) < shown, "{ppm} {shown}");
            }
        }
    }

    #[test]
    fn a_stopped_clock_goes_on_where_it_stood() {
        let mut c = Clock::new(0, 50, 0);
        c.stop(100, 1_000);
        assert_eq!((c.at(500), c.at(1_000), c.at(1_010)), (150, 150, 160));
    }
}
