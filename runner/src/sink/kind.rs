//! What a kind of sink gives: how it is typed, what it needs, and what is open afterwards.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::error::Cause;
use super::record::Record;
use crate::broker::{self, Address, Outbox};
use crate::task::{Message, Undeliverable};

/// A kind of sink.
#[derive(Debug)]
pub struct SinkKind {
    /// What `--result` calls it.
    pub name: &'static str,
    /// What stands after the name and a colon, as the help writes it; nothing if the name is all.
    pub rest: Option<&'static str>,
    /// Reads what stands there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub needs: fn(&str) -> Result<Needs, String>,
    /// Whether `--result-format` applies to it: its results are bare bytes, without properties or headers around them.
    pub has_format: bool,
    /// Opens a sink, so that what is wrong with it shows before a message is taken.
    pub open: for<'a> fn(&'a Spec, Way) -> Opening<'a>,
}

/// A sink that is being opened.
pub type Opening<'a> = BoxFuture<'a, Result<Box<dyn Sink>, Cause>>;

/// What has to be there for a sink, which `config` looks at before a message is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing is written at all, so that it goes with no other sink.
    Nothing,
    Stdout,
    /// Something outside of the broker, which shows when the sink is opened.
    Place,
    /// A queue or an exchange of the broker that the messages come from.
    Address(Address),
    /// The broker, and a requester in each message.
    Requester,
}

/// `--result`: which kind of sink, and where.
#[derive(Clone, Debug)]
pub struct Spec {
    pub kind: &'static SinkKind,
    /// What was typed after the colon.
    pub rest: String,
    pub needs: Needs,
}

/// The way to the broker, for sinks that need it.
#[derive(Clone, Debug)]
pub struct Way(pub Option<Arc<dyn Outbox>>);

/// An open sink. Shows itself as the place where results go.
#[async_trait]
pub trait Sink: fmt::Debug + fmt::Display + Send + Sync {
    /// Writes one result. When this returns, it is where it should be.
    ///
    /// # Errors
    /// When that is not known.
    async fn write(&self, record: &Record) -> Result<(), Cause>;

    /// What is known before the run: a message whose result has nowhere to go is not worth one.
    fn undeliverable(&self, _message: &Message) -> Option<Undeliverable> {
        None
    }

    /// Whether it follows `--result-format`.
    fn has_format(&self) -> bool {
        false
    }

    /// Whether it makes use of a result's identity. That takes a hash of the message, which is more than many a run.
    fn identifies(&self) -> bool {
        true
    }

    /// Whether it does nothing with results, so that none needs to be made for it.
    fn discards(&self) -> bool {
        false
    }
}

impl Spec {
    /// The queue or the exchange, where it is a fixed one.
    pub fn address(&self) -> Option<&Address> {
        if let Needs::Address(address) = &self.needs { Some(address) } else { None }
    }

    /// The folder that results go to, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        (self.needs == Needs::Place).then(|| Path::new(&self.rest))
    }

    /// Whether results of this kind go to the broker.
    pub fn needs_broker(&self) -> bool {
        matches!(self.needs, Needs::Address(_) | Needs::Requester)
    }
}

impl PartialEq for Spec {
    fn eq(&self, other: &Spec) -> bool {
        self.kind.name == other.kind.name && self.rest == other.rest
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.rest {
            Some(_) => write!(f, "{}:{}", self.kind.name, self.rest),
            None => f.write_str(self.kind.name),
        }
    }
}

impl Way {
    /// # Errors
    /// Never in practice: the outbox is opened before a sink that needs it.
    pub fn outbox(self) -> Result<Arc<dyn Outbox>, Cause> {
        self.0.ok_or_else(|| broker::Error::Lost { source: Some("no connection was made for results".into()) }.into())
    }
}
