//! Ingress: which frames are heartbeats, which address a VIP.

use agent_common::record::{AddressKey, Counter, RecordKind};
use agent_common::state::Shared;
use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_boot_ns, programs::XdpContext};

use crate::{
    heartbeat, maps,
    packet::{self, Short},
};

/// Decides about one frame.
#[inline(always)]
pub fn handle(ctx: &XdpContext) -> Result<u32, Short> {
    let Some(sh) = maps::state() else {
        maps::count(Counter::NoState);
        return Ok(xdp_action::XDP_PASS);
    };
    let (proto, offset) = packet::network(ctx)?;
    match proto {
        packet::ETH_ARP => arp(ctx, sh, offset),
        packet::ETH_IPV4 => ipv4(ctx, sh, offset),
        packet::ETH_IPV6 => ipv6(ctx, sh, offset),
        _ => Ok(xdp_action::XDP_PASS),
    }
}

#[inline(always)]
fn ipv4(ctx: &XdpContext, sh: &Shared, l3: usize) -> Result<u32, Short> {
    let dst = packet::ipv4(ctx, l3 + 16)?;
    // No options and no fragments: a heartbeat has neither.
    if packet::byte(ctx, l3)? == 0x45
        && packet::byte(ctx, l3 + 9)? == packet::PROTO_UDP
        && packet::be16(ctx, l3 + 6)? & 0x3fff == 0
        && is_heartbeat(ctx, sh, l3 + packet::IPV4_LEN, &dst)
    {
        return Ok(heartbeat::handle(ctx, sh, l3, l3 + packet::IPV4_LEN, false));
    }
    gate(sh, &dst)
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, sh: &Shared, l3: usize) -> Result<u32, Short> {
    let dst = packet::ipv6(ctx, l3 + 24)?;
    let next = packet::byte(ctx, l3 + 6)?;
    let l4 = l3 + packet::IPV6_LEN;
    if next == packet::PROTO_UDP && is_heartbeat(ctx, sh, l4, &dst) {
        return Ok(heartbeat::handle(ctx, sh, l3, l4, true));
    }
    if next == packet::PROTO_ICMPV6 {
        match packet::byte(ctx, l4) {
            Ok(packet::ICMPV6_NS) => {
                let target = packet::ipv6(ctx, l4 + 8)?;
                return gate(sh, &target);
            }
            Ok(packet::ICMPV6_NA) => {
                let target = packet::ipv6(ctx, l4 + 8)?;
                foreign(ctx, sh, &target);
            }
            _ => {}
        }
    }
    gate(sh, &dst)
}

#[inline(always)]
fn arp(ctx: &XdpContext, sh: &Shared, l3: usize) -> Result<u32, Short> {
    // Only Ethernet/IPv4 (RFC 826): hardware 1, protocol 0x0800, lengths 6 and 4.
    if packet::be16(ctx, l3)? != 1 || packet::be16(ctx, l3 + 2)? != packet::ETH_IPV4 || packet::be16(ctx, l3 + 4)? != 0x0604 {
        return Ok(xdp_action::XDP_PASS);
    }
    let sender = packet::ipv4(ctx, l3 + 14)?;
    foreign(ctx, sh, &sender);
    let target = packet::ipv4(ctx, l3 + 24)?;
    // A gratuitous ARP names the VIP as target, too: standbys may drop it, they own nothing to defend.
    gate(sh, &target)
}

/// UDP to our heartbeat port on one of our link addresses: not one that is only passing through to a guest.
#[inline(always)]
fn is_heartbeat(ctx: &XdpContext, sh: &Shared, l4: usize, dst: &AddressKey) -> bool {
    match packet::be16(ctx, l4 + 2) {
        Ok(port) => port as u64 == sh.port.load() && maps::is_link(dst),
        Err(Short) => false,
    }
}

#[inline(always)]
fn gate(sh: &Shared, address: &AddressKey) -> Result<u32, Short> {
    let Some(group) = maps::vip(address) else {
        return Ok(xdp_action::XDP_PASS);
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if sh.gate_open(group as u8, now) {
        maps::count(Counter::GateIn);
        Ok(xdp_action::XDP_PASS)
    } else {
        maps::count(Counter::GateInDrop);
        Ok(xdp_action::XDP_DROP)
    }
}

/// While we own the VIP, nobody else may claim it: tell user space, which announces again.
#[inline(always)]
fn foreign(ctx: &XdpContext, sh: &Shared, address: &AddressKey) {
    let Some(group) = maps::vip(address) else { return };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if !sh.gate_open(group as u8, now) {
        return;
    }
    maps::count(Counter::ForeignClaims);
    let (Some(m), Ok(mac)) = (maps::scratch(), packet::at::<[u8; 6]>(ctx, 6)) else { return };
    *m = agent_common::wire::Message::default();
    // SAFETY: bounds checked by at().
    let mac = unsafe { *mac };
    m.seq = u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]);
    m.re_seq = group as u64;
    let a = address;
    m.set.0[0] = u64::from_le_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    m.set.0[1] = u64::from_le_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    maps::report(RecordKind::ForeignClaim, heartbeat::ifindex(ctx), now, m);
}
