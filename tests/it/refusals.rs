//! Bad input: each gets its message, its hint and its exit code, and no message is taken.

use std::net::TcpListener;

use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, page_guest, run, wq_run};

#[test]
fn what_is_no_guest_is_refused_before_a_message_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let module = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
    let mut trailing = module.clone();
    trailing.extend(b"trailing garbage");
    let table = [
        (folder.path().join("none.wasm").display().to_string(), "No such file", "GUEST"),
        (folder.path().display().to_string(), "more than one guest", "name the file"),
        (file("text.wasm", b"#!/bin/sh\necho hello\n"), "neither WebAssembly nor its text form", "wasm32-wasip1"),
        (file("empty.wasm", b""), "is empty", "hint"),
        (file("cut.wasm", &module[..module.len() - 3]), "cut short", "build it again"),
        (file("trailing.wasm", &trailing), "not valid WebAssembly", "build it again"),
        (file("packed.wasm.gz", b"\x1f\x8b\x08\0"), "cannot unpack", "pack it again"),
        (file("component.wasm", b"\0asm\x0d\0\x01\0"), "does not export `wasi:cli/run`", "wasi:cli/command"),
        (file("huge.wasm", &vec![0; (256 << 20) + 1]), "is larger than", "strip"),
        (file("broken.wat", b"(module (func (export"), "text of the guest", "hint"),
        (guest("no-start"), "no function `_start`", "`main`"),
        (guest("reactor"), "is a reactor", "`main`"),
        (guest("foreign-import"), "env::launch_rocket", "wasi_snapshot_preview1 or"),
        (guest("unknown-wasi"), "wasi_snapshot_preview1::sock_connect", "hint"),
    ];
    on_every_queue(|queue| {
        queue.publish(&["untouched"]);
        for (path, message, hint) in &table {
            let refused = run(&mut queue.command(&["work", path]));
            refused.exits(66).says(message).says(hint).prints("");
        }
        // No message was even delivered: the broker would have counted the delivery.
        let untouched = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
        assert!(untouched.contains("WQ_REDELIVERED=false") && untouched.contains("WQ_ATTEMPT=1"), "{untouched:?}");
    });
}

#[test]
fn a_broker_that_can_not_be_reached_is_said_with_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("amqp://guest:s3cret@127.0.0.1:{port}");
    for args in [&["work", &guest("echo"), "--connect-timeout", "500ms"][..], &["publish", "x"], &["queue", "status"]] {
        let refused = run(wq_run(args).env("BROKER_URL", &url).env("QUEUE", "q"));
        refused.exits(69).says(&format!("127.0.0.1:{port}")).says("refused").says("BROKER_URL");
        assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
    }
}

#[test]
fn a_peer_that_is_no_broker_does_not_hold_us_for_ever() {
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("amqp://127.0.0.1:{port}?connection_timeout=300");
    let args = ["work", &guest("echo"), "--connect-timeout", "500ms"];
    run(wq_run(&args).env("BROKER_URL", url).env("QUEUE", "q")).exits(69).says("no answer within 300ms");
}

#[test]
fn refused_credentials_and_rights_end_the_worker_at_once() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    let port = rabbitmq.port;
    let args = ["work", &guest("echo")];
    let work = |url: String| run(wq_run(&args).env("BROKER_URL", url).env("QUEUE", "q"));
    let refused = work(format!("amqp://guest:wr0ng@127.0.0.1:{port}"));
    refused.exits(77).says("user name or the password").says("BROKER_URL");
    assert!(!refused.stderr.contains("wr0ng"), "{}", refused.stderr);
    work(format!("amqp://nobody:x@127.0.0.1:{port}")).exits(77);
    let refused = work(format!("amqp://guest:wr0ng@127.0.0.1:{port}"));
    assert_eq!(refused.stderr.matches("ACCESS").count(), 1, "{}", refused.stderr);
    let missing = work(format!("amqp://guest:guest@127.0.0.1:{port}/no-such-vhost"));
    missing.exits(78).says("there is no virtual host `no-such-vhost`").says("rabbitmqctl add_vhost no-such-vhost");
    rabbitmq.ctl(&["add_vhost", "closed"]);
    let closed = work(format!("amqp://guest:guest@127.0.0.1:{port}/closed"));
    closed.exits(77).says("permission to open the virtual host `closed`");
    rabbitmq.ctl(&["add_user", "limited", "pw"]);
    rabbitmq.ctl(&["set_permissions", "limited", "^$", "^$", "^$"]);
    let queue = Queue::new(Broker::Classic(rabbitmq));
    let url = format!("amqp://limited:pw@127.0.0.1:{port}");
    run(queue.command(&["work", &guest("echo")]).env("BROKER_URL", &url)).exits(77).says("permission to");
    run(queue.command(&["publish", "x"]).env("BROKER_URL", &url)).exits(77);
}

#[test]
fn a_missing_queue_is_said_with_the_command_that_makes_it() {
    on_every_queue(|queue| {
        let missing = run(queue.command(&["work", &guest("echo")]).env("QUEUE", "no-such-queue"));
        missing.exits(78).says("no queue `no-such-queue`").says("wq-run queue declare --queue no-such-queue");
    });
}

#[test]
fn the_command_that_makes_a_missing_queue_goes_to_the_broker_that_was_typed() {
    on_every_queue(|queue| {
        let url = queue.url();
        let typed = |args: &[&str]| run(queue.command(args).args(["-u", &url]).env_remove("BROKER_URL"));
        let name = queue.named("new");
        let missing = typed(&["publish", "-q", &name, "x"]);
        let (_, command) = missing.exits(78).stderr.split_once("hint: `").expect("a command");
        let (command, rest) = command.split_once('`').unwrap();
        // A password is left to whoever types it.
        let has_password = url.contains("guest:guest@");
        assert_eq!(rest.contains("PASSWORD stands for the password"), has_password, "{rest}");
        let command = command.replace(":PASSWORD@", ":guest@");
        let binary = env!("CARGO_BIN_EXE_wq-run");
        let script = command.replacen("wq-run", binary, 1);
        let ours = queue.command(&[]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).env_clear();
        shell.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(shell.env("BROKER_URL", "sqlite:/no/such/folder/elsewhere.db").env("PATH", "/usr/bin:/bin")).exits(0);
        typed(&["publish", "-q", &name, "x"]).exits(0);
        typed(&["queue", "purge", "-q", &name]).exits(0);
        // What a variable says need not be typed.
        let missing = run(queue.command(&["queue", "status"]).env("QUEUE", "no-such-queue"));
        missing.exits(78).says("wq-run queue declare --queue no-such-queue`");
    });
}

#[test]
fn a_password_is_no_part_of_the_command_that_makes_a_missing_queue() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    rabbitmq.ctl(&["add_user", "hinted", "s3cret"]);
    rabbitmq.ctl(&["set_permissions", "hinted", ".*", ".*", ".*"]);
    let url = format!("amqp://hinted:s3cret@127.0.0.1:{}", rabbitmq.port);
    let missing = run(&mut wq_run(&["publish", "-u", &url, "-q", "no-such-queue", "x"]));
    missing
        .exits(78)
        .says("PASSWORD stands for the password")
        .says(&format!("--broker amqp://hinted:PASSWORD@127.0.0.1:{}`", rabbitmq.port));
    assert!(!missing.stderr.contains("s3cret"), "{}", missing.stderr);
}

#[test]
fn a_queue_file_that_is_not_there_is_not_made_by_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("typo.db");
    let url = format!("sqlite:{}", path.display());
    for args in [&["work", &guest("echo")][..], &["publish", "x"], &["queue", "status"]] {
        run(wq_run(args).env("BROKER_URL", &url).env("QUEUE", "q")).exits(78).says("there is no file");
        assert!(!path.exists());
    }
    let text = folder.path().join("text.db");
    std::fs::write(&text, "not a database, but a text ".repeat(100)).unwrap();
    let url = format!("sqlite:{}", text.display());
    run(wq_run(&["work", &guest("echo")]).env("BROKER_URL", &url).env("QUEUE", "q")).exits(78).says("text.db");
}

#[test]
fn a_command_line_that_is_not_understood_is_exit_2() {
    let echo = guest("echo");
    for args in [
        &["work", &echo, "--no-such-flag"][..],
        &["work"],
        &["work", &echo, "--count", "0"],
        &["work", &echo, "--count", "2", "--drain"],
        &["work", &echo, "--wait", "5"],
        &["work", &echo, "--timeout", "soon"],
        &["work", &echo, "--max-stdout", "lots"],
        &["work", &echo, "--exit-map", "300=retry"],
        &["work", &echo, "--result", "nowhere"],
        &["work", &echo, "an argument without dashes"],
        &["no-such-command"],
        &[],
    ] {
        let refused = run(wq_run(args).env("BROKER_URL", "sqlite:q.db").env("QUEUE", "q"));
        refused.exits(2);
        assert!(!refused.stderr.is_empty());
    }
}

#[test]
fn a_flag_says_what_it_expects() {
    let echo = guest("echo");
    for (args, expected) in [
        (&["work", &echo, "--count", "0"][..], "expected a whole number from 1\n"),
        (&["work", &echo, "--breaker", "-1"], "expected a whole number from 0"),
        (&["work", &echo, "--max-stdout", "lots"], "expected a size in bytes"),
        (&["work", &echo, "--timeout", "soon"], "expected a duration"),
        (&["work", &echo, "--wait", "5"], "5s, 5m or 5h"),
        (&["dlq", "list", "--exit-code", "abc"], "expected a whole number from 0 to 255"),
        (&["publish", "x", "--priority", "256"], "expected a whole number from 0 to 255"),
    ] {
        run(&mut wq_run(args)).exits(2).says(expected);
    }
}

#[test]
fn who_names_no_guest_is_told_how_whatever_variables_are_set() {
    let environment = [("BROKER_URL", "sqlite:q.db"), ("QUEUE", "q"), ("WQ_CONCURRENCY", "2"), ("WQ_TIMEOUT", "3m")];
    for command in [&["work"][..], &["check"], &["exec"], &["manifest", "job"]] {
        let refused = run(wq_run(command).envs(environment));
        refused.exits(2).says("no guest is named: give the path of its file as the argument GUEST, or set WQ_GUEST");
        refused.says(&format!("Usage: wq-run {} [OPTIONS] <GUEST> [-- <ARGS>...]", command.join(" ")));
    }
    run(wq_run(&["work"]).envs(environment).env("WQ_GUEST", "")).exits(2).says("no guest is named");
}

#[test]
fn an_address_without_a_scheme_is_answered_with_one_list_of_them() {
    let refused = run(&mut wq_run(&["publish", "-u", "localhost:5672", "-q", "q", "x"]));
    refused.exits(78).says("does not begin with the scheme of a broker");
    assert_eq!(refused.stderr.matches("amqps://").count(), 1, "{}", refused.stderr);
}

#[test]
fn what_the_embedded_queue_cannot_do_is_refused_before_a_message_is_taken() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    queue.publish(&["untouched"]);
    for (flags, flag) in [
        (["--dead-letter-by", "broker"], "leave --dead-letter-by out"),
        (["--result", "exchange:e/k"], "--result queue:NAME"),
    ] {
        run(queue.command(&["work", &guest("echo")]).args(flags)).exits(78).says("the embedded queue").says(flag);
    }
    for queue_type in ["classic", "quorum"] {
        let refused = run(&mut queue.command(&["queue", "declare", "-q", "other", "--type", queue_type]));
        refused.exits(78).says("the embedded queue").says("leave --type out");
    }
    run(&mut queue.command(&["queue", "status", "-q", "other"])).exits(78).says("there is no queue `other`");
    let told = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
    assert!(told.contains("WQ_REDELIVERED=false"), "{told}");
}

type Environment<'a> = &'a [(&'a str, &'a str)];

#[test]
fn settings_that_do_not_go_together_are_exit_78_and_name_the_flag() {
    let echo = guest("echo");
    let table: [(&[&str], Environment, &str); 9] = [
        (&[], &[("QUEUE", "q")], "BROKER_URL"),
        (&[], &[("BROKER_URL", ""), ("QUEUE", "q")], "BROKER_URL"),
        (&[], &[("BROKER_URL", "sqlite:q.db")], "--queue (QUEUE)"),
        (&[], &[("BROKER_URL", "kafka://u:s3cret@h"), ("QUEUE", "q")], "amqp://"),
        (&[], &[("BROKER_URL", "amqps://u:s3cret@h?verify=verify_none"), ("QUEUE", "q")], "cacertfile"),
        (&[], &[("BROKER_URL_FILE", "/no/such/file"), ("QUEUE", "q")], "/no/such/file"),
        (&[], &[("BROKER_URL", "sqlite:q.db"), ("QUEUE", "q"), ("WQ_MODE", "twice")], "WQ_MODE is `twice`"),
        (&["--concurrency", "4", "--prefetch", "2"], &[("BROKER_URL", "sqlite:q.db"), ("QUEUE", "q")], "--prefetch"),
        (&["--dead-letter-queue", "q"], &[("BROKER_URL", "sqlite:q.db"), ("QUEUE", "q")], "--dead-letter-queue"),
    ];
    for (args, environment, text) in table {
        let mut command = wq_run(&["work", &echo]);
        let refused = run(command.args(args).envs(environment.iter().copied()));
        refused.exits(78).says(text);
        assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
    }
}

#[test]
fn a_password_that_has_to_be_percent_encoded_is_refused_and_never_shown() {
    // Parsed as they are, these have a part of the password for a host, a port or a virtual host.
    for (url, says) in [
        ("amqp://user:s3c/ret@h", "%2F"),
        ("amqp://user:12/s3cret@h", "%2F"),
        ("amqp://user:12?s3cret@h", "%3F"),
        ("amqp://user:12#s3cret@h", "%23"),
        ("amqp://user:a@s3cret/b@h", "%40"),
        ("amqp://user:s3c,ret@h", "%2C"),
        ("amqp://user:12,s3cret@h", "%2C"),
        ("redis://user:12/s3cret@h", "%2F"),
        ("redis://:a@s3cret/b@h", "%40"),
    ] {
        let refused = run(wq_run(&["queue", "status"]).env("BROKER_URL", url).env("QUEUE", "q"));
        refused.exits(78).says(says);
        assert!(!["s3c", "ret"].iter().any(|part| refused.stderr.contains(part)), "{url}: {}", refused.stderr);
    }
    // One `@` too many is no riddle: the last one ends the password.
    let url = "amqp://user:a@s3cret@127.0.0.1:1";
    let unreachable = run(wq_run(&["queue", "status"]).env("BROKER_URL", url).env("QUEUE", "q"));
    unreachable.exits(69).says("127.0.0.1:1");
    assert!(!unreachable.stderr.contains("s3cret"), "{}", unreachable.stderr);
}

#[test]
fn a_folder_in_dockers_notation_is_refused_with_our_own() {
    let folder = tempfile::tempdir().unwrap();
    let entry = format!("{}:/in:rw", folder.path().display());
    let refused = run(&mut wq_run(&["exec", &guest("echo"), "--dir", &entry]));
    refused.exits(78).says(&format!("--dir {}::/in:rw", folder.path().display()));
}

#[test]
fn the_brokers_url_can_come_from_a_file_and_from_amqp_url() {
    let Some(page_guest) = page_guest("rust") else { return };
    on_rabbitmq(|queue| {
        queue.publish(&["a", "b"]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}\n", queue.url())).unwrap();
        let mut command = wq_run(&["work", &page_guest, "-q", &queue.name]);
        run(command.env("BROKER_URL_FILE", file.path())).exits(0).prints("Processing a\n");
        let mut command = wq_run(&["work", &page_guest, "-q", &queue.name]);
        run(command.env("AMQP_URL", queue.url())).exits(0).prints("Processing b\n");
    });
}

/// Headers of about this many bytes.
fn large_headers(size: usize) -> lapin::BasicProperties {
    let mut headers = lapin::types::FieldTable::default();
    headers.insert("large".into(), lapin::types::AMQPValue::LongString("x".repeat(size).into()));
    lapin::BasicProperties::default().with_delivery_mode(2).with_headers(headers)
}

#[test]
fn headers_that_no_frame_holds_end_the_worker_and_keep_their_message() {
    on_rabbitmq(|queue| {
        queue.publish_with(large_headers(20_000), b"large");
        // Only twice: a quorum queue counts deliveries, and after the third the worker would put the message aside as poison.
        for mode in ["--count=1", "--forever"] {
            let mut work = queue.command(&["work", &guest("echo"), mode]);
            // The lowest that a broker has to grant.
            let ended = run(work.env("BROKER_URL", format!("{}?frame_max=8192", queue.url())));
            ended.exits(78).says("do not fit into a frame").says("frame_max").prints("");
        }
        queue.wait_for_depth(1);
        run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("large");
    });
}

#[test]
fn headers_that_leave_no_room_for_ours_do_not_keep_a_dead_letter_from_being_one() {
    on_rabbitmq(|queue| {
        // Just below `frame_max`, which is 131,072 bytes unless it is set.
        queue.publish_with(large_headers(130_990), b"large");
        let ended = run(&mut queue.command(&["work", &guest("reject"), "--drain"]));
        ended.exits(65).says("the dead letter has none").says("\"dead_lettered\":1");
        let dead = queue.take_dead();
        assert_eq!((dead.body.as_slice(), dead.headers["large"].len()), (&b"large"[..], 130_990));
        assert_eq!(dead.headers.get("x-wq-outcome"), None);
    });
}

/// A queue without a dead-letter exchange looks like any other from outside.
#[test]
fn who_leaves_dead_letters_to_the_broker_is_told_that_it_may_delete_them() {
    on_rabbitmq(|queue| {
        queue.publish(&["x"]);
        let ended = run(&mut queue.command(&["work", &guest("reject"), "--dead-letter-by", "broker"]));
        ended.exits(65).says("--dead-letter-by broker").says("DELETES").says("\"rejected\":1");
        assert_eq!(ended.stderr.matches("DELETES").count(), 1);
    });
}

#[test]
fn a_queue_whose_delay_queues_would_have_too_long_a_name_is_refused_before_a_message_is_taken() {
    on_rabbitmq(|queue| {
        let long = queue.beside(&"x".repeat(250 - queue.name.len() - 1));
        let work = |args: &[&str]| run(queue.command(&["work", &guest("fail")]).args(args).env("QUEUE", &long));
        run(queue.command(&["publish", "x"]).env("QUEUE", &long)).exits(0);
        work(&[]).exits(78).says("too long for its delay queues").says("--queue, QUEUE").prints("");
        assert_eq!(queue.depth_of(&long), 1);
        // Without delay queues there is no such name.
        work(&["--backoff-initial", "0s"]).exits(75);
        work(&["--max-attempts", "1"]).exits(65);
        assert_eq!(queue.take_from(&format!("{long}.dead")).body, b"x");
    });
}

#[test]
fn a_name_for_dead_letters_that_no_queue_can_have_is_refused_before_a_message_is_taken() {
    on_every_queue(|queue| {
        queue.publish(&["x"]);
        let work = |name: &str| run(&mut queue.command(&["work", &guest("reject"), "--dead-letter-queue", name]));
        work(&"d".repeat(256)).exits(78).says("256 bytes").says("WQ_DEAD_LETTER_QUEUE");
        work("").exits(78).says("has no name").says("WQ_DEAD_LETTER_QUEUE");
        let long = "q".repeat(251);
        let ended = run(queue.command(&["work", &guest("reject"), "--max-attempts", "1"]).env("QUEUE", &long));
        ended.exits(78).says("256 bytes").says("WQ_DEAD_LETTER_QUEUE");
        assert_eq!(queue.take().body, b"x");
    });
}
