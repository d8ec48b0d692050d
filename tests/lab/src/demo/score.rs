//! The score of a step: time runs to the right, one sign is one moment; what the client heard, who
//! answered on the wire, and what the new owner was busy with, one above the other.

use super::record::Step;
use crate::{clock::ms, ownership::Round, paint::Paint, probe_outage::Probe};

/// Signs per line.
const WIDTH: u64 = 64;
/// One sign may stand for these, ns.
const SCALES: [u64; 11] = [
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
];
/// The signs of the parts of a takeover, in order, with their names.
pub const SIGNS: [(char, &str); 5] = [
    ('d', "detection"),
    ('a', "agreement"),
    ('i', "address"),
    ('!', "announcement"),
    ('w', "first answer"),
];

/// The window that a score shows: a little before the fault to a little after the first answer.
#[must_use]
pub fn window(step: &Step) -> (u64, u64, u64) {
    let from = step.seen.from_ns;
    let gap_end = |gaps: &[crate::probe_outage::Gap]| gaps.last().map_or(from, |gap| gap.to);
    let last = step.parts.last().map_or(from, |part| part.end_ns);
    let end = last
        .max(gap_end(&step.seen.v4.gaps))
        .max(gap_end(&step.seen.v6.gaps));
    let end = end.max(from + 1_000_000).min(step.seen.to_ns);
    let length = (end - from) * 5 / 4;
    let cell = SCALES
        .into_iter()
        .find(|cell| length / cell < WIDTH)
        .unwrap_or(200_000_000);
    let before = (length / 12).max(2 * cell);
    let begin = from.saturating_sub(before) / cell * cell;
    (begin, cell, ((length + before) / cell).clamp(8, WIDTH + 8))
}

/// The lines of a score. `probes` and `rounds` cover the window and a little before.
#[must_use]
pub fn lines(
    step: &Step,
    nodes: &[String],
    probes: &[Probe],
    rounds: &[Round],
    paint: Paint,
) -> Vec<String> {
    let (begin, cell, cells) = window(step);
    let spans: Vec<(u64, u64)> = (0..cells)
        .map(|n| (begin + n * cell, begin + (n + 1) * cell))
        .collect();
    let mut lines = vec![ruler(step.seen.from_ns, &spans, cell)];

    let mut row = String::new();
    let early = probes.iter().rev().find(|probe| probe.sent < begin);
    let mut last = early.map(|probe| probe.answered.is_some());
    for &(from, to) in &spans {
        let mut here = probes
            .iter()
            .filter(|probe| (from..to).contains(&probe.sent))
            .peekable();
        if here.peek().is_some() {
            last = Some(here.all(|probe| probe.answered.is_some()));
        }
        row += &match last {
            Some(true) => paint.good('━'),
            Some(false) => paint.bad('·'),
            None => " ".to_owned(),
        };
    }
    lines.push(format!("{:<8} {row}", "client"));

    for (node, name) in nodes.iter().enumerate() {
        let row: String = spans
            .iter()
            .map(|&(from, to)| {
                // The newest round that began before this moment's end says who answers in it.
                let round = rounds.iter().rev().find(|round| round.sent < to);
                let fresh = round.filter(|round| round.sent + 3_000_000.max(cell) > from);
                let answers =
                    fresh.is_some_and(|r| r.answered.get(node).is_some_and(Option::is_some));
                if answers {
                    paint.nth('█', node)
                } else {
                    paint.dim('·')
                }
            })
            .collect();
        lines.push(format!("{name:<8} {row}"));
    }

    if !step.parts.is_empty() {
        let row: String = spans
            .iter()
            .map(|&(from, to)| busy_with(step, from, to, paint))
            .collect();
        lines.push(format!("{:<8} {row}", "takeover"));
    }
    lines
}

fn busy_with(step: &Step, from: u64, to: u64, paint: Paint) -> String {
    if to <= step.seen.from_ns {
        return " ".into();
    }
    // Of several parts within one moment the latest is shown: the short ones are the last.
    let ended = step
        .parts
        .iter()
        .rposition(|part| (from..to).contains(&part.end_ns));
    let part = ended.or_else(|| step.parts.iter().position(|part| part.end_ns >= to));
    let sign = part.and_then(|part| {
        let name = step.parts.get(part)?.name;
        SIGNS.iter().position(|(_, known)| *known == name)
    });
    match sign.and_then(|number| Some((number, SIGNS.get(number)?))) {
        Some((number, (sign, _))) => paint.nth(sign, number),
        None => " ".into(),
    }
}

fn ruler(zero: u64, spans: &[(u64, u64)], cell: u64) -> String {
    let mut row: Vec<char> = vec![' '; spans.len() + 10];
    let every = cell * 10;
    for (at, &(from, to)) in spans.iter().enumerate() {
        let Some(first) = to.checked_sub(zero + 1) else {
            continue;
        };
        let mark = first / every * every;
        if mark + zero >= from && mark + zero < to {
            let text = if every < 1_000_000 {
                format!("|{:.1}", ms(mark))
            } else {
                format!("|{:.0}", ms(mark))
            };
            let text = if mark == 0 {
                format!("{text} ms")
            } else {
                text
            };
            for (slot, sign) in row.iter_mut().skip(at).zip(text.chars()) {
                *slot = sign;
            }
        }
    }
    format!(
        "{:<8} {}",
        "",
        row.into_iter().collect::<String>().trim_end()
    )
}

/// Who owned the VIP over a long time, one line per node, `WIDTH` signs.
#[must_use]
pub fn strip(nodes: &[String], rounds: &[Round], from: u64, to: u64, paint: Paint) -> Vec<String> {
    let cell = ((to - from) / WIDTH).max(1);
    let mut answers = vec![[0u32; WIDTH as usize]; nodes.len()];
    let mut asked = [0u32; WIDTH as usize];
    for round in rounds {
        let Some(at) = round.sent.checked_sub(from).map(|at| (at / cell) as usize) else {
            continue;
        };
        let Some(asked) = asked.get_mut(at) else {
            continue;
        };
        *asked += 1;
        for (row, answered) in answers.iter_mut().zip(&round.answered) {
            if let (Some(count), true) = (row.get_mut(at), answered.is_some()) {
                *count += 1;
            }
        }
    }
    let sign = |answered: u32, asked: u32| match answered * 2 {
        0 => '·',
        twice if twice >= asked => '█',
        _ => '▄',
    };
    let rows = nodes.iter().zip(&answers).enumerate();
    rows.map(|(node, (name, row))| {
        let row: String = row
            .iter()
            .zip(asked)
            .map(|(answered, asked)| match sign(*answered, asked) {
                '·' => paint.dim('·'),
                sign => paint.nth(sign, node),
            })
            .collect();
        format!("{name:<8} {row}")
    })
    .collect()
}

/// The line below a strip: the keys of the steps where their faults happened.
#[must_use]
pub fn marks(steps: &[Step], from: u64, to: u64) -> String {
    let cell = ((to - from) / WIDTH).max(1);
    let mut row = vec![' '; WIDTH as usize];
    for step in steps {
        let at = step.seen.from_ns.saturating_sub(from) / cell;
        if let (Some(slot), Some(key)) = (row.get_mut(at as usize), step.key.chars().next()) {
            *slot = key;
        }
    }
    format!(
        "{:<8} {}",
        "step",
        row.into_iter().collect::<String>().trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo::record::Points, probe_outage::Outage};

    #[test]
    fn a_score_shows_outage_owners_and_parts_one_above_the_other() {
        const M: u64 = 1_000_000;
        let at = 100 * M;
        let probes: Vec<_> = (80..180)
            .map(|n| Probe {
                sent: n * M,
                answered: (!(100..140).contains(&n)).then_some(n * M + 20_000),
            })
            .collect();
        let rounds: Vec<_> = (40..90)
            .map(|n| Round {
                sent: n * 2 * M,
                answered: vec![
                    (n < 50).then_some(n * 2 * M + 9),
                    (n >= 70).then_some(n * 2 * M + 9),
                ],
            })
            .collect();
        let mut step = Step::new("a", "cut", String::new());
        step.seen.from_ns = at;
        step.seen.to_ns = 180 * M;
        step.seen.v4 = Outage::of(&probes, 180 * M);
        step.points = Some(Points {
            detected_ns: at + 36 * M,
            claimed_ns: at + 37 * M,
            agreed_ns: at + 38 * M + 1,
            address_ns: at + 39 * M,
            announced_ns: at + 39 * M + 5,
        });
        step.split();
        let nodes = ["n1".to_owned(), "n2".to_owned()];
        let lines = lines(&step, &nodes, &probes, &rounds, Paint::plain());
        println!("{}", lines.join("\n"));
        let count = |line: &str, sign: char| line.chars().filter(|c| *c == sign).count();
        assert_eq!(lines.len(), 5);
        assert_eq!(count(&lines[1], '·'), 40, "{}", lines[1]);
        assert!(count(&lines[4], 'd') >= 35, "{}", lines[4]);
        let column = |line: &str, sign: char| line.chars().position(|c| c == sign);
        assert_eq!(
            column(&lines[3], '█'),
            lines[1].chars().position(|c| c == '·').map(|c| c + 40)
        );
    }
}
