//! Histories that once went wrong, at the level of the core.

mod bench;

use agent_common::{
    Set,
    wire::{Kind, Message},
};
use agent_core::{Command, Event};
use bench::{Bench, MS};

#[test]
fn a_group_is_owned_soon_and_taken_over() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    assert!(b.open(1, 0));
    b.freeze(1, true);
    b.run(70);
    assert!(!b.open(1, 0) && b.open(2, 0));
}

/// A late heartbeat looked like a rollback; the receiver said so, and an owner in good health gave up everything.
#[test]
fn a_straggler_does_not_make_a_node_start_afresh() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    b.pass = |from, to, m| !(from == 1 && to == 3 && m.kind == Kind::Heartbeat as u8);
    b.run(10);
    let old = b.kept.iter().find(|(to, _)| *to == 3).copied().unwrap();
    b.pass = |_, _, _| true;
    b.run(300);
    b.arrive(old.0, old.1);
    b.settle();
    assert!(b.open(1, 0), "{:?}", b.events(1));
    // Even when it is told: its clock has been there.
    let told = Message {
        re_incarnation: b.sh(1).incarnation.load(),
        re_clock: b.t - 1,
        kind: Kind::Regressed as u8,
        ..Message::default()
    };
    b.call(1, |c, now| c.handle_message(&told, now));
    assert!(b.open(1, 0) && !b.events(1).contains(&Event::StartedAfresh));
}

/// Rule 4: a node whose clock has not yet been where a voter saw it was rolled back.
#[test]
fn a_rolled_back_node_starts_afresh() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    let told = Message {
        re_incarnation: b.sh(1).incarnation.load(),
        re_clock: b.t + 500 * MS,
        kind: Kind::Regressed as u8,
        ..Message::default()
    };
    b.call(1, |c, now| c.handle_message(&told, now));
    assert!(!b.open(1, 0) && b.events(1).contains(&Event::StartedAfresh));
    assert!(!b.sh(1).votes(b.t));
}

/// After a nack the running set is asked for again; a node that lost everything meanwhile had a deadline in the past for ever.
#[test]
fn a_node_with_nothing_to_ask_for_again_sleeps() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    let nack = Message {
        kind: Kind::Nack as u8,
        from: 2,
        re_incarnation: b.sh(1).incarnation.load(),
        cv: b.sh(1).run_cv.load(),
        ..Message::default()
    };
    b.call(1, |c, now| c.handle_message(&nack, now));
    b.pass = |from, to, _| from != 1 && to != 1;
    b.freeze(1, true);
    b.run(100);
    b.freeze(1, false);
    b.call(1, |c, now| c.handle_timeout(now));
    let (now, core) = (b.now(), b.nodes[0].core.as_ref().unwrap());
    assert!(core.owned().is_empty() && core.deadline(now) > now.boot);
}

/// Rule 7 holds on every way in: a command on an agent that was late sent a heartbeat with a lapsed set.
#[test]
fn a_command_finds_the_lapsed_lease_first() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    b.pass = |from, to, _| from != 1 && to != 1;
    b.freeze(1, true);
    b.run(100);
    let promise = 500 * MS;
    b.kept.clear();
    b.freeze(1, false);
    b.command(1, Command::PreparePause { promise });
    let sent: Vec<_> = b.kept.iter().filter(|(_, m)| m.from == 1).collect();
    assert!(!sent.is_empty() && sent.iter().all(|(_, m)| m.set.is_empty()));
}

/// The kernel shut a gate, or stopped voting, and the record of it was lost: the core must see it in the table.
#[test]
fn what_the_kernel_did_is_seen_without_its_record() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    b.sh(1).gate.remove(Set::of(0));
    b.run(15);
    assert!(
        !b.nodes[0].core.as_ref().unwrap().owned().has(0) || b.open(1, 0),
        "owned with a shut gate"
    );
    b.run(100);
    b.sh(2).halted.store(1);
    b.run(15);
    assert!(b.events(2).contains(&Event::DuplicateId));
    b.run(b.timing.max_promise / MS + 50);
    assert!(b.events(2).contains(&Event::DuplicateGone));
}

/// A node that may not vote any more grants nothing that was parked before.
#[test]
fn a_halted_voter_grants_no_parked_ask() {
    for halted in [false, true] {
        let mut b = Bench::new(3, 1);
        b.command(3, Command::Drain { node: 3, on: true });
        b.run(3 * b.timing.heartbeat / MS);
        // Node 3 hears nothing of the owner, and node 2 asks shortly before the promise to it ends.
        b.pass = |from, to, m| !(from == 1 && to == 3) && m.kind != Kind::Grant as u8;
        b.freeze(2, true);
        b.run(45);
        let ask = Message {
            kind: Kind::Heartbeat as u8,
            from: 2,
            generation: 1,
            incarnation: b.sh(2).incarnation.load(),
            seq: 1_000,
            clock: b.t,
            cv: b.sh(2).run_cv.load(),
            ask_cv: b.sh(2).run_cv.load() + 1,
            ask_set: Set::of(0),
            ..Message::default()
        };
        b.call(3, |c, now| c.handle_message(&ask, now));
        b.settle();
        assert!(b.kept.iter().all(|(to, _)| *to != 2), "it waits");
        b.sh(3).halted.store(u64::from(halted));
        b.run(10);
        let granted = b
            .kept
            .iter()
            .any(|(to, m)| *to == 2 && m.kind == Kind::Grant as u8);
        assert_eq!(granted, !halted);
    }
}

/// Rule 6: while a voter's agent was frozen the owner asked for a dead node's group; the attempt failed, and what still ran got
/// a fresh version that the frozen voter's kernel had never been told: its lease ran out.
#[test]
fn a_failed_attempt_costs_nothing_while_a_voter_is_frozen() {
    let mut failed = 0;
    for late in 35..50 {
        let mut b = Bench::new(3, 2);
        b.run(30);
        b.command(1, Command::Move { group: 1, node: 3 });
        b.run(20);
        assert!(b.open(1, 0) && b.open(3, 1));
        b.freeze(3, true);
        b.pass = |from, to, _| from != 3 && to != 3;
        b.run(late);
        b.freeze(2, true);
        for _ in 0..300 {
            b.run(1);
            assert!(
                b.open(1, 0),
                "lost group 0, frozen {late} ms after the crash"
            );
        }
        failed += b
            .events(1)
            .iter()
            .filter(|e| matches!(e, Event::ClaimFailed { .. }))
            .count();
        // What was asked for in vain is not blocked for others once the voter wakes up.
        b.freeze(2, false);
        b.run(100);
        assert!(b.open(1, 0) && (b.open(1, 1) || b.open(2, 1)));
    }
    assert!(failed > 0, "no attempt failed: the test tests nothing");
}

fn says(b: &Bench, from: u8, cv: u64, set: Set, ask: Option<(u64, Set)>) -> Message {
    let (ask_cv, ask_set) = ask.unwrap_or_default();
    Message {
        kind: Kind::Heartbeat as u8,
        from,
        generation: 1,
        incarnation: b.sh(from).incarnation.load(),
        clock: b.t,
        promise_us: 50_000,
        cv,
        set,
        ask_cv,
        ask_set,
        ..Message::default()
    }
}

/// Rule 7: an entry that was closed for another does not reopen by a running set, however new, only by an ask.
#[test]
fn a_closed_entry_reopens_only_by_an_ask() {
    let mut b = Bench::new(3, 1);
    b.command(2, Command::Drain { node: 2, on: true });
    b.freeze(1, true);
    b.freeze(3, true);
    let (g, none) = (Set::of(0), Set::EMPTY);
    let word = |b: &Bench| agent_common::state::PromiseWord(b.sh(2).peer(1).word.load());
    b.run(20);
    let running = says(&b, 1, 5, g, None);
    b.call(2, |c, now| c.handle_message(&running, now));
    assert!(word(&b).stands(b.t));
    b.run(60);
    let other = says(&b, 3, 5, none, Some((6, g)));
    b.call(2, |c, now| c.handle_message(&other, now));
    let released = says(&b, 3, 7, none, None);
    b.call(2, |c, now| c.handle_message(&released, now));
    assert!(word(&b).is_closed());
    // Sent before the voter closed the entry, under a version that it had not heard of.
    let late = says(&b, 1, 9, g, None);
    b.call(2, |c, now| c.handle_message(&late, now));
    assert!(word(&b).is_closed());
    let ask = says(&b, 1, 9, g, Some((10, g)));
    b.call(2, |c, now| c.handle_message(&ask, now));
    assert!(word(&b).stands(b.t));
    // An empty set stands for nothing and needs no ask.
    b.run(60);
    b.call(2, |c, now| c.handle_message(&other, now));
    let again = says(&b, 3, 8, none, Some((9, g)));
    b.call(2, |c, now| c.handle_message(&again, now));
    assert!(word(&b).is_closed());
    let idle = says(&b, 1, 11, none, None);
    b.call(2, |c, now| c.handle_message(&idle, now));
    assert!(!word(&b).is_closed());
}

/// Rule 8: a grant that arrives when the claim's time is over does not shorten the lease of what runs.
#[test]
fn a_late_grant_is_no_grant() {
    let mut b = Bench::new(3, 2);
    b.command(2, Command::Drain { node: 1, on: true });
    b.run(30);
    assert!(b.open(2, 0) && b.open(2, 1));
    b.command(2, Command::Move { group: 0, node: 3 });
    b.run(20);
    assert!(b.open(3, 0));
    // Node 2 claims group 0 when node 3 is gone, and freezes before the grant reaches it.
    b.pass = |from, to, m| from != 3 && to != 3 && m.kind != Kind::Grant as u8;
    b.freeze(3, true);
    for _ in 0..80 {
        b.run(1);
        if b.kept
            .iter()
            .any(|(to, m)| *to == 2 && m.kind == Kind::Grant as u8)
        {
            break;
        }
    }
    let grant = b
        .kept
        .iter()
        .rfind(|(to, m)| *to == 2 && m.kind == Kind::Grant as u8)
        .copied()
        .unwrap();
    b.freeze(2, true);
    b.t += 30 * MS;
    b.nodes[1].is_frozen = false;
    let before = b.sh(2).lease().expiry_ns();
    b.call(2, |c, now| c.handle_message(&grant.1, now));
    assert!(b.sh(2).lease().expiry_ns() >= before && !b.open(2, 0));
}

/// A group was asked to go where it was already; the wish stayed, and called it back when that node had failed and returned.
#[test]
fn a_wish_for_where_a_group_is_calls_it_back_never() {
    for asked in [1, 2] {
        let mut b = Bench::new(3, 1);
        b.run(30);
        assert!(b.open(1, 0));
        b.command(asked, Command::Move { group: 0, node: 1 });
        b.run(50);
        b.freeze(1, true);
        b.run(200);
        assert!(b.open(2, 0));
        b.freeze(1, false);
        b.run(10_500);
        assert!(b.open(2, 0), "asked of node {asked}: {:?}", b.events(2));
    }
}

/// An owner released one of two groups asked for in one move, the other still blocked the ask, and the group had no owner.
#[test]
fn a_move_of_several_groups_is_all_or_nothing() {
    let mut b = Bench::new(3, 2);
    b.run(30);
    assert!(b.open(1, 0) && b.open(1, 1));
    let mut ask = says(
        &b,
        2,
        b.sh(2).run_cv.load(),
        Set::EMPTY,
        Some((90, Set::of(0).with(1))),
    );
    ask.flags = agent_common::wire::flags::MOVE;
    // Only one of them is wished for by node 1's knowledge.
    b.pass = |_, to, _| to != 2;
    b.freeze(2, true);
    b.command(1, Command::Move { group: 0, node: 2 });
    b.call(1, |c, now| c.handle_message(&ask, now));
    assert!(b.open(1, 0) && b.open(1, 1));
    ask.ask_cv += 1;
    ask.ask_set = Set::of(0);
    b.call(1, |c, now| c.handle_message(&ask, now));
    assert!(!b.open(1, 0) && b.open(1, 1));
}

/// An owner released a group for a parked ask whose sender gave up at that moment.
#[test]
fn no_release_for_an_asker_about_to_give_up() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    let mut ask = says(
        &b,
        2,
        b.sh(2).run_cv.load(),
        Set::EMPTY,
        Some((90, Set::of(0))),
    );
    ask.flags = agent_common::wire::flags::MOVE;
    b.pass = |_, to, _| to != 2;
    b.freeze(2, true);
    b.call(1, |c, now| c.handle_message(&ask, now));
    b.run(6);
    b.command(1, Command::Move { group: 0, node: 2 });
    assert!(b.open(1, 0), "6 of 8 ms are over");
}

/// Rule 4: a node that booted with its wall clock in the past was refused for ever, because its incarnation was an old one.
#[test]
fn a_node_whose_wall_clock_was_set_back_comes_again() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    b.freeze(1, true);
    b.run(11_000);
    // New maps, born in 1970.
    b.reborn(1, 5);
    b.run(2_000);
    assert!(
        b.sh(1).incarnation.load() > 1001,
        "it has learned of its newer incarnation"
    );
    assert!(b.events(1).contains(&Event::StartedAfresh));
    b.run(11_000);
    b.command(2, Command::Move { group: 0, node: 1 });
    b.run(100);
    assert!(b.open(1, 0), "and takes part: {:?}", b.events(1));
}

/// Rule 4: told twice by nodes that did not know its newest incarnation, a node used one incarnation in two lives; a late
/// grant of the first could count in the second.
#[test]
fn no_two_lives_share_an_incarnation() {
    let life = |boot: u64| {
        let sh = std::rc::Rc::new(agent_common::state::Shared::default());
        sh.id.store(1);
        sh.incarnation.store(6);
        let now = agent_core::Now { boot, wall_ms: 0 };
        let cfg = agent_core::CoreConfig::new(1, agent_core::Timing::LAN);
        let mut core = agent_core::Core::new(cfg, std::rc::Rc::clone(&sh), now);
        let told = Message {
            kind: Kind::Regressed as u8,
            from: 2,
            re_incarnation: 6,
            re_seq: 2_000,
            ..Message::default()
        };
        core.handle_message(&told, now);
        sh.incarnation.load()
    };
    let (first, second) = (life(70_000_000_123), life(5_000_456_789));
    assert!(first > 2_000 && second > 2_000);
    assert_ne!(first, second);
}

/// Both were set back: each refused the other's word that it was.
#[test]
fn two_nodes_that_were_both_set_back_come_again() {
    let mut b = Bench::new(2, 1);
    b.run(30);
    // Two of two were reborn in 1970, one after the other, each unheard by the other for long.
    b.freeze(1, true);
    b.freeze(2, true);
    b.run(11_000);
    b.reborn(1, 5);
    b.reborn(2, 6);
    for id in [1, 2] {
        // What the other knew survives in its table: the incarnation before.
        b.sh(id).peer(3 - id).incarnation.store(2_000);
        b.sh(id)
            .peer(3 - id)
            .word
            .store(agent_common::state::PromiseWord::open(1, 1).0);
    }
    b.run(30_000);
    assert!((1..=2).any(|id| b.events(id).contains(&Event::StartedAfresh)));
    assert!(b.open(1, 0) || b.open(2, 0));
}

/// An owner released a group for an ask that newer messages of its sender had overtaken, or that came in the asker's last moment.
#[test]
fn no_release_for_an_old_ask() {
    let mut b = Bench::new(3, 1);
    b.run(30);
    let mut ask = says(
        &b,
        2,
        b.sh(2).run_cv.load(),
        Set::EMPTY,
        Some((90, Set::of(0))),
    );
    ask.flags = agent_common::wire::flags::MOVE;
    b.command(1, Command::Pause(true));
    b.run(20);
    // Wished for, and not yet moved because of the pause; then the old ask arrives.
    b.pass = |_, to, _| to != 2;
    b.freeze(2, true);
    b.command(1, Command::Pause(false));
    b.command(1, Command::Move { group: 0, node: 2 });
    b.call(1, |c, now| c.handle_message(&ask, now));
    assert!(b.open(1, 0), "20 ms old");
    ask.clock = b.sh(1).peer(2).hi_clock.load();
    ask.ask_cv += 1;
    b.call(1, |c, now| c.handle_message(&ask, now));
    assert!(!b.open(1, 0));
}

#[test]
fn a_move_is_asked_for_in_its_first_half_only() {
    for (after, asks) in [(3, true), (6, false)] {
        let mut b = Bench::new(3, 1);
        b.run(35);
        // Node 1 hears neither of the wish nor of the ask.
        b.pass = |from, to, _| !(from == 2 && to == 1);
        b.command(2, Command::Move { group: 0, node: 2 });
        assert!(b.kept.iter().any(|(_, m)| m.ask_cv != 0));
        b.t += after * MS;
        b.kept.clear();
        b.command(2, Command::Drain { node: 3, on: true });
        assert_eq!(
            b.kept.iter().any(|(_, m)| m.ask_cv != 0),
            asks,
            "{after} ms later"
        );
    }
}

/// Whoever began to vote first, by a few ms, kept the group from the node that it prefers.
#[test]
fn a_cold_start_honours_the_preference() {
    let mut b = Bench::new(3, 1);
    for id in 1..=3 {
        b.reborn(id, 2_000 + u64::from(id));
        let t = b.t;
        b.sh(id)
            .vote_after
            .store(t + [300, 100, 150][usize::from(id) - 1] * MS);
    }
    b.run(400);
    assert!(b.open(1, 0), "{:?}", b.events(2));
}

/// Epochs wrapped at the end of all numbers: the next gain looked older than all before it, and its addresses never came.
#[test]
fn an_epoch_out_of_all_measure_is_not_followed() {
    for epoch in [u64::MAX, u64::MAX - 63, 1 << 63, (1 << 63) - 1] {
        let mut b = Bench::new(3, 1);
        b.run(30);
        let mut last = [0, b.sh(1).group_epoch[0].load(), 0];
        let mut m = says(&b, 3, b.sh(3).run_cv.load(), Set::EMPTY, None);
        m.epoch = epoch;
        for id in [1, 2] {
            b.call(id, |c, now| c.handle_message(&m, now));
        }
        for to in [2, 1, 2, 1] {
            b.command(1, Command::Move { group: 0, node: to });
            b.run(200);
            assert!(b.open(to, 0), "{epoch:#x}");
            let gained = b.sh(to).group_epoch[0].load();
            let before = std::mem::replace(&mut last[usize::from(to)], gained);
            assert!(gained > before, "{epoch:#x}: {gained:#x} after {before:#x}");
        }
    }
}
