//! What a case holds, and how it is read and written.
//!
//! It is JSON. It is read as what a stranger may have sent: with one version, no unknown names, and bounds.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::delivered::{Delivered, Delivery};
use super::output::Output;
use super::secrets::{self, Secrets};
use crate::observe::trace::Carried;
use crate::task::{self, Attempt, Outcome, Usage, limits};

/// The version that is written, and the only one that is read.
pub const VERSION: u64 = 1;

/// The most values that a case may have. Far more than a real one has: it stops a file that was made to fill its reader's
/// memory.
const MOST_VALUES: usize = 100_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub version: u64,
    /// UTC, as RFC 3339 has it.
    pub recorded_at: String,
    pub guest: Guest,
    pub message: Delivered,
    #[serde(default)]
    pub context: Context,
    /// Not known of a dead letter, nor are the grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Flags>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<Grants>,
    pub run: End,
    /// What was left out since it is a secret, or looks like one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<String>,
}

/// The guest that ran, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// The name of its file, without the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What the guest was told that is not of its message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Context {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_completion_index: Option<String>,
}

/// What was typed about the guest, but for what it was granted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv0: Option<String>,
    pub isolation: Isolation,
    pub deterministic: bool,
    /// `--empty-output fail`.
    pub output_is_due: bool,
    pub metadata: bool,
    pub decode: bool,
    /// By the names of their flags. Times are written as they are typed, and all others are numbers.
    pub limits: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    #[default]
    Thread,
    Process,
}

/// What the guest might use of its host: names and places, and no values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// The names of variables. Their values are never kept.
    pub env: Vec<String>,
    pub inherit_env: bool,
    /// HOST::GUEST:ro or HOST::GUEST:rw.
    pub dir: Vec<String>,
    pub allow_net: Vec<String>,
    pub allow_http: Vec<String>,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<u64>,
}

/// What came out, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Output>,
    /// The last of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Output>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
}

/// Why bytes are no case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it is of version {0}, and this wq-run reads version {known}", known = VERSION)]
    Version(u64),
    #[error("it has more than {most} values, which no case has", most = MOST_VALUES)]
    TooMany,
    #[error("{0}")]
    Damaged(String),
}

// === impl Case ===

impl Case {
    pub fn new(guest: Guest, message: Delivered, run: End) -> Case {
        Case {
            version: VERSION,
            recorded_at: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            guest,
            message,
            context: Context::default(),
            flags: None,
            grants: None,
            run,
            withheld: Vec::new(),
        }
    }

    /// Reads a case.
    ///
    /// # Errors
    /// When it is none, is damaged or of another version.
    pub fn read(bytes: &[u8]) -> Result<Case, Error> {
        /// Any version has this.
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        if values(bytes) > MOST_VALUES {
            return Err(Error::TooMany);
        }
        let damaged = |error: serde_json::Error| Error::Damaged(error.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// Takes out of it what is a secret or looks like one, in everything but the body.
    pub fn withhold(&mut self, known: &Secrets) {
        let mut found = secrets::Found::default();
        found.message(&mut self.message.message);
        if let Some(flags) = &mut self.flags {
            found.arguments(&mut flags.args);
        }
        let secrets = known.and(found.values());
        secrets.hide_in_message(&mut self.message.message, &mut found);
        let context = &mut self.context;
        let places = [
            ("the traceparent", context.traceparent.as_mut()),
            ("the tracestate", context.tracestate.as_mut()),
            ("the error", self.run.error.as_mut()),
            ("argv[0]", self.flags.as_mut().and_then(|flags| flags.argv0.as_mut())),
        ];
        for (place, text) in places {
            if let Some(text) = text {
                secrets.hide(text, || place.to_owned(), &mut found);
            }
        }
        for (number, argument) in self.flags.iter_mut().flat_map(|flags| &mut flags.args).enumerate() {
            secrets.hide(argument, || format!("argument {}", number + 1), &mut found);
        }
        if let Some(grants) = &mut self.grants {
            let lists = [
                ("--dir", &mut grants.dir),
                ("--allow-net", &mut grants.allow_net),
                ("--allow-http", &mut grants.allow_http),
            ];
            for (flag, list) in lists {
                for entry in list {
                    secrets.hide(entry, || flag.to_owned(), &mut found);
                }
            }
        }
        for (place, output) in [("stdout", &mut self.run.stdout), ("stderr", &mut self.run.stderr)] {
            if let Some(output) = output
                && output.hide(&secrets)
            {
                found.note(place.to_owned());
            }
        }
        self.withheld = found.places();
    }

    /// Whether a part of an output was taken out.
    pub fn is_withheld(&self, place: &str) -> bool {
        self.withheld.iter().any(|withheld| withheld == place)
    }

    /// What the guest is told beside its message.
    pub fn carried(&self) -> Carried {
        let Context { traceparent, tracestate, .. } = self.context.clone();
        Carried { traceparent, tracestate }
    }

    pub fn attempt(&self) -> Attempt {
        /// `--max-attempts`, where nobody says another number.
        const DEFAULT: u32 = 3;
        let Delivery { attempt: number, max_attempts, .. } = self.message.delivery;
        Attempt { number, max: max_attempts.unwrap_or(number.max(DEFAULT)) }
    }
}

/// About how many values there are in a JSON text: a short text can become a large tree.
fn values(json: &[u8]) -> usize {
    let (mut count, mut in_text, mut escaped) = (0, false, false);
    for byte in json {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_text = false,
            (false, b'"') => in_text = true,
            (false, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

// === impl Flags ===

impl Flags {
    /// The limits in the form of a case. One that is granted is among the grants.
    pub fn limits_of(limits: &task::limits::Limits) -> BTreeMap<String, Value> {
        let value = |value| match value {
            limits::Value::Time(time) => Value::from(humantime::format_duration(time).to_string()),
            limits::Value::Number(number) => number.into(),
        };
        let known = limits.values().into_iter().filter(|(row, _)| !row.is_grant);
        known.filter_map(|(row, known)| Some((row.flag.to_owned(), value(known?)))).collect()
    }

    /// The limits that it has.
    ///
    /// # Errors
    /// Says which one can't be read.
    pub fn limits(&self) -> Result<Vec<(&'static limits::Row, limits::Value)>, Error> {
        let read = |(name, value): (&String, &Value)| {
            let row = limits::Limits::TABLE.iter().find(|row| row.flag == name && !row.is_grant)?;
            let value = match (row.unit, value) {
                (limits::Unit::Time, Value::String(text)) => {
                    limits::Value::Time(humantime::parse_duration(text).ok().filter(|time| *time <= LONGEST)?)
                }
                (limits::Unit::Bytes | limits::Unit::Count, Value::Number(number)) => {
                    limits::Value::Number(number.as_u64()?)
                }
                (limits::Unit::Positive, Value::Number(number)) => {
                    limits::Value::Number(number.as_u64().filter(|number| *number > 0)?)
                }
                _ => return None,
            };
            Some((*row, value))
        };
        let wrong = |name: &str| {
            Error::Damaged(format!("its limit `{name}` is none that this wq-run has, or has no such value"))
        };
        self.limits.iter().map(|limit| read(limit).ok_or_else(|| wrong(limit.0))).collect()
    }
}

/// The longest time that a limit can be. 100 years, as on the command line.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

// === impl End ===

impl End {
    /// What came out of a run; nothing of one that did not come to its own end.
    pub fn of(outcome: &Outcome, stdout: &[u8], stderr: &str, duration: Option<Duration>, usage: Usage) -> Option<End> {
        if !outcome.is_the_guests() {
            return None;
        }
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(End {
            outcome: Some(outcome.name().to_owned()),
            exit_code: outcome.exit_code(),
            error: (*outcome != Outcome::Succeeded).then(|| outcome.to_string()),
            stdout: Some(Output::of(stdout)),
            stderr: Some(Output::of(stderr.as_bytes())),
            duration_ms: duration.map(millis),
            cpu_ms: usage.cpu.map(millis),
            peak_memory_bytes: usage.peak_memory,
            fuel: usage.fuel,
        })
    }
}

/// A case with something in each of its parts.
#[cfg(test)]
pub(super) fn sample() -> Case {
    let properties = task::Properties { message_id: Some("m-1".into()), ..task::Properties::default() };
    let headers = serde_json::Map::from_iter([("h".to_owned(), serde_json::json!(["x", 1, null]))]);
    let message = task::Message { body: (&b"\xff body"[..]).into(), properties, headers };
    let message = Delivered::new(message, &task::Origin { queue: "q".into(), ..task::Origin::default() }, 2, Some(3));
    let end = End::of(&Outcome::Exited(65), b"out", "err", Some(Duration::from_millis(3)), Usage::default());
    let mut case = Case::new(Guest { name: Some("g.wasm".into()), digest: None }, message, end.unwrap_or_default());
    case.flags = Some(Flags {
        args: vec!["a".into()],
        limits: Flags::limits_of(&task::limits::Limits::default()),
        ..Flags::default()
    });
    case.grants = Some(Grants { env: vec!["K".into()], scratch: Some(1), ..Grants::default() });
    case
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::envelope;

    #[test]
    fn a_case_is_read_as_it_was_written() {
        let case = sample();
        let json = serde_json::to_vec_pretty(&case).unwrap();
        assert_eq!(Case::read(&json).unwrap(), case);
        let limits = case.flags.unwrap().limits().unwrap();
        assert_eq!(limits.len(), task::limits::Limits::TABLE.iter().filter(|row| row.default.is_some()).count());
    }

    #[test]
    fn its_message_can_be_published_again() {
        let case = serde_json::to_value(sample()).unwrap();
        let message = envelope::read(case["message"].to_string().as_bytes()).unwrap();
        assert_eq!((&message.body[..], message.properties.message_id.as_deref()), (&b"\xff body"[..], Some("m-1")));
    }

    #[test]
    fn what_is_no_case_is_refused_with_the_reason() {
        let good = serde_json::to_value(sample()).unwrap();
        let with = |path: &str, value: Value| {
            let mut case = good.clone();
            *case.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
            Case::read(case.to_string().as_bytes()).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(with("/version", 1.into()), Ok(()));
        for (path, value, why) in [
            ("/version", json!(2), "version 2"),
            ("/version", json!(0), "version 0"),
            ("/version", json!("1"), "invalid type"),
            ("/guest", json!({"path": "/etc"}), "unknown field `path`"),
            ("/message/body", json!(1), "no string `body`"),
            ("/message/body_encoding", json!("hex"), "hex"),
            ("/message/body", json!("?"), "not base64"),
            ("/message/delivery_info/attempt", json!(0), "the first is 1"),
            ("/message/delivery_info/queue", json!(null), "delivery_info"),
            ("/message/properties/message_id", json!(1), "properties"),
            ("/flags/isolation", json!("none"), "unknown variant"),
            ("/run/exit_code", json!(256), "256"),
            ("/run", json!({"colour": 1}), "unknown field `colour`"),
            ("/grants/dir", json!("/"), "invalid type"),
        ] {
            let refused = with(path, value).unwrap_err();
            assert!(refused.contains(why), "{path}: {refused}");
        }
        for text in ["", "[]", "null", "{}", "{\"version\": 1}", "nonsense"] {
            assert!(matches!(Case::read(text.as_bytes()), Err(Error::Damaged(_))), "{text}");
        }
        let mut two = serde_json::to_vec(&good).unwrap();
        two.extend(two.clone());
        assert!(matches!(Case::read(&two), Err(Error::Damaged(_))));
        let zeros = vec!["0"; MOST_VALUES + 1].join(",");
        assert_eq!(Case::read(format!("{{\"version\": 1, \"x\": [{zeros}]}}").as_bytes()), Err(Error::TooMany));
        let limit = |name: &str, value: Value| {
            Flags { limits: BTreeMap::from([(name.to_owned(), value)]), ..Flags::default() }.limits().is_ok()
        };
        assert!(limit("timeout", json!("25m")) && limit("max-stdout", json!(0)) && limit("fuel", json!(1)));
        assert!(!limit("timeout", json!(1)) && !limit("timeout", json!("1000000y")) && !limit("fuel", json!(0)));
        assert!(!limit("scratch", json!(1)) && !limit("colour", json!(1)) && !limit("max-stdout", json!(-1)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_its_reader_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut json = serde_json::to_vec(&sample()).unwrap();
            let at = at.index(json.len());
            if cut { json.truncate(at) } else { json[at] = byte }
            if let Ok(case) = Case::read(&json) {
                let again = serde_json::to_vec(&case).unwrap();
                prop_assert_eq!(Case::read(&again).unwrap(), case);
            } else {
                prop_assert!(true);
            }
        }
    }
}
