//! How long a unit itself takes to start and to stop, by systemd's own word: what no takeover can go below.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::machine::Machine;
use crate::clock::boot_ns;

/// Messages of systemd (`journalctl --catalog --list`, sd-messages.h).
const STARTING: &str = "7d4958e842da4a758f6c1cdc7b36dcc5";
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
const STOPPED: &str = "9d1aaa27d60140bd96365438aad20286";

/// The longest of each, ms; 0 if there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Own {
    /// From the beginning of a start until systemd calls the unit started.
    pub start_ms: f64,
    /// From the beginning of a stop until nothing of it runs.
    pub stop_ms: f64,
}

/// Starts and stops of a unit on all machines since an instant of the boot clock (ns).
///
/// # Errors
/// A journal cannot be read.
pub fn since(machines: &[Machine], unit: &str, from: u64) -> Result<Own> {
    let ago = boot_ns().saturating_sub(from);
    let now = std::time::UNIX_EPOCH.elapsed().context("wall clock")?;
    let from_us = now.as_micros().saturating_sub(u128::from(ago / 1000));
    let mut own = Own::default();
    for machine in machines {
        let text = machine.run_ok(&[
            "journalctl",
            "--no-pager",
            "--boot=all",
            "--output=json",
            &format!("--unit={unit}"),
            &format!("--since=@{}", from_us / 1_000_000),
        ])?;
        let one = longest(&text, u64::try_from(from_us).unwrap_or(u64::MAX));
        own.start_ms = own.start_ms.max(one.start_ms);
        own.stop_ms = own.stop_ms.max(one.stop_ms);
    }
    Ok(own)
}

/// The longest start and stop in lines of a journal, of those that begin at or after an instant (µs since 1970).
fn longest(journal: &str, from_us: u64) -> Own {
    let mut own = Own::default();
    let mut begun: HashMap<&str, u64> = HashMap::new();
    for line in journal.lines() {
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let field = |name: &str| entry.get(name).and_then(Value::as_str);
        // When systemd said it, not when the journal read it.
        let stamp = field("_SOURCE_REALTIME_TIMESTAMP").or_else(|| field("__REALTIME_TIMESTAMP"));
        let (Some(id), Some(at)) = (
            field("MESSAGE_ID"),
            stamp.and_then(|at| at.parse::<u64>().ok()),
        ) else {
            continue;
        };
        let took =
            |begun: Option<u64>| begun.map_or(0.0, |since| (at - since.min(at)) as f64 / 1e3);
        match id {
            STARTING | STOPPING if at < from_us => {}
            STARTING => drop(begun.insert(STARTING, at)),
            STOPPING => drop(begun.insert(STOPPING, at)),
            STARTED => own.start_ms = own.start_ms.max(took(begun.remove(STARTING))),
            STOPPED => own.stop_ms = own.stop_ms.max(took(begun.remove(STOPPING))),
            _ => {}
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_start_and_stop_count() {
        let line = |id: &str, at: u64| {
            format!(
                "{{\"MESSAGE_ID\":\"{id}\",\"_SOURCE_REALTIME_TIMESTAMP\":\"{at}\",\"__REALTIME_TIMESTAMP\":\"9\"}}\n"
            )
        };
        let journal = [
            // Before the fault.
            line(STARTING, 10_000),
            line(STARTED, 900_000),
            line(STOPPING, 1_000_000),
            line(STOPPED, 1_040_000),
            line(STARTING, 1_050_000),
            line("0", 1_060_000),
            line(STARTED, 1_080_000),
            line(STARTING, 1_100_000),
            line(STARTED, 1_110_500),
            // Not over yet.
            line(STARTING, 1_200_000),
        ]
        .concat();
        let own = longest(&format!("nonsense\n{journal}"), 1_000_000);
        assert_eq!((own.start_ms, own.stop_ms), (30.0, 40.0));
        assert_eq!(longest("", 0), Own::default());
    }
}
