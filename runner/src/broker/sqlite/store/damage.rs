//! Tests of the queue file with random damage: rows that hold anything, and files with bytes changed at random.

use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use rusqlite::types::Value as Sql;

use super::super::states;
use super::tests::{BUSY, LEASE, failure, store_with};
use super::*;
use crate::broker::Depth;

const BODIES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

fn any_value() -> impl Strategy<Value = Sql> {
    prop_oneof![
        Just(Sql::Null),
        any::<i64>().prop_map(Sql::Integer),
        (-3i64..3).prop_map(Sql::Integer),
        any::<f64>().prop_map(Sql::Real),
        ".{0,20}".prop_map(Sql::Text),
        r#"\{("[a-z_]{1,12}":(null|-?[0-9]{1,20}|"x"|\{\}|\[1\]))?\}"#.prop_map(Sql::Text),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Sql::Blob),
    ]
}

/// Takes all there is, as a worker does; at most so often.
fn drain(store: &mut Store, at_most: usize) -> Result<Vec<Taken>, Error> {
    let mut all = Vec::new();
    for lease in 1..=at_most as i64 {
        let taken = store.take("q", 3, lease, LEASE)?;
        for taken in &taken {
            let lease = Lease { id: taken.id, lease };
            if taken.unreadable.is_some() {
                let Message { headers, properties, .. } = &taken.message;
                let _: Held = store.dead_letter(lease, "q.dead", headers, &failure(), "q", Some(properties))?;
            } else {
                let _: Held = store.ack(lease)?;
            }
        }
        if taken.is_empty() {
            return Ok(all);
        }
        all.extend(taken);
    }
    panic!("the queue is never empty");
}

/// A good file that holds messages of two queues, on more than one page.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (folder, mut store) = store_with(&BODIES);
    store.declare("other").unwrap();
    for size in [0, 10, 5_000, 20_000] {
        store.publish("other", &Properties::default(), &Map::new(), &vec![7; size].into()).unwrap();
    }
    // The last connection brings the log into the file.
    drop(store);
    std::fs::read(folder.path().join("q.db")).unwrap()
});

fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// How many messages of the queue are accounted for: taken, or seen to be there still.
fn accounted_for(path: &std::path::Path) -> Result<usize, Error> {
    let mut store = Store::open(path, "q", BUSY)?;
    let taken = drain(&mut store, 10 * BODIES.len())?.len();
    let Depth { ready, delayed, .. } = store.depth("q")?;
    Ok(taken + (ready + delayed + store.running("q")?) as usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_that_hold_anything_are_put_aside_and_the_others_are_done(
        rows in prop::collection::vec((0..BODIES.len(), 0..6usize, any_value()), 1..6)
    ) {
        let (_folder, mut store) = store_with(&BODIES);
        // Without types, anything can be written.
        store.file.connection.execute_batch(
            "PRAGMA foreign_keys = OFF;
             CREATE TABLE m AS SELECT * FROM message; DROP TABLE message;
             CREATE TABLE message (id INTEGER PRIMARY KEY, queue, properties, headers, attempts, handovers, available_at,
                 lease, lease_until);
             INSERT INTO message SELECT * FROM m; CREATE INDEX message_by_queue ON message (queue, id);
             CREATE TABLE b AS SELECT * FROM body; DROP TABLE body; CREATE TABLE body (message INTEGER PRIMARY KEY, bytes);
             INSERT INTO body SELECT * FROM b",
        ).unwrap();
        states::make_missing(&store.file.connection).unwrap();
        let mut spoiled = std::collections::BTreeSet::new();
        for (row, column, value) in rows {
            let id = row as i64 + 1;
            let (table, key, column) = [
                ("message", "id", "properties"),
                ("message", "id", "headers"),
                ("message", "id", "attempts"),
                ("message", "id", "handovers"),
                ("message", "id", "lease_until"),
                ("body", "message", "bytes"),
            ][column];
            store.file.connection
                .execute(&format!("UPDATE {table} SET {column} = ?2 WHERE {key} = ?1"), params![id, value])
                .unwrap();
            spoiled.insert(id);
        }
        let taken = drain(&mut store, 10 * BODIES.len()).unwrap();
        let mut ids: Vec<i64> = taken.iter().map(|taken| taken.id).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (1..=BODIES.len() as i64).collect::<Vec<_>>());
        for taken in &taken {
            if !spoiled.contains(&taken.id) {
                prop_assert_eq!(&taken.unreadable, &None);
                prop_assert_eq!(&taken.message.body[..], BODIES[taken.id as usize - 1].as_bytes());
            }
        }
        // A message that was put aside can be read again.
        let aside = taken.iter().filter(|taken| taken.unreadable.is_some()).count();
        store.declare("q.dead").unwrap();
        let dead = store.take("q.dead", BODIES.len(), 99, LEASE).unwrap();
        prop_assert_eq!(dead.len(), aside);
        for dead in dead {
            prop_assert_eq!(dead.unreadable, None);
        }
    }

    #[test]
    fn damaged_bytes_lose_no_message_without_an_error(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut bytes = GOOD.clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (_folder, path) = written(&bytes);
        if let Ok(accounted_for) = accounted_for(&path) {
            prop_assert!(accounted_for >= BODIES.len(), "{} of {}", accounted_for, BODIES.len());
        }
    }

    #[test]
    fn a_file_cut_short_anywhere_is_an_error(at: prop::sample::Index) {
        let cut = &GOOD[..at.index(GOOD.len())];
        let (_folder, path) = written(cut);
        prop_assert!(accounted_for(&path).is_err());
    }

    #[test]
    fn no_bytes_can_make_opening_a_file_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let (_folder, path) = written(&bytes);
        prop_assert!(Store::open(&path, "q", BUSY).is_err());
    }
}
