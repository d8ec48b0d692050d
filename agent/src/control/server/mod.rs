//! The control socket, agent side.

mod connection;
mod moves;

use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use nix::unistd::{Gid, Group, chown};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use self::connection::{Connection, line};
use super::backend::Backend;
use super::proto::{Code, Refusal, Reply};

/// Bounds of the server. The defaults are for use; tests take smaller ones.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; one more gets [`Code::Busy`].
    pub connections: usize,
    /// Of these, how many may follow events.
    pub followers: usize,
    /// For reading a request, for answering it and for writing the reply, each.
    pub deadline: Duration,
    /// How long a follower may leave its stream unread before it is dropped.
    pub follower_stall: Duration,
    /// How long requests under way may go on after the server was told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            followers: 32,
            deadline: Duration::from_secs(5),
            follower_stall: Duration::from_secs(600),
            grace: Duration::from_secs(1),
        }
    }
}

/// Why the control socket could not be made.
#[derive(Debug, Error)]
pub enum BindError {
    /// An agent answers there.
    #[error("an agent already answers at {0}: one agent per node")]
    InUse(PathBuf),
    /// There is a file that is not a socket.
    #[error("{0} is in the way and is no socket: remove it")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot make the control socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A bound control socket. Dropping it removes the file.
pub struct ControlServer {
    listener: UnixListener,
    file: SocketFile,
    limits: Limits,
}

/// Binds and serves until `stop` is ready.
///
/// # Errors
/// As [`ControlServer::bind`].
pub async fn serve(
    path: &Path,
    group: &str,
    backend: Arc<dyn Backend>,
    stop: impl Future<Output = ()>,
) -> Result<(), BindError> {
    ControlServer::bind(path, group)
        .await?
        .run(backend, stop)
        .await;
    Ok(())
}

impl ControlServer {
    /// Makes the socket, mode 0660 and of the Unix group `group` (if there is none: root only, with a warning in
    /// the log). A socket file that nobody answers is replaced.
    ///
    /// # Errors
    /// [`BindError`]. Must be called within a tokio runtime.
    pub async fn bind(path: &Path, group: &str) -> Result<Self, BindError> {
        let failed = |source| BindError::Io {
            path: path.to_owned(),
            source,
        };
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) => match timeout(Duration::from_secs(1), UnixStream::connect(path)).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(Err(error)) => return Err(failed(error)),
                // Connected, or a full backlog: somebody has it.
                Ok(Ok(_)) | Err(_) => return Err(BindError::InUse(path.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Under another name until its rights are set; the rename then replaces a stale file in one step.
        let mut new_name = path.as_os_str().to_owned();
        new_name.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new_name);
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new).map_err(failed)?;
        let made = Self::give_to(&new, group).and_then(|()| {
            let inode = std::fs::symlink_metadata(&new)?.ino();
            std::fs::rename(&new, path)?;
            Ok(inode)
        });
        match made {
            Ok(inode) => {
                let file = SocketFile {
                    path: path.to_owned(),
                    inode,
                };
                Ok(Self {
                    listener,
                    file,
                    limits: Limits::default(),
                })
            }
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                Err(failed(error))
            }
        }
    }

    /// Sets other bounds.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Answers until `stop` is ready. Requests under way are then finished (for at most `grace`), followers are
    /// told, and the socket file is gone when this returns. Connections keep their bounds whatever clients do.
    pub async fn run(self, backend: Arc<dyn Backend>, stop: impl Future<Output = ()>) {
        let Self {
            listener,
            file,
            limits,
        } = self;
        let slots = Arc::new(Semaphore::new(limits.connections));
        let (stopping, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            backend,
            limits,
            followers: AtomicUsize::new(0),
            stopped,
        });
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to end.
                    warn!(%error, "control socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        Connection::new(stream, shared).run().await;
                        drop(slot);
                    });
                }
                Err(_) => refuse(stream, limits.connections),
            }
        }
        drop(listener);
        drop(file);
        let _ = stopping.send(true);
        let _ = timeout(limits.grace, async {
            while connections.join_next().await.is_some() {}
        })
        .await;
        connections.shutdown().await;
    }

    fn give_to(path: &Path, group: &str) -> io::Result<()> {
        let owner = match Group::from_name(group) {
            Ok(Some(group)) => Some(group.gid),
            Ok(None) => {
                warn!(
                    "there is no Unix group {group:?}: only root can use the control socket (mend: groupadd --system {group})"
                );
                None
            }
            Err(error) => {
                warn!(%error, "cannot look up the Unix group {group:?}: only root can use the control socket");
                None
            }
        };
        let given = owner.is_some_and(|gid: Gid| match chown(path, None, Some(gid)) {
            Ok(()) => true,
            Err(error) => {
                warn!(%error, "cannot give the control socket to the Unix group {group:?}: only its owner can use it");
                false
            }
        });
        let mode = if given { 0o660 } else { 0o600 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    }
}

/// Tells a connection too many so, without waiting: a fresh socket's buffer takes a line.
fn refuse(stream: UnixStream, connections: usize) {
    let refusal = Refusal::new(
        Code::Busy,
        format!("the agent already has {connections} connections"),
    )
    .help("end some `heartline events --follow`, or try again");
    // Not by tokio, which has not yet looked whether it may write.
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(line(&Reply::<()>::Error(refusal)).as_bytes());
    }
}

/// Removes the socket file at the end, unless another agent has put its own there by now.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

struct Shared {
    backend: Arc<dyn Backend>,
    limits: Limits,
    followers: AtomicUsize,
    stopped: watch::Receiver<bool>,
}
