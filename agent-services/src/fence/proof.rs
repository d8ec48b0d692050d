//! May what must not run twice be started here, though its last owner said nothing? Pure.
//!
//! Each way is a proof that the last owner cannot write any more, and is recorded with the takeover that used it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::{
    resource::drbd::{Given, Others, Replica},
    watchdog::fired_by,
};

/// Why it was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Nobody owned it before, or this node itself did.
    Own,
    /// The last owner stopped it and said so.
    Released,
    /// A fence device ended the last owner.
    Fenced {
        /// It was seen to be off.
        verified: bool,
    },
    /// A person said that the last owner is off, or that nothing of it runs there.
    Confirmed,
    /// The last owner's watchdog has certainly reset it.
    Watchdog,
}

impl Proof {
    /// What DRBD's rules make of it. `replica` is what is known of this node's data.
    #[must_use]
    pub const fn given(self, replica: Replica) -> Given {
        let others = match self {
            Proof::Own | Proof::Released => Others::Stopped,
            Proof::Fenced { .. } | Proof::Confirmed | Proof::Watchdog => Others::Gone,
        };
        Given { others, replica }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proof::Own => "this node had it last",
            Proof::Released => "the last owner stopped it and said so",
            Proof::Fenced { verified: true } => "the last owner was fenced, and seen to be off",
            Proof::Fenced { verified: false } => "the last owner was fenced",
            Proof::Confirmed => "somebody made sure that it does not run elsewhere",
            Proof::Watchdog => "the last owner's watchdog has reset it by now",
        })
    }
}

/// What is known of the last owner. Times: this node's boot clock, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// This node was the last owner, or there was none.
    pub own: bool,
    /// It stopped everything of its last ownership, and said so.
    pub released: bool,
    /// When it can have held a lease last: the end of the last promise to it.
    pub promise_end: u64,
    /// When a fencing that succeeded began, and how it ended.
    pub fenced: Option<(u64, Outcome)>,
    /// When it was heard last; what was fenced before is another life of it.
    pub last_heard: u64,
    /// Somebody said so, of this ownership.
    pub confirmed: bool,
    /// It had this watchdog armed, as the configuration demands and as it said while it owned.
    pub watchdog: Option<Duration>,
    /// That watchdog's clock runs while the machine stands still: no guest with softdog.
    pub watchdog_counts: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is allowed.
    Proven(Proof),
    /// Not before then, if nothing else proves it meanwhile.
    From(u64),
    /// Nothing will prove it by itself: fence the last owner, or ask a person.
    Never,
}

/// Judges what is known.
#[must_use]
pub fn judge(e: &Evidence, now: u64) -> Verdict {
    if e.own {
        return Verdict::Proven(Proof::Own);
    }
    if e.released {
        return Verdict::Proven(Proof::Released);
    }
    if let Some((begun, Outcome::Fenced { verified, .. })) = e.fenced
        && begun >= e.last_heard
    {
        return Verdict::Proven(Proof::Fenced { verified });
    }
    if e.confirmed {
        return Verdict::Proven(Proof::Confirmed);
    }
    match e.watchdog.filter(|_| e.watchdog_counts) {
        Some(timeout) if now >= fired_by(e.promise_end, timeout) => {
            Verdict::Proven(Proof::Watchdog)
        }
        Some(timeout) => Verdict::From(fired_by(e.promise_end, timeout)),
        None => Verdict::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn each_way_and_none() {
        let silent = Evidence {
            promise_end: 100 * S,
            last_heard: 99 * S,
            ..Evidence::default()
        };
        assert_eq!(judge(&silent, 10_000 * S), Verdict::Never);
        let proven = |e: Evidence| match judge(&e, 200 * S) {
            Verdict::Proven(proof) => proof,
            other => panic!("{e:?} {other:?}"),
        };
        assert_eq!(
            proven(Evidence {
                own: true,
                ..silent
            }),
            Proof::Own
        );
        assert_eq!(
            proven(Evidence {
                released: true,
                ..silent
            }),
            Proof::Released
        );
        assert_eq!(
            proven(Evidence {
                confirmed: true,
                ..silent
            }),
            Proof::Confirmed
        );
        let off = Outcome::Fenced {
            level: 1,
            verified: true,
        };
        assert_eq!(
            proven(Evidence {
                fenced: Some((101 * S, off)),
                ..silent
            }),
            Proof::Fenced { verified: true }
        );
        // It has been heard since: it lives again.
        assert_eq!(
            judge(
                &Evidence {
                    fenced: Some((98 * S, off)),
                    ..silent
                },
                200 * S
            ),
            Verdict::Never
        );
        assert_eq!(
            judge(
                &Evidence {
                    fenced: Some((101 * S, Outcome::Failed)),
                    ..silent
                },
                200 * S
            ),
            Verdict::Never
        );
        let dog = Evidence {
            watchdog: Some(Duration::from_secs(10)),
            watchdog_counts: true,
            ..silent
        };
        let at = fired_by(100 * S, Duration::from_secs(10));
        assert!(at > 112 * S);
        assert_eq!(judge(&dog, at - 1), Verdict::From(at));
        assert_eq!(judge(&dog, at), Verdict::Proven(Proof::Watchdog));
        assert_eq!(
            judge(
                &Evidence {
                    watchdog_counts: false,
                    ..dog
                },
                10_000 * S
            ),
            Verdict::Never
        );
    }

    #[test]
    fn what_drbd_makes_of_it() {
        assert_eq!(
            Proof::Released.given(Replica::Unknown).others,
            Others::Stopped
        );
        for proof in [
            Proof::Confirmed,
            Proof::Watchdog,
            Proof::Fenced { verified: false },
        ] {
            assert_eq!(
                proof.given(Replica::Newest),
                Given {
                    others: Others::Gone,
                    replica: Replica::Newest
                }
            );
        }
    }
}
