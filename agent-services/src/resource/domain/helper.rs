//! The helper that speaks with libvirt, one per URI: started when it is needed, ended when a call of it hangs, started again
//! with longer and longer pauses. Who asks is told in time, one way or the other.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agent_virt_proto::{
    job::Progress,
    message::{Answer, Ask, Event, LINE, Line, Outcome, Refusal, Request, VERSION},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, Command},
    runtime::{Handle, Id},
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::command;

/// The program, beside the agent's own or in PATH.
const PROGRAM: &str = "heartline-libvirt";
/// Names another one, for tests.
const OVERRIDE: &str = "HEARTLINE_LIBVIRT";
/// How long a helper may take to say hello; it has to load libvirt.
const HELLO: Duration = Duration::from_secs(10);
/// The pause after the first helper that has ended, and the longest one.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A helper that lived so long has not failed at its start.
const WELL: Duration = Duration::from_secs(30);
/// Calls and events that may wait.
const QUEUE: usize = 64;
/// Beyond the time for a migration: it is broken off, and both ends are asked how they are.
const AFTERWARDS: Duration = Duration::from_secs(30);

/// Why there is no answer of libvirt's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum No {
    /// libvirt said so.
    Refused(Refusal),
    /// Nobody could be asked, or did not answer in time; a sentence.
    Lost(String),
    /// There is no libvirt on this machine; a sentence.
    NotInstalled(String),
}

/// The agent's end.
#[derive(Debug)]
pub struct Helper {
    calls: mpsc::Sender<Call>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Call {
    ask: Ask,
    within: Duration,
    reply: oneshot::Sender<Result<Answer, No>>,
}

/// A helper serves the runtime that it was started in.
static HELPERS: Mutex<BTreeMap<String, (Id, Arc<Helper>)>> = Mutex::new(BTreeMap::new());

impl Helper {
    /// The one for a URI.
    pub fn of(uri: &str) -> Arc<Helper> {
        let runtime = Handle::current().id();
        let mut helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, helper)) = helpers.get(uri)
            && *id == runtime
            && !helper.calls.is_closed()
        {
            return Arc::clone(helper);
        }
        let (calls, queue) = mpsc::channel(QUEUE);
        let (events, _) = broadcast::channel(QUEUE);
        tokio::spawn(keep(uri.to_owned(), queue, events.clone()));
        let helper = Arc::new(Helper { calls, events });
        helpers.insert(uri.to_owned(), (runtime, Arc::clone(&helper)));
        helper
    }

    /// Asks.
    ///
    /// # Errors
    /// libvirt refuses, or nobody answers within the time.
    pub async fn ask(&self, ask: Ask, within: Duration) -> Result<Answer, No> {
        let (reply, answer) = oneshot::channel();
        let call = Call { ask, within, reply };
        let lost = || No::Lost(format!("libvirt did not answer within {within:?}"));
        let work = async {
            if self.calls.send(call).await.is_err() {
                return Err(No::Lost("the agent is ending".into()));
            }
            answer
                .await
                .unwrap_or_else(|_| Err(No::Lost("the agent is ending".into())))
        };
        // The helper's keeper says so by itself; this is for the time in its queue.
        timeout(within + Duration::from_secs(1), work)
            .await
            .unwrap_or_else(|_| Err(lost()))
    }

    /// What happens to domains from now on; what is missed is not told again.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

/// Asks one thing of a helper of its own, which ends with it: for what takes long, so that a hanging call beside it does not end
/// it, and for other hosts.
///
/// # Errors
/// As [`Helper::ask`].
pub async fn alone(
    uri: &str,
    ask: Ask,
    within: Duration,
    mut tell: impl FnMut(Progress),
) -> Result<Answer, No> {
    let long = matches!(ask, Ask::Migrate(_));
    let until = Instant::now() + within + if long { AFTERWARDS } else { Duration::ZERO };
    let mut process = Process::start(uri).await?;
    process.order(1, ask, within).await?;
    loop {
        match timeout_at(until, process.lines.recv()).await {
            Ok(Some(Line::Answer { outcome, .. })) => return said(outcome),
            Ok(Some(Line::Progress { progress, .. })) => tell(progress),
            Ok(Some(Line::Hello { .. } | Line::Link { .. } | Line::Event(_))) => {}
            Ok(None) => return Err(No::Lost(process.last_words().await)),
            Err(_) => {
                return Err(No::Lost(format!("{uri} did not answer within {within:?}")));
            }
        }
    }
}

fn said(outcome: Outcome) -> Result<Answer, No> {
    match outcome {
        Outcome::Done(answer) => Ok(answer),
        Outcome::Refused(refusal) => Err(No::Refused(refusal)),
    }
}

/// Keeps a helper running for as long as somebody may ask.
async fn keep(uri: String, mut calls: mpsc::Receiver<Call>, events: broadcast::Sender<Event>) {
    let mut pause = AGAIN.0;
    loop {
        let Some(first) = calls.recv().await else {
            return;
        };
        let begun = Instant::now();
        let started = timeout(first.within, Process::start(&uri))
            .await
            .unwrap_or_else(|_| Err(No::Lost(format!("{PROGRAM} did not start in time"))));
        let why = match started {
            Ok(process) => match serve(process, first, &mut calls, &events).await {
                Some(why) => No::Lost(why),
                None => return,
            },
            Err(why) => {
                let _ = first.reply.send(Err(why.clone()));
                why
            }
        };
        if begun.elapsed() > WELL {
            pause = AGAIN.0;
        }
        let until = Instant::now() + pause;
        pause = (pause * 2).min(AGAIN.1);
        while let Ok(call) = timeout_at(until, calls.recv()).await {
            let Some(call) = call else { return };
            let _ = call.reply.send(Err(why.clone()));
        }
    }
}

/// Passes calls on until the helper has ended, or had to be ended; then says why. `None`: nobody asks any more.
async fn serve(
    mut process: Process,
    first: Call,
    calls: &mut mpsc::Receiver<Call>,
    events: &broadcast::Sender<Event>,
) -> Option<String> {
    let mut pending: BTreeMap<u64, (Instant, oneshot::Sender<Result<Answer, No>>)> =
        BTreeMap::new();
    let mut id = 0;
    let mut next = Some(first);
    let why = loop {
        if let Some(call) = next.take() {
            id += 1;
            let until = Instant::now() + call.within;
            pending.insert(id, (until, call.reply));
            if let Err(No::Lost(why)) = process.order(id, call.ask, call.within).await {
                break why;
            }
        }
        let due = pending.values().map(|(until, _)| *until).min();
        tokio::select! {
            call = calls.recv() => match call {
                Some(call) => next = Some(call),
                None => return None,
            },
            line = process.lines.recv() => match line {
                Some(Line::Answer { id, outcome }) => {
                    if let Some((_, reply)) = pending.remove(&id) {
                        // Who asked may have given up.
                        let _ = reply.send(said(outcome));
                    }
                }
                Some(Line::Event(event)) => {
                    let _ = events.send(event);
                }
                Some(Line::Hello { .. } | Line::Link { .. } | Line::Progress { .. }) => {}
                None => break process.last_words().await,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                // A call of the library hangs, and would for ever: with it the process ends.
                break "libvirt did not answer in time".to_owned();
            }
        }
    };
    for (_, reply) in pending.into_values() {
        let _ = reply.send(Err(No::Lost(why.clone())));
    }
    Some(why)
}

/// A running helper; it ends when this is dropped.
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<Line>,
    words: Arc<Mutex<String>>,
}

impl Process {
    async fn start(uri: &str) -> Result<Process, No> {
        let program = program()?;
        let mut command = Command::new(&program);
        command
            .args(["--uri", uri])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true);
        // For the keys of ssh and the certificates and sockets of a session.
        for key in ["PATH", "HOME", "XDG_RUNTIME_DIR"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command.env("LANG", "C.UTF-8");
        let lost = |why: String| No::Lost(format!("{}: {why}", program.display()));
        let mut child = command.spawn().map_err(|e| lost(e.to_string()))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(lost("no pipes".into()));
        };
        let (send, lines) = mpsc::channel(QUEUE);
        tokio::spawn(read(stdout, send));
        let words = Arc::new(Mutex::new(String::new()));
        tokio::spawn(listen(stderr, Arc::clone(&words)));
        let mut process = Process {
            child,
            stdin,
            lines,
            words,
        };
        match timeout(HELLO, process.lines.recv()).await {
            Ok(Some(Line::Hello { version, .. })) if version == VERSION => Ok(process),
            Ok(Some(Line::Hello { version, .. })) => Err(lost(format!(
                "it is of another version of Heartline (protocol {version}, not {VERSION})"
            ))),
            Ok(Some(_)) => Err(lost("it does not say what was expected".into())),
            Ok(None) => {
                let text = process.last_words().await;
                // The dynamic linker, ld.so(8), ends a program so.
                if text.contains("error while loading shared libraries: libvirt") {
                    return Err(No::NotInstalled(NOT_INSTALLED.into()));
                }
                Err(No::Lost(text))
            }
            Err(_) => Err(lost(format!("no word within {HELLO:?}"))),
        }
    }

    async fn order(&mut self, id: u64, ask: Ask, within: Duration) -> Result<(), No> {
        let request = Request {
            id,
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            ask,
        };
        let mut line =
            serde_json::to_vec(&request).map_err(|e| No::Lost(format!("a request: {e}")))?;
        line.push(b'\n');
        let written = timeout(within.max(Duration::from_secs(1)), async {
            self.stdin.write_all(&line).await?;
            self.stdin.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(No::Lost(self.last_words().await)),
            Err(_) => Err(No::Lost(format!("{PROGRAM} takes no requests"))),
        }
    }

    /// How it ended, and what it said last.
    async fn last_words(&mut self) -> String {
        let how = match timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => format!("{PROGRAM} has ended ({status})"),
            Ok(Err(error)) => format!("{PROGRAM}: {error}"),
            Err(_) => format!("{PROGRAM} says nothing any more"),
        };
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        match words.as_str() {
            "" => how,
            words => format!("{how}: {words}"),
        }
    }
}

/// What users are told on a node without libvirt.
pub const NOT_INSTALLED: &str = "libvirt is not installed here: apt install libvirt-daemon-system";

fn program() -> Result<PathBuf, No> {
    if let Some(path) = std::env::var_os(OVERRIDE) {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(PROGRAM))
        .filter(|path| path.is_file());
    match beside {
        Some(path) => Ok(path),
        None => command::find(PROGRAM).map_err(|why| {
            No::Lost(format!(
                "{why}: it belongs beside the agent, from the same package"
            ))
        }),
    }
}

/// Reads lines until the end; what is none of ours ends it, too.
async fn read(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Line>) {
    let mut held: Vec<u8> = Vec::new();
    let mut chunk = [0u8; 8192];
    while let Ok(n) = from.read(&mut chunk).await {
        if n == 0 {
            return;
        }
        for part in chunk
            .get(..n)
            .unwrap_or_default()
            .split_inclusive(|b| *b == b'\n')
        {
            held.extend_from_slice(part);
            if held.len() > LINE {
                return;
            }
            if part.last() != Some(&b'\n') {
                continue;
            }
            let Ok(line) = serde_json::from_slice(&held) else {
                return;
            };
            held.clear();
            if to.send(line).await.is_err() {
                return;
            }
        }
    }
}

/// Keeps the last line of what it complains of.
async fn listen(mut from: impl AsyncRead + Unpin, words: Arc<Mutex<String>>) {
    let mut chunk = [0u8; 1024];
    while let Ok(n) = from.read(&mut chunk).await {
        if n == 0 {
            return;
        }
        let text = String::from_utf8_lossy(chunk.get(..n).unwrap_or_default());
        if let Some(line) = text.lines().rfind(|l| !l.trim().is_empty()) {
            let line: String = line.chars().filter(|c| !c.is_control()).take(300).collect();
            *words.lock().unwrap_or_else(PoisonError::into_inner) = line;
        }
    }
}
