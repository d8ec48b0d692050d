//! Loading the object, with its maps pinned or adopted from their pins.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use agent_common::{
    Set,
    keys::{KEYS_WORDS, Keys},
    record::{AddressKey, COUNTERS, VIP_GATEWAY, address_key, virtual_mac},
    state::LAYOUT,
};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{SchedClassifier, Xdp},
};

use super::{
    HeldRing, Ring, Table,
    attach::{self, Links},
    pins,
};

/// The compiled eBPF object.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/heartline-ebpf"));

/// Why the data path could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The pin directory cannot be used.
    #[error(
        "{path}: {source} (is a BPF file system mounted there? `mount -t bpf bpf /sys/fs/bpf`)"
    )]
    PinDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is pinned where a map of ours belongs.
    #[error("{path} is not ours: {found}; if no agent runs, remove it and start again")]
    ForeignPin {
        /// The pin.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The kernel refused the object or one of its programs.
    #[error("the kernel refused the eBPF object: {0:#}")]
    Refused(anyhow::Error),
    /// A map is missing from the object or has another shape: a build error.
    #[error("eBPF map {0} is missing or of another type")]
    Map(&'static str),
    /// The shared table could not be mapped.
    #[error("cannot map the shared table: {0}")]
    Mmap(io::Error),
    /// An entry of a map could not be written.
    #[error("cannot write eBPF map {0}: {1}")]
    Write(&'static str, aya::maps::MapError),
}

fn refused(e: impl Into<anyhow::Error>) -> LoadError {
    LoadError::Refused(e.into())
}

/// What the kernel must know about this node.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This node's id, 1 to 32.
    pub id: u8,
    /// Hash of the cluster's name.
    pub cluster: u32,
    /// Configuration generation.
    pub generation: u32,
    /// Configuration digest.
    pub digest: u32,
    /// UDP port.
    pub port: u16,
    /// `max_promise`, ns.
    pub max_promise_ns: u64,
    /// Ids of the voters, one bit each.
    pub voters: u32,
}

/// The loaded programs and maps.
pub struct DataPath {
    pub(super) dir: PathBuf,
    pub(super) ebpf: Ebpf,
    pub(super) links: Links,
    table: Table,
    ring: Option<Ring>,
    hold: Array<MapData, u64>,
    held: Option<HeldRing>,
    counters: PerCpuArray<MapData, u64>,
    keys: Array<MapData, [u64; KEYS_WORDS]>,
    vips: HashMap<MapData, AddressKey, u32>,
    vmacs: HashMap<MapData, [u8; 8], u32>,
    link_addresses: HashMap<MapData, AddressKey, u32>,
    fresh: bool,
    removed: Vec<PathBuf>,
}

macro_rules! take {
    ($ebpf:expr, $name:literal, $variant:path) => {
        match $ebpf.take_map($name) {
            Some($variant(data)) => data,
            _ => return Err(LoadError::Map($name)),
        }
    };
}

impl DataPath {
    /// Loads the object below `bpf_dir`, adopting pinned maps of this layout and removing pins of others.
    ///
    /// # Errors
    /// No BPF file system, the kernel refuses, or the key cannot be written.
    pub fn load(bpf_dir: &Path, keys: impl Into<Keys>) -> Result<DataPath, LoadError> {
        Self::load_logging(bpf_dir, &keys.into(), false)
    }

    /// As [`DataPath::load`]; with `log`, the programs report each frame through aya-log (slow; for debugging).
    ///
    /// # Errors
    /// As [`DataPath::load`].
    pub fn load_logging(bpf_dir: &Path, keys: &Keys, log: bool) -> Result<DataPath, LoadError> {
        let name = format!("v{:x}", LAYOUT as u32);
        let dir = bpf_dir.join(&name);
        let maps = dir.join("maps");
        fs::create_dir_all(&maps).map_err(|source| LoadError::PinDir {
            path: maps.clone(),
            source,
        })?;
        pins::check_file_system(&maps)?;
        let removed = remove_other_layouts(bpf_dir, &name);
        attach::remove_dead_links(&dir);
        pins::check(&maps)?;
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(&maps)
            .override_global(
                aya_log::LEVEL,
                &(if log { aya_log::Level::Debug as u8 } else { 0 }),
                true,
            )
            .load(OBJECT)
            .map_err(refused)?;

        let table = match ebpf.map("STATE") {
            Some(Map::Array(data)) => Table::map(data.fd().as_fd()).map_err(LoadError::Mmap)?,
            _ => return Err(LoadError::Map("STATE")),
        };
        let fresh = table.layout.load() != LAYOUT;
        let key_map = Array::try_from(Map::Array(take!(ebpf, "KEYS", Map::Array)))
            .map_err(|_| LoadError::Map("KEYS"))?;
        let ring = RingBuf::try_from(Map::RingBuf(take!(ebpf, "EVENTS", Map::RingBuf)))
            .map_err(|_| LoadError::Map("EVENTS"))?;
        let hold = Array::try_from(Map::Array(take!(ebpf, "HOLD", Map::Array)))
            .map_err(|_| LoadError::Map("HOLD"))?;
        let held = RingBuf::try_from(Map::RingBuf(take!(ebpf, "HELD", Map::RingBuf)))
            .map_err(|_| LoadError::Map("HELD"))?;
        let counters =
            PerCpuArray::try_from(Map::PerCpuArray(take!(ebpf, "COUNTERS", Map::PerCpuArray)))
                .map_err(|_| LoadError::Map("COUNTERS"))?;
        let vips = HashMap::try_from(Map::HashMap(take!(ebpf, "VIPS", Map::HashMap)))
            .map_err(|_| LoadError::Map("VIPS"))?;
        let vmacs = HashMap::try_from(Map::HashMap(take!(ebpf, "VMACS", Map::HashMap)))
            .map_err(|_| LoadError::Map("VMACS"))?;
        let link_addresses = HashMap::try_from(Map::HashMap(take!(ebpf, "LINKS", Map::HashMap)))
            .map_err(|_| LoadError::Map("LINKS"))?;
        for program in ["heartline_xdp", "heartline_pass"] {
            let p: &mut Xdp = ebpf
                .program_mut(program)
                .ok_or(LoadError::Map("program"))?
                .try_into()
                .map_err(refused)?;
            p.load().map_err(refused)?;
        }
        let p: &mut SchedClassifier = ebpf
            .program_mut("heartline_egress")
            .ok_or(LoadError::Map("program"))?
            .try_into()
            .map_err(refused)?;
        p.load().map_err(refused)?;
        let mut path = DataPath {
            dir,
            ebpf,
            links: Links::default(),
            table,
            ring: Some(Ring::new(ring)),
            hold,
            held: Some(HeldRing::new(held)),
            counters,
            keys: key_map,
            vips,
            vmacs,
            link_addresses,
            fresh,
            removed,
        };
        path.set_keys(keys)?;
        // Of version 0.1, whose programs keep it for as long as they still run: a map with the cluster key.
        let _ = fs::remove_file(maps.join("KEY"));
        Ok(path)
    }

    /// Gives the programs these keys. A frame that they check meanwhile may see half of the change and be refused: one
    /// heartbeat is late then.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_keys(&mut self, keys: &Keys) -> Result<(), LoadError> {
        self.keys
            .set(0, keys.words(), 0)
            .map_err(|e| LoadError::Write("KEYS", e))
    }

    /// Was the shared table made by this load? Then rule 1 applies: wait before voting.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Pins of other versions that this load found and removed.
    pub fn removed_pins(&self) -> &[PathBuf] {
        &self.removed
    }

    /// The shared table.
    pub fn table(&self) -> Table {
        self.table
    }

    /// The ring buffer; there is one reader.
    pub fn take_ring(&mut self) -> Option<Ring> {
        self.ring.take()
    }

    /// Frames that were held; there is one reader.
    pub fn take_held(&mut self) -> Option<HeldRing> {
        self.held.take()
    }

    /// Holds frames for a group's addresses until then (boot clock, ns); 0: no longer.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hold(&mut self, group: u8, until: u64) -> Result<(), LoadError> {
        self.hold
            .set(group.into(), until, 0)
            .map_err(|e| LoadError::Write("HOLD", e))
    }

    /// Fills in the identity. On a fresh table this also gives birth to the incarnation and starts the wait of rule 1;
    /// the layout word, which lets the programs use the table, is written last.
    ///
    /// A table of other members or of another generation is no state to go on with: this node then waits as if fresh,
    /// and gives up what it owned. (A running agent goes from one generation to the next and keeps both: rule 10.)
    pub fn identify(&self, id: &Identity, now: u64, wall_ns: u64) {
        identify(&self.table, self.fresh, id, now, wall_ns);
    }

    /// This node votes only after it has heard somebody who votes in its generation (rule 10).
    pub fn await_proof(&self) {
        self.table.vote_after.store(agent_common::state::UNPROVEN);
    }

    /// Makes the VIP map hold exactly these addresses and groups.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    pub fn set_vips(&mut self, vips: &[(IpAddr, u8)]) -> Result<(), LoadError> {
        let want: Vec<_> = vips
            .iter()
            .map(|(a, g)| (address_key(*a), u32::from(*g)))
            .collect();
        sync("VIPS", &mut self.vips, &want)
    }

    /// As [`DataPath::set_vips`]; those marked `true` are gateways, whose group's virtual MAC is gated as well.
    ///
    /// # Errors
    /// As [`DataPath::set_vips`].
    pub fn set_gated(
        &mut self,
        cluster: u32,
        vips: &[(IpAddr, u8, bool)],
    ) -> Result<(), LoadError> {
        let mut macs: Vec<_> = vips
            .iter()
            .filter(|(.., gateway)| *gateway)
            .map(|(_, group, _)| (vmac_key(virtual_mac(cluster, *group)), u32::from(*group)))
            .collect();
        macs.sort_unstable();
        macs.dedup();
        // A VIP that changes its group comes twice; the first counts. The MACs of both stay gated.
        let mut want: Vec<_> = Vec::with_capacity(vips.len());
        let mut seen = std::collections::BTreeSet::new();
        for (a, g, gateway) in vips {
            let mark = if *gateway { VIP_GATEWAY } else { 0 };
            if seen.insert(address_key(*a)) {
                want.push((address_key(*a), u32::from(*g) | mark));
            }
        }
        // The MACs first: a gateway's VIP must not be spoken for before its MAC is gated.
        sync("VMACS", &mut self.vmacs, &macs)?;
        sync("VIPS", &mut self.vips, &want)
    }

    /// Makes the link map hold exactly these addresses.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    pub fn set_links(&mut self, links: &[IpAddr]) -> Result<(), LoadError> {
        let want: Vec<_> = links
            .iter()
            .enumerate()
            .map(|(i, a)| (address_key(*a), i as u32))
            .collect();
        sync("LINKS", &mut self.link_addresses, &want)
    }

    /// All counters, summed over the CPUs, with their names.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        COUNTERS
            .iter()
            .map(|(c, name)| {
                (
                    *name,
                    self.counters
                        .get(&(*c as u32), 0)
                        .map(|v| v.iter().sum())
                        .unwrap_or(0),
                )
            })
            .collect()
    }

    /// The reader of the programs' log, if they were loaded with one.
    ///
    /// # Errors
    /// The log's map is missing or cannot be read.
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, LoadError> {
        aya_log::EbpfLogger::init(&mut self.ebpf).map_err(refused)
    }

    /// The kernel's descriptor of a program, for BPF_PROG_TEST_RUN.
    pub fn program_fd(&self, name: &str) -> Option<i32> {
        match self.ebpf.program(name)? {
            aya::programs::Program::Xdp(p) => p.fd().ok().map(|fd| fd.as_fd().as_raw_fd()),
            aya::programs::Program::SchedClassifier(p) => {
                p.fd().ok().map(|fd| fd.as_fd().as_raw_fd())
            }
            _ => None,
        }
    }
}

/// The key of a virtual MAC.
fn vmac_key(mac: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [a, b, c, d, e, f, 0, 0]
}

/// See [`DataPath::identify`].
pub(super) fn identify(t: &Table, fresh: bool, id: &Identity, now: u64, wall_ns: u64) {
    let same =
        t.voters.load() == u64::from(id.voters) && t.generation.load() == u64::from(id.generation);
    if !fresh && !same {
        while !t.gate.remove(Set([u64::MAX; 4])) {}
        t.lease.store(0);
        t.vote_after
            .store(now + id.max_promise_ns.max(t.max_promise.load()));
    }
    t.id.store(u64::from(id.id));
    t.cluster.store(u64::from(id.cluster));
    t.generation.store(u64::from(id.generation));
    t.digest.store(u64::from(id.digest));
    t.port.store(u64::from(id.port));
    t.max_promise.store(id.max_promise_ns);
    t.voters.store(u64::from(id.voters));
    t.majority.store(u64::from(id.voters.count_ones() / 2 + 1));
    if fresh {
        t.incarnation.store(wall_ns);
        t.vote_after.store(now + id.max_promise_ns);
        t.layout.store(LAYOUT);
    }
}

fn sync<K: aya::Pod + Ord>(
    name: &'static str,
    map: &mut HashMap<MapData, K, u32>,
    want: &[(K, u32)],
) -> Result<(), LoadError> {
    let old: BTreeMap<K, u32> = map.iter().filter_map(Result::ok).collect();
    // Additions first: an address that stays must never be without its entry.
    for (nth, (k, v)) in want.iter().enumerate() {
        if let Err(e) = map.insert(k, v, 0) {
            // All or nothing: what was added goes again.
            for (k, _) in want.iter().take(nth) {
                let _ = match old.get(k) {
                    Some(v) => map.insert(k, v, 0),
                    None => map.remove(k),
                };
            }
            return Err(LoadError::Write(name, e));
        }
    }
    let wanted: BTreeSet<K> = want.iter().map(|(k, _)| *k).collect();
    for k in old.into_keys().filter(|k| !wanted.contains(k)) {
        map.remove(&k).map_err(|e| LoadError::Write(name, e))?;
    }
    Ok(())
}

/// Pins of another layout belong to another version of the agent: its promises cannot be read, so they must be waited
/// out (the table here is fresh then), and its programs must go.
fn remove_other_layouts(bpf_dir: &Path, keep: &str) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(bpf_dir) else {
        return removed;
    };
    for entry in entries.filter_map(Result::ok) {
        let (name, path) = (entry.file_name(), entry.path());
        if name != keep && pins::is_layout(&name) && path.is_dir() {
            match fs::remove_dir_all(&path) {
                Ok(()) => removed.push(path),
                Err(e) => tracing::warn!(
                    "pins of another version cannot be removed: {}: {e}",
                    path.display()
                ),
            }
        }
    }
    removed
}
