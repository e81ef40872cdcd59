//! A result with its name, properties and headers, before a sink takes it.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode_byte, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::observe::trace::Span;
use crate::task::{Attempt, Message, Origin, Properties, System};

/// What a result says of itself, as headers.
pub type Headers = Map<String, Value>;

/// One result: what a guest wrote to stdout for one message, with its name and its properties.
#[derive(Clone, Debug)]
pub struct Record {
    pub body: Bytes,
    pub properties: Properties,
    pub headers: Headers,
    /// Where the message asks its answer to be sent.
    pub reply_to: Option<String>,
    /// For sinks that keep files. No two ids of messages have the same.
    pub file_name: String,
    /// The message's span: publishing the result is a part of it.
    pub span: Span,
    /// The kind of broker.
    pub system: System,
    /// The run that it comes from, if a sink tells of it.
    pub run: Run,
}

/// A run whose result is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The message's.
    pub id: Option<String>,
    pub attempt: u32,
    pub outcome: &'static str,
    pub exit_code: Option<u8>,
}

/// What is known of a result before the run that it comes from: everything but its body.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    properties: Properties,
    headers: Headers,
    reply_to: Option<String>,
    file_name: String,
    system: System,
}

/// Who we are, in the `app_id` of what we publish.
const APP_ID: &str = "wq-run";

/// The longest name of a file on every file system that matters.
const MAX_FILE_NAME: usize = 255;

impl Identity {
    /// The identity of the result of a message. Its `message_id` is the same for every run of it, here and elsewhere.
    pub fn new(
        message: &Message,
        origin: &Origin,
        guest: &str,
        attempt: Attempt,
        content_type: Option<&str>,
    ) -> Identity {
        let known = &message.properties;
        let message_id = known.message_id.as_deref().filter(|id| !id.is_empty());
        let id = result_id(&origin.queue, message_id, &message.body, guest);
        let mut headers = Headers::new();
        headers.insert("x-wq-guest".into(), guest.into());
        headers.insert("x-wq-attempt".into(), attempt.number.into());
        Identity {
            file_name: message_id.and_then(file_name).unwrap_or_else(|| id.clone()),
            properties: Properties {
                message_id: Some(id),
                correlation_id: known.correlation_id.clone().or_else(|| message_id.map(str::to_owned)),
                content_type: content_type.map(str::to_owned),
                app_id: Some(APP_ID.into()),
                ..Properties::default()
            },
            headers,
            reply_to: known.reply_to.clone(),
            system: origin.system,
        }
    }

    /// The result itself. What the span carries goes on in it.
    pub fn with(self, body: Bytes, span: &Span) -> Record {
        let Identity { mut properties, headers, reply_to, file_name, system } = self;
        properties.stamp();
        let run = Run::default();
        Record { body, properties, headers, reply_to, file_name, span: span.clone(), system, run }
    }
}

/// SHA-256 over the queue, the message and the guest, in hexadecimal digits. A message without an id is known by its body,
/// so that two of them with the same body count as one.
///
/// Each part goes in with its length, so that no two of them run into each other.
fn result_id(queue: &str, message_id: Option<&str>, body: &[u8], guest: &str) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(queue.as_bytes());
    match message_id {
        Some(id) => {
            part(b"id");
            part(id.as_bytes());
        }
        None => {
            part(b"body");
            part(&Sha256::digest(body));
        }
    }
    part(guest.as_bytes());
    HEXLOWER.encode(&hash.finalize())
}

/// An id as the name of a file: what is neither a letter, a digit nor one of `-_.` is written as in a URL, and so is a dot at
/// the start. Two ids never share a name. `None` if it would be too long.
fn file_name(id: &str) -> Option<String> {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    let escaped = utf8_percent_encode(id, ESCAPED).to_string();
    let name = match escaped.strip_prefix('.') {
        Some(rest) => format!("{}{rest}", percent_encode_byte(b'.')),
        None => escaped,
    };
    (!name.is_empty() && name.len() <= MAX_FILE_NAME).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(queue: &str, id: Option<&str>, body: &'static str, guest: &str, number: u32) -> Identity {
        let properties = Properties { message_id: id.map(str::to_owned), ..Properties::default() };
        let message = Message { body: body.into(), properties, ..Message::default() };
        let origin = Origin { queue: queue.into(), ..Origin::default() };
        Identity::new(&message, &origin, guest, Attempt { number, max: 3 }, None)
    }

    fn id(queue: &str, id: Option<&str>, body: &'static str, guest: &str) -> String {
        identity(queue, id, body, guest, 1).properties.message_id.unwrap()
    }

    #[test]
    fn a_results_id_is_that_of_the_queue_the_message_and_the_guest_and_of_nothing_else() {
        let first = id("q", Some("m"), "body", "g");
        assert_eq!(first.len(), 64);
        assert_eq!(first, identity("q", Some("m"), "another body", "g", 2).properties.message_id.unwrap());
        for other in [
            id("r", Some("m"), "body", "g"),
            id("q", Some("n"), "body", "g"),
            id("q", Some("m"), "body", "h"),
            id("q", None, "body", "g"),
            id("qm", Some(""), "body", "g"),
        ] {
            assert_ne!(first, other);
        }
        assert_eq!(id("q", None, "body", "g"), id("q", Some(""), "body", "g"), "an empty id is none");
        assert_ne!(id("q", None, "body", "g"), id("q", None, "bodz", "g"));
    }

    #[test]
    fn the_id_is_the_same_in_every_version_of_the_program() {
        // Readers keep these.
        assert_eq!(
            id("job1", Some("m-1"), "", "sha256:00"),
            "6926aacd08c859c7bb8c4f9eda67efb6ac99e8074f6f95c57a57d58c779304f6"
        );
    }

    #[test]
    fn a_name_never_leaves_the_folder() {
        for (id, name) in [
            ("m-1", "m-1"),
            ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            (".", "%2E"),
            ("a b", "a%20b"),
            ("é", "%C3%A9"),
            ("a\0b", "a%00b"),
            ("100%", "100%25"),
            (" \n\x7f", "%20%0A%7F"),
            ("az-AZ_09.", "az-AZ_09."),
            ("a~b+c", "a%7Eb%2Bc"),
            ("!\"#$&'()*,", "%21%22%23%24%26%27%28%29%2A%2C"),
            ("/:;<=>?@[\\]^`{|}", "%2F%3A%3B%3C%3D%3E%3F%40%5B%5C%5D%5E%60%7B%7C%7D"),
        ] {
            assert_eq!(file_name(id).as_deref(), Some(name));
        }
        assert_eq!(file_name(&"x".repeat(256)), None);
        assert_eq!(file_name(&"/".repeat(100)), None);
        let long = "/".repeat(100);
        let identity = identity("q", Some(&long), "", "g", 1);
        assert_eq!(Some(identity.file_name), identity.properties.message_id);
    }

    proptest! {
        #[test]
        fn no_two_ids_share_a_file(a in ".{1,30}", b in ".{1,30}") {
            prop_assert_eq!(a == b, file_name(&a) == file_name(&b));
        }
    }
}
