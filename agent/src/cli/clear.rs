//! `heartline clear`.

use super::output::{Failure, answer, as_failure};
use super::render;
use crate::control::Client;
use crate::control::proto::{Done, Request};

/// Arguments of `heartline clear`.
#[derive(Debug, clap::Args)]
pub struct ClearArgs {
    /// The group
    pub group: String,
    /// You made sure that nothing of the group runs on any other node (asked for before something stateful is started)
    #[arg(long)]
    pub stopped_elsewhere: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
pub(super) async fn run(args: ClearArgs, client: Client) -> Result<(), Failure> {
    let request = Request::Clear {
        group: args.group,
        stopped_elsewhere: args.stopped_elsewhere,
    };
    let done: Done = client.call(request).await.map_err(as_failure(args.json))?;
    answer(args.json, &done, render::done)
}
