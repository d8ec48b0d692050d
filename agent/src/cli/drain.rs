//! `heartline drain` and `heartline undrain`.

use std::time::{Duration, Instant};

use super::output::{Failure, answer, as_failure, duration};
use super::{render, sessions};
use crate::control::Client;
use crate::control::proto::{Done, Request, StatusReport};

/// Groups without services have left by then.
const ADDRESSES: Duration = Duration::from_secs(10);

/// Time between two looks at the sessions.
const SESSIONS: Duration = Duration::from_millis(250);

/// Arguments of `heartline drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The node
    pub node: String,
    /// Return as soon as the drain is accepted, not when the groups have left
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the groups to leave [default: 10s, and as long as stopping their services may take]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "no_wait")]
    pub timeout: Option<Duration>,
    /// First wait until no TCP session to its VIPs is left, but no longer than this; on the node itself. New ones still
    /// come meanwhile: it waits for a moment without any
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait_connections: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `heartline undrain`.
#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    /// The node
    pub node: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Waits until no session is left that a move would reset, up to a limit.
async fn sessions_end(args: &DrainArgs, client: &Client, limit: Duration) -> Result<(), Failure> {
    let end = Instant::now() + limit;
    let mut told = None;
    loop {
        let status: StatusReport = client
            .call(Request::Status)
            .await
            .map_err(as_failure(args.json))?;
        if status.node != args.node {
            return Err(Failure::Refused(format!(
                "sessions can be counted on the node itself only: run this on {}, for example ssh {} heartline drain …",
                args.node, args.node
            )));
        }
        let left = sessions::of_groups(&status, &args.node).map_err(|error| {
            Failure::Refused(format!("the kernel's TCP sessions cannot be read: {error}"))
        })?;
        let late = Instant::now() >= end;
        if left.is_empty() {
            return Ok(());
        }
        let counts: Vec<_> = left
            .iter()
            .map(|(group, n)| format!("{group} {n}"))
            .collect();
        let counts = counts.join(", ");
        if late {
            eprintln!("heartline: draining with sessions left, after {limit:?}: {counts}");
            return Ok(());
        }
        if told.as_ref() != Some(&counts) {
            eprintln!("heartline: waiting for the end of sessions: {counts}");
            told = Some(counts);
        }
        tokio::time::sleep(SESSIONS).await;
    }
}

/// Asks, and waits until no group runs on the node.
pub(super) async fn drain(args: DrainArgs, client: Client) -> Result<(), Failure> {
    if let Some(limit) = args.wait_connections {
        sessions_end(&args, &client, limit).await?;
    }
    let request = Request::Drain {
        node: args.node.clone(),
    };
    let done: Done = client.call(request).await.map_err(as_failure(args.json))?;
    if !args.no_wait {
        let begin = Instant::now();
        let mut longest = Duration::ZERO;
        loop {
            let status: StatusReport = client
                .call(Request::Status)
                .await
                .map_err(as_failure(args.json))?;
            let left: Vec<_> = status
                .groups
                .iter()
                .filter(|group| group.owner.as_deref() == Some(args.node.as_str()))
                .collect();
            // Groups stop side by side.
            let services = left.iter().filter_map(|group| group.services.as_ref());
            let stop = services.map(|s| s.stop_timeout_ms).max().unwrap_or(0);
            longest = longest.max(Duration::from_millis(stop));
            let timeout = args.timeout.unwrap_or(ADDRESSES + longest);
            let left: Vec<_> = left.iter().map(|group| group.name.as_str()).collect();
            if left.is_empty() {
                break;
            }
            if begin.elapsed() >= timeout {
                let what = format!(
                    "{} is drained, but after {:?} it still runs {} (see `heartline explain {}`)",
                    args.node,
                    timeout,
                    left.join(", "),
                    left.first().unwrap_or(&"GROUP"),
                );
                return Err(Failure::Late(what));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    answer(args.json, &done, render::done)
}

/// Asks and prints.
pub(super) async fn undrain(args: UndrainArgs, client: Client) -> Result<(), Failure> {
    let done: Done = client
        .call(Request::Undrain { node: args.node })
        .await
        .map_err(as_failure(args.json))?;
    answer(args.json, &done, render::done)
}
