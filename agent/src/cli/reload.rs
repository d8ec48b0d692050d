//! `heartline reload`.

use super::output::{Failure, answer, as_failure};
use super::render;
use crate::control::Client;
use crate::control::proto::{ReloadReply, Request};

/// Arguments of `heartline reload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop groups that run and are no longer in the file
    #[arg(long)]
    pub yes: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints what changed.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let reply: ReloadReply = client
        .call(if args.yes {
            Request::ReloadAndStop
        } else {
            Request::Reload
        })
        .await
        .map_err(as_failure(args.json))?;
    answer(args.json, &reply, render::reloaded)
}
