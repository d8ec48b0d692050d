//! `heartline explain`.

use super::output::{Failure, answer, as_failure};
use super::render;
use crate::control::Client;
use crate::control::proto::{ExplainReport, Request};

/// Arguments of `heartline explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The group
    pub group: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let request = Request::Explain { group: args.group };
    let report: ExplainReport = client.call(request).await.map_err(as_failure(args.json))?;
    answer(args.json, &report, render::explain)
}
