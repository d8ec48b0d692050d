//! `heartline unload`.

use std::path::PathBuf;

use super::{Failure, Place};
use crate::{
    datapath::{
        DataPath,
        socket::{self, SocketPath},
    },
    net,
};

/// Arguments of `heartline unload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where maps and programs are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/heartline")]
    pub bpf_dir: PathBuf,
}

/// Takes everything of a stopped agent out of the kernel. While an agent runs it is refused: without the gate a VIP
/// would be open to whoever has its address.
pub(super) fn run(args: &Args, place: &Place) -> Result<(), Failure> {
    let run_dir = place.run_dir();
    let pins = args.bpf_dir.exists();
    if !pins && !socket::has_table(&run_dir) {
        println!("nothing is pinned below {}", args.bpf_dir.display());
        return Ok(());
    }
    let lock = if pins {
        crate::agent::lock(&run_dir, &args.bpf_dir)
    } else {
        crate::agent::lock_run_dir(&run_dir)
    };
    let _lock = lock.map_err(|e| {
        Failure::Refused(format!(
            "{e:#}; stop the agent first: systemctl stop heartline"
        ))
    })?;
    // An agent that was killed leaves its addresses for up to their lifetime; without a gate they would be open.
    let ours = net::list_devices()
        .map_err(|e| Failure::Refused(e.to_string()))?
        .into_iter()
        .flat_map(|d| {
            d.addresses
                .into_iter()
                .filter(|a| a.ours)
                .map(move |a| format!("{} on {}", a.address, d.name))
        })
        .collect::<Vec<_>>();
    if !ours.is_empty() {
        let text = format!(
            "VIPs are still here: {}; they go by themselves within 30 s of the agent's end",
            ours.join(", ")
        );
        return Err(Failure::Refused(text));
    }
    // Devices with a virtual MAC go before their gates: without one they would be heard.
    let devices = net::remove_leftovers().map_err(|e| Failure::Refused(e.to_string()))?;
    if !devices.is_empty() {
        println!("devices of gateway VIPs are gone: {}", devices.join(", "));
    }
    if SocketPath::unload(&run_dir) {
        println!("the nftables table `heartline` is gone");
    }
    DataPath::unload(&args.bpf_dir);
    println!(
        "programs and maps below {} are gone; the next start waits max_promise before it votes",
        args.bpf_dir.display()
    );
    Ok(())
}
