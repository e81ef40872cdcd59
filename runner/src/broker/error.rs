//! The errors of brokers, and which of them may pass.

use std::error::Error as StdError;

use super::speaks::Protocol;
use super::tls::TlsFault;

pub(crate) type Source = Box<dyn StdError + Send + Sync>;

/// An error at the broker's seam. Each variant is a different thing for the user to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the broker at {address}")]
    Unreachable { address: String, source: Source },
    /// Every try would end like this.
    #[error("the broker at {address} {fault}")]
    Tls { address: String, fault: TlsFault, source: Source },
    /// Every try would meet the same server.
    #[error("the server at {address} speaks {found}, not {expected}")]
    OtherProtocol { address: String, expected: Protocol, found: Protocol, source: Source },
    #[error("the broker at {address} refused the user name or the password")]
    Credentials { address: String, source: Source },
    /// None is set, or none that can be used.
    #[error("there are no credentials for the broker")]
    NoCredentials { source: Source },
    #[error("the broker refused permission to {doing}")]
    Forbidden { doing: String, source: Source },
    #[error("there is no queue `{queue}`")]
    MissingQueue { queue: String, source: Option<Source> },
    #[error("there is no virtual host `{name}`")]
    MissingVirtualHost { name: String, source: Source },
    #[error("there is no exchange `{exchange}`")]
    MissingExchange { exchange: String, source: Source },
    #[error("the exchange `{exchange}` has no queue for the routing key `{key}`")]
    Unroutable { exchange: String, key: String },
    /// Whoever asked has gone, and its queue with it.
    #[error("nobody is waiting for a reply at `{reply_to}`")]
    NoRequester { reply_to: String },
    #[error("cannot {doing}: it does not match what the broker has")]
    Mismatch { doing: String, source: Source },
    #[error("{what} cannot be used with these settings")]
    Settings { what: String, source: Source },
    /// It would not the next time.
    #[error("the headers of the next message do not fit into a frame of the connection")]
    FrameTooLarge { source: Source },
    #[error("the connection to the broker was lost")]
    Lost { source: Option<Source> },
    /// The same where no connection was lost: the lease ran out, the broker ended the consumer, or its answer makes no sense.
    #[error("{reason}")]
    Broken { reason: String },
    /// The same for the connection over which a retry or a dead letter was published. That of the message itself stands.
    #[error("the connection was lost before the broker confirmed the published message")]
    Unconfirmed,
    /// The connection stands, and a request got no answer.
    #[error("the broker did not answer when it was asked to {doing}")]
    Unanswered { doing: String },
    /// The queue exists, and its broker can't serve it for now.
    #[error("the queue `{queue}` is not available at the moment")]
    Unavailable { queue: String, source: Source },
    /// A stream keeps its messages whatever a worker does.
    #[error("the queue `{queue}` is a stream: acknowledged messages would stay in it")]
    Stream { queue: String },
    /// The worker was told to stop before its settlement was made.
    #[error("the worker was told to stop before the broker had confirmed the message")]
    Aborted,
    #[error("the broker did not accept the message: {reason}")]
    Unpublished { reason: String },
    #[error("the broker did not accept the message: {to} refused it; it may be full")]
    Rejected { to: String },
    /// It would be as large the next time.
    #[error("the broker does not accept a message of this size: {reason}")]
    TooLarge { reason: String },
    /// The disk is full or fails, or there is no memory: it may pass.
    #[error("the queue file {path} failed")]
    Storage { path: String, source: Source },
    #[error("the queue file {path} is locked by another process")]
    FileLocked { path: String, source: Source },
    #[error("cannot open the queue file {path} for reading and writing")]
    InaccessibleFile { path: String, source: Source },
    #[error("{path} is not a queue file of this version of wq-run")]
    ForeignFile { path: String, source: Source },
    #[error("the queue file {path} is damaged")]
    DamagedFile { path: String, source: Source },
}

/// What a caller can do about an error, which is all that the exit status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unreachable,
    Refused,
    Configuration,
    Lost,
}

impl Error {
    /// The lease of a message ran out before the message was settled.
    pub(crate) fn lease_lost() -> Error {
        Error::Broken { reason: "the lease ran out, and another worker may have the message".into() }
    }

    /// Whether nobody knows if it was done, since the connection or the lease went away. The message comes again.
    pub fn leaves_open(&self) -> bool {
        matches!(self, Error::Lost { .. } | Error::Broken { .. } | Error::Unconfirmed)
    }

    pub fn kind(&self) -> Kind {
        match self {
            Error::Unreachable { .. }
            | Error::Unavailable { .. }
            | Error::Unanswered { .. }
            | Error::InaccessibleFile { .. } => Kind::Unreachable,
            Error::Credentials { .. } | Error::NoCredentials { .. } | Error::Forbidden { .. } => Kind::Refused,
            Error::MissingQueue { .. }
            | Error::MissingVirtualHost { .. }
            | Error::MissingExchange { .. }
            | Error::Unroutable { .. }
            | Error::Tls { .. }
            | Error::OtherProtocol { .. }
            | Error::Mismatch { .. }
            | Error::FrameTooLarge { .. }
            | Error::Stream { .. }
            | Error::ForeignFile { .. }
            | Error::DamagedFile { .. }
            | Error::Settings { .. } => Kind::Configuration,
            Error::Lost { .. }
            | Error::Broken { .. }
            | Error::Unconfirmed
            | Error::Aborted
            | Error::Unpublished { .. }
            | Error::Rejected { .. }
            | Error::TooLarge { .. }
            | Error::NoRequester { .. }
            | Error::FileLocked { .. }
            | Error::Storage { .. } => Kind::Lost,
        }
    }

    /// What helps, whatever the kind of broker. A kind may know better.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Unreachable { .. } => {
                "is it running, and are host and port right? They come from --broker (BROKER_URL)".into()
            }
            Error::Tls { fault: TlsFault::UnknownAuthority, .. } => {
                "set `cacertfile` in --broker (BROKER_URL) to a PEM file with the certificate of the authority; without it, \
                 wq-run trusts the system's authorities, or those in SSL_CERT_FILE"
                    .into()
            }
            Error::Tls { fault: TlsFault::OtherName, .. } => {
                "use a host name in --broker (BROKER_URL) that the certificate contains".into()
            }
            Error::Tls { fault: TlsFault::Plain, .. } => {
                "use the broker's port for TLS, or an address without TLS: both are parts of --broker (BROKER_URL)".into()
            }
            Error::Tls { fault: TlsFault::Wanted, .. } => {
                "use the broker's port without TLS, or an address with TLS: both are parts of --broker (BROKER_URL)".into()
            }
            Error::OtherProtocol { found, .. } => {
                let scheme = match found {
                    Protocol::Amqp => "; amqp:// is for this server",
                    Protocol::Redis => "; redis:// is for this server",
                    Protocol::Http | Protocol::Tls => "",
                };
                format!("are host, port and scheme right? They come from --broker (BROKER_URL){scheme}")
            }
            Error::Credentials { .. } | Error::NoCredentials { .. } => {
                "user and password come from --broker (BROKER_URL, BROKER_URL_FILE)".into()
            }
            Error::Forbidden { .. } => {
                "the administrator of the broker grants permissions; the user comes from --broker (BROKER_URL)"
                    .into()
            }
            Error::MissingQueue { queue, .. } => {
                format!("`wq-run queue declare --queue {queue}` creates it; the name comes from --queue (QUEUE)")
            }
            Error::MissingExchange { .. } | Error::Unroutable { .. } => {
                "wq-run does not create exchanges or bindings: ask the administrator of the broker".into()
            }
            Error::MissingVirtualHost { .. } => {
                "the virtual host is the path of --broker (BROKER_URL), and the administrator of the broker makes one".into()
            }
            Error::Mismatch { .. } => "a queue's type and arguments cannot be changed once it exists".into(),
            Error::Settings { .. } => "see --broker (BROKER_URL)".into(),
            Error::Unavailable { .. } => "a part of the broker is down, and may come back".into(),
            // Nothing helps, or only the kind that has such errors knows what.
            Error::Lost { .. }
            | Error::Broken { .. }
            | Error::Unconfirmed
            | Error::Unanswered { .. }
            | Error::Aborted
            | Error::Unpublished { .. }
            | Error::Rejected { .. }
            | Error::TooLarge { .. }
            | Error::NoRequester { .. }
            | Error::FrameTooLarge { .. }
            | Error::Stream { .. }
            | Error::Storage { .. }
            | Error::FileLocked { .. }
            | Error::InaccessibleFile { .. }
            | Error::ForeignFile { .. }
            | Error::DamagedFile { .. } => return None,
        })
    }
}
