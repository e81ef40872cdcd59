//! Messages as large as they come: 128 MiB, which is as much as a RabbitMQ takes unless it is told otherwise.

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run};

const SIZE: usize = 128 << 20;

fn large_messages(queue: &Queue) {
    let mut body = vec![0; SIZE];
    fastrand::Rng::with_seed(128).fill(&mut body);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &body).unwrap();
    run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);

    // Not run, and kept whole.
    let refused = run(&mut queue.command(&["work", &guest("echo"), "--max-message", "134217727B"]));
    refused.exits(65).says("\"outcome\":\"message\"").prints("");
    let dead = queue.take_dead();
    assert!(dead.body == body, "{} bytes are left of it", dead.body.len());

    run(queue.command(&["publish", "--file"]).arg(file.path())).exits(0);
    // The default of `--max-message` lets it pass.
    let whole = run(&mut queue.command(&["work", &guest("echo"), "--max-stdout", "128MiB"]));
    assert!(whole.exits(0).stdout == body, "{} bytes came back", whole.stdout.len());
}

#[test]
fn a_message_of_128_mib_goes_through_the_embedded_queue() {
    large_messages(&Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap())));
}

#[test]
fn a_message_of_128_mib_goes_through_rabbitmq() {
    // What RabbitMQ 3 takes by default; 4 takes 16 MiB.
    let Some(rabbitmq) = RabbitMq::start_with("max_message_size = 134217728") else { return };
    large_messages(&Queue::new(Broker::Classic(&rabbitmq)));
    large_messages(&Queue::new(Broker::Quorum(&rabbitmq)));
}
