//! An echo request (RFC 792, RFC 4443).

use std::{
    io,
    net::{IpAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, connect,
    recv, send, setsockopt, socket, sockopt,
};
use smoltcp::wire::Icmpv4Packet;
use tokio::io::{Interest, unix::AsyncFd};

use super::bound::{No, Stage, Yes, random};

/// Header, and eight bytes that only we know.
const ECHO: usize = 16;

/// Good: it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Who is asked.
    pub address: IpAddr,
    /// Only through this device. A link-local IPv6 address needs one.
    pub device: Option<String>,
}

impl Icmp {
    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        let no = |e: io::Error| No::io(&format!("ping {}", self.address), &e);
        let socket = self.open().map_err(|e| match e {
            // A missing device is a missing way, but no word about the other side.
            nix::errno::Errno::ENODEV => No::unknown(format!(
                "no device {}",
                self.device.as_deref().unwrap_or("")
            )),
            e => no(e.into()),
        })?;
        // SAFETY: the OwnedFd inside keeps the descriptor open and unchanged for as long as it is registered.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = socket.map_err(|e| no(e.into()))?;
        let question = echo(self.address.is_ipv6(), &random()?);
        // Type 0 or 129 makes an answer of a question; the checksum was the kernel's to look at.
        let mut answer = question;
        [answer[0], answer[2], answer[3]] = [if self.address.is_ipv6() { 129 } else { 0 }, 0, 0];
        stage.say("no echo");
        let fd = socket.get_ref().as_raw_fd();
        send(fd, &question, MsgFlags::MSG_NOSIGNAL).map_err(|e| no(e.into()))?;
        loop {
            let mut ready = socket.readable().await.map_err(no)?;
            let mut buffer = [0; 256];
            let n = match ready
                .try_io(|_| recv(fd, &mut buffer, MsgFlags::empty()).map_err(io::Error::from))
            {
                Ok(n) => n.map_err(no)?,
                Err(_would_block) => continue,
            };
            let packet = buffer.get(..n).unwrap_or_default();
            if icmp(packet, self.address.is_ipv6()) == Some(answer) {
                return Ok(Yes::new("answers"));
            }
        }
    }

    fn open(&self) -> nix::Result<OwnedFd> {
        let (family, protocol) = match self.address {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Raw, flags, protocol)?;
        let mut scope = 0;
        if let Some(device) = &self.device {
            setsockopt(&fd, sockopt::BindToDevice, &device.into())?;
            scope = nix::net::if_::if_nametoindex(device.as_str())?;
        }
        match self.address {
            IpAddr::V4(a) => connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(a, 0)))?,
            IpAddr::V6(a) => {
                let scope = if a.is_unicast_link_local() { scope } else { 0 };
                connect(
                    fd.as_raw_fd(),
                    &SockaddrIn6::from(SocketAddrV6::new(a, 0, 0, scope)),
                )?;
            }
        }
        Ok(fd)
    }
}

/// Identifier, sequence number and data are random, so that no other answer fits.
fn echo(v6: bool, nonce: &[u8; 12]) -> [u8; ECHO] {
    let mut b = [0; ECHO];
    b[0] = if v6 { 128 } else { 8 };
    b[4..].copy_from_slice(nonce);
    if !v6 {
        // For IPv6 the kernel does it: it knows the source address.
        Icmpv4Packet::new_unchecked(&mut b).fill_checksum();
    }
    b
}

/// The ICMP message of what a raw socket gave, without its checksum, if it has our length.
fn icmp(packet: &[u8], v6: bool) -> Option<[u8; ECHO]> {
    // IPv4 comes with its header, whose length is in the low bits of its first byte.
    let at = if v6 {
        0
    } else {
        usize::from(packet.first()? & 15) * 4
    };
    let mut message: [u8; ECHO] = packet.get(at..)?.try_into().ok()?;
    [message[2], message[3]] = [0, 0];
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_packet_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..100), v6: bool) {
            let _ = icmp(&bytes, v6);
        }
    }
}
