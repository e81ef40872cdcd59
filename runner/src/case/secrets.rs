//! Keeps secrets out of a case: those that are known, and what looks like one.
//!
//! The values of the variables that the guest was granted are known. The values of names like `authorization`, passwords in
//! URLs, and the value in `token=…` look like secrets. What is found in one place is removed everywhere else too: a guest may
//! have printed it.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::task::{Message, Properties};

/// What stands in the place of a secret.
pub const WITHHELD: &str = "***";

/// Shorter values are not hidden: they occur in every text, and hiding them would protect nothing. In bytes.
const SHORTEST: usize = 6;

/// Shorter parts at the edge of a text are not hidden: they could come from anything. In bytes.
const SHORTEST_PART: usize = 3;

/// Parts of names whose values are secrets.
const NAMES: [&str; 25] = [
    "authori",
    "authenti",
    "x-auth",
    "oauth",
    "token",
    "secret",
    "passw",
    "passphrase",
    "passwd",
    "pwd",
    "cookie",
    "credential",
    "apikey",
    "api-key",
    "api_key",
    "accesskey",
    "access-key",
    "access_key",
    "privatekey",
    "private-key",
    "private_key",
    "session",
    "signature",
    "jwt",
    "bearer",
];

/// The header with the last of stderr of an earlier run.
const STDERR: &str = "x-wq-stderr";

/// How values begin that are secrets whatever their name is.
const BEGINNINGS: [&str; 3] = ["bearer ", "basic ", "digest "];

/// The secrets that are known, the longest first.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

/// What looked like a secret, and the places from which something was taken.
#[derive(Default)]
pub struct Found {
    values: Vec<String>,
    places: BTreeSet<String>,
}

pub fn is_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|part| name.contains(part))
}

/// Whether a value is a secret whatever its name is: a scheme of HTTP's authorization, or a JSON Web Token.
fn is_value(value: &str) -> bool {
    let begins =
        |beginning: &&str| value.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning));
    BEGINNINGS.iter().any(begins) || value.starts_with("eyJ") && value.matches('.').count() == 2
}

// === impl Found ===

impl Found {
    pub fn values(&self) -> &[String] {
        &self.values
    }

    pub fn note(&mut self, place: String) {
        self.places.insert(place);
    }

    pub fn places(self) -> Vec<String> {
        self.places.into_iter().collect()
    }

    /// Takes out of the headers and properties of a message what looks like a secret.
    pub fn message(&mut self, message: &mut Message) {
        for (name, value) in &mut message.headers {
            let mut hidden = false;
            self.value(value, is_name(name), &mut hidden);
            if hidden {
                self.note(format!("header {name}"));
            }
        }
        for (name, text) in texts(&mut message.properties) {
            if self.text(text) {
                self.note(format!("property {name}"));
            }
        }
    }

    /// The same for the arguments of a program: a flag with a name like `--token` has its value behind `=`, or in the next one.
    pub fn arguments(&mut self, arguments: &mut [String]) {
        let mut is_secret = false;
        for (number, argument) in arguments.iter_mut().enumerate() {
            let is_flag = argument.starts_with('-');
            let hidden = if is_secret && !is_flag { self.take(argument) } else { self.text(argument) };
            is_secret = is_flag && !argument.contains('=') && is_name(argument);
            if hidden {
                self.note(format!("argument {}", number + 1));
            }
        }
    }

    fn value(&mut self, value: &mut Value, is_secret: bool, hidden: &mut bool) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(_) if !is_secret => {}
            Value::Number(number) => {
                self.values.push(number.to_string());
                *value = WITHHELD.into();
                *hidden = true;
            }
            Value::String(text) => *hidden |= if is_secret { self.take(text) } else { self.text(text) },
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value, is_secret, hidden)),
            Value::Object(values) => {
                values.iter_mut().for_each(|(name, value)| self.value(value, is_secret || is_name(name), hidden));
            }
        }
    }

    /// Takes all of it.
    fn take(&mut self, text: &mut String) -> bool {
        if text.is_empty() {
            return false;
        }
        // Of `Bearer x`, a guest may have used the second word alone.
        if let Some((_, rest)) = text.split_once(' ').filter(|_| is_value(text)) {
            self.values.push(rest.trim().to_owned());
        }
        self.values.push(std::mem::replace(text, WITHHELD.to_owned()));
        true
    }

    /// Takes the parts that look like one.
    fn text(&mut self, text: &mut String) -> bool {
        if is_value(text) {
            return self.take(text);
        }
        let (in_urls, in_pairs) = (without_users(text, &mut self.values), without_pairs(text, &mut self.values));
        in_urls || in_pairs
    }
}

/// The properties that are texts, by their names.
fn texts(properties: &mut Properties) -> impl Iterator<Item = (&'static str, &mut String)> {
    let Properties {
        message_id,
        correlation_id,
        reply_to,
        content_type,
        content_encoding,
        kind,
        app_id,
        expiration,
        user_id,
        priority: _,
        timestamp: _,
        delivery_mode: _,
    } = properties;
    let known = [
        ("message_id", message_id),
        ("correlation_id", correlation_id),
        ("reply_to", reply_to),
        ("content_type", content_type),
        ("content_encoding", content_encoding),
        ("type", kind),
        ("app_id", app_id),
        ("expiration", expiration),
        ("user_id", user_id),
    ];
    known.into_iter().filter_map(|(name, text)| Some((name, text.as_mut()?)))
}

/// Takes users and passwords out of the URLs in a text.
fn without_users(text: &mut String, found: &mut Vec<String>) -> bool {
    let mut from = 0;
    let mut hidden = false;
    while let Some(at) = text[from..].find("://") {
        let begin = from + at + "://".len();
        let rest = &text[begin..];
        let authority =
            &rest[..rest.find(|c: char| c.is_whitespace() || "/?#\"'<>`".contains(c)).unwrap_or(rest.len())];
        from = begin;
        let Some((user, _)) = authority.rsplit_once('@') else { continue };
        let password = user.split_once(':').map_or(user, |(_, password)| password);
        if password.is_empty() || user == WITHHELD {
            continue;
        }
        let decoded = percent_encoding::percent_decode_str(password).decode_utf8_lossy();
        found.extend([password.to_owned(), decoded.into_owned()]);
        let end = begin + user.len();
        text.replace_range(begin..end, WITHHELD);
        hidden = true;
    }
    hidden
}

/// Takes the values out of `token=…` and its like.
fn without_pairs(text: &mut String, found: &mut Vec<String>) -> bool {
    let separates = |c: char| c.is_whitespace() || "?&;,\"'{}".contains(c);
    let mut hidden = false;
    let mut from = 0;
    while let Some(at) = text[from..].find('=') {
        let at = from + at;
        let name = text[..at].rsplit(separates).next().unwrap_or_default();
        let value = &text[at + 1..];
        let value = &value[..value.find(separates).unwrap_or(value.len())];
        from = at + 1;
        if value.is_empty() || value == WITHHELD || !is_name(name) {
            continue;
        }
        found.push(value.to_owned());
        let end = from + value.len();
        text.replace_range(from..end, WITHHELD);
        hidden = true;
    }
    hidden
}

// === impl Secrets ===

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    pub fn new(values: impl IntoIterator<Item = String>) -> Secrets {
        Secrets::default().and(&values.into_iter().collect::<Vec<_>>())
    }

    /// These, and others.
    pub fn and(&self, others: &[String]) -> Secrets {
        let mut all: BTreeSet<String> = self.0.iter().cloned().collect();
        for secret in others.iter().filter(|secret| secret.len() >= SHORTEST) {
            // As it is within JSON.
            let escaped = Value::from(secret.as_str()).to_string();
            all.insert(escaped[1..escaped.len() - 1].to_owned());
            all.insert(secret.clone());
        }
        let mut all: Vec<String> = all.into_iter().collect();
        all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets(all)
    }

    pub(super) fn hide(&self, text: &mut String, place: impl FnOnce() -> String, found: &mut Found) {
        if self.hide_in_text(text) {
            found.note(place());
        }
    }

    pub(super) fn hide_in_message(&self, message: &mut Message, found: &mut Found) {
        for (name, value) in &mut message.headers {
            let mut hidden = self.hide_in_value(value);
            if let Value::String(text) = value
                && name == STDERR
            {
                hidden |= self.hide_at_edges(text);
            }
            if hidden {
                found.note(format!("header {name}"));
            }
        }
        for (name, text) in texts(&mut message.properties) {
            self.hide(text, || format!("property {name}"), found);
        }
    }

    fn hide_in_value(&self, value: &mut Value) -> bool {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
            Value::String(text) => self.hide_in_text(text),
            Value::Array(values) => values.iter_mut().fold(false, |any, value| self.hide_in_value(value) | any),
            Value::Object(values) => values.values_mut().fold(false, |any, value| self.hide_in_value(value) | any),
        }
    }

    /// Takes the secrets out of a text, and what looks like one.
    pub(super) fn hide_in_text(&self, text: &mut String) -> bool {
        let mut hidden = false;
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                *text = text.replace(secret.as_str(), WITHHELD);
                hidden = true;
            }
        }
        let mut looks = Vec::new();
        hidden | without_users(text, &mut looks) | without_pairs(text, &mut looks)
    }

    /// Takes a part of a secret from the start and the end of a text that may have been cut there.
    pub(super) fn hide_at_edges(&self, text: &mut String) -> bool {
        let mut hidden = false;
        for secret in &self.0 {
            let is_long = |part: &&str| part.len() >= SHORTEST_PART;
            let mut ends = secret.char_indices().skip(1).map(|(at, _)| &secret[at..]).take_while(is_long);
            if let Some(end) = ends.find(|end| text.starts_with(end)) {
                text.replace_range(..end.len(), WITHHELD);
                hidden = true;
            }
            let mut starts = secret.char_indices().rev().map(|(at, _)| &secret[..at]).take_while(is_long);
            if let Some(start) = starts.find(|start| text.ends_with(start)) {
                let from = text.len() - start.len();
                text.replace_range(from.., WITHHELD);
                hidden = true;
            }
        }
        hidden
    }

    /// Whether one of them is in these bytes.
    pub(super) fn are_in(&self, bytes: &[u8]) -> bool {
        let is_in = |secret: &[u8]| {
            let first = secret.first().copied();
            let starts = bytes.iter().enumerate().filter(|(_, byte)| Some(**byte) == first);
            starts.into_iter().any(|(at, _)| bytes[at..].starts_with(secret))
        };
        self.0.iter().any(|secret| is_in(secret.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_found_wherever_it_is() {
        for (text, shown) in [
            ("amqp://user:pa55word@host/x", "amqp://***@host/x"),
            ("see https://t0ken@h and http://a:b%40c@h?x", "see https://***@h and http://***@h?x"),
            ("https://h/?api_key=abc&x=1", "https://h/?api_key=***&x=1"),
            ("--password=abc", "--password=***"),
            ("Bearer abc", "***"),
            ("eyJh.eyJi.c", "***"),
            ("host=h password=abc", "host=h password=***"),
        ] {
            let (mut found, mut hidden) = (Found::default(), text.to_owned());
            assert!(found.text(&mut hidden), "{text}");
            assert_eq!(hidden, shown);
            assert!(!found.values().is_empty());
        }
        for harmless in ["", "apple", "https://h/a@b", "a=b", "x://", "1 = 2", "=", "token="] {
            let mut text = harmless.to_owned();
            assert!(!Found::default().text(&mut text), "{harmless}");
            assert_eq!(text, harmless);
        }
    }

    #[test]
    fn a_secret_that_was_found_in_one_place_is_hidden_in_all() {
        let headers = json!({
            "Authorization": "Bearer sesame-1",
            "a": {"deep": [{"X-Api-Key": 12_345_678}]},
            "said": "it was sesame-1, and 12345678, and \"env\nvalue\"",
            "harmless": 1,
        });
        let Value::Object(headers) = headers else { panic!("an object") };
        let mut message = Message { headers, ..Message::default() };
        message.properties.correlation_id = Some("sesame-1".into());
        let mut found = Found::default();
        found.message(&mut message);
        let secrets = Secrets::new(["env\nvalue".to_owned()]).and(found.values());
        secrets.hide_in_message(&mut message, &mut found);
        let said = "it was ***, and ***, and \"***\"";
        let expected =
            json!({"Authorization": "***", "a": {"deep": [{"X-Api-Key": "***"}]}, "said": said, "harmless": 1});
        assert_eq!(Value::from(message.headers), expected);
        assert_eq!(message.properties.correlation_id.as_deref(), Some("***"));
        assert_eq!(found.places(), ["header Authorization", "header a", "header said", "property correlation_id"]);
        let mut printed = Map::from_iter([("x".to_owned(), Value::from("env\nvalue"))]);
        let mut text = Value::from(std::mem::take(&mut printed)).to_string();
        assert!(secrets.hide_in_text(&mut text));
        assert_eq!(text, r#"{"x":"***"}"#, "as JSON writes it");
    }

    #[test]
    fn arguments_hide_what_follows_a_flag_of_a_secret() {
        let mut arguments = ["--user", "u", "--password", "hunter22", "--token", "--x", "y"].map(str::to_owned);
        let mut found = Found::default();
        found.arguments(&mut arguments);
        assert_eq!(arguments, ["--user", "u", "--password", "***", "--token", "--x", "y"]);
        assert_eq!(found.places(), ["argument 4"]);
    }

    #[test]
    fn a_secret_that_was_cut_or_is_among_bytes_is_hidden_too() {
        let secrets = Secrets::new(["sesame-öpen".to_owned(), "short".to_owned()]);
        for (cut, shown) in
            [("me-öpen and on", "*** and on"), ("it is sesame-ö", "it is ***"), ("pen, ses", "***, ***")]
        {
            let mut text = cut.to_owned();
            assert!(secrets.hide_at_edges(&mut text));
            assert_eq!(text, shown);
        }
        assert!(!secrets.hide_at_edges(&mut "en se".to_owned()));
        assert!(secrets.are_in("\0 sesame-öpen".as_bytes()) && !secrets.are_in(b"short"));
    }
}
