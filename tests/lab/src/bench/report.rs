//! From many runs to few figures.

use serde::Serialize;

use super::{
    Fault, Setting, System, announce::Announced, campaign::Failure, cost::Idle, machine::Machine,
    measure::One, xdp::XdpCost,
};

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

/// One system, one setting, one fault: an entry of `failover.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Who was measured.
    pub system: System,
    /// How it was set up.
    pub setting: Setting,
    /// What was done.
    pub fault: Fault,
    /// How often.
    pub runs: usize,
    /// How long the client went without, ms.
    pub outage_ms: Spread,
    /// The longest that two nodes answered for the VIP in one run, ms.
    pub dual_ms_max: f64,
    /// Changes of owner that nothing had caused.
    pub false_takeovers: usize,
    /// keepalived under load with real-time priority: beside the list, in `load.json`.
    #[serde(skip)]
    pub aside: bool,
    /// Runs in which nobody took over: their outage is as long as we watched.
    #[serde(skip)]
    pub not_taken: usize,
    /// Runs in which the prober itself stood still.
    #[serde(skip)]
    pub noisy: usize,
    /// The most that a client lost after it was served again, ms.
    #[serde(skip)]
    pub later_ms: f64,
}

/// Everything that was measured.
pub struct Results {
    pub(super) machine: Machine,
    pub(super) rows: Vec<Row>,
    pub(super) ones: Vec<One>,
    pub(super) idles: Vec<Idle>,
    pub(super) announced: Option<Announced>,
    pub(super) xdp: Option<XdpCost>,
    pub(super) failures: Vec<Failure>,
    /// Runs that were measured again because the prober stood still in them.
    pub(super) set_aside: usize,
    pub(super) seconds: f64,
}

/// One row for each setting and fault that was measured, in the order of a bench.
pub(super) fn rows(ones: &[One]) -> Vec<Row> {
    let mut rows = Vec::new();
    for setting in Setting::ALL {
        for fault in Fault::ALL {
            let of = |real_time: Option<bool>| {
                let fits = |one: &&One| {
                    let way = real_time.is_none_or(|way| one.real_time == way);
                    one.setting == setting && one.fault == fault && way
                };
                ones.iter().filter(fits).collect::<Vec<_>>()
            };
            let aside = setting.system() == System::Keepalived && fault == Fault::Load;
            if aside {
                rows.extend(row(setting, fault, &of(Some(false)), false));
                rows.extend(row(setting, fault, &of(Some(true)), true));
            } else {
                rows.extend(row(setting, fault, &of(None), false));
            }
        }
    }
    rows
}

fn row(setting: Setting, fault: Fault, ones: &[&One], aside: bool) -> Option<Row> {
    if ones.is_empty() {
        return None;
    }
    let outages: Vec<_> = ones.iter().map(|one| one.outage_ms).collect();
    Some(Row {
        system: setting.system(),
        setting,
        fault,
        runs: ones.len(),
        outage_ms: Spread::of(&outages),
        dual_ms_max: ones.iter().map(|one| one.dual_ms).fold(0.0, f64::max),
        false_takeovers: ones.iter().map(|one| one.false_takeovers).sum(),
        aside,
        not_taken: ones.iter().filter(|one| !one.taken_over).count(),
        noisy: ones.iter().filter(|one| one.prober_stalled).count(),
        later_ms: ones.iter().map(|one| one.later_ms).fold(0.0, f64::max),
    })
}

impl Results {
    /// The row of a setting and a fault, as in `failover.json`.
    pub(super) fn row(&self, setting: Setting, fault: Fault) -> Option<&Row> {
        let fits = |row: &&Row| row.setting == setting && row.fault == fault && !row.aside;
        self.rows.iter().find(fits)
    }

    /// How many times the median of Heartline as it comes (`lan`). None where the old owner went on beside the new
    /// one: that is no shorter outage. None where nothing is lost: there is nothing to divide by.
    pub(super) fn ratio(&self, row: &Row) -> Option<f64> {
        let both = row.dual_ms_max > 0.0 && row.fault != Fault::SilentCut;
        let counted = matches!(row.fault, Fault::Load | Fault::Heal);
        if row.setting == Setting::Lan || both || counted {
            return None;
        }
        let own = self.row(Setting::Lan, row.fault)?.outage_ms.median;
        (own > 0.0).then(|| row.outage_ms.median / own)
    }

    /// What a setting costs while nothing happens.
    pub(super) fn idle(&self, setting: Setting) -> Option<&Idle> {
        self.idles.iter().find(|idle| idle.setting == setting)
    }
}

/// For people: which tool, which setting.
pub(super) fn label(setting: Setting) -> String {
    match setting.system() {
        System::Heartline => format!("Heartline {}", setting.name()),
        System::Keepalived => format!("keepalived {}", setting.name()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn one(setting: Setting, fault: Fault, outage_ms: f64) -> One {
        One {
            setting,
            fault,
            real_time: true,
            outage_ms,
            later_ms: 0.0,
            dual_ms: 0.0,
            false_takeovers: 0,
            taken_over: true,
            watched_ms: 1000.0,
            prober_stalled: false,
            told: Vec::new(),
        }
    }

    pub(crate) fn results(ones: Vec<One>) -> Results {
        Results {
            machine: Machine::look(false),
            rows: rows(&ones),
            ones,
            idles: Vec::new(),
            announced: None,
            xdp: None,
            failures: Vec::new(),
            set_aside: 0,
            seconds: 1.0,
        }
    }

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
        let mut dual = one(Setting::Second, Fault::Sigstop, 0.1);
        dual.dual_ms = 1000.0;
        let all = results(vec![
            one(Setting::Lan, Fault::Move, 2.0),
            one(Setting::Lan, Fault::SilentCut, 50.0),
            one(Setting::Lan, Fault::Sigstop, 11.0),
            one(Setting::Tenth, Fault::SilentCut, 300.0),
            dual,
        ]);
        let of = |setting, fault| all.row(setting, fault).and_then(|row| all.ratio(row));
        assert_eq!(of(Setting::Tenth, Fault::SilentCut), Some(6.0));
        assert_eq!(of(Setting::Lan, Fault::SilentCut), None);
        let dual = of(Setting::Second, Fault::Sigstop);
        assert_eq!(dual, None, "two owners are no short outage");
    }

    #[test]
    fn an_entry_has_the_fields_that_were_promised() {
        let all = results(vec![one(Setting::Second, Fault::SilentCut, 3000.0)]);
        let json = serde_json::to_value(&all.rows).expect("JSON");
        let expected = serde_json::json!([{
            "system": "keepalived", "setting": "1 s", "fault": "silent cut", "runs": 1,
            "outage_ms": {"median": 3000.0, "p95": 3000.0, "max": 3000.0},
            "dual_ms_max": 0.0, "false_takeovers": 0
        }]);
        assert_eq!(json, expected);
    }

    #[test]
    fn real_time_keepalived_under_load_is_kept_aside() {
        let mut plain = one(Setting::Hundredth, Fault::Load, 5.0);
        plain.real_time = false;
        plain.false_takeovers = 9;
        let all = results(vec![plain, one(Setting::Hundredth, Fault::Load, 0.0)]);
        assert_eq!(all.rows.len(), 2);
        let row = all.row(Setting::Hundredth, Fault::Load).expect("a row");
        assert_eq!((row.runs, row.false_takeovers), (1, 9));
    }
}
