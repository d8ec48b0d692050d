//! Messages from several nodes over a table in any state: the kernel half keeps its word.

use agent_common::{
    Set,
    kernel::{self, Verdict},
    keys::{Keys, key_id},
    node_bit,
    record::Counter,
    rules::Rules,
    siphash::Key,
    state::{LeaseWord, PromiseWord, Shared},
    wire::{self, Form, Kind, LEN, Message},
};
use arbitrary::{Arbitrary, Result, Unstructured};

use crate::input::{
    CLUSTER, CV, GENERATION, MAX_PROMISE_MS, ME, MY_INCARNATION, PEER_INCARNATION, message, noise,
    set,
};

const START: u64 = 1 << 50;

/// Runs one input: raw bytes as a datagram and as a message, then a sequence of messages made of them.
pub fn run(data: &[u8]) {
    datagram(data);
    raw(data);
    let _ = sequence(&mut Unstructured::new(data));
}

/// Seeds: raw messages, and noise for the sequences.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut m = Message {
        magic: wire::MAGIC,
        version: wire::VERSION,
        kind: Kind::Heartbeat as u8,
        from: 2,
        cluster: CLUSTER,
        generation: GENERATION,
        max_promise_ms: MAX_PROMISE_MS,
        incarnation: PEER_INCARNATION,
        promise_us: 50_000,
        cv: CV,
        set: Set::of(3),
        ..Message::default()
    };
    let mut all = noise(6, 1500);
    for kind in [Kind::Heartbeat, Kind::Ack, Kind::Grant] {
        for version in [wire::VERSION, wire::VERSION - 1] {
            for keys in [one(), both()] {
                m.kind = kind as u8;
                m.version = version;
                let mut out = [0; LEN];
                let len = m.seal(&keys, &mut out);
                all.push(out[..len].to_vec());
            }
        }
    }
    all
}

fn one() -> Keys {
    Keys::new(Key(1, 2), None)
}

/// In the middle of a rotation: the new key signs, the old one is still good.
fn both() -> Keys {
    Keys::new(Key(3, 4), Some(Key(1, 2)))
}

/// Any bytes as the payload of a datagram.
fn datagram(data: &[u8]) {
    let m = match Message::read(data) {
        Ok(m) => m,
        Err(why) => {
            let fits = Form::of_len(data.len()).is_some();
            let want = if data.len() > LEN {
                Counter::Oversized
            } else {
                Counter::Truncated
            };
            assert_eq!(why, want);
            // A form that is there and not taken: the kind or the version has none like it.
            assert!(!fits || data.len() != LEN, "any full message is read");
            assert_eq!(Message::open(data, &both()), Err(why));
            return;
        }
    };
    let form = Form::of_len(data.len()).expect("it was read");
    let mut out = [0; LEN];
    assert_eq!(m.write(form, &mut out), data.len());
    assert_eq!(&out[..data.len()], data, "round trip");
    match Message::open(data, &both()) {
        Ok(opened) => assert_eq!(opened, m),
        Err(Counter::UnknownKey) => {
            assert!(m.version > 1 || m.flags & wire::flags::NEXT != 0);
            assert!(![key_id(Key(1, 2)), key_id(Key(3, 4))].contains(&m.key_id));
        }
        Err(why) => assert_eq!(why, Counter::Forged),
    }
    seal(m);
}

/// A message that is sent is the message that arrives.
fn seal(mut m: Message) {
    let mut out = [0; LEN];
    let len = m.seal(&one(), &mut out);
    let form = m.form();
    assert_eq!(len, form.len());
    assert!(form.fits(m.version, m.kind));
    let names = m.version > 1 || m.flags & wire::flags::NEXT != 0;
    let got = Message::open(&out[..len], &one()).expect("our own");
    assert_eq!((m.key_id, m.other_key), (key_id(Key(1, 2)), 0));
    match form {
        Form::Full => assert_eq!(got, m),
        Form::Beat => {
            let (ask_set, re_incarnation, re_seq, re_clock) = Default::default();
            let (soft, soft_version) = Default::default();
            assert_eq!(
                got,
                Message {
                    ask_set,
                    re_incarnation,
                    re_seq,
                    re_clock,
                    soft,
                    soft_version,
                    ..m
                }
            );
        }
        Form::Ack => {
            let head = |m: &Message| {
                (
                    (m.magic, m.version, m.kind, m.from, m.to, m.link, m.flags),
                    (m.cluster, m.generation, m.digest, m.max_promise_ms),
                    (m.incarnation, m.clock, m.promise_us, m.key_id, m.other_key),
                    (m.cv, m.re_incarnation, m.re_seq, m.re_clock, m.mac),
                )
            };
            assert_eq!(head(&got), head(&m));
            assert!(got.set.is_empty() && got.ask_cv == 0 && got.seq == 0);
        }
    }
    // Who is in the middle of a rotation reads it, if it says which key it is signed with; nobody else does.
    let other = Message::open(&out[..len], &both());
    assert_eq!(other.is_ok(), names);
    assert!(Message::open(&out[..len], &Keys::new(Key(5, 6), None)).is_err());
    let at = m.mac as usize % (len - 8);
    out[at] ^= 1 | (m.mac >> 56) as u8;
    assert!(
        Message::open(&out[..len], &one()).is_err(),
        "byte {at} is signed"
    );
}

fn raw(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<LEN>() else {
        return;
    };
    let mut m = Message::from_bytes(bytes);
    assert_eq!(&m.to_bytes(), bytes, "round trip");
    let sh = Shared::default();
    sh.cluster.store(u64::from(m.cluster));
    let passed = kernel::precheck(&sh, &m).is_ok();
    let want = m.magic == wire::MAGIC && wire::version_ok(m.version) && (1..=32).contains(&m.from);
    assert_eq!(passed, want, "precheck");
    let key = Key(m.soft, m.seq);
    m.sign(key);
    assert_eq!(Message::from_bytes(&m.to_bytes()).expected_mac(key), m.mac);
    let i = usize::from(bytes[LEN - 1]) % (LEN - 8);
    let mut forged = m.to_bytes();
    forged[i] ^= 1 | bytes[LEN - 2];
    let forged = Message::from_bytes(&forged);
    assert_ne!(forged.mac, forged.expected_mac(key), "byte {i} is signed");
}

/// A table as any history may leave it.
fn table(u: &mut Unstructured<'_>) -> Result<Shared> {
    let sh = Shared::default();
    sh.id.store(u64::from(ME));
    sh.incarnation.store(MY_INCARNATION);
    sh.cluster.store(u64::from(CLUSTER));
    sh.generation.store(u64::from(GENERATION));
    sh.max_promise.store(u64::from(MAX_PROMISE_MS) * 1_000_000);
    let voters = u32::from(u8::arbitrary(u)?) | 0b110;
    sh.voters.store(u64::from(voters));
    sh.majority.store(u64::from(voters.count_ones() / 2 + 1));
    sh.run_cv.store(CV - 1 + u64::from(u8::arbitrary(u)? & 1));
    sh.epoch.store(u64::from(u8::arbitrary(u)?));
    sh.halted.store(u64::from(u8::arbitrary(u)? < 16));
    let when = |u: &mut Unstructured<'_>| -> Result<u64> {
        let ms = u64::from(u16::arbitrary(u)?);
        Ok(START - 10_000_000_000 + ms * 1_000_000)
    };
    if u8::arbitrary(u)? < 64 {
        sh.vote_after.store(when(u)?);
    }
    sh.gate.store(set(u)?);
    sh.lease
        .store(LeaseWord::until(when(u)?, CV - 1 + u64::from(u8::arbitrary(u)? & 1)).0);
    for seq in 60..66 {
        let s = sh.slot(seq);
        s.word.store(seq << 32 | u64::from(u8::arbitrary(u)?));
        s.sent.store(START - 1_000_000);
        s.lease.store(40_000_000);
        s.cv.store(CV);
    }
    for id in 2..6 {
        let p = sh.peer(id);
        p.incarnation
            .store(PEER_INCARNATION - 1 + u64::from(u8::arbitrary(u)? & 1));
        let generation = u64::from(u16::arbitrary(u)?);
        p.word.store(match u8::arbitrary(u)? {
            0..64 => PromiseWord::closed(generation).0,
            64..128 => 1,
            _ => PromiseWord::open(when(u)?, generation).0,
        });
        for claim in &p.claim {
            if bool::arbitrary(u)? {
                claim.set.store(set(u)?);
                claim.cv.store(CV - 1 + u64::from(u8::arbitrary(u)? & 3));
            }
        }
        if bool::arbitrary(u)? {
            p.heard[0].store(when(u)?);
            p.hi_clock.store(when(u)?);
        }
    }
    Ok(sh)
}

fn sequence(u: &mut Unstructured<'_>) -> Result<()> {
    let sh = table(u)?;
    let mut now = START;
    let before = agents(&sh);
    while !u.is_empty() {
        now += u64::from(u16::arbitrary(u)?) * 1_000;
        let m = message(u, now)?;
        if kernel::precheck(&sh, &m).is_err() {
            continue;
        }
        step(&sh, &m, now);
    }
    assert!(
        agents(&sh) == before,
        "the kernel writes its own words only"
    );
    Ok(())
}

fn step(sh: &Shared, m: &Message, now: u64) {
    let words: Vec<_> = sh
        .peers
        .iter()
        .map(|p| PromiseWord(p.word.load()))
        .collect();
    let (gate, lease, halted, voted) =
        (sh.gate.load(), sh.lease(), sh.halted.load(), sh.votes(now));
    let verdict = kernel::on_message(sh, m, now, Rules::all());
    let acked = matches!(verdict, Verdict::Ack | Verdict::AckAndDeliver);
    for (i, (old, p)) in words.iter().zip(&sh.peers).enumerate() {
        let new = PromiseWord(p.word.load());
        assert!(new.expiry_ns() >= old.expiry_ns(), "promises only grow");
        assert_eq!(new.generation(), old.generation());
        assert_eq!(new.is_closed(), old.is_closed(), "closed stays closed");
        if new != *old {
            assert!(
                acked && i + 1 == usize::from(m.from),
                "for the sender alone"
            );
            assert!(new.expiry_ns() <= now + sh.max_promise.load() + 1_024);
        }
    }
    if acked {
        let p = sh.peer(m.from);
        assert!(voted, "only a voter acks");
        let voters = sh.voters.load() as u32;
        assert!(voters & node_bit(ME) != 0 && voters & node_bit(m.from) != 0);
        assert_eq!(m.kind, Kind::Heartbeat as u8);
        assert_eq!(u64::from(m.generation), sh.generation.load());
        assert_eq!(m.incarnation, p.incarnation.load());
        assert!(m.promise_us as u64 * 1_000 <= sh.max_promise.load());
        assert!(
            m.cv != 0
                && p.claim
                    .iter()
                    .any(|c| c.cv.load() == m.cv && c.set.load() == m.set),
            "only what was granted"
        );
        let word = PromiseWord(p.word.load());
        assert!(!word.is_closed() && word.expiry_ns() >= now + u64::from(m.promise_us) * 1_000);
        let mut ack = *m;
        kernel::make_ack(sh, &mut ack, now);
        assert_eq!((ack.kind, ack.from, ack.to), (Kind::Ack as u8, ME, m.from));
        assert_eq!(
            (ack.re_seq, ack.re_clock, ack.re_incarnation),
            (m.seq, m.clock, m.incarnation)
        );
        assert_eq!(
            (ack.promise_us, ack.cv, ack.set),
            (m.promise_us, m.cv, m.set)
        );
    }
    assert!(
        sh.gate.load().minus(gate).is_empty(),
        "the kernel opens no gate"
    );
    if sh.gate.load() != gate {
        assert!(matches!(verdict, Verdict::GateShut | Verdict::Duplicate));
    }
    if sh.halted.load() != halted {
        assert_eq!(verdict, Verdict::Duplicate);
        assert!(m.from == ME && m.incarnation > MY_INCARNATION && sh.gate.load().is_empty());
    }
    if sh.lease() != lease {
        assert!(lease.holds(now), "a lapsed lease is lost");
        assert!(sh.lease().expiry_ns() > lease.expiry_ns() && sh.lease().is_for(m.cv));
        assert_eq!(
            (verdict, m.kind, m.cv),
            (Verdict::Done, Kind::Ack as u8, sh.run_cv.load())
        );
        let s = sh.slot(m.re_seq);
        assert!(sh.lease().expiry_ns() <= s.sent.load() + s.lease.load());
        let votes = s.word.load() as u32 | if voted { node_bit(ME) } else { 0 };
        let votes = u64::from((votes & sh.voters.load() as u32).count_ones());
        assert!(votes >= sh.majority.load(), "a majority");
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
        let [a, b] = p
            .claim
            .each_ref()
            .map(|c| [c.cv.load()].into_iter().chain(c.set.load().0));
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
