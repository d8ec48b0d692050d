//! Text for people: pure functions from reports to strings, so that tests can store what they print.

mod events;
mod guards;
mod sentences;
mod services;
mod status;

pub use events::EventLines;
pub use sentences::{done, explain, moved, reloaded, restarted};
pub use status::status;

use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Stream};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub colour: bool,
    /// With symbols beyond ASCII.
    pub symbols: bool,
    /// Columns.
    pub width: u16,
}

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
    Strong,
}

impl Style {
    /// What stdout can show. Colours as `NO_COLOR` and its kin say, symbols by the locale.
    pub fn of_stdout() -> Self {
        // The crate tells only by doing it.
        let colour = "x"
            .if_supports_color(Stream::Stdout, |text| text.bold())
            .to_string()
            != "x";
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
            .unwrap_or_default()
            .to_ascii_lowercase();
        let symbols = locale.contains("utf-8") || locale.contains("utf8");
        let width = Table::new()
            .width()
            .filter(|width| *width >= 40)
            .unwrap_or(80);
        Self {
            colour,
            symbols,
            width,
        }
    }

    /// No colours, for tests and files.
    pub fn plain(width: u16) -> Self {
        Self {
            colour: false,
            symbols: true,
            width,
        }
    }

    fn paint(&self, text: &str, tone: Tone) -> String {
        if !self.colour {
            return text.to_owned();
        }
        match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => text.green().to_string(),
            Tone::Warn => text.yellow().to_string(),
            Tone::Bad => text.red().bold().to_string(),
            Tone::Dim => text.dimmed().to_string(),
            Tone::Strong => text.bold().to_string(),
        }
    }

    fn cell(&self, text: impl Into<String>, tone: Tone) -> Cell {
        let cell = Cell::new(text.into());
        match tone {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Warn => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            Tone::Dim => cell.add_attribute(Attribute::Dim),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
        }
    }

    /// A table without lines, as wide as the style allows.
    fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(self.width);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    fn symbol(&self, symbol: Symbol) -> &'static str {
        match (symbol, self.symbols) {
            (Symbol::Full, true) => "●",
            (Symbol::Half, true) => "◐",
            (Symbol::Empty, true) => "○",
            (Symbol::Arrow, true) => "→",
            (Symbol::Full, false) => "*",
            (Symbol::Half, false) => "~",
            (Symbol::Empty, false) => "-",
            (Symbol::Arrow, false) => "->",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Symbol {
    Full,
    Half,
    Empty,
    Arrow,
}

/// A table's text: without its left padding and trailing blanks, with a newline at the end.
fn lines(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        let line = line.strip_prefix(' ').unwrap_or(&line);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text from elsewhere, without control characters that could play with the terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// As [`clean`], for texts of several lines.
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// "1 event", "3 events".
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}

/// A short time with its unit: `12 us`, `3.4 ms`, `51 ms`, `1.5 s`, `3 min`, `2 h 5 min`, `3 d 4 h`.
fn span(time: Duration) -> String {
    let micros = time.as_micros();
    let seconds = time.as_secs();
    match seconds {
        _ if micros < 1_000 => format!("{micros} us"),
        _ if micros < 10_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ if micros < 1_000_000 => format!("{:.0} ms", (time.as_secs_f64() * 1e3).floor()),
        0..10 => format!("{:.1} s", (time.as_secs_f64() * 10.0).floor() / 10.0),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn span_ns(ns: u64) -> String {
    span(Duration::from_nanos(ns))
}

/// For times that are known to the millisecond only.
fn span_ms(ms: u64) -> String {
    if ms < 1_000 {
        format!("{ms} ms")
    } else {
        span(Duration::from_millis(ms))
    }
}

/// Milliseconds with three digits or so, for the parts of a takeover: `0.05`, `0.80`, `50.2`.
fn ms(ns: u64) -> String {
    let ms = Duration::from_nanos(ns).as_secs_f64() * 1e3;
    if ms < 10.0 {
        format!("{ms:.2}")
    } else {
        format!("{ms:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_short() {
        let texts: Vec<_> = [
            0, 999, 1_000, 3_449, 10_500, 999_999, 1_000_000, 9_999_999, 59_900_000, 60_000_000,
        ]
        .map(|us| span(Duration::from_micros(us)))
        .into();
        assert_eq!(
            texts,
            [
                "0 us", "999 us", "1.0 ms", "3.4 ms", "10 ms", "999 ms", "1.0 s", "9.9 s", "59 s",
                "1 min"
            ]
        );
        assert_eq!(span(Duration::from_secs(7_500)), "2 h 5 min");
        assert_eq!(span(Duration::from_secs(3 * 86_400 + 4 * 3_600)), "3 d 4 h");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
    }

    proptest! {
        #[test]
        fn any_span_is_printed(ns in any::<u64>()) {
            prop_assert!(span_ns(ns).len() < 20);
            prop_assert!(!ms(ns).is_empty());
        }
    }
}
