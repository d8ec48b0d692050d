//! The event queue: virtual time, ties in the order of scheduling; messages in a slab, so that nothing is allocated.

use std::{cmp::Reverse, collections::BinaryHeap};

use agent_common::wire::Message;

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A message reaches a node's kernel: its place in the slab, and the node that sent it.
    Arrive(u32, u8),
    /// The agent's timer fires.
    Timer,
    /// The agent sees that records wait for it.
    Ring,
    /// A paused agent goes on.
    Resume,
    /// A dead agent starts again over the same table.
    Restart,
    /// A node is up again, with nothing in memory.
    Up,
    /// A leaving agent has waited long enough.
    LeaveTimeout,
    /// The next random fault.
    Fault,
    /// The next step of a directed history.
    Script(u32),
    /// The recorder plays a silent node's last words.
    Replay,
    /// A file of this generation is copied to a node and read.
    Reload(u32),
    /// A node's gate follows a generation that it has entered.
    Map,
    /// A group's services have been started or stopped, or not.
    Service(u8),
    /// A phase of the run begins.
    Phase(u8),
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// True time, ns.
    pub at: u64,
    /// The node concerned.
    pub node: u8,
    /// Life of the node (or arming of the timer) that it was meant for.
    pub life: u32,
    /// What happens.
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
struct Entry(u64, u64, Event);
impl PartialEq for Entry {
    fn eq(&self, o: &Entry) -> bool {
        (self.0, self.1) == (o.0, o.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, o: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Entry {
    fn cmp(&self, o: &Entry) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(o.0, o.1))
    }
}

/// Events to come.
#[derive(Debug, Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    count: u64,
    slab: Vec<Message>,
    free: Vec<u32>,
}

impl Queue {
    /// Schedules an event.
    #[inline]
    pub fn push(&mut self, at: u64, node: u8, life: u32, what: What) {
        self.count += 1;
        self.heap.push(Reverse(Entry(
            at,
            self.count,
            Event {
                at,
                node,
                life,
                what,
            },
        )));
    }
    /// Schedules a message's arrival.
    #[inline]
    pub fn push_message(&mut self, at: u64, from: u8, to: u8, m: &Message) {
        let slot = if let Some(s) = self.free.pop() {
            self.slab[s as usize] = *m;
            s
        } else {
            self.slab.push(*m);
            self.slab.len() as u32 - 1
        };
        self.push(at, to, 0, What::Arrive(slot, from));
    }
    /// The next event.
    #[inline]
    pub fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse(e)| e.2)
    }
    /// Puts back an event that was taken too early, before all others of its time.
    pub fn push_again(&mut self, e: Event) {
        self.heap.push(Reverse(Entry(e.at, 0, e)));
    }
    /// Takes a message out.
    #[inline]
    pub fn take(&mut self, slot: u32) -> Message {
        self.free.push(slot);
        self.slab[slot as usize]
    }
}
