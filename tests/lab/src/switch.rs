//! The lab's switch: one namespace with a bridge per network. Each port has an XDP and a TC
//! program that pass frames or drop them as a map says, so that a cut is silent (no carrier
//! change) and takes effect at one instant.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData},
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc},
    util::KernelVersion,
};

use crate::{clock::boot_ns, netns::Ns};

#[path = "../../../agent-ebpf/src/lab_map.rs"]
mod lab_map;
use lab_map::{CUT_FROM, CUT_NEVER, CUT_TO, LabCutKey};

// SAFETY: `repr(C)`, plain integers, no padding that is not a field.
unsafe impl aya::Pod for LabCutKey {}

/// One thing that the switch loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything from and to a station.
    Off(String),
    /// Everything from and to one link of a station.
    Link(String, usize),
    /// Everything that a station sends.
    Mute(String),
    /// Everything from the first station to the second.
    OneWay(String, String),
}

/// Every station.
const ANY: [u8; 6] = [0; 6];

pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/heartline-lab-ebpf"));

/// A port of the switch and the station behind it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Who is behind it: node or client name.
    pub station: String,
    /// Which of the station's links: 0 for `eth0`.
    pub link: usize,
    /// The port's device name in the switch's namespace.
    pub device: String,
    /// The station's hardware address on this link.
    pub mac: [u8; 6],
    /// The port's interface index.
    pub ifindex: u32,
}

/// The switch, with its programs attached. Detached on drop.
pub struct Switch {
    ports: Vec<Port>,
    cuts: HashMap<MapData, LabCutKey, u8>,
    /// What the map holds.
    shadow: BTreeMap<(u32, [u8; 6]), u8>,
    /// Stations that a cut spares: they watch.
    watchers: BTreeSet<[u8; 6]>,
    /// Its namespace.
    pub(crate) ns: Ns,
    programs: Ebpf,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switch")
            .field("ports", &self.ports)
            .field("cuts", &self.shadow)
            .finish()
    }
}

impl Switch {
    /// Loads the programs and attaches them to all ports. `ports` come without their interface
    /// index; `watchers` are the hardware addresses that no cut touches.
    ///
    /// # Errors
    /// A program is refused or a port does not exist.
    pub fn attach(ns: &Ns, mut ports: Vec<Port>, watchers: BTreeSet<[u8; 6]>) -> Result<Self> {
        let mut programs = EbpfLoader::new()
            .load(OBJECT)
            .context("the lab's eBPF object")?;
        let xdp: &mut Xdp = program(&mut programs, "lab_port")?.try_into()?;
        xdp.load()?;
        let out: &mut SchedClassifier = program(&mut programs, "lab_port_out")?.try_into()?;
        out.load()?;
        ns.run(|| {
            ports
                .iter_mut()
                .try_for_each(|port| attach(&mut programs, port))
        })?;
        let map = programs.take_map("LAB_CUT").context("map LAB_CUT")?;
        Ok(Self {
            ports,
            cuts: HashMap::try_from(map)?,
            shadow: BTreeMap::new(),
            watchers,
            ns: ns.clone(),
            programs,
        })
    }

    /// A port's device is there anew: the programs are attached to it. Cuts of the old one are gone with it.
    pub(crate) fn attach_again(&mut self, station: &str, link: usize) -> Result<()> {
        let Self {
            ports,
            programs,
            ns,
            ..
        } = self;
        let found = ports
            .iter_mut()
            .find(|port| port.station == station && port.link == link);
        let port = found.with_context(|| format!("{station} has no link {link}"))?;
        ns.run(|| attach(programs, port))
    }

    /// All ports.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Cuts a station off from everyone, on all its links, in both directions and in silence.
    /// The owner prober still sees it. Returns the instant of the cut (boot clock, ns).
    ///
    /// # Errors
    /// No such station, or the map refuses.
    pub fn cut(&mut self, station: &str) -> Result<u64> {
        let ports = self.ports_of(station)?;
        self.add(
            ports
                .iter()
                .map(|port| (port.ifindex, ANY, CUT_FROM | CUT_TO))
                .collect(),
        )
    }

    /// Cuts one link of a station.
    ///
    /// # Errors
    /// As [`Switch::cut`].
    pub fn cut_link(&mut self, station: &str, link: usize) -> Result<u64> {
        let mut ports = self.ports_of(station)?;
        ports.retain(|port| port.link == link);
        if ports.is_empty() {
            bail!("{station} has no link {link}");
        }
        self.add(
            ports
                .iter()
                .map(|port| (port.ifindex, ANY, CUT_FROM | CUT_TO))
                .collect(),
        )
    }

    /// Everything that `from` sends is lost, everything to it arrives.
    ///
    /// # Errors
    /// As [`Switch::cut`].
    pub fn mute(&mut self, from: &str) -> Result<u64> {
        let ports = self.ports_of(from)?;
        self.add(
            ports
                .iter()
                .map(|port| (port.ifindex, ANY, CUT_FROM))
                .collect(),
        )
    }

    /// What `from` sends to `to` is lost (broadcasts too); the other way is open.
    ///
    /// # Errors
    /// As [`Switch::cut`].
    pub fn cut_one_way(&mut self, from: &str, to: &str) -> Result<u64> {
        let entries = self.one_way(from, to)?;
        self.add(entries)
    }

    /// Two sides that do not hear each other; stations on neither side hear both.
    ///
    /// # Errors
    /// As [`Switch::cut`].
    pub fn partition(&mut self, one: &[&str], other: &[&str]) -> Result<u64> {
        let mut entries = Vec::new();
        for a in one {
            for b in other {
                entries.extend(self.one_way(a, b)?);
                entries.extend(self.one_way(b, a)?);
            }
        }
        self.add(entries)
    }

    /// Undoes all cuts. Returns the instant (boot clock, ns).
    ///
    /// # Errors
    /// The map refuses.
    pub fn heal(&mut self) -> Result<u64> {
        // Watch entries go last: a cut station must not lose its watcher before it is healed.
        let mut keys: Vec<_> = self
            .shadow
            .iter()
            .map(|(key, bits)| (*bits, *key))
            .collect();
        keys.sort_unstable();
        let now = boot_ns();
        for (_, key) in keys {
            self.remove(key)?;
        }
        Ok(now)
    }

    fn remove(&mut self, (ifindex, mac): (u32, [u8; 6])) -> Result<()> {
        self.cuts.remove(&LabCutKey {
            ifindex,
            mac,
            pad: [0; 2],
        })?;
        self.shadow.remove(&(ifindex, mac));
        Ok(())
    }

    /// Puts exactly these cuts in place of those that are there; what is cut before and after stays cut meanwhile.
    /// Returns the instant (boot clock, ns).
    ///
    /// # Errors
    /// As [`Switch::cut`].
    pub fn replace(&mut self, cuts: &[Cut]) -> Result<u64> {
        let mut wanted: BTreeMap<(u32, [u8; 6]), u8> = BTreeMap::new();
        for cut in cuts {
            let entries = match cut {
                Cut::OneWay(from, to) => self.one_way(from, to)?,
                Cut::Off(station) | Cut::Link(station, _) | Cut::Mute(station) => {
                    let bits = if matches!(cut, Cut::Mute(_)) {
                        CUT_FROM
                    } else {
                        CUT_FROM | CUT_TO
                    };
                    let ports = self.ports_of(station)?.into_iter();
                    ports
                        .filter(|port| !matches!(cut, Cut::Link(_, link) if *link != port.link))
                        .map(|port| (port.ifindex, ANY, bits))
                        .collect()
                }
            };
            for (ifindex, mac, bits) in entries {
                *wanted.entry((ifindex, mac)).or_default() |= bits;
            }
        }
        for ifindex in wanted.keys().map(|key| key.0).collect::<BTreeSet<_>>() {
            for mac in self.watchers.clone() {
                wanted.insert((ifindex, mac), CUT_NEVER);
            }
        }
        // Watchers first when cuts come, last when they go: a cut station never loses its watcher.
        let mut new: Vec<_> = wanted.iter().map(|(key, bits)| (*bits, *key)).collect();
        new.sort_unstable_by(|a, b| b.cmp(a));
        let gone = self
            .shadow
            .iter()
            .filter(|(key, _)| !wanted.contains_key(*key));
        let mut gone: Vec<_> = gone.map(|(key, bits)| (*bits, *key)).collect();
        gone.sort_unstable();
        let now = boot_ns();
        for (bits, (ifindex, mac)) in new {
            if self.shadow.get(&(ifindex, mac)) != Some(&bits) {
                self.set(ifindex, mac, bits)?;
            }
        }
        for (_, key) in gone {
            self.remove(key)?;
        }
        Ok(now)
    }

    fn ports_of(&self, station: &str) -> Result<Vec<Port>> {
        let ports: Vec<_> = self
            .ports
            .iter()
            .filter(|p| p.station == station)
            .cloned()
            .collect();
        if ports.is_empty() {
            bail!("the lab has no station {station:?}");
        }
        Ok(ports)
    }

    fn one_way(&self, from: &str, to: &str) -> Result<Vec<(u32, [u8; 6], u8)>> {
        let (from, to) = (self.ports_of(from)?, self.ports_of(to)?);
        let mut entries = Vec::new();
        for port in &to {
            for sender in from.iter().filter(|sender| sender.link == port.link) {
                entries.push((port.ifindex, sender.mac, CUT_TO));
            }
        }
        Ok(entries)
    }

    /// Adds cut bits to entries: watch entries first, then the instant is taken, then the cuts.
    fn add(&mut self, entries: Vec<(u32, [u8; 6], u8)>) -> Result<u64> {
        for (ifindex, _, _) in &entries {
            for mac in self.watchers.clone() {
                self.set(*ifindex, mac, CUT_NEVER)?;
            }
        }
        let now = boot_ns();
        for (ifindex, mac, bits) in entries {
            let old = self.shadow.get(&(ifindex, mac)).copied().unwrap_or(0);
            self.set(ifindex, mac, old | bits)?;
        }
        Ok(now)
    }

    fn set(&mut self, ifindex: u32, mac: [u8; 6], bits: u8) -> Result<()> {
        self.cuts.insert(
            LabCutKey {
                ifindex,
                mac,
                pad: [0; 2],
            },
            bits,
            0,
        )?;
        self.shadow.insert((ifindex, mac), bits);
        Ok(())
    }
}

/// Pins a map of the lab's own at a path: for agents that must find something foreign there.
///
/// # Errors
/// Not a BPF file system, or the path is taken.
pub fn pin_foreign_map(path: &Path) -> Result<()> {
    let programs = EbpfLoader::new().load(OBJECT)?;
    let map = programs.map("LAB_CUT").context("map LAB_CUT")?;
    map.pin(path)
        .with_context(|| format!("pinning {}", path.display()))?;
    Ok(())
}

/// Attaches both programs to a port, in its namespace, and notes its index.
fn attach(programs: &mut Ebpf, port: &mut Port) -> Result<()> {
    port.ifindex = nix::net::if_::if_nametoindex(port.device.as_str())
        .with_context(|| format!("switch port {}", port.device))?;
    let xdp: &mut Xdp = program(programs, "lab_port")?.try_into()?;
    xdp.attach_to_if_index(port.ifindex, XdpMode::Driver)
        .with_context(|| format!("native XDP on {}", port.device))?;
    // TCX came with kernel 6.6; before, the port needs a clsact qdisc.
    if KernelVersion::current().is_ok_and(|v| v < KernelVersion::new(6, 6, 0)) {
        tc::qdisc_add_clsact(&port.device)?;
    }
    let out: &mut SchedClassifier = program(programs, "lab_port_out")?.try_into()?;
    out.attach(&port.device, TcAttachType::Egress)
        .with_context(|| format!("TC egress on {}", port.device))?;
    Ok(())
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::programs::Program> {
    programs
        .program_mut(name)
        .with_context(|| format!("the lab's eBPF object lacks {name}"))
}
