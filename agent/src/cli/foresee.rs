//! `heartline plan --node-down NODE`: what would move, where, why, and for how long nobody would serve.

use std::fmt::Write as _;

use super::output::{Failure, answer, as_failure};
use crate::config::show_ns;
use crate::control::Client;
use crate::control::proto::{NodeDown, Request};

/// Asks and prints.
pub(super) async fn run(node: &str, json: bool, client: Client) -> Result<(), Failure> {
    let request = Request::NodeDown { node: node.into() };
    let report: NodeDown = client.call(request).await.map_err(as_failure(json))?;
    answer(json, &report, |report, _| text(report))
}

fn text(r: &NodeDown) -> String {
    let mut out = format!(
        "without {}: {} voters are left, {} are needed\n",
        r.node, r.voters_left, r.voters_needed
    );
    if !r.quorum {
        out += "that is no majority: nothing runs anywhere until one is back\n";
    }
    if r.groups.is_empty() {
        out += "nothing moves\n";
    }
    for g in &r.groups {
        let to = g.to.as_deref().unwrap_or("nowhere");
        let _ = writeln!(out, "{}: from {} to {to}: {}", g.group, g.from, g.why);
        match g.outage_ns {
            None => out += "  nobody serves it\n",
            Some(ns) => {
                let _ = writeln!(
                    out,
                    "  addresses: without owner for up to about {}",
                    show_ns(ns)
                );
                if g.starts > 0 {
                    let _ = writeln!(
                        out,
                        "  services start there, on top of that: {}",
                        resources(g.starts)
                    );
                }
                if g.runs_there > 0 {
                    let _ = writeln!(out, "  runs there already: {}", resources(g.runs_there));
                }
                if g.waits_for_word {
                    let _ = writeln!(
                        out,
                        "  if {} falls silent: not started until `heartline clear {} --stopped-elsewhere`",
                        g.from, g.group
                    );
                }
            }
        }
    }
    out
}

fn resources(n: u32) -> String {
    if n == 1 {
        "1 resource".into()
    } else {
        format!("{n} resources")
    }
}
