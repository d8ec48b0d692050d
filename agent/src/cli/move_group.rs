//! `heartline move`.

use std::time::Duration;

use super::output::{Failure, answer, as_failure, duration};
use super::render;
use crate::control::Client;
use crate::control::proto::{MAX_WAIT_MS, MoveReply, Request};

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
    /// How long to wait for it (at most 1m)
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s", conflicts_with = "no_wait")]
    pub timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks, waits and prints how long it took.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let wait = u64::try_from(args.timeout.as_millis())
        .unwrap_or(MAX_WAIT_MS)
        .min(MAX_WAIT_MS);
    let wait_ms = (!args.no_wait).then_some(wait);
    let request = Request::Move {
        group: args.group,
        node: args.node,
        wait_ms,
    };
    let reply: MoveReply = client.call(request).await.map_err(as_failure(args.json))?;
    answer(args.json, &reply, render::moved)
}
