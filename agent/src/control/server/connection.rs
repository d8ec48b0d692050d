//! One connection: reads requests, asks the backend, writes replies; each with a deadline.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Shared;
use super::moves::{find_group, find_node, move_and_wait};
use crate::control::backend::Backend;
use crate::control::proto::{
    Code, MAX_EVENTS, MAX_REQUEST, MAX_WAIT_MS, Refusal, Reply, Request, StreamLine, parse_request,
    too_large,
};
use crate::events::Followed;

pub(super) struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    peer: Option<(u32, i32)>,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
}

/// The connection is of no more use.
struct Gone;

impl Connection {
    pub(super) fn new(stream: UnixStream, shared: Arc<Shared>) -> Self {
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

    pub(super) async fn run(mut self) {
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
            Request::Clear {
                group,
                stopped_elsewhere,
            } => {
                self.reply(async {
                    let group = find_group(&backend.status().await?, &group)?;
                    backend.clear(group, stopped_elsewhere).await
                })
                .await
            }
            Request::NodeDown { node } => {
                self.reply(async {
                    let node = find_node(&backend.status().await?, &node)?;
                    backend.node_down(node).await
                })
                .await
            }
            Request::Pause => self.reply(backend.set_paused(true)).await,
            Request::Resume => self.reply(backend.set_paused(false)).await,
            Request::Restart => self.reply(backend.restart()).await,
            Request::Reload => self.reply(backend.reload(false)).await,
            Request::ReloadAndStop => self.reply(backend.reload(true)).await,
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
pub(super) fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_else(|error| {
        warn!(%error, "a reply could not be written as JSON");
        r#"{"error":{"code":"internal","message":"the reply could not be written as JSON"}}"#
            .to_owned()
    });
    text.push('\n');
    text
}
