//! The control socket: how `heartline status` and its like talk to the running agent.
//!
//! A Unix stream socket; one JSON line per request, one JSON line per reply, several requests per connection.
//! By hand: `echo '{"v":1,"request":"status"}' | socat - UNIX:/run/heartline/control.sock`.
//!
//! ```text
//! cli --> Client --socket--> ControlServer --> dyn Backend (the agent; in tests a fake)
//! ```
//!
//! *Invariant*: the server knows no agent. All it needs is [`Backend`], and it checks names, limits and
//! deadlines before a request gets there.

mod backend;
mod client;
pub mod drbd;
pub mod explain;
pub mod foresee;
pub mod guards;
pub mod proto;
pub mod report;
mod server;
pub mod services;
mod takeover;

pub use backend::{Backend, MoveAccepted, Pending, Target};
pub use client::{Client, ClientError, Following};
pub use server::{BindError, ControlServer, Limits, serve};

use std::path::{Path, PathBuf};

/// Where the agent of a packaged installation listens.
pub const DEFAULT_RUN_DIR: &str = "/run/heartline";

/// The name of the socket in the run directory.
pub const SOCKET_NAME: &str = "control.sock";

/// The Unix group whose members may talk to the agent.
pub const SOCKET_GROUP: &str = "heartline";

/// The control socket in a run directory.
pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET_NAME)
}
