//! All runs of one setting: some labs side by side take faults from one list. A lab in which something went wrong is
//! taken down and raised anew; what fails again is told, and left out of the figures.

use std::{collections::VecDeque, sync::Mutex};

use anyhow::{Context as _, Result};

use super::{
    Fault, Setting,
    layer::Layers,
    measure::{self, One},
    subject::{self, Subject},
};
use crate::{
    bench::{Failure, progress::Progress},
    clock::boot_ns,
    interrupt,
};

/// Attempts at one run.
const TRIES: usize = 2;
/// The clients of a lab have room for half an hour.
const OLD_NS: u64 = 20 * 60 * 1_000_000_000;
/// Until three machines are up and the cluster has come together, s.
pub(super) const RAISE: f64 = 12.0;

/// What is to be measured of one setting.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub setting: Setting,
    pub faults: Vec<Fault>,
    pub runs: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub ones: Vec<One>,
    pub failures: Vec<Failure>,
}

impl Plan {
    fn lanes(&self) -> usize {
        self.setting.lanes().min(self.runs * self.faults.len())
    }

    /// Seconds that it will take, roughly: for the time that is left.
    pub(super) fn estimate(&self) -> f64 {
        let each: f64 = self.faults.iter().map(|f| self.setting.estimate(*f)).sum();
        RAISE + each * self.runs as f64 / self.lanes().max(1) as f64
    }
}

#[derive(Debug)]
struct Shared {
    queue: VecDeque<Fault>,
    outcome: Outcome,
    done: usize,
}

/// Measures one setting.
///
/// # Errors
/// Ctrl-C.
pub(super) fn run(plan: &Plan, layers: &Layers, progress: &Progress) -> Result<Outcome> {
    // Each fault once, then all again: what the machine does meanwhile hits all alike.
    let queue = (0..plan.runs).flat_map(|_| plan.faults.iter().copied());
    let shared = Mutex::new(Shared {
        queue: queue.collect(),
        outcome: Outcome::default(),
        done: 0,
    });
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..plan.lanes())
            .map(|_| scope.spawn(|| lane(plan, layers, &shared, progress)))
            .collect();
        for lane in lanes {
            match lane.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(())
    })?;
    Ok(shared
        .into_inner()
        .unwrap_or_else(|e| e.into_inner())
        .outcome)
}

/// One lab, for as long as there is something to do. Its thread lives as long as the lab's processes.
fn lane(plan: &Plan, layers: &Layers, shared: &Mutex<Shared>, progress: &Progress) -> Result<()> {
    let mut subject: Option<Box<dyn Subject>> = None;
    loop {
        let next = lock(shared).queue.pop_front();
        let Some(fault) = next else { return Ok(()) };
        if subject
            .as_mut()
            .is_some_and(|subject| boot_ns() - subject.rig().since > OLD_NS)
        {
            subject = None;
        }
        let what = format!("{}, {}", plan.setting.label(), fault.name());
        let mut last = None;
        for _ in 0..TRIES {
            let result = attempt(&mut subject, plan.setting, layers, fault);
            interrupt::check()?;
            if let Err(error) = &result {
                progress.note(&format!("{what}: {error:#}"));
                // Its state is unknown: another lab for the next attempt.
                if let Some(kept) = subject.take().and_then(|mut bad| bad.rig().keep()) {
                    progress.note(&format!("journals are kept in {}", kept.display()));
                }
            }
            let good = result.is_ok();
            last = Some(result);
            if good {
                break;
            }
        }
        let mut shared = lock(shared);
        match last {
            Some(Ok(ones)) => shared.outcome.ones.extend(ones),
            Some(Err(error)) => shared.outcome.failures.push(Failure {
                what: what.clone(),
                why: format!("{error:#}"),
            }),
            None => {}
        }
        shared.done += 1;
        let all = plan.runs * plan.faults.len();
        progress.step(&what, shared.done, all, plan.estimate() / all as f64);
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    // A lane that panicked ends the run anyway.
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

fn attempt(
    subject: &mut Option<Box<dyn Subject>>,
    setting: Setting,
    layers: &Layers,
    fault: Fault,
) -> Result<Vec<One>> {
    let subject = match subject {
        Some(subject) => subject,
        None => {
            let raised = subject::raise(setting, layers).context("the lab does not come up")?;
            subject.insert(raised)
        }
    };
    measure::once(subject.as_mut(), setting, fault)
}
