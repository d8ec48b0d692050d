//! The fence device: what `fence_heartline_qmp` in the guests talks to over the network, as an IPMI board or a power
//! strip would be; it ends a guest through a monitor of its own.
//!
//! One line in, one line out: `off n1` -> `ok off`. What it did is kept, with the time.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use heartline_lab::{clock, netns::Ns};

use crate::{qmp::Qmp, site};

/// Where it listens.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(site::CLIENT, 7100);
const LINE: Duration = Duration::from_secs(5);
const MONITOR: Duration = Duration::from_millis(500);

/// How the device behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// It does what it is told.
    Works,
    /// It takes the connection and says nothing.
    Hangs,
    /// It closes the connection.
    Dead,
    /// It says "ok" and does nothing.
    Lies,
}

/// One thing that it did.
#[derive(Clone, Debug)]
pub struct Deed {
    /// When it was done, ns.
    pub at: u64,
    /// `off n1`.
    pub order: String,
    /// What it answered.
    pub answer: String,
}

/// The running device. Its thread lives as long as the process.
#[derive(Clone, Debug)]
pub struct Device {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    mood: AtomicU8,
    deeds: Mutex<Vec<Deed>>,
}

impl Device {
    /// Opens it in the client's namespace; `dir` is the place's folder, where the guests' sockets are.
    ///
    /// # Errors
    /// The address is in use.
    pub fn start(ns: &Ns, dir: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            mood: AtomicU8::new(Mood::Works as u8),
            deeds: Mutex::default(),
        });
        let listener = ns.run(|| TcpListener::bind(ADDRESS).context("the fence device"))?;
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("fence-device".into())
            .spawn(move || {
                for stream in listener.incoming().filter_map(std::io::Result::ok) {
                    let shared = Arc::clone(&own);
                    thread::spawn(move || shared.serve(stream));
                }
            })?;
        Ok(Self { shared })
    }

    /// From now on it behaves so.
    pub fn set(&self, mood: Mood) {
        self.shared.mood.store(mood as u8, Ordering::Relaxed);
    }

    /// What it did, oldest first.
    #[must_use]
    pub fn deeds(&self) -> Vec<Deed> {
        let deeds = self.shared.deeds.lock();
        deeds.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mood = self.mood.load(Ordering::Relaxed);
        let is = |other: Mood| mood == other as u8;
        if is(Mood::Dead) {
            return;
        }
        let _ = stream.set_read_timeout(Some(LINE));
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        if reader.read_line(&mut line).is_err() {
            return;
        }
        if is(Mood::Hangs) {
            // Longer than anybody waits.
            thread::sleep(Duration::from_secs(120));
            return;
        }
        let order = line.trim();
        let answer = match order.split_whitespace().collect::<Vec<_>>()[..] {
            [verb, _] if is(Mood::Lies) => {
                format!("ok {}", if verb == "status" { "off" } else { verb })
            }
            ["monitor"] => "ok".to_owned(),
            [verb, node] => self
                .obey(verb, node)
                .unwrap_or_else(|error| format!("error {error:#}").replace('\n', " ")),
            _ => "error not understood".to_owned(),
        };
        if !order.starts_with("monitor") {
            let mut deeds = self.deeds.lock().unwrap_or_else(PoisonError::into_inner);
            deeds.push(Deed {
                at: clock::boot_ns(),
                order: order.to_owned(),
                answer: answer.clone(),
            });
        }
        let _ = writeln!(reader.get_mut(), "{answer}");
    }

    fn obey(&self, verb: &str, node: &str) -> Result<String> {
        let known = node.len() <= 8 && node.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let socket = self.dir.join(format!("{node}.fence"));
        if !known || !self.dir.join(format!("{node}.disk")).exists() {
            bail!("no machine {node:?}");
        }
        // Nobody listens at the socket of a QEMU that has ended.
        let on = std::os::unix::net::UnixStream::connect(&socket).is_ok();
        match verb {
            "status" => Ok(format!("ok {}", if on { "on" } else { "off" })),
            "off" => {
                if on {
                    Qmp::connect(&socket, MONITOR)?.call("quit")?;
                    let end = std::time::Instant::now() + LINE;
                    while std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                        if std::time::Instant::now() > end {
                            bail!("{node} does not go off");
                        }
                        thread::sleep(Duration::from_millis(2));
                    }
                }
                Ok("ok off".to_owned())
            }
            "reboot" if on => {
                let mut qmp = Qmp::connect(&socket, MONITOR)?;
                qmp.call("system_reset")?;
                // A frozen machine does not reset until it goes on; nothing of its old life is left in it then.
                qmp.call("cont")?;
                Ok("ok reboot".to_owned())
            }
            "reboot" => bail!("{node} is off, and only the lab switches it on"),
            _ => bail!("cannot {verb:?}"),
        }
    }
}
