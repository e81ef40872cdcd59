//! The kinds of broker: a line each.

use super::adapter::BrokerKind;
use super::{amqp, sqlite};

/// All of them, in the order in which messages name them. Each line can have a `#[cfg(feature = …)]` before it.
#[rustfmt::skip]
pub static KINDS: &[&BrokerKind] = &[
    &amqp::kind::KIND,
    &sqlite::kind::KIND,
];
