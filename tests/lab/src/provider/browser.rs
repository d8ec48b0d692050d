//! Web clients: one that opens a connection for each page, every 20 ms, and one that keeps a connection open and
//! fetches a page every 20 ms on it.

use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Semaphore,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{clock::boot_ns, lab::Station};

/// Time between two pages.
pub const EVERY: Duration = Duration::from_millis(20);
/// A page that is not there by then is lost. TCP repeats a lost first packet after 1 s.
pub const DEADLINE: Duration = Duration::from_secs(3);
const CAPACITY: usize = 180_000;
/// More than the deadline lets pile up.
const UNDER_WAY: usize = 200;

/// How a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Served, by this node.
    Served(Arc<str>),
    /// The connection was refused.
    Refused,
    /// The connection was reset or closed under it.
    Reset,
    /// Not there in time, or nonsense.
    Lost,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// When it was begun.
    pub sent: u64,
    /// When it ended.
    pub ended: u64,
    /// How.
    pub page: Page,
}

type Fetches = Arc<Mutex<Vec<Fetch>>>;

/// Both clients; they stop on drop.
#[derive(Debug)]
pub struct Browser {
    fresh: Fetches,
    kept: Fetches,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Browser {
    /// Starts both.
    ///
    /// # Errors
    /// The thread does not start.
    pub fn start(station: &Station, target: SocketAddr) -> Result<Self> {
        let (fresh, kept) = (Fetches::default(), Fetches::default());
        let stop = Arc::new(AtomicBool::new(false));
        let ns = station.ns.clone();
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("browser".into()).spawn({
            let (fresh, kept, stop) = (Arc::clone(&fresh), Arc::clone(&kept), Arc::clone(&stop));
            move || {
                let runtime = ns.enter().and_then(|()| {
                    Ok(tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?)
                });
                crate::clock::prober_priority();
                match runtime {
                    Ok(runtime) => {
                        let _ = ready.send(Ok(()));
                        runtime.block_on(async {
                            tokio::join!(
                                new_ones(target, fresh, &stop),
                                one_kept(target, kept, &stop)
                            );
                        });
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            }
        })?;
        started.recv().context("the web clients did not start")??;
        Ok(Self {
            fresh,
            kept,
            stop,
            thread: Some(thread),
        })
    }

    /// Pages on connections of their own, begun in `[from, to)` and ended, in order of their beginning.
    #[must_use]
    pub fn fresh(&self, from: u64, to: u64) -> Vec<Fetch> {
        within(&self.fresh, from, to)
    }

    /// Pages on the kept connection.
    #[must_use]
    pub fn kept(&self, from: u64, to: u64) -> Vec<Fetch> {
        within(&self.kept, from, to)
    }
}

fn within(fetches: &Fetches, from: u64, to: u64) -> Vec<Fetch> {
    let fetches = fetches.lock().unwrap_or_else(PoisonError::into_inner);
    let inside = |fetch: &&Fetch| (from..to).contains(&fetch.sent);
    let mut found: Vec<_> = fetches.iter().filter(inside).cloned().collect();
    found.sort_by_key(|fetch| fetch.sent);
    found
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn note(
    fetches: &Fetches,
    sent: u64,
    result: Result<std::io::Result<String>, tokio::time::error::Elapsed>,
) {
    let page = match result {
        Ok(Ok(node)) => Page::Served(node.into()),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ConnectionRefused => Page::Refused,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof => Page::Reset,
            _ => Page::Lost,
        },
        Err(_) => Page::Lost,
    };
    let mut fetches = fetches.lock().unwrap_or_else(PoisonError::into_inner);
    if fetches.len() < CAPACITY {
        fetches.push(Fetch {
            sent,
            ended: boot_ns(),
            page,
        });
    }
}

async fn new_ones(target: SocketAddr, fetches: Fetches, stop: &AtomicBool) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let fetches = Arc::clone(&fetches);
        tokio::spawn(async move {
            let sent = boot_ns();
            let result = timeout(DEADLINE, async {
                let mut stream = BufReader::new(TcpStream::connect(target).await?);
                page(&mut stream, "close").await
            });
            note(&fetches, sent, result.await);
            drop(permit);
        });
    }
}

async fn one_kept(target: SocketAddr, fetches: Fetches, stop: &AtomicBool) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = None;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let sent = boot_ns();
        let result = timeout(DEADLINE, async {
            let mut stream = match open.take() {
                Some(stream) => stream,
                None => {
                    let stream = TcpStream::connect(target).await?;
                    stream.set_nodelay(true)?;
                    BufReader::new(stream)
                }
            };
            let node = page(&mut stream, "keep-alive").await?;
            open = Some(stream);
            Ok(node)
        });
        note(&fetches, sent, result.await);
    }
}

/// One page; its body is the name of the node.
async fn page(stream: &mut BufReader<TcpStream>, connection: &str) -> std::io::Result<String> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidData, what);
    let request = format!("GET / HTTP/1.1\r\nHost: vip\r\nConnection: {connection}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut length = None;
    let mut first = true;
    loop {
        let mut line = String::new();
        if (&mut *stream).take(4096).read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if first && !line.starts_with("HTTP/1.1 200") {
            return Err(bad("not 200"));
        }
        first = false;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let length = length
        .filter(|length| (1..=64).contains(length))
        .ok_or_else(|| bad("no length"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let node = String::from_utf8(body).map_err(|_| bad("not text"))?;
    Ok(node.trim().to_owned())
}
