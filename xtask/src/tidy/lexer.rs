//! Just enough of Rust's lexing to tell code from comments and strings, and test modules from the rest.

/// A source, twice, with the same lines and columns: the code alone and the comments alone. The rest is blank.
pub struct Split {
    /// Without comments and without what strings contain.
    pub code: String,
    /// The text of comments.
    pub comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum In {
    Code,
    LineComment,
    BlockComment(u32),
    Str,
    RawStr(usize),
}

/// Splits a source.
pub fn split(text: &str) -> Split {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut out = Split {
        code: String::with_capacity(text.len()),
        comments: String::with_capacity(text.len()),
    };
    let mut place = In::Code;
    let mut index = 0;
    while index < chars.len() {
        let (c, next) = (at(index), at(index + 1));
        // How many characters this is about, and where we are after them.
        let (length, after) = match place {
            In::Code => match (c, next) {
                ('/', '/') => (2, In::LineComment),
                ('/', '*') => (2, In::BlockComment(1)),
                ('"', _) => (1, In::Str),
                ('r', '"' | '#')
                    if !is_name(at(index.wrapping_sub(1))) || at(index.wrapping_sub(1)) == 'b' =>
                {
                    let hashes = (index + 1..).take_while(|i| at(*i) == '#').count();
                    if at(index + 1 + hashes) == '"' {
                        (hashes + 2, In::RawStr(hashes))
                    } else {
                        (1, In::Code)
                    }
                }
                // A character, not a lifetime: the quote closes after one character or an escape.
                ('\'', '\\') => {
                    let close = (index + 3..chars.len()).find(|i| at(*i) == '\'');
                    (close.map_or(1, |close| close + 1 - index), In::Code)
                }
                ('\'', _) if at(index + 2) == '\'' => (3, In::Code),
                _ => (1, In::Code),
            },
            In::LineComment if c == '\n' => (1, In::Code),
            In::LineComment => (1, In::LineComment),
            In::BlockComment(depth) => match (c, next) {
                ('/', '*') => (2, In::BlockComment(depth + 1)),
                ('*', '/') if depth == 1 => (2, In::Code),
                ('*', '/') => (2, In::BlockComment(depth - 1)),
                _ => (1, place),
            },
            In::Str => match c {
                '\\' => (2, In::Str),
                '"' => (1, In::Code),
                _ => (1, In::Str),
            },
            In::RawStr(hashes) => {
                let closed = c == '"' && (1..=hashes).all(|i| at(index + i) == '#');
                if closed {
                    (hashes + 1, In::Code)
                } else {
                    (1, place)
                }
            }
        };
        let is_code = place == In::Code && after == In::Code && length == 1;
        let is_comment = matches!(place, In::LineComment | In::BlockComment(_));
        for c in chars.iter().skip(index).take(length).copied() {
            let blank = if c == '\n' { '\n' } else { ' ' };
            out.code.push(if is_code { c } else { blank });
            out.comments.push(if is_comment { c } else { blank });
        }
        place = after;
        index += length;
    }
    out
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// For each line of code: is it inside an item marked `#[cfg(test)]`?
pub fn test_lines(code: &str) -> Vec<bool> {
    let mut lines = Vec::new();
    let mut depth = 0_usize;
    // Marked, and waiting for the item's body or its end.
    let mut marked = false;
    // The depth outside the marked item.
    let mut outside: Option<usize> = None;
    for line in code.lines() {
        let mut test = outside.is_some() || marked;
        if outside.is_none() && (line.contains("#[cfg(test)]") || line.contains("#[cfg(all(test")) {
            marked = true;
            test = true;
        }
        for c in line.chars() {
            match c {
                '{' => {
                    if marked && outside.is_none() {
                        outside = Some(depth);
                        marked = false;
                    }
                    depth += 1;
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    if outside == Some(depth) {
                        outside = None;
                    }
                }
                // `#[cfg(test)] mod tests;`
                ';' if outside.is_none() => marked = false,
                _ => {}
            }
        }
        lines.push(test);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_stay() {
        let text = "a /* b\nc */ d // e\n\"f\\\"g\" h 'i' '\\'' 'j r#\"k\"l\"# m\n";
        let split = split(text);
        assert_eq!(split.code.lines().count(), text.lines().count());
        assert_eq!(split.code.replace(' ', ""), "a\nd\nh'jm\n");
        assert_eq!(split.comments.replace(' ', ""), "b\nc*/e\n\n");
        for (part, whole) in split.code.lines().zip(text.lines()) {
            assert_eq!(part.chars().count(), whole.chars().count());
        }
    }

    #[test]
    fn test_items_end_with_their_brace() {
        let code = "fn a() {}\n#[cfg(test)]\nmod t {\n fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod u;\nfn d() {}\n";
        let lines = test_lines(code);
        assert_eq!(
            lines,
            [false, true, true, true, true, false, true, true, false]
        );
    }
}
