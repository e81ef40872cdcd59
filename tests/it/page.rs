//! The Kubernetes page's own example: eight messages, eight runs, two at a time.

use std::collections::BTreeSet;
use std::process::Command;

use crate::harness::queue::{Queue, on_every_queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{Run, guest, installed, page_guest, run, start, wq_run};

const FRUITS: [&str; 8] = ["apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon"];

fn expected() -> BTreeSet<String> {
    FRUITS.iter().map(|fruit| format!("Processing {fruit}")).collect()
}

fn lines<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Vec<String> {
    runs.into_iter().flat_map(|run| run.out().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Each fruit once, in any order.
#[track_caller]
fn assert_each_once(lines: &[String]) {
    assert_eq!(lines.len(), FRUITS.len(), "{lines:?}");
    assert_eq!(lines.iter().cloned().collect::<BTreeSet<_>>(), expected());
}

#[test]
fn the_pages_commands_fill_the_queue_and_eight_runs_empty_it() {
    let (Some(rabbitmq), Some(guest)) = (RabbitMq::shared(), page_guest("rust")) else { return };
    let (Some(declare), Some(publish)) = (installed("amqp-declare-queue"), installed("amqp-publish")) else { return };
    let url = rabbitmq.url();
    let queue = "page-job1";
    let tool = |program: &std::path::Path, args: &[&str]| {
        let status = Command::new(program).arg(format!("--url={url}")).args(args).output().expect("it runs").status;
        assert!(status.success(), "{program:?} {args:?}");
    };
    tool(&declare, &["-q", queue, "-d"]);
    for fruit in FRUITS {
        tool(&publish, &["-r", queue, "-p", "-b", fruit]);
    }
    let work = |args: &[&str]| {
        let mut command = wq_run(&["work", &guest]);
        command.args(args).env("BROKER_URL", &url).env("QUEUE", queue);
        command
    };
    let mut runs = Vec::new();
    for _ in 0..FRUITS.len() / 2 {
        let pair = [start(&mut work(&[])), start(&mut work(&[]))];
        runs.extend(pair.map(|worker| worker.end()));
    }
    for run in &runs {
        run.exits(0);
        assert_eq!(run.out().lines().count(), 1, "one message a run: {}", run.out());
    }
    assert_each_once(&lines(&runs));
    // The ninth.
    run(&mut work(&["--wait", "1s"])).exits(0).prints("");
    run(&mut work(&["--wait", "1s", "--on-empty", "fail"])).exits(79).prints("");
}

#[test]
fn the_readmes_first_job_does_its_work_on_podman_word_for_word() {
    if installed("podman").is_none() || page_guest("rust").is_none() || page_guest("c").is_none() {
        return;
    }
    // What a fresh machine downloads for the images.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);
    let mut command = Command::new(crate::harness::root().join("scripts/first-job.sh"));
    let run = start(command.args(["podman", env!("CARGO_BIN_EXE_wq-run")])).end_within(PATIENCE);
    run.exits(0);
    assert!(run.out().contains("The README's Job has done"), "{}", run.out());
}

#[test]
fn jobs_whose_messages_died_end_as_failed_and_their_good_messages_are_done() {
    if installed("podman").is_none() {
        return;
    }
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);
    let mut command = Command::new(crate::harness::root().join("scripts/failed-jobs.sh"));
    let run = start(command.arg(env!("CARGO_BIN_EXE_wq-run"))).end_within(PATIENCE);
    run.exits(0);
    for told in [
        "drained: Failed by exit status 81, 24 messages done, 6 dead letters",
        "counted: Failed by exit status 81, 2 messages done, 1 dead letters",
    ] {
        assert!(run.out().contains(told), "{}", run.out());
    }
}

#[test]
fn one_run_a_message_works_on_every_queue_and_with_every_guest() {
    for language in ["rust", "c"] {
        let Some(guest) = page_guest(language) else { return };
        on_every_queue(|queue| {
            queue.publish(&FRUITS);
            let runs = FRUITS.map(|_| run(&mut queue.command(&["work", &guest, "--wait", "5s"])));
            for run in &runs {
                run.exits(0);
            }
            assert_each_once(&lines(&runs));
            assert_eq!(queue.depth(), 0);
            run(&mut queue.command(&["work", &guest, "--wait", "0"])).exits(0).prints("");
        });
    }
}

#[test]
fn two_drains_side_by_side_share_the_messages() {
    let Some(guest) = page_guest("rust") else { return };
    on_every_queue(|queue| {
        queue.publish(&FRUITS);
        let drain = || start(&mut queue.command(&["work", &guest, "--drain"]));
        let runs = [drain(), drain()].map(|worker| worker.end());
        for run in &runs {
            run.exits(0);
        }
        assert_each_once(&lines(&runs));
    });
}

#[test]
fn a_count_with_concurrency_takes_that_many_and_leaves_the_rest() {
    let Some(guest) = page_guest("rust") else { return };
    on_every_queue(|queue: &Queue| {
        queue.publish(&FRUITS);
        let run = run(&mut queue.command(&["work", &guest, "--count", "5", "--concurrency", "3"]));
        run.exits(0);
        assert_eq!(lines([&run]).len(), 5);
        queue.wait_for_depth(3);
        let rest = crate::harness::run(&mut queue.command(&["work", &guest, "--drain"]));
        rest.exits(0);
        assert_each_once(&lines([&run, &rest]));
    });
}

#[test]
fn a_run_for_one_message_leaves_the_next_one_untouched() {
    // The broker would hand the next message to a worker that leaves, and count its return as a failed delivery.
    on_every_queue(|queue| {
        for _ in 0..5 {
            queue.publish(&["mine", "the next worker's"]);
            run(&mut queue.command(&["work", &guest("echo")])).exits(0).prints("mine");
            let next = run(&mut queue.command(&["work", &guest("environ")])).exits(0).out();
            assert!(next.contains("WQ_REDELIVERED=false") && next.contains("WQ_ATTEMPT=1"), "{next:?}");
        }
    });
}

#[test]
fn the_mode_can_come_from_the_environment() {
    let Some(guest) = page_guest("rust") else { return };
    on_every_queue(|queue| {
        queue.publish(&["a", "b", "c"]);
        let mut command = queue.command(&["work"]);
        let run_ = run(command.env("WQ_GUEST", &guest).env("WQ_MODE", "count=2"));
        assert_eq!(run_.exits(0).out().lines().count(), 2);
        run(command.env("WQ_MODE", "drain")).exits(0).prints("Processing c\n");
    });
}
