//! When to pet, and when the device of a node that is silent has certainly fired. Pure, and without use of the heap.

use std::time::Duration;

/// Petted so many times within the device's time.
const PETS: u64 = 4;
/// Beyond the device's time: its tick (softdog and most others count in seconds) and the reset itself.
const MARGIN_NS: u64 = 2_000_000_000;

/// What the real-time thread does about the watchdog. Pure, and without use of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Rest,
    /// Pet it.
    Pet,
    /// Never again, until the lease holds or all is stopped: let it reset the machine. At this time, at the latest, it
    /// has.
    Starve {
        /// Boot clock, ns.
        reset_by: u64,
    },
}

/// Decides, each time the real-time thread comes by (at least [`Pacer::INTERVALS`] times within the device's time).
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    timeout_ns: u64,
    last: Option<u64>,
}

impl Pacer {
    /// So many times within the device's time it must be asked at least.
    pub const INTERVALS: u64 = 2 * PETS;

    /// For a device that resets after so long.
    #[must_use]
    pub fn new(timeout: Duration) -> Pacer {
        Pacer {
            timeout_ns: u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX),
            last: None,
        }
    }

    /// `lease_until`: when this node's lease ends (boot clock, ns; 0: it has none). `stateful`: something that must not
    /// run twice runs here, or may.
    ///
    /// Petting under a lease that ends soon could outlive it by the device's whole time; that is what takeovers wait
    /// for ([`fired_by`]).
    #[must_use]
    pub fn beat(&mut self, now: u64, lease_until: u64, stateful: bool) -> Beat {
        if stateful && lease_until <= now {
            // Not petted yet: it was armed by being opened, before this.
            let last = *self.last.get_or_insert(now);
            return Beat::Starve {
                reset_by: last.saturating_add(self.timeout_ns),
            };
        }
        let due = self
            .last
            .is_none_or(|last| now.saturating_sub(last) >= self.timeout_ns / PETS);
        if due {
            self.last = Some(now);
            Beat::Pet
        } else {
            Beat::Rest
        }
    }
}

/// From when on the watchdog of a node whose promise ended at `promise_end` (boot clock of who asks, ns) has certainly
/// fired, unless what ran there was stopped. The last pet was under a lease, which ends before the promise; the two
/// clocks may be slewed against each other (the factor of the lease), and the device has a tick.
///
/// Twice the device's time: the kernel pets a device that is closed without the letter (`watchdog_release`,
/// drivers/watchdog/watchdog_dev.c), so an agent that stands still and is killed by systemd just before the device fires
/// gives it one more term. Only one: the next agent leaves it alone until all is stopped.
#[must_use]
pub fn fired_by(promise_end: u64, timeout: Duration) -> u64 {
    promise_end.saturating_add(u64::try_from(fires_within(timeout).as_nanos()).unwrap_or(u64::MAX))
}

/// How long [`fired_by`] waits.
#[must_use]
pub fn fires_within(timeout: Duration) -> Duration {
    let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
    let twice = timeout.saturating_mul(2) / 100;
    Duration::from_nanos(twice.saturating_mul(123).saturating_add(MARGIN_NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn petted_under_a_lease_or_with_nothing_to_lose() {
        let mut p = Pacer::new(Duration::from_secs(8));
        assert_eq!(p.beat(10 * S, 11 * S, true), Beat::Pet);
        assert_eq!(p.beat(11 * S, 12 * S, true), Beat::Rest);
        assert_eq!(p.beat(12 * S, 13 * S, true), Beat::Pet);
        assert_eq!(p.beat(14 * S, 0, false), Beat::Pet);
        // The lease ends as this comes by: no more.
        assert_eq!(
            p.beat(15 * S, 15 * S, true),
            Beat::Starve { reset_by: 22 * S }
        );
        assert_eq!(
            p.beat(20 * S, 15 * S, true),
            Beat::Starve { reset_by: 22 * S }
        );
        // All was stopped in time.
        assert_eq!(p.beat(21 * S, 15 * S, false), Beat::Pet);
        let mut never = Pacer::new(Duration::from_secs(8));
        assert_eq!(never.beat(S, 0, true), Beat::Starve { reset_by: 9 * S });
        assert_eq!(never.beat(5 * S, 0, true), Beat::Starve { reset_by: 9 * S });
    }

    /// Whatever happens in whatever order: no pet without lease while something stateful runs; and with either, no gap
    /// that the device could take for death.
    #[test]
    fn never_petted_without_a_right_and_never_forgotten_with_one() {
        let timeout = 8 * S;
        let step = timeout / Pacer::INTERVALS;
        let mut p = Pacer::new(Duration::from_nanos(timeout));
        let mut state = 7u64;
        let (mut now, mut last, mut lease) = (S, None::<u64>, 0);
        let (mut pets, mut starved) = (0, 0);
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            now += (state >> 40) % (step + 1);
            if state & 3 == 0 {
                lease = now + (state >> 20) % (2 * S);
            }
            let stateful = state & 4 != 0;
            let right = lease > now || !stateful;
            match p.beat(now, lease, stateful) {
                Beat::Pet => {
                    assert!(right);
                    pets += 1;
                    last = Some(now);
                }
                Beat::Rest => assert!(right && last.is_some_and(|l| now - l < timeout / PETS)),
                Beat::Starve { reset_by } => {
                    assert!(!right);
                    starved += 1;
                    assert!(reset_by <= last.map_or(now, |l| l.max(S)) + timeout + now);
                }
            }
        }
        assert!(pets > 100 && starved > 100);
    }

    #[test]
    fn a_takeover_waits_long_enough() {
        // Last pet at the very end of the lease, which is before the end of the promise.
        for timeout in [2u64, 8, 60] {
            let mut p = Pacer::new(Duration::from_secs(timeout));
            let promise_end = 100 * S;
            assert_eq!(p.beat(promise_end - 1, promise_end, true), Beat::Pet);
            let Beat::Starve { reset_by } = p.beat(promise_end, promise_end, true) else {
                panic!()
            };
            // The agent is killed in the last moment, and the owner's clock is slower by the factor that the lease allows
            // for.
            let reset_by = reset_by + timeout * S;
            let late = promise_end + (reset_by - promise_end) / 100 * 122;
            assert!(fired_by(promise_end, Duration::from_secs(timeout)) > late + S);
        }
        assert_eq!(fired_by(u64::MAX - 1, Duration::from_secs(600)), u64::MAX);
    }
}
