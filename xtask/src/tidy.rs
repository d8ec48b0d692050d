//! Tidiness that no lint knows: see "Rules" in CONTRIBUTING.md. Reads files and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::ui;

mod lexer;

/// A file longer than this is two files.
const MOST_LINES: usize = 600;

/// Says why a line may `unwrap`.
const JUSTIFIED: &str = "// ok: ";

/// Crates that run on the node, where a panic is a failure of the node.
const NO_PANIC: [&str; 4] = [
    "agent/src",
    "agent-core/src",
    "agent-common/src",
    "agent-services/src",
];

/// What may panic without saying why.
const PANICS: [&str; 5] = [
    ".unwrap()",
    ".expect(",
    "todo!(",
    "unimplemented!(",
    "dbg!(",
];

/// The core reads no clock, does no input or output, and iterates in one order only.
const NOT_IN_CORE: [&str; 10] = [
    "std::time",
    "Instant::now",
    "SystemTime",
    "HashMap",
    "HashSet",
    "tokio",
    "tracing",
    "println!",
    "std::fs",
    "std::thread",
];

/// Files that a clone must have.
const PRESENT: [&str; 8] = [
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "LICENSE-GPL-2.0",
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "deny.toml",
];

/// Something untidy.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    text: String,
}

/// Looks at the whole repository, prints what it finds. True if it is tidy.
pub fn run(root: &Path) -> Result<bool> {
    let mut findings: Vec<Finding> = PRESENT
        .into_iter()
        .filter(|name| !root.join(name).is_file())
        .map(|name| Finding {
            place: name.to_owned(),
            text: "is missing".to_owned(),
        })
        .collect();
    let sources = sources(root)?;
    let tests: Vec<PathBuf> = sources
        .iter()
        .flat_map(|(path, text)| test_files(path, text))
        .collect();
    for (path, text) in &sources {
        let name = path.strip_prefix(root).unwrap_or(path);
        let is_test = tests.contains(path) || has_test_name(name);
        look(&name.to_string_lossy(), text, is_test, &mut findings);
    }
    for finding in &findings {
        ui::bad(&format!("{}: {}", finding.place, finding.text));
    }
    Ok(findings.is_empty())
}

/// All Rust files of the repository, in order.
fn sources(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = entry.path();
            // Links are not followed: a loop would never end.
            let kind = entry.file_type()?;
            if kind.is_dir() && !name.starts_with('.') && name != "target" {
                folders.push(path);
            } else if kind.is_file() && name.ends_with(".rs") {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                found.push((path, text));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Is it a test by its name?
fn has_test_name(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let inner = path.components().skip(1);
    stem == "tests"
        || stem.ends_with("_tests")
        || inner.into_iter().any(|part| part.as_os_str() == "tests")
}

/// Files that a file includes for tests only: `#[cfg(test)] mod name;`.
fn test_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let inner = folder.join(path.file_stem().unwrap_or_default());
    let code = lexer::split(text).code;
    let mut found = Vec::new();
    let mut after_cfg = false;
    for line in code.lines().map(str::trim) {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            after_cfg = true;
        } else if let Some(name) = module(line).filter(|_| after_cfg) {
            for folder in [folder, &inner] {
                found.push(folder.join(format!("{name}.rs")));
                found.push(folder.join(name).join("mod.rs"));
            }
            after_cfg = false;
        } else if !line.is_empty() && !line.starts_with("#[") {
            after_cfg = false;
        }
    }
    found
}

/// The name in `mod name;`, `pub(crate) mod name;`.
fn module(line: &str) -> Option<&str> {
    let (before, name) = line.strip_suffix(';')?.split_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name.trim())
}

fn look(name: &str, text: &str, is_test: bool, findings: &mut Vec<Finding>) {
    let mut find = |line: Option<usize>, text: String| {
        findings.push(Finding {
            place: line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}")),
            text,
        });
    };
    let lines = text.lines().count();
    if lines > MOST_LINES {
        find(
            None,
            format!("{lines} lines, more than {MOST_LINES}: split it by what its parts are about"),
        );
    }
    let parts = lexer::split(text);
    let in_test = lexer::test_lines(&parts.code);
    let rows = text
        .lines()
        .zip(parts.code.lines())
        .zip(parts.comments.lines());
    for (index, ((raw, code), comment)) in rows.enumerate() {
        let line = Some(index + 1);
        for word in ["TODO", "FIXME"] {
            if let Some(at) = comment.find(word)
                && !has_issue(comment.get(at..).unwrap_or_default())
            {
                find(
                    line,
                    format!("{word} without an issue: write {word}(#12), or do it"),
                );
            }
        }
        if is_test || in_test.get(index).copied().unwrap_or(false) {
            continue;
        }
        if NO_PANIC.iter().any(|folder| name.starts_with(folder))
            && let Some(word) = PANICS.iter().find(|word| code.contains(**word))
            && !raw.contains(JUSTIFIED)
        {
            find(
                line,
                format!(
                    "{word} can end the agent: return an error, or say on this line why it cannot fail ({JUSTIFIED}...)"
                ),
            );
        }
        if name.starts_with("agent-core/src")
            && let Some(word) = NOT_IN_CORE.iter().find(|word| code.contains(**word))
        {
            find(
                line,
                format!(
                    "{word} in the core, which has no clock, no input or output, and one order: pass it in"
                ),
            );
        }
    }
}

/// Does the word come with `#` and a number?
fn has_issue(text: &str) -> bool {
    text.split('#')
        .skip(1)
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        look(name, text, has_test_name(Path::new(name)), &mut findings);
        findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.place, finding.text))
            .collect()
    }

    #[test]
    fn panics_need_a_reason() {
        let text = "fn f() {\n    a.unwrap();\n    b.expect(\"x\"); // ok: checked above\n}\n";
        let findings = found("agent/src/a.rs", text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].starts_with("agent/src/a.rs:2: .unwrap() can"));
        assert!(found("tests/lab/src/a.rs", text).is_empty());
        assert!(found("agent/src/a_tests.rs", text).is_empty());
        assert!(found("agent/tests/a.rs", text).is_empty());
    }

    #[test]
    fn words_in_comments_strings_and_tests_do_not_count() {
        let text = r##"
// never .unwrap() here
/* nor .expect("here") /* nested */ .unwrap() */
const A: &str = ".unwrap() \" .unwrap()";
const B: &str = r#"" .unwrap()"#;
const C: char = '"';
#[expect(dead_code, reason = "x")]
fn f<'a>(x: &'a str) -> Option<&'a str> { Some(x) }
#[cfg(test)]
mod tests {
    fn g() { if true { x.unwrap(); } }
    fn h() { x.unwrap(); }
}
fn after() { x.unwrap(); }
"##;
        let findings = found("agent/src/a.rs", text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].starts_with("agent/src/a.rs:14: "),
            "{findings:?}"
        );
    }

    #[test]
    fn the_core_has_no_clock() {
        let text = "use std::time::Duration;\nuse std::collections::HashMap;\n";
        assert_eq!(found("agent-core/src/a.rs", text).len(), 2);
        assert!(found("agent/src/a.rs", text).is_empty());
        assert!(found("agent-core/src/a.rs", "use core::time::Duration;\n").is_empty());
    }

    #[test]
    fn open_ends_need_an_issue() {
        assert_eq!(found("xtask/src/a.rs", "// TODO: later\n").len(), 1);
        assert_eq!(
            found("xtask/src/a.rs", "fn f() {} // FIXME soon\n").len(),
            1
        );
        assert!(found("xtask/src/a.rs", "// TODO(#12): later\n").is_empty());
        assert!(found("xtask/src/a.rs", "const A: &str = \"TODO\";\n").is_empty());
    }

    #[test]
    fn long_files_are_found() {
        assert!(found("agent/src/a.rs", &"\n".repeat(600)).is_empty());
        assert_eq!(found("agent/src/a.rs", &"\n".repeat(601)).len(), 1);
    }

    #[test]
    fn files_included_for_tests_are_tests() {
        let text = "#[cfg(test)]\n#[rustfmt::skip]\nmod proofs;\nmod real;\n#[cfg(test)]\nfn x() {}\nmod other;\n";
        let files = test_files(Path::new("agent/src/lease.rs"), text);
        assert!(files.contains(&PathBuf::from("agent/src/lease/proofs.rs")));
        assert!(files.contains(&PathBuf::from("agent/src/proofs.rs")));
        assert!(
            !files
                .iter()
                .any(|file| file.ends_with("real.rs") || file.ends_with("other.rs"))
        );
    }

    #[test]
    fn missing_files_are_found() {
        let folder = tempfile::tempdir().expect("tempdir");
        assert!(!run(folder.path()).expect("readable"));
        for name in PRESENT {
            fs::write(folder.path().join(name), "").expect("writable");
        }
        assert!(run(folder.path()).expect("readable"));
    }
}
