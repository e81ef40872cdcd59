//! Escapes characters that could make a terminal show another text than the one that was written.
//!
//! Guests, messages and brokers choose much of what is in a log line. A carriage return hides the start of its line, a
//! line feed forges a second line, and a bidirectional override turns the text around.

use std::borrow::Cow;
use std::fmt::Write as _;

/// How a line is escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text {
        /// Whether the line has colours of ours.
        colours: bool,
    },
    /// By JSON's own escapes: a parser sees the text as it was.
    Json,
}

/// A line of the log, whose last byte may be its line feed.
pub fn line(line: &[u8], form: Form) -> Cow<'_, [u8]> {
    let (text, end) = match line.split_last() {
        Some((b'\n', text)) => (text, "\n"),
        _ => (line, ""),
    };
    if text.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return line.into();
    }
    let text = String::from_utf8_lossy(text);
    let mut shown = String::with_capacity(text.len() + 16);
    let mut rest = &*text;
    while let Some(c) = rest.chars().next() {
        let colour = if form == (Form::Text { colours: true }) { colour(rest) } else { 0 };
        let (now, later) = rest.split_at(if colour > 0 { colour } else { c.len_utf8() });
        rest = later;
        match form {
            _ if colour > 0 => shown.push_str(now),
            Form::Json if hides(c) => drop(write!(shown, "\\u{:04x}", u32::from(c))),
            Form::Text { .. } if hides(c) => shown.extend(c.escape_default()),
            _ => shown.push(c),
        }
    }
    shown.push_str(end);
    shown.into_bytes().into()
}

/// A text of several lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    let hides = |c: char| c != '\n' && hides(c);
    if !text.contains(hides) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hides(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown.into()
}

/// A text that stays on one line.
pub fn one_line(text: &str) -> String {
    lines(text).replace('\n', "\\n")
}

/// The length of the colour, as the log sets it, that a text begins with. Escapes in values are escaped before they get
/// here, by tracing-subscriber.
fn colour(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\x1b[") else { return 0 };
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
    end.filter(|end| parameters[*end..].starts_with('m')).map_or(0, |end| "\x1b[".len() + end + "m".len())
}

/// Control characters but for the tab, and what changes the direction or the lines of a text.
fn hides(c: char) -> bool {
    c != '\t' && c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str, form: Form) -> String {
        String::from_utf8(line(text.as_bytes(), form).into_owned()).unwrap()
    }

    #[test]
    fn what_could_fool_a_terminal_is_escaped() {
        let text = Form::Text { colours: false };
        assert_eq!(shown("plain\n", text), "plain\n");
        assert_eq!(shown("ä\t✓\n", text), "ä\t✓\n");
        assert_eq!(
            shown("a\rb\0c\u{202e}d\x1b[31me\u{9b}f\ng\n", text),
            "a\\rb\\u{0}c\\u{202e}d\\u{1b}[31me\\u{9b}f\\ng\n"
        );
        let colours = Form::Text { colours: true };
        assert_eq!(shown("\x1b[2mdim\x1b[0m \x1b[2Jgone\x1b", colours), "\x1b[2mdim\x1b[0m \\u{1b}[2Jgone\\u{1b}");
        assert_eq!(shown("{\"a\":\"\u{202e}\u{85}ä\"}\n", Form::Json), "{\"a\":\"\\u202e\\u0085ä\"}\n");
        assert_eq!(lines("one\ntwo\r\u{2066}"), "one\ntwo\\r\\u{2066}");
        assert_eq!(one_line("a\nb\x1b"), "a\\nb\\u{1b}");
    }

    proptest! {
        #[test]
        fn nothing_that_hides_is_left(text: String, controls in "[\u{0}-\u{1f}\u{7f}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}]{0,9}") {
            let text = text + &controls;
            for form in [Form::Text { colours: false }, Form::Json] {
                prop_assert!(!shown(&text, form).trim_end_matches('\n').contains(hides));
            }
            prop_assert!(!lines(&text).replace('\n', "").contains(hides));
        }

        #[test]
        fn json_says_the_same_afterwards(text: String, controls in "[\u{7f}-\u{9f}\u{2028}-\u{202e}]{0,9}") {
            let text = text + &controls;
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&shown(&json, Form::Json)).unwrap(), text);
        }
    }
}
