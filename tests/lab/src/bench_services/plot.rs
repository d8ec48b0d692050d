//! The results as a picture, in the manner of `bench failover`: for each fault a panel, for each setting a row, for
//! each service and run a dot, over a logarithmic axis of time; red where two owners were seen.

use std::fmt::Write as _;

use super::{Fault, Setting, System, report::Results};
use crate::bench::plot::{LEFT, RIGHT, ROW, STYLE, WIDTH, text, x};

/// The picture.
pub(super) fn draw(results: &Results) -> String {
    let mut body = String::new();
    let title = "What clients of DNS, RADIUS, web and SIP notice when their node fails";
    let mut y = 32.0;
    text(&mut body, "t h", 16.0, y, title);
    y += 20.0;
    // Too long for one line.
    for part in results.line().split("; ") {
        text(&mut body, "s n", 16.0, y, part);
        y += 17.0;
    }
    let how = "Longest time without an answer, a dot per service and run, the bar is the median; logarithmic. \
               Red: two owners at once.";
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
    text(out, "t b", 16.0, top, fault.name());
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
        text(out, "t n e", LEFT - 10.0, y + 4.0, row.setting.label());
        let ones = results.ones.iter();
        for one in ones.filter(|one| one.setting == row.setting && one.fault == fault) {
            let class = match (one.dual_ms > 0.0 && fault != Fault::Cut, row.system) {
                (true, _) => "dual",
                (false, System::Heartline) => "own",
                (false, System::Keepalived | System::Pacemaker) => "peer",
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
        let figures = match (row.dual(), row.ratio) {
            (true, _) => format!("two owners, {:.0} ms", row.outage_ms.median),
            (false, Some(ratio)) => {
                format!(
                    "{:.0} / {:.0} ms, x {ratio:.1}",
                    row.outage_ms.median, row.outage_ms.max
                )
            }
            (false, None) => {
                format!("{:.0} / {:.0} ms", row.outage_ms.median, row.outage_ms.max)
            }
        };
        text(out, "s n", WIDTH - RIGHT + 14.0, y + 4.0, &figures);
    }
    end + 12.0
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{ones, results},
        *,
    };

    #[test]
    fn the_picture_has_a_dot_for_each_service_and_run() {
        let mut all = ones(Setting::Lan, Fault::Freeze, [50.0; 4]);
        let mut dual = ones(Setting::Second, Fault::Freeze, [3000.0; 4]);
        dual.iter_mut().take(1).for_each(|one| one.dual_ms = 900.0);
        all.extend(dual);
        let svg = draw(&results(all));
        assert_eq!(svg.matches("<circle").count(), 8);
        assert_eq!(svg.matches("dot dual").count(), 1);
        assert!(svg.contains("two owners, 3000 ms"));
    }
}
