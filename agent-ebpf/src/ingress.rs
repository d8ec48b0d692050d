//! Ingress: which frames are heartbeats, which address a VIP.

use agent_common::record::{AddressKey, Counter, RecordKind};
use agent_common::state::Shared;
use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_boot_ns, programs::XdpContext};

use crate::{
    heartbeat, hold, maps,
    packet::{self, Short},
};

/// Decides about one frame.
#[inline(always)]
pub fn handle(ctx: &XdpContext) -> Result<u32, Short> {
    // Without a table nobody has a lease: there are no heartbeats to answer then, but VIPs stay shut.
    let sh = maps::state();
    if sh.is_none() {
        maps::count(Counter::NoState);
    }
    // What goes to a gateway's virtual MAC is for others as often as not: no address in it tells, only the MAC does.
    let mac = packet::at::<[u8; 6]>(ctx, 0)?;
    // SAFETY: bounds checked by at().
    if let Some(group) = maps::vmac(unsafe { &*mac })
        && gate(open(sh, group), None) == xdp_action::XDP_DROP
    {
        return Ok(xdp_action::XDP_DROP);
    }
    let (proto, offset) = packet::network(ctx)?;
    match proto {
        packet::ETH_ARP => arp(ctx, sh, offset),
        packet::ETH_IPV4 => ipv4(ctx, sh, offset),
        packet::ETH_IPV6 => ipv6(ctx, sh, offset),
        packet::ETH_VLAN | packet::ETH_QINQ => Ok(gate(Some(false), None)),
        _ => Ok(xdp_action::XDP_PASS),
    }
}

#[inline(always)]
fn ipv4(ctx: &XdpContext, sh: Option<&Shared>, l3: usize) -> Result<u32, Short> {
    let dst = packet::ipv4(ctx, l3 + 16)?;
    // No options and no fragments: a heartbeat has neither.
    if let Some(sh) = sh
        && packet::byte(ctx, l3)? == 0x45
        && packet::byte(ctx, l3 + 9)? == packet::PROTO_UDP
        && packet::be16(ctx, l3 + 6)? & 0x3fff == 0
        && is_heartbeat(ctx, sh, l3 + packet::IPV4_LEN, &dst)
    {
        return Ok(heartbeat::handle(ctx, sh, l3, l3 + packet::IPV4_LEN, false));
    }
    let vip = maps::vip(&dst);
    if let Some(group) = vip
        && let Some(now) = hold::on(group)
    {
        return Ok(hold::keep(ctx, group, &dst, now));
    }
    Ok(gate(vip.and_then(|group| open(sh, group)), None))
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, sh: Option<&Shared>, l3: usize) -> Result<u32, Short> {
    let dst = packet::ipv6(ctx, l3 + 24)?;
    let next = packet::byte(ctx, l3 + 6)?;
    let l4 = l3 + packet::IPV6_LEN;
    if let Some(sh) = sh
        && next == packet::PROTO_UDP
        && is_heartbeat(ctx, sh, l4, &dst)
    {
        return Ok(heartbeat::handle(ctx, sh, l3, l4, true));
    }
    let mut target = None;
    // One without its target asks nothing, but is a frame to `dst` all the same.
    match packet::upper(ctx, l3) {
        Ok((packet::PROTO_ICMPV6, l4)) => match packet::neighbour(ctx, l4) {
            Ok((packet::ICMPV6_NS, t)) => target = right(sh, &t),
            Ok((packet::ICMPV6_NA, t)) => foreign(ctx, sh, &t),
            Ok(_) | Err(Short) => {}
        },
        Ok((next, _)) if packet::is_extension(next) => target = Some(false),
        Ok(_) | Err(Short) => {}
    }
    let vip = maps::vip(&dst);
    // Who asks for a neighbour is not held: whoever has the VIP answers.
    if target.is_none()
        && let Some(group) = vip
        && let Some(now) = hold::on(group)
    {
        return Ok(hold::keep(ctx, group, &dst, now));
    }
    Ok(gate(vip.and_then(|group| open(sh, group)), target))
}

#[inline(always)]
fn arp(ctx: &XdpContext, sh: Option<&Shared>, l3: usize) -> Result<u32, Short> {
    // Only IPv4 (RFC 826): protocol 0x0800, lengths 6 and 4. Linux takes hardware 1 (Ethernet) and 6 (IEEE 802) alike.
    let hardware = packet::be16(ctx, l3)?;
    if hardware != 1 && hardware != 6
        || packet::be16(ctx, l3 + 2)? != packet::ETH_IPV4
        || packet::be16(ctx, l3 + 4)? != 0x0604
    {
        return Ok(xdp_action::XDP_PASS);
    }
    let sender = packet::ipv4(ctx, l3 + 14)?;
    foreign(ctx, sh, &sender);
    let target = packet::ipv4(ctx, l3 + 24)?;
    if sender == target {
        // A gratuitous ARP tells of somebody else: a standby, and guests bridged behind it, are clients of the VIP and
        // must learn where it went. Should the address still be here, the reply to it is stopped at the egress.
        return Ok(xdp_action::XDP_PASS);
    }
    Ok(gate(right(sh, &target), None))
}

/// UDP to our heartbeat port on one of our link addresses: not one that is only passing through to a guest.
#[inline(always)]
fn is_heartbeat(ctx: &XdpContext, sh: &Shared, l4: usize, dst: &AddressKey) -> bool {
    match packet::be16(ctx, l4 + 2) {
        Ok(port) => port as u64 == sh.port.load() && maps::is_link(dst),
        Err(Short) => false,
    }
}

/// May frames for this address pass now? None if it is no VIP.
#[inline(always)]
fn right(sh: Option<&Shared>, address: &AddressKey) -> Option<bool> {
    open(sh, maps::vip(address)?)
}

/// Is the gate of the group in the low byte open now?
#[inline(always)]
fn open(sh: Option<&Shared>, group: u32) -> Option<bool> {
    let Some(sh) = sh else { return Some(false) };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    Some(sh.gate_open(group as u8, now))
}

/// One VIP that is shut stops a frame, whatever else it names.
#[inline(always)]
fn gate(a: Option<bool>, b: Option<bool>) -> u32 {
    if a == Some(false) || b == Some(false) {
        maps::count(Counter::GateInDrop);
        return xdp_action::XDP_DROP;
    }
    if a.is_some() || b.is_some() {
        maps::count(Counter::GateIn);
    }
    xdp_action::XDP_PASS
}

/// While we own the VIP, nobody else may claim it: tell user space, which announces again.
#[inline(always)]
fn foreign(ctx: &XdpContext, sh: Option<&Shared>, address: &AddressKey) {
    let (Some(sh), Some(group)) = (sh, maps::vip(address)) else {
        return;
    };
    if let Some(now) = hold::on(group) {
        hold::taken(ctx, group, address, now);
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if !sh.gate_open(group as u8, now) {
        return;
    }
    maps::count(Counter::ForeignClaims);
    let v4 = address[10] == 0xff && address[11] == 0xff;
    if !maps::seldom(maps::Seldom::Claim(group as u8, v4), now) {
        return;
    }
    let (Some(m), Ok(mac)) = (maps::scratch(), packet::at::<[u8; 6]>(ctx, 6)) else {
        return;
    };
    *m = agent_common::wire::Message::default();
    // SAFETY: bounds checked by at().
    let mac = unsafe { *mac };
    m.seq = u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]);
    m.re_seq = (group as u8) as u64;
    let a = address;
    m.set.0[0] = u64::from_le_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    m.set.0[1] = u64::from_le_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    maps::report(RecordKind::ForeignClaim, heartbeat::ifindex(ctx), now, m);
}
