//! A lab with real agents and real web servers in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::{self, Agent},
    interrupt,
    lab::Lab,
    web::Web,
};

const POLL: Duration = Duration::from_millis(50);

/// What one agent says of itself: its status, or why there is none.
pub type Said = std::result::Result<Value, String>;

/// Agents, web servers and the lab below them. Dropped in this order.
#[derive(Debug)]
pub struct Cluster {
    agents: Vec<Agent>,
    frozen: Vec<String>,
    _webs: Vec<Web>,
    pins: Pins,
    config: PathBuf,
    /// The lab: cuts are made here.
    pub lab: Lab,
}

/// The folder of pins, removed on drop: pinned programs would outlive the lab.
#[derive(Debug)]
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("lab: cannot remove {}: {error}", self.0.display());
        }
        if let Some(parent) = self.0.parent() {
            // Fails while other labs run.
            let _ = fs::remove_dir(parent);
        }
    }
}

impl Cluster {
    /// Starts web servers and agents on all nodes of a lab. `key_name` is the key file's name in
    /// the config, relative to the config file. Agents are not awaited: see [`Cluster::settled`].
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(lab: Lab, config: &str, key_name: &str) -> Result<Self> {
        Self::start_first(usize::MAX, lab, config, key_name)
    }

    /// As [`Cluster::start`], on the first `count` nodes only: the others are spare machines.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_first(count: usize, lab: Lab, config: &str, key_name: &str) -> Result<Self> {
        Self::start_prepared(count, lab, config, key_name, |_| Ok(()))
    }

    /// As [`Cluster::start_first`], without web servers: for labs of many nodes.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_bare(count: usize, lab: Lab, config: &str, key_name: &str) -> Result<Self> {
        Self::raise(count, false, lab, config, key_name, |_| Ok(()))
    }

    /// As [`Cluster::start_first`], with something done to each agent before it is started.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_prepared(
        count: usize,
        lab: Lab,
        config: &str,
        key_name: &str,
        prepare: impl FnMut(&mut Agent) -> Result<()>,
    ) -> Result<Self> {
        Self::raise(count, true, lab, config, key_name, prepare)
    }

    fn raise(
        count: usize,
        web: bool,
        lab: Lab,
        config: &str,
        key_name: &str,
        prepare: impl FnMut(&mut Agent) -> Result<()>,
    ) -> Result<Self> {
        agent::ensure_bpffs()?;
        let path = lab.dir().join("heartline.toml");
        fs::write(&path, config)?;
        agent::keygen(&lab.dir().join(key_name))?;
        let pins = Pins(agent::bpf_dir(lab.prefix()));
        let mut webs = lab
            .nodes
            .iter()
            .filter(|_| web)
            .map(|node| Web::start(node, lab.dir()))
            .collect::<Result<Vec<_>>>()?;
        let mut agents = lab
            .nodes
            .iter()
            .take(count)
            .map(|node| Agent::new(node, &path, lab.dir(), &pins.0))
            .collect::<Result<Vec<_>>>()?;
        agents.iter_mut().try_for_each(prepare)?;
        agents.iter_mut().try_for_each(Agent::start)?;
        for (web, node) in webs.iter_mut().zip(&lab.nodes) {
            web.wait(node)?;
        }
        Ok(Self {
            agents,
            frozen: Vec::new(),
            _webs: webs,
            pins,
            config: path,
            lab,
        })
    }

    /// Starts an agent on a spare machine.
    ///
    /// # Errors
    /// No such machine, it has one already, or it does not start.
    pub fn join(&mut self, node: &str) -> Result<()> {
        if self.agents.iter().any(|agent| agent.name() == node) {
            bail!("{node} has an agent already");
        }
        let station = self.lab.nodes.iter().find(|station| station.name == node);
        let station = station.with_context(|| format!("the lab has no node {node:?}"))?;
        let mut agent = Agent::new(station, &self.config, self.lab.dir(), &self.pins.0)?;
        agent.start()?;
        self.agents.push(agent);
        Ok(())
    }

    /// The config file of all nodes.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// All agents, in order of their nodes.
    #[must_use]
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// The agent of a node.
    ///
    /// # Errors
    /// No such node.
    pub fn agent(&mut self, node: &str) -> Result<&mut Agent> {
        let found = self.agents.iter_mut().find(|agent| agent.name() == node);
        found.with_context(|| format!("the lab has no node {node:?}"))
    }

    /// SIGSTOP: the whole agent stands still, its kernel half does not.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&mut self, node: &str) -> Result<()> {
        self.agent(node)?.signal(Signal::SIGSTOP)?;
        self.frozen.push(node.to_owned());
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&mut self, node: &str) -> Result<()> {
        self.frozen.retain(|name| name != node);
        self.agent(node)?.signal(Signal::SIGCONT)
    }

    /// A frozen agent was killed: the next one on that node is not frozen.
    pub fn thawed(&mut self, node: &str) {
        self.frozen.retain(|name| name != node);
    }

    /// Names of nodes whose agent can answer.
    pub fn answering(&mut self) -> Vec<String> {
        let running = self.agents.iter_mut().filter_map(|agent| {
            let name = agent.name().to_owned();
            agent.running().then_some(name)
        });
        let running: Vec<_> = running.collect();
        running
            .into_iter()
            .filter(|name| !self.frozen.contains(name))
            .collect()
    }

    /// What each agent that is neither frozen nor dead says of itself.
    pub fn statuses(&mut self) -> Vec<(String, Said)> {
        let names = self.answering();
        let asked = self
            .agents
            .iter()
            .filter(|agent| names.iter().any(|n| n == agent.name()));
        std::thread::scope(|scope| {
            let threads: Vec<_> = asked
                .map(|agent| {
                    let ask = move || agent.status().map_err(|error| format!("{error:#}"));
                    (agent.name().to_owned(), scope.spawn(ask))
                })
                .collect();
            let panicked = |_| Err("panic".to_owned());
            threads
                .into_iter()
                .map(|(name, t)| (name, t.join().unwrap_or_else(panicked)))
                .collect()
        })
    }

    /// Waits until a condition on what the agents say holds; the error shows what they said last.
    ///
    /// # Errors
    /// It does not hold in time, an agent died unasked, or Ctrl-C.
    pub fn wait_for(
        &mut self,
        what: &str,
        deadline: Duration,
        holds: impl Fn(&[(String, Said)]) -> bool,
    ) -> Result<()> {
        let mut last = Vec::new();
        let came = interrupt::until(deadline, POLL, || {
            last = self.statuses();
            Ok(holds(&last))
        })?;
        if came {
            return Ok(());
        }
        let mut text = format!("not within {deadline:?}: {what}");
        for (name, said) in &last {
            let said = said.as_ref().map_or_else(Clone::clone, brief);
            text += &format!("\n  {name}: {said}");
        }
        for agent in &self.agents {
            text += &format!("\n{}: {}", agent.name(), agent.log_tail());
        }
        bail!(text)
    }

    /// Waits until all agents that can answer agree on one owner per group, see all nodes that
    /// can answer alive, and vote.
    ///
    /// # Errors
    /// As [`Cluster::wait_for`].
    pub fn settled(&mut self, deadline: Duration) -> Result<()> {
        let nodes = self.answering().len();
        self.wait_for(
            "all agents agree, vote and see each other",
            deadline,
            |said| {
                let owners = |status: &Value| groups(status).map(owner_of).collect::<Vec<_>>();
                let Some((_, Ok(first))) = said.first() else {
                    return false;
                };
                let expected = owners(first);
                said.len() == nodes
                    && !expected.is_empty()
                    && expected.iter().all(Option::is_some)
                    && said.iter().all(|(_, said)| {
                        said.as_ref().is_ok_and(|status| {
                            owners(status) == expected
                                && status.pointer("/voting/active") == Some(&Value::Bool(true))
                                && alive(status) == nodes
                        })
                    })
            },
        )
    }

    /// The owner of a group as the first agent that can answer sees it.
    pub fn owner(&mut self, group: &str) -> Option<String> {
        let said = self.statuses();
        said.iter()
            .filter_map(|(_, said)| said.as_ref().ok())
            .find_map(|status| owner(status, group))
    }

    /// Keeps the lab's folder and returns it: for tests that failed.
    pub fn keep_dir(&mut self) -> Option<PathBuf> {
        self.lab.keep_dir()
    }
}

fn groups(status: &Value) -> impl Iterator<Item = &Value> {
    status
        .get("groups")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn owner_of(group: &Value) -> Option<String> {
    group
        .get("owner")
        .and_then(Value::as_str)
        .map(str::to_owned)
}

/// The owner of a group in a status.
#[must_use]
pub fn owner(status: &Value, group: &str) -> Option<String> {
    let named = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(group);
    groups(status).find(named).and_then(owner_of)
}

/// How many nodes a status shows as alive, its own included.
#[must_use]
pub fn alive(status: &Value) -> usize {
    let nodes = status
        .get("nodes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let state = |node: &Value| node.get("state").and_then(Value::as_str).map(str::to_owned);
    nodes
        .filter(|node| matches!(state(node).as_deref(), Some("alive" | "self")))
        .count()
}

/// A status in one line.
fn brief(status: &Value) -> String {
    let pick = |path: &str| status.pointer(path).cloned().unwrap_or_default();
    let nodes = pick("/nodes");
    let states = nodes.as_array().into_iter().flatten().map(|node| {
        format!(
            "{}={}",
            node["name"].as_str().unwrap_or("?"),
            node["state"].as_str().unwrap_or("?")
        )
    });
    let owners = groups(status).map(|group| {
        format!(
            "{}@{}",
            group["name"].as_str().unwrap_or("?"),
            owner_of(group).unwrap_or_default()
        )
    });
    format!(
        "nodes [{}], groups [{}], voting {}, quorum {}, lease {}, warnings {}",
        states.collect::<Vec<_>>().join(" "),
        owners.collect::<Vec<_>>().join(" "),
        pick("/voting"),
        pick("/quorum"),
        pick("/lease"),
        pick("/warnings"),
    )
}
