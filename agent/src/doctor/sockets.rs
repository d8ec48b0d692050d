//! The data path without BPF: whether this machine can keep its gate, and what it promises less.

use std::path::PathBuf;

use super::{Finding, Level, Machine, system};
use crate::{
    config::{Config, Datapath},
    datapath::socket,
};

/// First kernel whose nftables sees what leaves a device (family netdev, hook egress).
const KERNEL_EGRESS: (u32, u32) = (5, 16);
/// Findings that are about BPF alone.
const BPF: [&str; 3] = ["bpf file system", "btf", "bpf jit"];

/// Fits what was found to the data path: without BPF its lacks do not matter, and with "auto" they are no end.
pub(super) fn without_bpf(machine: &Machine, config: &Config, all: &mut Vec<Finding>) {
    let needed = match config.datapath {
        Datapath::Native | Datapath::Generic => return,
        Datapath::Socket => {
            all.retain(|f| !BPF.contains(&f.what.as_str()) && !is_bpf_right(f));
            true
        }
        Datapath::Auto => {
            let mut lacks = false;
            for f in all.iter_mut().filter(|f| {
                f.level == Level::Bad && (BPF.contains(&f.what.as_str()) || is_bpf_right(f))
            }) {
                lacks = true;
                f.level = Level::Warn;
                f.found += "; datapath \"auto\" falls back to plain sockets and nftables";
            }
            lacks
        }
    };
    if needed {
        all.extend(of(machine, config, socket::nft_program(), socket::tick()));
    }
}

/// Only the right to load programs is missing.
fn is_bpf_right(f: &Finding) -> bool {
    let names: Vec<_> = f.found.matches("CAP_").collect();
    let bpf = f.found.matches("CAP_BPF").count() + f.found.matches("CAP_PERFMON").count();
    f.what == "capabilities" && bpf > 0 && bpf == names.len()
}

/// The findings, given where `nft` is and the kernel's tick, ns.
pub(super) fn of(
    machine: &Machine,
    config: &Config,
    nft: Option<PathBuf>,
    tick: u64,
) -> Vec<Finding> {
    vec![
        program(nft),
        hook(machine),
        lease(config, tick),
        Finding::warn(
            "sockets: firewall",
            format!(
                "heartbeats go the way of other packets: UDP port {} must be let in and out",
                config.port
            ),
            "allow it between the nodes in this machine's firewall",
        ),
        Finding::warn(
            "sockets: promises",
            "less than with BPF: a frozen agent has no vote; suspend, and ticks that come late, keep the gate open for longer; \
             `nft flush ruleset` opens it until the agent has put it back",
            "use BPF where you can; do not flush the ruleset while a node owns a group",
        ),
    ]
}

fn program(nft: Option<PathBuf>) -> Finding {
    let what = "sockets: nft";
    match nft {
        Some(path) => Finding::ok(what, path.display().to_string()),
        None => Finding::bad(
            what,
            "there is no nft program, and without it there is no gate: the agent does not start",
            "`apt-get install nftables`",
        ),
    }
}

fn hook(machine: &Machine) -> Finding {
    let what = "sockets: kernel";
    let release = machine
        .read("proc/sys/kernel/osrelease")
        .unwrap_or_default();
    match system::version(&release) {
        Some(v) if v >= KERNEL_EGRESS => {
            Finding::ok(what, "nftables sees what devices receive and send")
        }
        Some(_) => Finding::bad(
            what,
            format!("{release}: its nftables does not see what a device sends"),
            "use Linux 5.16 or newer",
        ),
        None => Finding::warn(what, "its version cannot be read", "mount /proc"),
    }
}

/// How much of the lease is left for the gate.
fn lease(config: &Config, tick: u64) -> Finding {
    let what = "sockets: lease";
    let ms = |ns: u64| ns / 1_000_000;
    let (lease, beat) = (config.timing.lease_ns, config.timing.heartbeat_ns);
    let left = lease.saturating_sub(socket::loss(tick));
    let found = format!(
        "the gate shuts {} ms after it was last renewed, with heartbeats each {} ms (lease {} ms, kernel tick {} ms)",
        ms(left),
        ms(beat),
        ms(lease),
        ms(tick)
    );
    let mend = "use profile \"wan\", or a longer `takeover`, on all nodes";
    if left < beat + tick {
        return Finding::bad(
            what,
            format!("{found}: too short, the agent does not start"),
            mend,
        );
    }
    if left < 3 * beat {
        return Finding::warn(
            what,
            format!("{found}: one lost heartbeat may stop VIP traffic for a moment"),
            mend,
        );
    }
    Finding::ok(what, found)
}
