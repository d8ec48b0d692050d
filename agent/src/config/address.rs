//! Reading of addresses: which can be a link's or a VIP's, and why not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::raw::At;
use super::render::Diagnostic;

/// Why an address can be neither a link's nor a VIP's, and the mend.
fn unusable(address: IpAddr) -> Option<(&'static str, &'static str)> {
    let own = "use an ordinary address of the network";
    Some(match address {
        a if a.is_unspecified() => ("is the unspecified address", own),
        a if a.is_loopback() => ("is a loopback address: no other machine can reach it", own),
        a if a.is_multicast() => (
            "is a multicast address: it belongs to no single machine",
            own,
        ),
        IpAddr::V4(Ipv4Addr::BROADCAST) => ("is the broadcast address", own),
        IpAddr::V4(a) if a.octets()[0] == 0 || a.octets()[0] >= 240 => {
            ("is in a reserved range", own)
        }
        IpAddr::V6(a) if a.is_unicast_link_local() => (
            "is link-local: it means nothing without a device",
            "use a unique local address (fd00::/8) or a global one",
        ),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => (
            "is an IPv4 address in IPv6 clothes",
            "write the IPv4 address itself",
        ),
        _ => return None,
    })
}

fn refuse(code: &'static str, text: &At<String>, why: &str, mend: &str, out: &mut Vec<Diagnostic>) {
    out.push(
        Diagnostic::error(code, text.span.clone(), format!("{:?} {why}", text.value)).help(mend),
    );
}

/// Reads the address of a link.
pub(super) fn link_address(text: &At<String>, out: &mut Vec<Diagnostic>) -> Option<At<IpAddr>> {
    let code = "bad-link-address";
    let Ok(address) = text.value.parse::<IpAddr>() else {
        let (why, mend) = match text.value.split_once(['/', '%']) {
            Some((a, _)) if a.parse::<IpAddr>().is_ok() => (
                "is more than an address",
                "write the address alone, without prefix length or device",
            ),
            _ => (
                "is not an IP address",
                "write an IPv4 or IPv6 address, as in \"10.77.0.1\"; names are not looked up",
            ),
        };
        refuse(code, text, why, mend, out);
        return None;
    };
    if let Some((why, mend)) = unusable(address) {
        refuse(code, text, why, mend, out);
        return None;
    }
    Some(At {
        value: address,
        span: text.span.clone(),
    })
}

/// Reads a VIP, with a prefix length if it has one.
pub(super) fn vip_address(
    text: &At<String>,
    out: &mut Vec<Diagnostic>,
) -> Option<At<(IpAddr, u8)>> {
    let code = "bad-vip";
    let (address, prefix) = match text.value.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text.value.as_str(), None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        let mend = "write an IPv4 or IPv6 address, as in \"10.77.0.100\" or \"10.77.0.100/24\"";
        refuse(code, text, "is not an IP address", mend, out);
        return None;
    };
    if let Some((why, mend)) = unusable(address) {
        refuse(code, text, why, mend, out);
        return None;
    }
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix.map(str::parse::<u8>) {
        None => widest,
        Some(Ok(prefix)) if (1..=widest).contains(&prefix) => prefix,
        Some(_) => {
            let why = format!("has no good prefix length: 1 to {widest}");
            refuse(
                code,
                text,
                &why,
                "leave the prefix out: the address alone is right for nearly every network",
                out,
            );
            return None;
        }
    };
    if let Some(why) = edge_of_network(address, prefix) {
        refuse(code, text, why, "use an address inside the network", out);
        return None;
    }
    Some(At {
        value: (address, prefix),
        span: text.span.clone(),
    })
}

/// Whether the address is the first or last of its network, which mean the network and everybody.
fn edge_of_network(address: IpAddr, prefix: u8) -> Option<&'static str> {
    match address {
        IpAddr::V4(a) if prefix <= 30 => {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            match a.to_bits() & host {
                0 => Some("is the address of its network itself"),
                bits if bits == host => Some("is the broadcast address of its network"),
                _ => None,
            }
        }
        // Subnet-router anycast address (RFC 4291 2.6.1).
        IpAddr::V6(a) if prefix <= 126 => {
            let host = Ipv6Addr::from_bits(u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0));
            (a.to_bits() & host.to_bits() == 0)
                .then_some("is the anycast address of its network's routers")
        }
        _ => None,
    }
}
