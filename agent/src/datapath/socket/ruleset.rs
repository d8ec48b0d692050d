//! The ruleset, as text for the `nft` program: run at start and when a device appears, never on the way to a takeover.
//!
//! Family netdev, because it sees what XDP and TC see: ARP, IPv4 and IPv6, both ways, before routing and before other
//! firewalls (ingress since kernel 4.2, egress since 5.16).

use std::{
    io::{Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{SocketError, message::TABLE};

/// How long `nft` may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where `nft` is looked for: an agent that a service manager starts may have no search path.
const PLACES: [&str; 4] = [
    "/usr/sbin/nft",
    "/sbin/nft",
    "/usr/bin/nft",
    "/usr/local/sbin/nft",
];

/// The chains that all devices share, with their rules. What is no VIP falls through.
const SHARED: [(&str, &[&str]); 3] = [
    ("leased", &["meta protocol @lease accept", "counter drop"]),
    (
        "into",
        &[
            // The kernel takes one tag off before this hook, and more tags behind it, if the VLAN id is 0
            // (__netif_receive_skb_core): such a frame would arrive unseen. Nobody sends one.
            "meta protocol { 0x8100, 0x88a8 } @ll,116,12 0 counter drop",
            // A gratuitous ARP tells of somebody else: a standby is a client of the VIP and must learn where it went.
            "arp saddr ip . arp daddr ip @self4 accept",
            "arp daddr ip @vips4 arp daddr ip != @open4 counter drop",
            "ip daddr @vips4 ip daddr != @open4 counter drop",
            "ip6 daddr @vips6 ip6 daddr != @open6 counter drop",
            "icmpv6 type nd-neighbor-solicit @th,64,128 @target6 @th,64,128 != @otarget6 counter drop",
            "arp daddr ip @vips4 goto leased",
            "ip daddr @vips4 goto leased",
            "ip6 daddr @vips6 goto leased",
            "icmpv6 type nd-neighbor-solicit @th,64,128 @target6 goto leased",
        ],
    ),
    (
        "from",
        &[
            "arp saddr ip @vips4 arp saddr ip != @open4 counter drop",
            "ip saddr @vips4 ip saddr != @open4 counter drop",
            "ip6 saddr @vips6 ip6 saddr != @open6 counter drop",
            "icmpv6 type nd-neighbor-advert @th,64,128 @target6 @th,64,128 != @otarget6 counter drop",
            "arp saddr ip @vips4 goto leased",
            "ip saddr @vips4 goto leased",
            "ip6 saddr @vips6 goto leased",
            "icmpv6 type nd-neighbor-advert @th,64,128 @target6 goto leased",
        ],
    ),
];

/// Sets, and the type of their keys.
const SETS: [(&str, &str); 9] = [
    ("vips4", "type ipv4_addr"),
    ("vips6", "type ipv6_addr"),
    // Old versions of nft have no name for the target of a neighbour solicitation.
    ("target6", "typeof @th,64,128"),
    ("self4", "type ipv4_addr . ipv4_addr"),
    ("open4", "type ipv4_addr"),
    ("open6", "type ipv6_addr"),
    ("otarget6", "typeof @th,64,128"),
    ("lease", "type ether_type; flags timeout"),
    ("fuse", "type mark; flags timeout"),
];

/// Rules that a whole gate has on a device: those of the chains, and the two jumps to them.
pub fn rules_of(chain: &str) -> usize {
    let shared = SHARED.iter().find(|(name, _)| *name == chain);
    shared.map_or(1, |(_, rules)| rules.len())
}

/// Names of the chains that all devices share.
pub fn shared_chains() -> impl Iterator<Item = &'static str> {
    SHARED.iter().map(|(name, _)| *name)
}

/// Table, sets and shared chains; what is there already stays, elements too.
pub fn base() -> String {
    let mut text = format!("add table netdev {TABLE}\n");
    for (name, kind) in SETS {
        text += &format!("add set netdev {TABLE} {name} {{ {kind}; }}\n");
    }
    for (name, _) in SHARED {
        text += &format!("add chain netdev {TABLE} {name}\nflush chain netdev {TABLE} {name}\n");
    }
    for (name, rules) in SHARED {
        for rule in rules {
            text += &format!("add rule netdev {TABLE} {name} {rule}\n");
        }
    }
    text
}

/// The two chains of a device.
pub fn chains_of(ifindex: u32) -> [String; 2] {
    [format!("in_{ifindex}"), format!("out_{ifindex}")]
}

/// The chains of a device; None if its name cannot be said to `nft`.
pub fn device(name: &str, ifindex: u32) -> Option<String> {
    if name.contains(['"', '\\', '\n', '*']) || name.chars().any(char::is_control) {
        return None;
    }
    let mut text = String::new();
    for (chain, (hook, to)) in chains_of(ifindex)
        .iter()
        .zip([("ingress", "into"), ("egress", "from")])
    {
        text += &format!(
            "add chain netdev {TABLE} {chain} {{ type filter hook {hook} device \"{name}\" priority -500; policy accept; }}\n\
             flush chain netdev {TABLE} {chain}\n\
             add rule netdev {TABLE} {chain} jump {to}\n"
        );
    }
    Some(text)
}

/// Takes the chains of a device out.
pub fn remove_device(ifindex: u32) -> String {
    let mut text = String::new();
    for chain in chains_of(ifindex) {
        // Added first, so that it is no error if it went with its device.
        text += &format!(
            "add chain netdev {TABLE} {chain}\nflush chain netdev {TABLE} {chain}\ndelete chain netdev {TABLE} {chain}\n"
        );
    }
    text
}

/// Takes everything out.
pub fn remove() -> String {
    format!("add table netdev {TABLE}\ndelete table netdev {TABLE}\n")
}

/// The `nft` program, if it is there.
pub fn program() -> Option<PathBuf> {
    PLACES
        .iter()
        .map(Path::new)
        .find(|p| p.is_file())
        .map(Path::to_owned)
}

/// Lets `nft` apply a ruleset, all or nothing.
///
/// # Errors
/// `nft` is missing, refuses, or takes too long.
pub fn apply(text: &str) -> Result<(), SocketError> {
    let failed = |e: std::io::Error| SocketError::Nft(e.to_string());
    let program = program().ok_or(SocketError::NoNft)?;
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // A few KiB: they fit into the pipe whatever nft does.
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(text.as_bytes()).map_err(failed)?;
    }
    let said = match child.stderr.take() {
        Some(pipe) => read_to_end(pipe).map_err(failed)?,
        None => Some(String::new()),
    };
    if said.is_none() {
        let _ = child.kill();
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "it has closed its output, or was killed"
    )]
    let status = child.wait().map_err(failed)?;
    let Some(said) = said else {
        return Err(SocketError::Nft(format!("no end after {DEADLINE:?}")));
    };
    if status.success() {
        return Ok(());
    }
    Err(SocketError::Nft(said.trim().replace('\n', "; ")))
}

/// What a child says until it ends; None: it has not ended in time.
fn read_to_end(mut pipe: ChildStderr) -> std::io::Result<Option<String>> {
    let late = Instant::now() + DEADLINE;
    let mut all = Vec::new();
    loop {
        let left = late.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], left)? == 0 {
            return Ok(None);
        }
        let mut some = [0; 1024];
        let n = pipe.read(&mut some)?;
        if n == 0 {
            return Ok(Some(String::from_utf8_lossy(&all).into_owned()));
        }
        // It may say as much as it likes; this much is shown.
        if all.len() < 2000 {
            all.extend_from_slice(&some[..n]);
        }
    }
}
