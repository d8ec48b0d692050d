//! A lab: nodes, a switch, a client and a prober, each in a network namespace of its own.
//!
//! ```text
//!   n1 eth0 ---+                        10.77.0.N   fd77::N      first network
//!   n2 eth0 ---+--- switch --- client   10.77.0.201 fd77::c9
//!   n3 eth0 ---+          `--- prober   10.77.0.202 fd77::ca
//!      eth1 ------- switch              10.77.1.N   fd77:1::N    second network, if asked for
//! ```

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    exec::run_ok,
    netns::{self, Ns},
    switch::{Port, Switch},
};

/// Every namespace of every lab begins so; the lab's process id follows.
pub const PREFIX: &str = "hl-";
/// The VIP of labs that do not say otherwise.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Its IPv6 companion.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100);

const CLIENT: u8 = 201;
const PROBER: u8 = 202;

/// What to build.
#[derive(Clone, Debug)]
pub struct LabSpec {
    /// Number of nodes, 1 to 32: `n1`, `n2` and so on.
    pub nodes: u8,
    /// Networks that each node has a link to: 1 or 2.
    pub links: u8,
}

impl Default for LabSpec {
    fn default() -> Self {
        Self { nodes: 3, links: 1 }
    }
}

/// One end of a veth pair, seen from its station.
#[derive(Clone, Debug)]
pub struct Link {
    /// Device name inside the namespace: `eth0`, `eth1`.
    pub device: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// IPv4 address, in a /24.
    pub v4: Ipv4Addr,
    /// IPv6 address, in a /64.
    pub v6: Ipv6Addr,
}

/// A node, a client or a prober.
#[derive(Clone, Debug)]
pub struct Station {
    /// `n1`, `client`, `prober`.
    pub name: String,
    /// Node id; for others the last byte of the address.
    pub id: u8,
    /// Its namespace.
    pub ns: Ns,
    /// Its links; the first is `eth0`.
    pub links: Vec<Link>,
}

impl Station {
    /// The link on the first network.
    ///
    /// # Panics
    /// Never: each station is made with one.
    #[must_use]
    pub fn eth0(&self) -> &Link {
        &self.links[0]
    }
}

/// A running lab. Everything it made is removed on drop.
#[derive(Debug)]
pub struct Lab {
    /// The nodes, in order of their ids.
    pub nodes: Vec<Station>,
    /// The client that uses the VIP as any client does.
    pub client: Station,
    /// The station of the owner prober, which no cut touches.
    pub prober: Station,
    /// The switch.
    pub switch: Switch,
    prefix: String,
    dir: Option<tempfile::TempDir>,
    names: Names,
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

impl Lab {
    /// Builds a lab; takes less than a second.
    ///
    /// # Errors
    /// Not root, or the kernel lacks something; what was made so far is removed.
    pub fn up(spec: &LabSpec) -> Result<Self> {
        if !(1..=32).contains(&spec.nodes) || !(1..=2).contains(&spec.links) {
            bail!("a lab has 1 to 32 nodes with 1 or 2 links each");
        }
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{serial}", std::process::id());
        let dir = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .tempdir()?;

        let switch_name = format!("{prefix}-sw");
        let mut who: Vec<(String, u8, u8)> = (1..=spec.nodes)
            .map(|id| (format!("n{id}"), id, spec.links))
            .collect();
        who.push(("client".into(), CLIENT, 1));
        who.push(("prober".into(), PROBER, 1));

        let mut names = vec![switch_name.clone()];
        names.extend(who.iter().map(|(name, ..)| format!("{prefix}-{name}")));
        let guard = Names(names.clone());
        Ns::create_all(&names)?;
        let switch_ns = Ns::open(&switch_name)?;
        let stations = who
            .into_iter()
            .map(|(name, id, links)| {
                let ns = Ns::open(&format!("{prefix}-{name}"))?;
                Ok(Station {
                    name,
                    id,
                    ns,
                    links: (0..links).map(|net| link(net, id)).collect(),
                })
            })
            .collect::<Result<Vec<_>>>()?;

        let ports = wire(&switch_ns, &stations, spec.links)?;
        let Some(prober) = stations.iter().find(|s| s.name == "prober").cloned() else {
            bail!("no prober")
        };
        std::thread::scope(|scope| {
            let prober = prober.eth0();
            let threads: Vec<_> = stations
                .iter()
                .map(|s| scope.spawn(move || configure(s, prober)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|t| t.join().unwrap_or_else(|_| bail!("panic")))
        })?;
        let switch = Switch::attach(&switch_ns, ports, BTreeSet::from([prober.eth0().mac]))?;
        for station in &stations {
            wait_ready(station)?;
        }

        let mut nodes = stations;
        nodes.truncate(usize::from(spec.nodes));
        let client = Station {
            name: "client".into(),
            id: CLIENT,
            ns: Ns::open(&format!("{prefix}-client"))?,
            links: vec![link(0, CLIENT)],
        };
        Ok(Self {
            nodes,
            client,
            prober,
            switch,
            prefix,
            dir: Some(dir),
            names: guard,
        })
    }

    /// The prefix of this lab's namespaces.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A folder for configs, logs and sockets, removed with the lab.
    ///
    /// # Panics
    /// After [`Lab::keep_dir`].
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir
            .as_ref()
            .expect("the folder was not given away")
            .path()
    }

    /// Keeps the folder (logs) when the lab goes, under a name that no sweep of leftovers removes;
    /// returns its path. The last thing to do with a lab: paths into the folder change.
    pub fn keep_dir(&mut self) -> Option<PathBuf> {
        let old = self.dir.take()?.keep();
        let name = old
            .file_name()?
            .to_string_lossy()
            .replacen(PREFIX, "heartline-lab-", 1);
        let new = old.with_file_name(name);
        Some(if std::fs::rename(&old, &new).is_ok() {
            new
        } else {
            old
        })
    }

    /// One more namespace that goes when the lab goes.
    pub(crate) fn adopt(&mut self, name: &str) {
        self.names.0.push(name.to_owned());
    }

    /// A node by name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Station> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .with_context(|| format!("the lab has no node {name:?}"))
    }
}

/// Addresses follow from network and id.
fn link(net: u8, id: u8) -> Link {
    Link {
        device: format!("eth{net}"),
        mac: [0x02, b'H', b'L', net, 0, id],
        v4: Ipv4Addr::new(10, 77, net, id),
        v6: Ipv6Addr::new(0xfd77, u16::from(net), 0, 0, 0, 0, 0, u16::from(id)),
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Bridges and veth pairs, made from the switch's side.
fn wire(switch: &Ns, stations: &[Station], nets: u8) -> Result<Vec<Port>> {
    switch.sysctl(&[
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
    ])?;
    let mut batch = String::new();
    for net in 0..nets {
        batch +=
            &format!("link add br{net} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n");
        batch += &format!("link set br{net} up\n");
    }
    let mut ports = Vec::new();
    for station in stations {
        for (net, link) in station.links.iter().enumerate() {
            let device = port_name(station, net);
            batch += &cable(station, net, link);
            let station = station.name.clone();
            ports.push(Port {
                station,
                link: net,
                device,
                mac: link.mac,
                ifindex: 0,
            });
        }
    }
    switch.ip(&batch)?;
    switch.tx_checksum_off(
        &ports
            .iter()
            .map(|port| port.device.clone())
            .collect::<Vec<_>>(),
    )?;
    Ok(ports)
}

/// The switch's device towards a link of a station.
pub(crate) fn port_name(station: &Station, net: usize) -> String {
    format!("{}-eth{net}", station.name)
}

/// Lines of `ip` that make one veth pair, in the switch's namespace.
pub(crate) fn cable(station: &Station, net: usize, link: &Link) -> String {
    let (port, mac) = (port_name(station, net), mac_text(link.mac));
    format!(
        "link add {port} type veth peer name {} address {mac} netns {}\n\
         link set {port} master br{net} up\n",
        link.device,
        station.ns.name()
    )
}

/// Lines of `ip` that give a link its addresses, in the station's namespace.
pub(crate) fn addresses(station: &Station, link: &Link, prober: &Link) -> String {
    let Link { device, v4, v6, .. } = link;
    let mut batch = format!("link set {device} up\n");
    batch += &format!("address add {v4}/24 broadcast + dev {device}\n");
    batch += &format!("address add {v6}/64 dev {device} nodad\n");
    // Nodes answer the prober without asking for its address: a node that is cut off could not.
    if station.id <= 32 && device == "eth0" {
        let mac = mac_text(prober.mac);
        for address in [prober.v4.to_string(), prober.v6.to_string()] {
            batch += &format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent\n");
        }
    }
    batch
}

/// Addresses and settings of one station.
fn configure(station: &Station, prober: &Link) -> Result<()> {
    let mut settings = Vec::new();
    let confs: Vec<String> = ["all", "default"]
        .into_iter()
        .chain(station.links.iter().map(|link| link.device.as_str()))
        .map(|device| format!("net/ipv6/conf/{device}"))
        .collect();
    for conf in &confs {
        settings.push((format!("{conf}/accept_dad"), "0"));
        settings.push((format!("{conf}/accept_ra"), "0"));
    }
    let settings: Vec<_> = settings
        .iter()
        .map(|(key, value)| (key.as_str(), *value))
        .collect();
    station.ns.sysctl(&settings)?;

    let mut batch = String::from("link set lo up\n");
    for link in &station.links {
        batch += &addresses(station, link, prober);
    }
    station.ns.ip(&batch)?;
    let devices: Vec<_> = station
        .links
        .iter()
        .map(|link| link.device.clone())
        .collect();
    station.ns.tx_checksum_off(&devices)
}

/// Waits until no address is tentative and each device has its carrier.
pub(crate) fn wait_ready(station: &Station) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let mut command = std::process::Command::new("ip");
        command.args([
            "-n",
            station.ns.name(),
            "-o",
            "address",
            "show",
            "tentative",
        ]);
        let tentative = run_ok(command, "", Duration::from_secs(5))?;
        let carriers = station.ns.run(|| {
            let up = |link: &Link| carrier(&link.device);
            Ok(station.links.iter().all(up))
        })?;
        if tentative.trim().is_empty() && carriers {
            return Ok(());
        }
        if Instant::now() > end {
            bail!(
                "{} is not ready after 5 s: carrier {carriers}, tentative: {tentative}",
                station.name
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a device of this thread's namespace has its carrier (`IFF_RUNNING`).
fn carrier(device: &str) -> bool {
    nix::ifaddrs::getifaddrs().is_ok_and(|list| {
        list.into_iter().any(|entry| {
            entry.interface_name == device
                && entry
                    .flags
                    .contains(nix::net::if_::InterfaceFlags::IFF_RUNNING)
        })
    })
}
