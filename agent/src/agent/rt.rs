//! The real-time thread: ring buffer (or link sockets), timer and commands in; maps, heartbeats and queues out.
//!
//! Only this thread calls the core. On the way from an input to its actions nothing allocates and nothing can block:
//! sockets are non-blocking, queues are bounded and lock-free, what does not fit is counted.

use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};

use agent_common::{
    MAX_LINKS,
    keys::Keys,
    record::Record,
    wire::{LEN, Message},
};
use agent_core::{
    Action, Command, CommandError, Core, CoreConfig, Event, Next, Now, StageError, action::Gain,
};
use arrayvec::ArrayVec;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};
use rtrb::{Consumer, Producer, RingBuffer};
use triple_buffer::{Input, Output};

use super::{
    link::{LinkSender, Peers, broadcast},
    pet::{Petter, Told},
    rotation,
    snapshot::{LATE_BUCKETS, Snapshot, late_bucket},
};
use crate::{
    datapath::{Records, Table},
    net::{CommandSender, NetCommand, rt::boottime_ns},
};

/// Commands that may wait.
const COMMANDS: usize = 256;
/// Reports that may wait.
const REPORTS: usize = 4096;
/// Datagrams taken from one link before the others and the timer have their turn.
const RECEIVE_AT_ONCE: usize = 64;
/// How often the snapshot is renewed while nothing happens, ns.
const SNAPSHOT_EVERY: u64 = 200_000_000;
/// How often it is renewed at most, ns: it must not cost more than what it shows.
const SNAPSHOT_AT_MOST: u64 = 1_000_000;

/// What others tell the real-time thread.
pub enum RtCommand {
    /// Something for the core; the answer is a [`RtReport::Done`] with this number.
    Core(u64, Command),
    /// A changed configuration; the old one comes back for freeing.
    Reconfigure(Box<CoreConfig>),
    /// A configuration of a later generation, to be entered when that is safe; what it replaces comes back for freeing.
    Stage(Box<Next>),
    /// Take the staged configuration back.
    Unstage,
    /// Addresses and gates follow the generation that was entered.
    Mapped,
    /// Speak to these nodes from now on, by link.
    Peers(Vec<Peers>),
    /// Sign with other keys; the old ones come back for wiping.
    Rekey(Box<Keys>),
    /// Open the links that are not open; `anew`: a device has returned, bind all again.
    Reopen {
        /// Close first?
        anew: bool,
    },
    /// Other VIPs, for a gate that this thread keeps (data path of sockets).
    Vips(Vec<(IpAddr, u8)>),
    /// Pet this watchdog.
    Guard(Box<Petter>),
    /// Give it back.
    Unguard,
    /// Give everything up at once, tell the others, and end.
    ShutDown,
    /// End and leave everything as it is (planned restart).
    Quit,
}

/// What the real-time thread tells others.
pub enum RtReport {
    /// Something happened, at this boot time.
    Event(u64, Event),
    /// A command was taken, or why not.
    Done(u64, Result<(), CommandError>),
    /// A group was given up, at this boot time.
    Lost(u64, u8, u64),
    /// The services of a group are to be stopped, in this epoch, so that this node can have it.
    Stop(u8, u64, u8),
    /// The group stays here after all.
    Resume(u8, u64),
    /// The long lease of a planned pause holds.
    PauseReady,
    /// The timer was this late, ns: for so long the agent did not run. With the boot time.
    StoodStill(u64, u64),
    /// Everything is handed over.
    Left,
    /// An old configuration, to be freed elsewhere.
    Old(Box<CoreConfig>),
    /// A staged configuration was not taken.
    NotStaged(StageError),
    /// The staged configuration was given back.
    Unstaged,
    /// The staged generation was entered.
    Entered(u32),
    /// To be freed elsewhere.
    OldNext(Box<Next>),
    /// To be freed elsewhere.
    OldPeers(Vec<Peers>),
    /// The gate's ruleset is gone: somebody flushed it.
    GateLost,
    /// Old keys, to be wiped elsewhere.
    OldKeys(Box<Keys>),
    /// Of the watchdog.
    Guard(Told),
    /// The watchdog, which nobody pets from now on.
    Unguarded(Box<Petter>),
    /// The thread has ended.
    Ended,
}

/// The others' side of the thread.
pub struct RtHandle {
    /// Commands.
    pub commands: Producer<RtCommand>,
    /// Wakes the thread after a command was queued.
    pub wake: Arc<EventFd>,
    /// Reports.
    pub reports: Consumer<RtReport>,
    /// Readable when there are reports.
    pub reported: Arc<EventFd>,
    /// The latest snapshot.
    pub snapshot: Output<Snapshot>,
    /// The thread.
    pub thread: JoinHandle<()>,
}

impl RtHandle {
    /// Queues a command and wakes the thread. Gives it back if the queue is full.
    ///
    /// # Errors
    /// The queue is full.
    pub fn send(&mut self, c: RtCommand) -> Result<(), RtCommand> {
        let r = self.commands.push(c).map_err(|rtrb::PushError::Full(c)| c);
        let _ = self.wake.write(1);
        r
    }

    /// Is there room for so many commands? It stays, as the holder of this handle alone fills the queue.
    pub fn has_room(&self, commands: usize) -> bool {
        self.commands.slots() >= commands
    }
}

/// Everything that the thread needs.
pub struct RtParts {
    /// The core, already over its table.
    pub core: Core<Table>,
    /// The core's table.
    pub table: Table,
    /// Records from the kernel, or from the link sockets.
    pub records: Records,
    /// The links.
    pub links: Vec<LinkSender>,
    /// The cluster's keys.
    pub keys: Box<Keys>,
    /// The newest wire version to speak.
    pub newest: u8,
    /// Towards the address thread.
    pub net: CommandSender,
    /// SCHED_FIFO priority; `None`: ordinary scheduling.
    pub priority: Option<u8>,
}

struct RtThread {
    parts: RtParts,
    commands: Consumer<RtCommand>,
    wake: Arc<EventFd>,
    reports: Producer<RtReport>,
    reported: Arc<EventFd>,
    snapshot: Input<Snapshot>,
    told: bool,
    dropped: u64,
    late_ns: u64,
    late: [u64; LATE_BUCKETS],
    rounds: u64,
    published: u64,
    changed: bool,
    realtime: bool,
    guard: Option<Box<Petter>>,
    /// The watchdog is to be given back.
    unguard: bool,
}

/// Starts the thread in the caller's network namespace.
///
/// # Errors
/// No descriptor or no thread could be had.
pub fn spawn(parts: RtParts) -> std::io::Result<RtHandle> {
    let (commands, commands_in) = RingBuffer::new(COMMANDS);
    let (reports_out, reports) = RingBuffer::new(REPORTS);
    let fd = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Arc::new);
    let (wake, reported) = (fd()?, fd()?);
    let (input, output) = triple_buffer::triple_buffer(&Snapshot::default());
    let mut rt = RtThread {
        parts,
        commands: commands_in,
        wake: Arc::clone(&wake),
        reports: reports_out,
        reported: Arc::clone(&reported),
        snapshot: input,
        told: false,
        dropped: 0,
        late_ns: 0,
        late: [0; LATE_BUCKETS],
        rounds: 0,
        published: 0,
        changed: true,
        realtime: false,
        guard: None,
        unguard: false,
    };
    let thread = std::thread::Builder::new()
        .name("hl-realtime".into())
        .spawn(move || {
            match rt.parts.priority.map(crate::net::rt::set_realtime) {
                Some(Ok(())) => rt.realtime = true,
                Some(Err(e)) => tracing::warn!("{e}; takeovers may be late under load"),
                None => {}
            }
            rt.run();
        })?;
    Ok(RtHandle {
        commands,
        wake,
        reports,
        reported,
        snapshot: output,
        thread,
    })
}

/// Both clocks. They cannot fail on a kernel that runs BPF; a zero would only make this node wait.
pub fn now() -> Now {
    let wall =
        clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |t| Duration::from(t).as_millis() as u64);
    Now {
        boot: boottime_ns(),
        wall_ms: wall,
    }
}

impl RtThread {
    fn run(&mut self) {
        let (mut deadline, mut woken) = (0, false);
        loop {
            self.rounds += 1;
            self.receive();
            if std::mem::take(&mut woken) {
                let _ = self.wake.read();
            }
            while let Ok(c) = self.commands.pop() {
                if self.command(c) {
                    self.pet(true);
                    self.tell(RtReport::Ended);
                    self.notify();
                    return;
                }
            }
            let t = now();
            if t.boot >= deadline {
                if deadline != 0 {
                    let late = t.boot - deadline;
                    self.late_ns = self.late_ns.max(late);
                    if let Some(count) = self.late.get_mut(late_bucket(late)) {
                        *count += 1;
                    }
                    if late > self.parts.core.config().timing.lease {
                        self.tell(RtReport::StoodStill(t.boot, late));
                    }
                }
                self.parts.core.handle_timeout(t);
                self.act();
            }
            // Acks may have extended the lease.
            self.settle();
            self.pet(false);
            self.notify();
            self.publish(t.boot);
            let t = Now {
                boot: boottime_ns(),
                ..t
            };
            deadline = self.parts.core.deadline(t);
            woken = self.sleep(deadline.saturating_sub(t.boot));
        }
    }

    /// True if a command was queued meanwhile.
    fn sleep(&self, ns: u64) -> bool {
        let mut fds = ArrayVec::<PollFd, { MAX_LINKS + 1 }>::new();
        fds.push(PollFd::new(self.wake.as_fd(), PollFlags::POLLIN));
        match &self.parts.records {
            Records::Ring(ring) => {
                // SAFETY: the ring's descriptor lives as long as the ring, which outlives this call.
                let ring = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
                fds.push(PollFd::new(ring, PollFlags::POLLIN));
            }
            Records::Socket(_) => {
                let sockets = self.parts.links.iter().filter_map(LinkSender::socket);
                for fd in sockets.take(MAX_LINKS) {
                    fds.push(PollFd::new(fd, PollFlags::POLLIN));
                }
            }
        }
        let pets = self.guard.as_ref().map_or(u64::MAX, |g| g.interval());
        let timeout = TimeSpec::from(Duration::from_nanos(ns.min(pets).min(1_000_000_000)));
        // EINTR and the like: the loop looks at everything anyway.
        let _ = ppoll(&mut fds, Some(timeout), None);
        fds.first().and_then(PollFd::any).unwrap_or(true)
    }

    /// Takes what has arrived.
    fn receive(&mut self) {
        if let Records::Ring(_) = self.parts.records {
            while let Records::Ring(ring) = &mut self.parts.records
                && let Some(r) = ring.pop()
            {
                self.record(&r);
            }
            return;
        }
        for link in 0..self.parts.links.len() {
            // A flood on one link must keep neither the others nor the timer waiting.
            for _ in 0..RECEIVE_AT_ONCE {
                if !self.datagram(link) {
                    break;
                }
            }
        }
    }

    /// Takes one datagram; false if there is none.
    fn datagram(&mut self, link: usize) -> bool {
        // One byte more, so that a longer one is not taken for a message.
        let mut bytes = [0; LEN + 1];
        let (Records::Socket(source), Some(link)) =
            (&mut self.parts.records, self.parts.links.get_mut(link))
        else {
            return false;
        };
        let Some((length, from)) = link.receive(&mut bytes) else {
            return false;
        };
        let sh = &self.parts.table;
        let taken = source.take(sh, &self.parts.keys, &bytes[..length], boottime_ns());
        if let (Some((ack, length)), Some(from)) = (taken.ack, from)
            && source.settle(sh)
        {
            link.reply(&from, ack.get(..length).unwrap_or_default());
        }
        if let Some(r) = taken.record {
            self.record(&r);
        }
        true
    }

    fn record(&mut self, r: &Record) {
        self.parts.core.handle_record(r, now());
        self.act();
        self.changed = true;
    }

    /// Makes the gate what the table says; false while it lets something pass that the table does not. In XDP and TC it
    /// is the table itself.
    fn settle(&mut self) -> bool {
        let Records::Socket(source) = &mut self.parts.records else {
            return true;
        };
        let shut = source.settle(&self.parts.table);
        if source.gate().take_lost() {
            self.tell(RtReport::GateLost);
        }
        shut
    }

    /// True if the thread must end.
    fn command(&mut self, c: RtCommand) -> bool {
        match c {
            RtCommand::Core(id, c) => {
                let r = self.parts.core.handle_command(c, now());
                self.act();
                self.tell(RtReport::Done(id, r));
            }
            RtCommand::Reconfigure(mut cfg) => {
                self.parts.core.reconfigure(&mut cfg, now());
                self.act();
                self.tell(RtReport::Old(cfg));
            }
            RtCommand::Stage(next) => {
                match self.parts.core.stage(next, now()) {
                    Ok(None) => {}
                    Ok(Some(old)) => self.tell(RtReport::OldNext(old)),
                    Err((e, next)) => {
                        self.tell(RtReport::NotStaged(e));
                        self.tell(RtReport::OldNext(next));
                    }
                }
                self.act();
            }
            RtCommand::Unstage => {
                if let Some(old) = self.parts.core.unstage(now()) {
                    self.tell(RtReport::Unstaged);
                    self.tell(RtReport::OldNext(old));
                }
                self.act();
            }
            RtCommand::Mapped => {
                self.parts.core.mapped(now());
                self.act();
            }
            RtCommand::Peers(mut peers) => {
                for (link, p) in self.parts.links.iter_mut().zip(&mut peers) {
                    link.set_peers(p);
                }
                self.tell(RtReport::OldPeers(peers));
            }
            RtCommand::Rekey(keys) => {
                let old = std::mem::replace(&mut self.parts.keys, keys);
                self.tell(RtReport::OldKeys(old));
            }
            RtCommand::Reopen { anew } => {
                for l in &mut self.parts.links {
                    if anew {
                        l.close();
                    }
                    // Not there yet: the supervisor asks again soon.
                    let _ = l.open();
                }
                self.changed = true;
            }
            RtCommand::Vips(vips) => {
                if let Records::Socket(source) = &mut self.parts.records {
                    source.gate().set_vips(&vips);
                }
                self.settle();
            }
            RtCommand::Guard(petter) => self.guard = Some(petter),
            RtCommand::Unguard => self.unguard = true,
            RtCommand::ShutDown => {
                self.parts.core.shut_down(now());
                self.act();
                return true;
            }
            RtCommand::Quit => {
                // The gate must stay open until the next process keeps it.
                self.settle();
                return true;
            }
        }
        false
    }

    /// Pets the watchdog, or gives it back where there is room for that: dropped, it would reset the machine.
    fn pet(&mut self, ends: bool) {
        let Some(petter) = &mut self.guard else {
            return;
        };
        let lease = self.parts.table.lease().expiry_ns();
        let owned = self.parts.core.owned();
        if ends {
            petter.last(boottime_ns(), lease, owned);
        } else if let Some(told) = petter.beat(boottime_ns(), lease, owned) {
            self.tell(RtReport::Guard(told));
        }
        if (ends || self.unguard)
            && self.reports.slots() > 1
            && let Some(petter) = self.guard.take()
        {
            self.unguard = false;
            self.tell(RtReport::Unguarded(petter));
        }
    }

    fn act(&mut self) {
        // Shut first: a message may give away what the gate still lets pass.
        let may_send = self.settle();
        // The last message waits for a gain behind it: addresses are added while it is being sent.
        let mut held = None;
        while let Some(a) = self.parts.core.poll_action() {
            if !matches!(a, Action::Gain(_) | Action::Event(_)) {
                self.send(held.take());
            }
            match a {
                Action::Broadcast(_) | Action::Send(..) if !may_send => {
                    if let Records::Socket(source) = &self.parts.records {
                        source.stats().held_back.fetch_add(1, Relaxed);
                    }
                }
                Action::Broadcast(m) => held = Some((0, m)),
                Action::Send(to, m) => held = Some((to, m)),
                Action::Gain(Gain {
                    group,
                    epoch,
                    phases,
                    ..
                }) => {
                    self.parts.net.send(NetCommand::Gain {
                        group,
                        epoch,
                        t_decided_ns: phases.agreed,
                    });
                }
                Action::Lose { group, epoch } => {
                    self.parts.net.send(NetCommand::Lose { group, epoch });
                    self.tell(RtReport::Lost(boottime_ns(), group, epoch));
                }
                Action::Stop { group, epoch, to } => {
                    self.tell(RtReport::Stop(group, epoch, to));
                }
                Action::Resume { group, epoch } => self.tell(RtReport::Resume(group, epoch)),
                Action::Announce { group } => self.parts.net.send(NetCommand::Announce { group }),
                Action::PauseReady { until: _ } => self.tell(RtReport::PauseReady),
                Action::Left => self.tell(RtReport::Left),
                Action::Entered { generation } => {
                    self.tell(RtReport::Entered(generation));
                    if let Some(old) = self.parts.core.take_retired() {
                        self.tell(RtReport::OldNext(old));
                    }
                }
                Action::Event(e) => self.tell(RtReport::Event(boottime_ns(), e)),
            }
        }
        self.send(held);
    }

    /// Sends a message, if there is one, to one node or (0) to all.
    fn send(&mut self, message: Option<(u8, Message)>) {
        let Some((to, m)) = message else { return };
        let table = self.parts.table;
        let p = &mut self.parts;
        broadcast(&mut p.links, &p.keys, to, m, p.newest, |id| {
            rotation::speaks(&table, id)
        });
    }

    fn tell(&mut self, r: RtReport) {
        self.told = true;
        self.changed = true;
        if self.reports.push(r).is_err() {
            self.dropped += 1;
        }
    }

    fn notify(&mut self) {
        if std::mem::take(&mut self.told) {
            let _ = self.reported.write(1);
        }
        self.parts.net.flush();
    }

    fn publish(&mut self, at: u64) {
        let wait = if self.changed {
            SNAPSHOT_AT_MOST
        } else {
            SNAPSHOT_EVERY
        };
        if at < self.published + wait {
            return;
        }
        self.changed = false;
        self.published = at;
        let s = self.snapshot.input_buffer_mut();
        s.realtime = self.realtime;
        s.fill(&self.parts.core, at);
        s.late_ns = self.late_ns;
        s.late = self.late;
        s.rounds = self.rounds;
        s.dropped = self.dropped + self.parts.core.dropped_actions();
        s.closed = self.parts.links.iter().any(|l| !l.is_open());
        for (slot, l) in s.refused.iter_mut().zip(&self.parts.links) {
            *slot = l.refused;
        }
        self.snapshot.publish();
    }
}
