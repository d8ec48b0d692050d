//! The data path without BPF: heartbeats by plain UDP sockets on the real-time thread, the gate by nftables.
//!
//! The protocol is the same, down to the functions of `agent_common::kernel`; nodes of both kinds work together. What
//! it promises less:
//!
//! - A node whose agent does not run acks nothing: its vote is missing, and what it owned is taken over. Still it stands
//!   by its promises, for the others wait them out.
//! - The gate shuts by a timeout of nftables, counted in the kernel's ticks. It is set so that it shuts before the lease
//!   ends (see `gate`), so it needs a longer lease, and renewing in time.
//! - The gate is a ruleset like any other: whoever flushes the ruleset opens it, until the agent has put it back.
//!
//! `source` is the kernel's half of the lease in user space, `gate` keeps the gate, `ruleset` is its text, `message` and
//! `kernel` talk to nf_tables, `table` is where the state outlives the agent.

mod gate;
mod kernel;
mod message;
mod ruleset;
mod source;
mod table;

use std::{
    collections::BTreeSet, io, net::IpAddr, path::Path, sync::Arc, sync::atomic::Ordering::Relaxed,
};

use agent_common::record::COUNTERS;
use nix::errno::Errno;

use self::{
    gate::Vip,
    kernel::NfTables,
    message::{Batch, Dump, Said},
};
use super::{Coverage, EgressKind, Table};

pub use gate::{Gate, GateStats, loss, tick};
pub use ruleset::program as nft_program;
pub use source::{Counts, Source, Taken};
pub use table::remove as remove_table;

/// Why this data path cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The table's file cannot be used.
    #[error("the table {0}/table: {1}")]
    Table(String, io::Error),
    /// No `nft` program.
    #[error(
        "the program nft is missing, and without it there is no gate: apt-get install nftables"
    )]
    NoNft,
    /// `nft` refused the ruleset.
    #[error(
        "nft refused the gate: {0} (it needs CAP_NET_ADMIN, and nftables with family netdev: kernel 5.16 or newer)"
    )]
    Nft(String),
    /// The kernel refused a change of a set.
    #[error("nftables: {0}")]
    Kernel(Errno),
    /// A gateway VIP.
    #[error(
        "{0} is a gateway, and datapath \"socket\" does not gate virtual MACs: use BPF on nodes that may own it"
    )]
    Gateway(IpAddr),
    /// A socket could not be opened.
    #[error("a netlink socket to nftables: {0}")]
    Socket(io::Error),
    /// The lease is too short.
    #[error(
        "the lease of {lease_ms} ms is too short for datapath \"socket\" here: its gate needs {need_ms} ms (kernel tick {tick_us} us, \
         heartbeat {heartbeat_ms} ms); use profile \"wan\", or a longer `takeover`, on all nodes"
    )]
    Lease {
        /// As configured.
        lease_ms: u64,
        /// The least.
        need_ms: u64,
        /// This kernel's tick.
        tick_us: u64,
        /// As configured.
        heartbeat_ms: u64,
    },
}

/// Is there the table of a run of this data path?
pub fn has_table(run_dir: &Path) -> bool {
    table::path(run_dir).exists()
}

/// The least lease that the gate can keep up with here, ns: one heartbeat and a tick beyond what it loses.
pub fn least_lease(heartbeat_ns: u64) -> u64 {
    let tick = tick();
    loss(tick) + heartbeat_ns + tick
}

/// The main task's side: ruleset, VIPs, coverage, counters.
pub struct SocketPath {
    table: Table,
    fresh: bool,
    kernel: NfTables,
    source: Option<Source>,
    counts: Arc<Counts>,
    stats: Arc<GateStats>,
    vips: Vec<(IpAddr, u8)>,
    /// A witness.
    owns_nothing: bool,
    covered: BTreeSet<u32>,
}

/// Each VIP with its group. One that changes its group comes twice; the first counts.
pub fn first_of_each(vips: &[(IpAddr, u8, bool)]) -> Vec<(IpAddr, u8)> {
    let mut seen = BTreeSet::new();
    vips.iter()
        .filter(|(a, ..)| seen.insert(*a))
        .map(|(a, g, _)| (*a, *g))
        .collect()
}

impl SocketPath {
    /// Opens the table in `run_dir` and sets up the ruleset, shut for what the kernel does not already let pass.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn load(run_dir: &Path, clock: fn() -> u64) -> Result<SocketPath, SocketError> {
        ruleset::apply(&ruleset::base())?;
        let (table, fresh) = table::open(run_dir)
            .map_err(|e| SocketError::Table(run_dir.display().to_string(), e))?;
        let gate = Gate::new(&[], clock).map_err(SocketError::Socket)?;
        let (counts, stats) = (Arc::<Counts>::default(), Arc::clone(gate.stats()));
        Ok(SocketPath {
            table,
            fresh,
            kernel: NfTables::open().map_err(SocketError::Socket)?,
            source: Some(Source::new(Arc::clone(&counts), gate)),
            counts,
            stats,
            vips: Vec::new(),
            owns_nothing: false,
            covered: BTreeSet::new(),
        })
    }

    /// This node is a witness.
    pub fn set_witness(&mut self) {
        self.owns_nothing = true;
    }

    /// Was the table made by this load? Then rule 1 applies.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The shared table.
    pub fn table(&self) -> Table {
        self.table
    }

    /// The receiving end; there is one.
    pub fn take_source(&mut self) -> Option<Source> {
        let mut source = self.source.take()?;
        source.gate().set_vips(&self.vips);
        Some(source)
    }

    /// As [`SocketPath::set_vips`]. Gateways are refused where they could be owned: their virtual MAC is not gated here.
    ///
    /// # Errors
    /// A gateway on a node that may own it, or the kernel refuses.
    pub fn set_gated(&mut self, vips: &[(IpAddr, u8, bool)]) -> Result<(), SocketError> {
        if let Some((vip, ..)) = vips
            .iter()
            .find(|(.., gateway)| *gateway && !self.owns_nothing)
        {
            return Err(SocketError::Gateway(*vip));
        }
        self.set_vips(&first_of_each(vips))
    }

    /// Makes the gate stop exactly these addresses, all at once. The real-time thread must hear of them, too.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_vips(&mut self, vips: &[(IpAddr, u8)]) -> Result<(), SocketError> {
        self.vips = vips.to_vec();
        self.write_vips()
    }

    fn write_vips(&mut self) -> Result<(), SocketError> {
        let vips: Vec<Vip> = self.vips.iter().map(|(a, g)| Vip::new(*a, *g)).collect();
        let of = |v4: bool| vips.iter().filter(move |v| v.is_ipv4() == v4).map(Vip::key);
        let twice: Vec<Vec<u8>> = of(true).map(|k| [k, k].concat()).collect();
        let mut batch = Batch::with_room(4 * vips.len());
        batch.begin();
        for set in ["vips4", "vips6", "target6", "self4"] {
            batch.flush(set);
        }
        batch.add("vips4", of(true), 0);
        batch.add("self4", twice.iter().map(Vec::as_slice), 0);
        batch.add("vips6", of(false), 0);
        batch.add("target6", of(false), 0);
        self.kernel.commit(&mut batch).map_err(SocketError::Kernel)
    }

    /// Covers a device.
    ///
    /// # Errors
    /// `nft` refuses.
    pub fn cover(&mut self, name: &str, ifindex: u32) -> Result<Coverage, SocketError> {
        if !self.is_whole() {
            // Somebody flushed the ruleset. The real-time thread fills the open sets again.
            ruleset::apply(&ruleset::base())?;
            self.write_vips()?;
        }
        let text = ruleset::device(name, ifindex).ok_or_else(|| {
            SocketError::Nft(format!("the device's name {name:?} cannot be said to it"))
        })?;
        // A chain whose device went and came again under its name hangs nowhere: away with it first.
        ruleset::apply(&format!("{}{text}", ruleset::remove_device(ifindex)))?;
        self.covered.insert(ifindex);
        Ok(Coverage {
            ifindex,
            xdp: None,
            egress: EgressKind::Nft,
            xdp_prog_id: None,
        })
    }

    /// Is the device still covered? Asks the kernel.
    pub fn is_covered(&mut self, ifindex: u32) -> Option<Coverage> {
        if !self.covered.contains(&ifindex) || !self.is_whole() {
            return None;
        }
        let chains = self.kernel.dump(Dump::Chains).ok()?;
        let rules = self.kernel.dump(Dump::Rules).ok()?;
        let whole = ruleset::chains_of(ifindex).iter().all(|chain| {
            chains.contains(&Said::Chain(chain.clone(), true)) && has_rules(&rules, chain)
        });
        whole.then_some(Coverage {
            ifindex,
            xdp: None,
            egress: EgressKind::Nft,
            xdp_prog_id: None,
        })
    }

    fn is_whole(&mut self) -> bool {
        let rules = self.kernel.dump(Dump::Rules).unwrap_or_default();
        ruleset::shared_chains().all(|chain| has_rules(&rules, chain))
    }

    /// Forgets a device that is gone, with its chains.
    pub fn forget(&mut self, ifindex: u32) {
        if self.covered.remove(&ifindex)
            && let Err(e) = ruleset::apply(&ruleset::remove_device(ifindex))
        {
            tracing::warn!("{e}");
        }
    }

    /// All counters with their names.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut all: Vec<_> = COUNTERS
            .iter()
            .map(|(c, name)| (*name, self.counts.get(*c)))
            .collect();
        let s = &self.stats;
        all.extend([
            ("gate_set", s.set.load(Relaxed)),
            ("gate_late", s.late.load(Relaxed)),
            ("gate_overshot", s.overshot.load(Relaxed)),
            ("gate_refused", s.refused.load(Relaxed)),
            ("gate_set_worst_us", s.worst_us.load(Relaxed)),
            ("gate_held_back", s.held_back.load(Relaxed)),
        ]);
        all
    }

    /// Takes ruleset and table away. True if there was a table.
    pub fn unload(run_dir: &Path) -> bool {
        let was = has_table(run_dir);
        if was {
            if let Err(e) = ruleset::apply(&ruleset::remove()) {
                tracing::warn!("{e}");
            }
            let _ = table::remove(run_dir);
        }
        was
    }
}

fn has_rules(rules: &[Said], chain: &str) -> bool {
    let found = rules.iter().filter(|r| **r == Said::Rule(chain.to_owned()));
    found.count() == ruleset::rules_of(chain)
}
