//! An agent that is none: it keeps a status report and does to it what it is told.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline::control::proto::*;
use heartline::control::{Backend, ControlServer, Limits, MoveAccepted, Pending, Target};
use heartline::events::{Draft, EventLog, boot_now_ns};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What moves do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// Happen after a few milliseconds.
    Happen,
    /// Are accepted; nothing happens.
    Stall,
    /// Are refused.
    Refused,
}

pub struct Fake {
    pub report: Mutex<StatusReport>,
    pub events: Arc<EventLog>,
    pub moves: Mutex<Moves>,
    /// `status` never answers.
    pub hang: AtomicBool,
    pub started: AtomicU64,
    pub calls: Mutex<Vec<String>>,
}

impl Fake {
    pub fn new(report: StatusReport) -> Arc<Self> {
        Self::with_events(report, EventLog::new("n1"))
    }

    pub fn with_events(report: StatusReport, events: Arc<EventLog>) -> Arc<Self> {
        Arc::new(Self {
            report: Mutex::new(report),
            events,
            moves: Mutex::new(Moves::Happen),
            hang: AtomicBool::new(false),
            started: AtomicU64::new(1),
            calls: Mutex::default(),
        })
    }

    fn called(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Backend for Fake {
    fn ping(&self) -> Pending<'_, Pong> {
        Box::pin(async {
            Ok(Pong {
                node: "n1".into(),
                agent_version: "0.1.0".into(),
                control_version: CONTROL_VERSION,
                wire_version: 1,
                started_boot_ns: self.started.load(Ordering::SeqCst),
                pid: 1,
            })
        })
    }

    fn status(&self) -> Pending<'_, StatusReport> {
        Box::pin(async {
            if self.hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Ok(self.report.lock().unwrap().clone())
        })
    }

    fn move_group(&self, group: Target, node: Target) -> Pending<'_, MoveAccepted> {
        Box::pin(async move {
            self.called(format!(
                "move {}:{} {}:{}",
                group.id, group.name, node.id, node.name
            ));
            let started_boot_ns = boot_now_ns();
            match *self.moves.lock().unwrap() {
                Moves::Refused => {
                    return Err(
                        Refusal::new(Code::Refused, format!("{} is a witness", node.name))
                            .help("name a member"),
                    );
                }
                Moves::Stall => {
                    let draft =
                        Draft::new(EventKind::ClaimFailed, "only 1 of 2 grants").group(group.name);
                    self.events.push(draft);
                }
                Moves::Happen => {
                    let mut report = self.report.lock().unwrap();
                    let moved = report
                        .groups
                        .iter_mut()
                        .find(|known| known.id == group.id)
                        .unwrap();
                    moved.owner = Some(node.name);
                    moved.owned_here = false;
                    moved.since_boot_ns = Some(started_boot_ns + 1_700_000);
                    moved.epoch += 1;
                }
            }
            Ok(MoveAccepted { started_boot_ns })
        })
    }

    fn clear(&self, group: Target, stopped_elsewhere: bool) -> Pending<'_, Done> {
        Box::pin(async move {
            self.called(format!(
                "clear {}:{} {stopped_elsewhere}",
                group.id, group.name
            ));
            Ok(Done {
                changed: true,
                text: format!("failures of {} are forgotten on all nodes", group.name),
                moving: Vec::new(),
            })
        })
    }

    fn set_drained(&self, node: Target, drained: bool) -> Pending<'_, Done> {
        Box::pin(async move {
            self.called(format!("drain {}:{} {drained}", node.id, node.name));
            let mut report = self.report.lock().unwrap();
            let mut moving = Vec::new();
            if drained && *self.moves.lock().unwrap() == Moves::Happen {
                for group in &mut report.groups {
                    if group.owner.as_deref() == Some(node.name.as_str()) {
                        group.owner = Some("n9".into());
                        moving.push(group.name.clone());
                    }
                }
            }
            let state = if drained { "drained" } else { "in use" };
            Ok(Done {
                changed: true,
                text: format!("{} is {state}", node.name),
                moving,
            })
        })
    }

    fn node_down(&self, node: Target) -> Pending<'_, NodeDown> {
        Box::pin(async move {
            Ok(NodeDown {
                node: node.name,
                ..NodeDown::default()
            })
        })
    }

    fn set_paused(&self, paused: bool) -> Pending<'_, Done> {
        Box::pin(async move {
            self.report.lock().unwrap().paused = paused;
            let text = if paused {
                "paused: nothing is moved"
            } else {
                "resumed"
            };
            Ok(Done {
                changed: true,
                text: text.into(),
                moving: Vec::new(),
            })
        })
    }

    fn restart(&self) -> Pending<'_, Done> {
        Box::pin(async {
            self.started.fetch_add(1, Ordering::SeqCst);
            Ok(Done {
                changed: true,
                text: "restarting".into(),
                moving: Vec::new(),
            })
        })
    }

    fn reload(&self, stop: bool) -> Pending<'_, ReloadReply> {
        let mut changed = vec!["group web: address 10.77.0.102/32 added".into()];
        if stop {
            changed.push("group db is removed".into());
        }
        Box::pin(async move {
            Ok(ReloadReply {
                generation: 2,
                changed,
                entering: None,
                needs_restart: vec!["port 4747 -> 4748".into()],
            })
        })
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.events
    }
}

/// A served fake in a directory of its own.
pub struct Served {
    pub fake: Arc<Fake>,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _directory: Option<tempfile::TempDir>,
}

impl Served {
    pub async fn new(fake: Arc<Fake>, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut served = Self::at(directory.path(), fake, limits).await;
        served._directory = Some(directory);
        served
    }

    pub async fn at(directory: &Path, fake: Arc<Fake>, limits: Limits) -> Self {
        let socket = directory.join("control.sock");
        let server = ControlServer::bind(&socket, "heartline")
            .await
            .unwrap()
            .with_limits(limits);
        let (stop, stopped) = oneshot::channel::<()>();
        let backend = fake.clone();
        let task = tokio::spawn(async move {
            server
                .run(backend, async {
                    let _ = stopped.await;
                })
                .await;
        });
        Self {
            fake,
            socket,
            stop: Some(stop),
            task,
            _directory: None,
        }
    }

    pub async fn healthy() -> Self {
        Self::new(Fake::new(super::sample::healthy()), Limits::default()).await
    }

    /// Stops it and waits for its end.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        within(&mut self.task).await.unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Fails a test that hangs, instead of the whole run.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .expect("it hangs")
}
