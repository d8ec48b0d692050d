//! What to do when a service fails: start it again here, later and later, and give up here when that does not help.
//!
//! Pure: time is an argument.

use std::{collections::VecDeque, time::Duration};

/// How often a group is started again on the node where it failed, and how long the node is avoided after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// So many restarts on this node within `window`; one failure more, and the group moves. 0: it moves at once.
    pub restarts: u32,
    /// See `restarts`.
    pub window: Duration,
    /// How long a node where the group failed is avoided, unless somebody clears it.
    pub failure_memory: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            restarts: 3,
            window: Duration::from_secs(600),
            failure_memory: Duration::from_secs(600),
        }
    }
}

/// The first restart is at once, the second waits this long, every further one twice as long.
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait, and the pace at which a node tries that has given up and is the only one.
pub const SLOW: Duration = Duration::from_secs(30);

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start again here, after this wait.
    Restart(Duration),
    /// Give up here: another node, if there is one; else again after this wait.
    GiveUp(Duration),
}

/// The failures of one group on this node.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// When, oldest first; those within the window.
    at: VecDeque<Duration>,
    /// When this node gave up.
    given_up: Option<Duration>,
}

impl Failures {
    /// A failure at `now`, a time since any fixed moment. `hopeless`: no use in trying again here.
    pub fn failed(&mut self, policy: &Policy, now: Duration, hopeless: bool) -> Next {
        let since = now.saturating_sub(policy.window);
        self.at.retain(|at| *at >= since);
        self.at.push_back(now);
        // More than the limit is never looked at.
        while self.at.len() > policy.restarts as usize + 1 {
            self.at.pop_front();
        }
        let n = u32::try_from(self.at.len()).unwrap_or(u32::MAX);
        if hopeless || n > policy.restarts || self.given_up.is_some() {
            self.given_up = Some(now);
            return Next::GiveUp(SLOW);
        }
        let wait = match n {
            0 | 1 => Duration::ZERO,
            n => BACKOFF
                .saturating_mul(1u32.checked_shl(n - 2).unwrap_or(u32::MAX))
                .min(SLOW),
        };
        Next::Restart(wait)
    }

    /// Failures within the window.
    #[must_use]
    pub fn count(&self, policy: &Policy, now: Duration) -> usize {
        let since = now.saturating_sub(policy.window);
        self.at.iter().filter(|at| **at >= since).count()
    }

    /// Has this node given up, and not forgotten it yet?
    #[must_use]
    pub fn is_given_up(&self, policy: &Policy, now: Duration) -> bool {
        self.given_up
            .is_some_and(|at| now < at.saturating_add(policy.failure_memory))
    }

    /// When the memory of having given up ends.
    #[must_use]
    pub fn forgotten_at(&self, policy: &Policy) -> Option<Duration> {
        self.given_up
            .map(|at| at.saturating_add(policy.failure_memory))
    }

    /// It works after all, here; the failures still count.
    pub fn recovered(&mut self) {
        self.given_up = None;
    }

    /// A clean slate: somebody cleared it, or the memory has ended.
    pub fn clear(&mut self) {
        *self = Failures::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn policy(restarts: u32) -> Policy {
        Policy {
            restarts,
            window: s(100),
            failure_memory: s(600),
        }
    }

    #[test]
    fn restarts_wait_longer_and_end() {
        let (p, mut f) = (policy(4), Failures::default());
        let next: Vec<_> = (0..5).map(|n| f.failed(&p, s(n), false)).collect();
        let ms = |n| Next::Restart(Duration::from_millis(n));
        assert_eq!(
            next,
            [ms(0), ms(500), ms(1000), ms(2000), Next::GiveUp(SLOW)]
        );
        assert!(f.is_given_up(&p, s(603)) && !f.is_given_up(&p, s(604)));
        assert_eq!(f.forgotten_at(&p), Some(s(604)));
        assert_eq!(
            f.failed(&p, s(500), false),
            Next::GiveUp(SLOW),
            "as long as it is remembered there is no new budget"
        );
        f.clear();
        assert_eq!(f.failed(&p, s(501), false), ms(0));
    }

    #[test]
    fn old_failures_do_not_count() {
        let (p, mut f) = (policy(1), Failures::default());
        for n in 0..50 {
            let next = f.failed(&p, s(n * 101), false);
            assert_eq!(next, Next::Restart(Duration::ZERO), "{n}");
        }
        assert_eq!(f.failed(&p, s(49 * 101 + 100), false), Next::GiveUp(SLOW));
    }

    #[test]
    fn no_restarts_and_hopeless_cases_move_at_once() {
        let mut f = Failures::default();
        assert_eq!(f.failed(&policy(0), s(5), false), Next::GiveUp(SLOW));
        let mut f = Failures::default();
        assert_eq!(f.failed(&policy(9), s(5), true), Next::GiveUp(SLOW));
    }

    #[test]
    fn waits_have_a_bound() {
        let (p, mut f) = (policy(1_000_000), Failures::default());
        let longest = (0..200).map(|_| match f.failed(&p, s(1), false) {
            Next::Restart(wait) => wait,
            Next::GiveUp(_) => panic!("within the limit"),
        });
        assert_eq!(longest.max(), Some(SLOW));
    }
}
