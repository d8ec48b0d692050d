//! Commands inside of a guest: the lab's end of the virtio-serial port.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::wire::{Answer, Ask, Ran, Reply, Request};

/// What a small question may take, in a guest that gets little of the processor.
const QUESTION: Duration = Duration::from_secs(20);
/// How much longer than a command's own limit its answer is waited for.
const MARGIN: Duration = Duration::from_secs(10);

/// The way into one guest. Clones share it; any number of questions may be under way.
#[derive(Clone, Debug)]
pub struct Control {
    name: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    out: Mutex<UnixStream>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::SyncSender<Answer>>>,
    /// The boot id that the guest greeted with last.
    life: Mutex<Option<String>>,
    greeted: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Connects to the port of a guest that was just started.
    ///
    /// # Errors
    /// QEMU does not open its socket in time.
    pub fn connect(name: &str, path: &Path, deadline: Duration) -> Result<Self> {
        let stream = connect(path, deadline)?;
        let lines = BufReader::new(stream.try_clone()?);
        let shared = Arc::new(Shared {
            out: Mutex::new(stream),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            life: Mutex::default(),
            greeted: Condvar::new(),
        });
        let reader = Arc::clone(&shared);
        thread::Builder::new()
            .name(format!("control-{name}"))
            .spawn(move || {
                for line in lines.split(b'\n').map_while(std::io::Result::ok) {
                    reader.take(&line);
                }
                // Who waits learns that nothing will come.
                lock(&reader.waiting).clear();
            })?;
        Ok(Self {
            name: name.to_owned(),
            shared,
        })
    }

    /// Waits until the guest has greeted with another boot id than `before`; returns it.
    ///
    /// # Errors
    /// It has not by the deadline.
    pub fn greeted(&self, before: Option<&str>, deadline: Duration) -> Result<String> {
        let life = lock(&self.shared.life);
        let (life, _) = self
            .shared
            .greeted
            .wait_timeout_while(life, deadline, |life| {
                life.is_none() || life.as_deref() == before
            })
            .unwrap_or_else(PoisonError::into_inner);
        match life.as_deref() {
            Some(boot) if Some(boot) != before => Ok(boot.to_owned()),
            _ => bail!("{} is not up after {deadline:?}", self.name),
        }
    }

    /// The boot id of its newest greeting.
    #[must_use]
    pub fn life(&self) -> Option<String> {
        lock(&self.shared.life).clone()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// No answer by the deadline: the guest is dead, frozen or without processor.
    pub fn ask(&self, ask: Ask, deadline: Duration) -> Result<Answer> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = mpsc::sync_channel(1);
        lock(&self.shared.waiting).insert(id, send);
        let mut line = serde_json::to_vec(&Request { id, ask })?;
        line.push(b'\n');
        let sent = lock(&self.shared.out).write_all(&line);
        let answer = sent
            .context("its control port")
            .and_then(|()| Ok(receive.recv_timeout(deadline)?))
            .with_context(|| format!("{} did not answer within {deadline:?}", self.name));
        lock(&self.shared.waiting).remove(&id);
        match answer? {
            Answer::Failed(why) => bail!("{}: {why}", self.name),
            answer => Ok(answer),
        }
    }

    /// Runs a shell script. A bad exit status and a time that is over are no errors.
    ///
    /// # Errors
    /// No answer.
    pub fn run(&self, script: &str, limit: Duration) -> Result<Ran> {
        let ask = Ask::Run {
            script: script.to_owned(),
            limit_ms: u64::try_from(limit.as_millis())?,
        };
        match self.ask(ask, limit + MARGIN)? {
            Answer::Ran(ran) => Ok(ran),
            other => bail!("{}: not an answer to a command: {other:?}", self.name),
        }
    }

    /// Runs a shell script that must end with 0; returns its standard output.
    ///
    /// # Errors
    /// It failed: the error shows what it said.
    pub fn sh(&self, script: &str, limit: Duration) -> Result<String> {
        let ran = self.run(script, limit)?;
        if ran.code == Some(0) {
            return Ok(ran.stdout);
        }
        let how = match (ran.late, ran.code) {
            (true, _) => format!("was not done after {limit:?}"),
            (false, Some(code)) => format!("ended with {code}"),
            (false, None) => "was ended by a signal".to_owned(),
        };
        bail!(
            "{}: `{script}` {how}: {} {}",
            self.name,
            ran.stderr.trim(),
            ran.stdout.trim()
        )
    }

    /// The guest's boot clock, ns.
    ///
    /// # Errors
    /// No answer.
    pub fn clock(&self) -> Result<u64> {
        match self.ask(Ask::Clock, QUESTION)? {
            Answer::Clock(ns) => Ok(ns),
            other => bail!("{}: not a clock: {other:?}", self.name),
        }
    }

    /// A file's text.
    ///
    /// # Errors
    /// It cannot be read, or no answer by the deadline.
    pub fn read(&self, path: &str, deadline: Duration) -> Result<String> {
        let path = path.to_owned();
        match self.ask(Ask::Read { path }, deadline)? {
            Answer::Text(text) => Ok(text),
            other => bail!("{}: not a text: {other:?}", self.name),
        }
    }

    /// Writes a file.
    ///
    /// # Errors
    /// It cannot be written, or no answer.
    pub fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let ask = Ask::Write {
            path: path.to_owned(),
            text: text.to_owned(),
            mode,
        };
        self.ask(ask, QUESTION).map(drop)
    }
}

impl Shared {
    fn take(&self, line: &[u8]) {
        let Ok(reply) = serde_json::from_slice::<Reply>(line) else {
            // Half a line of a life that ended while it spoke.
            return;
        };
        if let Answer::Hello { boot } = reply.answer {
            *lock(&self.life) = Some(boot);
            self.greeted.notify_all();
        } else if let Some(waits) = lock(&self.waiting).remove(&reply.id) {
            let _ = waits.try_send(reply.answer);
        }
    }
}

/// Connects to a socket that a program that was just started is about to open.
///
/// # Errors
/// It is not there by the deadline.
pub fn connect(path: &Path, deadline: Duration) -> Result<UnixStream> {
    let end = Instant::now() + deadline;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("{}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
