//! One connection to an AMQP broker, made within a bound of time, and what its errors mean.

use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::uri::AMQPAuthority;
use lapin::{ChannelStatus, Connection, ConnectionProperties, ConnectionStatus, ErrorKind};
use tokio_util::sync::CancellationToken;

use super::filter::{Refused, Server};
use super::{Url, transport};
use crate::broker::bounds::{ABORT_TIMEOUT, ANSWER_TIMEOUT};
use crate::broker::error::{Error, Source};
use crate::broker::speaks::{self, Protocol};
use crate::broker::tls::TlsFault;

/// For a clean end. What is not answered by then will not be.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How soon it is seen that a connection or a channel has gone.
pub const LOOK_AFTER: Duration = Duration::from_millis(250);

/// Connects to the first node that can be reached.
///
/// # Errors
/// As [`connect_to`], of the last node that may be reached later, or else of the last one; a refusal ends the search, since
/// all nodes of a cluster refuse the same things. Each node has its own address and certificate.
pub async fn connect(nodes: &[Url], name: &str) -> Result<Connection, Error> {
    Ok(meet(nodes, name).await?.0)
}

/// As [`connect`]. Returns what the broker says of itself as well.
///
/// # Errors
/// The same.
pub async fn meet(nodes: &[Url], name: &str) -> Result<(Connection, Server), Error> {
    let (mut unreachable, mut faulty) = (None, None);
    for node in nodes {
        match connect_to(node, name).await {
            Err(error @ Error::Unreachable { .. }) => unreachable = Some(error),
            Err(error @ (Error::Tls { .. } | Error::OtherProtocol { .. })) => faulty = Some(error),
            decided => return decided,
        }
    }
    Err(unreachable.or(faulty).unwrap_or(Error::Lost { source: None }))
}

/// Connects, logs in and opens the virtual host.
///
/// # Errors
/// [`Error::Unreachable`], [`Error::Tls`], [`Error::OtherProtocol`], [`Error::Credentials`], [`Error::MissingVirtualHost`] or
/// [`Error::Forbidden`] for the virtual host, or [`Error::Settings`] for certificates that can't be read.
pub async fn connect_to(url: &Url, name: &str) -> Result<(Connection, Server), Error> {
    let tls = url.tls().map_err(|(path, source)| Error::Settings {
        what: format!("the certificate file {}", path.display()),
        source: source.into(),
    })?;
    // lapin's recovery stays off: after an error of a channel it leaves a consumer that never says another word.
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = transport::connect(url.uri.clone(), tls, url.frame_max(), properties);
    // lapin bounds neither the TCP connect nor the handshake on this path.
    match tokio::time::timeout(url.connect_timeout, connecting).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(unconnected(url, error).await),
        Err(_) => {
            let within = humantime::format_duration(url.connect_timeout);
            Err(unanswered(url, format!("no answer within {within}").into()).await)
        }
    }
}

/// The meaning of an error that ends a try to connect.
async fn unconnected(url: &Url, error: lapin::Error) -> Error {
    let name = &url.uri.vhost;
    match refusal(&error) {
        Some(Refusal::AccessRefused) => Error::Credentials { address: url.address(), source: because(error) },
        // The code is that of a virtual host to which the user has no right, too.
        Some(Refusal::NotAllowed) if said(&error).ends_with("not found") => {
            Error::MissingVirtualHost { name: name.clone(), source: because(error) }
        }
        Some(Refusal::NotAllowed) => {
            Error::Forbidden { doing: format!("open the virtual host `{name}`"), source: because(error) }
        }
        _ => match TlsFault::of(&error) {
            Some(fault) => Error::Tls { address: url.address(), fault, source: error.into() },
            None => unanswered(url, because(error)).await,
        },
    }
}

/// The meaning of a try without an answer that makes sense.
async fn unanswered(url: &Url, source: Source) -> Error {
    let AMQPAuthority { host, port, .. } = &url.uri.authority;
    let address = url.address();
    match (speaks::ask(host, *port).await, url.is_encrypted()) {
        (Some(Protocol::Tls), false) => Error::Tls { address, fault: TlsFault::Wanted, source },
        (Some(Protocol::Amqp), true) => Error::Tls { address, fault: TlsFault::Plain, source },
        (Some(found @ (Protocol::Redis | Protocol::Http)), _) => {
            Error::OtherProtocol { address, expected: Protocol::Amqp, found, source }
        }
        // It is what it should be, or does not tell.
        (Some(Protocol::Amqp | Protocol::Tls) | None, _) => Error::Unreachable { address, source },
    }
}

/// Ends a connection; an error means that the last frames may not have arrived.
pub async fn close(connection: &Connection) -> Result<(), Error> {
    if connection.status().blocked() {
        // lapin writes nothing to a connection that the broker has blocked, its end neither. It goes away with the process.
        return Err(Error::Unanswered { doing: "end a connection that it blocks".into() });
    }
    match tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "done".into())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(lost(error)),
        Err(_) => Err(Error::Unanswered { doing: "end the connection".into() }),
    }
}

/// Ends a channel, and by that makes sure that the broker has seen everything sent over it: AMQP 0-9-1 does not
/// answer an acknowledgement, but it answers this, in order.
pub async fn close_channel(channel: &lapin::Channel) -> Result<(), Error> {
    match tokio::time::timeout(CLOSE_TIMEOUT, channel.close(200, "done".into())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(lost(error)),
        Err(_) => Err(Error::Unanswered { doing: "end the channel".into() }),
    }
}

/// Returns a while after a connection or a channel has gone, so that the reason can arrive first. lapin may never answer a
/// request that was made just before.
pub async fn gone(is_there: impl Fn() -> bool) {
    while is_there() {
        tokio::time::sleep(LOOK_AFTER).await;
    }
    tokio::time::sleep(LOOK_AFTER).await;
}

/// Whether a connection and its channel can be used.
pub fn stands((connection, channel): &(ConnectionStatus, ChannelStatus)) -> bool {
    connection.connected() && channel.connected()
}

/// Returns when a step of the session is not worth waiting for any longer. lapin may never answer a request that was made just
/// before its connection broke, and neither may a broker whose heart beats.
///
/// It uses one timer only, since nearly every acknowledgement waits here for a moment.
pub async fn overdue(status: &(ConnectionStatus, ChannelStatus), abort: &CancellationToken, doing: &str) -> Error {
    let (mut waited, mut aborted, mut gone) = (Duration::ZERO, Duration::ZERO, false);
    while waited < ANSWER_TIMEOUT && aborted < ABORT_TIMEOUT {
        tokio::time::sleep(LOOK_AFTER).await;
        if gone {
            return Error::Lost { source: None };
        }
        // One more pause, so that the reason can arrive first.
        gone = !stands(status);
        waited += LOOK_AFTER;
        if abort.is_cancelled() {
            aborted += LOOK_AFTER;
        }
    }
    Error::Unanswered { doing: doing.to_owned() }
}

/// What a broker answers to something that it will not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    AccessRefused,
    NotFound,
    PreconditionFailed,
    Locked,
    NotAllowed,
    /// lapin says it of the broker's frames, and the broker of ours. All but the headers of a message is cut to fit.
    FrameTooLarge,
}

pub fn refusal(error: &lapin::Error) -> Option<Refusal> {
    let error = match error.kind() {
        ErrorKind::ProtocolError(error) => error,
        ErrorKind::IOError(error) => {
            let refused = error.get_ref().and_then(|error| error.downcast_ref());
            return matches!(refused, Some(Refused::TooLarge(_))).then_some(Refusal::FrameTooLarge);
        }
        _ => return None,
    };
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Some(Refusal::AccessRefused),
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Some(Refusal::NotFound),
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => Some(Refusal::PreconditionFailed),
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => Some(Refusal::Locked),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Some(Refusal::NotAllowed),
        // The code alone could also be a frame that was damaged on its way. lapin's words, and RabbitMQ's.
        AMQPErrorKind::Hard(AMQPHardError::FRAMEERROR)
            if ["frame too large", "frame_too_large"]
                .iter()
                .any(|words| error.get_message().as_str().contains(words)) =>
        {
            Some(Refusal::FrameTooLarge)
        }
        _ => None,
    }
}

/// What the broker said, in its own words; for all other errors, what lapin says.
pub fn said(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    }
}

/// An error as the cause of one of ours. A refusal is in the broker's own words: they begin with the name of its code, which
/// lapin would say twice more.
pub fn because(error: lapin::Error) -> Source {
    match error.kind() {
        ErrorKind::ProtocolError(refused) if !refused.get_message().as_str().is_empty() => said(&error).into(),
        _ => error.into(),
    }
}

pub fn lost(error: lapin::Error) -> Error {
    Error::Lost { source: Some(because(error)) }
}

/// The meaning of an error that comes in place of a message. Elsewhere the same error only tells that the connection has
/// gone: what was asked for at that moment, an acknowledgement or an end, is then not known to have been done.
pub fn unreceived(error: lapin::Error) -> Error {
    match refusal(&error) {
        Some(Refusal::FrameTooLarge) => Error::FrameTooLarge { source: because(error) },
        _ => lost(error),
    }
}

/// The meaning of an error that answers something done to a queue.
pub fn queue_error(error: lapin::Error, queue: &str, doing: &str) -> Error {
    let doing = || format!("{doing} the queue `{queue}`");
    match refusal(&error) {
        Some(Refusal::NotFound) if is_temporary(&error) => {
            Error::Unavailable { queue: queue.to_owned(), source: because(error) }
        }
        Some(Refusal::NotFound) => Error::MissingQueue { queue: queue.to_owned(), source: Some(because(error)) },
        Some(Refusal::AccessRefused | Refusal::Locked | Refusal::NotAllowed) => {
            Error::Forbidden { doing: doing(), source: because(error) }
        }
        Some(Refusal::PreconditionFailed) => Error::Mismatch { doing: doing(), source: because(error) },
        Some(Refusal::FrameTooLarge) | None => unreceived(error),
    }
}

/// Whether a 404 speaks of a queue that exists. RabbitMQ has one code for a queue that is not there and for one that it
/// can't get at, because a node is down or starts, so that its words have to tell them apart.
fn is_temporary(error: &lapin::Error) -> bool {
    const WORDS: [&str; 4] = [
        "is down or inaccessible",
        "failed to perform operation on",
        "process is stopped by supervisor",
        "has crashed and failed to restart",
    ];
    let ErrorKind::ProtocolError(error) = error.kind() else { return false };
    let said = error.get_message().as_str();
    WORDS.iter().any(|words| said.contains(words))
}
