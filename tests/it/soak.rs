//! The ledger: many messages, workers that are killed at random points of a message's way, and the books at the end.
//!
//! Published, results, dead letters and what is left in the queue have to add up: nothing lost, nothing that was never
//! published, no more duplicates than the faults explain, nothing again after an exit 0, no dead letter that fewer kills
//! than three explain, and an empty queue once the faults stop.
//!
//! `make test` keeps short books, `make soak` long ones: `WQ_SOAK_MESSAGES`, `WQ_SOAK_KILLS` and `WQ_SOAK_SEED` set them. The
//! seed is printed, and the same seed gives the same faults.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{guest, run};

/// The points where a worker can be killed, in the order of a message's way, with whether a kill there can leave a
/// second result behind: the first is written, and the broker does not know.
const POINTS: [(&str, bool); 6] = [
    ("idle", false),
    ("delivered", false),
    ("finished", false),
    ("recorded", true),
    ("settled", true),
    ("closed", false),
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn the_books_balance_after_kills_at_random_points() {
    let seed = setting("WQ_SOAK_SEED", 20_261_122);
    let kinds: [fn() -> Option<Broker<'static>>; 3] = [
        || Some(Broker::Sqlite(tempfile::tempdir().unwrap())),
        || RabbitMq::shared().map(Broker::Quorum),
        || RabbitMq::shared().map(Broker::Classic),
    ];
    for (number, kind) in (0u64..).zip(kinds) {
        if let Some(broker) = kind() {
            balance(Queue::new(broker), seed + number);
        }
    }
}

fn balance(queue: Queue, seed: u64) {
    let messages = setting("WQ_SOAK_MESSAGES", 60);
    let kills = setting("WQ_SOAK_KILLS", 18);
    let mut random = fastrand::Rng::with_seed(seed);
    // A line each, so that the results can be told apart in one stream.
    let published: BTreeSet<String> = (0..messages).map(|number| format!("message {number} of {seed}")).collect();
    let lines = tempfile::NamedTempFile::new().unwrap();
    let all: String = published.iter().map(|body| format!("{body}\n")).collect();
    std::fs::write(lines.path(), all).unwrap();
    run(queue.command(&["publish", "--lines"]).arg(lines.path())).exits(0);

    let mut results: BTreeMap<String, u64> = BTreeMap::new();
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let mut take = |run: &crate::harness::Run| {
        for line in run.out().lines() {
            *results.entry(line.to_owned()).or_default() += 1;
        }
    };
    let mut may_repeat = 0;
    let mut finished: BTreeSet<String> = BTreeSet::new();
    let mut after_success = 0;
    for _ in 0..kills {
        let (point, repeats) = POINTS[random.usize(..POINTS.len())];
        // Idle and closed are reached once a run.
        let count = if matches!(point, "idle" | "closed") { 1 } else { random.u64(1..=3) };
        let mut command =
            queue.command(&["work", &guest("line"), "--count", "4", "--wait", "1s", "--concurrency", "2"]);
        let killed = run(command.env("WQ_FAULT", format!("{point}@{count}:kill")));
        // No false success: what a run with exit 0 has printed never comes again.
        after_success += killed.out().lines().filter(|line| finished.contains(*line)).count();
        take(&killed);
        match killed.code {
            // By SIGABRT: the fault struck.
            None => {
                *faults.entry(point).or_default() += 1;
                // Two guests run at a time, and the other one may be as far.
                may_repeat += if repeats { 2 } else { 0 };
            }
            // The queue was empty before it could, or fewer messages came: all that it printed has left the queue.
            Some(0) => finished.extend(killed.out().lines().map(str::to_owned)),
            other => panic!("exit {other:?}:\n{}", killed.stderr),
        }
    }
    // The faults stop: the queue empties, once the leases of the dead are over.
    let last = run(&mut queue.command(&["work", &guest("line"), "--drain", "--wait", "16s"]));
    after_success += last.out().lines().filter(|line| finished.contains(*line)).count();
    take(&last);
    // 65 if a message was put aside, which has to be explained below.
    assert!(matches!(last.code, Some(0 | 65)), "exit {:?}:\n{}", last.code, last.stderr);

    // Messages that too many killed workers had taken: put aside, and not lost.
    let mut dead = BTreeSet::new();
    while queue.dead_depth() > 0 {
        let letter = String::from_utf8(queue.take_dead().body).expect("it is one of ours");
        assert!(dead.insert(letter), "put aside twice, seed {seed}");
    }
    let written: BTreeSet<String> = results.keys().cloned().collect();
    let accounted: BTreeSet<String> = written.union(&dead).cloned().collect();
    let lost: Vec<_> = published.difference(&accounted).collect();
    let phantoms: Vec<_> = accounted.difference(&published).collect();
    let duplicates: u64 = results.values().map(|count| count - 1).sum();
    let struck: u64 = faults.values().sum();
    println!(
        "{}: seed {seed}, {messages} messages, {struck} kills {faults:?}: {} results, {duplicates} duplicates, \
         {} put aside, {} lost",
        queue.name,
        results.values().sum::<u64>(),
        dead.len(),
        lost.len(),
    );
    assert!(lost.is_empty(), "lost, seed {seed}: {lost:?}");
    assert!(
        dead.len() as u64 * 3 <= struck,
        "{} put aside of {struck} kills, three of which it takes, seed {seed}",
        dead.len()
    );
    assert_eq!(after_success, 0, "came again after a success, seed {seed}");
    assert!(phantoms.is_empty(), "never published, seed {seed}: {phantoms:?}");
    assert!(duplicates <= may_repeat, "{duplicates} duplicates of {may_repeat} that the faults explain, seed {seed}");
    assert_eq!(queue.depth(), 0, "left, seed {seed}");
}
