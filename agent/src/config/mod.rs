//! Configuration: TOML text to a typed [`Config`] that cannot be wrong.
//!
//! ```text
//! text --raw--> values with places --check--> Config        (and a Report of all errors and warnings at once)
//! ```
//!
//! Every finding names file, line, column, what is wrong and the mend. Unknown keys are errors everywhere.
//!
//! Invariants (each with its test in `tests`): a text that parses to a `Config` breaks none of the rules in
//! `check*`; no text makes the reader panic; formatting, comments and the order of nodes and groups leave
//! [`Config::digest`] as it is.

mod address;
mod change;
mod check;
mod check_groups;
mod check_nodes;
mod diff;
mod digest;
mod domain;
mod drbd;
mod extras;
mod fence;
mod hooks;
mod key;
mod local;
mod near;
mod raw;
mod render;
mod services;
mod services_probe;
mod stops;
mod summary;
mod table;
mod types;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use change::{Change, Refusal};
pub use check::{Checks, Local};
pub use diff::{diff, key_change, member_steps, moved_vips};
pub use digest::cluster_id;
pub use fence::{Fence, Watchdog};
pub use hooks::{Hook, Tell, host_of};
pub use key::{ClusterKey, KEY_BYTES, KEY_DIGITS, KeyError, KeyFile};
pub use render::{Diagnostic, Report, Severity, Span, colour_wanted};
pub use stops::{Stop, stops};
pub use types::{
    Config, DEFAULT_CONFIG_FILE, DEFAULT_KEY_FILE, DEFAULT_PORT, Datapath, Failback, Group, Link,
    MAX_GROUPS, MAX_LINKS, MAX_NODES, MAX_VIPS, MIN_NODES, Near, Node, Prefix, Profile, Role,
    Route, Rule, Timing, Track, Vip, show_ns,
};

/// A longer file is not read: 4096 VIPs need less than half of it.
const FILE_MAX: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read at all.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was read and refused. Shown with [`Report::render`].
    #[error("{}", first_error(.0))]
    Refused(Report),
}

/// One line for logs: the first error and how many more there are.
fn first_error(report: &Report) -> String {
    let Some(first) = report
        .diagnostics()
        .iter()
        .find(|d| d.severity == Severity::Error)
    else {
        return "configuration refused".into();
    };
    let place = report
        .position(first)
        .map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
    let more = match report.errors() {
        0 | 1 => String::new(),
        n => format!(" (and {} more; see `heartline check`)", n - 1),
    };
    format!("{}{place}: {}{more}", report.name(), first.message)
}

/// A configuration with the warnings about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings only.
    pub report: Report,
}

impl Config {
    /// Reads a file and looks at its key file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`LoadError`]: the file cannot be read, or was refused, with all the reasons.
    pub fn load(path: &Path) -> Result<Loaded, LoadError> {
        Self::load_with(
            path,
            &Checks {
                key_file: true,
                interfaces_of: None,
            },
        )
    }

    /// Like [`Config::load`], with a choice of what to look at besides the text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(path: &Path, checks: &Checks) -> Result<Loaded, LoadError> {
        let text = read_text(path).map_err(|source| LoadError::Unreadable {
            path: path.into(),
            source,
        })?;
        let base = path.parent().unwrap_or(Path::new(""));
        Self::read(&text, &path.display().to_string(), base, checks)
    }

    /// Reads a text; `name` stands for the file in errors. Looks at nothing but the text, and leaves a relative
    /// `key_file` relative.
    ///
    /// # Errors
    /// [`LoadError::Refused`].
    pub fn from_str(text: &str, name: &str) -> Result<Loaded, LoadError> {
        Self::read(text, name, Path::new(""), &Checks::default())
    }

    fn read(text: &str, name: &str, base: &Path, checks: &Checks) -> Result<Loaded, LoadError> {
        let mut found = Vec::new();
        let raw = raw::read(text, &mut found);
        let config = check::check(&raw, base, checks, &mut found);
        let report = Report::new(name, text, found);
        match config {
            Some(config) => Ok(Loaded { config, report }),
            None => Err(LoadError::Refused(report)),
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    // O_NONBLOCK: a pipe in its place must not make us wait.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {FILE_MAX} bytes"),
        ));
    }
    Ok(text)
}
