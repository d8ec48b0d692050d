//! Rule 9: the promise word changes from both sides at once, and a closed one stays closed.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use agent_common::{Set, state::PromiseWord, wire::Message};
use heartline_bpf_tests::{Rig, consts::*, over_ipv4};

/// Says stop to the threads, also when an assertion fails: the scope would wait for them for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_word_that_the_agent_closes_stays_closed() {
    const ROUNDS: u64 = 1_500;
    let mut rig = Rig::new();
    rig.grant(PEER, CV, Set::of(GROUP));
    // On links and sequences of their own; each frame is a copy from its second time on.
    let frames: Vec<Vec<_>> = (0..2u8)
        .map(|link| {
            (0..20)
                .map(|_| {
                    let m = Message {
                        link,
                        promise_us: 8_000_000,
                        ..rig.heartbeat()
                    };
                    over_ipv4(&rig.sign(m))
                })
                .collect()
        })
        .collect();
    let (table, hammer) = (rig.table, rig.hammer());
    let (stop, acked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|s| {
        for frames in &frames {
            let (hammer, stop, acked) = (&hammer, &stop, &acked);
            s.spawn(move || {
                let mut i = 0;
                while !stop.load(Ordering::Acquire) {
                    if hammer(&frames[i % frames.len()]) {
                        acked.fetch_add(1, Ordering::Relaxed);
                    }
                    i += 1;
                }
            });
        }
        let _stop = Stop(&stop);
        let p = table.peer(PEER);
        let began = std::time::Instant::now();
        for round in 0..ROUNDS {
            let generation = (2 * round) & 0x7fff;
            let before = acked.load(Ordering::Relaxed);
            p.word.store(PromiseWord::open(0, generation).0);
            while acked.load(Ordering::Relaxed) < before + 2 {
                // What the threads play again counts as heard just now, or it would be too late a copy.
                for heard in &p.heard[..2] {
                    heard.store(heartline_bpf_tests::boot_ns());
                }
                assert!(
                    began.elapsed().as_secs() < 120,
                    "round {round}: no acks any more"
                );
            }
            // The threads have just come back from the program: meet them at every point of it.
            for _ in 0..round * 7_919 % 997 {
                std::hint::spin_loop();
            }
            let closed = PromiseWord::closed(generation + 1);
            while !p.word.cas(p.word.load(), closed.0) {}
            // Both threads get a chance to do it wrong.
            for _ in 0..200 {
                assert_eq!(
                    PromiseWord(p.word.load()),
                    closed,
                    "round {round}: reopened"
                );
            }
        }
    });
    assert!(acked.load(Ordering::Relaxed) >= ROUNDS);
}
