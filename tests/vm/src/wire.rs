//! What the lab and `heartline-guest` say to each other over the virtio-serial port: one JSON line each.

use serde::{Deserialize, Serialize};

/// Name of the port.
pub const PORT: &str = "heartline.control";
/// Most bytes of a command's output that are kept, of each stream.
pub const MOST_OUTPUT: usize = 4 << 20;

/// A question to a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Comes back with the answer.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// `sh -c SCRIPT`; its process group is killed after `limit_ms`.
    Run {
        /// The script.
        script: String,
        /// Milliseconds.
        limit_ms: u64,
    },
    /// The guest's boot clock.
    Clock,
    /// A file's text.
    Read {
        /// Its path.
        path: String,
    },
    /// Writes a file, folders made on the way.
    Write {
        /// Its path.
        path: String,
        /// All of it.
        text: String,
        /// Permission bits.
        mode: u32,
    },
}

/// An answer of a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Of the request; 0 for a greeting.
    pub id: u64,
    /// The answer.
    pub answer: Answer,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The guest is up; asked for by nobody.
    Hello {
        /// Its boot id: another one is another life.
        boot: String,
    },
    /// A command has ended.
    Ran(Ran),
    /// The boot clock, ns.
    Clock(u64),
    /// A file's text.
    Text(String),
    /// Done.
    Done,
    /// It could not be done.
    Failed(String),
}

/// How a command ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ran {
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// It was killed because its time was over.
    pub late: bool,
    /// How long it ran, ns.
    pub spent_ns: u64,
}
