//! What maintenance does next, and whether a cluster is fit for it: pure functions of status and of what was done.

use serde::{Deserialize, Serialize};

use crate::control::proto::{NodeState, Role, StatusReport};

/// What is done to one node, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Its groups move away.
    Drain,
    /// The command is about to run, or runs.
    Command,
    /// The command has ended; the node may be away.
    Back,
    /// It is put back into use.
    Undrain,
}

/// A node to be maintained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Its name.
    pub node: String,
    /// It votes only: there is nothing to drain.
    pub witness: bool,
}

/// How far maintenance has come: the file that `--resume` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The nodes, in order.
    pub works: Vec<Work>,
    /// How many of them are done.
    pub done: usize,
    /// What is being done to the next one.
    pub step: Step,
    /// What runs on each.
    pub command: Vec<String>,
    /// How another node is reached, words with `{node}` in them.
    pub via: String,
    /// Before the command ran: which life of the node's kernel state it was, if known.
    pub incarnation: Option<u64>,
    /// Before the command ran: groups that the node could not run then either.
    pub unfit: Vec<String>,
    /// Which boot of the machine that runs this command it was.
    pub boot: String,
    /// The command is a reboot, or has ended the connection: the node must be seen gone.
    pub must_go: bool,
}

impl Progress {
    /// The beginning.
    #[must_use]
    pub fn new(works: Vec<Work>, command: Vec<String>, via: String, boot: String) -> Progress {
        let mut p = Progress {
            works,
            done: 0,
            step: Step::Drain,
            command,
            via,
            incarnation: None,
            unfit: Vec::new(),
            boot,
            must_go: false,
        };
        p.begin();
        p
    }

    /// The node that is at work; `None`: all is done.
    #[must_use]
    pub fn work(&self) -> Option<&Work> {
        self.works.get(self.done)
    }

    fn begin(&mut self) {
        let witness = self.work().is_some_and(|w| w.witness);
        self.step = if witness { Step::Command } else { Step::Drain };
        self.incarnation = None;
        self.unfit.clear();
        self.must_go = false;
    }

    /// This step is done.
    pub fn advance(&mut self) {
        let witness = self.work().is_some_and(|w| w.witness);
        self.step = match self.step {
            Step::Drain => Step::Command,
            Step::Command => Step::Back,
            Step::Back if !witness => Step::Undrain,
            Step::Back | Step::Undrain => {
                self.done += 1;
                return self.begin();
            }
        };
    }

    /// How things are, for somebody who has to go on from here.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(Work { node, .. }) = self.work() else {
            return "all nodes are done".to_owned();
        };
        let here = match self.step {
            Step::Drain => format!("{node} may be drained; the command has not run there"),
            Step::Command => {
                format!("{node} is out of use; the command may have run there, in part or whole")
            }
            Step::Back => format!(
                "{node} is out of use; the command has ended there, the node was not seen back yet"
            ),
            Step::Undrain => format!("{node} is well, and still drained"),
        };
        format!(
            "{here}; {} of {} nodes are done",
            self.done,
            self.works.len()
        )
    }
}

/// The nodes of `--all`: by id, the one that this runs on last.
#[must_use]
pub fn all(status: &StatusReport) -> Vec<Work> {
    let mut nodes: Vec<_> = status.nodes.iter().collect();
    nodes.sort_by_key(|n| (n.name == status.node, n.id));
    nodes
        .into_iter()
        .map(|n| Work {
            node: n.name.clone(),
            witness: n.role == Role::Witness,
        })
        .collect()
}

/// What keeps the cluster from being whole; empty: nothing.
#[must_use]
pub fn not_whole(status: &StatusReport) -> Vec<String> {
    let mut why = Vec::new();
    for n in &status.nodes {
        match n.state {
            NodeState::Me | NodeState::Alive if !n.voting => {
                why.push(format!("{} does not vote yet", n.name));
            }
            NodeState::Me | NodeState::Alive => {}
            NodeState::Late | NodeState::Silent | NodeState::NeverSeen | NodeState::Unknown => {
                why.push(format!("{} is {}", n.name, n.state.name()));
            }
        }
        if n.drained {
            why.push(format!("{} is drained", n.name));
        }
    }
    if status.paused {
        why.push("the cluster is paused".to_owned());
    }
    if let Some(change) = &status.change {
        why.push(format!(
            "it is changing from generation {} to {}",
            change.from, change.to
        ));
    }
    for g in &status.groups {
        if g.owner.is_none() {
            why.push(format!("{} has no owner", g.name));
        }
        let phase = g.services.as_ref().map_or("", |s| s.phase.as_str());
        if matches!(
            phase,
            "stuck" | "failed" | "blocked" | "starting" | "stopping"
        ) {
            why.push(format!("the services of {} are {phase}", g.name));
        }
    }
    why
}

/// Why the rest would have no majority, or nothing, without this node.
#[must_use]
pub fn not_without(status: &StatusReport, node: &str) -> Option<String> {
    let Some(n) = status.nodes.iter().find(|n| n.name == node) else {
        return Some(format!("there is no node {node:?}"));
    };
    if !matches!(n.state, NodeState::Me | NodeState::Alive) {
        return Some(format!(
            "{node} is {}: it cannot be drained",
            n.state.name()
        ));
    }
    let others = status
        .nodes
        .iter()
        .filter(|o| {
            o.name != node && o.voting && matches!(o.state, NodeState::Me | NodeState::Alive)
        })
        .count();
    let needed = usize::try_from(status.quorum.needed).unwrap_or(usize::MAX);
    (others < needed).then(|| {
        format!("without {node} only {others} voters are left, and {needed} are needed: nothing would run")
    })
}

/// What a node still owns.
#[must_use]
pub fn owned<'a>(status: &'a StatusReport, node: &str) -> Vec<&'a str> {
    let groups = status.groups.iter();
    groups
        .filter(|g| g.owner.as_deref() == Some(node))
        .map(|g| g.name.as_str())
        .collect()
}

/// The groups that a node says it cannot run.
#[must_use]
pub fn unfit(status: &StatusReport, node: &str) -> Vec<String> {
    let groups = status.groups.iter();
    groups
        .filter(|g| g.unfit.iter().any(|u| u.node == node))
        .map(|g| g.name.clone())
        .collect()
}

/// How a node looks after the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Not there.
    Gone,
    /// There, and not what it should be.
    NotYet(String),
    /// As it should be; `new`: another life than before the command.
    Fine {
        /// It has been away.
        new: bool,
    },
}

/// Looks at the node that is at work.
#[must_use]
pub fn look(status: &StatusReport, p: &Progress) -> Look {
    let Some(work) = p.work() else {
        return Look::Fine { new: false };
    };
    let Some(n) = status.nodes.iter().find(|n| n.name == work.node) else {
        return Look::Gone;
    };
    match n.state {
        NodeState::Late | NodeState::Silent | NodeState::NeverSeen | NodeState::Unknown => {
            return Look::Gone;
        }
        NodeState::Me | NodeState::Alive => {}
    }
    if !n.voting {
        return Look::NotYet("it does not vote yet".to_owned());
    }
    if n.config_mismatch.is_some() {
        return Look::NotYet("its configuration differs".to_owned());
    }
    let bad: Vec<_> = unfit(status, &work.node)
        .into_iter()
        .filter(|g| !p.unfit.contains(g))
        .collect();
    if !bad.is_empty() {
        return Look::NotYet(format!("it is not fit for {}", bad.join(", ")));
    }
    let new = p.incarnation.is_some() && n.incarnation.is_some() && n.incarnation != p.incarnation;
    Look::Fine { new }
}

/// Whether the command does nothing but reboot. It ends when that is asked for, which may be well before it happens
/// (shutdown(8), `shutdown -r +5`; a delay of logind). A script that may reboot or not is not one.
#[must_use]
pub fn is_reboot(command: &[String]) -> bool {
    let words: Vec<_> = command
        .iter()
        .flat_map(|word| word.split_whitespace())
        .collect();
    let simple = words
        .iter()
        .all(|word| !word.contains(['&', '|', ';', '(', '$', '`']));
    let program = words.first().and_then(|word| word.rsplit('/').next());
    let has = |any: &[&str]| words.iter().any(|word| any.contains(word));
    simple
        && match program {
            Some("reboot") => true,
            Some("shutdown") => has(&["-r", "--reboot"]),
            Some("systemctl") => has(&["reboot", "soft-reboot", "kexec"]),
            Some(_) | None => false,
        }
}

/// The program and arguments that run the command on a node: a line for a shell, the same on all nodes. A way to
/// another node gets it as its last argument, as ssh(1) needs it; a command of one word is such a line already.
#[must_use]
pub fn argv(p: &Progress, node: &str, me: &str) -> Vec<String> {
    let line = match p.command.as_slice() {
        [one] => one.clone(),
        words => words
            .iter()
            .map(|w| quoted(w))
            .collect::<Vec<_>>()
            .join(" "),
    };
    let mut argv = if node == me {
        vec!["/bin/sh".to_owned(), "-c".to_owned()]
    } else {
        way(&p.via, node)
    };
    argv.push(line);
    argv
}

/// The program and arguments that reach a node.
#[must_use]
pub fn way(via: &str, node: &str) -> Vec<String> {
    via.split_whitespace()
        .map(|word| word.replace("{node}", node))
        .collect()
}

/// A word as sh(1) reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::proto::{GroupStatus, NodeStatus, QuorumStatus, ServicesStatus, Unfit};

    fn status() -> StatusReport {
        let node = |id: u8| NodeStatus {
            name: format!("n{id}"),
            id,
            state: if id == 2 {
                NodeState::Me
            } else {
                NodeState::Alive
            },
            role: if id == 3 { Role::Witness } else { Role::Member },
            voting: true,
            incarnation: Some(10 + u64::from(id)),
            ..NodeStatus::default()
        };
        StatusReport {
            node: "n2".into(),
            nodes: vec![node(1), node(2), node(3)],
            quorum: QuorumStatus {
                voters: 3,
                needed: 2,
                reachable: 3,
            },
            groups: vec![GroupStatus {
                name: "web".into(),
                owner: Some("n1".into()),
                services: Some(ServicesStatus {
                    phase: "running".into(),
                    ..ServicesStatus::default()
                }),
                ..GroupStatus::default()
            }],
            ..StatusReport::default()
        }
    }

    fn progress() -> Progress {
        let words = ["systemctl", "reboot"].map(String::from).to_vec();
        Progress::new(all(&status()), words, "ssh {node}".into(), "b1".into())
    }

    #[test]
    fn this_node_comes_last_and_a_witness_is_not_drained() {
        let mut p = progress();
        let mut seen = Vec::new();
        while let Some(work) = p.work() {
            seen.push(format!("{} {:?}", work.node, p.step));
            p.advance();
        }
        let expected = [
            "n1 Drain",
            "n1 Command",
            "n1 Back",
            "n1 Undrain",
            "n3 Command",
            "n3 Back",
            "n2 Drain",
            "n2 Command",
            "n2 Back",
            "n2 Undrain",
        ];
        assert_eq!(seen, expected);
        assert_eq!(p.sentence(), "all nodes are done");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut p = progress();
        p.advance();
        p.incarnation = Some(7);
        let text = serde_json::to_string(&p).unwrap();
        assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), p);
        assert!(
            p.sentence()
                .contains("n1 is out of use; the command may have run")
        );
        // What was known of one node is not taken for the next.
        (0..3).for_each(|_| p.advance());
        assert_eq!((p.done, p.incarnation), (1, None));
    }

    #[test]
    fn a_whole_cluster_and_each_way_not_to_be() {
        assert_eq!(not_whole(&status()), Vec::<String>::new());
        let broken = |change: fn(&mut StatusReport)| {
            let mut s = status();
            change(&mut s);
            not_whole(&s).join("; ")
        };
        assert_eq!(
            broken(|s| s.nodes[0].state = NodeState::Silent),
            "n1 is silent"
        );
        assert_eq!(
            broken(|s| s.nodes[2].voting = false),
            "n3 does not vote yet"
        );
        assert_eq!(broken(|s| s.nodes[1].drained = true), "n2 is drained");
        assert_eq!(broken(|s| s.paused = true), "the cluster is paused");
        assert_eq!(broken(|s| s.groups[0].owner = None), "web has no owner");
        let stuck = broken(|s| {
            if let Some(services) = &mut s.groups[0].services {
                services.phase = "stuck".into();
            }
        });
        assert_eq!(stuck, "the services of web are stuck");
    }

    #[test]
    fn a_node_that_is_needed_is_not_taken_away() {
        assert_eq!(not_without(&status(), "n1"), None);
        let mut s = status();
        s.nodes[2].state = NodeState::Silent;
        let why = not_without(&s, "n1").unwrap();
        assert!(
            why.contains("only 1 voters are left, and 2 are needed"),
            "{why}"
        );
        assert!(not_without(&s, "n3").unwrap().contains("silent"));
        assert!(not_without(&s, "n9").unwrap().contains("no node"));
    }

    #[test]
    fn a_node_is_back_when_it_is_as_fit_as_before() {
        let mut p = progress();
        let mut s = status();
        p.incarnation = Some(11);
        assert_eq!(look(&s, &p), Look::Fine { new: false });
        s.nodes[0].incarnation = Some(99);
        assert_eq!(look(&s, &p), Look::Fine { new: true });
        s.groups[0].unfit = vec![Unfit {
            node: "n1".into(),
            reason: "no carrier".into(),
        }];
        assert_eq!(look(&s, &p), Look::NotYet("it is not fit for web".into()));
        p.unfit = vec!["web".into()];
        assert_eq!(look(&s, &p), Look::Fine { new: true });
        s.nodes[0].voting = false;
        assert!(matches!(look(&s, &p), Look::NotYet(_)));
        s.nodes[0].state = NodeState::Late;
        assert_eq!(look(&s, &p), Look::Gone);
    }

    #[test]
    fn a_reboot_is_known_as_one() {
        let is = |line: &str| is_reboot(&[line.to_owned()]);
        let words =
            |words: &[&str]| is_reboot(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert!(words(&["systemctl", "reboot"]) && words(&["/sbin/shutdown", "-r", "+5"]));
        assert!(is("reboot") && is("systemctl --no-wall reboot") && is("systemctl kexec"));
        for no in [
            "systemctl restart nginx",
            "shutdown -c",
            "apt-get upgrade",
            "needs-restarting -r || reboot",
            "reboot-check; true",
            "systemctl is-active x && reboot",
            "",
        ] {
            assert!(!is(no), "{no:?}");
        }
        assert!(!words(&[]));
    }

    #[test]
    fn the_way_to_a_node_gets_one_line_for_a_shell() {
        let mut p = progress();
        assert_eq!(argv(&p, "n1", "n2"), ["ssh", "n1", "systemctl reboot"]);
        assert_eq!(argv(&p, "n2", "n2"), ["/bin/sh", "-c", "systemctl reboot"]);
        p.command = ["sh", "-c", "it's; $x", ""].map(String::from).to_vec();
        assert_eq!(argv(&p, "n1", "n2")[2], r"sh -c 'it'\''s; $x' ''");
        p.command = vec!["apt update && reboot".into()];
        assert_eq!(argv(&p, "n1", "n2")[2], "apt update && reboot");
    }
}
