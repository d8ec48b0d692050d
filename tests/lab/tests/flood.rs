//! Floods at the heartbeat port of the VIP's owner: it keeps its lease, clients keep being served, and nothing is logged
//! per packet. Needs root, and fails without.
//!
//! How much a machine carries is measured by `cargo xtask bench flood`; here the rate is one that every machine carries.

use std::time::Duration;

use anyhow::{Result, ensure};
use heartline_lab::flood::{kinds::Kind, measure::Siege};

/// Frames per second: a hundred times what the cluster itself sends to a node.
const RATE: u64 = 20_000;
const TIME: Duration = Duration::from_secs(1);
/// A line per packet would be a thousand times as much.
const LOG_MAX: u64 = 20_000;

#[test]
fn floods_cost_nobody_the_lease() -> Result<()> {
    let mut siege = Siege::raise()?;
    for kind in Kind::ALL {
        let row = siege.flood(kind, RATE, 1, TIME)?;
        println!("{row:?}");
        let name = kind.name();
        ensure!(
            row.dual_ms == 0.0 && row.changes == 0 && row.leases_lost == 0,
            "{name}: the owner lost its lease: {row:?}"
        );
        ensure!(
            row.refused_pps * 2 > RATE,
            "{name}: most of it did not arrive, this proves nothing: {row:?}"
        );
        ensure!(
            row.log_bytes < LOG_MAX && row.events < 100,
            "{name}: told per packet: {row:?}"
        );
        ensure!(
            row.ring_full == 0,
            "{name}: records of honest nodes had no room: {row:?}"
        );
    }
    Ok(())
}

/// As fast as one thread can: what is lost comes back by itself, never two owners, no flood of words.
#[test]
fn a_flood_as_fast_as_it_goes() -> Result<()> {
    let mut siege = Siege::raise()?;
    for kind in [Kind::WrongKey, Kind::Replay, Kind::DeadNode] {
        let row = siege.flood(kind, 0, 1, TIME)?;
        println!("{row:?}");
        ensure!(row.dual_ms == 0.0, "two owners: {row:?}");
        ensure!(row.log_bytes < LOG_MAX, "told per packet: {row:?}");
    }
    Ok(())
}
