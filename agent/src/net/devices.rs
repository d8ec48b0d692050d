//! The devices of this network namespace: the worker's table, and a list for people and the gate.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::netlink::Requester;
use super::parse::LinkInfo;
use super::{DevName, NetError};

/// A device as [`list_devices`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// What the kernel calls its kind (`veth`, `bridge`, `vlan` ...); none for plain hardware.
    pub kind: Option<String>,
    /// Ethernet address; none where there is no Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Able to pass traffic.
    pub carrier: bool,
    /// Its addresses.
    pub addresses: Vec<DeviceAddress>,
}

/// An address of a [`Device`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceAddress {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Carries Heartline's mark.
    pub ours: bool,
    /// `IFA_F_*` bits (linux/if_addr.h).
    pub flags: u32,
}

/// All devices of the calling thread's network namespace except loopback, by index. Waits for the
/// kernel at most a few seconds.
///
/// # Errors
/// [`NetError::Socket`] or [`NetError::Dump`].
pub fn list_devices() -> Result<Vec<Device>, NetError> {
    let mut requester = Requester::open()?;
    let links = requester.links()?;
    let addresses = requester.addresses()?;
    let mut devices: BTreeMap<u32, Device> = links
        .into_iter()
        .filter(|link| !link.loopback)
        .map(|link| {
            let device = Device {
                ifindex: link.ifindex,
                name: link.name.to_string(),
                kind: link.kind.map(|kind| kind.to_string()),
                mac: link.mac,
                mtu: link.mtu,
                up: link.up,
                carrier: link.running,
                addresses: Vec::new(),
            };
            (link.ifindex, device)
        })
        .collect();
    for a in addresses {
        if let Some(device) = devices.get_mut(&a.ifindex) {
            device.addresses.push(DeviceAddress {
                address: a.address,
                prefix: a.prefix,
                ours: a.ours,
                flags: a.flags,
            });
        }
    }
    Ok(devices.into_values().collect())
}

/// A device in the worker's table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub link: LinkInfo,
    /// The agent says that the gate is in place.
    pub covered: bool,
    /// The IPv6 forwarding sysctl.
    pub router: bool,
}

/// The worker's table of devices, loopback left out.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    table: BTreeMap<u32, Known>,
    /// Gates reported before the device was seen here.
    early: BTreeMap<u32, bool>,
}

impl Devices {
    pub fn get(&self, ifindex: u32) -> Option<&Known> {
        self.table.get(&ifindex)
    }

    pub fn by_name(&self, name: &DevName) -> Option<&Known> {
        self.table.values().find(|known| known.link.name == *name)
    }

    pub fn named(&self, name: &str) -> Option<&Known> {
        self.table
            .values()
            .find(|known| known.link.name.as_str() == name)
    }

    pub fn links(&self) -> impl Iterator<Item = &LinkInfo> {
        self.table.values().map(|known| &known.link)
    }

    pub fn indices(&self) -> Vec<u32> {
        self.table.keys().copied().collect()
    }

    pub fn is_up(&self, ifindex: u32) -> bool {
        self.get(ifindex).is_some_and(|known| known.link.up)
    }

    pub fn runs(&self, ifindex: u32) -> bool {
        self.get(ifindex).is_some_and(|known| known.link.running)
    }

    /// Inserts or updates; returns what was known before.
    pub fn put(&mut self, link: LinkInfo) -> Option<LinkInfo> {
        if let Some(known) = self.table.get_mut(&link.ifindex) {
            return Some(std::mem::replace(&mut known.link, link));
        }
        let covered = self.early.remove(&link.ifindex).unwrap_or(false);
        self.table.insert(
            link.ifindex,
            Known {
                link,
                covered,
                router: forwarding(&link.name),
            },
        );
        None
    }

    pub fn remove(&mut self, ifindex: u32) -> Option<Known> {
        self.early.remove(&ifindex);
        self.table.remove(&ifindex)
    }

    /// Notes the state of a gate.
    pub fn cover(&mut self, ifindex: u32, covered: bool) {
        match self.table.get_mut(&ifindex) {
            Some(known) => known.covered = covered,
            // Bounded: an index of a device that never comes must not pile up.
            None if self.early.len() < 256 => drop(self.early.insert(ifindex, covered)),
            None => {}
        }
    }

    /// Reads the forwarding sysctls anew; returns the devices whose value changed.
    pub fn refresh_router(&mut self) -> Vec<u32> {
        let mut changed = Vec::new();
        for (ifindex, known) in &mut self.table {
            let now = forwarding(&known.link.name);
            if now != known.router {
                known.router = now;
                changed.push(*ifindex);
            }
        }
        changed
    }
}

/// Whether the device routes IPv6. /proc/sys/net is the calling thread's network namespace.
fn forwarding(name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/forwarding"))
        .is_ok_and(|text| text.trim().parse::<i32>().is_ok_and(|value| value > 0))
}
