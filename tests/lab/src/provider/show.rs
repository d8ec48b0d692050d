//! The demo on paper: one block per fault, one line per service.

use super::{
    Record,
    fault::{Fault, Row, Step},
};
use crate::paint::Paint;

/// What this is.
#[must_use]
pub fn header(paint: Paint) -> String {
    format!(
        "\n{}\n{}\n",
        paint.bold("Heartline under a provider's services: DNS, RADIUS, web and SIP on three Debian machines"),
        paint.dim(format!(
            "unbound, freeradius, nginx (hot standby), kamailio (started by whoever takes over) and heartline.service\n\
             under systemd, each service with a probe: {}.\n\
             DNS, RADIUS, SIP: a request every 10 ms; web: a new connection every 20 ms, and one kept open.",
            machine()
        )),
    )
}

/// Kernel and processors.
#[must_use]
pub fn machine() -> String {
    let kernel =
        nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {cpus} processors", kernel.unwrap_or_default())
}

/// What the numbers are.
#[must_use]
pub fn columns(paint: Paint) -> String {
    paint.bold(format!(
        "{:<22}{:<9}{:>10}{:>8}{:>8}   {:<36}{}\n",
        "", "", "outage ms", "asked", "lost", "open connection, new ones; own times", "to reach"
    ))
}

/// A fault.
#[must_use]
pub fn step(step: &Step, paint: Paint) -> String {
    let mut text = String::new();
    for (number, row) in step.rows.iter().enumerate() {
        let left = match number {
            0 => paint.bold(format!("{:<22}", step.fault.title())),
            1 => paint.dim(format!(
                "{:<22}",
                format!("  {} -> {}", step.node, owners(step))
            )),
            2 => paint.dim(format!("{:<22}", format!("  {:.0} s", step.took_s))),
            _ => format!("{:<22}", ""),
        };
        text += &left;
        text += &line(step.fault, row, paint);
    }
    if step.fault.planned() && step.rows.iter().any(|row| row.felt.lost > 0) {
        text += &paint.dim(format!("{:<22}dropped by the gates: {}\n", "", gates(step)));
    }
    text
}

fn gates(step: &Step) -> String {
    let gates = step.gates.iter().map(|gate| {
        format!(
            "{} {} in, {} out",
            gate.node, gate.dropped_in, gate.dropped_out
        )
    });
    gates.collect::<Vec<_>>().join("; ")
}

fn owners(step: &Step) -> String {
    let mut owners = step.owners.clone();
    owners.dedup();
    owners.join(", ")
}

fn line(fault: Fault, row: &Row, paint: Paint) -> String {
    let felt = &row.felt;
    let tcp = felt.web.as_ref().map_or_else(String::new, |tcp| {
        let mut parts = vec![format!(
            "{} reset, {:.0} ms",
            tcp.resets + tcp.hung,
            tcp.kept_outage_ms
        )];
        parts.push(format!("{} refused", tcp.refused));
        if tcp.slow > 0 {
            parts.push(format!("{} slow", tcp.slow));
        }
        parts.join("; ")
    });
    let notes = if tcp.is_empty() { own(fault, row) } else { tcp };
    let mark = match (row.target.is_empty(), row.held) {
        (true, _) => String::new(),
        (false, true) => paint.good(format!("{}  ok", row.target)),
        (false, false) => paint.bad(format!("{}  MISSED", row.target)),
    };
    // A client that stood still itself measures too much.
    let noise = if felt.stall_ms > 40.0 {
        paint.warn(format!(
            "  (the client itself stood still for {:.0} ms)",
            felt.stall_ms
        ))
    } else {
        String::new()
    };
    format!(
        "{:<9}{:>10.1}{:>8}{:>8}   {notes:<36}{mark}{noise}\n",
        format!("{:?}", row.service).to_lowercase(),
        felt.outage_ms,
        felt.asked,
        felt.lost
    )
}

/// What the unit itself took, where that is part of the outage.
fn own(fault: Fault, row: &Row) -> String {
    let killed = match fault {
        Fault::KillUnit | Fault::UnitDies | Fault::ProbeFails => true,
        Fault::Cut
        | Fault::Freeze
        | Fault::KillAgent
        | Fault::Move
        | Fault::Reboot
        | Fault::Maintenance => false,
    };
    if row.service.hot_standby() && !killed {
        // At boot, if at all.
        return String::new();
    }
    let mut parts = Vec::new();
    if row.own.stop_ms > 0.0 && !row.service.hot_standby() {
        parts.push(format!("stop {:.0}", row.own.stop_ms));
    }
    if row.own.start_ms > 0.0 {
        parts.push(format!("start {:.0} ms", row.own.start_ms));
    }
    parts.join(" + ")
}

/// The end.
#[must_use]
pub fn verdict(record: &Record, paint: Paint) -> String {
    let missed = record
        .steps
        .iter()
        .flat_map(|step| &step.rows)
        .filter(|row| !row.held)
        .count();
    if record.held {
        format!("\n{}\n", paint.good("every target was reached"))
    } else {
        format!(
            "\n{}\n",
            paint.bad(format!("{missed} targets were missed: see above"))
        )
    }
}
