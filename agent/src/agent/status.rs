//! The status report, from the snapshot, the shared table and the books of the periphery.

use std::collections::BTreeMap;

use agent_common::record::Counter;
use agent_core::{Fitness, Health, detector};

use super::{
    attend::service_phase, devices::Gates, fitness::FitnessBook, guard::Guard, monitors::Monitors,
    rotation, services::ServicesBook, setup::Names, snapshot::Snapshot,
};
use crate::{
    config::{self, Config, KeyFile, show_ns},
    control::proto::*,
    datapath::Table,
};

/// Everything that the report is made of.
pub struct Sources<'a> {
    pub config: &'a Config,
    pub names: &'a Names,
    pub me: u8,
    pub snapshot: &'a Snapshot,
    pub table: &'a Table,
    pub gates: &'a Gates,
    /// The data path is sockets; perhaps with the reason why "auto" chose it.
    pub without_bpf: Option<&'a Option<String>>,
    pub counters: Vec<(&'static str, u64)>,
    pub change: Option<ChangeStatus>,
    pub takeovers: &'a BTreeMap<u8, Takeover>,
    pub errors: &'a BTreeMap<(u8, u16), String>,
    pub fitness: &'a FitnessBook,
    pub services: &'a ServicesBook,
    pub guard: &'a Guard,
    pub monitors: &'a Monitors,
    pub present: &'a [u64; 4],
    pub started_ns: u64,
    pub priority: Option<u8>,
    pub locked: bool,
    pub key: &'a KeyFile,
    pub newest: u8,
    pub now: u64,
}

/// What the data path of sockets promises less.
pub const SOCKET_PROMISES: &str = "heartbeats by plain sockets, gate by nftables: never two owners still holds, but while \
    this agent does not run its vote is missing, its gate shuts up to a few ticks before its lease, and whoever flushes \
    the nftables ruleset opens the gate until the agent has put it back";

/// The report.
pub fn report(s: &Sources<'_>) -> StatusReport {
    let (config, t, snap, now) = (s.config, s.table, s.snapshot, s.now);
    let (datapath, uncovered_devices) = s.gates.status(config, s.me);
    let ago = |at: u64| (at != 0).then(|| now.saturating_sub(at) / 1_000_000);
    let vote_after = t.vote_after.load();
    let halted = t.halted.load() != 0;
    let proven = vote_after != agent_common::state::UNPROVEN;
    let active = t.votes(now);
    let voting = VotingStatus {
        active,
        since_boot_ns: active.then_some(vote_after),
        waits_ms: (!active && !halted && proven)
            .then(|| vote_after.saturating_sub(now) / 1_000_000),
        reason: if halted {
            Some("another machine uses this node's id".into())
        } else if !proven {
            Some("its generation is new to it: waiting to hear a member that votes in it".into())
        } else {
            (!active).then(|| {
                "fresh state: waiting until every promise that it may have forgotten is over".into()
            })
        },
    };
    let lease = t.lease();
    let nodes: Vec<NodeStatus> = config.nodes.iter().map(|n| node(s, n, &ago)).collect();
    let reachable = 1 + config
        .nodes
        .iter()
        .filter(|n| n.id != s.me && snap.nodes[usize::from(n.id - 1) & 31].alive)
        .count();
    let groups: Vec<GroupStatus> = config.groups.iter().map(|g| group(s, g)).collect();
    let mut counters: BTreeMap<String, u64> = s
        .counters
        .iter()
        .map(|(n, v)| ((*n).to_owned(), *v))
        .collect();
    counters.insert("queue_dropped".into(), snap.dropped);
    counters.insert("send_refused".into(), snap.refused.iter().sum());
    counters.insert("realtime_rounds".into(), snap.rounds);
    let holds = lease.holds(now);
    let keys = s.key.keys();
    StatusReport {
        agent_version: env!("CARGO_PKG_VERSION").into(),
        wire_version: u32::from(s.newest),
        node: s.names.node(s.me),
        node_id: s.me,
        cluster: config.cluster.clone(),
        generation: u64::from(config.generation),
        change: s.change.clone(),
        digest: format!("{:08x}", config.digest()),
        key: rotation::status_of(keys.id(), keys.other_id()),
        incarnation: t.incarnation.load(),
        boot_ns: now,
        uptime_ms: now.saturating_sub(s.started_ns) / 1_000_000,
        paused: snap.paused,
        timing: TimingStatus {
            profile: config.timing.profile.name().into(),
            heartbeat_ns: config.timing.heartbeat_ns,
            lease_ns: config.timing.lease_ns,
            takeover_ns: config.timing.takeover_ns,
            max_promise_ns: config.timing.max_promise_ns,
        },
        datapath,
        uncovered_devices,
        rt: RtStatus {
            policy: if snap.realtime { "fifo" } else { "other" }.into(),
            priority: if snap.realtime {
                u32::from(s.priority.unwrap_or(0))
            } else {
                0
            },
            memory_locked: s.locked,
            max_loop_late_us: snap.late_ns / 1000,
            late: snap.late.to_vec(),
        },
        voting,
        quorum: QuorumStatus {
            voters: config.nodes.len() as u32,
            needed: config.majority() as u32,
            reachable: reachable as u32,
        },
        lease: LeaseStatus {
            holds,
            until_ns_remaining: holds.then(|| lease.expiry_ns().saturating_sub(now)),
        },
        warnings: warnings(s, &nodes),
        nodes,
        groups,
        watchdog: s.guard.status(now, |group| s.names.group(group)),
        fences: s.monitors.status(s.names, now),
        counters,
    }
}

fn node(s: &Sources<'_>, n: &config::Node, ago: &dyn Fn(u64) -> Option<u64>) -> NodeStatus {
    let me = n.id == s.me;
    let p = s.table.peer(n.id);
    let c = s.snapshot.nodes[usize::from(n.id.wrapping_sub(1)) & 31];
    let seen = p.seen_config.load();
    let (digest, generation) = ((seen >> 32) as u32, seen as u32);
    let matches = digest == s.config.digest() && generation == s.config.generation;
    let state = if me {
        NodeState::Me
    } else {
        match s.snapshot.health[usize::from(n.id.wrapping_sub(1)) & 31] {
            Health::NeverSeen => NodeState::NeverSeen,
            Health::Alive => NodeState::Alive,
            Health::Late => NodeState::Late,
            Health::Silent => NodeState::Silent,
        }
    };
    let links = n.links.iter().enumerate().map(|(i, l)| LinkStatus {
        device: l.device.clone(),
        address: l.address.to_string(),
        last_heard_ms: if me {
            None
        } else {
            p.heard.get(i).and_then(|h| ago(h.load()))
        },
    });
    let known = me || seen != 0;
    let (said, keys) = (rotation::says(p), s.key.keys());
    let newest = said.version + u8::from(said.next);
    NodeStatus {
        name: n.name.clone(),
        id: n.id,
        role: match n.role {
            config::Role::Member => Role::Member,
            config::Role::Witness => Role::Witness,
        },
        state,
        last_heard_ms: if me {
            None
        } else {
            ago(detector::last_heard(p))
        },
        links: links.collect(),
        incarnation: if me {
            Some(s.table.incarnation.load())
        } else {
            Some(p.seen_incarnation.load()).filter(|i| *i != 0)
        },
        generation: known.then_some(u64::from(if me { s.config.generation } else { generation })),
        digest_match: known.then_some(me || matches),
        voting: c.alive && !c.waiting,
        drained: c.drained,
        config_mismatch: (!me && seen != 0 && !matches).then(|| {
            format!(
                "digest {digest:08x}, generation {generation}; ours is {:08x}, {}",
                s.config.digest(),
                s.config.generation
            )
        }),
        wire_version: if me {
            Some(u32::from(s.newest))
        } else {
            (newest != 0).then_some(u32::from(newest))
        },
        key: if me {
            Some(rotation::status_of(keys.id(), keys.other_id()))
        } else {
            (said.key != 0).then(|| rotation::status_of(said.key, said.other))
        },
    }
}

fn group(s: &Sources<'_>, g: &config::Group) -> GroupStatus {
    let i = usize::from(g.id);
    let owner = s.snapshot.owner[i];
    let named = |id: u8| (id != 0).then(|| s.names.node(id));
    let owned_here = s.table.run_set.load().has(g.id);
    let takeover = s.takeovers.get(&g.id);
    let here = (s.present[(i / 64) & 3] >> (i % 64)) & 1 == 1;
    GroupStatus {
        name: g.name.clone(),
        id: g.id,
        owner: named(owner),
        owned_here,
        gate_open: s.table.gate_open(g.id, s.now),
        // Of another owner only the epoch of its newest gain is known.
        epoch: match owner {
            _ if owned_here => s.table.group_epoch[i].load(),
            0 => 0,
            other => s.table.peer(other).seen_epoch.load(),
        },
        desired: named(s.snapshot.target[i]),
        vips: g
            .vips
            .iter()
            .enumerate()
            .map(|(k, v)| {
                let error = s.errors.get(&(g.id, k as u16)).cloned();
                VipStatus {
                    address: format!("{}/{}", v.address, v.prefix),
                    device: v.device.clone(),
                    present: here && error.is_none(),
                    error,
                }
            })
            .collect(),
        since_boot_ns: takeover.filter(|_| owned_here).map(|t| t.at_boot_ns),
        prefer: g.prefer.iter().map(|id| s.names.node(*id)).collect(),
        spread: g.spread,
        failback: match g.failback {
            config::Failback::Manual => "manual".into(),
            config::Failback::Auto => "auto".into(),
        },
        unfit: s
            .config
            .nodes
            .iter()
            .filter_map(|n| {
                let there = match s.snapshot.fitness(n.id, g.id) {
                    Fitness::Fit => return None,
                    Fitness::Unfit => "its device has no carrier, or no gate",
                    Fitness::Failed => "it failed there",
                    Fitness::Doubtful => "a target that it must reach does not answer it",
                };
                let own = (n.id == s.me).then(|| s.fitness.reason(g.id)).flatten();
                Some(Unfit {
                    node: n.name.clone(),
                    reason: own.unwrap_or(there).into(),
                })
            })
            .collect(),
        last_takeover: takeover.cloned(),
        services: services(s, g.id),
    }
}

/// What stands behind a group: its owner's word, and how it is here.
fn services(s: &Sources<'_>, group: u8) -> Option<ServicesStatus> {
    let here = s.services.view(group)?;
    let owned = s.snapshot.owned.has(group);
    let (_, phase) = s.snapshot.phases[usize::from(group)];
    Some(ServicesStatus {
        phase: if owned {
            here.phase
        } else {
            service_phase(phase)
        }
        .name()
        .into(),
        phase_here: here.phase.name().into(),
        stop_timeout_ms: s.services.stop_timeout_ms(group),
        text: here.text,
        failures: here.failures,
        given_up: here.given_up,
        resources: here
            .resources
            .into_iter()
            .map(|r| ResourceStatus {
                name: r.name,
                state: r.state.into(),
                text: r.text,
            })
            .collect(),
        probes: here
            .probes
            .into_iter()
            .map(|p| ProbeStatus {
                name: p.name,
                standing: p.standing.into(),
                text: p.text,
                performance: p.performance,
                took_ms: p.took_ms,
            })
            .collect(),
    })
}

fn warnings(s: &Sources<'_>, nodes: &[NodeStatus]) -> Vec<Warning> {
    let mut w = Vec::new();
    let mut add = |level, code: &str, text: String, help: Option<&str>| {
        w.push(Warning {
            level,
            code: code.into(),
            text,
            help: help.map(Into::into),
        });
    };
    if s.table.halted.load() != 0 {
        let help =
            "give each node an id of its own; this node votes again when the other one is gone";
        add(
            Level::Error,
            "duplicate_id",
            "another machine uses this node's id: all gates are shut".into(),
            Some(help),
        );
    }
    for name in s.services.retiring() {
        let text =
            format!("{name} is not this node's any more, and its services have not stopped yet");
        let help = "see `heartline events`; what runs can be stopped by hand";
        add(Level::Warning, "still_stopping", text, Some(help));
    }
    for (group, fitness, reason) in s.fitness.said() {
        let name = s.names.group(group);
        let (code, text) = match fitness {
            Fitness::Fit => continue,
            Fitness::Unfit => ("unfit", format!("this node cannot run {name}: {reason}")),
            Fitness::Failed => (
                "failed",
                format!("{name} does not work on this node: {reason}"),
            ),
            Fitness::Doubtful => (
                "doubtful",
                format!("this node runs {name} only where all others are as badly off: {reason}"),
            ),
        };
        add(Level::Warning, code, text, None);
    }
    let (_, uncovered) = s.gates.status(s.config, s.me);
    for d in uncovered {
        add(
            Level::Error,
            "gate_missing",
            format!("device {d} has no gate"),
            Some("see `heartline doctor`"),
        );
    }
    for n in nodes {
        if let Some(text) = &n.config_mismatch {
            let help = "copy the same configuration to all nodes and reload";
            add(
                Level::Warning,
                "config_mismatch",
                format!("{} runs another configuration: {text}", n.name),
                Some(help),
            );
        }
    }
    let reachable = 1 + nodes.iter().filter(|n| n.state == NodeState::Alive).count();
    if reachable < s.config.majority() {
        let text = format!(
            "{reachable} of {} voters answer, {} are needed: nothing can be owned here",
            nodes.len(),
            s.config.majority()
        );
        add(
            Level::Error,
            "no_majority",
            text,
            Some("is this node cut off, or are the others down?"),
        );
    }
    if !s.snapshot.realtime {
        let help = "see `heartline doctor`, real-time rights";
        add(
            Level::Warning,
            "no_realtime",
            "the agent runs without real-time priority: takeovers may be late".into(),
            Some(help),
        );
    }
    if let Some(why) = s.without_bpf {
        // Chosen by the machine, it is a warning; chosen by a person, they know.
        let (level, because) = match why {
            Some(why) => (Level::Warning, format!("BPF cannot be used ({why}): ")),
            None => (Level::Note, String::new()),
        };
        add(
            level,
            "datapath_socket",
            format!("{because}{SOCKET_PROMISES}"),
            Some("`heartline doctor` says what BPF lacks here"),
        );
    }
    let newest = s.snapshot.progress.newest;
    if newest > s.config.generation && s.change.is_none() {
        let text = format!(
            "others are in generation {newest}, this node is in {}: nobody listens to it there",
            s.config.generation
        );
        let help = "copy their configuration here and `heartline reload`; if this node was left out: stop its agent";
        add(Level::Warning, "generation_behind", text, Some(help));
    }
    if let Some(c) = &s.change
        && c.code != "nothing"
    {
        add(
            Level::Note,
            "generation_change",
            format!("generation {} {}", c.to, c.waits),
            None,
        );
    }
    if !s.snapshot.progress.proven && s.snapshot.at != 0 {
        let text = format!(
            "generation {} is new to this node: it votes when it hears a member that votes in it",
            s.config.generation
        );
        let help = "a cluster begins with generation = 1; else: is a node of this generation up, with the same file?";
        add(Level::Warning, "generation_unproven", text, Some(help));
    } else if !s.table.votes(s.now) && s.table.halted.load() == 0 {
        let left = s.table.vote_after.load().saturating_sub(s.now);
        add(
            Level::Note,
            "rejoin_wait",
            format!(
                "fresh state: voting in {}",
                show_ns(left / 1_000_000 * 1_000_000)
            ),
            None,
        );
    }
    let unknown = s
        .counters
        .get(Counter::UnknownKey as usize)
        .map_or(0, |(_, n)| *n);
    w.extend(s.guard.warning());
    w.extend(s.monitors.warnings(s.names));
    let mut moving = Vec::new();
    rotation::warnings(s.key, nodes, unknown, &mut moving);
    w.extend(moving);
    let mut add = |level, code: &str, text: String, help: Option<&str>| {
        w.push(Warning {
            level,
            code: code.into(),
            text,
            help: help.map(Into::into),
        });
    };
    let text = "never two owners rests on: a boot clock that runs whenever this node can run; no rollback; ids of their own; \
                no way around the gate";
    add(
        Level::Note,
        "assumptions",
        text.into(),
        Some("`heartline doctor` says what it finds here"),
    );
    w
}
