//! Following the kernel: devices and addresses that change, and reading everything anew.

use std::collections::BTreeSet;

use super::groups::State;
use super::netlink::Heard;
use super::parse::{AddrInfo, IFA_F_DADFAILED, IFA_F_TENTATIVE, LinkInfo, Notice};
use super::rt::boottime_ns;
use super::schedule::{NEVER, Why};
use super::worker::Worker;
use super::{NetError, NetEvent, NetStats, virtual_mac};

/// Datagrams read before commands are looked at again.
const SLICE: usize = 32;
const RESYNC_GAP_NS: u64 = 100_000_000;
const RESYNC_RETRY_NS: u64 = 1_000_000_000;

impl Worker {
    /// Reads some notices; true when there may be more.
    pub(super) fn hear(&mut self) -> bool {
        if self.resync_at != NEVER {
            return false;
        }
        for _ in 0..SLICE {
            match self.monitor.hear() {
                Heard::Quiet => return false,
                Heard::Lost => {
                    NetStats::add(&self.io.stats.resyncs, 1);
                    self.resync_at =
                        boottime_ns().max(self.last_resync.saturating_add(RESYNC_GAP_NS));
                    return false;
                }
                Heard::Datagram => {}
            }
            let (items, malformed) = self.monitor.datagram();
            if malformed {
                NetStats::add(&self.io.stats.malformed, 1);
            }
            for item in items {
                match item.notice {
                    Notice::Link(link) => self.link(link),
                    Notice::LinkGone(link) => self.link_gone(link.ifindex),
                    Notice::Addr(addr) => self.address(addr),
                    Notice::AddrGone(addr) => self.address_gone(addr),
                    Notice::Ours(_)
                    | Notice::Answer { .. }
                    | Notice::Done
                    | Notice::Overrun
                    | Notice::Other => {}
                }
            }
        }
        true
    }

    /// A device as it is now.
    fn link(&mut self, link: LinkInfo) {
        if link.loopback {
            return;
        }
        let (ifindex, name) = (link.ifindex, link.name);
        let before = self.devices.get(ifindex).map(|known| known.link);
        if before.is_some_and(|old| old.name != name) {
            // Renamed: for those who look by name one device went and another came. Addresses that
            // stayed behind on it are found by the resync.
            self.link_gone(ifindex);
            self.resync_at = self.resync_at.min(boottime_ns());
        }
        self.virtual_at = 0;
        let Some(old) = self.devices.put(link) else {
            self.bind_extras(&name, Some(ifindex));
            self.io.events.emit(NetEvent::DeviceNew { ifindex, name });
            if link.running {
                self.io.events.emit(NetEvent::DeviceUp { ifindex, name });
            }
            self.bind(ifindex);
            return;
        };
        if old.mac != link.mac {
            if let Some(mac) = link.mac {
                self.io
                    .events
                    .emit(NetEvent::DeviceMac { ifindex, name, mac });
            }
            self.bind(ifindex);
            self.announce_device(ifindex, Why::Asked);
        }
        if link.running != old.running || link.up != old.up {
            self.bind_extras(&name, Some(ifindex));
        }
        if link.running && !old.running {
            self.io.events.emit(NetEvent::DeviceUp { ifindex, name });
            self.bind(ifindex);
            self.announce_device(ifindex, Why::CarrierUp);
        } else if old.running && !link.running {
            self.io.events.emit(NetEvent::DeviceDown { ifindex, name });
        } else if link.up && !old.up {
            // An administratively raised device takes the IPv6 addresses it refused before.
            self.bind(ifindex);
        }
    }

    fn link_gone(&mut self, ifindex: u32) {
        let Some(known) = self.devices.remove(ifindex) else {
            return;
        };
        self.virtual_at = 0;
        self.bind_extras(&known.link.name, None);
        self.io.events.emit(NetEvent::DeviceGone {
            ifindex,
            name: known.link.name,
        });
        for group in self.groups.values_mut() {
            let owned = group.owned.is_some();
            let mut lost = 0u16;
            for vip in group.vips.iter_mut().filter(|vip| vip.ifindex == ifindex) {
                vip.unbind(owned);
                lost = lost.saturating_add(1);
            }
            if lost > 0 {
                group.settle();
                group.finish_down(&mut self.io);
                if owned {
                    self.io.events.emit(NetEvent::WithoutDevice {
                        group: group.id,
                        vips: lost,
                        ifindex,
                    });
                }
            }
        }
    }

    /// Ties the VIPs of a device to what it is now.
    pub(super) fn bind(&mut self, ifindex: u32) {
        let Some(known) = self.devices.get(ifindex).copied() else {
            return;
        };
        let devices = &self.devices;
        for group in self.groups.values_mut() {
            let mut any = false;
            for vip in group
                .vips
                .iter_mut()
                .filter(|vip| vip.conf.device == known.link.name)
            {
                let usable = virtual_mac::usable(devices, &vip.conf, &known, self.wait_for_gate);
                vip.bind(&known, usable);
                any = true;
            }
            if any {
                group.settle();
            }
        }
    }

    fn announce_device(&mut self, ifindex: u32, why: Why) {
        let now = boottime_ns();
        for group in self
            .groups
            .values_mut()
            .filter(|group| group.owned.is_some())
        {
            if group
                .vips
                .iter()
                .any(|vip| vip.ifindex == ifindex && vip.state == State::Up)
            {
                group.schedule.start(now, why);
            }
        }
    }

    /// An address was added or changed.
    fn address(&mut self, addr: AddrInfo) {
        let Some((group, index)) = self.index.get(&addr.address).copied() else {
            return;
        };
        let Some(group) = self.groups.get_mut(&group) else {
            return;
        };
        let owned = group.owned.is_some();
        let Some(vip) = group.vips.get_mut(index) else {
            return;
        };
        let now = boottime_ns();
        if vip.ifindex == addr.ifindex && vip.conf.prefix == addr.prefix {
            let unusable =
                addr.address.is_ipv6() && addr.flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE) != 0;
            if owned && vip.state == State::Up && unusable && self.devices.runs(addr.ifindex) {
                vip.ours = false;
                vip.disturb(State::Wanted, now);
            } else if !owned && vip.state == State::Absent {
                // Somebody's hand, or the late echo of our own work: removing tells which.
                vip.disturb(State::Leaving, now);
            }
            group.settle();
        } else if !owned && self.devices.get(addr.ifindex).is_some() {
            let (removed, _) = self.io.remove_all(&[addr]);
            if removed > 0 {
                self.io.events.emit(NetEvent::StrayRemoved {
                    address: addr.address,
                    ifindex: addr.ifindex,
                });
            }
        } else if owned {
            self.strays = true;
        }
    }

    /// An address was removed: by hand, by its lifetime, with its device, or by ourselves.
    fn address_gone(&mut self, addr: AddrInfo) {
        let Some((group, index)) = self.index.get(&addr.address).copied() else {
            return;
        };
        let Some(group) = self.groups.get_mut(&group) else {
            return;
        };
        let owned = group.owned.is_some();
        let Some(vip) = group.vips.get_mut(index) else {
            return;
        };
        if owned
            && vip.state == State::Up
            && vip.ifindex == addr.ifindex
            && vip.conf.prefix == addr.prefix
        {
            vip.disturb(State::Wanted, boottime_ns());
            group.settle();
        }
    }

    /// Reads all devices and addresses and puts right what differs. At start this is the sweep.
    pub(super) fn resync(&mut self, start: bool) {
        let now = boottime_ns();
        self.last_resync = now;
        self.resync_at = NEVER;
        match self.compare() {
            Ok(found) => {
                let (mut removed, mut failed) = self.io.remove_all(&found.remove);
                if start {
                    match self.sweep_extras() {
                        Ok(n) => removed = removed.saturating_add(n),
                        Err(_) => failed = failed.saturating_add(1),
                    }
                    self.io.events.emit(NetEvent::Swept {
                        removed,
                        kept: found.kept,
                        failed,
                    });
                } else {
                    self.io.events.emit(NetEvent::Resynced {
                        removed,
                        restored: found.restored,
                    });
                }
                if failed > 0 {
                    self.resync_at = now.saturating_add(RESYNC_RETRY_NS);
                }
                self.swept |= failed == 0;
            }
            Err(e) => {
                let errno = if let NetError::Dump(errno) = e {
                    errno as i32
                } else {
                    libc::EIO
                };
                self.io.events.emit(NetEvent::ResyncFailed { errno });
                self.resync_at = now.saturating_add(RESYNC_RETRY_NS);
            }
        }
    }

    fn compare(&mut self) -> Result<Found, NetError> {
        let links = self.io.requester.links()?;
        let addresses = self.io.requester.addresses()?;
        let present: BTreeSet<u32> = links.iter().map(|link| link.ifindex).collect();
        for ifindex in self.devices.indices() {
            if !present.contains(&ifindex) {
                self.link_gone(ifindex);
            }
        }
        for link in links {
            self.link(link);
        }
        let mut found = Found::default();
        let mut seen = BTreeSet::new();
        for addr in addresses {
            // Loopback is not in the table: an address there is nobody's on the wire.
            if self.devices.get(addr.ifindex).is_none() {
                continue;
            }
            let vip = self.index.get(&addr.address).and_then(|(id, index)| {
                let group = self.groups.get_mut(id)?;
                let owned = group.owned.is_some();
                group
                    .vips
                    .get_mut(*index)
                    .map(|vip| (*id, *index, owned, vip))
            });
            let Some((id, index, owned, vip)) = vip else {
                if addr.ours {
                    found.remove.push(addr);
                }
                continue;
            };
            let exact = vip.ifindex == addr.ifindex && vip.conf.prefix == addr.prefix;
            if exact && owned && vip.usable {
                seen.insert((id, index));
                if vip.state == State::Wanted && addr.ours {
                    vip.state = State::Up;
                    vip.ours = true;
                    found.kept = found.kept.saturating_add(1);
                }
            } else if !owned || exact || addr.ours {
                found.remove.push(addr);
            } else {
                self.strays = true;
            }
        }
        let now = boottime_ns();
        for group in self.groups.values_mut() {
            for (index, vip) in group.vips.iter_mut().enumerate() {
                if vip.state == State::Up && !seen.contains(&(group.id, index)) {
                    vip.disturb(State::Wanted, now);
                    found.restored = found.restored.saturating_add(1);
                }
            }
            group.settle();
        }
        Ok(found)
    }
}

/// What reading everything anew brought to light.
#[derive(Default)]
struct Found {
    remove: Vec<AddrInfo>,
    kept: u32,
    restored: u32,
}
