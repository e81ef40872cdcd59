//! How far a command is: a line at the bottom of a terminal, or an event every now and then where there is none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::spoken;
use super::summary::rounded;
use crate::locks::lock;
use crate::streams;
use crate::streams::err::Shown;
use crate::streams::last_line::LastLine;

/// How far something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What is done, as it should be.
    pub done: u64,
    /// What failed, where that can be.
    pub failed: Option<u64>,
    /// What is being done at the moment, where that is known.
    pub running: Option<u64>,
    /// What will not come again, done or failed.
    pub finished: u64,
    /// What is still to be finished, where that is known.
    pub left: Option<u64>,
}

/// Progress that is shown until this is dropped.
#[derive(Debug)]
#[must_use = "progress is shown until this is dropped"]
pub struct Progress {
    _shown: Option<Shown>,
    telling: Option<JoinHandle<()>>,
}

/// How often an event tells of it where there is no terminal.
pub const TOLD_EVERY: Duration = Duration::from_secs(30);

/// How often indicatif may draw in a second. We draw ten times.
const MOST_DRAWN: u8 = 20;

/// In characters that every terminal has.
const BAR: &str = "{spinner} [{bar:12}] {wide_msg}";
const NO_BAR: &str = "{spinner} {wide_msg}";
const SPINNER: &str = "-\\|/ ";
const BAR_OF: &str = "=> ";

/// The longest message that leaves room for a bar in 80 columns.
const BESIDE_A_BAR: usize = 63;

impl Progress {
    /// Whether there is a line to watch, and not only an event every now and then.
    pub fn is_watched(&self) -> bool {
        self._shown.is_some()
    }

    /// Shows how far something is, as `snapshot` has it. It is asked for a few times a second, in the thread that writes to
    /// the terminal; or, without a terminal, every [`TOLD_EVERY`] by a task.
    pub fn show(snapshot: impl Fn() -> Snapshot + Send + Sync + 'static) -> Progress {
        let target = ProgressDrawTarget::stderr_with_hz(MOST_DRAWN);
        if target.is_hidden() || streams::err::speaks_json() {
            return Progress { _shown: None, telling: Some(tokio::spawn(tell(snapshot))) };
        }
        // From the first time that it is drawn: without a style of ours it begins as "0/0".
        let message = message(&snapshot(), 0.0, Duration::ZERO);
        let bar = ProgressBar::with_draw_target(None, target).with_style(style(NO_BAR)).with_message(message);
        let line = Line { bar, template: Mutex::new(NO_BAR), snapshot: Box::new(snapshot) };
        Progress { _shown: Some(streams::err::show_last_line(Arc::new(line))), telling: None }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(telling) = &self.telling {
            telling.abort();
        }
    }
}

async fn tell(snapshot: impl Fn() -> Snapshot) {
    let mut ticks = tokio::time::interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = (Instant::now(), snapshot().finished);
    loop {
        let now = ticks.tick().await;
        let Snapshot { done, failed, running, finished, left } = snapshot();
        let passed = now.saturating_duration_since(before.0).as_secs_f64();
        let rate = finished.saturating_sub(before.1) as f64 / passed.max(1e-3);
        before = (now, finished);
        let time_left_ms = left.filter(|_| rate > 0.0).map(|left| (left as f64 / rate * 1e3) as u64);
        tracing::info!(done, failed, running, rate = rounded(rate), left, time_left_ms, "progress");
    }
}

/// The line on a terminal, drawn by indicatif.
struct Line {
    bar: ProgressBar,
    /// The one that the bar has.
    template: Mutex<&'static str>,
    snapshot: Box<dyn Fn() -> Snapshot + Send + Sync>,
}

impl LastLine for Line {
    fn draw(&self) {
        let snapshot = (self.snapshot)();
        // All of nothing would be a full bar.
        let length = snapshot.left.map(|left| snapshot.finished + left).filter(|length| *length > 0);
        self.bar.update(|state| {
            if let Some(length) = length {
                state.set_len(length);
            }
            state.set_pos(snapshot.finished);
        });
        let message = message(&snapshot, self.bar.per_sec(), self.bar.eta());
        let template = if length.is_some() && message.len() <= BESIDE_A_BAR { BAR } else { NO_BAR };
        if std::mem::replace(&mut *lock(&self.template), template) != template {
            self.bar.set_style(style(template));
        }
        self.bar.set_message(message);
    }

    fn aside(&self, write: &mut dyn FnMut()) {
        self.bar.suspend(write);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    style.tick_chars(SPINNER).progress_chars(BAR_OF)
}

fn message(snapshot: &Snapshot, rate: f64, time_left: Duration) -> String {
    let Snapshot { done, failed, running, finished, left } = *snapshot;
    let mut said = vec![match left {
        Some(left) if finished + left > 0 => {
            format!("{} of {} done", spoken::count(done), spoken::count(finished + left))
        }
        _ => format!("{} done", spoken::count(done)),
    }];
    said.extend(failed.map(|failed| format!("{} failed", spoken::count(failed))));
    said.extend(running.map(|running| format!("{running} running")));
    if finished > 0 {
        said.push(format!("{}/s", spoken::rate(rate)));
    }
    // Before the first one is finished, nobody knows.
    if left.is_some_and(|left| left > 0) && !time_left.is_zero() {
        let seconds = time_left.as_secs_f64().ceil() as u64;
        let time_left = if seconds < 60 { format!("{seconds}s") } else { spoken::time(Duration::from_secs(seconds)) };
        said.push(format!("{time_left} left"));
    }
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_known() {
        let mut snapshot = Snapshot { done: 1240, failed: Some(3), running: Some(4), finished: 1243, left: Some(6757) };
        let (rate, time) = (412.0, Duration::from_secs_f64(16.4));
        assert_eq!(message(&snapshot, rate, time), "1,240 of 8,000 done, 3 failed, 4 running, 412/s, 17s left");
        snapshot.left = None;
        assert_eq!(message(&snapshot, rate, time), "1,240 done, 3 failed, 4 running, 412/s");
        let published = Snapshot { done: 20, finished: 20, ..Snapshot::default() };
        assert_eq!(message(&published, 0.0, Duration::ZERO), "20 done, 0/s");
    }

    #[test]
    fn the_line_begins_without_a_rate_and_never_counts_to_0() {
        let all = |left| Snapshot { left, ..Snapshot::default() };
        assert_eq!(message(&all(None), 0.0, Duration::ZERO), "0 done");
        assert_eq!(message(&all(Some(0)), 0.0, Duration::ZERO), "0 done");
        assert_eq!(message(&all(Some(7)), 0.0, Duration::ZERO), "0 of 7 done");
    }
}
