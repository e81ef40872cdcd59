//! Faults that are planted on the other brokers: Redis, SQS and the embedded queue.

use std::path::Path;

use serde_json::json;

use super::{assert_found, assert_nothing_found, check, files};
use crate::harness::queue::{Broker, Queue};
use crate::harness::redis::Redis;
use crate::harness::sqs::{Emulator, Sqs};
use crate::harness::{guest, installed, run, start, wq_run};

#[test]
fn what_is_wrong_with_a_redis_is_found() {
    let Some(redis) = Redis::start() else { return };
    let queue = Queue::new(Broker::Redis(&redis));
    let look =
        |url: &str, name: &str| run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", url).env("QUEUE", name));
    let work = |url: &str, name: &str| {
        let mut work = queue.command(&["work", &guest("echo"), "--connect-timeout", "100ms", "--wait", "0s"]);
        run(work.env("BROKER_URL", url).env("QUEUE", name))
    };
    redis.ask(&["SET", "text", "x"]);
    redis.ask(&["XADD", "no-group", "*", "body", "x"]);
    redis.ask(&["XGROUP", "CREATE", "shared", "wq-run", "0", "MKSTREAM"]);
    redis.ask(&["XGROUP", "CREATE", "shared", "others", "0"]);
    let url = queue.url();
    for (name, said) in [
        ("none", "no queue `none`"),
        ("text", "a string, not a stream"),
        ("no-group", "no consumer group"),
        ("shared", "others"),
    ] {
        assert_found(look(&url, name).exits(78), "error", "queue", said);
        work(&url, name).exits(78);
    }
    let place = format!("127.0.0.1:{}", redis.port);
    assert_found(
        look(&format!("redis://nobody:wr0ng@{place}"), &queue.name).exits(77),
        "error",
        "credentials",
        "password",
    );
    assert_found(look("redis://127.0.0.1:1", &queue.name).exits(69), "error", "reach", "127.0.0.1:1");
    // A string is in the way of dead letters.
    redis.ask(&["SET", &format!("{}.dead", queue.name), "x"]);
    assert_found(look(&url, &queue.name).exits(78), "error", "dead-letters", "a string, not a stream");
    redis.ask(&["DEL", &format!("{}.dead", queue.name)]);
    assert_nothing_found(&look(&url, &queue.name));
    for (setting, value, good, said) in [
        ("appendonly", "no", "yes", "append-only file"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "DELETES whole queues"),
    ] {
        redis.ask(&["CONFIG", "SET", setting, value]);
        assert_found(look(&url, &queue.name).exits(0), "warning", "durability", said);
        redis.ask(&["CONFIG", "SET", setting, good]);
    }
}

/// The rights that docs/redis.md names are enough to look, and one that is missing is found.
#[test]
fn a_right_that_is_missing_on_a_redis_is_found_before_a_message_needs_it() {
    let Some(redis) = Redis::start() else { return };
    let queue = Queue::new(Broker::Redis(&redis));
    queue.publish(&["x"]);
    let docs = std::fs::read_to_string(crate::harness::root().join("docs/redis.md")).unwrap();
    let (_, rights) = docs.split_once("resetchannels -@all\n").expect("its list of rights");
    let rights: Vec<&str> = rights.split("```").next().unwrap().split_whitespace().collect();
    let name = &queue.name;
    let url = format!("redis://limited:pw@127.0.0.1:{}", redis.port);
    let limited = |without: &str| {
        let keys = [format!("~{name}*"), format!("~{{{name}*")];
        let mut words =
            vec!["ACL", "SETUSER", "limited", "reset", "on", ">pw", &keys[0], &keys[1], "resetchannels", "-@all"];
        words.extend(rights.iter().filter(|right| **right != without));
        redis.ask(&words);
        run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", &url))
    };
    assert_nothing_found(&limited("nothing"));
    for (without, about) in [
        ("+eval", "rights"),
        ("+xreadgroup", "rights"),
        ("+xclaim", "rights"),
        ("+xack", "rights"),
        ("+xdel", "rights"),
        ("+zrem", "rights"),
        ("+zadd", "retries"),
        ("+xgroup", "dead-letters"),
    ] {
        let command = without.trim_start_matches('+').to_uppercase();
        let checked = limited(without);
        assert_found(checked.exits(77), "error", about, &format!("run {command}"));
    }
    limited("nothing");
    let told = run(queue.command(&["work", &guest("environ")]).env("BROKER_URL", &url)).exits(0).out();
    assert!(told.contains("WQ_REDELIVERED=false"), "{told}");
}

#[test]
fn a_redis_with_tls_is_told_from_one_without() {
    let Some((redis, tls_port)) = Redis::start_with_tls() else { return };
    let queue = Queue::new(Broker::Redis(&redis));
    let look = |url: String| run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", url));
    let ca = redis.folder().join("ca.pem");
    let file = |name: &str| redis.folder().join(name).display().to_string();
    let trusted = format!("rediss://localhost:{tls_port}?cacertfile={}", ca.display());
    let good = look(format!("{trusted}&certfile={}&keyfile={}", file("client.pem"), file("client.key")));
    assert_nothing_found(&good);
    // This server wants to know its clients.
    assert_found(look(trusted).exits(69), "error", "tls", "certfile");
    assert_found(&good, "ok", "tls", "encrypted");
    let unknown = look(format!("rediss://localhost:{tls_port}"));
    assert_found(unknown.exits(78), "error", "tls", "cacertfile");
    let plain = look(format!("rediss://localhost:{}?connection_timeout=500&cacertfile={}", redis.port, ca.display()));
    assert_found(plain.exits(78), "error", "tls", "does not speak TLS on this port");
}

/// Where libfaketime lies, with which a process has a clock of its own.
fn at_another_time(command: &std::process::Command, offset: &str) -> Option<std::process::Command> {
    let program = installed("faketime")?;
    let mut faked = std::process::Command::new(program);
    faked.args(["-f", offset]).arg(command.get_program()).args(command.get_args());
    faked.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    faked.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    Some(faked)
}

#[test]
fn a_clock_that_differs_from_the_servers_is_warned_of() {
    let Some(redis) = Redis::shared() else { return };
    let queue = Queue::new(Broker::Redis(redis));
    for (offset, level) in [("+2m", "warning"), ("-2m", "warning"), ("+2s", "ok")] {
        let Some(mut late) = at_another_time(&check(&queue, &guest("echo"), &[]), offset) else { return };
        assert_found(run(&mut late).exits(0), level, "clock", "differ by");
    }
    let Some(sqs) = Sqs::shared(Emulator::Ministack) else { return };
    let queue = Queue::new(Broker::Sqs(sqs));
    let Some(mut late) = at_another_time(&check(&queue, &guest("echo"), &[]), "+6m") else { return };
    assert_found(run(&mut late).exits(0), "warning", "clock", "five minutes");
}

#[test]
fn what_is_wrong_with_a_queue_of_sqs_is_found() {
    let Some(sqs) = Sqs::shared(Emulator::Ministack) else { return };
    let queue = Queue::new(Broker::Sqs(sqs));
    let dead = queue.beside("dead");
    let set = |attributes: serde_json::Value| {
        drop(sqs.on(&queue.name, "SetQueueAttributes", json!({ "Attributes": attributes })))
    };
    let look = |flags: &[&str]| run(&mut check(&queue, &guest("echo"), flags));
    assert_nothing_found(&look(&[]));
    let by_broker = ["--dead-letter-by", "broker"];
    assert_found(look(&by_broker).exits(78), "error", "dead-letters", "no redrive policy");
    run(queue.command(&["work", &guest("echo"), "--wait", "0s"]).args(by_broker)).exits(78);
    let arn = sqs.on(&dead, "GetQueueAttributes", json!({ "AttributeNames": ["QueueArn"] }))["Attributes"]["QueueArn"]
        .clone();
    let policy = |count: u32| json!({ "deadLetterTargetArn": arn, "maxReceiveCount": count }).to_string();
    set(json!({ "RedrivePolicy": policy(3) }));
    assert_found(look(&[]).exits(0), "warning", "delivery-limit", "3 deliveries");
    set(json!({ "RedrivePolicy": policy(4) }));
    assert_nothing_found(&look(&[]));
    set(json!({ "MessageRetentionPeriod": "60" }));
    assert_found(look(&[]).exits(0), "warning", "durability", "1m");
    let mut without = wq_run(&["check", &guest("echo"), "--json"]);
    without.env("BROKER_URL", queue.url()).env("QUEUE", &queue.name).env("AWS_EC2_METADATA_DISABLED", "true");
    assert_found(run(&mut without).exits(77), "error", "credentials", "AWS_ACCESS_KEY_ID");
    let nowhere = "sqs://us-east-1?endpoint=http://127.0.0.1:1";
    let checked = run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", nowhere));
    assert_found(checked.exits(69), "error", "reach", "127.0.0.1:1");
}

#[test]
fn what_is_wrong_with_a_queue_file_is_found_and_nothing_is_made_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("empty.db"), b"").unwrap();
    std::fs::write(path("text.db"), "not a database, but a text ".repeat(100)).unwrap();
    let other = rusqlite::Connection::open(path("other.db")).unwrap();
    other.execute_batch("CREATE TABLE t (a)").unwrap();
    drop(other);
    let before = files(folder.path());
    for (name, about, said) in [
        ("none.db", "queue", "there is no file"),
        ("empty.db", "queue", "is empty"),
        ("text.db", "reach", "not a queue file"),
        ("other.db", "reach", "another program"),
    ] {
        let run_with = |args: &[&str]| {
            run(wq_run(args).env("BROKER_URL", format!("sqlite:{}", path(name).display())).env("QUEUE", "q"))
        };
        assert_found(run_with(&["check", &guest("echo"), "--json"]).exits(78), "error", about, said);
        run_with(&["work", &guest("echo")]).exits(78);
    }
    assert_eq!(files(folder.path()), before);
}

/// With a worker, the file has a log with messages that are nowhere else; without its index only a writer could read that.
#[test]
fn a_queue_file_is_read_with_its_log_or_not_at_all() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let Broker::Sqlite(folder) = &queue.broker else { unreachable!() };
    let mut worker = start(&mut queue.command(&["work", &guest("echo"), "--forever", "--log-format", "json"]));
    worker.wait_for("working");
    let results = queue.beside("results");
    let checked = run(&mut check(&queue, &guest("echo"), &["--result", &format!("queue:{results}")]));
    assert_found(checked.exits(0), "ok", "results", &results);
    // As a copy that was made without its index.
    let copy = tempfile::tempdir().unwrap();
    for name in ["q.db", "q.db-wal"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    worker.signal("TERM");
    worker.end().exits(0);
    let before = files(copy.path());
    let url = format!("sqlite:{}", copy.path().join("q.db").display());
    let checked = run(check(&queue, &guest("echo"), &[]).env("BROKER_URL", url));
    assert_found(checked.exits(0), "note", "queue", "not checked");
    assert_eq!(files(copy.path()), before);
}

/// Paths may hold what means something in an address.
#[test]
fn a_queue_file_may_have_any_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a b?c=d#e%20.db", "ü.db"] {
        let path = folder.path().join(name);
        let with =
            |args: &[&str]| run(wq_run(args).env("BROKER_URL", format!("sqlite:{}", path.display())).env("QUEUE", "q"));
        with(&["queue", "declare"]).exits(0);
        assert!(Path::new(&path).is_file());
        assert_nothing_found(&with(&["check", &guest("echo"), "--json"]));
    }
}
