//! What `wq-run check` finds out about a queue file, which it only reads.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use rusqlite::{Connection, OptionalExtension as _};

use super::error::classified;
use super::file;
use crate::broker::check::{Findings, Settings, made_later, there};
use crate::broker::error::Error;
use crate::broker::outbox::Address;
use crate::finding::Topic;
use crate::{blocking, folders};

pub async fn check(path: PathBuf, settings: Settings) -> Findings {
    // A disk that hangs holds up this thread alone.
    blocking::call(move || look(&path, &settings)).await
}

fn look(path: &Path, settings: &Settings) -> Findings {
    let mut findings = Findings::default();
    let shown = path.display();
    let opened = match file::look(path, &settings.options.queue) {
        Ok(opened) => opened,
        Err(error) => {
            let topic = if matches!(error, Error::MissingQueue { .. }) { Topic::Queue } else { Topic::Reach };
            findings.refusal(topic, error);
            return findings;
        }
    };
    findings.good(Topic::Reach, format!("{shown} is a queue file"));
    look_at_rights(path, &mut findings);
    match &opened {
        Some(connection) => {
            if let Err(error) = look_at_queues(path, connection, settings, &mut findings) {
                findings.refusal(Topic::Queue, error);
            }
        }
        None => findings.note(
            Topic::Queue,
            format!(
                "not checked: {shown}-wal was left behind without {shown}-shm, and reading it would make that file"
            ),
        ),
    }
    look_at_disk(path, settings, &mut findings);
    findings
}

/// Every worker writes, to the file and to its companions in the same folder.
fn look_at_rights(path: &Path, findings: &mut Findings) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folders::file_can_be_written(path).and_then(|()| folders::can_be_written(folder)) {
        Ok(()) => findings.good(Topic::Rights, "the file and its folder can be written to"),
        Err(error) => {
            let path = path.display().to_string();
            findings.refusal(Topic::Rights, Error::InaccessibleFile { path, source: error.into() });
        }
    }
}

fn look_at_queues(
    path: &Path,
    connection: &Connection,
    settings: &Settings,
    findings: &mut Findings,
) -> Result<(), Error> {
    let count = |queue: &str| count(connection, queue).map_err(|error| classified(path, error));
    let missing = |queue: &str| Error::MissingQueue { queue: queue.to_owned(), source: None };
    let queue = &settings.options.queue;
    match count(queue)? {
        Some((all, held)) => {
            findings.good(Topic::Queue, format!("`{queue}` has {all} messages, {held} of them with workers"))
        }
        None => findings.refusal(Topic::Queue, missing(queue)),
    }
    let dead_letters = &settings.options.dead_letter_queue;
    match count(dead_letters)? {
        Some((all, _)) => findings.good(Topic::DeadLetters, format!("`{dead_letters}` is there, with {all} messages")),
        None => findings.good(Topic::DeadLetters, made_later(dead_letters)),
    }
    for to in &settings.results {
        if let Address::Queue(name) = to {
            match count(name)? {
                Some(_) => findings.good(Topic::Results, there(to)),
                None => findings.undeliverable(to.to_string(), missing(name), None),
            }
        }
    }
    if settings.replies {
        findings.note(
            Topic::Results,
            "`reply`: not checked: wq-run looks up the queue that each message names in `reply_to`",
        );
    }
    Ok(())
}

/// The messages of a queue, and those of them that have a lease; `None` if there is no such queue.
fn count(connection: &Connection, queue: &str) -> rusqlite::Result<Option<(i64, i64)>> {
    let there = connection.query_row("SELECT 1 FROM queue WHERE name = ?1", [queue], |_| Ok(())).optional()?;
    if there.is_none() {
        return Ok(None);
    }
    let counts = "SELECT count(*), count(lease) FROM message WHERE queue = ?1";
    connection.query_row(counts, [queue], |row| Ok((row.get(0)?, row.get(1)?))).map(Some)
}

fn look_at_disk(path: &Path, settings: &Settings, findings: &mut Findings) {
    let shown = path.display();
    if folders::is_remote(path) {
        findings.caution(
            Topic::Durability,
            format!("{shown} lies on a file system of another host"),
            "locks of such file systems cannot be relied on, and each host counts leases by a clock of its own: messages are run \
             twice, and the file may be damaged",
            "a path on a disk of this host in --broker (BROKER_URL), or a broker on the network",
        );
    }
    match folders::free(path) {
        Ok(free) if free < settings.largest => findings.caution(
            Topic::Durability,
            format!(
                "the disk of {shown} has {} left, and a message with its result may take {}",
                ByteSize(free),
                ByteSize(settings.largest)
            ),
            "results, retries and dead letters fail when the disk is full, and their messages are given back",
            "free some space, or set a path on another disk in --broker (BROKER_URL); --max-message and --max-stdout limit the sizes of a message and its result",
        ),
        Ok(free) => findings.good(Topic::Durability, format!("the disk has {} left", ByteSize(free))),
        Err(error) => findings.note(Topic::Durability, format!("not checked: how much room the disk has left: {error}")),
    }
}
