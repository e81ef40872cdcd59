//! A worker that is stopped for longer than its guest may run, as by SIGSTOP or by a container's freezer: the guest has
//! not used this time, and a guest that is done stays done.

use std::time::Duration;

use crate::harness::queue::{Queue, on_every_queue};
use crate::harness::{Running, guest, start};

/// Longer than `--timeout` in these tests and the 3 s after which a guest counts as one that can't be stopped.
const STOPPED: Duration = Duration::from_secs(6);

fn start_and_stop(queue: &Queue, guest_name: &str, isolation: &str) -> Running {
    queue.publish(&["x"]);
    let args = ["work", &guest(guest_name), "--isolation", isolation, "--timeout", "2s", "--max-attempts", "1"];
    let mut worker = start(&mut queue.command(&args));
    worker.wait_for("started");
    worker.signal("STOP");
    std::thread::sleep(STOPPED);
    worker.signal("CONT");
    worker
}

#[test]
fn a_guest_that_was_stopped_with_its_worker_has_not_used_the_time() {
    on_every_queue(|queue| {
        // With `process`, the guest goes on alone, and is done before its worker wakes up.
        for isolation in ["thread", "process"] {
            start_and_stop(queue, "nap", isolation).end().exits(0).prints("x").says("\"settlement\":\"ack\"");
        }
    });
}

#[test]
fn a_guest_that_spins_is_still_stopped_after_its_worker_was() {
    on_every_queue(|queue| {
        for isolation in ["thread", "process"] {
            start_and_stop(queue, "spin", isolation).end().exits(65).says("\"outcome\":\"timeout\"");
            queue.take_dead();
        }
    });
}
