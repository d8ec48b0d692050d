//! `heartline drbd fence-peer` and `unfence-peer`: what DRBD's kernel module calls, by drbdadm.
//!
//! They are told by the environment (`DRBD_RESOURCE`, `DRBD_PEER`, `DRBD_PEERS`; seen with 8.4.11), and answer by their
//! exit status. Whatever goes wrong is an answer that allows nothing. drbdadm waits for them, and so does the kernel.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use agent_services::resource::{
    Kind,
    drbd::{
        self,
        state::{Connection, Role},
    },
};

use super::fence::load;
use crate::config::{Config, DEFAULT_CONFIG_FILE};
use crate::control::Client;
use crate::control::proto::{Handler, HandlerAnswer, HandlerCall, Request};
use crate::net::rt::boottime_ns;

/// Nothing was done; a code that the kernel does not know.
const DENIED: u8 = 1;
/// Between two questions to the agent.
const PAUSE: Duration = Duration::from_millis(100);
/// So many questions to the agent, one to DRBD.
const LOOK_EACH: u32 = 10;
/// Before a promotion: it is tried again soon.
const PROMOTION: Duration = Duration::from_secs(60);
/// While a Primary's writes wait: DRBD does not ask again by itself. drbdadm ends a handler after ten minutes.
const WRITES: Duration = Duration::from_secs(9 * 60);
/// How long DRBD may take to say how it is.
const ASK: Duration = Duration::from_secs(2);

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to wait for an answer that allows something [default: 60s before a promotion, 9min while writes wait]
    #[arg(long, value_name = "TIME", value_parser = super::output::duration)]
    pub timeout: Option<Duration>,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG_FILE)]
    pub config: PathBuf,
}

/// Runs it.
pub(super) fn run(args: Args, handler: Handler, client: Client) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime.block_on(ask(&args, handler, client)),
        Err(error) => Err(error.to_string()),
    };
    let (code, text) = match answer {
        Ok(answer) => (answer.code, answer.text),
        Err(why) => (DENIED, why),
    };
    // drbdadm's standard error goes nowhere; the agent logs what it was asked.
    eprintln!("heartline: {text}: {code}");
    ExitCode::from(code)
}

/// DRBD has found a split brain that it does not end by itself. It looks at no exit status.
pub(super) fn split_brain() -> ExitCode {
    let name = std::env::var("DRBD_RESOURCE").unwrap_or_default();
    match drbd::split::note(std::path::Path::new(drbd::split::FOLDER), &name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heartline: a split brain of {name:?} cannot be noted: {error}");
            ExitCode::from(DENIED)
        }
    }
}

async fn ask(args: &Args, handler: Handler, client: Client) -> Result<HandlerAnswer, String> {
    let environment = |name: &str| std::env::var(name).unwrap_or_default();
    let resource = environment("DRBD_RESOURCE");
    if resource.is_empty() {
        return Err("DRBD_RESOURCE is not set: this is called by DRBD".into());
    }
    // `unfence-peer` of the source names the peer that is good again; as `after-resync-target` the volume, too.
    let target = handler == Handler::UnfencePeer && !environment("DRBD_VOLUME").is_empty();
    let handler = if target {
        Handler::AfterResyncTarget
    } else {
        handler
    };
    let config = load(&args.config).map_err(|e| e.to_string())?;
    let group = group_of(&config, &resource).ok_or_else(|| {
        format!(
            "no group of {} has the DRBD resource {resource}",
            args.config.display()
        )
    })?;
    let peers = [environment("DRBD_PEER"), environment("DRBD_PEERS")];
    let peer = peer_of(&config, &peers).ok_or_else(|| {
        format!(
            "the peer {} is no node of {}",
            peers.join(" "),
            args.config.display()
        )
    })?;
    let state = drbd::ask(&resource, ASK).await.ok().flatten();
    let mut call = HandlerCall {
        handler,
        group,
        resource,
        peer,
        role: state
            .as_ref()
            .map_or_else(String::new, |s| s.role.to_string()),
        disk: state
            .as_ref()
            .and_then(drbd::ResourceState::worst_disk)
            .map_or_else(String::new, |d| d.to_string()),
        run: boottime_ns(),
        repeated: false,
    };
    let writes = state.as_ref().is_some_and(|s| s.role == Role::Primary);
    let within = args
        .timeout
        .unwrap_or(if writes { WRITES } else { PROMOTION });
    let until = Instant::now() + within;
    for round in 1_u32.. {
        // Then there is nothing to answer, and DRBD goes on by itself.
        if round.is_multiple_of(LOOK_EACH) && is_back(&call).await {
            return Err(format!("{} is connected again", call.peer));
        }
        let answer: HandlerAnswer = client
            .call(Request::DrbdHandler(call.clone()))
            .await
            .map_err(|e| e.to_string())?;
        if !answer.again || Instant::now() + PAUSE >= until {
            return Ok(answer);
        }
        call.repeated = true;
        tokio::time::sleep(PAUSE).await;
    }
    Err("no answer in time".into())
}

/// Is the peer connected? DRBD 8.4 has one and does not name it.
async fn is_back(call: &HandlerCall) -> bool {
    let state = drbd::ask(&call.resource, ASK).await.ok().flatten();
    let mut peers = state.iter().flat_map(|s| s.peers.values());
    peers.any(|p| {
        let named = p.name.split('.').next().unwrap_or_default();
        let is_it = matches!(named, "" | "peer") || call.peer.split('.').next() == Some(named);
        is_it && p.connection == Connection::Connected
    })
}

/// The group that promotes a resource.
fn group_of(config: &Config, name: &str) -> Option<String> {
    let has = |kind: &Kind| matches!(kind, Kind::Drbd { resource, .. } if resource == name);
    let group = config
        .groups
        .iter()
        .find(|g| g.services.resources.iter().any(|r| has(&r.kind)))?;
    Some(group.name.clone())
}

/// The one node that DRBD names; by its host name, with or without a domain.
fn peer_of(config: &Config, named: &[String]) -> Option<String> {
    let mut names = named.iter().flat_map(|n| n.split_whitespace());
    let first = names.next()?;
    // Several peers at once: no answer would be true of all.
    if names.any(|other| other != first) {
        return None;
    }
    Some(config.node_by_hostname(first)?.name.clone())
}
