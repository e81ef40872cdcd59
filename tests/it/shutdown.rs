//! The last resort: whatever hangs, a process that was told to end does end.

use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::{
    Running, eventually, full_pipe, guest, installed, required, set_blocking, start, start_onto, wq_run,
};

/// A worker whose main thread hangs with a message in hand, and whose log nobody reads.
fn hangs(queue: &Queue, grace: &str) -> Running {
    queue.publish(&["in hand"]);
    let mut command = queue.command(&["work", &guest("echo"), "--shutdown-timeout", grace]);
    command.env("WQ_FAULT", "recorded:sleep=3600");
    let (reader, writer) = full_pipe();
    // Nobody reads from it for as long as the tests run.
    std::mem::forget(reader);
    let (mut results, stdout) = std::io::pipe().expect("a pipe");
    let worker = start_onto(&mut command, stdout.into(), writer.into());
    // Before the run has begun, a signal would give its message back.
    let mut result = [0; "in hand".len()];
    results.read_exact(&mut result).expect("the guest echoes its message");
    worker
}

#[test]
fn a_worker_that_hangs_ends_after_its_shutdown_timeout() {
    on_every_queue(|queue| {
        let worker = hangs(queue, "500ms");
        worker.signal("TERM");
        worker.end().exits(80);
        assert_eq!(queue.take().body, b"in hand");
    });
}

#[test]
fn a_second_signal_does_not_wait_for_the_grace_period_of_a_worker_that_hangs() {
    on_every_queue(|queue| {
        let worker = hangs(queue, "1h");
        // Two of a kind could become one on their way.
        worker.signal("TERM");
        worker.signal("INT");
        worker.end().exits(80);
        assert_eq!(queue.take().body, b"in hand");
    });
}

#[test]
fn a_third_signal_ends_the_process_at_once_and_says_so() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    queue.publish(&["in hand"]);
    let mut command = queue.command(&["work", &guest("say-exit"), "--shutdown-timeout", "1h"]);
    let mut worker = start(command.env("WQ_FAULT", "recorded:sleep=3600"));
    // The run has begun, so that a signal does not give its message back.
    worker.wait_for("wq-run-exit: 65");
    eventually("it ends", || {
        // Pending signals of the same kind are merged into one, so these alternate.
        for signal in ["TERM", "INT"] {
            if worker.is_running() {
                worker.signal(signal);
            }
        }
        (!worker.is_running()).then_some(())
    });
    worker.end().exits(80).says("a third signal came");
    assert_eq!(queue.take().body, b"in hand");
}

#[test]
fn ctrl_c_ends_each_command_whatever_its_broker_does() {
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://127.0.0.1:{}", silent.local_addr().unwrap().port());
    for args in
        [&["publish", "x"][..], &["queue", "get"], &["queue", "status"], &["queue", "declare"], &["queue", "purge"]]
    {
        let running = start(wq_run(args).env("BROKER_URL", &url).env("QUEUE", "q"));
        let _connection = silent.accept().unwrap();
        running.signal("INT");
        assert_eq!(running.end().code, None, "{args:?}: as any program that Ctrl-C ends");
    }
    let mut command = wq_run(&["work", &guest("echo"), "--shutdown-timeout", "1s"]);
    let worker = start(command.env("BROKER_URL", &url).env("QUEUE", "q"));
    let _connection = silent.accept().unwrap();
    worker.signal("INT");
    assert!([Some(130), Some(80)].contains(&worker.end().code));
}

#[test]
fn ctrl_c_ends_an_exec_that_waits_for_the_reader_of_its_result() {
    let (_reader, writer) = full_pipe();
    set_blocking(&writer, true);
    let mut running = start_onto(&mut wq_run(&["exec", &guest("nap")]), writer.into(), Stdio::piped());
    running.write(b"a result");
    running.wait_for("started");
    // While the guest naps, or after that: either way it ends.
    eventually("it waits for its reader", || {
        let wchan = std::fs::read_to_string(format!("/proc/{}/wchan", running.id())).unwrap_or_default();
        wchan.contains("pipe_write").then_some(())
    });
    running.signal("INT");
    running.end().exits(130);
}

#[test]
fn a_signal_ends_a_command_that_is_process_1() {
    let Some(unshare) = installed("unshare") else { return };
    let allowed = Command::new(&unshare).args(["--pid", "--fork", "true"]).output().unwrap().status.success();
    if required(allowed.then_some(()), "there is no right to make a process 1").is_none() {
        return;
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://127.0.0.1:{}", silent.local_addr().unwrap().port());
    for (args, waits_for_broker) in
        [(vec!["publish".into(), "x".into()], true), (vec!["exec".into(), guest("echo")], false)]
    {
        let mut command = Command::new(&unshare);
        command.env_clear().args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_wq-run")]).args(&args);
        let outer = start(command.env("BROKER_URL", &url).env("QUEUE", "q"));
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let inner = eventually("process 1 is there", || {
            let children = std::fs::read_to_string(&children).ok()?;
            children.split_whitespace().next().map(str::to_owned)
        });
        let mut connection = None;
        if waits_for_broker {
            connection = Some(silent.accept().unwrap());
        } else {
            // It waits for its stdin, with its handlers in place.
            eventually("it catches SIGTERM", || {
                let status = std::fs::read_to_string(format!("/proc/{inner}/status")).ok()?;
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
                (u64::from_str_radix(caught.trim(), 16).ok()? & (1 << 14) != 0).then_some(())
            });
        }
        assert!(Command::new("kill").args(["-TERM", &inner]).status().unwrap().success());
        outer.end().exits(143);
        drop(connection);
    }
}
