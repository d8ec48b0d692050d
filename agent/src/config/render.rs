//! Findings about a configuration, and how they are shown to people and to scripts.

use std::io;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

/// A range of bytes in the text of the configuration.
pub type Span = Range<usize>;

/// Findings kept at most; the rest is counted.
const KEPT_MAX: usize = 100;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, but look at this.
    Warning,
}

/// One finding: what is wrong, where, and the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Short, stable name for scripts and tests.
    pub code: &'static str,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where; `None` if no place in the text is to blame.
    pub span: Option<Span>,
    /// A second place that the first one is in conflict with, and what it says.
    pub also: Option<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub(super) fn error(
        code: &'static str,
        span: impl Into<Option<Span>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            span: span.into(),
            also: None,
            help: None,
        }
    }

    pub(super) fn warning(
        code: &'static str,
        span: impl Into<Option<Span>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, span, message)
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.also = Some((span, label.into()));
        self
    }
}

/// Puts a sign in the place of control characters, which could play with the terminal.
fn harmless(text: &mut String) {
    let bad = |c: char| c.is_control() && c != '\n';
    if text.contains(bad) {
        *text = text.replace(bad, "\u{fffd}");
    }
}

/// All findings about one text.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
}

/// A finding as `--json` shows it. `line` and `column` count from 1, columns in characters.
#[derive(Debug, Serialize)]
struct JsonDiagnostic<'a> {
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    severity: Severity,
    code: &'a str,
    message: &'a str,
    help: Option<&'a str>,
}

impl Report {
    pub(super) fn new(name: &str, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        // Errors before warnings where not all can be kept.
        if diagnostics.len() > KEPT_MAX {
            diagnostics.sort_by_key(|d| d.severity == Severity::Warning);
            let left_out = diagnostics.split_off(KEPT_MAX);
            let message = format!("{} more findings are not shown", left_out.len());
            let help = "mend the first ones and check again";
            // Good with a hundred warnings is still good.
            let severity = left_out.first().map_or(Severity::Warning, |d| d.severity);
            diagnostics.push(Diagnostic {
                severity,
                ..Diagnostic::error("more", None, message).help(help)
            });
        }
        for diagnostic in &mut diagnostics {
            // Names from the text stand in them; the excerpts of the text are made harmless by their renderer.
            harmless(&mut diagnostic.message);
            diagnostic.help.as_mut().map(harmless);
            if let Some((_, label)) = &mut diagnostic.also {
                harmless(label);
            }
            diagnostic.span = diagnostic.span.take().map(|s| first_line(text, s));
            diagnostic.also = diagnostic
                .also
                .take()
                .map(|(s, l)| (first_line(text, s), l));
        }
        // In the order of the file; those without a place last.
        diagnostics.sort_by_key(|d| d.span.as_ref().map_or(usize::MAX, |s| s.start));
        Self {
            name: name.into(),
            text: text.into(),
            diagnostics,
        }
    }

    /// The report on a file that could not be read: one error, without a place.
    #[must_use]
    pub fn unreadable(path: &Path, source: &io::Error) -> Self {
        let name = path.display().to_string();
        let found = Diagnostic::error(
            "cannot-read",
            None,
            format!("{name} cannot be read: {source}"),
        );
        let help = match source.kind() {
            io::ErrorKind::NotFound => "name an existing file: `heartline check FILE`",
            io::ErrorKind::PermissionDenied => "run as a user who may read it",
            _ => "it must be a file of UTF-8 text, at most 1 MiB",
        };
        Self::new(&name, "", vec![found.help(help)])
    }

    /// What stands for the file in errors.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All findings, in the order of the file.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// How many errors there are.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings there are.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    }

    /// Line and column, from 1, of a finding.
    #[must_use]
    pub fn position(&self, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
        let before = self.text.get(..diagnostic.span.as_ref()?.start)?;
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.get(line_start..)?.chars().count() + 1;
        Some((line, column))
    }

    /// The findings with the lines that they are about, for a terminal.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&renderer.render(&[self.group(diagnostic)]));
            out.push_str("\n\n");
        }
        out
    }

    fn group<'a>(&'a self, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code)
            .elements(None::<Origin<'_>>);
        if let Some(span) = &diagnostic.span {
            let mut snippet = Snippet::source(self.text.as_str())
                .path(self.name.as_str())
                .annotation(AnnotationKind::Primary.span(span.clone()));
            if let Some((span, label)) = &diagnostic.also {
                snippet = snippet.annotation(
                    AnnotationKind::Context
                        .span(span.clone())
                        .label(label.as_str()),
                );
            }
            group = group.element(snippet);
        } else {
            group = group.element(Origin::path(self.name.as_str()));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        group
    }

    /// The findings as a JSON list of `{file, line, column, severity, code, message, help}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let list: Vec<_> = self
            .diagnostics
            .iter()
            .map(|d| {
                let position = self.position(d);
                JsonDiagnostic {
                    file: &self.name,
                    line: position.map(|p| p.0),
                    column: position.map(|p| p.1),
                    severity: d.severity,
                    code: d.code,
                    message: &d.message,
                    help: d.help.as_deref(),
                }
            })
            .collect();
        // Strings and numbers alone: this cannot fail.
        serde_json::to_string_pretty(&list).unwrap_or_else(|_| "[]".into())
    }
}

/// Cuts a span to the text, to whole characters and to its first line.
fn first_line(text: &str, span: Span) -> Span {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.floor_char_boundary(span.end.clamp(start, text.len()));
    let line = text
        .get(start..end)
        .and_then(|s| s.find('\n'))
        .map_or(end, |i| start + i);
    start..line
}

/// Whether output may carry colours: on a terminal that knows them, unless the user asked for none
/// (<https://no-color.org>).
#[must_use]
pub fn colour_wanted(terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    terminal && set("NO_COLOR").is_none() && set("TERM").is_some_and(|t| t != "dumb")
}
