//! One group, or one group and those that follow it, with the places of others given.

use agent_common::{MAX_NODES, node_bit};

use super::{Cluster, Decision, Exclusion, Facts, Reason, SETTLED, Score, plan::Ledger};
use crate::{
    command::Fitness,
    config::{Failback, GroupConfig},
};

/// The decision for a group that follows none.
pub(super) fn lead<F: Facts>(c: &Cluster<'_, F>, ledger: Option<&Ledger>, group: u8) -> Decision {
    let of = c.cfg.settings(group);
    let owner = c.owner(group);
    let mut d = Decision::NOBODY;
    // Ids by class, each in order of preference.
    let mut able = [[0u8; MAX_NODES]; 3];
    let mut count = [0usize; 3];
    for (place, id) in preference(c, of) {
        let mut score = score(c, ledger, group, id);
        score.preference = place;
        d.scores[usize::from(id) - 1] = score;
        if let Some(class) = score.class() {
            able[class][count[class]] = id;
            count[class] += 1;
        }
    }
    if of.prefer[0] != 0 {
        for (score, node) in d.scores.iter_mut().zip(c.nodes) {
            if score.preference == 0 && (node.member || node.witness) {
                score.excluded = Some(Exclusion::NotListed);
            }
        }
    }
    if let Some(at) = c.stuck(group) {
        return Decision::only(at, Reason::Stuck, d.scores);
    }
    let living = c.living_owner(group);
    if let (true, Some(owner)) = (c.paused, living) {
        return Decision::only(owner, Reason::Paused, d.scores);
    }
    if let Some(at) = pinned(c, group, &d) {
        return Decision::only(at, Reason::Stuck, d.scores);
    }
    let class = match count {
        [0, 0, 0] => 3,
        [0, 0, _] if !homeless(c, group) && d.score(owner).class() != Some(2) => 3,
        [0, 0, _] => 2,
        [0, ..] => 1,
        _ => 0,
    };
    let n = if class < 3 {
        d.ranked = able[class];
        count[class]
    } else {
        0
    };
    let scores = d.scores;
    let of_node = |id: u8| scores[usize::from(id) - 1];
    let key = |id: &u8| {
        let s = of_node(*id);
        (s.company(), if of.spread { s.load } else { 0 })
    };
    let able = &mut d.ranked[..n];
    if of.spread || ledger.is_some() {
        // Stable: equals keep the order of preference.
        able.sort_by_key(key);
    }
    let first = able.first().copied().unwrap_or(0);
    let best = |id: u8| able.contains(&id) && of_node(id).company() == of_node(first).company();
    let wish = c.facts.wish(group);
    (d.target, d.reason) = if wish != 0 && best(wish) && class < 2 {
        (wish, Reason::Wished)
    } else if able.contains(&owner) {
        let settled = c.node(first).alive_for > SETTLED;
        if !best(owner) && settled && class < 2 {
            let unable = of_node(first).unable < of_node(owner).unable;
            let why = if unable {
                Reason::ForFollowers
            } else {
                Reason::KeptApart
            };
            (first, why)
        } else if class < 2 && first != owner && best(owner) && fails_back(c, of, group, first) {
            (first, Reason::FailsBack)
        } else {
            (owner, Reason::Stays)
        }
    } else if first != 0 {
        let why = match (class, of.spread) {
            (2, _) => Reason::LastResort,
            (_, true) => Reason::LeastLoaded,
            (_, false) => Reason::Preferred,
        };
        (first, why)
    } else {
        // A drained owner keeps what nobody else can have.
        living.map_or((0, Reason::Nobody), |owner| (owner, Reason::Stays))
    };
    d.target_first()
}

/// The decision for a group that goes with another one, whose decision is known.
pub(super) fn follow<F: Facts>(
    c: &Cluster<'_, F>,
    ledger: &Ledger,
    leader: &Decision,
    group: u8,
) -> Decision {
    let (of, owner) = (c.cfg.settings(group), c.owner(group));
    let mut d = Decision::NOBODY;
    for (i, node) in c.nodes.iter().enumerate() {
        let id = i as u8 + 1;
        if node.member || node.witness {
            let mut score = own_score(c, group, id, ledger.room(c, group, id));
            if !listed(of, id) {
                score.excluded = Some(Exclusion::NotListed);
            } else if score.excluded.is_none() && id != leader.target {
                score.excluded = Some(Exclusion::Follows);
            }
            score.preference = leader.scores[i].preference;
            d.scores[i] = score;
        }
    }
    if let Some(at) = c.stuck(group) {
        return Decision::only(at, Reason::Stuck, d.scores);
    }
    let living = c.living_owner(group);
    if let (true, Some(owner)) = (c.paused, living) {
        return Decision::only(owner, Reason::Paused, d.scores);
    }
    let there = leader.target;
    let reason = match d.score(there).class() {
        Some(0 | 1) if owner == there => Some(Reason::Stays),
        Some(0 | 1) => Some(Reason::Follows),
        Some(2) if homeless(c, group) => Some(Reason::LastResort),
        Some(_) | None => None,
    };
    let Some(reason) = reason else {
        return match living {
            // It cannot follow; alone it is of more use than nowhere.
            Some(owner) => Decision::only(owner, Reason::Stays, d.scores),
            None => Decision {
                scores: d.scores,
                ..Decision::NOBODY
            },
        };
    };
    // Should the target fall silent, whoever takes the leader takes this one, too.
    let mut n = 0;
    for id in leader.ranked.iter().take_while(|id| **id != 0) {
        let fit = c.facts.fitness(*id, group);
        if *id == there || listed(of, *id) && matches!(fit, Fitness::Fit | Fitness::Doubtful) {
            d.ranked[n] = *id;
            n += 1;
        }
    }
    if n == 0 {
        d.ranked[0] = there;
    }
    (d.target, d.reason) = (there, reason);
    d.target_first()
}

/// Better tried where it failed than not at all; but where it still runs somehow, it is left alone.
fn homeless<F: Facts>(c: &Cluster<'_, F>, group: u8) -> bool {
    c.living_owner(group)
        .is_none_or(|id| c.facts.fitness(id, group) == Fitness::Unfit)
}

/// Those who may have the group, in order of preference, with their places from 1.
fn preference<'a, F: Facts>(
    c: &'a Cluster<'_, F>,
    of: &'a GroupConfig,
) -> impl Iterator<Item = (u8, u8)> + 'a {
    let mut taken = 0u32;
    let named = of.prefer.iter().copied().take_while(|id| *id != 0);
    // A list says who may own the group; without one everybody may, by id.
    let anybody = (1..=MAX_NODES as u8)
        .filter(move |id| of.prefer[0] == 0 && !c.node(*id).eq(&super::Candidate::default()));
    named
        .chain(anybody)
        .filter(move |id| {
            let new = node_bit(*id) & !taken;
            taken |= new;
            new != 0
        })
        .zip(1..)
        .map(|(id, place)| (place, id))
}

fn listed(of: &GroupConfig, id: u8) -> bool {
    of.prefer[0] == 0 || of.prefer.iter().take_while(|p| **p != 0).any(|p| *p == id)
}

/// A node as the place of one group, without regard to others.
fn own_score<F: Facts>(c: &Cluster<'_, F>, group: u8, id: u8, room: bool) -> Score {
    let node = c.node(id);
    let excluded = node
        .excluded()
        .or_else(|| match c.facts.fitness(id, group) {
            Fitness::Unfit => Some(Exclusion::Unfit),
            _ if !room => Some(Exclusion::NoRoom),
            Fitness::Fit => None,
            Fitness::Doubtful => Some(Exclusion::Doubtful),
            Fitness::Failed => Some(Exclusion::Failed),
        });
    Score {
        excluded,
        load: node.load,
        ..Score::NONE
    }
}

fn score<F: Facts>(c: &Cluster<'_, F>, ledger: Option<&Ledger>, group: u8, id: u8) -> Score {
    let Some(l) = ledger else {
        return own_score(c, group, id, true);
    };
    let mut s = own_score(c, group, id, l.room(c, group, id));
    s.load = s.load.saturating_add(l.coming_groups(id));
    let mut taken = l.taken_by(c, group, id, super::plan::Taken::default());
    for f in c.links.unit(group) {
        s.apart = s.apart.saturating_add(l.conflicts(c, f, id));
        if f == group {
            continue;
        }
        let fits = l.room_beside(c, f, id, taken);
        let elsewhere = c.stuck(f).is_some_and(|at| at != id);
        let may = fits && !elsewhere && listed(c.cfg.settings(f), id);
        let fit = c.facts.fitness(id, f);
        // What would be there takes room, well or not; else it would be counted as coming now and as too much then.
        let tried = match fit {
            Fitness::Fit | Fitness::Doubtful => true,
            Fitness::Failed => homeless(c, f),
            Fitness::Unfit => false,
        };
        if c.living_owner(f) == Some(id) || may && tried {
            taken = l.taken_by(c, f, id, taken);
        }
        if !may || fit != Fitness::Fit {
            s.unable = s.unable.saturating_add(1);
        }
    }
    s
}

/// Where a group is kept because one that goes with it cannot be stopped there.
fn pinned<F: Facts>(c: &Cluster<'_, F>, group: u8, d: &Decision) -> Option<u8> {
    c.links.unit(group).find_map(|m| {
        let at = c.stuck(m)?;
        let stays = c.owner(group) == at
            && !matches!(
                d.score(at).excluded,
                Some(Exclusion::Unfit | Exclusion::Failed | Exclusion::NotListed)
            );
        let can = matches!(d.score(at).class(), Some(0 | 1));
        (stays || can).then_some(at)
    })
}

fn fails_back<F: Facts>(c: &Cluster<'_, F>, of: &GroupConfig, group: u8, to: u8) -> bool {
    of.failback == Failback::Auto
        && !of.spread
        && c.node(to).alive_for > SETTLED.max(of.failback_delay)
        && (of.failback_delay == 0 || c.facts.fit_for(to, group) >= of.failback_delay)
}
