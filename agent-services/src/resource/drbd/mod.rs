//! DRBD: promoted on the owner, demoted before the group leaves.
//!
//! ```text
//! drbdsetup events2 ─▶ events::Book ─▶ ResourceState ─▶ rules::promote ─▶ steps ─▶ drbdadm
//!                      (state by type)                  (pure)
//! ```
//!
//! All that changes something is done by drbdadm(8), which knows the configuration and both kernel modules (8.4 of
//! Debian's kernel, 9); how things are is read from `drbdsetup events2`, which both have. Bringing a resource up on the
//! standby is the system's affair (`drbd.service`): it must be replicating before anything fails.

pub mod check;
pub mod events;
pub mod follow;

pub mod gi;
pub mod handler;
mod held;
pub mod json;
mod outdate;
pub mod resolve;
pub mod rules;
pub mod split;
pub mod state;

use std::{collections::BTreeSet, path::Path, sync::Mutex, time::Duration};

use tokio::time::{Instant, sleep};

use self::{
    events::Book,
    state::{Connection, Disk, Role},
};
pub use self::{
    outdate::outdate,
    rules::{Decision, Given, Others, Replica, Step},
    state::ResourceState,
};
use super::{Failure, Kind, Resource, State, no_answer};
use crate::command::{Ended, Run, RunError, find};

/// drbdadm says nothing of versions to users who cannot help it.
const QUIET: (&str, &str) = ("DRBD_DONT_WARN_ON_VERSION_MISMATCH", "1");
/// How long one question may take; a kernel that is busy with a handler answers late.
const ASK: Duration = Duration::from_secs(5);
/// Between two looks at something that becomes good by itself.
const LOOK: Duration = Duration::from_millis(100);
/// How long a resource that is attaching or connecting is waited for within one start.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection that was given up may take to be tried again, in the background.
const RECONNECT: Duration = Duration::from_secs(5);

/// Resources that were disconnected here for a takeover and are to be connected again.
static OWED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Name and kind of a resource of this kind.
fn of(resource: &Resource) -> Option<(&str, bool)> {
    match &resource.kind {
        Kind::Drbd {
            resource,
            dual_primary,
        } => Some((resource, *dual_primary)),
        Kind::Systemd { .. } | Kind::Exec { .. } | Kind::Ocf { .. } | Kind::Filesystem { .. } => {
            None
        }
    }
}

/// Runs one of DRBD's programs.
async fn tool(argv: &[&str], timeout: Duration) -> Result<Ended, RunError> {
    let argv: Vec<String> = argv.iter().map(|&a| a.to_owned()).collect();
    let mut run = Run::new(&argv, timeout);
    run.env.push((QUIET.0.into(), QUIET.1.into()));
    run.output().await
}

/// How a resource is; `None` if the kernel does not have it (not `up`).
///
/// # Errors
/// DRBD could not be asked, or what it said was not understood; a sentence.
pub async fn ask(name: &str, timeout: Duration) -> Result<Option<ResourceState>, String> {
    // Without the kernel's part nothing is up, whether or not the tools are there.
    if !Path::new("/proc/drbd").exists() && !Path::new("/sys/module/drbd").exists() {
        return Ok(None);
    }
    let argv = ["drbdsetup", "events2", "--now", "--statistics", name];
    let ended = tool(&argv, timeout).await.map_err(|e| e.to_string())?;
    if !ended.status.success() {
        return Err(match ended.status.code() {
            // Tried: 20 without the kernel module.
            Some(20) => format!(
                "drbdsetup: {}; is the kernel module there? (modprobe drbd)",
                said(&ended)
            ),
            _ => format!("drbdsetup events2 {}: {}", ended.how(), said(&ended)),
        });
    }
    let mut book = Book::read(&ended.stdout);
    if !book.complete || ended.cut {
        return Err(format!(
            "drbdsetup events2 did not say all of {name}: {}",
            said(&ended)
        ));
    }
    let mut state = book.resources.remove(name);
    if let Some(state) = &mut state {
        split::recall(Path::new(split::FOLDER), name, state);
    }
    Ok(state)
}

/// What a program said, in one line.
fn said(ended: &Ended) -> String {
    let text = [ended.stderr.as_slice(), &ended.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    let line = |l: &str| -> String {
        l.trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect()
    };
    let lines: Vec<String> = text
        .lines()
        .map(line)
        .filter(|l| !l.is_empty() && !l.starts_with("Command '"))
        .take(3)
        .collect();
    if lines.is_empty() {
        ended.how()
    } else {
        lines.join("; ")
    }
}

/// DRBD's error codes in what drbdadm prints: `State change failed: (-2) …`, `Failure: (127) …`.
fn code(text: &str) -> Option<i32> {
    let (_, rest) = text
        .split_once("failed: (")
        .or_else(|| text.split_once("Failure: ("))?;
    rest.split_once(')')?.0.parse().ok()
}

/// What a refusal means, with the mend. Codes of `enum drbd_state_rv` and `drbd_ret_code` (linux/drbd.h).
fn refusal(name: &str, verb: &str, ended: &Ended) -> Failure {
    let said = said(ended);
    if said.contains("not defined in your config") {
        return Failure::Misconfigured(format!(
            "there is no DRBD resource {name} for this host in /etc/drbd.d: `drbdadm dump` shows those that there are"
        ));
    }
    let mend = match code(&said) {
        Some(-1) => "another node is Primary, and `allow-two-primaries` is not set",
        Some(-2) => {
            "no UpToDate data is within reach; if the disk is Consistent, the fence-peer handler did not confirm that no peer has newer data"
        }
        Some(-7) => {
            "the fence-peer handler did not confirm that the peer is outdated: `heartline drbd check` looks at the handlers"
        }
        Some(-12) => "it is held open",
        Some(-10 | -11) => "another change of state is under way; try again",
        Some(127 | 158 | 162) => "it is not up: `drbdadm up`, or enable drbd.service",
        _ => "",
    };
    let mend = if mend.is_empty() {
        String::new()
    } else {
        format!(" ({mend})")
    };
    Failure::Failed(format!(
        "drbdadm {verb} {name} {}: {said}{mend}",
        ended.how()
    ))
}

/// Runs `drbdadm VERB NAME` with what is left of a deadline.
async fn admin(verb: &[&str], name: &str, until: Instant) -> Result<Ended, Failure> {
    let mut argv = vec!["drbdadm"];
    argv.extend(verb);
    argv.push(name);
    let left = until.saturating_duration_since(Instant::now());
    tool(&argv, left.max(Duration::from_millis(1)))
        .await
        .map_err(|error| match no_answer(&error) {
            Failure::TimedOut { within, .. } => Failure::TimedOut {
                what: argv.join(" "),
                within,
            },
            other => other,
        })
}

/// Promotes, if what DRBD says and what the cluster knows allow it.
pub(super) async fn start(resource: &Resource, given: Given) -> Result<(), Failure> {
    let Some((name, dual)) = of(resource) else {
        return Ok(());
    };
    let until = Instant::now() + resource.start_timeout;
    let mut upped = false;
    let patience = Instant::now() + PATIENCE.min(resource.start_timeout / 2);
    loop {
        let Some(state) = ask(name, ASK).await.map_err(Failure::Unknown)? else {
            if upped {
                return Err(Failure::Failed(format!(
                    "{name} is not there after `drbdadm up`"
                )));
            }
            upped = true;
            let ended = admin(&["up"], name, until).await?;
            if !ended.status.success() {
                return Err(refusal(name, "up", &ended));
            }
            continue;
        };
        match rules::promote(name, &state, given, dual) {
            Decision::Already => return Ok(()),
            Decision::Promote(steps) => match carry_out(name, steps, until).await {
                Ok(()) => return resource.settle("promotion", &State::Running).await,
                Err(why) => return Err(why),
            },
            // Attaching and connecting take a moment; more than that is not ours to wait for.
            Decision::Wait(_) if Instant::now() < patience => sleep(LOOK).await,
            Decision::Wait(why) => return Err(Failure::Unknown(why)),
            Decision::Refuse(why) => return Err(Failure::Failed(why)),
        }
    }
}

async fn carry_out(name: &str, steps: &[Step], until: Instant) -> Result<(), Failure> {
    let mut promoted = Ok(());
    for step in steps {
        match step {
            Step::Disconnect => {
                owe(name, true);
                let ended = admin(&["disconnect", "--force"], name, until).await?;
                // 162: there is no connection. Tried.
                if !ended.status.success() && code(&said(&ended)) != Some(162) {
                    owe(name, false);
                    return Err(refusal(name, "disconnect", &ended));
                }
            }
            Step::Primary => {
                let ended = admin(&["primary"], name, until).await;
                promoted = match ended {
                    Ok(ended) if ended.status.success() => Ok(()),
                    Ok(ended) => Err(refusal(name, "primary", &ended)),
                    Err(why) => Err(why),
                };
            }
            // Also after a promotion that failed: a replica that is left alone falls behind. Nobody waits for it.
            Step::Connect => {
                owe(name, true);
                let name = name.to_owned();
                tokio::spawn(async move { connect(&name, Instant::now() + RECONNECT).await });
            }
        }
    }
    promoted
}

/// Lets DRBD try to connect again. What fails is tried again at each [`status`].
async fn connect(name: &str, until: Instant) {
    owe(name, true);
    if let Ok(ended) = admin(&["connect"], name, until).await
        && ended.status.success()
    {
        owe(name, false);
    }
}

fn owe(name: &str, on: bool) {
    if let Ok(mut owed) = OWED.lock() {
        if on {
            owed.insert(name.to_owned());
        } else {
            owed.remove(name);
        }
    }
}

/// Demotes.
pub(super) async fn stop(resource: &Resource) -> Result<(), Failure> {
    let Some((name, _)) = of(resource) else {
        return Ok(());
    };
    let until = Instant::now() + resource.stop_timeout;
    let state = match ask(name, ASK).await {
        Ok(None) => return Ok(()),
        Ok(Some(state)) => Some(state),
        // A demotion that is not needed does no harm.
        Err(_) => None,
    };
    if state.as_ref().is_some_and(|s| s.role == Role::Secondary) {
        return Ok(());
    }
    let ended = admin(&["secondary"], name, until).await?;
    if ended.status.success() {
        return resource.settle("demotion", &State::Stopped).await;
    }
    let text = said(&ended);
    if code(&text) == Some(-12) {
        let minors: Vec<u32> = state
            .iter()
            .flat_map(|s| s.volumes.values())
            .filter_map(|v| v.minor)
            .collect();
        let who = held::by_whom(minors).await;
        return Err(Failure::Failed(format!(
            "{name} is not demoted: its device is held open{who}"
        )));
    }
    Err(refusal(name, "secondary", &ended))
}

pub(super) async fn status(resource: &Resource) -> State {
    let Some((name, _)) = of(resource) else {
        return State::Stopped;
    };
    let state = match ask(name, resource.status_timeout.mul_f32(0.8)).await {
        Ok(None) => return State::Stopped,
        Ok(Some(state)) => state,
        Err(why) => return State::Unknown(why),
    };
    let owed = OWED.lock().is_ok_and(|owed| owed.contains(name));
    if owed
        && state.role == Role::Primary
        && state
            .peers
            .values()
            .any(|p| p.connection == Connection::StandAlone)
    {
        let name = name.to_owned();
        tokio::spawn(async move { connect(&name, Instant::now() + RECONNECT).await });
    }
    judge(&state)
}

/// Does it run? Suspended is no failure: stopping it would not help, and DRBD goes on by itself.
#[must_use]
pub fn judge(state: &ResourceState) -> State {
    match state.role {
        Role::Secondary => State::Stopped,
        Role::Unknown | Role::Other => State::Unknown(state.sentence()),
        Role::Primary if state.suspended.any() => {
            State::Unknown(format!("I/O is suspended: {}", state.suspended.why()))
        }
        Role::Primary => {
            let lost = state.volumes.iter().find(|(n, v)| {
                v.disk < Disk::Inconsistent
                    && !state.peers.values().any(|p| {
                        p.connection == Connection::Connected
                            && p.volumes.get(n).is_some_and(|v| v.disk == Disk::UpToDate)
                    })
            });
            match lost {
                Some((number, v)) => State::Failed(format!(
                    "volume {number} is {}, and no peer that is connected has the data",
                    v.disk
                )),
                None => State::Running,
            }
        }
    }
}

pub(super) async fn check(resource: &Resource) -> Vec<String> {
    let Some((name, _)) = of(resource) else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    for program in ["drbdadm", "drbdsetup"] {
        if let Err(why) = find(program) {
            wrong.push(format!("{why}: install drbd-utils"));
        }
    }
    if !wrong.is_empty() {
        return wrong;
    }
    match check::load().await {
        Ok(config) => match config.resources.iter().find(|r| r.name == name) {
            Some(r) => wrong.extend(
                check::findings(&config, r)
                    .into_iter()
                    .map(|f| f.to_string()),
            ),
            None => wrong.push(format!(
                "there is no DRBD resource {name} for this host in /etc/drbd.d"
            )),
        },
        Err(why) => wrong.push(why),
    }
    match ask(name, resource.status_timeout).await {
        Ok(Some(_)) => {}
        Ok(None) => wrong.push(format!(
            "{name} is not up, so it does not replicate: `drbdadm up {name}`, and enable drbd.service"
        )),
        Err(why) => wrong.push(why),
    }
    wrong
}

#[cfg(test)]
mod tests;
