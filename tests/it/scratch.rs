//! `--scratch`: what a guest can do to the folder that it may write to, and to what comes after it.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::queue::{Broker, Queue};
use crate::harness::{Run, Running, eventually, guest, run, start, wq_run};

const WHERE: [&str; 2] = ["thread", "process"];

/// In memory, where that is possible: a disk takes half a minute for a tree of 19,000 levels.
fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn exec(temporary: &TempDir, name: &str, flags: &[&str]) -> Command {
    let mut command = wq_run(&["exec", &guest(name)]);
    command.args(flags).env("TMPDIR", temporary.path());
    // A guest's process is killed at a system call outside the allowlist. By default, such a call only fails.
    command.env("WQ_FAULT", "guest-process:strict");
    command
}

/// A guest that is at work in its folder.
fn at_work(temporary: &TempDir, name: &str, flags: &[&str], said: &str) -> Running {
    let mut running = start(&mut exec(temporary, name, flags));
    running.write(b"go on");
    running.wait_for(said);
    running
}

#[test]
fn a_scratch_folder_is_empty_bounded_and_gone_afterwards() {
    let temporary = temporary();
    let exec = |name: &str, flags: &[&str]| run(&mut exec(&temporary, name, flags));
    exec("scratch", &[]).exits(10);
    for isolation in WHERE {
        let flags = ["--isolation", isolation, "--scratch", "8MiB"];
        exec("scratch", &flags).exits(134).says("--scratch");
        // `files` finds no `in`, since there is nothing there.
        exec("files", &flags).exits(11);
        assert_eq!(entries(temporary.path()), 0);
    }
}

#[test]
fn scratch_folders_lie_in_the_workers_tmpdir_wherever_the_guest_runs() {
    for isolation in WHERE {
        let temporary = temporary();
        let running = at_work(&temporary, "sleep", &["--isolation", isolation, "--scratch", "1MiB"], "started");
        assert_eq!(entries(temporary.path()), 1, "{isolation}");
        running.signal("TERM");
        running.end();
        assert_eq!(entries(temporary.path()), 0, "{isolation}");
    }
}

#[test]
fn files_too_deep_for_a_path_count_whether_they_have_a_name_or_not() {
    let temporary = temporary();
    for isolation in WHERE {
        let flags = ["--isolation", isolation, "--scratch", "1MiB"];
        for stdin in [&b""[..], b"remove it first"] {
            let ended = crate::harness::run_with(&mut exec(&temporary, "below", &flags), stdin);
            ended.exits(134).says("--scratch");
            assert_eq!(entries(temporary.path()), 0);
        }
    }
}

#[test]
fn files_are_counted_even_if_they_are_empty() {
    let temporary = temporary();
    for isolation in WHERE {
        let flags = ["--isolation", isolation, "--scratch", "1MiB"];
        run(&mut exec(&temporary, "many", &flags)).exits(134).says("--scratch");
        assert_eq!(entries(temporary.path()), 0);
    }
}

#[test]
fn folders_nested_without_end_cost_neither_the_worker_nor_the_next_start() {
    let temporary = temporary();
    let few_descriptors = |flags: &[&str]| -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_wq-run"), "exec"]);
        run(command.arg(guest("nest")).args(flags).env_clear().env("TMPDIR", temporary.path()))
    };
    for isolation in WHERE {
        // Landlock looks at each folder above the one that is opened, so behind it the guest alone takes minutes.
        let flags = ["--isolation", isolation, "--wall", "off", "--scratch", "1GiB"];
        few_descriptors(&flags).exits(0);
        let killed = at_work(&temporary, "nest", &flags, "nested");
        killed.signal("KILL");
        killed.end();
        assert!(entries(temporary.path()) > 0);
        // Each start goes on with it for a moment, and then with its own work.
        eventually("what was left is gone", || {
            run(&mut exec(&temporary, "nothing", &[])).exits(0);
            (entries(temporary.path()) == 0).then_some(())
        });
    }
}

#[test]
fn a_pipe_or_a_link_named_like_a_room_does_not_hold_up_a_start() {
    let temporary = temporary();
    let pipe = temporary.path().join("wq-run-room-x");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("kept"), "").unwrap();
    let link = temporary.path().join("wq-run-room-y");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    run(&mut exec(&temporary, "nothing", &["--scratch", "1MiB"])).exits(0);
    assert!(pipe.exists() && link.is_symlink() && outside.path().join("kept").exists());
}

#[test]
fn a_guest_process_that_dies_leaves_no_folder() {
    let temporary = temporary();
    let flags = ["--isolation", "process", "--scratch", "1MiB"];
    let running = at_work(&temporary, "sleep", &flags, "started");
    let room = std::fs::read_dir(temporary.path()).unwrap().next().unwrap().unwrap().path();
    let of_child = std::fs::read_dir(&room).unwrap().map(|entry| entry.unwrap().path());
    assert!(of_child.map(|folder| entries(&folder)).sum::<usize>() > 0, "its run has a folder");
    let child = crate::sandbox::child_of(running.id()).to_string();
    assert!(Command::new("kill").args(["-9", &child]).status().unwrap().success());
    running.end().exits(134);
    assert_eq!(entries(temporary.path()), 0);
}

#[test]
fn the_metadata_of_a_killed_worker_is_removed_by_the_next() {
    let temporary = temporary();
    let queue = Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap()));
    queue.publish(&["x"]);
    let mut command = queue.command(&["work", &guest("sleep"), "--metadata"]);
    let mut killed = start(command.env("TMPDIR", temporary.path()));
    killed.wait_for("started");
    assert_eq!(entries(temporary.path()), 1);
    killed.signal("KILL");
    killed.end();
    run(&mut exec(&temporary, "nothing", &[])).exits(0);
    assert_eq!(entries(temporary.path()), 0);
    queue.take();
}

#[test]
fn a_folder_that_can_not_be_made_is_said_with_the_variable_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = wq_run(&["exec", &guest("echo"), "--scratch", "1MiB"]);
    // Not even root can make a folder inside a path that does not exist.
    let nowhere = folder.path().join("missing");
    let refused = run(command.env("TMPDIR", &nowhere));
    refused.exits(78).says("--scratch").says("set TMPDIR to a folder that can be written to").says("/tmp");
}
