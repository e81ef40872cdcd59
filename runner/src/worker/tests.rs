//! Tests of the loop's decisions, driven by events in any order.

mod breaking;
mod reports;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::breaker::{Culprit, Sign};
use super::*;
use crate::broker;
use crate::broker::fake::{Bookkeeper, Fake};
use crate::observe::trace::Span;
use crate::observe::{Counts, Ended, Guest, Observer, Served, Settled};
use crate::sandbox::{self, Bounds, Compilation, Isolation, Keep, Loading, Sandbox, Wall};
use crate::settle::{Backoff, ExitMap, Policy};
use crate::shutdown::Signal;
use crate::sink::Sinks;
use crate::sink::memory::Memory;
use crate::task::{Failure, Refused, Settlement, Usage};

/// What happens to the worker, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Deliver,
    /// One of the runs ends, in one of these ways.
    Finish(usize, End),
    Depth(u64, u64),
    ProbeDue,
    TryDue,
    Signal,
    SecondSignal,
    Lost,
    Established,
    BrokerFails,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Ack,
    Retry,
    DeadLetter,
    Release,
    /// The settlement did not arrive.
    NotSettled,
    /// The dead letter could not be published.
    Refused,
    HostFault,
    Panic,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop::sample::select(vec![
        End::Ack,
        End::Ack,
        End::Ack,
        End::Retry,
        End::DeadLetter,
        End::Release,
        End::NotSettled,
        End::Refused,
        End::HostFault,
        End::Panic,
    ]);
    prop_oneof![
        8 => Just(Step::Deliver),
        8 => (any::<usize>(), end).prop_map(|(which, end)| Step::Finish(which, end)),
        2 => (0u64..3, 0u64..2).prop_map(|(ready, delayed)| Step::Depth(ready, delayed)),
        2 => Just(Step::ProbeDue),
        2 => Just(Step::TryDue),
        1 => Just(Step::Established),
        1 => Just(Step::Lost),
        1 => Just(Step::Signal),
        1 => Just(Step::SecondSignal),
        1 => Just(Step::BrokerFails),
    ]
}

fn options(mode: Mode, wait: Duration, concurrency: usize) -> Options {
    let (max_message, result_content_type) = (1 << 20, None);
    Options {
        mode,
        wait: Some(wait),
        concurrency,
        prefetch: concurrency,
        breaker: breaker::Options::never(),
        releases_count: false,
        max_message,
        result_content_type,
        metadata: false,
        decode: false,
        quiet: false,
    }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![(1u64..6).prop_map(Mode::Count), Just(Mode::Drain), Just(Mode::Forever)]
}

/// The worker's surroundings: what it is handed, what it runs, and what it has been told to do.
struct World {
    state: State,
    broker: Fake,
    running: Vec<Job>,
    ended: Recorder,
    delivered: u64,
    /// How each delivery was settled, once.
    settled: BTreeMap<u64, &'static str>,
    cancelled: bool,
    /// How many messages are asked for, at the last word.
    wanted: u64,
    started: u64,
    now: Instant,
}

impl World {
    fn new(mode: Mode, concurrency: usize) -> World {
        World::with(options(mode, Duration::from_secs(1), concurrency))
    }

    fn with(options: Options) -> World {
        let ended = Recorder::default();
        World {
            state: State::new(&options, ended.observers()),
            ended,
            broker: Fake::new(),
            running: Vec::new(),
            delivered: 0,
            settled: BTreeMap::new(),
            cancelled: false,
            wanted: u64::MAX,
            started: 0,
            now: Instant::now(),
        }
    }

    fn on(&mut self, event: Event) {
        self.now += Duration::from_millis(10);
        for act in self.state.on(event, self.now) {
            match act {
                Act::Start(job) => {
                    self.running.push(job);
                    self.started += 1;
                }
                Act::Cancel => {
                    assert!(!self.cancelled, "cancelled twice");
                    self.cancelled = true;
                }
                Act::GiveBack(deliveries) => {
                    let is_filled = !self.cancelled && self.wanted > 0;
                    assert!(deliveries.is_empty() || !is_filled, "given back while the broker still fills up");
                    drop(deliveries);
                }
                Act::Want => self.wanted = self.state.wanted(),
                Act::Withdraw | Act::Probe | Act::Abort => {}
            }
        }
        self.look();
    }

    /// What must be so after every event.
    fn look(&mut self) {
        for (number, how) in self.broker.settled() {
            let before = self.settled.insert(number, how);
            assert_eq!(before, None, "delivery {number} settled twice");
        }
        assert!(self.running.len() <= self.state.places, "more runs than places");
        assert_eq!(self.running.len(), self.state.running);
        if let Mode::Count(count) = self.state.mode {
            assert!(self.started <= count, "more messages than were asked for");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Deliver => {
                self.delivered += 1;
                self.wanted -= u64::from((1..u64::MAX).contains(&self.wanted));
                let delivery = self.broker.deliver(self.delivered);
                self.on(Event::Notice(Notice::Delivery(delivery)));
            }
            Step::Finish(which, end) => {
                if !self.running.is_empty() {
                    let job = self.running.swap_remove(which % self.running.len());
                    self.finish(job, end);
                }
            }
            Step::Depth(ready, delayed) => self.on(Event::Notice(Notice::Depth(Depth { ready, delayed, missing: 0 }))),
            Step::ProbeDue => self.on(Event::ProbeDue),
            Step::TryDue => {
                if let Some(due) = self.state.try_at() {
                    self.now = self.now.max(due);
                    self.on(Event::TryDue);
                }
            }
            Step::Signal => self.on(Event::Phase(Phase::Draining(Signal::Terminate))),
            Step::SecondSignal => self.on(Event::Phase(Phase::Aborting(Signal::Terminate))),
            Step::Lost => self.on(Event::Notice(Notice::Lost(broker::Error::Lost { source: None }))),
            Step::Established => self.on(Event::Notice(Notice::Established)),
            Step::BrokerFails => self.on(Event::Notice(Notice::Failed(broker::Error::Lost { source: None }))),
        }
    }

    /// What `process` does at the end of a run.
    fn finish(&mut self, job: Job, end: End) {
        let failure = Box::new(Failure {
            outcome: "exit",
            exit_code: Some(1),
            error: String::new(),
            stderr: String::new(),
            guest: String::new(),
            attempt: 1,
            at: std::time::SystemTime::UNIX_EPOCH,
            usage: Usage::default(),
        });
        let (outcome, settlement) = match end {
            End::Ack | End::NotSettled | End::Panic => (Outcome::Succeeded, Settlement::Ack),
            End::Retry => (Outcome::Exited(1), Settlement::Retry { after: Duration::from_secs(1), failure }),
            End::DeadLetter | End::Refused => (Outcome::Exited(3), Settlement::DeadLetter { failure }),
            End::Release => (Outcome::Exited(6), Settlement::Release),
            End::HostFault => (Outcome::HostFault("no space".into()), Settlement::Release),
        };
        if let End::Panic = end {
            let panics = move || {
                let Job { delivery: _delivery, mut pending, .. } = job;
                pending.begins(Span::default());
                // Unlike `panic!`, it prints nothing.
                std::panic::resume_unwind(Box::new("a test"));
            };
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
            assert!(panicked.is_err());
            self.on(Event::Panicked("a test".into()));
            return;
        }
        let Job { delivery, mut pending, round } = job;
        let sign = match end {
            End::Ack => Sign::Success,
            End::Retry | End::DeadLetter => Sign::Failure(Culprit::of(&delivery.message, 1)),
            _ => Sign::Nothing,
        };
        pending.begins(Span::default());
        let settled = Settled::from(&settlement);
        let _ = delivery.receipt.settle(settlement).now_or_never();
        let (settled, failed) = match end {
            End::NotSettled => (Settled::LeaseLost("a test".into()), None),
            End::Refused => {
                (Settled::Failed("full".into()), Some(broker::Error::Unpublished { reason: "full".into() }))
            }
            _ => (settled, None),
        };
        self.on(Event::Finished(Finished { verdict: pending.end(outcome.into(), settled), failed, sign, round }));
    }
}

/// Keeps what observers are told.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Ended>>>);

impl Observer for Recorder {
    fn ended(&self, ended: &Ended) {
        self.0.lock().expect("no test panics here").push(ended.clone());
    }
}

impl Recorder {
    fn observers(&self) -> Arc<Observers> {
        Arc::new(Observers::new(Guest::default()).and(self.clone()))
    }

    fn ended(&self) -> Vec<Ended> {
        self.0.lock().expect("no test panics here").clone()
    }

    /// The delivery tags, in order.
    fn tags(&self) -> Vec<u64> {
        let mut tags: Vec<u64> = self.ended().iter().map(|ended| ended.delivery_tag).collect();
        tags.sort_unstable();
        tags
    }
}

proptest! {
    #[test]
    fn every_delivery_is_settled_once_and_ends_once_whatever_happens_in_whatever_order(
        mode in mode(), concurrency in 1usize..4, steps in prop::collection::vec(step(), 0..60),
        failures in 0u32..4, releases_count: bool,
    ) {
        let breaker = breaker::Options::soon(failures, Some(3));
        let options = options(mode, Duration::from_secs(1), concurrency);
        let mut world = World::with(Options { breaker, releases_count, ..options });
        world.step(Step::Established);
        for step in steps {
            world.step(step);
        }
        // To the end: what runs ends, and the worker is told to stop.
        world.step(Step::Signal);
        while let Some(job) = world.running.pop() {
            world.finish(job, End::Ack);
        }
        prop_assert!(world.state.stopping.is_some() && world.cancelled);
        prop_assert_eq!(world.state.running, 0);
        let expected: Vec<u64> = (1..=world.delivered).collect();
        prop_assert_eq!(world.settled.keys().copied().collect::<Vec<_>>(), expected.clone(), "each delivery once");
        prop_assert_eq!(world.ended.tags(), expected, "each delivery ends once");
        for ended in world.ended.ended() {
            let as_told = ended.settled.name() == world.settled[&ended.delivery_tag];
            prop_assert!(as_told || matches!(ended.settled, Settled::LeaseLost(_) | Settled::Failed(_)), "{ended:?}");
        }
        let counts = world.state.observers.counts();
        let Counts { acked, retried, dead_lettered, rejected, released, unsettled, withdrawn } = counts;
        prop_assert_eq!(acked + retried + dead_lettered + rejected + released + unsettled, world.started, "each run is counted once");
        prop_assert_eq!(world.started + withdrawn, world.delivered, "and what was not begun, too");
    }

    #[test]
    fn a_more_severe_reason_is_never_replaced(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new(Mode::Drain, 2);
        let mut worst = 0;
        for step in steps {
            world.step(step);
            let severity = world.state.stopping.as_ref().map_or(0, StopReason::severity);
            prop_assert!(severity >= worst);
            worst = severity;
        }
    }
}

#[test]
fn an_empty_queue_is_looked_at_twice() {
    let mut world = World::new(Mode::Drain, 1);
    world.step(Step::Established);
    world.step(Step::Depth(0, 0));
    assert!(world.state.stopping.is_none());
    world.step(Step::Depth(1, 0));
    world.step(Step::Depth(0, 0));
    assert!(world.state.stopping.is_none(), "looks in a row count");
    world.step(Step::Depth(0, 0));
    assert!(matches!(world.state.stopping, Some(StopReason::Empty)));
}

#[test]
fn a_drain_waits_for_what_comes_later_and_a_count_does_not() {
    for (mode, stops) in [(Mode::Drain, false), (Mode::Count(5), true)] {
        let mut world = World::new(mode, 1);
        world.step(Step::Established);
        world.step(Step::Depth(0, 1));
        world.step(Step::Depth(0, 1));
        assert_eq!(world.state.stopping.is_some(), stops, "{mode:?}");
    }
}

#[test]
fn messages_that_are_ready_and_not_handed_over_are_not_waited_for_without_end() {
    let options = |mode, wait| State::new(&options(mode, wait, 1), Recorder::default().observers());
    let ready = |count| Event::Notice(Notice::Depth(Depth { ready: count, ..Depth::default() }));
    let wait = Duration::from_secs(5);
    let now = Instant::now();
    let mut state = options(Mode::Count(1), wait);
    state.on(Event::Notice(Notice::Established), now);
    state.on(ready(3), now + wait);
    assert!(state.stopping.is_none() && state.probe_at.is_some(), "the hand-over may be under way");
    state.on(ready(3), now + wait + HAND_OVER);
    assert!(matches!(state.stopping, Some(StopReason::Unserved(3))));
    // A drain goes on as long as others make progress.
    let mut state = options(Mode::Drain, Duration::ZERO);
    state.on(Event::Notice(Notice::Established), now);
    state.on(ready(9), now);
    let later = now + DRAIN_STANDS_BY;
    state.on(ready(8), later);
    assert!(state.stopping.is_none());
    state.on(ready(8), later + DRAIN_STANDS_BY);
    assert!(matches!(state.stopping, Some(StopReason::Unserved(8))));
}

#[test]
fn a_drain_whose_retries_are_missing_does_not_call_the_queue_empty() {
    let now = Instant::now();
    for (mode, missing) in [(Mode::Drain, true), (Mode::Count(1), false)] {
        let mut state = State::new(&options(mode, Duration::ZERO, 1), Recorder::default().observers());
        state.on(Event::Notice(Notice::Established), now);
        for _ in 0..EMPTY_LOOKS {
            state.on(Event::Notice(Notice::Depth(Depth { missing: 2, ..Depth::default() })), now);
        }
        assert_eq!(matches!(state.stopping, Some(StopReason::Missing(2))), missing);
        assert_eq!(matches!(state.stopping, Some(StopReason::Empty)), !missing);
    }
}

#[test]
fn a_settlement_that_is_refused_ends_the_worker_with_the_reason_of_the_refusal() {
    let refused = |error: broker::Error| StopReason::not_settled(&error);
    let missing = broker::Error::MissingQueue { queue: "q.dead".into(), source: None };
    assert!(matches!(refused(missing), StopReason::Refused(Refused::Configuration, _)));
    let forbidden = broker::Error::Forbidden { doing: "publish".into(), source: "no".into() };
    assert!(matches!(refused(forbidden), StopReason::Refused(Refused::Right, _)));
    assert!(matches!(refused(broker::Error::Rejected { to: "q".into() }), StopReason::HostFault(_)));
}

#[test]
fn what_comes_after_the_queue_was_found_empty_is_still_done() {
    let mut world = World::new(Mode::Drain, 1);
    world.step(Step::Established);
    world.step(Step::Depth(0, 0));
    world.step(Step::Depth(0, 0));
    world.step(Step::Deliver);
    assert_eq!(world.running.len(), 1);
}

#[test]
fn a_guest_that_can_not_be_stopped_ends_the_worker() {
    let mut world = World::new(Mode::Forever, 2);
    world.step(Step::Deliver);
    drop(world.running.pop().expect("it runs"));
    let verdict = Outcome::Stuck(Duration::ZERO).into();
    world.on(Event::Finished(Finished { verdict, failed: None, sign: Sign::Nothing, round: 0 }));
    assert!(matches!(world.state.stopping, Some(StopReason::Stuck)));
}

/// A sandbox whose guest does what its message says.
async fn sandbox(concurrency: usize) -> Sandbox {
    let minute = Duration::from_secs(60);
    let loading = Loading {
        guest: std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/obey.wat"),
        digest: None,
        cache: None,
        keep: Keep::Nothing,
        bounds: Bounds { timeout: minute, memory: 1 << 30 },
        compilation: Compilation::Optimised,
        isolation: Isolation::Thread,
        wall: Wall::Off,
        debug_info: false,
        concurrency,
    };
    let limits = sandbox::Limits { resources: 16, ..Default::default() };
    Sandbox::load(loading, sandbox::Options { limits, ..Default::default() }).await.expect("it is a guest")
}

fn worker(options: Options, sandbox: Sandbox, sink: Memory) -> Worker {
    let policy = Policy {
        max_attempts: 2,
        exits: ExitMap::default(),
        backoff: Backoff { initial: Duration::ZERO, max: Duration::ZERO, factor: 1.0 },
        rejects: false,
    };
    Worker::new(options, sandbox, Sinks::of(vec![Box::new(sink)]), policy, Served::default(), None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_message_is_lost_and_none_is_acknowledged_before_its_result(
        kinds in prop::collection::vec(prop::sample::select(vec!["x", "x", "x", "f", "d", "t"]), 0..20),
        count in prop::option::of(1u64..12),
        concurrency in 1usize..4,
        more in 0usize..3,
        lose_after in prop::option::of(2usize..9),
        (failures, releases_count) in (0u32..4, any::<bool>()),
    ) {
        let messages: Vec<bytes::Bytes> =
            kinds.iter().enumerate().map(|(number, kind)| format!("{kind}{number}").into()).collect();
        let mode = count.map_or(Mode::Drain, Mode::Count);
        let written = std::sync::Arc::<std::sync::Mutex<Vec<bytes::Bytes>>>::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let recorder = Recorder::default();
        let (stopped, books) = runtime.block_on(async {
            let prefetch = concurrency + more;
            let breaker = breaker::Options::soon(failures, None);
            let options =
                Options { prefetch, breaker, releases_count, ..options(mode, Duration::ZERO, concurrency) };
            let mut worker = worker(options, sandbox(concurrency).await, Memory(written.clone()));
            worker.observers = recorder.observers();
            let (subscription, books) = Bookkeeper::subscribe(messages.clone(), prefetch, lose_after, written.clone());
            let (_phases_tx, phases) = watch::channel(Phase::Running);
            (worker.run(subscription, phases).await, books)
        });
        let books = books.lock().unwrap();
        prop_assert!(books.acked_unwritten.is_empty(), "{books:?}");
        let mut accounted: Vec<_> = books.acked.iter().chain(&books.dead).chain(&books.left).cloned().collect();
        let mut published = messages.clone();
        accounted.sort();
        published.sort();
        prop_assert_eq!(accounted, published, "each message is acknowledged, put aside or left, once: {:?}", books);
        prop_assert!(books.acked.iter().all(|body| body.starts_with(b"x")), "a failure was acknowledged: {books:?}");
        let ended = recorder.tags();
        let mut once = ended.clone();
        once.dedup();
        prop_assert_eq!(&ended, &once, "each delivery ends once");
        prop_assert!(ended.iter().all(|tag| books.delivered.contains(tag)), "{ended:?} {books:?}");
        prop_assert!(books.handed.iter().all(|tag| ended.binary_search(tag).is_ok()), "{ended:?} {books:?}");
        if mode == Mode::Drain {
            prop_assert!(books.left.is_empty(), "{books:?} {stopped:?}");
            prop_assert_eq!(books.acked.len(), kinds.iter().filter(|kind| **kind == "x").count(), "{:?}", books);
        }
    }
}
