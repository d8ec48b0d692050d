//! The kernel's half of the lease on the real-time thread: what the XDP program does with a heartbeat is done here with a
//! datagram, by the same functions.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use agent_common::{
    kernel::{self, Verdict},
    keys::Keys,
    record::{COUNTER_COUNT, Counter, Record, RecordKind},
    rules::Rules,
    state::Shared,
    wire::{Kind, LEN, Message},
};

use super::{Gate, GateStats};

/// The counters, by [`Counter`].
#[derive(Debug)]
pub struct Counts([AtomicU64; COUNTER_COUNT as usize]);

impl Default for Counts {
    fn default() -> Self {
        Counts(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counts {
    fn add(&self, c: Counter) {
        if let Some(n) = self.0.get(c as usize) {
            n.fetch_add(1, Relaxed);
        }
    }
    /// How often this was counted.
    pub fn get(&self, c: Counter) -> u64 {
        self.0.get(c as usize).map_or(0, |n| n.load(Relaxed))
    }
}

/// What a datagram came to.
#[derive(Default)]
pub struct Taken {
    /// What the core must hear.
    pub record: Option<Record>,
    /// The ack to send back, and its length.
    pub ack: Option<([u8; LEN], usize)>,
}

/// The receiving end of this data path; one thread has it.
pub struct Source {
    counts: Arc<Counts>,
    gate: Gate,
}

impl Source {
    pub(super) fn new(counts: Arc<Counts>, gate: Gate) -> Source {
        Source { counts, gate }
    }

    /// The gate's keeper.
    pub fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// Takes one datagram that arrived at a link's address and port. `now` is read after it was received.
    pub fn take(&self, sh: &Shared, keys: &Keys, bytes: &[u8], now: u64) -> Taken {
        match self.verdict(sh, keys, bytes, now) {
            Ok(taken) => {
                if taken.record.is_some() {
                    self.counts.add(Counter::ToUser);
                }
                if taken.ack.is_some() {
                    self.counts.add(Counter::AcksOut);
                }
                taken
            }
            Err(counter) => {
                self.counts.add(counter);
                Taken::default()
            }
        }
    }

    fn verdict(&self, sh: &Shared, keys: &Keys, bytes: &[u8], now: u64) -> Result<Taken, Counter> {
        kernel::precheck(sh, &Message::read(bytes)?)?;
        let mut m = Message::open(bytes, keys)?;
        let record = |kind: RecordKind| {
            Some(Record {
                kind: kind as u32,
                ifindex: 0,
                now,
                message: m,
            })
        };
        let (record, ack) = match kernel::on_message(sh, &m, now, Rules::all()) {
            Verdict::Drop(c) => return Err(c),
            Verdict::Done => {
                self.counts.add(Counter::AcksIn);
                return Ok(Taken::default());
            }
            Verdict::Ack => (None, true),
            Verdict::AckAndDeliver => (record(RecordKind::Message), true),
            Verdict::Deliver => (record(RecordKind::Message), false),
            Verdict::GateShut => (record(RecordKind::GateShut), false),
            Verdict::Duplicate => (record(RecordKind::DuplicateId), false),
            Verdict::Regression => {
                self.counts.add(Counter::Regressed);
                return Ok(Taken {
                    record: record(RecordKind::Regression),
                    ack: None,
                });
            }
        };
        if m.kind == Kind::Heartbeat as u8 {
            self.counts.add(Counter::HeartbeatsIn);
        }
        let ack = ack.then(|| {
            kernel::make_ack(sh, &mut m, now);
            let mut bytes = [0; LEN];
            let length = m.seal(keys, &mut bytes);
            (bytes, length)
        });
        Ok(Taken { record, ack })
    }

    /// Makes the kernel's gate what the table says; see [`Gate::settle`].
    pub fn settle(&mut self, sh: &Shared) -> bool {
        self.gate.settle(sh)
    }

    /// What the gate counts.
    pub fn stats(&self) -> &Arc<GateStats> {
        self.gate.stats()
    }
}
