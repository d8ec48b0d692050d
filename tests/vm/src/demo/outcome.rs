//! What came of a fault, for people and as JSON.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use heartline_lab::paint::Paint;
use serde::Serialize;
use serde_json::Value;

use super::Fault;
use crate::{
    cluster::{Cluster, Setting},
    rows::Row,
};

/// A step of a takeover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// What was done then.
    pub name: String,
    /// Milliseconds after the fault.
    pub at_ms: i64,
}

/// What came of a fault.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The fault.
    pub fault: Fault,
    /// What stood behind the VIP.
    pub stack: String,
    /// What kept the rows.
    pub store: String,
    /// What was to prove that an old owner is gone.
    pub proof: String,
    /// Rows that the client holds to be safe.
    pub acknowledged: usize,
    /// Those of them that are not there at the end; `None` if nobody serves then.
    pub lost: Option<Vec<u32>>,
    /// What the fence device was told, and answered.
    pub fenced: Vec<String>,
    /// How long two were primary at once, as far as was seen.
    pub both_ms: u64,
    /// Whether they were at all.
    pub two_at_once: bool,
    /// Whether DRBD found two histories.
    pub split_brain: bool,
    /// The longest time without an acknowledged row, from the fault on.
    pub gap_ms: Option<u64>,
    /// From the fault to the first row behind it.
    pub first_ms: Option<u64>,
    /// Steps of the takeover.
    pub phases: Vec<Phase>,
    /// Why n2 was allowed to take over, by its own word.
    pub proof_used: Vec<String>,
    /// Who serves at the end.
    pub owner: Option<String>,
    /// Who was primary: node, from, to, ms after the fault.
    pub spans: Vec<(String, i64, i64)>,
    /// What did not come or could not be done.
    pub trouble: Vec<String>,
    /// Where the logs are kept, if something was not as it should be.
    pub logs: Option<String>,
}

impl Outcome {
    /// Of a fault that was not come to.
    #[must_use]
    pub fn none(fault: Fault, setting: &Setting, why: String) -> Self {
        Self {
            fault,
            stack: super::word(setting.stack),
            store: super::word(setting.store),
            proof: super::word(setting.proof),
            acknowledged: 0,
            lost: None,
            fenced: Vec::new(),
            both_ms: 0,
            two_at_once: false,
            split_brain: false,
            gap_ms: None,
            first_ms: None,
            phases: Vec::new(),
            proof_used: Vec::new(),
            owner: None,
            spans: Vec::new(),
            trouble: vec![format!("not come to: {why}")],
            logs: None,
        }
    }

    /// Nothing lost, never two primaries, no split brain; served and not served when it should be.
    #[must_use]
    pub fn as_expected(&self) -> bool {
        self.lost.as_ref().is_some_and(Vec::is_empty)
            && !self.two_at_once
            && !self.split_brain
            && self.trouble.is_empty()
    }

    /// One fault in a few lines.
    pub fn print(&self, took: Duration) {
        let paint = Paint::for_stdout();
        let verdict = if self.as_expected() {
            paint.good("ok ")
        } else {
            paint.bad("bad")
        };
        println!(
            "{verdict} {} {}",
            paint.bold(self.fault.name()),
            paint.dim(format!(
                "({}; {:.0} s)",
                self.fault.describe(),
                took.as_secs_f64()
            ))
        );
        let steps: Vec<_> = self
            .phases
            .iter()
            .map(|phase| format!("{} {} ms", phase.name, phase.at_ms))
            .collect();
        if !steps.is_empty() {
            println!("    {}", steps.join(", "));
        }
        for proof in &self.proof_used {
            println!("    allowed by: {proof}");
        }
        if !self.fenced.is_empty() {
            println!("    fence device: {}", self.fenced.join(", "));
        }
        for (node, from, to) in &self.spans {
            println!("    {node} primary {from} to {to} ms");
        }
        for text in &self.trouble {
            println!("    {} {text}", paint.bad("!"));
        }
        if let Some(logs) = &self.logs {
            println!("    logs are kept in {logs}");
        }
    }
}

/// The longest time without a row, from the fault on, ns.
pub(super) fn gap(rows: &[Row], fault: u64) -> Option<u64> {
    longest(rows, fault).map(|(gap, _)| gap)
}

/// When the first row came that ended the longest time without one, from the fault on, ns.
pub(super) fn after_gap(rows: &[Row], fault: u64) -> Option<u64> {
    longest(rows, fault).map(|(_, end)| end)
}

fn longest(rows: &[Row], fault: u64) -> Option<(u64, u64)> {
    let before = rows.iter().rfind(|row| row.at <= fault)?;
    let mut last = before.at;
    let mut longest = None;
    for row in rows.iter().filter(|row| row.at > fault) {
        let gap = row.at - last;
        if gap > 0 && longest.is_none_or(|(most, _)| gap > most) {
            longest = Some((gap, row.at));
        }
        last = row.at;
    }
    longest
}

/// The takeover by n2 after the fault and why it was allowed, from its events; empty if there was none.
pub(super) fn told(cluster: &mut Cluster, fault: u64) -> Result<(Vec<Phase>, Vec<String>)> {
    if !cluster.site.guest("n2")?.running() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (offset, _) = cluster.site.guest("n2")?.clock()?;
    let events = cluster.events("n2")?;
    Ok(read(&events, offset, fault))
}

fn read(events: &[Value], offset: i64, fault: u64) -> (Vec<Phase>, Vec<String>) {
    let at = |ns: u64| (ns.cast_signed() + offset - fault.cast_signed()) / 1_000_000;
    let time = |event: &Value| event.get("boot_ns").and_then(Value::as_u64).map(at);
    let kind = |event: &Value, kind: &str| event.get("kind").and_then(Value::as_str) == Some(kind);
    let Some(place) = events
        .iter()
        .rposition(|event| kind(event, "gained") && time(event).is_some_and(|ms| ms > 0))
    else {
        return (Vec::new(), Vec::new());
    };
    let mut phases = Vec::new();
    let mut put = |name: &str, ms: Option<i64>| {
        phases.extend(ms.map(|at_ms| Phase {
            name: name.to_owned(),
            at_ms,
        }));
    };
    for (key, name) in [
        ("last_heard_ns", "last heard"),
        ("detected_ns", "detected"),
        ("agreed_ns", "agreed"),
        ("announced_ns", "announced"),
    ] {
        let ns = events[place]
            .pointer(&format!("/phases/{key}"))
            .and_then(Value::as_u64);
        put(name, ns.map(at));
    }
    let mut proofs = Vec::new();
    for event in events.iter().skip(place) {
        if kind(event, "fenced") {
            put("fenced", time(event));
        } else if kind(event, "proven") {
            put("proven", time(event));
            let proof = event.get("proof").and_then(Value::as_str);
            proofs.extend(proof.map(str::to_owned));
        } else if kind(event, "service")
            && event.get("phase").and_then(Value::as_str) == Some("running")
        {
            put("services run", time(event));
            break;
        }
    }
    (phases, proofs)
}

/// All outcomes.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header([
            "fault",
            "rows ack.",
            "lost",
            "two primaries",
            "split brain",
            "first row",
            "longest gap",
            "serves at the end",
            "as it should be",
        ]);
    for outcome in outcomes {
        let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        table.add_row([
            outcome.fault.name(),
            outcome.acknowledged.to_string(),
            outcome
                .lost
                .as_ref()
                .map_or_else(|| "?".to_owned(), |lost| lost.len().to_string()),
            if outcome.two_at_once {
                format!("{} ms", outcome.both_ms)
            } else {
                "never".to_owned()
            },
            if outcome.split_brain { "yes" } else { "no" }.to_owned(),
            ms(outcome.first_ms),
            ms(outcome.gap_ms),
            outcome.owner.clone().unwrap_or_else(|| "nobody".to_owned()),
            if outcome.as_expected() { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    table.to_string()
}

/// What the figures mean, and the sum.
pub(super) fn legend(outcomes: &[Outcome]) -> String {
    let good = outcomes
        .iter()
        .filter(|outcome| outcome.as_expected())
        .count();
    let mut text = format!(
        "first row: from the fault to the first row that the new owner acknowledged, or that ended the longest wait where n1 \
         stays. {good} of {} as it should be: nothing lost, never two primaries, no split brain, in sync and served at the end. \
         The guests are emulated: times say what takes how long beside what, not how long it takes on hardware.",
        outcomes.len()
    );
    if outcomes.iter().any(|outcome| outcome.stack == "exec") {
        text += "\nDRBD was promoted by commands here (drbd-ctl), which nobody asks for proof that the old owner is gone: a \
                 partition then makes two primaries. This is what the agent's own promotion is measured against.";
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_gap_begins_before_the_fault() {
        let row = |at| Row { number: 0, at };
        assert_eq!(gap(&[row(10), row(20), row(60), row(70)], 25), Some(40));
        assert_eq!(
            after_gap(&[row(10), row(20), row(60), row(70)], 25),
            Some(60)
        );
        assert_eq!(gap(&[row(10), row(20)], 25), None);
        assert_eq!(gap(&[row(30)], 25), None);
    }

    #[test]
    fn phases_are_told_on_the_hosts_clock() {
        let events = [
            json!({"kind": "gained", "boot_ns": 1_000_000, "phases": {}}),
            json!({"kind": "gained", "boot_ns": 50_000_000, "phases": {"last_heard_ns": 9_000_000, "detected_ns": 20_000_000}}),
            json!({"kind": "fenced", "boot_ns": 55_000_000}),
            json!({"kind": "proven", "boot_ns": 56_000_000, "proof": "n1: fenced"}),
            json!({"kind": "service", "boot_ns": 60_000_000, "phase": "starting"}),
            json!({"kind": "service", "boot_ns": 80_000_000, "phase": "running"}),
        ];
        let (phases, proofs) = read(&events, 100_000_000, 110_000_000);
        assert_eq!(proofs, ["n1: fenced"]);
        let told: Vec<_> = phases
            .iter()
            .map(|phase| (phase.name.as_str(), phase.at_ms))
            .collect();
        assert_eq!(
            told,
            [
                ("last heard", -1),
                ("detected", 10),
                ("fenced", 45),
                ("proven", 46),
                ("services run", 70)
            ]
        );
        assert_eq!(read(&events, 0, 110_000_000), (vec![], vec![]));
    }
}
