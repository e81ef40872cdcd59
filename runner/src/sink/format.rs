//! `--result-format`: the format of results on stdout and in files, which carry no properties.

use std::borrow::Cow;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::Serialize;

use super::record::{Record, Run};
use crate::blocking;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As the guest wrote it, byte for byte.
    #[default]
    Raw,
    /// With a newline at its end, if it has none. A result without a byte stays so.
    Lines,
    /// A line of JSON, also for a result without a byte.
    Json,
}

/// A result as a line of JSON. Whatever is in the result, its line has one newline, at the end.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    run: &'a Run,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    /// In place of `result`, if that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_base64: Option<String>,
}

/// A result of more bytes is not formatted on the thread that serves the broker.
const LARGE: usize = 64 << 10;

impl Format {
    /// The record as a sink gets it that follows the format.
    pub async fn format<'a>(self, record: &'a Record) -> Cow<'a, Record> {
        let (body, run) = (record.body.clone(), record.run.clone());
        let body = match self {
            Format::Raw => return Cow::Borrowed(record),
            _ if body.len() > LARGE => blocking::call(move || self.body(body, &run)).await,
            _ => self.body(body, &run),
        };
        Cow::Owned(Record { body, ..record.clone() })
    }

    fn body(self, body: Bytes, run: &Run) -> Bytes {
        match self {
            Format::Raw => body,
            Format::Lines if body.is_empty() || body.ends_with(b"\n") => body,
            Format::Lines => [&body[..], b"\n"].concat().into(),
            Format::Json => {
                let text = std::str::from_utf8(&body).ok();
                let packed = if text.is_none() { Some(BASE64.encode(&body)) } else { None };
                // A struct of texts and numbers is always JSON.
                let line = serde_json::to_vec(&Line { run, result: text, result_base64: packed });
                let mut line = line.unwrap_or_default();
                line.push(b'\n');
                line.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn formatted(format: Format, body: &[u8]) -> Bytes {
        let run = Run { id: Some("m-1".into()), attempt: 2, outcome: "success", exit_code: Some(0) };
        format.body(Bytes::copy_from_slice(body), &run)
    }

    #[test]
    fn a_line_ends_with_one_newline_and_nothing_stays_nothing() {
        for (body, line) in [("abc", "abc\n"), ("abc\n", "abc\n"), ("a\nb", "a\nb\n"), ("\n", "\n"), ("", "")] {
            assert_eq!(formatted(Format::Lines, body.as_bytes()), line);
        }
    }

    #[test]
    fn a_line_of_json_says_whose_result_it_is() {
        let line: Value = serde_json::from_slice(&formatted(Format::Json, b"a\n\xc3\xa4")).unwrap();
        let expected =
            json!({ "id": "m-1", "attempt": 2, "outcome": "success", "exit_code": 0, "result": "a\n\u{e4}" });
        assert_eq!(line, expected);
        let line: Value = serde_json::from_slice(&formatted(Format::Json, b"\xff\0")).unwrap();
        assert_eq!((&line["result"], line["result_base64"].as_str()), (&Value::Null, Some("/wA=")));
    }

    proptest! {
        #[test]
        fn whatever_the_result_is_its_json_is_one_line_and_holds_every_byte(
            body in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), ".*".prop_map(String::into_bytes)],
        ) {
            let line = formatted(Format::Json, &body);
            prop_assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
            let line: Value = serde_json::from_slice(&line).unwrap();
            let read = match line["result"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => BASE64.decode(line["result_base64"].as_str().unwrap().as_bytes()).unwrap(),
            };
            prop_assert_eq!(read, body);
        }
    }
}
