//! From many runs to few figures.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Fault, Setting, System, measure::One};
use crate::{
    bench::{Failure, Machine, Spread},
    provider::rig::Service,
};

/// One system, one setting, one fault: an entry of `services.json`.
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
    /// How long clients went without, ms, of all services and runs. Nothing lost: 10 (web: 20).
    pub outage_ms: Spread,
    /// The same for each service.
    pub services: BTreeMap<&'static str, Spread>,
    /// Requests that were never answered well, per service and run.
    pub lost: Spread,
    /// How many times the median of Heartline. Not where two nodes answered at once: that is no shorter outage.
    pub ratio: Option<f64>,
    /// The longest that two nodes answered for one VIP in one run, ms; until 1 s after the takeover.
    pub dual_ms_max: f64,
    /// Of services times runs: those that no other node took over while we watched.
    pub not_taken: usize,
    /// The longest that a client went without while all was mended, ms.
    pub mended_ms: Spread,
    /// Of services times runs: those whose client itself stood still.
    pub noisy: usize,
}

impl Row {
    /// Whether two owners were seen that can mislead a client: a node that was cut off is heard only by the one station
    /// that no cut touches.
    #[must_use]
    pub fn dual(&self) -> bool {
        self.dual_ms_max > 0.0 && self.fault != Fault::Cut
    }
}

/// Everything that was measured.
pub(super) struct Results {
    pub machine: Machine,
    /// Versions of the peers that were measured.
    pub peers: Vec<String>,
    pub rows: Vec<Row>,
    pub ones: Vec<One>,
    pub failures: Vec<Failure>,
    pub seconds: f64,
}

impl Results {
    /// The row of a setting and a fault.
    pub fn row(&self, setting: Setting, fault: Fault) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.setting == setting && row.fault == fault)
    }

    /// Where and when, in one line.
    pub fn line(&self) -> String {
        let mut line = self.machine.line();
        for peer in &self.peers {
            line += &format!("; {peer}");
        }
        line
    }
}

/// One row for each setting and fault that was measured, in the order of a bench.
pub(super) fn rows(ones: &[One]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for setting in Setting::ALL {
        for fault in Fault::ALL {
            let fits = |one: &&One| one.setting == setting && one.fault == fault;
            let of: Vec<_> = ones.iter().filter(fits).collect();
            rows.extend(row(setting, fault, &of));
        }
    }
    let own = |fault: Fault| {
        let own = |row: &&Row| row.setting == Setting::Lan && row.fault == fault;
        rows.iter().find(own).map(|row| row.outage_ms.median)
    };
    let ratios: Vec<_> = rows
        .iter()
        .map(|row| {
            let own = own(row.fault).filter(|own| *own > 0.0 && !row.dual())?;
            (row.setting != Setting::Lan).then_some(row.outage_ms.median / own)
        })
        .collect();
    for (row, ratio) in rows.iter_mut().zip(ratios) {
        row.ratio = ratio;
    }
    rows
}

fn row(setting: Setting, fault: Fault, ones: &[&One]) -> Option<Row> {
    if ones.is_empty() {
        return None;
    }
    let spread = |of: &dyn Fn(&One) -> f64| {
        let figures: Vec<_> = ones.iter().map(|one| of(one)).collect();
        Spread::of(&figures)
    };
    let services = Service::ALL.into_iter().map(|service| {
        let own = ones.iter().filter(|one| one.service == service);
        let figures: Vec<_> = own.map(|one| one.outage_ms).collect();
        (service.group(), Spread::of(&figures))
    });
    Some(Row {
        system: setting.system(),
        setting,
        fault,
        runs: ones.len() / Service::ALL.len(),
        outage_ms: spread(&|one| one.outage_ms),
        services: services.collect(),
        lost: spread(&|one| one.lost as f64),
        ratio: None,
        dual_ms_max: ones.iter().map(|one| one.dual_ms).fold(0.0, f64::max),
        not_taken: ones.iter().filter(|one| !one.taken_over).count(),
        mended_ms: spread(&|one| one.mended_ms),
        noisy: ones.iter().filter(|one| one.client_stalled).count(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn ones(setting: Setting, fault: Fault, outages: [f64; 4]) -> Vec<One> {
        let one = |(service, outage_ms)| One {
            setting,
            fault,
            service,
            outage_ms,
            asked: 100,
            lost: 3,
            dual_ms: 0.0,
            taken_over: true,
            mended_ms: 10.0,
            client_stalled: false,
        };
        Service::ALL.into_iter().zip(outages).map(one).collect()
    }

    pub(crate) fn results(ones: Vec<One>) -> Results {
        Results {
            machine: Machine::look(false),
            peers: vec!["keepalived 2.2.7".into()],
            rows: rows(&ones),
            ones,
            failures: Vec::new(),
            seconds: 1.0,
        }
    }

    #[test]
    fn a_row_has_all_services_and_a_ratio_to_heartline() {
        let mut all = ones(Setting::Lan, Fault::Cut, [50.0, 50.0, 60.0, 50.0]);
        all.extend(ones(
            Setting::Second,
            Fault::Cut,
            [3000.0, 3000.0, 3200.0, 3000.0],
        ));
        let all = results(all);
        let row = all.row(Setting::Second, Fault::Cut).expect("a row");
        assert_eq!((row.runs, row.ratio), (1, Some(60.0)));
        assert_eq!(row.services.get("web").map(|s| s.max), Some(3200.0));
        assert_eq!(
            all.row(Setting::Lan, Fault::Cut).and_then(|r| r.ratio),
            None
        );
    }

    #[test]
    fn two_owners_are_no_short_outage() {
        for (fault, ratio) in [(Fault::Freeze, None), (Fault::Cut, Some(1.0))] {
            let mut all = ones(Setting::Lan, fault, [50.0; 4]);
            let mut two = ones(Setting::Second, fault, [50.0; 4]);
            two.iter_mut().for_each(|one| one.dual_ms = 900.0);
            all.extend(two);
            let all = results(all);
            let row = all.row(Setting::Second, fault).expect("a row");
            assert_eq!(row.ratio, ratio, "{fault:?}");
        }
    }
}
