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
            // Ethernet/IPv4 ARP in network order: 00 01 08 00 06 04 xx xx.
            if hw & 0xffff_ffff_ffff != 0x0406_0008_0100 {
                return Ok(TC_ACT_UNSPEC);
            }
            gate(&packet::mapped(ctx.load(l3 + 14)?))
        }
        packet::ETH_IPV4 => gate(&packet::mapped(ctx.load(l3 + 12)?)),
        packet::ETH_IPV6 => {
            let next: u8 = ctx.load(l3 + 6)?;
            if next == packet::PROTO_ICMPV6 {
                let kind: u8 = ctx.load(l3 + packet::IPV6_LEN)?;
                if kind == packet::ICMPV6_NA {
                    let target: AddressKey = ctx.load(l3 + packet::IPV6_LEN + 8)?;
                    if gate(&target)? == TC_ACT_SHOT {
                        return Ok(TC_ACT_SHOT);
                    }
                }
            }
            gate(&ctx.load(l3 + 8)?)
        }
        _ => Ok(TC_ACT_UNSPEC),
    }
}

/// Type and offset of the network header; a tag that is out of band (in the skb) does not shift it.
#[inline(always)]
fn network(ctx: &TcContext) -> Result<(u16, usize), i64> {
    let proto = u16::from_be(ctx.load(12)?);
    if proto != packet::ETH_VLAN && proto != packet::ETH_QINQ {
        return Ok((proto, packet::ETH_LEN));
    }
    let proto = u16::from_be(ctx.load(16)?);
    if proto != packet::ETH_VLAN && proto != packet::ETH_QINQ {
        return Ok((proto, packet::ETH_LEN + 4));
    }
    Ok((u16::from_be(ctx.load(20)?), packet::ETH_LEN + 8))
}

#[inline(always)]
fn gate(address: &AddressKey) -> Result<i32, i64> {
    let Some(group) = maps::vip(address) else {
        return Ok(TC_ACT_UNSPEC);
    };
    let Some(sh) = maps::state() else {
        return Ok(TC_ACT_SHOT);
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if sh.gate_open(group as u8, now) {
        maps::count(Counter::GateOut);
        Ok(TC_ACT_UNSPEC)
    } else {
        maps::count(Counter::GateOutDrop);
        Ok(TC_ACT_SHOT)
    }
}
