//! One number for all that nodes must agree on.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use super::types::{Config, Failback, Near, Role, Route, Rule, Track};

/// Fixed key: the digest must be the same on every node, and is no secret.
const DIGEST_KEY: &[u8; 16] = b"heartline.config";

/// FNV-1a, 32 bit: the cluster id of a cluster name.
#[must_use]
pub fn cluster_id(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Feeds fields so that no two different lists of fields give the same bytes.
struct Fields(SipHasher13);

impl Fields {
    fn number(&mut self, value: u64) {
        self.0.write(&value.to_le_bytes());
    }
    fn text(&mut self, value: &str) {
        self.number(value.len() as u64);
        self.0.write(value.as_bytes());
    }
    fn extras<T>(&mut self, name: &[u8], list: &[T], text: impl Fn(&T) -> String) {
        if list.is_empty() {
            return;
        }
        let mut texts: Vec<_> = list.iter().map(text).collect();
        texts.sort_unstable();
        self.0.write(name);
        self.number(texts.len() as u64);
        texts.iter().for_each(|text| self.text(text));
    }
    fn address(&mut self, value: IpAddr) {
        match value {
            IpAddr::V4(v4) => {
                self.number(4);
                self.0.write(&v4.octets());
            }
            IpAddr::V6(v6) => {
                self.number(6);
                self.0.write(&v6.octets());
            }
        }
    }
}

impl Config {
    /// A hash of everything that all nodes must agree on, carried in heartbeats to find a node with another file.
    ///
    /// Left out, because each node may have its own: the key's path, the log filter, the data path and the names
    /// of devices. Formatting, comments and the order of nodes, groups and VIPs do not matter; the order of links
    /// and of `prefer` does. A change of this function shows as a mismatch during a rolling upgrade, no more.
    #[must_use]
    pub fn digest(&self) -> u32 {
        let Self {
            cluster,
            cluster_id: _,
            generation,
            key_file: _,
            port,
            datapath: _,
            timing,
            announce_interval_ns,
            log: _,
            nodes,
            groups,
            // Each node may tell somebody else.
            hooks: _,
            fences,
            watchdog,
        } = self;
        let mut f = Fields(SipHasher13::new_with_key(DIGEST_KEY));
        f.text(cluster);
        f.number(u64::from(*generation));
        f.number(u64::from(*port));
        for time in [
            timing.heartbeat_ns,
            timing.lease_ns,
            timing.takeover_ns,
            timing.max_promise_ns,
        ] {
            f.number(time);
        }
        f.number(*announce_interval_ns);

        f.number(nodes.len() as u64);
        for node in nodes {
            f.number(u64::from(node.id));
            f.text(&node.name);
            f.number(match node.role {
                Role::Member => 0,
                Role::Witness => 1,
            });
            f.number(node.links.len() as u64);
            for link in &node.links {
                f.address(link.address);
            }
            if let Some(uri) = &node.libvirt_uri {
                f.text("libvirt_uri");
                f.text(uri);
            }
            if let Some(capacity) = node.capacity {
                f.text("capacity");
                f.number(u64::from(capacity));
            }
        }

        f.number(groups.len() as u64);
        for group in groups {
            f.number(u64::from(group.id));
            f.text(&group.name);
            f.number(group.prefer.len() as u64);
            f.0.write(&group.prefer);
            f.number(u64::from(group.spread));
            f.number(match group.failback {
                Failback::Manual => 0,
                Failback::Auto => 1,
            });
            let mut vips: Vec<_> = group
                .vips
                .iter()
                .map(|v| (v.address, v.prefix, v.gateway))
                .collect();
            vips.sort_unstable();
            f.number(vips.len() as u64);
            for (address, prefix, gateway) in vips {
                f.address(address);
                f.number(u64::from(prefix) | if gateway { 1 << 8 } else { 0 });
            }
            // What is not used leaves no trace: files without it keep the digest that older versions give them.
            f.extras(b"route", &group.routes, |route| {
                Route {
                    device: None,
                    ..route.clone()
                }
                .to_string()
            });
            f.extras(b"rule", &group.rules, Rule::to_string);
            f.extras(b"track", &group.tracks, |track| {
                Track {
                    device: String::new(),
                    ..track.clone()
                }
                .to_string()
            });
            // In their order, which is that of starting.
            let services = super::services::fingerprint(&group.services);
            f.extras(b"services", &services, String::clone);
            if group.near != Near::default() {
                f.text(&format!("{:?}", group.near));
            }
        }
        // Who can be fenced, and how long a takeover waits; with what, may differ by node.
        let fenced = |fence: &super::fence::Fence| format!("{} {}", fence.node, fence.level);
        f.extras(b"fence", fences, fenced);
        f.extras(b"watchdog", watchdog.as_slice(), |w| {
            // Files without `proof` keep the digest that older versions give them.
            let proof = if w.proof { " proof" } else { "" };
            format!("{:?}{proof}", w.timeout)
        });
        let hash = f.0.finish();
        (hash ^ (hash >> 32)) as u32
    }
}
