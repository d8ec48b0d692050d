//! Units of systemd, by D-Bus: org.freedesktop.systemd1(5).

mod bus;
mod private;

use std::time::Duration;

use tokio::{sync::broadcast::error::RecvError, time::sleep};
use zbus::OwnedObjectPath;

use self::bus::{Bus, Lost, Properties, decode};
use super::{Failure, State};

const UNIT: &str = "org.freedesktop.systemd1.Unit";
/// A signal may be lost (systemd executed itself anew, queue full): so often the job is asked for.
const ASK_JOB: Duration = Duration::from_secs(1);
/// systemd calls units of these types started before their program has done anything.
const NO_READINESS: [&str; 3] = ["simple", "exec", "idle"];
/// So long such a unit is looked at, so that a program that dies at once is no success.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Of the processes that a unit left behind so many are named.
const NAMED: usize = 5;

/// What systemd knows of a unit.
struct Unit {
    path: String,
    all: Properties,
}

impl Unit {
    async fn load(bus: &Bus, name: &str) -> Result<Unit, Lost> {
        let answer = bus.manager("LoadUnit", &name).await?;
        let path = decode::<OwnedObjectPath>(&answer)?.to_string();
        let all = bus.properties(&path, UNIT).await?;
        Ok(Unit { path, all })
    }

    fn text(&self, property: &str) -> &str {
        text(&self.all, property)
    }

    /// Something is about to be done with it: 0 if not.
    fn job(&self) -> u32 {
        self.all
            .get("Job")
            .and_then(|v| <(u32, OwnedObjectPath)>::try_from(v.try_clone().ok()?).ok())
            .map_or(0, |(id, _)| id)
    }

    /// Properties of its type: Service, Mount, …
    async fn more(&self, bus: &Bus) -> Properties {
        let name = self.text("Id");
        let suffix = name.rsplit('.').next().unwrap_or_default();
        let mut letters = suffix.chars();
        let interface: String = "org.freedesktop.systemd1."
            .chars()
            .chain(letters.next().map(|c| c.to_ascii_uppercase()))
            .chain(letters)
            .collect();
        bus.properties(&self.path, &interface)
            .await
            .unwrap_or_default()
    }

    /// Why it can never start like this.
    fn unusable(&self, name: &str) -> Option<String> {
        let detail = || {
            self.all
                .get("LoadError")
                .and_then(|v| <(String, String)>::try_from(v.try_clone().ok()?).ok())
                .map(|(_, text)| text)
                .unwrap_or_default()
        };
        match self.text("LoadState") {
            "loaded" | "merged" | "stub" => None,
            "not-found" => Some(format!("unit {name} does not exist on this node")),
            "masked" => Some(format!("unit {name} is masked: systemctl unmask {name}")),
            other => Some(format!(
                "unit {name} cannot be loaded ({other}): {}",
                detail()
            )),
        }
    }
}

fn text<'a>(all: &'a Properties, property: &str) -> &'a str {
    all.get(property)
        .and_then(|v| <&str>::try_from(v).ok())
        .unwrap_or_default()
}

fn list(all: &Properties, property: &str) -> Vec<String> {
    all.get(property)
        .and_then(|v| Vec::<String>::try_from(v.try_clone().ok()?).ok())
        .unwrap_or_default()
}

fn failure(lost: Lost) -> Failure {
    match (&lost, lost.kind()) {
        (Lost::Gone(_), _) => Failure::Unknown(lost.to_string()),
        (_, "NoSuchUnit" | "UnitMasked" | "BadUnitSetting" | "LoadFailed" | "InvalidArgs") => {
            Failure::Misconfigured(lost.to_string())
        }
        (_, "AccessDenied" | "InteractiveAuthorizationRequired") => Failure::Misconfigured(
            format!("systemd does not let the agent do that: {lost}; it must run as root"),
        ),
        _ => Failure::Failed(lost.to_string()),
    }
}

pub(super) async fn start(name: &str) -> Result<(), Failure> {
    let bus = Bus::get().await.map_err(failure)?;
    // Forgets how often it was started lately: how often is too often is for the group's policy to say. Asked together:
    // on a busy machine each question takes tens of milliseconds, and clients wait.
    let (unit, _) = tokio::join!(
        Unit::load(&bus, name),
        bus.manager("ResetFailedUnit", &name)
    );
    let unit = unit.map_err(failure)?;
    if unit.text("ActiveState") == "active" {
        return Ok(());
    }
    if let Some(why) = unit.unusable(name) {
        return Err(Failure::Misconfigured(why));
    }
    let result = job(&bus, "StartUnit", name, "replace").await?;
    let unit = Unit::load(&bus, name).await.map_err(failure)?;
    let more = unit.more(&bus).await;
    if result == "done"
        && unit.text("ActiveState") == "active"
        && NO_READINESS.contains(&text(&more, "Type"))
    {
        sleep(LOOK_AGAIN).await;
    }
    match seen(&bus, name).await? {
        State::Running if result == "done" => Ok(()),
        State::Running => Err(Failure::Failed(format!(
            "the start of unit {name} ended with {result}"
        ))),
        State::Failed(why) => Err(Failure::Failed(format!(
            "unit {name} does not start: {why}{}",
            because(&result)
        ))),
        State::Stopped => {
            let condition = result == "done"
                && unit
                    .all
                    .get("ConditionResult")
                    .is_some_and(|v| matches!(bool::try_from(v), Ok(false)));
            Err(Failure::Failed(if condition {
                format!("unit {name} was not started: a condition in it is not met (Condition…=)")
            } else {
                format!(
                    "unit {name} ended right after its start{}",
                    because(&result)
                )
            }))
        }
        State::Unknown(why) => Err(Failure::Failed(format!(
            "unit {name} does not run after its start: {why}{}",
            because(&result)
        ))),
    }
}

pub(super) async fn stop(name: &str) -> Result<(), Failure> {
    let bus = Bus::get().await.map_err(failure)?;
    let unit = Unit::load(&bus, name).await.map_err(failure)?;
    let mut result = "done".to_owned();
    // A start that waits for another unit would come later: a stop takes its place.
    if !matches!(unit.text("ActiveState"), "inactive" | "failed") || unit.job() != 0 {
        // At a shutdown systemd has a stop of its own in its queue, which may wait for heartline-handover.service, and so for
        // us: it must not.
        let mode = if unit.job() == 0 {
            "replace"
        } else {
            "ignore-dependencies"
        };
        result = job(&bus, "StopUnit", name, mode).await?;
    }
    let mut unit = Unit::load(&bus, name).await.map_err(failure)?;
    if unit.text("ActiveState") == "failed" {
        // It ended badly, but it ended; whether anything is left is asked below.
        bus.manager("ResetFailedUnit", &name)
            .await
            .map_err(failure)?;
        unit = Unit::load(&bus, name).await.map_err(failure)?;
    }
    // Whoever takes over waits for this: on a busy machine each question more takes tens of milliseconds.
    match judged(&bus, &unit, name).await? {
        State::Stopped => Ok(()),
        State::Running => Err(Failure::Failed(format!(
            "unit {name} runs after its stop{}",
            because(&result)
        ))),
        State::Failed(why) | State::Unknown(why) => Err(Failure::Failed(format!(
            "unit {name} is not stopped: {why}{}",
            because(&result)
        ))),
    }
}

pub(crate) async fn status(name: &str) -> State {
    match Bus::get().await {
        Ok(bus) => match seen(&bus, name).await {
            Ok(state) => state,
            Err(failure) => State::Unknown(failure.to_string()),
        },
        Err(lost) => State::Unknown(lost.to_string()),
    }
}

/// What is wrong with a unit on this machine.
pub(super) async fn check(name: &str, keep_running: bool) -> Vec<String> {
    let bus = match Bus::get().await {
        Ok(bus) => bus,
        Err(lost) => return vec![lost.to_string()],
    };
    let unit = match Unit::load(&bus, name).await {
        Ok(unit) => unit,
        Err(lost) => return vec![format!("unit {name}: {lost}")],
    };
    if let Some(why) = unit.unusable(name) {
        return vec![why];
    }
    let mut wrong = Vec::new();
    if unit
        .all
        .get("NeedDaemonReload")
        .is_some_and(|v| matches!(bool::try_from(v), Ok(true)))
    {
        wrong.push(format!(
            "unit {name}: its file has changed since systemd read it: systemctl daemon-reload"
        ));
    }
    if keep_running {
        return wrong;
    }
    let starts = by_itself(&bus, &unit, name).await;
    if !starts.is_empty() {
        wrong.push(format!(
            "systemd starts unit {name} by itself ({}), also where the group does not run: \
             systemctl disable {name}, or keep_running = true",
            starts.join(", ")
        ));
    }
    wrong
}

/// What would make systemd start a unit at boot, or when somebody connects.
async fn by_itself(bus: &Bus, unit: &Unit, name: &str) -> Vec<String> {
    let mut starts = Vec::new();
    let state = file_state(bus, name).await;
    if matches!(state.as_str(), "enabled" | "enabled-runtime") {
        starts.push(state);
    } else {
        // Made by a generator: an init script, say.
        for property in ["WantedBy", "RequiredBy", "UpheldBy"] {
            starts.extend(
                list(&unit.all, property)
                    .into_iter()
                    .map(|by| format!("{property}={by}")),
            );
        }
    }
    for trigger in list(&unit.all, "TriggeredBy") {
        if matches!(
            file_state(bus, &trigger).await.as_str(),
            "enabled" | "enabled-runtime"
        ) {
            starts.push(format!("TriggeredBy={trigger}, which is enabled"));
        }
    }
    starts
}

async fn file_state(bus: &Bus, name: &str) -> String {
    match bus.manager("GetUnitFileState", &name).await {
        Ok(answer) => decode(&answer).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

fn because(result: &str) -> String {
    match result {
        "done" | "failed" => String::new(),
        "canceled" => " (another job took the place of this one)".into(),
        "dependency" => " (a unit that it needs does not start)".into(),
        other => format!(" (its job ended with {other})"),
    }
}

/// The state of a unit as systemd has it, and of what it left behind.
async fn seen(bus: &Bus, name: &str) -> Result<State, Failure> {
    let unit = Unit::load(bus, name).await.map_err(failure)?;
    judged(bus, &unit, name).await
}

/// The same of a unit as it was just loaded.
async fn judged(bus: &Bus, unit: &Unit, name: &str) -> Result<State, Failure> {
    let sub = unit.text("SubState");
    Ok(match unit.text("ActiveState") {
        "active" | "reloading" | "refreshing" | "maintenance" => State::Running,
        "inactive" | "failed" if unit.job() != 0 => {
            State::Unknown(format!("it waits for its start (job {})", unit.job()))
        }
        "inactive" => match left_behind(bus, unit, name).await? {
            None => State::Stopped,
            Some(who) => State::Failed(format!("it has left processes behind: {who}")),
        },
        "failed" => State::Failed(format!(
            "failed ({}){}",
            how(&unit.more(bus).await),
            left_behind(bus, unit, name)
                .await?
                .map(|who| format!(", and has left processes behind: {who}"))
                .unwrap_or_default()
        )),
        "activating" if sub.starts_with("auto-restart") => State::Failed(format!(
            "it ended ({}), and systemd is about to restart it",
            how(&unit.more(bus).await)
        )),
        // Both end by themselves: systemd has deadlines for them.
        other => State::Unknown(format!("it is {other} ({sub})")),
    })
}

/// "exit-code, status 1".
fn how(more: &Properties) -> String {
    let result = text(more, "Result");
    let number = |property| more.get(property).and_then(|v| i32::try_from(v).ok());
    match (number("ExecMainCode"), number("ExecMainStatus")) {
        // CLD_EXITED, CLD_KILLED, CLD_DUMPED
        (Some(1), Some(status)) => format!("{result}, status {status}"),
        (Some(2 | 3), Some(signal)) => format!("{result}, signal {signal}"),
        _ => result.to_owned(),
    }
}

/// Processes in the control group of a unit that does not run. Units that leave theirs on purpose (`KillMode=process`,
/// as of ssh.service) are not asked.
async fn left_behind(bus: &Bus, unit: &Unit, name: &str) -> Result<Option<String>, Failure> {
    let (more, processes) = tokio::join!(unit.more(bus), bus.manager("GetUnitProcesses", &name));
    if matches!(text(&more, "KillMode"), "process" | "none") {
        return Ok(None);
    }
    let answer = match processes {
        Ok(answer) => answer,
        Err(lost @ Lost::Gone(_)) => return Err(failure(lost)),
        // Unloaded meanwhile, or of a type that has no processes.
        Err(Lost::Refused(..)) => return Ok(None),
    };
    let processes: Vec<(String, u32, String)> = decode(&answer).map_err(failure)?;
    if processes.is_empty() {
        return Ok(None);
    }
    let named: Vec<String> = processes
        .iter()
        .take(NAMED)
        .map(|(_, pid, line)| format!("{pid} ({line})"))
        .collect();
    let more = processes.len().saturating_sub(NAMED);
    Ok(Some(if more > 0 {
        format!("{} and {more} more", named.join(", "))
    } else {
        named.join(", ")
    }))
}

/// Puts a job into systemd's queue and waits for its end; returns how it ended.
async fn job(bus: &Bus, method: &str, name: &str, mode: &str) -> Result<String, Failure> {
    // Before the call: the job may end before its answer is here.
    let mut jobs = bus.jobs();
    let answer = bus.manager(method, &(name, mode)).await.map_err(failure)?;
    let job = decode::<OwnedObjectPath>(&answer)
        .map_err(failure)?
        .to_string();
    loop {
        tokio::select! {
            ended = jobs.recv() => match ended {
                Ok(ended) if ended.job == job => return Ok(ended.result),
                Ok(_) => {}
                // Behind by more than the queue holds: ask.
                Err(RecvError::Lagged(_)) => {
                    if !waits(bus, &job).await? {
                        return Ok("done".into());
                    }
                }
                Err(RecvError::Closed) => return Err(gone()),
            },
            () = bus.closed() => return Err(gone()),
            () = sleep(ASK_JOB) => {
                // Read what came meanwhile first: it says more.
                if jobs.is_empty() && !waits(bus, &job).await? && jobs.is_empty() {
                    return Ok("done".into());
                }
            }
        }
    }
}

fn gone() -> Failure {
    Failure::Unknown("the connection to systemd went away while a job ran".into())
}

/// Is a job still in the queue?
async fn waits(bus: &Bus, job: &str) -> Result<bool, Failure> {
    match bus.properties(job, "org.freedesktop.systemd1.Job").await {
        Ok(_) => Ok(true),
        Err(lost @ Lost::Gone(_)) => Err(failure(lost)),
        Err(Lost::Refused(..)) => Ok(false),
    }
}
