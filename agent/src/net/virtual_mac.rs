//! The devices of gateway VIPs: a macvlan with the group's virtual MAC, on owner and standbys alike.
//!
//! Made as soon as its parent is there, raised once the gates on both are in place, removed with the last VIP that needs it
//! and at a clean stop. A standby has it, too, so that a takeover only adds an address: the gate is what keeps it silent.

use std::collections::BTreeSet;

use agent_common::record::VMAC_PREFIX;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo as LinkInfoAttribute,
    LinkMessage, MacVlanMode,
};
use nix::errno::Errno;

use super::devices::{Devices, Known};
use super::groups::grow;
use super::messages::serialize;
use super::netlink::{Answer, Requester};
use super::parse::{LinkInfo, bounded};
use super::schedule::NEVER;
use super::worker::Worker;
use super::{DevName, NetConfig, NetError, NetEvent, NetVip};

/// Between two actions on one device: nobody fights with us at full speed.
const PACE_NS: u64 = 50_000_000;

/// A macvlan that is to be there.
#[derive(Debug, Clone)]
pub(crate) struct Virtual {
    name: DevName,
    parent: DevName,
    mac: [u8; 6],
    not_before: u64,
    backoff: u64,
    told: i32,
}

/// The name of a group's macvlan on a device: `hl7-eth0`, or with a number where that is too long.
#[must_use]
pub fn device_name(group: u8, parent: &str) -> DevName {
    let plain = format!("hl{group}-{parent}");
    if plain.len() <= 15 {
        return bounded(plain);
    }
    let hash = crate::config::cluster_id(parent);
    bounded(format!("hl{group}~{hash:08x}"))
}

/// Is this a device that [`device_name`] made?
pub(crate) fn is_ours(link: &LinkInfo) -> bool {
    link.name.starts_with("hl")
        && link.kind.as_deref() == Some("macvlan")
        && link
            .mac
            .is_some_and(|mac| mac.first() == Some(&VMAC_PREFIX))
}

/// What a configuration needs.
pub(crate) fn needed(config: &NetConfig) -> Vec<Virtual> {
    let mut seen = BTreeSet::new();
    let vips = config.groups.iter().flat_map(|group| &group.vips);
    vips.filter_map(|vip| {
        let gateway = vip.gateway?;
        seen.insert(vip.device).then_some(Virtual {
            name: vip.device,
            parent: gateway.parent,
            mac: gateway.mac,
            not_before: 0,
            backoff: 0,
            told: 0,
        })
    })
    .collect()
}

/// May the VIP be on its device now? A gateway needs both gates: answers could leave by the parent, too.
pub(crate) fn usable(devices: &Devices, conf: &NetVip, known: &Known, wait_for_gate: bool) -> bool {
    let covered = |known: &Known| known.covered || !wait_for_gate;
    match conf.gateway {
        None => covered(known),
        Some(gateway) => {
            known.link.up
                && covered(known)
                && known.link.mac == Some(gateway.mac)
                && devices.by_name(&gateway.parent).is_some_and(covered)
        }
    }
}

enum Action {
    Make(u32),
    Remove(u32),
    Raise(u32),
    /// Something else has its name.
    Blocked,
}

impl Worker {
    /// Makes, raises and removes what is to be; sets when to look again.
    pub(super) fn step_virtuals(&mut self, now: u64) {
        self.virtual_at = NEVER;
        let wanted = std::mem::take(&mut self.virtuals);
        let stale = self
            .devices
            .links()
            .filter(|link| is_ours(link) && !wanted.iter().any(|v| v.name == link.name));
        for ifindex in stale.map(|link| link.ifindex).collect::<Vec<_>>() {
            let _ = ask(&mut self.io.requester, &removal(ifindex));
        }
        let mut all = wanted;
        for v in &mut all {
            let Some(action) = self.next_action(v) else {
                continue;
            };
            if v.not_before > now {
                self.virtual_at = self.virtual_at.min(v.not_before);
                continue;
            }
            v.not_before = now.saturating_add(PACE_NS);
            let requester = &mut self.io.requester;
            let done = match action {
                Action::Make(parent) => ask(requester, &creation(v, parent)),
                Action::Remove(ifindex) => ask(requester, &removal(ifindex)),
                Action::Raise(ifindex) => match settings(&v.name, &v.parent) {
                    Ok(()) => ask(requester, &raising(ifindex)),
                    Err(errno) => Answer::Refused(errno),
                },
                Action::Blocked => Answer::Refused(Errno::EEXIST),
            };
            match done {
                // What it came to is in a notice that follows.
                Answer::Done => (v.backoff, v.told) = (0, 0),
                Answer::Refused(_) | Answer::Silent => {
                    v.backoff = grow(v.backoff);
                    v.not_before = now.saturating_add(v.backoff);
                    self.virtual_at = self.virtual_at.min(v.not_before);
                }
            }
            if let Answer::Refused(errno) = done
                && v.told != errno as i32
            {
                v.told = errno as i32;
                let words = self.io.requester.text();
                let words = words.map(|t| format!(" ({t})")).unwrap_or_default();
                let text = match action {
                    Action::Blocked => "another device has its name".to_owned(),
                    Action::Raise(_) => format!("its settings: {}{words}", errno.desc()),
                    _ => format!("{}{words}", errno.desc()),
                };
                self.io.events.emit(NetEvent::DeviceFailed {
                    name: v.name,
                    text: bounded(format!(
                        "virtual MAC {} on {}: {text}",
                        mac_text(v.mac),
                        v.parent
                    )),
                });
            }
        }
        self.virtuals = all;
        for ifindex in self.devices.refresh_router() {
            self.bind(ifindex);
        }
    }

    fn next_action(&self, v: &Virtual) -> Option<Action> {
        let parent = self.devices.by_name(&v.parent);
        let Some(known) = self.devices.by_name(&v.name) else {
            let parent = parent?.link;
            // Not on what is no Ethernet, and not on itself.
            return (parent.mac.is_some() && !is_ours(&parent))
                .then_some(Action::Make(parent.ifindex));
        };
        if !is_ours(&known.link) {
            return Some(Action::Blocked);
        }
        let fits = parent.is_some_and(|p| p.link.ifindex == known.link.parent)
            && known.link.mac == Some(v.mac);
        if !fits {
            return Some(Action::Remove(known.link.ifindex));
        }
        let ready = |known: &Known| known.covered || !self.wait_for_gate;
        // A macvlan cannot be raised before its parent.
        (!known.link.up && ready(known) && parent.is_some_and(|p| p.link.up && ready(p)))
            .then_some(Action::Raise(known.link.ifindex))
    }

    /// At the end: nothing is left behind but what an owned group still needs (planned restart).
    pub(super) fn remove_virtuals(&mut self) {
        let needed: BTreeSet<DevName> = self
            .groups
            .values()
            .filter(|group| group.owned.is_some())
            .flat_map(|group| group.vips.iter().map(|vip| vip.conf.device))
            .collect();
        let gone = self
            .devices
            .links()
            .filter(|link| is_ours(link) && !needed.contains(&link.name));
        for ifindex in gone.map(|link| link.ifindex).collect::<Vec<_>>() {
            let _ = ask(&mut self.io.requester, &removal(ifindex));
        }
    }
}

/// Removes what an agent that was killed left behind: routes and rules with our mark, and devices with a virtual MAC,
/// which must not outlive their gates. Returns the names of the devices.
///
/// # Errors
/// [`NetError`]: something cannot be listed, or a device cannot be removed.
pub fn remove_leftovers() -> Result<Vec<String>, NetError> {
    let mut requester = Requester::open()?;
    for found in requester.ours()? {
        let _ = ask(&mut requester, &found.removal());
    }
    let mut names = Vec::new();
    for link in requester.links()?.iter().filter(|link| is_ours(link)) {
        match ask(&mut requester, &removal(link.ifindex)) {
            Answer::Done => names.push(link.name.to_string()),
            Answer::Refused(Errno::ENODEV) => {}
            Answer::Refused(errno) => {
                return Err(NetError::Config(format!(
                    "cannot remove {}: {errno}",
                    link.name
                )));
            }
            Answer::Silent => {
                return Err(NetError::Config(format!(
                    "cannot remove {}: no answer",
                    link.name
                )));
            }
        }
    }
    Ok(names)
}

fn ask(requester: &mut Requester, request: &[u8]) -> Answer {
    requester.begin();
    requester.push(request);
    let answers = requester.finish();
    answers.first().copied().unwrap_or(Answer::Silent)
}

fn creation(v: &Virtual, parent: u32) -> Vec<u8> {
    let mut m = LinkMessage::default();
    m.attributes = vec![
        LinkAttribute::IfName(v.name.to_string()),
        LinkAttribute::Link(parent),
        LinkAttribute::Address(v.mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfoAttribute::Kind(InfoKind::MacVlan),
            // Private: two groups of one node have nothing to say to each other.
            LinkInfoAttribute::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(
                MacVlanMode::Private,
            )])),
        ]),
    ];
    serialize(
        RouteNetlinkMessage::NewLink(m),
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
    )
}

fn raising(ifindex: u32) -> Vec<u8> {
    let mut m = LinkMessage::default();
    m.header.index = ifindex;
    m.header.flags = LinkFlags::Up;
    m.header.change_mask = LinkFlags::Up;
    serialize(RouteNetlinkMessage::NewLink(m), NLM_F_ACK)
}

fn removal(ifindex: u32) -> Vec<u8> {
    let mut m = LinkMessage::default();
    m.header.index = ifindex;
    serialize(RouteNetlinkMessage::DelLink(m), NLM_F_ACK)
}

/// What a macvlan must and must not do, before it is raised. They go with the device.
fn settings(name: &str, parent: &str) -> Result<(), Errno> {
    let path = |family: &str, device: &str, key: &str| {
        format!("/proc/sys/net/{family}/conf/{device}/{key}")
    };
    let write = |family, key, value: &str| {
        std::fs::write(path(family, name, key), value)
            .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    };
    // It answers for its own addresses only: by default Linux answers for any of the node's, here with the virtual MAC.
    write("ipv4", "arp_ignore", "1")?;
    write("ipv4", "arp_announce", "2")?;
    // What comes in here would be answered by the parent, where the network's route is: loose, whatever "all" says.
    write("ipv4", "rp_filter", "2")?;
    // It is a router where its parent is one.
    for family in ["ipv4", "ipv6"] {
        if let Ok(value) = std::fs::read_to_string(path(family, parent, "forwarding")) {
            let _ = write(family, "forwarding", value.trim());
        }
    }
    // No link-local address (mode "none"): the standbys' would be the same. Without IPv6 there is nothing to set.
    match write("ipv6", "addr_gen_mode", "1") {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    // No addresses from router advertisements.
    for (key, value) in [("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")] {
        let _ = write("ipv6", key, value);
    }
    Ok(())
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(device_name(7, "eth0").as_str(), "hl7-eth0");
        assert_eq!(device_name(255, "enp0s31f6").as_str(), "hl255-enp0s31f6");
        let long = device_name(255, "enp0s31f6u1");
        assert_eq!(long.len(), 14, "{long}");
        assert_ne!(long, device_name(255, "enp0s31f6u2"));
        assert_ne!(long, device_name(25, "enp0s31f6u1"));
    }
}
