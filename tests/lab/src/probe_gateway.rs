//! A host on the second network, and a prober of who routes to it: every 2 ms an echo request for that host in a frame to
//! the virtual MAC, put into the port of every node at once. Who passes it on is the gateway, whatever the agents believe.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{MsgFlags, recv, send};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet,
        Ipv4Repr,
    },
};

use crate::{
    clock::boot_ns,
    echo,
    lab::{Lab, Link, Station, VIP4, VIP6},
    netns::{self, Ns},
    ownership::{Ownership, Round},
    probe_owner::open,
};

const ID: u8 = 203;
const FRAME_LEN: usize = 14 + 20 + echo::ECHO_LEN;

/// A host on the second network, whose default gateway is a VIP there. It has the prober's hardware address, so that no
/// cut keeps a frame from it.
#[derive(Debug)]
pub struct Far {
    /// The host.
    pub station: Station,
    _name: Name,
}

#[derive(Debug)]
struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        if let Err(error) = netns::delete(std::slice::from_ref(&self.0)) {
            eprintln!("lab: {error:#}");
        }
    }
}

impl Far {
    /// Adds the host to a lab with two networks, makes routers of the nodes, and gives client and host their gateways.
    ///
    /// # Errors
    /// `ip` refuses.
    pub fn up(lab: &Lab, gateway4: Ipv4Addr, gateway6: Ipv6Addr) -> Result<Self> {
        let name = format!("{}-far", lab.prefix());
        Ns::create_all(std::slice::from_ref(&name))?;
        let guard = Name(name.clone());
        let station = Station {
            name: "far".into(),
            id: ID,
            ns: Ns::open(&name)?,
            links: vec![Link {
                device: "eth0".into(),
                mac: lab.prober.eth0().mac,
                v4: Ipv4Addr::new(10, 77, 1, ID),
                v6: Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, u16::from(ID)),
            }],
        };
        let Link { mac, v4, v6, .. } = station.eth0();
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        lab.switch.ns.ip(&format!(
            "link add far type veth peer name eth0 address {mac} netns {name}\nlink set far master br1 up\n"
        ))?;
        station.ns.ip(&format!(
            "link set lo up\nlink set eth0 up\naddress add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\n\
             route add default via {gateway4}\nroute add default via {gateway6}\n"
        ))?;
        station.ns.tx_checksum_off(&["eth0".into()])?;
        for node in &lab.nodes {
            node.ns.sysctl(&[
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
            ])?;
            // A node that is cut off could not ask for it.
            // Without its gate yet, a router would pass the owner prober's questions on to whoever has the VIP.
            node.ns.ip(&format!(
                "route add blackhole {VIP4}\nroute add blackhole {VIP6}\n\
                 neigh replace {v4} lladdr {mac} dev eth1 nud permanent\n\
                 neigh replace {v6} lladdr {mac} dev eth1 nud permanent\n"
            ))?;
        }
        lab.client.ns.ip(&format!(
            "route add default via {VIP4}\nroute add default via {VIP6}\n"
        ))?;
        Ok(Self {
            station,
            _name: guard,
        })
    }
}

#[derive(Debug, Default)]
struct Record {
    rounds: Mutex<Vec<Round>>,
    liars: AtomicU64,
    stop: AtomicBool,
}

/// A running prober; stops on drop.
#[derive(Debug)]
pub struct GatewayProber {
    record: Arc<Record>,
    interval: u64,
    thread: Option<JoinHandle<()>>,
}

struct Work {
    ports: Vec<OwnedFd>,
    macs: Vec<[u8; 6]>,
    far: OwnedFd,
    client: OwnedFd,
    from: Link,
    to: Ipv4Addr,
    vmac: [u8; 6],
    interval: u64,
    record: Arc<Record>,
}

impl GatewayProber {
    /// Starts asking.
    ///
    /// # Errors
    /// A socket is refused.
    pub fn start(lab: &Lab, far: &Far, vmac: [u8; 6], interval: Duration) -> Result<Self> {
        let ports = lab.switch.ns.run(|| {
            let port = |node: &Station| open(&format!("{}-eth0", node.name), libc::ETH_P_LOOPBACK);
            lab.nodes.iter().map(port).collect::<Result<Vec<_>>>()
        })?;
        let record = Arc::new(Record::default());
        let work = Work {
            ports,
            macs: lab
                .nodes
                .iter()
                .map(|node| {
                    node.links
                        .get(1)
                        .map(|link| link.mac)
                        .context("a second link")
                })
                .collect::<Result<_>>()?,
            far: far.station.ns.run(|| open("eth0", libc::ETH_P_IP))?,
            client: lab.client.ns.run(|| open("eth0", libc::ETH_P_ALL))?,
            from: lab.prober.eth0().clone(),
            to: far.station.eth0().v4,
            vmac,
            interval: interval.as_nanos() as u64,
            record: Arc::clone(&record),
        };
        let interval = work.interval;
        let thread = std::thread::Builder::new()
            .name("gateway-prober".into())
            .spawn(move || work.run())?;
        Ok(Self {
            record,
            interval,
            thread: Some(thread),
        })
    }

    /// Who was the gateway in all this time.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        let rounds = self
            .record
            .rounds
            .lock()
            .map(|r| r.clone())
            .unwrap_or_default();
        Ownership::of(&rounds, self.interval)
    }

    /// Frames that told the client another hardware address of a gateway VIP than the virtual one.
    #[must_use]
    pub fn liars(&self) -> u64 {
        self.record.liars.load(Ordering::Relaxed)
    }
}

impl Drop for GatewayProber {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&self) {
        let ident = (std::process::id() & 0xffff) as u16 ^ 0x3c3c;
        let mut buffer = [0; 2048];
        let mut due = boot_ns();
        while !self.record.stop.load(Ordering::Relaxed) {
            let now = boot_ns();
            if now >= due {
                let Ok(mut rounds) = self.record.rounds.lock() else {
                    return;
                };
                let number = rounds.len();
                let bytes = self.frame(ident, number as u64);
                rounds.push(Round {
                    sent: boot_ns(),
                    answered: vec![None; self.ports.len()],
                });
                drop(rounds);
                for turn in 0..self.ports.len() {
                    if let Some(port) = self.ports.get((number + turn) % self.ports.len()) {
                        let _ = send(port.as_raw_fd(), &bytes, MsgFlags::empty());
                    }
                }
                due = (due + self.interval).max(now);
            }
            while let Ok(length) = recv(self.far.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                let at = boot_ns();
                let Some((source, number)) = self.passed(buffer.get(..length), ident) else {
                    continue;
                };
                let Ok(mut rounds) = self.record.rounds.lock() else {
                    return;
                };
                let node = self.macs.iter().position(|mac| *mac == source);
                let round = usize::try_from(number).ok().and_then(|n| rounds.get_mut(n));
                if let (Some(node), Some(round)) = (node, round)
                    && let Some(slot) = round.answered.get_mut(node)
                {
                    slot.get_or_insert(at);
                }
            }
            while let Ok(length) = recv(self.client.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                if self.is_lie(buffer.get(..length).unwrap_or_default()) {
                    self.record.liars.fetch_add(1, Ordering::Relaxed);
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn frame(&self, ident: u16, number: u64) -> [u8; FRAME_LEN] {
        let mut bytes = [0; FRAME_LEN];
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(self.from.mac),
            dst_addr: EthernetAddress(self.vmac),
            ethertype: EthernetProtocol::Ipv4,
        };
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
        let ip = Ipv4Repr {
            src_addr: self.from.v4,
            dst_addr: self.to,
            next_header: IpProtocol::Icmp,
            payload_len: echo::ECHO_LEN,
            hop_limit: 64,
        };
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[14..]);
        ip.emit(&mut packet, &ChecksumCapabilities::default());
        let mut request = [0; echo::ECHO_LEN];
        echo::request_v4(&mut request, ident, number);
        packet.payload_mut().copy_from_slice(&request);
        bytes
    }

    /// Which router sent one of our requests on, and its number.
    fn passed(&self, bytes: Option<&[u8]>, ident: u16) -> Option<([u8; 6], u64)> {
        let frame = EthernetFrame::new_checked(bytes?).ok()?;
        let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
        if packet.src_addr() != self.from.v4 || packet.next_header() != IpProtocol::Icmp {
            return None;
        }
        // Our own echo requests: as they were sent, but not echo replies.
        let message = packet.payload();
        let [8, _, _, _, a, b, ..] = *message else {
            return None;
        };
        let number = echo::index(message.get(8..)?)?;
        ([a, b] == ident.to_be_bytes()).then_some((frame.src_addr().0, number))
    }

    /// ARP or a neighbour advertisement that gives a gateway VIP another MAC.
    fn is_lie(&self, bytes: &[u8]) -> bool {
        let at = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
        let sender = at(6, 12);
        match at(12, 14) {
            [8, 6] => {
                at(28, 32) == VIP4.octets() && (at(22, 28) != self.vmac || sender != self.vmac)
            }
            [0x86, 0xdd] if at(20, 21) == [58] && at(54, 55) == [136] => {
                at(62, 78) == VIP6.octets() && (at(80, 86) != self.vmac || sender != self.vmac)
            }
            _ => false,
        }
    }
}
