//! Where results go. A message is acknowledged only after every sink has taken its result.

mod directory;
mod queue;
mod record;
mod reply;
mod stdout;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use record::{Identity, Record};

use self::directory::Directory;
use self::queue::Queue;
use crate::broker::{self, Address, Kind, MAX_NAME, Outbox};
use crate::causes::chain;
use crate::task::{Message, Refused, Undeliverable, Verdict};

/// `--result`: which kind of sink, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// To our own stdout, byte for byte.
    Stdout,
    /// Into a folder, a file a message.
    Directory(std::path::PathBuf),
    /// Into a queue, or to an exchange, of the broker that the messages come from.
    Publish(Address),
    /// To the queue that the message names.
    Reply,
    /// Nowhere: the guest's work is done when it exits.
    None,
}

/// An open sink.
#[derive(Debug)]
pub enum Sink {
    Stdout,
    Directory(Directory),
    Queue(Queue),
    Reply(Arc<dyn Outbox>),
    None,
    /// For the tests of the worker, which look at what was written when.
    #[cfg(test)]
    Memory(std::sync::Arc<std::sync::Mutex<Vec<bytes::Bytes>>>),
}

/// A result that is not known to be where it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot deliver the result to {to}")]
pub struct Error {
    to: String,
    source: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The folder takes results, but not this one.
    #[error("a file with the name of this result cannot be made")]
    Name(#[source] std::io::Error),
    #[error("a file of this size cannot be made")]
    TooLarge(#[source] std::io::Error),
    #[error(transparent)]
    Broker(#[from] broker::Error),
}

/// What a failed delivery means for the message and for the worker.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// The connection went away; the next one may do.
    Lost,
    /// All else, as the policy judges it.
    As(Verdict),
}

impl From<directory::Failure> for Cause {
    fn from(failure: directory::Failure) -> Cause {
        match failure {
            directory::Failure::Folder(error) => Cause::Io(error),
            directory::Failure::Name(error) => Cause::Name(error),
            directory::Failure::TooLarge(error) => Cause::TooLarge(error),
        }
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |name: &str, what: &str| match name.len() {
            0 => Err(format!("`{text}` names no {what}")),
            1..=MAX_NAME => Ok(name.to_owned()),
            _ => Err(format!("the name of the {what} is longer than {MAX_NAME} bytes")),
        };
        match text.split_once(':') {
            None if text == "stdout" => Ok(Spec::Stdout),
            None if text == "reply" => Ok(Spec::Reply),
            None if text == "none" => Ok(Spec::None),
            Some(("dir", "")) => Err("`dir:` needs a path: dir:PATH".into()),
            Some(("dir", path)) => Ok(Spec::Directory(path.into())),
            Some(("queue", queue)) => Ok(Spec::Publish(Address::Queue(name(queue, "queue")?))),
            Some(("exchange", to)) => {
                let (exchange, key) = to
                    .split_once('/')
                    .ok_or("an exchange goes with a routing key, which may be empty: exchange:NAME/KEY")?;
                if key.len() > MAX_NAME {
                    return Err(format!("the routing key is longer than {MAX_NAME} bytes"));
                }
                Ok(Spec::Publish(Address::Exchange { name: name(exchange, "exchange")?, key: key.to_owned() }))
            }
            _ => Err("a result goes to stdout, dir:PATH, queue:NAME, exchange:NAME/KEY, reply or none".into()),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Stdout => f.write_str("stdout"),
            Spec::Directory(path) => write!(f, "dir:{}", path.display()),
            Spec::Publish(Address::Queue(queue) | Address::Reply(queue)) => write!(f, "queue:{queue}"),
            Spec::Publish(Address::Exchange { name, key }) => write!(f, "exchange:{name}/{key}"),
            Spec::Reply => f.write_str("reply"),
            Spec::None => f.write_str("none"),
        }
    }
}

impl Spec {
    /// Whether results of this kind go to the broker.
    pub fn needs_broker(&self) -> bool {
        matches!(self, Spec::Publish(_) | Spec::Reply)
    }
}

/// All the sinks of a worker, in the order in which they are written.
#[derive(Debug, Default)]
pub struct Sinks {
    sinks: Vec<Sink>,
    outbox: Option<Arc<dyn Outbox>>,
}

impl Sinks {
    /// Opens sinks, so that what is wrong with one shows before a message is taken. `outbox` is there if one of them needs
    /// the broker.
    ///
    /// # Errors
    /// When results could not be delivered there.
    pub async fn open(specs: &[Spec], outbox: Option<Arc<dyn Outbox>>) -> Result<Sinks, Error> {
        let no_outbox = || broker::Error::Lost { source: Some("no connection was made for results".into()) };
        let way = || outbox.clone().ok_or_else(no_outbox);
        let mut sinks = Vec::new();
        for spec in specs {
            let opened = match spec {
                Spec::Stdout => Ok(Sink::Stdout),
                Spec::None => Ok(Sink::None),
                Spec::Directory(path) => Directory::open(path).await.map(Sink::Directory).map_err(Cause::from),
                Spec::Reply => way().map(Sink::Reply).map_err(Cause::from),
                Spec::Publish(address) => match way() {
                    Ok(outbox) => Queue::open(outbox, address.clone()).await.map(Sink::Queue).map_err(Cause::from),
                    Err(error) => Err(error.into()),
                },
            };
            sinks.push(opened.map_err(|source| Error { to: spec.to_string(), source })?);
        }
        Ok(Sinks { sinks, outbox })
    }

    #[cfg(test)]
    pub fn of(sinks: Vec<Sink>) -> Sinks {
        Sinks { sinks, outbox: None }
    }

    /// What is known before the run: a message whose result has nowhere to go is not worth one.
    pub fn undeliverable(&self, message: &Message) -> Option<Undeliverable> {
        let replies = self.sinks.iter().any(|sink| matches!(sink, Sink::Reply(_)));
        (replies && reply::address(message.properties.reply_to.as_deref()).is_none())
            .then_some(Undeliverable::NoReplyTo)
    }

    /// Whether a sink makes use of a result's [`Identity`]: it takes a hash of the message, which is more than many a run.
    pub fn identify_results(&self) -> bool {
        self.sinks.iter().any(|sink| match sink {
            Sink::Directory(_) | Sink::Queue(_) | Sink::Reply(_) => true,
            Sink::Stdout | Sink::None => false,
            #[cfg(test)]
            Sink::Memory(_) => false,
        })
    }

    /// Writes one result to each sink, once. When this returns, it is where it should be.
    ///
    /// # Errors
    /// At the first sink in which the result is not known to be. Those before it have it.
    pub async fn write(&self, record: &Record) -> Result<(), Error> {
        for sink in &self.sinks {
            sink.write(record).await?;
        }
        Ok(())
    }

    /// Ends what is open.
    pub async fn close(&self) {
        if let Some(outbox) = &self.outbox {
            outbox.close().await;
        }
    }
}

impl Sink {
    async fn write(&self, record: &Record) -> Result<(), Error> {
        let body = record.body.clone();
        // Boxed: a message's way holds room for the largest of these, and is moved about, also where there is no sink.
        let written: Result<(), Cause> = match self {
            Sink::Stdout => stdout::write(body).await.map_err(Cause::from),
            Sink::Directory(directory) => {
                // A name that every file system takes: it is 64 digits long.
                let fallback = record.properties.message_id.as_deref().unwrap_or_default();
                Box::pin(directory.write(&record.file_name, fallback, body)).await.map_err(Cause::from)
            }
            Sink::Queue(queue) => Box::pin(queue.write(record)).await.map_err(Cause::from),
            Sink::Reply(outbox) => Box::pin(reply::write(&**outbox, record)).await.map_err(Cause::from),
            Sink::None => Ok(()),
            #[cfg(test)]
            Sink::Memory(written) => {
                written.lock().expect("no test panics here").push(body);
                Ok(())
            }
        };
        written.map_err(|source| Error { to: self.to_string(), source })
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Stdout => f.write_str("stdout"),
            Sink::Directory(directory) => write!(f, "{directory}"),
            Sink::Queue(queue) => write!(f, "{queue}"),
            Sink::Reply(_) => f.write_str("the requester"),
            Sink::None => f.write_str("nowhere"),
            #[cfg(test)]
            Sink::Memory(_) => f.write_str("memory"),
        }
    }
}

impl Error {
    /// What follows from it.
    pub fn failed(&self) -> Failed {
        let undeliverable = |why| Failed::As(Verdict::Undeliverable(why));
        let error = match &self.source {
            Cause::Broker(error) => error,
            Cause::Io(_) => return Failed::As(Verdict::HostFault(chain(self))),
            Cause::Name(_) => return undeliverable(Undeliverable::Unwritable(chain(self))),
            Cause::TooLarge(_) => return undeliverable(Undeliverable::TooLarge(chain(self))),
        };
        match (error, error.kind()) {
            (broker::Error::TooLarge { reason }, _) => undeliverable(Undeliverable::TooLarge(reason.clone())),
            (broker::Error::NoRequester { reply_to }, _) => undeliverable(Undeliverable::NoRequester(reply_to.clone())),
            (broker::Error::Lost { .. }, _) => Failed::Lost,
            (_, Kind::Configuration) => Failed::As(Verdict::Refused(Refused::Configuration, chain(self))),
            (_, Kind::Refused) => Failed::As(Verdict::Refused(Refused::Right, chain(self))),
            (_, Kind::Lost | Kind::Unreachable) => Failed::As(Verdict::HostFault(chain(self))),
        }
    }

    /// The broker's part in it, for the exit status.
    pub fn broker(&self) -> Option<&broker::Error> {
        match &self.source {
            Cause::Broker(error) => Some(error),
            Cause::Io(_) | Cause::Name(_) | Cause::TooLarge(_) => None,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match &self.source {
            Cause::Io(_) | Cause::Name(_) | Cause::TooLarge(_) => {
                Some("the folder has to be there, and writable: --result dir:PATH (WQ_RESULT)".into())
            }
            Cause::Broker(broker::Error::MissingQueue { queue, .. }) => Some(format!(
                "`wq-run queue declare --queue {queue}` makes it; the name comes from --result (WQ_RESULT)"
            )),
            Cause::Broker(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            "exchange:e/a/b".parse(),
            Ok(Spec::Publish(Address::Exchange { name: "e".into(), key: "a/b".into() }))
        );
        let long = format!("queue:{}", "x".repeat(256));
        for bad in ["", "nowhere", "dir:", "queue:", "exchange:e", "exchange:/k", "stdout:", "reply:q", &long] {
            assert!(bad.parse::<Spec>().is_err(), "{bad}");
        }
    }
}
