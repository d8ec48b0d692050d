//! One heartbeat-port datagram: size, MAC, then the decision of agent-common; the ack goes back out by XDP_TX.

use agent_common::{
    kernel::{self, Verdict},
    keys::Keys,
    record::{Counter, RecordKind},
    rules::Rules,
    siphash::{Key, Sip},
    state::Shared,
    wire::{ACK_HEAD, BEAT_HEAD, EPOCH_WORD, Form, Kind, Message, RE_WORD, WORDS},
};
use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_boot_ns, programs::XdpContext};

use crate::{
    maps,
    packet::{self, Short, UDP_LEN},
};

/// The device that the frame arrived on.
#[inline(always)]
pub fn ifindex(ctx: &XdpContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

/// Handles the datagram whose UDP header is at `l4`. It never reaches the stack.
#[inline(always)]
pub fn handle(ctx: &XdpContext, sh: &Shared, l3: usize, l4: usize, v6: bool) -> u32 {
    match verdict(ctx, sh, l3, l4, v6) {
        Ok(action) => action,
        Err(counter) => {
            maps::count(counter);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn verdict(ctx: &XdpContext, sh: &Shared, l3: usize, l4: usize, v6: bool) -> Result<u32, Counter> {
    let length = packet::be16(ctx, l4 + 4).map_err(|Short| Counter::Truncated)? as usize;
    let m = maps::scratch().ok_or(Counter::NoState)?;
    let keys = maps::keys().ok_or(Counter::NoState)?;
    let payload = l4 + UDP_LEN;
    const FULL: usize = UDP_LEN + Form::Full.len();
    const BEAT: usize = UDP_LEN + Form::Beat.len();
    const ACK: usize = UDP_LEN + Form::Ack.len();
    match length {
        BEAT => take::<{ Form::Beat.len() / 8 }>(ctx, sh, keys, payload, m, Form::Beat)?,
        ACK => take::<{ Form::Ack.len() / 8 }>(ctx, sh, keys, payload, m, Form::Ack)?,
        FULL => take::<{ Form::Full.len() / 8 }>(ctx, sh, keys, payload, m, Form::Full)?,
        _ if length < FULL => return Err(Counter::Truncated),
        _ => return Err(Counter::Oversized),
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let dev = ifindex(ctx);
    let ack = match kernel::on_message(sh, m, now, Rules::all()) {
        Verdict::Drop(c) => return Err(c),
        Verdict::Done => {
            maps::count(Counter::AcksIn);
            return Ok(xdp_action::XDP_DROP);
        }
        Verdict::Ack => true,
        Verdict::AckAndDeliver => {
            maps::report(RecordKind::Message, dev, now, m);
            true
        }
        Verdict::Deliver => {
            maps::report(RecordKind::Message, dev, now, m);
            false
        }
        Verdict::GateShut => {
            maps::report(RecordKind::GateShut, dev, now, m);
            false
        }
        Verdict::Duplicate => {
            if maps::seldom(maps::Seldom::Duplicate, now) {
                maps::report(RecordKind::DuplicateId, dev, now, m);
            }
            false
        }
        Verdict::Regression => {
            if maps::seldom(maps::Seldom::Past(m.from), now) {
                maps::report(RecordKind::Regression, dev, now, m);
            }
            return Err(Counter::Regressed);
        }
    };
    if m.kind == Kind::Heartbeat as u8 {
        maps::count(Counter::HeartbeatsIn);
    }
    if !ack {
        return Ok(xdp_action::XDP_DROP);
    }
    kernel::make_ack(sh, m, now);
    m.key_id = keys.id();
    m.other_key = keys.other_id();
    let key = keys.signing();
    let sum = if m.form() == Form::Ack {
        write_ack(ctx, m, key, payload, length)
    } else {
        write_full(ctx, m, key, payload)
    }
    .map_err(|Short| Counter::Truncated)?;
    bounce(ctx, m, sum, l3, l4, v6).map_err(|Short| Counter::Truncated)?;
    maps::count(Counter::AcksOut);
    Ok(xdp_action::XDP_TX)
}

/// A word of the packet. BPF loads words at any alignment on the architectures that it is built for, and
/// read_unaligned would be eight loads each.
///
/// # Safety
/// The caller has bounds-checked it.
#[inline(always)]
unsafe fn get(p: *const u64, i: usize) -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(p.add(i)) }
}

/// Checks a datagram of `N` words and copies it into the scratch message, in one go; what costs less comes first.
#[inline(always)]
fn take<const N: usize>(
    ctx: &XdpContext,
    sh: &Shared,
    keys: &Keys,
    payload: usize,
    m: &mut Message,
    form: Form,
) -> Result<(), Counter> {
    let p = packet::at::<[u64; N]>(ctx, payload).map_err(|Short| Counter::Truncated)? as *const u64;
    let names = match form {
        Form::Full | Form::Beat => 6,
        Form::Ack => 5,
    };
    // SAFETY: N words were checked, and each form has more than these.
    let (head, cluster, named) = unsafe { (get(p, 0), get(p, 1), get(p, names)) };
    kernel::precheck_head(sh, head, cluster)?;
    let (version, kind, flags) = ((head >> 16) as u8, (head >> 24) as u8, (head >> 56) as u8);
    if !form.fits(version, kind) {
        return Err(Counter::Truncated);
    }
    let key = keys
        .of(version, flags, (named >> 32) as u16)
        .ok_or(Counter::UnknownKey)?;
    let mut hash = Sip::new(key);
    let to = m as *mut Message as *mut u64;
    match form {
        Form::Full => copy(&mut hash, p, to, WORDS - 1),
        Form::Beat => {
            copy(&mut hash, p, to, BEAT_HEAD);
            zero(to, BEAT_HEAD, EPOCH_WORD);
            // SAFETY: word BEAT_HEAD of N; word EPOCH_WORD of a message.
            unsafe { copy(&mut hash, p.add(BEAT_HEAD), to.add(EPOCH_WORD), 1) };
            zero(to, RE_WORD, WORDS);
        }
        Form::Ack => {
            copy(&mut hash, p, to, ACK_HEAD);
            zero(to, ACK_HEAD, ACK_HEAD + 1);
            // SAFETY: five more words of N; as many of a message.
            unsafe {
                copy(&mut hash, p.add(ACK_HEAD), to.add(ACK_HEAD + 1), 2);
                zero(to, ACK_HEAD + 3, RE_WORD);
                copy(&mut hash, p.add(ACK_HEAD + 2), to.add(RE_WORD), 3);
            }
            zero(to, RE_WORD + 3, WORDS);
        }
    }
    // SAFETY: the last of N words.
    let mac = unsafe { get(p, N - 1) };
    if hash.finish(N - 1) != mac {
        return Err(Counter::Forged);
    }
    m.mac = mac;
    Ok(())
}

/// Copies words out of the packet, taking them into the hash.
#[inline(always)]
fn copy(hash: &mut Sip, from: *const u64, to: *mut u64, n: usize) {
    let mut i = 0;
    while i < n {
        // SAFETY: the caller bounds-checked `n` words of both.
        unsafe {
            let word = get(from, i);
            core::ptr::write_volatile(to.add(i), word);
            hash.word(word);
        }
        i += 1;
    }
}

#[inline(always)]
fn zero(to: *mut u64, from: usize, end: usize) {
    let mut i = from;
    while i < end {
        // SAFETY: the caller's words.
        unsafe { core::ptr::write_volatile(to.add(i), 0) };
        i += 1;
    }
}

/// Writes words of the message over those of the packet, taking them into hash and checksum.
#[inline(always)]
fn write(hash: &mut Sip, sum: &mut u64, from: *const u64, to: *mut u64, n: usize) {
    let mut i = 0;
    while i < n {
        // SAFETY: the caller bounds-checked `n` words of both.
        unsafe {
            let word = core::ptr::read_volatile(from.add(i));
            core::ptr::write_volatile(to.add(i), word);
            hash.word(word);
            *sum = add(*sum, word);
        }
        i += 1;
    }
}

/// An ack of version 1, as long as the heartbeat was. Returns its checksum so far.
#[inline(always)]
fn write_full(ctx: &XdpContext, m: &mut Message, key: Key, payload: usize) -> Result<u64, Short> {
    let to = packet::at::<[u64; WORDS]>(ctx, payload)? as *mut u64;
    let (mut hash, mut sum) = (Sip::new(key), 0);
    write(&mut hash, &mut sum, m.words().as_ptr(), to, WORDS - 1);
    m.mac = hash.finish(WORDS - 1);
    // SAFETY: the last of the words checked.
    unsafe { core::ptr::write_volatile(to.add(WORDS - 1), m.mac) };
    Ok(add(sum, m.mac))
}

/// An ack of version 2. What it is shorter by stays behind it as padding of the Ethernet frame, zeroed: that costs less
/// than a call to shorten the frame, and needs nothing of the driver.
#[inline(always)]
fn write_ack(
    ctx: &XdpContext,
    m: &mut Message,
    key: Key,
    payload: usize,
    length: usize,
) -> Result<u64, Short> {
    const N: usize = Form::Ack.len() / 8;
    const BEAT: usize = Form::Beat.len() / 8;
    if length == UDP_LEN + Form::Full.len() {
        zero(
            packet::at::<[u64; WORDS]>(ctx, payload)? as *mut u64,
            N,
            WORDS,
        );
    } else {
        zero(
            packet::at::<[u64; BEAT]>(ctx, payload)? as *mut u64,
            N,
            BEAT,
        );
    }
    let to = packet::at::<[u64; N]>(ctx, payload)? as *mut u64;
    let from = m.words().as_ptr();
    let (mut hash, mut sum) = (Sip::new(key), 0);
    // SAFETY: N words of the packet and all words of a message.
    unsafe {
        write(&mut hash, &mut sum, from, to, ACK_HEAD);
        write(
            &mut hash,
            &mut sum,
            from.add(ACK_HEAD + 1),
            to.add(ACK_HEAD),
            2,
        );
        write(
            &mut hash,
            &mut sum,
            from.add(RE_WORD),
            to.add(ACK_HEAD + 2),
            3,
        );
        m.mac = hash.finish(N - 1);
        core::ptr::write_volatile(to.add(N - 1), m.mac);
    }
    Ok(add(sum, m.mac))
}

/// Turns the frame around: addresses, ports, lengths and checksums.
#[inline(always)]
fn bounce(
    ctx: &XdpContext,
    m: &Message,
    mut sum: u64,
    l3: usize,
    l4: usize,
    v6: bool,
) -> Result<(), Short> {
    let length = (UDP_LEN + m.form().len()) as u16;
    packet::swap::<6>(ctx, 0, 6)?;
    if v6 {
        packet::swap::<16>(ctx, l3 + 8, l3 + 24)?;
        // SAFETY: bounds checked by at().
        unsafe { *packet::at::<[u8; 2]>(ctx, l3 + 4)? = length.to_be_bytes() };
    } else {
        packet::swap::<4>(ctx, l3 + 12, l3 + 16)?;
        // SAFETY: bounds checked by at().
        unsafe {
            let total = packet::at::<[u8; 2]>(ctx, l3 + 2)?;
            let check = packet::at::<[u8; 2]>(ctx, l3 + 10)?;
            let new = (length + packet::IPV4_LEN as u16).to_be_bytes();
            // RFC 1624: HC' = ~(~HC + ~m + m').
            let old = !u16::from_le_bytes(*check) as u64
                + !u16::from_le_bytes(*total) as u64
                + u16::from_le_bytes(new) as u64;
            *total = new;
            *check = fold(old).to_le_bytes();
        }
    }
    packet::swap::<2>(ctx, l4, l4 + 2)?;
    // SAFETY: bounds checked by at().
    unsafe { *packet::at::<[u8; 2]>(ctx, l4 + 4)? = length.to_be_bytes() };
    let checksum = packet::at::<[u8; 2]>(ctx, l4 + 6)?;
    // IPv4 may leave the UDP checksum out (RFC 768), IPv6 may not (RFC 8200 section 8.1).
    let value = if v6 {
        let addresses = packet::at::<[u64; 4]>(ctx, l3 + 8)? as *const u64;
        let mut i = 0;
        while i < 4 {
            // SAFETY: bounds checked by at().
            sum = add(sum, unsafe { get(addresses, i) });
            i += 1;
        }
        // SAFETY: bounds checked by at().
        let ports = unsafe { *packet::at::<[u8; 4]>(ctx, l4)? };
        sum = add(sum, u32::from_le_bytes(ports) as u64);
        // Length twice (pseudo header and UDP header) and the protocol, all in network order.
        let length = length.to_be() as u64;
        sum = add(
            sum,
            length + length + (packet::PROTO_UDP as u16).to_be() as u64,
        );
        match fold(sum) {
            0 => 0xffff,
            v => v,
        }
    } else {
        0
    };
    // SAFETY: bounds checked by at().
    unsafe { *checksum = value.to_le_bytes() };
    Ok(())
}

/// One's-complement addition of 64-bit words; 2^16 - 1 divides 2^64 - 1, so folding can wait.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let s = a.wrapping_add(b);
    s + (s < a) as u64
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let s = (sum & 0xffff_ffff) + (sum >> 32);
    let s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16);
    let s = (s & 0xffff) + (s >> 16);
    !(s as u16)
}
