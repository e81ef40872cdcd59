//! The fuzz target for the queue file: see `crate::fuzz`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::store::{Held, Lease, Store, Taken};
use crate::broker::Error;
use crate::task::{Failure, Properties, Usage};

const QUEUE: &str = "q";
const LEASE: Duration = Duration::from_secs(60);
/// More messages than a file of a fuzzer's size can hold, each with all of its settlements.
const ENOUGH: i64 = 500;

/// A queue file that holds anything. It is refused, or its messages are taken and settled, each of them once.
pub fn queue_file(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    std::fs::write(&path, bytes).unwrap();
    // Nobody else has the file.
    let Ok(mut store) = Store::open(&path, QUEUE, Duration::from_millis(1)) else { return };
    let _ = worked_through(&mut store);
}

fn worked_through(store: &mut Store) -> Result<(), Error> {
    store.require_queue(QUEUE)?;
    store.depth(QUEUE)?;
    store.running(QUEUE)?;
    let mut acknowledged = HashSet::new();
    for number in 1..=ENOUGH {
        let taken = store.take(QUEUE, 3, number, LEASE)?;
        if taken.is_empty() {
            store.publish(QUEUE, &Properties::default(), &Default::default(), &"new".into())?;
            store.purge(QUEUE)?;
            return store.require_in_place();
        }
        for Taken { id, message, unreadable, attempt, .. } in taken {
            assert!(attempt >= 1);
            let lease = Lease { id, lease: number };
            let failure = failure();
            let _: Held = match unreadable {
                Some(reason) => {
                    assert!(!reason.is_empty());
                    let repaired = Some(&message.properties);
                    store.dead_letter(lease, "q.dead", &message.headers, &failure, QUEUE, repaired)?
                }
                None if id % 3 == 0 => store.retry(lease, LEASE, &message.headers, &failure, QUEUE)?,
                None => {
                    let held = store.ack(lease)?;
                    assert!(held == Held::Lost || acknowledged.insert(id), "the message {id} came again");
                    held
                }
            };
        }
    }
    panic!("the queue is never empty");
}

fn failure() -> Failure {
    Failure {
        outcome: "exit",
        exit_code: Some(1),
        error: "the guest exited with 1".into(),
        stderr: String::new(),
        guest: "sha256:0".into(),
        attempt: 1,
        at: SystemTime::UNIX_EPOCH,
        usage: Usage::default(),
    }
}
