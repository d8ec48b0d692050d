//! Numbered rows: the service whose data must not be lost, and its client, which remembers each acknowledged row.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use heartline_lab::{clock, netns::Ns};

use crate::{control::Control, drbd::MOUNT};

mod postgres;
mod sqlite;

pub use sqlite::serve;

/// What keeps the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// SQLite under a small server: next to no start and recovery of its own
    #[default]
    Sqlite,
    /// Debian's PostgreSQL
    Postgres,
}

impl Store {
    /// Its port, on the VIP.
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Sqlite => 7000,
            Self::Postgres => 5432,
        }
    }

    /// The program that starts, stops and shows it.
    #[must_use]
    pub fn control(self) -> &'static str {
        match self {
            Self::Sqlite => "rows-ctl",
            Self::Postgres => "postgres-ctl",
        }
    }

    /// Makes it on the mounted file system, once.
    ///
    /// # Errors
    /// The guest does not do it.
    pub fn create(self, control: &Control) -> Result<()> {
        match self {
            Self::Sqlite => Ok(()),
            Self::Postgres => control.sh("postgres-ctl create", LONG).map(drop),
        }
    }

    /// The rows that are there.
    ///
    /// # Errors
    /// It does not run, or does not answer.
    pub fn found(self, control: &Control) -> Result<Vec<u32>> {
        let text = match self {
            Self::Sqlite => control.sh(
                &format!("sqlite3 {MOUNT}/rows.db 'select number from rows'"),
                LONG,
            ),
            Self::Postgres => control.sh("postgres-ctl rows", LONG),
        }?;
        text.lines()
            .map(|line| {
                line.parse()
                    .with_context(|| format!("a row called {line:?}"))
            })
            .collect()
    }
}

const LONG: Duration = Duration::from_secs(120);

enum Session {
    Sqlite(sqlite::Session),
    Postgres(postgres::Session),
}

impl Session {
    fn open(store: Store, address: SocketAddr) -> Result<Self> {
        Ok(match store {
            Store::Sqlite => Self::Sqlite(sqlite::Session::open(address)?),
            Store::Postgres => Self::Postgres(postgres::Session::open(address)?),
        })
    }

    fn insert(&mut self, number: u32) -> Result<bool> {
        match self {
            Self::Sqlite(session) => session.insert(number),
            Self::Postgres(session) => session.insert(number),
        }
    }
}

/// A row that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub number: u32,
    /// When its acknowledgement came, ns.
    pub at: u64,
}

/// The client.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    rows: Mutex<Vec<Row>>,
    /// Rows sent.
    sent: Mutex<u32>,
}

/// Between two rows.
const PACE: Duration = Duration::from_millis(20);
const CONNECT: Duration = Duration::from_millis(200);
/// Longer than a row takes on a busy machine; while nobody answers, the client is this late to notice who does.
const ANSWER: Duration = Duration::from_millis(400);

impl Writer {
    /// Starts to write, in a namespace, to the VIP.
    ///
    /// # Errors
    /// No thread.
    pub fn start(ns: &Ns, store: Store) -> Result<Self> {
        let address = SocketAddr::from((crate::site::VIP, store.port()));
        let shared = Arc::new(Shared::default());
        let (ns, own) = (ns.clone(), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                if let Err(error) = ns.enter() {
                    eprintln!("lab: the client: {error:#}");
                    return;
                }
                while !own.stop.load(Ordering::Relaxed) {
                    // It is tried again at once, with the next number: the last one is in doubt.
                    if own.write(store, address).is_err() {
                        thread::sleep(Duration::from_millis(10));
                    }
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The rows that were acknowledged so far.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let rows = self.shared.rows.lock();
        rows.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many were sent, acknowledged or not.
    #[must_use]
    pub fn sent(&self) -> u32 {
        *self
            .shared
            .sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops; returns the rows that were acknowledged.
    #[must_use]
    pub fn stop(mut self) -> Vec<Row> {
        self.end();
        self.rows()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// Writes over one connection until it fails.
    fn write(&self, store: Store, address: SocketAddr) -> Result<()> {
        let mut session = Session::open(store, address)?;
        while !self.stop.load(Ordering::Relaxed) {
            let number = {
                let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
                *sent += 1;
                *sent
            };
            if session.insert(number)? {
                let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
                rows.push(Row {
                    number,
                    at: clock::boot_ns(),
                });
            }
            thread::sleep(PACE);
        }
        Ok(())
    }
}

/// The rows that are acknowledged and not among those that were found.
#[must_use]
pub fn lost(acknowledged: &[Row], found: &[u32]) -> Vec<u32> {
    let found: std::collections::BTreeSet<_> = found.iter().copied().collect();
    acknowledged
        .iter()
        .map(|row| row.number)
        .filter(|number| !found.contains(number))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_row_is_seen() {
        let row = |number| Row { number, at: 0 };
        let acknowledged = [row(1), row(2), row(5)];
        assert_eq!(lost(&acknowledged, &[1, 2, 3, 4, 5]), [] as [u32; 0]);
        assert_eq!(lost(&acknowledged, &[1, 5]), [2]);
        assert_eq!(lost(&acknowledged, &[]), [1, 2, 5]);
    }
}
