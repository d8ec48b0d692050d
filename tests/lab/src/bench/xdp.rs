//! What the programs at the driver cost for each packet, as the kernel counts it (`BPF_ENABLE_STATS`).

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use serde::Serialize;

use super::{
    Setting, heartline,
    measure::{Probes, calm},
};
use crate::interrupt::pass;

const QUIET: Duration = Duration::from_secs(10);
const BUSY: Duration = Duration::from_secs(5);
/// Echoes to the VIP while it is busy: 10 000 a second.
const ECHOES: Duration = Duration::from_micros(100);

/// What the kernel counted on the owner, ns of processor time for each run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct XdpCost {
    /// XDP, a heartbeat, an ack or a grant: checked, counted, answered.
    pub heartbeat_ns: f64,
    /// XDP, a packet to the VIP: through the gate.
    pub packet_in_ns: f64,
    /// TC, any packet that leaves; nearly all of them from the VIP.
    pub packet_out_ns: f64,
    /// Runs that these are taken from.
    pub runs: [u64; 3],
}

/// Runs so far and their time.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    runs: u64,
    ns: u64,
}

impl Count {
    fn since(self, before: Self) -> Self {
        Self {
            runs: self.runs.saturating_sub(before.runs),
            ns: self.ns.saturating_sub(before.ns),
        }
    }

    fn each(self) -> f64 {
        self.ns as f64 / self.runs.max(1) as f64
    }
}

/// Counts on the owner of a quiet cluster, then on the owner of a busy VIP.
pub(super) fn measure() -> Result<XdpCost> {
    let mut subject = heartline::raise(Setting::Lan)?;
    let owner = calm(&mut subject)?;
    let ids = programs(subject.xdp_program(&owner)?)?;
    // The cost of counting is in it: some 20 ns.
    let _counting =
        enable_stats(Stats::RunTime).context("the kernel does not count (BPF_ENABLE_STATS)")?;
    let (xdp, _) = count(ids)?;
    pass(QUIET)?;
    let quiet = count(ids)?.0.since(xdp);
    ensure!(
        quiet.runs > 100,
        "XDP ran {} times in {QUIET:?}",
        quiet.runs
    );

    let probes = Probes::start(&subject, ECHOES, BUSY * 4)?;
    let (xdp, out) = count(ids)?;
    pass(BUSY)?;
    let (xdp_after, out_after) = count(ids)?;
    let (busy, out) = (xdp_after.since(xdp), out_after.since(out));
    drop(probes);
    // Heartbeats went on at their pace.
    let share = BUSY.as_secs_f64() / QUIET.as_secs_f64();
    let beats = Count {
        runs: (quiet.runs as f64 * share) as u64,
        ns: (quiet.ns as f64 * share) as u64,
    };
    let packets = busy.since(beats);
    ensure!(
        packets.runs > 1000,
        "only {} packets to the VIP in {BUSY:?}",
        packets.runs
    );
    Ok(XdpCost {
        heartbeat_ns: quiet.each(),
        packet_in_ns: packets.each(),
        packet_out_ns: out.each(),
        runs: [quiet.runs, packets.runs, out.runs],
    })
}

/// The programs of one node: XDP and TC, by their ids in the kernel.
type Programs = (u32, u32);

/// The TC program that shares its tables with this XDP program.
fn programs(xdp: u32) -> Result<Programs> {
    let all: Vec<_> = loaded_programs().filter_map(Result::ok).collect();
    let maps = |id: u32| {
        let info = all.iter().find(|info| info.id() == id);
        info.and_then(|info| info.map_ids().ok().flatten())
            .unwrap_or_default()
    };
    let tables = maps(xdp);
    let egress = all.iter().find(|info| {
        // The kernel keeps 15 letters of a name.
        info.name().starts_with(b"heartline_egre")
            && maps(info.id()).iter().any(|map| tables.contains(map))
    });
    let egress = egress.context("no egress program beside the XDP program")?;
    Ok((xdp, egress.id()))
}

/// What the kernel counted for both programs.
fn count((xdp, out): Programs) -> Result<(Count, Count)> {
    let (mut in_, mut out_) = (None, None);
    for info in loaded_programs() {
        let Ok(info) = info else { continue };
        let id = info.id();
        if id != xdp && id != out {
            continue;
        }
        let fd = info.fd()?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|text| text.trim().parse().ok())
                .with_context(|| format!("no {key} for a BPF program"))
        };
        let count = Count {
            runs: number("run_cnt:")?,
            ns: number("run_time_ns:")?,
        };
        *(if id == xdp { &mut in_ } else { &mut out_ }) = Some(count);
    }
    in_.zip(out_).context("the programs are gone")
}
