//! What keeps probes within bounds: how many run at once, how much a text may hold, who waits for the disk.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use tokio::{
    net::UdpSocket,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::any_of;

/// So many probes run at once in this process; the next one waits for its turn.
pub const AT_ONCE: usize = 64;
/// So many of them may wait for the disk or the resolver, each in a thread that nothing can end.
const THREADS: usize = 8;
/// Characters of a text for people.
const TEXT: usize = 300;

static SLOTS: Semaphore = Semaphore::const_new(AT_ONCE);
static FILES: Semaphore = Semaphore::const_new(THREADS);
static NAMES: Semaphore = Semaphore::const_new(THREADS);

/// The turn of a probe, for as long as this lives; `None`: it did not come in time.
pub(super) async fn slot(deadline: Instant) -> Option<SemaphorePermit<'static>> {
    timeout_at(deadline, SLOTS.acquire()).await.ok()?.ok()
}

/// A good answer: a line for people, and performance data.
#[derive(Debug)]
pub(super) struct Yes {
    pub text: String,
    pub performance: String,
}

impl Yes {
    pub fn new(text: impl AsRef<str>) -> Yes {
        Yes {
            text: clean(text.as_ref()),
            performance: String::new(),
        }
    }
}

/// No good answer.
#[derive(Debug, PartialEq)]
pub(super) enum No {
    /// The service is at fault.
    Bad(String),
    /// The probe is.
    Unknown(String),
}

impl No {
    pub fn bad(text: impl AsRef<str>) -> No {
        No::Bad(clean(text.as_ref()))
    }

    pub fn unknown(text: impl AsRef<str>) -> No {
        No::Unknown(clean(text.as_ref()))
    }

    /// What a failed system call says about the service.
    pub fn io(what: &str, error: &io::Error) -> No {
        use nix::errno::Errno as E;
        // These are about this machine, not about the other side.
        let ours = [
            E::EMFILE,
            E::ENFILE,
            E::ENOMEM,
            E::ENOBUFS,
            E::EACCES,
            E::EPERM,
            E::EADDRNOTAVAIL,
            E::EADDRINUSE,
            E::EAFNOSUPPORT,
            E::ENODEV,
        ];
        let text = format!("{what}: {error}");
        match error.raw_os_error().map(E::from_raw) {
            Some(e) if ours.contains(&e) => No::unknown(text),
            Some(_) | None => No::bad(text),
        }
    }
}

/// One line without control characters, of bounded length: it goes to logs and terminals.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(TEXT) {
        out.push(if c.is_control() { ' ' } else { c });
    }
    out.trim().to_owned()
}

/// What a probe is doing; said should it not end in time.
#[derive(Debug, Default)]
pub(super) struct Stage(Mutex<(Cow<'static, str>, bool)>);

impl Stage {
    /// It waits for the service.
    pub fn say(&self, doing: impl Into<Cow<'static, str>>) {
        self.set(doing.into(), false);
    }

    /// It waits for something of this machine, which is not the service's fault.
    pub fn ours(&self, doing: impl Into<Cow<'static, str>>) {
        self.set(doing.into(), true);
    }

    fn set(&self, doing: Cow<'static, str>, ours: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (doing, ours);
    }

    pub fn get(&self) -> (String, bool) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (clean(&held.0), held.1)
    }
}

/// Runs what may block, in a thread. A thread that hangs keeps its place, so they do not pile up.
async fn in_thread<T: Send + 'static>(
    places: &'static Semaphore,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, No> {
    let gone = |_| No::unknown("this agent is about to end");
    let place = places
        .acquire()
        .await
        .map_err(|_| No::unknown("this agent is about to end"))?;
    let work = move || {
        let result = work();
        drop(place);
        result
    };
    tokio::task::spawn_blocking(work).await.map_err(gone)
}

/// Reads files, of which the disk may be slow.
pub(super) async fn from_disk<T: Send + 'static>(
    stage: &Stage,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, No> {
    stage.ours(format!("reading {what}"));
    in_thread(&FILES, work).await
}

/// The addresses of a host, by the system's resolver.
pub(super) async fn look_up(
    stage: &Stage,
    host: &str,
    port: u16,
) -> Result<Vec<std::net::SocketAddr>, No> {
    stage.ours(format!("looking {host} up"));
    let name = host.to_owned();
    let work = move || {
        std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), port)).map(Vec::from_iter)
    };
    in_thread(&NAMES, work)
        .await?
        .map_err(|e| No::unknown(format!("cannot look {host} up: {e}")))
}

/// A whole file, if it is a regular one and not longer than `most` bytes.
pub(super) fn read_file(path: &Path, most: usize) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    // Opening a pipe would wait for somebody to write into it.
    let file = File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // As large as it may become: growing would leave copies of a secret behind.
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(most.saturating_add(1)));
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > most {
        return Err(io::Error::other(format!("longer than {most} bytes")));
    }
    Ok(bytes)
}

/// A socket that hears nobody but this server.
pub(super) async fn udp(server: std::net::SocketAddr) -> Result<UdpSocket, No> {
    let cannot = |e: io::Error| No::io(&format!("UDP to {server}"), &e);
    let socket = UdpSocket::bind(any_of(server.ip())).await.map_err(cannot)?;
    socket.connect(server).await.map_err(cannot)?;
    Ok(socket)
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], No> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| No::unknown(format!("no random numbers: {e}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn texts_are_one_short_line() {
        assert_eq!(clean(" a\nb\x1b[31m "), "a b [31m");
        assert_eq!(clean(&"x".repeat(10_000)).len(), TEXT);
    }

    #[test]
    fn our_own_shortages_are_not_the_services_fault() {
        let no = |code: i32| No::io("x", &io::Error::from_raw_os_error(code));
        for code in [libc_code::EMFILE, libc_code::EACCES, libc_code::ENOBUFS] {
            assert!(matches!(no(code as i32), No::Unknown(_)));
        }
        for code in [
            libc_code::ECONNREFUSED,
            libc_code::EHOSTUNREACH,
            libc_code::ECONNRESET,
        ] {
            assert!(matches!(no(code as i32), No::Bad(_)));
        }
    }
    use nix::errno::Errno as libc_code;

    #[tokio::test]
    async fn threads_that_hang_do_not_pile_up() {
        static PLACES: Semaphore = Semaphore::const_new(2);
        let (free, held) = std::sync::mpsc::sync_channel::<()>(8);
        let held = std::sync::Arc::new(Mutex::new(held));
        for _ in 0..2 {
            let held = held.clone();
            let hang = in_thread(&PLACES, move || held.lock().unwrap().recv());
            assert!(
                tokio::time::timeout(Duration::from_millis(50), hang)
                    .await
                    .is_err()
            );
        }
        let third =
            tokio::time::timeout(Duration::from_millis(50), in_thread(&PLACES, || ())).await;
        assert!(third.is_err(), "there was room for a third");
        drop(free);
        in_thread(&PLACES, || ()).await.unwrap();
    }

    #[test]
    fn files_that_are_too_long_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"12345").unwrap();
        assert_eq!(read_file(&file, 5).unwrap().as_slice(), b"12345");
        assert!(read_file(&file, 4).is_err() && read_file(dir.path(), 4).is_err());
    }
}
