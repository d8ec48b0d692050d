//! The thread itself: one loop that takes commands, then does one slice of work, then looks again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use rtrb::Consumer;

use super::announcer::Announcer;
use super::devices::Devices;
use super::extras::Extra;
use super::groups::{Group, State, Vip};
use super::netlink::{Monitor, Requester};
use super::packet::PacketSocket;
use super::parse::{AddrInfo, bounded};
use super::queue::{CommandSender, ControlSender, EventReceiver, EventSender, eventfd};
use super::rt::{RtError, boottime_ns, set_realtime};
use super::schedule::{NEVER, Why};
use super::virtual_mac::{self, Virtual};
use super::work::Io;
use super::{NetCommand, NetConfig, NetControl, NetError, NetEvent, NetStats};

const CONTROLS: usize = 64;
/// How long removals may hold up the end of the thread.
const STOP_DEADLINE_NS: u64 = 500_000_000;
/// Longest sleep: senders that vanished without a word are noticed this fast.
const LONGEST_SLEEP_NS: u64 = 1_000_000_000;

/// How the thread begins.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Groups that this node still owns, with their epochs (planned restart): their addresses stay
    /// and are renewed; all others are swept.
    pub keep: Vec<(u8, u64)>,
    /// Indices of devices whose gate is in place already (as [`NetControl::Gate`]).
    pub covered: Vec<u32>,
    /// Room for kernel notices not read yet, bytes; 4 MiB if none is given. What does not fit is
    /// made good by reading everything anew.
    pub monitor_buffer: Option<usize>,
    /// SCHED_FIFO priority of what announces, or none; what adds addresses runs one below, so that on a busy machine
    /// those that are there are announced before others are added. A refusal is an event, not an error.
    pub priority: Option<u8>,
}

/// The agent's side of the thread.
pub struct NetHandle {
    /// For the real-time thread.
    pub commands: CommandSender,
    /// For everybody else.
    pub control: ControlSender,
    /// What happened.
    pub events: EventReceiver,
    /// Counters.
    pub stats: Arc<NetStats>,
    /// Ends after [`NetCommand::Stop`], or when both senders are gone.
    pub thread: JoinHandle<()>,
}

/// Starts the address thread in the caller's network namespace. Sockets are opened before this
/// returns; the sweep is the thread's first work and ends in [`NetEvent::Swept`].
///
/// # Errors
/// [`NetError`]: no CAP_NET_RAW, a configuration that cannot be right, no thread.
pub fn spawn(config: &NetConfig, start: Start) -> Result<NetHandle, NetError> {
    config.check()?;
    let stats = Arc::new(NetStats::default());
    let wake = eventfd()?;
    let (events, receiver) = EventSender::new(Arc::clone(&stats))?;
    let (commands, command_reader) = CommandSender::new(Arc::clone(&wake), Arc::clone(&stats));
    let (control, control_reader) = sync_channel(CONTROLS);
    let control = ControlSender::new(control, Arc::clone(&wake));
    // The monitor first: what changes between the first dump and the first notice must not be missed.
    let monitor = Monitor::open(start.monitor_buffer)?;
    let several = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    let announcer = several
        .then(|| Announcer::spawn(start.priority, Arc::clone(&wake), Arc::clone(&stats)))
        .transpose()?;
    let io = Io {
        announcer,
        requester: Requester::open()?,
        packets: PacketSocket::open()?,
        events,
        stats: Arc::clone(&stats),
        takeover: config.takeover_ns,
        interval: config.announce_interval_ns,
    };
    let mut worker = Worker {
        io,
        monitor,
        devices: Devices::default(),
        groups: BTreeMap::new(),
        index: BTreeMap::new(),
        lost: Box::new([0; 256]),
        wait_for_gate: config.wait_for_gate,
        commands: command_reader,
        control: control_reader,
        wake,
        resync_at: NEVER,
        last_resync: 0,
        virtuals: Vec::new(),
        virtual_at: 0,
        strays: false,
        swept: false,
        turn: 0,
        stop_at: NEVER,
    };
    worker.apply(config);
    let thread = std::thread::Builder::new()
        .name("hl-address".into())
        .spawn(move || {
            let priority = start.priority.map(|p| p.saturating_sub(1).max(1));
            if let Some(Err(RtError::Priority { errno, .. })) = priority.map(set_realtime) {
                worker.io.events.emit(NetEvent::RealtimeRefused {
                    errno: errno as i32,
                });
            }
            worker.run(&start);
        })
        .map_err(NetError::Thread)?;
    Ok(NetHandle {
        commands,
        control,
        events: receiver,
        stats,
        thread,
    })
}

/// All that the thread knows.
pub(super) struct Worker {
    pub(super) io: Io,
    pub(super) monitor: Monitor,
    pub(super) devices: Devices,
    pub(super) groups: BTreeMap<u8, Group>,
    /// Which VIP an address is.
    pub(super) index: BTreeMap<IpAddr, (u8, usize)>,
    /// The epoch of each group's last loss; kept also while a group is not configured.
    lost: Box<[u64; 256]>,
    pub(super) wait_for_gate: bool,
    commands: Consumer<NetCommand>,
    control: Receiver<NetControl>,
    wake: Arc<EventFd>,
    /// When to read everything anew; notices are left alone until then.
    pub(super) resync_at: u64,
    pub(super) last_resync: u64,
    /// The macvlans of gateway VIPs that are to be there.
    pub(super) virtuals: Vec<Virtual>,
    /// When to look after them.
    pub(super) virtual_at: u64,
    /// Somebody has put an owned VIP on a device in another form, too: it must go when the group goes.
    pub(super) strays: bool,
    /// The sweep has succeeded once.
    pub(super) swept: bool,
    /// The group served last.
    turn: u8,
    stop_at: u64,
}

impl Worker {
    fn run(mut self, start: &Start) {
        for ifindex in &start.covered {
            self.devices.cover(*ifindex, true);
        }
        let now = boottime_ns();
        for (id, epoch) in &start.keep {
            match self.groups.get_mut(id) {
                Some(group) => group.keep(*epoch, now, self.io.interval),
                None => self.io.events.emit(NetEvent::UnknownGroup { group: *id }),
            }
        }
        self.resync(true);
        loop {
            self.take_commands();
            let now = boottime_ns();
            if self.step_urgent(now) {
                continue;
            }
            if self.stop_at != NEVER && (self.stop_at <= now || !self.removing()) {
                break;
            }
            let mut more = self.hear();
            if self.virtual_at <= boottime_ns() && self.stop_at == NEVER {
                self.step_virtuals(boottime_ns());
            }
            more |= self.step_periodic(boottime_ns());
            if !more {
                self.sleep();
            }
        }
        self.remove_virtuals();
        self.io.events.emit(NetEvent::Stopped);
    }

    fn removing(&self) -> bool {
        self.groups.values().any(|group| !group.is_clean())
    }

    fn take_commands(&mut self) {
        let _ = self.wake.read();
        while let Some(delivered) = self.io.announcer.as_mut().and_then(Announcer::collect) {
            if let Some(group) = self.groups.get_mut(&delivered.group) {
                group.delivered(delivered);
            }
        }
        while let Ok(command) = self.commands.pop() {
            self.command(command);
        }
        loop {
            match self.control.try_recv() {
                Ok(NetControl::Reconfigure(config)) => self.reconfigure(&config),
                Ok(NetControl::Gate { ifindex, covered }) => self.gate(ifindex, covered),
                Ok(NetControl::Stop) => self.stop(),
                Err(TryRecvError::Disconnected) if self.commands.is_abandoned() => {
                    return self.stop();
                }
                Err(_) => return,
            }
        }
    }

    fn stop(&mut self) {
        self.stop_at = self
            .stop_at
            .min(boottime_ns().saturating_add(STOP_DEADLINE_NS));
    }

    fn command(&mut self, command: NetCommand) {
        let id = match command {
            NetCommand::Gain { group, .. }
            | NetCommand::Lose { group, .. }
            | NetCommand::Announce { group } => group,
            NetCommand::Stop => return self.stop(),
        };
        let now = boottime_ns();
        let mut spare = 0;
        let lost = self.lost.get_mut(usize::from(id)).unwrap_or(&mut spare);
        let events = &mut self.io.events;
        let Some(group) = self.groups.get_mut(&id) else {
            events.emit(NetEvent::UnknownGroup { group: id });
            return;
        };
        match command {
            NetCommand::Gain {
                epoch,
                t_decided_ns,
                ..
            } => {
                let newest = group.owned.unwrap_or(0).saturating_sub(1).max(*lost);
                if epoch <= newest {
                    events.emit(NetEvent::StaleGain {
                        group: id,
                        epoch,
                        lost_epoch: newest,
                    });
                } else {
                    group.gain(epoch, t_decided_ns, now);
                }
            }
            NetCommand::Lose { epoch, .. } => match group.owned {
                Some(owned_epoch) if epoch < owned_epoch => {
                    events.emit(NetEvent::StaleLose {
                        group: id,
                        epoch,
                        owned_epoch,
                    });
                }
                _ => {
                    *lost = epoch.max(*lost);
                    group.lose(epoch);
                    if std::mem::take(&mut self.strays) {
                        self.resync_at = self.resync_at.min(now);
                    }
                }
            },
            NetCommand::Announce { .. } if group.owned.is_some() && group.pass.is_none() => {
                group.schedule.start(now, Why::Asked);
            }
            NetCommand::Announce { .. } | NetCommand::Stop => {}
        }
    }

    fn gate(&mut self, ifindex: u32, covered: bool) {
        self.devices.cover(ifindex, covered);
        self.virtual_at = 0;
        // A macvlan is as good as the gate of its parent.
        let name = self.devices.get(ifindex).map(|known| known.link.name);
        let mut affected = vec![ifindex];
        let above = self.devices.links().filter(|link| link.parent == ifindex);
        affected.extend(above.map(|link| link.ifindex));
        for ifindex in &affected {
            self.bind(*ifindex);
        }
        if covered || !self.wait_for_gate {
            return;
        }
        for group in self
            .groups
            .values_mut()
            .filter(|group| group.owned.is_some())
        {
            let mut lost = 0u16;
            for vip in group
                .vips
                .iter_mut()
                .filter(|vip| affected.contains(&vip.ifindex) && vip.state == State::Up)
                .filter(|vip| vip.ifindex == ifindex || vip.conf.gateway.map(|g| g.parent) == name)
            {
                vip.state = State::Leaving;
                lost = lost.saturating_add(1);
            }
            if lost > 0 {
                group.settle();
                self.io.events.emit(NetEvent::WithoutDevice {
                    group: group.id,
                    vips: lost,
                    ifindex,
                });
            }
        }
    }

    /// The first group after the one served last that fits.
    fn next_group(&self, fits: impl Fn(&Group) -> bool) -> Option<u8> {
        let after = self.groups.range(self.turn.saturating_add(1)..);
        after
            .chain(self.groups.iter())
            .find(|(_, group)| fits(group))
            .map(|(id, _)| *id)
    }

    /// One batch of removals and one batch of adds, each for the next group in turn, gains before
    /// repairs. False when there was nothing to do.
    fn step_urgent(&mut self, now: u64) -> bool {
        let leaving = |group: &Group| group.due <= now && group.leaving(now);
        let removal = self
            .next_group(|group| group.down.is_some() && leaving(group))
            .or_else(|| self.next_group(leaving));
        if let Some(group) = removal.and_then(|id| self.groups.get_mut(&id)) {
            group.step_removals(&mut self.io, now);
        }
        let adding = |group: &Group| group.due <= now && !group.leaving(now);
        let adds = self
            .next_group(|group| group.pass.is_some() && adding(group))
            .or_else(|| self.next_group(adding));
        if let Some(id) = adds {
            self.turn = id;
            if let Some(group) = self.groups.get_mut(&id) {
                group.finish_down(&mut self.io);
                group.step_adds(&mut self.io, &self.devices, now);
            }
        }
        removal.is_some() || adds.is_some()
    }

    /// One slice of a round or of renewals, for the next group in turn. True when something was done.
    fn step_periodic(&mut self, now: u64) -> bool {
        if self.resync_at <= now {
            self.resync(!self.swept);
            return true;
        }
        let Some(id) = self.next_group(|group| group.next() <= now) else {
            return false;
        };
        self.turn = id;
        let Some(group) = self.groups.get_mut(&id) else {
            return false;
        };
        group.step_round(&mut self.io, &self.devices, now);
        let mut renewed = false;
        if group.renew_at <= now {
            renewed = group.step_renewal(&mut self.io, now);
        }
        if renewed {
            for ifindex in self.devices.refresh_router() {
                self.bind(ifindex);
            }
        }
        true
    }

    fn sleep(&self) {
        let next = self.groups.values().map(Group::next).min().unwrap_or(NEVER);
        let next = next
            .min(self.resync_at)
            .min(self.stop_at)
            .min(self.virtual_at);
        let left = next.saturating_sub(boottime_ns()).min(LONGEST_SLEEP_NS);
        let mut fds = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.monitor.fd(), PollFlags::POLLIN),
        ];
        // While a resync waits, the monitor's state is known to be bad and would wake us for nothing.
        let watched = if self.resync_at == NEVER { 2 } else { 1 };
        let Some(fds) = fds.get_mut(..watched) else {
            return;
        };
        // An interrupted wait is as good as one that ended.
        let timeout = TimeSpec::from_duration(Duration::from_nanos(left));
        let _ = ppoll(fds, Some(timeout), None);
    }

    /// Takes the groups and VIPs of `config` and fills the tables that follow from them.
    fn apply(&mut self, config: &NetConfig) {
        self.io.takeover = config.takeover_ns;
        self.io.interval = config.announce_interval_ns;
        self.wait_for_gate = config.wait_for_gate;
        self.groups = config
            .groups
            .iter()
            .map(|conf| (conf.id, Group::new(conf)))
            .collect();
        let vips = |group: &'_ Group| -> Vec<_> {
            group
                .vips
                .iter()
                .enumerate()
                .map(|(i, vip)| (vip.conf.address, (group.id, i)))
                .collect()
        };
        self.index = self.groups.values().flat_map(vips).collect();
        self.virtuals = virtual_mac::needed(config);
        self.virtual_at = 0;
        let devices = &self.devices;
        for group in self.groups.values_mut() {
            for vip in &mut group.vips {
                if let Some(known) = devices.by_name(&vip.conf.device) {
                    let usable = virtual_mac::usable(devices, &vip.conf, known, self.wait_for_gate);
                    vip.bind(known, usable);
                }
            }
            for extra in &mut group.extras {
                let known = extra.conf.device().and_then(|name| devices.named(name));
                let ifindex = known.map(|known| known.link.ifindex);
                if ifindex.is_some() {
                    extra.bind(ifindex);
                }
            }
        }
    }

    /// Replaces the configuration; a VIP that stays as it is in a group that stays owned is not touched.
    fn reconfigure(&mut self, config: &NetConfig) {
        if let Err(e) = config.check() {
            self.io.events.emit(NetEvent::ConfigRefused {
                text: bounded(e.to_string()),
            });
            return;
        }
        let old = std::mem::take(&mut self.groups);
        self.apply(config);
        let now = boottime_ns();
        for (id, group) in &mut self.groups {
            let Some(before) = old.get(id) else { continue };
            group.owned = before.owned;
            group.pass = before.pass;
            group.down = before.down;
            group.schedule = before.schedule;
            group.renew_at = before.renew_at;
            if group.owned.is_some() {
                group
                    .vips
                    .iter_mut()
                    .for_each(|vip| vip.state = State::Wanted);
                group.extras.iter_mut().for_each(Extra::want);
            }
            for extra in &mut group.extras {
                if let Some(old) = before.extras.iter().find(|old| old.conf == extra.conf) {
                    extra.inherit(old);
                }
            }
        }
        let mut gone = Vec::new();
        for (id, before) in &old {
            let kept = self.groups.get(id);
            for extra in before.extras.iter().filter(|e| e.state != State::Absent) {
                if !kept.is_some_and(|g| g.extras.iter().any(|e| e.conf == extra.conf)) {
                    gone.push(extra.removal().to_vec());
                }
            }
        }
        self.io.remove_extras(&gone);
        let mut remove = Vec::new();
        for (id, before) in old {
            for vip in before.vips {
                if vip.state == State::Absent || self.inherit(&vip) {
                    continue;
                }
                if vip.ifindex != 0 {
                    let (address, prefix, ifindex) =
                        (vip.conf.address, vip.conf.prefix, vip.ifindex);
                    remove.push(AddrInfo {
                        ifindex,
                        address,
                        prefix,
                        flags: 0,
                        ours: true,
                    });
                }
            }
            if let (false, Some(epoch)) = (self.groups.contains_key(&id), before.owned) {
                self.io.events.emit(NetEvent::AddressDown {
                    group: id,
                    epoch,
                    t_ns: now,
                });
            }
        }
        let (removed, failed) = self.io.remove_all(&remove);
        if failed > 0 {
            self.resync_at = self.resync_at.min(now);
        }
        self.groups.values_mut().for_each(Group::settle);
        let vips = u32::try_from(self.index.len()).unwrap_or(u32::MAX);
        self.io.events.emit(NetEvent::Reconfigured {
            serial: config.serial,
            vips,
            removed,
        });
    }

    /// Hands the standing of an old VIP to the same VIP in the new configuration. False when there
    /// is none, or when its group is not ours.
    fn inherit(&mut self, old: &Vip) -> bool {
        let Some((id, index)) = self.index.get(&old.conf.address) else {
            return false;
        };
        let Some(group) = self.groups.get_mut(id) else {
            return false;
        };
        let owned = group.owned.is_some();
        let Some(vip) = group.vips.get_mut(*index) else {
            return false;
        };
        if vip.conf != old.conf || (!owned && old.state != State::Leaving) {
            return false;
        }
        if !owned || old.state != State::Leaving {
            vip.state = old.state;
        }
        vip.ours = old.ours;
        vip.up_since = old.up_since;
        vip.retry_at = old.retry_at;
        vip.backoff = old.backoff;
        vip.told = old.told;
        true
    }
}
