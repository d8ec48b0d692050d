//! A minute of the nemesis: always the same schedule. Needs root, and fails without. `cargo xtask nemesis` runs longer,
//! with another seed each time; HEARTLINE_TEST_ALL=1 makes it ten minutes here.

use std::time::Duration;

use anyhow::{Result, ensure};
use heartline_lab::nemesis::{Options, attack};

#[test]
fn a_minute_of_random_faults() -> Result<()> {
    let all = std::env::var_os("HEARTLINE_TEST_ALL").is_some_and(|value| value == "1");
    let report = attack(
        &Options {
            time: Duration::from_secs(if all { 600 } else { 60 }),
            seed: 20_261_121,
            nodes: 3,
            profile: "lan".into(),
            only: None,
            json: None,
        },
        |line| println!("{line}"),
    )?;
    println!("{}", report.text(heartline_lab::paint::Paint::plain()));
    ensure!(report.violations.is_empty(), "{:?}", report.violations);
    // It must have done something: this bounds neither machine nor luck.
    let changes: usize = report.cycles.iter().map(|cycle| cycle.changes).sum();
    ensure!(
        report.cycles.len() >= 3 && changes > 0,
        "{} cycles, {changes} changes of owner",
        report.cycles.len()
    );
    Ok(())
}
