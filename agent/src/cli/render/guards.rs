//! `status` for people: this machine's watchdog, and what fences others.

use super::{Style, Tone, clean, lines, span_ms};
use crate::control::proto::{
    FenceStanding, FenceStatus, StatusReport, WatchdogState, WatchdogStatus,
};

/// The watchdog, and the fence devices.
pub fn guards(report: &StatusReport, style: &Style) -> String {
    let mut table = style.table();
    if report.watchdog.is_some() || !report.fences.is_empty() {
        table.set_header(["GUARD", "ENDS", "STATE", ""].map(|name| style.cell(name, Tone::Dim)));
    }
    if let Some(dog) = &report.watchdog {
        let tone = match dog.state {
            WatchdogState::Armed => Tone::Good,
            WatchdogState::Off | WatchdogState::Unknown => Tone::Plain,
            WatchdogState::Arming | WatchdogState::Disarming | WatchdogState::Left => Tone::Warn,
            WatchdogState::Starving | WatchdogState::Failed => Tone::Bad,
        };
        table.add_row([
            style.cell(clean(&dog.device), Tone::Strong),
            style.cell("this node", Tone::Plain),
            style.cell(dog.state.name(), tone),
            style.cell(about(dog), tone),
        ]);
    }
    for fence in &report.fences {
        let tone = match fence.state {
            FenceStanding::Good => Tone::Good,
            FenceStanding::Failing => Tone::Bad,
            FenceStanding::NotAsked | FenceStanding::Unknown => Tone::Plain,
        };
        table.add_row([
            style.cell(clean(&fence.name), Tone::Strong),
            style.cell(clean(&fence.node), Tone::Plain),
            style.cell(fence.state.name(), tone),
            style.cell(asked(fence), tone),
        ]);
    }
    if table.is_empty() {
        String::new()
    } else {
        lines(&table)
    }
}

fn about(dog: &WatchdogStatus) -> String {
    let mut parts = vec![span_ms(dog.timeout_ms)];
    if !dog.identity.is_empty() {
        parts.push(clean(&dog.identity));
    }
    if let Some(ms) = dog.reset_in_ms {
        parts.push(format!("resets this machine in {}", span_ms(ms)));
    }
    if !dog.at_stake.is_empty() {
        let names: Vec<_> = dog.at_stake.iter().map(|name| clean(name)).collect();
        parts.push(format!("for {}", names.join(" ")));
    }
    if dog.no_way_out {
        parts.push("cannot be disarmed".into());
    }
    parts.extend(dog.error.as_deref().map(clean));
    parts.join(", ")
}

fn asked(fence: &FenceStatus) -> String {
    let mut text = match fence.age_ms {
        Some(ms) => format!("{} ago, took {}", span_ms(ms), span_ms(fence.took_ms)),
        None => String::new(),
    };
    if !fence.text.is_empty() {
        text.push_str(&format!(": {}", clean(&fence.text)));
    }
    text
}
