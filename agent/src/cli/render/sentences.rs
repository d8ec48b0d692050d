//! Answers that are a sentence or a few.

use std::time::Duration;

use super::{Style, Symbol, Tone, clean, lines, span, span_ns};
use crate::control::proto::{Done, ExplainReport, MoveReply, Pong, ReloadReply};

/// The answer to `explain`.
pub fn explain(report: &ExplainReport, style: &Style) -> String {
    let mut text = style.table();
    for (row, sentence) in report.why.iter().enumerate() {
        text.add_row([style.cell(
            clean(sentence),
            if row == 0 { Tone::Strong } else { Tone::Plain },
        )]);
    }
    let mut text = lines(&text);
    if report.elsewhere.is_empty() {
        return text;
    }
    text.push_str("\nWhy not elsewhere:\n");
    let mut table = style.table();
    for node in &report.elsewhere {
        let (symbol, tone) = if node.could {
            (Symbol::Full, Tone::Good)
        } else {
            (Symbol::Empty, Tone::Warn)
        };
        let name = format!("{} {}", style.symbol(symbol), clean(&node.node));
        table.add_row([
            style.cell(name, tone),
            style.cell(clean(&node.reason), Tone::Plain),
        ]);
    }
    text.push_str(&lines(&table));
    if !report.scores.is_empty() {
        text.push_str("\nPlacement (what counts first stands first):\n");
        text.push_str(&scores(report, style));
    }
    text
}

fn scores(report: &ExplainReport, style: &Style) -> String {
    let mut table = style.table();
    let head = [
        "NODE",
        "CAN",
        "CANNOT FOLLOW",
        "KEPT FROM",
        "PREFERENCE",
        "GROUPS",
    ];
    table.set_header(head.map(|name| style.cell(name, Tone::Dim)));
    for s in &report.scores {
        let name = if s.target {
            format!("{} {}", style.symbol(Symbol::Arrow), clean(&s.node))
        } else {
            format!("  {}", clean(&s.node))
        };
        let (can, tone) = match &s.excluded {
            None => ("yes".to_owned(), Tone::Good),
            Some(why) => (format!("no: {}", clean(why)), Tone::Warn),
        };
        let place = match s.preference {
            0 => "-".to_owned(),
            n => n.to_string(),
        };
        table.add_row([
            style.cell(name, Tone::Strong),
            style.cell(can, tone),
            style.cell(s.unable.to_string(), Tone::Plain),
            style.cell(s.apart.to_string(), Tone::Plain),
            style.cell(place, Tone::Plain),
            style.cell(s.load.to_string(), Tone::Plain),
        ]);
    }
    lines(&table)
}

/// The answer to `move`.
pub fn moved(reply: &MoveReply, style: &Style) -> String {
    let (group, to) = (clean(&reply.group), clean(&reply.to));
    if !reply.done {
        return format!("{group} is to move to {to}: accepted\n");
    }
    let from = match reply.from.as_deref() {
        Some(from) if from == reply.to => return format!("{group} is on {to} already\n"),
        Some(from) => format!("from {} ", clean(from)),
        None => String::new(),
    };
    let took = reply
        .took_ns
        .map_or(String::new(), |ns| format!(" in {}", span_ns(ns)));
    let mut text = style.paint(&format!("{group} moved {from}to {to}{took}\n"), Tone::Good);
    if let Some(takeover) = &reply.takeover {
        text.push_str(&format!(
            "  {}\n",
            super::events::split_text(&takeover.split)
        ));
    }
    text
}

/// The answer to what is done at once.
pub fn done(done: &Done, _: &Style) -> String {
    let mut text = clean(&done.text);
    if !done.moving.is_empty() {
        text.push_str(&format!(" (moving: {})", clean(&done.moving.join(", "))));
    }
    text.push('\n');
    text
}

/// The answer to `reload`.
pub fn reloaded(reply: &ReloadReply, style: &Style) -> String {
    let mut text = match reply.changed.as_slice() {
        _ if reply.entering.is_some() => format!(
            "generation {} is staged, and entered as soon as all nodes are ready:\n",
            reply.entering.unwrap_or_default()
        ),
        [] => format!(
            "reloaded, generation {}: nothing changed\n",
            reply.generation
        ),
        _ => format!("reloaded, generation {}:\n", reply.generation),
    };
    for change in &reply.changed {
        text.push_str(&format!("  {}\n", clean(change)));
    }
    for change in &reply.needs_restart {
        text.push_str(&style.paint(
            &format!("  {}: only after `heartline restart`\n", clean(change)),
            Tone::Warn,
        ));
    }
    text
}

/// The end of a `restart`.
pub fn restarted(before: &Pong, now: &Pong, took: Duration, style: &Style) -> String {
    let (old, new) = (clean(&before.agent_version), clean(&now.agent_version));
    let version = if old == new {
        new
    } else {
        format!("{old} {} {new}", style.symbol(Symbol::Arrow))
    };
    style.paint(
        &format!(
            "the agent on {} restarted in {} ({version})\n",
            clean(&now.node),
            span(took)
        ),
        Tone::Good,
    )
}
