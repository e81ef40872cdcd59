//! Tests of the verbs of the queue file, one after the other.

use std::time::SystemTime;

use super::*;
use crate::broker::Depth;
use crate::task::Usage;

pub const LEASE: Duration = Duration::from_secs(60);
pub const BUSY: Duration = Duration::from_secs(30);

pub fn store_with(bodies: &[&'static str]) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::create(&folder.path().join("q.db"), "q", BUSY).unwrap();
    store.declare("q").unwrap();
    for body in bodies {
        store.publish("q", &Properties::default(), &Map::new(), &Bytes::from_static(body.as_bytes())).unwrap();
    }
    (folder, store)
}

pub fn failure() -> Failure {
    Failure {
        outcome: "exit",
        exit_code: Some(1),
        error: "the guest exited with 1".into(),
        stderr: "oh".into(),
        guest: "sha256:0".into(),
        attempt: 1,
        at: SystemTime::UNIX_EPOCH,
        usage: Usage::default(),
    }
}

fn depth(ready: u64, delayed: u64) -> Depth {
    Depth { ready, delayed, missing: 0 }
}

#[test]
fn messages_come_in_order_and_once() {
    let (_folder, mut store) = store_with(&["a", "b", "c"]);
    let first = store.take("q", 2, 1, LEASE).unwrap();
    assert_eq!(first.iter().map(|taken| &taken.message.body[..]).collect::<Vec<_>>(), [b"a", b"b"]);
    let second = store.take("q", 2, 2, LEASE).unwrap();
    assert_eq!(second.len(), 1);
    assert!(store.take("q", 2, 3, LEASE).unwrap().is_empty());
    assert_eq!(store.running("q").unwrap(), 3);
}

#[test]
fn a_lease_that_ran_out_is_given_to_another_and_the_first_settles_nothing() {
    let (_folder, mut store) = store_with(&["a"]);
    let id = store.take("q", 1, 1, Duration::ZERO).unwrap()[0].id;
    let again = store.take("q", 1, 2, LEASE).unwrap();
    assert_eq!((again[0].id, again[0].attempt, again[0].redelivered), (id, 2, true));
    let (old, new) = (Lease { id, lease: 1 }, Lease { id, lease: 2 });
    assert_eq!(store.ack(old).unwrap(), Held::Lost);
    assert_eq!(store.renew(old, LEASE).unwrap(), Held::Lost);
    assert_eq!(store.release(old).unwrap(), Held::Lost);
    assert_eq!(store.renew(new, LEASE).unwrap(), Held::Yes);
    assert_eq!(store.ack(new).unwrap(), Held::Yes);
    assert_eq!(store.ack(new).unwrap(), Held::Lost);
}

#[test]
fn a_release_does_not_count_and_a_retry_does() {
    let (_folder, mut store) = store_with(&["a"]);
    let taken = store.take("q", 1, 1, LEASE).unwrap().remove(0);
    assert_eq!(store.release(Lease { id: taken.id, lease: 1 }).unwrap(), Held::Yes);
    let taken = store.take("q", 1, 2, LEASE).unwrap().remove(0);
    assert_eq!(taken.attempt, 1);
    let lease = Lease { id: taken.id, lease: 2 };
    assert_eq!(store.retry(lease, LEASE, &taken.message.headers, &failure(), "q").unwrap(), Held::Yes);
    assert_eq!(store.depth("q").unwrap(), depth(0, 1));
    assert!(store.take("q", 1, 3, LEASE).unwrap().is_empty(), "its backoff is not over");
}

#[test]
fn a_dead_letter_is_kept_with_its_reason() {
    let (_folder, mut store) = store_with(&["a"]);
    let taken = store.take("q", 1, 1, LEASE).unwrap().remove(0);
    let lease = Lease { id: taken.id, lease: 1 };
    assert_eq!(store.dead_letter(lease, "q.dead", &taken.message.headers, &failure(), "q", None).unwrap(), Held::Yes);
    assert_eq!(store.depth("q").unwrap(), depth(0, 0));
    let dead = store.take("q.dead", 1, 2, LEASE).unwrap().remove(0);
    assert_eq!(&dead.message.body[..], b"a");
    assert_eq!(dead.message.headers["x-wq-outcome"], "exit");
    assert_eq!(dead.message.headers["x-wq-exit-code"], 1);
    assert_eq!(dead.message.headers["x-wq-queue"], "q");
    assert_eq!(dead.attempt, 1);
}

#[test]
fn what_is_no_queue_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.db");
    assert!(matches!(Store::open(&missing, "q", BUSY), Err(Error::MissingQueue { .. })));
    assert!(!missing.exists());

    let text = folder.path().join("text");
    std::fs::write(&text, "this is a text of more than a hundred bytes, ".repeat(20)).unwrap();
    assert!(matches!(Store::open(&text, "q", BUSY), Err(Error::ForeignFile { .. })));

    let foreign = folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Store::create(&foreign, "q", BUSY), Err(Error::ForeignFile { .. })));
}

#[test]
fn publishing_to_a_queue_that_is_not_there_is_an_error() {
    let (_folder, mut store) = store_with(&[]);
    let published = store.publish("other", &Properties::default(), &Map::new(), &Bytes::from_static(b"x"));
    assert!(matches!(published, Err(Error::MissingQueue { .. })));
}

#[test]
fn leases_and_pauses_of_an_earlier_boot_are_over() {
    let (folder, mut store) = store_with(&["with a worker", "waits"]);
    let path = folder.path().join("q.db");
    let taken = store.take("q", 2, 1, LEASE).unwrap();
    let waits = Lease { id: taken[1].id, lease: 1 };
    assert_eq!(store.retry(waits, LEASE, &Map::new(), &failure(), "q").unwrap(), Held::Yes);
    let mut again = Store::open(&path, "q", BUSY).unwrap();
    assert_eq!(again.depth("q").unwrap(), depth(0, 1), "nothing has changed for another process of this boot");
    store.file.connection.execute("UPDATE clock SET name = 'another boot'", []).unwrap();
    let mut rebooted = Store::open(&path, "q", BUSY).unwrap();
    assert_eq!(rebooted.depth("q").unwrap(), depth(2, 0));
    // Its worker would have to have survived the reboot, but a file can also be restored.
    assert_eq!(store.ack(Lease { id: taken[0].id, lease: 1 }).unwrap(), Held::Lost);
    assert_eq!(rebooted.take("q", 1, 2, LEASE).unwrap()[0].unfinished, 1);
}

#[test]
fn a_dead_letter_that_is_moved_back_has_all_its_attempts_again() {
    let (_folder, mut store) = store_with(&["a"]);
    let taken = store.take("q", 1, 1, LEASE).unwrap().remove(0);
    let lease = Lease { id: taken.id, lease: 1 };
    let failure = Failure { attempt: 3, ..failure() };
    assert_eq!(store.dead_letter(lease, "q.dead", &Map::new(), &failure, "q", None).unwrap(), Held::Yes);
    store.file.connection.execute("UPDATE message SET queue = 'q'", []).unwrap();
    // Each worker dies, and its lease is over at once.
    let counts: Vec<(u32, u32)> = (2..=5)
        .map(|lease| {
            let taken = store.take("q", 1, lease, Duration::ZERO).unwrap().remove(0);
            (taken.attempt, taken.unfinished)
        })
        .collect();
    assert_eq!(counts, [(1, 0), (2, 1), (3, 2), (4, 3)]);
}

#[test]
fn of_verbs_that_share_a_transaction_one_that_fails_is_undone_alone() {
    let (_folder, mut store) = store_with(&["a", "b"]);
    let id = store.take("q", 1, 1, LEASE).unwrap()[0].id;
    let (mut acked, mut failed, mut taken) = (None, None, None);
    store
        .together(|store| {
            acked = Some(store.ack(Lease { id, lease: 1 }));
            failed = Some(store.write(|db| {
                db.execute("DELETE FROM message", [])?;
                db.execute("INSERT INTO queue (name) VALUES (NULL)", [])
            }));
            taken = Some(store.take("q", 5, 2, LEASE));
        })
        .unwrap();
    assert_eq!(acked.unwrap().unwrap(), Held::Yes);
    assert!(failed.unwrap().is_err());
    assert_eq!(taken.unwrap().unwrap().len(), 1);
    assert_eq!(store.running("q").unwrap(), 1);
}

#[test]
fn nothing_is_written_of_a_transaction_that_sqlite_gave_up() {
    let (_folder, mut store) = store_with(&["a", "b"]);
    let id = store.take("q", 1, 1, LEASE).unwrap()[0].id;
    let mut after = None;
    let made = store.together(|store| {
        assert_eq!(store.ack(Lease { id, lease: 1 }).unwrap(), Held::Yes);
        // As it does itself when the disk is full.
        store.file.connection.execute_batch("ROLLBACK").unwrap();
        after = Some(store.release(Lease { id, lease: 1 }));
    });
    assert!(matches!(store.failed_with(&made.unwrap_err()), Error::Storage { .. }));
    assert!(after.unwrap().is_err());
    assert_eq!(store.running("q").unwrap(), 1);
}
