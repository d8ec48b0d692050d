//! Reading packets: one bounds-checked accessor, the header offsets, and what XDP_TX needs.

use agent_common::record::AddressKey;
use aya_ebpf::programs::XdpContext;

/// The packet ends before the header does.
pub struct Short;

pub const ETH_LEN: usize = 14;
pub const IPV4_LEN: usize = 20;
pub const IPV6_LEN: usize = 40;
pub const UDP_LEN: usize = 8;

pub const ETH_IPV4: u16 = 0x0800;
pub const ETH_ARP: u16 = 0x0806;
pub const ETH_VLAN: u16 = 0x8100;
pub const ETH_QINQ: u16 = 0x88a8;
pub const ETH_IPV6: u16 = 0x86dd;
pub const PROTO_UDP: u8 = 17;
pub const PROTO_ICMPV6: u8 = 58;
pub const ICMPV6_NS: u8 = 135;
pub const ICMPV6_NA: u8 = 136;

/// VLAN tags and IPv6 extension headers that are looked behind; a frame with more is dropped, as nobody sends it.
pub const MOST_TAGS: usize = 4;
pub const MOST_HEADERS: usize = 4;

/// A pointer to a `T` at `offset`, if all of it is in the packet.
///
/// # Safety of use
/// The pointer may be unaligned and is valid only until the packet is resized.
#[inline(always)]
pub fn at<T>(ctx: &XdpContext, offset: usize) -> Result<*mut T, Short> {
    let start = ctx.data() + offset;
    if start + core::mem::size_of::<T>() > ctx.data_end() {
        return Err(Short);
    }
    Ok(start as *mut T)
}

/// A byte at `offset`.
#[inline(always)]
pub fn byte(ctx: &XdpContext, offset: usize) -> Result<u8, Short> {
    // SAFETY: bounds checked by at().
    Ok(unsafe { *at::<u8>(ctx, offset)? })
}

/// A big-endian 16-bit number at `offset`.
#[inline(always)]
pub fn be16(ctx: &XdpContext, offset: usize) -> Result<u16, Short> {
    // SAFETY: bounds checked by at().
    let b = unsafe { *at::<[u8; 2]>(ctx, offset)? };
    Ok((b[0] as u16) << 8 | b[1] as u16)
}

/// The IPv4 address at `offset`, mapped into IPv6.
#[inline(always)]
pub fn ipv4(ctx: &XdpContext, offset: usize) -> Result<AddressKey, Short> {
    // SAFETY: bounds checked by at().
    Ok(mapped(unsafe { *at::<[u8; 4]>(ctx, offset)? }))
}

/// An IPv4 address mapped into IPv6.
#[inline(always)]
pub fn mapped(a: [u8; 4]) -> AddressKey {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3],
    ]
}

/// The IPv6 address at `offset`.
#[inline(always)]
pub fn ipv6(ctx: &XdpContext, offset: usize) -> Result<AddressKey, Short> {
    // SAFETY: bounds checked by at().
    Ok(unsafe { *at::<[u8; 16]>(ctx, offset)? })
}

/// Type and offset of the network header. The kernel takes any number of tags with VLAN id 0 off before it looks who a
/// frame is for (`__netif_receive_skb_core`), so two are not enough. A type that is still a tag's: too many to read.
#[inline(always)]
pub fn network(ctx: &XdpContext) -> Result<(u16, usize), Short> {
    let mut offset = ETH_LEN;
    let mut proto = be16(ctx, 12)?;
    let mut tags = 0;
    while tags < MOST_TAGS && is_tag(proto) {
        proto = be16(ctx, offset + 2)?;
        offset += 4;
        tags += 1;
    }
    Ok((proto, offset))
}

/// Is it the type of a VLAN tag?
#[inline(always)]
pub fn is_tag(proto: u16) -> bool {
    proto == ETH_VLAN || proto == ETH_QINQ
}

/// Type and offset of what an IPv6 packet carries, behind the extension headers that the stack reads before a neighbour
/// message (RFC 8200: hop-by-hop, routing, destination; in fragments it takes none, RFC 6980). A type that is still
/// one of those: too many to read.
#[inline(always)]
pub fn upper(ctx: &XdpContext, l3: usize) -> Result<(u8, usize), Short> {
    let mut next = byte(ctx, l3 + 6)?;
    let mut offset = l3 + IPV6_LEN;
    let mut headers = 0;
    while headers < MOST_HEADERS && is_extension(next) {
        // Both with one check: the verifier has lost the thread when each had its own.
        // SAFETY: bounds checked by at().
        let head = unsafe { *at::<[u8; 2]>(ctx, offset)? };
        next = head[0];
        offset += 8 + 8 * head[1] as usize;
        headers += 1;
    }
    Ok((next, offset))
}

/// Is it an extension header that may come before a neighbour message?
#[inline(always)]
pub fn is_extension(next: u8) -> bool {
    next == 0 || next == 43 || next == 60
}

/// Swaps `n` bytes at `a` with those at `b`, byte by byte (the verifier refuses a memcpy here).
#[inline(always)]
pub fn swap<const N: usize>(ctx: &XdpContext, a: usize, b: usize) -> Result<(), Short> {
    let (pa, pb) = (at::<[u8; N]>(ctx, a)?, at::<[u8; N]>(ctx, b)?);
    let mut i = 0;
    while i < N {
        // SAFETY: both arrays were bounds checked.
        unsafe {
            let t = (*pa)[i];
            (*pa)[i] = (*pb)[i];
            (*pb)[i] = t;
        }
        i += 1;
    }
    Ok(())
}
