//! Is this node fit for its groups? From carriers, gates and targets; lost at once, regained with patience.

use std::collections::BTreeMap;

use agent_common::MAX_GROUPS;
use agent_core::Fitness;

use super::{
    devices::Gates,
    replicas::Replicas,
    services::ServicesBook,
    track::{Standing, Targets},
};
use crate::{
    config::{Config, Group, show_ns},
    net::virtual_device_name,
};

const SECOND: u64 = 1_000_000_000;
/// The second fall within the calm costs this wait, every further one twice as much.
const FIRST_HOLD: u64 = 2 * SECOND;
/// The longest wait.
const LONGEST_HOLD: u64 = 60 * SECOND;
/// Fitness is looked at this often at least.
const LOOK: u64 = 200_000_000;
/// The address thread needs a moment to make its macvlans.
const START: u64 = 2 * SECOND;
/// A node without a fall for that long has a clean slate.
const CALM: u64 = 300 * SECOND;

/// What is held of one group.
#[derive(Clone, Debug, Default)]
struct Held {
    /// What was said last; `None` before the first word.
    said: Option<Fitness>,
    reason: String,
    falls: u32,
    last_fall: u64,
    /// All is well since then.
    well_since: Option<u64>,
    /// There is doubt since then.
    doubt_since: Option<u64>,
    /// By how much nodes may differ in noticing the same thing, ns.
    skew: u64,
}

/// Who has the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Me,
    Another,
    Nobody,
}

/// The standing of this node for all its groups.
#[derive(Default)]
pub struct FitnessBook {
    held: BTreeMap<u8, Held>,
    started: Option<u64>,
}

/// What a node's fitness comes from.
pub struct Seen<'a> {
    /// Carriers and gates.
    pub gates: &'a Gates,
    /// What answers.
    pub targets: &'a Targets,
    /// What works.
    pub services: &'a ServicesBook,
    /// How good the data is.
    pub replicas: &'a Replicas,
}

/// What is to be told to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The group's id.
    pub group: u8,
    /// From now on.
    pub fitness: Fitness,
    /// Why; empty if fit.
    pub reason: String,
}

impl FitnessBook {
    /// Looks at one group: `found` is how things are, `None` if that is not known yet. Gives what has changed.
    ///
    /// Where a target dies for all, or comes back for all, nodes notice one after the other; the group must not wander
    /// meanwhile. So an owner doubts, and another's standby recovers from doubt, a little later than it could.
    fn look(
        &mut self,
        group: u8,
        found: Option<(Fitness, String)>,
        owner: Owner,
        now: u64,
    ) -> Option<Change> {
        let held = self.held.entry(group).or_default();
        let (fitness, reason) = found?;
        if fitness == Fitness::Doubtful {
            let since = *held.doubt_since.get_or_insert(now);
            let fit = held.said.is_none_or(|said| said == Fitness::Fit);
            if fit && owner == Owner::Me && now < since.saturating_add(held.skew) {
                return None;
            }
        } else {
            held.doubt_since = None;
        }
        if fitness != Fitness::Fit {
            held.well_since = None;
            held.reason.clone_from(&reason);
            if held.said == Some(Fitness::Fit) {
                if now.saturating_sub(held.last_fall) > CALM {
                    held.falls = 0;
                }
                held.falls = held.falls.saturating_add(1);
                held.last_fall = now;
            }
        } else {
            let since = *held.well_since.get_or_insert(now);
            let wait = match owner {
                // It has the group: to be fit for it moves nothing.
                Owner::Me => 0,
                Owner::Another if held.said == Some(Fitness::Doubtful) => {
                    hold(held.falls).max(held.skew)
                }
                Owner::Another | Owner::Nobody => hold(held.falls),
            };
            let ready = since.saturating_add(wait);
            if held.said.is_some_and(|said| said != Fitness::Fit) && now < ready {
                held.reason = format!(
                    "it is well again, but has failed {} times lately; it waits {} to be sure",
                    held.falls,
                    show_ns(wait)
                );
                return None;
            }
            held.reason.clear();
        }
        let before = held.said.replace(fitness);
        (before != Some(fitness) && (before.is_some() || fitness != Fitness::Fit)).then_some(
            Change {
                group,
                fitness,
                reason,
            },
        )
    }

    /// Looks at all groups that this node may own. Gives what has changed.
    pub fn check(
        &mut self,
        config: &Config,
        me: u8,
        seen: &Seen<'_>,
        owners: &[u8; MAX_GROUPS],
        now: u64,
    ) -> Vec<Change> {
        let Seen {
            gates,
            targets,
            services,
            replicas,
        } = *seen;
        let mine = |g: &&Group| g.prefer.contains(&me);
        let young = now.saturating_sub(*self.started.get_or_insert(now)) < START;
        self.held
            .retain(|id, _| config.groups.iter().filter(mine).any(|g| g.id == *id));
        let groups = config.groups.iter().filter(mine);
        groups
            .filter_map(|g| {
                let owner = match owners[usize::from(g.id)] {
                    0 => Owner::Nobody,
                    id if id == me => Owner::Me,
                    _ => Owner::Another,
                };
                // One question more or less, half of one for luck, and one look of ours.
                let longest = g.tracks.iter().map(|t| t.interval_ns).max().unwrap_or(0);
                self.held.entry(g.id).or_default().skew = longest / 2 * 3 + LOOK;
                // An owner writes through to its peers, if need be; it knows by its own monitors when it cannot.
                let bad = replicas.bad(g).filter(|_| owner != Owner::Me);
                let found = match services.broken(g.id) {
                    _ if bad.is_some() => bad.map(|why| (Fitness::Unfit, why)),
                    // A device without carrier or gate is worse: nothing could be served at all.
                    Some(why) => match found(g, gates, targets, young) {
                        Some((Fitness::Unfit, worse)) => Some((Fitness::Unfit, worse)),
                        _ => Some((Fitness::Failed, why.to_owned())),
                    },
                    None => found(g, gates, targets, young),
                };
                self.look(g.id, found, owner, now)
            })
            .collect()
    }

    /// What was said last of each group, and why.
    pub fn said(&self) -> impl Iterator<Item = (u8, Fitness, &str)> {
        self.held
            .iter()
            .filter_map(|(id, h)| Some((*id, h.said?, h.reason.as_str())))
    }

    /// Why this node is not fit for a group.
    pub fn reason(&self, group: u8) -> Option<&str> {
        let held = self.held.get(&group)?;
        (held.said? != Fitness::Fit).then_some(held.reason.as_str())
    }
}

/// How long all must be well before the node says so.
fn hold(falls: u32) -> u64 {
    match falls.checked_sub(2) {
        None => 0,
        Some(n) => FIRST_HOLD
            .saturating_mul(1u64.checked_shl(n).unwrap_or(u64::MAX))
            .min(LONGEST_HOLD),
    }
}

fn found(g: &Group, gates: &Gates, targets: &Targets, young: bool) -> Option<(Fitness, String)> {
    for vip in &g.vips {
        if let Some(why) = gates.fault(&vip.device) {
            return Some((Fitness::Unfit, why));
        }
        let above = virtual_device_name(g.id, &vip.device);
        if vip.gateway
            && let Some(why) = gates.fault(&above)
        {
            return (!young).then_some((Fitness::Unfit, why));
        }
    }
    let mut unknown = false;
    for track in &g.tracks {
        match targets.standing(track) {
            Standing::Answers => {}
            Standing::Unknown => unknown = true,
            Standing::Silent => {
                let why = format!(
                    "{} does not answer on {} ({} questions in a row)",
                    track.ping, track.device, track.fall
                );
                return Some((Fitness::Doubtful, why));
            }
        }
    }
    // Nothing is said before it is known: a restarted agent would else say that all is well, or that nothing is.
    (!unknown).then(|| (Fitness::Fit, String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: (Fitness, &str) = (Fitness::Unfit, "eth0 has no carrier");
    const GOOD: (Fitness, &str) = (Fitness::Fit, "");

    fn look(book: &mut FitnessBook, what: (Fitness, &str), at: u64) -> Option<Fitness> {
        look_as(book, Owner::Another, what, at)
    }

    fn look_as(
        book: &mut FitnessBook,
        owner: Owner,
        what: (Fitness, &str),
        at: u64,
    ) -> Option<Fitness> {
        let found = Some((what.0, what.1.to_owned()));
        book.look(1, found, owner, at * SECOND).map(|c| c.fitness)
    }

    #[test]
    fn a_first_word_is_told_only_if_it_is_bad() {
        let mut b = FitnessBook::default();
        assert_eq!(b.look(1, None, Owner::Nobody, 0), None);
        assert_eq!(b.said().count(), 0, "nothing is known, nothing is said");
        assert_eq!(look(&mut b, GOOD, 1), None);
        assert_eq!(b.said().next(), Some((1, Fitness::Fit, "")));
        let mut b = FitnessBook::default();
        assert_eq!(look(&mut b, BAD, 0), Some(Fitness::Unfit));
        assert_eq!(look(&mut b, GOOD, 0), Some(Fitness::Fit), "and is no fall");
        assert_eq!(b.held[&1].falls, 0);
    }

    #[test]
    fn flapping_waits_longer_each_time() {
        let mut b = FitnessBook::default();
        look(&mut b, GOOD, 0);
        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(look(&mut b, BAD, now), Some(Fitness::Unfit), "lost at once");
            let well = now;
            while look(&mut b, GOOD, now).is_none() {
                assert!(
                    b.reason(1).is_some_and(|r| r.contains("waits")),
                    "{:?}",
                    b.reason(1)
                );
                now += 1;
            }
            waits.push(now - well);
            assert_eq!(b.reason(1), None);
        }
        assert_eq!(waits, [0, 2, 4, 8, 16, 32, 60, 60, 60]);
        now += CALM / SECOND + 1;
        look(&mut b, BAD, now);
        assert_eq!(look(&mut b, GOOD, now), Some(Fitness::Fit), "a clean slate");
    }

    #[test]
    fn a_relapse_starts_the_wait_anew() {
        let mut b = FitnessBook::default();
        look(&mut b, GOOD, 0);
        for at in [1_000, 1_001] {
            look(&mut b, BAD, at);
            look(&mut b, GOOD, at);
        }
        assert_eq!(look(&mut b, GOOD, 1_002), None);
        look(&mut b, BAD, 1_002);
        assert_eq!(look(&mut b, GOOD, 1_003), None);
        assert_eq!(look(&mut b, GOOD, 1_004), None);
        assert_eq!(look(&mut b, GOOD, 1_005), Some(Fitness::Fit));
    }

    #[test]
    fn an_owner_doubts_later_and_a_standby_recovers_later() {
        let doubt = (Fitness::Doubtful, "192.0.2.1 does not answer on eth0");
        let book = || {
            let mut b = FitnessBook::default();
            look(&mut b, GOOD, 0);
            b.held.entry(1).or_default().skew = 2 * SECOND;
            b
        };
        let mut owner = book();
        assert_eq!(look_as(&mut owner, Owner::Me, doubt, 10), None);
        assert_eq!(look_as(&mut owner, Owner::Me, doubt, 11), None);
        assert_eq!(
            look_as(&mut owner, Owner::Me, doubt, 12),
            Some(Fitness::Doubtful)
        );
        assert_eq!(look_as(&mut owner, Owner::Me, GOOD, 20), Some(Fitness::Fit));
        let mut standby = book();
        assert_eq!(
            look_as(&mut standby, Owner::Another, doubt, 10),
            Some(Fitness::Doubtful)
        );
        assert_eq!(look_as(&mut standby, Owner::Another, GOOD, 20), None);
        assert_eq!(
            look_as(&mut standby, Owner::Another, GOOD, 22),
            Some(Fitness::Fit)
        );
        // No carrier is no matter of opinion.
        assert_eq!(
            look_as(&mut owner, Owner::Me, BAD, 30),
            Some(Fitness::Unfit)
        );
    }

    #[test]
    fn from_doubt_to_worse_is_told() {
        let mut b = FitnessBook::default();
        look(&mut b, GOOD, 0);
        let doubt = (Fitness::Doubtful, "192.0.2.1 does not answer on eth0");
        assert_eq!(look(&mut b, doubt, 1), Some(Fitness::Doubtful));
        assert_eq!(look(&mut b, doubt, 2), None);
        assert_eq!(look(&mut b, BAD, 3), Some(Fitness::Unfit));
        assert_eq!(b.reason(1), Some("eth0 has no carrier"));
    }
}
