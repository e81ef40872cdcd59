//! Calls on a deep queue cost no more than on a short one.
//!
//! The tests see each statement that is run, ask SQLite for its plan and count its steps: time says nothing on a busy machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rusqlite::StatementStatus;
use rusqlite::trace::{TraceEvent, TraceEventCodes};

use super::tests::{BUSY, LEASE, failure, store_with};
use super::*;
use crate::broker::Depth;

/// The statements that a store has run, with SQLite's count of their steps.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, i32>>>);

impl Seen {
    fn of(store: &mut Store) -> Seen {
        let seen = Seen::default();
        let kept = seen.clone();
        let trace = move |event: TraceEvent<'_>| {
            if let TraceEvent::Profile(statement, _) = event {
                // SQLite adds up over all runs of a statement.
                let steps = statement.get_status(StatementStatus::VmStep);
                kept.0.lock().unwrap().insert(statement.sql().into_owned(), steps);
            }
        };
        store.file.connection.trace_v2(TraceEventCodes::SQLITE_TRACE_PROFILE, Some(trace)).unwrap();
        seen
    }

    fn steps(&self) -> i32 {
        self.0.lock().unwrap().values().sum()
    }

    fn statements(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

/// Another connection's messages, which wait for an hour.
fn add_waiting(store: &Store, count: usize) {
    let other = Connection::open(&store.file.path).unwrap();
    let at = store.file.clock.now() + 3_600_000;
    let add = format!(
        "INSERT INTO message (queue, properties, headers, available_at)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             SELECT 'q', '{{}}', '{{}}', {at} + i FROM n;
         INSERT INTO body SELECT id, x'61' FROM message WHERE available_at > 0 AND id NOT IN (SELECT message FROM body);"
    );
    other.execute_batch(&add).unwrap();
}

fn add_free(store: &mut Store, count: usize) {
    let message = Message { body: "a".into(), properties: Properties::default(), headers: Map::new() };
    store.publish_all("q", &vec![message; count], Duration::ZERO).unwrap();
}

/// Every verb of a worker.
fn work(store: &mut Store) {
    let taken = store.take("q", 6, 1, LEASE).unwrap();
    assert_eq!(taken.len(), 6);
    let leases: Vec<Lease> = taken.iter().map(|taken| Lease { id: taken.id, lease: 1 }).collect();
    store
        .together(|store| {
            assert_eq!(store.renew(leases[0], LEASE).unwrap(), Held::Yes);
            assert_eq!(store.ack(leases[0]).unwrap(), Held::Yes);
            assert_eq!(store.release(leases[1]).unwrap(), Held::Yes);
            assert_eq!(store.retry(leases[2], LEASE, &Map::new(), &failure(), "q").unwrap(), Held::Yes);
            let dead = store.dead_letter(leases[3], "q.dead", &Map::new(), &failure(), "q", None);
            assert_eq!(dead.unwrap(), Held::Yes);
            assert_eq!(store.take("q", 1, 2, LEASE).unwrap().len(), 1);
        })
        .unwrap();
    store.publish("q", &Properties::default(), &Map::new(), &"b".into()).unwrap();
    assert!(store.glance("q").unwrap().ready > 0);
    store.require_queue("q").unwrap();
}

#[test]
fn no_statement_of_a_take_scans_the_queue() {
    let (_folder, mut store) = store_with(&["a"; 20]);
    add_waiting(&store, 100);
    let seen = Seen::of(&mut store);
    work(&mut store);
    while !store.take("q", 10, 3, LEASE).unwrap().is_empty() {}
    let statements = seen.statements();
    for verb in ["UPDATE message SET lease = ?2", "DELETE FROM message", "message_waiting", "message_leased", "min("] {
        assert!(statements.iter().any(|sql| sql.contains(verb)), "no `{verb}` among {statements:#?}");
    }
    let plans = Connection::open(&store.file.path).unwrap();
    for sql in statements {
        if ["BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "PRAGMA", "--"].iter().any(|word| sql.starts_with(word)) {
            continue;
        }
        let mut plan = plans.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = plan.raw_query();
        while let Some(row) = rows.next().unwrap() {
            let step: String = row.get(3).unwrap();
            let walks = step.starts_with("SCAN") && step != "SCAN CONSTANT ROW";
            assert!(!walks && !step.contains("TEMP B-TREE") && !step.contains("AUTOMATIC"), "{sql}: {step}");
        }
    }
}

#[test]
fn a_take_costs_the_same_in_a_short_and_in_a_deep_queue() {
    let steps = |deep: usize| {
        let (folder, mut store) = store_with(&["a"; 20]);
        let mut other = Store::open(&folder.path().join("q.db"), "q", BUSY).unwrap();
        // Also behind many that wait and many that are with others.
        add_waiting(&store, deep);
        add_free(&mut other, deep);
        assert_eq!(other.take("q", deep, 9, LEASE).unwrap().len(), deep);
        add_free(&mut other, deep);
        let seen = Seen::of(&mut store);
        work(&mut store);
        seen.steps()
    };
    let (short, deep) = (steps(10), steps(10_000));
    // A thousand times as deep costs a few entries of an index more, where it begins on another page.
    assert!(deep - short <= short / 5, "{short} steps in a short queue, {deep} in a deep one");
}

#[test]
fn an_idle_worker_does_not_walk_over_messages_that_wait() {
    const LOOKS: i32 = 1000;
    let steps = |waiting: usize| {
        let (_folder, mut store) = store_with(&[]);
        add_waiting(&store, waiting);
        let seen = Seen::of(&mut store);
        for _ in 0..LOOKS {
            assert!(store.take("q", 10, 1, LEASE).unwrap().is_empty());
        }
        let unchanged = seen.steps();
        for _ in 0..10 {
            // Others go on writing.
            add_waiting(&store, 1);
            assert!(store.take("q", 10, 1, LEASE).unwrap().is_empty());
        }
        assert_eq!(store.glance("q").unwrap(), Depth { ready: 0, delayed: 1, missing: 0 });
        (unchanged, seen.steps() - unchanged)
    };
    let ((few, few_written), (many, many_written)) = (steps(10), steps(100_000));
    // Nearly all looks ask for the version of the file and no more.
    assert!(few <= 10 * LOOKS && many <= 10 * LOOKS, "{few} and {many} steps in {LOOKS} looks");
    assert!(many_written <= few_written + 1000, "{few_written} steps with few, {many_written} with many");
}

#[test]
fn a_look_that_found_nothing_holds_until_a_pause_a_lease_or_another_connection_ends_it() {
    let (folder, mut store) = store_with(&["a"]);
    let mut other = Store::open(&folder.path().join("q.db"), "q", BUSY).unwrap();
    let short = Duration::from_millis(30);
    let come = |store: &mut Store, lease| {
        let began = std::time::Instant::now();
        loop {
            let taken = store.take("q", 1, lease, short).unwrap();
            if let Some(taken) = taken.into_iter().next() {
                return Lease { id: taken.id, lease };
            }
            assert!(began.elapsed() < BUSY, "it never came");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let first = come(&mut other, 1);
    // Its worker died.
    let second = come(&mut store, 2);
    assert_eq!((second.id, other.ack(first).unwrap()), (first.id, Held::Lost));
    assert_eq!(store.retry(second, short, &Map::new(), &failure(), "q").unwrap(), Held::Yes);
    let third = come(&mut store, 3);
    assert_eq!(store.ack(third).unwrap(), Held::Yes);
    assert!(store.take("q", 1, 4, LEASE).unwrap().is_empty());
    other.publish("q", &Properties::default(), &Map::new(), &"b".into()).unwrap();
    assert_eq!(store.take("q", 1, 4, LEASE).unwrap().len(), 1, "at the next look");
    other.file.connection.execute("DELETE FROM queue", []).unwrap_err();
    other.file.connection.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM queue").unwrap();
    assert!(matches!(store.take("q", 1, 5, LEASE), Err(Error::MissingQueue { .. })));
}

#[test]
fn messages_whose_pause_is_over_come_in_the_order_of_publishing() {
    let (_folder, mut store) = store_with(&["a", "b", "c", "d"]);
    let taken = store.take("q", 2, 1, Duration::ZERO).unwrap();
    let lease = Lease { id: taken[1].id, lease: 1 };
    assert_eq!(store.retry(lease, Duration::from_millis(1), &Map::new(), &failure(), "q").unwrap(), Held::Yes);
    std::thread::sleep(Duration::from_millis(2));
    let bodies: Vec<Bytes> =
        store.take("q", 3, 2, LEASE).unwrap().into_iter().map(|taken| taken.message.body).collect();
    assert_eq!(bodies, ["a", "b", "c"]);
}

#[test]
fn a_file_of_a_version_without_the_indexes_gets_them_and_loses_nothing() {
    let (folder, mut store) = store_with(&["free", "leased", "waits", "of the old version"]);
    let path = folder.path().join("q.db");
    let taken = store.take("q", 3, 1, LEASE).unwrap();
    assert_eq!(store.release(Lease { id: taken[0].id, lease: 1 }).unwrap(), Held::Yes);
    let waits = Lease { id: taken[2].id, lease: 1 };
    assert_eq!(store.retry(waits, LEASE, &Map::new(), &failure(), "q").unwrap(), Held::Yes);
    let drop_all = "DROP INDEX message_free; DROP INDEX message_waiting; DROP INDEX message_leased";
    store.file.connection.execute_batch(drop_all).unwrap();
    // It writes the time of publishing, and the version of the schema is the same.
    store.file.connection.execute("UPDATE message SET available_at = 1 WHERE id = 4", []).unwrap();
    drop(store);
    let mut store = Store::open(&path, "q", BUSY).unwrap();
    assert_eq!(store.depth("q").unwrap(), Depth { ready: 2, delayed: 1, missing: 0 });
    assert_eq!(store.running("q").unwrap(), 1);
    let taken = store.take("q", 10, 2, LEASE).unwrap();
    assert_eq!(
        taken.iter().map(|taken| &taken.message.body[..]).collect::<Vec<_>>(),
        [&b"free"[..], b"of the old version"]
    );
    // One that somebody has removed is made again.
    store.file.connection.execute_batch("DROP INDEX message_waiting").unwrap();
    assert_eq!(Store::open(&path, "q", BUSY).unwrap().depth("q").unwrap().delayed, 1);
    // An index of the same name that is another one.
    let another = "DROP INDEX message_free; CREATE INDEX message_free ON message (id)";
    store.file.connection.execute_batch(another).unwrap();
    assert!(matches!(Store::open(&path, "q", BUSY), Err(Error::DamagedFile { .. })));
}
