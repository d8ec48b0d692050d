//! What was to be reached, and whether it was.

use serde::Serialize;

use super::{Fault, Setting, System, report::Results};

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Held,
    /// No.
    Missed,
    /// Not all of it was measured in this run.
    NotMeasured,
}

/// One target.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// What was to be reached.
    pub what: String,
    /// Whether it was.
    pub verdict: Verdict,
    /// The figures.
    pub seen: String,
}

fn target(what: &str, seen: Option<(bool, String)>) -> Target {
    let (verdict, seen) = match seen {
        Some((true, seen)) => (Verdict::Held, seen),
        Some((false, seen)) => (Verdict::Missed, seen),
        None => (Verdict::NotMeasured, String::new()),
    };
    Target {
        what: what.to_owned(),
        verdict,
        seen,
    }
}

/// Runs of heals that show something.
const HEALS: usize = 20;

/// All targets.
#[must_use]
pub fn all(results: &Results) -> Vec<Target> {
    let cut = |setting| {
        let row = results.row(setting, Fault::SilentCut)?;
        Some(row.outage_ms)
    };
    let two = |a: Setting, b: Setting| cut(a).zip(cut(b));
    let mut targets = vec![
        target(
            "silent cut, `fast`: median at most a quarter of keepalived's fastest",
            two(Setting::Fast, Setting::Hundredth).map(|(own, peer)| {
                let seen = format!("{:.2} of {:.2} ms", own.median, peer.median);
                (own.median <= peer.median / 4.0, seen)
            }),
        ),
        target(
            "silent cut, `fast`: maximum at most half of keepalived's fastest",
            two(Setting::Fast, Setting::Hundredth).map(|(own, peer)| {
                let seen = format!("{:.2} of {:.2} ms", own.max, peer.max);
                (own.max <= peer.max / 2.0, seen)
            }),
        ),
        target(
            "silent cut, `lan`: median at most a fiftieth of keepalived's default",
            two(Setting::Lan, Setting::Second).map(|(own, peer)| {
                let seen = format!("{:.2} of {:.0} ms", own.median, peer.median);
                (own.median <= peer.median / 50.0, seen)
            }),
        ),
        target(
            "two owners: 0 ms in every run of every fault",
            dual(results),
        ),
    ];
    for setting in [Setting::Lan, Setting::Fast] {
        targets.push(target(
            &format!(
                "planned move, `{}`: median gap at most 1 ms",
                setting.name()
            ),
            results.row(setting, Fault::Move).map(|row| {
                let median = row.outage_ms.median;
                (median <= 1.0, format!("{median:.2} ms"))
            }),
        ));
    }
    targets.push(target(
        "60 s of load, `lan`: no false takeover",
        results.row(Setting::Lan, Fault::Load).map(|row| {
            let n = row.false_takeovers;
            (n == 0, format!("{n}"))
        }),
    ));
    for (setting, takeover) in [(Setting::Lan, 50.0), (Setting::Fast, 6.0)] {
        targets.push(target(
            &format!(
                "heals, `{}`: no black hole (longer than a takeover, {takeover:.0} ms) in {HEALS}",
                setting.name()
            ),
            results
                .row(setting, Fault::Heal)
                .filter(|row| row.runs >= HEALS)
                .map(|row| {
                    let max = row.outage_ms.max;
                    (
                        max <= takeover,
                        format!("{max:.1} ms at most, {} heals", row.runs),
                    )
                }),
        ));
    }
    targets.push(target(
        "1000 addresses of one group: announced within 20 ms",
        results.announced.as_ref().map(|seen| {
            let max = seen.span_ms.iter().copied().fold(0.0, f64::max);
            (
                max <= 20.0,
                format!("{max:.1} ms at most in {} moves", seen.span_ms.len()),
            )
        }),
    ));
    let idle = results
        .idle(Setting::Lan)
        .zip(results.idle(Setting::Hundredth));
    targets.push(target(
        "idle, `lan`: no more processor time than keepalived's fastest",
        idle.map(|(own, peer)| {
            let seen = format!("{:.2} of {:.2} %", own.cpu_percent, peer.cpu_percent);
            (own.cpu_percent <= peer.cpu_percent, seen)
        }),
    ));
    targets.push(target(
        "idle, `lan`: no more resident memory than keepalived's fastest",
        idle.map(|(own, peer)| {
            let seen = format!("{:.1} of {:.1} MiB", own.rss_mib, peer.rss_mib);
            (own.rss_mib <= peer.rss_mib, seen)
        }),
    ));
    targets
}

/// Held only if every fault of both profiles was measured.
fn dual(results: &Results) -> Option<(bool, String)> {
    let own: Vec<_> = results
        .rows
        .iter()
        .filter(|row| row.system == System::Heartline)
        .collect();
    let max = own.iter().map(|row| row.dual_ms_max).fold(0.0, f64::max);
    let runs: usize = own.iter().map(|row| row.runs).sum();
    let seen = format!("{max:.0} ms at most in {runs} runs");
    if max > 0.0 {
        return Some((false, seen));
    }
    (own.len() == 2 * Fault::ALL.len()).then_some((true, seen))
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{one, results},
        *,
    };

    fn verdicts(all: &Results, part: &str) -> Vec<Verdict> {
        let targets = super::all(all);
        let fits = targets.iter().filter(|target| target.what.contains(part));
        fits.map(|target| target.verdict).collect()
    }

    #[test]
    fn targets_are_held_missed_or_not_measured() {
        let mut ones = vec![
            one(Setting::Fast, Fault::SilentCut, 7.0),
            one(Setting::Hundredth, Fault::SilentCut, 32.0),
            one(Setting::Lan, Fault::SilentCut, 45.0),
            one(Setting::Lan, Fault::Move, 1.5),
        ];
        let all = results(ones.clone());
        assert_eq!(verdicts(&all, "quarter"), [Verdict::Held]);
        assert_eq!(verdicts(&all, "half"), [Verdict::Held]);
        assert_eq!(verdicts(&all, "fiftieth"), [Verdict::NotMeasured]);
        assert_eq!(verdicts(&all, "move, `lan`"), [Verdict::Missed]);
        // Nothing was seen, but not all was looked at.
        assert_eq!(verdicts(&all, "two owners"), [Verdict::NotMeasured]);
        if let Some(first) = ones.first_mut() {
            first.dual_ms = 2.0;
            first.outage_ms = 17.0;
        }
        let all = results(ones);
        assert_eq!(verdicts(&all, "two owners"), [Verdict::Missed]);
        assert_eq!(verdicts(&all, "half"), [Verdict::Missed]);
    }

    #[test]
    fn too_few_heals_show_nothing() {
        let few = results(vec![one(Setting::Lan, Fault::Heal, 0.0); 19]);
        assert_eq!(verdicts(&few, "heals, `lan`"), [Verdict::NotMeasured]);
        let enough = results(vec![one(Setting::Lan, Fault::Heal, 0.0); 20]);
        assert_eq!(verdicts(&enough, "heals, `lan`"), [Verdict::Held]);
    }
}
