//! Whether services of groups that a node does not own may still run there, by its own word.

mod bench;

use agent_core::{Action, Command, CommandError};
use bench::Bench;

/// Three nodes, one group with services, owned by node 1; all have looked at what runs on them.
fn swept() -> Bench {
    let mut b = Bench::with(3, 1, |_, g| g.orderly = true);
    b.run(30);
    for id in 2..=3 {
        sweep(&mut b, id);
    }
    b.run(30);
    assert!(b.open(1, 0));
    b
}

fn sweep(b: &mut Bench, id: u8) {
    let epoch = b.sh(id).group_epoch[0].load();
    b.command(id, Command::Swept { group: 0, epoch });
}

fn is_clean(b: &Bench, at: u8, id: u8) -> bool {
    let core = b.nodes[usize::from(at) - 1].core.as_ref().unwrap();
    core.is_clean(id, b.t)
}

/// Asked to stop, and it has.
fn let_go(b: &mut Bench, id: u8) {
    let epoch = match b.asked(id)[..] {
        [Action::Stop { epoch, .. }] => epoch,
        ref other => panic!("{other:?}"),
    };
    b.command(id, Command::Stopped { group: 0, epoch });
}

fn cut_off_1(from: u8, to: u8) -> bool {
    from != 1 && to != 1
}

#[test]
fn who_stopped_before_it_let_go_is_clean() {
    let mut b = swept();
    b.command(1, Command::Move { group: 0, node: 2 });
    b.run(30);
    let_go(&mut b, 1);
    assert!(b.open(2, 0));
    b.run(30);
    assert!(is_clean(&b, 2, 1) && is_clean(&b, 3, 1));
}

#[test]
fn a_takeover_does_not() {
    let mut b = swept();
    b.pass = |from, to, _| cut_off_1(from, to);
    b.run(200);
    assert!(b.open(2, 0) && !is_clean(&b, 2, 1));
    assert!(!is_clean(&b, 2, 1), "who is not heard says nothing");
    // Heard again is not stopped.
    b.pass = |_, _, _| true;
    b.run(200);
    assert!(b.open(2, 0) && !is_clean(&b, 2, 1) && !is_clean(&b, 3, 1));
    let epoch = b.sh(1).group_epoch[0].load();
    let old = Command::Swept {
        group: 0,
        epoch: epoch - 64,
    };
    assert_eq!(b.refused(1, old), CommandError::Stale);
    assert!(!is_clean(&b, 1, 1));
    sweep(&mut b, 1);
    b.run(30);
    assert!(is_clean(&b, 2, 1) && is_clean(&b, 3, 1));
}

/// The old owner's lease lapses and it is heard again at once: to the others this looks like letting go.
#[test]
fn a_lapse_of_an_owner_that_lives_does_not() {
    let mut b = swept();
    b.pass = |from, to, _| cut_off_1(from, to);
    b.run(45);
    assert!(!b.open(1, 0));
    b.command(2, Command::Drain { node: 1, on: true });
    b.pass = |_, _, _| true;
    b.run(200);
    assert!(b.open(2, 0) && !is_clean(&b, 2, 1));
}

/// An agent that ends although something would not stop.
#[test]
fn a_shut_down_before_all_was_stopped_does_not() {
    let mut b = swept();
    b.call(1, agent_core::Core::shut_down);
    b.run(200);
    assert!(b.open(2, 0) && !is_clean(&b, 2, 1));
}

/// A new agent does not know what the old one left running.
#[test]
fn a_restarted_agent_is_not_clean_until_it_has_looked() {
    let mut b = swept();
    assert!(is_clean(&b, 1, 2));
    b.restart(2, 1);
    b.run(30);
    assert!(!is_clean(&b, 1, 2));
    sweep(&mut b, 2);
    b.run(30);
    assert!(is_clean(&b, 1, 2));
}

/// Who does not know whether it runs elsewhere hands the doubt on with the group.
#[test]
fn a_doubt_goes_with_the_group() {
    let mut b = swept();
    let unsure = |on| Command::Unsure { group: 0, on };
    b.command(1, unsure(true));
    b.command(1, Command::Move { group: 0, node: 2 });
    b.run(30);
    let_go(&mut b, 1);
    assert!(b.open(2, 0) && !is_clean(&b, 2, 1));
    b.run(30);
    assert!(!is_clean(&b, 2, 1));
    sweep(&mut b, 1);
    b.run(30);
    assert!(!is_clean(&b, 2, 1), "that nothing runs here does not help");
    b.command(1, unsure(false));
    b.run(30);
    assert!(is_clean(&b, 2, 1));
}
