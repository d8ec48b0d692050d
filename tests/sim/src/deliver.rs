//! Messages on their way: the network's choice, the real kernel half on arrival, the ring to the agent.

use agent_common::{
    kernel::{self, Verdict},
    record::{Record, RecordKind},
    wire::Message,
};

use crate::{
    check::hex,
    node::RING,
    queue::What,
    world::{World, say},
};

impl World {
    /// A message reaches a kernel.
    pub(crate) fn arrive(&mut self, i: usize, from: u8, m: Message) {
        let n = &self.nodes[i];
        let now = n.clock.at(self.t);
        if kernel::precheck(&n.sh, &m).is_err() {
            return;
        }
        let verdict = kernel::on_message(&n.sh, &m, now, self.o.rules);
        self.arrived(i, from, m, verdict);
    }

    /// What the kernel's half makes of a message that has arrived now.
    pub(crate) fn arrived(&mut self, i: usize, from: u8, mut m: Message, verdict: Verdict) {
        let now = self.nodes[i].clock.at(self.t);
        self.hash =
            (self.hash ^ m.seq ^ u64::from(m.from) << 40).wrapping_mul(0x517c_c1b7_2722_0a95);
        if self.o.trace && !matches!(verdict, Verdict::Done) {
            say!(
                self,
                "n{} <- n{} {} {verdict:?}",
                i + 1,
                m.from,
                describe(&m)
            );
        }
        let (kind, ack) = match verdict {
            Verdict::Drop(_) | Verdict::Done => return,
            Verdict::Ack => (None, true),
            Verdict::AckAndDeliver => (Some(RecordKind::Message), true),
            Verdict::Deliver => (Some(RecordKind::Message), false),
            Verdict::GateShut => (Some(RecordKind::GateShut), false),
            Verdict::Duplicate => (Some(RecordKind::DuplicateId), false),
            Verdict::Regression => (Some(RecordKind::Regression), false),
        };
        if let Some(kind) = kind {
            let late = self.lateness();
            let n = &mut self.nodes[i];
            if n.ring.len() < RING {
                n.ring.push_back(Record {
                    kind: kind as u32,
                    ifindex: u32::from(m.link),
                    now,
                    message: m,
                });
            } else {
                n.ring_lost += 1;
            }
            if n.core.is_some() && n.paused_until == 0 && !n.ring_armed {
                n.ring_armed = true;
                self.queue.push(self.t + late, n.id, n.life, What::Ring);
            }
        }
        if ack {
            let sh = &self.nodes[i].sh;
            kernel::make_ack(sh, &mut m, now);
            if let Err(v) = self.promised(i, &m) {
                self.fail(v);
            }
            let link = m.link;
            // Bounced to where it came from, whoever that says it is.
            self.transmit(i as u8 + 1, from, link, &m);
        }
    }

    /// How late a thread wakes up.
    #[inline]
    pub(crate) fn lateness(&mut self) -> u64 {
        let unit = self.o.unit();
        let r = &mut self.rng_late;
        if self.o.weather.spikes > 0 && r.chance(5) {
            r.between(60_000, 60_000 + 4 * unit)
        } else {
            r.between(4_000, 60_000)
        }
    }

    pub(crate) fn drain_ring(&mut self, i: usize) {
        while let Some(r) = self.nodes[i].ring.pop_front() {
            if self.nodes[i].core.is_none() {
                return;
            }
            self.call(i, |core, now| core.handle_record(&r, now));
        }
    }

    pub(crate) fn send(&mut self, from: u8, to: u8, m: &Message) {
        for link in 0..self.o.shape.links {
            let mut copy = *m;
            copy.link = link;
            self.transmit(from, to, link, &copy);
        }
    }

    /// The recorder plays a silent node's last heartbeat to everybody else.
    pub(crate) fn replay(&mut self) {
        let node = self.recorder.node;
        if self.healed || node == 0 {
            return;
        }
        let silent = self.t > self.nodes[node as usize - 1].last_beat + 5 * self.o.unit();
        if let Some(m) = self.recorder.last.filter(|_| silent) {
            for to in (1..=self.nodes.len() as u8).filter(|to| *to != node) {
                self.queue.push_message(self.t + 50_000, node, to, &m);
            }
        }
        self.queue
            .push(self.t + 2 * self.o.unit(), 0, 0, What::Replay);
    }

    #[inline]
    fn transmit(&mut self, from: u8, to: u8, link: u8, m: &Message) {
        self.messages += 1;
        for delay in self
            .net
            .delays(from, to, link, m.kind, &mut self.rng_net)
            .into_iter()
            .flatten()
        {
            self.queue.push_message(self.t + delay, from, to, m);
        }
    }
}

fn describe(m: &Message) -> String {
    let kind = agent_common::wire::Kind::from_u8(m.kind);
    format!(
        "{kind:?} seq {} clock {:.3} inc {} cv {} set {} ask {} set {} promise {} ms flags {:x} re {}",
        m.seq,
        m.clock as f64 / 1e6,
        m.incarnation / 1_000_000 % 1_000_000,
        m.cv,
        hex(m.set),
        m.ask_cv,
        hex(m.ask_set),
        m.promise_us / 1000,
        m.flags,
        m.re_seq
    )
}
