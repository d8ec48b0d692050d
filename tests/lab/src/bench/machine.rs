//! Where and when this was measured.

use std::fs;

use serde::Serialize;

use super::keepalived;

/// Where and when.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Local date and time.
    pub date: String,
    /// Of the agent.
    pub heartline: String,
    /// Of keepalived, if it was measured.
    pub keepalived: Option<String>,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name, as far as the kernel tells.
    pub processor: String,
    /// Processors.
    pub processors: usize,
    /// MiB.
    pub memory_mib: u64,
    /// Of the last minute, before the bench began.
    pub load_average: f64,
    /// Processor time that a hypervisor gave to others while this was measured, ms.
    pub steal_ms: f64,
}

/// Stolen time since the machine came up, ms.
pub(crate) fn steal_ms() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    // cpu user nice system idle iowait irq softirq steal, in ticks
    let ticks = line.split_whitespace().nth(8);
    let ticks: f64 = ticks.and_then(|text| text.parse().ok()).unwrap_or(0.0);
    // SAFETY: a plain call that reads a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    ticks / per_second * 1e3
}

impl Machine {
    /// Asks the kernel.
    #[must_use]
    pub fn look(with_keepalived: bool) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |path: &str, key: &str| {
            let text = read(path);
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let value = line.map(|line| line.trim_start_matches([' ', '\t', ':']).trim());
            value.unwrap_or_default().to_owned()
        };
        let first = |text: &str| {
            text.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            date: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M %Z").to_string(),
            heartline: env!("CARGO_PKG_VERSION").to_owned(),
            keepalived: with_keepalived
                .then(|| keepalived::version().ok())
                .flatten()
                .map(|version| version.trim_start_matches('v').to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: value("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: first(&value("/proc/meminfo", "MemTotal"))
                .parse()
                .unwrap_or(0)
                / 1024,
            load_average: first(&read("/proc/loadavg")).parse().unwrap_or(0.0),
            steal_ms: 0.0,
        }
    }

    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let keepalived = self.keepalived.as_deref();
        let keepalived = keepalived.map_or(String::new(), |v| format!(", keepalived {v}"));
        format!(
            "{}: Heartline {}{keepalived}; {} processors ({}), {} GiB, kernel {}, network namespaces; load {} before",
            self.date,
            self.heartline,
            self.processors,
            if self.processor.is_empty() {
                "unknown"
            } else {
                &self.processor
            },
            self.memory_mib.div_ceil(1024),
            self.kernel,
            self.load_average
        )
    }
}
