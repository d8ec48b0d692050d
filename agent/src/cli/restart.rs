//! `heartline restart`.

use std::time::{Duration, Instant};

use super::output::{Failure, answer, as_failure, duration};
use super::render;
use crate::control::Client;
use crate::control::proto::{Done, Pong, Request};

/// Arguments of `heartline restart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Return as soon as the restart is accepted
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the new agent
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s", conflicts_with = "no_wait")]
    pub timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks, and waits until another agent process answers.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let before: Pong = client
        .call(Request::Ping)
        .await
        .map_err(as_failure(args.json))?;
    let begin = Instant::now();
    let done: Done = client
        .call(Request::Restart)
        .await
        .map_err(as_failure(args.json))?;
    if args.no_wait {
        return answer(args.json, &done, render::done);
    }
    // In between nobody answers, or the old agent still does: both are no failure yet.
    let quick = client.clone().with_limit(Duration::from_secs(1));
    loop {
        if let Ok(now) = quick.call::<Pong>(Request::Ping).await
            && now.started_boot_ns != before.started_boot_ns
        {
            return answer(args.json, &now, |now, style| {
                render::restarted(&before, now, begin.elapsed(), style)
            });
        }
        if begin.elapsed() >= args.timeout {
            return Err(Failure::Late(format!(
                "no new agent answers after {:?} (see journalctl -u heartline)",
                args.timeout
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
