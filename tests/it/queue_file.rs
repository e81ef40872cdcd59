//! The queue file, which other programs can write to, damage, delete and replace.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::harness::queue::{Broker, Queue};
use crate::harness::{PATIENCE, Running, guest, run, start, wq_run};

fn queue() -> Queue<'static> {
    Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()))
}

fn path(queue: &Queue) -> PathBuf {
    let Broker::Sqlite(folder) = &queue.broker else { panic!("for SQLite") };
    folder.path().join("q.db")
}

fn sql(queue: &Queue) -> Connection {
    let sql = Connection::open(path(queue)).unwrap();
    sql.busy_timeout(PATIENCE).unwrap();
    sql
}

/// What somebody else can write into a row of `message`, or do to its body.
const BAD_ROWS: [&str; 17] = [
    "UPDATE message SET properties = 'no JSON'",
    "UPDATE message SET properties = ''",
    "UPDATE message SET properties = '[]'",
    r#"UPDATE message SET properties = '{"priority": 300}'"#,
    r#"UPDATE message SET properties = '{"message_id": "kept", "from_the_future": 1}'"#,
    "UPDATE message SET properties = CAST(x'ff00fe' AS TEXT)",
    "UPDATE message SET properties = printf('%.*c', 100000, '[')",
    "UPDATE message SET headers = 'null'",
    "UPDATE message SET headers = CAST(x'7b22c3' AS TEXT)",
    "UPDATE message SET headers = '{\"x\": 1e999}'",
    "UPDATE message SET attempts = -1",
    "UPDATE message SET attempts = 4294967295",
    "UPDATE message SET attempts = 9223372036854775807",
    "UPDATE message SET handovers = -9223372036854775808",
    "UPDATE message SET available_at = 9223372036854775807",
    "DELETE FROM body",
    // A table of another make, without types.
    "DROP TABLE body; CREATE TABLE body (message INTEGER PRIMARY KEY, bytes);
     INSERT INTO body SELECT id, 5 FROM message",
];

#[test]
fn a_row_that_cannot_be_read_is_a_dead_letter_and_holds_up_nothing() {
    for bad in BAD_ROWS {
        let queue = queue();
        queue.publish(&["bad"]);
        sql(&queue).execute_batch(bad).unwrap_or_else(|error| panic!("{bad}: {error}"));
        queue.publish(&["good"]);
        let worker = run(&mut queue.command(&["work", &guest("echo"), "--drain", "--reconnect-timeout", "2s"]));
        worker.exits(65).prints("good").says("\"outcome\":\"unreadable\"").says("the message cannot be read");
        let dead = queue.take_dead();
        assert_eq!(dead.headers["x-wq-outcome"], "unreadable", "{bad}");
        assert!(dead.headers["x-wq-error"].starts_with("the message cannot be read: "), "{bad}: {dead:?}");
        if bad.contains("properties") {
            assert!(dead.headers.contains_key("x-wq-unreadable-properties"), "{bad}: {dead:?}");
        }
        if bad.contains("headers") {
            assert!(dead.headers.contains_key("x-wq-unreadable-headers"), "{bad}: {dead:?}");
        }
        if bad.contains("kept") {
            assert_eq!(dead.properties["message_id"], "kept");
        }
        if !bad.contains("body") {
            assert_eq!(dead.body, b"bad", "{bad}");
        }
    }
}

#[test]
fn a_row_that_cannot_be_read_is_printed_as_far_as_it_can_be() {
    for bad in BAD_ROWS {
        let queue = queue();
        queue.publish(&["bad"]);
        sql(&queue).execute_batch(bad).unwrap();
        run(&mut queue.command(&["queue", "status"])).exits(0);
        let got = run(&mut queue.command(&["queue", "get", "--json"]));
        got.exits(0).says("a part of the message can be read");
        assert!(got.out().contains("x-wq-error"), "{bad}: {}", got.out());
        queue.publish(&["again"]);
        sql(&queue).execute_batch(bad).unwrap();
        run(&mut queue.command(&["queue", "purge"])).exits(0).prints(&format!("purged 1 from {}\n", queue.name));
    }
}

#[test]
fn a_lease_that_no_worker_made_keeps_no_message_away() {
    for bad in [
        "UPDATE message SET lease = 1, lease_until = NULL",
        "UPDATE message SET lease = 1, lease_until = 9223372036854775807",
        "UPDATE message SET lease = NULL, lease_until = 9223372036854775807",
        "UPDATE message SET lease = -1, lease_until = -1",
        "DELETE FROM clock",
        "INSERT INTO clock VALUES ('another')",
        "UPDATE clock SET name = CAST(x'ff' AS TEXT); UPDATE message SET lease = 1, lease_until = 99999999999",
    ] {
        let queue = queue();
        queue.publish(&["good"]);
        sql(&queue).execute_batch(bad).unwrap();
        run(&mut queue.command(&["work", &guest("echo"), "--wait", "0"])).exits(0).prints("good");
    }
}

/// All commands that open a queue file.
const COMMANDS: [&[&str]; 6] = [
    &["work", "GUEST", "--forever", "--reconnect-timeout", "2s"],
    &["work", "GUEST", "--drain", "--result", "queue:other"],
    &["publish", "x"],
    &["queue", "get"],
    &["queue", "status"],
    &["queue", "purge"],
];

fn every_command(queue: &Queue) -> impl Iterator<Item = std::process::Command> {
    COMMANDS.iter().map(|args| {
        let args: Vec<String> =
            args.iter().map(|arg| if *arg == "GUEST" { guest("echo") } else { (*arg).to_owned() }).collect();
        queue.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

type Damage = fn(&Path);

#[test]
fn a_file_that_is_no_whole_queue_file_is_refused_by_every_command() {
    let damages: [(&str, Damage, &str); 8] = [
        ("cut short", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(9000).unwrap(), "is damaged"),
        (
            "cut in a page",
            |path| OpenOptions::new().write(true).open(path).unwrap().set_len(8500).unwrap(),
            "is damaged",
        ),
        (
            "a damaged header",
            |path| File::options().write(true).open(path).unwrap().write_all_at(b"x", 0).unwrap(),
            "is not a queue file",
        ),
        (
            "a damaged schema",
            |path| File::options().write(true).open(path).unwrap().write_all_at(&[0xff; 300], 100).unwrap(),
            "is damaged",
        ),
        (
            "a missing table",
            |path| Connection::open(path).unwrap().execute_batch("DROP TABLE body").unwrap(),
            "is damaged",
        ),
        (
            "a view",
            |path| {
                Connection::open(path)
                    .unwrap()
                    .execute_batch("DROP TABLE body; CREATE VIEW body AS SELECT 1 AS message, x'' AS bytes")
                    .unwrap()
            },
            "is damaged",
        ),
        (
            "a newer version",
            |path| Connection::open(path).unwrap().pragma_update(None, "user_version", 3).unwrap(),
            "a newer version of wq-run",
        ),
        (
            "another program's",
            |path| Connection::open(path).unwrap().pragma_update(None, "application_id", 7).unwrap(),
            "of another program",
        ),
    ];
    for (name, damage, text) in damages {
        let queue = queue();
        queue.publish(&["message"]);
        let path = path(&queue);
        let whole = std::fs::read(&path).unwrap();
        damage(&path);
        for mut command in every_command(&queue) {
            let refused = run(&mut command);
            assert_eq!(refused.code, Some(78), "{name}: {command:?}: {}", refused.stderr);
            refused.says(text).says(&path.display().to_string()).says("hint").says("BROKER_URL").prints("");
        }
        std::fs::write(&path, whole).unwrap();
        assert_eq!(queue.take().body, b"message");
    }
}

#[test]
fn an_empty_file_holds_no_queue_and_stays_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.db");
    File::create(&path).unwrap();
    let url = format!("sqlite:{}", path.display());
    for args in [&["work", &guest("echo")][..], &["publish", "x"], &["queue", "status"]] {
        run(wq_run(args).env("BROKER_URL", &url).env("QUEUE", "q")).exits(78).says("is empty").says("queue declare");
        assert_eq!(path.metadata().unwrap().len(), 0);
    }
    run(wq_run(&["queue", "declare"]).env("BROKER_URL", &url).env("QUEUE", "q")).exits(0);
    run(wq_run(&["publish", "x"]).env("BROKER_URL", &url).env("QUEUE", "q")).exits(0);
}

#[test]
fn another_programs_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let before = std::fs::read(&path).unwrap();
    let url = format!("sqlite:{}", path.display());
    for args in [&["work", &guest("echo")][..], &["publish", "x"], &["queue", "declare"]] {
        run(wq_run(args).env("BROKER_URL", &url).env("QUEUE", "q")).exits(78).says("of another program");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{args:?}");
    }
}

#[test]
fn a_trigger_that_somebody_else_made_does_not_run() {
    let queue = queue();
    // Would count forever, with the write lock held.
    sql(&queue)
        .execute_batch(
            "CREATE TRIGGER endless AFTER INSERT ON body BEGIN
                 SELECT count(*) FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n);
             END",
        )
        .unwrap();
    queue.publish(&["x"]);
    run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("x");
}

fn service(queue: &Queue, args: &[&str]) -> Running {
    let echo = guest("echo");
    let mut all = vec!["work", &echo, "--forever"];
    all.extend(args);
    let mut service = start(queue.command(&all).env("RUST_LOG", "info,wq_run=debug"));
    service.wait_for("subscribed");
    service
}

#[test]
fn a_damaged_page_ends_a_worker_that_has_the_file_open() {
    let queue = queue();
    queue.publish(&["message"]);
    let path = path(&queue);
    let whole = std::fs::read(&path).unwrap();
    let page_size = 4096;
    // All but the first page, which holds the schema.
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&vec![0xa5; whole.len() - page_size], page_size as u64)
        .unwrap();
    let echo = guest("echo");
    let ended = run(&mut queue.command(&["work", &echo, "--forever"]));
    ended.exits(78).says("is damaged").says("sqlite3").prints("");
    for args in [&["queue", "get"][..], &["queue", "status"], &["queue", "purge"]] {
        run(&mut queue.command(args)).exits(78).says("is damaged").prints("");
    }
    std::fs::write(&path, whole).unwrap();
    assert_eq!(queue.take().body, b"message");
}

#[test]
fn messages_that_an_index_has_lost_do_not_make_a_drain_end_well() {
    // What a worker finds messages by, and what a walk does.
    for index in ["message_free", "message_by_queue"] {
        let queue = queue();
        queue.publish(&["hidden"]);
        let sql = self::sql(&queue);
        let read = format!("SELECT sql FROM sqlite_schema WHERE name = '{index}'");
        let good: String = sql.query_row(&read, [], |row| row.get(0)).unwrap();
        let bad = match good.contains("WHERE") {
            true => good.replace("WHERE", "WHERE id < 0 AND"),
            false => format!("{good} WHERE id < 0"),
        };
        let put = |to: &str| {
            let sql = self::sql(&queue);
            sql.execute_batch("PRAGMA writable_schema = ON").unwrap();
            sql.execute("UPDATE sqlite_schema SET sql = ?1 WHERE name = ?2", [to, index]).unwrap();
        };
        put(&bad);
        // With a schema under which the index has no rows.
        self::sql(&queue).execute_batch("REINDEX").unwrap();
        put(&good);
        run(&mut queue.command(&["queue", "status"])).exits(78).says("is damaged").says("its index has 0 messages");
        if index == "message_free" {
            let drain = run(&mut queue.command(&["work", &guest("echo"), "--drain"]));
            drain.exits(78).says("its index has 0 messages").prints("");
        }
        self::sql(&queue).execute_batch("REINDEX").unwrap();
        assert_eq!(queue.take().body, b"hidden");
    }
}

#[test]
fn a_queue_deleted_under_its_worker_ends_it_on_a_queue_file_too() {
    let queue = queue();
    let service = service(&queue, &[]);
    queue.delete(&queue.name);
    service.end().exits(78).says(&format!("no queue `{}`", queue.name));
    run(&mut queue.command(&["queue", "declare"])).exits(0);
}

#[test]
fn a_queue_file_that_is_made_again_is_worked_on() {
    for by_rename in [false, true] {
        let queue = queue();
        let mut service = service(&queue, &[]);
        // So that there is something in the old log.
        queue.publish(&["in the old file"]);
        service.wait_for("\"settlement\":\"ack\"");
        let path = path(&queue);
        let new = path.with_file_name("new.db");
        let url = format!("sqlite:{}", new.display());
        run(queue.command(&["queue", "declare"]).env("BROKER_URL", &url)).exits(0);
        run(queue.command(&["publish", "in the new one"]).env("BROKER_URL", &url)).exits(0);
        if !by_rename {
            for ending in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{ending}", path.display()));
            }
            service.wait_for("was removed while it was open");
        }
        std::fs::rename(&new, &path).unwrap();
        service.wait_for("\"settlement\":\"ack\"");
        service.signal("TERM");
        service.end().exits(0).prints("in the old filein the new one");
        let whole: String = sql(&queue).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
    }
}

#[test]
fn a_queue_file_that_stays_away_ends_its_worker() {
    type Loss = fn(&Path);
    let losses: [Loss; 2] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::rename(path.parent().unwrap(), path.parent().unwrap().with_extension("moved")).unwrap(),
    ];
    for loss in losses {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("q.db");
        let url = format!("sqlite:{}", path.display());
        run(wq_run(&["queue", "declare"]).env("BROKER_URL", &url).env("QUEUE", "q")).exits(0);
        let args = ["work", &guest("echo"), "--forever", "--reconnect-timeout", "1s"];
        let mut command = wq_run(&args);
        let mut service = start(command.env("BROKER_URL", &url).env("QUEUE", "q").env("RUST_LOG", "info,wq_run=debug"));
        service.wait_for("subscribed");
        loss(&path);
        service.end().exits(78).says("there is no file").says("was removed while it was open");
    }
}

#[test]
fn nothing_is_acknowledged_in_a_file_that_is_gone() {
    let queue = queue();
    let results = queue.beside("results");
    queue.publish(&["lost with its file"]);
    let args = ["work", &guest("nap"), "--result", &format!("queue:{results}"), "--reconnect-timeout", "1s"];
    let mut worker = start(&mut queue.command(&args));
    worker.wait_for("started");
    let path = path(&queue).display().to_string();
    for ending in ["", "-wal", "-shm"] {
        std::fs::rename(format!("{path}{ending}"), format!("{path}.kept{ending}")).unwrap();
    }
    run(&mut queue.command(&["queue", "declare"])).exits(0);
    let ended = worker.end();
    assert_ne!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("\"settlement\":\"ack\""), "{}", ended.stderr);
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::rename(format!("{path}.kept{ending}"), format!("{path}{ending}"));
    }
    assert_eq!(queue.depth_of(&results), 0);
    run(&mut queue.command(&["work", &guest("echo"), "--wait", "30s"])).exits(0).prints("lost with its file");
}

#[test]
fn a_log_deleted_beside_an_open_file_is_noticed() {
    let queue = queue();
    let mut service = service(&queue, &[]);
    std::fs::remove_file(format!("{}-wal", path(&queue).display())).unwrap();
    service.wait_for("-wal");
    service.wait_for("subscribed");
    queue.publish(&["x"]);
    service.wait_for("\"settlement\":\"ack\"");
    service.signal("TERM");
    service.end().exits(0).prints("x");
}

#[test]
fn a_settlement_waits_for_a_lock_no_longer_than_its_timeout() {
    let queue = queue();
    queue.publish(&["x"]);
    let mut worker = start(&mut queue.command(&["work", &guest("nap"), "--publish-timeout", "1s"]));
    worker.wait_for("started");
    let locked = sql(&queue);
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    worker.end().exits(74).says("is locked by another process").says("\"settlement\":\"failed\"");
    locked.execute_batch("ROLLBACK").unwrap();
    // Its lease has to end first.
    run(&mut queue.command(&["work", &guest("echo"), "--wait", "30s"])).exits(0).prints("x");
}

#[test]
fn a_settlement_outlives_a_lock_that_is_given_up_in_time() {
    let queue = queue();
    queue.publish(&["x"]);
    let mut worker = start(&mut queue.command(&["work", &guest("nap")]));
    worker.wait_for("started");
    let locked = sql(&queue);
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Longer than one call waits.
    std::thread::sleep(Duration::from_secs(2));
    locked.execute_batch("ROLLBACK").unwrap();
    worker.end().exits(0);
}

#[test]
fn a_lock_that_lasts_ends_a_worker_that_has_a_message_to_take() {
    let queue = queue();
    let service = service(&queue, &["--reconnect-timeout", "1s"]);
    let locked = sql(&queue);
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    let body = format!(
        "INSERT INTO message (queue, properties, headers, available_at) VALUES ('{}', '{{}}', '{{}}', 0);
         INSERT INTO body VALUES (last_insert_rowid(), x'78'); COMMIT; BEGIN IMMEDIATE",
        queue.name
    );
    locked.execute_batch(&body).unwrap();
    let ended = service.end();
    locked.execute_batch("ROLLBACK").unwrap();
    // It may have been faster than the second lock.
    if ended.code != Some(74) {
        panic!("{:?}: {}", ended.code, ended.stderr);
    }
    ended.says("is locked by another process");
    assert_eq!(queue.take().body, b"x");
}

#[test]
fn a_worker_leaves_in_time_under_a_lock_that_lasts() {
    let queue = queue();
    queue.publish(&["x"]);
    let mut worker = start(&mut queue.command(&["work", &guest("sleep"), "--shutdown-timeout", "1s"]));
    worker.wait_for("started");
    let locked = sql(&queue);
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    worker.signal("TERM");
    let ended = worker.end_within(PATIENCE);
    assert!(![Some(0), None].contains(&ended.code), "{}", ended.stderr);
    locked.execute_batch("ROLLBACK").unwrap();
    run(&mut queue.command(&["work", &guest("echo"), "--wait", "30s"])).exits(0).prints("x");
}
