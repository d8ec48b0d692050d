//! `status` for people: what is wrong first, then the node, the groups, the others, the devices.

use std::time::Duration;

use super::guards::guards;
use super::services::{phase, services};
use super::{Style, Symbol, Tone, clean, events::split_text, lines, span_ms, span_ns};
use crate::control::proto::{
    DatapathMode, DeviceStatus, EgressMode, GroupStatus, Level, NodeState, NodeStatus, Role,
    StatusReport, Takeover, TakeoverReason, VipStatus,
};

/// Addresses of a group that are shown, unless something is wrong with one or all are asked for.
const VIPS_SHOWN: usize = 4;
/// The same where there are more groups than fit on a screen.
const VIPS_SHOWN_OF_MANY: usize = 1;
/// Groups that fit on a screen; so many last takeovers are shown, too.
const FEW_GROUPS: usize = 16;

/// The whole report. `verbose` adds the counters, and what a big cluster has too much of.
pub fn status(report: &StatusReport, verbose: bool, style: &Style) -> String {
    let mut parts = vec![
        headline(report, style),
        warnings(report, style),
        summary(report, style),
        groups(report, verbose, style),
        services(report, style),
        guards(report, style),
        takeovers(report, verbose, style),
        nodes(report, style),
        devices(report, style),
    ];
    if verbose {
        parts.push(counters(report, style));
    }
    parts.push(notes(report, style));
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn headline(report: &StatusReport, style: &Style) -> String {
    let this = report.nodes.iter().find(|node| node.state == NodeState::Me);
    let role = match this.map(|node| node.role) {
        Some(Role::Witness) => " (witness)",
        _ => "",
    };
    let name = style.paint(
        &format!(
            "{}{role} in {}",
            clean(&report.node),
            clean(&report.cluster)
        ),
        Tone::Strong,
    );
    let mut text = format!(
        "{name}, generation {}, up {}, agent {} (wire {})",
        report.generation,
        span_ms(report.uptime_ms),
        clean(&report.agent_version),
        report.wire_version
    );
    if let Some(change) = &report.change {
        text.push_str(&style.paint(
            &format!(", changing to generation {}", change.to),
            Tone::Warn,
        ));
    }
    if report.paused {
        text.push_str(&style.paint(", PAUSED", Tone::Warn));
    }
    text.push('\n');
    text
}

fn warnings(report: &StatusReport, style: &Style) -> String {
    let mut wrong: Vec<_> = report
        .warnings
        .iter()
        .filter(|warning| warning.level > Level::Note)
        .collect();
    wrong.sort_by_key(|warning| std::cmp::Reverse(warning.level));
    if wrong.is_empty() {
        return String::new();
    }
    let mut table = style.table();
    for warning in wrong {
        let (name, tone) = match warning.level {
            Level::Error => ("error", Tone::Bad),
            Level::Warning | Level::Note => ("warning", Tone::Warn),
        };
        let mut text = clean(&warning.text);
        if let Some(help) = &warning.help {
            text.push_str(&format!("\nmend: {}", clean(help)));
        }
        table.add_row([style.cell(name, tone), style.cell(text, Tone::Plain)]);
    }
    lines(&table)
}

fn summary(report: &StatusReport, style: &Style) -> String {
    let quorum = &report.quorum;
    let has_quorum = quorum.reachable >= quorum.needed;
    let voting = match (
        report.voting.active,
        report.voting.waits_ms,
        &report.voting.reason,
    ) {
        (true, _, _) => "this node votes".to_owned(),
        (false, Some(ms), _) => format!("this node votes in {}", span_ms(ms)),
        (false, None, Some(reason)) => format!("this node does not vote: {}", clean(reason)),
        (false, None, None) => "this node does not vote".to_owned(),
    };
    let voting_tone = if report.voting.active {
        Tone::Good
    } else {
        Tone::Warn
    };
    let owns = report.groups.iter().any(|group| group.owned_here);
    let (lease, lease_tone) = match (report.lease.holds, report.lease.until_ns_remaining) {
        (true, Some(ns)) => (format!("holds, {} left", span_ns(ns)), Tone::Good),
        (true, None) => ("holds".to_owned(), Tone::Good),
        (false, _) if owns => ("lapsed: the kernel lets nothing pass".to_owned(), Tone::Bad),
        (false, _) => ("none needed: owns no group".to_owned(), Tone::Plain),
    };
    let timing = &report.timing;
    let times = format!(
        "{}: heartbeat {}, lease {}, takeover {}",
        clean(&timing.profile),
        span_ns(timing.heartbeat_ns),
        span_ns(timing.lease_ns),
        span_ns(timing.takeover_ns)
    );
    let rt = &report.rt;
    let realtime = rt.policy == "fifo" && rt.memory_locked;
    let rights = format!(
        "{}, memory {}, latest {} late",
        if rt.policy == "fifo" {
            format!("SCHED_FIFO {}", rt.priority)
        } else {
            "no real-time rights".to_owned()
        },
        if rt.memory_locked {
            "locked"
        } else {
            "not locked"
        },
        super::span(Duration::from_micros(rt.max_loop_late_us))
    );
    let mut table = style.table();
    let needed = format!(
        "{} of {} voters answer, {} needed",
        quorum.reachable, quorum.voters, quorum.needed
    );
    for (name, text, tone) in [
        (
            "quorum",
            needed,
            if has_quorum { Tone::Good } else { Tone::Bad },
        ),
        ("vote", voting, voting_tone),
        ("lease", lease, lease_tone),
        ("times", times, Tone::Plain),
        (
            "thread",
            rights,
            if realtime { Tone::Plain } else { Tone::Warn },
        ),
    ] {
        table.add_row([style.cell(name, Tone::Dim), style.cell(text, tone)]);
    }
    lines(&table)
}

fn groups(report: &StatusReport, verbose: bool, style: &Style) -> String {
    if report.groups.is_empty() {
        return String::new();
    }
    let mut table = style.table();
    table.set_header(
        ["GROUP", "OWNER", "STATE", "ADDRESSES", "SINCE"].map(|name| style.cell(name, Tone::Dim)),
    );
    for group in &report.groups {
        let (symbol, state, tone) = group_state(report, group, style);
        let owner = match group.owner.as_deref() {
            Some(owner) => format!("{} {}", style.symbol(symbol), clean(owner)),
            None => format!("{} nobody", style.symbol(symbol)),
        };
        let since = group.since_boot_ns.filter(|_| group.owner.is_some());
        let since = since.map_or(String::new(), |since| {
            span_ns(report.boot_ns.saturating_sub(since))
        });
        let most = match report.groups.len() {
            _ if verbose => usize::MAX,
            0..=FEW_GROUPS => VIPS_SHOWN,
            _ => VIPS_SHOWN_OF_MANY,
        };
        let vips = vip_texts(group, most);
        let vips_bad = group.owned_here
            && group
                .vips
                .iter()
                .any(|vip| !vip.present || vip.error.is_some());
        table.add_row([
            style.cell(clean(&group.name), Tone::Strong),
            style.cell(owner, tone),
            style.cell(state, tone),
            style.cell(
                vips.join("\n"),
                if vips_bad { Tone::Bad } else { Tone::Plain },
            ),
            style.cell(since, Tone::Plain),
        ]);
    }
    lines(&table)
}

fn group_state(
    report: &StatusReport,
    group: &GroupStatus,
    style: &Style,
) -> (Symbol, String, Tone) {
    let (symbol, mut state, tone) = match (group.owner.is_some(), group.owned_here) {
        (false, _) => (Symbol::Empty, "down".to_owned(), Tone::Bad),
        (true, true) if !group.gate_open => (Symbol::Half, "gate shut".to_owned(), Tone::Bad),
        (true, true) if !report.lease.holds => (Symbol::Half, "no lease".to_owned(), Tone::Bad),
        (true, true) => (Symbol::Full, "here, gate open".to_owned(), Tone::Good),
        (true, false) => (Symbol::Full, "there".to_owned(), Tone::Plain),
    };
    if let Some(desired) = group.desired.as_deref()
        && group.owner.as_deref() != Some(desired)
    {
        state.push_str(&format!(
            " {} {}",
            style.symbol(Symbol::Arrow),
            clean(desired)
        ));
    }
    let mut tone = tone;
    if let Some((text, worse)) = phase(group) {
        state.push_str(&format!(", {text}"));
        tone = worse;
    }
    (symbol, state, tone)
}

/// At most so many addresses, those with a fault first; the rest is counted.
fn vip_texts(group: &GroupStatus, most: usize) -> Vec<String> {
    let mut vips: Vec<_> = group.vips.iter().collect();
    if vips.len() > most {
        vips.sort_by_key(|vip| vip.error.is_none() && vip.present == group.owned_here);
    }
    let rest = vips.len().saturating_sub(most);
    // One more line says no less than "and 1 more".
    let most = if rest == 1 { vips.len() } else { most };
    let mut texts: Vec<_> = vips
        .iter()
        .take(most)
        .map(|vip| vip_text(group, vip))
        .collect();
    if rest > 1 {
        texts.push(format!("and {rest} more (--verbose)"));
    }
    texts
}

fn vip_text(group: &GroupStatus, vip: &VipStatus) -> String {
    let mut text = format!("{} {}", clean(&vip.address), clean(&vip.device));
    match &vip.error {
        Some(error) => text.push_str(&format!(": {}", clean(error))),
        None if group.owned_here && !vip.present => text.push_str(": missing"),
        None if !group.owned_here && vip.present => text.push_str(": left over"),
        None => {}
    }
    text
}

fn takeovers(report: &StatusReport, verbose: bool, style: &Style) -> String {
    let mut table = style.table();
    let with = |group: &'_ GroupStatus| group.last_takeover.is_some();
    let mut shown: Vec<_> = report.groups.iter().filter(|group| with(group)).collect();
    let mut rest = 0;
    if !verbose && shown.len() > FEW_GROUPS {
        shown.sort_by_key(|group| {
            let at = group.last_takeover.as_ref().map(|t| t.at_boot_ns);
            std::cmp::Reverse(at)
        });
        rest = shown.len() - FEW_GROUPS;
        shown.truncate(FEW_GROUPS);
    }
    for group in shown {
        let Some(takeover) = &group.last_takeover else {
            continue;
        };
        let ago = span_ns(report.boot_ns.saturating_sub(takeover.at_boot_ns));
        let text = format!(
            "{} ago: {}\n{}",
            ago,
            reason(takeover),
            split_text(&takeover.split)
        );
        table.add_row([
            style.cell(clean(&group.name), Tone::Strong),
            style.cell(text, Tone::Plain),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    if rest > 0 {
        let text = format!("and {rest} groups more, longer ago (--verbose)");
        table.add_row([style.cell("", Tone::Dim), style.cell(text, Tone::Dim)]);
    }
    format!(
        "{}\n{}",
        style.paint("LAST TAKEOVERS BY THIS NODE", Tone::Dim),
        lines(&table)
    )
}

fn reason(takeover: &Takeover) -> String {
    match (takeover.reason, takeover.from.as_deref()) {
        (TakeoverReason::OwnerLost, Some(from)) => format!("owner {} lost", clean(from)),
        (TakeoverReason::Move, Some(from)) => format!("moved from {}", clean(from)),
        (reason, _) => reason.name().to_owned(),
    }
}

fn nodes(report: &StatusReport, style: &Style) -> String {
    if report.nodes.is_empty() {
        return String::new();
    }
    let mut table = style.table();
    table.set_header(
        ["NODE", "STATE", "HEARD", "LINKS", ""].map(|name| style.cell(name, Tone::Dim)),
    );
    for node in &report.nodes {
        let (symbol, tone) = match node.state {
            NodeState::Me | NodeState::Alive => (Symbol::Full, Tone::Good),
            NodeState::Late => (Symbol::Half, Tone::Warn),
            NodeState::Silent => (Symbol::Empty, Tone::Bad),
            NodeState::NeverSeen | NodeState::Unknown => (Symbol::Empty, Tone::Dim),
        };
        let state = match node.state {
            NodeState::Me => "this node",
            NodeState::Late => "late: agent silent",
            state => state.name(),
        };
        let ago = |ms: Option<u64>| ms.map_or("never".to_owned(), span_ms);
        let heard = if node.state == NodeState::Me {
            String::new()
        } else {
            ago(node.last_heard_ms)
        };
        let links: Vec<_> = node
            .links
            .iter()
            .map(|link| match node.state {
                // A node does not hear itself.
                NodeState::Me => format!("{} {}", clean(&link.device), clean(&link.address)),
                _ => format!("{} {}", clean(&link.device), ago(link.last_heard_ms)),
            })
            .collect();
        table.add_row([
            style.cell(
                format!("{} {}", style.symbol(symbol), clean(&node.name)),
                tone,
            ),
            style.cell(state, tone),
            style.cell(heard, Tone::Plain),
            style.cell(links.join("\n"), Tone::Plain),
            style.cell(node_notes(report, node), Tone::Warn),
        ]);
    }
    lines(&table)
}

fn node_notes(report: &StatusReport, node: &NodeStatus) -> String {
    let mut notes = Vec::new();
    if node.role == Role::Witness {
        notes.push("witness".to_owned());
    }
    if node.drained {
        notes.push("drained".to_owned());
    }
    if let Some(generation) = node
        .generation
        .filter(|generation| *generation != report.generation)
    {
        notes.push(format!("generation {generation}"));
    }
    match &node.config_mismatch {
        Some(text) => notes.push(format!("other config: {}", clean(text))),
        None if node.digest_match == Some(false) => notes.push("other config".to_owned()),
        None => {}
    }
    notes.join(", ")
}

fn devices(report: &StatusReport, style: &Style) -> String {
    if report.datapath.is_empty() && report.uncovered_devices.is_empty() {
        return String::new();
    }
    let mut table = style.table();
    table.set_header(
        ["DEVICE", "INGRESS", "EGRESS", "USE", ""].map(|name| style.cell(name, Tone::Dim)),
    );
    for device in &report.datapath {
        let whole = device.mode != DatapathMode::None
            && device.egress != EgressMode::None
            && device.error.is_none();
        let usage = if device.link {
            "heartbeats, gate"
        } else {
            "gate"
        };
        table.add_row([
            style.cell(clean(&device.name), Tone::Strong),
            style.cell(ingress(device), if whole { Tone::Good } else { Tone::Bad }),
            style.cell(egress(device), if whole { Tone::Good } else { Tone::Bad }),
            style.cell(usage, Tone::Plain),
            style.cell(
                device.error.as_deref().map(clean).unwrap_or_default(),
                Tone::Bad,
            ),
        ]);
    }
    for name in &report.uncovered_devices {
        let cells = [
            clean(name),
            "none".into(),
            "none".into(),
            String::new(),
            "NO GATE".into(),
        ];
        table.add_row(cells.map(|text| style.cell(text, Tone::Bad)));
    }
    lines(&table)
}

fn ingress(device: &DeviceStatus) -> String {
    let mode = match device.mode {
        DatapathMode::Native => "native XDP",
        DatapathMode::Generic => "generic XDP",
        DatapathMode::Socket => "sockets, nftables",
        DatapathMode::None => "none",
        DatapathMode::Unknown => "unknown",
    };
    match device.xdp_prog_id {
        Some(id) => format!("{mode} (prog {id})"),
        None => mode.to_owned(),
    }
}

fn egress(device: &DeviceStatus) -> &'static str {
    match device.egress {
        EgressMode::Tcx => "tcx",
        EgressMode::Clsact => "clsact",
        EgressMode::Nft => "nftables",
        EgressMode::None => "none",
        EgressMode::Unknown => "unknown",
    }
}

fn counters(report: &StatusReport, style: &Style) -> String {
    let mut table = style.table();
    table.set_header(["COUNTER", "VALUE"].map(|name| style.cell(name, Tone::Dim)));
    for (name, value) in &report.counters {
        table.add_row([
            style.cell(clean(name), Tone::Plain),
            style.cell(value.to_string(), Tone::Plain),
        ]);
    }
    if table.is_empty() {
        String::new()
    } else {
        lines(&table)
    }
}

fn notes(report: &StatusReport, style: &Style) -> String {
    let mut table = style.table();
    for note in report
        .warnings
        .iter()
        .filter(|warning| warning.level == Level::Note)
    {
        table.add_row([
            style.cell("note", Tone::Dim),
            style.cell(clean(&note.text), Tone::Dim),
        ]);
    }
    if table.is_empty() {
        String::new()
    } else {
        lines(&table)
    }
}
