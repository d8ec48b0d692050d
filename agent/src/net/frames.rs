//! Announcement frames, built beforehand: gratuitous ARP and unsolicited neighbour advertisement.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr,
};

/// Ethernet header, IPv6 header, neighbour advertisement with one link-layer option.
const MAX_FRAME: usize = 14 + 40 + 32;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 1]);

/// One Ethernet frame, ready to be sent.
pub(crate) type Frame = ArrayVec<u8, MAX_FRAME>;
/// The frames that announce one VIP: two for IPv4, one for IPv6.
pub(crate) type Frames = ArrayVec<Frame, 2>;

/// Builds the announcement of `address` at `mac`. `router` is the device's forwarding sysctl
/// (IPv6 only): a router that clears the flag loses its clients' default route (RFC 4861, 7.2.5).
pub(crate) fn announcement(address: IpAddr, mac: [u8; 6], router: bool) -> Frames {
    let mac = EthernetAddress(mac);
    let mut frames = Frames::new();
    match address {
        IpAddr::V4(ip) => {
            frames.push(gratuitous_arp(
                ip,
                mac,
                ArpOperation::Request,
                EthernetAddress([0; 6]),
            ));
            // RFC 5944, 4.6: in the reply form the target hardware address is the announced one.
            frames.push(gratuitous_arp(ip, mac, ArpOperation::Reply, mac));
        }
        IpAddr::V6(ip) => frames.push(unsolicited_advertisement(ip, mac, router)),
    }
    frames
}

fn blank(len: usize) -> Frame {
    let mut frame = Frame::new();
    for _ in 0..len.min(MAX_FRAME) {
        frame.push(0);
    }
    frame
}

fn gratuitous_arp(
    ip: Ipv4Addr,
    mac: EthernetAddress,
    operation: ArpOperation,
    target: EthernetAddress,
) -> Frame {
    let ether = EthernetRepr {
        src_addr: mac,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let arp = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: mac,
        source_protocol_addr: ip,
        target_hardware_addr: target,
        target_protocol_addr: ip,
    };
    let mut bytes = blank(ether.buffer_len() + arp.buffer_len());
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    ether.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

fn unsolicited_advertisement(ip: Ipv6Addr, mac: EthernetAddress, router: bool) -> Frame {
    let mut flags = NdiscNeighborFlags::OVERRIDE;
    flags.set(NdiscNeighborFlags::ROUTER, router);
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: ip,
        lladdr: Some(mac.into()),
    });
    let header = Ipv6Repr {
        src_addr: ip,
        dst_addr: ALL_NODES,
        next_header: IpProtocol::Icmpv6,
        payload_len: advert.buffer_len(),
        hop_limit: 255,
    };
    let ether = EthernetRepr {
        src_addr: mac,
        dst_addr: ALL_NODES_MAC,
        ethertype: EthernetProtocol::Ipv6,
    };
    let mut bytes = blank(ether.buffer_len() + header.buffer_len() + advert.buffer_len());
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    ether.emit(&mut frame);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut packet);
    let mut icmp = Icmpv6Packet::new_unchecked(packet.payload_mut());
    advert.emit(
        &header.src_addr,
        &header.dst_addr,
        &mut icmp,
        &ChecksumCapabilities::default(),
    );
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    // Byte for byte, so that a change in the library's builder cannot pass unseen.
    #[test]
    fn gratuitous_arp_is_exact() {
        let frames = announcement("10.77.0.100".parse().unwrap(), MAC, false);
        let want = |op: u8, tha: [u8; 6]| {
            let mut w = vec![0xff; 6];
            w.extend(MAC);
            w.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
            w.extend(MAC);
            w.extend([10, 77, 0, 100]);
            w.extend(tha);
            w.extend([10, 77, 0, 100]);
            w
        };
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].as_slice(), want(1, [0; 6]));
        assert_eq!(frames[1].as_slice(), want(2, MAC));
    }

    #[test]
    fn unsolicited_advertisement_is_exact() {
        for (router, flags) in [(false, 0x20), (true, 0xa0)] {
            let frames = announcement("fd00::100".parse().unwrap(), MAC, router);
            assert_eq!(frames.len(), 1);
            let f = frames[0].as_slice();
            let vip = "fd00::100".parse::<Ipv6Addr>().unwrap().octets();
            assert_eq!(f.len(), 86);
            assert_eq!(f[0..6], [0x33, 0x33, 0, 0, 0, 1]);
            assert_eq!(f[6..14], [2, 0, 0, 0, 0, 7, 0x86, 0xdd]);
            assert_eq!(f[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
            assert_eq!(f[22..38], vip);
            assert_eq!(f[38..54], ALL_NODES.octets());
            assert_eq!(f[54..56], [136, 0]);
            assert_eq!(f[58..62], [flags, 0, 0, 0]);
            assert_eq!(f[62..78], vip);
            assert_eq!(f[78..86], [2, 1, 2, 0, 0, 0, 0, 7]);
            // RFC 4443 checksum over pseudo header and message folds to zero.
            let mut sum = 32u32 + 58;
            for pair in f[22..86].chunks(2) {
                sum += u32::from(pair[0]) << 8 | u32::from(pair[1]);
            }
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(sum, 0xffff);
        }
    }
}
