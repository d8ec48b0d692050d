//! `heartline pause` and `heartline resume`.

use super::output::{Failure, answer, as_failure};
use super::render;
use crate::control::Client;
use crate::control::proto::{Done, Request};

/// Arguments of `heartline pause` and `heartline resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
pub(super) async fn run(args: Args, paused: bool, client: Client) -> Result<(), Failure> {
    let request = if paused {
        Request::Pause
    } else {
        Request::Resume
    };
    let done: Done = client.call(request).await.map_err(as_failure(args.json))?;
    answer(args.json, &done, render::done)
}
