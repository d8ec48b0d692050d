//! All runs of one setting: some labs side by side take jobs from one list. A lab in which something went wrong is
//! taken down and raised anew; what fails again is told, and left out of the figures. A run in which the prober itself
//! stood still tells of the machine: it is set aside, counted, and measured again, whichever system it was of.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
};

use anyhow::{Context as _, Result};

use super::{
    Fault, Setting, System, heartline, keepalived,
    measure::{self, One},
    progress::Progress,
    subject::Subject,
};
use crate::interrupt;

/// Attempts at one run.
const TRIES: usize = 2;
/// Times that one run is set aside because the machine stood still; the next one counts as it is.
pub(super) const SET_ASIDE: usize = 2;

/// What is to be measured of one setting.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub setting: Setting,
    pub faults: Vec<Fault>,
    pub runs: usize,
}

/// A run that could not be measured.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Failure {
    /// What was to be measured.
    pub what: String,
    /// Why it was not.
    pub why: String,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub ones: Vec<One>,
    pub failures: Vec<Failure>,
    /// Runs that were measured again because the machine stood still.
    pub set_aside: usize,
}

impl Plan {
    /// Runs of a fault. Heals are many: what they show is rare.
    pub(super) fn runs(&self, fault: Fault) -> usize {
        match (fault, self.setting.system()) {
            (Fault::Heal, System::Heartline) => self.runs * 2,
            _ => self.runs,
        }
    }

    /// Faults to do, each so many times. A heal needs a cut: one run gives the figures of both.
    pub(super) fn jobs(&self) -> Vec<(Fault, usize)> {
        let wants = |fault| self.faults.contains(&fault);
        let mut jobs = Vec::new();
        for fault in Fault::ALL {
            match fault {
                Fault::SilentCut if wants(Fault::Heal) => {}
                Fault::Load => {}
                _ if wants(fault) => jobs.push((fault, self.runs(fault))),
                _ => {}
            }
        }
        jobs
    }

    fn lanes(&self) -> usize {
        self.setting.lanes().min(self.runs)
    }

    /// Seconds that it will take, roughly: for the time that is left.
    pub(super) fn estimate(&self, fault: Fault) -> f64 {
        let interval = self.setting.interval_ms() as f64 / 1e3;
        let ours = self.setting.system() == System::Heartline;
        if fault == Fault::Load {
            let both = if self.setting == Setting::Hundredth {
                2.0
            } else {
                1.0
            };
            return both * (measure::LOAD.as_secs_f64() + 4.0);
        }
        let detect = if ours { 0.1 } else { 3.6 * interval };
        let mut each = 1.9 + detect + interval * if ours { 0.5 } else { 4.5 };
        if fault == Fault::Heal {
            each += 0.9 + interval * 4.0 + if ours { 0.0 } else { 2.0 };
        }
        each * self.runs(fault) as f64 / self.lanes() as f64
    }
}

fn raise(setting: Setting, real_time: bool) -> Result<Box<dyn Subject>> {
    Ok(match setting.system() {
        System::Heartline => Box::new(heartline::raise(setting)?),
        System::Keepalived => Box::new(keepalived::raise(setting, real_time)?),
    })
}

/// Measures one setting.
///
/// # Errors
/// Ctrl-C.
pub(super) fn run(plan: &Plan, progress: &Progress) -> Result<Outcome> {
    let jobs = plan.jobs();
    let queue: VecDeque<Fault> = jobs
        .iter()
        .flat_map(|(fault, runs)| std::iter::repeat_n(*fault, *runs))
        .collect();
    let left: BTreeMap<Fault, usize> = jobs.iter().copied().collect();
    let shared = Mutex::new(Shared {
        queue,
        left,
        outcome: Outcome::default(),
    });
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..if jobs.is_empty() { 0 } else { plan.lanes() })
            .map(|_| scope.spawn(|| lane(plan, &shared, progress)))
            .collect();
        for lane in lanes {
            match lane.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    let mut outcome = shared
        .into_inner()
        .unwrap_or_else(|e| e.into_inner())
        .outcome;
    if plan.faults.contains(&Fault::Load) {
        load(plan, &mut outcome, progress)?;
    }
    // A cut that was made for its heal only is no result of its own.
    outcome.ones.retain(|one| plan.faults.contains(&one.fault));
    Ok(outcome)
}

struct Shared {
    queue: VecDeque<Fault>,
    left: BTreeMap<Fault, usize>,
    outcome: Outcome,
}

/// One lab, for as long as there is something to do. Its thread lives as long as the lab's processes.
fn lane(plan: &Plan, shared: &Mutex<Shared>, progress: &Progress) -> Result<()> {
    let name = |fault: Fault| {
        format!(
            "{} {}, {}",
            plan.setting.system().name(),
            plan.setting.name(),
            fault.name()
        )
    };
    let mut subject: Option<Box<dyn Subject>> = None;
    loop {
        let next = lock(shared).queue.pop_front();
        let Some(fault) = next else { return Ok(()) };
        let mut last = None;
        let (mut tries, mut set_aside) = (0, 0);
        while tries < TRIES {
            let result = attempt(&mut subject, plan.setting, fault);
            interrupt::check()?;
            if set_aside < SET_ASIDE && result.as_ref().is_ok_and(says_nothing) {
                set_aside += 1;
                continue;
            }
            tries += 1;
            last = Some(result);
            if matches!(last, Some(Ok(_))) {
                break;
            }
            // Its state is unknown: another lab for the next attempt.
            if let (Some(mut bad), Some(Err(error))) = (subject.take(), &last) {
                progress.note(&format!(
                    "{}: {error:#}; once more in a new lab",
                    name(fault)
                ));
                bad.keep();
            }
        }
        let mut shared = lock(shared);
        shared.outcome.set_aside += set_aside;
        match last {
            Some(Ok((one, healed))) => {
                if fault == Fault::Heal {
                    // The cut that came before it.
                    shared.outcome.ones.push(One {
                        fault: Fault::SilentCut,
                        ..one
                    });
                    shared.outcome.ones.extend(healed);
                } else {
                    shared.outcome.ones.push(one);
                }
            }
            Some(Err(error)) => shared.outcome.failures.push(Failure {
                what: name(fault),
                why: format!("{error:#}"),
            }),
            None => {}
        }
        let left = shared.left.entry(fault).or_default();
        *left = left.saturating_sub(1);
        let runs = plan.runs(fault);
        progress.step(
            &name(fault),
            runs - *left,
            runs,
            plan.estimate(fault) / runs as f64,
        );
    }
}

/// Did the prober stand still in it? Two owners are never set aside.
fn says_nothing((one, healed): &(One, Option<One>)) -> bool {
    let both = || std::iter::once(one).chain(healed);
    both().any(|one| one.prober_stalled) && both().all(|one| one.dual_ms == 0.0)
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    // A lane that panicked ends the run anyway.
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

fn attempt(
    subject: &mut Option<Box<dyn Subject>>,
    setting: Setting,
    fault: Fault,
) -> Result<(One, Option<One>)> {
    let subject = match subject {
        Some(subject) => subject,
        None => subject.insert(raise(setting, true).context("the lab does not come up")?),
    };
    measure::once(subject.as_mut(), fault)
}

/// The machine is loaded as a whole, so there is one lab at a time.
fn load(plan: &Plan, outcome: &mut Outcome, progress: &Progress) -> Result<()> {
    // keepalived as the package comes; its fastest with real-time priority, too.
    let ways: &[bool] = match plan.setting {
        Setting::Lan | Setting::Fast => &[true],
        Setting::Second | Setting::Tenth => &[false],
        Setting::Hundredth => &[false, true],
    };
    for real_time in ways {
        let what = format!(
            "{} {}, load{}",
            plan.setting.system().name(),
            plan.setting.name(),
            if ways.len() > 1 && *real_time {
                " (real-time priority)"
            } else {
                ""
            }
        );
        let share = plan.estimate(Fault::Load) / ways.len() as f64;
        let mut done = 0.0;
        let result = raise(plan.setting, *real_time).and_then(|mut subject| {
            let result = measure::load(subject.as_mut(), plan.runs, *real_time, |part| {
                progress.part(&what, part, share * (part - done));
                done = part;
            });
            if result.is_err() && interrupt::caught().is_none() {
                subject.keep();
            }
            result
        });
        interrupt::check()?;
        match result {
            Ok(slices) => outcome.ones.extend(slices),
            Err(error) => outcome.failures.push(Failure {
                what,
                why: format!("{error:#}"),
            }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heal_brings_its_cut() {
        let plan = |setting, faults: &[Fault]| Plan {
            setting,
            faults: faults.to_vec(),
            runs: 10,
        };
        let both = [Fault::SilentCut, Fault::Heal, Fault::Move, Fault::Load];
        let jobs = plan(Setting::Lan, &both).jobs();
        assert_eq!(jobs, [(Fault::Heal, 20), (Fault::Move, 10)]);
        let jobs = plan(Setting::Second, &both).jobs();
        assert_eq!(jobs, [(Fault::Heal, 10), (Fault::Move, 10)]);
        let jobs = plan(Setting::Lan, &[Fault::SilentCut]).jobs();
        assert_eq!(jobs, [(Fault::SilentCut, 10)]);
    }

    #[test]
    fn a_run_of_a_machine_that_stood_still_is_set_aside_but_never_two_owners() {
        let one = |stalled, dual_ms| One {
            prober_stalled: stalled,
            dual_ms,
            ..super::super::report::tests::one(Setting::Lan, Fault::Heal, 0.0)
        };
        assert!(!says_nothing(&(one(false, 0.0), None)));
        assert!(says_nothing(&(one(true, 0.0), None)));
        assert!(says_nothing(&(one(false, 0.0), Some(one(true, 0.0)))));
        assert!(!says_nothing(&(one(true, 2.0), None)));
        assert!(!says_nothing(&(one(true, 0.0), Some(one(false, 2.0)))));
    }

    #[test]
    fn a_default_bench_is_shorter_than_twenty_minutes() {
        let seconds: f64 = Setting::ALL
            .into_iter()
            .map(|setting| {
                let plan = Plan {
                    setting,
                    faults: Fault::ALL.to_vec(),
                    runs: 10,
                };
                let jobs = plan.jobs();
                let faults = jobs.iter().map(|(fault, _)| plan.estimate(*fault));
                faults.sum::<f64>() + plan.estimate(Fault::Load)
            })
            .sum();
        // The rest is for what else is measured.
        assert!(seconds < 17.5 * 60.0, "{seconds} s");
    }
}
