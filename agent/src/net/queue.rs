//! The bounded queues to and from the address thread, each with an eventfd that wakes the reader.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use rtrb::{Consumer, Producer, RingBuffer};

use super::{NetCommand, NetControl, NetError, NetEvent, NetStats};

const COMMANDS: usize = 1024;
const EVENTS: usize = 1024;

pub(crate) fn eventfd() -> Result<Arc<EventFd>, NetError> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(Arc::new)
        .map_err(|errno| NetError::Socket {
            doing: "open an eventfd",
            source: errno.into(),
        })
}

/// What waits in the sender for one group, while the queue is full.
#[derive(Clone, Copy, Default)]
struct Waiting {
    change: Option<NetCommand>,
    announce: bool,
}

/// The real-time thread's end: never blocks, allocates, or loses a gain or a loss.
///
/// A command that finds the queue full waits here, one per group, the newest wins; call
/// [`Self::flush`] on every heartbeat.
pub struct CommandSender {
    queue: Producer<NetCommand>,
    wake: Arc<EventFd>,
    waiting: Box<[Waiting; 256]>,
    anything_waiting: bool,
    stop: bool,
    stats: Arc<NetStats>,
}

impl CommandSender {
    pub(crate) fn new(wake: Arc<EventFd>, stats: Arc<NetStats>) -> (Self, Consumer<NetCommand>) {
        Self::with_capacity(COMMANDS, wake, stats)
    }

    fn with_capacity(
        capacity: usize,
        wake: Arc<EventFd>,
        stats: Arc<NetStats>,
    ) -> (Self, Consumer<NetCommand>) {
        let (queue, reader) = RingBuffer::new(capacity);
        let waiting = Box::new([Waiting::default(); 256]);
        (
            Self {
                queue,
                wake,
                waiting,
                anything_waiting: false,
                stop: false,
                stats,
            },
            reader,
        )
    }

    /// Hands over a command and wakes the address thread.
    pub fn send(&mut self, command: NetCommand) {
        self.flush();
        if self.anything_waiting || self.queue.push(command).is_err() {
            self.keep(command);
        }
        self.wake();
    }

    /// Moves on what had to wait.
    pub fn flush(&mut self) {
        if !self.anything_waiting {
            return;
        }
        for (group, slot) in (0u8..=255).zip(self.waiting.iter_mut()) {
            if let Some(change) = slot.change {
                if self.queue.push(change).is_err() {
                    return;
                }
                slot.change = None;
            }
            if slot.announce {
                if self.queue.push(NetCommand::Announce { group }).is_err() {
                    return;
                }
                slot.announce = false;
            }
        }
        if self.stop && self.queue.push(NetCommand::Stop).is_err() {
            return;
        }
        self.stop = false;
        self.anything_waiting = false;
        self.wake();
    }

    fn keep(&mut self, command: NetCommand) {
        self.anything_waiting = true;
        NetStats::add(&self.stats.commands_delayed, 1);
        match command {
            NetCommand::Gain { group, .. } | NetCommand::Lose { group, .. } => {
                if let Some(slot) = self.waiting.get_mut(usize::from(group)) {
                    *slot = Waiting {
                        change: Some(command),
                        announce: false,
                    };
                }
            }
            NetCommand::Announce { group } => {
                if let Some(slot) = self.waiting.get_mut(usize::from(group)) {
                    slot.announce = true;
                }
            }
            NetCommand::Stop => self.stop = true,
        }
    }

    fn wake(&self) {
        // EAGAIN means that the counter is full: the reader is being woken anyway.
        let _ = self.wake.write(1);
    }
}

/// The rest of the agent's end; clone it freely.
#[derive(Clone)]
pub struct ControlSender {
    queue: SyncSender<NetControl>,
    wake: Arc<EventFd>,
}

impl ControlSender {
    pub(crate) fn new(queue: SyncSender<NetControl>, wake: Arc<EventFd>) -> Self {
        Self { queue, wake }
    }

    /// Hands over a message without waiting.
    ///
    /// # Errors
    /// Gives the message back when 64 are waiting already, or the thread has ended.
    pub fn send(&self, control: NetControl) -> Result<(), NetControl> {
        let done = self.queue.try_send(control);
        let _ = self.wake.write(1);
        done.map_err(|e| match e {
            TrySendError::Full(c) | TrySendError::Disconnected(c) => c,
        })
    }
}

/// The reading end of the events. `as_fd()` becomes readable when there is something; call
/// [`Self::clear`] before reading all of it.
pub struct EventReceiver {
    queue: Consumer<NetEvent>,
    wake: Arc<EventFd>,
}

impl EventReceiver {
    /// The oldest event.
    pub fn pop(&mut self) -> Option<NetEvent> {
        self.queue.pop().ok()
    }

    /// Resets the descriptor.
    pub fn clear(&self) {
        let _ = self.wake.read();
    }

    /// The thread has ended and everything was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queue.is_abandoned() && self.queue.is_empty()
    }
}

impl AsFd for EventReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The worker's end of the events.
pub(crate) struct EventSender {
    queue: Producer<NetEvent>,
    wake: Arc<EventFd>,
    stats: Arc<NetStats>,
}

impl EventSender {
    pub fn new(stats: Arc<NetStats>) -> Result<(Self, EventReceiver), NetError> {
        let (queue, reader) = RingBuffer::new(EVENTS);
        let wake = eventfd()?;
        let receiver = EventReceiver {
            queue: reader,
            wake: Arc::clone(&wake),
        };
        Ok((Self { queue, wake, stats }, receiver))
    }

    /// Reports; a full queue drops the event and counts it.
    pub fn emit(&mut self, event: NetEvent) {
        if self.queue.push(event).is_err() {
            NetStats::add(&self.stats.events_dropped, 1);
        }
        let _ = self.wake.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn gain(group: u8, epoch: u64) -> NetCommand {
        NetCommand::Gain {
            group,
            epoch,
            t_decided_ns: 0,
        }
    }

    #[test]
    fn a_full_queue_keeps_the_newest_change_of_each_group() {
        let stats = Arc::new(NetStats::default());
        let (mut tx, mut rx) =
            CommandSender::with_capacity(2, eventfd().unwrap(), Arc::clone(&stats));
        tx.send(gain(1, 1));
        tx.send(gain(2, 1));
        tx.send(NetCommand::Lose { group: 1, epoch: 1 });
        tx.send(NetCommand::Announce { group: 2 });
        tx.send(gain(1, 2));
        tx.send(NetCommand::Stop);
        assert_eq!(stats.commands_delayed.load(Ordering::Relaxed), 4);
        assert_eq!(rx.pop(), Ok(gain(1, 1)));
        tx.flush();
        let mut got = Vec::new();
        while let Ok(c) = rx.pop() {
            got.push(c);
            tx.flush();
        }
        assert_eq!(
            got,
            [
                gain(2, 1),
                gain(1, 2),
                NetCommand::Announce { group: 2 },
                NetCommand::Stop
            ]
        );
    }

    #[test]
    fn a_full_event_queue_drops_and_counts() {
        let stats = Arc::new(NetStats::default());
        let (mut tx, mut rx) = EventSender::new(Arc::clone(&stats)).unwrap();
        for _ in 0..EVENTS + 3 {
            tx.emit(NetEvent::Stopped);
        }
        assert_eq!(stats.events_dropped.load(Ordering::Relaxed), 3);
        rx.clear();
        assert_eq!(std::iter::from_fn(|| rx.pop()).count(), EVENTS);
        assert!(!rx.is_over());
        drop(tx);
        assert!(rx.is_over());
    }
}
