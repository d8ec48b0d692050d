//! Which data path: as configured, or with "auto" the best that this machine allows.

use std::path::Path;

use agent_common::keys::Keys;
use anyhow::{Context, Result, bail};

use super::{
    rt,
    setup::{self, Locks},
};
use crate::{
    cli::agent::AgentArgs,
    config::{Config, Datapath, Role},
    datapath::{
        AnyPath, DataPath, LoadError,
        socket::{self, SocketError, SocketPath},
    },
};

/// The data path, with the locks that make it this agent's alone.
pub struct Chosen {
    pub path: AnyPath,
    pub locks: Locks,
    /// Why it is not what "auto" would rather have.
    pub why: Option<String>,
}

/// Opens the data path.
///
/// # Errors
/// Another agent runs, or none of the data paths that are allowed can be used.
pub fn open(args: &AgentArgs, config: &Config, me: u8, keys: &Keys) -> Result<Chosen> {
    match config.datapath {
        Datapath::Native | Datapath::Generic => {
            setup::mount_bpffs(&args.bpf_dir);
            let locks = setup::lock(&args.run_dir, &args.bpf_dir)?;
            let path = load_bpf(args, keys)?;
            Ok(Chosen {
                path,
                locks,
                why: None,
            })
        }
        Datapath::Socket => {
            let mut locks = setup::lock_run_dir(&args.run_dir)?;
            if has_pins(&args.bpf_dir) {
                // They would go on to answer heartbeats, from a table that is not this agent's.
                locks.add_pins(&args.bpf_dir)?;
                DataPath::unload(&args.bpf_dir);
            }
            let path = load_socket(args, config, me)?;
            Ok(Chosen {
                path,
                locks,
                why: None,
            })
        }
        Datapath::Auto => auto(args, config, me, keys),
    }
}

fn auto(args: &AgentArgs, config: &Config, me: u8, keys: &Keys) -> Result<Chosen> {
    setup::mount_bpffs(&args.bpf_dir);
    let mut locks = setup::lock_run_dir(&args.run_dir)?;
    let before = has_pins(&args.bpf_dir);
    let why = match std::fs::create_dir_all(&args.bpf_dir) {
        Ok(()) => {
            locks.add_pins(&args.bpf_dir)?;
            match load_bpf(args, keys) {
                Ok(path) => {
                    return Ok(Chosen {
                        path,
                        locks,
                        why: None,
                    });
                }
                Err(e) if !before && is_not_allowed(&e) => {
                    // Maps may have been pinned before a program was refused.
                    DataPath::unload(&args.bpf_dir);
                    format!("{e:#}")
                }
                // With the state of an earlier run there, another data path would be a second voter of this name.
                Err(e) => return Err(e),
            }
        }
        Err(e) => format!("{}: {e}", args.bpf_dir.display()),
    };
    let path = load_socket(args, config, me).with_context(|| {
        format!("BPF cannot be used ({why}), and neither can plain sockets with nftables")
    })?;
    Ok(Chosen {
        path,
        locks,
        why: Some(why),
    })
}

/// BPF is not permitted, too old, or has no place for pins: not something of ours that is wrong.
fn is_not_allowed(e: &anyhow::Error) -> bool {
    match e.downcast_ref::<LoadError>() {
        Some(LoadError::PinDir { .. } | LoadError::Refused(_)) => true,
        Some(
            LoadError::ForeignPin { .. }
            | LoadError::Map(_)
            | LoadError::Mmap(_)
            | LoadError::Write(..),
        )
        | None => false,
    }
}

fn load_bpf(args: &AgentArgs, keys: &Keys) -> Result<AnyPath> {
    let path = DataPath::load_logging(&args.bpf_dir, keys, args.debug_datapath)?;
    // What a run without BPF promised is forgotten from here on; adopted later it would be a rollback.
    socket::remove_table(&args.run_dir)
        .context("the table of an earlier run without BPF cannot be removed")?;
    Ok(AnyPath::Bpf(path))
}

fn load_socket(args: &AgentArgs, config: &Config, me: u8) -> Result<AnyPath> {
    if has_pins(&args.bpf_dir) {
        bail!(
            "programs of an earlier run with BPF are still pinned below {}: `heartline unload` as root first",
            args.bpf_dir.display()
        );
    }
    let (lease, heartbeat) = (config.timing.lease_ns, config.timing.heartbeat_ns);
    let need = socket::least_lease(heartbeat);
    if lease < need {
        let tick_us = socket::tick() / 1000;
        return Err(SocketError::Lease {
            lease_ms: lease / 1_000_000,
            need_ms: need.div_ceil(1_000_000),
            tick_us,
            heartbeat_ms: heartbeat / 1_000_000,
        }
        .into());
    }
    let mut path = SocketPath::load(&args.run_dir, || rt::now().boot)?;
    if config
        .node_by_id(me)
        .is_some_and(|n| n.role == Role::Witness)
    {
        path.set_witness();
    }
    Ok(AnyPath::Socket(path))
}

/// Has any version of the agent pinned something there?
fn has_pins(bpf_dir: &Path) -> bool {
    crate::datapath::has_pins(bpf_dir)
}
