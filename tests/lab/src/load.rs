//! `heartline-lab load DEV`: the real programs on a device of your choice, and what they count.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use heartline::datapath::{DataPath, Identity, XdpKind};

use crate::{agent::ensure_bpffs, clock::boot_ns, interrupt, netns::Ns, paint::Paint};

/// Loads the programs on a device (of a namespace), prints the counters each second until Ctrl-C
/// or until `seconds` have passed, and takes the programs off again.
///
/// With no VIP known the gate lets everything pass.
///
/// # Errors
/// No such device, or the kernel refuses.
pub fn run(device: &str, netns: Option<&str>, seconds: Option<u64>) -> Result<()> {
    let work = || watch(device, seconds);
    match netns {
        Some(name) => Ns::open(name)?.run(work),
        None => work(),
    }
}

/// Pins of this run; everything is taken off when it is dropped.
struct Loaded(PathBuf);

impl Drop for Loaded {
    fn drop(&mut self) {
        DataPath::unload(&self.0);
    }
}

fn watch(device: &str, seconds: Option<u64>) -> Result<()> {
    let paint = Paint::for_stdout();
    ensure_bpffs()?;
    let ifindex =
        nix::net::if_::if_nametoindex(device).with_context(|| format!("no device {device:?}"))?;
    let folder = PathBuf::from(format!("/sys/fs/bpf/heartline-load-{}", std::process::id()));
    let loaded = Loaded(folder);
    // A key that nobody has: heartbeats of a running cluster are counted as forged, never answered.
    let mut key = [0; 16];
    fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut key))?;
    let mut path = DataPath::load(&loaded.0, key)?;
    let identity = Identity {
        id: 1,
        cluster: 0,
        generation: 1,
        digest: 0,
        port: 4747,
        max_promise_ns: 10_000_000_000,
        voters: 1,
    };
    path.identify(&identity, boot_ns(), boot_ns());
    let coverage = path.cover(device, ifindex, &[XdpKind::Native, XdpKind::Generic])?;
    println!(
        "{} on {device}: XDP {:?}, egress {:?}",
        paint.bold("loaded"),
        coverage.xdp,
        coverage.egress
    );
    println!(
        "{}",
        paint.dim("counters that moved, each second; Ctrl-C ends")
    );
    let mut before = path.counters();
    for second in 1..=seconds.unwrap_or(u64::MAX) {
        let stopped = interrupt::pass(Duration::from_secs(1)).is_err();
        let now = path.counters();
        let old = |name: &str| {
            before
                .iter()
                .find(|(n, _)| *n == name)
                .map_or(0, |(_, v)| *v)
        };
        let moved: Vec<_> = now
            .iter()
            .filter(|(name, value)| *value != old(name))
            .map(|(name, value)| format!("{name} {value} ({:+})", value - old(name)))
            .collect();
        let text = if moved.is_empty() {
            paint.dim("nothing")
        } else {
            moved.join(", ")
        };
        println!("{second:>4} s  {text}");
        before = now;
        if stopped || path.is_covered(ifindex).is_none() {
            break;
        }
    }
    let all: Vec<_> = before
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    println!("{} {}", paint.bold("in all:"), all.join(", "));
    drop(path);
    drop(loaded);
    println!("taken off {device}");
    Ok(())
}
