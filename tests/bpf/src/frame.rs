//! Frames, built with smoltcp (and by hand where it refuses what an attacker would send).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, HardwareAddress, Icmpv6Packet,
        Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
        NdiscRepr, UdpPacket, UdpRepr,
    },
};

/// EtherType of a VLAN tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of a service tag (802.1ad).
pub const QINQ: u16 = 0x88a8;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

/// MAC of the peer that sends the frames.
pub const THERE: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 2];
/// MAC of the node under test.
pub const HERE: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 1];

/// An Ethernet frame with tags (type, VLAN id), outermost first.
pub fn ethernet(tags: &[(u16, u16)], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut f = Vec::with_capacity(64 + payload.len());
    f.extend_from_slice(&HERE);
    f.extend_from_slice(&THERE);
    for (tpid, vid) in tags {
        f.extend_from_slice(&tpid.to_be_bytes());
        f.extend_from_slice(&vid.to_be_bytes());
    }
    f.extend_from_slice(&kind.to_be_bytes());
    f.extend_from_slice(payload);
    f
}

/// A UDP datagram in IP in Ethernet, all checksums right. Both addresses are of one family.
pub fn udp(tags: &[(u16, u16)], src: (IpAddr, u16), dst: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let caps = ChecksumCapabilities::default();
    let repr = UdpRepr {
        src_port: src.1,
        dst_port: dst.1,
    };
    let mut datagram = vec![0u8; 8 + payload.len()];
    repr.emit(
        &mut UdpPacket::new_unchecked(&mut datagram),
        &src.0.into(),
        &dst.0.into(),
        payload.len(),
        |b| b.copy_from_slice(payload),
        &caps,
    );
    ip(tags, src.0, dst.0, IpProtocol::Udp, &datagram)
}

/// An IP packet in Ethernet.
pub fn ip(
    tags: &[(u16, u16)],
    src: IpAddr,
    dst: IpAddr,
    proto: IpProtocol,
    payload: &[u8],
) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut b = vec![0u8; 20 + payload.len()];
            Ipv4Repr {
                src_addr: src,
                dst_addr: dst,
                next_header: proto,
                payload_len: payload.len(),
                hop_limit: 64,
            }
            .emit(
                &mut Ipv4Packet::new_unchecked(&mut b),
                &ChecksumCapabilities::default(),
            );
            b[20..].copy_from_slice(payload);
            ethernet(tags, IPV4, &b)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut b = vec![0u8; 40 + payload.len()];
            Ipv6Repr {
                src_addr: src,
                dst_addr: dst,
                next_header: proto,
                payload_len: payload.len(),
                hop_limit: 255,
            }
            .emit(&mut Ipv6Packet::new_unchecked(&mut b));
            b[40..].copy_from_slice(payload);
            ethernet(tags, IPV6, &b)
        }
        _ => panic!("one family, please"),
    }
}

/// An ARP packet. A gratuitous one has the same address twice.
pub fn arp(
    tags: &[(u16, u16)],
    operation: ArpOperation,
    sender: Ipv4Addr,
    target: Ipv4Addr,
) -> Vec<u8> {
    let mut b = vec![0u8; 28];
    ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(THERE),
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    }
    .emit(&mut ArpPacket::new_unchecked(&mut b));
    ethernet(tags, ARP, &b)
}

/// A neighbour solicitation.
pub fn solicit(tags: &[(u16, u16)], src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let lladdr = Some(HardwareAddress::Ethernet(EthernetAddress(THERE)).into());
    icmpv6(
        tags,
        src,
        dst,
        &Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr,
        }),
    )
}

/// A neighbour advertisement with the override flag.
pub fn advertise(tags: &[(u16, u16)], src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let lladdr = Some(HardwareAddress::Ethernet(EthernetAddress(THERE)).into());
    let flags = NdiscNeighborFlags::OVERRIDE;
    icmpv6(
        tags,
        src,
        dst,
        &Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            flags,
            target_addr: target,
            lladdr,
        }),
    )
}

fn icmpv6(tags: &[(u16, u16)], src: Ipv6Addr, dst: Ipv6Addr, repr: &Icmpv6Repr<'_>) -> Vec<u8> {
    let mut b = vec![0u8; repr.buffer_len()];
    repr.emit(
        &src,
        &dst,
        &mut Icmpv6Packet::new_unchecked(&mut b),
        &ChecksumCapabilities::default(),
    );
    ip(tags, src.into(), dst.into(), IpProtocol::Icmpv6, &b)
}

/// A UDP datagram as a receiver takes it apart; checks the checksums that must be right.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Destination and source MAC.
    pub macs: ([u8; 6], [u8; 6]),
    /// The bytes between the MACs and the last EtherType.
    pub tags: Vec<u8>,
    /// Source.
    pub src: (IpAddr, u16),
    /// Destination.
    pub dst: (IpAddr, u16),
    /// The UDP checksum field.
    pub checksum: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Takes a frame with `tags` tags apart.
    ///
    /// # Panics
    /// On anything that a receiver would drop.
    pub fn parse(frame: &[u8], tags: usize) -> Datagram {
        let l3 = 14 + 4 * tags;
        let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap();
        let kind = u16::from_be_bytes([frame[l3 - 2], frame[l3 - 1]]);
        let (src, dst, datagram): (IpAddr, IpAddr, Vec<u8>) = match kind {
            IPV4 => {
                let p = Ipv4Packet::new_checked(&frame[l3..]).expect("an IPv4 packet");
                assert!(p.verify_checksum(), "IPv4 header checksum");
                assert_eq!(p.next_header(), IpProtocol::Udp);
                (
                    p.src_addr().into(),
                    p.dst_addr().into(),
                    p.payload().to_vec(),
                )
            }
            IPV6 => {
                let p = Ipv6Packet::new_checked(&frame[l3..]).expect("an IPv6 packet");
                assert_eq!(p.next_header(), IpProtocol::Udp);
                (
                    p.src_addr().into(),
                    p.dst_addr().into(),
                    p.payload().to_vec(),
                )
            }
            other => panic!("EtherType {other:#x}"),
        };
        let u = UdpPacket::new_checked(&datagram[..]).expect("a UDP datagram");
        // smoltcp takes a checksum of 0 in IPv4 for "none", as RFC 768 says, and refuses it in IPv6.
        assert!(
            u.verify_checksum(&src.into(), &dst.into()),
            "UDP checksum {:#x}",
            u.checksum()
        );
        Datagram {
            macs: (mac(0), mac(6)),
            tags: frame[12..l3 - 2].to_vec(),
            src: (src, u.src_port()),
            dst: (dst, u.dst_port()),
            checksum: u.checksum(),
            payload: u.payload().to_vec(),
        }
    }
}
