//! One slice of work for one group: remove, add, announce, renew. Each ends within a few milliseconds.

use std::sync::Arc;

use arrayvec::ArrayVec;
use nix::errno::Errno;

use super::announcer::Announcer;
use super::devices::Devices;
use super::extras::Extra;
use super::groups::{Group, Pass, Round, State, Vip};
use super::netlink::{Answer, BATCH, Requester};
use super::packet::{Outgoing, PacketSocket, SLICE};
use super::parse::{AddrInfo, bounded};
use super::queue::EventSender;
use super::rt::boottime_ns;
use super::schedule::Why;
use super::{NetEvent, NetStats, RENEW_INTERVAL_NS, Text, messages};

/// Rest between two slices of work that is not urgent: other threads and other traffic get through.
const PACE_NS: u64 = 1_000_000;
/// Rest between two batches of removals of a lost group, ns. Nothing waits for them, since the gate is shut; the kernel's
/// RTNL lock, which they hold, others wait for.
const REMOVAL_PACE_NS: u64 = 10_000_000;
/// How often a slice is tried on a full transmit queue before it is left out.
const FULL_TRIES: u32 = 50;

/// All frames of a VIP.
const ALL_FORMS: usize = usize::MAX;

type Picked = ArrayVec<usize, BATCH>;

/// The worker's ways out.
pub(crate) struct Io {
    pub requester: Requester,
    pub packets: PacketSocket,
    /// None where it would not help: on one processor.
    pub announcer: Option<Announcer>,
    pub events: EventSender,
    pub stats: Arc<NetStats>,
    pub takeover: u64,
    pub interval: u64,
}

impl Io {
    /// Sends one request per picked VIP.
    fn ask(
        &mut self,
        vips: &[Vip],
        picked: &[usize],
        request: impl Fn(&Vip) -> &[u8],
    ) -> ArrayVec<Answer, BATCH> {
        self.requester.begin();
        for vip in picked.iter().filter_map(|i| vips.get(*i)) {
            self.requester.push(request(vip));
        }
        let answers = self.requester.finish();
        let silent = answers.iter().filter(|a| **a == Answer::Silent).count();
        NetStats::add(
            &self.stats.requests_silent,
            u64::try_from(silent).unwrap_or(0),
        );
        answers
    }

    /// Counts and reports a refusal, once per reason.
    fn refused(
        &mut self,
        doing: &str,
        group: u8,
        index: usize,
        vip: &mut Vip,
        errno: Errno,
        now: u64,
    ) {
        NetStats::add(&self.stats.requests_refused, 1);
        let words = self
            .requester
            .text()
            .map(|t| format!(" ({t})"))
            .unwrap_or_default();
        let text = format!(
            "cannot {doing} {}/{} on {}: {}{words}",
            vip.conf.address,
            vip.conf.prefix,
            vip.conf.device,
            errno.desc()
        );
        self.tell(group, index, vip, errno as i32, &bounded(text));
        vip.fail(now);
    }

    /// Reports why a VIP is not as it should be, unless that was said already.
    fn tell(&mut self, group: u8, index: usize, vip: &mut Vip, errno: i32, text: &Text) {
        if vip.told != errno {
            vip.told = errno;
            self.events.emit(NetEvent::AddressFailed {
                group,
                vip: short(index),
                errno,
                text: *text,
            });
        }
    }

    /// Removes addresses that are no VIP in place; returns how many went and how many could not.
    pub fn remove_all(&mut self, addresses: &[AddrInfo]) -> (u32, u32) {
        let (mut removed, mut failed) = (0u32, 0u32);
        for chunk in addresses.chunks(BATCH) {
            self.requester.begin();
            for a in chunk {
                self.requester
                    .push(&messages::removal(a.address, a.prefix, a.ifindex));
            }
            for answer in self.requester.finish() {
                match answer {
                    Answer::Done => removed = removed.saturating_add(1),
                    Answer::Refused(errno) if is_gone(errno) => {}
                    _ => failed = failed.saturating_add(1),
                }
            }
        }
        (removed, failed)
    }

    /// Sends the frames of some VIPs that are in place on a device that is up. Without carrier they
    /// vanish, but the kernel reports carrier late (a second at worst), so that is not asked.
    /// `forms`: how many of a VIP's frames. Returns the frames sent and the first VIP that found the queue full.
    fn announce(
        &mut self,
        vips: &[Vip],
        which: impl Iterator<Item = usize>,
        forms: usize,
        devices: &Devices,
    ) -> (u32, Option<usize>) {
        let mut frames: ArrayVec<Outgoing<'_>, SLICE> = ArrayVec::new();
        let mut owner: ArrayVec<usize, SLICE> = ArrayVec::new();
        for index in which {
            let Some(vip) = vips.get(index) else { continue };
            if vip.state != State::Up || !devices.is_up(vip.ifindex) {
                continue;
            }
            for frame in vip.frames.iter().take(forms) {
                let _ = frames.try_push((vip.ifindex, frame));
                let _ = owner.try_push(index);
            }
        }
        let result = self.packets.send(&frames);
        NetStats::add(&self.stats.frames_sent, result.sent.into());
        NetStats::add(&self.stats.frames_failed, result.failed.into());
        let full = (result.left > 0)
            .then(|| owner.get(owner.len().saturating_sub(result.left)).copied())
            .flatten();
        (result.sent, full)
    }

    /// Has the first frames of some VIPs sent by the other thread, so that the next ones are added meanwhile. False if
    /// that cannot be.
    fn hand(&mut self, group: u8, pass: &Pass, vips: &[Vip], which: &Picked, on: &Devices) -> bool {
        let Some(announcer) = &mut self.announcer else {
            return false;
        };
        let vips = which.iter().filter_map(|index| vips.get(*index));
        let ready = vips.filter(|vip| vip.state == State::Up && on.is_up(vip.ifindex));
        let frames = ready.filter_map(|vip| vip.frames.first().map(|frame| (vip.ifindex, frame)));
        announcer.hand(group, pass.begun, frames)
    }
}

/// The address, or its device, is not there.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO)
}

/// Indices fit: a configuration has at most 4096 VIPs.
fn short(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

impl Group {
    /// Removes a batch.
    pub fn step_removals(&mut self, io: &mut Io, now: u64) {
        let picked = self.pick(State::Leaving, now);
        let answers = io.ask(&self.vips, &picked, |vip| &vip.requests.del);
        let after = if self.owned.is_some() {
            State::Wanted
        } else {
            State::Absent
        };
        for (index, answer) in picked.iter().zip(answers) {
            let Some(vip) = self.vips.get_mut(*index) else {
                continue;
            };
            match answer {
                Answer::Done => {
                    if self.down.is_none() && self.owned.is_none() {
                        io.events.emit(NetEvent::StrayRemoved {
                            address: vip.conf.address,
                            ifindex: vip.ifindex,
                        });
                    }
                    vip.state = after;
                    vip.ours = false;
                }
                Answer::Refused(errno) if is_gone(errno) => {
                    vip.state = after;
                    vip.ours = false;
                }
                Answer::Refused(errno) => io.refused("remove", self.id, *index, vip, errno, now),
                Answer::Silent => vip.fail(now),
            }
        }
        if self.down.is_some() {
            let rest = self
                .vips
                .iter_mut()
                .filter(|vip| vip.state == State::Leaving);
            let after = now.saturating_add(REMOVAL_PACE_NS);
            rest.for_each(|vip| vip.retry_at = vip.retry_at.max(after));
        }
        if self.pick(State::Leaving, now).is_empty() {
            self.remove_extras(io, now);
        }
        self.finish_down(io);
        self.settle();
    }

    /// Reports the end of an ownership once nothing is left of it.
    pub fn finish_down(&mut self, io: &mut Io) {
        let done = self.is_clean();
        if let Some(epoch) = self.down.take_if(|_| done) {
            io.events.emit(NetEvent::AddressDown {
                group: self.id,
                epoch,
                t_ns: boottime_ns(),
            });
        }
    }

    /// Adds a batch, and announces it at once where this is part of a gain. In a group of several batches each VIP gets
    /// one frame first, so that the last one is not kept waiting by the others' second frames: those come with the
    /// repetition after 10 ms. All batches but the last are handed to the announcing thread, and the gain is reported
    /// when it has sent them.
    pub fn step_adds(&mut self, io: &mut Io, devices: &Devices, now: u64) {
        let picked = self.pick(State::Wanted, now);
        if !picked.is_empty() {
            self.add(io, &picked, now);
            let t_up = boottime_ns();
            let last = self.pick(State::Wanted, now).is_empty();
            if last {
                // Before others are told: what they send then has to find its way.
                self.add_extras(io, now);
            }
            let large = self.vips.len() > BATCH;
            if let Some(pass) = &mut self.pass {
                pass.t_up = t_up;
                if large && !last && io.hand(self.id, pass, &self.vips, &picked, devices) {
                    pass.handed += 1;
                } else {
                    let forms = if large { 1 } else { ALL_FORMS };
                    let which = picked.iter().copied();
                    let (frames, full) = io.announce(&self.vips, which, forms, devices);
                    // A full queue here is made good by the repetition after 10 ms.
                    NetStats::add(&io.stats.frames_failed, u64::from(full.is_some()));
                    pass.frames = pass.frames.saturating_add(frames);
                    pass.t_sent = boottime_ns();
                }
            }
        }
        if self.pick(State::Wanted, now).is_empty() {
            if picked.is_empty() {
                self.add_extras(io, now);
            }
            if self.pass.is_some_and(|pass| pass.patient_until() <= now) {
                self.finish_pass(io);
            }
        }
        self.settle();
    }

    fn add(&mut self, io: &mut Io, picked: &Picked, now: u64) {
        let answers = io.ask(&self.vips, picked, |vip| &vip.requests.add);
        let mut there = Picked::new();
        for (index, answer) in picked.iter().zip(answers) {
            let Some(vip) = self.vips.get_mut(*index) else {
                continue;
            };
            match answer {
                Answer::Done => {
                    arrive(vip, now);
                    if self.pass.is_none() {
                        io.events.emit(NetEvent::AddressRestored {
                            group: self.id,
                            vip: short(*index),
                            t_ns: boottime_ns(),
                        });
                        self.schedule.start(now, Why::Restored);
                    }
                }
                Answer::Refused(Errno::EEXIST) => there.push(*index),
                Answer::Refused(errno) => io.refused("add", self.id, *index, vip, errno, now),
                Answer::Silent => vip.fail(now),
            }
        }
        if there.is_empty() {
            return;
        }
        // A foreign IPv6 address may be tentative or have failed duplicate detection, which a
        // replacement does not heal: take it away first, the replacement then adds it.
        let foreign: Picked = there
            .iter()
            .copied()
            .filter(|i| self.is_foreign_v6(*i))
            .collect();
        let _ = io.ask(&self.vips, &foreign, |vip| &vip.requests.del);
        let answers = io.ask(&self.vips, &there, |vip| &vip.requests.renew);
        for (index, answer) in there.iter().zip(answers) {
            let Some(vip) = self.vips.get_mut(*index) else {
                continue;
            };
            match answer {
                Answer::Done => {
                    if !vip.ours {
                        io.events.emit(NetEvent::AddressAdopted {
                            group: self.id,
                            vip: short(*index),
                        });
                        if self.pass.is_none() {
                            self.schedule.start(now, Why::Restored);
                        }
                    }
                    arrive(vip, now);
                }
                Answer::Refused(errno) => io.refused("take over", self.id, *index, vip, errno, now),
                Answer::Silent => vip.fail(now),
            }
        }
    }

    fn is_foreign_v6(&self, index: usize) -> bool {
        self.vips
            .get(index)
            .is_some_and(|vip| !vip.ours && vip.conf.address.is_ipv6())
    }

    fn finish_pass(&mut self, io: &mut Io) {
        let (Some(pass), Some(epoch)) = (self.pass.take(), self.owned) else {
            return;
        };
        let up = self.up();
        for (index, vip) in self
            .vips
            .iter_mut()
            .enumerate()
            .filter(|(_, vip)| vip.state == State::Wanted && !vip.usable)
        {
            let device = vip.conf.device;
            if vip.ifindex == 0 {
                io.tell(
                    self.id,
                    index,
                    vip,
                    Errno::ENODEV as i32,
                    &bounded(format!("device {device} is not there")),
                );
            } else {
                let text = bounded(format!("the gate on {device} is not in place"));
                io.tell(self.id, index, vip, Errno::EAGAIN as i32, &text);
            }
        }
        io.events.emit(NetEvent::AddressUp {
            group: self.id,
            epoch,
            t_decided_ns: pass.t_decided,
            t_ns: pass.t_up,
            up: short(up),
            failed: short(self.vips.len().saturating_sub(up)),
        });
        if pass.frames > 0 {
            let (t_ns, frames) = (pass.t_sent, pass.frames);
            io.events.emit(NetEvent::Announced {
                group: self.id,
                epoch,
                t_ns,
                frames,
                why: Why::Gain,
            });
        }
        self.schedule.start(pass.t_up, Why::Gain);
        self.schedule.begin(pass.t_sent);
        self.schedule.finish(pass.t_sent, io.takeover, io.interval);
    }

    /// Sends a slice of a round; begins one that is due.
    pub fn step_round(&mut self, io: &mut Io, devices: &Devices, now: u64) {
        let Some(epoch) = self.owned else {
            self.round = None;
            return;
        };
        if self.schedule.due() <= now
            && (self.round.is_none() || self.schedule.why() != Why::Repeat)
        {
            let why = self.schedule.why();
            self.schedule.begin(now);
            self.round = Some(Round {
                cursor: 0,
                frames: 0,
                why,
                tries: 0,
                not_before: now,
            });
        }
        let Some(round) = &mut self.round else { return };
        if round.not_before > now {
            return;
        }
        let end = round.cursor.saturating_add(BATCH).min(self.vips.len());
        let (frames, full) = io.announce(&self.vips, round.cursor..end, ALL_FORMS, devices);
        round.frames = round.frames.saturating_add(frames);
        round.not_before = now.saturating_add(PACE_NS);
        match full {
            Some(at) if round.tries < FULL_TRIES => {
                round.tries += 1;
                round.cursor = at;
                return;
            }
            Some(_) => NetStats::add(&io.stats.frames_failed, 1),
            None => {}
        }
        round.cursor = end;
        if end < self.vips.len() {
            return;
        }
        let (frames, why, t_ns) = (round.frames, round.why, boottime_ns());
        self.round = None;
        if frames > 0 && !matches!(why, Why::Repeat | Why::Periodic) {
            io.events.emit(NetEvent::Announced {
                group: self.id,
                epoch,
                t_ns,
                frames,
                why,
            });
        }
        self.schedule.finish(t_ns, io.takeover, io.interval);
    }

    /// Renews a slice of the addresses in place; true when this was the last slice.
    pub fn step_renewal(&mut self, io: &mut Io, now: u64) -> bool {
        let mut picked = Picked::new();
        let mut next = self.vips.len();
        for (index, vip) in self.vips.iter().enumerate().skip(self.renew_cursor) {
            if vip.state != State::Up {
                continue;
            }
            if picked.try_push(index).is_err() {
                next = index;
                break;
            }
        }
        let answers = io.ask(&self.vips, &picked, |vip| &vip.requests.renew);
        for (index, answer) in picked.iter().zip(answers) {
            let (Some(vip), Answer::Refused(errno)) = (self.vips.get_mut(*index), answer) else {
                continue;
            };
            vip.state = State::Wanted;
            io.refused("renew", self.id, *index, vip, errno, now);
            self.due = self.due.min(vip.retry_at);
        }
        let last = next >= self.vips.len();
        if last && !self.extras.is_empty() {
            // The kernel tells of lost routes only those who listen to all routes of the machine.
            self.extras.iter_mut().for_each(Extra::again);
            self.due = self.due.min(now);
        }
        self.renew_cursor = if last { 0 } else { next };
        self.renew_at = now.saturating_add(if last { RENEW_INTERVAL_NS } else { PACE_NS });
        last
    }
}

fn arrive(vip: &mut Vip, now: u64) {
    vip.state = State::Up;
    vip.ours = true;
    vip.up_since = now;
    vip.told = 0;
}
