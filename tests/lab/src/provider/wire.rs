//! What clients say to the services: one request per sequence number, and which answers count. Every answer names the
//! node that gave it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};

/// The secret that clients and RADIUS servers of this lab share.
const SECRET: &[u8] = b"labsecret";

/// A datagram service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagrams {
    /// DNS (RFC 1035): TXT of `node.lab`.
    Dns,
    /// RADIUS: Status-Server (RFC 5997).
    Radius,
    /// SIP: OPTIONS (RFC 3261 section 11).
    Sip,
}

impl Datagrams {
    /// A request. `salt` differs from prober to prober.
    #[must_use]
    pub fn request(self, seq: u32, salt: u64, local: std::net::SocketAddr) -> Vec<u8> {
        match self {
            Self::Dns => dns_request(seq),
            Self::Radius => radius_request(seq, salt),
            Self::Sip => sip_request(seq, salt, local),
        }
    }

    /// The sequence number, as far as it is in the answer (see [`Datagrams::mask`]), and the node that gave it.
    /// `None`: no good answer to a request of this prober. `asked` tells the last request with such a number.
    #[must_use]
    pub fn answer(
        self,
        packet: &[u8],
        salt: u64,
        asked: impl Fn(u32) -> Option<u32>,
    ) -> Option<(u32, String)> {
        match self {
            Self::Dns => dns_answer(packet).and_then(|(id, node)| Some((asked(id)?, node))),
            Self::Radius => {
                let seq = asked(u32::from(*packet.get(1)?))?;
                Some((seq, radius_answer(packet, seq, salt)?))
            }
            Self::Sip => sip_answer(packet, salt),
        }
    }

    /// The bits of a sequence number that an answer carries.
    #[must_use]
    pub const fn mask(self) -> u32 {
        match self {
            Self::Dns => 0xffff,
            Self::Radius => 0xff,
            Self::Sip => u32::MAX,
        }
    }
}

const TXT: u16 = 16;
const IN: u16 = 1;

fn dns_request(seq: u32) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(((seq & 0xffff) as u16).to_be_bytes());
    // Recursion desired; one question.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend(b"\x04node\x03lab\x00");
    packet.extend(TXT.to_be_bytes());
    packet.extend(IN.to_be_bytes());
    packet
}

fn dns_answer(packet: &[u8]) -> Option<(u32, String)> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (flags, answers) = (word(2)?, word(6)?);
    // An answer, no error, something in it.
    if flags & 0x8000 == 0 || flags & 0xf != 0 || answers == 0 {
        return None;
    }
    // Behind the question that we asked: a name (compressed), type, class, TTL, length, then the string.
    let at = 12 + b"\x04node\x03lab\x00".len() + 4;
    if *packet.get(at)? & 0xc0 != 0xc0 || word(at + 2)? != TXT {
        return None;
    }
    let length = usize::from(*packet.get(at + 12)?);
    let text = packet.get(at + 13..at + 13 + length)?;
    Some((u32::from(word(0)?), String::from_utf8(text.to_vec()).ok()?))
}

const STATUS_SERVER: u8 = 12;
const ACCESS_ACCEPT: u8 = 2;
const REPLY_MESSAGE: u8 = 18;
const MESSAGE_AUTHENTICATOR: u8 = 80;

/// Differs from request to request, as identifiers come again after 256.
fn authenticator(seq: u32, salt: u64) -> [u8; 16] {
    let mut sum = Md5::new();
    sum.update(salt.to_be_bytes());
    sum.update(seq.to_be_bytes());
    sum.finalize().into()
}

fn radius_request(seq: u32, salt: u64) -> Vec<u8> {
    let mut packet = vec![STATUS_SERVER, (seq & 0xff) as u8, 0, 38];
    packet.extend(authenticator(seq, salt));
    packet.extend([MESSAGE_AUTHENTICATOR, 18]);
    packet.extend([0; 16]);
    // RFC 5997 section 3: over the packet with itself as zero. HMAC takes keys of any length.
    if let Ok(mut mac) = Hmac::<Md5>::new_from_slice(SECRET) {
        mac.update(&packet);
        packet.truncate(22);
        packet.extend(mac.finalize().into_bytes());
    }
    packet
}

fn radius_answer(packet: &[u8], seq: u32, salt: u64) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let packet = packet.get(..length)?;
    if *packet.first()? != ACCESS_ACCEPT {
        return None;
    }
    // RFC 2865 section 3: who does not know the secret cannot answer.
    let mut sum = Md5::new();
    sum.update(packet.get(..4)?);
    sum.update(authenticator(seq, salt));
    sum.update(packet.get(20..)?);
    sum.update(SECRET);
    if packet.get(4..20)? != <[u8; 16]>::from(sum.finalize()) {
        return None;
    }
    let mut rest = packet.get(20..)?;
    while let [kind, length, ..] = *rest {
        let attribute = rest.get(2..usize::from(length))?;
        if kind == REPLY_MESSAGE {
            return String::from_utf8(attribute.to_vec()).ok();
        }
        rest = rest.get(usize::from(length)..)?;
    }
    None
}

fn sip_request(seq: u32, salt: u64, local: std::net::SocketAddr) -> Vec<u8> {
    format!(
        "OPTIONS sip:lab@lab SIP/2.0\r\n\
         Via: SIP/2.0/UDP {local};rport;branch=z9hG4bK{salt:x}-{seq}\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:client@lab>;tag={salt:x}\r\n\
         To: <sip:lab@lab>\r\n\
         Call-ID: {seq}-{salt:x}@client\r\n\
         CSeq: {} OPTIONS\r\n\
         Content-Length: 0\r\n\r\n",
        (seq & 0x7fff_ffff) + 1
    )
    .into_bytes()
}

fn sip_answer(packet: &[u8], salt: u64) -> Option<(u32, String)> {
    let text = std::str::from_utf8(packet).ok()?;
    let mut lines = text.split("\r\n");
    if !lines.next()?.starts_with("SIP/2.0 200 ") {
        return None;
    }
    let header = |name: &str| {
        text.split("\r\n").find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let (seq, rest) = header("Call-ID")?.split_once('-')?;
    let ours = rest.split_once('@')?.0 == format!("{salt:x}");
    let node = header("Server")?.to_owned();
    ours.then_some(())?;
    Some((seq.parse().ok()?, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_answer_names_its_node() {
        let mut packet = dns_request(0x12345);
        packet[2] = 0x85;
        packet[7] = 1;
        packet.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, 3, 2]);
        packet.extend(b"n2");
        let found = Datagrams::Dns.answer(&packet, 0, Some);
        assert_eq!(found, Some((0x2345, "n2".into())));
        for (at, value) in [(2, 0x05), (3, 3), (7, 0)] {
            let mut bad = packet.clone();
            bad[at] = value;
            assert_eq!(Datagrams::Dns.answer(&bad, 0, Some), None, "byte {at}");
        }
        for length in 0..packet.len() {
            assert_eq!(Datagrams::Dns.answer(&packet[..length], 0, Some), None);
        }
    }

    #[test]
    fn a_radius_answer_needs_the_secret_and_the_request() {
        let mut packet = vec![ACCESS_ACCEPT, 7, 0, 24];
        packet.extend([0; 16]);
        packet.extend([REPLY_MESSAGE, 4, b'n', b'3']);
        let mut sum = Md5::new();
        sum.update(&packet[..4]);
        sum.update(authenticator(7, 9));
        sum.update(&packet[20..]);
        sum.update(SECRET);
        let sum: [u8; 16] = sum.finalize().into();
        packet[4..20].copy_from_slice(&sum);
        assert_eq!(
            Datagrams::Radius.answer(&packet, 9, Some),
            Some((7, "n3".into()))
        );
        // Another request with the same identifier.
        assert_eq!(Datagrams::Radius.answer(&packet, 9, |_| Some(263)), None);
        packet[23] = b'4';
        assert_eq!(Datagrams::Radius.answer(&packet, 9, Some), None);
    }

    #[test]
    fn a_sip_answer_is_a_200_to_our_call() {
        let answer = |status: &str, call: &str| {
            format!(
                "SIP/2.0 {status}\r\nCall-ID: {call}@client\r\nServer: n1\r\nContent-Length: 0\r\n\r\n"
            )
        };
        let ask = |text: String| Datagrams::Sip.answer(text.as_bytes(), 0xab, Some);
        assert_eq!(ask(answer("200 OK", "5-ab")), Some((5, "n1".into())));
        assert_eq!(ask(answer("404 Not here", "5-ab")), None);
        assert_eq!(ask(answer("200 OK", "5-ac")), None);
    }
}
