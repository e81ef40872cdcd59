//! Sorts the errors of a Redis by their meaning for the user.
//!
//! Its words are read only where it has no code.

use redis::{ErrorKind, RedisError};

use super::url::Url;
use crate::broker::error::{Error, Source};
use crate::broker::speaks::{self, Protocol};
use crate::broker::tls::TlsFault;

/// The meaning of an error that ends a try to connect.
pub async fn unconnected(url: &Url, error: RedisError) -> Error {
    let address = url.address();
    match (error.kind(), sort(&error)) {
        (ErrorKind::AuthenticationFailed, _) | (_, Sort::Credentials) => {
            Error::Credentials { address, source: error.into() }
        }
        (_, Sort::Forbidden) => Error::Forbidden { doing: "log in".into(), source: error.into() },
        (_, Sort::Settings) => settings(error),
        _ => match TlsFault::of(&error) {
            Some(fault) => Error::Tls { address, fault, source: error.into() },
            None => unanswered(url, error.into()).await,
        },
    }
}

/// The meaning of a try to connect without an answer that makes sense.
pub async fn unanswered(url: &Url, source: Source) -> Error {
    let address = url.address();
    let Some((host, port, is_encrypted)) = url.tcp() else { return Error::Unreachable { address, source } };
    match (speaks::ask(host, port).await, is_encrypted) {
        (Some(Protocol::Tls), false) => Error::Tls { address, fault: TlsFault::Wanted, source },
        // It takes the beginning of TLS for a request, and waits for the rest of that.
        (Some(Protocol::Redis), true) => Error::Tls { address, fault: TlsFault::Plain, source },
        (Some(found @ (Protocol::Amqp | Protocol::Http)), _) => {
            Error::OtherProtocol { address, expected: Protocol::Redis, found, source }
        }
        // It is what it should be, or does not tell.
        (Some(Protocol::Redis | Protocol::Tls) | None, _) => Error::Unreachable { address, source },
    }
}

/// The meaning of an error that answers something done to a queue, which `doing` names: "look at".
pub fn failed(url: &Url, queue: &str, doing: &str, error: RedisError) -> Error {
    let doing = || format!("{doing} the queue `{queue}`");
    match sort(&error) {
        Sort::MissingQueue => Error::MissingQueue { queue: queue.to_owned(), source: Some(error.into()) },
        Sort::Mismatch => Error::Mismatch { doing: doing(), source: error.into() },
        Sort::Forbidden => Error::Forbidden { doing: doing(), source: error.into() },
        Sort::Credentials => Error::Credentials { address: url.address(), source: error.into() },
        Sort::Full => Error::Unpublished { reason: error.to_string() },
        Sort::Settings => settings(error),
        Sort::Unanswered => Error::Unanswered { doing: doing() },
        Sort::Lost if error.code().is_some() => {
            Error::Broken { reason: format!("the server did not {}: {error}", doing()) }
        }
        Sort::Lost => Error::Lost { source: Some(error.into()) },
    }
}

fn settings(error: RedisError) -> Error {
    Error::Settings { what: "this Redis".into(), source: error.into() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    MissingQueue,
    /// The key holds something else than a stream.
    Mismatch,
    Forbidden,
    Credentials,
    /// No memory, or no disk: it may pass.
    Full,
    /// It would be the same at every try.
    Settings,
    Unanswered,
    /// The connection is gone, or the server can't serve it for now.
    Lost,
}

fn sort(error: &RedisError) -> Sort {
    if error.is_timeout() {
        return Sort::Unanswered;
    }
    let said = error.to_string();
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    match error.code().unwrap_or_default() {
        // The second one comes while a read waits.
        "NOGROUP" | "UNBLOCKED" => Sort::MissingQueue,
        "WRONGTYPE" => Sort::Mismatch,
        "NOPERM" => Sort::Forbidden,
        "NOAUTH" | "WRONGPASS" => Sort::Credentials,
        "OOM" | "MISCONF" | "NOREPLICAS" => Sort::Full,
        // No cluster, whose nodes have a part of the keys each.
        "MOVED" | "ASK" | "CROSSSLOT" => Sort::Settings,
        // A script before 7.0, and a server before 6.2. The number of a database, which the library passes on.
        _ if says(&["user executing the script can't", "ACL failure in script"]) => Sort::Forbidden,
        _ if says(&["unknown command", "Unknown Redis command", "DB index is out of range", "invalid DB index"]) => {
            Sort::Settings
        }
        _ if says(&["max number of clients reached"]) => Sort::Lost,
        _ => Sort::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(line: &str) -> RedisError {
        let parsed = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("it is RESP");
        parsed.extract_error().expect_err("it is an error")
    }

    #[test]
    fn every_answer_of_a_server_has_its_meaning() {
        for (line, meaning) in [
            ("NOGROUP No such key 'q' or consumer group 'wq-run'", Sort::MissingQueue),
            ("UNBLOCKED the stream key no longer exists", Sort::MissingQueue),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Sort::Mismatch),
            ("NOPERM this user has no permissions to run the 'xadd' command", Sort::Forbidden),
            ("ERR The user executing the script can't run this command or subcommand", Sort::Forbidden),
            ("NOAUTH Authentication required.", Sort::Credentials),
            ("WRONGPASS invalid username-password pair or user is disabled.", Sort::Credentials),
            ("OOM command not allowed when used memory > 'maxmemory'.", Sort::Full),
            ("MISCONF Redis is configured to save RDB snapshots", Sort::Full),
            ("NOREPLICAS Not enough good replicas to write.", Sort::Full),
            ("MOVED 3999 127.0.0.1:6381", Sort::Settings),
            ("CROSSSLOT Keys in request don't hash to the same slot", Sort::Settings),
            ("ERR unknown command `XAUTOCLAIM`, with args beginning with: ", Sort::Settings),
            ("LOADING Redis is loading the dataset in memory", Sort::Lost),
            ("READONLY You can't write against a read only replica.", Sort::Lost),
            ("MASTERDOWN Link with MASTER is down", Sort::Lost),
            ("CLUSTERDOWN The cluster is down", Sort::Lost),
            ("BUSY Redis is busy running a script.", Sort::Lost),
            ("ERR max number of clients reached", Sort::Lost),
            ("ERR something new", Sort::Lost),
        ] {
            assert_eq!(sort(&answered(line)), meaning, "{line}");
        }
    }
}
