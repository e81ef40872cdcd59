//! What can be seen of the work. Each message that a worker was handed ends in one [`Ended`], and each observer is told of it.

mod breaker;
mod counts;
mod depth;
mod ended;
pub mod health;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod progress;
mod spoken;
pub mod summary;
pub mod trace;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

pub use self::breaker::BreakerState;
use self::counts::Tally;
pub use self::counts::{Counts, Durations, Totals};
pub use self::depth::Depths;
pub use self::ended::{Ended, Guest, Observer, Settled};
use self::health::{Health, Place, Stage};
use self::log::Log;
use self::metrics::Metrics;
use self::trace::Span;
use crate::message_span::MessageSpan;
use crate::task::{Message, Origin, Outcome, Usage, Verdict};

/// Who is told of each end. The message's own span is told as well.
pub struct Observers {
    guest: Arc<Guest>,
    tally: Tally,
    log: Log,
    others: Vec<Box<dyn Observer>>,
    since: Instant,
    health: Arc<Health>,
}

/// What is served to those who look at a worker (`--listen`); nothing by default.
#[derive(Clone, Default)]
pub struct Served {
    pub health: Arc<Health>,
    pub metrics: Option<Arc<Metrics>>,
}

/// A message that this worker was handed, as long as it has not ended. Dropped without an end, by a panic or an early return, it
/// reports that its message was given back.
pub struct Pending {
    /// What is known so far.
    pub facts: Ended,
    observers: Arc<Observers>,
    log_span: MessageSpan,
    trace: Span,
    /// Is cancelled when the delivery is no longer ours.
    lost: CancellationToken,
    since: Instant,
    place: Option<Place>,
    is_told: bool,
}

// === impl Observers ===

impl Observers {
    pub fn new(guest: Guest) -> Observers {
        Observers {
            guest: Arc::new(guest),
            tally: Tally::default(),
            log: Log { quiet: false },
            others: Vec::new(),
            since: Instant::now(),
            health: Arc::default(),
        }
    }

    /// The same, with one more.
    #[must_use]
    pub fn and(mut self, observer: impl Observer + 'static) -> Observers {
        self.others.push(Box::new(observer));
        self
    }

    /// The same; a quiet log leaves out messages that are done.
    #[must_use]
    pub fn quiet(mut self, quiet: bool) -> Observers {
        self.log = Log { quiet };
        self
    }

    /// The same, with what is served of it.
    #[must_use]
    pub fn served(mut self, Served { health, metrics }: Served) -> Observers {
        self.health = health;
        match metrics {
            Some(metrics) => self.and(metrics),
            None => self,
        }
    }

    /// Where the worker notes what the probes tell.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What the worker says of its breaker.
    pub fn breaker(&self) -> &BreakerState {
        self.health.breaker()
    }

    pub fn counts(&self) -> Counts {
        self.tally.counts()
    }

    pub fn totals(&self) -> Totals {
        self.tally.totals()
    }

    /// How many messages a worker has at the moment that it has not settled.
    pub fn in_flight(&self) -> u64 {
        self.health.in_flight()
    }

    /// How long the worker has been there.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Observer for Observers {
    fn ended(&self, ended: &Ended) {
        self.health.ended();
        self.tally.ended(ended);
        self.log.ended(ended);
        self.others.iter().for_each(|observer| observer.ended(ended));
    }
}

// === impl Pending ===

impl Pending {
    /// A message that was handed over just now. `lost` is cancelled when it is no longer ours, and `log_span` names it in the log.
    pub fn new(
        observers: &Arc<Observers>,
        message: &Message,
        origin: &Origin,
        attempt: u32,
        lost: &CancellationToken,
        log_span: MessageSpan,
    ) -> Pending {
        observers.health.taken();
        let published = message.properties.timestamp.filter(|seconds| *seconds > 0);
        let published = published.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let facts = Ended {
            verdict: Outcome::Withdrawn.into(),
            settled: Settled::GivenBack,
            attempt,
            run: None,
            usage: Usage::default(),
            settle: None,
            sent: published.or(origin.received),
            total: Default::default(),
            message_bytes: message.body.len(),
            result_bytes: 0,
            message_id: message.properties.message_id.clone(),
            correlation_id: message.properties.correlation_id.clone(),
            queue: origin.queue.clone(),
            delivery_tag: origin.delivery_tag,
            trace_id: None,
            guest: observers.guest.clone(),
        };
        Pending {
            facts,
            observers: observers.clone(),
            log_span,
            trace: Span::default(),
            lost: lost.clone(),
            since: Instant::now(),
            place: None,
            is_told: false,
        }
    }

    /// Something is done with the message from now on, as a part of this span.
    pub fn begins(&mut self, trace: Span) {
        self.facts.verdict = Outcome::Interrupted.into();
        self.place = self.observers.health.enter();
        self.facts.trace_id = trace.trace_id();
        if let Some(trace_id) = &self.facts.trace_id {
            self.log_span.belongs_to(trace_id);
        }
        self.trace = trace;
    }

    /// What is done with it next, for those who notice when that takes too long.
    pub fn is_at(&self, stage: Stage) {
        if let Some(place) = &self.place {
            place.is_at(stage);
        }
    }

    /// The span in which its events are logged.
    pub fn log_span(&self) -> &MessageSpan {
        &self.log_span
    }

    pub fn trace(&self) -> &Span {
        &self.trace
    }

    /// The end. Returns the verdict for whoever draws conclusions from it.
    pub fn end(mut self, verdict: Verdict, settled: Settled) -> Verdict {
        self.facts.verdict = verdict;
        self.facts.settled = settled;
        self.tell();
        std::mem::replace(&mut self.facts.verdict, Outcome::Withdrawn.into())
    }

    /// The end of one that is given back, unless it is no longer ours.
    pub fn give_back(self, verdict: Verdict) -> Verdict {
        let settled = self.without_an_answer();
        self.end(verdict, settled)
    }

    fn without_an_answer(&self) -> Settled {
        if self.lost.is_cancelled() {
            Settled::LeaseLost("this worker no longer has the message".into())
        } else {
            Settled::GivenBack
        }
    }

    fn tell(&mut self) {
        self.is_told = true;
        self.facts.total = self.since.elapsed();
        self.log_span.in_scope(|| {
            self.trace.ended(&self.facts);
            self.observers.ended(&self.facts);
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_told {
            if std::thread::panicking() && self.facts.verdict == Verdict::Run(Outcome::Interrupted) {
                self.facts.verdict = Verdict::HostFault("a bug in wq-run".into());
            }
            self.facts.settled = self.without_an_answer();
            self.tell();
        }
    }
}
