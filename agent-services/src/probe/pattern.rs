//! What an answer must contain.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// So large may a compiled expression grow, in bytes.
const MOST: usize = 1024 * 1024;

/// Text, or a regular expression; looked for anywhere in the answer, whose bytes need not be UTF-8. The time that it
/// takes grows with the length of the answer only.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    literal: bool,
    regex: Regex,
}

/// Not a regular expression, or too large a one; with where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Pattern {
    /// This text, as it is.
    ///
    /// # Errors
    /// It is too long.
    pub fn text(text: &str) -> Result<Pattern, PatternError> {
        Self::new(text, true)
    }

    /// A regular expression, in the syntax of the regex crate.
    ///
    /// # Errors
    /// It is none, or too large.
    pub fn regex(expression: &str) -> Result<Pattern, PatternError> {
        Self::new(expression, false)
    }

    fn new(source: &str, literal: bool) -> Result<Pattern, PatternError> {
        let built = if literal {
            RegexBuilder::new(&regex::escape(source))
                .size_limit(MOST)
                .build()
        } else {
            RegexBuilder::new(source).size_limit(MOST).build()
        };
        Ok(Pattern {
            source: source.to_owned(),
            literal,
            regex: built.map_err(|e| PatternError(e.to_string()))?,
        })
    }

    /// Is it in there?
    #[must_use]
    pub fn found_in(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.source, self.literal) == (&other.source, other.literal)
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.literal {
            write!(f, "{:?}", self.source)
        } else {
            write!(f, "/{}/", self.source)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_taken_as_it_is() {
        let p = Pattern::text("a.b(").unwrap();
        assert!(p.found_in(b"\xff a.b( \xfe") && !p.found_in(b"aXb("));
        assert_eq!(p.to_string(), "\"a.b(\"");
    }

    #[test]
    fn expressions_and_what_is_none() {
        let p = Pattern::regex(r"^\d+ (ok|OK)$").unwrap();
        assert!(p.found_in(b"17 OK") && !p.found_in(b"x 17 OK"));
        assert_eq!(p.to_string(), r"/^\d+ (ok|OK)$/");
        assert!(
            Pattern::regex("(")
                .unwrap_err()
                .to_string()
                .contains("unclosed group")
        );
        assert!(Pattern::regex(r"(\w{1000}){1000}").is_err());
        assert_ne!(Pattern::text("a").unwrap(), Pattern::regex("a").unwrap());
    }
}
