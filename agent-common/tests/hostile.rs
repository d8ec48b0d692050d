//! Any message, also an authentic one from a node gone mad: the kernel half never panics and keeps its word.

use agent_common::{
    Set,
    kernel::{self, Verdict},
    node_bit,
    rules::Rules,
    siphash::Key,
    state::{LeaseWord, PromiseWord, Shared},
    wire::{self, Kind, LEN, Message},
};
use proptest::prelude::*;

const ME: u8 = 1;
const MY_INCARNATION: u64 = 500;
const PEER_INCARNATION: u64 = 1_000;
const GENERATION: u32 = 7;
const MAX_PROMISE_MS: u32 = 10_000;
const CV: u64 = 77;
const GROUP: u8 = 3;
/// Well away from zero and from the end of the words' 48 bits.
const NOW: u64 = 1 << 50;

/// A node with voters 1 to 5 that granted 2 and 3 a claim, runs a group and has heartbeats in flight.
fn table() -> Shared {
    let sh = Shared::default();
    sh.id.store(u64::from(ME));
    sh.incarnation.store(MY_INCARNATION);
    sh.cluster.store(9);
    sh.generation.store(u64::from(GENERATION));
    sh.max_promise.store(u64::from(MAX_PROMISE_MS) * 1_000_000);
    sh.voters.store(0b1_1111);
    sh.majority.store(3);
    sh.run_cv.store(CV);
    sh.epoch.store(50);
    sh.gate.insert(Set::of(9).with(200));
    sh.lease.store(LeaseWord::until(NOW, CV).0);
    for seq in 60..70 {
        let s = sh.slot(seq);
        s.word.store(seq << 32);
        s.sent.store(NOW - 1_000);
        s.lease.store(40_000_000);
        s.cv.store(CV);
    }
    for id in [2, 3] {
        let p = sh.peer(id);
        p.incarnation.store(PEER_INCARNATION);
        p.claim[0].set.store(Set::of(GROUP));
        p.claim[0].cv.store(CV);
        p.word.store(1);
    }
    sh
}

prop_compose! {
    /// Half of it right, half of it anything.
    fn message()(
        kind in prop_oneof![8 => 1u8..7, 1 => any::<u8>()],
        from in prop_oneof![8 => 1u8..6, 1 => any::<u8>()],
        to in prop_oneof![4 => Just(0u8), 4 => Just(ME), 1 => any::<u8>()],
        link in prop_oneof![4 => 0u8..3, 1 => any::<u8>()],
        flags in any::<u8>(),
        generation in prop_oneof![8 => Just(GENERATION), 1 => any::<u32>()],
        max_promise_ms in prop_oneof![16 => Just(MAX_PROMISE_MS), 1 => any::<u32>()],
        incarnation in prop_oneof![8 => Just(PEER_INCARNATION), 1 => MY_INCARNATION - 1..MY_INCARNATION + 2, 1 => any::<u64>()],
        clock in prop_oneof![8 => NOW..NOW + 300_000_000, 1 => any::<u64>()],
        seq in prop_oneof![8 => 1u64..100, 1 => any::<u64>()],
        rest in (
            prop_oneof![4 => 0u32..200_000, 1 => any::<u32>()],
            prop_oneof![8 => Just(CV), 1 => CV - 1..CV + 2, 1 => any::<u64>()],
            prop_oneof![8 => Just(Set::of(GROUP)), 1 => Just(Set::of(9)), 1 => Just(Set::of(GROUP).with(200)), 1 => any::<[u64; 4]>().prop_map(Set)],
            prop_oneof![4 => Just(0u64), 1 => any::<u64>()],
            prop_oneof![4 => 0u64..100, 1 => any::<u64>()],
            prop_oneof![4 => Just(MY_INCARNATION), 1 => any::<u64>()],
            prop_oneof![4 => 60u64..70, 1 => any::<u64>()],
            prop_oneof![4 => Just(NOW - 1_000), 1 => any::<u64>()],
        ),
    ) -> Message {
        let (promise_us, cv, set, ask_cv, epoch, re_incarnation, re_seq, re_clock) = rest;
        Message {
            magic: wire::MAGIC, version: wire::VERSION, kind, from, to, link, flags, cluster: 9, generation,
            max_promise_ms, incarnation, clock, seq, promise_us, cv, set, ask_cv, epoch, re_incarnation, re_seq, re_clock,
            ..Message::default()
        }
    }
}

/// What only the agent may write.
fn agents(sh: &Shared) -> Vec<u64> {
    let own = [
        &sh.layout,
        &sh.incarnation,
        &sh.vote_after,
        &sh.id,
        &sh.cluster,
        &sh.generation,
        &sh.digest,
        &sh.port,
        &sh.max_promise,
        &sh.voters,
        &sh.majority,
        &sh.run_cv,
        &sh.epoch,
        &sh.cv_max,
        &sh.seq,
        &sh.epoch_max,
        &sh.pause_until,
    ];
    let peers = sh.peers.iter().flat_map(|p| {
        let c = p
            .claim
            .each_ref()
            .map(|c| [c.cv.load()].into_iter().chain(c.set.load().0));
        let [a, b] = c;
        [p.incarnation.load(), p.min_cv.load()]
            .into_iter()
            .chain(a)
            .chain(b)
    });
    let slots = sh.slots.iter().flat_map(|s| {
        [
            s.sent.load(),
            s.lease.load(),
            s.cv.load(),
            s.word.load() >> 32,
        ]
    });
    own.iter()
        .map(|c| c.load())
        .chain(sh.run_set.load().0)
        .chain(peers)
        .chain(slots)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_read_and_judged(bytes in proptest::collection::vec(any::<u8>(), LEN), key: (u64, u64)) {
        let bytes: &[u8; LEN] = bytes.as_slice().try_into().expect("LEN bytes");
        let m = Message::from_bytes(bytes);
        prop_assert_eq!(&m.to_bytes(), bytes);
        // Whatever its MAC: this one was not signed.
        prop_assert_ne!(m.mac, m.expected_mac(Key(key.0, key.1)));
        let _ = kernel::precheck(&table(), &m);
    }

    #[test]
    fn the_kernel_keeps_its_word(
        messages in proptest::collection::vec((message(), 0u64..20_000_000), 1..60),
        waits in any::<bool>(),
    ) {
        let sh = table();
        let agents_before = agents(&sh);
        if waits {
            sh.vote_after.store(u64::MAX);
        }
        let mut now = NOW;
        for (mut m, dt) in messages {
            now += dt;
            if kernel::precheck(&sh, &m).is_err() {
                prop_assert!(m.from == 0 || m.from > 32);
                continue;
            }
            let words: Vec<_> = sh.peers.iter().map(|p| PromiseWord(p.word.load())).collect();
            let (gate, lease, halted) = (sh.gate.load(), sh.lease(), sh.halted.load());
            let verdict = kernel::on_message(&sh, &m, now, Rules::all());
            let acked = matches!(verdict, Verdict::Ack | Verdict::AckAndDeliver);

            for (i, (old, p)) in words.iter().zip(&sh.peers).enumerate() {
                let new = PromiseWord(p.word.load());
                // Rule 2, and only for whom the message is from.
                prop_assert!(new.expiry_ns() >= old.expiry_ns() && new.generation() == old.generation());
                prop_assert_eq!(new.is_closed(), old.is_closed());
                if new != *old {
                    prop_assert!(acked && i + 1 == usize::from(m.from));
                    prop_assert!(new.expiry_ns() <= now + sh.max_promise.load() + 1_024);
                }
            }
            if acked {
                let p = sh.peer(m.from);
                prop_assert!(halted == 0 && !waits, "only a voter acks");
                prop_assert_eq!(m.kind, Kind::Heartbeat as u8);
                prop_assert_eq!((m.cv, m.set, m.incarnation, m.generation), (CV, Set::of(GROUP), PEER_INCARNATION, GENERATION));
                prop_assert!(PromiseWord(p.word.load()).expiry_ns() >= now + u64::from(m.promise_us) * 1_000);
            }
            prop_assert!(sh.gate.load().minus(gate).is_empty(), "the kernel opens no gate");
            if sh.gate.load() != gate {
                prop_assert!(matches!(verdict, Verdict::GateShut | Verdict::Duplicate));
            }
            if sh.halted.load() != halted {
                prop_assert_eq!(verdict, Verdict::Duplicate);
                prop_assert!(m.from == ME && m.incarnation > MY_INCARNATION && sh.gate.load().is_empty());
            }
            if sh.lease() != lease {
                prop_assert!(sh.lease().expiry_ns() > lease.expiry_ns() && sh.lease().is_for(CV));
                prop_assert_eq!((verdict, m.kind, m.cv), (Verdict::Done, Kind::Ack as u8, CV));
                let votes = sh.slot(m.re_seq).word.load() as u32 | if waits || halted != 0 { 0 } else { node_bit(ME) };
                prop_assert!((votes & 0b1_1111).count_ones() >= 3, "a majority");
            }
            if acked {
                let sent = m;
                kernel::make_ack(&sh, &mut m, now);
                prop_assert_eq!((m.kind, m.from, m.to), (Kind::Ack as u8, ME, sent.from));
                prop_assert_eq!((m.re_seq, m.re_clock, m.re_incarnation), (sent.seq, sent.clock, sent.incarnation));
                prop_assert_eq!((m.promise_us, m.cv, m.set), (sent.promise_us, sent.cv, sent.set));
            }
        }
        let mut agents_after = agents(&sh);
        // vote_after, which this test itself wrote.
        agents_after[2] = agents_before[2];
        prop_assert_eq!(agents_after, agents_before);
    }
}
