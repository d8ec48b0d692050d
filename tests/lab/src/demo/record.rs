//! What the demo found, as kept, judged and written with `--json`.

use serde::Serialize;
use serde_json::Value;

use crate::{clock::ms, fetch::Pages, ownership::Ownership, probe_outage::Outage};

/// Longest outage that a failed owner may cost (`lan` profile).
pub const FAILURE_LIMIT_MS: f64 = 75.0;
/// Longest outage that a planned move may cost.
pub const MOVE_LIMIT_MS: f64 = 2.0;

/// Points of a takeover as the new owner tells them in its `gained` event (boot clock, ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Points {
    /// The loss was noticed, or the request arrived.
    pub detected_ns: u64,
    /// The claim left.
    pub claimed_ns: u64,
    /// A majority had granted it; the gate opened.
    pub agreed_ns: u64,
    /// The last address was on its device.
    pub address_ns: u64,
    /// The first announcement had left.
    pub announced_ns: u64,
}

impl Points {
    /// From a `gained` event.
    #[must_use]
    pub fn of(event: &Value) -> Option<Self> {
        let at = |key: &str| {
            event
                .pointer(&format!("/phases/{key}"))
                .and_then(Value::as_u64)
        };
        Some(Self {
            detected_ns: at("detected_ns")?,
            claimed_ns: at("claimed_ns")?,
            agreed_ns: at("agreed_ns")?,
            address_ns: at("address_ns")?,
            announced_ns: at("announced_ns")?,
        })
    }

    /// The five parts of the way from the fault to the client's first answer: name and end.
    #[must_use]
    pub fn parts(&self, first_answer: Option<u64>) -> Vec<(&'static str, u64)> {
        let mut parts = vec![
            ("detection", self.claimed_ns.max(self.detected_ns)),
            ("agreement", self.agreed_ns),
            ("address", self.address_ns),
            ("announcement", self.announced_ns),
        ];
        parts.extend(first_answer.map(|at| ("first answer", at)));
        parts
    }
}

/// A part of a takeover and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// When it ended (boot clock, ns).
    pub end_ns: u64,
    /// What it took. A point out of order counts as no time.
    pub took_ns: u64,
}

/// One expectation and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The step it belongs to.
    pub step: &'static str,
    /// What is expected.
    pub what: String,
    /// The limit, for people.
    pub limit: String,
    /// What was measured, for people.
    pub measured: String,
    /// Whether it held.
    pub held: bool,
    /// A matter of safety, not of speed.
    pub safety: bool,
    /// Why a miss may be the machine's: the prober itself was not scheduled.
    pub noise: Option<String>,
}

/// What the client and the wire saw in one window of time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// Begin of the window: the fault or the command (boot clock, ns).
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
    /// Echoes to the IPv4 VIP.
    pub v4: Outage,
    /// Echoes to the IPv6 VIP.
    pub v6: Outage,
    /// Pages.
    pub pages: Pages,
    /// Who answered.
    pub ownership: Ownership,
}

impl Seen {
    /// The longer of the two outages, ms.
    #[must_use]
    pub fn outage_ms(&self) -> f64 {
        ms(self.v4.ns().max(self.v6.ns()))
    }

    /// Echoes lost, both families.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.v4.lost + self.v6.lost
    }

    /// The prober stood still longer than it should: no measure is finer than this.
    fn noise(&self) -> Option<String> {
        let stall = ms(self.v4.stall_ns.max(self.v6.stall_ns));
        (stall > 2.5).then(|| format!("the prober itself stood still for {stall:.1} ms"))
    }
}

/// One step of the demo.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// `a` to `g`.
    pub key: &'static str,
    /// Its name.
    pub title: &'static str,
    /// What was done, a sentence.
    pub did: String,
    /// The owner before.
    pub from: Option<String>,
    /// The owner after.
    pub to: Option<String>,
    /// What was seen.
    pub seen: Seen,
    /// What the new owner tells of its takeover.
    pub points: Option<Points>,
    /// The same as parts.
    pub parts: Vec<Part>,
    /// How it was healed, and what was seen then.
    pub healed: Option<(String, Seen)>,
    /// Expectations.
    pub checks: Vec<Check>,
}

impl Step {
    /// A step without findings yet.
    #[must_use]
    pub fn new(key: &'static str, title: &'static str, did: String) -> Self {
        Self {
            key,
            title,
            did,
            from: None,
            to: None,
            seen: Seen::default(),
            points: None,
            parts: Vec::new(),
            healed: None,
            checks: Vec::new(),
        }
    }

    /// Works the points into parts.
    pub fn split(&mut self) {
        let Some(points) = self.points else { return };
        // The outage ends with the first answer after the announcement, or when nothing was lost
        // there is no such part.
        let first = self
            .seen
            .v4
            .gaps
            .last()
            .filter(|gap| !gap.open)
            .map(|gap| gap.to);
        let mut at = self.seen.from_ns;
        for (name, end_ns) in points.parts(first) {
            self.parts.push(Part {
                name,
                end_ns,
                took_ns: end_ns.saturating_sub(at),
            });
            at = at.max(end_ns);
        }
    }

    /// Expects an outage of at most `limit` ms, and a new owner.
    pub fn expect_takeover(&mut self, limit: f64) {
        let outage = self.seen.outage_ms();
        let over = self.seen.v4.over() && self.seen.v6.over();
        let moved = self.to.is_some() && self.to != self.from;
        let measured = if !moved {
            "no new owner".to_owned()
        } else if over {
            format!("{outage:.2} ms")
        } else {
            format!("not over after {outage:.0} ms")
        };
        self.check(
            "outage of the client",
            format!("<= {limit:.0} ms"),
            measured,
            false,
            |_| moved && over && outage <= limit,
        );
        self.expect_one_owner();
    }

    /// Expects that nobody else came to own the VIP and no echo and no page was lost.
    pub fn expect_nothing_lost(&mut self) {
        let (lost, failed) = (self.seen.lost(), self.seen.pages.failed);
        let stays = self.from == self.to && self.to.is_some();
        let measured = if stays {
            format!("{lost} echoes, {failed} pages")
        } else {
            format!("{lost} echoes, {failed} pages, and the VIP moved")
        };
        self.check("lost", "nothing".into(), measured, false, |_| {
            stays && lost == 0 && failed == 0
        });
        self.expect_one_owner();
    }

    /// Expects that healing lost nothing.
    pub fn expect_quiet_heal(&mut self) {
        let Some((_, seen)) = self.healed.clone() else {
            return;
        };
        let measured = format!("{} echoes, {} pages", seen.lost(), seen.pages.failed);
        let held = seen.lost() == 0 && seen.pages.failed == 0;
        self.check(
            "lost while healing",
            "nothing".into(),
            measured,
            false,
            |_| held,
        );
    }

    fn expect_one_owner(&mut self) {
        let heal = self
            .healed
            .as_ref()
            .map_or(0, |(_, seen)| seen.ownership.dual_ns);
        let dual = self.seen.ownership.dual_ns + heal;
        self.check(
            "two owners at once",
            "0 ms".into(),
            format!("{:.0} ms", ms(dual)),
            true,
            |_| dual == 0,
        );
    }

    fn check(
        &mut self,
        what: &str,
        limit: String,
        measured: String,
        safety: bool,
        held: impl Fn(&Self) -> bool,
    ) {
        let held = held(self);
        let noise = if held || safety {
            None
        } else {
            self.seen.noise()
        };
        let (step, what) = (self.key, format!("{}: {what}", self.title));
        self.checks.push(Check {
            step,
            what,
            limit,
            measured,
            held,
            safety,
            noise,
        });
    }
}

/// The whole demo.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Node names in order.
    pub nodes: Vec<String>,
    /// Kernel and processors, for people.
    pub machine: String,
    /// Begin of the measurements (boot clock, ns).
    pub from_ns: u64,
    /// End of the measurements.
    pub to_ns: u64,
    /// All steps.
    pub steps: Vec<Step>,
    /// Ownership over the whole time.
    pub ownership: Ownership,
    /// Pages over the whole time.
    pub pages: Pages,
    /// Whether every expectation held.
    pub held: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe_outage::Gap;

    #[test]
    fn parts_add_up_to_the_way_from_fault_to_first_answer() {
        let mut step = Step::new("a", "cut", String::new());
        step.seen.from_ns = 100;
        step.seen.v4.gaps.push(Gap {
            from: 99,
            to: 190,
            lost: 1,
            open: false,
        });
        let event = serde_json::json!({"phases": {"detected_ns": 120, "claimed_ns": 150,
            "agreed_ns": 160, "address_ns": 170, "announced_ns": 175}});
        step.points = Points::of(&event);
        step.split();
        let took: Vec<_> = step.parts.iter().map(|part| part.took_ns).collect();
        assert_eq!(took, [50, 10, 10, 5, 15]);
        assert_eq!(took.iter().sum::<u64>(), 90);
    }

    #[test]
    fn an_outage_that_is_not_over_is_a_miss() {
        let mut step = Step::new("a", "cut", String::new());
        (step.from, step.to) = (Some("n1".into()), Some("n2".into()));
        step.seen.v4.gaps.push(Gap {
            from: 0,
            to: 10,
            lost: 1,
            open: true,
        });
        step.expect_takeover(75.0);
        assert_eq!(
            step.checks
                .iter()
                .map(|check| check.held)
                .collect::<Vec<_>>(),
            [false, true]
        );
    }
}
