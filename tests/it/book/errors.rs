//! Troubleshooting by the message that one sees: each text of an error is on that page.

use super::read;
use crate::harness::root;

/// The files whose errors end a command or a message.
const FILES: [&str; 6] =
    ["broker/error.rs", "broker/url.rs", "sandbox/load/error.rs", "sink/error.rs", "error.rs", "streams.rs"];

/// What stands between the values of a text, without punctuation at its ends.
fn parts(text: &str) -> Vec<&str> {
    let outside = text.split('{').map(|part| part.split_once('}').map_or(part, |(_, after)| after));
    let trimmed = outside.map(|part| part.trim_matches([' ', ':', ',', ';']));
    // Shorter ones say nothing.
    trimmed.filter(|part| part.len() >= 8).collect()
}

/// The texts of the `#[error("…")]` in a source.
fn texts(source: &str) -> Vec<&str> {
    let begun = source.split("#[error(\"").skip(1);
    begun.filter_map(|rest| rest.split_once('"')).map(|(text, _)| text).collect()
}

#[test]
fn the_page_about_troubleshooting_has_every_error() {
    let page = read("docs/troubleshooting.md").replace('`', "").replace('\n', " ");
    let mut missing = Vec::new();
    for file in FILES {
        let source = std::fs::read_to_string(root().join("runner/src").join(file)).unwrap();
        let texts = texts(&source);
        assert!(!texts.is_empty(), "{file}");
        for text in texts {
            let text = text.replace('`', "");
            missing.extend(
                parts(&text).iter().filter(|part| !page.contains(**part)).map(|part| format!("{file}: {part}")),
            );
        }
    }
    assert!(missing.is_empty(), "docs/troubleshooting.md lacks:\n{}", missing.join("\n"));
}

#[test]
fn a_text_is_what_stands_between_its_values() {
    assert_eq!(
        parts("cannot reach the broker at {address}: {0}, and more of it"),
        ["cannot reach the broker at", "and more of it"]
    );
    assert_eq!(texts("#[error(\"one\")] X, #[error(transparent)] Y, #[error(\"{}\", z)]"), ["one", "{}"]);
}
