//! Three commands.
//!
//! The exit status of `status` is read as LSB has it for init scripts (Linux Standard Base Core 5.0, 22.2): 0 runs,
//! 3 does not run, 1 and 2 are dead with a PID or lock file left, 4 is unknown.

use super::{Failure, Resource, State, no_answer};
use crate::command::{Run, find};

/// Ended with [`STOPPED`]: it does not run, and left nothing behind.
const STOPPED: i32 = 3;
/// LSB: "program or service status is unknown".
const UNKNOWN: i32 = 4;

pub(super) async fn start(
    resource: &Resource,
    start: &[String],
    status: &[String],
) -> Result<(), Failure> {
    // LSB scripts may be called twice, other commands not.
    if self::status(resource, status).await == State::Running {
        return Ok(());
    }
    let ended = Run::new(start, resource.start_timeout)
        .output()
        .await
        .map_err(|e| no_answer(&e))?;
    if !ended.status.success() {
        return Err(Failure::Failed(ended.sentence(&start.join(" "))));
    }
    resource.settle("start", &State::Running).await
}

pub(super) async fn stop(
    resource: &Resource,
    stop: &[String],
    status: &[String],
) -> Result<(), Failure> {
    let ended = Run::new(stop, resource.stop_timeout)
        .output()
        .await
        .map_err(|e| no_answer(&e))?;
    if !ended.status.success() {
        // Some commands complain when there is nothing to stop: what counts is whether it runs.
        return match self::status(resource, status).await {
            State::Stopped => Ok(()),
            State::Running => Err(Failure::Failed(format!(
                "{}, and it still runs",
                ended.sentence(&stop.join(" "))
            ))),
            State::Failed(seen) | State::Unknown(seen) => Err(Failure::Failed(format!(
                "{}; asked for its state: {seen}",
                ended.sentence(&stop.join(" "))
            ))),
        };
    }
    resource.settle("stop", &State::Stopped).await
}

pub(super) async fn status(resource: &Resource, status: &[String]) -> State {
    match Run::new(status, resource.status_timeout).output().await {
        Ok(ended) => match ended.status.code() {
            Some(0) => State::Running,
            Some(STOPPED) => State::Stopped,
            Some(UNKNOWN) => State::Unknown(ended.sentence(&status.join(" "))),
            Some(_) | None => State::Failed(ended.sentence(&status.join(" "))),
        },
        Err(error) => State::Unknown(error.to_string()),
    }
}

pub(super) fn check(commands: &[(&str, &[String])]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (verb, argv) in commands {
        match argv.first() {
            None => wrong.push(format!("the command for {verb} is empty")),
            Some(program) => {
                if let Err(why) = find(program) {
                    wrong.push(format!("the command for {verb}: {why}"));
                }
            }
        }
    }
    wrong
}
