//! What a worker amounts to, said once at its end: for people, for programs, and for the status of a pod.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use serde::Serialize;

use super::counts::{Counts, Durations, Totals};
use super::{Observers, spoken};
use crate::streams;
use crate::visible::{self, Form};

/// The end of a worker.
#[derive(Clone, Debug)]
pub struct Summary {
    pub queue: String,
    /// Why it stopped.
    pub reason: String,
    pub exit_status: u8,
    pub work: Work,
}

/// What was done until now.
#[derive(Clone, Debug)]
pub struct Work {
    totals: Totals,
    elapsed: Duration,
}

/// The event. The order of its fields is the order in the log.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    queue: &'a str,
    reason: &'a str,
    exit_status: u8,
    #[serde(flatten)]
    counts: Counts,
    outcomes: &'a BTreeMap<&'static str, u64>,
    elapsed_ms: u64,
    rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p95_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
    target: &'static str,
}

const TARGET: &str = "wq_run::observe::summary";

impl Work {
    pub fn of(observers: &Observers) -> Work {
        Work { totals: observers.totals(), elapsed: observers.elapsed() }
    }

    /// What a worker has done that had no time to begin.
    pub fn none(elapsed: Duration) -> Work {
        Work { totals: Totals::default(), elapsed }
    }

    /// Messages a second that will not be run again.
    fn rate(&self) -> f64 {
        self.totals.counts.finished() as f64 / self.elapsed.as_secs_f64().max(1e-3)
    }

    /// As people read it, a line an idea.
    pub fn for_people(&self) -> String {
        let Work { totals: Totals { counts, outcomes, runs }, elapsed } = self;
        let mut text = String::new();
        let mut line = |name: &str, of: String| {
            let _ = writeln!(text, "  {name:<10}{of}");
        };
        line("messages", messages(counts));
        if !outcomes.is_empty() {
            let of = |(outcome, count): (&&str, &u64)| format!("{outcome} {}", spoken::count(*count));
            line("outcomes", outcomes.iter().map(of).collect::<Vec<_>>().join(", "));
        }
        line("time", format!("{}, {} messages/s", spoken::time(*elapsed), spoken::rate(self.rate())));
        if let Some(Durations { p50, p95, p99, longest }) = runs.durations() {
            let [p50, p95, p99, longest] = [p50, p95, p99, longest].map(spoken::time);
            line("runs", format!("p50 {p50}, p95 {p95}, p99 {p99}, longest {longest}"));
        }
        if let Some(peak) = runs.peak_memory {
            line("memory", format!("at most {} in a run", ByteSize(peak).display().iec()));
        }
        text
    }
}

impl Summary {
    /// Says it on stderr, in the form that the log has, unless `RUST_LOG` leaves it out.
    pub fn say(&self) {
        if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
            return;
        }
        if streams::err::speaks_json() {
            streams::err::push(&visible::line(format!("{}\n", self.as_json()).as_bytes(), Form::Json));
        } else {
            streams::err::push(visible::lines(&self.for_people()).as_bytes());
        }
    }

    pub fn for_people(&self) -> String {
        let Summary { queue, reason, exit_status, work } = self;
        format!("wq-run: stopped: {reason} (queue {queue}, exit status {exit_status})\n{}", work.for_people())
    }

    fn as_json(&self) -> String {
        let Work { totals: Totals { counts, outcomes, runs }, elapsed } = &self.work;
        let durations = runs.durations();
        let ms = |of: fn(&Durations) -> Duration| {
            durations.as_ref().map(|durations| rounded(of(durations).as_secs_f64() * 1e3))
        };
        let line = Line {
            timestamp: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            level: "INFO",
            message: "stopped",
            queue: &self.queue,
            reason: &self.reason,
            exit_status: self.exit_status,
            counts: *counts,
            outcomes,
            elapsed_ms: elapsed.as_millis() as u64,
            rate: rounded(self.work.rate()),
            p50_ms: ms(|of| of.p50),
            p95_ms: ms(|of| of.p95),
            p99_ms: ms(|of| of.p99),
            longest_ms: ms(|of| of.longest),
            peak_memory_bytes: runs.peak_memory,
            target: TARGET,
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

/// To the third digit behind the point.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

fn messages(counts: &Counts) -> String {
    let Counts { acked, retried, dead_lettered, rejected, released, unsettled, withdrawn } = *counts;
    let all = [
        (acked, "done"),
        (retried, "retried"),
        (dead_lettered, "dead-lettered"),
        (rejected, "rejected"),
        (released, "released"),
        (unsettled, "unsettled, which are delivered again"),
        (withdrawn, "withdrawn"),
    ];
    // The first one is said in any case.
    let said = all.into_iter().enumerate().filter(|(at, (count, _))| *at == 0 || *count > 0);
    said.map(|(_, (count, name))| format!("{} {name}", spoken::count(count))).collect::<Vec<_>>().join(", ")
}
