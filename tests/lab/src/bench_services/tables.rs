//! The results for people: on the terminal, and as Markdown for the README.

use std::fmt::Write as _;

use super::{
    Fault, Setting,
    report::{Results, Row},
};
use crate::{bench::Spread, paint::Paint, provider::rig::Service};

const NOTES: &str = "\
Outage: the longest time between two good answers from the fault on, of all four services (DNS, RADIUS, SIP: a request
each 10 ms; web: a new connection each 20 ms; so 10 or 20 ms is nothing lost). Two owners: a station that no cut
touches asks each node's hardware address every 5 ms, until 1 s after the takeover. Mended: what clients lost while the
node came back.
All services run on all nodes (hot standby), and the first failure moves the VIP, whatever the system; systemd starts
nothing again by itself. Checks: Heartline's probes each 200 ms, two bad ones count; keepalived's scripts and
Pacemaker's monitors each second (keepalived takes no less), the first bad one counts. keepalived has real-time
priority. Pacemaker: clones of systemd units with an OCF check, IPaddr2 beside them, stonith-enabled=false.
A move is `heartline move`, a clean stop of keepalived, `crm_resource --move`.
";

/// The table.
pub(super) fn terminal(results: &Results, paint: Paint) -> String {
    let services = Service::ALL.map(Service::group);
    let mut text = format!(
        "\n{}\n{}\n",
        paint.bold("What a fault of the node with the services costs their clients, ms"),
        paint.dim(format!(
            "{:<18} {:<15} {:>4} {:>8} {:>8} {:>8} {:>8} {:>10} {:>8}   median of {}",
            "",
            "fault",
            "runs",
            "median",
            "p95",
            "max",
            "ratio",
            "two owners",
            "mended",
            services.map(|name| format!("{name:>7}")).join(" ")
        ))
    );
    let mut before = None;
    for row in &results.rows {
        if before.is_some_and(|before| before != row.setting) {
            text.push('\n');
        }
        before = Some(row.setting);
        text += &line(row, paint);
    }
    text += &paint.dim(NOTES);
    for failure in &results.failures {
        let _ = writeln!(
            text,
            "{} {}: {}",
            paint.bad("could not be measured:"),
            failure.what,
            failure.why
        );
    }
    let _ = writeln!(
        text,
        "\n{}; it took {:.1} min, of which the hypervisor took {:.0} ms",
        results.line(),
        results.seconds / 60.0,
        results.machine.steal_ms
    );
    text
}

fn line(row: &Row, paint: Paint) -> String {
    let Spread { median, p95, max } = row.outage_ms;
    let ratio = row
        .ratio
        .map_or(String::new(), |ratio| format!("x {ratio:.1}"));
    let dual = format!("{:>10.0}", row.dual_ms_max);
    let dual = if row.dual() {
        paint.bad(dual)
    } else if row.dual_ms_max > 0.0 {
        dual
    } else {
        paint.good(dual)
    };
    let services = Service::ALL.map(|service| {
        let spread = row.services.get(service.group());
        format!("{:>7.0}", spread.map_or(0.0, |spread| spread.median))
    });
    let mut text = format!(
        "{:<18} {:<15} {:>4} {median:>8.1} {p95:>8.1} {max:>8.1} {ratio:>8} {dual} {:>8.0}             {}",
        row.setting.label(),
        row.fault.name(),
        row.runs,
        row.mended_ms.max,
        services.join(" ")
    );
    let of = row.runs * Service::ALL.len();
    if row.not_taken > 0 {
        text += &paint.warn(format!(
            "  (no other node took over in {} of {of})",
            row.not_taken
        ));
    }
    if row.noisy > 0 {
        text += &paint.dim(format!("  (client stood still in {} of {of})", row.noisy));
    }
    text.push('\n');
    text
}

/// For the README.
pub(super) fn markdown(results: &Results) -> String {
    let faults: Vec<_> = Fault::ALL
        .into_iter()
        .filter(|fault| results.rows.iter().any(|row| row.fault == *fault))
        .collect();
    let mut text = format!(
        "Outage of a service's clients in ms, median / max (times Heartline's). {}.\n\n| |",
        results.line()
    );
    for fault in &faults {
        let _ = write!(text, " {} |", fault.name());
    }
    text += "\n| --- |";
    text += &" --- |".repeat(faults.len());
    text.push('\n');
    for setting in Setting::ALL {
        if !results.rows.iter().any(|row| row.setting == setting) {
            continue;
        }
        let _ = write!(text, "| {} |", setting.label());
        for fault in &faults {
            let cell = results.row(setting, *fault).map_or("-".to_owned(), cell);
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

fn cell(row: &Row) -> String {
    let Spread { median, max, .. } = row.outage_ms;
    let number = |ms: f64| format!("{ms:.0}");
    let figures = format!("{} / {}", number(median), number(max));
    match (row.dual(), row.ratio) {
        (true, _) => format!("**two owners**, {figures}"),
        (false, Some(ratio)) => format!("{figures} (x {ratio:.1})"),
        (false, None) => figures,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{ones, results},
        *,
    };

    #[test]
    fn tables_show_what_there_is() {
        let mut all = ones(Setting::Lan, Fault::Cut, [50.0; 4]);
        let mut dual = ones(Setting::Second, Fault::Freeze, [3000.0; 4]);
        dual.iter_mut().for_each(|one| {
            one.dual_ms = 900.0;
            one.taken_over = false;
        });
        all.extend(dual);
        all.extend(ones(Setting::Second, Fault::Cut, [3000.0; 4]));
        let all = results(all);
        let text = terminal(&all, Paint::plain());
        assert!(text.contains("Heartline lan      node cut off"), "{text}");
        assert!(text.contains("x 60.0"), "{text}");
        assert!(text.contains("no other node took over in 4 of 4"), "{text}");
        let text = markdown(&all);
        assert!(text.contains("| Heartline lan | 50 / 50 | - |"), "{text}");
        assert!(
            text.contains("| 3000 / 3000 (x 60.0) | **two owners**, 3000 / 3000 |"),
            "{text}"
        );
    }
}
