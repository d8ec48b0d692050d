//! Numbered rows: the service whose data must not be lost, and its client, which remembers each acknowledged row.
//!
//! The service is SQLite (its own program, durable to the disk with each row) behind a few lines of TCP; the client sends
//! a number per line and gets `ok NUMBER` when the row is committed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use heartline_lab::{clock, netns::Ns};

/// Its port, on the VIP.
pub const PORT: u16 = 7000;

const OPEN: &str = ".bail off\nPRAGMA journal_mode=DELETE;\nPRAGMA synchronous=EXTRA;\n\
                    CREATE TABLE IF NOT EXISTS rows(number INTEGER PRIMARY KEY);\n.print open\n";

/// SQLite, which is asked and answers over pipes.
#[derive(Debug)]
struct Store {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Store {
    fn open(file: &Path) -> Result<Self> {
        let folder = file.parent().context("the file has no folder")?;
        fs::metadata(folder).with_context(|| folder.display().to_string())?;
        let mut child = Command::new("sqlite3")
            .arg("-batch")
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start sqlite3")?;
        let input = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut store = Self {
            child,
            input,
            output,
        };
        store.say(OPEN, "open")?;
        Ok(store)
    }

    /// Sends statements; returns the lines before the word that ends them.
    fn say(&mut self, text: &str, end: &str) -> Result<Vec<String>> {
        self.input.write_all(text.as_bytes())?;
        self.input.flush()?;
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                bail!("sqlite3 has ended: {:?}", self.child.wait()?);
            }
            if line.trim() == end {
                return Ok(said);
            }
            said.push(line.trim().to_owned());
        }
    }

    /// Whether the row is committed. It is looked for in a statement of its own, after the commit.
    fn insert(&mut self, number: u32) -> Result<bool> {
        let said = self.say(
            &format!(
                "INSERT INTO rows VALUES({number});\nSELECT 'row '||number FROM rows WHERE number={number};\n.print end\n"
            ),
            "end",
        )?;
        Ok(said.iter().any(|line| *line == format!("row {number}")))
    }
}

/// The service: does not return unless something is wrong.
///
/// # Errors
/// The address is in use, or SQLite cannot open the file.
pub fn serve(address: &str, file: &Path) -> Result<()> {
    let store = Arc::new(Mutex::new(Store::open(file)?));
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    for stream in listener.incoming() {
        let (stream, store) = (stream?, Arc::clone(&store));
        thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let Ok(mut out) = stream.try_clone() else {
                return;
            };
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let Ok(number) = line.trim().parse::<u32>() else {
                    return;
                };
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                match store.insert(number) {
                    Ok(true) => drop(writeln!(out, "ok {number}")),
                    Ok(false) => drop(writeln!(out, "no {number}")),
                    Err(error) => {
                        eprintln!("rows: {error:#}");
                        // A service without its database is no service.
                        std::process::exit(1);
                    }
                }
            }
        });
    }
    bail!("no more connections")
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
    /// Starts to write, in a namespace, to an address.
    ///
    /// # Errors
    /// No thread.
    pub fn start(ns: &Ns, address: SocketAddr) -> Result<Self> {
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
                    if own.write(address).is_err() {
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
    fn write(&self, address: SocketAddr) -> Result<()> {
        let mut out = TcpStream::connect_timeout(&address, CONNECT)?;
        out.set_nodelay(true)?;
        out.set_read_timeout(Some(ANSWER))?;
        out.set_write_timeout(Some(ANSWER))?;
        let mut answers = BufReader::new(out.try_clone()?);
        while !self.stop.load(Ordering::Relaxed) {
            let number = {
                let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
                *sent += 1;
                *sent
            };
            writeln!(out, "{number}")?;
            let mut line = String::new();
            if answers.read_line(&mut line)? == 0 {
                bail!("closed");
            }
            if line.trim() == format!("ok {number}") {
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
