//! The vocabulary: what a message is, how a run can end, and what becomes of the message then.
//!
//! Nothing here does anything. Every other module speaks in these types, so this one imports none of them.

pub mod limits;
mod usage;

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use limits::Limit;
pub use usage::Usage;

/// What a producer published.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub body: Bytes,
    pub properties: Properties,
    /// Application headers, in the form that JSON gives them. A broker adapter that has to publish a message again
    /// uses its own native copy, so that nothing is lost in this view.
    pub headers: Map<String, Value>,
}

/// The properties that AMQP 0-9-1 gives a message; the embedded queue keeps the same ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// 2 is persistent. Never carried over to a message of our own, which is always persistent; nor are the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_mode: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
}

impl Properties {
    /// Sets the timestamp to now, unless the message already has one.
    pub fn stamp(&mut self) {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs());
        self.timestamp = self.timestamp.or_else(now);
    }
}

/// Where a delivery came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub queue: String,
    pub exchange: String,
    pub routing_key: String,
    /// The broker says that it handed this message over before.
    pub redelivered: bool,
    /// The broker's number of this delivery, for the log.
    pub delivery_tag: u64,
    /// When the broker got the message, where it tells. A publisher says that by the property `timestamp`.
    pub received: Option<SystemTime>,
    pub system: System,
}

impl Origin {
    /// A message of a broker without exchanges, which finds its queue by the queue's name. Its delivery has no number yet.
    pub fn of_queue(queue: &str, redelivered: bool, system: System) -> Origin {
        Origin {
            queue: queue.to_owned(),
            routing_key: queue.to_owned(),
            exchange: String::new(),
            redelivered,
            delivery_tag: 0,
            received: None,
            system,
        }
    }
}

/// What traces say of a kind of broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// The name that OpenTelemetry's conventions have for it.
    pub name: &'static str,
    /// The attribute that holds the routing key, where the conventions have one.
    pub routing_key: Option<&'static str>,
    /// The attribute that holds the broker's number of a delivery, where the conventions have one.
    pub delivery_tag: Option<&'static str>,
}

/// Which run of its message this is: 1 is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub number: u32,
    /// `--max-attempts`: the run with this number is the last one.
    pub max: u32,
}

impl Attempt {
    pub fn is_last(self) -> bool {
        self.number >= self.max
    }
}

/// How a run of a guest ended. The sandbox knows no other ends, and no queue.
///
/// A guest that fails is an outcome and not an error: no `?` can carry it past the settlement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The guest returned from `_start`, or exited with 0.
    Succeeded,
    /// The guest succeeded and wrote nothing to stdout, where that is a failure.
    Silent,
    /// The guest exited with this code, which is not 0.
    Exited(u8),
    /// The guest crashed: what the engine says of it.
    Trapped(String),
    /// The guest was still running after this long.
    TimedOut(Duration),
    /// The guest went over one of its limits.
    LimitExceeded(Limit),
    /// The run was never begun, since nobody wanted it any more.
    Withdrawn,
    /// We stopped the guest for a reason that is none of its own: its lease was lost, or the worker shuts down.
    Interrupted,
    /// The guest took down the process that ran it, which was not the worker's own. Holds what is known of its end.
    Crashed(String),
    /// The host failed, not the guest: what went wrong.
    HostFault(String),
    /// The guest neither finished nor could be stopped; its thread is still computing.
    Stuck(Duration),
    /// Not run, because this many threads still wait for files of earlier runs: the process should take no further message.
    Blocked(usize),
}

/// How a delivery ended: with the outcome of its run, or in one of the ways that only a message of a queue can end.
/// The policy decides on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Run(Outcome),
    /// Not run: this many earlier deliveries ended without an outcome, as when the guest takes its worker down with it.
    Abandoned(u32),
    /// The message is larger than `--max-message`, which is this many bytes. The guest was not run.
    TooLarge(u64),
    /// The queue holds the message in a form that cannot be read: what is wrong with it. The guest was not run.
    Unreadable(String),
    /// The body is not in the encoding that the message names: what is wrong with it. The guest was not run.
    Undecodable(String),
    /// The result of this message can never be delivered.
    Undeliverable(Undeliverable),
    /// Results are refused where they should go, or that place does not exist: the next message would fare the same.
    Refused(Refused, String),
    /// The host failed before or after the run: what went wrong.
    HostFault(String),
}

/// Why results are refused where they should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A queue, an exchange or a binding is missing.
    Configuration,
    /// We lack the permission.
    Right,
}

/// Why no further try would deliver a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undeliverable {
    /// What the broker says of it.
    TooLarge(String),
    /// Results are answers, and the message asks for none. The guest was not run.
    NoReplyTo,
    /// Where the name of its file is taken by a folder, or refused: what the file system says of it.
    Unwritable(String),
    /// Whoever asked has gone: the queue of its `reply_to`.
    NoRequester(String),
}

impl Outcome {
    /// The name in logs, metrics and the `x-wq-outcome` header.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Succeeded => "success",
            Outcome::Silent => "empty-output",
            Outcome::Exited(_) => "exit",
            Outcome::Trapped(_) => "trap",
            Outcome::TimedOut(_) | Outcome::Stuck(_) => "timeout",
            Outcome::LimitExceeded(limit) => limit.name(),
            Outcome::Crashed(_) => "crash",
            Outcome::Withdrawn => "withdrawn",
            Outcome::Interrupted => "interrupted",
            Outcome::HostFault(_) | Outcome::Blocked(_) => "host-fault",
        }
    }

    /// Whether the guest came to this end by itself or by its limits, and not by what became of its host.
    pub fn is_the_guests(&self) -> bool {
        match self {
            Outcome::Withdrawn
            | Outcome::Interrupted
            | Outcome::HostFault(_)
            | Outcome::Blocked(_)
            | Outcome::Stuck(_) => false,
            Outcome::Succeeded
            | Outcome::Silent
            | Outcome::Exited(_)
            | Outcome::Trapped(_)
            | Outcome::TimedOut(_)
            | Outcome::LimitExceeded(_)
            | Outcome::Crashed(_) => true,
        }
    }

    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Outcome::Succeeded | Outcome::Silent => Some(0),
            Outcome::Exited(code) => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Succeeded => write!(f, "the guest succeeded"),
            Outcome::Silent => write!(f, "the guest exited with 0 and wrote nothing to stdout (--empty-output fail)"),
            Outcome::Exited(code) => write!(f, "the guest exited with {code}"),
            Outcome::Trapped(trap) => write!(f, "the guest crashed: {trap}"),
            Outcome::TimedOut(limit) => {
                write!(f, "the guest was still running after {} (--timeout)", humantime::format_duration(*limit))
            }
            Outcome::LimitExceeded(limit) => write!(f, "{limit}"),
            Outcome::Crashed(end) => write!(f, "the guest took its process down: {end}"),
            Outcome::Withdrawn => write!(f, "the run never started"),
            Outcome::Interrupted => write!(f, "the run was stopped before its end"),
            Outcome::HostFault(fault) => write!(f, "{fault}"),
            Outcome::Blocked(threads) => write!(
                f,
                "{threads} file operations of earlier runs have not returned (a pipe or a network file system in --dir?)"
            ),
            Outcome::Stuck(limit) => {
                write!(f, "the guest could not be stopped after its {} (--timeout)", humantime::format_duration(*limit))
            }
        }
    }
}

impl Verdict {
    /// The name in logs, metrics and the `x-wq-outcome` header.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Run(outcome) => outcome.name(),
            Verdict::Abandoned(_) => "abandoned",
            Verdict::TooLarge(_) => "message",
            Verdict::Unreadable(_) => "unreadable",
            Verdict::Undecodable(_) => "encoding",
            Verdict::Undeliverable(why) => why.name(),
            Verdict::Refused(..) | Verdict::HostFault(_) => "host-fault",
        }
    }

    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Verdict::Run(outcome) => outcome.exit_code(),
            _ => None,
        }
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Verdict {
        Verdict::Run(outcome)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Run(outcome) => write!(f, "{outcome}"),
            Verdict::Abandoned(runs) => {
                write!(
                    f,
                    "the message was delivered {runs} times before without a known outcome, for example because its worker was killed; it is not run again"
                )
            }
            Verdict::TooLarge(limit) => write!(f, "the message is larger than {limit} bytes (--max-message)"),
            Verdict::Unreadable(reason) => write!(f, "the message cannot be read: {reason}"),
            Verdict::Undecodable(reason) => {
                write!(f, "the message is not in the encoding that it names (--decode): {reason}")
            }
            Verdict::Undeliverable(why) => write!(f, "{why}"),
            Verdict::Refused(_, fault) | Verdict::HostFault(fault) => write!(f, "{fault}"),
        }
    }
}

impl Undeliverable {
    fn name(&self) -> &'static str {
        match self {
            Undeliverable::TooLarge(_) => "result-too-large",
            Undeliverable::NoReplyTo => "no-reply-to",
            Undeliverable::Unwritable(_) => "result-unwritable",
            Undeliverable::NoRequester(_) => "no-requester",
        }
    }
}

impl fmt::Display for Undeliverable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undeliverable::TooLarge(reason) => write!(f, "the result is too large for its sink: {reason}"),
            Undeliverable::NoReplyTo => {
                write!(f, "the result is a reply (--result reply), but the message has no reply_to")
            }
            Undeliverable::Unwritable(reason) => write!(f, "the result can never be written: {reason}"),
            Undeliverable::NoRequester(reply_to) => {
                write!(f, "nobody is waiting for a reply at `{reply_to}` any more")
            }
        }
    }
}

/// All that a run leaves behind.
#[derive(Clone, Debug)]
pub struct Report {
    pub outcome: Outcome,
    /// What the guest wrote to stdout, whole.
    pub stdout: Bytes,
    /// The last of what the guest wrote to stderr, for the dead letter.
    pub stderr_tail: String,
    pub duration: Duration,
    pub usage: Usage,
    /// The calls in which the guest crashed, innermost first.
    pub stack: Vec<Call>,
}

/// A call of a function of the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The function's name, as far as the guest has it.
    pub name: String,
    pub position: Option<Position>,
}

/// A place in the code of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The function's number in its module.
    pub function: u32,
    /// Bytes from the beginning of the guest's binary.
    pub offset: usize,
}

impl Report {
    /// A report of a run that wrote nothing, or whose output is of no use to anyone.
    pub fn bare(outcome: Outcome, duration: Duration) -> Report {
        let (stdout, stderr_tail, usage, stack) = Default::default();
        Report { outcome, stdout, stderr_tail, duration, usage, stack }
    }
}

/// What a retried or dead message says of the run that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub outcome: &'static str,
    pub exit_code: Option<u8>,
    pub error: String,
    pub stderr: String,
    /// Digest of the guest that failed.
    pub guest: String,
    pub attempt: u32,
    pub at: SystemTime,
    pub usage: Usage,
}

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done: the broker may forget the message.
    Ack,
    /// It comes again after this long, with its attempt counted.
    Retry { after: Duration, failure: Box<Failure> },
    /// It is kept aside with the reason, and not run again.
    DeadLetter { failure: Box<Failure> },
    /// It is handed over to the broker's own dead-lettering. Whether it is kept is not known to us.
    Reject { failure: Box<Failure> },
    /// Given back as if it had never been taken, wherever the broker allows that.
    Release,
}

impl Settlement {
    pub fn name(&self) -> &'static str {
        match self {
            Settlement::Ack => "ack",
            Settlement::Retry { .. } => "retry",
            Settlement::DeadLetter { .. } => "dead-letter",
            Settlement::Reject { .. } => "reject",
            Settlement::Release => "release",
        }
    }

    /// What it says of the run that failed.
    pub fn failure_mut(&mut self) -> Option<&mut Failure> {
        match self {
            Settlement::Retry { failure, .. } | Settlement::DeadLetter { failure } | Settlement::Reject { failure } => {
                Some(failure)
            }
            Settlement::Ack | Settlement::Release => None,
        }
    }
}
