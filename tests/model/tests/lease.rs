//! A bound that takes seconds; `cargo xtask model` goes further. HEARTLINE_TEST_ALL=1: as far as that does.

use heartline_model::{
    fault::Menu,
    hunt::{self, DELIBERATE},
    setup::Setup,
};

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn clean(s: &Setup) {
    let w = hunt::walk(s, jobs(), false, |_, _| ());
    println!("{s:?}: {} states in {:?}", w.unique, w.took);
    assert!(w.broken.is_none(), "{s:?}: {:#?}", w.broken);
    assert!(
        w.takeover,
        "{s:?}: nobody ever took over, nothing was tried"
    );
}

#[test]
fn with_all_rules_nothing_breaks() {
    if std::env::var_os("HEARTLINE_TEST_ALL").is_some_and(|v| v == "1") {
        hunt::bounds(false).iter().for_each(clean);
    } else {
        clean(&Setup::new(Menu::Full, 1));
        let mut two = Setup::new(Menu::Small, 1);
        two.groups = 2;
        clean(&two);
        let mut often = Setup::new(Menu::Coarse, 2);
        often.every = 2;
        clean(&often);
    }
}

#[test]
fn without_a_rule_a_history_shows_it() {
    for d in &DELIBERATE {
        let w = hunt::walk(&d.setup(), jobs(), true, |_, _| ());
        let (name, history) = w
            .broken
            .unwrap_or_else(|| panic!("{:?} is not missed in {} states", d.rule, w.unique));
        assert_eq!(name, d.breaks, "{:?}", d.rule);
        assert!(history.iter().any(|l| l.contains("BROKEN")), "{history:#?}");
        let faults = history.iter().filter(|l| l.contains("FAULT")).count();
        assert!(faults <= usize::from(d.faults), "{history:#?}");
        println!("{:?}: {} states, {} lines", d.rule, w.unique, history.len());
    }
}
