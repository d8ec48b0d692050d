//! `[[hook]]`: whom to tell what has happened.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::Serialize;

use super::raw::At;
use super::render::Diagnostic;
use super::services::{argv, bounded, filled, one_of};
use super::table::{Table, did_you_mean};
use crate::events::EventKind;

/// Hooks that a cluster may have.
const MAX_HOOKS: usize = 32;
const SECOND: u64 = 1_000_000_000;
/// Bounds of the time that a hook may take.
const TIMEOUT_NS: RangeInclusive<u64> = SECOND / 10..=300 * SECOND;

/// Who is told of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hook {
    /// Name, for people.
    pub name: String,
    /// How it is told.
    pub tell: Tell,
    /// The kinds of events, by the names that `heartline events --json` shows; empty: all.
    pub events: Vec<EventKind>,
    /// How long one call may take.
    #[serde(skip)]
    pub timeout: Duration,
    /// Whose certificates are taken: a PEM file; without it those that the machine trusts.
    pub ca: Option<PathBuf>,
}

/// How a hook is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tell {
    /// A command that gets the event as JSON on its standard input.
    Command(Vec<String>),
    /// A URL that the event is sent to by POST, as JSON.
    Url(String),
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.tell {
            Tell::Command(argv) => write!(f, "{}: runs {}", self.name, argv.join(" ")),
            // What stands behind the host may be a secret.
            Tell::Url(url) => write!(f, "{}: posts to {}", self.name, host_of(url)),
        }
    }
}

/// Scheme and host of a URL.
pub fn host_of(url: &str) -> &str {
    let after = url.find("://").map_or(0, |i| i + 3);
    let end = url
        .get(after..)
        .and_then(|rest| rest.find(['/', '?', '#']))
        .map_or(url.len(), |i| after + i);
    url.get(..end).unwrap_or(url)
}

/// Reads all hooks. `None` in the list is "wrong, and reported".
pub(super) fn read(top: &mut Table<'_, '_, '_>) -> Vec<Option<At<Hook>>> {
    let tables = top.tables("hook", "[[hook]]");
    if let Some((_, span)) = tables.get(MAX_HOOKS) {
        let message = format!("{} hooks: {MAX_HOOKS} is the most", tables.len());
        top.out.push(
            Diagnostic::error("too-many-hooks", span.clone(), message)
                .help("let one hook pass on to others"),
        );
    }
    let mut list = Vec::new();
    for table in tables.into_iter().take(MAX_HOOKS) {
        let mut t = top.child(table, "[[hook]]");
        list.push(hook(&mut t));
        t.finish();
    }
    list
}

fn hook(t: &mut Table<'_, '_, '_>) -> Option<At<Hook>> {
    let span = t.span.clone();
    let name = filled(t, "name", "name = \"pager\"");
    let tell = match one_of(t, &["command", "url"], "hook") {
        Some("command") => argv(t, "command").map(Tell::Command),
        Some(_) => url(t).map(Tell::Url),
        None => None,
    };
    t.known("command");
    t.known("url");
    let ca = t.string("ca", "ca = \"/etc/ssl/own-ca.pem\"");
    let https = matches!(&tell, Some(Tell::Url(url)) if url.starts_with("https://"));
    if let Some(ca) = &ca
        && tell.is_some()
        && !https
    {
        let message = "`ca` is for a hook with an https URL";
        t.out.push(
            Diagnostic::error("useless-ca", ca.span.clone(), message)
                .help("leave it out, or write the URL with https://"),
        );
    }
    let events = events(t);
    let timeout = bounded(t, "timeout", "10s", &TIMEOUT_NS, Duration::from_secs(10));
    Some(At {
        value: Hook {
            name: name?,
            tell: tell?,
            events: events?,
            timeout: timeout?,
            ca: ca.map(|at| PathBuf::from(at.value)),
        },
        span,
    })
}

fn url(t: &mut Table<'_, '_, '_>) -> Option<String> {
    let at = t.string("url", "url = \"https://example.net/hook\"")?;
    let host = ["https://", "http://"]
        .iter()
        .find_map(|s| at.value.strip_prefix(s));
    if host.is_none_or(|h| h.is_empty() || h.starts_with('/'))
        || at.value.contains(char::is_whitespace)
    {
        t.out.push(
            Diagnostic::error("bad-url", at.span, "this is no URL that can be posted to")
                .help("write it as `https://HOST/PATH`"),
        );
        return None;
    }
    Some(at.value)
}

fn events(t: &mut Table<'_, '_, '_>) -> Option<Vec<EventKind>> {
    let Some(list) = t.strings("events", "events = [\"gained\", \"lost\"]") else {
        return (!t.table.contains_key("events")).then(Vec::new);
    };
    let names: Vec<String> = EventKind::ALL.iter().map(|k| k.name()).collect();
    let mut kinds = Some(Vec::new());
    for at in list.value {
        match EventKind::ALL.iter().find(|k| k.name() == at.value) {
            Some(kind) => {
                if let Some(kinds) = &mut kinds {
                    kinds.push(*kind);
                }
            }
            None => {
                kinds = None;
                let message = format!("there is no kind of event \"{}\"", at.value);
                t.out.push(
                    Diagnostic::error("unknown-event", at.span, message)
                        .help(did_you_mean(&at.value, names.iter().map(String::as_str))),
                );
            }
        }
    }
    kinds
}
