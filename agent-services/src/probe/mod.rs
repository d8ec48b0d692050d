//! Is a service any good? Asked as its users would ask.

use std::time::Duration;

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The service answers as it should.
    Good(Answer),
    /// It does not, or not as it should; with what was seen.
    Bad(String),
    /// The probe could not run (no such command, no socket left); with why. Never taken for a failure.
    Unknown(String),
}

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// How long it took.
    pub took: Duration,
    /// One line for people.
    pub text: String,
    /// Performance data as Nagios plugins print it, kept as it came.
    pub performance: String,
}
