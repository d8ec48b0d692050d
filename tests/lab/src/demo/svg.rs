//! The demo as a picture: one panel per takeover with a time axis of its own, and below them who
//! answered for the VIP the whole time. Readable on light and on dark ground; no script, no font of
//! its own.

use std::fmt::Write as _;

use super::{
    record::{Record, Step},
    score::SIGNS,
};
use crate::{clock::ms, ownership::Span, probe_outage::Gap};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 24.0;
const ROW: f64 = 20.0;
const BAR: f64 = 13.0;

const STYLE: &str = "
  text { font: 13px system-ui, sans-serif } .h { font-size: 18px; font-weight: 600 } .b { font-weight: 600 }
  .n { font-size: 12px } .bg { fill: #ffffff } .t { fill: #1f2328 } .s { fill: #59636e }
  .grid { stroke: #d1d9e0 } .fault { stroke: #cf222e } .ok { fill: #2da44e } .gap { fill: #cf222e }
  .n0 { fill: #0969da } .n1 { fill: #8250df } .n2 { fill: #1b7c83 }
  .p0 { fill: #bf8700 } .p1 { fill: #57606a } .p2 { fill: #e16f24 } .p3 { fill: #bf3989 } .p4 { fill: #2da44e }
  @media (prefers-color-scheme: dark) {
    .bg { fill: #0d1117 } .t { fill: #e6edf3 } .s { fill: #9198a1 }
    .grid { stroke: #3d444d } .fault { stroke: #f85149 } .ok { fill: #3fb950 } .gap { fill: #f85149 }
    .n0 { fill: #4493f8 } .n1 { fill: #ab7df8 } .n2 { fill: #39c5cf }
    .p0 { fill: #d29922 } .p1 { fill: #b1bac4 } .p2 { fill: #f0883e } .p3 { fill: #db61a2 } .p4 { fill: #3fb950 }
  }";

/// A window of time and the strip of paper that it goes to.
#[derive(Clone, Copy, Debug)]
struct Axis {
    from: u64,
    to: u64,
}

impl Axis {
    fn x(self, at: u64) -> f64 {
        let at = at.clamp(self.from, self.to) - self.from;
        let share = at as f64 / (self.to - self.from).max(1) as f64;
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn bar(self, out: &mut String, class: &str, y: f64, from: u64, to: u64) {
        if to <= self.from || from >= self.to {
            return;
        }
        let (x, end) = (self.x(from), self.x(to));
        // Never invisible: what lasts no time at all happened nevertheless.
        let width = (end - x).max(1.5);
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
        );
    }
}

fn text(out: &mut String, class: &str, x: f64, y: f64, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
    );
}

fn upright(out: &mut String, class: &str, x: f64, from: f64, to: f64) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\"/>"
    );
}

/// The picture.
#[must_use]
pub fn draw(record: &Record) -> String {
    let mut body = String::new();
    let mut y = 34.0;
    text(
        &mut body,
        "t h",
        16.0,
        y,
        "Heartline: one virtual address, and what its client noticed of each fault",
    );
    y += 20.0;
    text(
        &mut body,
        "s n",
        16.0,
        y,
        &format!("profile lan; measured on the wire; {}", record.machine),
    );
    y += 12.0;
    for step in record.steps.iter().filter(|step| step.from != step.to) {
        y = panel(&mut body, step, &record.nodes, y + 22.0);
    }
    y = whole(&mut body, record, y + 26.0);
    y = legend(&mut body, y + 24.0);
    let height = y + 12.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>A run of Heartline's demo</title>\n<style>{STYLE}\n</style>\n\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n"
    )
}

/// A little before the fault to a little after everybody has noticed.
fn window(step: &Step) -> Axis {
    let zero = step.seen.from_ns;
    let gaps = step.seen.v4.gaps.last().map_or(zero, |gap| gap.to);
    let last = step.parts.last().map_or(zero, |part| part.end_ns).max(gaps);
    // The same scale for all failures, so that they compare; a move is too short for it.
    let length = match last.saturating_sub(zero) {
        short if short < 8_000_000 => 10_000_000,
        usual if usual < 72_000_000 => 80_000_000,
        long => long / 4 * 5,
    };
    Axis {
        from: zero.saturating_sub(length / 8),
        to: zero + length,
    }
}

fn panel(out: &mut String, step: &Step, nodes: &[String], top: f64) -> f64 {
    let axis = window(step);
    let outage = if step.seen.v4.lost == 0 {
        "nothing lost".to_owned()
    } else {
        format!("{:.1} ms without an answer", ms(step.seen.v4.ns()))
    };
    text(out, "t b", 16.0, top, &format!("{}: {outage}", step.title));
    let mut y = top + 10.0;
    let bottom = y + ROW * (nodes.len() + 2) as f64;
    grid(out, axis, step.seen.from_ns, y, bottom);
    upright(out, "fault", axis.x(step.seen.from_ns), y, bottom);

    label(out, "client", y);
    served(out, axis, &step.seen.v4.gaps, y);
    y += ROW;
    owners(
        out,
        axis,
        &step.seen.ownership.spans,
        nodes,
        step.seen.to_ns,
        &mut y,
    );
    if !step.parts.is_empty() {
        label(out, "takeover", y);
        let mut at = step.seen.from_ns;
        for part in &step.parts {
            let kind = SIGNS.iter().position(|(_, name)| *name == part.name);
            axis.bar(
                out,
                &format!("p{}", kind.unwrap_or(0)),
                y + 3.0,
                at,
                part.end_ns,
            );
            at = at.max(part.end_ns);
        }
    }
    bottom + 14.0
}

/// Where the client was served, and where not.
fn served(out: &mut String, axis: Axis, gaps: &[Gap], y: f64) {
    axis.bar(out, "ok", y + 3.0, axis.from, axis.to);
    for gap in gaps {
        axis.bar(out, "gap", y + 3.0, gap.from, gap.to);
    }
}

/// A line per node. What was seen ends with `seen_to`: an owner of the last moment goes on.
fn owners(
    out: &mut String,
    axis: Axis,
    spans: &[Span],
    nodes: &[String],
    seen_to: u64,
    y: &mut f64,
) {
    for (node, name) in nodes.iter().enumerate() {
        label(out, name, *y);
        for (number, span) in spans.iter().enumerate() {
            if span.node != node {
                continue;
            }
            // The owner of the first moment owned it before, too: the window is cut there.
            let from = if number == 0 { axis.from } else { span.from };
            let to = if span.to + 20_000_000 > seen_to {
                axis.to
            } else {
                span.to
            };
            axis.bar(out, &format!("n{}", node % 3), *y + 3.0, from, to);
        }
        *y += ROW;
    }
}

fn label(out: &mut String, name: &str, y: f64) {
    text(out, "s n", 16.0, y + 13.0, name);
}

/// Lines at round numbers of ms, with the numbers below.
fn grid(out: &mut String, axis: Axis, zero: u64, top: f64, bottom: f64) {
    let length = axis.to - zero;
    let step = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000,
    ]
    .into_iter()
    .map(|ms| ms * 1_000_000)
    .find(|step| length / step <= 10)
    .unwrap_or(length);
    let mut at = zero;
    while at <= axis.to {
        let x = axis.x(at);
        upright(out, "grid", x, top, bottom);
        let words = if step >= 1_000_000_000 {
            format!("{:.0} s", ms(at - zero) / 1e3)
        } else {
            format!("{:.0} ms", ms(at - zero))
        };
        if x < WIDTH - 2.0 * RIGHT {
            text(out, "s n", x + 3.0, bottom + 11.0, &words);
        }
        at += step;
    }
}

/// The whole time, with each step's name where it began.
fn whole(out: &mut String, record: &Record, top: f64) -> f64 {
    let axis = Axis {
        from: record.from_ns,
        to: record.to_ns,
    };
    let dual = match record.ownership.dual_ns {
        0 => "never two nodes at once".to_owned(),
        dual => format!("TWO NODES AT ONCE for {:.0} ms", ms(dual)),
    };
    let title = format!("who answered for the address in the whole run: {dual}");
    text(out, "t b", 16.0, top, &title);
    let mut y = top + 10.0;
    let bottom = y + ROW * (record.nodes.len() + 1) as f64;
    grid(out, axis, record.from_ns, y, bottom);
    for step in &record.steps {
        let x = axis.x(step.seen.from_ns);
        upright(out, "fault", x, y, bottom);
        text(out, "s n", x + 3.0, bottom - 5.0, step.key);
    }
    owners(
        out,
        axis,
        &record.ownership.spans,
        &record.nodes,
        record.to_ns,
        &mut y,
    );
    let keys = record
        .steps
        .iter()
        .map(|step| format!("{} {}", step.key, step.title));
    let keys = keys.collect::<Vec<_>>().join(", ");
    text(out, "s n", 16.0, bottom + 30.0, &keys);
    bottom + 32.0
}

fn legend(out: &mut String, y: f64) -> f64 {
    let mut x = 16.0;
    let entries = [("ok", "client served"), ("gap", "client without an answer")];
    let parts = SIGNS.iter().enumerate();
    let parts = parts.map(|(number, (_, name))| (["p0", "p1", "p2", "p3", "p4"][number], *name));
    for (class, name) in entries.into_iter().chain(parts) {
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"11\" height=\"11\"/>",
            y - 10.0
        );
        text(out, "s n", x + 16.0, y, name);
        x += 34.0 + 6.6 * name.len() as f64;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        demo::record::{Points, Seen},
        fetch::Pages,
        ownership::Ownership,
        probe_outage::Outage,
    };

    const M: u64 = 1_000_000;

    fn record() -> Record {
        let at = 5_000 * M;
        let mut step = Step::new("a", "silent <cut>", "n1 is cut off".into());
        (step.from, step.to) = (Some("n1".into()), Some("n2".into()));
        let spans = vec![
            Span {
                node: 0,
                from: at - 5 * M,
                to: at + 38 * M,
            },
            Span {
                node: 1,
                from: at + 50 * M,
                to: at + 500 * M,
            },
        ];
        let gap = Gap {
            from: at,
            to: at + 48 * M,
            lost: 48,
            open: false,
        };
        step.seen = Seen {
            from_ns: at,
            to_ns: at + 500 * M,
            v4: Outage {
                lost: 48,
                gaps: vec![gap],
                ..Outage::default()
            },
            ownership: Ownership {
                spans: spans.clone(),
                ..Ownership::default()
            },
            ..Seen::default()
        };
        step.points = Some(Points {
            detected_ns: at + 46 * M,
            claimed_ns: at + 46 * M,
            agreed_ns: at + 47 * M,
            address_ns: at + 47 * M,
            announced_ns: at + 47 * M,
        });
        step.split();
        Record {
            nodes: ["n1", "n2", "n3"].map(str::to_owned).to_vec(),
            machine: "a machine".into(),
            from_ns: at - 1_000 * M,
            to_ns: at + 1_000 * M,
            steps: vec![step],
            ownership: Ownership {
                spans,
                ..Ownership::default()
            },
            pages: Pages::default(),
            held: true,
        }
    }

    /// The value of an attribute in a line.
    fn number(line: &str, name: &str) -> f64 {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    }

    #[test]
    fn all_bars_are_on_the_paper() {
        let picture = draw(&record());
        let bars = picture
            .lines()
            .filter(|line| line.starts_with("<rect class=\"") && line.contains(" x="));
        let mut count = 0;
        for bar in bars {
            let (x, width) = (number(bar, "x"), number(bar, "width"));
            assert!(x >= 0.0 && width > 0.0 && x + width <= WIDTH, "{bar}");
            count += 1;
        }
        assert!(count > 10, "{picture}");
    }

    #[test]
    fn the_outage_is_as_long_as_it_was() {
        let picture = draw(&record());
        let gap = picture
            .lines()
            .find(|line| line.contains("class=\"gap\"") && line.contains("height=\"13\""));
        // 48 of 90 ms of the panel's axis.
        let expected = 48.0 / 90.0 * (WIDTH - LEFT - RIGHT);
        assert!(
            (number(gap.unwrap(), "width") - expected).abs() < 0.2,
            "{gap:?}"
        );
    }

    #[test]
    fn words_are_escaped_and_tags_are_closed() {
        let picture = draw(&record());
        assert!(picture.contains("silent &lt;cut&gt;: 48.0 ms"), "{picture}");
        for tag in ["text", "svg", "style", "title"] {
            let count = |form: String| picture.matches(&form).count();
            assert_eq!(
                count(format!("<{tag}")),
                count(format!("</{tag}>")),
                "{tag}"
            );
        }
    }
}
