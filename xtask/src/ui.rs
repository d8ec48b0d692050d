//! Words to the person in front of it. All on stderr: stdout belongs to the program that is run.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize as _, Stream::Stderr};

/// A sentence on what is going on.
pub fn say(text: &str) {
    eprintln!("{} {text}", "xtask".if_supports_color(Stderr, |t| t.bold()));
}

/// The title of a part.
pub fn title(text: &str) {
    eprintln!("\n{}", text.if_supports_color(Stderr, |t| t.bold()));
}

/// Something that went well.
pub fn good(text: &str) {
    eprintln!("  {} {text}", "ok".if_supports_color(Stderr, |t| t.green()));
}

/// Something to know.
pub fn note(text: &str) {
    eprintln!(
        "  {} {text}",
        "note".if_supports_color(Stderr, |t| t.yellow())
    );
}

/// Something that is wrong.
pub fn bad(text: &str) {
    eprintln!("  {} {text}", "bad".if_supports_color(Stderr, |t| t.red()));
}

/// How to mend what is wrong.
pub fn mend(text: &str) {
    eprintln!("      {text}");
}

/// The error that ends the run.
pub fn error(error: &anyhow::Error) {
    eprintln!(
        "{} {error:#}",
        "error:".if_supports_color(Stderr, |t| t.red())
    );
}

/// A span of time for people: `0.4 s`, `12.3 s`, `2 min 5 s`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 99.95 {
        format!("{seconds:.1} s")
    } else {
        let seconds = seconds.round() as u64;
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

/// How often a run that is not on a terminal says that it is still at it.
const STILL: Duration = Duration::from_secs(15);

/// Something that takes a while. On a terminal: a spinner with the time and the newest line of the log;
/// elsewhere plain lines, now and then.
pub struct Progress {
    what: String,
    start: Instant,
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Progress {
    /// Shows that `what` has begun.
    pub fn start(what: &str) -> Self {
        let start = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant; should it not parse, the default spinner does too.
            if let Ok(style) =
                ProgressStyle::with_template("  {spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprintln!("  .. {what}");
        }
        Self {
            what: what.to_owned(),
            start,
            bar,
            said: start,
        }
    }

    /// Shows the newest line of the log.
    pub fn line(&mut self, newest: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_message(newest());
        } else if self.said.elapsed() >= STILL {
            self.said = Instant::now();
            eprintln!(
                "  .. {} ({}): {}",
                self.what,
                span(self.start.elapsed()),
                newest()
            );
        }
    }

    /// Shows the end.
    pub fn finish(self, went_well: bool) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let text = format!("{} ({})", self.what, span(self.start.elapsed()));
        if went_well { good(&text) } else { bad(&text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        assert_eq!(span(Duration::from_millis(440)), "0.4 s");
        assert_eq!(span(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(span(Duration::from_millis(99_960)), "1 min 40 s");
        assert_eq!(span(Duration::from_secs(125)), "2 min 5 s");
    }
}
