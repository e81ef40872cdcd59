//! What only Redis has: its URL and its rights, lists in front of a queue, foreign entries, and a server that is full or cut off.

use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue};
use crate::harness::redis::{Answer, Redis};
use crate::harness::{eventually, guest, root, run, start};

const FAST: [&str; 4] = ["--backoff-initial", "10ms", "--backoff-max", "10ms"];

fn shared() -> Option<(&'static Redis, Queue<'static>)> {
    let redis = Redis::shared()?;
    Some((redis, Queue::new(Broker::Redis(redis))))
}

#[test]
fn what_producers_push_to_a_list_is_done_and_the_list_keeps_what_there_is_no_room_for() {
    let Some((redis, queue)) = shared() else { return };
    let list = format!("{}-inbox", queue.name);
    let url = format!("{}?inbox={list}", queue.url());
    redis.ask(&["LPUSH", &list, "apple\n", "banana\n", "cherry\n"]);
    let status = run(queue.command(&["queue", "status"]).env("BROKER_URL", &url));
    assert!(status.exits(0).out().contains("ready 3\n"), "{}", status.out());
    run(queue.command(&["work", &guest("echo")]).env("BROKER_URL", &url)).exits(0).prints("apple\n");
    assert_eq!(redis.number(&["LLEN", &list]), 2);
    // A worker that waits gets what comes, and a worker that is killed loses nothing.
    let mut worker = queue.command(&["work", &guest("echo"), "--forever"]);
    let mut worker = start(worker.env("BROKER_URL", &url).env("WQ_FAULT", "delivered@3:kill"));
    worker.wait_for("\"settlement\":\"ack\"");
    worker.wait_for("\"settlement\":\"ack\"");
    redis.ask(&["LPUSH", &list, "date\n"]);
    assert_eq!(worker.end().code, None);
    let args = ["work", &guest("echo"), "--drain", "--wait", "20s"];
    run(queue.command(&args).env("BROKER_URL", &url)).exits(0).prints("date\n").says("\"attempt\":2");
    redis.ask(&["LPUSH", &list, "x"]);
    run(queue.command(&["queue", "purge"]).env("BROKER_URL", &url)).exits(0);
    redis.ask(&["SET", &list, "a text"]);
    run(queue.command(&["work", &guest("echo")]).env("BROKER_URL", &url)).exits(78).says("does not match");
    redis.ask(&["DEL", &list]);
}

#[test]
fn entries_of_strangers_are_run_or_put_aside_and_those_behind_them_are_done() {
    let Some((redis, queue)) = shared() else { return };
    let add = |fields: &[&[u8]]| {
        let words = [&[b"XADD".as_slice(), queue.name.as_bytes(), b"*"], fields].concat();
        redis.ask(&words);
    };
    add(&[b"fruit", b"\xffapple\n"]);
    add(&[b"to", b"a", b"type", b"mail"]);
    add(&[b"a", b"\xff", b"b", b"\xff"]);
    add(&[b"body", b"x\n", b"priority", b"high", b"message_id", b"\xff", b"\xff", b"\xff"]);
    add(&[b"body", b"y\n", b"x-wq-attempt", b"18446744073709551615", b"x-wq-queue", queue.name.as_bytes()]);
    add(&[b"", b""]);
    let many: Vec<String> = (0..7000).map(|number| number.to_string()).collect();
    add(&many.iter().map(String::as_bytes).collect::<Vec<_>>());
    queue.publish(&["behind\n"]);
    let ended = run(&mut queue.command(&["work", &guest("echo"), "--drain"]));
    ended.exits(65).says("\"acked\":6").says("\"dead_lettered\":2").says("3500 fields");
    assert_eq!(ended.stdout, b"\xffapple\n{\"to\":\"a\",\"type\":\"mail\"}x\ny\nbehind\n");
    let [first, second] = [queue.take_dead(), queue.take_dead()];
    assert_eq!((&*first.headers["x-wq-outcome"], &*first.headers["b"]), ("unreadable", "\u{fffd}"));
    assert!(second.body.starts_with(b"{\"0\":\"1\""));
}

#[test]
fn an_answer_goes_to_a_stream_that_is_there_or_to_a_list() {
    let Some((redis, queue)) = shared() else { return };
    let args = ["work", &guest("echo"), "--result", "reply"];
    let answers = queue.beside("answers");
    redis.ask(&["XADD", &queue.name, "*", "body", "x", "reply_to", &answers, "correlation_id", "c"]);
    run(&mut queue.command(&args)).exits(0);
    let answer = queue.take_from(&answers);
    assert_eq!((&answer.body[..], &*answer.properties["correlation_id"]), (b"x".as_slice(), "c"));
    let list = format!("{}-list", queue.name);
    redis.ask(&["XADD", &queue.name, "*", "body", "y", "reply_to", &format!("list:{list}")]);
    run(&mut queue.command(&args)).exits(0);
    assert!(redis.number(&["TTL", &list]) > 3600);
    assert_eq!(redis.ask(&["LPOP", &list]).bytes(), b"y");
    redis.ask(&["XADD", &queue.name, "*", "body", "z", "reply_to", "gone"]);
    run(&mut queue.command(&args)).exits(65).says("no-requester");
    assert_eq!(queue.take_dead().body, b"z");
    assert_eq!(redis.number(&["EXISTS", "gone"]), 0);
}

#[test]
fn the_rights_in_the_docs_are_enough_and_what_is_missing_is_named() {
    let Some((redis, queue)) = shared() else { return };
    let docs = std::fs::read_to_string(root().join("docs/redis.md")).unwrap();
    let (_, after) = docs.split_once("ACL SETUSER wq").unwrap();
    let (rules, _) = after.split_once("```").unwrap();
    let user = format!("user-{}", queue.name);
    let rules = rules.replace("job1", &queue.name).replace("PASSWORD", "s3cret");
    let words: Vec<&str> = ["ACL", "SETUSER", &user].into_iter().chain(rules.split_whitespace()).collect();
    redis.ask(&words);
    let url = |password: &str| format!("redis://{user}:{password}@127.0.0.1:{}", redis.port);
    let results = queue.beside("results");
    let with_rights = |args: &[&str]| {
        let mut command = queue.command(args);
        command.env("BROKER_URL", format!("{}?inbox={}-inbox", url("s3cret"), queue.name));
        command
    };
    run(&mut with_rights(&["queue", "declare"])).exits(0);
    run(&mut with_rights(&["publish", "a", "b"])).exits(0);
    redis.ask(&["LPUSH", &format!("{}-inbox", queue.name), "c"]);
    run(&mut with_rights(&["queue", "status"])).exits(0);
    let fails = ["work", &guest("fail"), "--count", "1", "--max-attempts", "1"];
    run(&mut with_rights(&fails)).exits(65);
    run(with_rights(&["work", &guest("fail"), "--max-attempts", "2"]).args(FAST)).exits(75);
    let done = ["work", &guest("echo"), "--drain", "--result", &format!("queue:{results}")];
    run(&mut with_rights(&done)).exits(0);
    run(with_rights(&["queue", "get", "--all"]).env("QUEUE", &results)).exits(0);
    run(&mut with_rights(&["queue", "purge"])).exits(0);
    run(with_rights(&["queue", "purge"]).env("QUEUE", format!("{}.dead", queue.name))).exits(0);

    redis.ask(&["ACL", "SETUSER", &user, "-xack"]);
    queue.publish(&["x"]);
    let refused = run(&mut with_rights(&["work", &guest("echo")]));
    refused.exits(77).says("refused permission to acknowledge a message");
    let refused = run(with_rights(&["queue", "status"]).env("QUEUE", "another"));
    refused.exits(77).says("docs/redis.md");
    let refused = run(queue.command(&["queue", "status"]).env("BROKER_URL", url("wrong")));
    refused.exits(77).says("user and password");
    assert!(!refused.stderr.contains("wrong@"));
    redis.ask(&["ACL", "DELUSER", &user]);
    run(&mut queue.command(&["queue", "purge"])).exits(0);
    redis.ask(&["DEL", &queue.name]);
}

#[test]
fn a_key_of_another_type_and_a_stream_that_others_read_are_refused() {
    let Some((redis, queue)) = shared() else { return };
    let name = format!("{}-text", queue.name);
    redis.ask(&["SET", &name, "x"]);
    for args in [&["queue", "declare"][..], &["queue", "status"], &["publish", "x"], &["work", &guest("echo")]] {
        run(queue.command(args).env("QUEUE", &name)).exits(78).says("does not match").says("TYPE QUEUE");
    }
    redis.ask(&["DEL", &name]);
    redis.ask(&["XGROUP", "CREATE", &queue.name, "others", "0"]);
    run(&mut queue.command(&["work", &guest("echo")])).exits(78).says("the group `others` reads it too");
    redis.ask(&["XGROUP", "DESTROY", &queue.name, "others"]);
}

#[test]
fn a_worker_leaves_nothing_behind_and_waits_no_longer_than_it_has_to() {
    let Some((redis, queue)) = shared() else { return };
    let mut worker = start(&mut queue.command(&["work", &guest("echo"), "--forever"]));
    worker.wait_for("working");
    queue.publish(&["x"]);
    worker.wait_for("\"settlement\":\"ack\"");
    worker.signal("TERM");
    worker.end().exits(0);
    let consumers = redis.ask(&["XINFO", "CONSUMERS", &queue.name, "wq-run"]).list();
    assert_eq!(consumers, Vec::<Answer>::new());
}

#[test]
fn a_socket_and_tls_lead_to_a_server_and_its_certificate_is_verified() {
    let Some((redis, tls_port)) = Redis::start_with_tls() else { return };
    let queue = Queue::new(Broker::Redis(&redis));
    let file = |name: &str| redis.folder().join(name).display().to_string();
    let url = format!("rediss://localhost:{tls_port}?cacertfile={}", file("ca.pem"));
    let args = ["work", &guest("echo"), "--connect-timeout", "500ms"];
    queue.publish(&["over TLS"]);
    // The server wants a certificate of its clients as well.
    run(queue.command(&args).env("BROKER_URL", &url)).exits(69);
    let url = format!("{url}&certfile={}&keyfile={}", file("client.pem"), file("client.key"));
    run(queue.command(&args).env("BROKER_URL", &url)).exits(0).prints("over TLS");
    let unknown = format!("rediss://localhost:{tls_port}");
    run(queue.command(&args).env("BROKER_URL", &unknown)).exits(78).says("is not trusted here").says("cacertfile");
    let other_name = url.replace("localhost", "0.0.0.0");
    run(queue.command(&args).env("BROKER_URL", &other_name)).exits(78).says("for another host name");
    for refused in [format!("{unknown}#insecure"), format!("{unknown}?verify=verify_none")] {
        run(queue.command(&args).env("BROKER_URL", &refused)).exits(78).says("always verified");
    }
    let missing = format!("{unknown}?cacertfile=/no/such/ca.pem");
    run(queue.command(&args).env("BROKER_URL", &missing)).exits(78).says("/no/such/ca.pem");
}

#[test]
fn a_server_that_is_full_gets_the_retry_when_it_has_room_again() {
    let Some(redis) = Redis::start() else { return };
    let queue = Queue::new(Broker::Redis(&redis));
    queue.publish(&["x"]);
    let mut worker = start(queue.command(&["work", &guest("nap"), "--exit-map", "0=retry", "--count", "1"]).args(FAST));
    worker.wait_for("started");
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    run(&mut queue.command(&["publish", "y"])).exits(74).says("OOM");
    // It goes on trying for as long as --publish-timeout.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(worker.is_running());
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    worker.end().exits(75).says("\"retried\":1");
    assert_eq!(queue.take().headers["x-wq-attempt"], "1");
    let evicts = redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(evicts.text(), "OK");
    run(&mut queue.command(&["queue", "declare"])).exits(0).says("noeviction");
}

#[test]
fn a_worker_that_is_cut_off_gives_up_its_run_before_another_one_has_the_message() {
    let Some((_, queue)) = shared() else { return };
    let Broker::Redis(redis) = queue.broker else { unreachable!() };
    let proxy = Proxy::start(redis.port);
    queue.publish(&["x"]);
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let mut cut_off = start(queue.command(&["work", &guest("sleep")]).env("BROKER_URL", &url));
    cut_off.wait_for("started");
    proxy.go_silent();
    let mut next = start(&mut queue.command(&["work", &guest("echo"), "--wait", "60s"]));
    cut_off.wait_for("this worker no longer has the message");
    let has_it = |next: &mut crate::harness::Running| !next.is_running();
    assert!(!has_it(&mut next), "the message was with two workers");
    next.end().exits(0).prints("x").says("\"attempt\":2");
    eventually("nothing is left", || (queue.depth() == 0).then_some(()));
}
