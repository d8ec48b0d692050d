//! Where results and failures go.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::render::Style;
use crate::control::ClientError;
use crate::control::proto::{Code, Refusal, Reply};

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Asking the agent failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The same, of a command that prints JSON: so the failure is JSON too.
    #[error(transparent)]
    Json(ClientError),
    /// Writing the result failed.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// It cannot be done as things are; with the mend.
    #[error("{0}")]
    Refused(String),
    /// Something did not come about in time.
    #[error("{0}")]
    Late(String),
}

impl Failure {
    /// Reports the failure: a line on stderr, the mend below, and JSON on stdout for commands that print it.
    pub fn report(&self) -> ExitCode {
        if let Failure::Output(error) = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // `heartline events | head`: the reader has what it wanted.
            return ExitCode::SUCCESS;
        }
        if let Failure::Json(error) = self {
            let refusal = match error {
                ClientError::Refused(refusal) => refusal.clone(),
                ClientError::Timeout { .. } => Refusal::new(Code::Timeout, error.to_string()),
                ClientError::NotRunning(_) => Refusal::new(Code::NotReady, error.to_string()),
                ClientError::Denied(_) | ClientError::Broken { .. } => {
                    Refusal::new(Code::Failed, error.to_string())
                }
            };
            let _ = print_json(&Reply::<()>::Error(refusal));
        }
        let mut stderr = io::stderr().lock();
        let _ = writeln!(
            stderr,
            "heartline: {}",
            super::render::clean_lines(&self.to_string())
        );
        match self {
            Failure::Client(error) | Failure::Json(error) => {
                if let Some(help) = error.help() {
                    let _ = writeln!(stderr, "  {}", super::render::clean_lines(help));
                }
                error.exit_code()
            }
            Failure::Output(_) => ExitCode::from(1),
            Failure::Refused(_) => ExitCode::from(1),
            Failure::Late(_) => ExitCode::from(4),
        }
    }
}

/// Makes a client's failure one of this command's.
pub(super) fn as_failure(json: bool) -> impl Fn(ClientError) -> Failure {
    move |error| {
        if json {
            Failure::Json(error)
        } else {
            Failure::Client(error)
        }
    }
}

/// Writes text to stdout, all of it at once.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Writes a value as one line of JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(value).map_err(io::Error::from)?;
    text.push('\n');
    print(&text)
}

/// Writes an answer: as JSON, or as a sentence.
pub(super) fn answer<T: Serialize>(
    json: bool,
    value: &T,
    sentence: impl FnOnce(&T, &Style) -> String,
) -> Result<(), Failure> {
    if json {
        print_json(value)
    } else {
        print(&sentence(value, &Style::of_stdout()))
    }
}

/// Reads durations like `500ms`, `10s`, `1m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error} (for example 500ms, 10s, 1m)"))
}
