//! `heartline move`.

use std::time::Duration;

use super::output::{Failure, answer, as_failure, duration};
use super::render;
use crate::control::Client;
use crate::control::proto::{MAX_WAIT_MS, MoveReply, Request, StatusReport};

/// A group without services has moved by then.
const ADDRESSES: Duration = Duration::from_secs(10);

/// Arguments of `heartline move`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group
    pub group: String,
    /// The node that shall run it
    pub node: String,
    /// Return as soon as the move is accepted
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for it, at most 1h [default: 10s, and as long as stopping its services may take]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "no_wait")]
    pub timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks, waits and prints how long it took.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let wait_ms = if args.no_wait {
        None
    } else {
        let wait = match args.timeout {
            Some(timeout) => timeout,
            None => ADDRESSES + stop(&args, &client).await?,
        };
        let wait = u64::try_from(wait.as_millis()).unwrap_or(MAX_WAIT_MS);
        Some(wait.min(MAX_WAIT_MS))
    };
    let request = Request::Move {
        group: args.group,
        node: args.node,
        wait_ms,
    };
    let reply: MoveReply = client.call(request).await.map_err(as_failure(args.json))?;
    answer(args.json, &reply, render::moved)
}

/// How long stopping what moves may take: the group, and those that go with it; they stop side by side.
async fn stop(args: &Args, client: &Client) -> Result<Duration, Failure> {
    let status: StatusReport = client
        .call(Request::Status)
        .await
        .map_err(as_failure(args.json))?;
    let owner = status.group(&args.group).and_then(|g| g.owner.clone());
    let leaving = status.groups.iter().filter(|g| g.owner == owner);
    let stops = leaving
        .filter_map(|g| g.services.as_ref())
        .map(|s| s.stop_timeout_ms);
    Ok(Duration::from_millis(stops.max().unwrap_or(0)))
}
