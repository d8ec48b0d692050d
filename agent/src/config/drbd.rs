//! `drbd = …` of a `[[group.resource]]`.

use std::path::Path;

use agent_services::resource::{Kind, Resource};
use toml::de::DeValue;

use super::raw::At;
use super::render::{Diagnostic, Span};
use super::services::filled;
use super::table::Table;

/// Reads `drbd = "r0"` or `drbd = { resource = "r0", dual_primary = true }`.
pub(super) fn read(t: &mut Table<'_, '_, '_>) -> Option<Kind> {
    let (name, dual_primary, span) = match t.get("drbd")?.get_ref() {
        DeValue::Table(_) => {
            let mut d = t.table("drbd", "drbd = { resource = \"r0\" }")?;
            let name = filled(&mut d, "resource", "resource = \"r0\"");
            let dual = d.boolean("dual_primary").unwrap_or(false);
            let span = d.span.clone();
            d.finish();
            (name?, dual, span)
        }
        _ => {
            let name = t.string("drbd", "drbd = \"r0\"")?;
            (name.value, false, name.span)
        }
    };
    // It goes onto drbdadm's command line, where `all`, options and paths mean something else.
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
    if name == "all"
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        || !name.chars().all(good)
    {
        t.out.push(
            Diagnostic::error("bad-drbd", span, format!("{name:?} is no name of a DRBD resource"))
                .help("write the name that stands behind `resource` in /etc/drbd.d, as in `drbd = \"r0\"`"),
        );
        return None;
    }
    Some(Kind::Drbd {
        resource: name,
        dual_primary,
    })
}

/// Promote, mount, start: a file system on a DRBD device comes after what promotes it.
pub(super) fn check_order(
    group: &str,
    resources: &[Option<At<Resource>>],
    out: &mut Vec<Diagnostic>,
) {
    let is_drbd = |r: &Resource| matches!(r.kind, Kind::Drbd { .. });
    let known: Vec<&At<Resource>> = resources.iter().flatten().collect();
    for (i, at) in known.iter().enumerate() {
        let Kind::Filesystem { device, .. } = &at.value.kind else {
            continue;
        };
        if !Path::new(device).starts_with("/dev") || !device.contains("drbd") {
            continue;
        }
        let before = known.iter().take(i).any(|r| is_drbd(&r.value));
        let after = known.iter().skip(i).find(|r| is_drbd(&r.value));
        match (before, after) {
            (true, _) => {}
            (false, Some(later)) => out.push(
                Diagnostic::error(
                    "drbd-order",
                    at.span.clone(),
                    format!("group {group}: {device} is mounted before it is promoted"),
                )
                .also(later.span.clone(), "promoted here")
                .help("resources start in the order of the file: put the one with `drbd` first, then the file system, then what uses it"),
            ),
            (false, None) => out.push(
                Diagnostic::warning(
                    "drbd-missing",
                    at.span.clone(),
                    format!("group {group}: nothing in it promotes {device}"),
                )
                .help("put a `[[group.resource]]` with `drbd = \"RESOURCE\"` before it"),
            ),
        }
    }
}

/// A DRBD resource belongs to one group.
pub(super) fn check_once<'a>(
    all: impl Iterator<Item = &'a At<Resource>>,
    out: &mut Vec<Diagnostic>,
) {
    let mut seen: Vec<(&str, &Span)> = Vec::new();
    for at in all {
        let Kind::Drbd { resource, .. } = &at.value.kind else {
            continue;
        };
        match seen.iter().find(|(name, _)| name == resource) {
            Some((_, first)) => out.push(
                Diagnostic::error(
                    "drbd-twice",
                    at.span.clone(),
                    format!("DRBD resource {resource} is promoted in two places"),
                )
                .also((*first).clone(), "first used here")
                .help("it can follow one group only: remove one"),
            ),
            None => seen.push((resource, &at.span)),
        }
    }
}
