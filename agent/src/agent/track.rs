//! Targets by which a node judges its network: asked by ICMP echo through one device, each in a task of its own.

use std::{
    collections::BTreeMap,
    io::{Error, ErrorKind, Result},
    mem::size_of,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use smoltcp::wire::Icmpv4Packet;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout_at},
};

use crate::config::Track;

/// Answers that wait for the main task; a task whose answer finds no room waits with it.
const QUEUE: usize = 64;
/// Echo header, and eight bytes that only we know.
const ECHO: usize = 16;

/// Where a target stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Too little is known.
    #[default]
    Unknown,
    /// It answers.
    Answers,
    /// It did not answer so often in a row that this counts.
    Silent,
}

/// Counts answers. Pure.
#[derive(Clone, Copy, Debug, Default)]
struct Judge {
    standing: Standing,
    /// Outcomes in a row that speak against the standing.
    against: u32,
}

impl Judge {
    fn hear(&mut self, answered: bool, fall: u32, rise: u32) -> Standing {
        let (other, needed) = match (self.standing, answered) {
            (Standing::Answers, true) | (Standing::Silent, false) => {
                self.against = 0;
                return self.standing;
            }
            // The first answer is as good as any; the first silence may be our own start.
            (Standing::Unknown, true) => (Standing::Answers, 1),
            (Standing::Silent, true) => (Standing::Answers, rise),
            (Standing::Unknown | Standing::Answers, false) => (Standing::Silent, fall),
        };
        self.against += 1;
        if self.against >= needed {
            (self.standing, self.against) = (other, 0);
        }
        self.standing
    }
}

/// All targets of this node.
pub struct Targets {
    running: BTreeMap<Track, (AbortHandle, Judge)>,
    tell: mpsc::Sender<(Track, bool)>,
    told: mpsc::Receiver<(Track, bool)>,
}

impl Default for Targets {
    fn default() -> Self {
        let (tell, told) = mpsc::channel(QUEUE);
        Targets {
            running: BTreeMap::new(),
            tell,
            told,
        }
    }
}

impl Targets {
    /// Asks these from now on, and no others; what is known of those that stay is kept.
    pub fn set(&mut self, tracks: Vec<Track>) {
        self.running.retain(|track, (task, _)| {
            let stays = tracks.contains(track);
            if !stays {
                task.abort();
            }
            stays
        });
        for track in tracks {
            if !self.running.contains_key(&track) {
                let task = tokio::spawn(run(track.clone(), self.tell.clone()));
                self.running
                    .insert(track, (task.abort_handle(), Judge::default()));
            }
        }
    }

    /// Waits for an answer, or for its absence, and counts it.
    pub async fn hear(&mut self) {
        if let Some((track, answered)) = self.told.recv().await
            && let Some((_, judge)) = self.running.get_mut(&track)
        {
            judge.hear(answered, track.fall, track.rise);
        }
    }

    /// Where a target stands.
    pub fn standing(&self, track: &Track) -> Standing {
        self.running
            .get(track)
            .map_or(Standing::Unknown, |(_, judge)| judge.standing)
    }
}

async fn run(track: Track, tell: mpsc::Sender<(Track, bool)>) {
    let interval = Duration::from_nanos(track.interval_ns);
    let mut socket = None;
    let mut seq = 0u16;
    loop {
        let next = Instant::now() + interval;
        seq = seq.wrapping_add(1);
        let answered = match ask(&mut socket, &track, seq, next).await {
            Ok(()) => true,
            Err(e) => {
                tracing::debug!("{track}: {e}");
                // The device may be another one of the same name by now.
                socket = None;
                false
            }
        };
        if tell.send((track.clone(), answered)).await.is_err() {
            return;
        }
        sleep_until(next).await;
    }
}

async fn ask(
    socket: &mut Option<AsyncFd<OwnedFd>>,
    track: &Track,
    seq: u16,
    until: Instant,
) -> Result<()> {
    let fd = match socket {
        Some(fd) => fd,
        None => socket.insert(open(track)?),
    };
    let mut nonce = [0u8; 10];
    getrandom::fill(&mut nonce).map_err(Error::other)?;
    let question = echo(track.ping.is_ipv6(), seq, &nonce);
    let mut answer = question;
    answer[0] = if track.ping.is_ipv6() { 129 } else { 0 };
    (answer[2], answer[3]) = (0, 0);
    send(fd.get_ref(), &question)?;
    let hear = async {
        loop {
            let mut ready = fd.readable().await?;
            match receive(fd.get_ref(), track.ping.is_ipv6()) {
                Ok(mut found) => {
                    // The checksum was the kernel's to look at.
                    (found[2], found[3]) = (0, 0);
                    if found == answer {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                Err(e) => return Err(e),
            }
        }
    };
    timeout_at(until, hear)
        .await
        .unwrap_or_else(|_| Err(Error::from(ErrorKind::TimedOut)))
}

/// An echo request (RFC 792, RFC 4443): identifier and data are random, so that no other answer fits.
fn echo(v6: bool, seq: u16, nonce: &[u8; 10]) -> [u8; ECHO] {
    let mut b = [0u8; ECHO];
    b[0] = if v6 { 128 } else { 8 };
    b[4..6].copy_from_slice(&nonce[..2]);
    b[6..8].copy_from_slice(&seq.to_be_bytes());
    b[8..].copy_from_slice(&nonce[2..]);
    if !v6 {
        // For IPv6 the kernel does it: it knows the source address.
        Icmpv4Packet::new_unchecked(&mut b).fill_checksum();
    }
    b
}

/// A raw socket tied to device and target: route and source address are the kernel's choice among those of the device.
fn open(track: &Track) -> Result<AsyncFd<OwnedFd>> {
    let (family, protocol) = match track.ping {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
    };
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(family, kind, protocol) } as isize)?;
    // SAFETY: it was just made, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let name = track.device.as_bytes();
    // SAFETY: the pointer and the length are those of `name`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    } as isize)?;
    connect(&fd, track)?;
    // SAFETY: the OwnedFd inside keeps the descriptor open and unchanged for as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? })
}

fn connect(fd: &OwnedFd, track: &Track) -> Result<()> {
    let done = match track.ping {
        IpAddr::V4(a) => {
            let to = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(a.octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: a whole sockaddr_in that outlives the call.
            unsafe {
                libc::connect(
                    fd.as_raw_fd(),
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_in>() as libc::socklen_t,
                )
            }
        }
        IpAddr::V6(a) => {
            let scope = if a.is_unicast_link_local() {
                nix::net::if_::if_nametoindex(track.device.as_str())?
            } else {
                0
            };
            let to = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: a.octets(),
                },
                sin6_scope_id: scope,
            };
            // SAFETY: as above.
            unsafe {
                libc::connect(
                    fd.as_raw_fd(),
                    (&raw const to).cast(),
                    size_of::<libc::sockaddr_in6>() as libc::socklen_t,
                )
            }
        }
    };
    check(done as isize).map(drop)
}

fn send(fd: &OwnedFd, bytes: &[u8]) -> Result<()> {
    // SAFETY: the pointer and the length are those of `bytes`, which outlives the call.
    check(unsafe {
        libc::send(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    })
    .map(drop)
}

/// The head of the next ICMP message; zeros if it is shorter.
fn receive(fd: &OwnedFd, v6: bool) -> Result<[u8; ECHO]> {
    let mut buffer = [0u8; 128];
    // SAFETY: the pointer and the length are those of `buffer`.
    let n = check(unsafe {
        libc::recv(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC,
        )
    })?;
    // IPv4 comes with its header, whose length is in the low bits of its first byte.
    let at = if v6 {
        0
    } else {
        usize::from(buffer[0] & 15) * 4
    };
    let mut head = [0u8; ECHO];
    if n == at + ECHO
        && let Some(found) = buffer.get(at..at + ECHO)
    {
        head.copy_from_slice(found);
    }
    Ok(head)
}

fn check(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(judge: &mut Judge, all: &[bool]) -> Standing {
        all.iter()
            .fold(judge.standing, |_, ok| judge.hear(*ok, 3, 2))
    }

    #[test]
    fn thresholds_count_in_a_row_only() {
        let mut j = Judge::default();
        assert_eq!(hear(&mut j, &[false, false]), Standing::Unknown);
        assert_eq!(hear(&mut j, &[true]), Standing::Answers);
        assert_eq!(
            hear(&mut j, &[false, false, true, false, false]),
            Standing::Answers
        );
        assert_eq!(hear(&mut j, &[false]), Standing::Silent);
        assert_eq!(hear(&mut j, &[true, false, true]), Standing::Silent);
        assert_eq!(hear(&mut j, &[true]), Standing::Answers);
        let mut j = Judge::default();
        assert_eq!(hear(&mut j, &[false, false, false]), Standing::Silent);
    }

    #[test]
    fn questions_are_as_the_standards_say() {
        let v4 = echo(false, 0x0102, &[9; 10]);
        assert_eq!(v4[..2], [8, 0]);
        assert_eq!(v4[6..8], [1, 2]);
        let sum: u32 = v4
            .chunks(2)
            .map(|p| u32::from(p[0]) << 8 | u32::from(p[1]))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "RFC 1071");
        assert_eq!(echo(true, 1, &[9; 10])[..4], [128, 0, 0, 0]);
    }

    #[tokio::test]
    async fn loopback_answers_and_a_device_that_is_not_there_does_not() {
        for (ping, device, answers) in [
            ("127.0.0.1", "lo", true),
            ("::1", "lo", true),
            ("127.0.0.1", "hl-none", false),
        ] {
            let track = Track {
                ping: ping.parse().unwrap(),
                device: device.into(),
                interval_ns: 2_000_000_000,
                fall: 1,
                rise: 1,
            };
            let mut targets = Targets::default();
            targets.set(vec![track.clone()]);
            targets.hear().await;
            let want = if answers {
                Standing::Answers
            } else {
                Standing::Silent
            };
            assert_eq!(
                targets.standing(&track),
                want,
                "{track} (needs CAP_NET_RAW)"
            );
            targets.set(Vec::new());
            assert_eq!(targets.standing(&track), Standing::Unknown);
        }
    }
}
