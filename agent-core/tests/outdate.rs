//! An owner whose storage has lost a replica has it outdated by the node that keeps it.

mod bench;

use agent_core::{Behind, Command, CommandError, Event};
use bench::Bench;

const ASKED: Behind = Behind { node: 2, round: 3 };

fn outdate(behind: Option<Behind>) -> Command {
    Command::Outdate { group: 0, behind }
}

fn owned_by_1() -> Bench {
    let mut b = Bench::new(3, 1);
    b.run(30);
    assert!(b.open(1, 0));
    b
}

#[test]
fn the_node_that_is_named_hears_of_it_and_its_answer_comes_back() {
    let mut b = owned_by_1();
    b.command(1, outdate(Some(ASKED)));
    b.run(100);
    let asked = Event::Outdate {
        group: 0,
        behind: ASKED,
    };
    assert!(b.events(2).contains(&asked));
    let told = Event::Outdated {
        group: 0,
        behind: ASKED,
    };
    assert!(!b.events(1).contains(&told), "nobody has answered");
    let answer = Command::Outdated {
        group: 0,
        behind: ASKED,
    };
    assert_eq!(b.refused(3, answer), CommandError::Stale, "not its replica");
    b.command(2, answer);
    b.run(100);
    assert!(b.events(1).contains(&told));
}

#[test]
fn only_the_owner_asks_and_what_is_taken_back_is_not_heard_again() {
    let mut b = owned_by_1();
    assert_eq!(b.refused(2, outdate(Some(ASKED))), CommandError::NotOwned);
    b.command(1, outdate(Some(ASKED)));
    b.run(100);
    b.command(1, outdate(None));
    b.run(100);
    // A new agent on node 2 is told all that stands.
    let before = b.events(2).len();
    b.restart(2, 1);
    b.run(2000);
    let heard = |e: &Event| matches!(e, Event::Outdate { .. });
    assert!(!b.events(2)[before..].iter().any(heard));
}

#[test]
fn a_question_survives_its_byte() {
    for node in 1..=32 {
        for round in 1..=7 {
            let behind = Behind { node, round };
            assert_eq!(Behind::from_u8(behind.to_u8()), Some(behind));
        }
    }
    assert_eq!(Behind::from_u8(0), None);
}
