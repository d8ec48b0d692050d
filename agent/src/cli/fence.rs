//! `heartline fence`.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::PathBuf,
};

use agent_services::fence::{self, Device, Outcome, Plan};
use serde::Serialize;

use super::output::{Failure, print, print_json};
use super::render::clean;
use crate::config::{Checks, Config, DEFAULT_CONFIG_FILE, LoadError};
use crate::control::proto::{Done, Request};
use crate::control::{Client, ClientError};

/// Arguments of `heartline fence`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node
    pub node: String,
    /// You made sure that it is off (pulled the plug, say): fence nothing, and let others take over
    #[arg(long)]
    pub confirm: bool,
    /// Touch nothing: look whether its devices answer, and whether the node is on
    #[arg(long, conflicts_with = "confirm")]
    pub test: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG_FILE)]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Report {
    node: String,
    fenced: bool,
    level: Option<usize>,
    verified: bool,
    took_ms: u64,
    steps: Vec<Step>,
    /// What the agent on this machine said about it.
    agent: String,
}

#[derive(Debug, Serialize)]
struct Step {
    what: String,
    good: bool,
    took_ms: u64,
    result: String,
}

/// What a device said to `--test`.
#[derive(Debug, Serialize)]
struct Tested {
    device: String,
    level: usize,
    good: bool,
    findings: Vec<String>,
    /// `on`, `off`, or empty.
    node: String,
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The configuration, with errors that name the mend.
pub(super) fn load(path: &std::path::Path) -> Result<Config, Failure> {
    match Config::load_with(path, &Checks::default()) {
        Ok(loaded) => Ok(loaded.config),
        Err(error @ LoadError::Unreadable { .. }) => Err(Failure::Refused(error.to_string())),
        Err(LoadError::Refused(report)) => Err(Failure::Refused(format!(
            "{} is refused; see `heartline check`",
            report.name()
        ))),
    }
}

/// Asks for a word on the terminal; without one it refuses.
pub(super) fn ask_for(word: &str, question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Refused(format!(
            "{question}\nnobody can be asked here: say --yes"
        )));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question}\nType {word} to go on: ")?;
    stderr.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.trim() == word {
        Ok(())
    } else {
        Err(Failure::Refused("nothing was done".into()))
    }
}

/// Runs the command.
pub(super) async fn run(args: Args, client: Client) -> Result<(), Failure> {
    if args.confirm {
        let question = format!(
            "If {0} is not off, its data may be written by two nodes, and lost. Is {0} off, and will it stay off?",
            args.node
        );
        ask_for(&args.node, &question, args.yes)?;
        let how = "confirmed by hand".into();
        let request = Request::Fenced {
            node: args.node.clone(),
            how,
        };
        let done: Done = client
            .call(request)
            .await
            .map_err(super::output::as_failure(args.json))?;
        return super::output::answer(args.json, &done, super::render::done);
    }
    let config = load(&args.config)?;
    let Some(node) = config.nodes.iter().find(|n| n.name == args.node) else {
        let names: Vec<_> = config.nodes.iter().map(|n| n.name.as_str()).collect();
        return Err(Failure::Refused(format!(
            "there is no node {}; there are {}",
            args.node,
            names.join(", ")
        )));
    };
    let Some(plan) = config.fence_plan(node.id) else {
        return Err(Failure::Refused(format!(
            "{} has no fence device: add a [[fence]] with node = \"{0}\" to {1}; or make sure that it is off, and say `heartline fence {0} --confirm`",
            node.name,
            args.config.display()
        )));
    };
    if args.test {
        return test(&plan, args.json).await;
    }
    let hostname = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned());
    if hostname.is_ok_and(|h| {
        config
            .node_by_hostname(&h)
            .is_some_and(|own| own.id == node.id)
    }) {
        return Err(Failure::Refused(format!(
            "{} is this machine: fence it from another one",
            node.name
        )));
    }
    ask_for(
        &node.name,
        &format!(
            "{} will be reset or switched off, whatever it is doing.",
            node.name
        ),
        args.yes,
    )?;
    let json = args.json;
    let report = fence::run(&plan, |step, _| {
        if !json {
            let sign = if step.good { "ok  " } else { "FAIL" };
            // Nobody is left to tell if this cannot be written; the fencing goes on.
            let _ = print(&format!(
                "{sign} {} ({} ms): {}\n",
                step.what,
                ms(step.took),
                clean(&step.result)
            ));
        }
    })
    .await;
    let (level, verified) = match report.outcome {
        Outcome::Fenced { level, verified } => (Some(level), verified),
        Outcome::Failed | Outcome::NoDevice => (None, false),
    };
    let agent = match (level, tell(&client, &node.name, level, verified).await) {
        (None, _) => String::new(),
        (Some(_), Ok(done)) => done.text,
        (Some(_), Err(error)) => error.to_string(),
    };
    if json {
        let steps = report.steps.iter().map(|s| Step {
            what: s.what.clone(),
            good: s.good,
            took_ms: ms(s.took),
            result: s.result.clone(),
        });
        print_json(&Report {
            node: node.name.clone(),
            fenced: level.is_some(),
            level,
            verified,
            took_ms: ms(report.took),
            steps: steps.collect(),
            agent: agent.clone(),
        })?;
    } else if level.is_some() {
        let seen = if verified {
            "seen to be off"
        } else {
            "not seen to be off: its devices cannot tell"
        };
        print(&format!(
            "{} is fenced ({seen}), {} ms\nthe agent here: {}\n",
            node.name,
            ms(report.took),
            clean(&agent)
        ))?;
    }
    match level {
        Some(_) => Ok(()),
        None => Err(Failure::Refused(format!(
            "{0} is not fenced: no device did it; make sure by hand that it is off, then say `heartline fence {0} --confirm`",
            node.name
        ))),
    }
}

async fn tell(
    client: &Client,
    node: &str,
    level: Option<usize>,
    verified: bool,
) -> Result<Done, ClientError> {
    let seen = if verified {
        "seen to be off"
    } else {
        "not seen"
    };
    let how = format!("fence devices of level {}, {seen}", level.unwrap_or(0));
    client
        .call(Request::Fenced {
            node: node.into(),
            how,
        })
        .await
}

async fn test(plan: &Plan, json: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    for (level, devices) in plan.levels.iter().enumerate() {
        for device in devices {
            all.push(test_one(device, &plan.node, level + 1).await);
        }
    }
    let good = all.iter().all(|t| t.good);
    if json {
        print_json(&all)?;
    } else {
        for t in &all {
            let state = if t.node.is_empty() {
                String::new()
            } else {
                format!(", the node is {}", t.node)
            };
            let sign = if t.good { "ok  " } else { "FAIL" };
            print(&format!("{sign} level {} {}{state}\n", t.level, t.device))?;
            for finding in &t.findings {
                print(&format!("     {}\n", clean(finding)))?;
            }
        }
    }
    if good {
        Ok(())
    } else {
        Err(Failure::Refused(format!(
            "{} could not be fenced like this",
            plan.node
        )))
    }
}

async fn test_one(device: &Device, node: &str, level: usize) -> Tested {
    let mut findings = fence::check(device).await;
    let mut good = findings.is_empty();
    if let Err(why) = fence::monitor(device, node).await {
        good = false;
        findings.push(why);
    }
    let mut power = String::new();
    if device.verify {
        match fence::call(device, node, fence::Action::Status).await {
            fence::Said::Power(fence::Power::On) => power = "on".into(),
            fence::Said::Power(fence::Power::Off) => power = "off".into(),
            fence::Said::Done => {}
            fence::Said::Failed(why) | fence::Said::Silent(why) => {
                good = false;
                findings.push(why);
            }
        }
    }
    Tested {
        device: format!("{} ({})", device.agent, device.name),
        level,
        good,
        findings,
        node: power,
    }
}
