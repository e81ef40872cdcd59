//! What is run against the double.

use std::time::{Duration, Instant};

use super::books::{Books, Message};
use super::fault::{Case, Place};
use super::{Double, judge};
use crate::harness::{Run, Running, guest, start, within, wq_run};

/// How long a run may take. No single wait in the program is longer than 30 s.
const LONGEST: Duration = Duration::from_secs(75);

/// The same in a sample, which then has it stopped and judges the rest.
const LONGEST_IN_A_SAMPLE: Duration = Duration::from_secs(8);

/// A service that has nothing more to do, or can't get on, is stopped after this at the latest.
const SERVICE_TIME: Duration = Duration::from_secs(10);

/// Beyond `--shutdown-timeout`: the few seconds of the last resort, and a machine that has other things to do.
const AFTER_SIGTERM: Duration = Duration::from_secs(12);

pub const QUEUE: &str = "q";
pub const RESULTS: &str = "results";

/// Short, so that a case takes seconds; each longer than `LATE`.
const LIMITS: [&str; 12] = [
    "--publish-timeout",
    "2s",
    "--connect-timeout",
    "3s",
    "--reconnect-timeout",
    "4s",
    "--shutdown-timeout",
    "1s",
    "--timeout",
    "10s",
    "--backoff-initial",
    "100ms",
];

/// For a run whose broker does nothing wrong. A busy machine adds its own seconds to an answer that is late, and that is no fault
/// of the program's.
const WIDE_LIMITS: [&str; 12] = [
    "--publish-timeout",
    "30s",
    "--connect-timeout",
    "30s",
    "--reconnect-timeout",
    "30s",
    "--shutdown-timeout",
    "8s",
    "--timeout",
    "30s",
    "--backoff-initial",
    "100ms",
];

pub struct Scenario {
    pub name: &'static str,
    args: &'static [&'static str],
    pub kind: Kind,
    /// What is in the queue at the start.
    pub messages: &'static [&'static str],
    /// The exit status where nothing goes wrong.
    pub clean: i32,
    /// Statuses that the guests lead to, in whichever order things happen.
    pub own: &'static [i32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Once,
    Drain,
    Service,
    Publish,
    Get,
    Purge,
    Status,
    Declare,
}

/// By `obey.wat` a message that begins with `f` fails, one with `d` is a dead letter, and any other is echoed.
pub const SCENARIOS: [Scenario; 16] = [
    Scenario { name: "once", args: &["obey"], kind: Kind::Once, messages: &["a1"], clean: 0, own: &[] },
    Scenario {
        name: "count",
        args: &["obey", "--count", "2", "--concurrency", "2"],
        kind: Kind::Once,
        messages: &["a1", "a2", "a3"],
        clean: 0,
        own: &[],
    },
    Scenario {
        name: "count into a queue",
        args: &["obey", "--count", "2", "--result", "queue:results"],
        kind: Kind::Once,
        messages: &["a1", "a2"],
        clean: 0,
        own: &[],
    },
    Scenario {
        name: "once into an exchange",
        args: &["obey", "--result", "exchange:ex/key"],
        kind: Kind::Once,
        messages: &["a1"],
        clean: 0,
        own: &[],
    },
    Scenario {
        name: "drain",
        args: &["obey", "--drain", "--wait", "0", "--concurrency", "2", "--prefetch", "8"],
        kind: Kind::Drain,
        messages: &["a1", "a2", "a3", "a4", "a5"],
        clean: 0,
        own: &[],
    },
    Scenario {
        name: "drain into a queue",
        args: &["obey", "--drain", "--concurrency", "2", "--result", "queue:results"],
        kind: Kind::Drain,
        messages: &["a1", "a2", "a3"],
        clean: 0,
        own: &[],
    },
    Scenario { name: "retry once", args: &["obey"], kind: Kind::Once, messages: &["f1"], clean: 75, own: &[75] },
    Scenario { name: "dead letter once", args: &["obey"], kind: Kind::Once, messages: &["d1"], clean: 65, own: &[65] },
    Scenario { name: "release once", args: &["release"], kind: Kind::Once, messages: &["r1"], clean: 75, own: &[75] },
    Scenario {
        name: "drain with retries and dead letters",
        args: &["obey", "--drain", "--concurrency", "2", "--max-attempts", "2"],
        kind: Kind::Drain,
        messages: &["f1", "a1", "d1", "f2"],
        clean: 65,
        own: &[65],
    },
    Scenario {
        name: "service",
        args: &["obey", "--forever", "--concurrency", "2"],
        kind: Kind::Service,
        messages: &["a1", "f1", "a2", "d1"],
        clean: 0,
        own: &[],
    },
    Scenario {
        name: "publish",
        args: &["publish", "a1", "a2"],
        kind: Kind::Publish,
        messages: &[],
        clean: 0,
        own: &[],
    },
    Scenario {
        name: "get",
        args: &["queue", "get", "--all"],
        kind: Kind::Get,
        messages: &["a1", "a2"],
        clean: 0,
        own: &[79],
    },
    Scenario {
        name: "purge",
        args: &["queue", "purge"],
        kind: Kind::Purge,
        messages: &["a1", "a2"],
        clean: 0,
        own: &[],
    },
    Scenario { name: "status", args: &["queue", "status"], kind: Kind::Status, messages: &["a1"], clean: 0, own: &[] },
    Scenario { name: "declare", args: &["queue", "declare"], kind: Kind::Declare, messages: &[], clean: 0, own: &[] },
];

/// A case that is over.
pub struct Ended {
    pub run: Run,
    pub books: Books,
    /// It had to be stopped, since it did not end by itself.
    pub hung: bool,
    /// SIGTERM was sent.
    pub stopped: bool,
    pub took: Duration,
}

/// A rule that a case breaks, and what the program said.
pub struct Failure {
    pub what: String,
    pub said: String,
}

impl Scenario {
    pub fn can_be_stopped(&self) -> bool {
        matches!(self.kind, Kind::Once | Kind::Drain)
    }

    pub fn works(&self) -> bool {
        matches!(self.kind, Kind::Once | Kind::Drain | Kind::Service)
    }

    /// What the broker sends where nothing goes wrong.
    pub fn clean_run(&self) -> Vec<Place> {
        let ended = self.run(None, LONGEST).unwrap_or_else(|failure| {
            panic!("{}\n{} without a fault: {}", failure.said, self.name, failure.what);
        });
        if let Err(what) = judge::judge(self, None, &ended) {
            panic!("{}\n{} without a fault: {what}", ended.run.stderr, self.name);
        }
        ended.books.sent
    }

    pub fn try_case(&self, case: &Case, patiently: bool) -> Result<(), Failure> {
        // A command can't be told how long to be patient, and makes a dozen requests, each of which may be answered late.
        let patience = if patiently || !self.works() { LONGEST } else { LONGEST_IN_A_SAMPLE };
        let ended = self.run(Some(case.clone()), patience)?;
        judge::judge(self, Some((case, patiently)), &ended).map_err(|what| {
            let said = format!("stdout: {:?}\nstderr:\n{}", ended.run.out(), ended.run.stderr);
            Failure { what, said }
        })
    }

    fn run(&self, case: Option<Case>, patience: Duration) -> Result<Ended, Failure> {
        let stops = case.as_ref().is_some_and(|case| case.stop);
        let (limits, url) = if judge::is_undisturbed(case.as_ref()) {
            (WIDE_LIMITS, "heartbeat=30&connection_timeout=30000")
        } else {
            (LIMITS, "heartbeat=3&connection_timeout=2000")
        };
        let double = Double::start(self.books(), case);
        let mut command = if self.works() {
            let mut command = wq_run(&["work"]);
            command.arg(guest(self.args[0])).args(limits);
            command.args(&self.args[1..]);
            if self.kind != Kind::Service {
                // As a variable, so that a `--wait` in the scenario takes precedence.
                command.env("WQ_WAIT", "2s");
            }
            command
        } else {
            wq_run(self.args)
        };
        command.env("QUEUE", QUEUE);
        command.env("BROKER_URL", format!("amqp://127.0.0.1:{}?{url}", double.port));
        let began = Instant::now();
        let mut running = start(&mut command);
        let mut hung = false;
        let mut stopped = false;
        while running.is_running() {
            let (done, struck) = {
                let books = double.world.books();
                (books.is_done(QUEUE), books.struck)
            };
            let soon = struck.is_some_and(|at| at.elapsed() > Duration::from_millis(300));
            let served = began.elapsed() > SERVICE_TIME || done && began.elapsed() > Duration::from_secs(2);
            hung = began.elapsed() > patience;
            if hung || stops && soon || self.kind == Kind::Service && served {
                if self.works() {
                    running.signal("TERM");
                    stopped = true;
                }
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let run = end(running, if stopped || !hung { AFTER_SIGTERM } else { Duration::from_secs(1) })?;
        let took = began.elapsed();
        // The double sees the end of the process at the end of its connections, and takes back what was with it.
        within(AFTER_SIGTERM, "the double has seen the end", || (double.world.books().connections == 0).then_some(()));
        let books = std::mem::take(&mut *double.world.books());
        Ok(Ended { run, books, hung, stopped, took })
    }

    fn books(&self) -> Books {
        let mut books = Books::default();
        if self.kind != Kind::Declare {
            books.declare(QUEUE, &Default::default());
        }
        books.declare(RESULTS, &Default::default());
        books.exchanges.insert("ex".into(), RESULTS.into());
        for body in self.messages {
            books.queues.get_mut(QUEUE).expect("declared").ready.push_back(Message::new(body));
        }
        books
    }
}

/// Waits for the end, with a bound, without a panic.
fn end(mut running: Running, patience: Duration) -> Result<Run, Failure> {
    let until = Instant::now() + patience;
    while running.is_running() {
        if Instant::now() > until {
            running.signal("KILL");
            let said = running.end().stderr;
            return Err(Failure { what: format!("did not end within {patience:?} when it had to"), said });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(running.end())
}
