//! What must never be seen, checked after every event on true time.

use std::rc::Rc;

use agent_common::{
    MAX_NODES,
    rules::Rules,
    state::{PromiseWord, Shared},
    wire::Message,
};

use crate::{
    node::Node,
    options::{GROUPS, MS, Options, Outage, Shape, Strict},
};

/// What was broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// Two gates open for one group.
    TwoOwners,
    /// An owner resumed after another had owned, without a new claim.
    Resume,
    /// A claim version went back, or named two sets (rule 3).
    Version,
    /// A promise that stood was cut short (rule 2).
    Promise,
    /// A voter stands by one group for two nodes.
    DoubleGrant,
    /// A voter promised a group while its word to another node stood, whatever its table says (rules 1, 2, 4).
    GrantOverPromise,
    /// A failed attempt cost a group held (rule 6).
    CostlyFailure,
    /// A group was without owner for longer than this schedule allows.
    Outage,
    /// A group without owner after healing.
    NotOwned,
    /// Owners that change without reason after healing.
    Flapping,
    /// A timer that fires without end.
    Spin,
    /// Actions were dropped.
    Dropped,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub broken: Broken,
    /// True time, ns.
    pub at: u64,
    /// In words.
    pub text: String,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    incarnation: u64,
    run_cv: u64,
    /// Versions sent lately with their sets.
    sent: [(u64, u64); 32],
    next: usize,
    words: [(u64, u64); MAX_NODES],
}

/// The checks' memory.
pub struct Check {
    nodes: usize,
    groups: u8,
    /// Is what only holds while no rule is left out checked, too?
    pub strict: bool,
    dual_allowed: u64,
    dual_since: u64,
    outage: Option<Outage>,
    /// VIPs change their groups: a voter then stands by the new group for the old one's owner as well.
    pub(crate) vips_move: bool,
    last_owner: [u8; GROUPS],
    used: [[(u64, u64); MAX_NODES]; GROUPS],
    seen: Vec<Seen>,
    /// Since when nobody has owned each group, true time; `u64::MAX` while owned.
    pub unowned_since: [u64; GROUPS],
    /// Changes of owner per group.
    pub changes: [u32; GROUPS],
    /// Sum of owned time over all groups, ns.
    pub owned: u64,
    /// Longest time without owner since the last [`Check::forget_outages`], ns.
    pub longest_outage: u64,
    last: u64,
}

impl Check {
    /// For a run that has not yet begun.
    pub fn new(o: &Options) -> Check {
        let Shape { nodes, groups, .. } = o.shape;
        let strict = match o.strict {
            Strict::Usual => o.rules == Rules::all(),
            Strict::Always => true,
            Strict::Never => false,
        };
        Check {
            nodes: nodes as usize,
            groups,
            strict,
            dual_allowed: o.dual_allowed,
            dual_since: u64::MAX,
            outage: o.outage,
            vips_move: false,
            last_owner: [0; GROUPS],
            used: [[(0, 0); MAX_NODES]; GROUPS],
            seen: vec![Seen::default(); nodes as usize],
            unowned_since: [0; GROUPS],
            changes: [0; GROUPS],
            owned: 0,
            longest_outage: 0,
            last: 0,
        }
    }

    /// Starts counting outages and changes anew.
    pub fn forget_outages(&mut self, t: u64) {
        self.longest_outage = 0;
        self.changes = [0; GROUPS];
        for u in &mut self.unowned_since {
            if *u != u64::MAX {
                *u = t;
            }
        }
    }

    /// The gates of all nodes at true time `t`.
    #[inline]
    pub fn gates(&mut self, nodes: &[Node], t: u64) -> Result<(), Violation> {
        let mut once = 0u64;
        let mut twice = 0u64;
        for n in nodes {
            let open = n.open(t);
            twice |= once & open;
            once |= open;
        }
        if twice == 0 {
            self.dual_since = u64::MAX;
        } else if self.dual_since == u64::MAX {
            self.dual_since = t;
        }
        if twice != 0 && t - self.dual_since >= self.dual_allowed {
            let g = twice.trailing_zeros();
            let who: Vec<String> = nodes
                .iter()
                .filter(|n| n.open(t) >> g & 1 == 1)
                .map(|n| format!("n{}", n.id))
                .collect();
            return Err(violation(
                Broken::TwoOwners,
                t,
                format!(
                    "group {g} is owned by {}{}",
                    who.join(" and "),
                    if self.dual_allowed > 0 {
                        format!(" for {:.3} ms", (t - self.dual_since) as f64 / 1e6)
                    } else {
                        String::new()
                    }
                ),
            ));
        }
        let dt = t - self.last;
        self.last = t;
        for g in 0..self.groups {
            let i = g as usize;
            if once >> g & 1 == 0 {
                if self.unowned_since[i] == u64::MAX {
                    self.unowned_since[i] = t;
                }
                self.longest_outage = self.longest_outage.max(t - self.unowned_since[i]);
                if let Some(Outage { from, until, limit }) = self.outage
                    && (from + limit..until).contains(&t)
                    && t - self.unowned_since[i].max(from) > limit
                {
                    let text = format!("group {g} has no owner for {} ms", limit / MS);
                    return Err(violation(Broken::Outage, t, text));
                }
                continue;
            }
            self.owned += dt;
            self.unowned_since[i] = u64::MAX;
            let Some(n) = nodes.iter().find(|n| n.open(t) >> g & 1 == 1) else {
                continue;
            };
            let claim = n.claim_of(g, t);
            let (last, used) = (self.last_owner[i], &mut self.used[i][n.id as usize - 1]);
            if last != n.id {
                self.changes[i] += 1;
                // A node that was stopped or rolled back, clock and all, resumes what it had; that is what may not be.
                if last != 0 && *used == claim && self.dual_allowed == 0 {
                    let text = format!(
                        "n{} resumes group {g} without a new claim after n{last} owned it",
                        n.id
                    );
                    return Err(violation(Broken::Resume, t, text));
                }
            }
            *used = claim;
            self.last_owner[i] = n.id;
        }
        Ok(())
    }

    /// One node's table after an event there.
    #[inline]
    pub fn table(&mut self, n: &Node, t: u64) -> Result<(), Violation> {
        if !self.strict || !n.up {
            return Ok(());
        }
        let seen = &mut self.seen[n.id as usize - 1];
        let sh: &Rc<Shared> = &n.sh;
        let now = n.clock.at(t);
        let incarnation = sh.incarnation.load();
        if seen.incarnation != incarnation {
            *seen = Seen {
                incarnation,
                ..Seen::default()
            };
        }
        let cv = sh.run_cv.load();
        if cv < seen.run_cv {
            return Err(violation(
                Broken::Version,
                t,
                format!("n{}: {} after {}", n.id, cv, seen.run_cv),
            ));
        }
        seen.run_cv = cv;
        let mut stood = open_of_own(sh, now);
        for x in 0..self.nodes {
            let p = &sh.peers[x];
            let word = PromiseWord(p.word.load());
            let (before, of) = seen.words[x];
            let before = PromiseWord(before);
            if of == p.incarnation.load() {
                let shrunk = word.is_closed() || word.expiry_ns() < before.expiry_ns();
                if before.stands(now) && shrunk {
                    let text = format!(
                        "n{} cut its promise to n{} short: {:?} to {:?}",
                        n.id,
                        x + 1,
                        before,
                        word
                    );
                    return Err(violation(Broken::Promise, t, text));
                }
            } else if of != 0 && before.stands(now) {
                let text = format!(
                    "n{} forgot its promise to an older incarnation of n{}",
                    n.id,
                    x + 1
                );
                return Err(violation(Broken::Promise, t, text));
            }
            seen.words[x] = (word.0, p.incarnation.load());
            if word.stands(now) {
                let mut held = 0;
                for c in &p.claim {
                    if c.cv.load() != 0 {
                        held |= c.set.0[0].load();
                    }
                }
                if held & stood != 0 && !self.vips_move {
                    let text = format!(
                        "n{} stands by groups {:#x} for n{} and another",
                        n.id,
                        held & stood,
                        x + 1
                    );
                    return Err(violation(Broken::DoubleGrant, t, text));
                }
                stood |= held;
            }
        }
        Ok(())
    }

    /// A heartbeat leaves: each version names one set (rule 3).
    #[inline]
    pub fn heartbeat(&mut self, i: usize, m: &Message, t: u64) -> Result<(), Violation> {
        if !self.strict {
            return Ok(());
        }
        let seen = &mut self.seen[i];
        if seen.incarnation != m.incarnation {
            *seen = Seen {
                incarnation: m.incarnation,
                ..Seen::default()
            };
        }
        for (cv, set) in [(m.cv, m.set.0[0]), (m.ask_cv, m.ask_set.0[0])] {
            if cv == 0 {
                continue;
            }
            match seen.sent.iter().find(|s| s.0 == cv) {
                Some(s) if s.1 == set => {}
                Some(s) => {
                    let text = format!("n{}: version {cv} names {:#x} and {:#x}", m.from, s.1, set);
                    return Err(violation(Broken::Version, t, text));
                }
                None => {
                    seen.sent[seen.next] = (cv, set);
                    seen.next = (seen.next + 1) % seen.sent.len();
                }
            }
        }
        Ok(())
    }
}

fn open_of_own(sh: &Shared, now: u64) -> u64 {
    if sh.lease().holds(now) {
        sh.gate.0[0].load()
    } else {
        0
    }
}

/// A violation.
pub fn violation(broken: Broken, at: u64, text: String) -> Violation {
    Violation { broken, at, text }
}
