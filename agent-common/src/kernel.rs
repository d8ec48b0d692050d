//! The half of the lease that runs in the kernel, also when the agent is stopped: promise and ack, ack counting,
//! replay windows, the second line of defence. Pure functions over [`Shared`]; the eBPF program, the simulator and
//! the plain-socket path call the same code.

use crate::{
    keys, node_bit,
    record::Counter,
    rules::{Rule, Rules},
    state::{LeaseWord, PeerCell, PromiseWord, Shared},
    wire::{self, Kind, Message, flags},
};

/// How far back a sender's clock may jump between two messages before it counts as a rollback, ns.
/// Reordering over several links stays far below.
pub const CLOCK_TOLERANCE: u64 = 150_000_000;

/// A copy of a heartbeat on its own link is taken for the network's within this part of the promise asked for, after
/// the newest one heard there.
pub const COPY_PART: u64 = 8;

/// What to do with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Count it and drop it.
    Drop(Counter),
    /// Handled here; nothing more to do.
    Done,
    /// Send it back as an ack (see [`make_ack`]).
    Ack,
    /// Send it back as an ack, and hand it to user space, too.
    AckAndDeliver,
    /// Hand it to user space.
    Deliver,
    /// Gate bits were shut by a higher epoch: hand it to user space as such.
    GateShut,
    /// Our own id from elsewhere: all gates are shut, voting has stopped.
    Duplicate,
    /// The sender went back in time.
    Regression,
}

/// Checks that need no key: size is the caller's, this is magic, version, cluster, sender.
#[inline(always)]
pub fn precheck(sh: &Shared, m: &Message) -> Result<(), Counter> {
    let words = m.words();
    precheck_head(sh, words[0], words[1])
}

/// As [`precheck`], of the first two words of a message: what floods in is refused before more is read.
#[inline(always)]
pub fn precheck_head(sh: &Shared, head: u64, cluster: u64) -> Result<(), Counter> {
    if head as u16 != wire::MAGIC {
        return Err(Counter::BadMagic);
    }
    if !wire::version_ok((head >> 16) as u8) {
        return Err(Counter::BadVersion);
    }
    if cluster as u32 as u64 != sh.cluster.load() {
        return Err(Counter::OtherCluster);
    }
    let from = (head >> 32) as u8;
    if from == 0 || from as usize > crate::MAX_NODES {
        return Err(Counter::BadSender);
    }
    Ok(())
}

/// A message whose MAC was right.
#[inline(always)]
pub fn on_message(sh: &Shared, m: &Message, now: u64, rules: Rules) -> Verdict {
    let me = sh.id.load() as u8;
    if m.from == me {
        // A frame of our own that came back through a loop is harmless, and so is a replayed one from before our
        // reboot: no voter acks an older incarnation. Another machine with our id is not.
        if m.incarnation <= sh.incarnation.load() || !rules.hold(Rule::TwinHalts) {
            return Verdict::Drop(Counter::BadSender);
        }
        sh.halted.store(1);
        let gates = sh.gate.load();
        sh.gate.remove(gates);
        return Verdict::Duplicate;
    }
    if m.to != 0 && m.to != me
        || node_bit(m.from) as u64 & sh.voters.load() == 0
            && m.generation as u64 == sh.generation.load()
    {
        return Verdict::Drop(Counter::BadSender);
    }
    if m.max_promise_ms as u64 * 1_000_000 != sh.max_promise.load()
        || m.promise_us as u64 * 1000 > sh.max_promise.load() && rules.hold(Rule::PromiseBounded)
    {
        return Verdict::Drop(Counter::BadPromise);
    }
    let p = sh.peer(m.from);
    let inc = p.incarnation.load();
    if m.incarnation < inc {
        // A replayed packet of a node that lives costs nothing. A node that is not heard under its newer incarnation
        // was set back (its wall clock was wrong at boot) and must learn that, or it could never take part again.
        let heard = p.heard[(m.link & 7) as usize].load();
        if m.kind == Kind::Heartbeat as u8 && now > heard.wrapping_add(sh.max_promise.load()) {
            return Verdict::Regression;
        }
        // Two nodes that were both set back must hear it from each other; being told costs a wait, and only the truth of
        // this incarnation is believed.
        if m.kind == Kind::Regressed as u8 && m.re_incarnation == sh.incarnation.load() {
            return Verdict::Deliver;
        }
        return Verdict::Drop(Counter::OldIncarnation);
    }
    match Kind::from_u8(m.kind) {
        Some(Kind::Ack) => on_ack(sh, p, m, now, rules),
        Some(Kind::Heartbeat) => {
            let mut copy = false;
            if m.incarnation == inc {
                if m.clock.wrapping_add(CLOCK_TOLERANCE) < p.hi_clock.load() {
                    return Verdict::Regression;
                }
                match replay(p, m) {
                    _ if !rules.hold(Rule::ReplayWindow) => {}
                    Replay::New => {}
                    // The network's own copies are acked again: acks are idempotent, and the first may have been lost.
                    // One that comes later is somebody's who holds a dead node's promise with its last words.
                    Replay::Copy => {
                        let heard = p.heard[(m.link & 7) as usize].load();
                        if now.wrapping_sub(heard) > m.promise_us as u64 * 1000 / COPY_PART {
                            return Verdict::Drop(Counter::Replayed);
                        }
                        copy = true;
                    }
                    Replay::Stale => return Verdict::Drop(Counter::Replayed),
                    Replay::Contended => return Verdict::Drop(Counter::Contended),
                }
                let hi = p.hi_clock.load();
                if m.clock > hi {
                    let _ = p.hi_clock.cas(hi, m.clock);
                }
            }
            on_heartbeat(sh, p, m, now, copy, rules)
        }
        Some(Kind::Grant | Kind::Refuse | Kind::Nack | Kind::Regressed) => {
            if m.incarnation == inc {
                match replay(p, m) {
                    _ if !rules.hold(Rule::ReplayWindow) => {}
                    Replay::New => {}
                    Replay::Copy | Replay::Stale => return Verdict::Drop(Counter::Replayed),
                    Replay::Contended => return Verdict::Drop(Counter::Contended),
                }
            }
            Verdict::Deliver
        }
        None => Verdict::Drop(Counter::BadSender),
    }
}

enum Replay {
    New,
    Copy,
    Stale,
    Contended,
}

/// Bits of the replay window's history.
const WINDOW: u64 = 24;

/// The replay window of one sender and link, in one word: 40 bits of sequence, 24 bits of history.
#[inline(always)]
fn replay(p: &PeerCell, m: &Message) -> Replay {
    let cell = &p.replay[(m.link & 7) as usize];
    let seq = m.seq & ((1 << 40) - 1);
    let mut tries = 0;
    while tries < 4 {
        let old = cell.load();
        let (top, bits) = (old >> WINDOW, old & ((1 << WINDOW) - 1));
        let new = if seq > top {
            let shift = seq - top;
            let history = if shift >= WINDOW {
                0
            } else {
                (bits << (shift & 31)) & ((1 << WINDOW) - 1)
            };
            seq << WINDOW | history | 1
        } else {
            let back = top - seq;
            if back >= WINDOW {
                return Replay::Stale;
            }
            let bit = 1u64 << (back & 31);
            if bits & bit != 0 {
                return Replay::Copy;
            }
            old | bit
        };
        if cell.cas(old, new) {
            return Replay::New;
        }
        tries += 1;
    }
    Replay::Contended
}

#[inline(always)]
fn on_heartbeat(
    sh: &Shared,
    p: &PeerCell,
    m: &Message,
    now: u64,
    copy: bool,
    rules: Rules,
) -> Verdict {
    // A copy is no sign of life, and what it says was dealt with when it was new.
    if !copy && let Some(verdict) = on_news(sh, p, m, now, rules) {
        return verdict;
    }
    let deliver = if copy {
        Verdict::Drop(Counter::Replayed)
    } else {
        Verdict::Deliver
    };
    if m.generation as u64 != sh.generation.load() && rules.hold(Rule::GenerationsApart)
        || !sh.votes(now)
        || node_bit(sh.id.load() as u8) as u64 & sh.voters.load() == 0
    {
        return deliver;
    }

    // Rule 9: the word first, then what it stands for, then swap that very word.
    let mut word = PromiseWord(p.word.load_ordered());
    if word.is_closed() || p.incarnation.load() != m.incarnation || !granted(p, m, rules) {
        return deliver;
    }
    if !rules.hold(Rule::WordFirst) {
        word = PromiseWord(p.word.load_ordered());
    }
    if !extend(p, word, now + m.promise_us as u64 * 1000, rules) {
        return Verdict::Drop(Counter::Contended);
    }
    if !copy && (m.ask_cv != 0 || m.flags & flags::SOFT != 0) {
        Verdict::AckAndDeliver
    } else {
        Verdict::Ack
    }
}

/// Notes what a heartbeat says; a verdict if that settles it.
#[inline(always)]
fn on_news(sh: &Shared, p: &PeerCell, m: &Message, now: u64, rules: Rules) -> Option<Verdict> {
    p.heard[(m.link & 7) as usize].store(now);
    p.seen_config
        .store((m.digest as u64) << 32 | m.generation as u64);
    p.seen_epoch.store(m.epoch);
    p.seen_cv.store(m.cv);
    p.seen_set.store(m.set);
    let ids = if keys::names_keys(m.version, m.flags) {
        (m.key_id as u64) << 16 | (m.other_key as u64) << 32
    } else {
        0
    };
    p.seen_flags
        .store(m.flags as u64 | (m.version as u64) << 8 | ids);
    p.seen_incarnation.store(m.incarnation);

    // Rule 11, second line of defence: somebody runs a group of ours and gained later.
    let overlap = m.set.and(sh.gate.load());
    if !overlap.is_empty()
        && m.epoch > sh.epoch.load()
        && sh.generation.load() == m.generation as u64
        && rules.hold(Rule::LaterEpochShuts)
    {
        sh.gate.remove(overlap);
        return Some(Verdict::GateShut);
    }
    None
}

/// Is the running claim of the message one that this voter granted?
#[inline(always)]
fn granted(p: &PeerCell, m: &Message, rules: Rules) -> bool {
    if !rules.hold(Rule::AckGrantedVersion) {
        return true;
    }
    let mut i = 0;
    while i < 2 {
        let c = &p.claim[i];
        if m.cv != 0
            && c.cv.load() == m.cv
            && (c.set.load() == m.set || !rules.hold(Rule::CompareSet))
        {
            return true;
        }
        i += 1;
    }
    false
}

/// Rule 2: the promise grows to `until`, or stays. False if the word was closed or contended meanwhile.
#[inline(always)]
pub fn extend(p: &PeerCell, seen: PromiseWord, until: u64, rules: Rules) -> bool {
    let new = PromiseWord::open(until, seen.generation());
    if new.expiry_ns() <= seen.expiry_ns() && rules.hold(Rule::PromisesGrow) {
        return true;
    }
    if p.word.cas(seen.0, new.0) {
        return true;
    }
    // Another CPU may have extended the same promise; one that was closed and reopened has another generation.
    let again = PromiseWord(p.word.load_ordered());
    if again.is_closed() || again.generation() != seen.generation() {
        return false;
    }
    again.expiry_ns() >= new.expiry_ns() || p.word.cas(again.0, new.0)
}

/// Turns a heartbeat into its ack, in place; the caller signs and sends it.
#[inline(always)]
pub fn make_ack(sh: &Shared, m: &mut Message, now: u64) {
    // In the version of the heartbeat: its sender knows no newer one, or has not heard yet that we do.
    m.flags = if m.version < wire::VERSION {
        flags::NEXT
    } else {
        0
    };
    m.kind = Kind::Ack as u8;
    m.to = m.from;
    m.from = sh.id.load() as u8;
    m.digest = sh.digest.load() as u32;
    m.re_incarnation = m.incarnation;
    m.re_seq = m.seq;
    m.re_clock = m.clock;
    m.incarnation = sh.incarnation.load();
    m.clock = now;
    m.epoch = sh.epoch.load();
    m.ask_cv = 0;
    m.soft = 0;
    m.soft_version = 0;
}

#[inline(always)]
fn on_ack(sh: &Shared, p: &PeerCell, m: &Message, now: u64, rules: Rules) -> Verdict {
    if m.to != sh.id.load() as u8
        || m.re_incarnation != sh.incarnation.load()
        || m.generation as u64 != sh.generation.load() && rules.hold(Rule::GenerationsApart)
    {
        return Verdict::Drop(Counter::StaleAck);
    }
    if m.incarnation == p.incarnation.load()
        && m.clock.wrapping_add(CLOCK_TOLERANCE) < p.hi_clock.load()
    {
        return Verdict::Regression;
    }
    if !count_ack(sh, m.from, m.re_seq, m.re_clock, m.cv, now, rules) {
        return Verdict::Drop(Counter::StaleAck);
    }
    p.acked.store(now);
    p.rtt.store(now.wrapping_sub(m.re_clock));
    Verdict::Done
}

/// Rule 8: counts one ack for the heartbeat `seq` and extends the lease at a majority.
/// False if the ack fits no heartbeat in flight.
#[inline(always)]
pub fn count_ack(
    sh: &Shared,
    from: u8,
    seq: u64,
    sent: u64,
    cv: u64,
    now: u64,
    rules: Rules,
) -> bool {
    let s = sh.slot(seq);
    let mut bits = 0u32;
    let mut tries = 0;
    let mut counted = false;
    while tries < 4 && !counted {
        let old = s.word.load_ordered();
        let other = (old >> 32) as u32 != seq as u32 || s.sent.load() != sent || s.cv.load() != cv;
        if other && rules.hold(Rule::AckPerHeartbeat) {
            return false;
        }
        bits = old as u32 | node_bit(from);
        counted = old as u32 == bits || s.word.cas(old, old | bits as u64);
        tries += 1;
    }
    if !counted {
        return false;
    }
    let own = if sh.votes(now) {
        node_bit(sh.id.load() as u8)
    } else {
        0
    };
    let votes = (bits | own) & sh.voters.load() as u32;
    if (count_bits(votes) as u64) < sh.majority.load() {
        return true;
    }
    let expiry = s.sent.load().wrapping_add(s.lease.load());
    let mut tries = 0;
    while tries < 4 {
        let old = sh.lease();
        // Rule 7: a lapsed lease is lost, whether or not the agent has seen it lapse.
        if !old.holds(now) && rules.hold(Rule::LapsedIsLost) {
            return true;
        }
        let running = sh.run_cv.load();
        if rules.hold(Rule::AckRunningVersion) && (running != cv || !old.is_for(cv)) {
            return true;
        }
        let new = LeaseWord::until(
            expiry,
            if rules.hold(Rule::AckRunningVersion) {
                cv
            } else {
                running
            },
        );
        if new.expiry_ns() <= old.expiry_ns() || sh.lease.cas(old.0, new.0) {
            return true;
        }
        tries += 1;
    }
    true
}

/// Population count without the multiplication table that LLVM would put into read-only data.
#[inline(always)]
fn count_bits(v: u32) -> u32 {
    let v = v - ((v >> 1) & 0x5555_5555);
    let v = (v & 0x3333_3333) + ((v >> 2) & 0x3333_3333);
    let v = (v + (v >> 4)) & 0x0f0f_0f0f;
    (v.wrapping_mul(0x0101_0101)) >> 24
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Set;

    fn owner() -> Shared {
        let sh = Shared::default();
        sh.id.store(1);
        sh.voters.store(0b111);
        sh.majority.store(2);
        sh.run_cv.store(4);
        sh.run_set.store(Set::of(0));
        sh.gate.store(Set::of(0));
        sh.lease.store(LeaseWord::until(140_000_000, 4).0);
        for (seq, sent) in [(7u64, 120_000_000u64), (8, 130_000_000)] {
            let s = sh.slot(seq);
            s.word.store(seq << 32);
            s.sent.store(sent);
            s.lease.store(40_000_000);
            s.cv.store(4);
        }
        sh
    }

    /// Rule 7: late acks woke a lapsed lease, and the agent, had it been frozen, would never have known.
    #[test]
    fn a_lapsed_lease_is_not_extended() {
        let sh = owner();
        assert!(count_ack(
            &sh,
            2,
            7,
            120_000_000,
            4,
            139_000_000,
            Rules::all()
        ));
        assert!(sh.gate_open(0, 155_000_000));
        assert!(count_ack(
            &sh,
            3,
            8,
            130_000_000,
            4,
            165_000_000,
            Rules::all()
        ));
        assert!(!sh.gate_open(0, 166_000_000));
    }

    /// Rule 8: an ack counts for the heartbeat that it acks, and for the running version.
    #[test]
    fn an_ack_of_something_else_does_not_count() {
        for (seq, sent, cv) in [
            (8, 120_000_000, 4),
            (7 + 64, 120_000_000, 4),
            (7, 120_000_000, 3),
        ] {
            let sh = owner();
            assert!(!count_ack(&sh, 2, seq, sent, cv, 130_000_000, Rules::all()));
            assert_eq!(sh.lease().expiry_ns() >> 20, 140_000_000 >> 20);
        }
        let sh = owner();
        sh.run_cv.store(5);
        assert!(count_ack(
            &sh,
            2,
            8,
            130_000_000,
            4,
            131_000_000,
            Rules::all()
        ));
        assert_eq!(sh.lease().expiry_ns() >> 20, 140_000_000 >> 20);
    }
}
