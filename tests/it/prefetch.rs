//! Messages at hand: with `--prefetch` above `--concurrency`, runs follow each other without a pause and their
//! acknowledgements go together. None of that may lose, double or count anything.

use std::collections::BTreeSet;

use crate::harness::proxy::Proxy;
use crate::harness::queue::{Broker, Queue, on_every_queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{Run, guest, run, start};

const MESSAGES: usize = 150;
// A quorum queue counts a failed delivery for each message at hand when a connection is lost. With three attempts, messages
// would be put aside.
// A broker may bound how long a message can wait for others.
const AT_HAND: [&str; 8] = ["--prefetch", "100", "--concurrency", "2", "--max-attempts", "10", "--timeout", "5m"];

fn fill(queue: &Queue) -> BTreeSet<String> {
    let bodies: Vec<String> = (0..MESSAGES).map(|number| format!("m{number}")).collect();
    queue.publish(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
    bodies.into_iter().collect()
}

fn results(runs: &[&Run]) -> Vec<String> {
    runs.iter().flat_map(|run| run.out().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn a_drain_ends_when_every_acknowledgement_is_sent() {
    on_every_queue(|queue| {
        let published = fill(queue);
        let drained = run(queue.command(&["work", &guest("line"), "--drain"]).args(AT_HAND));
        drained.exits(0).says(&format!("\"acked\":{MESSAGES}"));
        assert_eq!(queue.depth(), 0);
        let results = results(&[&drained]);
        assert_eq!(results.len(), MESSAGES);
        assert_eq!(results.into_iter().collect::<BTreeSet<_>>(), published);
    });
}

#[test]
fn a_worker_killed_with_acknowledgements_in_hand_loses_nothing() {
    on_every_queue(|queue| {
        for point in ["recorded@40", "settled@40", "settled@90"] {
            let published = fill(queue);
            let mut killed = queue.command(&["work", &guest("line"), "--drain"]);
            let killed = run(killed.args(AT_HAND).env("WQ_FAULT", format!("{point}:kill")));
            assert_eq!(killed.code, None, "{}", killed.stderr);
            // Leases of the embedded queue have to run out.
            let again = run(queue.command(&["work", &guest("line"), "--drain", "--wait", "17s"]).args(AT_HAND));
            again.exits(0);
            let (before, all) = (results(&[&killed]), results(&[&killed, &again]));
            assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), published, "{point}");
            assert!(all.len() <= MESSAGES + before.len(), "{point}: {} results", all.len());
        }
    });
}

#[test]
fn a_connection_cut_with_acknowledgements_in_hand_loses_nothing() {
    let Some(rabbitmq) = RabbitMq::shared() else { return };
    for broker in [Broker::Classic, Broker::Quorum] {
        let queue = Queue::new(broker(rabbitmq));
        let proxy = Proxy::start(rabbitmq.port);
        let url = format!("amqp://guest:guest@127.0.0.1:{}", proxy.port);
        let args = ["work", &guest("line"), "--drain", "--reconnect-timeout", "0"];
        let published = fill(&queue);
        let mut runs = Vec::new();
        // Into the middle of what a session says, further each time.
        for bytes in [12_000, 16_000, 20_000] {
            proxy.cut_after(bytes);
            runs.push(run(queue.command(&args).args(AT_HAND).env("BROKER_URL", &url)));
        }
        assert!(runs.iter().any(|run| run.code != Some(0)), "nothing was cut: {runs:?}");
        runs.push(run(queue.command(&["work", &guest("line"), "--drain", "--wait", "1s"]).args(AT_HAND)));
        runs[3].exits(0);
        let all = results(&runs.iter().collect::<Vec<_>>());
        assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), published);
    }
}

#[test]
fn a_shutdown_gives_back_what_has_not_begun_and_lets_the_rest_finish() {
    on_every_queue(|queue| {
        queue.publish(&["a"; 20]);
        let mut stopped = start(queue.command(&["work", &guest("nap"), "--drain"]).args(AT_HAND));
        stopped.wait_for("started");
        stopped.signal("TERM");
        let stopped = stopped.end();
        stopped.exits(143).says("\"released\":0").says("\"unsettled\":0");
        let done = stopped.out().len();
        assert!((1..=4).contains(&done), "{done} were done");
        queue.wait_for_depth(20 - done as u64);
        let rest = run(queue.command(&["work", &guest("line"), "--drain"]).args(AT_HAND));
        assert_eq!(results(&[rest.exits(0)]).len(), 20 - done);
    });
}
