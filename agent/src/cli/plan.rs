//! `heartline plan`: what a changed configuration would do, and in which steps. It changes nothing, and asks the agent only
//! where groups run that would stop.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::output::print_json;
use crate::config::{
    Change, Checks, Config, DEFAULT_CONFIG_FILE, LoadError, Stop, diff, member_steps, moved_vips,
    show_ns, stops,
};
use crate::control::Client;
use crate::control::proto::{Request, StatusReport};

/// Exit status: 0 it can be done (or nothing differs), 1 refused, 2 cannot read.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The new configuration
    #[arg(value_name = "FILE", required_unless_present = "node_down")]
    pub file: Option<PathBuf>,
    /// Say what would move, where and why, if this node were gone; asks the running agent
    #[arg(long, value_name = "NODE", conflicts_with_all = ["file", "old"])]
    pub node_down: Option<String>,
    /// The configuration in force
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG_FILE)]
    pub old: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What a change comes to.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Can it be done on a running cluster?
    pub possible: bool,
    /// Generation in force.
    pub from: u32,
    /// Generation of the new file.
    pub to: u32,
    /// What changes, a phrase each.
    pub changes: Vec<String>,
    /// Why it is refused, with the mend.
    pub refused: Vec<String>,
    /// What to do, in this order.
    pub steps: Vec<String>,
    /// Groups that stop for good, and what each stops, in order.
    pub stops: Vec<Stop>,
    /// Their owners by group, if the agent here could say.
    pub owners: BTreeMap<String, String>,
    /// Groups that are without owner for a moment, and for how long.
    pub pauses: Vec<Pause>,
    /// What else follows.
    pub notes: Vec<String>,
}

/// A group without owner for a moment.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// The group.
    pub group: String,
    /// Why.
    pub why: String,
    /// When all nodes concerned are well, at most about so long, ns: a few round trips and the address.
    pub usual_ns: u64,
    /// When its owner is frozen or cut off, ns: until the promises to it have run out.
    pub worst_ns: u64,
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args, client: &Client) -> ExitCode {
    let load = |path: &PathBuf| match Config::load_with(path, &Checks::default()) {
        Ok(loaded) => Ok(loaded.config),
        Err(LoadError::Refused(report)) => {
            eprint!("{}", report.render(false));
            Err(ExitCode::from(1))
        }
        Err(e) => {
            eprintln!("heartline: {e}");
            Err(ExitCode::from(2))
        }
    };
    let Some(file) = &args.file else {
        return ExitCode::from(2);
    };
    let (old, new) = match (load(&args.old), load(file)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let mut plan = plan(&old, &new);
    if !plan.stops.is_empty() {
        plan.owners = owners(client, &old.cluster);
    }
    if args.json {
        let _ = print_json(&plan);
    } else {
        print!("{}", text(&plan));
    }
    ExitCode::from(u8::from(!plan.possible))
}

/// What going from one configuration to another comes to.
#[must_use]
pub fn plan(old: &Config, new: &Config) -> Plan {
    let changes = diff(old, new);
    let refused = changes.iter().filter(|c| c.is_refused());
    let mut p = Plan {
        from: old.generation,
        to: new.generation,
        refused: refused.map(ToString::to_string).collect(),
        changes: changes
            .iter()
            .filter(|c| !c.is_refused())
            .map(ToString::to_string)
            .collect(),
        ..Plan::default()
    };
    if new.generation > old.generation + 1 {
        p.refused.push(format!(
            "refused: the generation jumps from {} to {}; one generation after the other",
            old.generation, new.generation
        ));
    }
    p.possible = p.refused.is_empty();
    let members = member_steps(&old.nodes, &new.nodes);
    if !p.possible {
        // The same goal, one file after the other.
        if members.len() > 1 {
            for (step, generation) in members.iter().zip(old.generation + 1..) {
                p.steps.push(format!(
                    "a file with generation = {generation} in which {step}; `heartline plan` it"
                ));
            }
        }
        return p;
    }
    if changes.is_empty() {
        return p;
    }
    p.stops = stops(old, new);
    let wait = show_ns(new.timing.max_promise_ns);
    for c in &members {
        if let Change::MemberAdded { name, .. } = c {
            p.steps.push(format!(
                "on {name}: install Heartline, copy the key and the new file, `systemctl enable --now heartline`, wait {wait}"
            ));
        }
    }
    let stay: Vec<_> = new
        .nodes
        .iter()
        .filter(|n| old.nodes.iter().any(|o| o.id == n.id))
        .map(|n| n.name.as_str())
        .collect();
    let stay = stay.join(", ");
    p.steps
        .push(format!("copy the new file to {stay} (same path)"));
    if p.stops.is_empty() || new.generation > old.generation {
        let yes = if p.stops.is_empty() { "" } else { " --yes" };
        p.steps.push(format!(
            "`heartline check` and `heartline reload{yes}` on {stay}, in any order"
        ));
    } else {
        p.steps.push(format!(
            "`heartline check` and `heartline reload --yes` on {stay}; on the owner of what stops last"
        ));
    }
    if new.generation > old.generation {
        p.steps.push(format!(
            "`heartline status` shows what the change waits for, until all are in generation {}",
            new.generation
        ));
        p.notes.push(format!(
            "until the last node has reloaded everything goes on in generation {}",
            old.generation
        ));
        p.notes.push(format!(
            "{wait} pass between two generations at least: older promises must run out"
        ));
        p.notes.push(format!(
            "{} of {} voters are a majority then (now {} of {})",
            new.majority(),
            new.nodes.len(),
            old.majority(),
            old.nodes.len()
        ));
    }
    let usual = 5_000_000;
    for c in &members {
        if let Change::MemberRemoved { name, .. } = c {
            p.steps.push(format!(
                "on {name}, when the others have entered it: `systemctl disable --now heartline`"
            ));
            p.notes.push(format!(
                "what {name} owns is handed over first, by planned moves (about a round trip each)"
            ));
        }
    }
    let named = |id: u8| {
        let of = |c: &Config| c.groups.iter().find(|g| g.id == id).map(|g| g.name.clone());
        of(new).or_else(|| of(old)).unwrap_or_default()
    };
    let mut paused: Vec<u8> = Vec::new();
    for (address, from, to) in moved_vips(old, new) {
        for id in [from, to] {
            if !paused.contains(&id) {
                paused.push(id);
                p.pauses.push(Pause {
                    group: named(id),
                    why: format!("VIP {address} goes from {} to {}", named(from), named(to)),
                    usual_ns: usual,
                    worst_ns: new.timing.takeover_ns + usual,
                });
            }
        }
    }
    p
}

/// Who owns what now, if an agent of this cluster is here to say so.
fn owners(client: &Client, cluster: &str) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return BTreeMap::new();
    };
    let status: Result<StatusReport, _> = runtime.block_on(client.call(Request::Status));
    let of = |s: StatusReport| {
        let groups = s.groups.into_iter();
        groups.filter_map(|g| Some((g.name, g.owner?))).collect()
    };
    match status {
        Ok(status) if status.cluster == cluster => of(status),
        Ok(_) | Err(_) => BTreeMap::new(),
    }
}

/// The plan for people.
fn text(p: &Plan) -> String {
    let mut out = String::new();
    let mut part = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = writeln!(out, "{title}");
        }
        for (i, line) in lines.iter().enumerate() {
            let _ = if title == "steps:" {
                writeln!(out, "  {}. {line}", i + 1)
            } else {
                writeln!(out, "  {line}")
            };
        }
    };
    if p.possible && p.changes.is_empty() {
        return "nothing differs\n".into();
    }
    part("not on a running cluster:", &p.refused);
    part("what changes:", &p.changes);
    part("steps:", &p.steps);
    let pauses: Vec<String> = p
        .pauses
        .iter()
        .map(|x| {
            format!(
                "{}: some milliseconds; up to {} if its owner is frozen or cut off ({})",
                x.group,
                show_ns(x.worst_ns),
                x.why
            )
        })
        .collect();
    part("without owner for a moment:", &pauses);
    let stops = p.stops.iter().map(|s| {
        let owner = p.owners.get(&s.group);
        s.sentence(owner.map(String::as_str))
    });
    part("stops for good:", &stops.collect::<Vec<_>>());
    if p.possible && p.pauses.is_empty() && p.stops.is_empty() {
        part(
            "outage:",
            &["none, as long as a majority stays well".to_owned()],
        );
    }
    part("to know:", &p.notes);
    out
}
