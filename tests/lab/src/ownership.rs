//! From answers on the wire to ownership: who had the VIP when, and whether ever two at once.

/// One round of the owner prober: every node was asked at (nearly) the same instant.
#[derive(Clone, Debug)]
pub struct Round {
    /// When the first node of the round was asked.
    pub sent: u64,
    /// When each node's answer arrived.
    pub answered: Vec<Option<u64>>,
}

/// One node answered from `from` to `to` without another in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Span {
    /// Index of the node.
    pub node: usize,
    /// First round it answered.
    pub from: u64,
    /// Last round it answered.
    pub to: u64,
}

/// Who answered for the VIP in a window of time.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Ownership {
    /// In order of time.
    pub spans: Vec<Span>,
    /// Rounds in which two nodes answered and that are no handover.
    pub dual_rounds: usize,
    /// The same as time: rounds times interval, ns.
    pub dual_ns: u64,
    /// Rounds that saw a handover happen: the old owner answered, then the new one, and from then
    /// on the new one alone.
    pub handovers: usize,
    /// Between two rounds, ns.
    #[serde(skip)]
    pub(crate) interval: u64,
}

impl Ownership {
    /// How often the VIP went from one node to another.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.taken().len()
    }

    /// When a node began to answer while another had answered since it last did. A node that answers again after a
    /// pause (of its own, or of the prober's) has taken nothing, and two that answer side by side take nothing from
    /// each other each time.
    #[must_use]
    pub fn taken(&self) -> Vec<u64> {
        let mut times = Vec::new();
        for (at, span) in self.spans.iter().enumerate() {
            let before = self.spans.get(..at).unwrap_or_default();
            let own = before.iter().rev().find(|known| known.node == span.node);
            let last = own.map_or(0, |known| known.to);
            let goes_on = own.is_some() && span.from - last <= 3 * self.interval;
            let other = |known: &Span| known.node != span.node && known.to >= last;
            if !goes_on && before.iter().any(other) {
                times.push(span.from);
            }
        }
        times
    }

    /// From rounds in order of time, `interval` ns apart.
    ///
    /// Two answers in one round are two owners at once, with one exception: the probes of a round
    /// take some microseconds to reach their nodes, and a handover may fall between them. Then the
    /// old owner's answer comes first, the round before was the old owner's alone, and the next
    /// answered round is the new owner's alone. Anything else counts as dual.
    #[must_use]
    pub fn of(rounds: &[Round], interval: u64) -> Self {
        let mut result = Self {
            interval,
            ..Self::default()
        };
        let mut last: Option<usize> = None;
        for (at, round) in rounds.iter().enumerate() {
            let mut who = answers(round);
            who.sort_by_key(|(arrived, _)| *arrived);
            if who.len() > 1 {
                if who.len() == 2 && handover(&rounds[..at], &rounds[at + 1..], &who) {
                    result.handovers += 1;
                } else {
                    result.dual_rounds += 1;
                }
            }
            for (_, node) in who {
                let known = result.spans.iter_mut().rev().find(|span| span.node == node);
                match known {
                    // One lost probe does not end a span; another's answer or 3 rounds do.
                    Some(span) if last == Some(node) && round.sent - span.to <= 3 * interval => {
                        span.to = round.sent;
                    }
                    _ => result.spans.push(Span {
                        node,
                        from: round.sent,
                        to: round.sent,
                    }),
                }
                last = Some(node);
            }
        }
        result.dual_ns = result.dual_rounds as u64 * interval;
        result
    }
}

fn answers(round: &Round) -> Vec<(u64, usize)> {
    let arrived = round.answered.iter().enumerate();
    arrived
        .filter_map(|(node, at)| at.map(|at| (at, node)))
        .collect()
}

fn handover(before: &[Round], after: &[Round], who: &[(u64, usize)]) -> bool {
    let alone = |round: &Round| match answers(round).as_slice() {
        [(_, node)] => Some(*node),
        _ => None,
    };
    let answered = |round: &&Round| round.answered.iter().any(Option::is_some);
    let old = before.iter().rev().find(answered).and_then(alone);
    let new = after.iter().find(answered).and_then(alone);
    matches!(who, [(_, first), (_, second)] if old == Some(*first) && new == Some(*second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(list: &[[u64; 2]]) -> Vec<Round> {
        let some = |at: u64| (at != 0).then_some(at);
        list.iter()
            .zip(1..)
            .map(|(answers, n)| Round {
                sent: n * 100,
                answered: answers.map(some).to_vec(),
            })
            .collect()
    }

    #[test]
    fn a_clean_handover_is_not_dual() {
        let seen = Ownership::of(&rounds(&[[101, 0], [201, 205], [0, 301]]), 100);
        assert_eq!((seen.dual_rounds, seen.handovers), (0, 1));
        let spans = [
            Span {
                node: 0,
                from: 100,
                to: 200,
            },
            Span {
                node: 1,
                from: 200,
                to: 300,
            },
        ];
        assert_eq!(seen.spans, spans);
    }

    #[test]
    fn the_old_owner_after_the_new_is_dual() {
        assert_eq!(
            Ownership::of(&rounds(&[[101, 0], [207, 205], [0, 301]]), 100).dual_rounds,
            1
        );
    }

    #[test]
    fn two_rounds_with_two_answers_are_dual() {
        let seen = Ownership::of(&rounds(&[[101, 0], [201, 205], [301, 305], [0, 401]]), 100);
        assert_eq!(
            (seen.dual_rounds, seen.dual_ns, seen.handovers),
            (2, 200, 0)
        );
    }

    #[test]
    fn a_pause_is_no_change_of_owner() {
        let mut list = rounds(&[[101, 0], [0, 0], [0, 0], [0, 0], [0, 0], [601, 0]]);
        let seen = Ownership::of(&list, 100);
        assert_eq!((seen.spans.len(), seen.changes()), (2, 0));
        list.extend(rounds(&[[0, 701]]));
        assert_eq!(Ownership::of(&list, 100).changes(), 1);
    }

    #[test]
    fn two_side_by_side_are_one_change() {
        let list = rounds(&[[101, 0], [201, 205], [305, 301], [401, 405], [501, 0]]);
        assert_eq!(Ownership::of(&list, 100).changes(), 1);
    }

    #[test]
    fn one_lost_probe_keeps_the_span() {
        let seen = Ownership::of(&rounds(&[[101, 0], [0, 0], [301, 0]]), 100);
        assert_eq!(
            seen.spans,
            [Span {
                node: 0,
                from: 100,
                to: 300
            }]
        );
    }
}
