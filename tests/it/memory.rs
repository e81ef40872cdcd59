//! What a large message costs: the worker's own memory, as a multiple of the message.

use crate::harness::queue::{Broker, on_every_queue};
use crate::harness::{guest, run, start};

const MIB: usize = 1 << 20;

/// The most memory that a process ever had at a time, in bytes.
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells");
    let kib: usize = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number");
    kib * 1024
}

/// What does not grow with the message: the program, the compiled guest, the buffers of two connections.
const BESIDES: usize = 32 * MIB;

#[test]
fn a_large_message_and_its_result_take_no_more_copies_than_the_readme_says() {
    // Just below RabbitMQ's limit.
    let size = 127 * MIB;
    let body: Vec<u8> = (0..=250).cycle().take(size).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &body).unwrap();
    on_every_queue(|queue| {
        let results = queue.beside("results");
        let folder = tempfile::tempdir().unwrap();
        let specs = format!("dir:{},queue:{results}", folder.path().display());
        let published = run(queue.command(&["publish", "--file"]).arg(file.path()));
        // RabbitMQ 4 takes up to 16 MiB, unless it is told to take more.
        if published.code == Some(74) {
            published.says("does not accept a message of this size");
            return;
        }
        let args = ["work", &guest("echo"), "--forever", "--max-stdout", "128MiB", "--result", &specs];
        let mut service = start(&mut queue.command(&args));
        service.wait_for("working");
        let before = peak(service.id());
        service.wait_for("\"settlement\":\"ack\"");
        let after = peak(service.id());
        service.signal("TERM");
        service.end().exits(0);
        // The message and its result; and the result once more, in the frames that RabbitMQ gets.
        // On Redis, what was read stays in the connection's buffer, and what is published is in a request and in a buffer.
        let copies = match queue.broker {
            Broker::Sqlite(_) => 2,
            Broker::Redis(_) => 5,
            Broker::Quorum(_) | Broker::Classic(_) => 3,
            Broker::Sqs(_) | Broker::SqsFifo(_) => unreachable!("it does not accept a message of this size"),
        };
        assert!(after < before + copies * size + BESIDES, "{} MiB became {} MiB", before / MIB, after / MIB);
        assert!(queue.take_from(&results).body == body);
    });
}
