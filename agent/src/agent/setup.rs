//! From the configuration to the parts of a running agent.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    net::IpAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use agent_common::{MAX_NODES, Set, node_bit};
use agent_core::{CoreConfig, Failback, GroupConfig, NodeConfig, Timing};
use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{
    config::{self, Config, Datapath},
    datapath::{Identity, XdpKind},
    net::{NetConfig, NetExtra, NetGroup, NetVip},
};

/// A configuration that no new attempt makes better.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is refused\n{0}")]
pub struct Refused(String);

/// Reads the configuration; all errors go to the terminal or the journal, rendered.
///
/// # Errors
/// The file cannot be read, or is wrong.
pub fn load(path: &Path) -> Result<Config> {
    match Config::load(path) {
        Ok(loaded) => {
            if loaded.report.warnings() > 0 {
                tracing::warn!("{}", loaded.report.render(false));
            }
            Ok(loaded.config)
        }
        Err(config::LoadError::Refused(report)) => Err(Refused(report.render(false)).into()),
        Err(e) => Err(e.into()),
    }
}

/// Which node this machine is: by name, else by host name.
///
/// # Errors
/// No such node; the answer names those that there are.
pub fn who_am_i(config: &Config, name: Option<&str>) -> Result<u8> {
    let names = || {
        config
            .nodes
            .iter()
            .map(|n| n.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(name) = name {
        return config.node_by_name(name).map(|n| n.id).with_context(|| {
            format!("no node {name:?} in the configuration (nodes: {})", names())
        });
    }
    let host = nix::unistd::gethostname().context("reading the host name")?;
    let host = host.to_string_lossy();
    config
        .node_by_hostname(&host)
        .map(|n| n.id)
        .with_context(|| {
            format!(
                "this machine is called {host:?}, the configuration has {}; name it with --node",
                names()
            )
        })
}

/// One agent per node: the locks are held until the process ends.
#[derive(Debug)]
pub struct Locks {
    _run_dir: Flock<File>,
    /// The pins are what must not be shared: another run directory does not make another node.
    pins: Option<Flock<File>>,
}

impl Locks {
    /// Locks the pins, too; their directory must be on its file system by now.
    ///
    /// # Errors
    /// As [`lock`].
    pub fn add_pins(&mut self, bpf_dir: &Path) -> Result<()> {
        fs::create_dir_all(bpf_dir).with_context(|| format!("creating {}", bpf_dir.display()))?;
        let pins = File::open(bpf_dir).with_context(|| format!("opening {}", bpf_dir.display()))?;
        self.pins = Some(exclusive(pins, bpf_dir)?);
        Ok(())
    }
}

/// Takes both locks; the directory of the pins must be on its file system by now.
///
/// # Errors
/// Another agent holds one; the error names its process and the mend.
pub fn lock(run_dir: &Path, bpf_dir: &Path) -> Result<Locks> {
    let mut locks = lock_run_dir(run_dir)?;
    locks.add_pins(bpf_dir)?;
    Ok(locks)
}

/// Takes the lock of the run directory alone.
///
/// # Errors
/// As [`lock`].
pub fn lock_run_dir(run_dir: &Path) -> Result<Locks> {
    fs::create_dir_all(run_dir).with_context(|| format!("creating {}", run_dir.display()))?;
    let path = run_dir.join("agent.lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let mut lock = exclusive(file, &path)?;
    let _ = lock.set_len(0);
    let _ = write!(lock, "{}", std::process::id());
    Ok(Locks {
        _run_dir: lock,
        pins: None,
    })
}

fn exclusive(file: File, path: &Path) -> Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(file, errno)| {
        if errno != Errno::EWOULDBLOCK {
            return anyhow::anyhow!("locking {}: {errno}", path.display());
        }
        // A directory cannot say who holds it, the kernel can.
        let who = file.metadata().ok().and_then(|m| holder(m.ino()));
        let who = who.map_or_else(String::new, |pid| format!(" (process {pid})"));
        anyhow::anyhow!(
            "another agent{who} holds {}: one agent per node; stop it first",
            path.display()
        )
    })
}

/// The process that holds a flock(2) on a file, from /proc/locks.
fn holder(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let suffix = format!(":{inode}");
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, _, _, pid, file) = (
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
            words.next()?,
        );
        (kind == "FLOCK" && file.ends_with(&suffix)).then(|| pid.parse().ok())?
    })
}

/// Mounts the BPF file system if the pins go to the usual place and nothing is mounted there.
pub fn mount_bpffs(dir: &Path) {
    let root = Path::new("/sys/fs/bpf");
    if dir.starts_with(root)
        && nix::sys::statfs::statfs(root)
            .is_ok_and(|s| s.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC)
    {
        let none: Option<&str> = None;
        match nix::mount::mount(
            Some("bpf"),
            root,
            Some("bpf"),
            nix::mount::MsFlags::empty(),
            none,
        ) {
            Ok(()) => tracing::info!("mounted the BPF file system at {}", root.display()),
            Err(e) => tracing::warn!("mounting the BPF file system at {}: {e}", root.display()),
        }
    }
}

/// The core's view of the configuration.
pub fn core_config(c: &Config, me: u8) -> CoreConfig {
    let timing = Timing {
        heartbeat: c.timing.heartbeat_ns,
        lease: c.timing.lease_ns,
        takeover: c.timing.takeover_ns,
        max_promise: c.timing.max_promise_ns,
    };
    let mut core = CoreConfig::new(me, timing);
    core.cluster = c.cluster_id;
    core.generation = c.generation;
    core.digest = c.digest();
    core.seed = u64::from(std::process::id());
    for n in &c.nodes {
        if let Some(slot) = core.nodes.get_mut(usize::from(n.id).wrapping_sub(1)) {
            *slot = Some(NodeConfig {
                witness: n.role == config::Role::Witness,
                capacity: n.capacity,
            });
        }
    }
    for g in &c.groups {
        let mut group = GroupConfig::preferring(&g.prefer[..g.prefer.len().min(MAX_NODES)]);
        group.spread = g.spread;
        group.failback = match g.failback {
            config::Failback::Manual => Failback::Manual,
            config::Failback::Auto => Failback::Auto,
        };
        group.failback_delay = g.near.failback_delay_ns;
        group.orderly = g.services.is_orderly();
        group.with = g.near.with;
        group.apart = g
            .near
            .apart
            .iter()
            .fold(Set::EMPTY, |set, id| set.with(*id));
        group.need = g.near.need;
        core.groups[usize::from(g.id)] = Some(group);
    }
    core
}

/// What the kernel must know.
pub fn identity(c: &Config, me: u8) -> Identity {
    Identity {
        id: me,
        cluster: c.cluster_id,
        generation: c.generation,
        digest: c.digest(),
        port: c.port,
        max_promise_ns: c.timing.max_promise_ns,
        voters: voters(c),
    }
}

/// The members, one bit each.
pub fn voters(c: &Config) -> u32 {
    c.nodes.iter().fold(0, |m, n| m | node_bit(n.id))
}

/// VIPs of a configuration, and those that are gated besides: one that is removed is gated until its address is gone.
pub fn and_still(gated: &[(IpAddr, u8, bool)], new: &Config) -> Vec<(IpAddr, u8, bool)> {
    let mut all = vips(new);
    let gone: Vec<_> = gated.iter().filter(|v| !all.contains(v)).copied().collect();
    all.extend(gone);
    all
}

/// The address thread's view of the configuration.
///
/// # Errors
/// A VIP that the address thread refuses (the configuration's own rules are stricter).
pub fn net_config(c: &Config) -> Result<NetConfig> {
    let groups = c
        .groups
        .iter()
        .map(|g| {
            let vips = g
                .vips
                .iter()
                .map(|v| {
                    let vip = NetVip::new(v.address, Some(v.prefix), &v.device)?;
                    Ok(if v.gateway {
                        vip.into_gateway(c.cluster_id, g.id)
                    } else {
                        vip
                    })
                })
                .collect::<Result<Vec<_>>>()?;
            let routes = g.routes.iter().cloned().map(NetExtra::Route);
            let rules = g.rules.iter().cloned().map(NetExtra::Rule);
            Ok(NetGroup {
                id: g.id,
                vips,
                extras: routes.chain(rules).collect(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(NetConfig {
        groups,
        announce_interval_ns: c.announce_interval_ns,
        takeover_ns: c.timing.takeover_ns,
        serial: 0,
        wait_for_gate: true,
    })
}

/// All VIPs with their groups, and whether they are gateways.
pub fn vips(c: &Config) -> Vec<(IpAddr, u8, bool)> {
    c.groups
        .iter()
        .flat_map(|g| g.vips.iter().map(|v| (v.address, g.id, v.gateway)))
        .collect()
}

/// The XDP modes to try, in turn.
pub fn modes(d: Datapath) -> &'static [XdpKind] {
    match d {
        Datapath::Auto => &[XdpKind::Native, XdpKind::Generic],
        Datapath::Native => &[XdpKind::Native],
        Datapath::Generic => &[XdpKind::Generic],
        Datapath::Socket => &[],
    }
}

/// Names for people.
#[derive(Clone, Debug, Default)]
pub struct Names {
    nodes: BTreeMap<u8, String>,
    groups: BTreeMap<u8, String>,
}

impl Names {
    /// The names in a configuration.
    pub fn of(c: &Config) -> Names {
        Names {
            nodes: c.nodes.iter().map(|n| (n.id, n.name.clone())).collect(),
            groups: c.groups.iter().map(|g| (g.id, g.name.clone())).collect(),
        }
    }
    /// With those of another configuration.
    #[must_use]
    pub fn with(&self, c: &Config) -> Names {
        let mut all = Names::of(c);
        all.nodes.extend(self.nodes.clone());
        all.groups.extend(self.groups.clone());
        all
    }
    /// A node's name, or its number.
    pub fn node(&self, id: u8) -> String {
        self.nodes
            .get(&id)
            .cloned()
            .unwrap_or_else(|| format!("node {id}"))
    }
    /// A group's name, or its number.
    pub fn group(&self, id: u8) -> String {
        self.groups
            .get(&id)
            .cloned()
            .unwrap_or_else(|| format!("group {id}"))
    }
}
