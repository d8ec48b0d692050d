//! A planned move of what runs everywhere loses nothing that is asked meanwhile. (Of IPv6 a request or two at 1000 a second:
//! the kernel hangs a new address into its routes a little after it has said that it is there, and clients know by then.)

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use heartline_lab::{clock::boot_ns, demo::rig::Rig, interrupt::pass, probe_outage::Outage};
use serde_json::Value;

use super::{another, nothing, resource, runs, with_services};

const MOVES: usize = 12;
/// Frames are held for 50 ms at most: where the machine itself stands still for so long, a loss shows nothing.
const STALLED: u64 = 20_000_000;
const TRIES: usize = 4 * MOVES;

/// One move; what a client of either family felt, asking each millisecond.
fn moved(rig: &mut Rig) -> Result<[Outage; 2]> {
    let old = runs(rig, "web", "")?;
    let from = boot_ns();
    let new = another(&old);
    rig.cluster.agent(&old)?.cli_ok(&["move", "web", new])?;
    ensure!(runs(rig, "web", &old)? == new, "not on {new}");
    // Whatever was held is sent or lost by then, and answered.
    pass(Duration::from_millis(200))?;
    let to = boot_ns() - 50_000_000;
    Ok([rig.v4.outage(from, to), rig.v6.outage(from, to)])
}

fn counter(rig: &mut Rig, name: &str) -> Result<u64> {
    let mut sum = 0;
    for node in ["n1", "n2", "n3"] {
        let status = rig.cluster.agent(node)?.status()?;
        sum += status["counters"]
            .get(name)
            .and_then(Value::as_u64)
            .unwrap_or_default();
    }
    Ok(sum)
}

#[test]
fn no_request_is_lost_in_a_planned_move_of_a_hot_standby() -> Result<()> {
    let sections = |dir: &Path| resource(dir, "app", "keep_running = true");
    with_services(sections, nothing, |rig, _| {
        let (mut quiet, mut lost) = (0, Vec::new());
        for _ in 0..TRIES {
            let felt = moved(rig)?;
            let stalled = felt.iter().any(|f| f.stall_ns > STALLED);
            if felt.iter().any(|f| f.lost > 0) && stalled {
                continue;
            }
            quiet += 1;
            let families = felt.into_iter().zip(["IPv4", "IPv6"]);
            lost.extend(
                families.filter(|(f, family)| f.lost > if *family == "IPv6" { 2 } else { 0 }),
            );
            if quiet == MOVES {
                break;
            }
        }
        let (sent, late) = (counter(rig, "held_sent")?, counter(rig, "held_lost")?);
        ensure!(quiet == MOVES, "the machine stood still too often");
        ensure!(
            lost.is_empty(),
            "lost: {lost:?}; held: {sent} sent, {late} lost"
        );
        ensure!(sent > 0, "nothing was held");
        Ok(())
    })
}
