//! `heartline drbd`: show, check, resolve.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use agent_services::resource::{
    Kind,
    drbd::{self, check::Weight, resolve},
};
use serde::Serialize;

use super::block_on;
use super::drbd_handler;
use super::fence::{ask_for, load};
use super::output::{Failure, print, print_json};
use super::render::clean;
use crate::config::{Config, DEFAULT_CONFIG_FILE};
use crate::control::Client;
use crate::control::proto::Handler;

/// How long one question to DRBD, or one step, may take.
const WITHIN: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show DRBD's resources on this machine
    Status(StatusArgs),
    /// Say what is unsafe in DRBD's configuration, with the mend
    Check(CheckArgs),
    /// End a split brain: keep the data of one node, and throw the other's away. To be said on both, first on the other
    Resolve(ResolveArgs),
    /// For DRBD: `handlers { fence-peer "heartline drbd fence-peer"; }`
    FencePeer(drbd_handler::Args),
    /// For DRBD: `handlers { after-resync-target "heartline drbd unfence-peer"; }`, or `unfence-peer` of DRBD 9
    UnfencePeer(drbd_handler::Args),
    /// For DRBD: `handlers { split-brain "heartline drbd split-brain"; }`
    SplitBrain,
}

/// Arguments of `heartline drbd status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// The resource; all of the configuration if it is not named
    pub resource: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `heartline drbd check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The resource; all if it is not named
    pub resource: Option<String>,
    /// Print a JSON list of `{resource, place, severity, message, help}`
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `heartline drbd resolve`.
#[derive(Debug, clap::Args)]
pub struct ResolveArgs {
    /// The group whose data has split
    pub group: String,
    /// The node whose data is kept
    #[arg(long, value_name = "NODE")]
    pub keep: String,
    /// The others are lost, with all that only they have: go on with NODE's data though it may be older (said on NODE)
    #[arg(long)]
    pub others_lost: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// This machine's name in the configuration, if it is not the host name
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG_FILE)]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(command: Command, client: Client) -> ExitCode {
    let result = match command {
        Command::Status(args) => block_on(status(args)),
        Command::Check(args) => block_on(check(args)),
        Command::Resolve(args) => block_on(resolve(args)),
        // Their exit status is DRBD's.
        Command::FencePeer(args) => return drbd_handler::run(args, Handler::FencePeer, client),
        Command::SplitBrain => return drbd_handler::split_brain(),
        Command::UnfencePeer(args) => return drbd_handler::run(args, Handler::UnfencePeer, client),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[derive(Serialize)]
struct Shown {
    resource: String,
    up: bool,
    role: String,
    disk: String,
    split_brain: bool,
    suspended: String,
    peers: Vec<ShownPeer>,
    resync: Vec<ShownResync>,
    /// Generations of the data, a line for each volume.
    generations: Vec<String>,
    text: String,
}

#[derive(Serialize)]
struct ShownPeer {
    name: String,
    connection: &'static str,
    role: &'static str,
    disk: String,
}

#[derive(Serialize)]
struct ShownResync {
    volume: u32,
    to_here: bool,
    rests: bool,
    percent: Option<f64>,
    left_kib: Option<u64>,
}

/// The names of DRBD's configuration, or the one that was named.
async fn names(one: Option<String>) -> Result<Vec<String>, Failure> {
    if let Some(name) = one {
        return Ok(vec![name]);
    }
    let config = drbd::check::load().await.map_err(Failure::Refused)?;
    Ok(config.resources.into_iter().map(|r| r.name).collect())
}

async fn show(name: &str) -> Result<Shown, Failure> {
    let state = drbd::ask(name, WITHIN).await.map_err(Failure::Refused)?;
    let Some(s) = state else {
        return Ok(Shown {
            resource: name.into(),
            up: false,
            role: String::new(),
            disk: String::new(),
            split_brain: false,
            suspended: String::new(),
            peers: Vec::new(),
            resync: Vec::new(),
            generations: Vec::new(),
            text: "not up".into(),
        });
    };
    let generations = resolve::generations(name, WITHIN).await.unwrap_or_default();
    let peers = s.peers.iter().map(|(id, p)| ShownPeer {
        name: p.title(*id),
        connection: p.connection.name(),
        role: p.role.name(),
        disk: p
            .volumes
            .values()
            .map(|v| v.disk)
            .min()
            .map_or_else(String::new, |d| d.to_string()),
    });
    let resync = s.resyncs().into_iter().map(|r| ShownResync {
        volume: r.volume,
        to_here: r.to_here,
        rests: r.rests,
        percent: r.percent,
        left_kib: r.left,
    });
    Ok(Shown {
        resource: name.into(),
        up: true,
        role: s.role.to_string(),
        disk: s.worst_disk().map_or_else(String::new, |d| d.to_string()),
        split_brain: s.split_brain,
        suspended: s.suspended.why(),
        peers: peers.collect(),
        resync: resync.collect(),
        generations: generations.iter().map(ToString::to_string).collect(),
        text: s.sentence(),
    })
}

async fn status(args: StatusArgs) -> Result<(), Failure> {
    let mut all = Vec::new();
    for name in names(args.resource).await? {
        all.push(show(&name).await?);
    }
    if args.json {
        return print_json(&all);
    }
    for s in &all {
        print(&format!("{}: {}\n", clean(&s.resource), clean(&s.text)))?;
        for line in &s.generations {
            print(&format!("    {line}\n"))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Found {
    resource: String,
    place: String,
    severity: &'static str,
    message: String,
    help: String,
}

async fn check(args: CheckArgs) -> Result<(), Failure> {
    let config = drbd::check::load().await.map_err(Failure::Refused)?;
    let wanted = |name: &str| args.resource.as_deref().is_none_or(|r| r == name);
    if !config.resources.iter().any(|r| wanted(&r.name)) {
        return Err(Failure::Refused(
            "there is no such DRBD resource for this host in /etc/drbd.d".into(),
        ));
    }
    let resources = config.resources.iter().filter(|r| wanted(&r.name));
    let found: Vec<_> = resources
        .flat_map(|r| drbd::check::findings(&config, r))
        .collect();
    if args.json {
        let list = found.iter().map(|f| Found {
            resource: f.resource.clone(),
            place: f.place.clone(),
            severity: f.weight.name(),
            message: f.what.clone(),
            help: f.mend.clone(),
        });
        print_json(&list.collect::<Vec<_>>())?;
    } else {
        for f in &found {
            print(&format!(
                "{}: {}: {}: {}\n    write {}\n",
                f.weight.name(),
                f.place,
                f.resource,
                f.what,
                f.mend
            ))?;
        }
        if found.is_empty() {
            print("nothing unsafe was found\n")?;
        }
    }
    match found.iter().filter(|f| f.weight == Weight::Unsafe).count() {
        0 => Ok(()),
        n => Err(Failure::Refused(format!("{n} unsafe"))),
    }
}

/// DRBD's resources in a group.
pub(super) fn resources_of(config: &Config, group: &str) -> Result<Vec<String>, Failure> {
    let Some(group) = config.groups.iter().find(|g| g.name == group) else {
        let names: Vec<_> = config.groups.iter().map(|g| g.name.as_str()).collect();
        return Err(Failure::Refused(format!(
            "there is no group {group}; there are {}",
            names.join(", ")
        )));
    };
    let names = group
        .services
        .resources
        .iter()
        .filter_map(|r| match &r.kind {
            Kind::Drbd { resource, .. } => Some(resource.clone()),
            Kind::Systemd { .. }
            | Kind::Exec { .. }
            | Kind::Ocf { .. }
            | Kind::Filesystem { .. }
            | Kind::Domain(_) => None,
        });
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        return Err(Failure::Refused(format!(
            "group {} has no DRBD resource",
            group.name
        )));
    }
    Ok(names)
}

#[derive(Serialize)]
struct Resolved {
    node: String,
    part: &'static str,
    done: Vec<String>,
}

async fn resolve(args: ResolveArgs) -> Result<(), Failure> {
    let config = load(&args.config)?;
    let names = resources_of(&config, &args.group)?;
    let host = nix::unistd::gethostname()
        .map(|h| h.to_string_lossy().into_owned())
        .unwrap_or_default();
    let here = match &args.node {
        Some(name) => config.nodes.iter().find(|n| n.name == *name),
        None => config.node_by_hostname(&host),
    };
    let Some(here) = here else {
        return Err(Failure::Refused(format!(
            "{host} is no node of {}: say --node NAME",
            args.config.display()
        )));
    };
    if !config.nodes.iter().any(|n| n.name == args.keep) {
        return Err(Failure::Refused(format!("there is no node {}", args.keep)));
    }
    let keep = here.name == args.keep;
    let part = match (keep, args.others_lost) {
        (true, false) => resolve::Part::Keep,
        (true, true) => resolve::Part::KeepAlone,
        (false, false) => resolve::Part::Discard,
        (false, true) => {
            return Err(Failure::Refused(format!(
                "--others-lost is said on {}, and this is {}",
                args.keep, here.name
            )));
        }
    };
    let mut question = String::new();
    for name in &names {
        question += &format!("{name}: {}\n", show(name).await?.text);
        for g in resolve::generations(name, WITHIN)
            .await
            .map_err(Failure::Refused)?
        {
            question += &format!("    {g}\n");
        }
    }
    question += &match part {
        resolve::Part::Discard => format!(
            "What was written on {} since the two parted will be THROWN AWAY, and taken from {}.",
            here.name, args.keep
        ),
        resolve::Part::Keep => format!("The data of {} is kept; it connects again.", here.name),
        resolve::Part::KeepAlone => format!(
            "The data of {} is kept, though another node may have newer: that is THROWN AWAY when it comes back.",
            here.name
        ),
    };
    ask_for(&args.keep, &question, args.yes)?;
    let mut done = Vec::new();
    for name in &names {
        done.extend(
            resolve::run(name, part, WITHIN)
                .await
                .map_err(|e| Failure::Refused(e.to_string()))?,
        );
    }
    let part = match part {
        resolve::Part::Keep => "keep",
        resolve::Part::Discard => "discard",
        resolve::Part::KeepAlone => "keep_alone",
    };
    if args.json {
        return print_json(&Resolved {
            node: here.name.clone(),
            part,
            done,
        });
    }
    for line in &done {
        print(&format!("{line}\n"))?;
    }
    let next = if keep {
        "`heartline drbd status` shows the resync".to_owned()
    } else {
        format!(
            "now on {}: heartline drbd resolve {} --keep {}",
            args.keep, args.group, args.keep
        )
    };
    print(&format!("done here; {next}\n"))
}
