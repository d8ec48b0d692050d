//! The results for people: on the terminal, and as Markdown for the README.

use std::fmt::Write as _;

use super::{
    Fault, Setting,
    report::{Results, Row, Spread, label},
    targets::{self, Verdict},
};
use crate::paint::Paint;

const NOTES: &str = "\
Outage: how long a client went without an answer, from the fault until it was served for 100 ms (ICMP echo each ms, for
moves each 0.1 ms; where nothing was lost, the slowest answer). Heal: what was lost after a cut was mended. Load: in
slices of 60 s under `stress-ng --cpu 8 --fork 8 --switch 4 --vm 2`.
Two owners: a station that no cut touches asks each node's hardware address every 2 ms, until 1 s after the takeover;
where it lasts as long as we watched, it lasts until somebody intervenes. A frozen or killed keepalived goes on
answering: no outage, two owners.
A move is `heartline move`; of keepalived a clean stop of the owner (SIGTERM: it sends priority 0). keepalived has
priorities around its default (102, 101, 100), real-time priority 50, and no limit on its time; under load it runs as
the package comes, and its fastest setting with these, too.
";

/// All tables.
pub(super) fn terminal(results: &Results, paint: Paint) -> String {
    let mut text = format!(
        "\n{}\n{}\n",
        paint.bold("What a fault of the owner costs, ms"),
        paint.dim(format!(
            "{:<18} {:<22} {:>4} {:>9} {:>9} {:>9} {:>10} {:>6}  {}",
            "", "fault", "runs", "median", "p95", "max", "two owners", "false", "of lan's median"
        ))
    );
    let mut before = None;
    for row in &results.rows {
        if before.is_some_and(|before| before != row.setting) {
            text.push('\n');
        }
        before = Some(row.setting);
        let Spread { median, p95, max } = row.outage_ms;
        let dual = format!("{:>10.0}", row.dual_ms_max);
        let dual = if row.dual_ms_max > 0.0 {
            paint.bad(dual)
        } else {
            paint.good(dual)
        };
        let early = format!("{:>6}", row.false_takeovers);
        let early = if row.false_takeovers > 0 {
            paint.bad(early)
        } else {
            early
        };
        let ratio = results.ratio(row);
        let ratio = ratio.map_or(String::new(), |ratio| format!("x {ratio:.2}"));
        let fault = fault(row);
        let _ = write!(
            text,
            "{:<18} {fault:<22} {:>4} {median:>9.2} {p95:>9.2} {max:>9.2} {dual} {early}  {ratio}",
            label(row.setting),
            row.runs,
        );
        if row.not_taken > 0 {
            text += &paint.warn(not_taken(row));
        }
        if row.later_ms > 0.0 {
            text += &paint.warn(format!(
                "  (then, within a second, {:.0} ms more)",
                row.later_ms
            ));
        }
        if row.noisy > 0 {
            text += &paint.dim(format!("  (prober stood still in {})", row.noisy));
        }
        text.push('\n');
    }
    text += &paint.dim(NOTES);
    text += &extras(results, paint);
    if results.ones.iter().any(|one| one.prober_stalled) {
        text += &paint.warn(
            "The machine was busy: the prober, a real-time thread, stood still for more than 5 ms at times. So did the nodes,\n\
             and `fast` gives up after 4 ms. runs.json has what the agents said.\n",
        );
    }
    if results.set_aside > 0 {
        let _ = writeln!(
            text,
            "{} runs without two owners were measured again, up to {} times each, because the prober stood still in them.",
            results.set_aside,
            super::campaign::SET_ASIDE
        );
    }
    let _ = write!(text, "\n{}\n", paint.bold("Targets"));
    for target in targets::all(results) {
        let (sign, seen) = match target.verdict {
            Verdict::Held => (paint.good("held        "), target.seen),
            Verdict::Missed => (paint.bad("missed      "), target.seen),
            Verdict::NotMeasured => (paint.dim("not measured"), target.seen),
        };
        let _ = writeln!(text, "{sign}  {}  {}", target.what, paint.dim(seen));
    }
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
        results.machine.line(),
        results.seconds / 60.0,
        results.machine.steal_ms
    );
    text
}

fn fault(row: &Row) -> String {
    if row.aside {
        format!("{}, real-time", row.fault.name())
    } else {
        row.fault.name().to_owned()
    }
}

fn not_taken(row: &Row) -> String {
    if row.fault == Fault::Heal {
        format!(
            "  (client still without at the end of {} runs)",
            row.not_taken
        )
    } else {
        format!(
            "  (nobody took over in {} runs: as long as we watched)",
            row.not_taken
        )
    }
}

fn extras(results: &Results, paint: Paint) -> String {
    let mut text = String::new();
    if !results.idles.is_empty() {
        let _ = write!(
            text,
            "\n{}\n{}\n",
            paint.bold("What it costs while nothing happens, on the owner's node"),
            paint.dim(format!(
                "{:<18} {:>7} {:>9} {:>8} {:>8}",
                "", "CPU %", "sleeps/s", "RSS MiB", "PSS MiB"
            ))
        );
    }
    for idle in &results.idles {
        let _ = writeln!(
            text,
            "{:<18} {:>7.2} {:>9.0} {:>8.1} {:>8.1}",
            label(idle.setting),
            idle.cpu_percent,
            idle.sleeps_per_second,
            idle.rss_mib,
            idle.pss_mib
        );
    }
    if let Some(seen) = &results.announced {
        let (span, whole) = (Spread::of(&seen.span_ms), Spread::of(&seen.whole_ms));
        let _ = writeln!(
            text,
            "\n{} addresses in one group, {} moves: first to last announcement {:.1} ms (median; max {:.1}), \
             from the command to the last {:.1} ms (max {:.1})",
            seen.vips,
            seen.span_ms.len(),
            span.median,
            span.max,
            whole.median,
            whole.max
        );
    }
    if let Some(cost) = &results.xdp {
        let _ = writeln!(
            text,
            "\nXDP, as the kernel counts (bpf_stats): {:.0} ns per heartbeat, {:.0} ns per packet to the VIP; \
             on the way out {:.0} ns per packet",
            cost.heartbeat_ns, cost.packet_in_ns, cost.packet_out_ns
        );
    }
    text
}

/// The columns of the README's table.
const COLUMNS: [Fault; 6] = [
    Fault::SilentCut,
    Fault::Sigstop,
    Fault::Sigkill,
    Fault::Partition,
    Fault::Move,
    Fault::Heal,
];

/// For the README.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = format!(
        "Client outage in ms, median / max. {}.\n\n| |",
        results.machine.line()
    );
    for fault in COLUMNS {
        let _ = write!(text, " {} |", fault.name());
    }
    text += " load: false takeovers in 60 s |\n| --- |";
    text += &" --- |".repeat(COLUMNS.len() + 1);
    text.push('\n');
    for setting in Setting::ALL {
        if !results.rows.iter().any(|row| row.setting == setting) {
            continue;
        }
        let _ = write!(text, "| {} |", label(setting));
        for fault in COLUMNS {
            let cell = results.row(setting, fault).map_or("-".to_owned(), cell);
            let _ = write!(text, " {cell} |");
        }
        let _ = writeln!(text, " {} |", load_cell(results, setting));
    }
    text.push('\n');
    let own = |row: &&Row| row.system == super::System::Heartline;
    let own: Vec<_> = results.rows.iter().filter(own).collect();
    let _ = writeln!(
        text,
        "Two owners at once: Heartline {:.0} ms in {} runs.",
        own.iter().map(|row| row.dual_ms_max).fold(0.0, f64::max),
        own.iter().map(|row| row.runs).sum::<usize>()
    );
    text += &extras(results, Paint::plain()).replace('\n', "\n    ");
    text += "\n\n| target | | seen |\n| --- | --- | --- |\n";
    for target in targets::all(results) {
        let verdict = match target.verdict {
            Verdict::Held => "held",
            Verdict::Missed => "**missed**",
            Verdict::NotMeasured => "not measured",
        };
        let _ = writeln!(text, "| {} | {verdict} | {} |", target.what, target.seen);
    }
    text
}

fn cell(row: &Row) -> String {
    let Spread { median, max, .. } = row.outage_ms;
    let number = |ms: f64| {
        if ms >= 100.0 {
            format!("{ms:.0}")
        } else {
            format!("{ms:.1}")
        }
    };
    let figures = format!("{} / {}", number(median), number(max));
    match row.fault {
        // A cut node is heard by the one station that no cut touches: no client can be misled by it.
        Fault::Sigstop | Fault::Sigkill | Fault::Partition if row.dual_ms_max > 0.0 => {
            format!("**two owners**, {figures}")
        }
        _ => figures,
    }
}

fn load_cell(results: &Results, setting: Setting) -> String {
    let count = |aside: bool| {
        let fits =
            |row: &&Row| row.setting == setting && row.fault == Fault::Load && row.aside == aside;
        results
            .rows
            .iter()
            .find(fits)
            .map(|row| row.false_takeovers)
    };
    match (count(false), count(true)) {
        (Some(plain), Some(real_time)) => format!("{plain}; with real-time priority {real_time}"),
        (Some(plain), None) => plain.to_string(),
        (None, _) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{one, results},
        *,
    };

    #[test]
    fn tables_show_what_there_is() {
        let mut dual = one(Setting::Second, Fault::Partition, 1.0);
        dual.dual_ms = 900.0;
        let mut lost = one(Setting::Fast, Fault::Sigkill, 5000.0);
        lost.taken_over = false;
        let all = results(vec![one(Setting::Lan, Fault::SilentCut, 45.04), dual, lost]);
        let text = terminal(&all, Paint::plain());
        assert!(text.contains("Heartline lan      silent cut"), "{text}");
        assert!(text.contains("nobody took over in 1 runs"), "{text}");
        let text = markdown(&all);
        assert!(
            text.contains("| Heartline lan | 45.0 / 45.0 | - |"),
            "{text}"
        );
        assert!(text.contains("**two owners**, 1.0 / 1.0"), "{text}");
    }
}
