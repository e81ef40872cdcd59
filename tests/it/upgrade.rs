//! Two versions side by side: workers of the last release and of this build on one queue. `WQ_PREVIOUS` names the last release's
//! program; `make test-upgrade` builds it.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::queue::{Queue, on_every_queue};
use crate::harness::{guest, run, start};

/// The last release. Not `required`: there is none before the first.
fn previous() -> Option<PathBuf> {
    let path = std::env::var_os("WQ_PREVIOUS").map(PathBuf::from);
    if path.is_none() {
        use std::io::Write as _;
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED: WQ_PREVIOUS names no program of the last release (make test-upgrade)"
        );
    }
    path
}

/// The programs of both versions, and both ways round.
fn pairs() -> Vec<[PathBuf; 2]> {
    let this = PathBuf::from(env!("CARGO_BIN_EXE_wq-run"));
    let pairs = previous().map(|previous| vec![[previous.clone(), this.clone()], [this, previous]]);
    pairs.unwrap_or_default()
}

/// Runs a test on every kind of queue that the last release knows.
fn on_every_shared_queue(test: impl Fn(&PathBuf, &PathBuf, &Queue)) {
    let Some(previous) = previous() else { return };
    let version = run(Command::new(&previous).arg("--version")).exits(0).out();
    for [one, other] in pairs() {
        on_every_queue(|queue| {
            let url = queue.url();
            // Releases before 0.2 do not say it: they know two.
            let knows = |kind: &str| match version.lines().find(|line| line.starts_with("brokers: ")) {
                Some(brokers) => brokers.contains(kind),
                None => ["amqp", "sqlite"].contains(&kind),
            };
            let kind = if queue.sqs().is_some() { "sqs" } else { url.split(':').next().unwrap() };
            if knows(kind) {
                test(&one, &other, queue);
            }
        });
    }
}

fn command(program: &PathBuf, queue: &Queue, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(queue.environment()).args(args);
    command
}

#[test]
fn workers_of_two_versions_share_a_queue() {
    on_every_shared_queue(|one, other, queue| {
        let bodies: Vec<String> = (0..20).map(|number| format!("{number}\n")).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        run(command(one, queue, &["publish"]).args(&bodies)).exits(0);
        let drain = |program| start(&mut command(program, queue, &["work", &guest("echo"), "--drain"]));
        let ended = [drain(one), drain(other)].map(|worker| worker.end());
        let mut results: Vec<String> =
            ended.iter().flat_map(|run| run.exits(0).out().lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        results.sort_by_key(|number| number.parse::<u32>().unwrap());
        assert_eq!(results.join("\n") + "\n", bodies.concat(), "each once");
    });
}

#[test]
fn attempts_go_on_counting_from_one_version_to_the_other() {
    on_every_shared_queue(|one, other, queue| {
        queue.publish(&["fails"]);
        let work = |program, code| {
            let args = ["work", &guest("obey"), "--max-attempts", "3", "--backoff-initial", "1s", "--wait", "30s"];
            run(&mut command(program, queue, &args)).exits(code);
        };
        work(one, 75);
        work(other, 75);
        // The last attempt.
        work(one, 65);
        let dead = queue.take_dead();
        assert_eq!(dead.headers["x-wq-attempt"].trim_matches(|sign: char| !sign.is_ascii_digit()), "3", "{dead:?}");
    });
}

#[test]
fn a_worker_of_one_version_gives_a_message_back_and_the_other_runs_it_at_the_same_attempt() {
    on_every_shared_queue(|one, other, queue| {
        queue.publish(&["long"]);
        let args = ["work", &guest("sleep"), "--shutdown-timeout", "100ms"];
        let mut worker = start(&mut command(one, queue, &args));
        worker.wait_for("started");
        worker.signal("TERM");
        worker.end().exits(143);
        let done = run(command(other, queue, &["work", &guest("echo"), "--wait", "30s"]).env("WQ_LOG_FORMAT", "json"));
        done.exits(0).prints("long");
        if queue.can().release_uncounted {
            done.says("\"attempt\":1");
        }
    });
}

#[test]
fn the_other_version_replays_dead_letters() {
    on_every_shared_queue(|one, other, queue| {
        queue.publish(&["dead"]);
        run(&mut command(one, queue, &["work", &guest("fail"), "--max-attempts", "1"])).exits(65);
        let listed = run(&mut command(other, queue, &["dlq", "list", "--json"])).exits(0).out();
        let listed: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
        assert_eq!((&listed["outcome"], &listed["attempts"]), (&"exit".into(), &1.into()), "{listed}");
        run(&mut command(other, queue, &["dlq", "replay"])).exits(0);
        run(&mut command(one, queue, &["work", &guest("echo")])).exits(0).prints("dead");
    });
}

#[test]
fn a_queue_file_of_one_version_is_opened_by_the_other() {
    for [one, other] in pairs() {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("sqlite:{}", folder.path().join("q.db").display());
        let with = |program: &PathBuf, args: &[&str]| {
            run(Command::new(program).env_clear().env("BROKER_URL", &file).env("QUEUE", "q").args(args)).exits(0).out()
        };
        with(&one, &["queue", "declare"]);
        with(&one, &["publish", "kept"]);
        with(&other, &["publish", "too"]);
        assert_eq!(with(&other, &["work", &guest("line"), "--drain"]).lines().count(), 2);
        with(&one, &["work", &guest("line"), "--drain"]);
    }
}

#[test]
fn compiled_code_of_another_version_is_no_harm() {
    for [one, other] in pairs() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().display().to_string();
        let with_cache = |program: &PathBuf, command: &str| {
            let mut words = Command::new(program);
            words.env_clear().args([command, &guest("echo"), "--cache-dir", &cache]);
            crate::harness::run_with(&mut words, b"same").exits(0).out()
        };
        with_cache(&one, "compile");
        assert_eq!(with_cache(&other, "exec"), "same");
        with_cache(&other, "compile");
        assert_eq!((with_cache(&one, "exec"), with_cache(&other, "exec")), ("same".into(), "same".into()));
    }
}
