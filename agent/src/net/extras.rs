//! Routes and rules that go with a group: added after its addresses, removed after them, marked as ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::groups::{Group, State, grow};
use super::messages::serialize;
use super::netlink::{Answer, BATCH};
use super::parse::{Foreign, bounded};
use super::schedule::NEVER;
use super::work::Io;
use super::worker::Worker;
use super::{DevName, NetError, NetEvent, NetStats, PROTO_HEARTLINE};
use crate::config::{Prefix, Route, Rule};

/// A route or a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetExtra {
    /// A route.
    Route(Route),
    /// A rule.
    Rule(Rule),
}

impl std::fmt::Display for NetExtra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Route(route) => write!(f, "route {route}"),
            Self::Rule(rule) => write!(f, "rule {rule}"),
        }
    }
}

impl NetExtra {
    /// The device that must be there for it.
    pub(crate) fn device(&self) -> Option<&str> {
        match self {
            Self::Route(route) => route.device.as_deref(),
            Self::Rule(_) => None,
        }
    }

    /// What the kernel shows of it.
    fn is(&self, found: &Foreign) -> bool {
        match self {
            Self::Route(r) => {
                *found
                    == Foreign::Route {
                        to: r.destination,
                        table: r.table,
                        metric: metric(r),
                    }
            }
            Self::Rule(r) => {
                *found
                    == Foreign::Rule {
                        v6: is_v6(r),
                        from: r.from.filter(|p| p.length > 0),
                        to: r.to.filter(|p| p.length > 0),
                        table: r.table,
                        priority: r.priority,
                    }
            }
        }
    }
}

/// The kernel gives IPv6 routes without a metric this one (IP6_RT_PRIO_USER).
fn metric(route: &Route) -> u32 {
    let default = if route.destination.address.is_ipv6() {
        1024
    } else {
        0
    };
    route.metric.unwrap_or(default)
}

fn is_v6(rule: &Rule) -> bool {
    rule.from.or(rule.to).is_some_and(|p| p.address.is_ipv6())
}

/// One of them in the worker's books.
#[derive(Debug, Clone)]
pub(crate) struct Extra {
    pub conf: NetExtra,
    add: Vec<u8>,
    del: Vec<u8>,
    pub state: State,
    /// To be added for the first time in this ownership: one that is there already is none of ours, or stale.
    pub fresh: bool,
    pub retry_at: u64,
    backoff: u64,
    told: i32,
}

impl Extra {
    pub fn new(conf: NetExtra) -> Self {
        let (add, del) = match conf.device() {
            Some(_) => (Vec::new(), Vec::new()),
            None => requests(&conf, None),
        };
        Self {
            conf,
            add,
            del,
            state: State::Absent,
            fresh: false,
            retry_at: 0,
            backoff: 0,
            told: 0,
        }
    }

    /// The device is there; `None`: it is gone, and the route with it.
    pub fn bind(&mut self, ifindex: Option<u32>) {
        (self.add, self.del) = match ifindex {
            Some(_) => requests(&self.conf, ifindex),
            None => (Vec::new(), Vec::new()),
        };
        if self.state == State::Leaving && ifindex.is_none() {
            self.state = State::Absent;
        }
        self.again();
    }

    /// It may have vanished with a device: to be looked at.
    pub fn again(&mut self) {
        if self.state == State::Up {
            self.state = State::Wanted;
        }
        self.retry_at = 0;
    }

    pub fn want(&mut self) {
        self.state = State::Wanted;
        self.fresh = true;
        (self.retry_at, self.backoff, self.told) = (0, 0, 0);
    }

    pub fn leave(&mut self) {
        self.state = if self.del.is_empty() {
            State::Absent
        } else {
            State::Leaving
        };
        (self.retry_at, self.backoff, self.told) = (0, 0, 0);
    }

    /// When there is something to do for it.
    pub fn due(&self) -> u64 {
        match self.state {
            State::Wanted if !self.add.is_empty() => self.retry_at,
            State::Leaving => self.retry_at,
            _ => NEVER,
        }
    }

    /// Takes over the standing of the same one in an older configuration.
    pub fn inherit(&mut self, old: &Self) {
        self.state = old.state;
        self.fresh = old.fresh;
        self.told = old.told;
    }

    pub fn removal(&self) -> &[u8] {
        &self.del
    }
}

type Picked = ArrayVec<usize, BATCH>;

impl Group {
    fn pick_extras(&self, state: State, now: u64) -> Picked {
        let ready = |e: &Extra| e.state == state && e.due() <= now;
        let found = self.extras.iter().enumerate().filter(|(_, e)| ready(e));
        found.map(|(i, _)| i).take(BATCH).collect()
    }

    pub fn extras_leaving(&self, now: u64) -> bool {
        !self.pick_extras(State::Leaving, now).is_empty()
    }

    /// Adds a batch.
    pub fn add_extras(&mut self, io: &mut Io, now: u64) {
        let picked = self.pick_extras(State::Wanted, now);
        let answers = ask(io, &self.extras, &picked, |e| &e.add);
        for (index, answer) in picked.iter().zip(answers) {
            let Some(extra) = self.extras.get_mut(*index) else {
                continue;
            };
            match answer {
                Answer::Done => arrive(extra),
                Answer::Refused(Errno::EEXIST) if !extra.fresh => arrive(extra),
                Answer::Refused(Errno::EEXIST) => {
                    // Stale, perhaps: removing takes only what carries our mark.
                    let _ = one(io, &extra.del);
                    match one(io, &extra.add) {
                        Answer::Done => arrive(extra),
                        Answer::Refused(errno) => {
                            io.extra_refused(self.id, "add", extra, errno, now)
                        }
                        Answer::Silent => fail(extra, now),
                    }
                }
                Answer::Refused(errno) => io.extra_refused(self.id, "add", extra, errno, now),
                Answer::Silent => fail(extra, now),
            }
        }
    }

    /// Removes a batch.
    pub fn remove_extras(&mut self, io: &mut Io, now: u64) {
        let picked = self.pick_extras(State::Leaving, now);
        let answers = ask(io, &self.extras, &picked, |e| &e.del);
        for (index, answer) in picked.iter().zip(answers) {
            let Some(extra) = self.extras.get_mut(*index) else {
                continue;
            };
            match answer {
                Answer::Done => extra.state = State::Absent,
                Answer::Refused(errno) if is_gone(errno) => extra.state = State::Absent,
                Answer::Refused(errno) => io.extra_refused(self.id, "remove", extra, errno, now),
                Answer::Silent => fail(extra, now),
            }
        }
    }
}

/// No such route (ESRCH), no such rule (ENOENT), or its device is gone with it.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ESRCH | Errno::ENOENT | Errno::ENODEV)
}

fn arrive(extra: &mut Extra) {
    extra.state = State::Up;
    extra.fresh = false;
    (extra.backoff, extra.told) = (0, 0);
}

fn fail(extra: &mut Extra, now: u64) {
    extra.backoff = grow(extra.backoff);
    extra.retry_at = now.saturating_add(extra.backoff);
}

fn one(io: &mut Io, request: &[u8]) -> Answer {
    io.requester.begin();
    io.requester.push(request);
    let answers = io.requester.finish();
    answers.first().copied().unwrap_or(Answer::Silent)
}

fn ask(
    io: &mut Io,
    extras: &[Extra],
    picked: &[usize],
    request: impl Fn(&Extra) -> &[u8],
) -> ArrayVec<Answer, BATCH> {
    io.requester.begin();
    for extra in picked.iter().filter_map(|i| extras.get(*i)) {
        io.requester.push(request(extra));
    }
    io.requester.finish()
}

impl Io {
    /// Removes what a new configuration has no more.
    pub fn remove_extras(&mut self, requests: &[Vec<u8>]) {
        for chunk in requests.chunks(BATCH) {
            self.requester.begin();
            for request in chunk.iter().filter(|r| !r.is_empty()) {
                self.requester.push(request);
            }
            let _ = self.requester.finish();
        }
    }

    fn extra_refused(&mut self, group: u8, doing: &str, extra: &mut Extra, errno: Errno, now: u64) {
        NetStats::add(&self.stats.requests_refused, 1);
        fail(extra, now);
        if extra.told == errno as i32 {
            return;
        }
        extra.told = errno as i32;
        let why = if errno == Errno::EEXIST {
            "another one like it is there, and is not ours"
        } else {
            errno.desc()
        };
        self.events.emit(NetEvent::ExtraFailed {
            group,
            errno: errno as i32,
            text: bounded(format!("cannot {doing} {}: {why}", extra.conf)),
        });
    }
}

impl Worker {
    /// Takes away routes and rules with our mark that no owned group has; those that one has are in place.
    /// Returns how many went.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) fn sweep_extras(&mut self) -> Result<u32, NetError> {
        let found = self.io.requester.ours()?;
        let mut removed = 0u32;
        for f in found {
            let kept = self
                .groups
                .values_mut()
                .filter(|group| group.owned.is_some())
                .flat_map(|group| &mut group.extras)
                .find(|extra| extra.conf.is(&f));
            if let Some(extra) = kept {
                arrive(extra);
            } else if one(&mut self.io, &f.removal()) == Answer::Done {
                removed = removed.saturating_add(1);
            }
        }
        Ok(removed)
    }

    /// A device came, went or changed its state: routes by it follow.
    pub(super) fn bind_extras(&mut self, name: &DevName, ifindex: Option<u32>) {
        for group in self.groups.values_mut() {
            let mut any = false;
            for extra in &mut group.extras {
                if extra.conf.device() == Some(name.as_str()) {
                    extra.bind(ifindex);
                    any = true;
                } else if group.owned.is_some() && extra.state == State::Up {
                    // One that names only the next router went with whatever device led there.
                    extra.again();
                    any = true;
                }
            }
            if any {
                group.settle();
            }
        }
    }
}

impl Foreign {
    /// The request that removes it.
    pub fn removal(&self) -> Vec<u8> {
        let message = match *self {
            Self::Route { to, table, metric } => {
                RouteNetlinkMessage::DelRoute(route_message(to, table, Some(metric)))
            }
            Self::Rule {
                v6,
                from,
                to,
                table,
                priority,
            } => RouteNetlinkMessage::DelRule(rule_message(v6, from, to, table, priority)),
        };
        serialize(message, NLM_F_ACK)
    }
}

/// The dumps that show what is ours, one per family and kind.
pub(crate) fn dumps() -> [RouteNetlinkMessage; 4] {
    let route = |v6: bool| {
        let mut m = RouteMessage::default();
        m.header.address_family = family(v6);
        // The kernel leaves the others out, where it is asked strictly (4.20): there may be a million.
        m.header.protocol = RouteProtocol::Other(PROTO_HEARTLINE);
        RouteNetlinkMessage::GetRoute(m)
    };
    let rule = |v6: bool| {
        let mut m = RuleMessage::default();
        m.header.family = family(v6);
        RouteNetlinkMessage::GetRule(m)
    };
    [route(false), route(true), rule(false), rule(true)]
}

fn family(v6: bool) -> AddressFamily {
    if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// The requests that add and remove it.
fn requests(conf: &NetExtra, ifindex: Option<u32>) -> (Vec<u8>, Vec<u8>) {
    let (add, del) = match conf {
        NetExtra::Route(r) => {
            let mut m = route_message(r.destination, r.table, r.metric);
            let del = m.clone();
            m.header.kind = RouteType::Unicast;
            m.header.scope = if r.via.is_some() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            };
            m.attributes
                .extend(r.via.map(|a| RouteAttribute::Gateway(a.into())));
            m.attributes
                .extend(r.src.map(|a| RouteAttribute::PrefSource(a.into())));
            m.attributes.extend(ifindex.map(RouteAttribute::Oif));
            (
                RouteNetlinkMessage::NewRoute(m),
                RouteNetlinkMessage::DelRoute(del),
            )
        }
        NetExtra::Rule(r) => {
            let m = rule_message(is_v6(r), r.from, r.to, r.table, r.priority);
            (
                RouteNetlinkMessage::NewRule(m.clone()),
                RouteNetlinkMessage::DelRule(m),
            )
        }
    };
    (
        serialize(add, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
        serialize(del, NLM_F_ACK),
    )
}

/// As much as finds a route of ours; scope and type are left open.
fn route_message(to: Prefix, table: u32, metric: Option<u32>) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header.address_family = family(to.address.is_ipv6());
    m.header.destination_prefix_length = to.length;
    // The old field has eight bits; the attribute counts.
    m.header.table = u8::try_from(table).unwrap_or(0);
    m.header.protocol = RouteProtocol::Other(PROTO_HEARTLINE);
    m.header.scope = RouteScope::NoWhere;
    if to.length > 0 {
        m.attributes
            .push(RouteAttribute::Destination(to.address.into()));
    }
    m.attributes.push(RouteAttribute::Table(table));
    m.attributes
        .extend(metric.filter(|n| *n != 0).map(RouteAttribute::Priority));
    m
}

fn rule_message(
    v6: bool,
    from: Option<Prefix>,
    to: Option<Prefix>,
    table: u32,
    priority: u32,
) -> RuleMessage {
    let mut m = RuleMessage::default();
    m.header.family = family(v6);
    m.header.src_len = from.map_or(0, |p| p.length);
    m.header.dst_len = to.map_or(0, |p| p.length);
    m.header.table = u8::try_from(table).unwrap_or(0);
    m.header.action = RuleAction::ToTable;
    let some = |p: Option<Prefix>| p.filter(|p| p.length > 0).map(|p| p.address);
    m.attributes.extend(some(from).map(RuleAttribute::Source));
    m.attributes
        .extend(some(to).map(RuleAttribute::Destination));
    m.attributes.extend([
        RuleAttribute::Table(table),
        RuleAttribute::Priority(priority),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTO_HEARTLINE)),
    ]);
    m
}

/// The address of an attribute, or that of everything.
pub(crate) fn prefix_of(v6: bool, bytes: Option<&[u8]>, length: u8) -> Option<Prefix> {
    let address: IpAddr = match (v6, bytes) {
        (false, None) => Ipv4Addr::UNSPECIFIED.into(),
        (true, None) => Ipv6Addr::UNSPECIFIED.into(),
        (false, Some(b)) => <[u8; 4]>::try_from(b).ok()?.into(),
        (true, Some(b)) => <[u8; 16]>::try_from(b).ok()?.into(),
    };
    Some(Prefix { address, length })
}
