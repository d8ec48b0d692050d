//! `heartline maintain`: out of use, command, back, into use again; one node, or all of them one after the other.
//!
//! How far it has come is in a file before each step, so that it can go on after a reboot of the machine it runs on.

mod steps;

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::output::{Failure, duration, print, print_json};
use crate::control::Client;
use crate::control::proto::{Done, Request, Role, StatusReport};
use steps::{Look, Progress, Step, Work};

const POLL: Duration = Duration::from_millis(200);
/// ssh(1): "exits with the exit status of the remote command or with 255 if an error occurred".
const CONNECTION_ENDED: i32 = 255;

/// Arguments of `heartline maintain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node
    #[arg(required_unless_present_any = ["all", "resume", "forget"], conflicts_with_all = ["all", "resume", "forget"])]
    pub node: Option<String>,
    /// Node after node, this one last; only while the cluster is whole
    #[arg(long, conflicts_with_all = ["resume", "forget"])]
    pub all: bool,
    /// Go on where an earlier run stopped, for example because this machine was rebooted
    #[arg(long)]
    pub resume: bool,
    /// With --resume: run the command again where it may have run in part
    #[arg(long, requires = "resume", conflicts_with = "skip_command")]
    pub rerun: bool,
    /// With --resume: take the command as done where it may have run in part
    #[arg(long, requires = "resume")]
    pub skip_command: bool,
    /// Forget an earlier run that stopped; drained nodes stay drained
    #[arg(long, conflicts_with = "resume")]
    pub forget: bool,
    /// How another node is reached; gets the command as its last argument
    #[arg(
        long,
        value_name = "COMMAND",
        default_value = "ssh -o BatchMode=yes {node}"
    )]
    pub via: String,
    /// How long to wait at most for each of: groups that leave, a node that comes back
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "15m")]
    pub timeout: Duration,
    /// How long a node must be well without a break before it is put back into use
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub settle: Duration,
    /// Where to keep how far it has come
    #[arg(long, value_name = "DIR", default_value = "/var/lib/heartline")]
    pub state_dir: PathBuf,
    /// Print each step as a line of JSON; the command's output goes to stderr then
    #[arg(long)]
    pub json: bool,
    /// What to run on the node, for example: systemctl reboot
    #[arg(last = true, value_name = "COMMAND", required_unless_present_any = ["resume", "forget"])]
    pub command: Vec<String>,
}

/// Does it; Ctrl-C leaves things as they are and says how to go on.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let path = args.state_dir.join("maintain.json");
    fs::create_dir_all(&args.state_dir)?;
    let _lock = lock(&args.state_dir.join("maintain.lock"))?;
    if args.forget {
        return forget(&path);
    }
    let progress = if args.resume {
        resumed(&args, &path, &client).await?
    } else {
        begun(&args, &path, &client).await?
    };
    let mut m = Maintain {
        args,
        client,
        path,
        progress,
    };
    let stopped = {
        let all = m.all();
        tokio::select! {
            result = all => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::Refused("interrupted".to_owned())),
        }
    };
    match stopped {
        Ok(()) => {
            fs::remove_file(&m.path)?;
            m.say("", "done", "maintenance is done")
        }
        Err(failure) => {
            let text = format!(
                "{failure}\nmaintenance has stopped: {}\ngo on: heartline maintain --resume{}\n\
                 or give it up: heartline maintain --forget, and heartline undrain what is drained",
                m.progress.sentence(),
                if m.progress.step == Step::Command {
                    " with --rerun or --skip-command"
                } else {
                    ""
                },
            );
            Err(match failure {
                Failure::Late(_) => Failure::Late(text),
                Failure::Client(_)
                | Failure::Json(_)
                | Failure::Output(_)
                | Failure::Refused(_) => Failure::Refused(text),
            })
        }
    }
}

/// One at a time.
fn lock(path: &Path) -> Result<Flock<File>, Failure> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| {
        Failure::Refused(format!(
            "maintenance is under way already ({}: {e})",
            path.display()
        ))
    })
}

fn forget(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Ok(()) => print("the earlier run is forgotten; drained nodes are still drained\n"),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            print("there is no earlier run that stopped\n")
        }
        Err(e) => Err(e.into()),
    }
}

/// Which boot of this machine this is (random(4)).
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

async fn begun(args: &Args, path: &Path, client: &Client) -> Result<Progress, Failure> {
    if path.exists() {
        return Err(Failure::Refused(
            "an earlier run has stopped half-way: heartline maintain --resume, or --forget".into(),
        ));
    }
    let status: StatusReport = client.call(Request::Status).await?;
    let works = if let Some(name) = &args.node {
        let found = status.nodes.iter().find(|n| n.name == *name);
        let n = found.ok_or_else(|| Failure::Refused(format!("there is no node {name:?}")))?;
        vec![Work {
            node: n.name.clone(),
            witness: n.role == Role::Witness,
        }]
    } else {
        let why = steps::not_whole(&status);
        if !why.is_empty() {
            return Err(Failure::Refused(format!(
                "the cluster is not whole: {}",
                why.join("; ")
            )));
        }
        steps::all(&status)
    };
    for work in &works {
        if let Some(why) = steps::not_without(&status, &work.node) {
            return Err(Failure::Refused(why));
        }
        if work.node != status.node {
            reachable(args, &work.node).await?;
        }
    }
    Ok(Progress::new(
        works,
        args.command.clone(),
        args.via.clone(),
        boot(),
    ))
}

/// Better to learn now that a node cannot be reached than when it is drained.
async fn reachable(args: &Args, node: &str) -> Result<(), Failure> {
    let mut way = steps::way(&args.via, node);
    way.push("true".to_owned());
    let refused = |why: String| {
        Failure::Refused(format!(
            "{node} is not reached with `{}`: {why}; name another way with --via",
            way.join(" ")
        ))
    };
    let Some((program, arguments)) = way.split_first() else {
        return Err(refused("it is empty".to_owned()));
    };
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(30), output)
        .await
        .map_err(|_| refused("no answer within 30 s".to_owned()))?
        .map_err(|e| refused(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(refused(if said.is_empty() {
        output.status.to_string()
    } else {
        said
    }))
}

async fn resumed(args: &Args, path: &Path, client: &Client) -> Result<Progress, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::Refused(format!(
                "there is nothing to go on with: no {}",
                path.display()
            )));
        }
        Err(e) => return Err(e.into()),
    };
    let mut p: Progress = serde_json::from_str(&text).map_err(|e| {
        Failure::Refused(format!(
            "{}: {e}; heartline maintain --forget",
            path.display()
        ))
    })?;
    if p.step != Step::Command {
        return Ok(p);
    }
    let Some(work) = p.work().cloned() else {
        return Ok(p);
    };
    // Cut off in the middle of the command. A reboot is an end of it, whosoever began that.
    let rebooted = p.boot != boot();
    let status = client.call::<StatusReport>(Request::Status).await.ok();
    let here = status.as_ref().is_some_and(|s| s.node == work.node);
    let ended =
        here && rebooted || status.is_some_and(|s| steps::look(&s, &p) == Look::Fine { new: true });
    if args.skip_command || ended && !args.rerun {
        p.advance();
    } else if !args.rerun {
        return Err(Failure::Refused(format!(
            "the command may have run on {} in part or whole: say --rerun to run it again there, or --skip-command",
            work.node
        )));
    }
    Ok(p)
}

struct Maintain {
    args: Args,
    client: Client,
    path: PathBuf,
    progress: Progress,
}

impl Maintain {
    /// A line of progress.
    fn say(&self, node: &str, step: &str, text: &str) -> Result<(), Failure> {
        if self.args.json {
            return print_json(&json!({
                "node": node, "step": step, "text": text,
                "done": self.progress.done, "nodes": self.progress.works.len(),
            }));
        }
        let of = match self.progress.works.len() {
            0 | 1 => String::new(),
            n => format!("[{}/{n}] ", (self.progress.done + 1).min(n)),
        };
        print(&format!("{of}{text}\n"))
    }

    /// Written whole or not at all, and on the disk before anything else is done.
    fn save(&self) -> Result<(), Failure> {
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        let text = serde_json::to_string(&self.progress).map_err(std::io::Error::from)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(&self.args.state_dir)?.sync_all()?;
        Ok(())
    }

    async fn status(&self) -> Result<StatusReport, Failure> {
        Ok(self.client.call(Request::Status).await?)
    }

    async fn all(&mut self) -> Result<(), Failure> {
        let mut fresh = !self.args.resume;
        while let Some(Work { node, .. }) = self.progress.work().cloned() {
            if self.progress.done > 0 && fresh_step(&self.progress) {
                self.whole(&node).await?;
            }
            if !fresh {
                fresh = true;
                self.say(
                    &node,
                    "resume",
                    &format!("going on: {}", self.progress.sentence()),
                )?;
            }
            self.save()?;
            match self.progress.step {
                Step::Drain => self.drain(&node).await?,
                Step::Command => self.command(&node).await?,
                Step::Back => self.back(&node).await?,
                Step::Undrain => self.undrain(&node).await?,
            }
            self.progress.advance();
        }
        Ok(())
    }

    /// Before the next node: all is well again.
    async fn whole(&self, next: &str) -> Result<(), Failure> {
        let end = Instant::now() + self.args.timeout;
        loop {
            let why = match self.status().await {
                Ok(status) => steps::not_whole(&status),
                Err(e) => vec![e.to_string()],
            };
            if why.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                let why = why.join("; ");
                return Err(Failure::Late(format!(
                    "{next} is not begun, as the cluster is not whole: {why}"
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn drain(&mut self, node: &str) -> Result<(), Failure> {
        let status = self.status().await?;
        if let Some(why) = steps::not_without(&status, node) {
            return Err(Failure::Refused(why));
        }
        let owned = steps::owned(&status, node).join(", ");
        let what = if owned.is_empty() {
            "owns nothing".to_owned()
        } else {
            format!("gives up {owned}")
        };
        self.say(node, "drain", &format!("draining {node}: {what}"))?;
        let request = Request::Drain { node: node.into() };
        let _: Done = self.client.call(request).await?;
        let end = Instant::now() + self.args.timeout;
        loop {
            let status = self.status().await?;
            let left = steps::owned(&status, node);
            let drained = status.nodes.iter().any(|n| n.name == node && n.drained);
            if drained && left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Failure::Late(format!(
                    "{node} still runs {} (see `heartline explain`)",
                    left.join(", ")
                )));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn command(&mut self, node: &str) -> Result<(), Failure> {
        let status = self.status().await?;
        let entry = status.nodes.iter().find(|n| n.name == node);
        self.progress.incarnation = entry.and_then(|n| n.incarnation);
        self.progress.unfit = steps::unfit(&status, node);
        self.progress.boot = boot();
        self.save()?;
        let argv = steps::argv(&self.progress, node, &status.node);
        let Some((program, arguments)) = argv.split_first() else {
            return Err(Failure::Refused("there is no command".into()));
        };
        let line = self.progress.command.join(" ");
        self.say(node, "command", &format!("on {node}: {line}"))?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .env("HEARTLINE_MAINTAIN", node)
            .stdin(Stdio::null());
        if self.args.json {
            command.stdout(std::io::stderr());
        }
        let ended = command
            .status()
            .await
            .map_err(|e| Failure::Refused(format!("{program}: {e}")))?;
        if ended.success() {
            // It is only asked for by then: the node may look well for a while.
            self.progress.must_go = steps::is_reboot(&self.progress.command);
            return Ok(());
        }
        if node != status.node && ended.code() == Some(CONNECTION_ENDED) {
            self.progress.must_go = true;
            return self.say(
                node,
                "command",
                &format!("the connection to {node} has ended"),
            );
        }
        Err(Failure::Refused(format!(
            "on {node} the command failed: {ended}"
        )))
    }

    /// Waits until the node is well for a while; after a reboot, or if the connection has ended, when it was away.
    async fn back(&mut self, node: &str) -> Result<(), Failure> {
        let end = Instant::now() + self.args.timeout;
        let mut well_since: Option<Instant> = None;
        let mut away = !self.progress.must_go;
        let mut told = String::new();
        loop {
            let look = match self.status().await {
                Ok(status) => steps::look(&status, &self.progress),
                // This machine's own agent is away.
                Err(_) => Look::Gone,
            };
            let text = match &look {
                Look::Gone => format!("{node} is away"),
                Look::NotYet(why) => format!("{node} is there: {why}"),
                Look::Fine { .. } => format!("{node} is well"),
            };
            if text != told {
                self.say(node, "back", &text)?;
                told.clone_from(&text);
            }
            match look {
                Look::Gone => {
                    away = true;
                    well_since = None;
                }
                Look::NotYet(_) => well_since = None,
                Look::Fine { new } => {
                    away |= new;
                    let since = *well_since.get_or_insert_with(Instant::now);
                    if away && since.elapsed() >= self.args.settle {
                        return Ok(());
                    }
                }
            }
            if Instant::now() > end {
                let text = if away {
                    format!("it is not back after {:?}: {text}", self.args.timeout)
                } else {
                    format!("the command should have taken {node} away, but it has not gone since")
                };
                return Err(Failure::Late(text));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn undrain(&self, node: &str) -> Result<(), Failure> {
        let request = Request::Undrain { node: node.into() };
        let _: Done = self.client.call(request).await?;
        self.say(node, "undrain", &format!("{node} is back in use"))
    }
}

/// The next thing is the first one of a node.
fn fresh_step(p: &Progress) -> bool {
    match p.step {
        Step::Drain => true,
        Step::Command => p.work().is_some_and(|w| w.witness),
        Step::Back | Step::Undrain => false,
    }
}
