//! Faults as the demo has them, and what the lab must see of them.

use heartline_lab::paint::Busy;
use heartline_vm::{
    cluster::{Setting, Stack},
    demo::{self, Fault},
};

/// Without it, "never two primaries" would mean nothing.
#[test]
fn the_lab_sees_two_primaries_where_nothing_prevents_them() {
    let busy = Busy::quiet("guest-frozen");
    let setting = Setting {
        stack: Stack::Exec,
        ..Setting::default()
    };
    let outcome = demo::one(Fault::GuestFrozen, &setting, &busy).expect("an outcome");
    assert!(outcome.two_at_once, "{outcome:?}");
    assert!(!outcome.as_expected());
}
