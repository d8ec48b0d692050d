//! A client that asks a datagram service 100 times a second, through its station's own network stack.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::wire::Datagrams;
use crate::{clock::boot_ns, lab::Station};

/// Time between two requests.
pub const EVERY: Duration = Duration::from_millis(10);
/// A later answer is none.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// Half an hour; later requests are not recorded.
const CAPACITY: usize = 180_000;

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// When it was sent.
    pub sent: u64,
    /// When its answer came, and from which node.
    pub answer: Option<(u64, Arc<str>)>,
}

/// A running client; stops on drop.
#[derive(Debug)]
pub struct Asker {
    asks: Arc<Mutex<Vec<Ask>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    /// Starts to ask.
    ///
    /// # Errors
    /// No socket, or the thread does not start.
    pub fn start(station: &Station, kind: Datagrams, target: SocketAddr) -> Result<Self> {
        let socket = station.ns.run(|| {
            let socket = UdpSocket::bind((station.eth0().v4, 0))?;
            socket.connect(target)?;
            Ok(socket)
        })?;
        let local = socket.local_addr()?;
        let asks = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new()
            .name(format!("ask-{kind:?}").to_lowercase())
            .spawn({
                let (asks, stop) = (Arc::clone(&asks), Arc::clone(&stop));
                move || run(kind, &socket, local, &asks, &stop)
            });
        Ok(Self {
            asks,
            stop,
            thread: Some(thread.context("cannot start a client")?),
        })
    }

    /// The requests sent in `[from, to)`. What was sent less than [`DEADLINE`] ago may yet be answered.
    #[must_use]
    pub fn asks(&self, from: u64, to: u64) -> Vec<Ask> {
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        let start = asks.partition_point(|ask| ask.sent < from);
        let end = asks.partition_point(|ask| ask.sent < to);
        asks.get(start..end.max(start)).unwrap_or_default().to_vec()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    kind: Datagrams,
    socket: &UdpSocket,
    local: SocketAddr,
    asks: &Mutex<Vec<Ask>>,
    stop: &AtomicBool,
) {
    crate::clock::prober_priority();
    let salt = boot_ns();
    let every = EVERY.as_nanos() as u64;
    let mut next = boot_ns();
    let mut seq = 0_u32;
    let mut nodes: Vec<Arc<str>> = Vec::new();
    let mut packet = [0_u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let now = boot_ns();
        if now >= next {
            // A client that was not scheduled does not ask twice at once.
            next = now.max(next) - (now - next) % every + every;
            let full = {
                let mut asks = asks.lock().unwrap_or_else(PoisonError::into_inner);
                asks.push(Ask {
                    sent: now,
                    answer: None,
                });
                asks.len() >= CAPACITY
            };
            // Errors of earlier packets (ICMP) come here, too: such a request counts as lost.
            let _ = socket.send(&kind.request(seq, salt, local));
            seq += 1;
            if full {
                return;
            }
            continue;
        }
        let wait = Duration::from_nanos(next - now).max(Duration::from_micros(100));
        if socket.set_read_timeout(Some(wait)).is_err() {
            return;
        }
        let length = match socket.recv(&mut packet) {
            Ok(length) => length,
            Err(error) => {
                // Port unreachable: nobody serves there just now.
                if !matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) {
                    std::thread::sleep(Duration::from_micros(100));
                }
                continue;
            }
        };
        let at = boot_ns();
        // The newest request with these bits.
        let asked = |bits: u32| {
            let last = seq.checked_sub(1)?;
            last.checked_sub(last.wrapping_sub(bits) & kind.mask())
        };
        let Some((number, node)) =
            kind.answer(packet.get(..length).unwrap_or_default(), salt, asked)
        else {
            continue;
        };
        let node = nodes
            .iter()
            .find(|known| ***known == node)
            .cloned()
            .unwrap_or_else(|| {
                let node: Arc<str> = node.into();
                nodes.push(Arc::clone(&node));
                node
            });
        let mut asks = asks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ask) = asks.get_mut(number as usize)
            && ask.answer.is_none()
            && at.saturating_sub(ask.sent) <= DEADLINE.as_nanos() as u64
        {
            ask.answer = Some((at, node));
        }
    }
}
