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

/// How addresses of all kinds begin: "`amqp://…`, `amqps://…` or `sqlite:PATH`".
pub fn schemes() -> String {
    let forms = KINDS.iter().flat_map(|kind| kind.forms).map(|form| {
        let rest = if form.prefix.ends_with("//") { "…" } else { form.rest };
        format!("`{}{rest}`", form.prefix)
    });
    listed(&forms.collect::<Vec<_>>())
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
