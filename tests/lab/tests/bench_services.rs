//! The harness of `bench services`: one fault, once, with us and with a peer. Figures are not asserted.

use heartline_lab::bench_services::{self, Fault, Options, Setting, System};

#[test]
fn a_frozen_node_is_measured_with_heartline_and_with_keepalived() {
    let options = Options {
        runs: 1,
        faults: vec![Fault::Freeze],
        systems: Vec::new(),
        settings: vec![Setting::Lan, Setting::Hundredth],
        json: false,
    };
    let rows = bench_services::rows(&options).expect("measured");
    let of = |system| rows.iter().find(|row| row.system == system);
    let (own, peer) = (of(System::Heartline), of(System::Keepalived));
    let (own, peer) = (
        own.expect("a row of ours"),
        peer.expect("a row of the peer's"),
    );
    for row in [own, peer] {
        assert_eq!(
            (row.runs, row.not_taken, row.services.len()),
            (1, 0, 4),
            "{row:?}"
        );
        // Somebody was without for longer than between two questions.
        assert!(row.outage_ms.max > 20.0, "{row:?}");
    }
    assert_eq!(own.dual_ms_max, 0.0, "two owners: {own:?}");
    // Its kernel goes on to answer for what its frozen processes do not take away: that must be seen.
    assert!(peer.dual_ms_max > 0.0 && peer.ratio.is_none(), "{peer:?}");
}
