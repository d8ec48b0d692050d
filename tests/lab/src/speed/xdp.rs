//! `bench xdp`: what the XDP and TC programs cost per packet, run by the kernel (BPF_PROG_TEST_RUN) on made-up frames.
//!
//! What can be repeated in place (refusals, the gate, acks) is: the kernel's mean over a batch. A heartbeat is an ack
//! afterwards, so that one is run once per frame and taken from the kernel's own statistics (BPF_ENABLE_STATS), less what
//! they show for a program that does nothing. Of several batches the median counts: the machine has other things to do.

use std::os::fd::{AsFd as _, AsRawFd as _};

use agent_common::{
    Set,
    keys::Keys,
    siphash::{Key, siphash24},
    wire::{Message, flags},
};
use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, EbpfLoader, maps::Array, programs::Xdp};
use heartline_bpf_tests::{
    Action, KEY, Rig, StatsGuard, boot_ns, consts::*, datagram, frame, program_stats,
    run as test_run,
};
use serde::Serialize;

use crate::{agent::ensure_bpffs, interrupt, paint::Paint, switch::OBJECT};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Batches of each measurement; their median counts
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batches: u32,
    /// Packets of a batch
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    packets: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One measurement, ns per packet.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Short stable name.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// Median of the batches.
    pub median_ns: f64,
    /// The fastest batch: the least disturbed one.
    pub min_ns: f64,
    /// The slowest.
    pub max_ns: f64,
}

/// Everything, as in `xdp.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: String,
    /// Batches, and packets of each.
    pub batches: u32,
    /// Packets of a batch.
    pub packets: u32,
    /// The measurements.
    pub costs: Vec<Cost>,
    /// Verify and sign: ours as a part of the naive one's time (medians).
    pub sip_ratio: f64,
    /// A whole heartbeat of version 2 (verify, promise, sign, turn around) as a part of the naive verify and sign.
    pub heartbeat_ratio: f64,
}

struct Bench<'a> {
    options: &'a Options,
    costs: Vec<Cost>,
}

impl Bench<'_> {
    fn add(
        &mut self,
        name: &'static str,
        what: &'static str,
        mut one: impl FnMut() -> Result<f64>,
    ) -> Result<f64> {
        // Warm: code, tables and branch predictors.
        one()?;
        let mut all = Vec::new();
        for _ in 0..self.options.batches {
            interrupt::check()?;
            all.push(one()?);
        }
        all.sort_by(f64::total_cmp);
        let (min_ns, max_ns) = (all[0], all[all.len() - 1]);
        let median_ns = all[all.len() / 2];
        self.costs.push(Cost {
            name,
            what,
            median_ns,
            min_ns,
            max_ns,
        });
        Ok(median_ns)
    }
}

/// The lab's programs for comparison.
struct Sip(Ebpf);

impl Sip {
    fn load() -> Result<Sip> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        let mut keys: Array<_, [u64; 2]> =
            Array::try_from(ebpf.map_mut("LAB_KEY").context("no map LAB_KEY")?)?;
        keys.set(0, [1, 2], 0)?;
        for name in ["lab_naive", "lab_alike", "lab_nothing"] {
            let program: &mut Xdp = ebpf
                .program_mut(name)
                .with_context(|| format!("no program {name}"))?
                .try_into()?;
            program.load()?;
        }
        Ok(Sip(ebpf))
    }

    fn fd(&self, name: &str) -> Result<i32> {
        let program: &Xdp = self
            .0
            .program(name)
            .with_context(|| format!("no program {name}"))?
            .try_into()?;
        Ok(program.fd()?.as_fd().as_raw_fd())
    }
}

/// The frame that they verify.
fn sip_frame() -> Vec<u8> {
    let words: [u64; 13] = std::array::from_fn(|i| i as u64 * 0x0123_4567_89ab);
    let mac = siphash24(Key(1, 2), &words);
    let mut payload: Vec<u8> = words
        .iter()
        .chain([&mac])
        .flat_map(|w| w.to_le_bytes())
        .collect();
    payload.extend([0; 8]);
    datagram(&payload, false)
}

/// Measures, prints and writes `xdp.json`.
///
/// # Errors
/// Not root, the kernel refuses, or Ctrl-C.
pub fn run(options: &Options) -> Result<()> {
    ensure_bpffs()?;
    let report = measure(options)?;
    let path = super::save("xdp.json", &report)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let paint = Paint::for_stdout();
    println!(
        "{} ({} batches of {})",
        paint.bold("ns per packet"),
        report.batches,
        report.packets
    );
    println!("{:<58}{:>8}{:>8}{:>8}", "", "median", "min", "max");
    for c in &report.costs {
        println!(
            "{:<58}{:>8.0}{:>8.0}{:>8.0}",
            c.what, c.median_ns, c.min_ns, c.max_ns
        );
    }
    println!(
        "verify and sign takes {:.2} of the naive time, a whole heartbeat {:.2} of it\n{}\nwritten to {}",
        report.sip_ratio,
        report.heartbeat_ratio,
        paint.dim(&report.machine),
        path.display()
    );
    Ok(())
}

fn measure(options: &Options) -> Result<Report> {
    let n = options.packets;
    let mut b = Bench {
        options,
        costs: Vec::new(),
    };
    let sip = Sip::load()?;
    let good = sip_frame();
    let sip_cost = |b: &mut Bench<'_>, name, what, program| {
        let fd = sip.fd(program)?;
        b.add(name, what, || {
            let r = test_run(fd, &good, Some(1), n)?;
            ensure!(r.retval == 3, "{program}: not verified ({})", r.retval);
            Ok(f64::from(r.duration_ns))
        })
    };
    let naive = sip_cost(
        &mut b,
        "naive_verify_sign",
        "naive: verify 104 bytes and sign 104",
        "lab_naive",
    )?;
    let alike = sip_cost(
        &mut b,
        "verify_sign",
        "ours: verify 104 bytes and sign 80",
        "lab_alike",
    )?;

    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    let nothing = sip.fd("lab_nothing")?;
    let mut heartbeat = 0.0;
    for (name, what, version, v6) in [
        (
            "heartbeat",
            "heartbeat: verify, promise, sign the ack, turn around",
            2,
            false,
        ),
        ("heartbeat_ipv6", "the same over IPv6", 2, true),
        (
            "heartbeat_v1",
            "the same of wire version 1 (192 bytes both ways)",
            1,
            false,
        ),
    ] {
        let cost = b.add(name, what, || heartbeats(&mut rig, nothing, version, v6, n))?;
        if name == "heartbeat" {
            heartbeat = cost;
        }
    }
    let at = boot_ns();
    let slot = rig.table.slot(5);
    slot.sent.store(at);
    slot.lease.store(3_600_000_000_000);
    slot.cv.store(CV);
    slot.word.store(5 << 32);
    rig.table.epoch.store(u64::MAX);
    rig.own(GROUP, at + 3_600_000_000_000);
    let ack = rig.ack(PEER, 5, at);
    let ours: Keys = KEY.into();
    let ack = datagram(&rig.seal(ack, &ours), false);
    let m = rig.heartbeat();
    let beat = rig.seal(m, &ours);
    let mut forged = beat.clone();
    forged[50] ^= 1;
    let unknown = rig.seal(m, &[9; 16].into());
    let mut garbage = beat.clone();
    garbage[0] = 0;
    let full = rig.sign(Message { clock: 1, ..m });
    let full = Message { mac: 1, ..full };
    let udp =
        |to: std::net::Ipv4Addr| frame::udp(&[], (PEER4.into(), 1), (to.into(), 80), &[0; 1_400]);
    for (name, what, f, action) in [
        ("ack", "ack: verify and count", ack, 1),
        (
            "refuse_forged",
            "refused: wrong MAC under our key's id, 112 bytes",
            datagram(&forged, false),
            1,
        ),
        (
            "refuse_forged_full",
            "refused: wrong MAC under our key's id, 192 bytes",
            datagram(&full.to_bytes(), false),
            1,
        ),
        (
            "refuse_unknown_key",
            "refused: signed with a key that we do not have",
            datagram(&unknown, false),
            1,
        ),
        (
            "refuse_garbage",
            "refused: not our magic number",
            datagram(&garbage, false),
            1,
        ),
        (
            "gate_in_other",
            "ordinary packet in, to no VIP",
            udp(LINK4),
            2,
        ),
        (
            "gate_in_open",
            "packet in to a VIP, gate open",
            udp(VIP4),
            2,
        ),
        (
            "gate_in_shut",
            "packet in to a VIP, gate shut",
            udp(OTHER_VIP4),
            1,
        ),
    ] {
        b.add(name, what, || {
            let r = rig.run_xdp(&f, n);
            ensure!(r.retval == action, "{name}: XDP action {}", r.retval);
            Ok(f64::from(r.duration_ns))
        })?;
    }
    let out = |from: std::net::Ipv4Addr| {
        frame::udp(&[], (from.into(), 80), (PEER4.into(), 1), &[0; 1_400])
    };
    for (name, what, f, action) in [
        (
            "gate_out_other",
            "ordinary packet out",
            out(LINK4),
            Action::Pass,
        ),
        (
            "gate_out_open",
            "packet out as a VIP, gate open",
            out(VIP4),
            Action::Pass,
        ),
        (
            "gate_out_shut",
            "packet out as a VIP, gate shut",
            out(OTHER_VIP4),
            Action::Drop,
        ),
    ] {
        ensure!(rig.egress(&f) == action, "{name}: another action");
        b.add(name, what, || Ok(f64::from(rig.time_egress(&f, n))))?;
    }
    Ok(Report {
        machine: super::machine(),
        batches: options.batches,
        packets: n,
        costs: b.costs,
        sip_ratio: alike / naive,
        heartbeat_ratio: heartbeat / naive,
    })
}

/// Mean of a batch of heartbeats, less what the statistics cost.
fn heartbeats(rig: &mut Rig, nothing: i32, version: u8, v6: bool, n: u32) -> Result<f64> {
    let ours: Keys = KEY.into();
    let frames: Vec<_> = (0..n)
        .map(|_| {
            let m = Message {
                version,
                flags: if version < 2 { flags::NEXT } else { 0 },
                ..rig.heartbeat()
            };
            datagram(&rig.seal(m, &ours), v6)
        })
        .collect();
    let _stats = StatsGuard::new()?;
    let (xdp, _) = rig.programs();
    let mean = |fd, frames: &[Vec<u8>]| -> Result<f64> {
        let before = program_stats(fd)?;
        for f in frames {
            let action = test_run(fd, f, Some(1), 1)?.retval;
            ensure!(fd == nothing || action == 3, "not acked");
        }
        let after = program_stats(fd)?;
        Ok((after.ns - before.ns) as f64 / (after.runs - before.runs).max(1) as f64)
    };
    Ok(mean(xdp, &frames)? - mean(nothing, &frames)?)
}
