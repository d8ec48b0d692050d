//! What is known of each group and VIP.

use super::announcer::Delivered;
use super::devices::Known;
use super::extras::Extra;
use super::frames::{Frames, announcement};
use super::messages::{Requests, requests};
use super::netlink::BATCH;
use super::schedule::{NEVER, Schedule, Why};
use super::{NetGroup, NetVip};

use arrayvec::ArrayVec;

const MS: u64 = 1_000_000;
const BACKOFF_FIRST: u64 = 100 * MS;
const BACKOFF_MAX: u64 = 5_000 * MS;
/// An address that stood this long is put back at once when it vanishes; a shorter one waits its
/// back-off, so that two programs never fight at full speed.
const STABLE: u64 = 10_000 * MS;

/// Where a VIP stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Not to be there.
    Absent,
    /// To be added.
    Wanted,
    /// In place.
    Up,
    /// To be removed.
    Leaving,
}

/// One VIP.
#[derive(Debug, Clone)]
pub(crate) struct Vip {
    pub conf: NetVip,
    /// 0: the device is not there.
    pub ifindex: u32,
    /// The device is there and its gate too (where we must wait for it).
    pub usable: bool,
    pub requests: Requests,
    pub frames: Frames,
    pub state: State,
    /// An address found in the kernel is our own work.
    pub ours: bool,
    pub up_since: u64,
    pub retry_at: u64,
    pub backoff: u64,
    /// The reason of refusal reported last, as errno.
    pub told: i32,
}

impl Vip {
    pub fn new(conf: NetVip) -> Self {
        Self {
            conf,
            ifindex: 0,
            usable: false,
            requests: Requests::default(),
            frames: Frames::new(),
            state: State::Absent,
            ours: false,
            up_since: 0,
            retry_at: 0,
            backoff: 0,
            told: 0,
        }
    }

    /// Ties the VIP to its device as it is now: builds requests and frames.
    pub fn bind(&mut self, known: &Known, usable: bool) {
        let link = &known.link;
        if self.ifindex != link.ifindex {
            self.requests = requests(
                self.conf.address,
                self.conf.prefix,
                &self.conf.device,
                link.ifindex,
            );
            self.ifindex = link.ifindex;
        }
        self.frames = link.mac.map_or_else(Frames::new, |mac| {
            announcement(self.conf.address, mac, known.router)
        });
        self.usable = usable;
        self.retry_soon();
    }

    /// The device is gone, and the address with it.
    pub fn unbind(&mut self, owned: bool) {
        self.ifindex = 0;
        self.usable = false;
        self.ours = false;
        self.state = if owned { State::Wanted } else { State::Absent };
    }

    /// Forgets past failures.
    pub fn retry_soon(&mut self) {
        self.retry_at = 0;
        self.backoff = 0;
        self.told = 0;
    }

    /// Something failed: waits longer each time.
    pub fn fail(&mut self, now: u64) {
        self.backoff = grow(self.backoff);
        self.retry_at = now.saturating_add(self.backoff);
    }

    /// It changed behind our back: to be put right at once, unless that happens again and again.
    pub fn disturb(&mut self, to: State, now: u64) {
        if now.saturating_sub(self.up_since) >= STABLE {
            self.backoff = 0;
        }
        self.state = to;
        self.retry_at = now.saturating_add(self.backoff);
        self.backoff = grow(self.backoff);
        self.up_since = now;
    }

    /// When there is something to do for it; [`NEVER`] if nothing, or nothing can be done.
    fn due(&self) -> u64 {
        match self.state {
            State::Wanted if self.usable => self.retry_at,
            State::Leaving => self.retry_at,
            _ => NEVER,
        }
    }
}

pub(crate) fn grow(backoff: u64) -> u64 {
    if backoff == 0 {
        BACKOFF_FIRST
    } else {
        backoff.saturating_mul(2).min(BACKOFF_MAX)
    }
}

/// How long a gain waits for announcements that were handed over, after the last of them, ns.
const PATIENCE: u64 = 100 * MS;

/// A gain that is being carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    /// When it began, which no other gain of the group did.
    pub begun: u64,
    /// Parcels of announcements that the announcing thread has not delivered yet.
    pub handed: u32,
    pub t_decided: u64,
    pub t_up: u64,
    pub t_sent: u64,
    pub frames: u32,
}

impl Pass {
    /// Until when it waits for what was handed over; 0 if for nothing.
    pub fn patient_until(&self) -> u64 {
        if self.handed == 0 {
            0
        } else {
            self.t_up.saturating_add(PATIENCE)
        }
    }
}

/// A round of announcements on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub cursor: usize,
    pub frames: u32,
    pub why: Why,
    pub tries: u32,
    pub not_before: u64,
}

/// One group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub id: u8,
    pub vips: Vec<Vip>,
    pub extras: Vec<Extra>,
    /// The epoch of our ownership.
    pub owned: Option<u64>,
    pub pass: Option<Pass>,
    /// The epoch whose end is being carried out.
    pub down: Option<u64>,
    pub schedule: Schedule,
    pub round: Option<Round>,
    pub renew_at: u64,
    pub renew_cursor: usize,
    /// When some VIP needs adding or removing.
    pub due: u64,
}

impl Group {
    pub fn new(conf: &NetGroup) -> Self {
        Self {
            id: conf.id,
            vips: conf.vips.iter().map(|vip| Vip::new(*vip)).collect(),
            extras: conf.extras.iter().cloned().map(Extra::new).collect(),
            owned: None,
            pass: None,
            down: None,
            schedule: Schedule::off(),
            round: None,
            renew_at: NEVER,
            renew_cursor: 0,
            due: NEVER,
        }
    }

    /// Ours from now on.
    pub fn gain(&mut self, epoch: u64, t_decided: u64, now: u64) {
        self.owned = Some(epoch);
        self.down = None;
        self.pass = Some(Pass {
            begun: now,
            handed: 0,
            t_decided,
            t_up: now,
            t_sent: now,
            frames: 0,
        });
        self.schedule = Schedule::off();
        self.round = None;
        self.renew_at = now.saturating_add(super::RENEW_INTERVAL_NS);
        self.renew_cursor = 0;
        for vip in &mut self.vips {
            vip.state = State::Wanted;
            vip.retry_soon();
        }
        self.extras.iter_mut().for_each(Extra::want);
        self.due = 0;
    }

    /// Ours all along (planned restart): whatever is in place stays, and is renewed at once.
    pub fn keep(&mut self, epoch: u64, now: u64, interval: u64) {
        self.owned = Some(epoch);
        self.schedule.keep(now, interval);
        self.renew_at = now;
        for vip in &mut self.vips {
            vip.state = State::Wanted;
        }
        self.extras.iter_mut().for_each(Extra::want);
        self.due = 0;
    }

    /// Not ours from now on.
    pub fn lose(&mut self, epoch: u64) {
        self.owned = None;
        self.pass = None;
        self.down = Some(epoch);
        self.schedule = Schedule::off();
        self.round = None;
        self.renew_at = NEVER;
        for vip in &mut self.vips {
            // Also those that failed: a request without an answer may have been carried out.
            vip.state = if vip.ifindex == 0 {
                State::Absent
            } else {
                State::Leaving
            };
            vip.retry_soon();
        }
        self.extras.iter_mut().for_each(Extra::leave);
        self.due = 0;
    }

    /// Nothing of a lost ownership is left.
    pub fn is_clean(&self) -> bool {
        !self.vips.iter().any(|vip| vip.state == State::Leaving)
            && !self.extras.iter().any(|e| e.state == State::Leaving)
    }

    /// Something is to be removed now.
    pub fn leaving(&self, now: u64) -> bool {
        !self.pick(State::Leaving, now).is_empty() || self.extras_leaving(now)
    }

    /// Up to a batch of VIPs in `state` that may be tried now.
    pub fn pick(&self, state: State, now: u64) -> ArrayVec<usize, BATCH> {
        let ready = |vip: &Vip| vip.state == state && vip.due() <= now;
        self.vips
            .iter()
            .enumerate()
            .filter(|(_, vip)| ready(vip))
            .map(|(i, _)| i)
            .take(BATCH)
            .collect()
    }

    /// Sets [`Self::due`] from the VIPs; at once where only a report is owed.
    pub fn settle(&mut self) {
        let due = self.vips.iter().map(Vip::due).min().unwrap_or(NEVER);
        let extras = self.extras.iter().map(Extra::due).min().unwrap_or(NEVER);
        let pass = self.pass.map_or(NEVER, |pass| pass.patient_until());
        let ended = self.down.is_some() && self.is_clean();
        self.due = if ended { 0 } else { due.min(extras).min(pass) };
    }

    /// Announcements of a gain that were handed over are out.
    pub fn delivered(&mut self, delivered: Delivered) {
        let Some(pass) = self.pass.as_mut().filter(|p| p.begun == delivered.gain) else {
            return;
        };
        pass.handed = pass.handed.saturating_sub(1);
        pass.frames = pass.frames.saturating_add(delivered.frames);
        pass.t_sent = pass.t_sent.max(delivered.t_ns);
        self.settle();
    }

    /// When the next thing of any kind is to be done.
    pub fn next(&self) -> u64 {
        let round = self
            .round
            .map_or(self.schedule.due(), |round| round.not_before);
        self.due.min(round).min(self.renew_at)
    }

    /// VIPs in place.
    pub fn up(&self) -> usize {
        self.vips
            .iter()
            .filter(|vip| vip.state == State::Up)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n: u8) -> Group {
        let vips = (0..n)
            .map(|i| NetVip::new([10, 0, 0, i].into(), None, "eth0").unwrap())
            .collect();
        let mut group = Group::new(&NetGroup {
            id: 1,
            vips,
            extras: vec![],
        });
        for vip in &mut group.vips {
            vip.ifindex = 2;
            vip.usable = true;
        }
        group
    }

    #[test]
    fn back_off_grows_and_has_an_end() {
        let mut vip = Vip::new(NetVip::new([10, 0, 0, 1].into(), None, "eth0").unwrap());
        let mut waits = Vec::new();
        for _ in 0..8 {
            vip.fail(0);
            waits.push(vip.retry_at / MS);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        vip.retry_soon();
        assert_eq!((vip.retry_at, vip.backoff), (0, 0));
    }

    #[test]
    fn a_disturbed_address_comes_back_at_once_the_first_time_only() {
        let mut vip = Vip::new(NetVip::new([10, 0, 0, 1].into(), None, "eth0").unwrap());
        let t = 2 * STABLE;
        vip.disturb(State::Wanted, t);
        assert_eq!(vip.retry_at, t);
        vip.disturb(State::Wanted, t + 1);
        assert_eq!(vip.retry_at, t + 1 + BACKOFF_FIRST);
        vip.disturb(State::Wanted, t + 1 + STABLE);
        assert_eq!(vip.retry_at, t + 1 + STABLE);
    }

    #[test]
    fn losing_leaves_nothing_due_but_the_removal() {
        let mut g = group(3);
        g.gain(1, 0, 10);
        assert_eq!(g.pick(State::Wanted, 10).len(), 3);
        g.schedule.start(10, Why::Gain);
        g.round = Some(Round {
            cursor: 1,
            frames: 2,
            why: Why::Gain,
            tries: 0,
            not_before: 10,
        });
        g.vips[2].unbind(true);
        g.lose(1);
        assert_eq!(g.pick(State::Leaving, 0).len(), 2);
        assert_eq!(g.pick(State::Wanted, NEVER - 1).len(), 0);
        for vip in &mut g.vips {
            vip.state = State::Absent;
        }
        g.settle();
        assert_eq!(g.due, 0, "the end must be reported");
        g.down = None;
        g.settle();
        assert_eq!(g.next(), NEVER);
    }

    #[test]
    fn a_vip_without_a_gate_is_never_due() {
        let mut g = group(2);
        g.vips[0].usable = false;
        g.gain(1, 0, 10);
        assert_eq!(g.pick(State::Wanted, 10).as_slice(), [1]);
        g.vips[1].state = State::Up;
        g.pass = None;
        g.renew_at = NEVER;
        g.settle();
        assert_eq!(g.due, NEVER);
    }
}
