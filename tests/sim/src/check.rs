//! What must never be seen, checked after every event on true time.

use std::rc::Rc;

use agent_common::{
    MAX_NODES, Set,
    rules::Rules,
    state::{PromiseWord, Shared},
    wire::Message,
};

use crate::{
    node::Node,
    options::{MS, Options, Outage, Shape, Strict},
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
    /// A group let go, or taken, while its services were not stopped where they ran.
    Unstopped,
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
    sent: [(u64, Set); 32],
    next: usize,
    words: [(u64, u64); MAX_NODES],
}

/// The checks' memory.
pub struct Check {
    nodes: usize,
    /// The groups that there are.
    all: Set,
    /// Is what only holds while no rule is left out checked, too?
    pub strict: bool,
    dual_allowed: u64,
    dual_since: u64,
    outage: Option<Outage>,
    /// VIPs change their groups: a voter then stands by the new group for the old one's owner as well.
    pub(crate) vips_move: bool,
    last_owner: Vec<u8>,
    /// By group and node: the claim that it owned by.
    used: Vec<[(u64, u64); MAX_NODES]>,
    /// The gates of each node when they were last looked at.
    opens: Vec<Set>,
    seen: Vec<Seen>,
    /// Since when nobody has owned each group, true time; `u64::MAX` while owned.
    pub unowned_since: Vec<u64>,
    /// Changes of owner per group.
    pub changes: Vec<u32>,
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
            all: o.shape.group_ids().fold(Set::EMPTY, Set::with),
            strict,
            dual_allowed: o.dual_allowed,
            dual_since: u64::MAX,
            outage: o.outage,
            vips_move: false,
            last_owner: vec![0; groups.into()],
            used: vec![[(0, 0); MAX_NODES]; groups.into()],
            opens: vec![Set::EMPTY; nodes.into()],
            seen: vec![Seen::default(); nodes as usize],
            unowned_since: vec![0; groups.into()],
            changes: vec![0; groups.into()],
            owned: 0,
            longest_outage: 0,
            last: 0,
        }
    }

    /// Starts counting outages and changes anew.
    pub fn forget_outages(&mut self, t: u64) {
        self.longest_outage = 0;
        self.changes.fill(0);
        for u in &mut self.unowned_since {
            if *u != u64::MAX {
                *u = t;
            }
        }
    }

    /// The gates of all nodes at true time `t`, after an event at node `at` (its place; no place: perhaps at all).
    #[inline]
    pub fn gates(&mut self, nodes: &[Node], at: usize, t: u64) -> Result<(), Violation> {
        let mut once = Set::EMPTY;
        let mut twice = Set::EMPTY;
        // Whose claims to look at: those of the node where something happened, and of gates that have changed.
        let mut changed = Set::EMPTY;
        for (i, (n, seen)) in nodes.iter().zip(&mut self.opens).enumerate() {
            let open = n.open(t);
            twice = twice.union(once.and(open));
            once = once.union(open);
            if i == at || at >= nodes.len() || open != *seen {
                changed = changed.union(open).union(*seen);
                *seen = open;
            }
        }
        if twice.is_empty() {
            self.dual_since = u64::MAX;
        } else if self.dual_since == u64::MAX {
            self.dual_since = t;
        }
        if let Some(g) = twice.iter().next()
            && t - self.dual_since >= self.dual_allowed
        {
            let who: Vec<String> = nodes
                .iter()
                .filter(|n| n.open(t).has(g))
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
        self.owned += dt * u64::from(once.len());
        for g in self.all.minus(once).iter() {
            let i = g as usize;
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
        }
        for g in once.and(changed).iter() {
            let i = g as usize;
            self.unowned_since[i] = u64::MAX;
            let Some(place) = self.opens.iter().position(|open| open.has(g)) else {
                continue;
            };
            let n = &nodes[place];
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
                let mut held = Set::EMPTY;
                for c in &p.claim {
                    if c.cv.load() != 0 {
                        held = held.union(c.set.load());
                    }
                }
                let twice = held.and(stood);
                if !twice.is_empty() && !self.vips_move {
                    let text = format!(
                        "n{} stands by groups {} for n{} and another",
                        n.id,
                        hex(twice),
                        x + 1
                    );
                    return Err(violation(Broken::DoubleGrant, t, text));
                }
                stood = stood.union(held);
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
        for (cv, set) in [(m.cv, m.set), (m.ask_cv, m.ask_set)] {
            if cv == 0 {
                continue;
            }
            match seen.sent.iter().find(|s| s.0 == cv) {
                Some(s) if s.1 == set => {}
                Some(s) => {
                    let (one, other) = (hex(s.1), hex(set));
                    let text = format!("n{}: version {cv} names {one} and {other}", m.from);
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

fn open_of_own(sh: &Shared, now: u64) -> Set {
    if sh.lease().holds(now) {
        sh.gate.load()
    } else {
        Set::EMPTY
    }
}

/// Groups as one number, bit by bit.
pub(crate) fn hex(s: Set) -> String {
    let all: String = s.0.iter().rev().map(|w| format!("{w:016x}")).collect();
    let short = all.trim_start_matches('0');
    format!("0x{}", if short.is_empty() { "0" } else { short })
}

/// A violation.
pub fn violation(broken: Broken, at: u64, text: String) -> Violation {
    Violation { broken, at, text }
}
