//! What the address thread is told to keep.

use std::collections::BTreeSet;
use std::net::IpAddr;

use agent_common::record::virtual_mac;

use super::{DevName, NetError, NetExtra};

/// VIPs in all groups together.
const MAX_VIPS: usize = 4096;

/// One VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetVip {
    /// The address.
    pub address: IpAddr,
    /// Prefix length; 32 or 128 unless the config says otherwise.
    pub prefix: u8,
    /// The device it lives on; a gateway's is its macvlan.
    pub device: DevName,
    /// It is a default gateway for others.
    pub gateway: Option<Gateway>,
}

/// What a gateway VIP needs besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// The device below the macvlan.
    pub parent: DevName,
    /// The virtual MAC.
    pub mac: [u8; 6],
}

impl NetVip {
    /// A VIP with a prefix of its own length (/32 or /128) where `prefix` is `None`.
    ///
    /// # Errors
    /// [`NetError::Config`] for an impossible prefix or device name.
    pub fn new(address: IpAddr, prefix: Option<u8>, device: &str) -> Result<Self, NetError> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        if prefix == 0 || prefix > longest {
            return Err(NetError::Config(format!(
                "{address}/{prefix}: the prefix must be 1 to {longest}"
            )));
        }
        // Slash and colon cannot be in a device name; the name is used in a /proc path.
        if device.is_empty()
            || device.len() > 15
            || device == "."
            || device == ".."
            || device.contains(['/', ':', '\0'])
        {
            return Err(NetError::Config(format!(
                "{device:?} is no device name (1 to 15 bytes, no '/' and ':')"
            )));
        }
        let device = DevName::from(device).map_err(|e| NetError::Config(e.to_string()))?;
        Ok(Self {
            address,
            prefix,
            device,
            gateway: None,
        })
    }

    /// The VIP as a gateway: on a macvlan of its device, with its group's virtual MAC.
    #[must_use]
    pub fn into_gateway(self, cluster: u32, group: u8) -> Self {
        let gateway = Gateway {
            parent: self.device,
            mac: virtual_mac(cluster, group),
        };
        Self {
            device: super::virtual_mac::device_name(group, &self.device),
            gateway: Some(gateway),
            ..self
        }
    }
}

/// The VIPs of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetGroup {
    /// Group id from the config.
    pub id: u8,
    /// Its VIPs; events name them by index here.
    pub vips: Vec<NetVip>,
    /// What goes with them.
    pub extras: Vec<NetExtra>,
}

/// Everything the address thread needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// All groups that this node may own.
    pub groups: Vec<NetGroup>,
    /// Distance of the periodic announcements, ns.
    pub announce_interval_ns: u64,
    /// The cluster's takeover time, ns: one more announcement goes out a second after it.
    pub takeover_ns: u64,
    /// Counts configurations: the answer to one names it.
    pub serial: u64,
    /// Give a device no VIP before [`super::NetControl::Gate`] has said that it is covered.
    pub wait_for_gate: bool,
}

impl NetConfig {
    /// # Errors
    /// [`NetError::Config`]: a group or an address twice, or too many VIPs.
    pub fn check(&self) -> Result<(), NetError> {
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for group in &self.groups {
            if !ids.insert(group.id) {
                return Err(NetError::Config(format!(
                    "group id {} is there twice",
                    group.id
                )));
            }
            for vip in &group.vips {
                if !addresses.insert(vip.address) {
                    return Err(NetError::Config(format!(
                        "VIP {} is there twice",
                        vip.address
                    )));
                }
            }
        }
        if addresses.len() > MAX_VIPS {
            return Err(NetError::Config(format!(
                "{} VIPs, at most {MAX_VIPS}",
                addresses.len()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_vips_are_refused() {
        let ip = "10.0.0.1".parse().unwrap();
        for (prefix, device) in [
            (Some(33), "eth0"),
            (Some(0), "eth0"),
            (None, ""),
            (None, "a/b"),
            (None, ".."),
            (None, "sixteen-letters-"),
        ] {
            assert!(
                NetVip::new(ip, prefix, device).is_err(),
                "{prefix:?} {device}"
            );
        }
        assert_eq!(NetVip::new(ip, None, "eth0").unwrap().prefix, 32);
        assert_eq!(
            NetVip::new("fd00::1".parse().unwrap(), None, "eth0")
                .unwrap()
                .prefix,
            128
        );
    }

    #[test]
    fn the_same_address_twice_is_refused() {
        let vip = NetVip::new("10.0.0.1".parse().unwrap(), None, "eth0").unwrap();
        let group = |id| NetGroup {
            id,
            vips: vec![vip],
            extras: vec![],
        };
        let config = |groups| NetConfig {
            groups,
            announce_interval_ns: 1,
            takeover_ns: 1,
            serial: 0,
            wait_for_gate: false,
        };
        assert!(config(vec![group(1)]).check().is_ok());
        assert!(
            config(vec![group(1), group(2)])
                .check()
                .unwrap_err()
                .to_string()
                .contains("10.0.0.1")
        );
        let empty = NetGroup {
            id: 1,
            vips: vec![],
            extras: vec![],
        };
        assert!(
            config(vec![empty.clone(), empty])
                .check()
                .unwrap_err()
                .to_string()
                .contains("group id 1")
        );
    }
}
