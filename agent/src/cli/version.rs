//! `heartline version`.

use std::time::Duration;

use agent_common::wire;
use serde::Serialize;

use super::output::{Failure, answer};
use super::render::Style;
use crate::control::Client;
use crate::control::proto::{CONTROL_VERSION, Pong, Request};

/// Arguments of `heartline version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The versions, of this program and of the agent.
#[derive(Debug, Serialize)]
pub struct Versions {
    /// Version of this program.
    pub version: &'static str,
    /// Version of the heartbeat packets.
    pub wire_version: u32,
    /// Version of the control protocol.
    pub control_version: u32,
    /// The running agent, if one answers.
    pub agent: Option<Pong>,
}

/// Prints the versions; an agent that does not run is no failure.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    let agent = client
        .with_limit(Duration::from_secs(1))
        .call(Request::Ping)
        .await
        .ok();
    let version = env!("CARGO_PKG_VERSION");
    let versions = Versions {
        version,
        wire_version: u32::from(wire::VERSION),
        control_version: CONTROL_VERSION,
        agent,
    };
    answer(args.json, &versions, text)
}

fn text(versions: &Versions, _: &Style) -> String {
    let Versions {
        version,
        wire_version,
        control_version,
        agent,
    } = versions;
    let mut text =
        format!("heartline {version} (wire {wire_version}, control {control_version})\n");
    match agent {
        Some(agent) if agent.agent_version == *version => {
            text.push_str(&format!(
                "running agent: {} on {}, the same\n",
                agent.agent_version, agent.node
            ));
        }
        Some(agent) => text.push_str(&format!(
            "running agent: {} on {}: another version (mend: heartline restart)\n",
            agent.agent_version, agent.node
        )),
        None => text.push_str("running agent: none answers\n"),
    }
    text
}
