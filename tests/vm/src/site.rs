//! The place: guests, a client and perhaps a witness on two networks, which can be cut without a sound.
//!
//! ```text
//!   n1 eth0 --tap--+                       10.77.0.N    front: clients, VIPs, heartbeats
//!   n2 eth0 --tap--+--- bridge (client)    10.77.0.201
//!   w3 eth0 -veth--+
//!      eth1 ---------- bridge (client)     10.77.1.N    back: replication, heartbeats
//! ```
//!
//! Cuts are nftables rules on the bridges: no device loses carrier, as when a switch in between fails.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use heartline_lab::{
    Link, Station, exec,
    lab::PREFIX,
    netns::{self, Ns},
};

use crate::{
    guest::{Guest, Spec},
    image, payload,
};

/// The VIP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// The client, on the front network (and .1.201 on the other).
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 201);
/// Front and back.
pub const NETS: u8 = 2;
const DEADLINE: Duration = Duration::from_secs(20);
const SETUP: Duration = Duration::from_secs(60);

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Guests `n1`, `n2` and so on: 1 to 3, the machine is shared.
    pub guests: u8,
    /// Memory of each, MiB.
    pub memory: u32,
    /// Disk of each, MiB; sparse.
    pub disk: u64,
    /// One more station with the next number, for a witness in a namespace.
    pub witness: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            guests: 2,
            memory: 320,
            disk: 96,
            witness: true,
        }
    }
}

/// What does not get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Heartbeats between this node and all others (UDP port 4747); all else passes.
    Heartbeats(String),
    /// The back network between these two.
    Back(String, String),
    /// Every frame of this node, on both networks, the client's too.
    All(String),
}

/// A running place. Everything that it made is removed on drop.
#[derive(Debug)]
pub struct Site {
    /// The guests, in order. Dropped first.
    pub guests: Vec<Guest>,
    /// Where the client lives.
    pub ns: Ns,
    /// Where the witness lives.
    pub witness: Option<Station>,
    cuts: Vec<Cut>,
    prefix: String,
    dir: Option<tempfile::TempDir>,
    _names: Names,
}

/// The namespaces, removed on drop, whatever happened in between.
#[derive(Debug)]
struct Names(Vec<String>);

impl Drop for Names {
    fn drop(&mut self) {
        if let Err(error) = netns::delete(&self.0) {
            eprintln!("lab: {error:#}");
        }
    }
}

impl Site {
    /// Builds the place; the guests are on and up when it returns.
    ///
    /// # Errors
    /// Not root, or something is missing or does not start; what was made so far is removed.
    pub fn up(plan: Plan) -> Result<Self> {
        let mut site = Self::prepared(plan)?;
        site.guests.iter_mut().try_for_each(Guest::start)?;
        for id in 0..site.guests.len() {
            site.settle(id)?;
        }
        Ok(site)
    }

    /// As [`Site::up`], with all guests off.
    ///
    /// # Errors
    /// As there.
    pub fn prepared(plan: Plan) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        if !(1..=3).contains(&plan.guests) {
            bail!("a place has 1 to 3 guests");
        }
        let image = image::ensure(false)?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{serial}", std::process::id());
        let dir = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .tempdir()?;
        let payload = payload::make(dir.path())?;

        let own = format!("{prefix}-vm");
        let mut all = vec![own.clone()];
        let witness = plan.witness.then(|| format!("w{}", plan.guests + 1));
        all.extend(witness.iter().map(|name| format!("{prefix}-{name}")));
        let names = Names(all.clone());
        Ns::create_all(&all)?;
        let ns = Ns::open(&own)?;
        ns.ip(&bridges(plan))?;
        let witness = witness
            .map(|name| station(&ns, &prefix, &name, plan.guests + 1))
            .transpose()?;

        let guests = (1..=plan.guests)
            .map(|id| {
                let name = format!("n{id}");
                let disk = dir.path().join(format!("{name}.disk"));
                File::create(&disk)?.set_len(plan.disk << 20)?;
                let spec = Spec {
                    taps: (0..NETS).map(|net| tap(&name, net)).collect(),
                    id,
                    memory: plan.memory,
                    dir: dir.path().to_owned(),
                    payload: payload.clone(),
                    disk,
                    name,
                };
                Ok(Guest::new(spec, &image, &ns))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            guests,
            ns,
            witness,
            cuts: Vec::new(),
            prefix,
            dir: Some(dir),
            _names: names,
        })
    }

    /// Waits until a guest that was started is up, and gives it its addresses.
    ///
    /// # Errors
    /// It is not up in time.
    pub fn settle(&mut self, index: usize) -> Result<()> {
        let guest = self.guests.get_mut(index).context("no such guest")?;
        guest.booted()?;
        let id = guest.spec.id;
        let mut script = String::from("set -e\n");
        for net in 0..NETS {
            script +=
                &format!("ip addr add 10.77.{net}.{id}/24 dev eth{net}\nip link set eth{net} up\n");
        }
        guest.sh(&script, SETUP).map(drop)
    }

    /// A guest by name.
    ///
    /// # Errors
    /// There is none.
    pub fn guest(&mut self, name: &str) -> Result<&mut Guest> {
        let mut guests = self.guests.iter_mut();
        guests
            .find(|guest| guest.spec.name == name)
            .with_context(|| format!("no guest {name:?}"))
    }

    /// Switches a guest on that is off, waits until it is up, and gives it its addresses.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(&mut self, name: &str) -> Result<()> {
        self.guest(name)?.start()?;
        let place = self.guests.iter().position(|guest| guest.spec.name == name);
        self.settle(place.context("no such guest")?)
    }

    /// Its folder: disks, consoles, logs.
    ///
    /// # Panics
    /// After [`Site::keep_dir`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir
            .as_ref()
            .expect("the folder was not given away")
            .path()
    }

    /// The beginning of the names of all that it makes.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Cuts, in addition to what is cut already.
    ///
    /// # Errors
    /// nft is missing or refuses.
    pub fn cut(&mut self, cut: Cut) -> Result<()> {
        self.cuts.push(cut);
        self.apply()
    }

    /// Heals all cuts.
    ///
    /// # Errors
    /// As for [`Site::cut`].
    pub fn heal(&mut self) -> Result<()> {
        self.cuts.clear();
        self.apply()
    }

    fn apply(&self) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        self.ns.apply(&mut command);
        exec::run_ok(command, &rules(&self.cuts), DEADLINE)
            .map(drop)
            .context("cutting (package nftables)")
    }

    /// Keeps consoles and logs when the place goes (disks and sockets are removed), under a name that no sweep of
    /// leftovers removes; returns where. The guests end with it.
    pub fn keep_dir(&mut self) -> Option<PathBuf> {
        self.guests.clear();
        let old = self.dir.take()?.keep();
        for entry in fs::read_dir(&old).ok()?.filter_map(Result::ok) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".disk") || name.ends_with(".ext4") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let name = old
            .file_name()?
            .to_string_lossy()
            .replacen(PREFIX, "heartline-vm-", 1);
        let new = old.with_file_name(name);
        Some(if fs::rename(&old, &new).is_ok() {
            new
        } else {
            old
        })
    }
}

fn tap(name: &str, net: u8) -> String {
    format!("{name}e{net}")
}

fn bridges(plan: Plan) -> String {
    let mut text = String::from("link set lo up\n");
    for net in 0..NETS {
        text += &format!(
            "link add br{net} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             addr add 10.77.{net}.201/24 dev br{net}\nlink set br{net} up\n"
        );
        for id in 1..=plan.guests {
            let tap = tap(&format!("n{id}"), net);
            text += &format!("tuntap add {tap} mode tap\nlink set {tap} master br{net} up\n");
        }
    }
    text
}

/// A namespace beside the guests, wired to both networks.
fn station(ns: &Ns, prefix: &str, name: &str, id: u8) -> Result<Station> {
    let own = Ns::open(&format!("{prefix}-{name}"))?;
    let mut outside = String::new();
    let mut inside = String::from("link set lo up\n");
    let mut links = Vec::new();
    for net in 0..NETS {
        let port = tap(name, net);
        outside += &format!(
            "link add {port} type veth peer name eth{net} netns {}\nlink set {port} master br{net} up\n",
            own.name()
        );
        inside += &format!("addr add 10.77.{net}.{id}/24 dev eth{net}\nlink set eth{net} up\n");
        links.push(Link {
            device: format!("eth{net}"),
            mac: [0x02, b'H', b'L', net, 1, id],
            v4: Ipv4Addr::new(10, 77, net, id),
            v6: std::net::Ipv6Addr::UNSPECIFIED,
        });
    }
    ns.ip(&outside)?;
    own.ip(&inside)?;
    // A bounced frame would keep its unfinished checksum.
    let devices: Vec<_> = links.iter().map(|link| link.device.clone()).collect();
    own.tx_checksum_off(&devices)?;
    ns.tx_checksum_off(&(0..NETS).map(|net| tap(name, net)).collect::<Vec<_>>())?;
    Ok(Station {
        name: name.to_owned(),
        id,
        ns: own,
        links,
    })
}

/// The whole ruleset for these cuts; nothing is left of the one before.
fn rules(cuts: &[Cut]) -> String {
    let mut text = String::from("flush ruleset\ntable bridge cut {\n");
    for hook in ["forward", "input", "output"] {
        text += &format!("chain {hook} {{ type filter hook {hook} priority 0; policy accept;\n");
        for cut in cuts {
            for net in 0..NETS {
                match cut {
                    Cut::Heartbeats(node) if hook == "forward" => {
                        let tap = tap(node, net);
                        for side in ["iifname", "oifname"] {
                            for port in ["sport", "dport"] {
                                text += &format!("{side} {tap} udp {port} 4747 drop\n");
                            }
                        }
                    }
                    Cut::Back(one, other) if hook == "forward" && net == 1 => {
                        let (one, other) = (tap(one, net), tap(other, net));
                        text += &format!(
                            "iifname {one} oifname {other} drop\niifname {other} oifname {one} drop\n"
                        );
                    }
                    Cut::All(node) => {
                        let tap = tap(node, net);
                        if hook != "output" {
                            text += &format!("iifname {tap} drop\n");
                        }
                        if hook != "input" {
                            text += &format!("oifname {tap} drop\n");
                        }
                    }
                    Cut::Heartbeats(_) | Cut::Back(..) => {}
                }
            }
        }
        text += "}\n";
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_names_both_directions_of_its_devices_alone() {
        assert!(!rules(&[]).contains("drop"));
        let back = rules(&[Cut::Back("n1".into(), "n2".into())]);
        assert!(back.contains("iifname n1e1 oifname n2e1 drop"), "{back}");
        assert!(back.contains("iifname n2e1 oifname n1e1 drop"), "{back}");
        assert!(!back.contains("e0"), "{back}");
        let all = rules(&[Cut::All("n1".into())]);
        // Forwarded both ways, to the client and from it, on both networks.
        assert_eq!(all.matches("drop").count(), 8, "{all}");
        assert!(!all.contains("n2"), "{all}");
    }
}
