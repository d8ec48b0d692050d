//! Egress: frames that use a VIP as their own address leave only while the lease holds.

use agent_common::record::{AddressKey, Counter, VIP_GATEWAY};
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_ktime_get_boot_ns,
    programs::TcContext,
};

use crate::{maps, packet};

/// Decides about one frame. A read that fails is a frame too short to speak as anybody.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Result<i32, i64> {
    // Switches learn a virtual MAC from whatever is sent with it, and must learn it from the owner only.
    let me: [u8; 6] = ctx.load(6)?;
    let speaker = maps::vmac(&me);
    if let Some(group) = speaker
        && gate(open(group), None) == TC_ACT_SHOT
    {
        return Ok(TC_ACT_SHOT);
    }
    let (proto, l3) = network(ctx)?;
    match proto {
        packet::ETH_ARP => arp(ctx, l3, speaker),
        packet::ETH_IPV4 => Ok(gate(right(&packet::mapped(ctx.load(l3 + 12)?)), None)),
        packet::ETH_IPV6 => {
            let src: AddressKey = ctx.load(l3 + 8)?;
            let mut target = None;
            match upper(ctx, l3) {
                Ok((packet::PROTO_ICMPV6, l4)) if ctx.load(l4) == Ok(packet::ICMPV6_NA) => {
                    // One without its target claims nothing, but is a frame of `src` all the same.
                    if let Ok(t) = ctx.load::<AddressKey>(l4 + 8)
                        && let Some(vip) = maps::vip(&t)
                    {
                        if is_impostor(vip, speaker) {
                            return Ok(gate(Some(false), None));
                        }
                        target = open(vip);
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

#[inline(always)]
fn arp(ctx: &TcContext, l3: usize, speaker: Option<u32>) -> Result<i32, i64> {
    let hw: u64 = ctx.load(l3)?;
    // IPv4 ARP in network order: 00 01 08 00 06 04 00 op; receivers take hardware 6 (IEEE 802) as well.
    let kind = hw & 0xffff_ffff_ffff;
    if kind != 0x0406_0008_0100 && kind != 0x0406_0008_0600 {
        return Ok(TC_ACT_UNSPEC);
    }
    let sender: [u8; 4] = ctx.load(l3 + 14)?;
    let Some(vip) = maps::vip(&packet::mapped(sender)) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if is_impostor(vip, speaker) {
        // One that is cut off before its target would be filled up with zeros on its way.
        let Ok(target) = ctx.load::<[u8; 4]>(l3 + 24) else {
            return Ok(gate(Some(false), None));
        };
        // An answer or an announcement with another MAC would undo the virtual one in every cache. (Linux answers for any
        // of its addresses on any device, unless arp_ignore says otherwise.)
        if hw >> 56 != ARP_REQUEST || target == sender || open(vip) != Some(true) {
            return Ok(gate(Some(false), None));
        }
        // A question is needed: Linux asks in the name of whatever address it is about to send from, on whatever device.
        // Asked in nobody's name (RFC 5227) it is answered all the same, and teaches the asked nothing wrong.
        if ctx.store(l3 + 14, &[0u8; 4], 0).is_err() {
            return Ok(gate(Some(false), None));
        }
        maps::count(Counter::GateOut);
        return Ok(TC_ACT_UNSPEC);
    }
    Ok(gate(open(vip), None))
}

const ARP_REQUEST: u64 = 1;

/// Does somebody speak for a gateway VIP with another MAC than its virtual one?
#[inline(always)]
fn is_impostor(vip: u32, speaker: Option<u32>) -> bool {
    vip & VIP_GATEWAY != 0 && speaker.map(|group| group & 0xff) != Some(vip & 0xff)
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
    open(maps::vip(address)?)
}

/// Is the gate of the group in the low byte open now?
#[inline(always)]
fn open(group: u32) -> Option<bool> {
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
