//! The table of the kinds of sink: a line each.

use std::str::FromStr;

use super::kind::{SinkKind, Spec};
use super::{directory, nowhere, queue, reply, stdout};
use crate::broker::kinds::listed;

/// All of them, in the order in which messages name them.
#[rustfmt::skip]
pub static KINDS: &[&SinkKind] = &[
    &stdout::KIND,
    &directory::KIND,
    &queue::QUEUE,
    &queue::EXCHANGE,
    &reply::KIND,
    &nowhere::KIND,
];

/// How all kinds are typed: "stdout, dir:PATH or none".
pub fn forms() -> String {
    let form = |kind: &&SinkKind| kind.rest.map_or(kind.name.to_owned(), |rest| format!("{}:{rest}", kind.name));
    listed(&KINDS.iter().map(form).collect::<Vec<_>>())
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Spec, String> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let kind = KINDS.iter().find(|kind| kind.name == name && kind.rest.is_some() == rest.is_some());
        let kind = kind.ok_or_else(|| format!("a result goes to {}", forms()))?;
        let rest = rest.unwrap_or_default();
        Ok(Spec { kind, rest: rest.to_owned(), needs: (kind.needs)(rest)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Address;
    use crate::sink::kind::Needs;

    #[test]
    fn a_spec_is_read_and_shown_as_it_is_typed() {
        for text in [
            "stdout",
            "none",
            "reply",
            "dir:/var/results",
            "dir:a:b",
            "queue:q",
            "exchange:e/k",
            "exchange:e/",
            "exchange:e/a/b",
        ] {
            assert_eq!(text.parse::<Spec>().unwrap().to_string(), text);
        }
        let needs = "exchange:e/a/b".parse::<Spec>().unwrap().needs;
        assert_eq!(needs, Needs::Address(Address::Exchange { name: "e".into(), key: "a/b".into() }));
        let long = format!("queue:{}", "x".repeat(256));
        for bad in ["", "nowhere", "dir:", "queue:", "exchange:e", "exchange:/k", "stdout:", "reply:q", &long] {
            assert!(bad.parse::<Spec>().is_err(), "{bad}");
        }
    }
}
