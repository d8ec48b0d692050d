//! Two layers: nodes of the lab as hosts of guests, and the guests a cluster of their own. A guest is a namespace behind its
//! host's bridge, on the same wires, in a network of its own. What cuts a host cuts its guest.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    agent::{self, Agent},
    cluster,
    interrupt::until,
    lab::{Lab, Link, Station},
    netns::Ns,
};

/// The VIP of the upper layer.
pub const GUEST_VIP: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 100);
const POLL: Duration = Duration::from_millis(50);

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Lab {
    /// A guest `gN` behind the bridge of each node `nN` (see [`Lab::uplink`]). They go when the lab goes.
    ///
    /// # Errors
    /// A node has no bridge.
    pub fn guests(&mut self) -> Result<Vec<Station>> {
        let prober = self.prober.eth0().clone();
        let mut guests = Vec::new();
        for node in self.nodes.clone() {
            let name = format!("{}-g{}", self.prefix(), node.id);
            self.adopt(&name);
            Ns::create_all(std::slice::from_ref(&name))?;
            let ns = Ns::open(&name)?;
            let link = Link {
                device: "eth0".into(),
                mac: [0x02, b'H', b'L', 0xf0, 0, node.id],
                v4: Ipv4Addr::new(10, 78, 0, node.id),
                v6: std::net::Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, node.id.into()),
            };
            let mac = mac_text(link.mac);
            node.ns.ip(&format!(
                "link add guest type veth peer name eth0 address {mac} netns {name}\nlink set guest master br0 up\n"
            ))?;
            // The owner prober is in the other network: its way and its hardware address are given.
            ns.ip(&format!(
                "link set lo up\nlink set eth0 up\naddress add {v4}/24 broadcast + dev eth0\nroute add {p}/32 dev eth0\n\
                 neigh replace {p} lladdr {m} dev eth0 nud permanent\n",
                v4 = link.v4,
                p = prober.v4,
                m = mac_text(prober.mac)
            ))?;
            // A bounced frame keeps its unfinished checksum otherwise.
            ns.tx_checksum_off(&["eth0".into()])?;
            node.ns.tx_checksum_off(&["guest".into()])?;
            guests.push(Station {
                name: format!("g{}", node.id),
                id: node.id,
                ns,
                links: vec![link],
            });
        }
        Ok(guests)
    }
}

/// The agents of the guests. They go before the lab.
#[derive(Debug)]
pub struct Upper {
    agents: Vec<Agent>,
    /// The guests, in order of their ids.
    pub guests: Vec<Station>,
    bpf_dir: PathBuf,
}

impl Upper {
    /// Starts an agent in each guest.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(lab: &Lab, guests: Vec<Station>, config: &str, key_name: &str) -> Result<Self> {
        agent::ensure_bpffs()?;
        let path = lab.dir().join("guests.toml");
        fs::write(&path, config)?;
        agent::keygen(&lab.dir().join(key_name))?;
        let bpf_dir = agent::bpf_dir(&format!("{}-guests", lab.prefix()));
        let agents = guests
            .iter()
            .map(|guest| Agent::new(guest, &path, lab.dir(), &bpf_dir));
        let mut upper = Self {
            agents: agents.collect::<Result<_>>()?,
            guests,
            bpf_dir,
        };
        upper.agents.iter_mut().try_for_each(Agent::start)?;
        Ok(upper)
    }

    /// The agent of a guest.
    ///
    /// # Errors
    /// No such guest.
    pub fn agent(&mut self, guest: &str) -> Result<&mut Agent> {
        let found = self.agents.iter_mut().find(|agent| agent.name() == guest);
        found.with_context(|| format!("no guest {guest:?}"))
    }

    /// Waits until all agents but these agree on an owner that is none of these, and vote. Returns it.
    ///
    /// # Errors
    /// They do not.
    pub fn settled(&self, group: &str, but: &[&str], deadline: Duration) -> Result<String> {
        let mut owner = None;
        let mut last = Vec::new();
        let came = until(deadline, POLL, || {
            let asked = self.agents.iter().filter(|a| !but.contains(&a.name()));
            last = asked.map(Agent::status).collect::<Vec<_>>();
            let owners: Vec<_> = last
                .iter()
                .map(|s| s.as_ref().ok().and_then(|s| cluster::owner(s, group)))
                .collect();
            let votes = |s: &Result<Value>| {
                s.as_ref()
                    .is_ok_and(|s| s.pointer("/voting/active") == Some(&Value::Bool(true)))
            };
            owner = owners.first().cloned().flatten();
            Ok(owner.as_deref().is_some_and(|o| !but.contains(&o))
                && owners.iter().all(|o| *o == owner)
                && last.iter().all(votes))
        })?;
        if let (true, Some(owner)) = (came, owner) {
            return Ok(owner);
        }
        let logs: Vec<_> = self.agents.iter().map(Agent::log_tail).collect();
        bail!(
            "the guests do not agree without {but:?}: {last:?}\n{}",
            logs.join("\n")
        )
    }
}

impl Drop for Upper {
    fn drop(&mut self) {
        self.agents.clear();
        // Pinned programs would outlive the lab; the kernel lets go of them a moment after the agents.
        let end = Instant::now() + Duration::from_secs(2);
        while let Err(error) = fs::remove_dir_all(&self.bpf_dir) {
            if error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            if Instant::now() > end {
                eprintln!("lab: cannot remove {}: {error}", self.bpf_dir.display());
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(parent) = self.bpf_dir.parent() {
            // Fails while other labs run.
            let _ = fs::remove_dir(parent);
        }
    }
}
