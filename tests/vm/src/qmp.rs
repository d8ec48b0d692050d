//! The machine around a guest: QEMU's monitor protocol (docs/interop/qmp-spec of QEMU), as far as the lab needs it.
//!
//! A few lines on `serde_json` rather than a crate: the bindings that there are generate all of QEMU's schema.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::control::connect;

/// QEMU answers at once unless it is starved.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection to one monitor, past the greeting.
#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// The socket is not there in time, or what is there is no QMP.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Self> {
        let stream = connect(path, deadline)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut qmp = Self {
            lines: BufReader::new(stream),
        };
        let hello = qmp.line().context("QMP's greeting")?;
        if hello.get("QMP").is_none() {
            bail!("{} greets with {hello}: no QMP", path.display());
        }
        qmp.call("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments; returns what it returns. Events in between are passed over.
    ///
    /// # Errors
    /// QEMU refuses it or does not answer in time.
    pub fn call(&mut self, command: &str) -> Result<Value> {
        let mut line = serde_json::to_vec(&json!({ "execute": command }))?;
        line.push(b'\n');
        self.lines.get_mut().write_all(&line)?;
        let end = Instant::now() + ANSWER;
        while Instant::now() < end {
            let mut answer = self.line().with_context(|| format!("QMP {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QMP {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
        bail!("QMP {command}: events only, no answer within {ANSWER:?}")
    }

    /// What the machine is at: "running", "paused", ...
    ///
    /// # Errors
    /// As for [`Qmp::call`].
    pub fn status(&mut self) -> Result<String> {
        let status = self.call("query-status")?;
        let word = status.get("status").and_then(Value::as_str);
        Ok(word
            .context("QMP query-status without a status")?
            .to_owned())
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("QEMU has closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
