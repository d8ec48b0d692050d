//! Events as aligned lines.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::{Style, Symbol, Tone, clean, ms};
use crate::control::proto::{Event, Phases, Split};
use crate::events::Severity;

/// Turns events into lines: local time to the millisecond, kind, sentence. A line with the date comes first
/// whenever the day changes.
pub struct EventLines {
    style: Style,
    zone: TimeZone,
    day: Option<Date>,
}

impl EventLines {
    /// For the system's time zone; today's date is not printed.
    pub fn new(style: Style) -> Self {
        Self {
            style,
            zone: TimeZone::system(),
            day: Some(Zoned::now().date()),
        }
    }

    /// For a given time zone; the first date is printed.
    pub fn in_zone(style: Style, zone: TimeZone) -> Self {
        Self {
            style,
            zone,
            day: None,
        }
    }

    /// The text of one event, newline included.
    pub fn line(&mut self, event: &Event) -> String {
        let mut text = String::new();
        let clock = match event.time.parse::<Timestamp>() {
            Ok(time) => {
                let local = time.to_zoned(self.zone.clone());
                if self.day != Some(local.date()) {
                    self.day = Some(local.date());
                    text.push_str(&self.style.paint(&format!("{}\n", local.date()), Tone::Dim));
                }
                local.strftime("%H:%M:%S%.3f").to_string()
            }
            Err(_) => clean(&event.time),
        };
        let (symbol, tone) = match event.kind.severity() {
            Severity::Bad => (Symbol::Full, Tone::Bad),
            Severity::Warn => (Symbol::Half, Tone::Warn),
            Severity::Good => (Symbol::Full, Tone::Good),
            Severity::Plain => (Symbol::Empty, Tone::Plain),
        };
        let mark = self.style.paint(self.style.symbol(symbol), tone);
        let kind = self
            .style
            .paint(&format!("{:<16}", event.kind.name()), tone);
        text.push_str(&format!("{clock} {mark} {kind} {}\n", clean(&event.text)));
        if let Some(split) = split(event) {
            text.push_str(&self.style.paint(&format!("{:15}{split}\n", ""), Tone::Dim));
        }
        text
    }
}

/// What the parts of a takeover took, if the event tells.
fn split(event: &Event) -> Option<String> {
    let phases: Phases = serde_json::from_value(event.extra.get("phases")?.clone()).ok()?;
    Some(split_text(&phases.split()))
}

/// The parts of a takeover: `51.4 ms: detection 50.2, agreement 0.80, ..`.
pub(super) fn split_text(split: &Split) -> String {
    format!(
        "{} ms: detection {}, agreement {}, address {}, announcement {}",
        ms(split.total_ns),
        ms(split.detection_ns),
        ms(split.agreement_ns),
        ms(split.address_ns),
        ms(split.announcement_ns)
    )
}
