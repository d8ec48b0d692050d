//! The packet socket that announcements leave by.
//!
//! Frames go through the queueing layer, never round it (no PACKET_QDISC_BYPASS): the egress gate
//! sits there and must see them.

use std::os::fd::{AsRawFd, OwnedFd};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt::SndBuf};

use super::NetError;
use super::frames::Frame;

/// Frames handed to the kernel at once.
pub(crate) const SLICE: usize = 128;
const SEND_BUFFER: usize = 1024 * 1024;

/// A frame and the device it leaves by.
pub(crate) type Outgoing<'a> = (u32, &'a Frame);

/// What became of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Frames the kernel took.
    pub sent: u32,
    /// Frames it refused for good (device down or gone), with the last reason.
    pub failed: u32,
    pub errno: Option<Errno>,
    /// Frames left over because a queue was full: try these again later.
    pub left: usize,
}

/// An AF_PACKET socket that receives nothing.
pub(crate) struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn open() -> Result<Self, NetError> {
        let error = |errno: Errno| NetError::Socket {
            doing: "open a packet socket",
            source: errno.into(),
        };
        // Protocol 0: no frame is ever delivered to it.
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(error)?;
        setsockopt(&fd, SndBuf, &SEND_BUFFER).map_err(error)?;
        Ok(Self(fd))
    }

    /// Sends frames in order, without waiting.
    pub fn send(&self, frames: &ArrayVec<Outgoing<'_>, SLICE>) -> Sent {
        let mut result = Sent {
            sent: 0,
            failed: 0,
            errno: None,
            left: frames.len(),
        };
        while result.left > 0 {
            let Some(rest) = frames.get(frames.len() - result.left..) else {
                break;
            };
            match self.send_some(rest) {
                Ok(0) => break,
                Ok(n) => {
                    result.sent = result
                        .sent
                        .saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                    result.left = result.left.saturating_sub(n);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => break,
                Err(errno) => {
                    result.failed = result.failed.saturating_add(1);
                    result.errno = Some(errno);
                    result.left = result.left.saturating_sub(1);
                }
            }
        }
        result
    }

    /// Sends one frame of any length, without waiting.
    pub fn send_one(&self, ifindex: u32, frame: &[u8]) -> Result<(), Errno> {
        let target = target(ifindex, frame);
        // SAFETY: pointer and length of the frame, and of an address on the stack; the kernel only reads them.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                (&raw const target).cast(),
                libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0),
            )
        };
        Errno::result(sent).map(drop)
    }

    fn send_some(&self, frames: &[Outgoing<'_>]) -> Result<usize, Errno> {
        let mut targets: ArrayVec<libc::sockaddr_ll, SLICE> = ArrayVec::new();
        let mut parts: ArrayVec<libc::iovec, SLICE> = ArrayVec::new();
        let mut headers: ArrayVec<libc::mmsghdr, SLICE> = ArrayVec::new();
        for (ifindex, frame) in frames.iter().take(SLICE) {
            targets.push(target(*ifindex, frame));
            parts.push(libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            });
        }
        for (target, part) in targets.iter_mut().zip(parts.iter_mut()) {
            // SAFETY: all-zero is a valid mmsghdr (null pointers, zero lengths).
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_name = (&raw mut *target).cast();
            header.msg_hdr.msg_namelen =
                libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
            header.msg_hdr.msg_iov = &raw mut *part;
            header.msg_hdr.msg_iovlen = 1;
            headers.push(header);
        }
        let count = libc::c_uint::try_from(headers.len()).unwrap_or(0);
        // SAFETY: `headers` holds `count` entries whose pointers lead into `targets`, `parts` and
        // the frames, all alive and unmoved until the call returns; the kernel only reads frames.
        let sent = unsafe {
            libc::sendmmsg(
                self.0.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        Errno::result(sent).map(|n| usize::try_from(n).unwrap_or(0))
    }
}

fn target(ifindex: u32, frame: &[u8]) -> libc::sockaddr_ll {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut target: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    target.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
    target.sll_ifindex = i32::try_from(ifindex).unwrap_or(0);
    target.sll_halen = 6;
    for (to, from) in target.sll_addr.iter_mut().zip(frame.iter().take(6)) {
        *to = *from;
    }
    // Classifiers look at the skb's protocol, which comes from here.
    if let Some([high, low]) = frame.get(12..14) {
        target.sll_protocol = u16::from_ne_bytes([*high, *low]);
    }
    target
}
