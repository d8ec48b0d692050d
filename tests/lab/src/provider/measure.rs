//! What clients felt in a window of time.

use super::{
    asker::{self, Asker},
    browser::{self, Fetch, Page},
    rig::{Provider, Service},
};
use crate::clock::{boot_ns, ms};

const MS: u64 = 1_000_000;

/// What the client of one service felt.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Felt {
    /// Longest time between two good answers, ms.
    pub outage_ms: f64,
    /// Requests (for web: new connections) begun.
    pub asked: usize,
    /// Of those, never answered well.
    pub lost: usize,
    /// Nodes that answered, in order.
    pub by: Vec<String>,
    /// Longest time between two requests, ms: what exceeds the interval is noise of the machine.
    pub stall_ms: f64,
    /// What only web has.
    pub web: Option<Tcp>,
}

/// What web clients feel beside that.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Tcp {
    /// New connections that were refused or reset.
    pub refused: usize,
    /// Longest time during which new connections were refused or reset, ms.
    pub refused_ms: f64,
    /// New connections whose first packet was lost, so that they took 0.5 s or more.
    pub slow: usize,
    /// Resets of the connection that is kept open.
    pub resets: usize,
    /// Pages on it that did not come in time.
    pub hung: usize,
    /// Longest time between two pages on it, ms.
    pub kept_outage_ms: f64,
}

/// When everything begun before `to` has ended, one way or another.
#[must_use]
pub fn ended(to: u64) -> bool {
    let slowest = asker::DEADLINE.max(browser::DEADLINE).as_nanos() as u64;
    boot_ns() > to + slowest + 50 * MS
}

/// What the client of a service felt in `[from, to)`; to be asked when it has [`ended`].
#[must_use]
pub fn felt(provider: &Provider, service: Service, from: u64, to: u64) -> Felt {
    // The last good answer before the fault is where an outage begins.
    let before = from.saturating_sub(300 * MS);
    let answers = provider.answers(service, before, to);
    // The last one before counts: who served when the fault came.
    let first = answers
        .partition_point(|(at, _)| *at < from)
        .saturating_sub(1);
    let mut by: Vec<String> = answers
        .iter()
        .skip(first)
        .map(|(_, node)| node.clone())
        .collect();
    by.dedup();
    let felt = Felt {
        outage_ms: longest(answers.iter().map(|(at, _)| *at), from, to),
        by,
        ..Felt::default()
    };
    match provider.asker(service) {
        Some(asker) => datagrams(asker, felt, from, to),
        None => web(provider, felt, before, from, to),
    }
}

fn datagrams(asker: &Asker, felt: Felt, from: u64, to: u64) -> Felt {
    // What was under way at the fault belongs to it.
    let asks = asker.asks(from.saturating_sub(asker::EVERY.as_nanos() as u64), to);
    Felt {
        asked: asks.len(),
        lost: asks.iter().filter(|ask| ask.answer.is_none()).count(),
        stall_ms: longest(asks.iter().map(|ask| ask.sent), from, 0),
        ..felt
    }
}

fn web(provider: &Provider, felt: Felt, before: u64, from: u64, to: u64) -> Felt {
    let early = from.saturating_sub(browser::EVERY.as_nanos() as u64);
    let fresh = provider.web.fresh(early, to);
    let kept = provider.web.kept(before, to);
    let served = |fetch: &&Fetch| matches!(fetch.page, Page::Served(_));
    let count = |fetches: &[Fetch], page: &Page| {
        fetches
            .iter()
            .filter(|fetch| fetch.sent >= early && fetch.page == *page)
            .count()
    };
    let refused = |fetch: &Fetch| matches!(fetch.page, Page::Refused | Page::Reset);
    let mut since = None;
    let mut refused_ns = 0;
    for fetch in &fresh {
        if refused(fetch) {
            let since = *since.get_or_insert(fetch.sent);
            refused_ns = refused_ns.max(fetch.ended.saturating_sub(since));
        } else {
            since = None;
        }
    }
    Felt {
        asked: fresh.len(),
        lost: fresh.iter().filter(|fetch| !served(fetch)).count(),
        stall_ms: longest(fresh.iter().map(|fetch| fetch.sent), from, 0),
        web: Some(Tcp {
            refused: fresh.iter().filter(|fetch| refused(fetch)).count(),
            refused_ms: ms(refused_ns),
            slow: fresh
                .iter()
                .filter(|fetch| fetch.ended - fetch.sent >= 500 * MS)
                .count(),
            resets: count(&kept, &Page::Reset) + count(&kept, &Page::Refused),
            hung: count(&kept, &Page::Lost),
            kept_outage_ms: longest(
                kept.iter().filter(served).map(|fetch| fetch.ended),
                from,
                to,
            ),
        }),
        ..felt
    }
}

/// Longest time between two instants, of those that end after `from`; and up to `to`, if nothing comes any more.
pub(crate) fn longest(instants: impl Iterator<Item = u64>, from: u64, to: u64) -> f64 {
    // Begun in the window and answered after it (a first packet that was lost): others were answered meanwhile.
    let mut instants: Vec<_> = instants.filter(|at| to == 0 || *at < to).collect();
    instants.sort_unstable();
    let mut last = instants.first().copied().unwrap_or(from);
    let mut longest = 0;
    for at in instants.into_iter().chain([to]) {
        if at > from {
            longest = longest.max(at.saturating_sub(last));
        }
        last = last.max(at);
    }
    ms(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_ends_within_the_window_or_with_it() {
        let at = |list: &'static [u64]| list.iter().map(|ms| ms * MS);
        assert_eq!(longest(at(&[10, 20, 90, 100]), 50 * MS, 110 * MS), 70.0);
        // Before the fault.
        assert_eq!(longest(at(&[10, 90, 100, 110]), 95 * MS, 120 * MS), 10.0);
        // One more, long after.
        assert_eq!(longest(at(&[10, 20, 30, 900]), 15 * MS, 40 * MS), 10.0);
        // Never again.
        assert_eq!(longest(at(&[10, 20]), 15 * MS, 500 * MS), 480.0);
        assert_eq!(longest(at(&[]), 15 * MS, 500 * MS), 485.0);
    }
}
