//! The table of the kinds of broker: a line each.

use std::collections::BTreeSet;

use super::adapter::BrokerKind;

/// All of them, in the order in which messages name them. Each line can have a `#[cfg(feature = …)]` before it.
#[rustfmt::skip]
pub static KINDS: &[&BrokerKind] = &[
    &super::amqp::kind::KIND,
    #[cfg(feature = "redis")]
    &super::redis::kind::KIND,
    &super::sqlite::kind::KIND,
    #[cfg(feature = "sqs")]
    &super::sqs::kind::KIND,
];

/// A kind that a build can leave out.
pub struct Optional {
    pub feature: &'static str,
    prefixes: &'static [&'static str],
    is_in: bool,
}

/// All of them, whether they are in or not.
const OPTIONAL: &[Optional] = &[
    Optional {
        feature: "redis",
        prefixes: &["redis:", "rediss:", "redis+unix:", "valkey:", "valkeys:"],
        is_in: cfg!(feature = "redis"),
    },
    Optional { feature: "sqs", prefixes: &["sqs:", "https:"], is_in: cfg!(feature = "sqs") },
];

/// The kind that this address would be of, if it had not been left out.
pub fn left_out(address: &str) -> Option<&'static Optional> {
    let is_of = |kind: &Optional| kind.prefixes.iter().any(|prefix| address.starts_with(prefix));
    OPTIONAL.iter().find(|kind| !kind.is_in && is_of(kind))
}

/// The brokers that this build knows, by the schemes of their addresses.
pub fn names() -> Vec<&'static str> {
    let prefixes = KINDS.iter().filter_map(|kind| kind.forms.first()).map(|form| form.prefix.trim_end_matches("://"));
    prefixes.map(|prefix| prefix.trim_end_matches(':')).collect()
}

/// How addresses of all kinds are written, with all of their parts.
pub fn addresses() -> String {
    let forms = KINDS.iter().flat_map(|kind| kind.forms).map(|form| format!("{}{}", form.prefix, form.rest));
    listed(&forms.collect::<Vec<_>>())
}

/// The types of queues that at least one kind has.
pub fn queue_types() -> BTreeSet<&'static str> {
    KINDS.iter().flat_map(|kind| kind.queue_types).copied().collect()
}

/// `a, b or c`
pub fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
