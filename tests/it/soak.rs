//! The ledger: many messages, workers that are killed at random points of a message's way, a broker that loses its power or
//! runs out of memory at random moments, and the books at the end.
//!
//! Published (P), results (R), dead letters (D) and what is left in the queue (Q) have to add up:
//!
//! - I1: nothing is lost. Each message has a result, or is put aside.
//! - I2: there is no result and no dead letter of what was never published.
//! - I3: each result is whole.
//! - I4: there are no more duplicates than the faults explain.
//! - I5: nothing comes again after its worker exited with 0.
//! - I6: no attempt is counted that no fault explains, and nothing is put aside by fewer than three of them. Where a broker
//!   counts every hand-over, one to a worker that was about to end explains an attempt too.
//! - I7: a worker goes on once its broker is back, or takes messages again, and the queue empties once the faults stop.
//! - I8: memory, descriptors and threads stay as they are: `the_ledgers_service…` in `faults.rs`.
//!
//! `make test` keeps short books, `make soak` long ones: `WQ_SOAK_MESSAGES`, `WQ_SOAK_KILLS`, `WQ_SOAK_BROKER_KILLS`,
//! `WQ_SOAK_ALARMS`, for each kind of queue, and `WQ_SOAK_SEED` set them. `WQ_SOAK_LEDGERS` splits them into so many ledgers
//! side by side, each with a queue and a broker of its own, since most of the time is spent waiting for leases and for
//! brokers to start. The seeds are printed, and the same seed gives the same faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::harness::queue::{Broker, Queue};
use crate::harness::rabbitmq::RabbitMq;
use crate::harness::redis::Redis;
use crate::harness::sqs::{Emulator, Sqs};
use crate::harness::{PATIENCE, Run, guest, run, start};

/// Where a worker can be killed.
struct Point {
    name: &'static str,
    /// Whether a worker comes here once for each message.
    every_message: bool,
    /// Second results that a kill here can leave behind: the first is written, and the broker does not know.
    repeats: u64,
    /// Messages that may have been with the worker without its log having told of them.
    unseen: u64,
}

/// In the order of a message's way. Two guests run at a time, and the other one may be as far, or may have made place for
/// a message that the broker has just sent.
const POINTS: [Point; 6] = [
    Point { name: "idle", every_message: false, repeats: 0, unseen: 2 },
    Point { name: "delivered", every_message: true, repeats: 1, unseen: 1 },
    Point { name: "finished", every_message: true, repeats: 1, unseen: 1 },
    Point { name: "recorded", every_message: true, repeats: 2, unseen: 1 },
    Point { name: "settled", every_message: true, repeats: 2, unseen: 2 },
    Point { name: "closed", every_message: false, repeats: 0, unseen: 0 },
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn the_ledger_of_an_embedded_queue_balances_after_kills_at_random_points() {
    side_by_side("embedded", 0, |ledger| {
        ledger.balance(Queue::new(Broker::Sqlite(tempfile::tempdir().unwrap())));
    });
}

#[test]
fn the_ledger_of_a_quorum_queue_balances_after_kills_of_workers_and_of_the_broker_and_alarms() {
    side_by_side("quorum", 1, |ledger| {
        let Some(rabbitmq) = RabbitMq::start() else { return };
        ledger.balance(Queue::new(Broker::Quorum(&rabbitmq)));
    });
}

#[test]
fn the_ledger_of_a_classic_queue_balances_after_kills_of_workers_and_of_the_broker_and_alarms() {
    side_by_side("classic", 2, |ledger| {
        let Some(rabbitmq) = RabbitMq::start() else { return };
        ledger.balance(Queue::new(Broker::Classic(&rabbitmq)));
    });
}

#[test]
fn the_ledger_of_redis_balances_after_kills_of_workers_and_of_the_server() {
    side_by_side("redis", 3, |ledger| {
        let Some(redis) = Redis::start() else { return };
        ledger.balance(Queue::new(Broker::Redis(&redis)));
    });
}

#[test]
fn the_ledger_of_other_versions_of_redis_balances_too() {
    for (version, number) in [("6.2", 4), ("8.2", 5)] {
        side_by_side(&format!("redis {version}"), number, |ledger| {
            let Some(redis) = Redis::start_version(version) else { return };
            ledger.balance(Queue::new(Broker::Redis(&redis)));
        });
    }
}

// The emulator keeps all in memory, so it is not killed.
#[test]
fn the_ledger_of_sqs_balances_after_kills_of_workers() {
    side_by_side("sqs", 6, |ledger| {
        let Some(sqs) = Sqs::shared(Emulator::Ministack) else { return };
        ledger.balance(Queue::new(Broker::Sqs(sqs)));
    });
}

#[test]
fn the_ledger_of_a_fifo_queue_of_sqs_balances_after_kills_of_workers() {
    side_by_side("sqs fifo", 7, |ledger| {
        let Some(sqs) = Sqs::shared(Emulator::Ministack) else { return };
        ledger.balance(Queue::new(Broker::SqsFifo(sqs)));
    });
}

/// What one ledger has to do.
struct Ledger<'a> {
    kind: &'a str,
    seed: u64,
    messages: u64,
    kills: u64,
    power_cuts: u64,
    alarms: u64,
}

fn side_by_side(kind: &str, number: u64, keep: impl Fn(&Ledger) + Sync) {
    let ledgers = setting("WQ_SOAK_LEDGERS", 1);
    let seed = setting("WQ_SOAK_SEED", 20_261_122) + number;
    let share = |name, default| setting(name, default).div_ceil(ledgers);
    std::thread::scope(|scope| {
        for each in 0..ledgers {
            let ledger = Ledger {
                kind,
                // The kinds of queue have the next numbers.
                seed: seed + 10 * each,
                messages: share("WQ_SOAK_MESSAGES", 60),
                kills: share("WQ_SOAK_KILLS", 18),
                power_cuts: share("WQ_SOAK_BROKER_KILLS", 1),
                alarms: share("WQ_SOAK_ALARMS", 1),
            };
            let keep = &keep;
            scope.spawn(move || keep(&ledger));
        }
    });
}

/// A server that can be killed.
#[derive(Clone, Copy)]
enum Server<'a> {
    RabbitMq(&'a RabbitMq),
    Redis(&'a Redis),
}

impl Server<'_> {
    fn cut_power(self) {
        match self {
            Server::RabbitMq(rabbitmq) => rabbitmq.cut_power(),
            Server::Redis(redis) => redis.kill(),
        }
    }

    fn restart(self) {
        match self {
            Server::RabbitMq(rabbitmq) => rabbitmq.restart(),
            Server::Redis(redis) => redis.restart(),
        }
    }

    /// Whether an acknowledgement that a worker logs may not have been written down.
    fn forgets(self) -> bool {
        matches!(self, Server::RabbitMq(_))
    }
}

impl Ledger<'_> {
    fn balance(&self, queue: Queue) {
        let Ledger { seed, kills, .. } = *self;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut books = Books::new(&queue, seed);
        let (server, rabbitmq) = match queue.broker {
            Broker::Quorum(rabbitmq) | Broker::Classic(rabbitmq) => (Some(Server::RabbitMq(rabbitmq)), Some(rabbitmq)),
            Broker::Redis(redis) => (Some(Server::Redis(redis)), None),
            Broker::Sqlite(_) | Broker::Sqs(_) | Broker::SqsFifo(_) => (None, None),
        };
        // Made now, so that a broker that dies can't forget it: see `RabbitMq::sync`.
        run(queue.command(&["queue", "declare"]).env("QUEUE", queue.dead_letter_queue())).exits(0);
        books.publish(self.messages, &mut random);

        let (mut power_cuts, mut alarms, mut runs) = (0, 0, 0);
        while books.kills() < kills && runs < 3 * kills {
            runs += 1;
            // Spread over the kills, the first of them halfway to where the second one is.
            let is_due = |done: u64, all: u64| done < all && 2 * books.kills() * all >= (2 * done + 1) * kills;
            let (cut, alarm) = (is_due(power_cuts, self.power_cuts), is_due(alarms, self.alarms));
            if let Some(server) = server.filter(|_| cut) {
                power_cuts += 1;
                // Enough for as long as it lives.
                books.publish(60, &mut random);
                books.cut_power(server, &mut random);
            }
            if let Some(rabbitmq) = rabbitmq.filter(|_| alarm) {
                alarms += 1;
                books.work_under_an_alarm(rabbitmq, &mut random);
            }
            books.work_until_killed(&mut random);
        }
        // The faults stop: the queue empties, once the leases of the dead are over.
        match rabbitmq {
            Some(rabbitmq) => books.drain_under_an_alarm(rabbitmq, &mut random),
            None => books.drain(),
        }
        books.close(self.kind);
    }
}

struct Books<'a> {
    queue: &'a Queue<'a>,
    seed: u64,
    published: BTreeSet<String>,
    results: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
    may_repeat: u64,
    /// Printed by a worker that exited with 0.
    finished: BTreeSet<String>,
    /// Such, before the broker lost its power: it may not have written the acknowledgement down.
    finished_before: BTreeSet<String>,
    after_success: u64,
    forgotten: u64,
    /// By id: faults that struck while the message was with their worker.
    hits: BTreeMap<String, u64>,
    unseen_hits: u64,
    /// Messages that came to a worker that was about to end, on a broker that counts that.
    too_late: u64,
    /// By id: the highest number of an attempt.
    attempts: BTreeMap<String, u64>,
    resumed: u64,
    /// Alarms that made a worker wait.
    felt: u64,
    /// Where results go that are not printed, on brokers that raise alarms.
    results_queue: Option<String>,
}

/// More than an alarm of these tests lasts, so that it is waited for.
const PATIENT: [&str; 2] = ["--publish-timeout", "60s"];

/// What a worker says that the broker holds up.
const HELD_UP: &str = "the broker takes no messages at the moment";

/// A message with the hash of what it says.
fn message(text: &str) -> String {
    format!("{text} {}", HEXLOWER.encode(&Sha256::digest(text)))
}

fn is_whole(line: &str) -> bool {
    line.rsplit_once(' ').is_some_and(|(text, _)| message(text) == line)
}

/// What a worker's log tells: the attempt of each message that it took, and which of them it settled.
fn log_of(stderr: &str) -> (Vec<(String, u64)>, BTreeSet<String>) {
    let (mut taken, mut settled) = (Vec::new(), BTreeSet::new());
    for line in stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(id) = line["span"]["message.id"].as_str() else { continue };
        if line["message"] == "taken" {
            taken.push((id.to_owned(), line["span"]["attempt"].as_u64().expect("a number")));
        } else if matches!(line["settlement"].as_str(), Some(settlement) if settlement != "unsettled") {
            settled.insert(id.to_owned());
        }
    }
    (taken, settled)
}

/// The messages that came to a worker when it was about to end.
fn too_late(stderr: &str) -> Vec<String> {
    let lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["message"] == "came too late; giving it back")
        .filter_map(|line| Some(line["span"]["message.id"].as_str()?.to_owned()))
        .collect()
}

impl<'a> Books<'a> {
    fn new(queue: &'a Queue<'a>, seed: u64) -> Books<'a> {
        Books {
            queue,
            seed,
            published: BTreeSet::new(),
            results: BTreeMap::new(),
            faults: BTreeMap::new(),
            may_repeat: 0,
            finished: BTreeSet::new(),
            finished_before: BTreeSet::new(),
            after_success: 0,
            forgotten: 0,
            hits: BTreeMap::new(),
            unseen_hits: 0,
            too_late: 0,
            attempts: BTreeMap::new(),
            resumed: 0,
            felt: 0,
            results_queue: matches!(queue.broker, Broker::Quorum(_) | Broker::Classic(_))
                .then(|| queue.beside("results")),
        }
    }

    fn publish(&mut self, count: u64, random: &mut fastrand::Rng) {
        let first = self.published.len() as u64;
        // A line each, so that the results can be told apart in one stream; of any length up to a kilobyte.
        let lines: Vec<String> = (first..first + count)
            .map(|number| message(&format!("message {number} of {} {}", self.seed, "=".repeat(random.usize(..1000)))))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        run(self.queue.command(&["publish", "--lines"]).arg(file.path())).exits(0);
        self.published.extend(lines);
    }

    fn work(&self, flags: &[&str]) -> std::process::Command {
        let mut command = self.queue.command(&["work", &guest("line")]);
        command.args(flags).env("RUST_LOG", "info,wq_run=debug");
        command
    }

    fn kills(&self) -> u64 {
        let of_brokers = ["power cut", "alarm"];
        self.faults.iter().filter(|(name, _)| !of_brokers.contains(name)).map(|(_, count)| count).sum()
    }

    /// A worker that is killed at a point, and at a message, that the seed gives. One in four ends in peace: its messages must
    /// not be the worse for it.
    fn work_until_killed(&mut self, random: &mut fastrand::Rng) {
        let point = &POINTS[random.usize(..POINTS.len())];
        let count = if point.every_message { random.u64(1..=3) } else { 1 };
        let mut command = self.work(&["--count", "4", "--wait", "1s", "--concurrency", "2"]);
        if random.u8(..4) > 0 {
            command.env("WQ_FAULT", format!("{}@{count}:kill", point.name));
        }
        let ended = run(&mut command);
        match ended.code {
            // By SIGABRT: the fault struck.
            None => self.killed(&ended, point),
            // In peace, or the queue was empty before the fault could strike.
            Some(0) => self.succeeded(&ended),
            // A message was put aside, which has to be explained below.
            Some(65) => self.take(&ended),
            other => panic!("exit {other:?}, seed {}:\n{}", self.seed, ended.stderr),
        }
    }

    /// A worker whose results go to the broker, while that raises an alarm, at a moment that the seed gives: before the worker
    /// starts, while it connects, or among its messages. One in three is killed under the alarm.
    fn work_under_an_alarm(&mut self, rabbitmq: &RabbitMq, random: &mut fastrand::Rng) {
        const MESSAGES: u64 = 40;
        let mut moment = || Duration::from_millis(random.u64(..1500));
        let (start_after, lift_after) = (moment(), moment());
        let kill = random.u8(..3) == 0;
        self.publish(MESSAGES, random);
        let mut command = self.work_into_a_queue(&["--count", &MESSAGES.to_string(), "--wait", "10s"]);
        let ended = std::thread::scope(|scope| {
            let raising = scope.spawn(|| rabbitmq.raise_alarm());
            std::thread::sleep(start_after);
            let worker = start(&mut command);
            raising.join().expect("the alarm is raised");
            std::thread::sleep(lift_after);
            if kill {
                worker.signal("KILL");
            }
            rabbitmq.lift_alarm();
            worker.end()
        });
        self.alarmed(&ended);
        match ended.code {
            None if kill => {
                *self.faults.entry("under an alarm").or_default() += 1;
                // Sent, and read by the broker when the alarm was over.
                self.may_repeat += 4;
                self.unseen_hits += 2;
                self.hit(&ended.stderr);
            }
            Some(0 | 65) => {}
            other => panic!("exit {other:?}, seed {}:\n{}", self.seed, ended.stderr),
        }
    }

    /// The last drain, under an alarm from its start: it waits for the end of the alarm, and then for that of the queue.
    fn drain_under_an_alarm(&mut self, rabbitmq: &RabbitMq, random: &mut fastrand::Rng) {
        self.publish(10, random);
        rabbitmq.raise_alarm();
        let mut worker = start(&mut self.work_into_a_queue(&["--drain", "--wait", "16s"]));
        worker.wait_for(HELD_UP);
        rabbitmq.lift_alarm();
        let ended = worker.end();
        assert!(matches!(ended.code, Some(0 | 65)), "exit {:?}, seed {}:\n{}", ended.code, self.seed, ended.stderr);
        self.alarmed(&ended);
    }

    fn drain(&mut self) {
        let draining = start(&mut self.work(&["--drain", "--wait", "16s", "--concurrency", "2"]));
        // The lease of the last dead worker, and then as many messages as a long soak leaves: in one group of a FIFO queue, one by one.
        let ended = draining.end_within(10 * PATIENCE);
        assert!(matches!(ended.code, Some(0 | 65)), "exit {:?}, seed {}:\n{}", ended.code, self.seed, ended.stderr);
        self.take(&ended);
    }

    fn work_into_a_queue(&self, flags: &[&str]) -> std::process::Command {
        let results = self.results_queue.as_ref().expect("the broker has one");
        let mut command = self.work(flags);
        command.args(PATIENT).args(["--concurrency", "2", "--result", &format!("queue:{results}")]);
        command
    }

    fn alarmed(&mut self, ended: &Run) {
        *self.faults.entry("alarm").or_default() += 1;
        self.felt += u64::from(ended.stderr.contains(HELD_UP));
        self.take(ended);
    }

    /// Books what a worker printed and logged.
    fn take(&mut self, run: &Run) {
        for line in run.out().lines() {
            *self.results.entry(line.to_owned()).or_default() += 1;
            if self.finished.contains(line) {
                self.after_success += 1;
            } else if self.finished_before.contains(line) {
                self.forgotten += 1;
            }
        }
        for (id, attempt) in log_of(&run.stderr).0 {
            let highest = self.attempts.entry(id).or_default();
            *highest = attempt.max(*highest);
        }
        if !self.queue.can().release_uncounted {
            for id in too_late(&run.stderr) {
                self.too_late += 1;
                *self.hits.entry(id).or_default() += 1;
            }
        }
    }

    fn killed(&mut self, run: &Run, point: &Point) {
        self.take(run);
        *self.faults.entry(point.name).or_default() += 1;
        self.may_repeat += point.repeats;
        self.unseen_hits += point.unseen;
        // A request for messages that a dead worker has left at the broker may still be answered, where hand-overs are counted.
        self.unseen_hits += u64::from(!self.queue.can().release_uncounted && point.unseen > 0);
        self.hit(&run.stderr);
    }

    /// Counts a hit for each message that this log shows as taken and not settled.
    fn hit(&mut self, log: &str) {
        let (taken, settled) = log_of(log);
        for (id, _) in taken.into_iter().filter(|(id, _)| !settled.contains(id)) {
            *self.hits.entry(id).or_default() += 1;
        }
    }

    fn succeeded(&mut self, run: &Run) {
        self.take(run);
        // No false success: what it has printed never comes again.
        self.finished.extend(run.out().lines().map(str::to_owned));
    }

    /// Kills the broker under a service, at a moment that the seed gives.
    fn cut_power(&mut self, server: Server, random: &mut fastrand::Rng) {
        if let Server::RabbitMq(rabbitmq) = server {
            rabbitmq.sync();
        }
        let mut service = start(&mut self.work(&["--forever", "--concurrency", "2"]));
        for _ in 0..random.u32(1..=12) {
            service.wait_for("\"settlement\":\"ack\"");
        }
        server.cut_power();
        service.wait_for("the broker is not available; trying again");
        let before = service.seen().to_owned();
        self.may_repeat += 2;
        if server.forgets() {
            // Sent, and maybe not written down.
            self.may_repeat += log_of(&before).1.len() as u64;
            self.finished_before.append(&mut self.finished);
        }
        self.hit(&before);
        self.unseen_hits += 2;
        *self.faults.entry("power cut").or_default() += 1;
        server.restart();
        service.wait_for("\"settlement\":\"ack\"");
        self.resumed += 1;
        service.signal("TERM");
        let ended = service.end();
        assert_eq!(ended.code, Some(0), "seed {}:\n{}", self.seed, ended.stderr);
        self.take(&ended);
    }

    fn close(mut self, kind: &str) {
        let seed = self.seed;
        if let Some(results) = &self.results_queue {
            let got =
                run(self.queue.command(&["queue", "get", "--all", "--on-empty", "success"]).env("QUEUE", results));
            for line in got.exits(0).out().lines() {
                *self.results.entry(line.to_owned()).or_default() += 1;
            }
        }
        // Messages that too many killed workers had taken: put aside, and not lost.
        let mut dead: BTreeMap<String, u64> = BTreeMap::new();
        while self.queue.dead_depth() > 0 {
            let letter = String::from_utf8(self.queue.take_dead().body).expect("it is one of ours");
            *dead.entry(letter).or_default() += 1;
        }
        let left = self.queue.depth();
        let accounted: BTreeSet<String> = self.results.keys().chain(dead.keys()).cloned().collect();
        let lost: Vec<_> = self.published.difference(&accounted).collect();
        let broken: Vec<_> = accounted.iter().filter(|line| !is_whole(line)).collect();
        let phantoms: Vec<_> = accounted.difference(&self.published).filter(|line| is_whole(line)).collect();
        // A worker can also die after it has put a message aside, or after its result was written the last time.
        let ends: u64 = self.results.values().chain(dead.values()).sum();
        let duplicates = ends - accounted.len() as u64;
        let hits = |id: &String| self.hits.get(id).copied().unwrap_or_default();
        let unexplained: u64 = self.attempts.iter().map(|(id, attempt)| (attempt - 1).saturating_sub(hits(id))).sum();
        let counted: u64 = self.attempts.values().map(|attempt| attempt - 1).sum();
        let struck: u64 = self.faults.values().sum();
        let of = |fault| self.faults.get(fault).copied().unwrap_or_default();
        let (cuts, alarms) = (of("power cut"), of("alarm"));
        println!(
            "{kind}: seed {seed}, {struck} faults {:?}\n  \
             P {} published, R {} results, D {} put aside, Q {left} left\n  \
             I1 {} lost; with 0 of {struck}, fewer than {:.2} % of such faults lose a message (95 % confidence)\n  \
             I2 {} never published; I3 {} not whole\n  \
             I4 {duplicates} duplicates of {} that the faults explain, {} of them forgotten by a broker\n  \
             I5 {} again after {} in runs with exit 0\n  \
             I6 {counted} attempts counted for faults; {unexplained} of them not seen to be hit, {} explained; {} came too late\n  \
             I7 {} of {cuts} services went on after their broker was back; {alarms} alarms, which {} workers felt",
            self.faults,
            self.published.len(),
            self.results.values().sum::<u64>(),
            dead.values().sum::<u64>(),
            lost.len(),
            300.0 / struck as f64,
            phantoms.len(),
            broken.len(),
            self.may_repeat + self.forgotten,
            self.forgotten,
            self.after_success,
            self.finished.len() + self.finished_before.len(),
            self.unseen_hits,
            self.too_late,
            self.resumed,
            self.felt,
        );
        assert!(lost.is_empty(), "I1, seed {seed}: {lost:?}");
        assert!(phantoms.is_empty(), "I2, seed {seed}: {phantoms:?}");
        assert!(broken.is_empty(), "I3, seed {seed}: {broken:?}");
        assert!(duplicates <= self.may_repeat + self.forgotten, "I4, seed {seed}: {duplicates} of {}", self.may_repeat);
        assert_eq!(self.after_success, 0, "I5, seed {seed}");
        assert!(unexplained <= self.unseen_hits, "I6, seed {seed}: {unexplained} of {}", self.unseen_hits);
        let counted_against = 2 * struck + self.too_late;
        assert!(
            dead.len() as u64 * 3 <= counted_against,
            "I6, seed {seed}: {} put aside of {struck} faults",
            dead.len()
        );
        assert_eq!(self.resumed, cuts, "I7, seed {seed}");
        assert!(self.felt > 0 || alarms == 0, "I7, seed {seed}: no worker felt an alarm");
        assert_eq!(left, 0, "I7, seed {seed}");
    }
}
