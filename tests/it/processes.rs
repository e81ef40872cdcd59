//! The processes that run guests with `--isolation process`, and what their end costs.

use std::process::Command;

use crate::harness::queue::on_every_queue;
use crate::harness::{eventually, guest, start};

/// The processes that a worker has for its guests.
pub fn children(worker: u32) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses can hold anything. What follows is the state and the parent.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(worker)).collect()
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// Whether a process has ended, reaped or not.
pub fn is_gone(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn a_message_loses_no_attempt_to_an_idle_process_that_was_killed() {
    on_every_queue(|queue| {
        let args = ["work", &guest("echo"), "--isolation", "process", "--count", "3", "--max-attempts", "1"];
        let mut worker = start(queue.command(&args).env("RUST_LOG", "debug"));
        queue.publish(&["first."]);
        worker.wait_for("\"settlement\":\"ack\"");
        let [idle] = children(worker.id())[..] else { panic!("one process runs the guests") };
        signal(idle, "KILL");
        eventually("the process is gone", || is_gone(idle).then_some(()));
        queue.publish(&["second."]);
        worker.wait_for("\"settlement\":\"ack\"");
        // This one dies with the message before it, unread.
        let [idle] = children(worker.id())[..] else { panic!("another process has taken its place") };
        signal(idle, "STOP");
        queue.publish(&["third."]);
        worker.wait_for("taken");
        signal(idle, "KILL");
        worker.end().exits(0).says("another process runs the guest").prints("first.second.third.");
    });
}

#[test]
fn a_process_that_dies_while_its_guest_runs_costs_one_attempt() {
    on_every_queue(|queue| {
        queue.publish(&["unlucky"]);
        let args = ["work", &guest("sleep"), "--isolation", "process", "--max-attempts", "1"];
        let mut worker = start(&mut queue.command(&args));
        worker.wait_for("started");
        let [running] = children(worker.id())[..] else { panic!("one process runs the guest") };
        signal(running, "KILL");
        worker.end().exits(65).says("\"outcome\":\"crash\"");
        assert_eq!(queue.take_dead().headers["x-wq-outcome"], "crash");
    });
}
