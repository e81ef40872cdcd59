//! The standard streams: results that can't be written are never acknowledged, and a log that nobody reads stops nothing.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use lapin::BasicProperties;

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::{
    eventually, full_pipe, guest, redirected, run, run_with, set_blocking, start, start_onto, wq_run,
};

#[test]
fn a_stdout_that_can_not_be_written_is_refused_before_a_message_is_taken() {
    on_every_queue(|queue| {
        queue.publish(&["kept"]);
        for useless in [">&-", "1</dev/null"] {
            let work = queue.command(&["work", &guest("echo"), "--wait", "0"]);
            run(&mut redirected(&work, useless)).exits(78).says("stdout can't be used").says("WQ_RESULT");
            run(&mut redirected(&queue.command(&["queue", "get"]), useless)).exits(78).says("stdout");
            run(&mut redirected(&queue.command(&["publish", "not sent"]), useless)).exits(78).says("stdout");
            run(&mut redirected(&queue.command(&["queue", "purge"]), useless)).exits(78).says("stdout");
            run(&mut redirected(&wq_run(&["exec", &guest("echo")]), useless)).exits(78).says("stdout");
            run(&mut redirected(&wq_run(&["inspect", &guest("echo")]), useless)).exits(78).says("stdout");
        }
        queue.wait_for_depth(1);
        // Results that go elsewhere need no stdout.
        let elsewhere = queue.command(&["work", &guest("echo"), "--result", "none"]);
        run(&mut redirected(&elsewhere, ">&-")).exits(0);
    });
}

#[test]
fn a_users_own_dev_null_takes_results() {
    // The last one is what a parent leaves that opened it for reading and writing.
    for null in [">/dev/null", "1<>/dev/null"] {
        let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
        queue.publish(&["dropped"]);
        run(&mut redirected(&queue.command(&["work", &guest("echo")]), null)).exits(0);
    }
}

#[test]
fn a_stdin_that_can_not_be_read_is_no_empty_message() {
    on_every_queue(|queue| {
        for useless in ["<&-", "0>/dev/null"] {
            for args in [&["publish"][..], &["publish", "--lines", "-"]] {
                run(&mut redirected(&queue.command(args), useless)).exits(78).says("stdin can't be used");
            }
            run(&mut redirected(&wq_run(&["exec", &guest("echo")]), useless)).exits(78).says("stdin can't be used");
        }
        assert_eq!(queue.depth(), 0);
        run(&mut redirected(&queue.command(&["publish", "an argument"]), "<&-")).exits(0);
        assert_eq!(queue.take().body, b"an argument");
    });
}

#[test]
fn a_stdout_that_does_not_block_gets_the_whole_result() {
    let large = "0123456789abcdef".repeat((64 << 10) - 64);
    let gets_it = |mut command: Command, stdin: &str| {
        let (mut reader, writer) = full_pipe();
        set_blocking(&writer, false);
        let mut running = start_onto(&mut command, writer.into(), Stdio::piped());
        running.write(stdin.as_bytes());
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        running.end().exits(0);
        // Before it comes what filled the pipe.
        let result = read.iter().position(|byte| *byte != b'-').unwrap();
        assert!(read[result..] == *large.as_bytes());
    };
    gets_it(wq_run(&["exec", &guest("echo")]), &large);
    on_every_queue(|queue| {
        for args in [&["work", &guest("echo")][..], &["queue", "get"]] {
            run_with(&mut queue.command(&["publish"]), large.as_bytes()).exits(0);
            gets_it(queue.command(args), "");
        }
    });
}

#[test]
fn a_reader_that_has_gone_is_no_success() {
    let gone = |mut command: Command, stdin: &[u8]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut running = start_onto(&mut command, writer.into(), Stdio::piped());
        running.write(stdin);
        running.end()
    };
    gone(wq_run(&["exec", &guest("echo")]), b"x").exits(74).says("stdout");
    gone(wq_run(&["inspect", &guest("echo")]), b"").exits(74).says("stdout");
    on_every_queue(|queue| {
        // What was done is said all the same.
        gone(queue.command(&["publish", "x"]), b"").exits(74).says("published 1 message");
        gone(queue.command(&["work", &guest("echo")]), b"").exits(74).says("stdout");
        queue.wait_for_depth(1);
        gone(queue.command(&["queue", "get"]), b"").exits(74).says("stdout");
        queue.wait_for_depth(1);
        assert_eq!(queue.take().body, b"x");
    });
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    on_every_queue(|queue| {
        let (_reader, writer) = full_pipe();
        let args = ["work", &guest("flood-stderr"), "--count", "3", "--max-attempts", "1"];
        let worker = start_onto(&mut queue.command(&args), Stdio::piped(), writer.into());
        queue.publish(&["a", "b", "c"]);
        worker.end().exits(0);
        // The timeout of a guest is kept, too.
        let (_reader, writer) = full_pipe();
        let args = ["work", &guest("spin"), "--timeout", "200ms", "--max-attempts", "1"];
        queue.publish(&["endless"]);
        start_onto(&mut queue.command(&args), Stdio::piped(), writer.into()).end().exits(65);
        queue.take_dead();
    });
}

#[test]
fn a_log_that_is_read_again_says_how_much_is_missing() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let (reader, writer) = full_pipe();
    // As log lines, a stderr of 8 MiB is more than what is kept for later.
    let args = ["work", &guest("flood-stderr"), "--max-stderr", "8MiB", "--forever"];
    let worker = start_onto(&mut queue.command(&args), Stdio::piped(), writer.into());
    queue.publish(&["a"]);
    eventually("the message is settled", || (queue.in_hand_or_ready() == 0).then_some(()));
    let missing = BufReader::new(reader).lines().map_while(Result::ok).find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line.trim_start_matches('-')).expect("each line is whole");
        line["message"].as_str().unwrap().contains("were dropped").then(|| line["dropped"].as_u64().unwrap())
    });
    assert!(missing.expect("it says so") > 100);
    worker.signal("TERM");
    worker.end().exits(0);
}

#[test]
fn a_guest_whose_stderr_nobody_reads_can_be_stopped() {
    for isolation in ["thread", "process"] {
        let flood = || wq_run(&["exec", &guest("flood-stderr"), "--isolation", isolation]);
        let (_reader, writer) = full_pipe();
        start_onto(flood().args(["--timeout", "500ms"]), Stdio::piped(), writer.into()).end().exits(124);
        // It fills what there is, and waits.
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut running = start_onto(&mut flood(), Stdio::piped(), writer.into());
        running.write(b"");
        reader.read_exact(&mut [0]).unwrap();
        running.signal("INT");
        running.end().exits(130);
    }
}

#[test]
fn all_of_an_inherited_stderr_arrives_however_slow_its_reader_is() {
    for isolation in ["thread", "process"] {
        let (mut reader, writer) = full_pipe();
        let mut command = wq_run(&["exec", &guest("flood-stderr"), "--max-stderr", "64MiB", "--isolation", isolation]);
        let mut running = start_onto(&mut command, Stdio::piped(), writer.into());
        running.write(b"");
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        running.end().exits(0);
        assert_eq!(read.iter().filter(|byte| **byte == b'x').count(), (64 << 20) - 1024);
    }
}

#[test]
fn what_guests_and_messages_say_can_not_fool_a_terminal() {
    on_every_queue(|queue| {
        let id = "id\r\u{202e}\u{1b}[2J";
        for format in ["text", "json"] {
            if let Broker::Sqlite(_) | Broker::Redis(_) | Broker::Sqs(_) | Broker::SqsFifo(_) = queue.broker {
                queue.publish_as(id, "x");
            } else {
                queue.publish_with(BasicProperties::default().with_message_id(id.into()), b"x");
            }
            let args = ["work", &guest("deceive"), "--log-format", format];
            let said = run(queue.command(&args).env("RUST_LOG", "trace,lapin=off"));
            let hides =
                |c: char| c != '\n' && c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            assert!(!said.exits(0).stderr.contains(hides), "{:?}", said.stderr);
            if format == "text" {
                said.says(r"evil\rgood\u{0}nul\u{202e}rtl").says(r"red\u{9b}csi");
            } else {
                let lines = said.stderr.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
                let messages: Vec<String> = lines.map(|line| line["message"].to_string()).collect();
                let text = serde_json::Value::from("evil\rgood\0nul\u{202e}rtl\u{1b}[31mred\u{9b}csi").to_string();
                assert!(messages.contains(&text), "{messages:?}");
            }
        }
    });
    // An error that names what somebody else chose.
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no\rsuch\u{202e}guest.wasm").display().to_string();
    run(&mut wq_run(&["exec", &missing])).exits(66).says(r"no\rsuch\u{202e}guest.wasm");
}

#[test]
fn a_file_size_limit_is_an_error_and_kills_no_process() {
    let limited = |command: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"ulimit -f 64; exec "$@""#, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell
    };
    // A guest's ftruncate.
    let folder = tempfile::tempdir().unwrap();
    let granted = format!("{}::/data:rw", folder.path().display());
    for isolation in ["thread", "process"] {
        let exec = wq_run(&["exec", &guest("enlarge"), "--no-cache", "--dir", &granted, "--isolation", isolation]);
        run(&mut limited(&exec)).exits(20);
    }
    // Our own stdout, a folder of results, and the queue file.
    let large = vec![b'x'; (1 << 20) - 1024];
    let out = folder.path().join("out");
    let exec = redirected(&wq_run(&["exec", &guest("echo"), "--no-cache"]), &format!(">{}", out.display()));
    run_with(&mut limited(&exec), &large).exits(74).says("File too large");
    on_every_queue(|queue| {
        run_with(&mut queue.command(&["publish"]), &large).exits(0);
        let results = format!("dir:{}", folder.path().display());
        let work = queue.command(&["work", &guest("echo"), "--no-cache", "--result", &results]);
        // No later run of this message could write a smaller file. The queue file itself may be too large as well.
        let refused = run(&mut limited(&work));
        assert!([65, 69, 74].contains(&refused.code.unwrap()), "{refused:?}");
        if refused.code == Some(65) {
            assert_eq!(queue.take_dead().headers["x-wq-outcome"], "result-too-large");
        } else {
            queue.wait_for_depth(1);
            queue.take();
        }
    });
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    run_with(&mut limited(&queue.command(&["publish"])), &large).exits(74);
}

#[test]
fn a_flag_comes_before_a_variable_that_says_the_opposite() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let cache = tempfile::tempdir().unwrap();
    queue.publish(&["x"]);
    let mut work = queue.command(&["work", &guest("echo"), "--no-cache"]);
    run(work.env("WQ_CACHE_DIR", cache.path())).exits(0).prints("x");
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "nothing is kept");
    let mut service = queue.command(&["work", &guest("echo"), "--forever"]);
    let mut service = start(service.env("WQ_WAIT", "0s").env("RUST_LOG", "wq_run=debug"));
    service.wait_for("subscribed");
    service.signal("TERM");
    service.end().exits(0);
    // Two variables that contradict each other are nobody's decision.
    let mut both = queue.command(&["work", &guest("echo")]);
    run(both.env("WQ_WAIT", "0s").env("WQ_MODE", "forever")).exits(78).says("WQ_WAIT");
    let echo = guest("echo");
    for flags in [&["--no-cache", "--cache-dir", "x"][..], &["--forever", "--wait", "1s"]] {
        run(queue.command(&["work", &echo]).args(flags)).exits(2);
    }
}

#[test]
fn numbers_that_no_clock_and_no_machine_can_hold_are_refused_or_work() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let echo = guest("echo");
    let durations = [
        "--wait",
        "--timeout",
        "--compile-timeout",
        "--backoff-initial",
        "--backoff-max",
        "--publish-timeout",
        "--shutdown-timeout",
        "--connect-timeout",
        "--reconnect-timeout",
    ];
    for flag in durations {
        for endless in ["300000000000y", "18446744073709551615s", "101y"] {
            run(&mut queue.command(&["work", &echo, flag, endless])).exits(2).says(flag);
        }
        queue.publish(&["x"]);
        let longest = if flag.starts_with("--backoff") { "30d" } else { "100years" };
        let longest = if longest == "100years" { "36500d" } else { longest };
        run(&mut queue.command(&["work", &echo, flag, longest])).exits(0).prints("x");
    }
    for variable in ["WQ_WAIT", "WQ_TIMEOUT", "WQ_SHUTDOWN_TIMEOUT", "WQ_PUBLISH_TIMEOUT"] {
        run(queue.command(&["work", &echo]).env(variable, "300000000000y")).exits(2).says("100 years");
    }
    for [flag, number] in [
        ["--backoff-factor", "nan"],
        ["--backoff-factor", "inf"],
        ["--backoff-factor", "1e300"],
        ["--backoff-factor", "0.5"],
        ["--concurrency", "0"],
        ["--concurrency", "65536"],
        ["--concurrency", "-1"],
        ["--prefetch", "65536"],
        ["--max-attempts", "4294967296"],
        ["--fuel", "18446744073709551616"],
        ["--max-stdout", "nan"],
        ["--max-memory-size", "-1"],
        ["--max-stderr", "1e400"],
    ] {
        let line = format!("{flag}={number}");
        run(&mut queue.command(&["work", &echo, &line])).exits(2).says(flag);
    }
    for [flag, number] in [
        ["--concurrency", "1024"],
        ["--prefetch", "65535"],
        ["--max-attempts", "4294967295"],
        ["--fuel", "18446744073709551615"],
        ["--max-resources", "18446744073709551615"],
        ["--max-instances", "18446744073709551615"],
        ["--max-memory-size", "18446744073709551615"],
        ["--max-stdout", "18446744073709551615"],
        ["--max-stderr", "18446744073709551615"],
        ["--max-message", "18446744073709551615"],
        ["--max-hostcall", "18446744073709551615"],
        ["--max-random-size", "18446744073709551615"],
        ["--scratch", "18446744073709551615"],
    ] {
        queue.publish(&["x"]);
        for isolation in ["thread", "process"] {
            run_with(&mut wq_run(&["exec", &echo, "--isolation", isolation]), b"x").exits(0);
        }
        run(&mut queue.command(&["work", &echo, flag, number])).exits(0).prints("x");
    }
    // So many runs would reserve more than all of the address space.
    run(&mut queue.command(&["work", &echo, "--concurrency", "65535"])).exits(78).says("--concurrency");
}
