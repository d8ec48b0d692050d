//! Reading what rtnetlink says. Tolerant: an attribute that makes no sense is left out, a message
//! that makes no sense ends the datagram, nothing panics. (The library's own link parser refuses a
//! whole device for one attribute that a newer kernel widened, and its address parser panics on a short IFA_CACHEINFO.)

use std::net::IpAddr;

use netlink_packet_core::{ErrorBuffer, NetlinkBuffer, NlaBuffer, NlasIterator};

use super::extras::prefix_of;
use super::{DevName, IFA_PROTO_HEARTLINE, LABEL_SUFFIX, PROTO_HEARTLINE, Text};
use crate::config::Prefix;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const ARPHRD_ETHER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;

/// `ifa_flags` bits we look at (linux/if_addr.h).
pub(crate) const IFA_F_DADFAILED: u32 = 0x08;
pub(crate) const IFA_F_TENTATIVE: u32 = 0x40;

/// A device as rtnetlink describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub ifindex: u32,
    pub name: DevName,
    pub kind: Option<DevName>,
    /// Ethernet address; none on devices without ARP of the Ethernet kind.
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    /// The device below (macvlan, VLAN); 0 if none.
    pub parent: u32,
    pub up: bool,
    /// Operational: IFF_RUNNING, which follows carrier and 802.1X, and is set where the driver says nothing.
    pub running: bool,
    pub loopback: bool,
}

/// An address as rtnetlink describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddrInfo {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix: u8,
    pub flags: u32,
    /// Carries our protocol number or our label.
    pub ours: bool,
}

/// A route or a rule that the kernel has, as far as it takes to tell one from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    Route {
        to: Prefix,
        table: u32,
        metric: u32,
    },
    Rule {
        v6: bool,
        from: Option<Prefix>,
        to: Option<Prefix>,
        table: u32,
        priority: u32,
    },
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    Link(LinkInfo),
    LinkGone(LinkInfo),
    Addr(AddrInfo),
    AddrGone(AddrInfo),
    /// A route or a rule with our mark.
    Ours(Foreign),
    /// `errno` 0 is an acknowledgement.
    Answer {
        errno: i32,
        text: Option<Text>,
    },
    Done,
    /// The kernel dropped messages.
    Overrun,
    Other,
}

/// A message with its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    pub seq: u32,
    /// The dump this belongs to was disturbed by a change and must be repeated.
    pub interrupted: bool,
    pub notice: Notice,
}

/// The messages of one datagram.
pub(crate) struct Items<'a> {
    rest: &'a [u8],
    /// The datagram ended in something that is no netlink message.
    pub malformed: bool,
}

/// Walks over the messages of a datagram.
pub(crate) fn items(datagram: &[u8]) -> Items<'_> {
    Items {
        rest: datagram,
        malformed: false,
    }
}

impl Iterator for Items<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(self.rest) else {
            self.malformed = true;
            self.rest = &[];
            return None;
        };
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let payload = self.rest.get(HEADER..length).unwrap_or(&[]);
        let (kind, flags, seq) = (
            message.message_type(),
            message.flags(),
            message.sequence_number(),
        );
        self.rest = self
            .rest
            .get(length.saturating_add(3) & !3..)
            .unwrap_or(&[]);
        let notice = match kind {
            NLMSG_ERROR => answer(payload, flags),
            NLMSG_DONE => Some(Notice::Done),
            NLMSG_OVERRUN => Some(Notice::Overrun),
            RTM_NEWLINK => link(payload).map(Notice::Link),
            RTM_DELLINK => link(payload).map(Notice::LinkGone),
            RTM_NEWADDR => addr(payload).map(Notice::Addr),
            RTM_DELADDR => addr(payload).map(Notice::AddrGone),
            RTM_NEWROUTE => route(payload).map(Notice::Ours),
            RTM_NEWRULE => rule(payload).map(Notice::Ours),
            _ => None,
        };
        Some(Item {
            seq,
            interrupted: flags & NLM_F_DUMP_INTR != 0,
            notice: notice.unwrap_or(Notice::Other),
        })
    }
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

fn answer(payload: &[u8], flags: u16) -> Option<Notice> {
    let errno = ErrorBuffer::new_checked(payload)
        .ok()?
        .code()
        .map_or(0, |code| code.get().saturating_neg());
    let text = (errno != 0 && flags & NLM_F_ACK_TLVS != 0)
        .then(|| extended(payload, flags))
        .flatten();
    Some(Notice::Answer { errno, text })
}

/// The kernel's own words, behind the error and the echoed request.
fn extended(payload: &[u8], flags: u16) -> Option<Text> {
    let request = payload.get(4..)?;
    let echoed = if flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        usize::try_from(u32_at(request, 0)?).ok()?
    };
    let tlvs = request.get(echoed.checked_add(3)? & !3..)?;
    let text = attributes(tlvs).find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)?;
    Some(bounded(c_string(text.value())))
}

fn link(payload: &[u8]) -> Option<LinkInfo> {
    // AF_BRIDGE messages tell of a bridge port, not of a device: their DELLINK only means "left the bridge".
    if *payload.first()? != 0 {
        return None;
    }
    let hardware = u16::from_ne_bytes(payload.get(2..4)?.try_into().ok()?);
    let ifindex = u32_at(payload, 4)?;
    let flags = u32_at(payload, 8)?;
    let mut info = LinkInfo {
        ifindex,
        name: DevName::new(),
        kind: None,
        mac: None,
        mtu: 0,
        parent: 0,
        up: has(flags, libc::IFF_UP),
        running: has(flags, libc::IFF_UP) && has(flags, libc::IFF_RUNNING),
        loopback: has(flags, libc::IFF_LOOPBACK),
    };
    for nla in attributes(payload.get(HEADER..)?) {
        match nla.kind() {
            IFLA_IFNAME => info.name = bounded(c_string(nla.value())),
            IFLA_LINK => info.parent = u32_at(nla.value(), 0).unwrap_or(0),
            IFLA_MTU => info.mtu = u32_at(nla.value(), 0).unwrap_or(0),
            IFLA_ADDRESS if hardware == ARPHRD_ETHER => info.mac = nla.value().try_into().ok(),
            IFLA_LINKINFO => {
                info.kind = attributes(nla.value())
                    .find(|inner| inner.kind() == IFLA_INFO_KIND)
                    .map(|inner| bounded(c_string(inner.value())));
            }
            _ => {}
        }
    }
    (!info.name.is_empty() && ifindex != 0).then_some(info)
}

fn addr(payload: &[u8]) -> Option<AddrInfo> {
    let prefix = *payload.get(1)?;
    let mut flags = u32::from(*payload.get(2)?);
    let ifindex = u32_at(payload, 4)?;
    let (mut local, mut address, mut ours) = (None, None, false);
    for nla in attributes(payload.get(8..)?) {
        let value = nla.value();
        match nla.kind() {
            IFA_LOCAL => local = ip(value).or(local),
            IFA_ADDRESS => address = ip(value).or(address),
            IFA_FLAGS => flags = u32_at(value, 0).unwrap_or(flags),
            IFA_LABEL => ours |= c_string(value).ends_with(LABEL_SUFFIX),
            IFA_PROTO => ours |= value == [IFA_PROTO_HEARTLINE],
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer where there is an IFA_LOCAL.
    Some(AddrInfo {
        ifindex,
        address: local.or(address)?,
        prefix,
        flags,
        ours,
    })
}

/// A route with our mark (linux/rtnetlink.h, struct rtmsg).
fn route(payload: &[u8]) -> Option<Foreign> {
    const RTA_DST: u16 = 1;
    const RTA_PRIORITY: u16 = 6;
    const RTA_TABLE: u16 = 15;
    let [family, length, _, _, table, protocol, ..] = *payload else {
        return None;
    };
    let v6 = is_v6(family)?;
    if protocol != PROTO_HEARTLINE {
        return None;
    }
    let (mut to, mut table, mut metric) = (None, u32::from(table), 0);
    for nla in attributes(payload.get(12..)?) {
        match nla.kind() {
            RTA_DST => to = prefix_of(v6, Some(nla.value()), length),
            RTA_PRIORITY => metric = u32_at(nla.value(), 0)?,
            RTA_TABLE => table = u32_at(nla.value(), 0)?,
            _ => {}
        }
    }
    let to = to.or_else(|| prefix_of(v6, None, length))?;
    Some(Foreign::Route { to, table, metric })
}

/// A rule with our mark (linux/fib_rules.h, struct fib_rule_hdr).
fn rule(payload: &[u8]) -> Option<Foreign> {
    const FRA_DST: u16 = 1;
    const FRA_SRC: u16 = 2;
    const FRA_PRIORITY: u16 = 6;
    const FRA_TABLE: u16 = 15;
    const FRA_PROTOCOL: u16 = 21;
    let [family, to_length, from_length, _, table, ..] = *payload else {
        return None;
    };
    let v6 = is_v6(family)?;
    let (mut from, mut to, mut table, mut priority, mut ours) =
        (None, None, u32::from(table), 0, false);
    for nla in attributes(payload.get(12..)?) {
        match nla.kind() {
            FRA_DST => to = prefix_of(v6, Some(nla.value()), to_length),
            FRA_SRC => from = prefix_of(v6, Some(nla.value()), from_length),
            FRA_PRIORITY => priority = u32_at(nla.value(), 0)?,
            FRA_TABLE => table = u32_at(nla.value(), 0)?,
            FRA_PROTOCOL => ours = nla.value().first() == Some(&PROTO_HEARTLINE),
            _ => {}
        }
    }
    ours.then_some(Foreign::Rule {
        v6,
        from,
        to,
        table,
        priority,
    })
}

fn is_v6(family: u8) -> Option<bool> {
    match i32::from(family) {
        libc::AF_INET => Some(false),
        libc::AF_INET6 => Some(true),
        _ => None,
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn has(flags: u32, bit: libc::c_int) -> bool {
    u32::try_from(bit).is_ok_and(|bit| flags & bit != 0)
}

fn c_string(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(&[]))
}

/// As much of `text` as fits.
pub(crate) fn bounded<const N: usize>(text: impl AsRef<str>) -> arrayvec::ArrayString<N> {
    let mut out = arrayvec::ArrayString::new();
    for c in text.as_ref().chars() {
        if out.try_push(c).is_err() {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut m = u32::try_from(payload.len() + 16)
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        m.extend(kind.to_ne_bytes());
        m.extend(flags.to_ne_bytes());
        m.extend(7u32.to_ne_bytes());
        m.extend([0; 4]);
        m.extend(payload);
        m.resize(m.len().next_multiple_of(4), 0);
        m
    }

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut a = u16::try_from(value.len() + 4)
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        a.extend(kind.to_ne_bytes());
        a.extend(value);
        a.resize(a.len().next_multiple_of(4), 0);
        a
    }

    fn link_payload(family: u8, hardware: u16, flags: u32) -> Vec<u8> {
        let mut p = vec![family, 0];
        p.extend(hardware.to_ne_bytes());
        p.extend(5u32.to_ne_bytes());
        p.extend(flags.to_ne_bytes());
        p.extend([0; 4]);
        p.extend(nla(IFLA_IFNAME, b"eth0\0"));
        p.extend(nla(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]));
        p.extend(nla(IFLA_MTU, &1500u32.to_ne_bytes()));
        p.extend(nla(IFLA_LINKINFO, &nla(IFLA_INFO_KIND, b"veth\0")));
        p
    }

    #[test]
    fn a_link_is_read_and_a_bridge_port_is_not_one() {
        let up = u32::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap();
        let mut datagram = message(RTM_NEWLINK, 0, &link_payload(0, 1, up));
        datagram.extend(message(RTM_DELLINK, 0, &link_payload(7, 1, up)));
        datagram.extend(message(RTM_DELLINK, 0, &link_payload(0, 512, 0)));
        let got: Vec<_> = items(&datagram).map(|i| i.notice).collect();
        let eth0 = LinkInfo {
            ifindex: 5,
            name: bounded("eth0"),
            kind: Some(bounded("veth")),
            mac: Some([2, 0, 0, 0, 0, 9]),
            mtu: 1500,
            parent: 0,
            up: true,
            running: true,
            loopback: false,
        };
        let gone = LinkInfo {
            mac: None,
            up: false,
            running: false,
            ..eth0
        };
        assert_eq!(
            got,
            [Notice::Link(eth0), Notice::Other, Notice::LinkGone(gone)]
        );
    }

    #[test]
    fn our_mark_is_seen_by_label_or_by_protocol() {
        for (mark, ours) in [
            (nla(3, b"eth0:hl\0"), true),
            (nla(11, &[IFA_PROTO_HEARTLINE]), true),
            (nla(3, b"eth0\0"), false),
            (nla(11, &[18]), false),
        ] {
            let mut p = vec![2, 32, 0x80, 0];
            p.extend(5u32.to_ne_bytes());
            p.extend(nla(1, &[10, 0, 0, 9]));
            p.extend(nla(2, &[10, 0, 0, 1]));
            p.extend(nla(8, &0x280u32.to_ne_bytes()));
            p.extend(mark);
            let got = items(&message(RTM_NEWADDR, 0, &p)).next().unwrap().notice;
            let want = AddrInfo {
                ifindex: 5,
                address: "10.0.0.1".parse().unwrap(),
                prefix: 32,
                flags: 0x280,
                ours,
            };
            assert_eq!(got, Notice::Addr(want));
        }
    }

    /// The fuzz target netlink found it in the library.
    #[test]
    fn short_attributes_are_left_out() {
        for kind in 1..=11u16 {
            for length in 0..=4u8 {
                let mut p = vec![2, 32, 0x80, 0];
                p.extend(5u32.to_ne_bytes());
                p.extend(nla(2, &[10, 0, 0, 1]));
                p.extend(nla(kind, &vec![0; usize::from(length)]));
                let got = items(&message(RTM_NEWADDR, 0, &p)).next().unwrap().notice;
                assert!(matches!(got, Notice::Addr(_)), "{kind}: {got:?}");
            }
        }
    }

    #[test]
    fn an_error_carries_the_kernels_words() {
        let mut p = (-17i32).to_ne_bytes().to_vec();
        p.extend(message(RTM_NEWADDR, 0, &[]));
        p.extend(nla(NLMSGERR_ATTR_MSG, b"ipv4: Address already assigned\0"));
        let got = items(&message(NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, &p))
            .next()
            .unwrap();
        assert_eq!(got.seq, 7);
        assert_eq!(
            got.notice,
            Notice::Answer {
                errno: 17,
                text: Some(bounded("ipv4: Address already assigned"))
            }
        );
        let ack = message(NLMSG_ERROR, NLM_F_CAPPED, &[0; 20]);
        assert_eq!(
            items(&ack).next().unwrap().notice,
            Notice::Answer {
                errno: 0,
                text: None
            }
        );
    }

    #[test]
    fn a_torn_tail_is_noticed() {
        let mut datagram = message(NLMSG_DONE, 0, &[0; 4]);
        datagram.extend([200, 0, 0, 0, 1]);
        let mut walk = items(&datagram);
        assert_eq!(walk.next().unwrap().notice, Notice::Done);
        assert_eq!(walk.next(), None);
        assert!(walk.malformed);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(items(&bytes).count() <= bytes.len() / 16);
        }

        // A right header in front lets the bytes reach the attribute readers.
        #[test]
        fn any_payload_is_survived(
            kind in prop_oneof![Just(2u16), Just(16), Just(17), Just(20), Just(21), Just(24), Just(32)],
            flags in any::<u16>(),
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let datagram = message(kind, flags, &payload);
            prop_assert_eq!(items(&datagram).count(), 1);
        }

        // One byte of a good message changed.
        #[test]
        fn any_flipped_byte_is_survived(at in 0usize..92, value in any::<u8>()) {
            let mut datagram = message(RTM_NEWLINK, 0, &link_payload(0, 1, 1));
            let at = at % datagram.len();
            datagram[at] = value;
            let _ = items(&datagram).count();
        }
    }
}
