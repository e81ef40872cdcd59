//! A test double of a broker that fails on command, in every place of the protocol and in every way.
//!
//! The double is a small broker that speaks AMQP 0-9-1 and is correct but for one fault. A first run without a fault shows
//! which frames the broker sends in a scenario; each of them is a place. The cases are the product of the places and the
//! faults that make sense there. Each case is judged by the same rules, whatever the fault is:
//!
//! - The program ends by itself within a bound, or goes on trying where it has reason to; and it ends at SIGTERM within
//!   `--shutdown-timeout` and some seconds.
//! - It does not run in a tight loop against a broker that always fails.
//! - It ends with an exit status of the contract: no panic, no signal, no 70.
//! - Nothing is lost: a message that the double no longer has was acknowledged, and its result was recorded.
//! - No delivery is settled twice, and nothing is settled that was never delivered.
//! - What the program says of its success is true by the double's books.
//!
//! `make test` runs a random sample for a minute and prints its seed. `WQ_DOUBLE=SECONDS` makes it longer, `WQ_DOUBLE_SEED`
//! chooses another one, `WQ_DOUBLE=all` runs the whole product, and `WQ_DOUBLE=TEXT` all cases whose names hold the text.

mod books;
mod connection;
mod fault;
mod judge;
mod scenario;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::books::Books;
use self::connection::Connection;
use self::fault::Case;
use self::scenario::{SCENARIOS, Scenario};

/// Cases that run side by side: they wait most of the time.
const AT_A_TIME: usize = 16;

/// After so many seconds the sample of `make test` begins no more cases.
const SAMPLE_SECONDS: u64 = 60;

/// How many frames of one name are tried in each scenario: a third message would be handled like the second.
const OF_A_KIND: u32 = 2;

/// Cases that once failed. Every sample begins with them.
const FOUND: [&str; 10] = [
    "once: takes/basic.deliver.body#1 Mute once stopped",
    "once: takes/basic.cancel-ok#1 Swallow once stopped",
    "drain: takes/queue.declare-ok#1 Swallow once stopped",
    "retry once: puts aside/channel.open-ok#1 Swallow once stopped",
    "drain with retries and dead letters: puts aside/connection.open-ok#1 Twice once",
    "service: puts aside/basic.ack#1 Twice always",
    "get: queue/basic.get-ok.body#1 Cut(999) once",
    "drain into a queue: results of/basic.ack#2 CloseConnection(406) once",
    "once into an exchange: results of/basic.ack#1 Corrupt(Huge) once",
    "count into a queue: takes/basic.deliver#1 LoseAck once",
];

/// A broker on a port of its own, until it is dropped.
struct Double {
    world: Arc<World>,
    port: u16,
    listener: Option<JoinHandle<()>>,
}

/// What the connections of a double share.
struct World {
    books: Mutex<Books>,
    case: Option<Case>,
    stop: AtomicBool,
}

impl World {
    fn books(&self) -> MutexGuard<'_, Books> {
        // A connection that panics has failed its case already, and the books are whole.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Double {
    fn start(books: Books, case: Option<Case>) -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        listener.set_nonblocking(true).expect("it is a socket");
        let world = Arc::new(World { books: Mutex::new(books), case, stop: AtomicBool::new(false) });
        let accepting = world.clone();
        let listener = std::thread::spawn(move || {
            while !accepting.stopped() {
                let Ok((socket, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                {
                    let mut books = accepting.books();
                    books.connections += 1;
                    books.opened += 1;
                }
                let world = accepting.clone();
                std::thread::spawn(move || {
                    let served = std::panic::catch_unwind(|| Connection::serve(world.clone(), socket));
                    let mut books = world.books();
                    books.connections -= 1;
                    if served.is_err() {
                        books.breaches.push("the double itself panicked".into());
                    }
                });
            }
        });
        Double { world, port, listener: Some(listener) }
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.world.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Every case of every scenario, with the scenario's name.
fn product() -> Vec<(&'static Scenario, Case)> {
    let mut cases = Vec::new();
    for scenario in &SCENARIOS {
        let sent = scenario.clean_run();
        let places: BTreeSet<_> = sent.into_iter().filter(|place| place.nth <= OF_A_KIND).collect();
        for place in places {
            let of_place = Case::all_at(&place, scenario.can_be_stopped());
            cases.extend(of_place.into_iter().map(|case| (scenario, case)));
        }
    }
    cases
}

#[test]
fn whatever_a_broker_does_nothing_is_lost_and_the_program_ends_in_time() {
    let mut cases = product();
    let wanted = std::env::var("WQ_DOUBLE").ok();
    let seed = std::env::var("WQ_DOUBLE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    fastrand::Rng::with_seed(seed).shuffle(&mut cases);
    let name = |scenario: &Scenario, case: &Case| format!("{}: {case}", scenario.name);
    let seconds = wanted.as_deref().map_or(Some(SAMPLE_SECONDS), |wanted| wanted.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    if until.is_some() {
        // A command has no flags for its patience, which is longer than a sample is.
        cases.retain(|(scenario, case)| scenario.works() || !case.fault.keeps_waiting());
        for found in FOUND {
            assert!(cases.iter().any(|(scenario, case)| name(scenario, case) == found), "there is no case {found}");
        }
        cases.sort_by_key(|(scenario, case)| !FOUND.contains(&name(scenario, case).as_str()));
    } else if let Some(text) = wanted.filter(|wanted| wanted != "all") {
        cases.retain(|(scenario, case)| name(scenario, case).contains(&text));
    }
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while until.is_none_or(|until| Instant::now() < until) {
                    let Some((scenario, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    if let Err(failure) = scenario.try_case(case, until.is_none()) {
                        let what = format!("{}: {}", name(scenario, case), failure.what);
                        println!("FAILED {what}\n{}\n", failure.said);
                        failures.lock().expect("nobody panics with it").push(what);
                    }
                }
            });
        }
    });
    let tried = next.load(Ordering::Relaxed).min(cases.len());
    let failures = failures.into_inner().expect("nobody panics with it");
    println!("the double: seed {seed}, {tried} of {} cases, {} failures", cases.len(), failures.len());
    assert!(tried > 0, "no case has such a name");
    assert!(failures.is_empty(), "seed {seed}: {} of {tried} cases failed:\n{}", failures.len(), failures.join("\n"));
}
