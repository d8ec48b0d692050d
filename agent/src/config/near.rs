//! How groups depend on each other: `with`, `apart`, `after`, and what they need of a node's capacity.

use super::raw::{At, RawConfig, RawGroup};
use super::render::Diagnostic;
use super::table::{Table, did_you_mean};
use super::types::{Failback, Near, show_ns};

/// Longest `failback_delay`: a day.
const LONGEST_DELAY_NS: u64 = 86_400_000_000_000;

/// A list of group names.
type Names = Option<At<Vec<At<String>>>>;

/// As read.
#[derive(Debug, Default)]
pub(super) struct RawNear {
    with: Names,
    apart: Names,
    after: Names,
    need: Option<At<i64>>,
    delay: Option<At<u64>>,
}

/// Reads the keys of one group.
pub(super) fn read(group: &mut Table<'_, '_, '_>) -> RawNear {
    RawNear {
        // One: who follows two that part would have to follow both.
        with: group.string("with", "with = \"database\"").map(|at| At {
            span: at.span.clone(),
            value: vec![at],
        }),
        apart: group.strings("apart", "apart = [\"dns2\"]"),
        after: group.strings("after", "after = [\"database\"]"),
        need: group.integer("need", 0..=1_000_000, "bad-need"),
        delay: group.duration("failback_delay", "30s"),
    }
}

fn name(group: &RawGroup) -> Option<&str> {
    Some(group.name.as_ref()?.value.as_str())
}

fn listed(names: &Names) -> impl Iterator<Item = &At<String>> {
    names.iter().flat_map(|at| &at.value)
}

/// Rules about all of them together.
pub(super) fn check_near(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let known: Vec<&str> = raw.groups.iter().filter_map(name).collect();
    for group in &raw.groups {
        let near = &group.near;
        for other in [&near.with, &near.apart, &near.after]
            .into_iter()
            .flat_map(listed)
        {
            if Some(other.value.as_str()) == name(group) {
                out.push(
                    Diagnostic::error(
                        "near-itself",
                        other.span.clone(),
                        format!("group {} cannot depend on itself", other.value),
                    )
                    .help("remove it from the list"),
                );
            } else if !known.contains(&other.value.as_str()) {
                out.push(
                    Diagnostic::error(
                        "unknown-group",
                        other.span.clone(),
                        format!("there is no group \"{}\"", other.value),
                    )
                    .help(did_you_mean(&other.value, known.iter().copied())),
                );
            }
        }
        for other in listed(&near.apart) {
            if listed(&near.with).any(|w| w.value == other.value) {
                out.push(
                    Diagnostic::error(
                        "with-and-apart",
                        other.span.clone(),
                        format!("a group cannot be with {0} and apart from {0}", other.value),
                    )
                    .help("remove it from one of the lists"),
                );
            }
        }
        check_delay(group, out);
    }
    check_cycle(
        raw,
        "after",
        |g| &g.near.after,
        "nobody would start first",
        out,
    );
    check_cycle(
        raw,
        "with",
        |g| &g.near.with,
        "each would follow the other",
        out,
    );
    check_capacity(raw, out);
}

fn check_delay(group: &RawGroup, out: &mut Vec<Diagnostic>) {
    let Some(delay) = &group.near.delay else {
        return;
    };
    if delay.value > LONGEST_DELAY_NS {
        out.push(
            Diagnostic::error(
                "bad-delay",
                delay.span.clone(),
                format!(
                    "a failback delay of {} is longer than a day",
                    show_ns(delay.value)
                ),
            )
            .help("write failback = \"manual\" for groups that stay where they are"),
        );
    }
    if group.failback == Failback::Manual {
        out.push(
            Diagnostic::warning(
                "idle-delay",
                delay.span.clone(),
                "`failback_delay` says nothing while failback is \"manual\"",
            )
            .help("add `failback = \"auto\"`, or remove it"),
        );
    }
}

/// A chain of groups that ends where it began is told once, spelled out.
fn check_cycle(
    raw: &RawConfig,
    key: &str,
    list: impl Fn(&RawGroup) -> &Names,
    so: &str,
    out: &mut Vec<Diagnostic>,
) {
    let groups: Vec<&RawGroup> = raw.groups.iter().filter(|g| g.name.is_some()).collect();
    let at = |n: &str| groups.iter().position(|g| name(g) == Some(n));
    // 0: not seen; 1: on the way; 2: done.
    let mut seen = vec![0u8; groups.len()];
    for first in 0..groups.len() {
        if seen[first] != 0 {
            continue;
        }
        // (group, how many of its list are done): no recursion, however long a chain is.
        let mut way: Vec<(usize, usize)> = vec![(first, 0)];
        seen[first] = 1;
        while let Some((g, n)) = way.last().copied() {
            let Some(next) = listed(list(groups[g])).nth(n) else {
                seen[g] = 2;
                way.pop();
                continue;
            };
            if let Some(last) = way.last_mut() {
                last.1 += 1;
            }
            match at(&next.value) {
                Some(i) if seen[i] == 0 => {
                    seen[i] = 1;
                    way.push((i, 0));
                }
                // Itself: told already.
                Some(i) if seen[i] == 1 && i != g => {
                    let from = way.iter().position(|w| w.0 == i).unwrap_or(0);
                    let mut names: Vec<&str> = way[from..]
                        .iter()
                        .filter_map(|w| name(groups[w.0]))
                        .collect();
                    names.push(&next.value);
                    let message = format!(
                        "groups need each other: {}; {so}",
                        names.join(&format!(" is {key} "))
                    );
                    out.push(
                        Diagnostic::error("cycle", next.span.clone(), message)
                            .help(format!("remove one of these `{key}`")),
                    );
                }
                _ => {}
            }
        }
    }
}

/// A group that no node can carry.
fn check_capacity(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let capacities: Vec<Option<i64>> = raw
        .nodes
        .iter()
        .map(|n| n.capacity.as_ref().map(|c| c.value))
        .collect();
    let Some(most) = capacities
        .iter()
        .copied()
        .collect::<Option<Vec<_>>>()
        .and_then(|c| c.into_iter().max())
    else {
        // A node without one carries any.
        return;
    };
    for group in &raw.groups {
        if let Some(need) = group.near.need.as_ref().filter(|n| n.value > most) {
            let message = format!(
                "group {} needs {}, and no node has more than {most}",
                name(group).unwrap_or("?"),
                need.value
            );
            out.push(
                Diagnostic::error("no-capacity", need.span.clone(), message)
                    .help("lower `need`, or raise the `capacity` of the nodes that may own it"),
            );
        }
    }
}

/// As the configuration holds it; `None` if something is missing.
pub(super) fn typed(raw: &RawConfig, group: &RawGroup) -> Option<Near> {
    let id = |wanted: &At<String>| {
        let other = raw
            .groups
            .iter()
            .find(|g| name(g) == Some(wanted.value.as_str()))?;
        u8::try_from(other.id.as_ref()?.value).ok()
    };
    let ids = |names: &Names| listed(names).map(id).collect::<Option<Vec<u8>>>();
    Some(Near {
        with: ids(&group.near.with)?.first().copied(),
        apart: ids(&group.near.apart)?,
        after: ids(&group.near.after)?,
        need: group
            .near
            .need
            .as_ref()
            .map_or(Some(0), |n| u32::try_from(n.value).ok())?,
        failback_delay_ns: group.near.delay.as_ref().map_or(0, |d| d.value),
    })
}
