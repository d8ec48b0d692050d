//! First half of reading: TOML text to tables of values with the places they stand at.
//!
//! Finds what can be seen in one value alone: syntax, unknown keys, wrong types, numbers out of range, words that
//! are no choice. Nothing stops at the first error; [`super::check`] goes on with what could be read.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::{link_address, vip_address};
use super::render::{Diagnostic, Span};
use super::types::{Datapath, Failback, MAX_NODES, Profile, Role};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Span,
}

/// The file as read; `None` is "not there" or "wrong, and reported".
#[derive(Debug, Default)]
pub(super) struct RawConfig {
    pub cluster: Option<At<String>>,
    pub generation: Option<At<i64>>,
    pub key_file: Option<At<String>>,
    pub port: Option<At<i64>>,
    pub datapath: Option<Datapath>,
    pub announce_interval: Option<At<u64>>,
    pub log: Option<At<String>>,
    pub tie_break: Option<At<String>>,
    pub timing: RawTiming,
    pub nodes: Vec<RawNode>,
    pub groups: Vec<RawGroup>,
}

#[derive(Debug, Default)]
pub(super) struct RawTiming {
    pub span: Option<Span>,
    pub profile: Option<At<Profile>>,
    pub heartbeat: Option<At<u64>>,
    pub lease: Option<At<u64>>,
    pub takeover: Option<At<u64>>,
    pub max_promise: Option<At<u64>>,
}

#[derive(Debug)]
pub(super) struct RawNode {
    pub span: Span,
    pub name: Option<At<String>>,
    pub id: Option<At<i64>>,
    pub role: Role,
    pub links: Vec<RawLink>,
}

#[derive(Debug)]
pub(super) struct RawLink {
    pub device: Option<At<String>>,
    pub address: Option<At<IpAddr>>,
}

#[derive(Debug)]
pub(super) struct RawGroup {
    pub span: Span,
    pub name: Option<At<String>>,
    pub id: Option<At<i64>>,
    pub prefer: Option<At<Vec<At<String>>>>,
    pub spread: bool,
    pub failback: Failback,
    pub vips: Vec<RawVip>,
}

#[derive(Debug)]
pub(super) struct RawVip {
    pub device: Option<At<String>>,
    pub address: Option<At<(IpAddr, u8)>>,
}

/// Keys of the top level that people put under a section by mistake.
const TOP_KEYS: [&str; 8] = [
    "cluster",
    "generation",
    "key_file",
    "port",
    "datapath",
    "announce_interval",
    "log",
    "tie_break",
];

/// Keys of later releases: known, but refused, since nobody should believe that they work.
const LATER_KEYS: [&str; 5] = ["gateway", "resource", "probe", "fence", "watchdog"];

/// The nearest of `known`, if one is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= (k.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// "did you mean", or the whole choice where nothing is near.
pub(super) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    if let Some(near) = nearest(word, known.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all: Vec<_> = known.into_iter().map(|k| format!("`{k}`")).collect();
    if all.is_empty() {
        "there is none to choose from".into()
    } else {
        format!("choose one of {}", all.join(", "))
    }
}

/// One TOML table being read. Every key asked for is known; [`Table::finish`] reports the others.
struct Table<'t, 'i, 'd> {
    table: &'t DeTable<'i>,
    span: Span,
    /// As in the file: `[timing]`, `[[node]]`; empty at the top.
    place: &'static str,
    asked: Vec<&'static str>,
    out: &'d mut Vec<Diagnostic>,
}

impl<'t, 'i> Table<'t, 'i, '_> {
    fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str, example: &str) {
        let found = value.get_ref().type_str();
        self.out.push(
            Diagnostic::error(
                "wrong-type",
                value.span(),
                format!("`{key}` must be {wanted}, found {found}"),
            )
            .help(format!("write it as `{example}`")),
        );
    }

    /// Reports that a key which must be there is missing.
    fn need(&mut self, key: &'static str, example: &str) {
        if self.table.get(key).is_none() {
            let place = if self.place.is_empty() {
                "the top of the file"
            } else {
                self.place
            };
            self.out.push(
                Diagnostic::error(
                    "missing-key",
                    self.span.clone(),
                    format!("`{key}` is missing in {place}"),
                )
                .help(format!("add `{example}`")),
            );
        }
    }

    fn string(&mut self, key: &'static str, example: &str) -> Option<At<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(s) => Some(At {
                value: s.to_string(),
                span: value.span(),
            }),
            _ => {
                self.wrong_type(key, value, "a string", example);
                None
            }
        }
    }

    fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<i64>,
        code: &'static str,
    ) -> Option<At<i64>> {
        let value = self.get(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(
                key,
                value,
                "a whole number",
                &format!("{key} = {}", range.start()),
            );
            return None;
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(n) if range.contains(&n) => Some(At {
                value: n,
                span: value.span(),
            }),
            _ => {
                let (low, high) = (range.start(), range.end());
                self.out.push(
                    Diagnostic::error(
                        code,
                        value.span(),
                        format!("`{key}` must be from {low} to {high}, found {number}"),
                    )
                    .help(format!("choose a number from {low} to {high}")),
                );
                None
            }
        }
    }

    fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let read = value.get_ref().as_bool();
        if read.is_none() {
            self.wrong_type(key, value, "true or false", &format!("{key} = true"));
        }
        read
    }

    /// A duration with its unit, in nanoseconds.
    fn duration(&mut self, key: &'static str, example: &str) -> Option<At<u64>> {
        let value = self.get(key)?;
        let DeValue::String(text) = value.get_ref() else {
            let what = "a duration with its unit, in quotes";
            self.wrong_type(key, value, what, &format!("{key} = \"{example}\""));
            return None;
        };
        let read = humantime::parse_duration(text)
            .ok()
            .and_then(|d| u64::try_from(d.as_nanos()).ok());
        if read.is_none() {
            self.out.push(
                Diagnostic::error(
                    "bad-duration",
                    value.span(),
                    format!("`{key}`: {text:?} is not a duration"),
                )
                .help(format!(
                    "a number and its unit (us, ms, s, min), as in `{key} = \"{example}\"`"
                )),
            );
        }
        read.map(|ns| At {
            value: ns,
            span: value.span(),
        })
    }

    fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<At<T>> {
        let example = choices.first().map_or("", |c| c.0);
        let word = self.string(key, &format!("{key} = \"{example}\""))?;
        let found = choices.iter().find(|(name, _)| *name == word.value);
        if found.is_none() {
            let names = choices.iter().map(|c| c.0);
            self.out.push(
                Diagnostic::error(
                    "bad-choice",
                    word.span.clone(),
                    format!("`{key}` cannot be {:?}", word.value),
                )
                .help(did_you_mean(&word.value, names)),
            );
        }
        found.map(|(_, choice)| At {
            value: *choice,
            span: word.span,
        })
    }

    fn strings(&mut self, key: &'static str, example: &str) -> Option<At<Vec<At<String>>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings", example);
            return None;
        };
        let mut list = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str() {
                Some(s) => list.push(At {
                    value: s.to_owned(),
                    span: item.span(),
                }),
                None => self.wrong_type(key, item, "a list of strings", example),
            }
        }
        Some(At {
            value: list,
            span: value.span(),
        })
    }

    /// The tables of `[[key]]`.
    fn tables(&mut self, key: &'static str, place: &str) -> Vec<(&'t DeTable<'i>, Span)> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of tables", place);
            return Vec::new();
        };
        let mut list = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => list.push((table, item.span())),
                None => self.wrong_type(key, item, "a list of tables", place),
            }
        }
        list
    }

    fn child<'s>(
        &'s mut self,
        from: (&'t DeTable<'i>, Span),
        place: &'static str,
    ) -> Table<'t, 'i, 's> {
        Table {
            table: from.0,
            span: from.1,
            place,
            asked: Vec::new(),
            out: self.out,
        }
    }

    /// Reports every key that nobody asked for.
    fn finish(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let here = if self.place.is_empty() {
                String::new()
            } else {
                format!(" in {}", self.place)
            };
            let message = format!("unknown key `{name}`{here}");
            let help = if name == "prefix" && self.place == "[[group.vip]]" {
                "write it with the address: `address = \"10.77.0.100/24\"`".into()
            } else if LATER_KEYS.contains(&name) {
                "this comes in a later release; remove it".into()
            } else if !self.place.is_empty() && TOP_KEYS.contains(&name) {
                "it belongs to the top of the file, before the first [section]".into()
            } else {
                did_you_mean(name, self.asked.iter().copied())
            };
            self.out
                .push(Diagnostic::error("unknown-key", key.span(), message).help(help));
        }
    }
}

/// Reads a whole file.
pub(super) fn read(text: &str, out: &mut Vec<Diagnostic>) -> RawConfig {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        out.push(Diagnostic::error("syntax", span, error.message()));
    }
    let mut top = Table {
        table: document.get_ref(),
        span: 0..0,
        place: "",
        asked: Vec::new(),
        out,
    };

    top.need("cluster", "cluster = \"NAME\"");
    if !top.table.contains_key("generation") {
        top.out.push(
            Diagnostic::warning("no-generation", 0..0, "`generation` is missing: 1 is taken")
                .help("add `generation = 1`, and count it up with each change of the members"),
        );
    }
    let mut raw = RawConfig {
        cluster: top.string("cluster", "cluster = \"demo\""),
        generation: top.integer("generation", 1..=i64::from(u32::MAX), "bad-generation"),
        key_file: top.string("key_file", "key_file = \"cluster.key\""),
        port: top.integer("port", 1..=65535, "bad-port"),
        datapath: datapath(&mut top),
        announce_interval: top.duration("announce_interval", "60s"),
        log: top.string("log", "log = \"info\""),
        tie_break: top.string("tie_break", "tie_break = \"fencing\""),
        ..RawConfig::default()
    };
    if let Some(value) = top.get("timing") {
        match value.get_ref().as_table() {
            Some(table) => raw.timing = timing(top.child((table, value.span()), "[timing]")),
            None => top.wrong_type("timing", value, "a table", "[timing]"),
        }
    }
    for table in top.tables("node", "[[node]]") {
        raw.nodes.push(node(top.child(table, "[[node]]")));
    }
    for table in top.tables("group", "[[group]]") {
        raw.groups.push(group(top.child(table, "[[group]]")));
    }
    top.finish();
    raw
}

fn datapath(top: &mut Table<'_, '_, '_>) -> Option<Datapath> {
    let choices = [
        ("auto", Some(Datapath::Auto)),
        ("native", Some(Datapath::Native)),
        ("generic", Some(Datapath::Generic)),
        ("socket", None),
    ];
    let choice = top.choice("datapath", &choices)?;
    if choice.value.is_none() {
        top.out.push(
            Diagnostic::error(
                "datapath-later",
                choice.span,
                "datapath \"socket\" comes in a later release",
            )
            .help(
                "use `datapath = \"auto\"`: native XDP where the driver has it, else generic XDP",
            ),
        );
    }
    choice.value
}

fn timing(mut t: Table<'_, '_, '_>) -> RawTiming {
    let profiles = [
        ("fast", Profile::Fast),
        ("lan", Profile::Lan),
        ("wan", Profile::Wan),
    ];
    let raw = RawTiming {
        span: Some(t.span.clone()),
        profile: t.choice("profile", &profiles),
        heartbeat: t.duration("heartbeat", "10ms"),
        lease: t.duration("lease", "40ms"),
        takeover: t.duration("takeover", "50ms"),
        max_promise: t.duration("max_promise", "10s"),
    };
    t.finish();
    raw
}

fn node(mut t: Table<'_, '_, '_>) -> RawNode {
    t.need("name", "name = \"n1\"");
    t.need("id", "id = 1");
    let mut raw = RawNode {
        span: t.span.clone(),
        name: t.string("name", "name = \"n1\""),
        id: t.integer("id", 1..=MAX_NODES as i64, "node-id"),
        role: t
            .choice(
                "role",
                &[("member", Role::Member), ("witness", Role::Witness)],
            )
            .map_or(Role::Member, |r| r.value),
        links: Vec::new(),
    };
    for table in t.tables("link", "[[node.link]]") {
        let mut link = t.child(table, "[[node.link]]");
        link.need("device", "device = \"eth0\"");
        link.need("address", "address = \"10.77.0.1\"");
        let device = link.string("device", "device = \"eth0\"");
        let address = link.string("address", "address = \"10.77.0.1\"");
        let address = address.and_then(|a| link_address(&a, link.out));
        link.finish();
        raw.links.push(RawLink { device, address });
    }
    t.finish();
    raw
}

fn group(mut t: Table<'_, '_, '_>) -> RawGroup {
    t.need("name", "name = \"web\"");
    t.need("id", "id = 0");
    let failback = [("manual", Failback::Manual), ("auto", Failback::Auto)];
    let mut raw = RawGroup {
        span: t.span.clone(),
        name: t.string("name", "name = \"web\""),
        id: t.integer("id", 0..=255, "group-id"),
        prefer: t.strings("prefer", "prefer = [\"n1\", \"n2\"]"),
        spread: t.boolean("spread").unwrap_or(false),
        failback: t
            .choice("failback", &failback)
            .map_or(Failback::Manual, |f| f.value),
        vips: Vec::new(),
    };
    for table in t.tables("vip", "[[group.vip]]") {
        let mut vip = t.child(table, "[[group.vip]]");
        vip.need("device", "device = \"eth0\"");
        vip.need("address", "address = \"10.77.0.100\"");
        let device = vip.string("device", "device = \"eth0\"");
        let address = vip.string("address", "address = \"10.77.0.100\"");
        let address = address.and_then(|a| vip_address(&a, vip.out));
        vip.finish();
        raw.vips.push(RawVip { device, address });
    }
    t.finish();
    raw
}
