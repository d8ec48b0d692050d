//! Devices on top of a node's card: a bridge that has it as a port, a macvlan on it; and guests behind the bridge.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{
    lab::{Lab, Link, Station, addresses, wait_ready},
    netns::Ns,
};

/// What carries the addresses instead of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// A bridge, the card is its port.
    Bridge,
    /// A macvlan on the card.
    Macvlan,
}

impl Uplink {
    /// Name of the device.
    #[must_use]
    pub const fn device(self) -> &'static str {
        match self {
            Self::Bridge => "br0",
            Self::Macvlan => "mv0",
        }
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Lab {
    /// Puts the first link of each node onto such a device, with its addresses and its hardware address, so that the rest
    /// of the lab finds it where it was.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn uplink(&mut self, uplink: Uplink) -> Result<()> {
        let prober = self.prober.eth0().clone();
        for node in &mut self.nodes {
            let device = uplink.device();
            let (mac, id) = (mac_text(node.eth0().mac), node.id);
            let below = format!("02:48:4c:ff:00:{id:02x}");
            let made = match uplink {
                Uplink::Bridge => format!(
                    "link add {device} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                     link set eth0 address {below}\nlink set eth0 master {device}\n"
                ),
                Uplink::Macvlan => format!(
                    "link set eth0 address {below}\n\
                     link add {device} link eth0 address {mac} type macvlan mode bridge\n"
                ),
            };
            node.ns.ip(&format!(
                "address flush dev eth0\nlink set eth0 down\n{made}link set eth0 up\n"
            ))?;
            let conf = format!("net/ipv6/conf/{device}");
            let (dad, ra) = (format!("{conf}/accept_dad"), format!("{conf}/accept_ra"));
            node.ns.sysctl(&[(&dad, "0"), (&ra, "0")])?;
            let link = Link {
                device: device.into(),
                ..node.eth0().clone()
            };
            let lines = addresses(node, &link, &prober);
            node.ns.ip(&lines)?;
            // The watcher's address is known for good on this device, too.
            let known = [prober.v4.to_string(), prober.v6.to_string()].map(|address| {
                let mac = mac_text(prober.mac);
                format!("neigh replace {address} lladdr {mac} dev {device} nud permanent\n")
            });
            node.ns.ip(&known.concat())?;
            if let Some(first) = node.links.first_mut() {
                *first = link;
            }
            wait_ready(node)?;
        }
        Ok(())
    }

    /// A guest on a node's bridge, with an address of the first network. It goes when the lab goes.
    ///
    /// # Errors
    /// The node has no bridge.
    pub fn guest(&mut self, node: &Station) -> Result<Station> {
        let name = format!("{}-g{}", self.prefix(), node.id);
        self.adopt(&name);
        Ns::create_all(std::slice::from_ref(&name))?;
        let guest = Ns::open(&name)?;
        node.ns.ip(&format!(
            "link add guest type veth peer name eth0 netns {name}\nlink set guest master br0 up\n"
        ))?;
        let address = format!("10.77.0.{}", 210 + node.id);
        guest.ip(&format!(
            "link set lo up\nlink set eth0 up\naddress add {address}/24 dev eth0\n"
        ))?;
        // A bounced frame keeps its unfinished checksum otherwise.
        guest.tx_checksum_off(&["eth0".into()])?;
        node.ns.tx_checksum_off(&["guest".into()])?;
        let end = Instant::now() + Duration::from_secs(5);
        while !guest.run(|| {
            Ok(std::fs::read_to_string("/proc/thread-self/net/route")?
                .lines()
                .count()
                > 1)
        })? {
            if Instant::now() > end {
                bail!("the guest of {} has no route", node.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Station {
            name,
            id: 210 + node.id,
            ns: guest,
            links: Vec::new(),
        })
    }
}
