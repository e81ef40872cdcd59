//! Which commands a user may run, found out by requests without an effect.
//!
//! A server looks at the rights first. So a request that is wrong, or about a message that cannot be there, is answered in one
//! way to those who may make it, and in another to those who may not.

use redis::{Cmd, RedisError};

use crate::broker::check::Findings;
use crate::broker::error::Error;
use crate::broker::redis::connection::Connection;
use crate::broker::redis::keys::Keys;
use crate::broker::redis::terms::GROUP;
use crate::broker::subscription::Options;
use crate::finding::Topic;

/// No message has this id, and none can be given it.
const NO_MESSAGE: &str = "0-0";
/// No id, no number, no group.
const BOGUS: &str = "asked-for-by-wq-run-check";

pub fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}

/// # Errors
/// When the server does not answer.
pub async fn look(
    connection: &Connection,
    keys: &Keys,
    options: &Options,
    findings: &mut Findings,
) -> Result<(), Error> {
    let Keys { queue, delayed, bodies, inbox } = keys;
    let dead = &options.dead_letter_queue;
    let mut work = vec![
        vec!["EVAL", "return 1", "0"],
        vec!["XREADGROUP", "GROUP", BOGUS, BOGUS, "COUNT", "1", "STREAMS", queue, ">"],
        vec!["XCLAIM", queue, BOGUS, BOGUS, "0", "0-1"],
        vec!["XPENDING", queue, GROUP],
        vec!["XRANGE", queue, NO_MESSAGE, NO_MESSAGE],
        vec!["XACK", queue, GROUP, NO_MESSAGE],
        vec!["XDEL", queue, NO_MESSAGE],
        vec!["ZRANGEBYSCORE", delayed, "0", "0"],
        vec!["ZREM", delayed, BOGUS],
    ];
    if let Some(inbox) = inbox {
        work.extend([vec!["LLEN", inbox], vec!["LINDEX", inbox, "-1"], vec!["RPOP", inbox, "0"]]);
    }
    match refused(connection, &work).await? {
        Some(error) => findings.refusal(Topic::Rights, error),
        None => findings.good(Topic::Rights, format!("messages may be taken from `{queue}` and acknowledged")),
    }
    let retries = [
        vec!["XADD", queue, NO_MESSAGE, "body", ""],
        vec!["XADD", bodies, NO_MESSAGE, "body", ""],
        vec!["ZADD", delayed, BOGUS, BOGUS],
    ];
    if options.max_attempts > 1 {
        match refused(connection, &retries).await? {
            Some(error) => findings.later(
                Topic::Retries,
                error,
                "the first message that fails ends the worker with 77, is delivered again, and ends the next worker",
            ),
            None => findings.good(Topic::Retries, format!("retries may be put into `{delayed}`")),
        }
    }
    let dead_letters = [vec!["XADD", dead, NO_MESSAGE, "body", ""], vec!["XGROUP", "CREATE", dead, GROUP, BOGUS]];
    match refused(connection, &dead_letters).await? {
        Some(error) => findings.later(
            Topic::DeadLetters,
            error,
            "the first dead letter ends the worker with 77, is delivered again, and ends the next worker",
        ),
        None => findings.good(Topic::Rights, format!("dead letters may be put into `{dead}`")),
    }
    Ok(())
}

/// Makes requests, and returns the refusal of the first one that is not allowed.
async fn refused(connection: &Connection, requests: &[Vec<&str>]) -> Result<Option<Error>, Error> {
    for words in requests {
        match connection.ask(command(words)).await {
            Err(error) if is_refused(&error) => {
                let doing = format!("run {} on the server", words.first().copied().unwrap_or_default());
                return Ok(Some(Error::Forbidden { doing, source: error.into() }));
            }
            Err(error) if error.is_timeout() || error.is_connection_dropped() => {
                return Err(Error::Lost { source: Some(error.into()) });
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

pub fn is_refused(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}
