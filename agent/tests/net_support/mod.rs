//! A network namespace of its own for each test, with a veth pair `hl0` (the node) and `hl1` (the
//! wire's other end, where frames are read). It has no name and dies with the test's thread.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use heartline::net::{
    Device, NetCommand, NetConfig, NetControl, NetEvent, NetGroup, NetHandle, NetVip, Start,
    list_devices, spawn,
};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike, bind, socket,
};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr,
    Ipv6Packet, Ipv6Repr, NdiscRepr,
};

/// Longest wait for anything; only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` in a thread with a network namespace of its own.
pub fn lab(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes a network namespace: run it as root"
        );
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET): run this test as root");
        ip("link set lo up");
        wire();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Makes the veth pair and waits for its carrier.
pub fn wire() {
    ip("link add hl0 address 02:00:00:00:00:01 type veth peer name hl1");
    ip("link set hl1 up");
    ip("link set hl0 up");
    // The kernel reports carrier a little later.
    eventually("carrier", || {
        ["hl0", "hl1"]
            .iter()
            .all(|d| device(d).is_some_and(|d| d.carrier))
    });
}

/// Runs `ip ARGS` in this thread's namespace.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's set-up; iproute2 does not hang"
)]
pub fn ip(args: &str) -> String {
    let output = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("iproute2 is needed");
    assert!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn device(name: &str) -> Option<Device> {
    list_devices().unwrap().into_iter().find(|d| d.name == name)
}

/// Whether the device carries the address.
pub fn has(name: &str, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    device(name).is_some_and(|d| d.addresses.iter().any(|a| a.address == address))
}

/// Waits for a condition that no descriptor tells of.
#[expect(
    clippy::disallowed_methods,
    reason = "a pause between two looks, in a test"
)]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "in vain: {what}\n{}", ip("addr"));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// VIPs on hl0.
pub fn group(id: u8, vips: &[&str]) -> NetGroup {
    group_on("hl0", id, vips)
}

pub fn group_on(device: &str, id: u8, vips: &[&str]) -> NetGroup {
    let vips = vips
        .iter()
        .map(|vip| NetVip::new(vip.parse().unwrap(), None, device).unwrap())
        .collect();
    NetGroup {
        id,
        vips,
        extras: Vec::new(),
    }
}

pub fn config(groups: Vec<NetGroup>) -> NetConfig {
    NetConfig {
        groups,
        announce_interval_ns: 60_000_000_000,
        takeover_ns: 50_000_000,
        serial: 7,
        wait_for_gate: false,
    }
}

/// The thread under test, and all it said.
pub struct Net {
    pub handle: NetHandle,
    pub seen: Vec<NetEvent>,
    /// How far [`Net::wait`] has read.
    read: usize,
}

impl Net {
    pub fn start(config: &NetConfig, start: Start) -> Self {
        let handle = spawn(config, start).expect("spawn");
        let mut net = Self {
            handle,
            seen: Vec::new(),
            read: 0,
        };
        net.wait("the sweep", |e| matches!(e, NetEvent::Swept { .. }));
        net
    }

    pub fn send(&mut self, command: NetCommand) {
        self.handle.commands.send(command);
    }

    pub fn control(&mut self, control: NetControl) {
        self.handle.control.send(control).expect("control queue");
    }

    pub fn gain(&mut self, group: u8, epoch: u64) {
        self.send(NetCommand::Gain {
            group,
            epoch,
            t_decided_ns: heartline::net::rt::boottime_ns(),
        });
    }

    /// Waits for the next event that fits; those before it are kept in `seen`.
    pub fn wait(&mut self, what: &str, fits: impl Fn(&NetEvent) -> bool) -> NetEvent {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Some(event) = self.handle.events.pop() {
                self.seen.push(event);
            }
            while let Some(event) = self.seen.get(self.read).copied() {
                self.read += 1;
                if fits(&event) {
                    return event;
                }
            }
            assert!(
                Instant::now() < end,
                "in vain: {what}; seen: {:#?}",
                self.seen
            );
            // As the agent does on each heartbeat.
            self.handle.commands.flush();
            let fd = PollFd::new(self.handle.events.as_fd(), PollFlags::POLLIN);
            poll(&mut [fd], 50u8).unwrap();
            self.handle.events.clear();
        }
    }

    /// Gains a group and waits until it is announced.
    pub fn own(&mut self, group: u8, epoch: u64) {
        self.gain(group, epoch);
        self.wait(
            "a gain",
            |e| matches!(e, NetEvent::Announced { group: g, .. } if *g == group),
        );
    }

    /// Ends the thread and gives everything it said.
    pub fn stop(mut self) -> Vec<NetEvent> {
        self.send(NetCommand::Stop);
        self.wait("the end", |e| *e == NetEvent::Stopped);
        self.handle
            .thread
            .join()
            .expect("the address thread panicked");
        self.seen
    }
}

/// An announcement as seen on the wire, every field of the frame checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub address: IpAddr,
    pub mac: [u8; 6],
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ArpRequest,
    ArpReply,
    Advert { router: bool },
}

/// Reads frames that arrive at hl1.
pub struct Wire(std::net::UdpSocket);

impl Wire {
    pub fn open() -> Self {
        let all = SockProtocol::EthAll;
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            Some(all),
        )
        .unwrap();
        let index = nix::net::if_::if_nametoindex("hl1").unwrap();
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut raw: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        raw.sll_family = libc::AF_PACKET as u16;
        raw.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        raw.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `raw` is a sockaddr_ll of that length.
        let address = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(length)) }.unwrap();
        bind(fd.as_raw_fd(), &address).unwrap();
        nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::RcvBufForce, &(16 << 20))
            .unwrap();
        // A UdpSocket only for its recv() and read timeout.
        let socket = std::net::UdpSocket::from(fd);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next announcement; other frames are passed over.
    pub fn next(&self) -> Seen {
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        while Instant::now() < end {
            let n = match self.0.recv(&mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                n => n.expect("no announcement came"),
            };
            if let Some(seen) = announcement(&buffer[..n]) {
                return seen;
            }
        }
        panic!("no announcement came");
    }

    /// Reads until an announcement fits.
    pub fn until(&self, fits: impl Fn(&Seen) -> bool) -> Seen {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.next();
            if fits(&seen) {
                return seen;
            }
            assert!(Instant::now() < end, "the announcement did not come");
        }
    }
}

fn announcement(bytes: &[u8]) -> Option<Seen> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    let mac = frame.src_addr();
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            let arp = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
            let ArpRepr::EthernetIpv4 {
                operation,
                source_hardware_addr,
                source_protocol_addr,
                target_hardware_addr,
                target_protocol_addr,
            } = arp
            else {
                panic!("{arp:?}")
            };
            assert_eq!(frame.dst_addr(), EthernetAddress::BROADCAST);
            assert_eq!(source_hardware_addr, mac);
            assert_eq!(source_protocol_addr, target_protocol_addr);
            let kind = match operation {
                smoltcp::wire::ArpOperation::Request => {
                    assert_eq!(target_hardware_addr, EthernetAddress([0; 6]));
                    Kind::ArpRequest
                }
                _ => {
                    assert_eq!(operation, smoltcp::wire::ArpOperation::Reply);
                    assert_eq!(target_hardware_addr, mac);
                    Kind::ArpReply
                }
            };
            Some(Seen {
                address: source_protocol_addr.into(),
                mac: mac.0,
                kind,
            })
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
            let header = Ipv6Repr::parse(&packet).ok()?;
            if header.next_header != smoltcp::wire::IpProtocol::Icmpv6 {
                return None;
            }
            let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
            // Checks the checksum, too.
            let repr = Icmpv6Repr::parse(
                &header.src_addr,
                &header.dst_addr,
                &icmp,
                &ChecksumCapabilities::default(),
            )
            .ok()?;
            let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags,
                target_addr,
                lladdr,
            }) = repr
            else {
                return None;
            };
            assert_eq!(frame.dst_addr(), EthernetAddress([0x33, 0x33, 0, 0, 0, 1]));
            assert_eq!(
                header.dst_addr,
                "ff02::1".parse::<std::net::Ipv6Addr>().unwrap()
            );
            assert_eq!(header.src_addr, target_addr);
            assert_eq!(header.hop_limit, 255);
            assert!(flags.contains(smoltcp::wire::NdiscNeighborFlags::OVERRIDE));
            assert!(!flags.contains(smoltcp::wire::NdiscNeighborFlags::SOLICITED));
            assert_eq!(lladdr, Some(mac.into()));
            let router = flags.contains(smoltcp::wire::NdiscNeighborFlags::ROUTER);
            Some(Seen {
                address: target_addr.into(),
                mac: mac.0,
                kind: Kind::Advert { router },
            })
        }
        _ => None,
    }
}
