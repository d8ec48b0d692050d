//! The control socket, agent side.

use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, chown};
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::backend::{Backend, Target};
use super::proto::{
    Code, MAX_EVENTS, MAX_REQUEST, MAX_WAIT_MS, MoveReply, Refusal, Reply, Request, StatusReport,
    StreamLine, parse_request, too_large,
};
use crate::events::Followed;

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

struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    peer: Option<(u32, i32)>,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
}

/// The connection is of no more use.
struct Gone;

impl Connection {
    fn new(stream: UnixStream, shared: Arc<Shared>) -> Self {
        let peer = stream
            .peer_cred()
            .ok()
            .map(|cred| (cred.uid(), cred.pid().unwrap_or(0)));
        let (reader, writer) = stream.into_split();
        let stopped = shared.stopped.clone();
        Self {
            reader: BufReader::new(reader),
            writer,
            peer,
            shared,
            stopped,
        }
    }

    async fn run(mut self) {
        let mut buffer = Vec::new();
        loop {
            let read = {
                let mut stopped = self.stopped.clone();
                tokio::select! {
                    read = timeout(self.shared.limits.deadline, read_line(&mut self.reader, &mut buffer)) => read,
                    _ = stopped.wait_for(|stopped| *stopped) => return,
                }
            };
            let outcome = match read {
                Ok(Ok(Line::Full)) => self.answer(&buffer).await,
                Ok(Ok(Line::End)) => return,
                Ok(Ok(Line::TooLong)) => {
                    // What follows is the rest of that line: there is no way back into step.
                    let _ = self.send(&Reply::<()>::Error(too_large())).await;
                    return;
                }
                Ok(Err(error)) => {
                    debug!(%error, "control connection failed");
                    return;
                }
                Err(_) => {
                    let refusal =
                        Refusal::new(Code::Timeout, "no request within the deadline; closing");
                    let _ = self.send(&Reply::<()>::Error(refusal)).await;
                    return;
                }
            };
            if let Err(Gone) = outcome {
                return;
            }
        }
    }

    async fn answer(&mut self, request: &[u8]) -> Result<(), Gone> {
        let request = match parse_request(request) {
            Ok(request) => request,
            Err(refusal) => return self.send(&Reply::<()>::Error(refusal)).await,
        };
        if request.changes_something() {
            let (uid, pid) = self
                .peer
                .map_or((None, None), |(uid, pid)| (Some(uid), Some(pid)));
            info!(
                uid,
                pid,
                request = request.name(),
                "asked over the control socket: {request:?}"
            );
        }
        let shared = self.shared.clone();
        let backend = &*shared.backend;
        match request {
            Request::Ping => self.reply(backend.ping()).await,
            Request::Status => self.reply(backend.status()).await,
            Request::Explain { group } => {
                self.reply(async {
                    let group = find_group(&backend.status().await?, &group)?;
                    backend.explain(group).await
                })
                .await
            }
            Request::Move {
                group,
                node,
                wait_ms,
            } => self.move_group(backend, &group, &node, wait_ms).await,
            Request::Drain { node } => self.drain(backend, &node, true).await,
            Request::Undrain { node } => self.drain(backend, &node, false).await,
            Request::Pause => self.reply(backend.set_paused(true)).await,
            Request::Resume => self.reply(backend.set_paused(false)).await,
            Request::Restart => self.reply(backend.restart()).await,
            Request::Reload => self.reply(backend.reload()).await,
            Request::Events {
                follow,
                since_seq,
                limit,
            } => {
                let limit =
                    usize::try_from(limit.unwrap_or(MAX_EVENTS).min(MAX_EVENTS)).unwrap_or(0);
                if follow {
                    self.follow(backend, since_seq, limit).await
                } else {
                    let page = backend.events().page(since_seq, limit);
                    self.send(&Reply::Ok(page)).await
                }
            }
        }
    }

    async fn drain(
        &mut self,
        backend: &dyn Backend,
        node: &str,
        drained: bool,
    ) -> Result<(), Gone> {
        self.reply(async {
            let node = find_node(&backend.status().await?, node)?;
            backend.set_drained(node, drained).await
        })
        .await
    }

    async fn move_group(
        &mut self,
        backend: &dyn Backend,
        group: &str,
        node: &str,
        wait_ms: Option<u64>,
    ) -> Result<(), Gone> {
        let wait = Duration::from_millis(wait_ms.unwrap_or(0).min(MAX_WAIT_MS));
        let limit = self.shared.limits.deadline.saturating_add(wait);
        self.reply_within(limit, move_and_wait(backend, group, node, wait))
            .await
    }

    async fn follow(
        &mut self,
        backend: &dyn Backend,
        since_seq: Option<u64>,
        limit: usize,
    ) -> Result<(), Gone> {
        let Some(_place) = FollowerPlace::take(&self.shared) else {
            let most = self.shared.limits.followers;
            let refusal = Refusal::new(
                Code::Busy,
                format!("{most} clients follow the events already"),
            );
            return self.send(&Reply::<()>::Error(refusal)).await;
        };
        let (page, mut follower) = backend.events().follow(since_seq, limit);
        self.send(&Reply::Ok(page)).await?;
        let mut stopped = self.stopped.clone();
        let mut ignored = [0u8; 64];
        loop {
            let next = tokio::select! {
                next = follower.next() => next,
                // A follower has nothing to say; the end of its stream means that it has left.
                read = self.reader.read(&mut ignored) => match read {
                    Ok(0) | Err(_) => return Err(Gone),
                    Ok(_) => continue,
                },
                _ = stopped.wait_for(|stopped| *stopped) => Followed::Closed,
            };
            let stall = self.shared.limits.follower_stall;
            match next {
                Followed::Event(event) => {
                    self.write(stall, &line(&FollowLine::Event(&event))).await?
                }
                Followed::Missed(count) => {
                    self.write(stall, &line(&StreamLine::Missed(count))).await?
                }
                Followed::Closed => {
                    self.write(self.shared.limits.deadline, &line(&StreamLine::End))
                        .await?;
                    return Err(Gone);
                }
            }
        }
    }

    async fn reply<T: Serialize>(
        &mut self,
        answer: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<(), Gone> {
        self.reply_within(self.shared.limits.deadline, answer).await
    }

    async fn reply_within<T: Serialize>(
        &mut self,
        limit: Duration,
        answer: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<(), Gone> {
        let result = timeout(limit, answer).await.unwrap_or_else(|_| {
            Err(Refusal::new(
                Code::Timeout,
                format!("the agent did not answer within {limit:?}"),
            )
            .help("is the machine overloaded? see `heartline doctor`"))
        });
        self.send(&Reply::from(result)).await
    }

    async fn send(&mut self, reply: &impl Serialize) -> Result<(), Gone> {
        self.write(self.shared.limits.deadline, &line(reply)).await
    }

    async fn write(&mut self, limit: Duration, text: &str) -> Result<(), Gone> {
        match timeout(limit, self.writer.write_all(text.as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// [`StreamLine::Event`] without a copy of the event.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum FollowLine<'a> {
    Event(&'a crate::events::Event),
}

/// One of the places for followers.
struct FollowerPlace(Arc<Shared>);

impl FollowerPlace {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let most = shared.limits.followers;
        shared
            .followers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < most).then_some(now + 1)
            })
            .ok()
            .map(|_| Self(shared.clone()))
    }
}

impl Drop for FollowerPlace {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Line {
    Full,
    TooLong,
    End,
}

/// Reads one line into `buffer`, without its newline, at most [`MAX_REQUEST`] bytes.
async fn read_line(
    reader: &mut BufReader<OwnedReadHalf>,
    buffer: &mut Vec<u8>,
) -> io::Result<Line> {
    buffer.clear();
    let most = u64::try_from(MAX_REQUEST)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let read = reader.take(most).read_until(b'\n', buffer).await?;
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
        return Ok(Line::Full);
    }
    Ok(match read {
        0 => Line::End,
        _ if buffer.len() > MAX_REQUEST => Line::TooLong,
        // The last line may lack its newline.
        _ => Line::Full,
    })
}

/// JSON in one line. What we serialise has string keys and no failing parts; if that ever changes, say so.
fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_else(|error| {
        warn!(%error, "a reply could not be written as JSON");
        r#"{"error":{"code":"internal","message":"the reply could not be written as JSON"}}"#
            .to_owned()
    });
    text.push('\n');
    text
}

async fn move_and_wait(
    backend: &dyn Backend,
    group: &str,
    node: &str,
    wait: Duration,
) -> Result<MoveReply, Refusal> {
    let before = backend.status().await?;
    let (group, node) = (find_group(&before, group)?, find_node(&before, node)?);
    let from = before
        .group(&group.name)
        .and_then(|group| group.owner.clone());
    let mut reply = MoveReply {
        group: group.name.clone(),
        from,
        to: node.name.clone(),
        ..MoveReply::default()
    };
    // Subscribed first, so that no sign of success can be missed.
    let (_, mut follower) = backend.events().follow(None, 0);
    let asked = Instant::now();
    let started = backend
        .move_group(group.clone(), node.clone())
        .await?
        .started_boot_ns;
    let mut failure = None;
    loop {
        let now = backend.status().await?;
        if let Some(seen) = now.group(&group.name)
            && seen.owner.as_deref() == Some(node.name.as_str())
            && (!seen.owned_here || seen.gate_open)
        {
            let elapsed = u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let moved = reply.from.as_deref() != Some(node.name.as_str());
            let since = seen.since_boot_ns.filter(|since| *since >= started);
            reply.done = true;
            reply.took_ns = Some(if moved {
                since.map_or(elapsed, |since| since - started)
            } else {
                0
            });
            reply.epoch = Some(seen.epoch);
            reply.takeover = seen
                .last_takeover
                .clone()
                .filter(|takeover| moved && takeover.epoch == seen.epoch);
            return Ok(reply);
        }
        if asked.elapsed() >= wait {
            break;
        }
        // Nothing tells this node of a takeover elsewhere but heartbeats: look often at first, then less.
        let pause = Duration::from_millis(if asked.elapsed() < Duration::from_millis(100) {
            1
        } else {
            10
        });
        if let Ok(Followed::Event(event)) = timeout(pause, follower.next()).await
            && event.kind == crate::events::EventKind::ClaimFailed
            && event.group.as_deref() == Some(group.name.as_str())
        {
            failure = Some(event.text.clone());
        }
    }
    if wait.is_zero() {
        return Ok(reply);
    }
    let mut message = format!("{} is not on {} after {wait:?}", group.name, node.name);
    if let Some(failure) = failure {
        message = format!("{message}: {failure}");
    }
    Err(Refusal::new(Code::Timeout, message)
        .help(format!("see `heartline explain {}`", group.name)))
}

fn find_group(status: &StatusReport, name: &str) -> Result<Target, Refusal> {
    find(
        Code::UnknownGroup,
        "group",
        name,
        status
            .groups
            .iter()
            .map(|group| (group.id, group.name.as_str())),
    )
}

fn find_node(status: &StatusReport, name: &str) -> Result<Target, Refusal> {
    find(
        Code::UnknownNode,
        "node",
        name,
        status
            .nodes
            .iter()
            .map(|node| (node.id, node.name.as_str())),
    )
}

fn find<'a>(
    code: Code,
    what: &str,
    name: &str,
    all: impl Iterator<Item = (u8, &'a str)> + Clone,
) -> Result<Target, Refusal> {
    if let Some((id, name)) = all.clone().find(|(_, known)| *known == name) {
        return Ok(Target {
            id,
            name: name.to_owned(),
        });
    }
    let known = all.map(|(_, known)| known).collect::<Vec<_>>().join(", ");
    let refusal = Refusal::new(
        code,
        format!("there is no {what} {name:?} in the configuration"),
    );
    Err(if known.is_empty() {
        refusal
    } else {
        refusal.help(format!("there is: {known}"))
    })
}
