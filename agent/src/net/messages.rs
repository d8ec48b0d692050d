//! The netlink requests of a VIP, serialized beforehand; only the sequence number changes later.

use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{DevName, IFA_PROTO_HEARTLINE, LABEL_SUFFIX, VALID_LIFETIME_S};

/// IFNAMSIZ without the terminator: the longest label.
const LABEL_MAX: usize = 15;

/// The requests for one VIP on one device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    /// Fails with EEXIST when the address is there.
    pub add: Vec<u8>,
    /// Sets lifetimes and mark anew, adding the address if it is not there.
    pub renew: Vec<u8>,
    pub del: Vec<u8>,
}

/// Builds the requests for `address`/`prefix` on the device.
pub(crate) fn requests(address: IpAddr, prefix: u8, device: &DevName, ifindex: u32) -> Requests {
    let body =
        |lifetimes: bool| address_message(address, prefix, ifindex, lifetimes.then_some(device));
    Requests {
        add: serialize(
            RouteNetlinkMessage::NewAddress(body(true)),
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        ),
        renew: serialize(
            RouteNetlinkMessage::NewAddress(body(true)),
            NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        ),
        del: serialize(RouteNetlinkMessage::DelAddress(body(false)), NLM_F_ACK),
    }
}

/// A request to remove an address that is no VIP of a known device.
pub(crate) fn removal(address: IpAddr, prefix: u8, ifindex: u32) -> Vec<u8> {
    serialize(
        RouteNetlinkMessage::DelAddress(address_message(address, prefix, ifindex, None)),
        NLM_F_ACK,
    )
}

/// A request for all devices.
pub(crate) fn dump_links() -> Vec<u8> {
    serialize(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        NLM_F_DUMP,
    )
}

/// A request for all addresses of both families.
pub(crate) fn dump_addresses() -> Vec<u8> {
    serialize(
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        NLM_F_DUMP,
    )
}

/// Writes the sequence number into a serialized request.
pub(crate) fn set_sequence(request: &mut [u8], seq: u32) {
    if let Some(field) = request.get_mut(8..12) {
        field.copy_from_slice(&seq.to_ne_bytes());
    }
}

/// Whether the kernel shall answer a serialized request also when it is done (it always answers a refused one).
pub(crate) fn want_ack(request: &mut [u8], wanted: bool) {
    if let Some([low, high]) = request.get_mut(6..8) {
        let flags = u16::from_ne_bytes([*low, *high]) & !NLM_F_ACK;
        [*low, *high] = (flags | if wanted { NLM_F_ACK } else { 0 }).to_ne_bytes();
    }
}

/// The label that shows who put an IPv4 address there; a long device name loses its tail, not our mark.
fn label(device: &str) -> String {
    let mut text: String = device.to_owned();
    while text.len() > LABEL_MAX - LABEL_SUFFIX.len() {
        text.pop();
    }
    text + LABEL_SUFFIX
}

fn address_message(
    address: IpAddr,
    prefix: u8,
    ifindex: u32,
    device: Option<&DevName>,
) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.prefix_len = prefix;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    let Some(device) = device else { return message };

    let single = prefix == if address.is_ipv4() { 32 } else { 128 };
    let mut flags = AddressFlags::empty();
    if address.is_ipv6() {
        // No duplicate detection: it would keep the VIP unusable for a second, and see the old owner.
        flags |= AddressFlags::Nodad;
    }
    if single {
        // A wider prefix is written by those who want the route that comes with it.
        flags |= AddressFlags::Noprefixroute;
    }
    message.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits().to_le_bytes()[0]);
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_valid = VALID_LIFETIME_S;
    // A preferred /128 would be chosen as source address for the node's own connections, by its
    // longer match; those would break with every move. Deprecated addresses still serve.
    lifetime.ifa_preferred = if single && address.is_ipv6() {
        0
    } else {
        VALID_LIFETIME_S
    };
    if address.is_ipv4() {
        message
            .attributes
            .push(AddressAttribute::Label(label(device)));
    }
    message.attributes.extend([
        AddressAttribute::CacheInfo(lifetime),
        AddressAttribute::Flags(flags),
        AddressAttribute::Protocol(AddressProtocol::Other(IFA_PROTO_HEARTLINE)),
    ]);
    message
}

pub(crate) fn serialize(payload: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(payload);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::parse::bounded;
    use super::*;
    use netlink_packet_core::NetlinkPayload;

    fn parsed(bytes: &[u8]) -> (u16, RouteNetlinkMessage) {
        let m = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).unwrap();
        let NetlinkPayload::InnerMessage(inner) = m.payload else {
            panic!("{:?}", m.payload)
        };
        (m.header.flags, inner)
    }

    #[test]
    fn labels_keep_our_mark() {
        assert_eq!(label("eth0"), "eth0:hl");
        assert_eq!(label("enp0s31f6u1u2c3"), "enp0s31f6u1u:hl");
        assert_eq!(label("ééééééé").len(), 15);
    }

    #[test]
    fn requests_say_what_is_meant() {
        let r = requests("10.0.0.1".parse().unwrap(), 32, &bounded("eth0"), 3);
        let (flags, RouteNetlinkMessage::NewAddress(add)) = parsed(&r.add) else {
            panic!()
        };
        assert_eq!(flags, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        assert_eq!((add.header.index, add.header.prefix_len), (3, 32));
        assert!(
            add.attributes
                .contains(&AddressAttribute::Label("eth0:hl".into()))
        );
        assert!(
            add.attributes
                .contains(&AddressAttribute::Flags(AddressFlags::Noprefixroute))
        );
        let (flags, RouteNetlinkMessage::NewAddress(renew)) = parsed(&r.renew) else {
            panic!()
        };
        assert_eq!(
            flags,
            NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
        );
        assert_eq!(renew, add);
        let (flags, RouteNetlinkMessage::DelAddress(_)) = parsed(&r.del) else {
            panic!()
        };
        assert_eq!(flags, NLM_F_REQUEST | NLM_F_ACK);

        let r = requests("fd00::1".parse().unwrap(), 64, &bounded("eth0"), 3);
        let (_, RouteNetlinkMessage::NewAddress(add)) = parsed(&r.add) else {
            panic!()
        };
        assert!(
            add.attributes
                .contains(&AddressAttribute::Flags(AddressFlags::Nodad))
        );
    }

    #[test]
    fn only_the_sequence_number_changes() {
        let before = removal("10.0.0.1".parse().unwrap(), 32, 3);
        let mut after = before.clone();
        set_sequence(&mut after, 0xdead_beef);
        assert_eq!(before[..8], after[..8]);
        assert_eq!(before[12..], after[12..]);
        assert_eq!(after[8..12], 0xdead_beef_u32.to_ne_bytes());
        set_sequence(&mut [], 1);
    }
}
