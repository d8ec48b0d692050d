//! One fence device: an agent with its parameters.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    command::{Ended, Run, RunError, find},
    resource::ocf::metadata::Metadata,
};

/// Secrets are passwords; a longer file is another one.
const SECRET_MAX: u64 = 4096;
/// How long describing itself may take: Python on a busy machine.
const METADATA: Duration = Duration::from_secs(30);
/// How similar the name of a parameter must be to be offered.
const SIMILAR: f64 = 0.8;
/// Time between SIGTERM and SIGKILL: an agent that has a session open on a device closes it.
const GRACE: Duration = Duration::from_secs(1);
/// Parameters that we set.
const OWN: [&str; 3] = ["action", "option", "nodename"];

/// What an agent is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Is the device there? Asks the device, not the node.
    Monitor,
    /// Is the node on?
    Status,
    /// Ends the node.
    Off,
    /// Starts it.
    On,
    /// Ends and starts it.
    Reboot,
    /// Describes itself.
    Metadata,
}

impl Action {
    /// As agents know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Action::Monitor => "monitor",
            Action::Status => "status",
            Action::Off => "off",
            Action::On => "on",
            Action::Reboot => "reboot",
            Action::Metadata => "metadata",
        }
    }
}

/// Is a node on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// What an agent said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It was done.
    Done,
    /// To [`Action::Status`].
    Power(Power),
    /// It was not done; why, without secrets.
    Failed(String),
    /// Nothing, in time or at all.
    Silent(String),
}

/// A value that stands in a file, because nobody else may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// The parameter.
    pub parameter: String,
    /// The file.
    pub file: PathBuf,
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("{} cannot be read: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others may read it.
    #[error("{} can be read by others: chmod 600 {}, and chown it to root", file.display(), file.display())]
    Open {
        /// The file.
        file: PathBuf,
    },
    /// It is no line of text.
    #[error("{} does not hold one line of text", file.display())]
    NoLine {
        /// The file.
        file: PathBuf,
    },
}

impl Secret {
    /// Reads it: a regular file of root's or our own, that only its owner may read, with one line.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(&self) -> Result<Zeroizing<String>, SecretError> {
        let file = self.file.clone();
        let unreadable = |error| SecretError::Unreadable {
            file: self.file.clone(),
            error,
        };
        // O_NONBLOCK: a pipe in its place must not make us wait.
        let opened = File::options()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&self.file)
            .map_err(unreadable)?;
        let meta = opened.metadata().map_err(unreadable)?;
        let own = nix::unistd::geteuid().as_raw();
        if !meta.is_file() || meta.len() > SECRET_MAX {
            return Err(SecretError::NoLine { file });
        }
        if meta.mode() & 0o077 != 0 || (meta.uid() != 0 && meta.uid() != own) {
            return Err(SecretError::Open { file });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX as usize + 1));
        opened
            .take(SECRET_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let good = !line.is_empty() && !line.iter().any(u8::is_ascii_control);
        match std::str::from_utf8(line) {
            Ok(text) if good => Ok(Zeroizing::new(text.to_owned())),
            Ok(_) | Err(_) => Err(SecretError::NoLine { file }),
        }
    }
}

/// An agent with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// For people.
    pub name: String,
    /// `fence_ipmilan`, or a path.
    pub agent: String,
    /// Without those that are secret, and without `action`.
    pub parameters: BTreeMap<String, String>,
    /// The secret ones.
    pub secrets: Vec<Secret>,
    /// How long one call may take.
    pub timeout: Duration,
    /// `status` says whether the node is on.
    pub verify: bool,
    /// It can start the node.
    pub can_on: bool,
    /// It can neither `off` nor `on`.
    pub only_reboots: bool,
}

/// Names of parameters that hold secrets, in the agents of Debian's fence-agents.
#[must_use]
pub fn is_secret_name(parameter: &str) -> bool {
    let p = parameter.to_ascii_lowercase();
    // `passwd_script` and the like name programs; `identity_file` names a file.
    let names_a_file = p.ends_with("_script")
        || p.ends_with("-script")
        || p.ends_with("_file")
        || p.ends_with("-file");
    let words = [
        "passw",
        "secret",
        "token",
        "passphrase",
        "api_key",
        "apikey",
        "snmp_priv_passwd",
        "hexadecimal_kg",
        "private_key",
    ];
    !names_a_file && words.iter().any(|w| p.contains(w))
}

/// What it is given on its standard input.
fn input(
    device: &Device,
    node: &str,
    action: Action,
    secrets: &[Zeroizing<String>],
) -> Zeroizing<Vec<u8>> {
    // All at once: a buffer that grows leaves copies behind.
    let room = |(k, v): (&String, &String)| k.len() + v.len() + 2;
    let plain: usize = device.parameters.iter().map(room).sum();
    let secret: usize = device
        .secrets
        .iter()
        .zip(secrets)
        .map(|(s, v)| s.parameter.len() + v.len() + 2)
        .sum();
    let mut text = Zeroizing::new(Vec::with_capacity(plain + secret + node.len() + 64));
    let mut add = |name: &str, value: &str| {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    };
    add("action", action.name());
    // As fenced and Pacemaker do; the agents of fence-agents know it.
    add("nodename", node);
    for (name, value) in &device.parameters {
        // A line break would begin another parameter; the configuration has none.
        if !value.contains(['\n', '\r', '\0']) && !OWN.contains(&name.as_str()) {
            add(name, value);
        }
    }
    for (secret, value) in device.secrets.iter().zip(secrets) {
        add(&secret.parameter, value);
    }
    text
}

/// Without control characters, and without the secrets that an agent may repeat.
fn masked(secrets: &[Zeroizing<String>], text: &str) -> String {
    let mut text = text.to_owned();
    for value in secrets {
        text = text.replace(value.as_str(), "***");
    }
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The line that says most: "Failed: …" of standard error, else the last one.
fn reason(ended: &Ended) -> String {
    let text = [ended.stdout.as_slice(), b"\n", &ended.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let told = lines
        .iter()
        .find(|l| l.contains("Failed:") || l.contains("ERROR"));
    told.or(lines.last())
        .map_or_else(String::new, |l| (*l).to_owned())
}

/// Calls an agent, within the device's time.
pub async fn call(device: &Device, node: &str, action: Action) -> Said {
    let secrets: Result<Vec<_>, _> = device.secrets.iter().map(Secret::read).collect();
    let secrets = match secrets {
        Ok(secrets) => secrets,
        Err(error) => return Said::Failed(error.to_string()),
    };
    let stdin = input(device, node, action, &secrets);
    let mut run = Run::new(std::slice::from_ref(&device.agent), device.timeout);
    run.stdin = stdin.to_vec();
    run.grace = GRACE;
    // Python's warnings of deprecations hide what matters.
    run.env.push(("PYTHONWARNINGS".into(), "ignore".into()));
    let result = run.output().await;
    run.stdin.zeroize();
    match result {
        Ok(ended) => judge(device, action, &ended, &secrets),
        Err(error @ RunError::TimedOut { .. }) => Said::Silent(error.to_string()),
        Err(error @ RunError::Start { .. }) => Said::Failed(error.to_string()),
    }
}

/// FenceAgentAPI.md: 0 success (status: on), 1 failed, 2 (status alone) off. But fencing.py also ends with 2 for
/// arguments that it does not like, so a node is off only if that was said, too.
fn judge(device: &Device, action: Action, ended: &Ended, secrets: &[Zeroizing<String>]) -> Said {
    let failed = || {
        let why = masked(secrets, &reason(ended));
        let colon = if why.is_empty() { "" } else { ": " };
        Said::Failed(format!("{} {}{colon}{why}", device.agent, ended.how()))
    };
    let text = String::from_utf8_lossy(&ended.stdout).to_ascii_lowercase();
    match (action, ended.status.code()) {
        (Action::Status, Some(0)) if text.contains("status: off") => failed(),
        (Action::Status, Some(0)) => Said::Power(Power::On),
        (Action::Status, Some(2)) if text.contains("off") && !text.contains("status: on") => {
            Said::Power(Power::Off)
        }
        (_, Some(0)) => Said::Done,
        (_, _) => failed(),
    }
}

/// Is the device there, and does it answer?
///
/// # Errors
/// It is not; a sentence, without secrets.
pub async fn monitor(device: &Device, node: &str) -> Result<(), String> {
    match call(device, node, Action::Monitor).await {
        Said::Done | Said::Power(_) => Ok(()),
        Said::Failed(why) | Said::Silent(why) => Err(why),
    }
}

/// As [`monitor`], of a device that may know no `monitor`: then that it says how the node is will do.
///
/// # Errors
/// It does not answer; a sentence, without secrets. That of `monitor`.
pub async fn answers(device: &Device, node: &str) -> Result<(), String> {
    match call(device, node, Action::Monitor).await {
        Said::Done | Said::Power(_) => Ok(()),
        // One that hangs is not asked again at once.
        Said::Silent(why) => Err(why),
        Said::Failed(why) if !device.verify => Err(why),
        Said::Failed(why) => match call(device, node, Action::Status).await {
            Said::Power(_) => Ok(()),
            Said::Done | Said::Failed(_) | Said::Silent(_) => Err(why),
        },
    }
}

/// What an agent says of itself.
///
/// # Errors
/// It is not there, hangs or says something else; a sentence.
pub async fn metadata(agent: &str) -> Result<Metadata, String> {
    find(agent)?;
    let mut run = Run::new(&[agent.to_owned()], METADATA);
    run.stdin = b"action=metadata\n".to_vec();
    run.env.push(("PYTHONWARNINGS".into(), "ignore".into()));
    let ended = run.output().await.map_err(|e| e.to_string())?;
    if !ended.status.success() {
        return Err(ended.sentence(agent));
    }
    if ended.cut {
        return Err(format!("{agent} printed more metadata than is read"));
    }
    Metadata::parse(&String::from_utf8_lossy(&ended.stdout)).map_err(|e| format!("{agent}: {e}"))
}

/// What is wrong with a device on this machine, in sentences. Touches no node.
pub async fn check(device: &Device) -> Vec<String> {
    let mut wrong = Vec::new();
    for secret in &device.secrets {
        if let Err(error) = secret.read() {
            wrong.push(format!("{}: {error}", device.name));
        }
    }
    let metadata = match metadata(&device.agent).await {
        Ok(metadata) => metadata,
        Err(why) => {
            let mend = if Path::new(&device.agent).is_absolute() {
                ""
            } else {
                ": install fence-agents"
            };
            wrong.push(format!("{}: {why}{mend}", device.name));
            return wrong;
        }
    };
    wrong.extend(
        compare(device, &metadata)
            .into_iter()
            .map(|w| format!("{}: {w}", device.name)),
    );
    wrong
}

/// What is configured against what the agent says that it takes and can do.
fn compare(device: &Device, metadata: &Metadata) -> Vec<String> {
    let mut wrong = Vec::new();
    let agent = &device.agent;
    let known = |key: &str| {
        let plain = key.replace('-', "_");
        metadata
            .parameters
            .iter()
            .find(|p| p.name.replace('-', "_") == plain)
    };
    let secret = device.secrets.iter().map(|s| (s.parameter.as_str(), None));
    let plain = device.parameters.iter().map(|(k, v)| (k.as_str(), Some(v)));
    for (key, value) in plain.chain(secret) {
        match (known(key), value) {
            (Some(p), Some(value)) if !p.content.takes(value) => {
                wrong.push(format!(
                    "{agent}: {key} = \"{value}\" must be {}",
                    p.content.wants()
                ));
            }
            (Some(_), _) => {}
            (None, _) => {
                let near = metadata
                    .parameters
                    .iter()
                    .map(|p| (strsim::jaro_winkler(&p.name, key), &p.name))
                    .filter(|(how, _)| *how >= SIMILAR)
                    .max_by(|a, b| a.0.total_cmp(&b.0));
                wrong.push(match near {
                    Some((_, other)) => {
                        format!("{agent} has no parameter {key}: did you mean {other}?")
                    }
                    None => format!("{agent} has no parameter {key}"),
                });
            }
        }
    }
    let given = |name: &str| {
        let plain = name.replace('-', "_");
        device
            .parameters
            .keys()
            .chain(device.secrets.iter().map(|s| &s.parameter))
            .any(|k| k.replace('-', "_") == plain)
    };
    for needed in metadata
        .parameters
        .iter()
        .filter(|p| p.required && p.name != "action")
    {
        // Old and new names stand beside each other, tied by `obsoletes`.
        let tied = |p: &&crate::resource::ocf::metadata::Parameter| {
            p.replaced_by.as_ref() == Some(&needed.name)
                || needed.replaced_by.as_ref() == Some(&p.name)
        };
        let defaulted = needed.default.is_some();
        if !given(&needed.name)
            && !defaulted
            && !metadata
                .parameters
                .iter()
                .filter(tied)
                .any(|p| given(&p.name))
        {
            wrong.push(format!("{agent} needs {} ({})", needed.name, needed.short));
        }
    }
    let can = |action: Action| metadata.action(action.name()).is_some();
    let end = if device.only_reboots {
        Action::Reboot
    } else {
        Action::Off
    };
    if !can(end) {
        wrong.push(format!(
            "{agent} cannot {}, by its own metadata",
            end.name()
        ));
    }
    if device.verify && !device.only_reboots && !can(Action::Status) {
        wrong.push(format!("{agent} cannot say whether a node is off: write `verify = false`, and nothing checks that it did"));
    }
    if !can(Action::Monitor) {
        wrong.push(format!("{agent} cannot be asked whether it works (no `monitor`): that it does is known only when it is needed"));
    }
    wrong
}
