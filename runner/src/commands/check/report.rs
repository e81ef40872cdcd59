//! Prints what was found: a short list for people, or a line of JSON each.

use std::io::IsTerminal as _;

use serde::Serialize;

use crate::causes::{causes, chain};
use crate::commands::process::say;
use crate::error::Error;
use crate::finding::{Finding, Verdict};
use crate::visible::lines;

/// A finding as it is printed.
#[derive(Debug, Serialize)]
pub struct Line {
    level: Level,
    check: &'static str,
    found: String,
    #[serde(skip)]
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consequence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// The flags that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<String>,
    /// What a worker ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Note,
    Warning,
    Error,
}

/// Wide enough for people, and narrow enough for every terminal and ticket.
const WIDTH: usize = 80;

/// The longest mark and a space.
const INDENT: usize = 8;

impl Line {
    pub fn is_warning(&self) -> bool {
        self.level == Level::Warning
    }
}

impl From<Finding<Error>> for Line {
    fn from(Finding { topic, subject: _, verdict }: Finding<Error>) -> Line {
        let line = |level, found| Line {
            level,
            check: topic.name(),
            found,
            causes: Vec::new(),
            consequence: None,
            remedy: None,
            flags: Vec::new(),
            exit_status: None,
        };
        match verdict {
            Verdict::Good(found) => line(Level::Ok, found),
            Verdict::Note(found) => line(Level::Note, found),
            Verdict::Caution { found, consequence, remedy } => Line {
                flags: flags(&[&remedy, &found]),
                consequence: Some(consequence),
                remedy: Some(remedy),
                ..line(Level::Warning, found)
            },
            Verdict::Refusal { error, consequence } => {
                let status = error.exit_status().code();
                let hint = error.hint();
                let at_start = || format!("a worker ends with {status} and takes no message");
                Line {
                    flags: flags(&[hint.as_deref().unwrap_or_default(), &chain(&error)]),
                    causes: causes(&error).collect(),
                    consequence: Some(consequence.unwrap_or_else(at_start)),
                    remedy: hint,
                    exit_status: Some(status),
                    ..line(Level::Error, error.to_string())
                }
            }
        }
    }
}

/// The flags that texts name, in order and once each. What stands in backticks is another command.
fn flags(texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for outside in texts.iter().flat_map(|text| text.split('`').step_by(2)) {
        for word in outside.split(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            let is_flag =
                word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
            if is_flag && !found.iter().any(|known| known == word) {
                found.push(word.to_owned());
            }
        }
    }
    found
}

pub fn as_json(found: &[Line]) -> Result<(), Error> {
    let mut text = String::new();
    for line in found {
        // A program gets the causes in the same text.
        let whole = [std::slice::from_ref(&line.found), &line.causes].concat().join(": ");
        let mut value = serde_json::to_value(line)
            .map_err(|error| Error::Io { doing: "write JSON".into(), source: error.into() })?;
        value["found"] = whole.into();
        text += &value.to_string();
        text.push('\n');
    }
    say(text.trim_end())
}

pub fn for_people(found: &[Line]) -> Result<(), Error> {
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let mut text = String::new();
    for line in found {
        let Line { level, check, found, causes, consequence, remedy, .. } = line;
        let mark = format!("{:<INDENT$}", level.name());
        let mark = if colours { format!("\x1b[{}m{mark}\x1b[0m", level.colour()) } else { mark };
        let mut parts = vec![format!("{check}: {found}")];
        parts.extend(causes.iter().map(|cause| format!("because: {cause}")));
        parts.extend(consequence.iter().map(|consequence| format!("then: {consequence}")));
        parts.extend(remedy.iter().map(|remedy| format!("hint: {remedy}")));
        let wrapped: Vec<String> = parts.iter().flat_map(|part| wrapped(&lines(part), WIDTH - INDENT)).collect();
        text += &format!("{mark}{}\n", wrapped.join(&format!("\n{}", " ".repeat(INDENT))));
    }
    say(&format!("{text}\n{}", summary(found)))
}

fn summary(found: &[Line]) -> String {
    let count = |level: Level, name: &str| match found.iter().filter(|line| line.level == level).count() {
        0 => None,
        1 => Some(format!("1 {name}")),
        count => Some(format!("{count} {name}s")),
    };
    let counts: Vec<String> =
        [count(Level::Error, "error"), count(Level::Warning, "warning")].into_iter().flatten().collect();
    match found.iter().find_map(|line| line.exit_status) {
        Some(status) => format!("{}: a worker would end with {status}", counts.join(", ")),
        None if counts.is_empty() => "nothing is wrong".to_owned(),
        None => format!("{}: a worker would start", counts.join(", ")),
    }
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }

    /// Green, blue, yellow, red.
    fn colour(self) -> u8 {
        match self {
            Level::Ok => 32,
            Level::Note => 34,
            Level::Warning => 33,
            Level::Error => 31,
        }
    }
}

/// Breaks a text between words. A word that is longer than a line has one to itself.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line =
            lines.last_mut().filter(|line| line.is_empty() || line.chars().count() + 1 + word.chars().count() <= width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_a_finding_are_those_that_its_texts_name() {
        let named = |text| flags(&[text]);
        assert_eq!(named("raise --max-attempts (WQ_MAX_ATTEMPTS), or --prefetch"), ["--max-attempts", "--prefetch"]);
        assert_eq!(named("`wq-run queue declare --queue q` makes it; see --queue (QUEUE)"), ["--queue"]);
        assert!(named("a -- b --- c --1").is_empty());
    }

    #[test]
    fn no_line_is_longer_than_it_may_be_unless_a_word_is() {
        let text = "one two three four --a-long-flag-name five";
        assert_eq!(wrapped(text, 13), ["one two three", "four", "--a-long-flag-name", "five"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
