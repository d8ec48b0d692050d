//! Colours on a terminal, none elsewhere; and signs of life while something takes its time.

use std::{
    fmt::Display,
    io::{IsTerminal as _, stderr, stdout},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{AnsiColors, OwoColorize as _};

/// Paints text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// Colours if standard output is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn for_stdout() -> Self {
        Self(stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()))
    }

    /// Never colours.
    #[must_use]
    pub const fn plain() -> Self {
        Self(false)
    }

    fn color(self, text: impl Display, color: AnsiColors) -> String {
        if self.0 {
            text.color(color).to_string()
        } else {
            text.to_string()
        }
    }

    /// Something good.
    #[must_use]
    pub fn good(self, text: impl Display) -> String {
        self.color(text, AnsiColors::Green)
    }

    /// Something bad.
    #[must_use]
    pub fn bad(self, text: impl Display) -> String {
        self.color(text, AnsiColors::Red)
    }

    /// Something to look at.
    #[must_use]
    pub fn warn(self, text: impl Display) -> String {
        self.color(text, AnsiColors::Yellow)
    }

    /// A thing by its own colour, the same for the same number.
    #[must_use]
    pub fn nth(self, text: impl Display, number: usize) -> String {
        const COLORS: [AnsiColors; 5] = [
            AnsiColors::BrightBlue,
            AnsiColors::BrightMagenta,
            AnsiColors::BrightCyan,
            AnsiColors::BrightYellow,
            AnsiColors::BrightGreen,
        ];
        self.color(
            text,
            COLORS
                .get(number % COLORS.len())
                .copied()
                .unwrap_or(AnsiColors::White),
        )
    }

    /// A heading.
    #[must_use]
    pub fn bold(self, text: impl Display) -> String {
        if self.0 {
            text.bold().to_string()
        } else {
            text.to_string()
        }
    }

    /// Small print.
    #[must_use]
    pub fn dim(self, text: impl Display) -> String {
        if self.0 {
            text.dimmed().to_string()
        } else {
            text.to_string()
        }
    }
}

/// Shows that something goes on, until dropped: a spinner on a terminal, one line elsewhere.
#[derive(Debug)]
pub struct Busy(Option<ProgressBar>);

impl Busy {
    /// As [`Busy::with`], and nothing where there is no terminal: for what prints lines of its own.
    #[must_use]
    pub fn quiet(what: impl Display) -> Self {
        if stderr().is_terminal() {
            Self::with(what)
        } else {
            Self(None)
        }
    }

    /// Begins to show `what`.
    #[must_use]
    pub fn with(what: impl Display) -> Self {
        if !stderr().is_terminal() {
            eprintln!("... {what}");
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }

    /// Shows something else; only on a terminal.
    pub fn say(&self, what: impl Display) {
        if let Some(bar) = &self.0 {
            bar.set_message(what.to_string());
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
