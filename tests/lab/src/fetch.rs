//! A client that fetches pages: one every 5 ms, each on a new TCP connection.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{clock::boot_ns, lab::Station};

/// A page has to be there within this time.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// Pages kept; later ones are not recorded.
const CAPACITY: usize = 100_000;
/// Pages under way at once. More than the deadline lets pile up at one page per 5 ms.
const UNDER_WAY: usize = 400;

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    /// When its connection was begun.
    pub started: u64,
    /// When it was complete or given up.
    pub ended: u64,
    /// The node that served it, or why there is none.
    pub served: Result<String, String>,
}

/// Pages in a window of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pages {
    /// Served.
    pub ok: usize,
    /// Refused, broken or too late.
    pub failed: usize,
    /// The slowest that was served, ns.
    pub slowest_ns: u64,
}

/// A running fetcher; stops on drop.
#[derive(Debug)]
pub struct Fetcher {
    pages: Arc<Mutex<Vec<Page>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fetcher {
    /// Starts fetching `http://address/` from a station.
    ///
    /// # Errors
    /// The thread does not start.
    pub fn start(station: &Station, address: IpAddr, every: Duration) -> Result<Self> {
        let pages = Arc::new(Mutex::new(Vec::with_capacity(CAPACITY)));
        let stop = Arc::new(AtomicBool::new(false));
        let target = SocketAddr::new(address, 80);
        let ns = station.ns.clone();
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("fetcher".into()).spawn({
            let (pages, stop) = (Arc::clone(&pages), Arc::clone(&stop));
            move || {
                let runtime = ns.enter().and_then(|()| {
                    Ok(tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?)
                });
                match runtime {
                    Ok(runtime) => {
                        let _ = ready.send(Ok(()));
                        runtime.block_on(run(target, every, pages, stop));
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            }
        })?;
        started.recv().context("the fetcher did not start")??;
        Ok(Self {
            pages,
            stop,
            thread: Some(thread),
        })
    }

    /// The pages begun in `[from, to)`. A page begun less than [`DEADLINE`] ago may be missing.
    #[must_use]
    pub fn pages(&self, from: u64, to: u64) -> Vec<Page> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages
            .iter()
            .filter(|page| (from..to).contains(&page.started))
            .cloned()
            .collect()
    }

    /// Counts the pages begun in `[from, to)`.
    #[must_use]
    pub fn count(&self, from: u64, to: u64) -> Pages {
        let mut count = Pages::default();
        for page in self.pages(from, to) {
            if page.served.is_ok() {
                count.ok += 1;
                count.slowest_ns = count.slowest_ns.max(page.ended - page.started);
            } else {
                count.failed += 1;
            }
        }
        count
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(
    target: SocketAddr,
    every: Duration,
    pages: Arc<Mutex<Vec<Page>>>,
    stop: Arc<AtomicBool>,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let started = boot_ns();
            let served = match timeout(DEADLINE, fetch(target)).await {
                Ok(Ok(node)) => Ok(node),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no page within the deadline".to_owned()),
            };
            let page = Page {
                started,
                ended: boot_ns(),
                served,
            };
            let mut pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
            if pages.len() < CAPACITY {
                pages.push(page);
            }
            drop(permit);
        });
    }
}

/// One page; its body is the name of the node.
async fn fetch(target: SocketAddr) -> std::io::Result<String> {
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut stream = TcpStream::connect(target).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::with_capacity(512);
    stream.take(4096).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| bad("cut short"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(bad("not 200"));
    }
    match body.trim() {
        "" => Err(bad("empty")),
        node => Ok(node.to_owned()),
    }
}
