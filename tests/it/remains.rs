//! What a Job is told about messages that died, and about a queue that is not there yet.

use std::time::Duration;

use crate::harness::queue::{Broker, Queue, on_every_queue, on_rabbitmq};
use crate::harness::{guest, run, start};

const FAST: [&str; 2] = ["--backoff-initial", "10ms"];

#[test]
fn a_drain_job_whose_messages_died_does_not_end_as_a_success() {
    on_every_queue(|queue| {
        queue.publish(&["x1", "f1", "x2", "d1"]);
        let drain = ["work", &guest("obey"), "--drain", "--max-attempts", "2", "--wait", "1s"];
        // The pod in which they die, and each of its successors.
        for _ in 0..2 {
            let ended = run(queue.command(&drain).args(FAST).env("WQ_ON_DEAD_LETTERS", "fail"));
            ended.exits(81).says("but it has dead letters").says("\"dead_letters\":2");
        }
        run(queue.command(&drain).args(FAST)).exits(0);
        for _ in 0..2 {
            queue.take_dead();
        }
        run(queue.command(&drain).args(["--on-dead-letters", "fail"])).exits(0);
    });
}

#[test]
fn a_job_of_one_message_a_pod_does_not_end_as_a_success_if_one_died() {
    on_every_queue(|queue| {
        queue.publish(&["d1", "x1"]);
        let pod = || {
            let mut command = queue.command(&["work", &guest("obey"), "--wait", "1s", "--on-dead-letters", "fail"]);
            run(&mut command).code.unwrap()
        };
        let mut codes = [pod(), pod(), pod()];
        // The order of two messages is no promise.
        codes[..2].sort_unstable();
        assert_eq!(codes, [0, 65, 81]);
        queue.take_dead();
    });
}

#[test]
fn a_queue_that_another_worker_works_on_is_judged_by_that_one() {
    on_every_queue(|queue| {
        queue.publish(&["d1"]);
        run(&mut queue.command(&["work", &guest("obey")])).exits(65);
        queue.publish(&["still running"]);
        let mut other = start(&mut queue.command(&["work", &guest("sleep"), "--drain", "--shutdown-timeout", "100ms"]));
        other.wait_for("started");
        let args = ["work", &guest("obey"), "--drain", "--on-dead-letters", "fail", "--wait", "1s"];
        // On SQS a drain waits for what is with others.
        if queue.sqs().is_none() {
            run(&mut queue.command(&args)).exits(0);
        }
        other.signal("TERM");
        other.end().exits(143);
        run(&mut queue.command(&args)).exits(81).prints("still running");
        queue.take_dead();
    });
}

#[test]
fn dead_letters_that_only_the_broker_knows_of_are_not_looked_for() {
    on_rabbitmq(|queue| {
        let args = ["work", &guest("obey"), "--drain", "--on-dead-letters", "fail", "--dead-letter-by", "broker"];
        run(&mut queue.command(&args)).exits(78).says("--dead-letter-queue");
        let other = queue.beside("other");
        run(queue.command(&args).args(["--dead-letter-queue", &other])).exits(0);
    });
}

#[test]
fn a_queue_that_is_not_there_yet_is_waited_for_if_asked() {
    on_every_queue(|queue| {
        let late = queue.name_beside("late");
        let work = |more: &[&str]| {
            let mut command = queue.command(&["work", &guest("echo"), "--drain", "--wait", "2s"]);
            command.args(more).env("QUEUE", &late);
            command
        };
        run(&mut work(&[])).exits(78);
        run(&mut work(&["--wait-for-queue", "1s"])).exits(78).says("waiting for the queue");
        let mut worker = start(work(&[]).env("WQ_WAIT_FOR_QUEUE", "1m"));
        worker.wait_for("waiting for the queue");
        queue.declare(&late);
        run(queue.command(&["publish", "at last"]).env("QUEUE", &late)).exits(0);
        worker.end().exits(0).prints("at last");
        // A service that waits leaves when it is told to.
        let missing = queue.name_beside("missing");
        let mut command = queue.command(&["work", &guest("echo"), "--forever", "--wait-for-queue", "1h"]);
        let mut service = start(command.env("QUEUE", &missing));
        // By the fourth look, which comes after a second, its guest is loaded.
        for _ in 0..4 {
            service.wait_for("waiting for the queue");
        }
        service.signal("TERM");
        service.end_within(Duration::from_secs(20)).exits(0);
    });
}

#[test]
fn a_queue_file_that_is_not_there_yet_is_waited_for_if_asked() {
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("late.db").display());
    let mut command = queue.command(&["work", &guest("echo"), "--count", "1", "--wait-for-queue", "1m"]);
    let mut worker = start(command.env("BROKER_URL", &url));
    worker.wait_for("waiting for the queue");
    run(queue.command(&["queue", "declare"]).env("BROKER_URL", &url)).exits(0);
    run(queue.command(&["publish", "at last"]).env("BROKER_URL", &url)).exits(0);
    worker.end().exits(0).prints("at last");
}

#[test]
fn a_queue_that_is_deleted_under_its_worker_is_not_waited_for() {
    on_rabbitmq(|queue| {
        let gone = queue.beside("gone");
        let mut command = queue.command(&["work", &guest("echo"), "--forever", "--wait-for-queue", "1h"]);
        let mut service = start(command.env("QUEUE", &gone).env("RUST_LOG", "wq_run=debug"));
        service.wait_for("subscribed");
        queue.delete(&gone);
        service.end().exits(78).says("there is no queue");
    });
}
