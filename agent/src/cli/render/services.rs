//! `status` for people: what stands behind the groups.

use super::{Style, Tone, clean, lines};
use crate::control::proto::{GroupStatus, ServicesStatus, StatusReport};

/// The phase of a group's services, for the table of groups; empty if all is as it should be.
pub fn phase(group: &GroupStatus) -> Option<(String, Tone)> {
    let s = group.services.as_ref()?;
    group.owner.as_ref()?;
    let tone = match s.phase.as_str() {
        "running" => return None,
        "starting" | "stopping" | "blocked" | "idle" => Tone::Warn,
        _ => Tone::Bad,
    };
    Some((format!("services {}", clean(&s.phase)), tone))
}

/// The table of services on this node.
pub fn services(report: &StatusReport, style: &Style) -> String {
    let mut table = style.table();
    table.set_header(["SERVICE", "HERE", ""].map(|name| style.cell(name, Tone::Dim)));
    for group in &report.groups {
        if let Some(s) = &group.services {
            rows(group, s, style, &mut table);
        }
    }
    if table.is_empty() {
        String::new()
    } else {
        lines(&table)
    }
}

fn rows(group: &GroupStatus, s: &ServicesStatus, style: &Style, table: &mut comfy_table::Table) {
    for r in &s.resources {
        let tone = match r.state.as_str() {
            "running" => Tone::Good,
            "failed" => Tone::Bad,
            "unknown" => Tone::Warn,
            _ => Tone::Plain,
        };
        let state = if r.state.is_empty() {
            "not asked yet"
        } else {
            &r.state
        };
        table.add_row([
            style.cell(clean(&r.name), Tone::Strong),
            style.cell(clean(state), tone),
            style.cell(clean(&r.text), tone),
        ]);
    }
    for p in s.probes.iter().filter(|p| !p.standing.is_empty()) {
        let tone = match p.standing.as_str() {
            "good" => Tone::Good,
            "bad" => Tone::Bad,
            _ => Tone::Warn,
        };
        table.add_row([
            style.cell(
                format!("{}?{}", clean(&group.name), clean(&p.name)),
                Tone::Strong,
            ),
            style.cell(clean(&p.standing), tone),
            style.cell(clean(&p.text), Tone::Plain),
        ]);
    }
    if !s.text.is_empty() {
        let tone = if s.given_up { Tone::Bad } else { Tone::Warn };
        table.add_row([
            style.cell(clean(&group.name), Tone::Strong),
            style.cell(clean(&s.phase_here), tone),
            style.cell(clean(&s.text), tone),
        ]);
    }
}
