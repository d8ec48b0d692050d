//! One data path or the other, as the agent sees it.

use std::net::IpAddr;

use agent_common::keys::Keys;

use super::{
    Coverage, DataPath, HeldRing, Identity, Ring, Table, XdpKind, loader,
    socket::{SocketPath, Source},
};

/// The data path in use.
// One per agent: what the larger one takes is no waste.
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
pub enum AnyPath {
    /// XDP and TC.
    Bpf(DataPath),
    /// Sockets and nftables.
    Socket(SocketPath),
}

/// Where the real-time thread gets its records from.
pub enum Records {
    /// The ring buffer of the XDP program.
    Ring(Ring),
    /// The link sockets, with the kernel's half of the lease.
    Socket(Source),
}

impl AnyPath {
    /// Was the shared table made by this start? Then rule 1 applies.
    pub fn is_fresh(&self) -> bool {
        match self {
            AnyPath::Bpf(d) => d.is_fresh(),
            AnyPath::Socket(s) => s.is_fresh(),
        }
    }

    /// Pins of other versions that were found and removed.
    pub fn removed_pins(&self) -> &[std::path::PathBuf] {
        match self {
            AnyPath::Bpf(d) => d.removed_pins(),
            AnyPath::Socket(_) => &[],
        }
    }

    /// The shared table.
    pub fn table(&self) -> Table {
        match self {
            AnyPath::Bpf(d) => d.table(),
            AnyPath::Socket(s) => s.table(),
        }
    }

    /// The source of records; there is one reader.
    pub fn take_records(&mut self) -> Option<Records> {
        match self {
            AnyPath::Bpf(d) => d.take_ring().map(Records::Ring),
            AnyPath::Socket(s) => s.take_source().map(Records::Socket),
        }
    }

    /// Frames that were held; there is one reader. Without BPF none is.
    pub fn take_held(&mut self) -> Option<HeldRing> {
        match self {
            AnyPath::Bpf(d) => d.take_held(),
            AnyPath::Socket(_) => None,
        }
    }

    /// Holds frames for a group's addresses until then (boot clock, ns); 0: no longer. False: nothing is held.
    pub fn hold(&mut self, group: u8, until: u64) -> bool {
        match self {
            AnyPath::Bpf(d) => d.hold(group, until).is_ok(),
            AnyPath::Socket(_) => false,
        }
    }

    /// Fills in the identity; see [`DataPath::identify`].
    pub fn identify(&self, id: &Identity, now: u64, wall_ns: u64) {
        match self {
            AnyPath::Bpf(d) => d.identify(id, now, wall_ns),
            AnyPath::Socket(s) => loader::identify(&s.table(), s.is_fresh(), id, now, wall_ns),
        }
    }

    /// This node votes only after it has heard somebody who votes in its generation (rule 10).
    pub fn await_proof(&self) {
        self.table().vote_after.store(agent_common::state::UNPROVEN);
    }

    /// Makes the gate know exactly these VIPs, with their groups, and whether they are gateways.
    ///
    /// # Errors
    /// The kernel refuses; without BPF, a gateway.
    pub fn set_gated(&mut self, cluster: u32, vips: &[(IpAddr, u8, bool)]) -> anyhow::Result<()> {
        match self {
            AnyPath::Bpf(d) => d.set_gated(cluster, vips)?,
            AnyPath::Socket(s) => s.set_gated(vips)?,
        }
        Ok(())
    }

    /// Accepts messages of these keys from now on. Without BPF the real-time thread has them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_keys(&mut self, keys: &Keys) -> anyhow::Result<()> {
        match self {
            AnyPath::Bpf(d) => d.set_keys(keys)?,
            AnyPath::Socket(_) => {}
        }
        Ok(())
    }

    /// Makes the data path know exactly these link addresses. Sockets are bound to theirs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_links(&mut self, links: &[IpAddr]) -> anyhow::Result<()> {
        match self {
            AnyPath::Bpf(d) => d.set_links(links)?,
            AnyPath::Socket(_) => {}
        }
        Ok(())
    }

    /// Covers a device; `modes` are for XDP.
    ///
    /// # Errors
    /// It has no gate then.
    pub fn cover(
        &mut self,
        name: &str,
        ifindex: u32,
        modes: &[XdpKind],
    ) -> anyhow::Result<Coverage> {
        match self {
            AnyPath::Bpf(d) => d.cover(name, ifindex, modes),
            AnyPath::Socket(s) => Ok(s.cover(name, ifindex)?),
        }
    }

    /// Is the device still covered? Looks at the kernel.
    pub fn is_covered(&mut self, ifindex: u32) -> Option<Coverage> {
        match self {
            AnyPath::Bpf(d) => d.is_covered(ifindex),
            AnyPath::Socket(s) => s.is_covered(ifindex),
        }
    }

    /// Forgets a device that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        match self {
            AnyPath::Bpf(d) => d.forget(ifindex),
            AnyPath::Socket(s) => s.forget(ifindex),
        }
    }

    /// All counters with their names.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        match self {
            AnyPath::Bpf(d) => d.counters(),
            AnyPath::Socket(s) => s.counters(),
        }
    }
}
