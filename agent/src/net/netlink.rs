//! The two netlink sockets of the address thread: requests with answers, and the kernel's notices.

use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;
use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::parse::{AddrInfo, Foreign, Item, LinkInfo, Notice, items};
use super::rt::boottime_ns;
use super::{NetError, Text, extras, messages};

/// Requests sent and answered in one go.
pub(crate) const BATCH: usize = 64;
/// How long to wait for the answers to a batch. rtnetlink answers while the request is being sent,
/// so this only ends a wait for an answer that the kernel could not queue.
const ANSWER_DEADLINE_NS: u64 = 200_000_000;
/// How long a dump may take in all.
const DUMP_DEADLINE_NS: u64 = 2_000_000_000;
const DUMP_TRIES: usize = 4;
/// The kernel builds dump datagrams of at most 32 KiB.
const RECEIVE: usize = 64 * 1024;
const MONITOR_BUFFER: usize = 4 * 1024 * 1024;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Refused(Errno),
    /// No answer in time: it may have been done.
    Silent,
}

fn error(doing: &'static str) -> impl FnOnce(std::io::Error) -> NetError {
    move |source| NetError::Socket { doing, source }
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn open() -> Result<Socket, NetError> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(error("open a netlink socket"))?;
    socket.bind_auto().map_err(error("bind a netlink socket"))?;
    socket
        .set_non_blocking(true)
        .map_err(error("set a netlink socket non-blocking"))?;
    Ok(socket)
}

/// The next datagram from the kernel; `None` when there is none now.
fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> Result<Option<()>, Errno> {
    loop {
        buffer.clear();
        match socket.recv_from(buffer, 0) {
            // Only the kernel's word counts.
            Ok((_, from)) if from.port_number() == 0 => return Ok(Some(())),
            Ok(_) => {}
            Err(e) => match errno_of(&e) {
                Errno::EINTR => {}
                Errno::EAGAIN => return Ok(None),
                errno => return Err(errno),
            },
        }
    }
}

/// The socket for requests. Sends can wait for the kernel's RTNL lock, which no deadline reaches;
/// that is why all of this has a thread of its own.
pub(crate) struct Requester {
    socket: Socket,
    seq: u32,
    first: u32,
    out: Vec<u8>,
    /// Where in `out` the last request begins.
    last: usize,
    input: Vec<u8>,
    answers: ArrayVec<Answer, BATCH>,
    text: Option<Text>,
}

impl Requester {
    pub fn open() -> Result<Self, NetError> {
        let socket = open()?;
        // Short answers with the kernel's own words. Older kernels know neither; errno remains.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(error("connect a netlink socket"))?;
        Ok(Self {
            socket,
            seq: 1,
            first: 1,
            out: Vec::with_capacity(BATCH * 160),
            last: 0,
            input: Vec::with_capacity(RECEIVE),
            answers: ArrayVec::new(),
            text: None,
        })
    }

    /// Starts a new batch.
    pub fn begin(&mut self) {
        self.out.clear();
        self.answers.clear();
        self.text = None;
        self.first = self.seq;
    }

    /// Adds a request to the batch; false when the batch is full.
    pub fn push(&mut self, request: &[u8]) -> bool {
        if self.answers.try_push(Answer::Silent).is_err() {
            return false;
        }
        self.last = self.out.len();
        self.out.extend_from_slice(request);
        if let Some(copy) = self.out.get_mut(self.last..) {
            messages::set_sequence(copy, self.seq);
            messages::want_ack(copy, false);
        }
        self.seq = self.seq.wrapping_add(1);
        true
    }

    /// Sends the batch and reads what became of it, one answer per request in order.
    ///
    /// The kernel carries requests out in order, always answers a refused one, and one that was done only if asked to
    /// (netlink(7): NLM_F_ACK). Only the last asks: once it is answered, those before it that were not refused are done.
    /// That holds because an answer that finds no room makes the next read fail (ENOBUFS), never the answers vanish.
    pub fn finish(&mut self) -> ArrayVec<Answer, BATCH> {
        let Some(last) = self.answers.len().checked_sub(1) else {
            return ArrayVec::new();
        };
        if let Some(request) = self.out.get_mut(self.last..) {
            messages::want_ack(request, true);
        }
        if let Err(e) = self.socket.send(&self.out, libc::MSG_DONTWAIT) {
            let errno = errno_of(&e);
            self.answers
                .iter_mut()
                .for_each(|a| *a = Answer::Refused(errno));
            return self.answers.clone();
        }
        let deadline = boottime_ns().saturating_add(ANSWER_DEADLINE_NS);
        let mut complete = false;
        while !complete {
            match receive(&self.socket, &mut self.input) {
                Ok(Some(())) => {}
                Ok(None) if wait(&self.socket, deadline) => continue,
                // ENOBUFS: an answer was lost; whatever is still open stays silent.
                Ok(None) | Err(_) => break,
            }
            for item in items(&self.input) {
                let Notice::Answer { errno, text } = item.notice else {
                    continue;
                };
                let index =
                    usize::try_from(item.seq.wrapping_sub(self.first)).unwrap_or(usize::MAX);
                let Some(slot) = self.answers.get_mut(index) else {
                    continue;
                };
                *slot = if errno == 0 {
                    Answer::Done
                } else {
                    Answer::Refused(Errno::from_raw(errno))
                };
                complete |= index == last;
                if self.text.is_none() {
                    self.text = text;
                }
            }
        }
        if complete {
            for slot in self.answers.iter_mut().filter(|a| **a == Answer::Silent) {
                *slot = Answer::Done;
            }
        }
        self.answers.clone()
    }

    /// The kernel's words for the first refusal of the last batch.
    pub fn text(&self) -> Option<Text> {
        self.text
    }

    /// All devices.
    pub fn links(&mut self) -> Result<Vec<LinkInfo>, NetError> {
        self.dump(&messages::dump_links(), |notice| match notice {
            Notice::Link(info) => Some(info),
            _ => None,
        })
    }

    /// All addresses.
    pub fn addresses(&mut self) -> Result<Vec<AddrInfo>, NetError> {
        self.dump(&messages::dump_addresses(), |notice| match notice {
            Notice::Addr(info) => Some(info),
            _ => None,
        })
    }

    /// Routes and rules with our mark.
    pub fn ours(&mut self) -> Result<Vec<Foreign>, NetError> {
        // Older kernels do not know it; what comes is looked at anyway.
        let _ = self.socket.set_netlink_get_strict_chk(true);
        let mut all = Vec::new();
        let mut result = Ok(());
        for request in extras::dumps() {
            let request = messages::serialize(request, NLM_F_DUMP);
            match self.dump(&request, |notice| match notice {
                Notice::Ours(found) => Some(found),
                _ => None,
            }) {
                Ok(found) => all.extend(found),
                // A kernel without IPv6, or without rules.
                Err(NetError::Dump(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => {}
                Err(e) => result = Err(e),
            }
        }
        let _ = self.socket.set_netlink_get_strict_chk(false);
        result.map(|()| all)
    }

    fn dump<T>(
        &mut self,
        request: &[u8],
        pick: impl Fn(Notice) -> Option<T>,
    ) -> Result<Vec<T>, NetError> {
        let deadline = boottime_ns().saturating_add(DUMP_DEADLINE_NS);
        let mut last = Errno::EINTR;
        for _ in 0..DUMP_TRIES {
            match self.dump_once(request, &pick, deadline) {
                Ok(all) => return Ok(all),
                // Disturbed by a change, or another dump of ours still ends: again.
                Err(errno @ (Errno::EINTR | Errno::EBUSY)) => last = errno,
                Err(errno) => return Err(NetError::Dump(errno)),
            }
        }
        Err(NetError::Dump(last))
    }

    fn dump_once<T>(
        &mut self,
        request: &[u8],
        pick: impl Fn(Notice) -> Option<T>,
        deadline: u64,
    ) -> Result<Vec<T>, Errno> {
        self.begin();
        self.push(request);
        self.socket
            .send(&self.out, libc::MSG_DONTWAIT)
            .map_err(|e| errno_of(&e))?;
        let mut all = Vec::new();
        let mut interrupted = false;
        loop {
            match receive(&self.socket, &mut self.input)? {
                Some(()) => {}
                None if wait(&self.socket, deadline) => continue,
                None => return Err(Errno::ETIMEDOUT),
            }
            for item in items(&self.input).filter(|item| item.seq == self.first) {
                interrupted |= item.interrupted;
                match item.notice {
                    Notice::Done if interrupted => return Err(Errno::EINTR),
                    Notice::Done => return Ok(all),
                    Notice::Answer { errno, .. } if errno != 0 => {
                        return Err(Errno::from_raw(errno));
                    }
                    Notice::Overrun => return Err(Errno::ENOBUFS),
                    notice => all.extend(pick(notice)),
                }
            }
        }
    }
}

/// Waits until the socket is readable; false once the deadline has passed.
fn wait(socket: &Socket, deadline: u64) -> bool {
    let left = deadline.saturating_sub(boottime_ns()).div_ceil(1_000_000);
    let Ok(timeout) = PollTimeout::try_from(left) else {
        return false;
    };
    // SAFETY: the descriptor belongs to `socket`, which outlives this call.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    left > 0
        && matches!(
            poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout),
            Ok(1..) | Err(Errno::EINTR)
        )
}

/// What reading the monitor gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing more now.
    Quiet,
    /// A datagram is in the buffer.
    Datagram,
    /// Notices were lost: read everything anew.
    Lost,
}

/// The socket for notices about devices and addresses.
pub(crate) struct Monitor {
    socket: Socket,
    input: Vec<u8>,
}

impl Monitor {
    pub fn open(buffer: Option<usize>) -> Result<Self, NetError> {
        let socket = open()?;
        let size = buffer.unwrap_or(MONITOR_BUFFER);
        // Room for the echo of many of our own changes; without CAP_NET_ADMIN rmem_max rules.
        if set_receive_buffer(&socket, libc::SO_RCVBUFFORCE, size).is_err() {
            let _ = set_receive_buffer(&socket, libc::SO_RCVBUF, size);
        }
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket
                .add_membership(group)
                .map_err(error("join an rtnetlink group"))?;
        }
        Ok(Self {
            socket,
            input: Vec::with_capacity(RECEIVE),
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to `self.socket`, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    /// Reads the next datagram, without waiting.
    pub fn hear(&mut self) -> Heard {
        match receive(&self.socket, &mut self.input) {
            Ok(Some(())) => Heard::Datagram,
            Ok(None) => Heard::Quiet,
            Err(_) => Heard::Lost,
        }
    }

    /// The messages of the datagram read last, and whether it is malformed.
    pub fn datagram(&self) -> (ArrayVec<Item, 16>, bool) {
        let mut walk = items(&self.input);
        // The kernel sends one notice per datagram; more than 16 would be no kernel of ours.
        let all = walk.by_ref().take(16).collect();
        (all, walk.malformed)
    }
}

fn set_receive_buffer(socket: &Socket, option: libc::c_int, size: usize) -> Result<(), Errno> {
    let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: `size` lives through the call and `length` is its size.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const size).cast(),
            length,
        )
    };
    Errno::result(done).map(drop)
}
