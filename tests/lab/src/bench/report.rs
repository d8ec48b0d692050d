//! From many runs to few figures.

use serde::Serialize;

use super::Fault;
use crate::paint::Paint;

/// What the others are compared with.
const OURS: &str = "profile lan";

/// Median, 95th percentile and maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the runs were no worse.
    pub median: f64,
    /// 19 of 20 were no worse (nearest rank).
    pub p95: f64,
    /// The worst.
    pub max: f64,
}

impl Spread {
    /// Of some figures; zeros of none.
    #[must_use]
    pub fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self {
            median: rank(0.5),
            p95: rank(0.95),
            max: rank(1.0),
        }
    }
}

/// One system, one setting, one fault.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Who was measured.
    pub system: &'static str,
    /// How it was set up.
    pub setting: String,
    /// What was done.
    pub fault: Fault,
    /// How often.
    pub runs: usize,
    /// How long the client went without, ms.
    pub outage_ms: Spread,
    /// The longest that two nodes answered for the VIP in one run, ms.
    pub dual_ms_max: f64,
    /// Changes of owner that nothing had caused, in the moments before the faults.
    pub false_takeovers: usize,
    /// Runs in which the prober itself stood still for more than 5 ms.
    pub noisy_runs: usize,
    /// Each run's outage, ms.
    pub outages_ms: Vec<f64>,
}

/// What a system costs while nothing happens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// Who was measured.
    pub system: &'static str,
    /// How it was set up.
    pub setting: String,
    /// For how long.
    pub seconds: f64,
    /// Processor time on the owner's node, per cent of one processor.
    pub cpu_percent: f64,
    /// Resident memory on the owner's node, MiB.
    pub rss_mb: f64,
    /// Changes of owner meanwhile.
    pub false_takeovers: usize,
}

/// All tables.
#[must_use]
pub fn tables(rows: &[Row], idles: &[Idle], paint: Paint) -> String {
    let mut text = format!(
        "\n{}\n{}\n",
        paint.bold("What a fault of the owner costs the client, ms"),
        paint.dim(format!(
            "{:<34} {:<13} {:>4} {:>9} {:>9} {:>9} {:>11}  {}",
            "system", "fault", "runs", "median", "p95", "max", "two owners", "of lan's median"
        ))
    );
    for row in rows {
        let Spread { median, p95, max } = row.outage_ms;
        let name = format!("{} {}", row.system, row.setting);
        let dual = format!("{:>11.0}", row.dual_ms_max);
        let dual = if row.dual_ms_max > 0.0 {
            paint.bad(dual)
        } else {
            paint.good(dual)
        };
        text += &format!(
            "{name:<34} {:<13} {:>4} {median:>9.2} {p95:>9.2} {max:>9.2} {dual}  {}",
            row.fault.name(),
            row.runs,
            ratio(row, rows).unwrap_or_default()
        );
        if row.noisy_runs > 0 {
            text += &paint.dim(format!("  (prober stood still in {} runs)", row.noisy_runs));
        }
        if row.false_takeovers > 0 {
            text += &paint.warn(format!("  ({} false takeovers)", row.false_takeovers));
        }
        text.push('\n');
    }
    text += &paint.dim(
        "Two owners: measured by a station that no cut touches, until one second after the takeover;\n\
         where it lasts that long, it lasts until somebody intervenes. A planned move of keepalived\n\
         is a clean stop of the owner. A frozen or killed keepalived goes on answering: no outage,\n\
         two owners.\n",
    );
    text += &format!(
        "\n{}\n{}\n",
        paint.bold("What it costs while nothing happens, on the owner's node"),
        paint.dim(format!(
            "{:<34} {:>8} {:>9} {:>16}",
            "system", "CPU %", "RSS MiB", "false takeovers"
        ))
    );
    for idle in idles {
        text += &format!(
            "{:<34} {:>8.2} {:>9.1} {:>16}\n",
            format!("{} {}", idle.system, idle.setting),
            idle.cpu_percent,
            idle.rss_mb,
            idle.false_takeovers
        );
    }
    text
}

/// How many times the median of Heartline as it comes (profile `lan`), for the others. None where
/// the old owner went on beside the new one: that is no shorter outage.
fn ratio(row: &Row, rows: &[Row]) -> Option<String> {
    let is_ours = |row: &Row| row.system == "heartline" && row.setting == OURS;
    let both = row.dual_ms_max > 0.0 && row.fault != Fault::SilentCut;
    if is_ours(row) || both {
        return None;
    }
    let own = rows
        .iter()
        .find(|own| is_ours(own) && own.fault == row.fault)?;
    let own = own.outage_ms.median;
    (own > 0.0).then(|| format!("x {:.2}", row.outage_ms.median / own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_what_was_seen() {
        let many: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let seen = Spread::of(&many);
        assert_eq!((seen.median, seen.p95, seen.max), (10.0, 19.0, 20.0));
        let one = Spread::of(&[7.0]);
        assert_eq!((one.median, one.p95, one.max), (7.0, 7.0, 7.0));
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn ratios_are_of_the_same_fault() {
        let row = |system, fault, median| Row {
            system,
            setting: if system == "heartline" {
                OURS.into()
            } else {
                String::new()
            },
            fault,
            runs: 1,
            outage_ms: Spread {
                median,
                ..Spread::default()
            },
            dual_ms_max: 0.0,
            false_takeovers: 0,
            noisy_runs: 0,
            outages_ms: Vec::new(),
        };
        let rows = [
            row("heartline", Fault::Move, 2.0),
            row("heartline", Fault::SilentCut, 50.0),
            row("keepalived", Fault::SilentCut, 300.0),
        ];
        assert_eq!(ratio(&rows[2], &rows).as_deref(), Some("x 6.00"));
        assert_eq!(ratio(&rows[1], &rows), None);
        let mut both = row("keepalived", Fault::Move, 0.1);
        both.dual_ms_max = 1000.0;
        assert_eq!(ratio(&both, &rows), None, "two owners are no short outage");
    }
}
