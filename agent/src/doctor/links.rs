//! The devices that heartbeats and VIPs use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::device::Seen;
use super::{Finding, Machine};
use crate::config::{Config, Datapath, Node, Role};

/// Frame of the largest heartbeat: 192 bytes, UDP, IPv6. (VLAN tags and the Ethernet header do not count.)
const HEARTBEAT_MTU: u32 = 192 + 8 + 40;
/// Least MTU that IPv6 allows (RFC 8200).
const IPV6_MTU: u32 = 1280;
/// One page, less head room, tail room and Ethernet header: above this most drivers refuse native XDP.
const NATIVE_MTU: u32 = 3498;

const SOCKETS: &str = "plain sockets and nftables, as configured";

/// Drivers with native XDP in the kernels that we support.
const NATIVE: [&str; 36] = [
    "atlantic",
    "bnxt_en",
    "bonding",
    "cpsw",
    "cpsw-switch",
    "dpaa2-eth",
    "ena",
    "enetc",
    "fec",
    "fsl_dpaa2_eth",
    "funeth",
    "gve",
    "hv_netvsc",
    "i40e",
    "iavf",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "lan966x-switch",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mtk_soc_eth",
    "mvneta",
    "mvpp2",
    "netsec",
    "nfp",
    "nicvf",
    "octeontx2-nicpf",
    "qede",
    "sfc",
    "stmmac",
    "tun",
    "vmxnet3",
];

/// A device with what it is used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub name: String,
    /// A heartbeat link, not only a place for VIPs.
    pub link: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    /// A VIP with a prefix length shorter than its address.
    pub wide_vip: bool,
    /// The node uses other devices too.
    pub one_of_many: bool,
}

/// The devices of a node's links and of the VIPs that it may own.
pub(super) fn devices_of(config: &Config, node: &Node) -> Vec<Used> {
    fn entry<'a>(all: &'a mut BTreeMap<String, Used>, name: &str) -> &'a mut Used {
        all.entry(name.to_owned()).or_insert_with(|| Used {
            name: name.to_owned(),
            link: false,
            ipv4: false,
            ipv6: false,
            wide_vip: false,
            one_of_many: false,
        })
    }
    let mut all = BTreeMap::new();
    for link in &node.links {
        let used = entry(&mut all, &link.device);
        used.link = true;
        used.ipv4 |= link.address.is_ipv4();
        used.ipv6 |= link.address.is_ipv6();
    }
    if node.role == Role::Member {
        let groups = config.groups.iter().filter(|g| g.prefer.contains(&node.id));
        for vip in groups.flat_map(|g| &g.vips) {
            let used = entry(&mut all, &vip.device);
            used.ipv4 |= vip.address.is_ipv4();
            used.ipv6 |= vip.address.is_ipv6();
            used.wide_vip |= vip.address.is_ipv4() && vip.prefix < 32;
        }
    }
    let many = all.len() > 1;
    all.into_values()
        .map(|used| Used {
            one_of_many: many,
            ..used
        })
        .collect()
}

pub(super) fn state(used: &Used, seen: &Seen) -> Finding {
    let what = format!("{}: state", used.name);
    if !seen.up {
        return Finding::bad(what, "down", format!("`ip link set {} up`", used.name));
    }
    if !seen.running {
        return Finding::bad(
            what,
            "up, but without a carrier",
            "look at the cable, the switch port or the peer",
        );
    }
    Finding::ok(what, "up, with a carrier")
}

pub(super) fn data_path(config: &Config, used: &Used, seen: &Seen) -> Finding {
    let what = format!("{}: data path", used.name);
    let driver = seen.driver.as_deref().unwrap_or("unknown");
    if config.datapath == Datapath::Socket {
        return Finding::ok(what, SOCKETS);
    }
    if driver == "veth" {
        return Finding::ok(
            what,
            "driver veth: native XDP; it answers heartbeats only if the peer device has an XDP program too",
        );
    }
    let native = driver == "virtio_net" || NATIVE.contains(&driver);
    let large = seen.mtu.is_some_and(|m| m > NATIVE_MTU);
    let why_not = match (native, large) {
        (true, false) => {
            return Finding::ok(what, format!("driver {driver}: native XDP is likely"));
        }
        (true, true) => {
            format!("driver {driver} has native XDP, but hardly with an MTU above {NATIVE_MTU}")
        }
        (false, _) => format!("driver {driver} is not known for native XDP"),
    };
    match config.datapath {
        Datapath::Socket => Finding::ok(what, SOCKETS),
        Datapath::Generic => {
            Finding::ok(what, format!("driver {driver}: generic XDP, as configured"))
        }
        Datapath::Auto => Finding::warn(
            what,
            format!("{why_not}: generic XDP will do, a little slower"),
            if native {
                format!(
                    "`ip link set {} mtu {NATIVE_MTU}`, if the network allows it",
                    used.name
                )
            } else {
                "use the `lan` or `wan` profile on it, not `fast`".into()
            },
        ),
        Datapath::Native => Finding::bad(
            what,
            format!("{why_not}, and datapath is \"native\""),
            "set `datapath = \"auto\"`",
        ),
    }
}

pub(super) fn mtu(used: &Used, seen: &Seen) -> Finding {
    let what = format!("{}: mtu", used.name);
    let need = if used.ipv6 { IPV6_MTU } else { HEARTBEAT_MTU };
    match seen.mtu {
        None => Finding::warn(
            what,
            "cannot be read",
            format!("look with `ip link show {}`", used.name),
        ),
        Some(mtu) if mtu < need => Finding::bad(
            what,
            format!(
                "{mtu} is less than the {need} that {} needs",
                if used.ipv6 { "IPv6" } else { "a heartbeat" }
            ),
            format!("`ip link set {} mtu 1500`", used.name),
        ),
        Some(mtu) => Finding::ok(what, mtu.to_string()),
    }
}

/// Only veth: a heartbeat bounced there keeps its unfinished checksum.
pub(super) fn checksum_offload(used: &Used, seen: &Seen) -> Option<Finding> {
    let veth = seen.driver.as_deref() == Some("veth");
    (veth && used.link && seen.tx_checksum == Some(true)).then(|| {
        Finding::warn(
            format!("{}: checksum offload", used.name),
            "on: a veth leaves checksums of its packets unfinished, and an answer from XDP carries them on",
            format!("`ethtool -K {} tx off`", used.name),
        )
    })
}

/// Settings of the kernel that break a VIP. (arp_ignore and arp_announce do not matter: the gate answers for them.)
pub(super) fn sysctls(machine: &Machine, used: &Used) -> Vec<Finding> {
    let name = &used.name;
    let number = |family: &str, device: &str, key: &str| {
        machine
            .read(&format!("proc/sys/net/{family}/conf/{device}/{key}"))
            .and_then(|t| t.parse::<i64>().ok())
    };
    let mut all = Vec::new();
    if used.ipv6 {
        let what = format!("{name}: ipv6");
        match number("ipv6", name, "disable_ipv6") {
            Some(0) => all.push(Finding::ok(what, "on")),
            Some(_) => all.push(Finding::bad(
                what,
                "switched off on this device",
                format!("`sysctl -w net.ipv6.conf.{name}.disable_ipv6=0`"),
            )),
            None => all.push(Finding::bad(
                what,
                "the kernel has no IPv6 here",
                "boot without `ipv6.disable=1`",
            )),
        }
    }
    if used.ipv4 && used.one_of_many {
        let strict = |device| number("ipv4", device, "rp_filter");
        // The kernel takes the larger of the two: 1 strict, 2 loose.
        if strict("all").max(strict(name)) == Some(1) {
            all.push(Finding::warn(
                format!("{name}: rp_filter"),
                "strict: with several devices the kernel drops packets that come in by another way than answers go out",
                format!("`sysctl -w net.ipv4.conf.{name}.rp_filter=2`"),
            ));
        }
    }
    if used.wide_vip {
        let promote = |device| number("ipv4", device, "promote_secondaries").unwrap_or(0) > 0;
        let what = format!("{name}: promote_secondaries");
        if promote("all") || promote(name) {
            all.push(Finding::ok(what, "on"));
        } else {
            all.push(Finding::bad(
                what,
                "off, and a VIP has a prefix length: its removal can take the node's own address with it",
                format!("leave the prefix length out, or `sysctl -w net.ipv4.conf.{name}.promote_secondaries=1`"),
            ));
        }
    }
    all
}

/// Each link address must be on its device.
pub(super) fn addresses(node: &Node) -> Vec<Finding> {
    let here: Vec<(String, IpAddr)> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|a| {
            let address = a.address?;
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            Some((a.interface_name, ip))
        })
        .collect();
    node.links
        .iter()
        .map(|link| link_address(&here, &link.device, link.address))
        .collect()
}

pub(super) fn link_address(here: &[(String, IpAddr)], device: &str, address: IpAddr) -> Finding {
    let what = format!("{device}: {address}");
    let holders: Vec<&str> = here
        .iter()
        .filter(|(_, a)| *a == address)
        .map(|(d, _)| d.as_str())
        .collect();
    if holders.contains(&device) {
        return Finding::ok(what, "the link's address is on its device");
    }
    match holders.first() {
        Some(other) => Finding::bad(
            what,
            format!("the address is on {other} instead"),
            "correct `device` or `address` of the link",
        ),
        None => Finding::bad(
            what,
            "the link's address is not on this machine",
            "add it to the device (in the network configuration of the system), or correct the link; is this the right node?",
        ),
    }
}
