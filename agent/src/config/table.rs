//! One TOML table at a time: typed values with their places, and every key that nobody asked for.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::At;
use super::render::{Diagnostic, Span};

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

/// Sections of the top level that people put under another one by mistake.
const TOP_SECTIONS: [(&str, &str); 2] = [("fence", "[[fence]]"), ("watchdog", "[watchdog]")];

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
pub(super) struct Table<'t, 'i, 'd> {
    pub table: &'t DeTable<'i>,
    pub span: Span,
    /// As in the file: `[timing]`, `[[node]]`; empty at the top.
    pub place: &'static str,
    asked: Vec<&'static str>,
    pub out: &'d mut Vec<Diagnostic>,
}

impl<'t, 'i, 'd> Table<'t, 'i, 'd> {
    pub fn new(
        table: &'t DeTable<'i>,
        span: Span,
        place: &'static str,
        out: &'d mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            table,
            span,
            place,
            asked: Vec::new(),
            out,
        }
    }

    pub fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    pub fn wrong_type(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        example: &str,
    ) {
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
    pub fn need(&mut self, key: &'static str, example: &str) {
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

    pub fn string(&mut self, key: &'static str, example: &str) -> Option<At<String>> {
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

    pub fn integer(
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

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let read = value.get_ref().as_bool();
        if read.is_none() {
            self.wrong_type(key, value, "true or false", &format!("{key} = true"));
        }
        read
    }

    /// A duration with its unit, in nanoseconds.
    pub fn duration(&mut self, key: &'static str, example: &str) -> Option<At<u64>> {
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

    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<At<T>> {
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

    pub fn strings(&mut self, key: &'static str, example: &str) -> Option<At<Vec<At<String>>>> {
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

    /// The key may be there: for those that are looked at in another way.
    pub fn known(&mut self, key: &'static str) {
        self.asked.push(key);
    }

    /// The table of `[key]` or `key = { … }`.
    pub fn table(&mut self, key: &'static str, place: &'static str) -> Option<Table<'t, 'i, '_>> {
        let value = self.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table", place);
            return None;
        };
        Some(self.child((table, value.span()), place))
    }

    /// A table of strings, numbers or truth values, all as text; empty if it is not there. `None` if it is wrong.
    pub fn strings_by_name(&mut self, key: &'static str) -> Option<BTreeMap<String, String>> {
        let Some(value) = self.get(key) else {
            return Some(BTreeMap::new());
        };
        let example = format!("{key} = {{ name = \"value\" }}");
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table of strings", &example);
            return None;
        };
        let mut map = BTreeMap::new();
        let mut good = true;
        for (name, item) in table.iter() {
            let text = match item.get_ref() {
                DeValue::String(s) => s.to_string(),
                DeValue::Integer(n) => n.to_string(),
                DeValue::Boolean(b) => b.to_string(),
                _ => {
                    self.wrong_type(
                        name.get_ref(),
                        item,
                        "a string, a number or true or false",
                        &example,
                    );
                    good = false;
                    continue;
                }
            };
            map.insert(name.get_ref().to_string(), text);
        }
        good.then_some(map)
    }

    /// The tables of `[[key]]`.
    pub fn tables(&mut self, key: &'static str, place: &str) -> Vec<(&'t DeTable<'i>, Span)> {
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

    pub fn child<'s>(
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
    pub fn finish(self) {
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
            } else if let Some((_, section)) = TOP_SECTIONS.iter().find(|(k, _)| *k == name) {
                format!("it is a section of its own: `{section}`")
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
