//! Properties over many texts.

use proptest::prelude::*;

use super::super::*;
use super::{GOOD, config};

/// Pieces that make a text go wrong in many ways.
const PIECES: [&str; 24] = [
    "[",
    "]",
    "[[node]]",
    "[[group]]",
    "[[group.vip]]",
    "[timing]",
    "=",
    "\"",
    "\"\"\"",
    "'",
    "#",
    "\n",
    "\r",
    "\t",
    "\u{0}",
    "\u{feff}",
    "é",
    "🦀",
    "{",
    "}",
    ",",
    "id = 99999999999999999999",
    "lease = \"1y\"",
    "address = \"::ffff:1.2.3.4/200\"",
];

fn example() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just(GOOD),
        Just(include_str!("../../../../config/heartline.toml")),
        Just(include_str!("../../../../config/demo.toml")),
    ]
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, &'static str),
    Remove(usize, usize),
    Double(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..10_000_usize;
    prop_oneof![
        (at.clone(), prop::sample::select(&PIECES[..]))
            .prop_map(|(at, piece)| Edit::Insert(at, piece)),
        (at.clone(), 1..40_usize).prop_map(|(at, len)| Edit::Remove(at, len)),
        (at, 1..200_usize).prop_map(|(at, len)| Edit::Double(at, len)),
    ]
}

fn apply(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for edit in edits {
        let clip = |at: usize, len: usize| {
            let start = at % (chars.len() + 1);
            start..(start + len).min(chars.len())
        };
        match edit {
            Edit::Insert(at, piece) => {
                let at = clip(*at, 0);
                chars.splice(at, piece.chars());
            }
            Edit::Remove(at, len) => drop(chars.drain(clip(*at, *len))),
            Edit::Double(at, len) => {
                let range = clip(*at, *len);
                let piece = chars[range.clone()].to_vec();
                chars.splice(range.end..range.end, piece);
            }
        }
    }
    chars.into_iter().collect()
}

/// Reads and shows in every way. A refusal has an error in it, a configuration has none and a digest that is no
/// accident of how it was read.
fn survive(text: &str) -> Result<(), TestCaseError> {
    let report = match Config::from_str(text, "p.toml") {
        Ok(loaded) => {
            prop_assert_eq!(loaded.report.errors(), 0);
            prop_assert!((MIN_NODES..=MAX_NODES).contains(&loaded.config.nodes.len()));
            prop_assert!(
                loaded
                    .config
                    .groups
                    .iter()
                    .all(|g| !g.prefer.is_empty() && !g.vips.is_empty())
            );
            prop_assert!(!loaded.config.summary().is_empty());
            loaded.report
        }
        Err(LoadError::Refused(report)) => {
            prop_assert!(report.errors() > 0);
            report
        }
        Err(other) => return Err(TestCaseError::fail(other.to_string())),
    };
    prop_assert_eq!(
        report.render(false).is_empty(),
        report.diagnostics().is_empty()
    );
    prop_assert_eq!(
        report.render(true).is_empty(),
        report.diagnostics().is_empty()
    );
    let json: serde_json::Value =
        serde_json::from_str(&report.to_json()).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let list = json.as_array().map_or(0, Vec::len);
    prop_assert_eq!(list, report.diagnostics().len());
    let lines = text.split('\n').count();
    for d in report.diagnostics() {
        if let Some((line, column)) = report.position(d) {
            prop_assert!((1..=lines).contains(&line) && column >= 1);
        }
        prop_assert!(!d.message.is_empty());
    }
    Ok(())
}

/// The sections of the good file, to be put in another order.
fn sections() -> Vec<String> {
    let start = GOOD.find("[timing]").unwrap();
    let mut sections: Vec<String> = Vec::new();
    for line in GOOD[start..].lines() {
        if line.starts_with('[') && line != "[[group.vip]]" {
            sections.push(String::new());
        }
        let last = sections.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
    }
    sections
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        survive(&text)?;
    }

    #[test]
    fn no_spoilt_example_makes_it_panic(text in example(), edits in prop::collection::vec(edit(), 0..6)) {
        survive(&apply(text, &edits))?;
    }

    #[test]
    fn order_and_comments_leave_the_digest(
        sections in Just(sections()).prop_shuffle(),
        comments in prop::collection::vec("#[ -~]{0,20}\n", 10),
        blank in "[ \t\n]{0,5}",
    ) {
        let top = &GOOD[..GOOD.find("[timing]").unwrap()];
        let mut text = top.to_string();
        for (section, comment) in sections.iter().zip(&comments) {
            text.push_str(&section.replace(" = ", &format!("{}= ", blank.replace('\n', " "))));
            text.push_str(&blank);
            text.push_str(comment);
        }
        let read = config(&text);
        prop_assert_eq!(read.digest(), config(GOOD).digest());
        prop_assert_eq!(&read, &config(GOOD));
        prop_assert_eq!(diff(&config(GOOD), &read), []);
    }
}
