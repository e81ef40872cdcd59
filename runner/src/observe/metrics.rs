//! Counts, gauges and histograms for Prometheus: what each end of a message adds to them, and how they are written.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::depth::{Depth, Depths};
use super::ended::{Ended, Observer, Settled};
use super::health::Health;
use crate::task::{Outcome, Verdict};

/// In which form they are written.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The build that runs.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    pub version: &'static str,
    pub commit: &'static str,
    pub wasmtime: &'static str,
}

/// The values of labels are names from fixed lists, so that there are only so many series.
type Labels<const N: usize> = [(&'static str, &'static str); N];

type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;
type Seconds = Counter<f64, AtomicU64>;

pub struct Metrics {
    registry: Registry,
    health: Arc<Health>,
    depth: Depth,
    messages: Counters<2>,
    run_duration: Histograms,
    settlement_duration: Histograms,
    message_age: Histogram,
    in_flight: Gauge,
    leases_lost: Counter,
    results_bytes: Counter,
    peak_memory: Histogram,
    cpu: Seconds,
    compile: Gauge<f64, AtomicU64>,
    cache_hits: Counter,
    cache_misses: Counter,
    connected: Gauge,
    reconnects: Counter,
    breaker_open: Gauge,
    queue_depth: Family<Labels<1>, Gauge>,
    dead_letter_queue_depth: Family<Labels<0>, Gauge>,
}

/// From a task of a millisecond to one of hours. In seconds.
const RUNS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0];

/// From a broker on the same host to one that is waited for as long as `--publish-timeout` says by default. In seconds.
const SETTLEMENTS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0];

/// Most timestamps are whole seconds; a backlog can be weeks old. In seconds.
const AGES: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 43200.0, 86400.0, 604800.0];

/// From a page of WebAssembly to all that a 32-bit memory can be; the default of `--max-memory-size` is one of them. In bytes.
const MEMORY: [f64; 12] = {
    const MIB: f64 = 1_048_576.0;
    [
        MIB / 16.0,
        MIB / 4.0,
        MIB,
        4.0 * MIB,
        16.0 * MIB,
        64.0 * MIB,
        128.0 * MIB,
        256.0 * MIB,
        512.0 * MIB,
        1024.0 * MIB,
        2048.0 * MIB,
        4096.0 * MIB,
    ]
};

impl Metrics {
    pub fn new(queue: &str, build: Build, health: Arc<Health>) -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::default(),
            health,
            depth: Depth::default(),
            messages: Family::default(),
            run_duration: Family::new_with_constructor(|| Histogram::new(RUNS)),
            settlement_duration: Family::new_with_constructor(|| Histogram::new(SETTLEMENTS)),
            message_age: Histogram::new(AGES),
            in_flight: Gauge::default(),
            leases_lost: Counter::default(),
            results_bytes: Counter::default(),
            peak_memory: Histogram::new(MEMORY),
            cpu: Counter::default(),
            compile: Gauge::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            connected: Gauge::default(),
            reconnects: Counter::default(),
            breaker_open: Gauge::default(),
            queue_depth: Family::default(),
            dead_letter_queue_depth: Family::default(),
        };
        // There from the start, so that the first message is seen as an increase.
        drop(metrics.messages.get_or_create(&ended_as("success", "ack")));
        metrics.register(queue, build);
        metrics
    }

    /// The texts are those of docs/metrics.md.
    fn register(&mut self, queue: &str, Build { version, commit, wasmtime }: Build) {
        let registry = &mut self.registry;
        let of_queue = registry.sub_registry_with_label(("queue".into(), queue.to_owned().into()));
        // `_total` is added when they are written.
        of_queue.register(
            "wq_messages",
            "Messages that have ended at this worker, by the outcome of their run and by what became of them",
            self.messages.clone(),
        );
        of_queue.register(
            "wq_queue_depth",
            "Messages in the queue, as far as the broker tells; asked when this is read, every 15 s at most",
            self.queue_depth.clone(),
        );
        of_queue.register(
            "wq_dead_letter_queue_depth",
            "Messages in the queue for dead letters, as far as the broker tells; asked together with wq_queue_depth",
            self.dead_letter_queue_depth.clone(),
        );
        registry.register("wq_run_duration_seconds", "How long guests ran", self.run_duration.clone());
        registry.register(
            "wq_settlement_duration_seconds",
            "How long the broker took for a settlement",
            self.settlement_duration.clone(),
        );
        registry.register(
            "wq_message_age_seconds",
            "How old messages were when this worker got them, as far as they have a timestamp",
            self.message_age.clone(),
        );
        registry.register("wq_in_flight", "Messages that this worker has, not settled yet", self.in_flight.clone());
        registry.register(
            "wq_leases_lost",
            "Messages that were no longer this worker's before it had settled them: a lease ran out, or the connection that held them was lost",
            self.leases_lost.clone(),
        );
        registry.register("wq_results_bytes", "Bytes of the results that were delivered", self.results_bytes.clone());
        registry.register(
            "wq_guest_peak_memory_bytes",
            "The most memory that a run had at one time",
            self.peak_memory.clone(),
        );
        registry.register("wq_guest_cpu_seconds", "CPU time of all runs", self.cpu.clone());
        registry.register(
            "wq_guest_compile_seconds",
            "How long the guest took to compile; 0 if its code came from the cache",
            self.compile.clone(),
        );
        registry.register(
            "wq_guest_cache_hits",
            "Starts that found the guest's code in the cache",
            self.cache_hits.clone(),
        );
        registry.register("wq_guest_cache_misses", "Starts that had to compile the guest", self.cache_misses.clone());
        registry.register(
            "wq_broker_connected",
            "1 while this worker is connected to the broker and consumes, else 0",
            self.connected.clone(),
        );
        registry.register(
            "wq_broker_reconnects",
            "Connections that were made again after one was lost",
            self.reconnects.clone(),
        );
        registry.register(
            "wq_breaker_open",
            "1 while the breaker keeps this worker from taking messages, else 0",
            self.breaker_open.clone(),
        );
        let build = [("version", version), ("commit", commit), ("wasmtime", wasmtime)];
        registry.register("wq_build", "Always 1; the labels say which build this is", Info::new(build));
    }

    /// The guest is ready: how long the compiler took, or `None` if its code is from the cache.
    pub fn loaded(&self, compiled_in: Option<Duration>) {
        match compiled_in {
            Some(duration) => {
                self.compile.set(duration.as_secs_f64());
                self.cache_misses.inc();
            }
            None => {
                self.cache_hits.inc();
            }
        }
    }

    /// How much is in the queue, for whoever asks the broker for it.
    pub fn depth(&self) -> &Depth {
        &self.depth
    }

    /// All of them as text.
    pub async fn text(&self) -> String {
        self.depth.refresh().await;
        let mut text = String::new();
        // Writing to a text can't fail.
        let _: fmt::Result = prometheus_text::encode(&mut text, self.now());
        text
    }

    /// With the values that are kept elsewhere.
    fn now(&self) -> &Registry {
        self.connected.set(self.health.is_connected().into());
        self.in_flight.set(i64::try_from(self.health.in_flight()).unwrap_or(i64::MAX));
        self.breaker_open.set(self.health.breaker().is_open().into());
        self.reconnects.inner().store(self.health.reconnects(), Ordering::Relaxed);
        // What the broker does not tell any more has no value.
        self.queue_depth.clear();
        self.dead_letter_queue_depth.clear();
        let Depths { by_state, dead_letters } = self.depth.known();
        let count = |messages: u64| i64::try_from(messages).unwrap_or(i64::MAX);
        for (state, messages) in by_state {
            self.queue_depth.get_or_create(&[("state", state)]).set(count(messages));
        }
        if let Some(messages) = dead_letters {
            self.dead_letter_queue_depth.get_or_create(&[]).set(count(messages));
        }
        &self.registry
    }
}

fn ended_as(outcome: &'static str, settlement: &'static str) -> Labels<2> {
    [("outcome", outcome), ("settlement", settlement)]
}

impl Observer for Arc<Metrics> {
    fn ended(&self, ended: &Ended) {
        let Ended { verdict, settled, run, settle, usage, total, sent, result_bytes, .. } = ended;
        let (outcome, settlement) = (verdict.name(), settled.name());
        if let Some(run) = run {
            self.run_duration.get_or_create(&[("outcome", outcome)]).observe(run.as_secs_f64());
        }
        if let Some(settle) = settle {
            self.settlement_duration.get_or_create(&[("settlement", settlement)]).observe(settle.as_secs_f64());
        }
        if let Some(peak) = usage.peak_memory {
            self.peak_memory.observe(peak as f64);
        }
        if let Some(cpu) = usage.cpu {
            self.cpu.inc_by(cpu.as_secs_f64());
        }
        // One that goes back untouched comes again, and would count twice.
        if let Some(sent) = sent.filter(|_| *verdict != Verdict::Run(Outcome::Withdrawn)) {
            // A clock that is ahead of ours makes no message younger than new.
            let age = SystemTime::now().duration_since(sent).unwrap_or_default().saturating_sub(*total);
            self.message_age.observe(age.as_secs_f64());
        }
        match settled {
            Settled::Acked => {
                self.results_bytes.inc_by(*result_bytes as u64);
            }
            Settled::LeaseLost(_) => {
                self.leases_lost.inc();
            }
            _ => {}
        }
        // Last of all: a scrape that counts the message also has its durations.
        self.messages.get_or_create(&ended_as(outcome, settlement)).inc();
    }
}
