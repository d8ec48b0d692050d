//! The results as a picture: for each fault a panel, for each setting a row, for each run a dot, over a logarithmic
//! axis of time; red where two owners were seen. SVG is written here, in the manner of the demo's picture; pixels come
//! from `rsvg-convert`, which brings fonts along.

use std::{fmt::Write as _, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Fault, Setting,
    report::{Results, label},
};
use crate::exec;

pub(crate) const WIDTH: f64 = 960.0;
pub(crate) const LEFT: f64 = 132.0;
pub(crate) const RIGHT: f64 = 170.0;
pub(crate) const ROW: f64 = 18.0;
/// Ends of the axis, ms: 0.1 ms to 10 s.
const FROM: f64 = -1.0;
const TO: f64 = 4.0;

pub(crate) const STYLE: &str = "
  text { font: 13px system-ui, 'DejaVu Sans', sans-serif } .h { font-size: 18px; font-weight: 600 }
  .b { font-weight: 600 } .n { font-size: 12px } .e { text-anchor: end } .m { text-anchor: middle }
  .bg { fill: #ffffff } .t { fill: #1f2328 } .s { fill: #59636e } .grid { stroke: #d1d9e0 }
  .dot { fill-opacity: 0.55 } .own { fill: #0969da } .peer { fill: #57606a } .dual { fill: #cf222e }
  .median { stroke: #1f2328; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    .bg { fill: #0d1117 } .t { fill: #e6edf3 } .s { fill: #9198a1 } .grid { stroke: #3d444d }
    .own { fill: #4493f8 } .peer { fill: #b1bac4 } .dual { fill: #f85149 } .median { stroke: #e6edf3 }
  }";

/// Where a time is on the axis; what is shorter than its start sits on it.
pub(crate) fn x(ms: f64) -> f64 {
    let at = ms.max(1e-9).log10().clamp(FROM, TO);
    LEFT + (at - FROM) / (TO - FROM) * (WIDTH - LEFT - RIGHT)
}

pub(crate) fn text(out: &mut String, class: &str, x: f64, y: f64, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
    );
}

/// The picture.
pub(super) fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 32.0;
    let title = "What a client notices when the owner of a virtual address fails";
    text(&mut body, "t h", 16.0, y, title);
    y += 20.0;
    // Too long for one line.
    let line = results.machine.line();
    let (first, second) = line.split_once("; ").unwrap_or((&line, ""));
    for part in [first, second] {
        text(&mut body, "s n", 16.0, y, part);
        y += 17.0;
    }
    let how = "Time without an answer, a dot per run, the bar is the median; logarithmic. Red: two owners at once.";
    text(&mut body, "s n", 16.0, y, how);
    for fault in Fault::ALL {
        if results.rows.iter().any(|row| row.fault == fault) {
            y = panel(&mut body, results, fault, y + 26.0);
        }
    }
    let height = y + 14.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\">\n<title>{title}</title>\n<style>{STYLE}\n</style>\n\
         <rect class=\"bg\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n"
    )
}

fn panel(out: &mut String, results: &Results, fault: Fault, top: f64) -> f64 {
    let name = match fault {
        Fault::Load => "load (per slice of 60 s; on the right: false takeovers)",
        Fault::Heal => "heal (what is lost after a silent cut is mended)",
        other => other.name(),
    };
    text(out, "t b", 16.0, top, name);
    let rows: Vec<_> = Setting::ALL
        .into_iter()
        .filter_map(|setting| results.row(setting, fault))
        .collect();
    let (start, end) = (top + 8.0, top + 8.0 + ROW * rows.len() as f64);
    for (decade, name) in ["0.1", "1", "10 ms", "100", "1 s", "10 s"]
        .iter()
        .enumerate()
    {
        let x = x(10_f64.powi(decade as i32 - 1));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{start:.1}\" x2=\"{x:.1}\" y2=\"{end:.1}\"/>"
        );
        text(out, "s n m", x, end + 12.0, name);
    }
    for (row, place) in rows.into_iter().zip(0_u8..) {
        let y = start + ROW * (f64::from(place) + 0.5);
        text(out, "t n e", LEFT - 10.0, y + 4.0, &label(row.setting));
        let fits = |one: &&super::measure::One| {
            let aside =
                fault == Fault::Load && row.system == super::System::Keepalived && one.real_time;
            one.setting == row.setting && one.fault == fault && !aside
        };
        for one in results.ones.iter().filter(fits) {
            let class = match (one.dual_ms > 0.0, row.system) {
                (true, _) => "dual",
                (false, super::System::Heartline) => "own",
                (false, super::System::Keepalived) => "peer",
            };
            let x = x(one.outage_ms);
            let _ = writeln!(
                out,
                "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"
            );
        }
        let x = x(row.outage_ms.median);
        let _ = writeln!(
            out,
            "<line class=\"median\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
            y - 7.0,
            y + 7.0
        );
        let figures = match (fault, row.dual_ms_max > 0.0) {
            (Fault::Load, _) => format!("{} false takeovers", row.false_takeovers),
            (_, true) => format!("two owners for {:.0} ms", row.dual_ms_max),
            (_, false) => format!("{:.1} / {:.1} ms", row.outage_ms.median, row.outage_ms.max),
        };
        text(out, "s n", WIDTH - RIGHT + 14.0, y + 4.0, &figures);
    }
    end + 12.0
}

/// Turns a picture into pixels, two for one.
///
/// # Errors
/// `rsvg-convert` is missing or refuses.
pub(crate) fn pixels(svg: &Path, png: &Path) -> Result<()> {
    let mut command = Command::new("rsvg-convert");
    command
        .args(["--zoom", "2", "--format", "png", "--output"])
        .arg(png)
        .arg(svg);
    exec::run_ok(command, "", Duration::from_secs(30))
        .map(drop)
        .context("the picture as PNG: apt-get install librsvg2-bin, or run this by `cargo xtask bench failover`")
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{one, results},
        *,
    };

    #[test]
    fn the_axis_is_logarithmic_and_bounded() {
        assert!((x(0.0) - LEFT).abs() < 1e-9);
        assert!((x(10.0) - x(1.0) - (x(100.0) - x(10.0))).abs() < 1e-9);
        assert!(x(1e9) <= WIDTH - RIGHT);
    }

    #[test]
    fn the_picture_has_a_dot_for_each_run() {
        let mut dual = one(Setting::Second, Fault::Sigstop, 0.5);
        dual.dual_ms = 1000.0;
        let all = results(vec![one(Setting::Lan, Fault::Sigstop, 11.0), dual]);
        let svg = draw(&all);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert_eq!(svg.matches("dot dual").count(), 1);
        assert!(svg.contains("two owners for 1000 ms"));
    }
}
