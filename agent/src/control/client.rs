//! The control socket, client side.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::proto::{
    CONTROL_VERSION, Code, Envelope, EventPage, Refusal, Reply, Request, StreamLine,
};

/// The longest reply line that is read, in bytes.
const MAX_REPLY: u64 = 64 * 1024 * 1024;

/// Why a request got no good answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no agent answers at {} (is the service running? systemctl status heartline)", .0.display())]
    NotRunning(PathBuf),
    /// The socket may not be opened.
    #[error("may not use {} (be root, or in the Unix group heartline)", .0.display())]
    Denied(PathBuf),
    /// Connected, and no answer in time.
    #[error("the agent at {} did not answer within {} s (frozen or overloaded?)", .path.display(), .limit.as_secs_f64())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        limit: Duration,
    },
    /// The agent closed the connection without a reply, or the reply makes no sense.
    #[error("bad answer from the agent at {}: {what}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The agent answered no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl ClientError {
    /// The exit status that stands for it: 1 refused or failed, 2 cannot read, 3 no agent, 4 timeout.
    pub fn exit_status(&self) -> u8 {
        match self {
            ClientError::Refused(Refusal {
                code: Code::Timeout,
                ..
            })
            | ClientError::Timeout { .. } => 4,
            ClientError::Refused(_) | ClientError::Broken { .. } => 1,
            ClientError::Denied(_) => 2,
            ClientError::NotRunning(_) => 3,
        }
    }

    /// As [`ClientError::exit_status`].
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_status())
    }

    /// The mend, if the agent named one.
    pub fn help(&self) -> Option<&str> {
        match self {
            ClientError::Refused(refusal) => refusal.help.as_deref(),
            _ => None,
        }
    }
}

/// A way to the agent. Each call makes its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    limit: Duration,
}

impl Client {
    /// A client of the agent at this socket; calls take at most 6 s (the agent's own deadline is 5 s).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            limit: Duration::from_secs(6),
        }
    }

    /// Another limit for each call.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks and returns the answer. A `move` that waits gets that time on top.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<T: DeserializeOwned>(&self, request: Request) -> Result<T, ClientError> {
        self.open(request).await.map(|(answer, _)| answer)
    }

    /// Asks for events and follows them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow(
        &self,
        since_seq: Option<u64>,
        limit: Option<u32>,
    ) -> Result<(EventPage, Following), ClientError> {
        let (page, reader) = self
            .open(Request::Events {
                follow: true,
                since_seq,
                limit,
            })
            .await?;
        Ok((
            page,
            Following {
                reader,
                path: self.path.clone(),
                line: Vec::new(),
            },
        ))
    }

    async fn open<T: DeserializeOwned>(
        &self,
        request: Request,
    ) -> Result<(T, BufReader<UnixStream>), ClientError> {
        let waits = match &request {
            Request::Move {
                wait_ms: Some(wait),
                ..
            } => Duration::from_millis(*wait),
            _ => Duration::ZERO,
        };
        let limit = self.limit.saturating_add(waits);
        let deadline = Instant::now() + limit;
        let late = |_| ClientError::Timeout {
            path: self.path.clone(),
            limit,
        };
        let stream = timeout_at(deadline, UnixStream::connect(&self.path))
            .await
            .map_err(late)?;
        let mut stream = BufReader::new(stream.map_err(|error| self.not_connected(&error))?);
        let mut text = serde_json::to_string(&Envelope {
            v: CONTROL_VERSION,
            request,
        })
        .map_err(|error| self.broken(error.to_string()))?;
        text.push('\n');
        // An error here can mean that the agent refused the connection: its reason may be there to read.
        let written = timeout_at(deadline, stream.get_mut().write_all(text.as_bytes()))
            .await
            .map_err(late)?;
        let mut reply = Vec::new();
        let mut bounded = (&mut stream).take(MAX_REPLY);
        let read = timeout_at(deadline, bounded.read_until(b'\n', &mut reply))
            .await
            .map_err(late)?;
        if reply.is_empty() {
            let what = match (written, read) {
                (Err(error), _) | (_, Err(error)) => error.to_string(),
                _ => "it closed the connection".to_owned(),
            };
            return Err(self.broken(what));
        }
        match serde_json::from_slice(&reply) {
            Ok(Reply::Ok(answer)) => Ok((answer, stream)),
            Ok(Reply::Error(refusal)) => Err(refusal.into()),
            Err(error) => Err(self.broken(error.to_string())),
        }
    }

    fn not_connected(&self, error: &io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(self.path.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(self.path.clone()),
            _ => self.broken(error.to_string()),
        }
    }

    fn broken(&self, what: String) -> ClientError {
        ClientError::Broken {
            path: self.path.clone(),
            what,
        }
    }
}

/// A stream of events.
pub struct Following {
    reader: BufReader<UnixStream>,
    path: PathBuf,
    line: Vec<u8>,
}

impl Following {
    /// Waits for the next line, without a limit; `None` when the agent has ended. Safe to drop while it waits.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if a line makes no sense.
    pub async fn next(&mut self) -> Result<Option<StreamLine>, ClientError> {
        let broken = |what: String| ClientError::Broken {
            path: self.path.clone(),
            what,
        };
        // A line read in part stays in `self.line` when this future is dropped.
        let room = MAX_REPLY.saturating_sub(u64::try_from(self.line.len()).unwrap_or(MAX_REPLY));
        let read = (&mut self.reader)
            .take(room)
            .read_until(b'\n', &mut self.line)
            .await;
        if read.is_err() || self.line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&self.line).map_err(|error| broken(error.to_string()));
        self.line.clear();
        match parsed? {
            StreamLine::End => Ok(None),
            line => Ok(Some(line)),
        }
    }
}
