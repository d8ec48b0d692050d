//! A lab to play with: held by a process in the background, `lab up` to `lab down`.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{agent, cleanup, cluster::Cluster, demo, interrupt, netns::Ns, paint::Busy};

const FOLDER: &str = "/run/heartline-lab";
const DEADLINE: Duration = Duration::from_secs(30);

/// What a held lab tells of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The process that holds it.
    pub pid: i32,
    /// Its namespaces: station and name.
    pub namespaces: Vec<(String, String)>,
    /// Control sockets of the agents: node and path.
    pub sockets: Vec<(String, PathBuf)>,
    /// Configs and logs.
    pub dir: PathBuf,
}

fn state_file() -> PathBuf {
    Path::new(FOLDER).join("lab.json")
}

fn socket() -> PathBuf {
    Path::new(FOLDER).join("control.sock")
}

/// The lab that is up, if one is.
#[must_use]
pub fn state() -> Option<State> {
    let state: State = serde_json::from_slice(&fs::read(state_file()).ok()?).ok()?;
    let alive = kill(Pid::from_raw(state.pid), None) != Err(Errno::ESRCH);
    alive.then_some(state)
}

/// As [`state`], an error if there is none.
///
/// # Errors
/// No lab is up.
pub fn require() -> Result<State> {
    state().context("no lab is up: heartline-lab lab up")
}

/// Starts a holder in the background and waits until its lab serves.
///
/// # Errors
/// A lab is up already, or the new one does not come up; then its log is shown.
pub fn up(config: Option<&Path>) -> Result<State> {
    if let Some(state) = state() {
        bail!(
            "a lab is up already (process {}): heartline-lab lab down",
            state.pid
        );
    }
    let _busy = Busy::with("raising a lab of three nodes");
    fs::create_dir_all(FOLDER)?;
    fs::set_permissions(FOLDER, fs::Permissions::from_mode(0o700))?;
    let _ = fs::remove_file(state_file());
    let log_path = Path::new(FOLDER).join("hold.log");
    let log = fs::File::create(&log_path)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["lab", "hold"]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let mut child = command.spawn()?;
    let mut ended = None;
    let mut up = None;
    interrupt::until(DEADLINE, Duration::from_millis(50), || {
        ended = child.try_wait()?;
        up = state();
        Ok(up.is_some() || ended.is_some())
    })?;
    up.filter(|_| ended.is_none()).with_context(|| {
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        format!(
            "the lab did not come up:\n{}",
            fs::read_to_string(&log_path).unwrap_or_default()
        )
    })
}

/// Holds a lab until SIGTERM; does what `lab cut` and the like ask meanwhile.
///
/// # Errors
/// The lab does not come up.
pub fn hold(config: Option<&Path>) -> Result<()> {
    let mut cluster = demo::raise(config)?;
    cluster.settled(DEADLINE)?;
    let _ = fs::remove_file(socket());
    let listener = UnixListener::bind(socket())?;
    listener.set_nonblocking(true)?;
    let lab = &cluster.lab;
    let stations = lab.nodes.iter().chain([&lab.client, &lab.prober]);
    let state = State {
        pid: std::process::id().cast_signed(),
        namespaces: stations
            .map(|s| (s.name.clone(), s.ns.name().to_owned()))
            .collect(),
        sockets: cluster
            .agents()
            .iter()
            .map(|a| (a.name().to_owned(), a.socket()))
            .collect(),
        dir: lab.dir().to_owned(),
    };
    let temporary = state_file().with_extension("new");
    fs::write(&temporary, serde_json::to_vec_pretty(&state)?)?;
    fs::rename(temporary, state_file())?;
    while interrupt::caught().is_none() {
        if let Ok((stream, _)) = listener.accept() {
            let _ = answer(&mut cluster, stream);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(cluster);
    for path in [state_file(), socket()] {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// One request: a line such as `cut n1`; one line back.
fn answer(cluster: &mut Cluster, stream: UnixStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut line = String::new();
    BufReader::new(std::io::Read::take(&stream, 256)).read_line(&mut line)?;
    let words: Vec<_> = line.split_whitespace().collect();
    let said = match act(cluster, &words) {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("{error:#}").replace('\n', " "),
    };
    writeln!(&stream, "{said}")?;
    Ok(())
}

fn act(cluster: &mut Cluster, words: &[&str]) -> Result<()> {
    match words {
        ["cut", node] => cluster.lab.switch.cut(node).map(drop),
        ["mute", node] => cluster.lab.switch.mute(node).map(drop),
        ["part", one, other] => cluster.lab.switch.partition(&[one], &[other]).map(drop),
        ["heal"] => cluster.lab.switch.heal().map(drop),
        ["freeze", node] => cluster.freeze(node),
        ["thaw", node] => cluster.thaw(node),
        ["kill", node] => cluster.agent(node)?.kill(),
        ["start", node] => cluster.agent(node)?.start(),
        _ => bail!("unknown request {words:?}"),
    }
}

/// Asks the holder for something.
///
/// # Errors
/// No lab is up, or it refuses.
pub fn ask(request: &str) -> Result<()> {
    require()?;
    let stream = UnixStream::connect(socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    writeln!(&stream, "{request}")?;
    let mut said = String::new();
    BufReader::new(&stream).read_line(&mut said)?;
    match said.trim() {
        "ok" => Ok(()),
        other => bail!("{other}"),
    }
}

/// Ends the lab that is up and removes leftovers of dead ones.
///
/// # Errors
/// The holder does not end.
pub fn down() -> Result<String> {
    let mut text = String::new();
    if let Some(state) = state() {
        let _busy = Busy::with("taking the lab down");
        let pid = Pid::from_raw(state.pid);
        kill(pid, Signal::SIGTERM)?;
        let gone = interrupt::until(DEADLINE, Duration::from_millis(20), || {
            Ok(kill(pid, None) == Err(Errno::ESRCH))
        })?;
        if !gone {
            bail!("process {pid} holds the lab and does not end");
        }
        text += &format!("lab of process {pid} is down\n");
    }
    let removed = cleanup::remove_leftovers()?;
    for name in removed.namespaces.iter().chain(&removed.folders) {
        text += &format!("removed leftover {name}\n");
    }
    Ok(if text.is_empty() {
        "no lab is up, nothing left over\n".into()
    } else {
        text
    })
}

/// Becomes a shell inside a station's namespace, or the command given.
///
/// # Errors
/// No such station, or the program does not start.
pub fn shell(station: &str, command: &[String]) -> Result<()> {
    let state = require()?;
    let known = || {
        state
            .namespaces
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let found = state.namespaces.iter().find(|(name, _)| name == station);
    let (_, namespace) = found.with_context(|| format!("no station {station:?}: {}", known()))?;
    Ns::open(namespace)?.enter()?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let (program, args) = command
        .split_first()
        .map_or((shell, [].as_slice()), |(p, a)| (p.clone(), a));
    let mut next = Command::new(&program);
    next.args(args);
    if let Some((_, socket)) = state.sockets.iter().find(|(name, _)| name == station) {
        next.env("HEARTLINE_SOCKET", socket);
    }
    if let Some(folder) = agent::binary()?.parent() {
        let path = std::env::var("PATH").unwrap_or_default();
        next.env("PATH", format!("{}:{path}", folder.display()));
    }
    next.env("PS1", format!("{station}# "));
    Err(next.exec()).with_context(|| format!("cannot start {program}"))
}

/// What is up, for people; and the status as the first agent that answers tells it.
///
/// # Errors
/// No lab is up.
pub fn status() -> Result<String> {
    let state = require()?;
    let mut text = format!(
        "lab of process {}; configs and logs in {}\n",
        state.pid,
        state.dir.display()
    );
    for (station, namespace) in &state.namespaces {
        text += &format!("  {station:<8} {namespace}\n");
    }
    for (_, socket) in &state.sockets {
        let mut command = Command::new(agent::binary()?);
        command.arg("status").env("HEARTLINE_SOCKET", socket);
        let said = crate::exec::run(command, "", Duration::from_secs(10))?;
        if said.code == Some(0) {
            return Ok(text + "\n" + &said.stdout);
        }
    }
    Ok(text + "\nno agent answers\n")
}
