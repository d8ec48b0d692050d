//! The demo on paper: header, a paragraph per step, the verdict.

use super::{
    record::{Check, Record, Seen, Step},
    rig::Rig,
    score,
};
use crate::{clock::ms, paint::Paint};

/// The lab as a picture.
#[must_use]
pub fn header(nodes: &[String], machine: &str, paint: Paint) -> String {
    let mut text = format!(
        "\n{}\n{}\n\n",
        paint.bold("Heartline: three nodes, one virtual address, and a client that counts"),
        paint.dim(format!(
            "everything real, in network namespaces of this machine: {machine}"
        )),
    );
    let left = [
        "   client 10.77.0.201 ──┐",
        "   1 echo/ms, 1 page/5ms├── switch ──",
        "   prober 10.77.0.202 ──┘",
    ];
    for (number, name) in nodes.iter().enumerate() {
        let left = left.get(number).copied().unwrap_or_default();
        let branch = match number {
            0 => "┌",
            1 => "┼",
            _ => "└",
        };
        let node = paint.nth(format!("{name}  10.77.0.{}", number + 1), number);
        text += &format!("{left:<38}{branch}── {node}  agent, nginx\n");
    }
    text += &format!(
        "\n   VIP {} and {}: the node that owns it answers there\n",
        paint.bold("10.77.0.100"),
        paint.bold("fd77::100")
    );
    text += &paint.dim(
        "   One fault at a time, each healed before the next: two of three nodes are the majority.\n   \
         Dual ownership is measured: the prober asks every node for the VIP every 2 ms, even one\n   \
         that is cut off from all others.\n",
    );
    text
}

/// A step, with its score.
#[must_use]
pub fn step(step: &Step, rig: &Rig, nodes: &[String], paint: Paint) -> String {
    let mut text = format!(
        "\n{} {}",
        paint.bold(format!("({})", step.key)),
        paint.bold(step.title)
    );
    text += &format!(": {}\n", step.did);
    if step.from != step.to {
        let name = |node: &Option<String>| node.clone().unwrap_or_else(|| "nobody".into());
        text += &format!(
            "    owner {} -> {}\n",
            name(&step.from),
            paint.bold(name(&step.to))
        );
        let (begin, cell, cells) = score::window(step);
        let end = begin + cell * cells;
        // From a little earlier, so that the first signs have something to stand on.
        let probes = rig.v4.probes(begin.saturating_sub(4_000_000), end);
        let rounds = rig.owners.rounds(begin.saturating_sub(4_000_000), end);
        for line in score::lines(step, nodes, &probes, &rounds, paint) {
            text += &format!("    {line}\n");
        }
        text += &parts(step, paint);
    }
    text += &format!("    {}\n", seen(&step.seen, paint));
    if let Some((how, healed)) = &step.healed {
        text += &format!(
            "    {} {how}; {}\n",
            paint.dim("healed:"),
            seen(healed, paint)
        );
    }
    text
}

/// What the client noticed.
fn seen(seen: &Seen, paint: Paint) -> String {
    let outage = if seen.lost() == 0 {
        let worst = ms(seen.v4.worst_rtt_ns.max(seen.v6.worst_rtt_ns));
        paint.good(format!(
            "nothing lost of {} echoes (slowest {worst:.2} ms)",
            seen.v4.sent + seen.v6.sent
        ))
    } else {
        format!(
            "{} (IPv6 {:.2} ms), {} + {} echoes lost",
            paint.bold(format!(
                "the client was without for {:.2} ms",
                ms(seen.v4.ns())
            )),
            ms(seen.v6.ns()),
            seen.v4.lost,
            seen.v6.lost
        )
    };
    let pages = match seen.pages.failed {
        0 => format!("{} pages served, none failed", seen.pages.ok),
        failed => format!(
            "{} pages served, {}",
            seen.pages.ok,
            paint.warn(format!("{failed} failed"))
        ),
    };
    let dual = match seen.ownership.dual_ns {
        0 => "never two owners".to_owned(),
        dual => paint.bad(format!("TWO OWNERS for {:.0} ms", ms(dual))),
    };
    format!("{outage}; {pages}; {dual}")
}

/// The parts of a takeover with a bar in proportion.
fn parts(step: &Step, paint: Paint) -> String {
    const BAR: u64 = 48;
    let total: u64 = step.parts.iter().map(|part| part.took_ns).sum();
    if total == 0 {
        return format!(
            "    {}\n",
            paint.warn("the new owner told nothing of its takeover")
        );
    }
    let (mut bar, mut legend, mut sum, mut drawn) = (String::new(), Vec::new(), 0, 0);
    for part in &step.parts {
        let number = score::SIGNS
            .iter()
            .position(|(_, name)| *name == part.name)
            .unwrap_or(0);
        sum += part.took_ns;
        let upto = sum * BAR / total;
        bar += &paint.nth("▇".repeat((upto - drawn) as usize), number);
        drawn = upto;
        let sign = score::SIGNS.get(number).map_or(' ', |(sign, _)| *sign);
        let took = ms(part.took_ns);
        let took = if took < 9.95 {
            format!("{took:.2}")
        } else {
            format!("{took:.1}")
        };
        legend.push(format!("{} {} {took}", paint.nth(sign, number), part.name));
    }
    let begin = if step.key == "d" { "request" } else { "fault" };
    format!(
        "    {bar} {:.1} ms from the {begin} to the {}\n    {} ms\n",
        ms(total),
        step.parts.last().map_or("end", |part| part.name),
        legend.join(", ")
    )
}

/// The last words: ownership over the whole time, and each expectation.
#[must_use]
pub fn verdict(record: &Record, rig: &Rig, checks: &[Check], paint: Paint) -> String {
    let (from, to) = (record.from_ns, record.to_ns);
    let rounds = rig.owners.rounds(from, to);
    let mut text = format!(
        "\n{}\n",
        paint.bold(format!(
            "Who answered for the VIP in {:.0} s, seen on the wire",
            ms(to - from) / 1e3
        ))
    );
    for line in score::strip(&record.nodes, &rounds, from, to, paint) {
        text += &format!("    {line}\n");
    }
    text += &format!("    {}\n", score::marks(&record.steps, from, to));
    text += &format!(
        "    {} pages served, {} failed\n\n{}\n",
        record.pages.ok,
        record.pages.failed,
        paint.bold("Verdict")
    );
    let width = checks
        .iter()
        .map(|check| check.what.chars().count())
        .max()
        .unwrap_or(0);
    for check in checks {
        let word = match (check.held, check.safety) {
            (true, _) => paint.good("held         "),
            (false, true) => paint.bad("BROKEN       "),
            (false, false) => paint.warn("missed target"),
        };
        text += &format!(
            "    {word} ({}) {:<width$}  {:<9} {}",
            check.step, check.what, check.limit, check.measured
        );
        if let Some(noise) = &check.noise {
            text += &paint.dim(format!("  ({noise})"));
        }
        text.push('\n');
    }
    let missed = checks.iter().filter(|check| !check.held).count();
    text += &match missed {
        0 => format!(
            "\n{}\n",
            paint.good(format!("All {} expectations held.", checks.len()))
        ),
        _ => format!(
            "\n{}\n",
            paint.bad(format!(
                "{missed} of {} expectations did not hold.",
                checks.len()
            ))
        ),
    };
    text
}
