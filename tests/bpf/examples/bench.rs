//! What the XDP program costs per packet. `cargo run -p heartline-bpf-tests --example bench` (root).

use agent_common::Set;
use heartline_bpf_tests::{
    Action, KEY, ProgramStats, Rig, StatsGuard, boot_ns, consts::*, datagram, frame, program_stats,
};

const REPEAT: u32 = 100_000;

fn main() -> anyhow::Result<()> {
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    let until = boot_ns() + 3_600_000_000_000;
    rig.own(GROUP, until);
    rig.table.epoch.store(u64::MAX);

    // An answered heartbeat is an ack afterwards, so that one cannot be repeated in place: the kernel's own statistics
    // over single runs (they include the two clock reads around each).
    let (xdp, _) = rig.programs();
    let stats = StatsGuard::new()?;
    for (name, v6) in [
        ("verify + promise + sign + bounce, IPv4", false),
        ("the same, IPv6", true),
    ] {
        let frames: Vec<_> = (0..REPEAT)
            .map(|_| {
                let m = rig.heartbeat();
                datagram(&rig.seal(m, &KEY.into()), v6)
            })
            .collect();
        let before = program_stats(xdp)?;
        for f in &frames {
            anyhow::ensure!(rig.xdp(f).0 == Action::Tx, "not acked");
        }
        println!("{name:44} {:7.0} ns", mean(before, program_stats(xdp)?));
    }
    drop(stats);

    let at = boot_ns();
    let slot = rig.table.slot(5);
    slot.sent.store(at);
    slot.lease.store(40_000_000);
    slot.cv.store(CV);
    slot.word.store(5 << 32);
    let ack = rig.ack(PEER, 5, at);
    let mut forged = rig.heartbeat();
    forged.clock += 1;
    let mut forged = datagram(&rig.seal(forged, &KEY.into()), false);
    forged[100] ^= 1;
    let vip = frame::udp(&[], (PEER4.into(), 1), (VIP4.into(), 80), &[0; 1_400]);
    let other = frame::udp(&[], (PEER4.into(), 1), (LINK4.into(), 80), &[0; 1_400]);
    for (name, f) in [
        (
            "verify + count an ack",
            datagram(&rig.seal(ack, &KEY.into()), false),
        ),
        ("refuse a forged one", forged),
        ("VIP traffic, gate open", vip),
        ("other traffic", other),
    ] {
        println!("{name:44} {:7} ns", rig.run_xdp(&f, REPEAT).duration_ns);
    }
    Ok(())
}

fn mean(a: ProgramStats, b: ProgramStats) -> f64 {
    (b.ns - a.ns) as f64 / (b.runs - a.runs) as f64
}
