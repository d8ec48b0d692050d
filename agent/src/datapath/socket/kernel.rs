//! The netlink socket to nf_tables.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Instant,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::message::{self, Batch, Dump, Said};

/// The kernel answers while a request is being sent; this only ends a wait for an answer that it could not queue.
const ANSWER: std::time::Duration = std::time::Duration::from_millis(200);

/// A socket for batches and dumps.
pub struct NfTables {
    socket: Socket,
    input: Vec<u8>,
}

impl NfTables {
    /// Opens it in this network namespace.
    ///
    /// # Errors
    /// The kernel has no nfnetlink.
    pub fn open() -> io::Result<NfTables> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        let _ = socket.set_cap_ack(true);
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(NfTables {
            socket,
            input: Vec::with_capacity(64 * 1024),
        })
    }

    /// Makes a batch's changes, all or none.
    ///
    /// # Errors
    /// What the kernel says: ENOENT for an element, set or table that is not there, EPERM without CAP_NET_ADMIN.
    pub fn commit(&mut self, batch: &mut Batch) -> Result<(), Errno> {
        // Answers to an earlier batch that came late are nobody's.
        while self.receive()? {}
        let (bytes, done) = batch.finish();
        let errno = |e: io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        self.socket.send(bytes, libc::MSG_DONTWAIT).map_err(errno)?;
        let late = Instant::now() + ANSWER;
        loop {
            while self.receive()? {
                for said in message::read(&self.input) {
                    match said {
                        Said::Answer(_, errno) if errno != 0 => return Err(Errno::from_raw(errno)),
                        Said::Answer(seq, _) if seq == done => return Ok(()),
                        Said::Answer(..) | Said::Chain(..) | Said::Rule(_) | Said::End => {}
                    }
                }
            }
            self.wait(late)?;
        }
    }

    /// All that the kernel has of a kind in our table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn dump(&mut self, what: Dump) -> Result<Vec<Said>, Errno> {
        while self.receive()? {}
        let errno = |e: io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        self.socket
            .send(&message::dump(what, 1), libc::MSG_DONTWAIT)
            .map_err(errno)?;
        let late = Instant::now() + ANSWER;
        let mut all = Vec::new();
        loop {
            while self.receive()? {
                for said in message::read(&self.input) {
                    match said {
                        Said::End => return Ok(all),
                        Said::Answer(_, errno) if errno != 0 => return Err(Errno::from_raw(errno)),
                        Said::Answer(..) => {}
                        Said::Chain(..) | Said::Rule(_) => all.push(said),
                    }
                }
            }
            self.wait(late)?;
        }
    }

    /// Waits for the next datagram.
    fn wait(&self, late: Instant) -> Result<(), Errno> {
        let left = late.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        // SAFETY: the socket is open for as long as self lives.
        let fd = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Ok(0) => Err(Errno::ETIMEDOUT),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The next datagram; false if there is none now.
    fn receive(&mut self) -> Result<bool, Errno> {
        loop {
            self.input.clear();
            match self.socket.recv_from(&mut self.input, 0) {
                // Only the kernel's word counts.
                Ok((_, from)) if from.port_number() == 0 => return Ok(true),
                Ok(_) => {}
                Err(e) => match e.raw_os_error().map_or(Errno::EIO, Errno::from_raw) {
                    Errno::EINTR => {}
                    Errno::EAGAIN => return Ok(false),
                    errno => return Err(errno),
                },
            }
        }
    }
}
