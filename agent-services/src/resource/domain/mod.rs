//! Virtual machines, by libvirt: defined and running on the owner, shut down before the group leaves, or migrated live.
//!
//! ```text
//! start, stop, status ─▶ helper (a process, keeps the connection) ─▶ libvirtd ─▶ QEMU
//! migrate ─▶ a helper of its own ─▶ libvirtd ─▶ libvirtd of the other node
//! ```
//!
//! The agent links no libvirt (`heartline-libvirt` does). What libvirt does not answer in time is [`State::Unknown`]; then QEMU is
//! looked at directly, and only a QEMU that has ended for certain is a failure.

mod helper;
mod migrate;
mod process;

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent_virt_proto::{
    definition::{Definition, LONGEST},
    message::{Answer, Ask, Event, Refusal, Why},
    state::{DomainState, Life, Paused},
};
use tokio::{
    sync::broadcast,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use self::{
    helper::{Helper, No},
    process::Process,
};
use super::{Failure, Kind, Resource, State};

pub use helper::NOT_INSTALLED;
pub use migrate::{
    Live, Peer, Stay, Transport, Went, hand_over, is_live, longest_move, may_shut_down, preflight,
};
pub(crate) use migrate::{call_off, is_arriving, is_not_at};

/// Reading its XML, which may be on shared storage, may take so long.
const READ: Duration = Duration::from_secs(10);
/// Between two looks at a guest that shuts down; an event ends the pause.
const LOOK: Duration = Duration::from_secs(1);
/// A guest is asked again to shut down: one that was still booting did not hear it.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Of the time for a stop, so much at most is kept for pulling the plug.
const PLUG: Duration = Duration::from_secs(15);

/// A domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name in libvirt.
    pub name: String,
    /// Its definition.
    pub xml: PathBuf,
    /// Which libvirt: `qemu:///system`.
    pub uri: String,
    /// How it moves alive; `None`: it is shut down here and started there.
    pub live: Option<Live>,
}

/// Name and so on of a resource of this kind.
fn of(resource: &Resource) -> Option<&Domain> {
    match &resource.kind {
        Kind::Domain(domain) => Some(domain),
        Kind::Systemd { .. }
        | Kind::Exec { .. }
        | Kind::Ocf { .. }
        | Kind::Filesystem { .. }
        | Kind::Drbd { .. } => None,
    }
}

/// Tells of what happens to a domain, so that it is looked at at once.
pub(crate) fn events(resource: &Resource) -> Option<broadcast::Receiver<Event>> {
    of(resource).map(|domain| Helper::of(&domain.uri).events())
}

/// Is an event about this resource?
pub(crate) fn concerns(resource: &Resource, event: &Event) -> bool {
    of(resource).is_some_and(|domain| domain.name == event.name)
}

async fn ask(domain: &Domain, ask: Ask, within: Duration) -> Result<DomainState, No> {
    match Helper::of(&domain.uri).ask(ask, within).await? {
        Answer::State(state) => Ok(state),
        Answer::Xml(_) | Answer::Host(_) | Answer::Migrated(_) => {
            Err(No::Lost("the helper answers something else".into()))
        }
    }
}

fn failure(no: No) -> Failure {
    match no {
        No::Lost(why) => Failure::Unknown(why),
        No::NotInstalled(why) => Failure::Misconfigured(why),
        No::Refused(Refusal { why, text }) => match why {
            Why::Misconfigured => Failure::Misconfigured(text),
            Why::Unreachable | Why::Busy => Failure::Unknown(text),
            Why::NoDomain | Why::Failed => Failure::Failed(text),
        },
    }
}

/// Defines and starts it; one that runs is taken as it is. One that moves alive may have moved, and the one who moved it may
/// have lost that: where it does not run, the `peers` are asked first.
pub(super) async fn start(resource: &Resource, peers: &[Peer]) -> Result<(), Failure> {
    let Some(domain) = of(resource) else {
        return Ok(());
    };
    if domain.live.is_some() && !peers.is_empty() {
        let name = domain.name.clone();
        let here = ask(domain, Ask::Status { name }, resource.status_timeout)
            .await
            .map_err(failure)?;
        if !here.life.is_active()
            && let Some(node) = migrate::elsewhere(domain, peers).await
        {
            return Err(Failure::Unknown(format!(
                "{} runs on {node}: the group belongs there (heartline move), or it has to be shut down there",
                domain.name
            )));
        }
    }
    let (xml, _) = read(domain).await.map_err(|flaw| match flaw {
        Flaw::Wrong(text) => Failure::Misconfigured(text),
        Flaw::Slow(text) => Failure::Unknown(text),
    })?;
    let order = Ask::Start { xml };
    let state = ask(domain, order, resource.start_timeout)
        .await
        .map_err(failure)?;
    if state.life == Life::Running {
        return Ok(());
    }
    resource.settle("start", &State::Running).await
}

/// Asks the guest to shut down, and pulls the plug when its time is over.
pub(super) async fn stop(resource: &Resource) -> Result<(), Failure> {
    let Some(domain) = of(resource) else {
        return Ok(());
    };
    let begun = Instant::now();
    let reserve = PLUG.min(resource.stop_timeout / 3);
    let patience = resource.stop_timeout.saturating_sub(reserve);
    let mut events = Helper::of(&domain.uri).events();
    // When it was last asked to shut down, or its plug was pulled.
    let mut asked: Option<Instant> = None;
    let mut plug = false;
    loop {
        let again = if plug { LOOK * 3 } else { ASK_AGAIN };
        let due = asked.is_none_or(|at| at.elapsed() >= again);
        let name = domain.name.clone();
        let order = match (due, plug) {
            (true, true) => Ask::Destroy { name },
            (true, false) => Ask::Shutdown { name },
            (false, _) => Ask::Status { name },
        };
        if due {
            asked = Some(Instant::now());
        }
        let left = resource.stop_timeout.saturating_sub(begun.elapsed());
        let mut at_once = false;
        match ask(domain, order, resource.status_timeout.min(left.max(LOOK))).await {
            Ok(state) if !state.life.is_active() => return Ok(()),
            Ok(state) => at_once = !plug && is_deaf(state.life),
            Err(No::Refused(Refusal {
                why: Why::NoDomain, ..
            })) => return Ok(()),
            // "domain is not running", to a shutdown: the next look says so, too.
            Err(No::Refused(Refusal {
                why: Why::Failed | Why::Busy,
                ..
            })) => {}
            Err(no) => {
                if nothing_there(domain, &no).await {
                    return Ok(());
                }
                if left.is_zero() {
                    return Err(failure(no));
                }
                // It is told as soon as somebody can be asked.
                asked = None;
            }
        }
        at_once |= !plug && begun.elapsed() >= patience;
        if at_once {
            (plug, asked) = (true, None);
        } else {
            news_of(domain, &mut events).await;
        }
    }
}

/// Waits until something has happened to a domain, or for a look.
async fn news_of(domain: &Domain, events: &mut broadcast::Receiver<Event>) {
    let news = async {
        loop {
            match events.recv().await {
                Ok(event) if event.name == domain.name => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => sleep(LOOK).await,
            }
        }
    };
    let _ = timeout(LOOK, news).await;
}

/// It cannot act on a shutdown.
const fn is_deaf(life: Life) -> bool {
    match life {
        Life::Crashed { .. } => true,
        Life::Paused(why) => match why {
            Paused::IoError
            | Paused::Watchdog
            | Paused::Crashed
            | Paused::PostCopyFailed
            | Paused::ApiError
            | Paused::User
            | Paused::Unknown => true,
            Paused::Migration
            | Paused::Saving
            | Paused::Starting
            | Paused::Ending
            | Paused::PostCopy => false,
        },
        Life::Absent
        | Life::Off { .. }
        | Life::Running
        | Life::ShuttingDown
        | Life::Asleep
        | Life::Odd(_) => false,
    }
}

/// Is it certain without libvirt that nothing of it runs here?
async fn nothing_there(domain: &Domain, no: &No) -> bool {
    match (seen(domain).await, no) {
        (Process::Ended, _) => true,
        (Process::NotKnown, No::NotInstalled(_)) => true,
        (Process::Runs(_), _) | (Process::NotKnown, No::Lost(_) | No::Refused(_)) => false,
    }
}

async fn seen(domain: &Domain) -> Process {
    let (uri, name) = (domain.uri.clone(), domain.name.clone());
    spawn_blocking(move || process::look(&uri, &name))
        .await
        .unwrap_or(Process::NotKnown)
}

/// How it is.
pub(super) async fn status(resource: &Resource) -> State {
    let Some(domain) = of(resource) else {
        return State::Stopped;
    };
    let name = domain.name.clone();
    // A little less than what the one who asks waits, so that it hears the reason.
    let within = resource.status_timeout.mul_f32(0.9);
    let no = match ask(domain, Ask::Status { name }, within).await {
        Ok(state) => return judge(state.life),
        Err(no) => no,
    };
    let seen = seen(domain).await;
    let why = match &no {
        No::Lost(why) | No::NotInstalled(why) => why.as_str(),
        No::Refused(refusal) => refusal.text.as_str(),
    };
    match seen {
        Process::Runs(pid) => State::Unknown(format!("{why}; its QEMU is there, process {pid}")),
        Process::Ended => State::Failed(format!("its QEMU has ended, and {why}")),
        // Without libvirt nothing of libvirt runs.
        Process::NotKnown if matches!(no, No::NotInstalled(_)) => State::Stopped,
        Process::NotKnown => State::Unknown(why.to_owned()),
    }
}

/// What libvirt's word means for the group.
fn judge(life: Life) -> State {
    let words = life.words();
    match life {
        Life::Running => State::Running,
        Life::Absent | Life::Off { .. } => State::Stopped,
        Life::Crashed { .. } => State::Failed(words.into()),
        Life::Paused(why) => match why {
            Paused::IoError | Paused::Watchdog | Paused::Crashed | Paused::PostCopyFailed => {
                State::Failed(words.into())
            }
            // Passing, or somebody's will: nothing is restarted over it.
            Paused::User
            | Paused::Migration
            | Paused::Saving
            | Paused::Starting
            | Paused::Ending
            | Paused::PostCopy
            | Paused::ApiError
            | Paused::Unknown => State::Unknown(words.into()),
        },
        Life::ShuttingDown | Life::Asleep | Life::Odd(_) => State::Unknown(words.into()),
    }
}

enum Flaw {
    Wrong(String),
    Slow(String),
}

/// Its XML, and what that says.
async fn read(domain: &Domain) -> Result<(String, Definition), Flaw> {
    let path = domain.xml.clone();
    let shown = path.display().to_string();
    let slow = || Flaw::Slow(format!("{shown} cannot be read within {READ:?}"));
    // A storage that hangs holds one thread, not one per attempt.
    if !reading().insert(path.clone()) {
        return Err(slow());
    }
    let work = spawn_blocking(move || {
        let text = load(&path);
        reading().remove(&path);
        text
    });
    let text = match timeout(READ, work).await {
        Ok(Ok(Ok(text))) => text,
        Ok(Ok(Err(error))) => return Err(Flaw::Wrong(format!("{shown}: {error}"))),
        Ok(Err(_)) | Err(_) => return Err(slow()),
    };
    let definition =
        Definition::read(&text).map_err(|why| Flaw::Wrong(format!("{shown}: {why}")))?;
    if definition.name != domain.name {
        return Err(Flaw::Wrong(format!(
            "{shown} defines {}, not {}",
            definition.name, domain.name
        )));
    }
    Ok((text, definition))
}

fn reading() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    static READING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    READING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn load(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    fs::File::open(path)?
        .take(most + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// What is wrong with it here.
pub(super) async fn check(resource: &Resource) -> Vec<String> {
    let Some(domain) = of(resource) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    match read(domain).await {
        Ok((_, definition)) if definition.uuid.is_none() => found.push(format!(
            "{} has no <uuid>: each node would make up its own, and the domain could not migrate (uuidgen makes one)",
            domain.xml.display()
        )),
        Ok(_) => {}
        Err(Flaw::Wrong(text) | Flaw::Slow(text)) => found.push(text),
    }
    let name = domain.name.clone();
    match ask(domain, Ask::Status { name }, resource.status_timeout).await {
        Ok(state) if state.autostart && !state.life.is_active() => found.push(format!(
            "libvirtd starts {} by itself when the machine boots, whoever owns the group: virsh autostart --disable {}",
            domain.name, domain.name
        )),
        Ok(_) => {}
        Err(No::Lost(why) | No::NotInstalled(why)) => found.push(why),
        Err(No::Refused(refusal)) => found.push(refusal.text),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_or_is_willed_is_no_failure() {
        assert_eq!(judge(Life::Running), State::Running);
        assert_eq!(judge(Life::Absent), State::Stopped);
        assert_eq!(judge(Life::Off { crashed: true }), State::Stopped);
        assert!(matches!(
            judge(Life::Paused(Paused::IoError)),
            State::Failed(_)
        ));
        assert!(matches!(
            judge(Life::Crashed { panicked: true }),
            State::Failed(_)
        ));
        for passing in [
            Life::Paused(Paused::User),
            Life::Paused(Paused::Migration),
            Life::ShuttingDown,
            Life::Asleep,
            Life::Odd(0),
        ] {
            assert!(matches!(judge(passing), State::Unknown(_)), "{passing:?}");
        }
    }
}
