//! OCF resource agents, version 1.1 of the standard (ClusterLabs, `OCF-spec/ra/1.1/resource-agent-api.md`).
//!
//! An agent is told what to do by its one argument, and with what by its environment; it answers by its exit status.
//! The environment is the standard's, and what Pacemaker sets beyond it and the agents of `resource-agents` read.

pub mod metadata;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use self::metadata::Metadata;
use super::{Failure, Kind, Resource, State, no_answer};
use crate::command::{Ended, Run, find};

/// Where agents are, unless `OCF_ROOT` says otherwise (as the standard has it).
const ROOT: &str = "/usr/lib/ocf";
/// Before the line of standard error that gives a reason (`ocf_exit_reason`).
const REASON: &str = "ocf-exit-reason:";
/// How similar the name of a parameter must be to be offered (Jaro-Winkler, 1 is the same).
const SIMILAR: f64 = 0.8;

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 0
    Success,
    /// 1, and every number that the standard does not give a meaning to
    Generic,
    /// 2: a parameter is wrong on this node
    Arguments,
    /// 3
    Unimplemented,
    /// 4
    Permission,
    /// 5: something that the resource needs is not installed
    Installed,
    /// 6: a parameter is wrong on every node
    Configured,
    /// 7: cleanly stopped
    NotRunning,
    /// 8: runs, promoted
    RunningPromoted,
    /// 9: failed, promoted
    FailedPromoted,
    /// 190: runs, but not well
    Degraded,
    /// 191: the same, promoted
    DegradedPromoted,
}

impl Code {
    /// By its number.
    #[must_use]
    pub fn from_number(number: i32) -> Code {
        match number {
            0 => Code::Success,
            2 => Code::Arguments,
            3 => Code::Unimplemented,
            4 => Code::Permission,
            5 => Code::Installed,
            6 => Code::Configured,
            7 => Code::NotRunning,
            8 => Code::RunningPromoted,
            9 => Code::FailedPromoted,
            190 => Code::Degraded,
            191 => Code::DegradedPromoted,
            _ => Code::Generic,
        }
    }

    /// What it means, for sentences.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Code::Success => "success",
            Code::Generic => "an error",
            Code::Arguments => "a parameter is wrong on this node",
            Code::Unimplemented => "not implemented",
            Code::Permission => "not permitted",
            Code::Installed => "something it needs is not installed",
            Code::Configured => "a parameter is wrong",
            Code::NotRunning => "it does not run",
            Code::RunningPromoted => "it runs, promoted",
            Code::FailedPromoted => "it has failed, promoted",
            Code::Degraded => "it runs, but not well",
            Code::DegradedPromoted => "it runs, promoted, but not well",
        }
    }
}

/// Everything that an action needs to know.
struct Agent<'a> {
    resource: &'a Resource,
    provider: &'a str,
    agent: &'a str,
    parameters: &'a BTreeMap<String, String>,
}

impl<'a> Agent<'a> {
    fn of(resource: &'a Resource) -> Option<Agent<'a>> {
        match &resource.kind {
            Kind::Ocf {
                provider,
                agent,
                parameters,
            } => Some(Agent {
                resource,
                provider,
                agent,
                parameters,
            }),
            Kind::Systemd { .. }
            | Kind::Exec { .. }
            | Kind::Filesystem { .. }
            | Kind::Drbd { .. }
            | Kind::Domain(_) => None,
        }
    }

    fn path(&self) -> PathBuf {
        root()
            .join("resource.d")
            .join(self.provider)
            .join(self.agent)
    }

    /// Why it cannot be run.
    fn missing(&self) -> Option<String> {
        for part in [self.provider, self.agent] {
            if part.is_empty() || part.starts_with('.') || part.contains('/') {
                return Some(format!("\"{part}\" is no name of an OCF provider or agent"));
            }
        }
        let path = self.path();
        if !path.exists() {
            return Some(format!(
                "there is no OCF agent {} (Debian's agents are in the package resource-agents)",
                path.display()
            ));
        }
        find(&path.to_string_lossy()).err()
    }

    fn environment(&self, timeout: Duration, interval: Duration) -> Vec<(OsString, OsString)> {
        let root = root();
        let syslog = Path::new("/dev/log").exists();
        let mut env: Vec<(OsString, OsString)> = [
            ("OCF_RA_VERSION_MAJOR", "1"),
            ("OCF_RA_VERSION_MINOR", "1"),
            ("OCF_RESOURCE_INSTANCE", self.resource.name.as_str()),
            ("OCF_RESOURCE_TYPE", self.agent),
            ("OCF_RESOURCE_PROVIDER", self.provider),
            ("OCF_EXIT_REASON_PREFIX", REASON),
            ("OCF_CHECK_LEVEL", "0"),
            // Pacemaker's: agents ask for it to know what their manager can do.
            ("OCF_RESKEY_crm_feature_set", "3.16.2"),
            // Of ocf-shellfuncs: log to syslog if there is one, and to us; no debug messages, no cluster-glue daemon.
            ("HA_LOGFACILITY", if syslog { "daemon" } else { "none" }),
            ("HA_LOGFILE", "/dev/stderr"),
            ("HA_debug", "0"),
            ("HA_LOGD", "no"),
            ("HA_RSCTMP", "/run/resource-agents"),
            // Some daemons do not start without it.
            ("HOME", "/root"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        env.push(("OCF_ROOT".into(), root.as_os_str().into()));
        let milliseconds =
            |name: &str, d: Duration| (name.into(), d.as_millis().to_string().into());
        env.push(milliseconds("OCF_RESKEY_CRM_meta_timeout", timeout));
        env.push(milliseconds("OCF_RESKEY_CRM_meta_interval", interval));
        for (name, value) in self.parameters {
            env.push((format!("OCF_RESKEY_{name}").into(), value.into()));
        }
        env
    }

    async fn run(
        &self,
        action: &str,
        timeout: Duration,
        interval: Duration,
    ) -> Result<Done, Failure> {
        if let Some(why) = self.missing() {
            return Err(Failure::Misconfigured(why));
        }
        if action != "meta-data" {
            prepare();
        }
        let mut run = Run::new(
            &[
                self.path().to_string_lossy().into_owned(),
                action.to_owned(),
            ],
            timeout,
        );
        run.env = self.environment(timeout, interval);
        let ended = run
            .output()
            .await
            .map_err(|error| match no_answer(&error) {
                Failure::TimedOut { within, .. } => Failure::TimedOut {
                    what: format!("{action} of {}", self.resource.what()),
                    within,
                },
                other => other,
            })?;
        Ok(Done {
            code: ended.status.code().map_or(Code::Generic, Code::from_number),
            ended,
            action: action.to_owned(),
        })
    }

    async fn metadata(&self) -> Result<Metadata, String> {
        let timeout = self.resource.status_timeout;
        let done = self
            .run("meta-data", timeout, Duration::ZERO)
            .await
            .map_err(|e| e.to_string())?;
        if done.code != Code::Success {
            return Err(done.sentence());
        }
        if done.ended.cut {
            return Err(format!(
                "its metadata is longer than {} bytes",
                crate::command::KEPT
            ));
        }
        Metadata::parse(&String::from_utf8_lossy(&done.ended.stdout))
    }
}

/// An action that has ended.
struct Done {
    action: String,
    code: Code,
    ended: Ended,
}

impl Done {
    /// "start ended with 6 (a parameter is wrong): its reason".
    fn sentence(&self) -> String {
        let meaning = if self.ended.status.code().is_some() {
            format!(" ({})", self.code.meaning())
        } else {
            String::new()
        };
        let reason = self.reason();
        let colon = if reason.is_empty() { "" } else { ": " };
        format!(
            "{} {}{meaning}{colon}{reason}",
            self.action,
            self.ended.how()
        )
    }

    /// What the agent gave as its reason, else the last error that it logged, else the last thing that it said.
    fn reason(&self) -> String {
        let text = String::from_utf8_lossy(&self.ended.stderr);
        let mut lines = text.lines().rev();
        let after = |sign: &str| {
            lines
                .clone()
                .find_map(|l| l.split_once(sign))
                .map(|(_, rest)| rest)
        };
        after(REASON)
            .or_else(|| after("ERROR: "))
            .or_else(|| lines.find(|l| !l.trim().is_empty()))
            .map(|l| {
                l.trim()
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(500)
                    .collect()
            })
            .unwrap_or_default()
    }

    fn failure(&self) -> Failure {
        match self.code {
            Code::Arguments
            | Code::Unimplemented
            | Code::Permission
            | Code::Installed
            | Code::Configured => Failure::Misconfigured(self.sentence()),
            Code::Success
            | Code::Generic
            | Code::NotRunning
            | Code::RunningPromoted
            | Code::FailedPromoted
            | Code::Degraded
            | Code::DegradedPromoted => Failure::Failed(self.sentence()),
        }
    }
}

fn root() -> PathBuf {
    std::env::var_os("OCF_ROOT").map_or_else(|| PathBuf::from(ROOT), PathBuf::from)
}

/// Agents keep small files there, and do not make it: Debian does at boot, by tmpfiles.
fn prepare() {
    let _ = std::fs::create_dir_all(Path::new("/run/resource-agents"));
}

pub(super) async fn start(resource: &Resource) -> Result<(), Failure> {
    let Some(agent) = Agent::of(resource) else {
        return Ok(());
    };
    let done = agent
        .run("start", resource.start_timeout, Duration::ZERO)
        .await?;
    match done.code {
        Code::Success | Code::RunningPromoted | Code::Degraded | Code::DegradedPromoted => {
            resource.settle("start", &State::Running).await
        }
        Code::Generic
        | Code::Arguments
        | Code::Unimplemented
        | Code::Permission
        | Code::Installed
        | Code::Configured
        | Code::NotRunning
        | Code::FailedPromoted => Err(done.failure()),
    }
}

pub(super) async fn stop(resource: &Resource) -> Result<(), Failure> {
    let Some(agent) = Agent::of(resource) else {
        return Ok(());
    };
    if status_of_nothing(&agent) == Some(State::Stopped) {
        return Ok(());
    }
    // Of what has state a stop that fails counts only if it ran before: not all agents can stop what is stopped
    // (IPsrcaddr). They are asked all the same: a start that failed half-way may have left something behind.
    let ran = resource.stateful && status(resource).await != State::Stopped;
    let done = agent
        .run("stop", resource.stop_timeout, Duration::ZERO)
        .await?;
    match done.code {
        Code::Success | Code::NotRunning => resource.settle("stop", &State::Stopped).await,
        // The same that Pacemaker takes it for: without the program nothing of it can run.
        Code::Installed if !resource.stateful => Ok(()),
        Code::Generic
        | Code::Arguments
        | Code::Unimplemented
        | Code::Permission
        | Code::Installed
        | Code::Configured
        | Code::RunningPromoted
        | Code::FailedPromoted
        | Code::Degraded
        | Code::DegradedPromoted => {
            if !ran && status(resource).await == State::Stopped {
                Ok(())
            } else {
                Err(done.failure())
            }
        }
    }
}

/// Without the agent nothing was ever started by it here; but of what has state "it was surely never there" is not
/// sure enough.
fn status_of_nothing(agent: &Agent<'_>) -> Option<State> {
    let why = agent.missing()?;
    Some(if agent.resource.stateful {
        State::Unknown(why)
    } else {
        State::Stopped
    })
}

pub(super) async fn status(resource: &Resource) -> State {
    let Some(agent) = Agent::of(resource) else {
        return State::Stopped;
    };
    if let Some(state) = status_of_nothing(&agent) {
        return state;
    }
    // With an interval of 0 it would be a probe, at which agents are content with less.
    let interval = resource.status_interval.max(Duration::from_millis(1));
    let done = match agent
        .run("monitor", resource.status_timeout, interval)
        .await
    {
        Ok(done) => done,
        Err(failure) => return State::Unknown(failure.to_string()),
    };
    if done.ended.status.code().is_none() {
        return State::Unknown(done.sentence());
    }
    match done.code {
        Code::Success | Code::RunningPromoted | Code::Degraded | Code::DegradedPromoted => {
            State::Running
        }
        Code::NotRunning => State::Stopped,
        Code::Installed if !resource.stateful => State::Stopped,
        Code::Generic | Code::FailedPromoted => State::Failed(done.sentence()),
        // The question was wrong, not the answer. A probe (interval 0) asks for less: on a node where a program or a
        // file is missing, many agents then say that it does not run.
        Code::Arguments
        | Code::Unimplemented
        | Code::Permission
        | Code::Installed
        | Code::Configured => match agent
            .run("monitor", resource.status_timeout, Duration::ZERO)
            .await
        {
            Ok(probe) if probe.code == Code::NotRunning => State::Stopped,
            _ => State::Unknown(done.sentence()),
        },
    }
}

/// What an agent says of itself.
///
/// # Errors
/// It is not an OCF agent, is not there, hangs or lies; a sentence that says which.
pub async fn describe(resource: &Resource) -> Result<Metadata, String> {
    match Agent::of(resource) {
        Some(agent) => agent.metadata().await,
        None => Err(format!("{} is no OCF agent", resource.what())),
    }
}

pub(super) async fn check(resource: &Resource) -> Vec<String> {
    let Some(agent) = Agent::of(resource) else {
        return Vec::new();
    };
    let name = format!("ocf:{}:{}", agent.provider, agent.agent);
    if let Some(why) = agent.missing() {
        return vec![why];
    }
    let metadata = match agent.metadata().await {
        Ok(metadata) => metadata,
        Err(why) => return vec![format!("{name}: {why}")],
    };
    let mut wrong = compare(resource, &agent, &name, &metadata);
    if metadata.action("validate-all").is_none() {
        return wrong;
    }
    match agent
        .run("validate-all", resource.status_timeout, Duration::ZERO)
        .await
    {
        Ok(done) if matches!(done.code, Code::Success | Code::Unimplemented) => {}
        Ok(done) => wrong.push(format!("{name}: {}", done.sentence())),
        Err(failure) => wrong.push(format!("{name}: {failure}")),
    }
    wrong
}

/// What is configured against what the agent says that it takes.
fn compare(resource: &Resource, agent: &Agent<'_>, name: &str, metadata: &Metadata) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, value) in agent.parameters {
        match metadata.parameters.iter().find(|p| p.name == *key) {
            Some(known) if !known.content.takes(value) => wrong.push(format!(
                "{name}: parameter {key} = \"{value}\" must be {}",
                known.content.wants()
            )),
            Some(_) => {}
            None => {
                let similar = metadata
                    .parameters
                    .iter()
                    .map(|p| (strsim::jaro_winkler(&p.name, key), &p.name))
                    .filter(|(how, _)| *how >= SIMILAR)
                    .max_by(|a, b| a.0.total_cmp(&b.0));
                wrong.push(match similar {
                    Some((_, other)) => {
                        format!("{name} has no parameter {key}: did you mean {other}?")
                    }
                    None => format!(
                        "{name} has no parameter {key}; it has {}",
                        metadata
                            .parameters
                            .iter()
                            .map(|p| p.name.as_str())
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                });
            }
        }
    }
    for needed in metadata.parameters.iter().filter(|p| p.required) {
        // An old name for it will do.
        let given = agent.parameters.contains_key(&needed.name)
            || metadata.parameters.iter().any(|p| {
                p.replaced_by.as_ref() == Some(&needed.name)
                    && agent.parameters.contains_key(&p.name)
            });
        if !given {
            wrong.push(format!(
                "{name} needs parameter {} ({})",
                needed.name, needed.short
            ));
        }
    }
    for (action, given) in [
        ("start", resource.start_timeout),
        ("stop", resource.stop_timeout),
        ("monitor", resource.status_timeout),
    ] {
        match metadata.action(action) {
            None => wrong.push(format!("{name} cannot {action}, by its own metadata")),
            Some(a) => {
                if let Some(advised) = a.timeout.filter(|advised| *advised > given) {
                    wrong.push(format!(
                        "{name}: {given:?} for {action} is less than the {advised:?} that its author advises"
                    ));
                }
            }
        }
    }
    wrong
}
