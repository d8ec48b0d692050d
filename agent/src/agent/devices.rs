//! The gate on every device: attached at start, when a device appears, and looked at each second (rule 13).

use std::collections::BTreeMap;

use crate::{
    config::Config,
    control::proto::{DatapathMode, DeviceStatus, EgressMode},
    datapath::{AnyPath, Coverage, EgressKind, XdpKind},
    events::{Draft, EventKind},
    net::{self, Device},
};

/// The devices of this node and what covers them.
#[derive(Default)]
pub struct Gates {
    devices: BTreeMap<u32, Gate>,
}

struct Gate {
    name: String,
    carrier: bool,
    coverage: Result<Coverage, String>,
}

impl Gates {
    /// Covers what is there now, forgets what is gone, mends what was taken off. Gives events, and what changed:
    /// `(ifindex, covered)`.
    pub fn check(&mut self, dp: &mut AnyPath, modes: &[XdpKind]) -> (Vec<Draft>, Vec<(u32, bool)>) {
        let (mut drafts, mut changes) = (Vec::new(), Vec::new());
        let found: Vec<Device> = match net::list_devices() {
            Ok(d) => d,
            Err(e) => {
                drafts.push(Draft::new(EventKind::Note, format!("{e}")));
                return (drafts, changes);
            }
        };
        let gone: Vec<u32> = self
            .devices
            .keys()
            .copied()
            .filter(|i| !found.iter().any(|d| d.ifindex == *i))
            .collect();
        for ifindex in gone {
            self.devices.remove(&ifindex);
            dp.forget(ifindex);
            changes.push((ifindex, false));
        }
        for d in &found {
            let was = self.devices.get(&d.ifindex).map(|g| g.coverage.is_ok());
            if let Some(g) = self.devices.get_mut(&d.ifindex) {
                g.carrier = d.carrier;
                // Renamed: the gate goes by index, the configuration by name.
                g.name.clone_from(&d.name);
            }
            if was == Some(true) && dp.is_covered(d.ifindex).is_some() {
                continue;
            }
            // A macvlan has no driver, so no native XDP; its parent's gate is the one in the driver.
            let modes = if d.kind.as_deref() == Some("macvlan") {
                &[XdpKind::Generic]
            } else {
                modes
            };
            let coverage = dp
                .cover(&d.name, d.ifindex, modes)
                .map_err(|e| format!("{e:#}"));
            match (&coverage, was) {
                (Ok(_), Some(_)) => {
                    drafts.push(Draft::new(
                        EventKind::GateReturned,
                        format!("the gate on {} is back", d.name),
                    ));
                }
                (Ok(c), None) => {
                    let ingress = c.xdp.map_or("nftables".into(), |x| format!("XDP {x:?}"));
                    tracing::info!("{}: {ingress}, egress {:?}", d.name, c.egress);
                }
                (Err(e), None | Some(true)) => {
                    let text = format!("no gate on {}: {e}; no address is put there", d.name);
                    drafts.push(Draft::new(EventKind::GateMissing, text));
                }
                (Err(_), Some(false)) => {}
            }
            if was != Some(coverage.is_ok()) || was == Some(true) {
                changes.push((d.ifindex, coverage.is_ok()));
            }
            self.devices.insert(
                d.ifindex,
                Gate {
                    name: d.name.clone(),
                    carrier: d.carrier,
                    coverage,
                },
            );
        }
        (drafts, changes)
    }

    /// Indices of the covered devices.
    pub fn covered(&self) -> Vec<u32> {
        self.devices
            .iter()
            .filter(|(_, g)| g.coverage.is_ok())
            .map(|(i, _)| *i)
            .collect()
    }

    /// Why the device cannot carry a VIP; `None` if it can.
    pub fn fault(&self, name: &str) -> Option<String> {
        match self.devices.values().find(|g| g.name == name) {
            None => Some(format!("there is no device {name}")),
            Some(g) if g.coverage.is_err() => Some(format!("{name} has no gate")),
            Some(g) if !g.carrier => Some(format!("{name} has no carrier")),
            Some(_) => None,
        }
    }

    /// For the status.
    pub fn status(&self, config: &Config, me: u8) -> (Vec<DeviceStatus>, Vec<String>) {
        let links: Vec<&str> = config
            .node_by_id(me)
            .map(|n| n.links.iter().map(|l| l.device.as_str()).collect())
            .unwrap_or_default();
        let mut uncovered = Vec::new();
        let devices = self
            .devices
            .values()
            .map(|g| {
                let link = links.contains(&g.name.as_str());
                let mut s = DeviceStatus {
                    name: g.name.clone(),
                    link,
                    ..DeviceStatus::default()
                };
                match &g.coverage {
                    Ok(c) => {
                        s.mode = match c.xdp {
                            Some(XdpKind::Native) => DatapathMode::Native,
                            Some(XdpKind::Generic) => DatapathMode::Generic,
                            None => DatapathMode::Socket,
                        };
                        s.xdp_prog_id = c.xdp_prog_id;
                        s.egress = match c.egress {
                            EgressKind::Tcx => EgressMode::Tcx,
                            EgressKind::Clsact => EgressMode::Clsact,
                            EgressKind::Nft => EgressMode::Nft,
                        };
                    }
                    Err(e) => {
                        s.error = Some(e.clone());
                        uncovered.push(g.name.clone());
                    }
                }
                s
            })
            .collect();
        (devices, uncovered)
    }
}
