//! What voters have told others, kept outside of their tables: promises in true time, which no reboot forgets.

use agent_common::{
    MAX_NODES, Set,
    state::PromiseWord,
    wire::{Kind, Message},
};

use crate::{
    check::{Broken, Violation, hex, violation},
    node::Node,
    world::{World, say},
};

/// A promise that has left its voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Told {
    /// To whom: id,
    pub to: u8,
    /// incarnation,
    pub incarnation: u64,
    /// claim version,
    pub cv: u64,
    /// and its groups.
    pub set: Set,
    /// Until when the voter stands by it, true time.
    pub until: u64,
}

/// The promises of one voter that may still stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger(Vec<Told>);

impl Ledger {
    /// Enters a promise given at `t`. Gives the live one that it goes over, if there is one. `abandoned`: the node that got
    /// the promise can never again use that version; nothing follows from such a promise, be it old or new.
    #[inline]
    pub fn enter(
        &mut self,
        new: Told,
        t: u64,
        abandoned: impl Fn(&Told) -> bool,
    ) -> Result<(), Told> {
        self.0.retain(|p| p.until > t);
        let mut known = false;
        for p in &mut self.0 {
            let same_node = (p.to, p.incarnation) == (new.to, new.incarnation);
            if same_node && p.cv == new.cv {
                p.until = p.until.max(new.until);
                known = true;
            } else if !same_node
                && !p.set.and(new.set).is_empty()
                && !abandoned(p)
                && !abandoned(&new)
            {
                return Err(*p);
            }
        }
        if !known {
            self.0.push(new);
        }
        Ok(())
    }
}

/// How far an incarnation of a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Life {
    /// The id.
    pub id: u8,
    /// The incarnation.
    pub incarnation: u64,
    /// What it runs, or ran last.
    pub run_cv: u64,
    /// Its highest version: any other below is never used again.
    pub cv_max: u64,
}

impl Life {
    /// Of a node's table now.
    pub fn of(n: &Node) -> Life {
        Life {
            id: n.plays,
            incarnation: n.sh.incarnation.load(),
            run_cv: n.sh.run_cv.load(),
            cv_max: n.sh.cv_max.load(),
        }
    }
}

impl World {
    /// The incarnation of a node ends here; how far it had come is remembered.
    pub(crate) fn end_life(&mut self, i: usize) {
        let life = Life::of(&self.nodes[i]);
        self.ended.push(life);
    }

    /// Has a step ended an incarnation? Who starts afresh has dropped everything before.
    pub(crate) fn started_afresh(&mut self, i: usize, before: Life) {
        if self.nodes[i].sh.incarnation.load() != before.incarnation {
            self.ended.push(Life {
                run_cv: u64::MAX,
                cv_max: u64::MAX,
                ..before
            });
        }
    }

    /// A voter's ack or grant leaves: it must not go over another promise of its that stands.
    #[inline]
    pub(crate) fn promised(&mut self, i: usize, m: &Message) -> Result<(), Violation> {
        if !self.check.strict {
            return Ok(());
        }
        let n = &self.nodes[i];
        let now = n.clock.at(self.t);
        let (cv, set, until) = match Kind::from_u8(m.kind) {
            Some(Kind::Ack) => (m.cv, m.set, now + u64::from(m.promise_us) * 1000),
            Some(Kind::Grant) => {
                let word = PromiseWord(n.sh.peer(m.to).word.load());
                (m.ask_cv, m.ask_set, word.expiry_ns())
            }
            _ => return Ok(()),
        };
        let told = Told {
            to: m.to,
            incarnation: m.re_incarnation,
            cv,
            set,
            until: self.t + n.clock.true_span(until.saturating_sub(now)),
        };
        if self.o.trace {
            say!(self, "n{} -> {told:?}", i + 1);
        }
        let (t, nodes, ended) = (self.t, &self.nodes, &self.ended);
        let ledger = &mut self.ledgers[i % MAX_NODES];
        ledger
            .enter(told, t, |p| {
                let now = nodes.iter().map(Life::of);
                now.chain(ended.iter().copied())
                    .find(|l| (l.id, l.incarnation) == (p.to, p.incarnation))
                    .is_some_and(|l| p.cv != l.run_cv && p.cv < l.cv_max)
            })
            .map_err(|over| {
                let text = format!(
                    "n{} promises groups {} to n{} (version {cv}) while its word to n{} (version {}, groups {}) stands for {:.3} ms",
                    i + 1,
                    hex(told.set),
                    told.to,
                    over.to,
                    over.cv,
                    hex(over.set),
                    (over.until - t) as f64 / 1e6
                );
                violation(Broken::GrantOverPromise, t, text)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(to: u8, cv: u64, set: u64, until: u64) -> Told {
        Told {
            to,
            incarnation: 7,
            cv,
            set: Set([0, 0, 0, set]),
            until,
        }
    }

    #[test]
    fn a_promise_over_another_is_seen() {
        let mut l = Ledger::default();
        let never = |_: &Told| false;
        assert!(l.enter(told(1, 3, 0b01, 100), 0, never).is_ok());
        assert!(
            l.enter(told(2, 1, 0b10, 100), 10, never).is_ok(),
            "another group"
        );
        assert!(
            l.enter(told(1, 4, 0b11, 90), 20, never).is_err(),
            "2 has the second"
        );
        assert!(
            l.enter(told(2, 2, 0b11, 190), 99, never).is_err(),
            "1 has the first"
        );
        assert!(
            l.enter(told(2, 2, 0b11, 190), 99, |p| p.to == 1).is_ok(),
            "1 gave up"
        );
        let mut l = Ledger::default();
        assert!(l.enter(told(1, 3, 0b01, 100), 0, never).is_ok());
        assert!(l.enter(told(1, 3, 0b01, 150), 50, never).is_ok(), "grows");
        assert!(l.enter(told(2, 1, 0b01, 300), 149, never).is_err());
        assert!(
            l.enter(told(2, 1, 0b01, 300), 150, never).is_ok(),
            "is over"
        );
    }
}
