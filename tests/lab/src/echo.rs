//! ICMP echo messages that carry a probe's number.

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{Icmpv4Message, Icmpv4Packet, Icmpv4Repr},
};

/// Marks the data of our echo messages.
const MAGIC: [u8; 8] = *b"HLPROBE1";
/// Length of an echo message: header, mark, number.
pub const ECHO_LEN: usize = 8 + 8 + 8;

/// The data of probe `index`.
#[must_use]
pub fn data(index: u64) -> [u8; 16] {
    let mut data = [0; 16];
    let (mark, number) = data.split_at_mut(8);
    mark.copy_from_slice(&MAGIC);
    number.copy_from_slice(&index.to_be_bytes());
    data
}

/// The number in the data of one of our messages.
#[must_use]
pub fn index(data: &[u8]) -> Option<u64> {
    let number = data.strip_prefix(&MAGIC)?.get(..8)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// Writes an echo request into `buffer`.
pub fn request_v4(buffer: &mut [u8; ECHO_LEN], ident: u16, index: u64) {
    let repr = Icmpv4Repr::EchoRequest {
        ident,
        seq_no: (index & 0xffff) as u16,
        data: &data(index),
    };
    repr.emit(
        &mut Icmpv4Packet::new_unchecked(&mut buffer[..]),
        &ChecksumCapabilities::default(),
    );
}

/// The number in an echo reply to `ident`.
#[must_use]
pub fn reply_v4(message: &[u8], ident: u16) -> Option<u64> {
    let packet = Icmpv4Packet::new_checked(message).ok()?;
    let ours = packet.msg_type() == Icmpv4Message::EchoReply && packet.echo_ident() == ident;
    if ours { index(packet.data()) } else { None }
}

/// Writes an ICMPv6 echo request into `buffer`; the kernel adds the checksum.
pub fn request_v6(buffer: &mut [u8; ECHO_LEN], ident: u16, number: u64) {
    const ECHO_REQUEST: u8 = 128;
    let [i0, i1] = ident.to_be_bytes();
    let [s0, s1] = ((number & 0xffff) as u16).to_be_bytes();
    let (head, body) = buffer.split_at_mut(8);
    head.copy_from_slice(&[ECHO_REQUEST, 0, 0, 0, i0, i1, s0, s1]);
    body.copy_from_slice(&data(number));
}

/// The number in an ICMPv6 echo reply to `ident`.
#[must_use]
pub fn reply_v6(message: &[u8], ident: u16) -> Option<u64> {
    const ECHO_REPLY: u8 = 129;
    let (head, body) = message.split_at_checked(8)?;
    if head.first() != Some(&ECHO_REPLY) || head.get(4..6)? != ident.to_be_bytes() {
        return None;
    }
    index(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_back_once_it_is_a_reply() {
        let mut buffer = [0; ECHO_LEN];
        request_v4(&mut buffer, 7, 70_000);
        assert_eq!(reply_v4(&buffer, 7), None, "a request is no reply");
        buffer[0] = 0; // echo reply
        assert_eq!(reply_v4(&buffer, 7), Some(70_000));
        assert_eq!(reply_v4(&buffer, 8), None, "another prober's");
        request_v6(&mut buffer, 7, 70_001);
        buffer[0] = 129;
        assert_eq!(reply_v6(&buffer, 7), Some(70_001));
        assert_eq!(reply_v6(&buffer[..12], 7), None);
    }
}
