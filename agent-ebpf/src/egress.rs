//! Egress: frames that use a VIP as their own address leave only while the lease holds.

use agent_common::record::{AddressKey, Counter};
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_ktime_get_boot_ns,
    programs::TcContext,
};

use crate::{maps, packet};

/// Decides about one frame. A read that fails is a frame too short to speak as anybody.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Result<i32, i64> {
    let (proto, l3) = network(ctx)?;
    match proto {
        packet::ETH_ARP => {
            let hw: u64 = ctx.load(l3)?;
            // IPv4 ARP in network order: 00 01 08 00 06 04 xx xx; receivers take hardware 6 (IEEE 802) as well.
            let hw = hw & 0xffff_ffff_ffff;
            if hw != 0x0406_0008_0100 && hw != 0x0406_0008_0600 {
                return Ok(TC_ACT_UNSPEC);
            }
            Ok(gate(right(&packet::mapped(ctx.load(l3 + 14)?)), None))
        }
        packet::ETH_IPV4 => Ok(gate(right(&packet::mapped(ctx.load(l3 + 12)?)), None)),
        packet::ETH_IPV6 => {
            let src: AddressKey = ctx.load(l3 + 8)?;
            let mut target = None;
            match upper(ctx, l3) {
                Ok((packet::PROTO_ICMPV6, l4)) if ctx.load(l4) == Ok(packet::ICMPV6_NA) => {
                    // One without its target claims nothing, but is a frame of `src` all the same.
                    if let Ok(t) = ctx.load::<AddressKey>(l4 + 8) {
                        target = right(&t);
                    }
                }
                Ok((next, _)) if packet::is_extension(next) => target = Some(false),
                Ok(_) | Err(_) => {}
            }
            Ok(gate(right(&src), target))
        }
        packet::ETH_VLAN | packet::ETH_QINQ => Ok(gate(Some(false), None)),
        _ => Ok(TC_ACT_UNSPEC),
    }
}

/// As [`packet::network`]; a tag that is out of band (in the skb) does not shift it.
#[inline(always)]
fn network(ctx: &TcContext) -> Result<(u16, usize), i64> {
    let mut offset = packet::ETH_LEN;
    let mut proto = u16::from_be(ctx.load(12)?);
    let mut tags = 0;
    while tags < packet::MOST_TAGS && packet::is_tag(proto) {
        proto = u16::from_be(ctx.load(offset + 2)?);
        offset += 4;
        tags += 1;
    }
    Ok((proto, offset))
}

/// As [`packet::upper`].
#[inline(always)]
fn upper(ctx: &TcContext, l3: usize) -> Result<(u8, usize), i64> {
    let mut next: u8 = ctx.load(l3 + 6)?;
    let mut offset = l3 + packet::IPV6_LEN;
    let mut headers = 0;
    while headers < packet::MOST_HEADERS && packet::is_extension(next) {
        next = ctx.load(offset)?;
        let length: u8 = ctx.load(offset + 1)?;
        offset += 8 + 8 * length as usize;
        headers += 1;
    }
    Ok((next, offset))
}

/// May this node speak as this address now? None if it is no VIP.
#[inline(always)]
fn right(address: &AddressKey) -> Option<bool> {
    let group = maps::vip(address)?;
    let Some(sh) = maps::state() else {
        maps::count(Counter::NoState);
        return Some(false);
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    Some(sh.gate_open(group as u8, now))
}

/// One VIP that is shut stops a frame, whatever else it names.
#[inline(always)]
fn gate(a: Option<bool>, b: Option<bool>) -> i32 {
    if a == Some(false) || b == Some(false) {
        maps::count(Counter::GateOutDrop);
        return TC_ACT_SHOT;
    }
    if a.is_some() || b.is_some() {
        maps::count(Counter::GateOut);
    }
    TC_ACT_UNSPEC
}
