//! What a system costs while nothing happens: processor time and memory, both asked of the kernel, the same way for
//! all.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    Setting, System,
    measure::{Probes, calm},
    subject::Subject,
};
use crate::{
    clock::{boot_ns, ms},
    interrupt::pass,
};

/// How long a system is watched while nothing happens.
pub(super) const IDLE: Duration = Duration::from_secs(20);

/// What a system costs while nothing happens, on the owner's node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// Who was measured.
    pub system: System,
    /// How it was set up.
    pub setting: Setting,
    /// For how long, s.
    pub seconds: f64,
    /// Processor time of its processes, per cent of one processor.
    pub cpu_percent: f64,
    /// How often its threads went to sleep, per second.
    pub sleeps_per_second: f64,
    /// Resident memory of its processes, MiB; what they share counts for each.
    pub rss_mib: f64,
    /// The same, what is shared divided by the number of its users.
    pub pss_mib: f64,
    /// Changes of owner in a moment before.
    pub false_takeovers: usize,
}

/// Watches a subject while nothing happens; no prober runs meanwhile.
pub(super) fn idle(subject: &mut dyn Subject) -> Result<Idle> {
    let owner = calm(subject)?;
    let probes = Probes::start(subject, Duration::from_millis(1), Duration::from_secs(5))?;
    pass(Duration::from_secs(2))?;
    let false_takeovers = probes.ownership(probes.from).changes();
    drop(probes);
    let pids = subject.processes(&owner)?;
    let ((cpu, sleeps), at) = (spent(&pids)?, boot_ns());
    pass(IDLE)?;
    let ((cpu_after, sleeps_after), end) = (spent(&pids)?, boot_ns());
    let seconds = ms(end - at) / 1e3;
    let (rss, pss) = memory(&pids)?;
    Ok(Idle {
        system: subject.setting().system(),
        setting: subject.setting(),
        seconds,
        cpu_percent: cpu_after.saturating_sub(cpu) as f64 / 1e9 / seconds * 100.0,
        sleeps_per_second: sleeps_after.saturating_sub(sleeps) as f64 / seconds,
        rss_mib: rss as f64 / 1024.0,
        pss_mib: pss as f64 / 1024.0,
        false_takeovers,
    })
}

/// Time on a processor (ns, sched_info of each thread) and voluntary switches.
fn spent(pids: &[u32]) -> Result<(u64, u64)> {
    let (mut time, mut sleeps) = (0, 0);
    for pid in pids {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the process is gone")?;
        for task in tasks {
            let task = task?.path();
            let text = fs::read_to_string(task.join("schedstat"))
                .context("this kernel does not tell the time of threads (CONFIG_SCHED_INFO)")?;
            time += number(text.split_whitespace().next());
            let status = fs::read_to_string(task.join("status"))?;
            sleeps += number(field(&status, "voluntary_ctxt_switches:"));
        }
    }
    Ok((time, sleeps))
}

/// RSS and PSS, KiB.
fn memory(pids: &[u32]) -> Result<(u64, u64)> {
    let (mut rss, mut pss) = (0, 0);
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        rss += number(field(&text, "Rss:"));
        pss += number(field(&text, "Pss:"));
    }
    Ok((rss, pss))
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_of_a_process_are_seen() {
        let own = [std::process::id()];
        let before = spent(&own).expect("own threads").0;
        let start = std::time::Instant::now();
        let mut x = 0_u64;
        while start.elapsed() < Duration::from_millis(30) {
            x = std::hint::black_box(x.wrapping_add(1));
        }
        // Threads of other tests count, too: at least.
        std::thread::sleep(Duration::from_millis(1));
        assert!(spent(&own).expect("own threads").0 > before);
        let (rss, pss) = memory(&own).expect("own memory");
        assert!(rss >= pss && pss > 100, "{rss} {pss}");
    }
}
