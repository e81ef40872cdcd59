//! Files that block whoever opens them: a pipe that nobody writes to stands for a server that does not answer.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::{component, eventually, guest, run, start, wq_run};

const WHERE: [&str; 2] = ["thread", "process"];

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A folder with a file, and with a pipe that nobody writes to.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "x").unwrap();
    make_pipe(&folder.path().join("pipe"));
    folder
}

#[test]
fn a_file_that_blocks_costs_its_own_message_and_no_other() {
    on_every_queue(|queue| {
        for guest in [guest("opens"), component("opens")] {
            for isolation in WHERE {
                let folder = folder();
                let dir = folder.path().display().to_string();
                queue.publish(&["pipe", "file", "pipe", "file", "file"]);
                let flags = ["--dir", &dir, "--timeout", "200ms", "--max-attempts", "1", "--isolation", isolation];
                let args = [&["work", &*guest, "--drain", "--wait", "1s"], &flags[..]].concat();
                run(&mut queue.command(&args)).exits(65);
                for _ in 0..2 {
                    let dead = queue.take_dead();
                    assert_eq!((&*dead.body, &*dead.headers["x-wq-outcome"]), (&b"pipe"[..], "timeout"));
                }
                assert_eq!(queue.dead_depth(), 0);
            }
        }
    });
}

/// Each message with a pipe costs a thread forever. Before there are too many of them, the worker ends, for another one to go on.
#[test]
fn threads_that_are_lost_to_files_end_the_worker_and_dead_letter_nothing_else() {
    const PIPES: usize = 200;
    const FILES: usize = 20;
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    let folder = folder();
    let dir = folder.path().display().to_string();
    queue.publish(&[vec!["pipe"; PIPES], vec!["file"; FILES]].concat());
    let opens = guest("opens");
    let work = |isolation: &str| {
        let flags = ["--dir", &dir, "--timeout", "200ms", "--max-attempts", "1", "--isolation", isolation];
        let args = [&["work", &*opens, "--drain", "--wait", "1s", "--concurrency", "8"], &flags[..]].concat();
        run(&mut queue.command(&args))
    };
    let dead = || std::iter::from_fn(|| queue.try_take(&queue.dead_letter_queue()));
    work("thread").exits(80).says("have not returned");
    let first: Vec<_> = dead().collect();
    assert!((128..PIPES).contains(&first.len()), "{}", first.len());
    assert_eq!(queue.depth(), (PIPES + FILES - first.len()) as u64, "what was not run is given back");
    work("thread").exits(65);
    let second: Vec<_> = dead().collect();
    assert_eq!(first.len() + second.len(), PIPES);
    for letter in first.iter().chain(&second) {
        assert_eq!((&*letter.body, &*letter.headers["x-wq-outcome"]), (&b"pipe"[..], "timeout"));
    }
    // A process is replaced, so nothing adds up.
    queue.publish(&[vec!["pipe"; 140], vec!["file"; FILES]].concat());
    work("process").exits(65);
    assert_eq!(dead().inspect(|letter| assert_eq!(letter.body, b"pipe")).count(), 140);
}

#[test]
fn a_guests_process_ends_with_its_worker_while_a_file_blocks() {
    let folder = folder();
    let dir = folder.path().display().to_string();
    let mut command = wq_run(&["exec", &guest("opens"), "--dir", &dir, "--isolation", "process"]);
    let mut killed = start(command.process_group(0));
    killed.write(b"pipe");
    killed.wait_for("opening");
    let child = crate::sandbox::child_of(killed.id());
    killed.signal("KILL");
    killed.end();
    eventually("the guest's process is gone", || {
        let status = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // Gone, or dead and not yet waited for by whoever adopted it.
        (status.is_empty() || status.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_worker_leaves_in_time_while_a_file_blocks() {
    for isolation in WHERE {
        let folder = folder();
        let dir = folder.path().display().to_string();
        let mut running = start(&mut wq_run(&["exec", &guest("opens"), "--dir", &dir, "--isolation", isolation]));
        running.write(b"pipe");
        running.wait_for("opening");
        running.signal("TERM");
        running.end().exits(143);
    }
}

#[test]
fn a_pipe_in_the_cache_does_not_hold_up_a_start() {
    let cache = tempfile::tempdir().unwrap();
    let exec = || {
        let mut command = wq_run(&["exec", &guest("nothing"), "--cache-dir"]);
        run(command.arg(cache.path())).exits(0);
    };
    exec();
    let mut replaced = 0;
    for folder in std::fs::read_dir(cache.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for entry in std::fs::read_dir(folder.path()).unwrap().flatten() {
            std::fs::remove_file(entry.path()).unwrap();
            make_pipe(&entry.path());
            replaced += 1;
        }
    }
    assert!(replaced > 0, "there was an entry");
    exec();
}
